"""Images, each with a text file of captions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import PurePosixPath

from stackflower.data.files import Files
from stackflower.data.listed import ListedSource
from stackflower.data.rows.cells import show
from stackflower.data.rows.checks import list_examples
from stackflower.data.rows.columns import name_columns, normalise_row
from stackflower.data.rows.containers import RawRow, RawTable, parse_object, read_text_row
from stackflower.data.rows.detection import INSPECTED_ROWS
from stackflower.data.rows.listing import Listing
from stackflower.data.rows.split_lists import SplitLists
from stackflower.data.splits import find_split_folders
from stackflower.errors import DataError
from stackflower.options import Below1, Seed
from stackflower.registry import register

SUFFIXES = (".txt", ".caption")
JSON_SUFFIX = ".json"
OTHER_TEXTS = re.compile(r"(?:readme|licen[cs]es?|copying|changelog|citation|classes|requirements)(?:[._ -].*)?\.txt")
CAPTION_FOLDERS = frozenset({"captions", "caption", "texts", "text", "txt"})  # preferred to others, such as labels
MASK = re.compile(r"[-_.](?:masklabel|condlabel|mask)$")  # ends of the names of masks, as of OneTrainer
NUMBERS = re.compile(r"(?=.*\d)[-+.,:\d\seE]+")
NUMBERS_SHARE = 0.9  # share of lines that consist of numbers from which text files hold no captions
INSPECTED_IMAGES = 200  # number of images to inspect to recognise the layout


@register("data", "sidecar")
class SidecarSource(ListedSource):
    """Images, each with a text file of captions, one per line: ``1.png`` and ``1.txt``.

    The text file may also be named ``1.caption`` or ``1.png.txt``, or be in another folder, as in ``images/1.png``
    and ``text/1.txt``. A JSON file beside the image, such as ``1.json`` or ``1.png.json``, may hold the captions and
    the class under usual names. The data may be in split folders ``train``, ``validation`` and ``test``.

    Args:
        separator: separator of tags, such as a comma. The tags of each text file are then joined into one caption,
            with commas. Default: each line is a caption.
    """

    layout = "images with a text file beside each"
    precedence = -10  # text files may serve any purpose
    reports_unused = False  # an image without a text is a problem
    has_split_folders = True

    def __init__(
        self,
        *,
        path: str,
        separator: str | None = None,
        held_out: Below1 = 0.0,
        seed: Seed = 0,
        skip_bad: bool = False,
        follow_links: bool = False,
    ):
        super().__init__(path=path, held_out=held_out, seed=seed, skip_bad=skip_bad, follow_links=follow_links)
        self.separator = separator
        self.passed_over = set[str]()  # text files of no use
        self.masks: list[str] = []  # images that are masks of others

    @classmethod
    def recognises(cls, files: Files) -> bool:
        texts = _TextFiles(files)
        names = list(filter(None, map(texts.find, files.images[:INSPECTED_IMAGES])))
        objects = [name for name in names if name.endswith(JSON_SUFFIX)]
        return len(names) > len(objects) or any(
            _read_row(name, name, files, name).values.get("text") for name in objects[:INSPECTED_ROWS]
        )

    def list_tables(self) -> Iterator[RawTable]:
        yield RawTable("", self._list_rows(), is_fixed=True)

    def _list_rows(self) -> Iterator[RawRow]:
        texts, used, text_of = _TextFiles(self.files), dict[str, str](), dict[str, str]()
        self._check_captions(texts)
        lists = SplitLists(self.files)
        listed = {*lists.images, *lists.at_top}
        found = {image: texts.find(image) for image in self.files.images}
        captioned = {image.partition("/")[0] for image, text in found.items() if text is not None}
        uncaptioned = {folder for folder in find_split_folders(self.files) if folder not in captioned}
        for image, text in found.items():
            if text is None and image.partition("/")[0] in uncaptioned:
                yield RawRow(image, {"image": image, "text": []})
            elif text is None and (of := MASK.sub("", _strip(image))) != _strip(image) and texts.find(f"{of}.png"):
                self.masks.append(image)
            elif text is None:
                yield RawRow(image, {"image": image}, f"has no {PurePosixPath(image).stem}.txt beside it")
            elif used.setdefault(text, image) != image:
                yield RawRow(image, {"image": image}, f"shares {text} with {used[text]}")
            else:
                text_of[_strip(image)] = text
                row = _read_row(image, image, self.files, text)
                yield (
                    row
                    if row.problem
                    else row._replace(values={**row.values, "text": self._join_tags(row.values["text"])})
                )
        self.passed_over = texts.passed_over
        for name, reason in self.files.refused.items():
            yield RawRow(name, {"image": name}, reason)
        others = {_strip(name): name for name in self.files.names if name not in texts.names}
        for text in texts.names:
            if text not in used and text not in texts.passed_over and text not in listed:
                other = others.get(_strip(text))
                problem = "has no image beside it"
                if (chosen := text_of.get(_strip(_strip(text))) or text_of.get(_strip(text))) is not None:
                    problem = f"is not used, because {chosen} has the captions of its image"
                if other is not None and not self.files.is_image(other):
                    problem = f"is beside {other}, which {self.files.explain_not_image(other)}"
                yield RawRow(text, {"image": text}, problem)

    def _check_captions(self, texts: _TextFiles) -> None:
        """Check that text files hold captions rather than numbers.

        Raises:
            DataError: nearly all lines of the first text files consist of numbers.
        """
        names = filter(None, map(texts.find, self.files.images[:INSPECTED_IMAGES]))
        rows = (_read_row(name, name, self.files, name) for name in islice(names, INSPECTED_ROWS))
        lines = [line for row in rows for line in row.values.get("text", ())]
        numbers = list(filter(NUMBERS.fullmatch, lines))
        if numbers and len(numbers) >= NUMBERS_SHARE * len(lines):
            raise DataError(
                f"The text files of {self.files.path} hold numbers such as {show(numbers[0])}, perhaps boxes, not "
                "captions. `data.name=images` reads the images alone."
            )

    def read(self) -> dict[str, Listing]:
        listings = super().read()
        if self.masks:
            examples = list_examples(self.masks)
            listings["train"].notes.append(f"{len(self.masks):,} images are masks and are not used ({examples}).")
        if self.passed_over:
            first = min(self.passed_over)
            listings["train"].notes.append(
                f"{len(self.passed_over):,} text files are not read, such as {first}, because others hold the captions."
            )
        return listings

    def _join_tags(self, lines: list[str]) -> list[str]:
        """Join the tags in the lines of a text file into one caption; without a separator, return the lines."""
        if not self.separator:
            return lines
        return [", ".join(tag.strip() for line in lines for tag in line.split(self.separator) if tag.strip())]


class _TextFiles:
    """Text files of a data set, looked up by image."""

    def __init__(self, files: Files):
        self.names = dict.fromkeys(
            name for name in files.names if name.lower().endswith(SUFFIXES) and not is_other_text(name)
        )
        objects = [name for name in files.names if name.endswith(JSON_SUFFIX)]
        self.objects = {_cut_takeout(name.removesuffix(JSON_SUFFIX)): name for name in objects}
        self.passed_over = set[str]()  # text files of images whose captions are in a folder with a usual name
        self.parallel: dict[tuple[int, str], list[str]] = {}
        if self.names and not any(map(self._find_beside, files.images)):
            for name in self.names:
                for key in _list_parallel_keys(name):
                    self.parallel.setdefault(key, []).append(name)

    def find(self, image: str) -> str | None:
        """Return the text file beside an image, or else in a parallel folder; None if there is none, or several."""
        if not self.parallel:
            return self._find_beside(image)
        found = {name for key in _list_parallel_keys(image) for name in self.parallel.get(key, ())}
        usual = {name for name in found if not CAPTION_FOLDERS.isdisjoint(name.lower().split("/")[:-1])}
        if len(usual) == 1:
            self.passed_over |= found - usual
            return usual.pop()
        return found.pop() if len(found) == 1 else None

    def _find_beside(self, image: str) -> str | None:
        stem = _strip(image)
        names = (name for base in (stem, image) for suffix in SUFFIXES if (name := base + suffix) in self.names)
        return next(names, None) or self.objects.get(image) or self.objects.get(stem)


def is_other_text(name: str) -> bool:
    """Return whether a text file has a usual name of a file that holds no captions, such as README.dataset.txt."""
    return OTHER_TEXTS.fullmatch(name.rpartition("/")[2].lower()) is not None


def _read_row(place: str, image: str, files: Files, name: str) -> RawRow:
    """Read the captions of an image from a text file, or from a JSON object with usual names."""
    if not name.endswith(JSON_SUFFIX):
        return read_text_row(place, {"image": image}, files, name)
    try:
        values, problem = parse_object(files.text(name))
    except DataError as error:
        return RawRow(place, {"image": image}, f"has no readable captions: {str(error).rstrip('.')}")
    if problem:
        return RawRow(place, {"image": image}, f"has no readable captions: {name} {problem}")
    row, problem = normalise_row(values, name_columns(tuple(values)))
    return RawRow(place, {**row, "image": image}, problem)


def _cut_takeout(name: str) -> str:
    """Cut off what Google Takeout appends to the name of an image, which may be shortened."""
    base, _, ending = name.rpartition(".")
    return base if base and ending and "supplemental-metadata".startswith(ending) else name


def _strip(name: str) -> str:
    """Return the path of a file without its suffix."""
    return str(PurePosixPath(name).with_suffix(""))


def _list_parallel_keys(name: str) -> list[tuple[int, str]]:
    """Return the path of a file without its suffix and one folder, with the position of the folder, for each folder."""
    *folders, _ = parts = PurePosixPath(name).with_suffix("").parts
    return [(position, "/".join((*parts[:position], *parts[position + 1 :]))) for position in range(len(folders))]
