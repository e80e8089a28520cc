"""Data of the competition Reverse Image Caption: a pickled table of images and captions, and a dictionary."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from stackflower.data.files import Files
from stackflower.data.listed import ListedSource
from stackflower.data.rows.containers import RawRow, RawTable
from stackflower.errors import DataError
from stackflower.formats.pickled_tables import extract_columns
from stackflower.formats.pickles import load_npy, load_pickle
from stackflower.registry import register

TABLE_FILE, TEST = "text2ImgData.pkl", "testData.pkl"
WORD_FILES = ("id2Word.npy", "word2Id.npy")
PADDING = frozenset({"<PAD>", "<RARE>"})


@register("data", "reverse-image-caption")
class ReverseImageCaption(ListedSource):
    """Data set of the competition Reverse Image Caption.

    The layout is ``text2ImgData.pkl``, a table with ``Captions`` (lists of word ids) and ``ImagePath``;
    ``dictionary/id2Word.npy`` or ``word2Id.npy``; and the images. ``testData.pkl``, which has captions without images,
    is not used: ``stackflower sample`` takes captions as text.

    Pickles are read without running code from them, and without pandas.
    """

    layout = "the competition's table and dictionary"
    precedence = 5

    @classmethod
    def recognises(cls, files: Files) -> bool:
        return any(f"/{name}".endswith(f"/{TABLE_FILE}") for name in files.names)

    def _find_file(self, *names: str) -> str:
        """Return the first file that has one of these names, in any folder."""
        for name in names:
            for file in self.files.names:
                if PurePosixPath(file).name == name:
                    return file
        raise DataError(f"{self.files.path} has no {' or '.join(names)}, which is part of the competition's data.")

    def _read_dictionary(self) -> dict[str, str]:
        """Read the words by their ids, both as text."""
        name = self._find_file(*WORD_FILES)
        pairs = load_npy(self.files.read(name), self.files.path / name)
        if pairs.ndim != 2 or pairs.shape[1] != 2:
            raise DataError(f"{self.files.path / name} is not a list of pairs of words and ids.")
        id_column, word_column = (0, 1) if name.endswith(WORD_FILES[0]) else (1, 0)
        return {str(pair[id_column]): str(pair[word_column]) for pair in pairs.tolist()}

    def list_tables(self) -> Iterator[RawTable]:
        name = self._find_file(TABLE_FILE)
        yield RawTable(name, self._read_rows(name), "row", is_fixed=True)

    def _read_rows(self, name: str) -> Iterator[RawRow]:
        words, table = self._read_dictionary(), extract_columns(load_pickle(self.files.read(name), name), name)
        if not {"Captions", "ImagePath"} <= set(table):
            raise DataError(f"{self.files.path / name} has no columns Captions and ImagePath.")
        images = {PurePosixPath(file).name: file for file in self.files.names}
        for number, (path, encoded) in enumerate(zip(table["ImagePath"], table["Captions"], strict=True), 1):
            row = {"image": images.get(PurePosixPath(str(path)).name, str(path))}
            try:
                yield RawRow(number, {**row, "text": [_join_words(caption, words) for caption in encoded]})
            except (KeyError, TypeError) as error:
                yield RawRow(number, row, f"has a word {error} that is not in the dictionary")


def _join_words(caption: Any, words: dict[str, str]) -> str:
    """Join the words of a caption of word ids, without padding."""
    chosen = [words[str(number)] for number in caption]
    return " ".join(word for word in chosen if word not in PADDING)
