"""Images that are damaged, or made to do harm, are refused in a sentence."""

from __future__ import annotations

import struct
import sys
import time
import zlib
from pathlib import Path

import pytest
from sample_data import folder_of_two, jpeg, tiff


def png_of(width: int, height: int) -> bytes:
    """A PNG file whose header claims a size, and that holds next to nothing."""
    chunk = lambda kind, body: struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))  # noqa: E731
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


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
def test_images_that_would_do_harm_are_refused_in_little_time_and_memory(
    name: str, stackflower, tmp_path: Path
) -> None:
    data = folder_of_two(tmp_path / "data", '{"file_name": "bad.jpg", "text": "a"}')
    (data / "bad.jpg").write_bytes(BAD_IMAGES[name])
    resource = pytest.importorskip("resource")
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    began, before = time.monotonic(), unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    said = stackflower("data", "check", data, code=2).output
    assert "bad.jpg" in said and "1 problem." in said and "0x" not in said
    assert time.monotonic() - began < 5
    assert unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000_000
