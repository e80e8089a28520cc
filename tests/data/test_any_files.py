"""Random trees of files: whatever is in them, no traceback, nothing lost in silence, and counts that add up."""

from __future__ import annotations

import csv
import io
import json
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sample_data import jpeg

from stackflower.data.inspection import check_data as check
from stackflower.data.opening import open_source
from stackflower.data.rows.assembly import Listing
from stackflower.data.rows.cells import MISSING
from stackflower.data.sources.folder import FolderSource
from stackflower.data.sources.shards import ShardSource, read_samples
from stackflower.data.sources.sidecar import SidecarSource
from stackflower.data.sources.table import TableSource
from stackflower.errors import DataError, StackflowerError

JPEG = jpeg()
LETTERS = st.sampled_from(
    [*"abAZ09 '\"`$&;|<>(){}[]#%,=+~!@^\t\n\r", "\\", "é", "ß", "花", "ب", "\u2028", "\u200b", "🌺", "-", "."]
)
STEM = st.text(LETTERS, min_size=1, max_size=8).filter(lambda name: not name.startswith("."))
IMAGE = st.builds(lambda stem, end: stem + end, STEM, st.sampled_from([".jpg", ".JPG", ".png", ".jpeg"]))
CAPTION: st.SearchStrategy[Any] = st.one_of(
    st.text(max_size=12), st.lists(st.text(max_size=6), max_size=3), st.none(), st.integers(), st.just({"a": 1})
)
ODD: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.integers(), max_size=2)
)
EXAMPLES = settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@contextmanager
def folder(files: dict[str, bytes]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as path:
        for name, content in files.items():
            (Path(path) / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(path) / name).write_bytes(content)
        yield Path(path)


@st.composite
def rows(draw: st.DrawFn) -> tuple[list[str], list[dict[str, Any]]]:
    """Images that are there, and rows that name them, others, or nothing."""
    images = draw(st.lists(IMAGE, max_size=5, unique_by=str.casefold))
    names = st.one_of(st.sampled_from(images), IMAGE, ODD) if images else st.one_of(IMAGE, ODD)
    row = st.fixed_dictionaries(
        {},
        optional={
            "file_name": names,
            "text": CAPTION,
            "label": ODD,
            "class_name": ODD,
            "attributes": ODD,
            "other": ODD,
        },
    )
    return images, draw(st.lists(row, max_size=6))


def text_of(lines: list[str], bom: bool, ending: str, blank: bool) -> bytes:
    between = ending * 2 if blank else ending
    return ("\ufeff" if bom else "").encode() + between.join(lines).encode("utf-8", "surrogatepass")


WHOLE = ("has no rows", "has no usable images")  # problems of no single row


def count_in_notes(listing: Listing, words: str) -> int:
    return sum(int(note.split()[0].replace(",", "")) for note in listing.notes if words in note)


def adds_up(source: Any, images: list[str], names: list[Any]) -> None:
    """Every row is used, merged with others of its image or reported, and so is every image.

    `names` are the cells of the images, one for each row.
    """
    try:
        listing = source.get_listing("train")
    except DataError as error:  # no row has a column of images, or of captions
        assert "Can't tell which column of" in str(error) and len(str(error)) < 1000
        assert source.check() == ([str(error)], [])
        return
    told = [problem for problem in listing.problems if not any(words in problem for words in WHOLE)]
    assert len(told) == len(set(told)) <= len(names)
    used = {row["file_name"] for row in listing.rows}
    assert used <= set(images) and len(used) == len(listing.rows)
    # a row that is neither used nor reported was merged with another row of the same image
    merged = len(names) - len(told) - len(used)
    assert merged >= 0
    if len({name for name in map(str, names) if name in used}) == sum(str(name) in used for name in names):
        others = count_in_notes(listing, "have other names")  # may be a second name of an image
        assert others or merged == 0, (listing.notes, told)
    unused = len(set(images) - used)
    assert count_in_notes(listing, "not used") + len(told) >= unused, (listing.notes, told)
    problems, notes = source.check()
    assert len(problems) + sum(note.startswith("Left out: ") for note in notes) >= len(told)


@EXAMPLES
@given(rows(), st.booleans(), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_each_row_of_json_lines_is_used_or_told(
    found: tuple[list[str], list[dict[str, Any]]], bom: bool, ending: str, blank: bool
) -> None:
    images, own = found
    lines = [json.dumps(row, ensure_ascii=bom) for row in own]
    files = dict.fromkeys(images, JPEG) | {"metadata.jsonl": text_of(lines, bom, ending, blank)}
    with folder(files) as path:
        adds_up(FolderSource(path=str(path), skip_bad=True), images, [row.get("file_name") for row in own])


@EXAMPLES
@given(rows(), st.booleans(), st.sampled_from(["\n", "\r\n"]), st.permutations(["file_name", "text", "label", "other"]))
def test_each_row_of_comma_separated_values_is_used_or_told(
    found: tuple[list[str], list[dict[str, Any]]], bom: bool, ending: str, columns: list[str]
) -> None:
    images, own = found
    cells = [["" if row.get(key) is None else str(row[key]) for key in columns] for row in own]
    cells = [row for row in cells if any(cell.strip() for cell in row)]  # an empty line is no row
    out = io.StringIO()
    csv.writer(out, lineterminator=ending, quoting=csv.QUOTE_ALL).writerows([columns, *cells])
    files = dict.fromkeys(images, JPEG) | {"metadata.csv": text_of([out.getvalue()], bom, "", False)}
    with folder(files) as path:
        adds_up(FolderSource(path=str(path), skip_bad=True), images, [row[columns.index("file_name")] for row in cells])


@EXAMPLES
@given(
    st.binary(max_size=200),
    st.sampled_from(
        ["metadata.jsonl", "metadata.csv", "captions.tsv", "captions.csv", "1.txt", "train-0.tar", "x.zip"]
    ),
)
@example(b'file_name,text\n1.jpg,"never closed\n2.jpg,x\n', "metadata.csv")
@example(b"file_name,file_name\n1.jpg,x\n", "metadata.csv")
@example(b"\xff\xfe1", "metadata.jsonl")
def test_any_bytes_in_place_of_metadata_are_read_or_refused_in_a_sentence(content: bytes, name: str) -> None:
    with folder({"1.jpg": JPEG, name: content}) as path:
        target = path / name if name.endswith(".zip") else path
        try:
            found = check(str(target), {}, None)
        except StackflowerError as error:
            assert str(error)
            return
        used = sum("images," in note and "train: 0" not in note for note in found["notes"])
        assert found["problems"] or used or found["notes"]


@EXAMPLES
@given(st.lists(STEM, max_size=6, unique_by=str.casefold), st.data())
def test_each_image_and_each_text_beside_it_is_used_or_told(stems: list[str], data: st.DataObject) -> None:
    files: dict[str, bytes] = {}
    for stem in stems:
        if data.draw(st.booleans()):
            files[f"{stem}.jpg"] = JPEG
        if data.draw(st.booleans()):
            files[f"{stem}.txt"] = data.draw(
                st.one_of(st.binary(max_size=8), st.text(max_size=12).map(lambda text: text.encode()))
            )
    with folder(files) as path:
        source = SidecarSource(path=str(path), skip_bad=True)
        listing = source.get_listing("train")
        images = {name for name in files if name.endswith(".jpg")}
        alone = {name for name in files if name.endswith(".txt") and f"{name[:-4]}.jpg" not in images}
        told = [problem for problem in listing.problems if not any(words in problem for words in WHOLE)]
        assert len(listing.rows) + len(told) == len(images) + len(alone)
        assert listing.rows or listing.problems
        assert all(row["text"] and all(row["text"]) for row in listing.rows)


# other tests cover lists and objects in cells; an empty list does not count as a caption
PLAIN = st.text(max_size=10).filter(lambda text: text.strip()[:1] + text.strip()[-1:] not in ("[]", "{}", "()"))


@EXAMPLES
@example([("0.jpg", "[]")], ",")
@example([("0.jpg", "VAL")], ",")  # a caption, not a split
@example([("0.jpg", "[]"), ("0.jpg", "red")], ",")
@given(st.lists(st.tuples(IMAGE, PLAIN | st.just("[]")), max_size=6), st.sampled_from(",\t;|"))
def test_each_image_of_a_table_is_used_or_told(pairs: list[tuple[str, str]], delimiter: str) -> None:
    if delimiter == "\t":  # whose cells have no line breaks, because quotation marks in such files may mean nothing
        pairs = [(" ".join(name.splitlines()), " ".join(text.split())) for name, text in pairs]
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows(
        [("image", "caption"), *pairs]
    )
    images = sorted({name for name, _ in pairs})
    with folder(dict.fromkeys(images, JPEG) | {"captions.csv": out.getvalue().encode("utf-8", "replace")}) as path:
        source = TableSource(path=str(path), skip_bad=True)
        if not pairs:
            return
        listing = source.get_listing("train")
        blank = [not text.strip() or text.strip().lower() in {*MISSING, "[]"} for _, text in pairs]
        filled = {name for (name, _), empty in zip(pairs, blank, strict=True) if not empty}
        told = [problem for problem in listing.problems if not any(words in problem for words in WHOLE)]
        assert {row["file_name"] for row in listing.rows} == filled
        assert len(told) == sum(name not in filled for name, _ in pairs), "each row of an image without captions"
        assert len(told) + count_in_notes(listing, "have no caption") == sum(blank)


@EXAMPLES
@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcdef"), st.sampled_from(["jpg", "txt", "json", "png", "cls"]), st.binary(max_size=12)
        ),
        max_size=10,
    ),
    st.integers(0, 3000),
)
def test_each_sample_of_a_shard_is_used_or_told(members: list[tuple[str, str, bytes]], cut: int) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for key, ending, content in members:
            content = JPEG if ending in ("jpg", "png") else content
            member = tarfile.TarInfo(f"{key}.{ending}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    keys = {key for key, ending, _ in members if ending != "cls"} | {key for key, _, _ in members}
    with folder({"train-0.tar": buffer.getvalue()}) as path:
        problems: list[str] = []
        samples = list(read_samples(path / "train-0.tar", problems))
        assert {sample.key for sample in samples} == keys
        good = [sample for sample in samples if not sample.problem]
        repeated = len(members) - len({(key, ending) for key, ending, _ in members})
        assert bool(problems) == bool(repeated)
        (path / "train-0.tar").write_bytes(buffer.getvalue()[:cut])
        try:
            source = ShardSource(path=str(path), skip_bad=True)
            listing = source.get_listing("train")
        except StackflowerError:
            return
        assert len(listing.rows) == len(good) or listing.problems, "lost in silence"


@EXAMPLES
@given(rows())
def test_a_zip_archive_reads_as_its_folder(found: tuple[list[str], list[dict[str, Any]]]) -> None:
    images, own = found
    images = [name for name in images if "\\" not in name and "/" not in name]
    files = dict.fromkeys(images, JPEG) | {
        "metadata.jsonl": text_of([json.dumps(row) for row in own], False, "\n", False)
    }
    with folder(files) as path, tempfile.TemporaryDirectory() as other:
        with zipfile.ZipFile(f"{other}/x.zip", "w") as archive:
            for name, content in files.items():
                archive.writestr(zipfile.ZipInfo(name), content)
        results = []
        for place in (str(path), f"{other}/x.zip"):
            try:
                results.append(open_source(place, {"skip_bad": True}).get_listing("train"))
            except DataError as error:
                results.append(str(error).replace(place, "PLACE"))
        one, two = results
        if isinstance(one, str) or isinstance(two, str):
            assert one == two and "Can't tell which column of" in one
        else:
            assert one.rows == two.rows and len(one.problems) == len(two.problems)
