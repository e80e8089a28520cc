"""Images are known by their content, whatever their names; other files are named for what they are."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image, features
from sample_data import jpeg

from stackflower.data.archives import open_files
from stackflower.data.images import load_square
from stackflower.errors import DataError

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 100


def encode(kind: str, mode: str = "RGB", **options: object) -> bytes:
    content = io.BytesIO()
    Image.new(mode, (20, 20), "red").save(content, kind, **options)
    return content.getvalue()


IMAGES = {
    "a.jfif": jpeg(),
    "b.JPE": jpeg(),
    "c.pjpeg": jpeg(),
    "d": encode("PNG"),
    "e.img": encode("GIF"),
    "f.0": encode("WEBP"),
    "g.bitmap": encode("BMP"),
    "h.scan": encode("TIFF"),
    "i.netpbm": encode("PPM"),
    "j.heic": jpeg(),  # as some programs export
    "k.jpg": encode("PNG"),
}
OTHERS = {
    "empty": b"",
    "photo.heic": HEIC,
    "photo.dng": encode("TIFF"),
    "drawing.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n",
    "scalable": b"<?xml version='1.0'?>\n<!-- a comment that is longer than the head -->\n<svg xmlns='x'></svg>",
    "page": b"<!DOCTYPE html><html>404</html>",
    "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "BMW": "BMW, a car that is not a bitmap: é".encode(),
    "noise": bytes(range(128, 256)),
    "notes.txt": b"\xff\xd8\xff",
}
EXPLANATIONS = {
    "empty": "is empty",
    "photo.heic": "is a HEIC image, which can't be read; convert it to JPEG or PNG",
    "photo.dng": "is a raw camera image",
    "drawing.eps": "is a PostScript file",
    "scalable": "is an SVG image",
    "page": "is a web page",
    "pointer": "`git lfs pull`",
    "BMW": "is a text file",
    "noise": "is not an image in a known format",
}
HIDDEN = (
    ".DS_Store",
    "._a.jpg",
    ".ipynb_checkpoints/a-checkpoint.jpg",
    "__MACOSX/._a.jpg",
    "x/__MACOSX/a.jpg",
    "x/@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg",
    "Thumbs.db",
    "x/desktop.ini",
)


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def pack(kind: str, folder: Path) -> Path:
    """Return the folder itself, or an archive of its files."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    archive = folder.with_suffix(f".{kind}")
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as packed:
            for name in names:
                packed.write(folder / name, name)
    elif kind == "tar":
        with tarfile.open(archive, "w") as packed:
            for name in names:
                packed.add(folder / name, name)
    return folder if kind == "folder" else archive


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_images_are_found_by_content_and_other_files_named(kind: str, tmp_path: Path) -> None:
    hidden = dict.fromkeys(HIDDEN, jpeg())
    folder = write(tmp_path / "data", {f"x/{name}": content for name, content in (IMAGES | OTHERS).items()} | hidden)
    files = open_files(pack(kind, folder)).within("x" if kind == "folder" else "")
    assert files.images == sorted(IMAGES)
    assert files.names == sorted(IMAGES | OTHERS)
    for name in IMAGES:
        assert load_square(files.path / name, 16, content=files.read(name)).shape == (16, 16, 3)
    for name, said in EXPLANATIONS.items():
        assert said in files.explain_not_image(name), name


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_the_head_of_a_file_is_its_first_bytes(kind: str, tmp_path: Path) -> None:
    files = open_files(pack(kind, write(tmp_path / "data", {"long": b"0123456789" * 100, "short": b"abc"})))
    assert files.head("long") == (b"0123456789" * 100)[:32]
    assert files.head("long", 5) == b"01234" and files.head("long", 2000) == files.read("long")
    assert files.head("short") == b"abc"


def test_files_with_well_known_extensions_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "data", dict.fromkeys(("a.jpg", "a.txt", "a.json", "a.npy", "a.zip", "a.ini"), b""))
    files = open_files(folder)
    monkeypatch.setattr(type(files), "head", lambda *_: pytest.fail("read"))
    assert files.images == ["a.jpg"]


def test_an_image_that_is_something_else_is_refused_by_what_it_is(tmp_path: Path) -> None:
    for name, content, said in (
        ("1.jpg", HEIC, "it is a HEIC image"),
        ("2.jpg", OTHERS["page"], "it is a web page"),
        ("3.jpg", b"", "it is empty"),
        ("4.jpg", b"BM" + encode("BMP")[2:16] + b"\x28\0\0\0", "4.jpg can.t be read as an image"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=said):
            load_square(tmp_path / name, 16)


@pytest.mark.skipif(not features.check("avif"), reason="the installed Pillow does not read AVIF")
def test_avif_is_read_where_pillow_reads_it(tmp_path: Path) -> None:
    files = open_files(write(tmp_path / "data", {"a.avif": encode("AVIF"), "b": encode("AVIF")}))
    assert files.images == ["a.avif", "b"]
    assert load_square(files.path / "b", 16)[8, 8].argmax() == 0
