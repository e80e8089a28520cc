"""Data sets of the Hugging Face hub, or in a folder in its Parquet form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

from stackflower.data.files import Files
from stackflower.data.listed import ListedSource, Listing
from stackflower.data.tables import build_column_error, find_column
from stackflower.errors import DataError, MissingDependency, summarise_error
from stackflower.options import Below1, Seed
from stackflower.registry import register

NAMES = {"train": ("train",), "validation": ("validation", "val", "valid", "dev"), "test": ("test",)}
PREFIXES = ("hf://datasets/", "hf://")


class HubImages(Files):
    """Images of a data set, named by split and number.

    Args:
        path: folder or id of the data set.
        parts: data of each split.
        column: column of the images.
        folders: folders of the data set's files. Cells may only name image files in these folders.
    """

    def __init__(self, path: Path, parts: dict[str, Any], column: str, folders: Sequence[Path]):
        super().__init__(path)
        self.parts, self.column = parts, column
        self.roots = [folder.resolve() for folder in folders]

    def list_entries(self) -> Iterator[tuple[str, Any]]:
        for split, part in self.parts.items():
            for number in range(len(part)):
                yield f"{split}/{number:08d}", (split, number)

    def stamp(self, name: str) -> object:
        return self.parts[self.entries[name][0]]._fingerprint

    def read(self, name: str) -> bytes:
        split, number = self.entries[name]
        cell = self.parts[split][number][self.column]
        if isinstance(cell, dict) and isinstance(cell.get("bytes"), bytes):
            return bytes(cell["bytes"])
        try:
            path = (self.path / cell["path"]).resolve()
            if not any(path.is_relative_to(folder) for folder in self.roots):
                raise DataError(f"{self.path / name} names the file {cell['path']}, which is not in the data set.")
            return path.read_bytes()
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DataError(f"{self.path / name} does not hold an image ({error}).") from error


def _load(path: str, config: str | None, revision: str | None) -> Any:
    """Load a data set, but refuse to run its script, which `datasets` up to version 3 would offer to do."""
    import datasets

    refusal = {"trust_remote_code": False} if "trust_remote_code" in signature(datasets.load_dataset).parameters else {}
    return datasets.load_dataset(path, config, revision=revision, **refusal)


def _folders_of(path: str) -> list[Path]:
    """List the folders that may hold files of a data set: its own, or the caches of downloads and of unpacked files."""
    import datasets
    from huggingface_hub.constants import HF_HUB_CACHE

    unpacked = Path(datasets.config.HF_DATASETS_CACHE)
    return [Path(path) if Path(path).is_dir() else Path(HF_HUB_CACHE), unpacked]


@register("data", "huggingface")
class HuggingFaceDataset(ListedSource):
    """Data set of the Hugging Face hub, ``hf://owner/name``, or a folder of its Parquet files.

    It needs the extra ``datasets``. Code that comes with a data set is never run.

    Args:
        path: id of the data set, with or without ``hf://``, or the folder.
        config: configuration of the data set. Default: its default configuration.
        revision: branch, tag or commit. Default: the newest.
        image_column: column of the images. Default: a column with a usual name.
        text_column: column of the captions, strings or lists of strings. Default: a column with a usual name.
        label_column: column of the classes. Default: a column with a usual name, if there is one.
    """

    layout = "a Hugging Face data set"
    precedence = -20

    def __init__(
        self,
        *,
        path: str,
        config: str | None = None,
        revision: str | None = None,
        image_column: str | None = None,
        text_column: str | None = None,
        label_column: str | None = None,
        held_out: Below1 = 0.0,
        seed: Seed = 0,
        skip_bad: bool = False,
    ):
        self.id = next((path.removeprefix(prefix) for prefix in PREFIXES if path.startswith(prefix)), path)
        self.config, self.revision = config, revision
        self.columns = {"image": image_column, "text": text_column, "label": label_column}
        super().__init__(path=path, held_out=held_out, seed=seed, skip_bad=skip_bad)

    @classmethod
    def recognises(cls, files: Files) -> bool:
        return any(name.endswith(".parquet") for name in files.names)

    def open(self, follow_links: bool) -> Files:
        try:
            import datasets
        except ImportError:
            raise MissingDependency("datasets", "datasets", f"The data set {self.id}") from None
        try:
            loaded = _load(self.id, self.config, self.revision)
            self.parts = {split: loaded[name] for split, names in NAMES.items() for name in names if name in loaded}
            self.parts = self.parts or {"train": next(iter(loaded.values()))}
            first = next(iter(self.parts.values()))
            self.column = {content: self._find_column(content, first) for content in self.columns}
            images = datasets.Image(decode=False)
            self.parts = {split: part.cast_column(self.column["image"], images) for split, part in self.parts.items()}
        except DataError:
            raise
        except Exception as error:  # the hub, files and formats raise all kinds of exceptions
            reason = summarise_error(error)
            raise DataError(
                f"The data set {self.id!r} can't be loaded: {reason} Use the id of a data set on the Hugging Face hub, "
                "as in `data=hf://owner/name` (this needs a network), or a folder of its Parquet files."
            ) from error
        return HubImages(Path(self.id), self.parts, self.column["image"], _folders_of(self.id))

    def _find_column(self, content: str, part: Any) -> str:
        """Return the column that holds the image, the text or the label; "" for data without labels."""
        names, where = list(part.column_names), f"The data set {self.id!r}"
        column = find_column(content, self.columns[content], names, where)
        if not column and content != "label":
            raise build_column_error(content, names, where)
        return column

    def find_splits(self) -> list[str]:
        return [split for split in NAMES if split in self.parts]

    def title(self) -> str:
        return Path(self.id).name if Path(self.id).is_dir() else self.id

    def read_split(self, split: str) -> Listing:
        part, listing = self.parts[split], Listing(self.files)
        texts = part[self.column["text"]]
        labels = part[self.column["label"]] if self.column["label"] else None
        names = getattr(part.features.get(self.column["label"]), "names", None)
        for number, text in enumerate(texts):
            row: dict[str, Any] = {"file_name": f"{split}/{number:08d}", "text": text}
            if labels is not None and labels[number] is not None:
                row["label"] = labels[number]
                if names and isinstance(labels[number], int) and 0 <= labels[number] < len(names):
                    row["class_name"] = names[labels[number]]
            listing.add(row, f"{split}, row {number + 1}")
        return listing
