"""Every registered data source gives the same images in its layout, with their captions, and none is blank."""

from __future__ import annotations

import csv
import io
import json
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from stackflower import registry
from stackflower.data.source import SPLITS
from stackflower.data.synthetic.image_folder import write_image_folder as make_folder
from stackflower.reports.prepared_folder import prepare_data

COUNTS = {"train": 6, "validation": 3, "test": 2}
Row = dict[str, Any]
LAYOUTS: dict[str, Callable[[Path, dict[str, list[Row]]], dict[str, Any]]] = {}  # by the name of the source
Write = Callable[[Path, dict[str, list[Row]]], dict[str, Any]]


def layout(write: Write) -> Write:
    """The function that writes images in the layout of the source whose name it has, and returns the source's options.

    Its rows are those of metadata.jsonl with the image's bytes as ``image``, by split.
    """
    LAYOUTS[write.__name__.replace("_", "-")] = write
    return write


def put(path: Path, content: bytes | str) -> None:
    """Write a file into a folder that need not be there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


@layout
def synthetic_flowers(root: Path, rows: dict[str, list[Row]]) -> dict[str, Any]:
    return {"count": COUNTS["train"], "validation": COUNTS["validation"], "test": COUNTS["test"]}


@layout
def folder(root: Path, rows: dict[str, list[Row]]) -> dict[str, Any]:
    for split, own in rows.items():
        lines = [json.dumps({key: value for key, value in row.items() if key != "image"}) for row in own]
        put(root / split / "metadata.jsonl", "\n".join(lines))
        for row in own:
            put(root / split / row["file_name"], row["image"])
    return {"path": str(root)}


@layout
def sidecar(root: Path, rows: dict[str, list[Row]]) -> dict[str, Any]:
    for split, own in rows.items():
        for row in own:
            put(root / split / row["file_name"], row["image"])
            put((root / split / row["file_name"]).with_suffix(".txt"), "\n".join(row["text"]))
    return {"path": str(root)}


@layout
def table(root: Path, rows: dict[str, list[Row]]) -> dict[str, Any]:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("image", "caption", "class", "split"))
    for split, own in rows.items():
        for row in own:
            name = f"{split}_{row['file_name']}"
            put(root / "images" / name, row["image"])
            writer.writerows((name, caption, row["label"], split) for caption in row["text"])
    put(root / "captions.csv", text.getvalue())
    return {"path": str(root)}


@layout
def shards(root: Path, rows: dict[str, list[Row]]) -> dict[str, Any]:
    root.mkdir()
    for split, own in rows.items():
        with tarfile.open(root / f"{split}-000000.tar", "w") as shard:
            for row in own:
                about = json.dumps({"text": row["text"], "label": row["label"]}).encode()
                name = row["file_name"]
                for member, content in ((name, row["image"]), (name.replace(".png", ".json"), about)):
                    information = tarfile.TarInfo(member)
                    information.size = len(content)
                    shard.addfile(information, io.BytesIO(content))
    return {"path": str(root)}


@layout
def stream(root: Path, rows: dict[str, list[Row]]) -> dict[str, Any]:
    return shards(root, rows)


@layout
def prepared(root: Path, rows: dict[str, list[Row]]) -> dict[str, Any]:
    given = folder(root.with_name("given"), rows)["path"]
    prepare_data(given, str(root), size=64, layout=None, options={}, on_error="fail", jobs=1)
    return {"path": str(root)}


@layout
def oxford_102(root: Path, rows: dict[str, list[Row]]) -> dict[str, Any]:
    ids: dict[str, list[int]] = {split: [] for split in SPLITS}
    labels: list[int] = []
    for split, own in rows.items():
        for row in own:
            labels.append(row["label"] + 1)
            number = len(labels)
            ids[split].append(number)
            put(root / "jpg" / f"image_{number:05d}.png", row["image"])
            put(root / "text_c10" / f"class_{labels[-1]:05d}" / f"image_{number:05d}.txt", "\n".join(row["text"]))
    savemat(root / "imagelabels.mat", {"labels": np.array(labels)})
    savemat(root / "setid.mat", {"trnid": ids["train"], "valid": ids["validation"], "tstid": ids["test"]})
    return {"path": str(root)}


@layout
def coco(root: Path, rows: dict[str, list[Row]]) -> dict[str, Any]:
    number = 0
    for split, name in (("train", "train2017"), ("validation", "val2017")):  # the test captions are secret
        found: dict[str, list[dict[str, object]]] = {"images": [], "annotations": []}
        for row in rows[split]:
            number += 1
            put(root / name / row["file_name"], row["image"])
            found["images"].append({"id": number, "file_name": row["file_name"]})
            found["annotations"] += [{"image_id": number, "caption": caption} for caption in row["text"]]
        put(root / "annotations" / f"captions_{name}.json", json.dumps(found))
    return {"path": str(root)}


@layout
def cub_200(root: Path, rows: dict[str, list[Row]]) -> dict[str, Any]:
    lines: dict[str, list[str]] = {
        name: [] for name in ("images", "image_class_labels", "bounding_boxes", "train_test_split")
    }
    for split in ("train", "test"):
        for row in rows[split]:
            number = len(lines["images"]) + 1
            name = f"001.Red_Bird/{split}_{number}.png"
            put(root / "images" / name, row["image"])
            put((root / "text_c10" / name).with_suffix(".txt"), "\n".join(row["text"]))
            values = (name, row["label"] + 1, "8.0 8.0 40.0 30.0", int(split == "train"))
            for own, value in zip(lines.values(), values, strict=True):
                own.append(f"{number} {value}")
    lines["classes"] = [f"{number} {number:03d}.Red_Bird" for number in range(1, 201)]
    for name, own in lines.items():
        put(root / f"{name}.txt", "\n".join(own) + "\n")
    return {"path": str(root)}


@layout
def stackgan(root: Path, rows: dict[str, list[Row]]) -> dict[str, Any]:
    for split in ("train", "test"):
        names = [f"{split}/{Path(row['file_name']).stem}" for row in rows[split]]
        put(root / split / "filenames.pickle", pickle.dumps(names, 0))
        put(root / split / "class_info.pickle", pickle.dumps([row["label"] for row in rows[split]], 2))
        for name, row in zip(names, rows[split], strict=True):
            put(root / "images" / f"{name}.png", row["image"])
            put(root / "text" / f"{name}.txt", "\n".join(row["text"]))
    return {"path": str(root)}


@layout
def flickr30k(root: Path, rows: dict[str, list[Row]]) -> dict[str, Any]:
    lines = []
    for split, name in (("train", "train"), ("validation", "dev"), ("test", "test")):
        images = {f"{split}_{row['file_name']}": row for row in rows[split]}
        put(root / f"Flickr_8k.{name}Images.txt", "\n".join(images) + "\n")
        for image, row in images.items():
            put(root / "Flicker8k_Dataset" / image, row["image"])
            lines += [f"{image}#{number}\t{caption}" for number, caption in enumerate(row["text"])]
    put(root / "Flickr8k.token.txt", "\n".join(lines) + "\n")
    return {"path": str(root)}


@layout
def images(root: Path, rows: dict[str, list[Row]]) -> dict[str, Any]:
    for split, own in rows.items():
        for row in own:
            put(root / split / f"class {row['label']}" / row["file_name"], row["image"])
    return {"path": str(root)}


@layout
def reverse_image_caption(root: Path, rows: dict[str, list[Row]]) -> dict[str, Any]:
    from sample_data import data_frame

    words = sorted({word for row in rows["train"] for caption in row["text"] for word in caption.split()})
    number_of = {word: str(number) for number, word in enumerate(words, 1)}
    captions = [[[number_of[word] for word in caption.split()] for caption in row["text"]] for row in rows["train"]]
    paths = [f"./102flowers/{row['file_name']}" for row in rows["train"]]
    put(root / "text2ImgData.pkl", data_frame({"Captions": captions, "ImagePath": paths}))
    (root / "dictionary").mkdir()
    np.save(root / "dictionary" / "id2Word.npy", np.array([(number, word) for word, number in number_of.items()]))
    for row in rows["train"]:
        put(root / "102flowers" / row["file_name"], row["image"])
    return {"path": str(root)}


@layout
def huggingface(root: Path, rows: dict[str, list[Row]]) -> dict[str, Any]:
    datasets = pytest.importorskip("datasets")
    root.mkdir()
    for split, own in rows.items():
        found = {
            "image": [{"bytes": row["image"], "path": None} for row in own],
            "text": [row["text"] for row in own],
            "label": [row["label"] for row in own],
        }
        features = {
            "image": datasets.Image(),
            "text": datasets.Sequence(datasets.Value("string")),
            "label": datasets.Value("int64"),
        }
        data = datasets.Dataset.from_dict(found, features=datasets.Features(features))
        data.to_parquet(root / f"{split}-00000-of-00001.parquet")
    return {"path": str(root)}


WITHOUT = {"coco": ("test",), "cub-200": ("validation",), "stackgan": ("validation",)}  # splits that layouts don't have
WITHOUT["reverse-image-caption"] = ("validation", "test")
UNLABELLED = ("coco", "sidecar", "reverse-image-caption", "flickr30k")
UNCAPTIONED = ("images",)
NAMED = ("images",)  # whose classes are the names of folders, numbered in the order of the training images
FROM_1 = ("cub-200", "oxford-102")  # whose classes are numbered so
MARKS = {"huggingface": pytest.mark.extras}


@pytest.mark.parametrize("name", [pytest.param(one, marks=MARKS.get(one, ())) for one in registry.list_parts("data")])
def test_every_registered_source_is_read_shared_out_and_checked(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_folder("synthetic-flowers", "flowers", count=COUNTS["train"], validation=3, test=2, resolution=64, seed=0)
    rows: dict[str, list[Row]] = {split: [] for split in COUNTS}
    for split, own in rows.items():
        for line in (tmp_path / "flowers" / split / "metadata.jsonl").read_text().splitlines():
            row = json.loads(line)
            own.append({**row, "image": (tmp_path / "flowers" / split / row["file_name"]).read_bytes()})
    options = LAYOUTS[name](tmp_path / "data", rows)
    source, again = (registry.create("data", name, **options) for _ in range(2))
    counts = {split: count for split, count in COUNTS.items() if split not in WITHOUT.get(name, ())}
    assert source.splits() == list(counts)
    prints = [source.fingerprint(split) for split in counts]
    assert prints == [again.fingerprint(split) for split in counts] and len(set(prints)) == len(prints)
    for split, count in counts.items():
        found = source.rows(split)
        assert len(found) == count
        captions = [[] if name in UNCAPTIONED else sorted(row["text"]) for row in rows[split]]
        if name in NAMED:  # images are ordered by their classes, too
            order = sorted(range(count), key=lambda number: (f"class {rows[split][number]['label']}", number))
            assert [found.class_names[label] for label in found.labels] == [
                f"class {rows[split][number]['label']}" for number in order
            ]
        assert [sorted(texts) for texts in found.captions] == captions
        assert source.is_captioned == (name not in UNCAPTIONED)
        labels = [row["label"] + (name in FROM_1) for row in rows[split]]
        assert name in NAMED or found.labels == (None if name in UNLABELLED else labels)
        images, done = np.zeros((count, 64, 64, 3), np.uint8), []
        assert source.fill(split, images, done.append) == {}
        assert sum(done) == count and (images.std((1, 2, 3)) > 5).all(), "no picture was left blank"
