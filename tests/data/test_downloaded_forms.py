"""Data sets in the forms in which people report that they have them: each is read right, or refused in a sentence."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY_NETWORKS, symlink
from PIL import Image
from sample_data import jpeg, write_folder, write_images

from stackflower.data.opening import open_source, source_part


def write_jpegs(root: Path, *names: str) -> Path:
    """Write JPEG files, whatever their extensions."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(jpeg())
    return root


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def captions(root: Path, split: str = "train", **options: Any) -> list[list[str]]:
    return list(open_source(str(root), options).rows(split).captions)


def counts(root: Path | str) -> dict[str, int]:
    source = open_source(str(root))
    return {split: source.count_images(split) for split in source.splits()}


# ---- 03: extensions


ENDINGS = ("JPG", "JPEG", "Jpg", "jfif", "jpe", "pjpeg", "avif", "heic")  # all of JPEG files


def test_images_with_rare_extensions_are_read_beside_texts(tmp_path: Path, stackflower) -> None:
    for number, ending in enumerate(ENDINGS):
        write_jpegs(tmp_path / "d", f"{number}.{ending}")
        (tmp_path / "d" / f"{number}.txt").write_text(f"flower {number}")
    said = stackflower("data", "check", "d").output
    assert "train: 8 images, 8 captions." in said and "No problems found" in said


def test_images_with_rare_extensions_are_read_in_metadata_and_shards(tmp_path: Path, stackflower) -> None:
    names = ("0.JPG", "1.JPEG", "2.jfif")
    write_folder(write_jpegs(tmp_path / "m", *names), [{"file_name": name, "text": "a"} for name in names])
    assert "train: 3 images, 3 captions." in stackflower("data", "check", "m").output
    write_tar(tmp_path / "t" / "s.tar", {"3.jfif": jpeg(), "3.txt": b"a red flower"})
    assert "train: 1 images, 1 captions." in stackflower("data", "check", "t").output


# ---- 05: hidden files


def test_hidden_files_of_notebooks_and_systems_are_no_data(tmp_path: Path, stackflower) -> None:
    root = write_jpegs(tmp_path / "d", "0.jpg", "1.jpg", ".ipynb_checkpoints/0-checkpoint.jpg")
    for number in range(2):
        (root / f"{number}.txt").write_text(f"flower {number}")
    (root / "._1.jpg").write_bytes(b"\0\5\26\7\0\2\0\0Mac OS X")
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (root / name).write_bytes(b"?")
    said = stackflower("data", "check", "d").output
    assert said.splitlines()[1:] == [
        "train: 2 images, 2 captions.",
        "No problems found; the data set can be used for training.",
    ]


# ---- 07: columns of one's own


@pytest.mark.parametrize(
    ("image", "text", "is_usual"),
    [
        ("file_name", "prompt", True),
        ("file_name", "additional_feature", False),
        ("file_name", "caption", True),
        ("image", "caption", True),
        ("image", "text", True),
        ("file_name", "TEXT", True),
    ],
)
def test_metadata_may_have_columns_of_other_names(
    tmp_path: Path, stackflower, image: str, text: str, is_usual: bool
) -> None:
    root = write_images(tmp_path / "d", "0.png", "1.png")
    write_folder(root, [{image: f"{number}.png", text: f"a red flower {number}"} for number in range(2)])
    assert source_part(str(root)) == {"name": "folder", "path": str(root)}
    assert captions(root) == captions(root, text_column=text) == [["a red flower 0"], ["a red flower 1"]]
    said = stackflower("data", "check", "d").output
    assert ("are read from the column" not in said) == is_usual
    assert f"column '{text}'; --set data.text_column=NAME" in said or is_usual
    said = stackflower("data", "check", "d", "--set", f"data.text_column={text}").output
    assert "are read from the column" not in said and "train: 2 images, 2 captions." in said


def test_metadata_csv_with_a_caption_is_a_folder_and_a_table(tmp_path: Path) -> None:
    root = write_images(tmp_path, "0.png", "1.png")
    (root / "metadata.csv").write_text("file_name,caption\n0.png,a\n1.png,b\n")
    assert captions(root) == [["a"], ["b"]]
    source = open_source(str(root), {"table": "metadata.csv"}, "table")
    assert list(source.rows("train").captions) == [["a"], ["b"]]


# ---- 08: a row for each caption


@pytest.mark.parametrize("skip_bad", [False, True])
def test_rows_of_one_image_are_merged(tmp_path: Path, skip_bad: bool) -> None:
    root = write_images(tmp_path, "0.png", "1.png")
    texts = ("a red flower", "a big flower", "a nice flower")
    rows = [{"file_name": f"{number}.png", "text": text} for text in texts for number in range(2)]
    write_folder(root, [*rows, *rows])
    source = open_source(str(root), {"skip_bad": skip_bad})
    assert list(source.rows("train").captions) == [list(texts)] * 2, "a repeated row counts once"
    assert source.check() == ([], ["train: 2 images, 6 captions."])


# ---- 10: dialects of CSV


@pytest.mark.parametrize("name", ["metadata.csv", "captions.csv"])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("file_name;text\n0.png;a red flower\n1.png;blue, with leaves\n", [["a red flower"], ["blue, with leaves"]]),
        (
            ',image,caption\n0,0.png,a red flower\n1,1.png,"a ""blue"" 5"" flower, with\na line break"\n',
            [["a red flower"], ['a "blue" 5" flower, with a line break']],
        ),
        (
            'image,caption\n0.png,"[\'a red flower\', ""it\'s tall""]"\n1.png,"[""a"", ""b""]"\n',
            [["a red flower", "it's tall"], ["a", "b"]],
        ),
        ("\ufeffimage,caption\r\n0.png,a\r\n1.png,b\r\n", [["a"], ["b"]]),
        ("sep=;\nimage;caption\n0.png;a\n1.png;b\n", [["a"], ["b"]]),
        ("Image Name,Caption Text\n0.png,a\n1.png,b\n", [["a"], ["b"]]),
        ("image_id,text\n0,a\n1,b\n", [["a"], ["b"]]),
    ],
    ids=["semicolons", "pandas", "lists", "BOM and CRLF", "sep=", "names with spaces", "ids"],
)
def test_tables_are_read_as_excel_and_pandas_write_them(
    tmp_path: Path, name: str, text: str, expected: list[list[str]]
) -> None:
    root = write_images(tmp_path, "0.png", "1.png")
    (root / name).write_text(text, encoding="utf-8", newline="")
    assert captions(root) == expected


def test_the_table_of_flickr30k_on_the_hub_is_read_as_it_is(tmp_path: Path) -> None:
    root = write_images(tmp_path, "0.png", "1.png", "2.png")
    cells = ('x,"[""Two flowers."", ""Red ones.""]",train,0.png,0', 'x,"[""A flower.""]",val,1.png,1')
    rest = 'x,"[""A leaf.""]",restval,2.png,2'
    (root / "captions.csv").write_text("\n".join(("image,raw,split,filename,img_id", *cells, rest)))
    assert captions(root) == [["Two flowers.", "Red ones."]] and captions(root, "validation") == [["A flower."]]
    told = open_source(str(root)).warnings("train")
    assert any("'restval'" in note for note in told), "its rows are left out"


def test_a_table_in_another_encoding_names_the_setting(tmp_path: Path, stackflower) -> None:
    root = write_images(tmp_path / "d", "0.png")
    (root / "captions.csv").write_bytes(b"image,caption\n0.png,une fleur bleut\xe9e\n")
    said = stackflower("data", "check", "d", code=2).output
    assert "captions.csv is not a text file in UTF-8" in said and "--set data.encoding=cp1252" in said
    assert captions(root, encoding="cp1252") == [["une fleur bleutée"]]


# ---- 14: img2dataset


def download(root: Path, is_tar: bool, *shards: int) -> Path:
    """Write shards of four images each, of which one failed, as img2dataset does; return their folder."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    for shard in shards:
        rows, members = [], {}
        for number in range(4):
            key, failed = f"{shard:05d}{number:04d}", number == 3
            row = {"url": f"http://x/{number}.jpg", "key": key, "caption": f"flower {number}", "exif": "{}"}
            row |= {"status": "failed_to_download" if failed else "success", "width": None if failed else 24}
            rows.append(row)
            if not failed:
                members |= {f"{key}.jpg": jpeg(), f"{key}.json": json.dumps(row).encode()}
                members |= {f"{key}.txt": row["caption"].encode()}
        root.mkdir(exist_ok=True)
        if is_tar:
            write_tar(root / f"{shard:05d}.tar", members)
        else:
            for name, content in members.items():
                (root / f"{shard:05d}").mkdir(exist_ok=True)
                (root / f"{shard:05d}" / name).write_bytes(content)
        parquet.write_table(pyarrow.Table.from_pylist(rows), root / f"{shard:05d}.parquet")
        (root / f"{shard:05d}_stats.json").write_text('{"count": 4, "successes": 3}')
    return root


@pytest.mark.extras
@pytest.mark.parametrize("is_tar", [True, False])
@pytest.mark.parametrize("shards", [(0,), (0, 1, 3)])
def test_downloads_of_img2dataset_are_read(tmp_path: Path, is_tar: bool, shards: tuple[int, ...]) -> None:
    root = download(tmp_path / "d", is_tar, *shards)
    source = open_source(str(root), {"skip_bad": True})
    assert list(source.rows("train").captions) == [[f"flower {number}"] for number in range(3)] * len(shards)
    assert source_part(str(root))["name"] == ("shards" if is_tar else "sidecar"), "the Parquet files name failed images"
    assert source.check()[0] == []


@pytest.mark.extras
def test_a_gap_in_a_pattern_of_shards_is_reported(tmp_path: Path, stackflower) -> None:
    download(tmp_path / "d", True, 0, 1, 3)
    said = stackflower("data", "info", "d/{00000..00003}.tar", code=2).output
    assert "names 1 files that don't exist, such as 00002.tar" in said


def test_files_of_a_sample_may_have_names_before_their_extensions(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", {"s0.input.jpg": jpeg(), "s0.outputs.txt": b"a rose"})
    assert captions(tmp_path) == [["a rose"]]


def test_classes_of_shards_are_words_or_in_files_of_their_own(tmp_path: Path) -> None:
    members = {f"{number}.jpg": jpeg() for number in range(3)}
    members |= {"0.json": b'{"caption": null}', "1.json": b'{"caption": "a rose", "label": "rose"}'}
    write_tar(tmp_path / "0.tar", members | {"2.txt": b"a", "2.cls": b"3\n"})
    source = open_source(str(tmp_path), {"skip_bad": True})
    rows = source.rows("train")
    assert list(rows.captions) == [["a rose"], ["a"]]
    assert rows.labels == [0, 1] and rows.class_names == {0: "rose", 1: "3"}
    (problem,) = source.get_listing("train").problems  # type: ignore[attr-defined]
    assert "0.tar/0 has no caption" in problem


# ---- 15 and 30: forms of the hub


def embedded(count: int = 4) -> list[dict[str, Any]]:
    """Rows that hold their images."""
    return [{"image": {"bytes": jpeg(), "path": f"{n}.jpg"}, "text": f"flower {n}"} for n in range(count)]


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


@pytest.mark.extras
def test_what_save_to_disk_writes_is_read_without_datasets(tmp_path: Path, stackflower) -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list(embedded(6)).cast_column("image", datasets.Image())
    parts = {"train": data.select(range(4)), "validation": data.select(range(4, 6))}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    data.save_to_disk(tmp_path / "one")
    assert source_part(str(tmp_path / "saved"))["name"] == "table"
    assert captions(tmp_path / "saved") == [[f"flower {number}"] for number in range(4)]
    assert captions(tmp_path / "saved", "validation") == [["flower 4"], ["flower 5"]]
    assert counts(tmp_path / "one") == {"train": 6}
    stackflower("train", "--data", "saved", "--images", 8, "--out", "run", *TINY_NETWORKS)


@pytest.mark.extras
@pytest.mark.parametrize("name", ["data/train-00000-of-00001.parquet", "train.parquet", "metadata.parquet"])
def test_a_folder_of_parquet_files_with_images_is_read(tmp_path: Path, stackflower, name: str) -> None:
    file = write_parquet(tmp_path / "d" / name, embedded())
    (tmp_path / "d" / "README.md").write_text("---\nlicense: mit\n---\n")
    rows = open_source(str(tmp_path / "d")).rows("train")
    assert list(rows.captions) == [[f"flower {number}"] for number in range(4)]
    assert list(rows.files or ()) == [f"{name}/image/{number:08d}" for number in range(1, 5)]
    assert "No problems found" in stackflower("data", "check", "d").output
    if not name.startswith("metadata"):
        said = stackflower("data", "check", file).output
        assert "train: 4 images, 4 captions." in said and len(said) < 1000
    write_images(tmp_path / "d", "assets/preview.png")
    said = stackflower("data", "check", "d").output
    assert "1 images in" in said and "not used (assets/preview.png)" in said and "train: 4 images" in said


@pytest.mark.extras
def test_captions_of_parquet_files_may_be_objects(tmp_path: Path) -> None:
    rows = [{**row, "sentences": [{"raw": "a"}, {"raw": "b"}]} for row in embedded(2)]
    write_parquet(tmp_path / "train.parquet", [{key: row[key] for key in ("image", "sentences")} for row in rows])
    assert captions(tmp_path) == [["a", "b"]] * 2


@pytest.mark.extras
def test_a_cell_without_an_image_is_reported(tmp_path: Path) -> None:
    rows = [*embedded(2), {"image": {"bytes": None, "path": "9.jpg"}, "text": "a"}, {"image": None, "text": "b"}]
    write_parquet(tmp_path / "train.parquet", rows)
    source = open_source(str(tmp_path), {"skip_bad": True})
    assert len(source.rows("train")) == 2
    assert source.get_listing("train").problems == [  # type: ignore[attr-defined]
        "train.parquet, row 3 names 9.jpg, which does not exist.",
        'train.parquet, row 4 has no "image".',
    ]


@pytest.mark.extras
def test_a_snapshot_of_the_hub_is_read_through_its_links(tmp_path: Path) -> None:
    blob = write_parquet(tmp_path / "hub" / "blobs" / "x.parquet", embedded())
    blob.rename(blob.with_name("xyz"))
    folder = tmp_path / "hub" / "snapshots" / "abc"
    (folder / "data").mkdir(parents=True)
    symlink(folder / "data" / "train-00000-of-00001.parquet", Path("../../../blobs/xyz"))
    assert counts(folder) == {"train": 4}
    images = tmp_path / "images"
    write_images(images / "blobs", "0.png", "1.png")
    write_folder(images / "blobs", [{"file_name": f"{number}.png", "text": "a"} for number in range(2)])
    (images / "snapshots" / "abc").mkdir(parents=True)
    for file in sorted((images / "blobs").iterdir()):
        symlink(images / "snapshots" / "abc" / file.name, Path("../../blobs") / file.name)
    assert counts(images / "snapshots" / "abc") == {"train": 2}


@pytest.mark.extras
def test_cells_name_no_files_outside_the_folder(tmp_path: Path, stackflower) -> None:
    write_images(tmp_path, "elsewhere/0.png")
    paths = [str(tmp_path / "elsewhere" / "0.png"), "/etc/hostname"]
    rows = [{"image": {"bytes": None, "path": path}, "text": "a"} for path in paths]
    write_parquet(tmp_path / "d" / "data" / "train.parquet", rows)
    said = stackflower("data", "check", "d", code=2).output
    assert all(f"row {number} names {path}, which does not exist" in said for number, path in enumerate(paths, 1))


def test_an_archive_beside_metadata_is_named(tmp_path: Path, stackflower) -> None:
    root = write_folder(tmp_path / "z", [{"file_name": "0.png", "text": "a flower"}])
    with zipfile.ZipFile(root / "images.zip", "w") as archive:
        archive.writestr("0.png", jpeg())
    said = stackflower("data", "check", "z", code=2).output
    assert "line 1 names 0.png, which does not exist." in said
    assert "holds archives, which are not opened, such as images.zip; unpack it there to use it." in said


def test_an_archive_with_one_folder_is_read(tmp_path: Path) -> None:
    root = write_folder(
        write_images(tmp_path / "top" / "flowers", "0.png"), [{"file_name": "0.png", "text": "a flower"}]
    )
    shutil.make_archive(str(tmp_path / "flowers"), "zip", root.parent, "flowers")
    assert captions(tmp_path / "flowers.zip") == [["a flower"]]


# ---- 34: splits that must not leak into training


def test_shards_of_the_hubs_keywords_are_not_trained_on(tmp_path: Path, stackflower) -> None:
    for name, numbers in {"train": (0, 1, 2), "dev": (3,), "eval": (4,), "testing": (5,)}.items():
        parts = ((f"{number}.jpg", jpeg()) for number in numbers)
        texts = ((f"{number}.txt", f"flower {number}".encode()) for number in numbers)
        write_tar(tmp_path / "s" / f"{name}-000.tar", dict([*parts, *texts]))
    assert counts(tmp_path / "s") == {"train": 3, "validation": 1, "test": 2}
    assert counts(tmp_path / "s" / "*.tar") == {"train": 3, "validation": 1, "test": 2}
    said = stackflower("train", "--data", "s/*.tar", "--images", 8, "--out", "run", *TINY_NETWORKS).output
    assert "1 for training" in said


def test_texts_in_a_folder_dev_are_not_trained_on(tmp_path: Path) -> None:
    for folder, number in (("train", 0), ("train", 1), ("dev", 2)):
        write_images(tmp_path / folder, f"{number}.png")
        (tmp_path / folder / f"{number}.txt").write_text("a")
    assert counts(tmp_path) == {"train": 2, "validation": 1}


def test_a_column_of_splits_keeps_what_is_not_train_out_of_training(tmp_path: Path, stackflower) -> None:
    values = ["train", "dev", "eval", "testing", "valid", "holdout"]
    root = write_images(tmp_path / "c", *(f"{number}.png" for number in range(6)))
    rows = "".join(f"{number}.png,a,{value}\n" for number, value in enumerate(values))
    (root / "captions.csv").write_text(f"image,caption,split\n{rows}")
    assert counts(root) == {"train": 1, "validation": 2, "test": 2}
    said = stackflower("data", "check", "c").output
    assert "1 rows of the split 'holdout' are left out, because it is none of train, validation and test." in said


# ---- text files, folders of classes, and detection


def test_texts_of_other_names_and_in_a_parallel_folder_are_found(tmp_path: Path) -> None:
    write_images(tmp_path / "a", "0.png", "1.png", "2.png")
    for name in ("0.caption", "1.png.txt", "2.txt"):
        (tmp_path / "a" / name).write_text(name)
    assert captions(tmp_path / "a") == [["0.caption"], ["1.png.txt"], ["2.txt"]]
    write_images(tmp_path / "b", "images/0.png", "images/x/1.png")
    for name in ("text/0.txt", "text/x/1.txt"):
        (tmp_path / "b" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "b" / name).write_text(name)
    assert captions(tmp_path / "b") == [["text/0.txt"], ["text/x/1.txt"]]


def test_the_layout_that_uses_the_most_images_is_detected(tmp_path: Path, stackflower) -> None:
    root = write_images(tmp_path / "d", *(f"{number}.png" for number in range(3)))
    for number in range(3):
        (root / f"{number}.txt").write_text("a")
    write_folder(root, [{"file_name": "0.png", "text": "b"}])
    assert source_part(str(root))["name"] == "sidecar"
    write_folder(root, [{"file_name": f"{number}.png", "text": "b"} for number in range(3)])
    assert source_part(str(root))["name"] == "folder", "of as many images, by precedence"
    assert captions(root) == [["b"]] * 3
    assert list(open_source(str(root), layout="sidecar").rows("train").captions) == [["a"]] * 3


def test_images_without_captions_are_refused_by_train_and_take_captions_of_their_classes(
    tmp_path: Path, stackflower
) -> None:
    write_images(tmp_path / "d", "red_rose/0.png", "iris/0.png", "iris/1.png")
    assert source_part(str(tmp_path / "d"))["name"] == "images"
    said = stackflower("train", "--data", "d", "--images", 8, "--out", "run", *TINY_NETWORKS, code=2).output
    assert "d has no captions. Add a metadata.jsonl" in said and "data.caption=a photo of a {class_name}" in said
    rows = open_source(str(tmp_path / "d"), {"caption": "a {class_name}"}).rows("train")
    assert list(rows.captions) == [["a iris"], ["a iris"], ["a red rose"]]
    assert rows.labels == [0, 0, 1] and rows.class_names == {0: "iris", 1: "red_rose"}


@pytest.mark.parametrize("layout", ["images/val2017", "val2017", "images/train2017"])
def test_coco_may_have_images_in_a_folder_of_their_own_and_only_one_split(tmp_path: Path, layout: str) -> None:
    part = layout.rpartition("/")[2]
    write_images(tmp_path / layout, "0.png")
    (tmp_path / "annotations").mkdir()
    annotations = {
        "images": [{"id": 7, "file_name": "0.png"}],
        "annotations": [{"image_id": 7, "caption": text} for text in ("a", "b")],
    }
    (tmp_path / "annotations" / f"captions_{part}.json").write_text(json.dumps(annotations))
    source = open_source(str(tmp_path))
    assert source_part(str(tmp_path))["name"] == "coco" and source.splits() == ["train"]
    assert list(source.rows("train").captions) == [["a", "b"]] and source.rows("train").files == [f"{layout}/0.png"]


@pytest.mark.parametrize("is_csv", [False, True])
def test_flickr30k_is_read_as_it_is_downloaded(tmp_path: Path, is_csv: bool) -> None:
    write_images(tmp_path, "flickr30k_images/1.jpg", "flickr30k_images/2.jpg")
    if is_csv:
        lines = ["image_name| comment_number| comment", "1.jpg| 0| A | bar", "1.jpg| 1| B", "2.jpg| 0| C"]
        (tmp_path / "results.csv").write_text("\n".join(line.replace("A | bar", "A") for line in lines))
    else:
        (tmp_path / "results_20130124.token").write_text("1.jpg#0\tA\n1.jpg#1\tB\n2.jpg#0\tC\n")
    assert source_part(str(tmp_path))["name"] == "flickr30k"
    assert captions(tmp_path) == [["A", "B"], ["C"]]


def test_images_keep_their_pixels_in_all_forms(tmp_path: Path) -> None:
    """The image that a row names is the one that is read."""
    import numpy as np

    for number in range(3):
        path = tmp_path / "images" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (16, 16), (80 * number, 0, 0)).save(path)
    (tmp_path / "list.csv").write_text("image,caption\n2.png,c\n/home/x/0.png,a\nimages\\1.png,b\n")
    source = open_source(str(tmp_path))
    images = np.zeros((3, 16, 16, 3), np.uint8)
    source.fill("train", images, lambda finished: None)
    assert images[:, 0, 0, 0].tolist() == [160, 0, 80]
