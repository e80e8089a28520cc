"""Images and captions in WebDataset shards: tar files of ``key.jpg`` with ``key.json`` or ``key.txt``.

The shards are read in place, not unpacked; images are decoded into the prepared form, which is memory-mapped, so on a
CPU a data set need not fit into memory (on a GPU the training split is held in its memory).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from stackflower.data.archives import PartReader, read_tar_entries
from stackflower.data.files import Files
from stackflower.data.images import EXTENSIONS
from stackflower.data.listed import ListedSource, Listing
from stackflower.data.remote import is_remote, local_copy
from stackflower.data.rows import check_row, parse_row
from stackflower.data.shard_locations import find_shards, get_file_name
from stackflower.data.sources.folder import SPLIT_FOLDERS, find_split
from stackflower.errors import DataError
from stackflower.formats.lines import split_lines
from stackflower.options import Below1, Seed
from stackflower.registry import register

MAX_TEXT_SIZE = 10_000_000  # bytes of a caption file
Place = tuple[int, int]  # offset and size in bytes


@dataclass
class Sample:
    """One image of a shard with its captions."""

    key: str
    image: Place | None = None
    texts: dict[str, Place] = field(default_factory=dict)  # by suffix
    row: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None


@dataclass
class Shard:
    """A shard as it was read: its samples in their order, and what is wrong with the file."""

    path: Path
    samples: list[Sample]
    problems: list[str]

    @property
    def faults(self) -> list[str]:
        """A sentence for everything that can't be used."""
        bad = [f"{self.path / one.key} {one.problem}." for one in self.samples if one.problem]
        return [*self.problems, *bad]


def read_shard(path: Path) -> Shard:
    """The samples of a shard, with their captions checked. DataError for a file that is not a tar file."""
    samples: dict[str, Sample] = {}
    problems: list[str] = []
    refused: dict[str, str] = {}
    for name, place in read_tar_entries(path, path, problems, refused):
        folder, slash, base = name.rpartition("/")
        if base.startswith("."):
            continue
        # a key ends at the first dot of the file's name, as in WebDataset
        stem, _, suffix = base.partition(".")
        key = f"{folder}{slash}{stem}"
        sample = samples.setdefault(key, Sample(key))
        suffix = f".{suffix.lower()}"
        if suffix in EXTENSIONS:
            sample.problem = "has two images" if sample.image is not None else sample.problem
            sample.image = place
        elif suffix in (".json", ".txt"):
            sample.texts[suffix] = place
    with path.open("rb") as handle:
        for sample in samples.values():
            read_row(sample, handle)
    problems += [f"{path / name} {why}." for name, why in refused.items()]
    return Shard(path, list(samples.values()), problems)


def read_row(sample: Sample, handle: BinaryIO) -> None:
    """Read and check the captions of a sample."""
    for suffix, (offset, size) in sorted(sample.texts.items()):  # what a JSON file has comes before a text file's
        if size > MAX_TEXT_SIZE:
            sample.problem = f"has a caption file of {size:,} bytes; at most {MAX_TEXT_SIZE:,} are read"
            continue
        handle.seek(offset)
        row, problem = _parse_texts(suffix, handle.read(size))
        sample.row = {**row, **sample.row}
        sample.problem = sample.problem or problem
    if sample.problem is None and "text" not in sample.row and "caption" in sample.row:
        sample.row["text"] = sample.row["caption"]  # as img2dataset writes it
    sample.row, problem = check_row(sample.row)
    sample.problem = sample.problem or problem
    if sample.image is None:
        sample.problem = "has captions and no image" if sample.texts else "has no image"


def _parse_texts(suffix: str, content: bytes) -> tuple[dict[str, Any], str | None]:
    """The row in a sample's text or JSON file, and what is wrong with it or None."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return {}, f"has a caption file that is not UTF-8 ({error})"
    if suffix == ".json":
        row, problem = parse_row(text)
        return row, problem and f"has a JSON file that {problem}"
    return {"text": split_lines(text)}, None


class ShardFiles(Files):
    """The images in shards, by the shard's name and the sample's key.

    Args:
        path: that was given, for messages.
        shards: their locations.
    """

    def __init__(self, path: Path, shards: list[str]):
        super().__init__(path)
        names = list(map(get_file_name, shards))
        self.shards = dict(zip(shards, names if len(set(names)) == len(names) else shards, strict=True))
        self.read_part = PartReader()
        self._places: dict[str, tuple[str, int, int]] = {}

    def read_shards(self) -> Iterator[tuple[str, Shard]]:
        """The shards by name, read one at a time; then the images are known."""
        for location, name in self.shards.items():
            with local_copy(location) as path:
                shard = read_shard(path)
            for sample in shard.samples:
                if sample.image is not None:
                    self._places[f"{name}/{sample.key}"] = (location, *sample.image)
            yield name, shard

    def list_entries(self) -> Iterator[tuple[str, Any]]:
        if not self._places:
            deque(self.read_shards(), maxlen=0)
        yield from self._places.items()

    def stamp(self, name: str) -> object:
        # a few bytes of every image, so that a copied shard has the same fingerprint
        location, offset, size = self.entries[name]
        with local_copy(location) as path:
            return offset, size, [self.read_part(path, offset + size * share // 4, 64) for share in (1, 2, 3)]

    def read(self, name: str) -> bytes:
        location, offset, size = self.entries[name]
        with local_copy(location) as path:
            return self.read_part(path, offset, size)

    def order_for_reading(self, names: Iterable[str]) -> list[str]:
        return sorted(names, key=lambda name: self.entries[name])


@register("data", "shards")
class ShardSource(ListedSource):
    """WebDataset shards: a folder of ``train-*.tar`` and ``validation-*.tar``, or a pattern such as
    ``train-{000..006}.tar``.

    Args:
        path: the folder, one tar file, or a pattern with ``*``, ``{000..006}`` or ``{train,test}``, also at a URL that
            fsspec reads. Files whose names begin with validation, val or valid, or whose folder has such a name, hold
            the validation split, with test the test split, all others the training split.
    """

    layout = "WebDataset shards"

    def __init__(
        self, *, path: str, held_out: Below1 = 0.0, seed: Seed = 0, skip_bad: bool = False, follow_links: bool = False
    ):
        self.location, self.follow_links = path, follow_links
        super().__init__(path=path, held_out=held_out, seed=seed, skip_bad=skip_bad, follow_links=follow_links)

    def open(self, follow_links: bool) -> Files:
        if not self.shards:
            raise DataError(
                f"There are no shards at {self.location!r}. `data` takes a folder of images with metadata, a folder of "
                '.tar shards, or a pattern such as "shards/train-{000..006}.tar".'
            )
        return ShardFiles(self.path, [shard for shards in self.shards.values() for shard in shards])

    @classmethod
    def recognises(cls, files: Files) -> bool:
        shards = [name.rpartition("/")[0] for name in files.names if name.endswith(".tar")]
        return any(not folder or find_split(folder) for folder in shards)

    @cached_property
    def shards(self) -> dict[str, list[str]]:
        """Locations of the shards of each split."""
        return find_shards(self.location, self.follow_links)

    def title(self) -> str:
        if is_remote(self.location):
            return self.location.rpartition("/")[0].rpartition("/")[2]
        path = Path(self.location).expanduser()
        return path.resolve().name if path.is_dir() else path.parent.resolve().name

    def find_splits(self) -> list[str]:
        return [name for name in SPLIT_FOLDERS if name in self.shards]

    def read_split(self, split: str) -> Listing:
        files = ShardFiles(self.path, self.shards[split])
        listing = Listing(files)
        for name, shard in files.read_shards():
            listing.problems += shard.faults
            usable = [sample for sample in shard.samples if not sample.problem]
            listing.rows.extend({**sample.row, "file_name": f"{name}/{sample.key}"} for sample in usable)
        if split == "train" and self.path.is_dir():
            read = {Path(shard).resolve() for shards in self.shards.values() for shard in shards}
            others = [file for file in sorted(self.path.rglob("*.tar")) if file.resolve() not in read]
            if others:
                listing.notes.append(f"{len(others):,} tar files in {self.path} are not read, such as {others[0]}.")
        if not listing.rows and not listing.problems:
            listing.problems.append(f"The shards of {self.location} ({split}) hold no images.")
        return listing
