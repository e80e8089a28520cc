"""Files that the demo offers to download: images with the command that reproduces them, and animations."""

from __future__ import annotations

import re
import uuid
import zipfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

MIN_ANIMATION_SIZE = 256  # pixels; smaller frames are enlarged
FRAME_MILLISECONDS = 90
ANIMATIONS = ("GIF", "WebP")


def make_file_stem(caption: str) -> str:
    """Turn a caption into the beginning of a file name, in ASCII.

    Example:
        >>> make_file_stem("A red flower, with <b>petals</b>")
        'a-red-flower-with-b-petals-b'
    """
    return re.sub(r"[^a-z0-9]+", "-", caption.lower())[:48].strip("-") or "image"


def make_result_folder(root: Path) -> Path:
    """Create a folder for the files of one request.

    Args:
        root: folder of the demo's files.
    """
    folder = root / uuid.uuid4().hex
    folder.mkdir(parents=True)
    return folder


def write_images(images: Sequence[Image.Image], folder: Path, stem: str, command: str = "") -> list[str]:
    """Write images as PNG files.

    Args:
        images: the images.
        folder: existing folder.
        stem: beginning of the file names.
        command: command that reproduces the images, for the PNG text "Comment".

    Returns:
        The paths.
    """
    text = PngInfo()
    if command:
        text.add_itxt("Comment", command)
    paths = [folder / f"{stem}-{number:02d}.png" for number in range(len(images))]
    for image, path in zip(images, paths, strict=True):
        image.save(path, pnginfo=text)
    return [str(path) for path in paths]


def write_archive(paths: Sequence[str], folder: Path, stem: str, command: str) -> str:
    """Write a zip archive of images, with the command that reproduces them in ``command.txt``.

    Args:
        paths: paths of the images.
        folder: existing folder.
        stem: name of the archive without its suffix.
        command: command that reproduces the images.

    Returns:
        The path of the archive.
    """
    archive = folder / f"{stem}.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in paths:
            file.write(path, Path(path).name)
        file.writestr("command.txt", command + "\n")
    return str(archive)


def write_animation(images: Sequence[Image.Image], folder: Path, stem: str, kind: str) -> str:
    """Write an animation that plays the frames forwards and backwards, forever.

    Args:
        images: frames, at least two.
        folder: existing folder.
        stem: name of the file without its suffix.
        kind: one of `ANIMATIONS`.

    Returns:
        The path of the animation.
    """
    scale = max(1, -(-MIN_ANIMATION_SIZE // images[0].width))
    size = (images[0].width * scale, images[0].height * scale)
    frames = [image.resize(size, Image.Resampling.BICUBIC) for image in (*images, *images[-2:0:-1])]
    path = folder / f"{stem}.{kind.lower()}"
    options = {"quality": 90} if kind == "WebP" else {}
    frames[0].save(path, kind, save_all=True, append_images=frames[1:], duration=FRAME_MILLISECONDS, loop=0, **options)
    return str(path)
