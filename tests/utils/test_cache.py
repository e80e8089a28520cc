"""The cache folder: chosen, in the home folder, or in the temporary folder."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

import pytest

from stackflower.errors import DataError
from stackflower.utils import cache


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the default cache, and use a temporary folder of the test."""
    monkeypatch.delenv("STACKFLOWER_CACHE", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    cache._find_default_cache.cache_clear()
    yield
    cache._find_default_cache.cache_clear()


def test_the_cache_is_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    assert cache.make_cache_folder("prepared") == tmp_path / "home" / ".cache" / "stackflower" / "prepared"


def no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


def read_only_home() -> Path:
    return Path("/proc/self/no-folder-can-be-made-here")


@pytest.mark.skipif(os.name != "posix", reason="users of POSIX")
@pytest.mark.parametrize("home", [no_home, read_only_home])
def test_without_a_home_that_can_be_written_the_cache_is_in_the_temporary_folder(
    home: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Path, "home", home)
    with caplog.at_level(logging.WARNING):
        folder = cache.make_cache_folder("prepared")
        assert cache.make_cache_folder("prepared") == folder
    assert folder == tmp_path / f"stackflower-{os.getuid()}" / "prepared" and folder.is_dir()
    assert folder.parent.stat().st_mode & 0o777 == 0o700
    assert len(caplog.records) == 1 and "STACKFLOWER_CACHE" in caplog.records[0].getMessage()


@pytest.mark.skipif(os.name != "posix", reason="users of POSIX")
def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", no_home)
    user = os.getuid()
    (tmp_path / f"stackflower-{user + 1}").mkdir()
    monkeypatch.setattr(os, "getuid", lambda: user + 1)
    with pytest.raises(DataError, match="it belongs to another user"):
        cache.make_cache_folder("prepared")


def test_a_chosen_cache_that_can_not_be_written_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STACKFLOWER_CACHE", "/proc/self/no-folder-can-be-made-here")
    with pytest.raises(DataError, match="can't be written"):
        cache.make_cache_folder("prepared")
