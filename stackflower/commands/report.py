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
    help="Show N generated images beside the training images nearest to them. The page then holds training images.",
)
@click.option(
    "--out", metavar="FILE", help="The page.  [default: report.html in the run's folder; for several runs, here]"
)
@json_option
def report(runs: tuple[str, ...], nearest: int | None, out: str | None, as_json: bool) -> None:
    """Write a run's scores, images and curves as one HTML file, or those of several runs side by side."""
    from stackflower.reports.report import write_report

    written = write_report(runs, nearest or 0, out)
    show(written, as_json, lambda: str(written["report"]))
