"""Conversion of images from files to arrays and back."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import (
    Image,
    ImageEnhance,
    ImageOps,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401 - Pillow reads the formats that are imported
)
from skimage.util import montage
from torch import Tensor

from stackflower.data.image_formats import FORMATS, TEXT_HEAD_SIZE, detect_format, explain_not_image
from stackflower.errors import ConfigError, DataError
from stackflower.utils.atomic import replacing

TIFF_BITS, TIFF_PHOTOMETRIC, TIFF_SAMPLE_FORMAT = 258, 262, 339  # tags
WHITE_IS_ZERO, SIGNED = 0, 2  # values of the last two tags
MAX_PIXELS = 200_000_000  # larger images are treated as decompression bombs


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to 8-bit RGB; 16 bits are scaled down, transparent pixels are laid over white.

    Raises:
        DataError: the range of the pixels is unknown (see `find_range`).
    """
    if _is_deep(image):
        return reduce_depth(image, *find_range(image)).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _is_deep(image: Image.Image) -> bool:
    """Return whether the pixels of an image are other than 8-bit unsigned integers or single bits."""
    return image.mode.startswith(("I", "F")) or SIGNED in _get_tags(image).get(TIFF_SAMPLE_FORMAT, ())


def _get_tags(image: Image.Image) -> Mapping[int, Any]:
    """Return the tags of an image that was opened from a TIFF file; none for other images."""
    return image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}


def find_range(image: Image.Image) -> tuple[int, int]:
    """Return the values of black and white pixels of a high-bit image.

    They follow from the format of the file, never from the pixels, so that a dark image stays dark.

    Args:
        image: image as opened; a copy does not know its format.

    Raises:
        DataError: the format does not state the range: pixels are floating-point, signed, or have 32 bits.
    """
    tags = _get_tags(image)
    if image.mode.startswith("I;16"):
        highest = int(2 ** tags.get(TIFF_BITS, (16,))[0] - 1)
        return (highest, 0) if tags.get(TIFF_PHOTOMETRIC) == WHITE_IS_ZERO else (0, highest)
    if image.mode == "I" and image.format in ("PNG", "PPM"):  # Pillow gives the 16 bits of these formats in 32
        return 0, 65535
    signed = SIGNED in tags.get(TIFF_SAMPLE_FORMAT, ())
    kind = "floating-point" if image.mode == "F" else "signed" if signed else "32-bit"
    raise DataError(
        f"it has {kind} pixels, whose range is unknown; scale them to 0 to 255 and save the image as an 8-bit PNG file."
    )


def reduce_depth(image: Image.Image, black: int, white: int) -> Image.Image:
    """Convert a greyscale image with pixels from `black` to `white` to 8 bits."""
    values = np.abs(np.asarray(image).astype(np.int64) - black).clip(0, highest := abs(white - black))
    return Image.fromarray(((values * 255 + highest // 2) // highest).astype(np.uint8))


@contextmanager
def open_image(file: Path | BinaryIO) -> Iterator[Image.Image]:
    """Open an untrusted image, in one of `FORMATS` and of at most `MAX_PIXELS` pixels.

    Args:
        file: path or binary file.

    Raises:
        DataError: the image has more pixels.
        OSError: the file can't be read or is in another format.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            with Image.open(file, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    size = f"{image.width:,}×{image.height:,}"
                    raise DataError(f"it has {size} pixels, and the limit is {MAX_PIXELS:,}; make it smaller.")
                yield image
        except Image.DecompressionBombError as error:
            raise DataError(f"{error}; make it smaller.") from error


def load_square(
    path: Path,
    size: int,
    trim: bool = False,
    content: bytes | None = None,
    box: tuple[float, float, float, float] | None = None,
) -> np.ndarray:
    """Load the central square of an image file, resampled with an antialiased Lanczos filter.

    Args:
        path: the image file.
        size: height and width of the result.
        trim: crop borders of one colour first (see `crop_border`).
        content: bytes of the file, if it is part of another file; `path` is then only its name in messages.
        box: left, top, right and bottom, in pixels, of the part to use; what lies outside the image is ignored.

    Returns:
        RGB pixels, uint8 (size, size, 3).

    Raises:
        DataError: the file is not an image, is truncated, or has more than `MAX_PIXELS` pixels; the message names it.
    """
    try:
        with open_image(path if content is None else io.BytesIO(content)) as image:
            # A large JPEG file is decoded at a fraction of its size, which is faster.
            if box is None:
                image.draft("RGB", (size * 2, size * 2))
            limits = find_range(image) if _is_deep(image) else None
            upright = ImageOps.exif_transpose(image)
            upright = upright if limits is None else reduce_depth(upright, *limits)
            upright = upright if box is None else _crop(upright, box)
            upright = crop_border(upright) if trim else upright
            square = ImageOps.fit(to_rgb(upright), (size, size), Image.Resampling.LANCZOS)
        return np.asarray(square)
    except DataError as error:
        raise DataError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{path} can't be read as an image: it {_explain_unidentified(path, content)}.") from error
    except Exception as error:  # decoders raise any exception for a damaged file: EOFError, struct.error, KeyError …
        reason = str(error).replace(str(path), "it")
        raise DataError(f"{path} can't be read as an image: {reason}.") from error


def _explain_unidentified(path: Path, content: bytes | None) -> str:
    """Explain what Pillow could not identify: the end of a sentence."""
    if content is None:
        with path.open("rb") as file:
            content = file.read(TEXT_HEAD_SIZE)
    head = content[:TEXT_HEAD_SIZE]
    kind = detect_format(head)
    return f"is a damaged {kind} image" if kind in FORMATS else explain_not_image(path.name, head)


def _crop(image: Image.Image, box: tuple[float, float, float, float]) -> Image.Image:
    """Crop an image to the part of a box that lies inside it.

    Raises:
        DataError: the box lies outside the image.
    """
    left, top = (max(0, round(edge)) for edge in box[:2])
    right, bottom = min(image.width, round(box[2])), min(image.height, round(box[3]))
    if right <= left or bottom <= top:
        raise DataError(f"its box {', '.join(f'{edge:g}' for edge in box)} lies outside the image.")
    return image.crop((left, top, right, bottom))


def sharpen(image: np.ndarray, factor: float) -> np.ndarray:
    """Sharpen or blur an image, uint8 (H, W, 3), with Pillow's sharpness filter.

    A `factor` of 1 leaves the image unchanged, a larger one sharpens it, a smaller one blurs it.
    """
    return np.asarray(ImageEnhance.Sharpness(Image.fromarray(image)).enhance(factor))


def crop_border(image: Image.Image, tolerance: int = 12) -> Image.Image:
    """Crop rows and columns of one colour off the edges of an image.

    Args:
        image: the image. If it has only one colour, it is returned unchanged.
        tolerance: largest difference, of 255 levels, from the colour of the adjacent corner.
    """
    pixels = np.asarray(to_rgb(image)).astype(np.int16)
    top, bottom, left, right = 0, pixels.shape[0], 0, pixels.shape[1]
    first, last = pixels[0, 0], pixels[-1, -1]

    def is_plain(strip: np.ndarray, colour: np.ndarray) -> bool:
        return bool((np.abs(strip - colour) <= tolerance).all())

    while top < bottom and is_plain(pixels[top, left:right], first):
        top += 1
    while bottom > top and is_plain(pixels[bottom - 1, left:right], last):
        bottom -= 1
    while left < right and is_plain(pixels[top:bottom, left], first):
        left += 1
    while right > left and is_plain(pixels[top:bottom, right - 1], last):
        right -= 1
    return image.crop((left, top, right, bottom)) if top < bottom and left < right else image


def crop_and_flip(
    images: Tensor, index: Tensor, corner: Tensor, mirror: Tensor, upside_down: Tensor | None, resolution: int
) -> Tensor:
    """Crop and flip the images of a batch, each in its own way, in a single indexing operation.

    Args:
        images: all images, contiguous uint8 (N, S, S, 3).
        index: indices (n,) of the images to use.
        corner: top and left (2, n) of each crop.
        mirror: whether to flip each image left to right, bool (n,).
        upside_down: whether to flip each image top to bottom, bool (n,). Default: none is.
        resolution: height and width R of the crops.

    Returns:
        The crops, uint8 (n, 3, R, R), in channels-last memory format.
    """
    side, line = images.shape[1], torch.arange(resolution, device=images.device)
    across = torch.where(mirror[:, None], line.flip(0), line)
    down = line if upside_down is None else torch.where(upside_down[:, None], line.flip(0), line)
    top, left = corner
    row = index[:, None] * side + top[:, None] + down
    pixel = row[:, :, None] * side + (left[:, None] + across)[:, None]
    # One flat index takes half the time of three.
    pixels = images.view(-1, 3).index_select(0, pixel.flatten()).unflatten(0, pixel.shape)
    return pixels.permute(0, 3, 1, 2)


def to_uint8(images: Tensor) -> Tensor:
    """Convert images (N, 3, H, W) in `[-1, 1]` to uint8 (N, H, W, 3) on the CPU."""
    return images.float().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()


def save_png(image: np.ndarray, path: Path) -> None:
    """Write an image, uint8 (H, W, 3), as a PNG file, atomically."""
    with replacing(path) as temporary:
        Image.fromarray(image).save(temporary, format="PNG")


def tile(images: np.ndarray, columns: int, padding: int = 2) -> np.ndarray:
    """Tile images, uint8 (N, H, W, 3), on a white background, `columns` per row."""
    rows = -(-len(images) // columns)
    return montage(images, grid_shape=(rows, columns), padding_width=padding, fill=(255, 255, 255), channel_axis=-1)


def grid(images: Sequence[Image.Image], columns: int = 8) -> Image.Image:
    """Join images of one size into one, row by row.

    Args:
        images: one or more images.
        columns: images per row.

    Returns:
        One image; the rest of an incomplete last row is white.

    Raises:
        ConfigError: `images` is empty, sizes differ, or `columns` is less than 1.

    Example:
        >>> tiles = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue", "white")]
        >>> grid(tiles, columns=2).size
        (128, 128)
    """
    if not images:
        raise ConfigError("A grid needs at least one image.")
    if columns < 1:
        raise ConfigError(f"`columns` must be at least 1, got {columns}.")
    sizes = {image.size for image in images}
    if len(sizes) > 1:
        raise ConfigError(f"A grid needs images of one size, got {', '.join(f'{w}×{h}' for w, h in sorted(sizes))}.")
    pixels = np.stack([np.asarray(image.convert("RGB")) for image in images])
    return Image.fromarray(tile(pixels, min(columns, len(images)), padding=0))
