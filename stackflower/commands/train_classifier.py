"""``stackflower train-classifier``: train a classifier to evaluate runs with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from stackflower.commands.console import Command, show
from stackflower.commands.options import (
    DATA_HELP,
    format_examples,
    json_option,
    parse_part_options,
    seed_option,
    settings_option,
)
from stackflower.errors import ConfigError


@click.command(
    cls=Command,
    epilog=format_examples(
        "stackflower train-classifier --data my-flowers --out flowers.safetensors",
        "stackflower train-classifier --data my-flowers --text ngram --out flowers.safetensors",
        "stackflower train-classifier --data my-flowers --features efficientnet-lite0 --out flowers.safetensors",
        "stackflower train-classifier --data my-flowers --out quick.safetensors --network plain --epochs 10",
    ),
)
@click.option("--data", required=True, help=f"Labelled or captioned data: {DATA_HELP}")
@click.option("--out", metavar="FILE", required=True, help="File for the classifier.")
@click.option("--resolution", type=click.IntRange(16), default=64, show_default=True, help="Input size in pixels.")
@click.option(
    "--network", type=click.Choice(["resnet18", "plain"]), default="resnet18", show_default=True, help="Architecture."
)
@click.option(
    "--features",
    metavar="NAME",
    help="Train a layer on top of this pretrained network (a part of the kind features) instead of --network.",
)
@click.option("--fine-tune", is_flag=True, help="With --features: also train that network, for a few passes.")
@click.option(
    "--text", metavar="NAME|MODEL", help="Also learn to match captions, embedded by this encoder, for R-precision."
)
@click.option(
    "--epochs",
    type=click.IntRange(1),
    help="Number of passes over the data.  [default: 45; 60 with --features, 6 with --fine-tune, 30 for plain]",
)
@click.option(
    "--augmentation",
    type=click.Choice(["light", "strong"]),
    help="light: crops and mirroring; strong: in addition rotation, relighting and mixing.  "
    "[default: strong for resnet18, else light]",
)
@click.option(
    "--split",
    type=click.Choice(["train", "validation", "test"]),
    default="train",
    show_default=True,
    help="Split to train on; a protocol such as StackGAN's needs a classifier of the test classes.",
)
@seed_option
@settings_option("An option of data or features.")
@json_option
def train_classifier(
    data: str,
    out: str,
    features: str | None,
    text: str | None,
    settings: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Train a classifier to evaluate runs with.

    It learns the labels and attributes of a data set, and with --text its captions.
    """
    from stackflower.data.opening import open_source
    from stackflower.evaluation.classifier.training import ClassifierRequest
    from stackflower.evaluation.classifier.training import train_classifier as train
    from stackflower.runs.trained_text import find_text_encoder

    part_options = parse_part_options(settings, ("data", "features"), "data.skip_bad=true")
    if (part_options["features"] or options["fine_tune"]) and features is None:
        flag = "--fine-tune" if options["fine_tune"] else "--set features.OPTION"
        raise ConfigError(f"{flag} needs --features NAME.")
    part = None if features is None else {"name": features, **part_options["features"]}
    source = open_source(data, part_options["data"])
    request = ClassifierRequest(data, features=part, text=find_text_encoder(text), **options)
    model = train(source, Path(out), request)
    show(
        {"out": out, **model.held_out},
        as_json,
        lambda: f"{out}: {format_accuracies(model.held_out) or 'no held-out split to measure it on'}",
    )


def format_accuracies(held_out: dict[str, Any]) -> str:
    """Format the held-out accuracies of a classifier as one line."""
    parts = [f"held-out accuracy of {name} {value:.4f}" for name, value in held_out.get("accuracy", {}).items()]
    parts += [f"R-precision {held_out['r_precision']:.4f}"] if "r_precision" in held_out else []
    return ", ".join(parts)
