"""``stackflower train``: train a stage, or resume a training."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stackflower.commands.console import Command, show
from stackflower.commands.options import (
    DATA_HELP,
    RESUMES,
    SEED,
    Duration,
    Finite,
    format_examples,
    json_option,
    parse_settings,
    settings_option,
    threads_option,
)
from stackflower.commands.streams import decode_argument, echo
from stackflower.errors import ConfigError

if TYPE_CHECKING:
    from stackflower.training.request import TrainingRequest
    from stackflower.training.session import Outcome

# settings whose flags have another name
SETTINGS = {
    "images": "train.images",
    "epochs": "train.epochs",
    "batch_size": "train.batch_size",
    "gradient_accumulation": "train.gradient_accumulation",
    "compile": "train.compile",
    "threads": "train.threads",
    "eval_every": "output.eval_every",
    "captions": "output.captions",
}
PARTS = ("conditioning", "generator", "discriminator", "features", "augmentation", "objective")


@click.command(
    cls=Command,
    when_interrupted=RESUMES,
    settings=SETTINGS,
    epilog=format_examples(
        "stackflower train --stage 1",
        "stackflower train --stage 1 --data my-flowers --text sentence-transformers/all-MiniLM-L6-v2 --time-limit 25m",
        "stackflower train --stage 1 --recipe stackgan --objective hinge --penalty r1=1 --set penalties.r1.every=16",
        "stackflower train --stage 2 --below runs/quickstart-1",
        "stackflower train --resume latest",
    ),
)
@click.option("--stage", type=int, help="Stage to train.  [default: 1]")
@click.option("--below", metavar="RUN", help="Trained run of the previous stage, for --stage 2 and higher.")
@click.option(
    "--from",
    "start_from",
    metavar="MODEL",
    help="Fine-tune a model: a run, a model folder, a shipped model, or one of the Hugging Face Hub.",
)
@click.option("--data", help=f"Training data: {DATA_HELP}  [default: synthetic-flowers]")
@click.option("--out", metavar="RUN", help="Folder for the run.  [default: runs/RECIPE-N]")
@click.option(
    "--recipe",
    metavar="NAME|FILE",
    help="Built-in recipe or TOML file.  [default: quickstart; photographs for other data, if the extra features is "
    "installed; for a later stage, the recipe of --below]",
)
@click.option("--conditioning", metavar="NAME", help="Conditioning on the text embedding.")
@click.option("--generator", metavar="NAME", help="Generator.")
@click.option("--discriminator", metavar="NAME", help="Discriminator, with its default objective.")
@click.option("--features", metavar="NAME", help="Pretrained network for --discriminator projected.")
@click.option("--augmentation", metavar="NAME", help="Augmentation of the discriminator's images.")
@click.option("--objective", metavar="NAME", help="Adversarial loss.")
@click.option(
    "--penalty",
    metavar="NAME[=WEIGHT]",
    multiple=True,
    help="Add a regulariser, or change its weight; 'none' removes the recipe's. Repeatable.",
)
@click.option(
    "--text",
    metavar="NAME|DIR|MODEL",
    help="Text encoder: a name, the output of train-text, or a Hugging Face model by id or folder.",
)
@click.option("--images", type=click.IntRange(1), help="Number of images to train on.")
@click.option("--epochs", type=Finite(0, min_open=True), help="Number of passes over the data.")
@click.option(
    "--time-limit",
    type=Duration(),
    help="Train for 90s, 20m or 1h30m; with --images or --epochs, stop early after that.",
)
@click.option("--batch-size", type=click.IntRange(1), help="Total batch size over all processes.")
@click.option("--gradient-accumulation", type=click.IntRange(1), help="Number of parts that a batch is processed in.")
@click.option("--lr", type=Finite(0, min_open=True), help="Learning rate of generator and discriminator.")
@click.option(
    "--eval-every",
    type=click.IntRange(1),
    metavar="IMAGES",
    help="Score every so many images on held-out data, and keep the best model.",
)
@click.option("--caption", "captions", multiple=True, help="Add a caption to the sample grids. Repeatable.")
@click.option("--seed", type=SEED, help="Random seed.  [default: 0]")
@click.option(
    "--mixed-precision",
    type=click.Choice(["auto", "no", "bf16", "fp16"]),
    help="Precision; auto: bf16 if the device supports it natively.",
)
@click.option("--compile", is_flag=True, default=None, help="Compile the networks (torch.compile): faster on a GPU.")
@threads_option
@click.option("--resume", metavar="[RUN|latest]", is_flag=False, flag_value="latest", help="Resume a run.")
@click.option("--report-to", metavar="TRACKER", multiple=True, help="tensorboard, wandb or mlflow.")
@click.option("--push-to-hub", metavar="OWNER/NAME", help="Upload the model to the Hugging Face Hub afterwards.")
@settings_option("Any other setting.")
@click.option("--dry-run", is_flag=True, help="Print the resolved configuration and its cost, and exit.")
@json_option
def train(dry_run: bool, as_json: bool, **flags: Any) -> None:
    """Train a stage, or resume a training."""
    began = time.monotonic()  # before the import of torch, which takes seconds and counts towards the time limit
    from stackflower.training.launch import dry_run as plan
    from stackflower.training.launch import launch

    request = read_request(flags, began)
    if dry_run:
        config, costs, run = plan(request)
        values = {"config": config.to_dict(), "cost": costs, "run": str(run)}
        lines = [config.to_json().rstrip(), *(f"{label:<28} {value}" for label, value in costs.items())]
        show(values, as_json, lambda: "\n".join(lines))
        echo(f"Nothing was created; the run would be {run}.", err=True)
        return
    outcome = launch(request, handle_signals=True, tune_malloc=True)
    if outcome.is_main:
        _show_outcome(outcome, as_json)
    if outcome.signal is not None:
        raise SystemExit(128 + outcome.signal)


def read_request(flags: dict[str, Any], began: float) -> TrainingRequest:
    """Build the request from the flags."""
    from stackflower.data.opening import source_part
    from stackflower.runs.trained_text import find_text_encoder
    from stackflower.training.request import TrainingRequest

    parts: dict[str, Any] = {
        "data": source_part(flags["data"]),
        "text": find_text_encoder(flags["text"]),
        "penalties": parse_penalties(flags["penalty"]),
        "optimizer.generator.lr": flags["lr"],
        "optimizer.discriminator.lr": flags["lr"],
        **{setting: flags[flag] for flag, setting in SETTINGS.items()},
        "output.captions": [decode_argument(caption) for caption in flags["captions"]] or None,
        **{name: flags[name] for name in (*PARTS, "seed", "mixed_precision", "start_from")},
    }
    return TrainingRequest(
        stage=flags["stage"],
        recipe=flags["recipe"],
        parts={key: value for key, value in parts.items() if value is not None},
        settings=parse_settings(flags["settings"]),
        out=flags["out"],
        below=flags["below"],
        resume=flags["resume"],
        time_limit=flags["time_limit"],
        report_to=flags["report_to"],
        push_to_hub=flags["push_to_hub"],
        began=began,
    )


def parse_penalties(values: Sequence[str]) -> dict[str, Any] | None:
    """Read the values of ``--penalty``, each ``NAME`` or ``NAME=WEIGHT``.

    Args:
        values: values of ``--penalty``.

    Returns:
        Options of each penalty by name; None without values.

    Raises:
        ConfigError: a weight is not a number.
    """
    penalties: dict[str, Any] = {}
    for value in values:
        name, equals, weight = value.partition("=")
        try:
            penalties[name] = {"weight": float(weight)} if equals else {}
        except ValueError:
            raise ConfigError(f"--penalty {value}: the weight must be a number, as in --penalty r1=10.") from None
    return penalties or None


def _show_outcome(outcome: Outcome, as_json: bool) -> None:
    """Print how the training ended and which command to run next."""
    grids = sorted(outcome.run.samples.glob("*.png"))
    values = {"run": str(outcome.run), "images": outcome.images, "stopped": outcome.stopped}
    if outcome.stopped:
        text = f"Stopped by {outcome.stopped} after {outcome.images:,} images; a checkpoint is saved. To resume:"
        echo(text, err=True)
    show({**values, "samples": [str(path) for path in grids]}, as_json, lambda: _format_next_commands(outcome, grids))


def _format_next_commands(outcome: Outcome, grids: list[Path]) -> str:
    """Format the commands to run after a training, as text."""
    run = quote(str(outcome.run))
    if outcome.stopped:
        return f"stackflower train --resume {run}"
    dashes = "-- " if outcome.caption.startswith("-") else ""
    lines = [f"Trained on {outcome.images:,} images: {outcome.run}", *(f"Samples:   {path}" for path in grids[-1:])]
    lines += [
        f"Generate:  stackflower sample {run} {dashes}{quote(outcome.caption)}",
        f"Evaluate:  stackflower eval {run}",
    ]
    return "\n".join(lines)


def quote(text: str) -> str:
    """Quote a word of a command line, in double quotes if these suffice, because every shell knows them."""
    if re.fullmatch(r"[\w./\\:-]+", text):
        return text
    return shlex.quote(text) if re.search(r'["$`!\\]', text) else f'"{text}"'
