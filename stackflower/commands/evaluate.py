"""``stackflower eval``: score runs, models, folders of images and real images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stackflower.commands.console import Command, show, spell
from stackflower.commands.options import (
    DATA_HELP,
    RESUMES,
    Finite,
    Limit,
    format_examples,
    json_option,
    parse_part_options,
    seed_option,
    settings_option,
    threads_option,
)
from stackflower.commands.streams import echo
from stackflower.errors import ConfigError

if TYPE_CHECKING:
    from stackflower.evaluation.request import EvaluationRequest

PROTOCOL = ("split", "samples", "per_caption", "splits", "kept", "seed", "truncation", "trim_border", "skip_bad")


@click.command(
    "eval",
    cls=Command,
    when_interrupted=RESUMES,
    epilog=format_examples(
        "stackflower eval runs/quickstart-1",
        "stackflower eval runs/quickstart-1 runs/photographs-1 --split validation",
        "stackflower eval runs/quickstart-1 --checkpoint all --metrics is,fid",
        "stackflower eval synthetic-flowers",
        "stackflower eval --images generated --data my-flowers --metrics is,fid",
        "stackflower eval runs/flowers --images generated --data my-flowers --load-size 76",
        "stackflower eval --real train --data my-flowers",
        "stackflower eval runs/flowers --extractor domain --weights flowers.safetensors --json",
        "stackflower eval runs/flowers --extractor features --set extractor.network=timm "
        "--set extractor.model=convnext_tiny",
        "stackflower eval runs/flowers --fail-under is=3.2 --fail-over fid=40",
    ),
)
@click.argument("runs", metavar="[MODEL]...", nargs=-1)
@click.option("--images", metavar="DIR|ARCHIVE", help="Score a folder or archive of images instead of a run.")
@click.option("--real", metavar="SPLIT", help="Score the real images of a split instead, as a reference for runs.")
@click.option(
    "--checkpoint",
    metavar="best|all|IMAGES",
    help="Weights of a run: those that scored best in training, each checkpoint in turn, or the checkpoint after this "
    "many images.  [default: the last]",
)
@click.option("--data", help=f"Reference data: {DATA_HELP}  [default: the run's]")
@click.option(
    "--split",
    type=click.Choice(["test", "validation", "train"]),
    help="Reference split.  [default: test, else validation, else train]",
)
@click.option(
    "--protocol",
    metavar="NAME",
    default="default",
    help="default, stackgan-birds, stackgan-flowers or competition.",
)
@click.option(
    "--metrics",
    metavar="NAME,NAME…",
    help="Metrics to compute, such as is,fid; stackflower ls metric lists them.  [default: all that the data allow]",
)
@click.option(
    "--samples", type=click.IntRange(2), help="Number of captions.  [default: as in the split, at most 5,000]"
)
@click.option("--per-caption", type=click.IntRange(1), help="Number of images per caption.  [default: 1]")
@click.option("--splits", type=click.IntRange(1), help="Number of splits of the Inception Score.  [default: 10]")
@click.option(
    "--kept",
    type=click.IntRange(2),
    help="Number of images whose features are kept for metrics that compare images.  [default: 10,000]",
)
@click.option(
    "--resolution", type=click.IntRange(16), help="Size in pixels of images that a run did not generate.  [default: 64]"
)
@click.option(
    "--load-size",
    type=click.IntRange(16),
    help="Size in pixels at which real images are prepared before their center is cropped.  [default: the run's own; "
    "76 for a resolution of 64]",
)
@click.option("--trim-border", is_flag=True, help="With --images: crop borders of one colour first.")
@click.option("--skip-bad", is_flag=True, help="With --images: skip files that can't be read.")
@click.option(
    "--extractor", metavar="NAME", help="Feature extractor: domain, clip, inception-v3, inception-2015, features."
)
@click.option(
    "--weights", metavar="FILE", help="File of the extractor's weights.  [without --extractor: of the extractor domain]"
)
@settings_option("An option of extractor or data.")
@click.option(
    "--fail-under",
    type=Limit(),
    metavar="METRIC=VALUE",
    multiple=True,
    help="Exit with code 1 if a score is lower than this. Repeatable.",
)
@click.option(
    "--fail-over",
    type=Limit(),
    metavar="METRIC=VALUE",
    multiple=True,
    help="Exit with code 1 if a score is higher than this. Repeatable.",
)
@seed_option
@click.option(
    "--truncation", type=Finite(0, min_open=True), help="Truncate the noise at this many standard deviations."
)
@click.option("--out", metavar="FILE", help="JSON file for the scores.  [default: a file in the run's scores/]")
@click.option("--compare", metavar="FILE", help="Compare with saved scores, which must have the same protocol.")
@threads_option
@json_option
def evaluate(
    as_json: bool,
    fail_under: tuple[tuple[str, float], ...],
    fail_over: tuple[tuple[str, float], ...],
    **flags: Any,
) -> None:
    """Compute the Inception Score and other metrics.

    The scores of real images are computed too, and every score is printed with its protocol.
    """
    from stackflower.evaluation.evaluate import evaluate_request
    from stackflower.evaluation.scoring import find_limit, find_missed_limits

    for name, _ in (*fail_under, *fail_over):
        metric, _ = find_limit(name)  # reports an unknown score before anything is computed
        if flags["metrics"] and metric not in [item.strip() for item in flags["metrics"].split(",")]:
            raise ConfigError(f"A limit of {name} needs that score; use --metrics {flags['metrics']},{metric}.")
    subjects = evaluate_request(read_request(dict(flags)))
    if subjects is None:
        return
    single = len(subjects) == 1
    show(
        subjects[0] if single else {"scores": subjects},
        as_json,
        lambda: spell(format_scores(subjects, flags["compare"])),
    )
    for scores in subjects:
        if "not_comparable" in scores:
            raise ConfigError(scores["not_comparable"])
    failures = [
        reason for scores in subjects for reason in find_missed_limits(scores, dict(fail_under), dict(fail_over))
    ]
    for sentence in failures:
        echo(sentence, err=True)
    if failures:
        raise SystemExit(1)


def read_request(flags: dict[str, Any]) -> EvaluationRequest:
    """Build the request from the flags; takes them out of `flags`."""
    from stackflower.data.opening import source_part
    from stackflower.evaluation.protocol import find_protocol
    from stackflower.evaluation.request import EvaluationRequest

    options = parse_part_options(flags.pop("settings"), ("extractor", "data"), "extractor.network=timm")
    protocol, choices = flags.pop("protocol"), {name: flags.pop(name) for name in PROTOCOL}
    metrics, weights = flags.pop("metrics"), flags.pop("weights")
    choices["metrics"] = None if metrics is None else tuple(name.strip() for name in metrics.split(","))
    return EvaluationRequest(
        data=source_part(flags.pop("data")),
        options=options["extractor"] | ({} if weights is None else {"weights": weights}),
        data_options=options["data"],
        protocol=find_protocol(protocol, choices),
        **flags,
    )


def format_scores(subjects: list[dict[str, Any]], compared_with: str | None) -> str:
    """Format scores as text, with their comparison if there is one.

    Args:
        subjects: scores of each subject.
        compared_with: file of the scores that they were compared with.
    """
    from stackflower.evaluation import comparison, scoring

    if len(subjects) > 1:
        return scoring.describe_side_by_side(subjects)
    (scores,) = subjects
    text = scoring.describe(scores)
    if compared_with and "compared" in scores:
        return f"{text}\n{comparison.describe_comparison(scores['compared'], Path(compared_with))}"
    return text
