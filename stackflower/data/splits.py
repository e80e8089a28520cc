"""Detection of the split that the name of a folder, a file, a shard or a cell refers to."""

from __future__ import annotations

import re
from collections.abc import Iterable

from stackflower.data.files import Files

KEYWORDS = {  # keywords of the Hugging Face hub, and trainset, valset and testset
    "train": ("train", "training", "trainset"),
    "validation": ("validation", "valid", "val", "dev", "valset"),
    "test": ("test", "testing", "eval", "evaluation", "testset"),
}
SEPARATORS = re.compile(r"[-_.\s\d]+|(?<=[a-z])(?=[A-Z])")


def find_split(name: str) -> str | None:
    """Return the split whose keyword is a word of a name, in any case; None if there is none.

    Hyphens, underscores, dots, whitespace, digits and camel case separate words.

    Example:
        >>> find_split("train-00000-of-00007.parquet"), find_split("Val2017"), find_split("latest")
        ('train', 'validation', None)
    """
    words = SEPARATORS.split(name)
    return next((split for word in words for split, keywords in KEYWORDS.items() if word.lower() in keywords), None)


def assign_splits(names: Iterable[str]) -> dict[str, str | None]:
    """Assign each name to a split.

    Names without a keyword belong to the training split, unless another name refers to it; then they belong to no
    split. If all names refer to validation or test, the first of these two is used for training.

    Args:
        names: names of all folders, files, shards or cells.

    Returns:
        The split of each name; None if its data must be left out.
    """
    splits = {name: find_split(name) for name in names}
    present = set(splits.values())
    if "train" in present or not present:
        return splits
    if None in present:
        return {name: split or "train" for name, split in splits.items()}
    first = "validation" if "validation" in present else "test"
    return {name: "train" if split == first else split for name, split in splits.items()}


def find_split_folders(files: Files) -> list[str]:
    """List the top folders whose names contain the keyword of a split, in the order of the splits."""
    tops = sorted({name.partition("/")[0] for name in files.entries if "/" in name})
    splits = {folder: split for folder in tops if (split := find_split(folder))}
    return sorted(splits, key=lambda folder: list(KEYWORDS).index(splits[folder]))
