"""``stackflower train-text``: train a text encoder before the GAN."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from stackflower.commands.console import Command, show
from stackflower.commands.options import (
    DATA_HELP,
    Finite,
    format_examples,
    json_option,
    parse_part_options,
    seed_option,
    settings_option,
)


@click.command(
    cls=Command,
    epilog=format_examples(
        "stackflower train-text --data my-flowers --out words",
        "stackflower train-text --data my-flowers --text char-cnn-rnn --epochs 30 --out characters",
        "stackflower train --stage 1 --data my-flowers --text words",
        "stackflower train-text --data my-flowers --loss damsm --out damsm",
        "stackflower train --stage 1 --data my-flowers --recipe attngan-mini --text damsm --penalty damsm=5",
    ),
)
@click.option("--data", required=True, help=f"Captioned data: {DATA_HELP}")
@click.option("--out", metavar="DIR", required=True, help="New folder for the encoder, to pass to --text.")
@click.option("--text", default="rnn", show_default=True, metavar="NAME", help="Text encoder: rnn or char-cnn-rnn.")
@click.option("--epochs", type=click.IntRange(1), default=20, show_default=True, help="Number of passes over the data.")
@click.option("--batch-size", type=click.IntRange(2), default=64, show_default=True, help="Batch size.")
@click.option(
    "--lr",
    type=Finite(0, min_open=True),
    help="Learning rate. Default: 0.001, or 0.002 with --loss damsm.",
)
@click.option(
    "--loss",
    type=click.Choice(["ranking", "damsm"]),
    default="ranking",
    show_default=True,
    help="ranking: the encoder's own loss. damsm: match words and regions, as in AttnGAN; also writes an image encoder "
    "for the penalty and the extractor damsm.",
)
@click.option(
    "--features",
    metavar="NAME",
    help="Frozen network of the image encoder of --loss damsm, or none to train a small one. Default: "
    "efficientnet-lite0 if the extra features is installed, otherwise none.",
)
@seed_option
@settings_option("An option of text, data, features or damsm.", "text.OPTION=VALUE")
@json_option
def train_text(
    data: str,
    out: str,
    text: str,
    loss: str,
    features: str | None,
    settings: tuple[str, ...],
    as_json: bool,
    **numbers: Any,
) -> None:
    """Train a text encoder before the GAN.

    It learns to match the images and captions of a data set.
    """
    from stackflower.data.opening import source_part
    from stackflower.training.text import Schedule, choose_objective
    from stackflower.training.text import train_text as fit

    options = parse_part_options(settings, ("text", "data", "features", "damsm"), "text.dim=256")
    source = {**(source_part(data) or {}), **options["data"]}
    objective = choose_objective(loss, features, options["features"], options["damsm"])
    about, summary = fit(source, {"name": text, **options["text"]}, Path(out), Schedule(**numbers), objective)
    penalty = " --penalty damsm=5" if loss == "damsm" else ""
    show(about, as_json, lambda: f"{summary}\nUse it: stackflower train --stage 1 --text {out}{penalty}")
