"""Evaluate runs, folders of images, real images and functions."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from stackflower.data.opening import source_part
from stackflower.errors import ConfigError, DataError
from stackflower.evaluation.comparison import build_file_name, check_comparable, compare, read_scores, save_scores
from stackflower.evaluation.image_subjects import FolderSubject, SplitSubject
from stackflower.evaluation.opening import open_extractor_and_reference
from stackflower.evaluation.per_image import save_per_image
from stackflower.evaluation.protocol import Protocol, find_protocol
from stackflower.evaluation.reference import Reference
from stackflower.evaluation.request import EvaluationRequest
from stackflower.evaluation.scoring import score
from stackflower.evaluation.subjects import FunctionSubject, ImageFunction, RunSubject, Subject, open_trained
from stackflower.runs.folder import Run
from stackflower.utils.atomic import reporting_write_errors, try_writing
from stackflower.utils.devices import get_process_state
from stackflower.utils.progress import progress_bars
from stackflower.utils.threads import choosing_threads

logger = logging.getLogger(__name__)

DEFAULT_RESOLUTION = 64  # of images that do not come from a run, in pixels


def evaluate(
    subject: str | os.PathLike[str] | ImageFunction,
    *,
    data: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    metrics: Sequence[str] | None = None,
    split: str | None = None,
    samples: int | None = None,
    per_caption: int | None = None,
    splits: int | None = None,
    seed: int | None = None,
    truncation: float | None = None,
    extractor: str | None = None,
    options: Mapping[str, Any] | None = None,
    protocol: str = "default",
    resolution: int | None = None,
    load_size: int | None = None,
    checkpoint: str | None = None,
    out: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    progress_bar: bool = True,
) -> dict[str, Any]:
    """Score a run, a model, a folder of images or a function, as ``stackflower eval`` does.

    Args:
        subject: folder of a run or a model, name of a model (see `Pipeline.from_pretrained`), folder of images, or a
            function that maps captions and a seed to images uint8 `(N, 3, R, R)`.
        data: data set to compare with: a name, a path, or a dict with name and options. Default: the run's own.
        metrics: names of the metrics. Default: all that the data allow.
        split: reference split. Default: "test", else "validation", else "train".
        samples: number of captions. Default: one per image of the split, at most 5,000.
        per_caption: number of images per caption. Default: 1.
        splits: number of splits of the Inception Score. Default: 10.
        seed: random seed. Default: 0.
        truncation: standard deviations at which a run's noise is truncated. Default: no truncation.
        extractor: name of the feature extractor. Default: the one that suits the data.
        options: options of the extractor, such as ``{"weights": "flowers.safetensors"}``.
        protocol: "default", "stackgan-birds", "stackgan-flowers" or "competition".
        resolution: height and width R of images that do not come from a run, in pixels. Default: 64.
        load_size: pixels at which real images are prepared, before their center is cropped. Default: the run's own;
            76 for a resolution of 64.
        checkpoint: checkpoint of a run: "best", or the number of images after which it was written. Default: the last
            model.
        out: file for the scores. Default: a file in the run's ``scores/``.
        threads: number of threads on a CPU. Default: the environment variable ``OMP_NUM_THREADS``; otherwise the
            fastest number, which is measured.
        progress_bar: show progress bars on stderr.

    Returns:
        The scores by name, with their intervals and protocol; empty on processes other than the first.

    Raises:
        StackflowerError: the subject can't be scored; the message says why.

    Example:
        >>> import stackflower as sf
        >>> sf.evaluate("runs/quickstart-1", metrics=("is", "fid"))["inception_score_mean"]  # doctest: +SKIP
        20.7
        >>> sf.evaluate(lambda captions, seed: model(captions), data="my-flowers")  # doctest: +SKIP
    """
    choices = {
        "metrics": metrics,
        "split": split,
        "samples": samples,
        "per_caption": per_caption,
        "splits": splits,
        "seed": seed,
        "truncation": truncation,
    }
    path = None if callable(subject) else Path(subject).expanduser()
    is_run = path is not None and (not path.exists() or Run(path).config_file.is_file())
    request = EvaluationRequest(
        runs=(os.fspath(subject),) if is_run and not callable(subject) else (),
        images=None if path is None or is_run else str(path),
        function=subject if callable(subject) else None,
        data=data if data is None or isinstance(data, Mapping) else source_part(os.fspath(data)),
        extractor=extractor,
        options=options or {},
        protocol=find_protocol(protocol, choices),
        resolution=resolution,
        load_size=load_size,
        checkpoint=checkpoint,
        out=None if out is None else os.fspath(out),
        threads=threads,
    )
    with progress_bars(progress_bar), torch.random.fork_rng(devices=[]):
        scores = evaluate_request(request)
    return scores[0] if scores else {}


def evaluate_request(request: EvaluationRequest) -> list[dict[str, Any]] | None:
    """Score each subject of a request.

    Returns:
        The scores of each subject with their protocol, or None on processes other than the first.
    """
    request.check()
    state = get_process_state()
    if request.extractor is None and "weights" in request.options and state.is_main_process:
        logger.info(
            "Reading %s as the extractor domain; for weights of another one, set `extractor`.",
            request.options["weights"],
        )
    if request.out is not None:
        with reporting_write_errors(request.out, ConfigError):
            try_writing(Path(request.out).expanduser())
    other_scores = None if request.compare is None else read_scores(Path(request.compare).expanduser())
    all_scores = []
    fixed = state.device.type != "cpu" or state.num_processes > 1
    with progress_bars(state.is_main_process), choosing_threads(request.threads, fixed):
        for subject in _open_subjects(request, state):
            scores = _score_subject(subject, request, state)
            if state.is_main_process:
                _save_scores(scores, subject, request)
                all_scores.append(scores)
    if not state.is_main_process:
        return None
    for scores in all_scores:
        if other_scores is not None:
            try:
                check_comparable(scores, other_scores, Path(request.compare or ""))
                scores["compared"] = compare(scores, other_scores)
            except ConfigError as error:  # the caller raises it once the scores are printed
                scores["not_comparable"] = str(error)
    if len(all_scores) > 1 and request.out is not None:
        save_scores({"scores": all_scores}, Path(request.out).expanduser())
    return all_scores


def _open_subjects(request: EvaluationRequest, state: PartialState) -> Iterator[Subject]:
    """Open the subjects of a request, one at a time."""
    resolution = request.resolution or DEFAULT_RESOLUTION
    for run, checkpoint in _list_checkpoints(request):
        yield open_trained(run, checkpoint, request.protocol, state)
    if request.images is not None:
        yield FolderSubject(request.images, resolution, request.protocol)
    if request.real is not None:
        yield SplitSubject(request.real, resolution)
    if request.function is not None:
        name = getattr(request.function, "__qualname__", type(request.function).__name__)
        yield FunctionSubject(request.function, resolution, name)


def _list_checkpoints(request: EvaluationRequest) -> list[tuple[str, str | None]]:
    """List each run with each requested checkpoint; "all" skips the checkpoint of the untrained model."""
    if request.checkpoint != "all":
        return [(run, request.checkpoint) for run in request.runs]
    checkpoints: list[tuple[str, str | None]] = [
        (run, str(images)) for run in request.runs for images in Run(run).list_checkpoint_images() if images
    ]
    if not checkpoints:
        raise ConfigError(f"`checkpoint=all`: no complete checkpoint found in {' and '.join(request.runs)}.")
    return checkpoints


def _score_subject(subject: Subject, request: EvaluationRequest, state: PartialState) -> dict[str, Any]:
    """Score one subject; return its scores with their protocol."""
    protocol = request.protocol
    source = subject.open_source(request.data, request.data_options)
    size = request.load_size or subject.choose_size(source)
    if size < subject.resolution:
        raise ConfigError(
            f"`load_size={size}`: the images of {subject.name} have {subject.resolution} px, and real images can't "
            "have fewer."
        )
    extractor, reference = open_extractor_and_reference(
        protocol, request.extractor, request.options, source, subject.resolution, size, state
    )
    _check_classes(protocol, reference)
    extracted = subject.extract(extractor, reference, protocol)
    scores: dict[str, Any] = {
        **score(extracted.inputs),
        "warnings": extracted.warnings,
        "scored": extracted.subject,
        "protocol": {
            **extractor.extractor.describe(), **reference.describe(), **extracted.protocol, **protocol.describe()
        },
    }  # fmt: skip
    if request.per_image and state.is_main_process:
        save_per_image(extracted.inputs, extracted.subject.get("files"), Path(request.out or "").expanduser())
    scores["scored"].pop("files", None)
    return scores


def _check_classes(protocol: Protocol, reference: Reference) -> None:
    """Raise ConfigError if the protocol requires classes unseen in training, and the classes of the data differ."""
    if protocol.unseen_classes is None:
        return
    seen, unseen = (set(reference.source.rows(split).labels or ()) for split in ("train", reference.split))
    counts, shared = (len(seen), len(unseen)), len(seen & unseen)
    if counts != protocol.unseen_classes or shared:
        train, test = protocol.unseen_classes
        raise ConfigError(
            f"The protocol {protocol.name} requires {train} training classes and {test} other classes in the split "
            f"{reference.split}; this data has {counts[0]} and {counts[1]}, of which {shared} are in both. Leave out "
            "`protocol` to use the default one."
        )


def _save_scores(scores: dict[str, Any], subject: Subject, request: EvaluationRequest) -> None:
    """Save the scores to `out`, or in the run's folder; add a warning if the latter can't be written."""
    out = request.out
    if out is not None and not request.per_image:
        save_scores(scores, Path(out).expanduser())
    elif isinstance(subject, RunSubject):
        try:
            save_scores(scores, subject.run.scores / build_file_name(scores))
        except DataError as error:
            scores["warnings"].append(str(error))
