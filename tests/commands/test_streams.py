"""Commands print to any stream: closed, full, broken, and in any encoding."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TINY

posix = pytest.mark.skipif(os.name != "posix", reason="descriptors and /dev/full of POSIX")


def run(*arguments: str, redirect: str = "", cwd: Path | None = None, **environment: str) -> tuple[int, bytes, bytes]:
    """Run a command in a shell with redirections; return its exit code, stdout and stderr."""
    environment = {**os.environ, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", **environment}
    script = f'exec "$0" -m stackflower "$@" {redirect}'
    done = subprocess.run(
        ["sh", "-c", script, sys.executable, *arguments], env=environment, cwd=cwd, capture_output=True
    )
    assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


@posix
@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "ascii"])
def test_characters_that_the_stream_can_not_encode_are_replaced(encoding: str) -> None:
    code, out, _ = run("ls", "text", PYTHONIOENCODING=encoding)
    _, expected, _ = run("ls", "text", PYTHONIOENCODING="utf-8")
    assert code == 0 and out.decode(encoding) == expected.decode().encode(encoding, "replace").decode(encoding)
    code, _, err = run("ls", "blüten→花", PYTHONIOENCODING=encoding)
    assert code == 2 and "花" not in err.decode(encoding, "replace")


@posix
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("redirect", "warned"),
    [
        ("<&-", False),
        (">&-", False),
        ("2>&-", False),
        ("<&- >&- 2>&-", False),
        (">/dev/full", True),
        ("2>/dev/full", False),
    ],
)
def test_streams_that_are_closed_or_full_do_not_change_the_exit_code(
    redirect: str, warned: bool, unbuffered: str
) -> None:
    code, _, err = run("ls", "recipe", redirect=redirect, PYTHONUNBUFFERED=unbuffered)
    assert code == 0 and (b"Warning: The output can't be written: No space left on device." in err) is warned
    assert run("ls", "nothing", redirect=redirect, PYTHONUNBUFFERED=unbuffered)[0] == 2


@posix
def test_a_training_whose_streams_are_closed_writes_its_files_only(tmp_path: Path) -> None:
    arguments = ("train", "--out", "run", "--images", "16", *TINY)
    code, out, err = run(*arguments, redirect="<&- >&- 2>&-", cwd=tmp_path)
    assert (code, out, err) == (0, b"", b"")
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        assert "images" in json.loads(line), "no message is written into a file with the descriptor of a stream"


@posix
def test_captions_in_the_c_locale_are_utf_8(tmp_path: Path) -> None:
    assert run("train", "--out", "run", "--images", "16", *TINY, cwd=tmp_path)[0] == 0
    code, out, err = run("sample", "run", "eine blüte → 花", "--json", cwd=tmp_path, LC_ALL="C")
    assert code == 0, err
    assert json.loads(out)["captions"] == ["eine blüte → 花"]
    written = json.loads((tmp_path / "run" / "generated" / "metadata.jsonl").read_text(encoding="utf-8"))
    assert written["text"] == "eine blüte → 花"


@posix
def test_a_home_that_does_not_exist_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    from stackflower.cli import main

    def expanduser(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", expanduser)
    result = CliRunner().invoke(main, ["data", "check", "~/flowers"])
    assert result.exit_code == 2 and "Error: Can't expand ~ in a path: HOME is not set" in result.output
