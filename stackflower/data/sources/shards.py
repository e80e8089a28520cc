"""Images and captions in WebDataset shards: tar files of ``key.jpg`` with ``key.json`` or ``key.txt``.

The shards are read in place, not unpacked. Images are decoded into the prepared form, which is memory-mapped, so a data
set does not have to fit into memory on a CPU; on a GPU, the training split is held in its memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from stackflower.data.archives import PartReader, read_tar_entries
from stackflower.data.files import Files, is_hidden
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

MAX_TEXT_SIZE = 10_000_000  # bytes per caption file
Place = tuple[int, int]  # offset and size in bytes


@dataclass
class Sample:
    """One sample of a shard: an image with its captions.

    Attributes:
        key: name of the sample.
        image: where the image file lies.
        texts: where the caption files lie, by suffix.
        row: checked row.
        problem: what is wrong with the sample (the end of a sentence), or None.
    """

    key: str
    image: Place | None = None
    texts: dict[str, Place] = field(default_factory=dict)
    row: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None


@dataclass
class Shard:
    """Samples of a shard, in order, and sentences about what is wrong with the file."""

    path: Path
    samples: list[Sample]
    problems: list[str]

    @property
    def faults(self) -> list[str]:
        """A sentence for everything that can't be used."""
        bad = [f"{self.path / sample.key} {sample.problem}." for sample in self.samples if sample.problem]
        return [*self.problems, *bad]


def read_shard(path: Path) -> Shard:
    """Read the samples of a shard and check their captions, without reading images.

    Raises:
        DataError: the file is not a tar file.
    """
    samples: dict[str, Sample] = {}
    problems: list[str] = []
    refused: dict[str, str] = {}
    for name, place in read_tar_entries(path, path, problems, refused):
        folder, slash, base = name.rpartition("/")
        if is_hidden(name):
            continue
        # As in WebDataset, a key ends at the first dot of the file name.
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
    problems += [f"{path / name} {reason}." for name, reason in refused.items()]
    return Shard(path, list(samples.values()), problems)


def read_row(sample: Sample, handle: BinaryIO) -> None:
    """Read and check the captions of a sample.

    Args:
        sample: sample whose row and problem to set.
        handle: the open shard.
    """
    for suffix, (offset, size) in sorted(sample.texts.items()):  # a JSON file takes precedence over a text file
        if size > MAX_TEXT_SIZE:
            sample.problem = f"has a caption file of {size:,} bytes; the limit is {MAX_TEXT_SIZE:,}"
            continue
        handle.seek(offset)
        row, problem = _parse_texts(suffix, handle.read(size))
        sample.row = {**row, **sample.row}
        sample.problem = sample.problem or problem
    if sample.problem is None and "text" not in sample.row and "caption" in sample.row:
        sample.row["text"] = sample.row["caption"]  # img2dataset calls it "caption"
    sample.row, problem = check_row(sample.row)
    sample.problem = sample.problem or problem
    if sample.image is None:
        sample.problem = "has captions but no image" if sample.texts else "has no image"


def _parse_texts(suffix: str, content: bytes) -> tuple[dict[str, Any], str | None]:
    """Return the row in a text or JSON file, and what is wrong with it or None."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return {}, f"has a caption file that is not UTF-8 ({error})"
    if suffix == ".json":
        row, problem = parse_row(text)
        return row, problem and f"has a JSON file that {problem}"
    return {"text": split_lines(text)}, None


class ShardFiles(Files):
    """Images in shards, named by shard and key.

    Args:
        path: path that the user gave, for messages.
        shards: locations of the shards.
    """

    def __init__(self, path: Path, shards: list[str]):
        super().__init__(path)
        names = list(map(get_file_name, shards))
        self.shards = dict(zip(shards, names if len(set(names)) == len(names) else shards, strict=True))
        self.read_part = PartReader()
        self._places: dict[str, tuple[str, int, int]] = {}

    def read_shards(self) -> Iterator[tuple[str, Shard]]:
        """Read the shards one by one, note where their images are, and yield the name and samples of each."""
        for location, name in self.shards.items():
            with local_copy(location) as path:
                shard = read_shard(path)
            for sample in shard.samples:
                if sample.image is not None:
                    self._places[f"{name}/{sample.key}"] = (location, *sample.image)
            yield name, shard

    @cached_property
    def entries(self) -> dict[str, Any]:
        # Hidden files were left out by their names within a shard; the path of the shard itself may be hidden.
        return dict(sorted(self.list_entries()))

    def list_entries(self) -> Iterator[tuple[str, Any]]:
        if not self._places:
            deque(self.read_shards(), maxlen=0)
        yield from self._places.items()

    def stamp(self, name: str) -> object:
        # A few bytes of every image instead of times: a copied shard must have the same fingerprint.
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
    """WebDataset shards: a folder of ``train-*.tar`` and others, or a pattern such as ``train-{000..006}.tar``.

    Args:
        path: folder, tar file, or pattern with ``*``, ``{000..006}`` or ``{train,test}``, also at a URL that fsspec
            reads. Files whose names begin with validation, val or valid, or whose folder has such a name, hold the
            validation split. Likewise, test stands for the test split. All others hold the training split.
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
                f"No shards found at {self.location!r}. `data` takes a folder of images with metadata, a folder of "
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
            unread = [file for file in sorted(self.path.rglob("*.tar")) if file.resolve() not in read]
            if unread:
                listing.notes.append(f"{len(unread):,} tar files in {self.path} are not read, such as {unread[0]}.")
        if not listing.rows and not listing.problems:
            listing.problems.append(f"The shards of {self.location} ({split}) hold no images.")
        return listing
