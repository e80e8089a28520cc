"""Fonts that can draw a text in any script."""

from __future__ import annotations

import importlib.util
import os
import sys
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from PIL import ImageFont, features

FONT_SUFFIXES = (".ttf", ".otf", ".ttc")
UNASSIGNED = "\u0378"  # an unassigned code point, which fonts draw as a missing glyph
MAX_FONTS = 5_000  # number of fonts to try for a text
# These fonts draw a box with the name of the script, or nothing, for every character.
PLACEHOLDER_FONTS = ("lastresort", "blank", "notdef", "fallback", "unifont_")


def find_font(text: str, size: int) -> ImageFont.FreeTypeFont | None:
    """Find a font that has all characters of a text: Pillow's, Matplotlib's if installed, or one of the system.

    Args:
        text: text, as returned by `normalise_text`.
        size: height of the font in pixels.

    Returns:
        The font; None if no font has all characters, or if the script can't be laid out: Arabic and Indic scripts
        require Pillow's feature ``raqm``.
    """
    return _find_font(frozenset(text), size)


def normalise_text(text: str) -> str:
    """Compose letters and their accents, and drop control characters, which have no glyph."""
    composed = unicodedata.normalize("NFC", text)
    return "".join(" " if character.isspace() else character for character in composed if _is_shown(character))


def _is_shown(character: str) -> bool:
    return character.isspace() or unicodedata.category(character) not in ("Cc", "Cs")


@cache
def _find_font(characters: frozenset[str], size: int) -> ImageFont.FreeTypeFont | None:
    drawn = sorted(character for character in characters if unicodedata.category(character) not in ("Zs", "Cf"))
    if any(map(_needs_layout, characters)) and not _can_lay_out():
        return None
    default = ImageFont.load_default(size=size)
    if isinstance(default, ImageFont.FreeTypeFont) and _has_glyphs(default, drawn):
        return default
    for number, path in enumerate(_list_fonts()):
        if number == MAX_FONTS:
            break
        try:
            plain = ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)
            if _has_glyphs(plain, drawn):
                return ImageFont.truetype(path, size)
        except (OSError, ValueError):  # not a font, or a bitmap font of other sizes
            continue
    return None


def _has_glyphs(font: ImageFont.FreeTypeFont, characters: list[str]) -> bool:
    """Return whether a font has a glyph for each character, by comparison with a missing glyph."""
    missing = _draw(font, UNASSIGNED)
    return all(_draw(font, character) != missing for character in characters)


def _draw(font: ImageFont.FreeTypeFont, character: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(character)
    return mask.size, bytes(mask)


def _needs_layout(character: str) -> bool:
    """Return whether the position or shape of a character depends on its neighbours."""
    return unicodedata.bidirectional(character) in ("R", "AL", "AN") or unicodedata.category(character) in ("Mn", "Mc")


def _can_lay_out() -> bool:
    return bool(features.check("raqm") and features.check("fribidi"))


@cache
def _list_fonts() -> list[str]:
    """List the font files, upright ones of regular weight first."""
    files = [
        path
        for folder in _list_font_folders()
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in FONT_SUFFIXES and not path.name.lower().startswith(PLACEHOLDER_FONTS)
    ]
    matplotlib = importlib.util.find_spec("matplotlib")
    if matplotlib is not None and matplotlib.origin is not None:
        bundled = Path(matplotlib.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        return [str(path) for path in (bundled, *sorted(files, key=_rank))]
    return [str(path) for path in sorted(files, key=_rank)]


def _rank(path: Path) -> tuple[bool, bool]:
    name = path.stem.lower()
    slanted_or_heavy = any(word in name for word in ("bold", "italic", "oblique", "light", "thin", "black", "mono"))
    return slanted_or_heavy, "sans" not in name


def _list_font_folders() -> Iterator[Path]:
    """Yield the existing font folders of this system."""
    home = Path(os.path.expanduser("~"))
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        folders = [Path(os.environ.get("WINDIR", r"C:\Windows")) / "Fonts"]
        folders += [Path(local) / "Microsoft" / "Windows" / "Fonts"] if local else []
    elif sys.platform == "darwin":
        folders = [home / "Library" / "Fonts", Path("/Library/Fonts"), Path("/System/Library/Fonts")]
    else:
        shared = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
        own = os.environ.get("XDG_DATA_HOME") or home / ".local" / "share"
        folders = [Path(own) / "fonts", home / ".fonts", *(Path(part) / "fonts" for part in shared.split(":") if part)]
    yield from (folder for folder in folders if folder.is_dir())
