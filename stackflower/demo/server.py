"""Serve the demo until it is interrupted."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from stackflower.demo.app import build_app, build_follow_app, get_appearance, require_gradio
from stackflower.demo.models import Models
from stackflower.demo.requests import FormatCommand
from stackflower.errors import ConfigError
from stackflower.runs.folder import Run

logger = logging.getLogger(__name__)

FIRST_PORT, PORTS = 7860, 100  # gradio's default and the number of ports to try
# variables that gradio reads when it is imported or an app is created
TEMPORARY_FOLDER = "GRADIO_TEMP_DIR"
ENVIRONMENT = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}


def choose_port(host: str, port: int | None) -> int:
    """Return the port to listen at: the given one, or the first free one from 7860.

    Args:
        host: address to listen at.
        port: chosen port, if any.

    Raises:
        ConfigError: the port is in use or may not be used, or the address is not one of this machine.
    """
    candidates = [port] if port is not None else range(FIRST_PORT, FIRST_PORT + PORTS)
    problem: OSError | None = None
    for candidate in candidates:
        try:
            family = socket.getaddrinfo(host, candidate, type=socket.SOCK_STREAM)[0][0]
            with closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, candidate))
            return candidate
        except OSError as error:
            problem = error
    reason = (problem.strerror or str(problem)) if problem is not None else ""
    which = f"Port {port}" if port is not None else f"Ports {FIRST_PORT} to {FIRST_PORT + PORTS - 1}"
    raise ConfigError(f"{which} of {host} can't be used: {reason}. Choose another `port`.")


@contextmanager
def serving(
    models: Models | None,
    format_command: FormatCommand,
    *,
    follow: Run | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    share: bool = False,
) -> Iterator[str]:
    """Serve the demo inside a ``with`` block.

    Args:
        models: models of the demo; None with `follow`.
        format_command: function that formats the command that reproduces a request.
        follow: run whose training to follow instead of drawing images.
        host: address to listen at; the default is reachable from this machine only.
        port: port to listen at. Default: the first free one from 7860.
        share: also create a public link through the servers of gradio.

    Yields:
        The address of the page.

    Raises:
        MissingDependency: gradio is not installed.
        ConfigError: the port is in use.
        StackflowerError: the first model can't be opened, or the folder is not a run.
    """
    with _environment(), tempfile.TemporaryDirectory(prefix="stackflower-demo-", ignore_cleanup_errors=True) as folder:
        os.environ[TEMPORARY_FOLDER] = folder
        require_gradio()
        port = choose_port(host, port)
        if follow is not None:
            app = build_follow_app(follow)
        else:
            assert models is not None
            app = build_app(models, Path(folder) / "results", format_command)
        _, address, link = app.launch(
            server_name=host,
            server_port=port,
            share=share,
            prevent_thread_lock=True,
            quiet=True,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            footer_links=["api"],
            max_file_size="1mb",
            allowed_paths=[] if follow is None else [str(follow.samples.absolute()), str(follow.samples.resolve())],
            **get_appearance(),
        )
        try:
            if share and not link:
                logger.warning("The public link could not be created; the demo is reachable from this machine only.")
            yield link or address
        finally:
            app.close(verbose=False)


def wait_forever() -> None:
    """Wait until the process is interrupted."""
    threading.Event().wait()


@contextmanager
def _environment() -> Iterator[None]:
    """Set gradio's variables in the block, and restore the environment afterwards."""
    before = {name: os.environ.get(name) for name in (*ENVIRONMENT, TEMPORARY_FOLDER)}
    os.environ.update(ENVIRONMENT)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
