"""Folders of data sets of the Hugging Face hub, and data sets of the hub, without a network."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import TINY_NETWORKS, symlink
from sample_data import jpeg, write_images

from stackflower.data.opening import open_source, source_part
from stackflower.errors import DataError


@pytest.mark.extras
def test_a_hugging_face_data_set_is_read_and_trained_on(tmp_path: Path, stackflower) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["rose", "iris"]),
        }
    )
    for split, count in (("train", 6), ("test", 2)):
        rows = {
            "image": [{"bytes": jpeg(), "path": None} for _ in range(count)],
            "text": [f"flower {number}" for number in range(count)],
            "label": [number % 2 for number in range(count)],
        }
        (tmp_path / "hub").mkdir(exist_ok=True)
        datasets.Dataset.from_dict(rows, features=features).to_parquet(
            tmp_path / "hub" / f"{split}-00000-of-00001.parquet"
        )
    assert source_part(str(tmp_path / "hub"))["name"] == "table"
    assert source_part("hf://owner/name") == {"name": "huggingface", "path": "hf://owner/name"}
    source = open_source(str(tmp_path / "hub"))
    assert source.splits() == ["train", "test"] and source.rows("train").class_names == {0: "rose", 1: "iris"}
    assert source.rows("test").captions == [["flower 0"], ["flower 1"]]
    stackflower("train", "--data", "hub", "--images", 8, "--out", "run", *TINY_NETWORKS)
    with pytest.raises(DataError, match="has no column 'caption'"):
        open_source(str(tmp_path / "hub"), {"text_column": "caption"}).rows("train")


@pytest.mark.extras
def test_cells_of_a_parquet_file_can_not_name_files_elsewhere(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    root = tmp_path / "hub"
    write_images(root / "pictures", "a.jpg")
    write_images(tmp_path, "secret.jpg")
    symlink(root / "link.jpg", tmp_path / "secret.jpg")
    names = [
        "pictures/a.jpg",
        str(root / "pictures" / "a.jpg"),
        "../secret.jpg",
        str(tmp_path / "secret.jpg"),
        "link.jpg",
    ]
    cells = [{"bytes": None, "path": name} for name in names]
    table = pyarrow.table({"image": cells, "text": [f"flower {number}" for number in range(len(names))]})
    parquet.write_table(table, root / "train-00000-of-00001.parquet")
    listing = open_source(str(root)).get_listing("train")
    assert list(listing.names) == ["pictures/a.jpg"] and listing.files.read("pictures/a.jpg")[:2] == b"\xff\xd8"
    assert listing.rows[0]["text"] == ["flower 0", "flower 1"], "by both names"
    place = "train-00000-of-00001.parquet, row"
    assert listing.problems == [
        f"{place} 3 names ../secret.jpg, which does not exist.",
        f"{place} 4 names {tmp_path / 'secret.jpg'}, which does not exist.",
        f"{place} 5 names link.jpg, which is a link out of the folder; `data.follow_links=true` reads such files.",
    ]


@pytest.mark.extras
def test_scripts_of_hugging_face_data_sets_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked: list[object] = []

    def version_3(path: str, name: object, revision: object = None, trust_remote_code: bool | None = None) -> None:
        asked.append(trust_remote_code)
        raise ValueError("the repository contains custom code.")

    monkeypatch.setattr(datasets, "load_dataset", version_3)
    with pytest.raises(DataError, match="can't be loaded: the repository contains custom code"):
        open_source("hf://owner/name")
    assert asked == [False]
    monkeypatch.undo()
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "hub.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w')\n")
    with pytest.raises(DataError, match="can't be loaded"):
        open_source(str(tmp_path / "hub"), layout="huggingface")
    assert not (tmp_path / "owned").exists()
