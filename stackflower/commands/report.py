"""``stackflower report``: write runs as one HTML page."""

from __future__ import annotations

import click

from stackflower.commands.console import Command, show
from stackflower.commands.options import format_examples, json_option


@click.command(
    cls=Command,
    epilog=format_examples(
        "stackflower report runs/quickstart-1",
        "stackflower report runs/photographs-1 --nearest 16",
        "stackflower report runs/quickstart-1 runs/photographs-1 --out both.html",
    ),
)
@click.argument("runs", metavar="RUN...", nargs=-1, required=True)
@click.option(
    "--nearest",
    type=click.IntRange(1, 256),
    metavar="N",
    help="Show N generated images beside their nearest training images, which the page then contains.",
)
@click.option(
    "--out",
    metavar="FILE",
    help="File for the page.  [default: report.html in the run's folder or, for several runs, in this folder]",
)
@json_option
def report(runs: tuple[str, ...], nearest: int | None, out: str | None, as_json: bool) -> None:
    """Write the scores, images and curves of a run, or of several side by side, as one HTML file."""
    from stackflower.reports.report import write_report

    written = write_report(runs, nearest or 0, out)
    show(written, as_json, lambda: str(written["report"]))
