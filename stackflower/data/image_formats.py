"""Detection of image formats, by name and by the first bytes."""

from __future__ import annotations

import importlib
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE, getincrementaldecoder
from contextlib import suppress
from pathlib import Path, PurePosixPath
from posixpath import splitext

from PIL import features

HEAD_SIZE = 32  # bytes that identify an image format
TEXT_HEAD_SIZE = 1024  # bytes that identify the kind of a text file
LFS_HEAD = b"version https://git-lfs"
CONVERSION_ADVICE = "which can't be read; convert it to JPEG or PNG"


def _find_optional_formats() -> dict[str, str]:
    """Return the extensions of image formats that only some installations of Pillow can read, by format."""
    formats = {}
    if "avif" in features.modules and features.check("avif"):  # Pillow 11.3 or later
        formats["AVIF"] = ".avif"
    with suppress(ImportError):
        importlib.import_module("pillow_jxl")  # registers the format with Pillow
        formats["JXL"] = ".jxl"
    return formats


OPTIONAL_FORMATS = _find_optional_formats()
EXTENSIONS = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".pjp", ".jif"),
        *(".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".pbm", ".pnm"),
        *OPTIONAL_FORMATS.values(),
    }
)
# Other formats are refused because some run programs: EPS runs Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", *OPTIONAL_FORMATS)

OTHER_IMAGES = frozenset({".heic", ".heif", ".jxl", ".avif", ".psd", ".svg", ".tga"})  # not always readable

# Raw files of cameras are TIFF files with a thumbnail, which Pillow would read instead of the photograph.
RAW_EXTENSIONS = frozenset({".dng", ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".orf", ".rw2", ".pef", ".srw", ".raf"})

# Extensions of other files in data sets, which need not be read to know that they are not images.
OTHER_EXTENSIONS = frozenset(
    {
        *(".txt", ".text", ".caption", ".md", ".rst", ".html", ".htm", ".pdf", ".log", ".tex", ".bib"),
        *(".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".xml", ".yaml", ".yml", ".toml", ".ini", ".cfg"),
        *(".parquet", ".arrow", ".feather", ".db", ".sqlite", ".sqlite3", ".xlsx", ".xls", ".h5", ".hdf5", ".lmdb"),
        *(".npy", ".npz", ".mat", ".pickle", ".pkl", ".t7", ".tfrecord"),
        *(".safetensors", ".pt", ".pth", ".ckpt", ".onnx", ".gguf", ".index"),
        *(".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar"),
        *(".py", ".pyc", ".ipynb", ".sh", ".lua", ".bat", ".m"),
        *(".mp4", ".mov", ".avi", ".mkv", ".webm", ".mp3", ".wav", ".svg"),
        *RAW_EXTENSIONS,
    }
)

MAGIC: tuple[tuple[re.Pattern[bytes], str], ...] = tuple(
    (re.compile(pattern, re.DOTALL), kind)
    for pattern, kind in (
        (rb"\xff\xd8\xff", "JPEG"),
        (rb"\x89PNG\r\n\x1a\n", "PNG"),
        (rb"GIF8[79]a", "GIF"),
        (rb"RIFF....WEBP", "WEBP"),
        # The size of the second header distinguishes a bitmap from a text that begins with "BM".
        (rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", "BMP"),
        (rb"II\*\0........CR|FUJIFILMCCD-RAW|IIRO|IIU\0", "raw"),
        (rb"II[*+]\0|MM\0[*+]", "TIFF"),
        (rb"P[1-6]\s+[#\d]", "PPM"),
        (rb"\0\0\0\x0cJXL \r\n\x87\n|\xff\x0a", "JXL"),
        (rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51", "JPEG 2000"),
        (rb"8BPS", "PSD"),
        (rb"\x76\x2f\x31\x01", "OpenEXR"),
        (rb"\0\0\x01\0[^\0]", "ICO"),
        (rb"%PDF", "PDF"),
        (rb"%!PS|\xc5\xd0\xd3\xc6", "PostScript"),
        (rb"PK\x03\x04|\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf|Rar!", "archive"),
        (rb"\x1aE\xdf\xa3|RIFF....AVI ", "video"),
        (rb"\0\x05\x16\x07", "AppleDouble"),
    )
)
REJECTION_REASONS = {
    "HEIC": f"is a HEIC image, {CONVERSION_ADVICE}",
    "JPEG 2000": f"is a JPEG 2000 image, {CONVERSION_ADVICE}",
    "PSD": f"is a Photoshop image, {CONVERSION_ADVICE}",
    "OpenEXR": f"is an OpenEXR image, {CONVERSION_ADVICE}",
    "ICO": f"is an icon, {CONVERSION_ADVICE}",
    "SVG": f"is an SVG image, {CONVERSION_ADVICE}",
    "raw": f"is a raw camera image, {CONVERSION_ADVICE}",
    "PostScript": f"is a PostScript file, {CONVERSION_ADVICE}",
    "PDF": "is a PDF file, not an image",
    "archive": "is an archive, not an image; unpack it",
    "video": "is a video, not an image",
    "AppleDouble": "is a macOS resource file, not an image; delete it",
    "Git LFS": "is a Git LFS pointer, not an image; fetch the images with `git lfs pull`",
    "web page": "is a web page, not an image; download it again",
    "text": "is a text file, not an image",
    "empty": "is empty",
    "unknown": f"is not an image in a known format ({', '.join(FORMATS)})",
}


def detect_format(head: bytes) -> str | None:
    """Detect the format of a file from its first bytes.

    Args:
        head: `HEAD_SIZE` bytes or more, or the whole file.

    Returns:
        Pillow's name of an image format, a key of `REJECTION_REASONS` for other known files, or None.
    """
    if head[4:8] == b"ftyp":
        brands = {head[8:12], *(head[start : start + 4] for start in range(16, min(len(head), HEAD_SIZE), 4))}
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        heic = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
        return "HEIC" if brands & heic else "raw" if b"crx " in brands else "video"
    return next((kind for pattern, kind in MAGIC if pattern.match(head)), None)


def decide_by_name(name: str) -> bool | None:
    """Return whether a file is an image, by the extension of its name; None for an unknown extension."""
    suffix = splitext(name)[1].lower()  # several times faster than a path object
    return True if suffix in EXTENSIONS else False if suffix in OTHER_EXTENSIONS else None


def read_head(path: Path) -> bytes:
    """Read the first bytes of a file."""
    with path.open("rb") as file:
        return file.read(HEAD_SIZE)


def explain_lfs_pointer(content: bytes) -> str | None:
    """Return the end of a sentence that says that a file is a Git LFS pointer; None for other files.

    Args:
        content: the first bytes of the file.
    """
    return "is a Git LFS pointer; fetch the file with `git lfs pull`" if content.startswith(LFS_HEAD) else None


def is_readable_image(head: bytes) -> bool:
    """Return whether a file that begins with `head` is an image in one of `FORMATS`."""
    return detect_format(head) in FORMATS


def explain_not_image(name: str, head: bytes) -> str:
    """Return what a file is if it is not a readable image, as the end of a sentence.

    Args:
        name: name of the file.
        head: its first `TEXT_HEAD_SIZE` bytes.
    """
    kind = _detect_text(head) if (detected := detect_format(head)) is None else detected
    if PurePosixPath(name).suffix.lower() in RAW_EXTENSIONS:
        kind = "raw"
    if kind in FORMATS:
        return f"has the extension of another kind of file but is a {kind} image; rename it"
    if kind in ("AVIF", "JXL"):
        return f"is {'an' if kind == 'AVIF' else 'a'} {kind} image, which the installed Pillow can't read; convert it"
    return REJECTION_REASONS[kind]


def _detect_text(head: bytes) -> str:
    """Detect the kind of a text file; return "unknown" for a binary file."""
    if not head:
        return "empty"
    if head.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        return "text"
    try:
        text = getincrementaldecoder("utf-8-sig")().decode(head)  # the head may end within a character
    except UnicodeDecodeError:
        return "unknown"
    start = text.lstrip().lower()
    if start.startswith(LFS_HEAD.decode()):
        return "Git LFS"
    if "<svg" in start:
        return "SVG"
    if start.startswith(("<!doctype html", "<html")):
        return "web page"
    return "text" if all(character.isprintable() or character.isspace() for character in text) else "unknown"
