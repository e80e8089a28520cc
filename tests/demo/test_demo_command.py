"""The command ``stackflower demo``: mistakes, many calls at once, and stopping."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from conftest import find_free_port, posix
from PIL import Image

from stackflower.pipeline import Pipeline

COLORS = ("red", "blue", "white", "purple", "orange", "pink", "yellow", "tiny")


def test_missing_gradio_names_the_extra(stackflower, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    out = stackflower("demo", trained, code=2).output
    assert 'stackflower demo needs gradio: pip install "stackflower[demo]"' in out


def test_mistakes_get_a_sentence(stackflower, trained: Path) -> None:
    assert "runs/ contains none" in stackflower("demo", "--follow", code=2).output
    assert "--follow takes one run, got 2." in stackflower("demo", trained, "a", "--follow", code=2).output


@pytest.mark.extras
def test_a_port_in_use_gets_a_sentence(stackflower, trained: Path) -> None:
    pytest.importorskip("gradio")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        out = stackflower("demo", trained, "--port", port, code=2).output
    assert f"Error: Port {port} of 127.0.0.1 can't be used: Address already in use. Choose another --port." in out


@pytest.mark.extras
@pytest.mark.parametrize("flags", [[], ["--follow"]])
def test_a_name_of_nothing_gets_a_sentence(stackflower, flags: list[str]) -> None:
    pytest.importorskip("gradio")
    message = "Run folder nowhere does not exist." if flags else "nowhere is not a folder, a shipped model or an id"
    assert message in stackflower("demo", "nowhere", *flags, code=2).output


@contextmanager
def running(folder: Path, *arguments: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the command in a process of its own; yield the process and the address of the page."""
    command = [sys.executable, "-m", "stackflower", "demo", *map(str, arguments), "--json"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=folder, **pipes) as process:  # type: ignore[call-overload]
        try:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            yield process, json.loads(line)["address"]
        finally:
            process.kill()


def measure_memory(process: subprocess.Popen[str]) -> float:
    """Return the largest resident memory of a process so far, in GB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1e6


@posix
@pytest.mark.extras
def test_forty_calls_at_once_are_kept_apart(trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    from gradio_client import Client

    with running(tmp_path, trained, "--port", find_free_port()) as (process, address):
        client = Client(address, verbose=False, analytics_enabled=False, download_files=str(tmp_path / "downloads"))
        calls = [(f"a {COLORS[number % 8]} flower", number) for number in range(40)]
        jobs = [client.submit(caption, images=2, seed=seed, api_name="/draw") for caption, seed in calls]
        pipeline = Pipeline.from_run(trained)
        for (caption, seed), job in zip(calls, jobs, strict=True):
            gallery, command, *_ = job.result(timeout=120)
            assert f"'{caption}'" in command and command.endswith(f"--seed {seed}")
            for item, expected in zip(gallery, pipeline(caption, per_caption=2, seed=seed), strict=True):
                image = np.asarray(Image.open(item["image"])).astype(int)
                assert np.abs(image - np.asarray(expected).astype(int)).max() <= 1
        if sys.platform == "linux":
            assert measure_memory(process) < 1.5
        client.close()
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)  # SIGINT is ignored in a process of a shell's background job
        _, err = process.communicate(timeout=60)
        assert err.endswith("Stopped.\n") and "Traceback" not in err and process.returncode == 0
        assert time.monotonic() - began < 15
