"""The data of the competition Reverse Image Caption: a pickled table of images and captions in numbers, and a
dictionary.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from stackflower.data.files import Files
from stackflower.data.listed import ListedSource, Listing
from stackflower.errors import DataError
from stackflower.formats.pickled_tables import extract_columns
from stackflower.formats.pickles import load_npy, load_pickle
from stackflower.registry import register

TABLE_FILE, TEST = "text2ImgData.pkl", "testData.pkl"
WORD_FILES = ("id2Word.npy", "word2Id.npy")
PADDING = frozenset({"<PAD>", "<RARE>"})


@register("data", "reverse-image-caption")
class ReverseImageCaption(ListedSource):
    """The competition's data set: ``text2ImgData.pkl``, a table with ``Captions`` (lists of numbers of words) and
    ``ImagePath``; ``dictionary/id2Word.npy`` or ``word2Id.npy``; and the images. ``testData.pkl`` has captions without
    images and is not used: ``stackflower sample`` takes captions as text.

    Pickles are read without running what they hold, and without pandas.
    """

    layout = "the competition's table and dictionary"
    precedence = 5

    @classmethod
    def recognises(cls, files: Files) -> bool:
        return any(PurePosixPath(name).name == TABLE_FILE for name in files.names)

    def find_splits(self) -> list[str]:
        return ["train"]

    def _find_file(self, *names: str) -> str:
        """The first file of one of these names, in any folder."""
        for name in names:
            for each in self.files.names:
                if PurePosixPath(each).name == name:
                    return each
        raise DataError(f"{self.files.path} has no {' or '.join(names)}, which comes with the competition's data.")

    def _read_dictionary(self) -> dict[str, str]:
        """Words by number, as text."""
        name = self._find_file(*WORD_FILES)
        pairs = load_npy(self.files.read(name), self.files.path / name)
        if pairs.ndim != 2 or pairs.shape[1] != 2:
            raise DataError(f"{self.files.path / name} is no list of pairs of words and numbers.")
        first, second = (0, 1) if name.endswith(WORD_FILES[0]) else (1, 0)
        return {str(pair[first]): str(pair[second]) for pair in pairs.tolist()}

    def read_split(self, split: str) -> Listing:
        listing, words, name = Listing(self.files), self._read_dictionary(), self._find_file(TABLE_FILE)
        table = extract_columns(load_pickle(self.files.read(name), name), name)
        if not {"Captions", "ImagePath"} <= set(table):
            raise DataError(f"{self.files.path / name} has no columns Captions and ImagePath.")
        images = {PurePosixPath(each).name: each for each in self.files.names}
        captions: dict[str, list[Any]] = {}
        for place, (path, numbers) in enumerate(zip(table["ImagePath"], table["Captions"], strict=True)):
            where, file = f"{name}, row {place + 1}", images.get(PurePosixPath(str(path)).name)
            try:
                texts = [_join_words(caption, words) for caption in numbers]
            except (KeyError, TypeError) as error:
                listing.problems.append(f"{where} has a word {error} that is not in the dictionary.")
                continue
            if file is None:
                listing.problems.append(f"{where} names {path}, and there is no such image.")
            else:
                captions.setdefault(file, []).extend(texts)
        for file, texts in captions.items():
            listing.add({"file_name": file, "text": texts}, f"{name}, {file}")
        return listing


def _join_words(caption: Any, words: dict[str, str]) -> str:
    """Join the words of a caption of numbers, without padding."""
    chosen = [words[str(number)] for number in caption]
    return " ".join(word for word in chosen if word not in PADDING)
