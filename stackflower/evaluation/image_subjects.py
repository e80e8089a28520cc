"""Subjects whose images already exist: a folder or archive of images, and the real images of a split."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from stackflower.data.rows.checks import join_problems
from stackflower.data.source import Source
from stackflower.errors import DataError
from stackflower.evaluation.extraction import DistributedExtractor
from stackflower.evaluation.image_files import ImageFiles, describe_sizes, describe_unreadable
from stackflower.evaluation.per_image import parse_number
from stackflower.evaluation.protocol import Protocol
from stackflower.evaluation.real_statistics import compute_split_statistics, load_or_compute
from stackflower.evaluation.reference import Reference
from stackflower.evaluation.sampling import build_inputs
from stackflower.evaluation.subjects import Subject, SubjectInputs, open_data
from stackflower.utils.rng import create_rng


class FolderSubject(Subject):
    """A folder or archive of images from anywhere.

    Args:
        folder: directory or archive.
        resolution: height and width that the images are resized to.
        protocol: protocol of the scores, which sets the seed and whether borders are cropped.
    """

    def __init__(self, folder: str, resolution: int, protocol: Protocol):
        self.resolution, self.name = resolution, folder
        self.files = ImageFiles.of(Path(folder).expanduser(), resolution, protocol.trim_border, protocol.seed)

    def open_source(self, data: Mapping[str, Any] | None, options: Mapping[str, Any]) -> Source:
        return open_data(data, options)

    def extract(self, extractor: DistributedExtractor, reference: Reference, protocol: Protocol) -> SubjectInputs:
        files, folder = self.files, self.files.folder
        fake = extractor.compute_statistics(files.iterate_batches(extractor.processes.part), len(files.files), protocol)
        bad = dict(extractor.processes.gather(list(files.unreadable.items())))
        sizes = set(extractor.processes.gather(list(files.sizes)))
        if not protocol.skip_bad:
            self._check_files(bad)
        if fake.count < 2:
            raise DataError(
                f"{folder} has {fake.count} image{'s' * (fake.count != 1)} that can be read; scores need at least 2."
            )
        readable = [place for place in range(len(files.files)) if place not in bad]
        captions, pairs, no_captions_reason, warnings = self._find_captions(readable, reference, protocol)
        warnings += self._list_left_out(bad)
        # the splits of the real Inception Score must not follow the order of the data, often by class
        order = torch.randperm(len(reference.data.rows), generator=create_rng(protocol.seed, 4))
        inputs = build_inputs(
            extractor,
            reference,
            protocol,
            fake=fake,
            real=load_or_compute(extractor, reference, order, protocol),
            captions=captions,
            no_captions_reason=no_captions_reason,
            pairs=pairs,
            chosen=order.tolist(),
        )
        description = {
            "folder": str(folder),
            "left_out": len(bad),
            "image_sizes": describe_sizes(sizes),
            "files": self._list_names(readable),
        }
        protocol_fields = {
            "images": fake.count,
            "resized_to": self.resolution,
            "borders": "of one colour cropped" if protocol.trim_border else "kept",
            "real_images": len(order),
            "kept": protocol.kept,
            "shuffle": "files in random order by the seed",
        }
        return SubjectInputs(inputs, description, protocol_fields, warnings)

    def _check_files(self, bad: dict[int, str]) -> None:
        """Raise DataError if images can't be read, or files of the folder or archive can't be opened."""
        if bad:
            raise DataError(describe_unreadable(list(bad.values()), len(self.files.files), self.files.folder))
        if self.files.refused:
            raise DataError(
                f"{self.files.folder} can't be used:\n{join_problems(self.files.refused)}\n"
                "`skip_bad=true` leaves such files out."
            )

    def _list_left_out(self, bad: dict[int, str]) -> list[str]:
        """Return a sentence for each kind of file that is not scored."""
        files, sentences = self.files, []
        if bad:
            sentences.append(f"{len(bad)} of {len(files.files):,} images can't be read and were left out.")
        if files.refused:
            sentences.append(f"{len(files.refused):,} other files were left out. The first: {files.refused[0]}")
        if files.grids:
            sentences.append(f"{files.grids:,} image grids that Stackflower drew are not scored.")
        return sentences

    def _list_names(self, places: list[int]) -> list[str]:
        return [self.files.files[place] for place in places]

    def _find_captions(
        self, readable: list[int], reference: Reference, protocol: Protocol
    ) -> tuple[list[str] | None, list[tuple[int, int]] | None, str, list[str]]:
        """Find the captions of the readable files, and the real images that the captions describe.

        Returns:
            The captions, or None; for each, the numbers of a real image and of its caption, or None; the reason for
            missing captions; and warnings.
        """
        if protocol.name == "competition":
            pairs = self._match_by_number(readable, reference)
            return [reference.data.captions[image][number] for image, number in pairs], pairs, "", []
        all_captions = self.files.read_captions()
        captions = [all_captions[place] for place in readable]
        captioned = [caption for caption in captions if caption is not None]
        if len(captioned) < len(captions):
            reason = (
                f"{len(captions) - len(captioned):,} of {len(captions):,} images have no caption; metrics that need "
                "captions are skipped."
            )
            return None, None, reason, [reason] if captioned else []
        pairs_of: dict[str, list[tuple[int, int]]] = {}
        for image, real_captions in enumerate(reference.data.captions):
            for number, caption in enumerate(real_captions):
                pairs_of.setdefault(caption, []).append((image, number))
        if not all(caption in pairs_of for caption in captioned):
            return captioned, None, "", []
        shared = sum(len({image for image, _ in pairs_of[caption]}) > 1 for caption in captioned)
        warning = (
            f"{shared:,} of {len(captioned):,} captions belong to several real images; the cosine distance uses the "
            "first."
        )
        return captioned, [pairs_of[caption][0] for caption in captioned], "", [warning] if shared else []

    def _match_by_number(self, readable: list[int], reference: Reference) -> list[tuple[int, int]]:
        """Match each ``inference_NNNN.jpg`` with the real image whose file has the same number.

        Real images without files are numbered by their place in the split.

        Returns:
            For each file, the number of the real image, and 0 for its first caption.

        Raises:
            DataError: numbers are missing or ambiguous.
        """
        files = reference.data.rows.files or [str(place) for place in range(len(reference.data.rows))]
        place_of: dict[int | None, int] = {}
        for place, name in enumerate(files):
            if place_of.setdefault(parse_number(name), place) != place:
                raise DataError(
                    f"{files[place_of[parse_number(name)]]} and {name} of the split {reference.split} have the same "
                    "number."
                )
        place_of.pop(None, None)
        pairs = [place_of.get(parse_number(name), -1) for name in self._list_names(readable)]
        unmatched = [name for name, place in zip(self._list_names(readable), pairs, strict=True) if place < 0]
        if unmatched:
            example = (
                f"; expected names such as inference_{min(number for number in place_of if number is not None):04d}.jpg"
                if place_of
                else ""
            )
            raise DataError(
                f"{len(unmatched)} of {len(readable)} files, such as {unmatched[0]}, do not match an image of the "
                f"split {reference.split} by number{example}."
            )
        return [(place, 0) for place in pairs]


class SplitSubject(Subject):
    """The real images of a split, scored like generated images: their scores show what a run can reach.

    If the split is also the reference split, one half is compared with the other.

    Args:
        split: name of the split.
        resolution: height and width of the images.
    """

    def __init__(self, split: str, resolution: int):
        self.split, self.resolution = split, resolution
        self.name = f"real images of {split}"

    def open_source(self, data: Mapping[str, Any] | None, options: Mapping[str, Any]) -> Source:
        return open_data(data, options)

    def extract(self, extractor: DistributedExtractor, reference: Reference, protocol: Protocol) -> SubjectInputs:
        same_split = self.split == reference.split
        with extractor.processes.main_first():
            size = reference.data.images.shape[1]
            scored = reference if same_split else Reference.open(reference.source, self.split, self.resolution, size)
        order = torch.randperm(len(scored.data.rows), generator=create_rng(protocol.seed, 4))
        half = len(order) // 2
        scored_rows = (order[half:] if same_split else order)[: protocol.samples]
        real = (
            order[:half]
            if same_split
            else torch.randperm(len(reference.data.rows), generator=create_rng(protocol.seed, 5))
        )
        if min(len(scored_rows), len(real)) < 2:
            raise DataError(
                f"The split {self.split} has {len(order)} images, too few to compare; each side needs at least 2."
            )
        has_captions = reference.source.is_captioned
        captions = [scored.data.captions[image][0] for image in scored_rows.tolist()] if has_captions else None
        inputs = build_inputs(
            extractor,
            reference,
            protocol,
            fake=compute_split_statistics(extractor, scored, scored_rows, protocol),
            real=load_or_compute(extractor, reference, real, protocol),
            captions=captions,
            pairs=[(image, 0) for image in scored_rows.tolist()] if same_split and has_captions else None,
            chosen=real.tolist(),
        )
        protocol_fields = {
            "images": len(scored_rows),
            "real_images": len(real),
            "kept": protocol.kept,
            "shuffle": "images in random order by the seed",
        }
        description = {"real_images_of": self.split + (", one half against the other" if same_split else "")}
        return SubjectInputs(inputs, description, protocol_fields, [])
