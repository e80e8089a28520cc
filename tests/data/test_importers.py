"""Layouts of other projects: tables, pickles, the hub; embeddings that were computed elsewhere; tags."""

from __future__ import annotations

import csv
import io
import json
import pickle
import struct
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY_NETWORKS, settings
from test_hostile_data import jpeg
from test_layouts import birds, picture

from stackflower.data.opening import open_source, source_part
from stackflower.data.prepared import prepare
from stackflower.errors import ComponentError, DataError
from stackflower.formats.pickled_tables import extract_columns
from stackflower.formats.pickles import load_npy, load_pickle
from stackflower.formats.t7 import load_t7
from stackflower.text.encoders.multi_hot import MultiHotEncoder
from stackflower.text.encoders.ngram import NgramEncoder
from stackflower.text.encoders.precomputed import PrecomputedEncoder


def images(root: Path, *names: str) -> Path:
    for name in names:
        picture(root / name)
    return root


# ---- tables


@pytest.mark.parametrize(
    ("file", "columns", "delimiter"),
    [
        ("captions.csv", ("filepath", "title"), ","),
        ("results.csv", ("image_name", "comment"), "|"),
        ("list.tsv", ("image", "caption"), "\t"),
        ("eu.csv", ("Datei", "caption"), ";"),
        ("captions.txt", ("image", "caption"), ","),
    ],
)
def test_tables_of_captions(tmp_path: Path, stackflower, file: str, columns: tuple[str, str], delimiter: str) -> None:
    root = images(tmp_path / "data", "images/1.jpg", "images/2.jpg", "images/3.jpg")
    with (root / file).open("w", newline="", encoding="utf-8-sig") as out:
        rows = [
            (*columns, "class"),
            ("1.jpg", "a, red; flower", "rose"),
            ("1.jpg", 'a "big" one', "rose"),
            ("images/2.jpg", "blue", "iris"),
        ]
        csv.writer(out, delimiter=delimiter).writerows(rows)
    assert source_part(str(root))["name"] == source_part(str(root / file))["name"] == "table"
    for value in (root, root / file):
        found = open_source(str(value)).rows("train")
        assert found.captions == [["a, red; flower", 'a "big" one'], ["blue"]]
        assert found.labels == [0, 1] and found.class_names == {0: "rose", 1: "iris"}
    assert "1 images" in stackflower("data", "check", root).output
    if columns == ("filepath", "title"):
        stackflower("train", "--data", root, "--images", 8, "--out", "run", *TINY_NETWORKS)


def test_a_table_that_excel_saved_as_unicode_text(tmp_path: Path) -> None:
    root = images(tmp_path / "data", "1.jpg", "2.jpg")
    (root / "list.tsv").write_text("image\tcaption\r\n1.jpg\tröd blomma\r\n2.jpg\t花\r\n", encoding="utf-16")
    assert open_source(str(root)).rows("train").captions == [["röd blomma"], ["花"]]


def test_columns_are_named_where_they_can_not_be_told(tmp_path: Path, stackflower) -> None:
    root = images(tmp_path / "data", "1.jpg", "2.jpg")
    (root / "x.csv").write_text("a,b,c\n1.jpg,a red flower,7\n2.jpg,a blue one,8\n")
    said = stackflower("data", "check", root, code=2).output
    assert "has the columns a, b, c" in said and "--set data.text_column=NAME" in said
    assert (
        "No problems"
        in stackflower("data", "check", root, *settings("data.text_column=b", "data.label_column=c")).output
    )
    assert open_source(str(root), {"text_column": "b", "label_column": "c"}).rows("train").labels == [7, 8]
    said = stackflower("data", "check", root, *settings("data.text_column=d"), code=2).output
    assert "has no column 'd'" in said
    (root / "x.csv").write_text("image,text\n1.jpg,a,b\n2.jpg,ok\n")
    assert "line 2 has 3 cells in 2 columns" in stackflower("data", "check", root, code=2).output
    assert (
        "Unknown format 'tabel'. Did you mean 'table'?"
        in stackflower("data", "check", root, "--format", "tabel", code=2).output
    )


def test_classes_have_the_same_numbers_in_all_splits(tmp_path: Path) -> None:
    for split, rows in (("train", "1.jpg,a,rose\n2.jpg,b,iris\n"), ("test", "3.jpg,c,iris\n4.jpg,d,lily\n")):
        images(tmp_path / split, *(line.partition(",")[0] for line in rows.split()))
        (tmp_path / split / "list.csv").write_text(f"image,text,class\n{rows}")
    assert open_source(str(tmp_path)).rows("test").class_names == {1: "iris", 2: "lily"}


@pytest.mark.extras
def test_values_of_a_parquet_file_that_json_lacks(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    from pyarrow import table

    root = images(tmp_path, "1.jpg")
    row = {"file_name": "1.jpg", "text": "a", "label": 0, "class_name": Decimal("1.5")}
    columns = {name: [value] for name, value in (row | {"attributes": {"seen": date(2020, 1, 2)}}).items()}
    parquet.write_table(table(columns), root / "metadata.parquet")
    rows = prepare(open_source(str(root)), "train", 16).rows
    assert rows.class_names == {0: "1.5"} and rows.attributes == {"seen": ["2020-01-02"]}


@pytest.mark.extras
def test_parquet(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    from pyarrow import table

    root = images(tmp_path / "a", "1.jpg", "2.jpg")
    parquet.write_table(
        table({"file_name": ["1.jpg", "2.jpg"], "text": [["a", "b"], ["c"]], "label": [1, 2]}),
        root / "metadata.parquet",
    )
    assert source_part(str(root))["name"] == "folder"
    assert open_source(str(root)).rows("train").captions == [["a", "b"], ["c"]] and open_source(str(root)).rows(
        "train"
    ).labels == [1, 2]
    other = images(tmp_path / "b", "1.jpg", "2.jpg")
    parquet.write_table(table({"path": ["1.jpg", "2.jpg"], "caption": ["a", "c"]}), other / "list.parquet")
    assert open_source(str(other)).rows("train").captions == [["a"], ["c"]]
    (other / "list.parquet").write_bytes(b"PAR1 damaged")
    with pytest.raises(DataError, match="can't be read as a Parquet file"):
        open_source(str(other)).rows("train")


@pytest.mark.extras
def test_a_hugging_face_data_set(tmp_path: Path, stackflower) -> None:
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
    assert source_part(str(tmp_path / "hub"))["name"] == "huggingface"
    assert source_part("hf://owner/name") == {"name": "huggingface", "path": "hf://owner/name"}
    source = open_source(str(tmp_path / "hub"))
    assert source.splits() == ["train", "test"] and source.rows("train").class_names == {0: "rose", 1: "iris"}
    assert source.rows("test").captions == [["flower 0"], ["flower 1"]]
    stackflower("train", "--data", "hub", "--images", 8, "--out", "run", *TINY_NETWORKS)
    with pytest.raises(DataError, match="has no column 'caption'"):
        open_source(str(tmp_path / "hub"), {"text_column": "caption"})


@pytest.mark.extras
def test_cells_of_a_hugging_face_data_set_name_no_files_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    import pyarrow
    from pyarrow import parquet

    root = tmp_path / "hub"
    images(root / "pictures", "a.jpg")
    images(tmp_path, "secret.jpg")
    (root / "link.jpg").symlink_to(tmp_path / "secret.jpg")
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
    files = open_source(str(root), layout="huggingface").get_listing("train").files
    assert [files.read(name)[:2] for name in files.names[:2]] == [b"\xff\xd8"] * 2
    for name in files.names[2:]:
        with pytest.raises(DataError, match="which is not in the data set"):
            files.read(name)


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


# ---- pickles


def stackgan(root: Path, attngan: bool = False) -> Path:
    """StackGAN's folder in small: three images for training and one for the test."""
    for split, names in (("train", ["1.Bird/a", "1.Bird/b", "2.Bird/c"]), ("test", ["3.Bird/d"])):
        (root / split).mkdir(parents=True)
        (root / split / "filenames.pickle").write_bytes(pickle.dumps(names, 0))
        classes = np.array([int(name[0]) for name in names])
        (root / split / "class_info.pickle").write_bytes(pickle.dumps(classes.tolist() if attngan else classes, 2))
        images(root / "images", *(f"{name}.jpg" for name in names))
        for name in names:
            if not attngan:
                (root / "text" / name).parent.mkdir(parents=True, exist_ok=True)
                (root / "text" / f"{name}.txt").write_text(f"bird {name}\nsmall\n")
    if attngan:
        words = {0: "<end>", 1: "a", 2: "red", 3: "bird"}
        train, test = [[1, 2, 3], [1, 3]] * 3, [[2, 3], [3]]
        (root / "captions.pickle").write_bytes(pickle.dumps([train, test, words, {w: n for n, w in words.items()}], 2))
    return root


@pytest.mark.parametrize("attngan", [False, True])
def test_the_folders_of_stackgan_and_attngan(tmp_path: Path, stackflower, attngan: bool) -> None:
    root = stackgan(tmp_path / "birds", attngan)
    assert source_part(str(root))["name"] == "stackgan"
    source = open_source(str(root))
    rows = source.rows("train")
    assert rows.labels == [1, 1, 2] and source.rows("test").labels == [3]
    assert rows.captions[0] == (["a red bird", "a bird"] if attngan else ["bird 1.Bird/a", "small"])
    assert source.rows("test").captions == ([["red bird", "bird"]] if attngan else [["bird 3.Bird/d", "small"]])
    stackflower("train", "--data", root, "--images", 8, "--out", "run", *TINY_NETWORKS)
    (root / "images" / "1.Bird" / "a.jpg").unlink()
    assert "names 1.Bird/a, and there is no image" in stackflower("data", "check", root, code=2).output
    (root / "train" / "filenames.pickle").write_bytes(pickle.dumps({"a": 1}))
    assert "holds no list of names" in stackflower("data", "check", root, code=2).output


def test_the_competition(tmp_path: Path, stackflower) -> None:
    root = images(tmp_path / "data", "102flowers/image_1.jpg", "102flowers/image_2.jpg")
    # as pandas 1 and 2 pickle a table, without pandas
    (root / "text2ImgData.pkl").write_bytes(
        data_frame(
            {
                "Captions": [[["9", "7", "1"], ["7"]], [["9"]]],
                "ImagePath": ["./102flowers/image_1.jpg", "./102flowers/image_2.jpg"],
            }
        )
    )
    (root / "dictionary").mkdir()
    np.save(root / "dictionary" / "id2Word.npy", np.array([["1", "<PAD>"], ["7", "flower"], ["9", "red"]]))
    assert source_part(str(root))["name"] == "reverse-image-caption"
    assert open_source(str(root)).rows("train").captions == [["red flower", "flower"], ["red"]]
    source = open_source(str(root), {"held_out": 0.5})
    assert source.splits() == ["train", "validation"] and [len(source.rows(split)) for split in source.splits()] == [
        1,
        1,
    ]
    np.save(root / "dictionary" / "id2Word.npy", np.array([["1", "<PAD>"], ["7", "flower"]]))
    assert "has a word '9' that is not in the dictionary" in stackflower("data", "check", root, code=2).output


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


def test_pickled_tables() -> None:
    found = extract_columns(load_pickle(data_frame({"a": [1, "x"], "b": [[2], None]}), "x.pkl"), "x.pkl")
    assert found == {"index": [0, 1], "a": [1, "x"], "b": [[2], None]}
    with pytest.raises(DataError, match=r"x\.pkl can't be read as a pandas table"):
        extract_columns({"a": 1}, "x.pkl")


@pytest.mark.parametrize("start", [-(10**9), -(10**30)])
def test_pickled_tables_that_claim_too_much(start: int) -> None:
    frame = load_pickle(data_frame({"a": [1, 2]}), "x.pkl")
    (block,) = frame.state["_mgr"].arguments[0]
    block.arguments = (block.arguments[0], slice(start, 2, 1), *block.arguments[2:])
    with pytest.raises(DataError, match=r"x\.pkl can't be read as a pandas table \("):
        extract_columns(frame, "x.pkl")


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_plain_values(protocol: int) -> None:
    value = {
        "list": [1, 2.5, "ü", None, True, (1, (2, 3)), 10**30, b"\xff"],
        "float": np.arange(6, dtype=np.float32).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "big": np.arange(3, dtype=">i4"),
        "text": np.array(["ab", "c"]),
        "objects": np.array(["u", [1]], dtype=object),
        7: np.float64(3.5),
    }
    found = load_pickle(pickle.dumps(value, protocol), "x")
    assert list(found) == list(value) and found["list"] == value["list"] and found[7] == 3.5
    for name in ("float", "fortran", "big", "text"):
        assert np.array_equal(found[name], value[name]) and found[name].dtype.newbyteorder("=") == value[
            name
        ].dtype.newbyteorder("=")
    assert found["objects"].tolist() == ["u", [1]]


def test_pickles_of_python_2() -> None:
    # pickle.dumps(numpy.array([[1., 2.]], dtype='float32'), 2) in Python 2.7: the content is a str
    old = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87Rq\x03(K\x01K\x01K\x02\x86cnumpy\ndtype\nq\x04U\x02f4K\x00K\x01\x87R"
        b"q\x05(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x08\x00\x00\x80?\x00\x00\x00@tb."
    )
    assert np.array_equal(load_pickle(old, "x"), np.array([[1.0, 2.0]], np.float32))


def test_npy_files(tmp_path: Path) -> None:
    for array in (np.arange(4.0), np.array([["1", "a"], ["2", "b"]], dtype=object)):
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=True)
        assert load_npy(buffer.getvalue(), "x").tolist() == array.tolist()
    with pytest.raises(DataError, match=r"no \.npy file"):
        load_npy(b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999,), }", "x")


# ---- embeddings from files


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


def test_t7_files() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert np.array_equal(load_t7(t7(array), "x"), array)
    found = load_t7(t7({"txt": array, 1: "one", "n": 2.5}), "x")
    assert np.array_equal(found["txt"], array) and found[1] == "one" and found["n"] == 2.5
    for length in range(len(t7(array))):
        with pytest.raises(DataError, match="can't be read as a Torch7 file"):
            load_t7(t7(array)[:length], "x")
    with pytest.raises(DataError, match="such as a function"):
        load_t7(struct.pack("<ii", 8, 1), "x")
    huge = t7(array).replace(struct.pack("<qq", 3, 4), struct.pack("<qq", 2**40, 4), 1)
    with pytest.raises(DataError, match="larger than its storage"):
        load_t7(huge, "x")


CAPTIONS = [["a red flower", "red petals"], ["a blue flower", "blue petals"]]


@pytest.mark.parametrize("form", ["npy", "safetensors", "pickle", "array pickle", "t7", "t7 folder", "embed"])
def test_precomputed_embeddings(tmp_path: Path, stackflower, form: str) -> None:
    from safetensors.numpy import save_file

    table = np.random.default_rng(0).normal(size=(2, 2, 12)).astype(np.float32)
    flat, lines = table.reshape(4, 12), [caption for own in CAPTIONS for caption in own]
    options: dict[str, Any] = {}
    (tmp_path / "captions.txt").write_text("\n".join(lines) + "\n")
    if form == "npy":
        np.save(tmp_path / "captions.npy", flat)
        path = tmp_path / "captions.npy"
    elif form == "safetensors":
        path = tmp_path / "x.safetensors"
        save_file({"whatever": table}, path)
        options["captions"] = str(tmp_path / "captions.txt")
    elif form in ("pickle", "array pickle", "t7 folder"):
        root = tmp_path / "text_c10" / "class_1"
        root.mkdir(parents=True)
        for name, own in zip("ab", CAPTIONS, strict=True):
            (root / f"{name}.txt").write_text("\n".join([*own, "and one more"]))
        (tmp_path / "filenames.pickle").write_bytes(pickle.dumps(["class_1/a", "class_1/b"], 2))
        path = tmp_path / "char-CNN-RNN-embeddings.pickle"
        path.write_bytes(pickle.dumps(list(table) if form == "pickle" else table, 2))
        if form == "t7 folder":
            path = tmp_path / "t7" / "class_1"
            path.mkdir(parents=True)
            for name, own in zip("ab", table, strict=True):
                (path / f"{name}.t7").write_bytes(t7({"txt": np.ascontiguousarray(own.T)}))
            path = path.parent
        options["captions"] = str(tmp_path / "text_c10")
    elif form == "t7":
        path = tmp_path / "captions.t7"
        path.write_bytes(t7(np.ascontiguousarray(table.swapaxes(1, 2))))
    else:
        stackflower("embed", *lines, "--out", "e.safetensors")
        path, flat = tmp_path / "e.safetensors", NgramEncoder().encode(lines).numpy()
    encoder = PrecomputedEncoder(path=str(path), **options)
    assert encoder.dim == flat.shape[1]
    found = encoder.encode(["blue petals", " a  red flower "])
    wanted = flat[[3, 0]] / np.linalg.norm(flat[[3, 0]], axis=1, keepdims=True)
    assert np.allclose(found, wanted, atol=1e-3)
    with pytest.raises(DataError, match=r"no embedding of 'a red flowr', .* nearest caption: 'a red flower'"):
        encoder.encode(["a red flowr"])
    other = PrecomputedEncoder(path="nowhere")
    encoder.save(tmp_path / "kept")
    other.restore(tmp_path / "kept")
    assert torch.equal(other.encode(lines), encoder.encode(lines)) and other.fingerprint() == encoder.fingerprint()


def test_training_on_precomputed_embeddings(tmp_path: Path, stackflower) -> None:
    root = images(tmp_path / "data", *(f"{number}.jpg" for number in range(8)))
    captions = [f"flower {number}" for number in range(8)]
    (root / "metadata.jsonl").write_text(
        "\n".join(json.dumps({"file_name": f"{n}.jpg", "text": text}) for n, text in enumerate(captions))
    )
    np.save(tmp_path / "e.npy", np.random.default_rng(1).normal(size=(8, 20)))
    text = ["--text", "precomputed", *settings("text.path=e.npy", "text.captions=data/metadata.jsonl")]
    stackflower("train", "--data", "data", "--images", 8, "--out", "run", *TINY_NETWORKS, *text)
    (tmp_path / "e.npy").unlink()  # a run needs nothing but its folder
    stackflower("sample", "run", "flower 3", "--out", "x.png")
    said = stackflower("sample", "run", "a tree", "--out", "x.png", code=2).output
    assert "has no embedding of 'a tree', only those of 8 other captions" in said
    np.save(tmp_path / "e.npy", np.zeros((7, 20)))
    said = stackflower("train", "--data", "data", "--images", 8, "--out", "other", *TINY_NETWORKS, *text, code=2).output
    assert "has 7 embeddings, and data/metadata.jsonl has 8 captions" in said
    said = stackflower(
        "train",
        "--data",
        "data",
        "--images",
        8,
        "--out",
        "other",
        *TINY_NETWORKS,
        *text[:2],
        *settings("text.path=none.npy"),
        code=2,
    ).output
    assert "none.npy does not exist" in said


def test_tags_as_a_multi_hot_condition(tmp_path: Path, stackflower) -> None:
    encoder = MultiHotEncoder(tags=8)
    encoder.fit(["long hair, blue eyes", "Blue  Eyes,smile", "blue eyes"])
    one, two = encoder.encode(["blue eyes", "smile, blue eyes, unknown"])
    assert one.tolist() == [1.0] + [0.0] * 7 and two.count_nonzero() == 2 and two.norm() == pytest.approx(1)
    with pytest.raises(DataError, match="has none of the 3 tags of the training data"):
        encoder.encode(["unknown"])
    root = images(tmp_path / "data", *(f"{number}.jpg" for number in range(8)))
    for number in range(8):
        (root / f"{number}.txt").write_text(f"red hair\nsmile\ntag {number % 3}")
    flags = ["--data", "data", "--images", 8, *TINY_NETWORKS, "--text", "multi-hot", *settings("text.tags=16")]
    stackflower("train", "--out", "run", *flags)
    said = stackflower("sample", "run", "red hair, tag 1", "--out", "x.png").output
    assert "does not know" not in said
    said = stackflower("sample", "run", "red hair, blue hare, tag 1", "red hair, tag 7", "--out", "y").output
    assert "The run's text encoder does not know: blue hare, tag 7." in said


def test_a_validation_split_is_drawn_by_seed(tmp_path: Path, stackflower) -> None:
    root = images(tmp_path / "data", *(f"{number}.jpg" for number in range(20)))
    (root / "metadata.jsonl").write_text(
        "\n".join(json.dumps({"file_name": f"{n}.jpg", "text": f"flower {n}"}) for n in range(20))
    )
    drawn = [open_source(str(root), {"held_out": 0.2, "seed": seed}) for seed in (0, 0, 1)]
    held = [set(source.rows("validation").files or ()) for source in drawn]
    assert held[0] == held[1] != held[2] and len(held[0]) == 4
    assert held[0] | set(drawn[0].rows("train").files or ()) == {f"{number}.jpg" for number in range(20)}
    said = stackflower("data", "info", root, *settings("data.held_out=0.2")).output
    assert "train: {'images': 16" in said and "validation: {'images': 4" in said
    (root / "validation").mkdir()
    (root / "train").mkdir()
    for part in ("train", "validation"):
        images(root / part, "x.jpg")
        (root / part / "metadata.jsonl").write_text('{"file_name": "x.jpg", "text": "a"}')
    assert (
        "has its own validation split"
        in stackflower("data", "check", root, *settings("data.held_out=0.2"), code=2).output
    )
    with pytest.raises(ComponentError):
        open_source(str(root), {"held_out": 1.5})


def test_tables_of_several_splits(tmp_path: Path) -> None:
    one = images(tmp_path / "one", *(f"{number}.jpg" for number in range(4)))
    (one / "all.csv").write_text("image,caption,split\n0.jpg,a,train\n1.jpg,b,val\n2.jpg,c,test\n3.jpg,d,train\n")
    other = images(tmp_path / "two", *(f"{number}.jpg" for number in range(4)))
    for split, rows in (("train", "0.jpg,a\n3.jpg,d\n"), ("valid", "1.jpg,b\n"), ("test", "2.jpg,c\n")):
        (other / f"{split}.csv").write_text(f"image,caption\n{rows}")
    for root in (one, other):
        source = open_source(str(root))
        assert [source.rows(split).captions for split in source.splits()] == [[["a"], ["d"]], [["b"]], [["c"]]]


def test_classes_of_a_table_are_numbers_or_names(tmp_path: Path, stackflower) -> None:
    root = images(tmp_path / "data", *(f"{number}.jpg" for number in range(3)))
    (root / "x.csv").write_text("image,text,class\n0.jpg,a,0\n1.jpg,b,rose\n2.jpg,c,0\n")
    assert open_source(str(root)).rows("train").class_names == {0: "0", 1: "rose"}
    (root / "x.csv").write_text("image,text,class\n0.jpg,a,0\n0.jpg,b,1\n")
    assert "line 3 gives 0.jpg another class than line 2" in stackflower("data", "check", root, code=2).output


def test_images_that_a_source_crops_are_not_copied_whole(tmp_path: Path, stackflower) -> None:
    root = birds(tmp_path / "CUB_200_2011")
    assert "as in --size 76" in stackflower("data", "shard", root, "shards", code=2).output
    stackflower("data", "shard", root, "shards", "--size", 32)
    one, other = (prepare(open_source(str(path)), "train", 32).images for path in (root, tmp_path / "shards"))
    assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))


def test_embeddings_that_would_take_all_memory(tmp_path: Path) -> None:
    nested: Any = [1.0]
    for _ in range(40):
        nested = [nested, nested]
    for name, value in (("bomb", nested), ("ragged", [[1.0], [1.0, 2.0]]), ("arrays", [np.ones(3), np.ones(4)])):
        (tmp_path / f"{name}.pickle").write_bytes(pickle.dumps(value, 2))
        (tmp_path / f"{name}.txt").write_text("a\n")
        with pytest.raises(DataError, match="does not hold embeddings"):
            PrecomputedEncoder(path=str(tmp_path / f"{name}.pickle")).encode(["a"])
    for header in (b"{'descr': '<f8'", b"{[]: 1}\n"):
        with pytest.raises(DataError, match=r"no \.npy file"):
            load_npy(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header, "x")
