"""Small data sets for tests: pictures, folders, shards and files of other projects."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.io import savemat

from stackflower.data.opening import open_source


def jpeg(size: int = 24) -> bytes:
    content = io.BytesIO()
    pixels = torch.randint(0, 256, (size, size, 3), dtype=torch.uint8).numpy()
    Image.fromarray(pixels).save(content, format="JPEG")
    return content.getvalue()


def folder_of_two(path: Path, *lines: str) -> Path:
    """Two good images, and these lines of metadata."""
    path.mkdir()
    for name in ("1.jpg", "2.jpg"):
        (path / name).write_bytes(jpeg())
    good = [json.dumps({"file_name": name, "text": "a flower"}) for name in ("1.jpg",)]
    (path / "metadata.jsonl").write_text("\n".join([*good, *lines]) + "\n", encoding="utf-8")
    return path


def tiff(**options: Any) -> bytes:
    content = io.BytesIO()
    mode = options.pop("mode", "RGB")
    Image.new(mode, (30, 20), options.pop("colour", None) or 0).save(content, "TIFF", **options)
    return content.getvalue()


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(torch.randint(0, 256, (20, 24, 3), dtype=torch.uint8).numpy()).save(path)


def oxford(root: Path, count: int = 30) -> Path:
    """Oxford-102 in small: 30 images of 25 classes, in three official parts."""
    labels = np.arange(count) % 25 + 1
    for number, label in enumerate(labels, 1):
        picture(root / "jpg" / f"image_{number:05d}.jpg")
        text = root / "text_c10" / f"class_{label:05d}" / f"image_{number:05d}.txt"
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text(f"flower {number}\nof class {label}\n\n")
    ids = np.arange(1, count + 1, dtype=np.uint16)
    savemat(root / "imagelabels.mat", {"labels": labels.astype(np.uint8)})
    savemat(root / "setid.mat", {"trnid": ids[20:], "valid": ids[15:20], "tstid": ids[:15]})
    (root / "cat_to_name.json").write_text('{"1": "pink primrose"}')
    return root


def birds(root: Path) -> Path:
    """CUB-200-2011 in small: four images of two classes, a white square where the bird is."""
    classes = [f"{number} {number:03d}.Bird_{number}" for number in range(1, 201)]
    files = [f"{label:03d}.Bird_{label}/{number}.jpg" for number, label in ((1, 1), (2, 1), (3, 2), (4, 200))]
    for file in files:
        (root / "images" / file).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.zeros((60, 100, 3), np.uint8)
        pixels[20:40, 70:90] = 255
        Image.fromarray(pixels).save(root / "images" / file, quality=95)
        (root.parent / "text_c10" / file).parent.mkdir(parents=True, exist_ok=True)
        (root.parent / "text_c10" / file).with_suffix(".txt").write_text("a white bird\nwhite\n")
    tables = {
        "classes": classes,
        "images": [f"{number} {file}" for number, file in enumerate(files, 1)],
        "image_class_labels": ["1 1", "2 1", "3 2", "4 200"],
        "bounding_boxes": [f"{number} 70.0 20.0 20.0 20.0" for number in range(1, 5)],
        "train_test_split": ["1 1", "2 0", "3 1", "4 0"],
    }
    for name, lines in tables.items():
        (root / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return root


def write_picture(path: Path, mode: str = "RGB", size: tuple[int, int] = (90, 80)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    if mode == "I;16":
        Image.fromarray(values[..., 0].astype(np.uint16) * 256).save(path)
    else:
        Image.fromarray(values).convert(mode).save(path)


def write_folder(path: Path, rows: list[dict], name: str = "metadata.jsonl") -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_images(root: Path, *names: str) -> Path:
    for name in names:
        picture(root / name)
    return root


def data_frame(columns: dict[str, list[Any]]) -> bytes:
    """A table as pandas 2 pickles it: DataFrame.__setstate__ of a BlockManager of blocks."""

    class Call:
        def __init__(self, name: str, arguments: tuple[Any, ...], state: Any = None):
            self.name, self.arguments, self.state = name, arguments, state

    def write(value: Any) -> bytes:
        if isinstance(value, Call):
            module, _, name = value.name.rpartition(".")
            head = f"c{module}\n{name}\n".encode() + write(value.arguments) + b"R"
            return head + (write(value.state) + b"b" if value.state is not None else b"")
        if isinstance(value, tuple):
            return b"(" + b"".join(map(write, value)) + b"t"
        if isinstance(value, dict):
            return b"}(" + b"".join(write(key) + write(item) for key, item in value.items()) + b"u"
        if isinstance(value, list):
            return b"](" + b"".join(map(write, value)) + b"e"
        if isinstance(value, slice):
            return b"c__builtin__\nslice\n" + write((value.start, value.stop, value.step)) + b"R"
        return pickle.dumps(value, 2)[2:-1]

    count = len(next(iter(columns.values())))
    values = np.empty((len(columns), count), dtype=object)
    for row, column in enumerate(columns.values()):
        values[row] = column
    names = np.array(list(columns), dtype=object)
    index = Call(
        "pandas.core.indexes.base._new_Index", (Call("builtins.slice", (0, 1, 1)), {"data": names, "name": None})
    )
    numbers = Call(
        "pandas.core.indexes.base._new_Index",
        (Call("builtins.slice", (0, 1, 1)), {"name": None, "start": 0, "stop": count, "step": 1}),
    )
    block = Call("pandas._libs.internals._unpickle_block", (values, slice(0, len(columns), 1), 2))
    manager = Call("pandas.core.internals.managers.BlockManager", ((block,), [index, numbers]))
    frame = Call(
        "pandas.core.frame.DataFrame",
        (),
        {"_mgr": manager, "_typ": "dataframe", "_metadata": [], "attrs": {}, "_flags": {}},
    )
    return b"\x80\x02" + write(frame) + b"."


def t7(value: Any, numbers: Any = None) -> bytes:
    """Torch7's binary form of a value."""
    numbers = iter(range(1, 10_000)) if numbers is None else numbers
    if isinstance(value, (int, float)):
        return struct.pack("<id", 1, value)
    if isinstance(value, str):
        return struct.pack("<ii", 2, len(value)) + value.encode()
    if isinstance(value, dict):
        items = b"".join(t7(key, numbers) + t7(item, numbers) for key, item in value.items())
        return struct.pack("<iii", 3, next(numbers), len(value)) + items
    text = lambda name: struct.pack("<i", len(name)) + name.encode()  # noqa: E731
    strides = [stride // value.itemsize for stride in value.strides]
    head = (
        struct.pack("<ii", 4, next(numbers)) + text("V 1") + text("torch.FloatTensor") + struct.pack("<i", value.ndim)
    )
    head += struct.pack(f"<{2 * value.ndim}qq", *value.shape, *strides, 1)
    content = (
        struct.pack("<ii", 4, next(numbers)) + text("V 1") + text("torch.FloatStorage") + struct.pack("<q", value.size)
    )
    return head + content + np.ascontiguousarray(value).tobytes()


COUNTS = (5, 11, 8, 3, 9, 14, 6)  # samples of the shards


def numbered(number: int) -> bytes:
    """A picture of one grey level, which tells its number."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((20, 20, 3), 4 * (number % 64), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_shards(folder: Path, counts: tuple[int, ...] = COUNTS) -> str:
    """Shards of numbered pictures; the pattern that names them."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    for shard, count in enumerate(counts):
        with tarfile.open(folder / f"train-{shard:03d}.tar", "w") as file:
            for _ in range(count):
                row = {"text": [f"flower {number}", f"kind {number % 5}"], "label": number % 5}
                for ending, content in (("png", numbered(number)), ("json", json.dumps(row).encode())):
                    member = tarfile.TarInfo(f"{number:05d}.{ending}")
                    member.size = len(content)
                    file.addfile(member, io.BytesIO(content))
                number += 1
    return str(folder / f"train-{{000..{len(counts) - 1:03d}}}.tar")


def sidecar(root: Path, count: int = 6) -> Path:
    for number in range(count):
        picture(root / f"{number}.png")
        (root / f"{number}.txt").write_text(f"flower {number}")
    return root


def shard(path: Path, *names: str) -> Path:
    """A shard of these images, each with a text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name in names:
            for ending, content in ((name, jpeg()), (f"{Path(name).stem}.txt", b"a flower")):
                member = tarfile.TarInfo(ending)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    """Write a tar file of these members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def write_jpegs(root: Path, *names: str) -> Path:
    """Write JPEG files, whatever their extensions."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(jpeg())
    return root


def read_captions(root: Path, split: str = "train", **options: Any) -> list[list[str]]:
    """Open a data set, and return the captions of a split."""
    return list(open_source(str(root), options).rows(split).captions)


def count_images(root: Path | str) -> dict[str, int]:
    """Open a data set, and return the number of images of each split."""
    source = open_source(str(root))
    return {split: source.count_images(split) for split in source.splits()}


def write_colours(folder: Path) -> None:
    """Write an image folder of plain colours, each captioned and labelled by its colour."""
    colours = ["red", "green", "blue", "yellow", "white", "black", "magenta", "cyan"]
    for split, count in (("train", 64), ("validation", 32)):
        (folder / split).mkdir(parents=True)
        lines = []
        for number in range(count):
            colour = colours[number % 8]
            Image.new("RGB", (64, 64), colour).save(folder / split / f"{number}.png")
            row = {"file_name": f"{number}.png", "text": f"a {colour} flower", "label": number % 8}
            lines.append(json.dumps(row))
        (folder / split / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
