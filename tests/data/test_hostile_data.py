"""Data that are damaged, or made to do harm: each is refused in a sentence, and nothing is lost silently."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import resource
import struct
import tarfile
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY_NETWORKS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from stackflower.data import images
from stackflower.data.images import load_square, open_image
from stackflower.data.sources.folder import FolderSource
from stackflower.data.sources.shards import ShardSource, read_shard
from stackflower.errors import DataError
from stackflower.evaluation.extractors.inception_2015 import OriginalInception
from stackflower.formats.pickles import load_pickle
from stackflower.reports.gallery import grids
from stackflower.runs.folder import Run


def jpeg(size: int = 24) -> bytes:
    content = io.BytesIO()
    pixels = torch.randint(0, 256, (size, size, 3), dtype=torch.uint8).numpy()
    Image.fromarray(pixels).save(content, format="JPEG")
    return content.getvalue()


def shard(path: Path, count: int = 4) -> bytes:
    with tarfile.open(path, "w") as file:
        for number in range(count):
            for suffix, content in (("jpg", jpeg()), ("txt", f"flower {number}".encode())):
                member = tarfile.TarInfo(f"{number:03d}.{suffix}")
                member.size = len(content)
                file.addfile(member, io.BytesIO(content))
    return path.read_bytes()


def folder(path: Path, *lines: str) -> Path:
    """Two good images, and these lines of metadata."""
    path.mkdir()
    for name in ("1.jpg", "2.jpg"):
        (path / name).write_bytes(jpeg())
    good = [json.dumps({"file_name": name, "text": "a flower"}) for name in ("1.jpg",)]
    (path / "metadata.jsonl").write_text("\n".join([*good, *lines]) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("[" * 200_000 + "]" * 200_000, "is nested too deeply"),
        ('{"file_name": "2.jpg", "text": "a", "label": ' + "1" + "0" * 30 + "}", "has the label it has; a label is"),
        ('{"file_name": "2.jpg", "text": "a", "label": ' + "9" * 5000 + "}", "is not JSON"),
        ('{"file_name": "2.jpg", "text": "a", "label": -3}', "has the label -3"),
        ('{"file_name": "2.jpg", "text": "a", "label": true}', "a label must be a whole number"),
        ('{"file_name": "2.jpg", "text": "a \\ud800 flower"}', "half of a surrogate pair"),
        ('{"file_name": "../outside.jpg", "text": "a"}', "which does not exist"),
        ('{"file_name": "/etc/passwd", "text": "a"}', "which does not exist"),
        ('{"file_name": "2.jpg", "text": "a", "mentioned_attributes": [[{"x": 1}]]}', "mentioned_attributes"),
        ('{"file_name": "2.jpg", "text": "a", "attributes": "red"}', "has the attributes 'red'"),
    ],
)
def test_rows_that_would_do_harm(stackflower, tmp_path: Path, row: str, said: str) -> None:
    (tmp_path / "outside.jpg").write_bytes(jpeg())
    data = folder(tmp_path / "data", row)
    checked = stackflower("data", "check", data, code=2).output
    assert said in checked and "line 2" in checked and len(checked) < 2000
    trained = stackflower("train", "--data", data, "--images", 8, "--out", "run", *TINY_NETWORKS, code=2).output
    assert said in trained
    assert len(FolderSource(path=str(data), skip_bad=True).rows("train")) == 1


def test_a_link_out_of_the_folder_is_followed_only_when_asked(stackflower, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret.jpg").write_bytes(jpeg())
    data = folder(tmp_path / "data", '{"file_name": "link.jpg", "text": "a"}', '{"file_name": "near.jpg", "text": "b"}')
    (data / "link.jpg").symlink_to(tmp_path / "elsewhere" / "secret.jpg")
    (data / "near.jpg").symlink_to(data / "2.jpg")
    said = stackflower("data", "check", data, code=2).output
    assert (
        "names link.jpg, which is a link out of the folder; --set data.follow_links=true" in said
        and "near.jpg" not in said
    )
    assert len(FolderSource(path=str(data), follow_links=True).rows("train")) == 3


def test_wherever_a_shard_is_cut_off_it_is_told(tmp_path: Path) -> None:
    whole = shard(tmp_path / "train-000.tar")
    assert not read_shard(tmp_path / "train-000.tar").faults
    end = len(whole.rstrip(b"\0"))  # within the last member's text
    cut = tmp_path / "cut.tar"
    for length in {*range(0, end, 256), *range(512, end, 512), end}:
        cut.write_bytes(whole[:length])
        try:
            problems = read_shard(cut).faults
        except DataError:
            continue
        assert problems, f"cut at {length} of {len(whole)}"


def test_a_shard_that_is_cut_off_is_refused(stackflower, tmp_path: Path) -> None:
    whole = shard(tmp_path / "train-000.tar")
    (tmp_path / "train-000.tar").write_bytes(whole[: len(whole.rstrip(b"\0")) * 2 // 3])
    for command in (["data", "check", tmp_path], ["train", "--data", tmp_path, "--images", 8, *TINY_NETWORKS]):
        assert "cut off" in stackflower(*command, code=2).output
    kept = ShardSource(path=str(tmp_path), skip_bad=True)
    assert 0 < len(kept.rows("train")) < 4 and "left out" in " ".join(kept.warnings("train"))


def test_partners_that_are_missing_are_told(stackflower, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "train-000.tar", "w") as file:
        for name, content in (("a.jpg", jpeg()), ("a.txt", b"a flower"), ("b.jpg", jpeg()), ("c.txt", b"lost")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    said = stackflower("data", "check", tmp_path, code=2).output
    assert "b has no caption" in said and "c has captions and no image" in said and "2 problems" in said


@pytest.mark.parametrize(
    "row",
    [
        b"[" * 200_000,
        b'{"text": "a", "label": 1' + b"0" * 30 + b"}",
        b'{"text": "\\udfff"}',
        b'{"text": "a", "attributes": "red"}',
    ],
)
def test_json_of_a_shard_that_would_do_harm(stackflower, tmp_path: Path, row: bytes) -> None:
    with tarfile.open(tmp_path / "train-000.tar", "w") as file:
        for name, content in (("a.jpg", jpeg()), ("a.txt", b"a flower"), ("b.jpg", jpeg()), ("b.json", row)):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    said = stackflower("data", "check", tmp_path, code=2).output
    assert "train-000.tar/b has" in said and "1 problem." in said


# ---- pickles


class Calls:
    """Pickled, a call of anything."""

    def __init__(self, function: Any, *arguments: Any):
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def tuples_in_tuples() -> bytes:
    """A dictionary whose key takes 2^60 steps to hash."""
    return b"\x80\x02}K\x01" + b"2\x86" * 60 + b"K\x01s."


PICKLES: dict[str, bytes] = {
    "a command": pickle.dumps(Calls(os.system, "touch owned")),
    "evaluation": pickle.dumps(Calls(eval, "open('owned', 'w')")),
    "an import": b"cposix\nsystem\n(S'touch owned'\ntR.",
    "a command, in Python 2": b"(S'touch owned'\niposix\nsystem\n.",
    "a class of ours": pickle.dumps(Path("owned")),
    "numpy's loader": b"cnumpy\nload\n(S'owned'\ntR.",
    "numpy's testing": b'cnumpy.testing._private.utils\nrunstring\n(S\'open("owned", "w")\'\n}tR.',
    "an attribute of numpy": b"cnumpy.core.multiarray\n_reconstruct.__globals__\n.",
    "a dotted name": b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93.",
    "a set": pickle.dumps({1, 2}),
    "a key that takes for ever": tuples_in_tuples(),
    "an array that claims a terabyte": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n(K\x00tU\x01btR(K\x01(\x8a\x06\x00\x00\x00\x00\x00\x01tcnumpy\ndtype\n(U\x02f8K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x08\x00\x00\x00\x00\x00\x00\x00\x00tb.",
    "a string that claims a gigabyte": b"\x80\x04\x8d" + (2**30).to_bytes(8, "little") + b"abc.",
    "a table of a billion rows": b"\x80\x02cpandas.core.indexes.base\n_new_Index\n(N}(X\x05\x00\x00\x00startK\x00uR.",
    "nothing": b"",
    "half of one": pickle.dumps(list(range(100)))[:50],
    "a state of nothing": b"\x80\x02K\x01K\x02b.",
    "a memory of nothing": b"\x80\x02h\x05.",
    "a list as a key": b"\x80\x02}]K\x01s.",
    "lists in lists": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "something outside": b"\x80\x02Pname\n.",
    "a buffer outside": b"\x80\x05\x97.",
}


@pytest.mark.parametrize("name", PICKLES)
def test_pickles_that_would_do_harm(name: str, stackflower, tmp_path: Path) -> None:
    root = tmp_path / "data"
    (root / "train").mkdir(parents=True)
    (root / "train" / "filenames.pickle").write_bytes(PICKLES[name])
    began = time.monotonic()
    said = stackflower("data", "check", root, code=2).output
    assert "filenames.pickle" in said and len(said) < 2000 and time.monotonic() - began < 5
    assert not (tmp_path / "owned").exists()


@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_pickles_with_any_byte_changed(data: st.DataObject) -> None:
    value = {"a": [1, "x", (2, 3.5)], "b": torch.arange(6).reshape(2, 3).numpy()}
    content = bytearray(pickle.dumps(value, data.draw(st.integers(0, 5))))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DataError):
        load_pickle(bytes(content), "x")


# ---- images


def png_of(width: int, height: int) -> bytes:
    """A PNG file whose header claims a size, and that holds next to nothing."""
    chunk = lambda kind, body: struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))  # noqa: E731
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def tiff(**options: Any) -> bytes:
    content = io.BytesIO()
    mode = options.pop("mode", "RGB")
    Image.new(mode, (30, 20), options.pop("colour", None) or 0).save(content, "TIFF", **options)
    return content.getvalue()


BAD_IMAGES: dict[str, bytes] = {
    "50,000 × 50,000": png_of(50_000, 50_000),
    "2^31 × 1": png_of(2**31 - 1, 1),
    "no pixels": png_of(0, 10),
    "a header alone": png_of(100, 100),
    "half a JPEG": jpeg(200)[:2000],
    "a JPEG's first bytes": jpeg()[:20],
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(owned) (w) file closefile\nshowpage\n",
    "an SVG": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
    "text": b"not an image",
    "nothing": b"",
    "half a TIFF": tiff()[:100],
    "a TIFF of no directory": b"II*\0\xff\xff\xff\x7f",
    "a TIFF that is its own next": b"II*\0\x08\0\0\0\0\0\x08\0\0\0",
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_images_that_would_do_harm(name: str, stackflower, tmp_path: Path) -> None:
    data = folder(tmp_path / "data", '{"file_name": "bad.jpg", "text": "a"}')
    (data / "bad.jpg").write_bytes(BAD_IMAGES[name])
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    said = stackflower("data", "check", data, code=2).output
    assert "bad.jpg" in said and "1 problem." in said and "0x" not in said
    assert time.monotonic() - began < 5 and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "CMYK"},
        {"mode": "LA"},
        {"mode": "1"},
        {"mode": "P"},
        {"mode": "I;16"},
        {"mode": "F"},
        {"mode": "LAB"},
        {"mode": "YCbCr"},
        {"compression": "tiff_lzw"},
        {"compression": "tiff_deflate"},
        {"compression": "jpeg"},
        {"compression": "packbits"},
        {"tiffinfo": {274: 6}},
        {"save_all": True, "append_images": [Image.new("RGB", (9, 9))]},
    ],
    ids=lambda options: ", ".join(map(str, options.values())) if "append_images" not in options else "two pages",
)
def test_tiffs_of_odd_layouts(options: dict[str, Any], tmp_path: Path) -> None:
    image = load_square(tmp_path / "x.tif", 16, content=tiff(**options))
    assert image.shape == (16, 16, 3) and image.dtype == "uint8"


def test_a_picture_of_several_pictures(tmp_path: Path) -> None:
    """As phones take them: a JPEG with a second one behind it."""
    content = io.BytesIO()
    Image.new("RGB", (20, 20), "red").save(
        content, "MPO", save_all=True, append_images=[Image.new("RGB", (20, 20), "blue")]
    )
    assert load_square(tmp_path / "x.jpg", 16, content=content.getvalue())[8, 8].argmax() == 0


def test_a_folder_of_nothing_but_links_out_of_it(stackflower, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.tar").write_bytes(b"")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-000000.tar").symlink_to(tmp_path / "elsewhere.tar")
    said = stackflower("data", "check", "data", code=2).output
    assert "train-000000.tar is a link out of the folder" in said


@pytest.mark.parametrize("pattern", ["", "/*/*.tar"])
def test_shards_behind_a_link_to_a_folder_elsewhere(pattern: str, tmp_path: Path) -> None:
    (tmp_path / "data" / "validation").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for part in ("data/validation", "elsewhere"):
        shard(tmp_path / part / "0.tar")
    (tmp_path / "data" / "train").symlink_to(tmp_path / "elsewhere")
    path = f"{tmp_path / 'data'}{pattern}"
    with pytest.raises(DataError, match="train is a link out of the folder"):
        ShardSource(path=path).rows("train")
    assert len(ShardSource(path=path, follow_links=True).rows("train")) == 4
    # what the user names is followed, and so are links within the folder
    assert len(ShardSource(path=str(tmp_path / "data" / "train")).rows("train")) == 4
    (tmp_path / "data" / "train").unlink()
    (tmp_path / "data" / "train").symlink_to("validation")
    assert len(ShardSource(path=path).rows("train")) == 4


def test_links_that_go_in_circles(stackflower, tmp_path: Path) -> None:
    data = folder(tmp_path / "data", '{"file_name": "2.jpg", "text": "b"}')
    (data / "around").symlink_to(data)
    (data / "self.jpg").symlink_to(data / "self.jpg")
    (data / "up").symlink_to(tmp_path)
    stackflower("data", "check", data)
    stackflower("data", "check", data, "--set", "data.follow_links=true")


# ---- images of a run


def test_grids_of_a_run_that_would_do_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_ghostscript(*_: object, **__: object) -> None:
        raise AssertionError("Ghostscript would run")

    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", run_ghostscript)
    run = Run(tmp_path)
    run.samples.mkdir()
    for number, side in ((1, 10), (2, 40)):
        Image.new("RGB", (side, side)).save(run.samples / f"images-{number:09d}.png")
    Image.new("RGB", (10, 10)).save(run.samples / "images-000000003.png", format="EPS")
    assert [picture.text for picture in grids(run)] == ["1 images", "2 images"]
    monkeypatch.setattr(images, "MAX_PIXELS", 1000)
    assert [picture.text for picture in grids(run)] == ["1 images"]
    with (
        pytest.raises(DataError, match="it has 40×40 pixels, and the limit is 1,000"),
        open_image(run.samples / "images-000000002.png"),
    ):
        pass


# ---- weights


def safetensors_and_pickle(payload: bytes) -> bytes:
    """A safetensors file with one tensor, which is a pickle too: strings of the pickle take up the header.

    The length of the header begins a string of 40 bytes (``T``), in the header are strings of up to 126 (``U~``), and the
    tensor is the rest of the pickle.
    """
    start = '{"__metadata__":{"x":"'.ljust(37, "a")
    end = f'"}},"t":{{"dtype":"U8","shape":[{len(payload)}],"data_offsets":[0,{len(payload)}]}}}}'
    header = start + ("U~" + "a" * 126) * 79 + "U0" + "a" * 48 + "U{" + end.rjust(123, "a")
    length = b"T" + (40).to_bytes(7, "little")
    assert len(header) == int.from_bytes(length, "little")
    return length + header.encode() + payload


@pytest.mark.extras
@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_weights_of_inception_that_would_do_harm(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch_fidelity")
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    path.write_bytes(safetensors_and_pickle(b"cposix\nsystem\n(S'touch owned'\ntR."))
    assert list(load_file(path)) == ["t"]
    with pytest.raises(DataError, match="The 2015 Inception network can't be loaded"):
        OriginalInception(weights=str(path))
    assert not Path("owned").exists()
