"""Locations of WebDataset shards, in a folder, by a pattern or at a URL, and the split that each belongs to."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from stackflower.data.files import LINK_REASON, is_hidden
from stackflower.data.remote import find_matches, is_remote
from stackflower.data.source import SPLITS
from stackflower.data.splits import assign_splits, find_split
from stackflower.errors import DataError

MOST_SHARDS = 1_000_000
BRACES = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")


@dataclass(frozen=True)
class _Match:
    """Shards that a name or pattern matches."""

    name: str
    shards: list[str]
    root: Path | None = None  # folder that the user named, which links may not leave; None at a URL


class ShardSplits(NamedTuple):
    """Locations of shards.

    Attributes:
        splits: the shards of each split.
        left_out: shards whose names belong to no split although others are for training.
    """

    splits: dict[str, list[str]]
    left_out: list[str]


def find_shards(location: str, follow_links: bool = False) -> ShardSplits:
    """Find the shards of each split, which the name of the file or of its folder gives.

    Args:
        location: folder, pattern or file, also at a URL.
        follow_links: read shards behind links that lead out of the folder, or out of the part of a pattern before its
            wildcards.

    Returns:
        The locations of the shards by split, and those of none.

    Raises:
        DataError: a pattern names files that don't exist, or a shard is behind a link.
    """
    matches = _match_remote(location) if is_remote(location) else _match_local(Path(location).expanduser())
    shards = list(dict.fromkeys(shard for match in matches for shard in match.shards))
    missing = [get_file_name(match.name) for match in matches if not match.shards]
    if shards and missing:
        raise DataError(
            f"{location!r} names {len(missing)} files that don't exist, such as {missing[0]}; correct the pattern, "
            "add the files, or use a wildcard, as in train-*.tar."
        )
    for match in matches:
        if match.root is not None and not follow_links:
            _refuse_links(match.root, map(Path, match.shards))
    words = {shard: _find_split_word(shard) for shard in shards}
    assigned = assign_splits(words.values())
    splits: dict[str | None, list[str]] = {}
    for shard, word in words.items():
        splits.setdefault(assigned[word], []).append(shard)
    return ShardSplits({split: splits[split] for split in SPLITS if split in splits}, splits.get(None, []))


def _find_split_word(shard: str) -> str:
    """Return the part of a shard's path that names a split: the name of the file or of its folder, else ""."""
    name = get_file_name(shard)
    words = name.partition(".")[0], get_file_name(shard[: -len(name) - 1])
    return next(filter(find_split, words), "")


def _match_remote(location: str) -> list[_Match]:
    """Match the names that a URL expands to, with one query per folder."""
    folders: dict[str, list[str]] = {}
    for expanded in expand_braces(location):
        folder, _, name = expanded.rpartition("/")
        folders.setdefault(folder, []).append(name)
    matching = {
        f"{folder}/{name}": shards
        for folder, names in folders.items()
        for name, shards in find_matches(folder, names).items()
    }
    return [_Match(name, shards) for name, shards in matching.items()]


def _match_local(path: Path) -> list[_Match]:
    """Match the shards in a folder and in its split folders, or else in all folders, or those of a pattern."""
    if path.is_dir():
        splits = [folder for folder in sorted(path.iterdir()) if folder.is_dir() and find_split(folder.name)]
        files = [str(file) for folder in (path, *splits) for file in folder.glob("*.tar")]
        files = files or [str(file) for file in path.rglob("*.tar") if not is_hidden(str(file.relative_to(path)))]
        return [_Match("*.tar", list(filter(_is_shard, sorted(files))), path)]
    matches = []
    for name in expand_braces(str(path)):
        if os.path.exists(name):
            files, root = [name], Path(name).parent
        else:
            files = sorted(glob.glob(name))
            root = Path(*takewhile(lambda part: not glob.has_magic(part), Path(name).parent.parts))
        matches.append(_Match(name, list(filter(_is_shard, files)), root))
    return matches


def _refuse_links(root: Path, shards: Iterable[Path]) -> None:
    """Check that no shard is behind a link that leads out of a folder.

    Raises:
        DataError: a shard is.
    """
    root, inside = root.resolve(), set[Path]()
    for shard in shards:
        path = shard if shard.is_symlink() else shard.parent
        if path not in inside:
            if not path.resolve().is_relative_to(root):
                raise DataError(f"{path} {LINK_REASON}.")
            inside.add(path)


def _is_shard(file: str) -> bool:
    """Return whether a file exists and is not hidden; files that are being written are hidden."""
    return os.path.isfile(file) and not os.path.basename(file).startswith(".")


def get_file_name(location: str) -> str:
    """Return the file name of a location."""
    return location.rpartition("/")[2] if is_remote(location) else Path(location).name


def expand_braces(pattern: str) -> list[str]:
    """Expand ``{000..006}`` and ``{train,validation}`` in a pattern, as a shell does.

    Raises:
        DataError: the pattern names more than a million files.
    """
    braces = BRACES.search(pattern)
    if braces is None:
        return [pattern]
    first, last, words = braces.groups()
    rest = expand_braces(pattern[braces.end() :])
    many = words.count(",") + 1 if words is not None else int(last[:20]) - int(first[:20]) + 1
    if many * len(rest) > MOST_SHARDS:
        raise DataError(f"{pattern[:200]!r} names more than {MOST_SHARDS:,} files; correct the braces.")
    choices = words.split(",") if words is not None else [f"{int(first) + more:0{len(first)}d}" for more in range(many)]
    return [f"{pattern[: braces.start()]}{choice}{end}" for choice in choices for end in rest]
