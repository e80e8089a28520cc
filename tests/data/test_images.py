"""Images of every mode and layout, and crops of them."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
import torch
from PIL import Image
from sample_data import tiff, write_picture

from stackflower.data.images import crop_and_flip, load_square
from stackflower.data.prepared import prepare
from stackflower.data.sources.folder import FolderSource
from stackflower.errors import DataError

PILLOW = int(PIL.__version__.partition(".")[0])


def test_images_are_cropped_and_flipped_each_in_its_own_way() -> None:
    images = torch.randint(0, 256, (5, 9, 9, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    index, corner = torch.tensor([3, 0, 3, 4]), torch.tensor([[0, 3, 1, 2], [3, 0, 2, 1]])
    mirror, upside_down = torch.tensor([False, True, False, True]), torch.tensor([False, False, True, True])
    found = crop_and_flip(images, index, corner, mirror, upside_down, 6)
    for row, (top, left) in enumerate(corner.T.tolist()):
        crop = images[index[row], top : top + 6, left : left + 6].permute(2, 0, 1)
        crop = crop.flip(2) if mirror[row] else crop
        assert torch.equal(found[row], crop.flip(1) if upside_down[row] else crop)
    none = torch.zeros(4, dtype=torch.bool)
    upright = crop_and_flip(images, index, corner, mirror, None, 6)
    assert torch.equal(upright, crop_and_flip(images, index, corner, mirror, none, 6))


@pytest.mark.parametrize("mode", ["L", "CMYK", "I;16", "RGBA", "P", "LA", "1"])
def test_pictures_of_any_mode_become_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    write_picture(path, mode)
    array = load_square(path, 32)
    assert array.shape == (32, 32, 3) and array.dtype == np.uint8 and array.std() > 5


def test_transparency_is_laid_over_white_and_16_bits_are_scaled(tmp_path: Path) -> None:
    Image.new("RGBA", (40, 40), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (load_square(tmp_path / "clear.png", 8) == 255).all()
    Image.fromarray(np.full((40, 40), 32768, dtype=np.uint16)).save(tmp_path / "half.png")
    assert abs(int(load_square(tmp_path / "half.png", 8)[0, 0, 0]) - 128) <= 1


def bomb(path: Path) -> None:
    """A tiny file that says it is 60,000 × 60,000 pixels."""
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 10)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_bytes(b"not a picture"), "can't be read as an image"),
        (lambda path: path.write_bytes(b""), "it is empty"),
        (lambda path: path.write_bytes(path.read_bytes()[:900]), "can't be read as an image"),
        (bomb, "make it smaller"),
    ],
    ids=["unreadable", "empty", "truncated", "bomb"],
)
def test_pictures_that_cannot_be_read_are_named_or_left_out(stackflower, good: Path, spoil, message: str) -> None:
    spoil(good / "3.jpg")
    spoil(good / "5.jpg")
    for command in (["data", "check", good], ["train", "--data", good, "--images", 8, "--out", "run"]):
        out = stackflower(*command, code=2).output
        assert message in out and "3.jpg" in out and "5.jpg" in out
    assert not Path("run").exists()
    kept = prepare(FolderSource(path=str(good), skip_bad=True), "train", 32)
    assert len(kept.images) == len(kept.captions) == 10
    assert [len(captions) for captions in kept.captions] == [1, 6, 1, 1, 1, 6, 1, 6, 1, 6]


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "CMYK"},
        {"mode": "LA"},
        {"mode": "1"},
        {"mode": "P"},
        {"mode": "I;16"},
        {"mode": "LAB"},
        pytest.param({"mode": "YCbCr"}, marks=pytest.mark.skipif(PILLOW < 13, reason="Pillow 12 writes it cut off")),
        {"compression": "tiff_lzw"},
        {"compression": "tiff_deflate"},
        {"compression": "jpeg"},
        {"compression": "packbits"},
        {"tiffinfo": {274: 6}},
        {"save_all": True, "append_images": [Image.new("RGB", (9, 9))]},
    ],
    ids=lambda options: ", ".join(map(str, options.values())) if "append_images" not in options else "two pages",
)
def test_tiffs_of_odd_layouts_are_read(options: dict[str, Any], tmp_path: Path) -> None:
    image = load_square(tmp_path / "x.tif", 16, content=tiff(**options))
    assert image.shape == (16, 16, 3) and image.dtype == "uint8"


def test_of_a_picture_of_several_pictures_the_first_is_read(tmp_path: Path) -> None:
    """As phones take them: a JPEG with a second one behind it."""
    content = io.BytesIO()
    Image.new("RGB", (20, 20), "red").save(
        content, "MPO", save_all=True, append_images=[Image.new("RGB", (20, 20), "blue")]
    )
    assert load_square(tmp_path / "x.jpg", 16, content=content.getvalue())[8, 8].argmax() == 0


def encode(pixels: np.ndarray, kind: str, **options: Any) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind, **options)
    return content.getvalue()


DARK = np.full((16, 16), 200, np.uint16)
BRIGHT = np.full((16, 16), 65535, np.uint16)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
@pytest.mark.parametrize(("pixels", "expected"), [(DARK, 1), (BRIGHT, 255), (BRIGHT // 2, 127)])
def test_16_bits_are_scaled_by_their_format_however_dark_the_image(
    kind: str, pixels: np.ndarray, expected: int, tmp_path: Path
) -> None:
    image = load_square(tmp_path / "x", 16, content=encode(pixels, kind))
    assert (image == expected).all()


def write_tiff(strip: bytes, bits: int, photometric: int) -> bytes:
    """A TIFF of 16×16 pixels in one strip, which lies behind its tags."""
    tags = {256: 16, 257: 16, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: 16, 279: len(strip)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    header = b"II*\0" + struct.pack("<I", 8 + len(strip))
    return header + strip + struct.pack("<H", len(tags)) + entries + b"\0" * 4


def test_12_bits_and_white_as_zero_are_scaled_by_the_tags_of_a_tiff(tmp_path: Path) -> None:
    bits12 = write_tiff(b"\xff\xf0\x00" * 128, 12, 1)  # 0xFFF and 0x000 in three bytes
    image = load_square(tmp_path / "x.tif", 16, content=bits12)
    assert (image[:, ::2] == 255).all() and (image[:, 1::2] == 0).all()
    inverted = load_square(tmp_path / "x.tif", 16, content=write_tiff(DARK.tobytes(), 16, 0))
    assert (inverted == 254).all()


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        (np.zeros((16, 16), np.float32), "floating-point pixels"),
        (np.zeros((16, 16), np.int32), "signed pixels"),
    ],
)
def test_images_of_an_unknown_range_are_refused(pixels: np.ndarray, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"x\.tif.*{said}, whose range is unknown; scale them to 0 to 255"):
        load_square(tmp_path / "x.tif", 16, content=encode(pixels, "TIFF"))
