"""Grids label captions in any script, and are written in any format with a mark."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from stackflower.data import fonts, grids
from stackflower.data.archives import open_files
from stackflower.data.fonts import find_font, normalise_text
from stackflower.data.grids import draw_captioned_grid, is_grid, save_image

IMAGES = np.zeros((2, 64, 64, 3), np.uint8)


@pytest.fixture(autouse=True)
def no_fonts_of_before() -> None:
    fonts._find_font.cache_clear()
    grids._log_numbers.cache_clear()


@pytest.fixture
def no_installed_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_list_fonts", list)


def test_the_default_font_is_used_where_it_has_the_characters(no_installed_fonts: None) -> None:
    font = find_font("a red flower", 14)
    assert font is not None and find_font("سلام", 14) is None and find_font("花", 14) is None


@pytest.mark.skipif(not features.check("raqm"), reason="Pillow can't lay out Arabic without raqm")
def test_an_installed_font_is_used_for_other_scripts() -> None:
    pytest.importorskip("matplotlib")
    for text in ("café", "красный цветок", "یک گل آبی", "λευκό → κόκκινο"):
        font = find_font(text, 14)
        assert font is not None, text
        assert all(
            font.getmask(character).size and bytes(font.getmask(character)) != bytes(font.getmask("\u0378"))
            for character in text
            if character != " "
        )


def test_a_caption_that_no_font_draws_is_labelled_by_its_number(
    no_installed_fonts: None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "stackflower"):
        unknown = draw_captioned_grid(IMAGES, ["a red flower", "红色的花"])
        draw_captioned_grid(IMAGES, ["a red flower", "红色的花"])
    assert np.array_equal(unknown, draw_captioned_grid(IMAGES, ["a red flower", "2"]))
    (record,) = caplog.records
    assert "2: 红色的花" in record.getMessage() and "1:" not in record.getMessage()


def test_letters_are_composed_and_control_characters_dropped() -> None:
    assert normalise_text("cafe\u0301\x07\tau lait") == "café au lait"


def test_a_long_word_is_broken_into_lines_that_fit() -> None:
    grid = draw_captioned_grid(IMAGES, ["w" * 60, "b"])
    first = grid[: grid.shape[0] // 2]
    assert (first[:20, -4:] == 255).all(), "the margin is free"
    assert (first[24:40, 6:-6] < 128).any(), "a second line"


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg", ".webp", ".gif", ".tif", ".PNG"])
def test_a_grid_is_marked_in_every_format(suffix: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    save_image(noise, tmp_path / f"grid{suffix}", grid=True)
    save_image(noise, tmp_path / f"image{suffix}")
    files = open_files(tmp_path)
    assert is_grid(files, f"grid{suffix}") and not is_grid(files, f"image{suffix}")
    with Image.open(tmp_path / f"grid{suffix}") as image:
        expected = {".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF"}.get(suffix, suffix[1:].upper())
        assert image.format == expected and image.size == (128, 128)
