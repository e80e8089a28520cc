"""``stackflower demo``: draw images with trained models in the browser, or follow a training."""

from __future__ import annotations

import os
import shlex
import signal
from typing import TYPE_CHECKING, Any

import click

from stackflower.commands.console import Command, show
from stackflower.commands.options import format_examples, json_option
from stackflower.commands.streams import echo
from stackflower.errors import ConfigError, RunError

if TYPE_CHECKING:
    from stackflower.demo.requests import DrawRequest


@click.command(
    cls=Command,
    epilog=format_examples(
        "stackflower demo flowers",
        "stackflower demo runs/quickstart-1 runs/flowers --port 8000",
        "stackflower demo runs/quickstart-1 --follow",
    ),
)
@click.argument("models", metavar="[MODEL...]", nargs=-1)
@click.option("--follow", is_flag=True, help="Follow the training of one run: grids, curves and speed.")
@click.option(
    "--port", type=click.IntRange(1, 65535), help="Port of the page.  [default: the first free one from 7860]"
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen at; 0.0.0.0 makes the page reachable from other machines.",
)
@click.option("--share", is_flag=True, help="Create a public link, which anyone can open, through gradio's servers.")
@json_option
def demo(models: tuple[str, ...], follow: bool, host: str, port: int | None, share: bool, as_json: bool) -> None:
    """Draw images with trained models in the browser, or follow a training.

    MODEL is a run, a model folder, a shipped model or one of the Hugging Face Hub. By default, the demo offers all
    trained runs in runs/ and the shipped models, or follows the newest run.
    """
    from stackflower.demo.models import Models
    from stackflower.demo.server import serving, wait_forever
    from stackflower.runs.folder import Run

    names = models or find_models(follow)
    if follow and len(names) > 1:
        raise ConfigError(f"--follow takes one run, got {len(names)}.")
    run = Run(names[0]) if follow else None
    if run is not None:
        run.read_record()  # reports a folder that is not a run
        if hasattr(os, "nice"):
            os.nice(19)  # the training comes first
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # temporary files are deleted
    try:
        with serving(
            None if follow else Models(names), format_sample_command, follow=run, host=host, port=port, share=share
        ) as address:
            values = {"address": address, "models": list(names), "follow": follow}
            show(values, as_json, lambda: address)
            echo("The demo is running; stop it with Ctrl-C.", err=True)
            wait_forever()
    except KeyboardInterrupt:
        echo("Stopped.", err=True)
    finally:
        signal.signal(signal.SIGTERM, before)


def find_models(follow: bool) -> tuple[str, ...]:
    """Return the trained runs in ``runs/``, the newest first, and the shipped models; for `follow`, the newest run.

    Raises:
        RunError: no run exists to follow.
    """
    from stackflower.models.finding import list_shipped
    from stackflower.runs.folder import list_runs

    if follow:
        if not (runs := list_runs()[:1]):
            raise RunError("No run was given, and runs/ contains none. Start one with `stackflower train`.")
        return tuple(map(str, runs))
    return (*(str(run) for run in list_runs() if run.weights_file.is_file()), *list_shipped())


def format_sample_command(request: DrawRequest) -> str:
    """Format the ``stackflower sample`` command that generates the images of a request."""
    options: dict[str, Any] = {"--per-caption": request.per_caption, "--seed": request.seed}
    if request.truncation is not None:
        options["--truncation"] = f"{request.truncation:g}"
    if request.best_of > 1:
        options["--best-of"] = request.best_of
    flags = [str(part) for pair in options.items() for part in pair]
    flags += ["--side-by-side"] if request.side_by_side else []
    given = ["--", request.model, request.caption] if request.caption.startswith("-") else []
    return shlex.join(["stackflower", "sample", *([] if given else [request.model, request.caption]), *flags, *given])
