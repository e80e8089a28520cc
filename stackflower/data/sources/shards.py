"""Images and captions in WebDataset shards: tar files of ``key.jpg`` with ``key.json`` or ``key.txt``.

The shards are read in place, without unpacking. Images are decoded into the prepared form, which is memory-mapped, so a
data set does not have to fit into memory on a CPU; on a GPU, the training split is kept in GPU memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import NoneType
from typing import Any, BinaryIO, NamedTuple

from stackflower.data.archives import PartReader, read_tar_entries
from stackflower.data.files import Files, is_hidden
from stackflower.data.image_formats import EXTENSIONS
from stackflower.data.listed import ListedSource
from stackflower.data.remote import is_remote, local_copy
from stackflower.data.rows.checks import check_row
from stackflower.data.rows.columns import name_columns, normalise_row
from stackflower.data.rows.containers import RawRow, RawTable, parse_object
from stackflower.data.rows.listing import Listing
from stackflower.data.shard_locations import ShardSplits, find_shards, get_file_name
from stackflower.data.splits import find_split
from stackflower.errors import DataError
from stackflower.formats.lines import split_lines
from stackflower.options import Below1, Seed
from stackflower.registry import register

TEXT_SUFFIXES = (".cls", ".json", ".txt")
MAX_TEXT_SIZE = 10_000_000  # bytes per caption file
Place = tuple[int, int]  # offset and size in bytes


class Keys(NamedTuple):
    """Keys of the captions and the class in JSON files; None: detect usual names."""

    text: str | None = None
    label: str | None = None


USUAL_KEYS = Keys()


@dataclass
class Sample:
    """One sample of a shard: an image with its captions.

    Attributes:
        key: name of the sample.
        image: position of the image file in the shard.
        texts: positions of the caption files in the shard, by suffix.
        row: checked row.
        problem: what is wrong with the sample (the end of a sentence), or None.
    """

    key: str
    image: Place | None = None
    texts: dict[str, Place] = field(default_factory=dict)
    row: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None


def read_samples(path: Path, problems: list[str], keys: Keys = USUAL_KEYS) -> Iterator[Sample]:
    """Read the samples of a shard and check their captions, without reading images.

    Args:
        path: the shard.
        problems: list to which a sentence per problem of the file is added, before the first sample is yielded.
        keys: keys of the JSON files.

    Raises:
        DataError: the file is not a tar file.
    """
    samples: dict[str, Sample] = {}
    refused: dict[str, str] = {}
    for name, place in read_tar_entries(path, path, problems, refused):
        folder, slash, base = name.rpartition("/")
        if is_hidden(name):
            continue
        # As in WebDataset, a key ends at the first dot of the file name. The part after the last dot is the format.
        stem, _, suffix = base.partition(".")
        key, suffix = f"{folder}{slash}{stem}", f".{suffix.lower().rpartition('.')[2]}"
        sample = samples.setdefault(key, Sample(key))
        if suffix in EXTENSIONS:
            sample.problem = "has two images" if sample.image is not None else sample.problem
            sample.image = place
        elif suffix in TEXT_SUFFIXES:
            if suffix in sample.texts:
                sample.problem = f"has two {suffix} files; put all captions into one, a line each"
            sample.texts[suffix] = place
    problems += [f"{path / name} {reason}." for name, reason in refused.items()]
    with path.open("rb") as handle:
        for key in list(samples):
            sample = samples.pop(key)  # captions that were used take up no memory
            read_row(sample, handle, keys)
            yield sample


def read_row(sample: Sample, handle: BinaryIO, keys: Keys) -> None:
    """Read and check the captions of a sample.

    Args:
        sample: sample whose `row` and `problem` are set.
        handle: the open shard.
        keys: keys of the JSON file.
    """
    values: dict[str, Any] = {}
    for suffix, (offset, size) in sorted(sample.texts.items()):  # .cls, then .json, which has precedence over .txt
        if size > MAX_TEXT_SIZE:
            sample.problem = f"has a caption file of {size:,} bytes; at most {MAX_TEXT_SIZE:,} are allowed"
            continue
        handle.seek(offset)
        parsed, problem = _parse_texts(suffix, handle.read(size), keys)
        values |= {key: value for key, value in parsed.items() if value != [] and not values.get(key)}
        sample.problem = sample.problem or problem
    label = values.pop("label", None)
    row, problem = check_row(values if isinstance(label, (str, NoneType)) else {**values, "label": label})
    sample.row = row if label is None else {**row, "label": label}
    sample.problem = sample.problem or problem
    if sample.image is None:
        sample.problem = "has captions but no image" if sample.texts else "has no image"


def _parse_texts(suffix: str, content: bytes, keys: Keys) -> tuple[dict[str, Any], str | None]:
    """Parse a text, class or JSON file to a row, and return its problem or None."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return {}, f"has a caption file that is not UTF-8 ({error})"
    if suffix == ".txt":
        return {"text": split_lines(text)}, None
    values, problem = ({"label": text}, None) if suffix == ".cls" else parse_object(text)
    if problem is None:
        values, problem = normalise_row(values, name_columns(tuple(values), keys.text, keys.label))
        return values, problem
    return {}, f"has a JSON file that {problem}"


class ShardFiles(Files):
    """Images in shards, named ``SHARD/KEY``.

    Args:
        path: path as given by the user, for messages.
        shards: locations of the shards.
        keys: keys of the JSON files.
    """

    def __init__(self, path: Path, shards: list[str], keys: Keys = USUAL_KEYS):
        super().__init__(path)
        self.keys = keys
        names = list(map(get_file_name, shards))
        self.shards = dict(zip(shards, names if len(set(names)) == len(names) else shards, strict=True))
        self.read_part = PartReader()
        self._places: dict[str, tuple[str, int, int]] = {}

    def read_shards(self) -> Iterator[tuple[str, RawTable]]:
        """Read the shards, record the positions of their images, and yield the location and the rows of each."""
        for location, name in self.shards.items():
            with local_copy(location) as path:
                yield location, RawTable(name, self._read_shard(location, name, path), is_fixed=True, is_checked=True)

    def _read_shard(self, location: str, name: str, path: Path) -> Iterator[RawRow]:
        for sample in read_samples(path, self.problems, self.keys):
            image = f"{name}/{sample.key}"
            if sample.image is not None:
                self._places[image] = (location, *sample.image)
            yield RawRow(f"{path}/{sample.key}", {**sample.row, "image": image}, sample.problem)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def is_image(self, name: str) -> bool:
        return name in self._places

    @cached_property
    def entries(self) -> dict[str, Any]:
        # Hidden files were left out by their names within the shard; the path of the shard itself may be hidden.
        return dict(sorted(self.list_entries()))

    def list_entries(self) -> Iterator[tuple[str, Any]]:
        if not self._places:
            for _, table in self.read_shards():
                deque(table.rows, maxlen=0)
        yield from self._places.items()

    def stamp(self, name: str) -> object:
        # A few bytes of each image instead of file times, so that a copied shard has the same fingerprint.
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
    """WebDataset shards: a folder of shards such as ``train-000.tar``, or a pattern such as ``train-{000..006}.tar``.

    Args:
        path: folder, tar file, pattern with ``*``, ``{000..006}`` or ``{train,test}``, or URL that fsspec supports.
            The names of files or of their folders give the splits, such as train-000.tar, val-000.tar or test/000.tar.
            Shards without a split are used for training, or left out if others are called train.
        text_column: key of the captions in JSON files. Default: a key with a usual name.
        label_column: key of the classes in JSON files. Default: a key with a usual name.
    """

    layout = "WebDataset shards"
    reports_unused = False

    def __init__(
        self,
        *,
        path: str,
        text_column: str | None = None,
        label_column: str | None = None,
        held_out: Below1 = 0.0,
        seed: Seed = 0,
        skip_bad: bool = False,
        follow_links: bool = False,
    ):
        self.location, self.follow_links = path, follow_links
        self.keys = Keys(text_column, label_column)
        super().__init__(path=path, held_out=held_out, seed=seed, skip_bad=skip_bad, follow_links=follow_links)

    def open(self, follow_links: bool) -> ShardFiles:
        if not self.shards:
            raise DataError(
                f"No shards found at {self.location!r}. `data` takes a folder of images with metadata, a folder of "
                '.tar shards, or a pattern such as "shards/train-{000000..000006}.tar".'
            )
        locations = [shard for shards in self.shards.values() for shard in shards]
        return ShardFiles(self.path, locations, self.keys)

    @classmethod
    def recognises(cls, files: Files) -> bool:
        shards = [name.rpartition("/")[0] for name in files.names if name.endswith(".tar")]
        near = any(not folder or find_split(folder) for folder in shards)
        return near or (bool(shards) and not files.images)  # beside images, deeper tar files are archives of them

    @cached_property
    def shard_splits(self) -> ShardSplits:
        """Locations of the shards of each split, and of the shards without a split."""
        return find_shards(self.location, self.follow_links)

    @property
    def shards(self) -> dict[str, list[str]]:
        """Locations of the shards of each split."""
        return self.shard_splits.splits

    def title(self) -> str:
        if is_remote(self.location):
            return self.location.rpartition("/")[0].rpartition("/")[2]
        path = Path(self.location).expanduser()
        return path.resolve().name if path.is_dir() else path.parent.resolve().name

    def list_tables(self) -> Iterator[RawTable]:
        split_of = {shard: split for split, shards in self.shards.items() for shard in shards}
        assert isinstance(self.files, ShardFiles)
        for location, table in self.files.read_shards():
            yield replace(table, split=split_of[location])

    def read(self) -> dict[str, Listing]:
        listings = super().read()
        for split in self.shards:
            listing = listings.setdefault(split, Listing(self.files))
            if not listing.rows and not listing.problems:
                listing.problems.append(f"The shards of {self.location} ({split}) contain no images.")
        listings["train"].notes += self.list_unread_shards()
        return listings

    def list_unread_shards(self) -> list[str]:
        """Return a sentence about tar files that are not read, as a list, or an empty list."""
        read = {Path(shard).resolve() for shards in self.shards.values() for shard in shards}
        files = sorted(self.path.rglob("*.tar")) if self.path.is_dir() else map(Path, self.shard_splits.left_out)
        unread = [str(file) for file in files if file.resolve() not in read]
        if not unread:
            return []
        reason = ", because their names belong to no split" if self.shard_splits.left_out else ""
        return [f"{len(unread):,} tar files in {self.location} are not read{reason}, such as {unread[0]}."]
