"""Pictures from files to arrays and back."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageFont, ImageOps
from skimage.util import img_as_ubyte, montage
from torch import Tensor

from stackflower.errors import DataError
from stackflower.utils.atomic import replacing

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"})
LARGEST = 200_000_000  # pixels; more is taken for a decompression bomb


def to_rgb(picture: Image.Image) -> Image.Image:
    """Any mode to 8-bit RGB: 16-bit is scaled down, transparency laid over white, CMYK and palettes converted."""
    if picture.mode.startswith(("I", "F")):
        values = np.asarray(picture)
        if values.dtype == np.int32 or values.dtype == np.float32:
            values = (
                values.clip(0, 65535).astype(np.uint16) if values.max() > 255 else values.clip(0, 255).astype(np.uint8)
            )
        return Image.fromarray(img_as_ubyte(values)).convert("RGB")
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.convert("RGB")


def load_square(path: Path, size: int, trim: bool = False, content: bytes | None = None) -> np.ndarray:
    """The centre square of a picture file, resampled (Lanczos, antialiased) to uint8 (size, size, 3).

    With `trim`, a border of one colour is cut off first (`without_border`). `content` is the file's bytes, where they lie
    inside another file and `path` only names them.

    DataError, a sentence with the file's name, for what is not a picture, is cut off, or is absurdly large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path if content is None else io.BytesIO(content)) as picture:
                if picture.width * picture.height > LARGEST:
                    raise DataError(
                        f"{path}: {picture.width:,}×{picture.height:,} pixels are more than {LARGEST:,}; make it smaller."
                    )
                picture.draft(
                    "RGB", (size * 2, size * 2)
                )  # JPEG: decode at a fraction of the size where that is enough
                upright = ImageOps.exif_transpose(picture)
                upright = without_border(upright) if trim else upright
                square = ImageOps.fit(to_rgb(upright), (size, size), Image.Resampling.LANCZOS)
        return np.asarray(square)
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: {error}; make it smaller.") from error
    except Exception as error:  # decoders raise anything for a damaged file: EOFError, struct.error, KeyError …
        empty = not content if content is not None else path.exists() and not path.stat().st_size
        reason = "it is empty" if empty else str(error).replace(str(path), "it")
        raise DataError(f"{path} can't be read as a picture: {reason}.") from error


def sharpened(image: np.ndarray, factor: float) -> np.ndarray:
    """uint8 (H, W, 3) with its edges `factor` times as strong, as Pillow's sharpness filter has it; 1 changes nothing."""
    return np.asarray(ImageEnhance.Sharpness(Image.fromarray(image)).enhance(factor))


def without_border(picture: Image.Image, tolerance: int = 12) -> Image.Image:
    """A picture without the rows and columns at its edges that are all of one colour, give or take `tolerance` levels of 255.

    The colour is that of the corner from which they start; a picture of one colour stays as it is.
    """
    pixels = np.asarray(to_rgb(picture)).astype(np.int16)
    top, bottom, left, right = 0, pixels.shape[0], 0, pixels.shape[1]
    first, last = pixels[0, 0], pixels[-1, -1]

    def plain(strip: np.ndarray, colour: np.ndarray) -> bool:
        return bool((np.abs(strip - colour) <= tolerance).all())

    while top < bottom and plain(pixels[top, left:right], first):
        top += 1
    while bottom > top and plain(pixels[bottom - 1, left:right], last):
        bottom -= 1
    while left < right and plain(pixels[top:bottom, left], first):
        left += 1
    while right > left and plain(pixels[top:bottom, right - 1], last):
        right -= 1
    return picture.crop((left, top, right, bottom)) if top < bottom and left < right else picture


def to_uint8(images: Tensor) -> Tensor:
    """(N, 3, H, W) in [-1, 1] to uint8 (N, H, W, 3) on the CPU."""
    return images.float().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()


def save_png(image: np.ndarray, path: Path) -> None:
    """Write uint8 (H, W, 3) as PNG, aside and then renamed."""
    with replacing(path) as temporary:
        Image.fromarray(image).save(temporary, format="PNG")


def grid(images: np.ndarray, columns: int, padding: int = 2) -> np.ndarray:
    """Pictures uint8 (N, H, W, 3) side by side on white, `columns` a row."""
    rows = -(-len(images) // columns)
    return montage(images, grid_shape=(rows, columns), padding_width=padding, fill=(255, 255, 255), channel_axis=-1)


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int, most: int = 4) -> list[str]:
    """A text broken into at most `most` lines of `width` pixels."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines[:most]


def captioned(images: np.ndarray, captions: Sequence[str], scale: int = 2) -> np.ndarray:
    """A row of pictures for each caption, the caption above it; uint8 (N, R, R, 3), N a multiple of the captions."""
    columns = len(images) // len(captions)
    rows = []
    for number, caption in enumerate(captions):
        row = Image.fromarray(grid(images[number * columns : (number + 1) * columns], columns))
        row = row.resize((row.width * scale, row.height * scale), Image.Resampling.LANCZOS)
        font = ImageFont.load_default(size=14)
        lines = _wrapped(caption, font, row.width - 12)
        sheet = Image.new("RGB", (row.width, row.height + 18 * len(lines) + 8), "white")
        ImageDraw.Draw(sheet).multiline_text((6, 4), "\n".join(lines), fill="black", font=font, spacing=3)
        sheet.paste(row, (0, sheet.height - row.height))
        rows.append(sheet)
    whole = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white")
    top = 0
    for sheet in rows:
        whole.paste(sheet, (0, top))
        top += sheet.height
    return np.asarray(whole)
