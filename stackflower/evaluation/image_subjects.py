"""What is scored as it is: a folder of images, the real images of a split."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from stackflower.data.source import Source
from stackflower.errors import DataError
from stackflower.evaluation.extraction import DistributedExtractor
from stackflower.evaluation.image_files import ImageFiles, described, refusal
from stackflower.evaluation.per_image import number_of
from stackflower.evaluation.protocol import Protocol
from stackflower.evaluation.real_statistics import compute_of_split, load_or_compute
from stackflower.evaluation.reference import Reference
from stackflower.evaluation.sampling import build_sample
from stackflower.evaluation.subjects import Scored, Subject, open_data
from stackflower.utils.rng import create_rng


class ScoredFolder(Subject):
    """A folder of images from anywhere.

    Args:
        folder: of them.
        resolution: that they are resized to.
        protocol: of the scores.
    """

    def __init__(self, folder: str, resolution: int, protocol: Protocol):
        self.resolution, self.name = resolution, folder
        self.files = ImageFiles.of(Path(folder).expanduser(), resolution, protocol.trim_border, protocol.seed)

    def source(self, data: Mapping[str, Any] | None, options: Mapping[str, Any]) -> Source:
        return open_data(data, options)

    def scored(self, extractor: DistributedExtractor, reference: Reference, protocol: Protocol) -> Scored:
        files, folder = self.files, self.files.folder
        fake = extractor.compute_statistics(files.batches(extractor.processes.part), len(files.files), protocol)
        bad = dict(extractor.processes.gather(list(files.bad.items())))
        sizes = set(extractor.processes.gather(list(files.sizes)))
        if bad and not protocol.skip_bad:
            raise DataError(refusal(list(bad.values()), len(files.files), folder))
        if fake.count < 2:
            raise DataError(
                f"{folder} has {fake.count} image{'s' * (fake.count != 1)} that can be read; scores need at least 2."
            )
        left = [place for place in range(len(files.files)) if place not in bad]
        captions, pairs, missing, warnings = self._captions(left, reference, protocol)
        if bad:
            warnings.append(f"{len(bad)} of {len(files.files):,} images can't be read and were left out.")
        # Images may be ordered by class.
        order = torch.randperm(len(reference.data.rows), generator=create_rng(protocol.seed, 4))
        sample = build_sample(
            extractor,
            reference,
            protocol,
            fake=fake,
            real=load_or_compute(extractor, reference, order, protocol),
            captions=captions,
            without_captions=missing,
            pairs=pairs,
            chosen=order.tolist(),
        )
        what = {
            "folder": str(folder),
            "left_out": len(bad),
            "image_sizes": described(sizes),
            "files": self._names(left),
        }
        stated = {
            "images": fake.count,
            "resized_to": self.resolution,
            "borders": "of one colour cropped" if protocol.trim_border else "kept",
            "real_images": len(order),
            "kept": protocol.kept,
            "shuffle": "files in random order by the seed",
        }
        return Scored(sample, what, stated, warnings)

    def _names(self, left: list[int]) -> list[str]:
        return [self.files.files[place].relative_to(self.files.folder).as_posix() for place in left]

    def _captions(
        self, left: list[int], reference: Reference, protocol: Protocol
    ) -> tuple[list[str] | None, list[tuple[int, int]] | None, str, list[str]]:
        """Find the captions of the files at these places, and the real images that they describe.

        Returns:
            Captions and pairs of image and caption, each None where unknown; why there are no captions; and warnings.
        """
        if protocol.name == "competition":
            pairs = self._by_number(left, reference)
            return [reference.data.captions[image][number] for image, number in pairs], pairs, "", []
        every = self.files.captions()
        captions = [every[place] for place in left]
        known = [caption for caption in captions if caption is not None]
        if len(known) < len(captions):
            missing = (
                f"{len(captions) - len(known):,} of {len(captions):,} images have no caption, so that scores of "
                "captions are left out."
            )
            return None, None, missing, [missing] if known else []
        place: dict[str, list[tuple[int, int]]] = {}
        for image, own in enumerate(reference.data.captions):
            for number, caption in enumerate(own):
                place.setdefault(caption, []).append((image, number))
        if not all(caption in place for caption in known):
            return known, None, "", []
        shared = sum(len({image for image, _ in place[caption]}) > 1 for caption in known)
        warning = (
            f"{shared:,} of {len(known):,} captions are of several real images; the cosine distance is to the first."
        )
        return known, [place[caption][0] for caption in known], "", [warning] if shared else []

    def _by_number(self, left: list[int], reference: Reference) -> list[tuple[int, int]]:
        """Find the real image whose file has the same number as ``inference_NNNN.jpg``.

        Of images without files, it is the one at that place.
        """
        files = reference.data.rows.files or [str(place) for place in range(len(reference.data.rows))]
        known: dict[int | None, int] = {}
        for place, name in enumerate(files):
            if known.setdefault(number_of(name), place) != place:
                raise DataError(
                    f"{files[known[number_of(name)]]} and {name} of the split {reference.split} have the same number."
                )
        known.pop(None, None)
        pairs = [known.get(number_of(name), -1) for name in self._names(left)]
        wrong = [name for name, place in zip(self._names(left), pairs, strict=True) if place < 0]
        if wrong:
            example = (
                f", as inference_{min(number for number in known if number is not None):04d}.jpg has" if known else ""
            )
            raise DataError(
                f"{len(wrong)} of {len(left)} files, such as {wrong[0]}, have no number of an image of the split "
                f"{reference.split}{example}."
            )
        return [(place, 0) for place in pairs]


class ScoredSplit(Subject):
    """Real images in the place of generated ones: the best that a run could get.

    Where the split is the one to compare with, one half is compared with the other.

    Args:
        split: of the data.
        resolution: of the images.
    """

    def __init__(self, split: str, resolution: int):
        self.split, self.resolution = split, resolution
        self.name = f"real images of {split}"

    def source(self, data: Mapping[str, Any] | None, options: Mapping[str, Any]) -> Source:
        return open_data(data, options)

    def scored(self, extractor: DistributedExtractor, reference: Reference, protocol: Protocol) -> Scored:
        same = self.split == reference.split
        with extractor.processes.main_first():
            size = reference.data.images.shape[1]
            shown = reference if same else Reference.open(reference.source, self.split, self.resolution, size)
        order = torch.randperm(len(shown.data.rows), generator=create_rng(protocol.seed, 4))
        half = len(order) // 2
        mine = (order[half:] if same else order)[: protocol.samples]
        real = (
            order[:half] if same else torch.randperm(len(reference.data.rows), generator=create_rng(protocol.seed, 5))
        )
        if min(len(mine), len(real)) < 2:
            raise DataError(f"{self.split} has {len(order)} images; too few to be compared with others.")
        captions = [shown.data.captions[image][0] for image in mine.tolist()]
        sample = build_sample(
            extractor,
            reference,
            protocol,
            fake=compute_of_split(extractor, shown, mine, protocol),
            real=load_or_compute(extractor, reference, real, protocol),
            captions=captions,
            pairs=[(image, 0) for image in mine.tolist()] if same else None,
            chosen=real.tolist(),
        )
        stated = {
            "images": len(mine),
            "real_images": len(real),
            "kept": protocol.kept,
            "shuffle": "images in random order by the seed",
        }
        what = {"real_images_of": self.split + (", one half against the other" if same else "")}
        return Scored(sample, what, stated, [])
