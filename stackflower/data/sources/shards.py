"""Images and captions in WebDataset shards: tar files of ``key.jpg`` with ``key.json`` or ``key.txt``.

The shards are read in place, not unpacked; images are decoded into the prepared form, which is memory-mapped, so on a CPU a data
set need not fit into memory (on a GPU the training split is held in its memory).
"""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from stackflower.data.images import EXTENSIONS, load_square
from stackflower.data.rows import checked, lines_of, parsed, several, together
from stackflower.data.source import Rows, Source
from stackflower.data.sources.folder import FOLDERS
from stackflower.errors import DataError
from stackflower.registry import register
from stackflower.utils.cache import key_of
from stackflower.utils.progress import Progress

LARGEST_TEXT = 10_000_000  # bytes of a caption file


@dataclass
class Sample:
    """One image of a shard, by its position in the file."""

    shard: Path
    key: str
    image: tuple[int, int] | None = None  # offset and size in bytes
    row: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None

    @property
    def where(self) -> Path:
        return self.shard / self.key

    def read(self) -> bytes:
        """The bytes of the image file."""
        assert self.image is not None
        with self.shard.open("rb") as handle:
            handle.seek(self.image[0])
            return handle.read(self.image[1])


def _row(suffix: str, content: bytes) -> tuple[dict[str, Any], str | None]:
    """The row in a sample's text or JSON file, and what is wrong with it or None."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return {}, f"has a caption file that is not UTF-8 ({error})"
    if suffix == ".json":
        row, problem = parsed(text)
        return row, problem and f"has a JSON file that {problem}"
    return {"text": lines_of(text)}, None


def _checked(sample: Sample, length: int) -> Sample:
    """The sample of a shard of `length` bytes with its captions checked and `problem` set."""
    if sample.problem is None and "text" not in sample.row and "caption" in sample.row:
        sample.row["text"] = sample.row["caption"]  # as img2dataset writes it
    sample.row, problem = checked(sample.row)
    sample.problem = sample.problem or problem
    if sample.image is None:
        sample.problem = "has captions and no image"
    elif sum(sample.image) > length:
        sample.problem = "has an image that goes on beyond the end of the file: the shard is cut off"
    return sample


def read_shard(path: Path) -> list[Sample]:
    """The samples of a tar file, in its order; one that is cut off ends with a sample that says so. DataError for a file that is not a tar file."""
    samples: dict[str, Sample] = {}
    whole = True
    try:
        with tarfile.open(path, "r:") as shard:
            try:
                for member in shard:
                    if member.isfile():
                        _add(member, shard, samples, path)
            except tarfile.ReadError:  # in the middle of a member
                whole = False
            end = shard.offset
    except (tarfile.TarError, OSError) as error:
        raise DataError(
            f"{path} can't be read as a tar file ({error}); shards are plain, uncompressed tar files."
        ) from error
    length = path.stat().st_size
    found = [_checked(sample, length) for sample in samples.values()]
    if not whole or not _ends(path, end):
        problem = "has no mark of the end of a tar file: it is cut off, and samples may be missing"
        found.append(Sample(path, "its end", problem=problem))
    return found


def _add(member: tarfile.TarInfo, shard: tarfile.TarFile, samples: dict[str, Sample], path: Path) -> None:
    """A file of a shard to its sample."""
    name = PurePosixPath(member.name)
    if name.name.startswith("."):
        return
    # a key ends at the first dot of the file's name, as in WebDataset
    stem, _, suffix = name.name.partition(".")
    sample = samples.setdefault(str(name.with_name(stem)), Sample(path, str(name.with_name(stem))))
    suffix = f".{suffix.lower()}"
    if suffix in EXTENSIONS:
        sample.image = (member.offset_data, member.size)
    elif suffix in (".json", ".txt") and member.size > LARGEST_TEXT:
        sample.problem = (
            sample.problem or f"has a caption file of {member.size:,} bytes; at most {LARGEST_TEXT:,} are read"
        )
    elif suffix in (".json", ".txt"):
        handle = shard.extractfile(member)
        row, problem = _row(suffix, handle.read() if handle else b"")
        sample.row = {**row, **sample.row} if suffix == ".txt" else {**sample.row, **row}
        sample.problem = sample.problem or problem


def _ends(path: Path, offset: int) -> bool:
    """Whether a tar file has its end mark, a block of zeros, at the offset to which it was read or before it."""
    with path.open("rb") as handle:
        for start in (offset - tarfile.BLOCKSIZE, offset):
            handle.seek(max(start, 0))
            block = handle.read(tarfile.BLOCKSIZE)
            if len(block) == tarfile.BLOCKSIZE and not any(block):
                return True
    return False


@register("data", "shards")
class ShardSource(Source):
    """WebDataset shards: a folder of ``train-*.tar`` and ``validation-*.tar``, or a pattern such as ``train-{000..006}.tar``.

    Args:
        path: the folder, one tar file, or a pattern with ``*`` or ``{000..006}``. File names that begin with validation, val or
            valid hold the validation split, with test the test split, all others the training split.
        skip_bad: leave out samples that can't be used, with a warning, instead of raising DataError.
    """

    def __init__(self, *, path: str, skip_bad: bool = False):
        self.path, self.skip_bad = path, skip_bad
        self._samples: dict[str, list[Sample]] = {}
        if not self.shards:
            raise DataError(
                f"There are no tar files at {path!r}. --data takes a folder of shards, or a pattern such as "
                "'flowers/train-{000..006}.tar'."
            )

    @cached_property
    def shards(self) -> dict[str, list[Path]]:
        """The tar files of each split."""
        location = Path(self.path).expanduser()
        if location.is_dir():
            files = sorted(location.glob("*.tar"))
        else:
            matching = {name: sorted(location.parent.glob(name)) for name in _expand_braces(location.name)}
            files = [file for found in matching.values() for file in found if file.is_file()]
            missing = [name for name, found in matching.items() if not found]
            if files and missing:
                raise DataError(
                    f"{self.path!r} names {len(missing)} files that are not there, the first {missing[0]}; correct the pattern or add the files."
                )
        found: dict[str, list[Path]] = {}
        for file in files:
            word = re.split(r"[-_.\d]", file.name, maxsplit=1)[0]
            split = next((name for name, words in FOLDERS.items() if word in words), "train")
            found.setdefault(split, []).append(file)
        if found and "train" not in found:  # a single split is the training split, whatever its name
            return {"train": next(iter(found.values()))}
        return found

    def title(self) -> str:
        location = Path(self.path).expanduser()
        return location.resolve().name if location.is_dir() else location.parent.resolve().name

    def splits(self) -> list[str]:
        return [name for name in FOLDERS if name in self.shards]

    def fingerprint(self, split: str) -> str:
        digest = hashlib.blake2b(digest_size=16)
        # all captions and a few bytes of every image, so that a copied shard has the same fingerprint
        for sample in self._read(split):
            digest.update(repr((sample.shard.name, sample.key, sample.image, sample.row, sample.problem)).encode())
            if sample.image is not None:
                with sample.shard.open("rb") as handle:
                    for share in (1, 2, 3):
                        handle.seek(sample.image[0] + sample.image[1] * share // 4)
                        digest.update(handle.read(64))
        return key_of(digest.hexdigest(), self.skip_bad)

    def _read(self, split: str) -> list[Sample]:
        if split not in self._samples:
            self._samples[split] = [sample for file in self.shards[split] for sample in read_shard(file)]
        return self._samples[split]

    def samples(self, split: str) -> list[Sample]:
        """The samples that can be used. DataError lists the others, unless `skip_bad`."""
        problems = [f"{one.where} {one.problem}." for one in self._read(split) if one.problem]
        good = [one for one in self._read(split) if not one.problem]
        if problems and (not self.skip_bad or not good):
            raise DataError(
                f"{self.path} can't be used as it is:\n{several(problems)}\n--set data.skip_bad=true leaves such samples out."
            )
        if not good:
            raise DataError(f"The shards of {self.path} ({split}) hold no images.")
        return good

    def rows(self, split: str) -> Rows:
        samples = self.samples(split)
        return together([sample.row for sample in samples], [sample.key for sample in samples])

    def fill(self, split: str, images: np.ndarray, progress: Progress) -> list[int]:
        samples, problems = self.samples(split), {}

        def one(position: int) -> None:
            sample = samples[position]
            try:
                images[position] = load_square(sample.where, images.shape[1], content=sample.read())
            except DataError as error:
                problems[position] = str(error)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in pool.map(one, range(len(samples))):
                progress(1)
        if problems and (not self.skip_bad or len(problems) == len(samples)):
            raise DataError(
                f"{len(problems):,} images in {self.path} can't be read:\n{several(sorted(problems.values()))}\n"
                "--set data.skip_bad=true leaves them out."
            )
        return sorted(problems)

    def warnings(self, split: str) -> list[str]:
        good, notes = self.samples(split), []
        bad = [f"{one.where} {one.problem}" for one in self._read(split) if one.problem]
        labelled = sum("label" in sample.row for sample in good)
        if bad:
            notes.append(f"{len(bad):,} samples are left out, the first: {bad[0]}.")
        if 0 < labelled < len(good):
            notes.append(
                f"{labelled:,} of {len(good):,} samples have a label: none is used, and a negative caption may be of the same class."
            )
        return notes

    def check(self) -> tuple[list[str], list[str]]:
        """Everything that is wrong with the shards, and what is worth knowing, opening every image: (problems, notes)."""
        problems, notes = [], []
        for split in self.splits():
            try:
                samples = self._read(split)
            except DataError as error:
                problems.append(str(error))
                continue
            problems += [f"{split}: {one.where} {one.problem}." for one in samples if one.problem]

            def look(sample: Sample) -> str | None:
                try:
                    load_square(sample.where, 64, content=sample.read())
                except DataError as error:
                    return str(error)
                return None

            good = [one for one in samples if not one.problem]
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                problems += [f"{split}: {problem}" for problem in pool.map(look, good) if problem]
            captions = sum(len(one.row["text"]) for one in good)
            notes.append(f"{split}: {len(good):,} samples in {len(self.shards[split])} shards, {captions:,} captions.")
        return problems, notes


def _expand_braces(name: str) -> list[str]:
    """The names that a pattern with one ``{000..006}`` expands to."""
    before, opening, rest = name.partition("{")
    inside, closing, after = rest.partition("}")
    first, dots, last = inside.partition("..")
    if not (opening and closing and dots and first.isdigit() and last.isdigit()):
        return [name]
    return [f"{before}{number:0{len(first)}d}{after}" for number in range(int(first), int(last) + 1)]
