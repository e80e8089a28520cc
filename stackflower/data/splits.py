"""Detection of the split that the name of a folder, a file, a shard or a cell refers to."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from stackflower.data.files import Files

KEYWORDS = {  # keywords of the Hugging Face hub, and trainset, valset and testset
    "train": ("train", "training", "trainset"),
    "validation": ("validation", "valid", "val", "dev", "valset"),
    "test": ("test", "testing", "eval", "evaluation", "testset"),
}
# words beside the keyword in the name of a folder
COMPANIONS = frozenset(
    "image images img imgs jpg photos pictures data dataset set split files samples".split()  # noqa: SIM905
)
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


def find_folder_split(folder: str) -> str | None:
    """Return the split that a folder is named after, apart from digits and words such as "images"; else None.

    Unlike `find_split`, it doesn't take the class "steam train" for a split.

    Example:
        >>> find_folder_split("train2017"), find_folder_split("images_val"), find_folder_split("10_steam train")
        ('train', 'validation', None)
    """
    split = find_split(folder)
    return split if split and set(_list_other_words(folder)) <= COMPANIONS else None


def _list_other_words(folder: str) -> list[str]:
    """List the words of a folder's name that are not the keyword of a split."""
    return [word.lower() for word in SEPARATORS.split(folder) if word and not find_split(word)]


def find_split_folders(files: Files) -> list[str]:
    """List the top folders that are named after splits (see `sort_top_folders`), in the order of the splits."""
    return sort_top_folders(files)[0]


def sort_top_folders(files: Files) -> tuple[list[str], list[str]]:
    """Find the top folders that hold splits, and those whose names are probably of classes.

    A folder holds a split if it is named after it (see `find_folder_split`), or if the names of folders of several
    splits differ by the keyword only, as in ``flowers_train`` and ``flowers_test``. A single split among more images
    and folders of other names is a class.

    Args:
        files: files of a data set.

    Returns:
        The folders of splits, in the order of the splits, and the folders of a single split that is taken for a class.
    """
    tops = sorted({name.partition("/")[0] for name in files.entries if "/" in name})
    named = {folder: split for folder in tops if (split := find_split(folder))}
    alike: dict[tuple[str, ...], set[str]] = {}
    for folder, split in named.items():
        alike.setdefault(tuple(_list_other_words(folder)), set()).add(split)
    splits = {
        folder: split
        for folder, split in named.items()
        if find_folder_split(folder) or len(alike[tuple(_list_other_words(folder))]) > 1
    }
    folders = sorted(splits, key=lambda folder: list(KEYWORDS).index(splits[folder]))
    if len(set(splits.values())) == 1:
        images = Counter(name.partition("/")[0] for name in files.images if "/" in name)
        in_splits = sum(images[folder] for folder in folders)
        if 2 * len(folders) < len(images) and 2 * in_splits < images.total():
            return [], folders
    return folders, []
