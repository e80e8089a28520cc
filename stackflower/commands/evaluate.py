"""The eval command: score what is named, and state the protocol."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import PartialState

from stackflower.commands.data import source_part
from stackflower.commands.held_out import open_split
from stackflower.commands.scored import Function, ScoredFunction, ScoredRun, Subject
from stackflower.commands.scored_images import ScoredFolder, ScoredSplit
from stackflower.errors import ConfigError, DataError
from stackflower.evaluation.comparison import check_comparable, compare, file_name, read_scores, save_scores
from stackflower.evaluation.per_image import save_per_image
from stackflower.evaluation.protocol import Protocol, named
from stackflower.evaluation.reference import Reference
from stackflower.evaluation.scoring import of_folders, score
from stackflower.runs.folder import RunFolder
from stackflower.training.accelerator import process_state
from stackflower.utils.atomic import try_writing
from stackflower.utils.progress import bar, silent

FOLDER_RESOLUTION = 64
PER_IMAGE = ".csv"


@dataclass(frozen=True)
class Request:
    """The command line of `stackflower eval`: runs, a folder of images, real images of a split, or a function."""

    runs: Sequence[str] = ()
    images: str | None = None
    real: str | None = None  # split whose images are scored
    function: Function | None = None
    data: dict[str, Any] | None = None
    extractor: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)  # of the extractor
    protocol: Protocol = field(default_factory=Protocol)
    resolution: int | None = None  # of images that are not a run's
    data_options: Mapping[str, Any] = field(default_factory=dict)
    load_size: int | None = None  # px at which real images are prepared, of which the centre counts
    out: str | None = None  # file for the scores; None: one in the run's folder
    compare: str | None = None  # file of other scores
    checkpoint: str | None = (
        None  # of a run: "best", "all", the images after which one was written, or None for its last model
    )


def evaluate(request: Request) -> list[dict[str, Any]] | None:
    """The scores of each subject, with their protocol; None on processes other than the first."""
    _check(request)
    state = process_state()
    if request.out is not None:
        try:
            try_writing(Path(request.out).expanduser())
        except OSError as error:
            raise ConfigError(f"--out {request.out} can't be written: {error}. Choose another file.") from error
    other = None if request.compare is None else read_scores(Path(request.compare).expanduser())
    found = []
    for subject in _subjects(request, state):
        scores = _scores(subject, request, state)
        if state.is_main_process:
            _save(scores, subject, request)
            found.append(scores)
    if not state.is_main_process:
        return None
    for scores in found:
        if other is not None:
            try:
                check_comparable(scores, other, Path(request.compare or ""))
                scores["compared"] = compare(scores, other)
            except ConfigError as error:  # raised once the scores are printed
                scores["not_comparable"] = str(error)
    if len(found) > 1 and request.out is not None:
        save_scores({"scores": found}, Path(request.out).expanduser())
    return found


def scores_of(
    subject: str | Path | Function,
    *,
    data: str | None = None,
    extractor: str | None = None,
    options: Mapping[str, Any] | None = None,
    protocol: str = "default",
    resolution: int | None = None,
    checkpoint: str | None = None,
    **choices: Any,
) -> dict[str, Any]:
    """The scores of a run, of a folder of images or of a function, as `stackflower eval --json` prints them::

        scores_of("runs/quickstart-1", metrics=("is", "fid"))
        scores_of(lambda captions, seed: model(captions, seed), data="my-flowers", resolution=64)

    Args:
        subject: folder of a run, folder of images, or a function from captions and a seed to images uint8 (N, 3, R, R).
        data: data set to compare with, as ``--data``; a run's own unless another is named.
        extractor: by name, with its `options`.
        protocol: by name.
        resolution: R, of what is no run.
        checkpoint: of a run.
        choices: of `stackflower.evaluation.protocol.Protocol`: metrics, split, samples, seed ….

    Raises:
        StackflowerError: for what can't be scored, and why.
    """
    path = None if callable(subject) else Path(subject).expanduser()
    is_run = path is not None and RunFolder(path).config_file.is_file()
    found = evaluate(
        Request(
            runs=(str(path),) if is_run else (),
            images=None if path is None or is_run else str(path),
            function=subject if callable(subject) else None,
            data=source_part(data),
            extractor=extractor,
            options=options or {},
            protocol=named(protocol, choices),
            resolution=resolution,
            checkpoint=checkpoint,
        )
    )
    return found[0] if found else {}


def _subjects(request: Request, state: PartialState) -> Iterator[Subject]:
    resolution = request.resolution or FOLDER_RESOLUTION
    for run, checkpoint in _checkpoints(request):
        yield ScoredRun(run, checkpoint, request.protocol, state)
    if request.images is not None:
        yield ScoredFolder(request.images, resolution, request.protocol)
    if request.real is not None:
        yield ScoredSplit(request.real, resolution, bar if state.is_main_process else silent)
    if request.function is not None:
        name = getattr(request.function, "__qualname__", type(request.function).__name__)
        yield ScoredFunction(request.function, resolution, name)


def _checkpoints(request: Request) -> list[tuple[str, str | None]]:
    """Each run with each of its checkpoints that are asked for; all are those after training began."""
    if request.checkpoint != "all":
        return [(run, request.checkpoint) for run in request.runs]
    every: list[tuple[str, str | None]] = [
        (run, str(images)) for run in request.runs for images in RunFolder(run).checkpoint_images() if images
    ]
    if not every:
        raise ConfigError(f"--checkpoint all: {' and '.join(request.runs)} has no complete checkpoint.")
    return every


def _scores(subject: Subject, request: Request, state: PartialState) -> dict[str, Any]:
    """The scores of one subject, its protocol beside them."""
    protocol = request.protocol
    source = subject.source(request.data, request.data_options)
    size = request.load_size or subject.size(source)
    if size < subject.resolution:
        raise ConfigError(
            f"--load-size {size}: the images of {subject.name} are of {subject.resolution} px, and it can't be less."
        )
    workers, reference = open_split(
        protocol, request.extractor, request.options, source, subject.resolution, size, state
    )
    _check_classes(protocol, reference)
    found = subject.scored(workers, reference, protocol)
    scores: dict[str, Any] = {
        **score(found.sample),
        "warnings": found.warnings,
        "scored": found.what,
        "protocol": {
            **workers.extractor.describe(), **reference.describe(), **found.protocol, **protocol.describe()
        },
    }  # fmt: skip
    if request.out is not None and request.out.lower().endswith(PER_IMAGE) and state.is_main_process:
        save_per_image(found.sample, found.what.get("files"), Path(request.out).expanduser())
    scores["scored"].pop("files", None)
    return scores


def _check_classes(protocol: Protocol, reference: Reference) -> None:
    """ConfigError where the protocol wants classes that are not in training, and the data have others."""
    if protocol.unseen_classes is None:
        return
    seen, unseen = (set(reference.source.rows(split).labels or ()) for split in ("train", reference.split))
    found, shared = (len(seen), len(unseen)), len(seen & unseen)
    if found != protocol.unseen_classes or shared:
        train, test = protocol.unseen_classes
        raise ConfigError(
            f"The protocol {protocol.name} is of {train} training classes and {test} other ones in the split {reference.split}; this data has "
            f"{found[0]} and {found[1]}, {shared} of them in both. Score it by the default protocol: leave out --protocol."
        )


def _save(scores: dict[str, Any], subject: Subject, request: Request) -> None:
    """Save where `--out` says, or in the run's folder; where that can't be, the scores say so and are not lost."""
    if request.out is not None and not request.out.lower().endswith(PER_IMAGE):
        save_scores(scores, Path(request.out).expanduser())
    elif isinstance(subject, ScoredRun):
        try:
            save_scores(scores, subject.run.scores / file_name(scores))
        except DataError as error:
            scores["warnings"].append(str(error))


# ---- what does not go together


def _check(request: Request) -> None:
    given = [
        what
        for what, there in (
            ("a run", bool(request.runs)),
            ("--images", request.images is not None),
            ("--real", request.real is not None),
            ("a function", request.function is not None),
        )
        if there
    ]
    if not given:
        raise ConfigError("Give one or more run folders, --images DIR or --real SPLIT.")
    _check_flags(request, given)
    protocol = request.protocol
    several = len(request.runs) + len(given) - bool(request.runs) > 1
    if (
        request.out is not None
        and request.out.lower().endswith(PER_IMAGE)
        and (protocol.name != "competition" or several)
    ):
        raise ConfigError(
            f"--out {request.out}: a table of images is written for one subject by --protocol competition."
        )
    if request.data is None and given != ["a run"]:
        raise ConfigError(f"{given[-1]}: name the data to compare with, as in --data my-flowers.")
    if request.images is not None and not Path(request.images).expanduser().is_dir():
        raise ConfigError(f"--images {request.images}: there is no such folder.")
    refused = sorted(set(protocol.metrics or ()) - set(of_folders()))
    if refused and (request.images or request.real):
        raise ConfigError(
            f"--metrics {','.join(refused)} generates images itself, and {given[-1]} can't; use {', '.join(of_folders())}."
        )


def _check_flags(request: Request, given: Sequence[str]) -> None:
    """ConfigError for a flag that is for none of the subjects."""
    protocol = request.protocol
    folder, real = {"--images"}, {"--real"}
    generated, others = {"a run", "a function"}, {"--images", "--real", "a function"}
    flags = {
        "--trim-border": (protocol.trim_border, folder, "is for a folder's images"),
        "--skip-bad": (protocol.skip_bad, folder, "is for a folder's images"),
        "--resolution": (request.resolution is not None, others, "is for images that are not a run's"),
        "--checkpoint": (request.checkpoint is not None, {"a run"}, "is for a run"),
        "--truncation": (protocol.truncation is not None, {"a run"}, "is for a run"),
        "--samples": (protocol.samples is not None, generated | real, "chooses captions or real images"),
        "--per-caption": (protocol.per_caption > 1 and protocol.name == "default", generated, "is for what generates images"),
    }  # fmt: skip
    for flag, (there, subjects, why) in flags.items():
        if there and not subjects & set(given):
            raise ConfigError(f"{flag} {why}, and {given[0]} is scored as it is; leave it out.")
