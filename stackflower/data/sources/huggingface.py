"""Data sets of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from typing import Any

from stackflower.data.files import Files
from stackflower.data.listed import ListedSource
from stackflower.data.rows.arrow import ArrowTable
from stackflower.data.rows.containers import RawRow, RawTable
from stackflower.errors import DataError, MissingDependency, summarise_error
from stackflower.options import Below1, Seed
from stackflower.registry import register
from stackflower.utils.cache import compute_key

PREFIXES = ("hf://datasets/", "hf://")


@register("data", "huggingface")
class HuggingFaceDataset(ListedSource):
    """Data set of the Hugging Face hub, ``hf://owner/name``.

    It needs the extra ``datasets``. Code that comes with a data set is never run. A folder of Parquet or Arrow files is
    read by the layout ``table``, which does not need the extra.

    Args:
        path: id of the data set, with or without ``hf://``.
        config: configuration of the data set. Default: its default configuration.
        revision: branch, tag or commit. Default: the newest.
        image_column: column of the images. Default: the column that holds images.
        text_column: column of the captions, strings or lists of strings. Default: a column with a usual name.
        label_column: column of the classes. Default: a column with a usual name, if there is one.
    """

    layout = "a Hugging Face data set"

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
        super().__init__(path=path, held_out=held_out, seed=seed, skip_bad=skip_bad)
        self.columns = {"image": image_column, "text": text_column, "label": label_column}

    def open(self, follow_links: bool) -> Files:
        try:
            import datasets
        except ImportError:
            raise MissingDependency("datasets", "datasets", f"The data set {self.id}") from None
        try:
            loaded = _load(self.id, self.config, self.revision)
            self.parts = {str(split): part.flatten_indices() for split, part in loaded.items()}
            for split, part in self.parts.items():
                images = [name for name, feature in part.features.items() if isinstance(feature, datasets.Image)]
                for name in images:
                    self.parts[split] = part = part.cast_column(name, datasets.Image(decode=False))
        except Exception as error:  # the hub, files and formats raise all kinds of exceptions
            raise DataError(
                f"The data set {self.id!r} can't be loaded: {summarise_error(error)} Use the id of a data set on the "
                "Hugging Face hub, as in `data=hf://owner/name` (this needs a network), or a folder of its Parquet "
                "files."
            ) from error
        return _NoFiles(Path(self.id))

    def title(self) -> str:
        return self.id

    def list_tables(self) -> Iterator[RawTable]:
        for split, part in self.parts.items():
            table = _HubTable(part.data.table, _list_cache_folders())
            rows = (RawRow(number, values) for number, values in table.read_rows())
            yield RawTable(split, rows, "row", split=split, class_names=table.class_names, arrow_rows=table)

    def fingerprint(self, split: str) -> str:
        return compute_key(super().fingerprint(split), *(part._fingerprint for part in self.parts.values()))


class _NoFiles(Files):
    """The files of a data set whose images are all in cells."""

    def list_entries(self) -> Iterator[tuple[str, Any]]:
        return iter(())

    def stamp(self, name: str) -> object:
        raise KeyError(name)

    def read(self, name: str) -> bytes:
        raise KeyError(name)


class _HubTable(ArrowTable):
    """Rows of a data set whose cells may name image files in the caches of `datasets` and of the hub.

    Args:
        table: the rows, a `pyarrow.Table`.
        folders: folders in which the files may be.
    """

    def __init__(self, table: Any, folders: list[Path]):
        super().__init__(table)
        self.folders = [folder.resolve() for folder in folders]

    def read_rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, values in super().read_rows():
            for name in self.image_columns:
                values[name] = values[name]._replace(is_filled=values[name].is_filled or values[name].path is not None)
            yield number, values

    def read_image(self, column: str, number: int) -> bytes:
        cell = self.table.column(column)[number - 1].as_py()
        if not isinstance(cell, dict) or cell.get("bytes") is not None:
            return super().read_image(column, number)
        try:
            path = Path(cell["path"]).resolve()
            if not any(path.is_relative_to(folder) for folder in self.folders):
                raise DataError(f"it names the file {cell['path']}, which is not in the data set.")
            return path.read_bytes()
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"its file can't be read ({error}).") from error


def _load(path: str, config: str | None, revision: str | None) -> Any:
    """Load a data set, but refuse to run its script, which `datasets` up to version 3 would offer to do."""
    import datasets

    refusal = {"trust_remote_code": False} if "trust_remote_code" in signature(datasets.load_dataset).parameters else {}
    return datasets.load_dataset(path, config, revision=revision, **refusal)


def _list_cache_folders() -> list[Path]:
    """List the folders that may hold files of a data set: the caches of downloads and of unpacked files."""
    import datasets
    from huggingface_hub.constants import HF_HUB_CACHE

    return [Path(HF_HUB_CACHE), Path(datasets.config.HF_DATASETS_CACHE)]
