"""Shards, Parquet files and splits as the hub, img2dataset and `datasets` write them."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY_NETWORKS, symlink
from sample_data import count_images, jpeg, read_captions, write_folder, write_images, write_tar

from stackflower.data.opening import open_source, source_part

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
    assert read_captions(tmp_path) == [["a rose"]]


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
    assert read_captions(tmp_path / "saved") == [[f"flower {number}"] for number in range(4)]
    assert read_captions(tmp_path / "saved", "validation") == [["flower 4"], ["flower 5"]]
    assert count_images(tmp_path / "one") == {"train": 6}
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
    assert read_captions(tmp_path) == [["a", "b"]] * 2


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
    assert count_images(folder) == {"train": 4}
    images = tmp_path / "images"
    write_images(images / "blobs", "0.png", "1.png")
    write_folder(images / "blobs", [{"file_name": f"{number}.png", "text": "a"} for number in range(2)])
    (images / "snapshots" / "abc").mkdir(parents=True)
    for file in sorted((images / "blobs").iterdir()):
        symlink(images / "snapshots" / "abc" / file.name, Path("../../blobs") / file.name)
    assert count_images(images / "snapshots" / "abc") == {"train": 2}


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
    assert "contains archives, which are not opened, such as images.zip; unpack them to use their images." in said


def test_an_archive_with_one_folder_is_read(tmp_path: Path) -> None:
    root = write_folder(
        write_images(tmp_path / "top" / "flowers", "0.png"), [{"file_name": "0.png", "text": "a flower"}]
    )
    shutil.make_archive(str(tmp_path / "flowers"), "zip", root.parent, "flowers")
    assert read_captions(tmp_path / "flowers.zip") == [["a flower"]]


# ---- 34: splits that must not leak into training


def test_shards_of_the_hubs_keywords_are_not_trained_on(tmp_path: Path, stackflower) -> None:
    for name, numbers in {"train": (0, 1, 2), "dev": (3,), "eval": (4,), "testing": (5,)}.items():
        parts = ((f"{number}.jpg", jpeg()) for number in numbers)
        texts = ((f"{number}.txt", f"flower {number}".encode()) for number in numbers)
        write_tar(tmp_path / "s" / f"{name}-000.tar", dict([*parts, *texts]))
    assert count_images(tmp_path / "s") == {"train": 3, "validation": 1, "test": 2}
    assert count_images(tmp_path / "s" / "*.tar") == {"train": 3, "validation": 1, "test": 2}
    said = stackflower("train", "--data", "s/*.tar", "--images", 8, "--out", "run", *TINY_NETWORKS).output
    assert "1 for training" in said


def test_texts_in_a_folder_dev_are_not_trained_on(tmp_path: Path) -> None:
    for folder, number in (("train", 0), ("train", 1), ("dev", 2)):
        write_images(tmp_path / folder, f"{number}.png")
        (tmp_path / folder / f"{number}.txt").write_text("a")
    assert count_images(tmp_path) == {"train": 2, "validation": 1}


def test_a_column_of_splits_keeps_what_is_not_train_out_of_training(tmp_path: Path, stackflower) -> None:
    values = ["train", "dev", "eval", "testing", "valid", "holdout"]
    root = write_images(tmp_path / "c", *(f"{number}.png" for number in range(6)))
    rows = "".join(f"{number}.png,a,{value}\n" for number, value in enumerate(values))
    (root / "captions.csv").write_text(f"image,caption,split\n{rows}")
    assert count_images(root) == {"train": 1, "validation": 2, "test": 2}
    said = stackflower("data", "check", "c").output
    assert "1 rows of the split 'holdout' are left out, because it is none of train, validation and test." in said
