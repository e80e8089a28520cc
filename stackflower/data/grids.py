"""Image files of any format, and grids of images with their captions."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from stackflower.data.files import Files
from stackflower.data.fonts import find_font, normalise_text
from stackflower.data.image_formats import detect_format
from stackflower.data.images import tile
from stackflower.errors import ConfigError
from stackflower.utils.atomic import replacing

logger = logging.getLogger(__name__)

GRID_MARK = "Image grid drawn by Stackflower"
GRID_MARK_SIZE = 4096  # the mark is within this number of bytes of a PNG, JPEG or GIF file
TIFF_DESCRIPTION = 270  # tag
UNWRITABLE_SUFFIXES = (".heic", ".heif", ".svg", ".jxl", ".avif")  # image files even if Pillow can't write them
TEXT_SIZE, LINE_HEIGHT = 14, 18  # pixels


def names_image_file(path: Path) -> bool:
    """Return whether a path names an image file rather than a folder, by its suffix."""
    suffix = path.suffix.lower()
    return not path.is_dir() and (suffix in Image.registered_extensions() or suffix in UNWRITABLE_SUFFIXES)


def check_writable_format(path: Path) -> None:
    """Check that Pillow can write images in the format of a path's suffix.

    Raises:
        ConfigError: Pillow can't write the format.
    """
    try:
        Image.new("RGB", (16, 16)).save(io.BytesIO(), **_find_save_options(path, grid=False))
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"`out={path}`: Pillow can't write images as {path.suffix}; use another suffix, such as .png, .jpg or "
            ".webp, or name a folder."
        ) from error


def save_image(image: np.ndarray, path: Path, grid: bool = False) -> None:
    """Write an image atomically, in the format of the path's suffix.

    Args:
        image: uint8 (H, W, 3).
        path: file to write.
        grid: mark the file as a grid, which `stackflower eval` does not score (see `is_grid`).

    Raises:
        OSError: the file can't be written.
    """
    with replacing(path) as temporary:
        Image.fromarray(image).save(temporary, **_find_save_options(path, grid))


def _find_save_options(path: Path, grid: bool) -> dict[str, Any]:
    """Return the options of Pillow for a path: its format, a high quality, and the mark of a grid."""
    kind = Image.registered_extensions()[path.suffix.lower()]
    options: dict[str, Any] = {"format": kind}
    if kind in ("JPEG", "AVIF"):
        options["quality"] = 95
    elif kind == "WEBP":
        options["lossless"] = True
    if grid and kind == "PNG":
        mark = PngInfo()
        mark.add_text("Description", GRID_MARK)
        options["pnginfo"] = mark
    elif grid and kind in ("JPEG", "GIF"):
        options["comment"] = GRID_MARK
    elif grid:
        exif = Image.Exif()
        exif[TIFF_DESCRIPTION] = GRID_MARK
        options["exif"] = exif
    return options


def is_grid(files: Files, name: str) -> bool:
    """Return whether a file is marked as a grid of several images by `save_image`.

    Raises:
        DataError: the file can't be read.
    """
    head = files.head(name, GRID_MARK_SIZE)
    # Other formats store the mark after the pixels.
    whole = head if detect_format(head) in ("PNG", "JPEG", "GIF") else files.read(name)
    return GRID_MARK.encode() in whole


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int, most: int = 4) -> list[str]:
    """Wrap a text to at most `most` lines of `width` pixels, and break longer words."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for character in word if font.getlength(word) > width else [word]:
            if lines[-1] and font.getlength(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
        if len(lines) > most:
            break
    return lines[:most]


def choose_labels(captions: Sequence[str]) -> list[tuple[str, ImageFont.FreeTypeFont]]:
    """Choose a label and a font for each caption: the caption, or its number if no font has its characters.

    Log the numbers and their captions, once for the same captions.
    """
    digits = cast(ImageFont.FreeTypeFont, ImageFont.load_default(size=TEXT_SIZE))
    texts = [normalise_text(caption) for caption in captions]
    fonts = [find_font(text, TEXT_SIZE) for text in texts]
    if not all(fonts):
        _log_numbers(tuple(captions), tuple(number for number, font in enumerate(fonts) if font is None))
    return [
        (str(number + 1), digits) if font is None else (text, font)
        for number, (text, font) in enumerate(zip(texts, fonts, strict=True))
    ]


@cache
def _log_numbers(captions: tuple[str, ...], numbers: tuple[int, ...]) -> None:
    listed = "".join(f"\n  {number + 1}: {captions[number]}" for number in numbers)
    logger.warning("No installed font can draw some captions; the grid shows their numbers instead:%s", listed)


def draw_captioned_grid(images: np.ndarray, captions: Sequence[str], scale: int = 2) -> np.ndarray:
    """Draw a row of images below each caption.

    Args:
        images: images of all captions in order, uint8 (N, R, R, 3), the same number for each.
        captions: captions; a grid shows their first lines (see `choose_labels`).
        scale: factor by which the images are enlarged.

    Returns:
        One image, uint8 (H, W, 3).
    """
    columns = len(images) // len(captions)
    rows = []
    for number, (label, font) in enumerate(choose_labels(captions)):
        row = Image.fromarray(tile(images[number * columns : (number + 1) * columns], columns))
        row = row.resize((row.width * scale, row.height * scale), Image.Resampling.LANCZOS)
        lines, height = _wrap(label, font, row.width - 12), max(LINE_HEIGHT, sum(font.getmetrics()) + 1)
        sheet = Image.new("RGB", (row.width, row.height + height * len(lines) + 8), "white")
        draw = ImageDraw.Draw(sheet)
        for place, line in enumerate(lines):
            draw.text((6, 4 + place * height), line, fill="black", font=font)
        sheet.paste(row, (0, sheet.height - row.height))
        rows.append(sheet)
    page = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white")
    top = 0
    for sheet in rows:
        page.paste(sheet, (0, top))
        top += sheet.height
    return np.asarray(page)
