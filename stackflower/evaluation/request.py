"""The request for an evaluation, and the check that its choices are compatible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stackflower.errors import ConfigError
from stackflower.evaluation.protocol import Protocol
from stackflower.evaluation.scoring import list_folder_metrics
from stackflower.evaluation.subjects import ImageFunction

PER_IMAGE_SUFFIX = ".csv"  # suffix of `out` that requests a table of per-image scores


@dataclass(frozen=True)
class EvaluationRequest:
    """What to score, and how.

    Args:
        runs: folders of runs.
        images: folder or archive of images.
        real: split whose real images to score.
        function: function that maps captions and a seed to images.
        data: name and options of the data set to compare with; None: the run's own.
        extractor: name of the feature extractor; None: the default for the data.
        options: options of the extractor.
        protocol: protocol of the scores.
        resolution: height and width of images that do not come from a run, in pixels.
        data_options: further options of the data set.
        load_size: pixels at which real images are prepared, before their center is cropped.
        out: file for the scores; None: a file in the run's folder.
        compare: file of scores to compare with.
        checkpoint: "best", "all", the number of images after which a checkpoint was written, or None for a run's last
            model.
        threads: number of threads on a CPU; None: choose (see `utils.threads`).
    """

    runs: Sequence[str] = ()
    images: str | None = None
    real: str | None = None
    function: ImageFunction | None = None
    data: Mapping[str, Any] | None = None
    extractor: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    protocol: Protocol = field(default_factory=Protocol)
    resolution: int | None = None
    data_options: Mapping[str, Any] = field(default_factory=dict)
    load_size: int | None = None
    out: str | None = None
    compare: str | None = None
    checkpoint: str | None = None
    threads: int | None = None

    @property
    def per_image(self) -> bool:
        """Whether `out` is a table of per-image scores rather than a file of scores."""
        return self.out is not None and self.out.lower().endswith(PER_IMAGE_SUFFIX)

    def check(self) -> None:
        """Raise ConfigError if no subject is given, or a choice is missing or incompatible."""
        subjects = [
            name
            for name, present in (
                ("a run", bool(self.runs)),
                ("`images`", self.images is not None),
                ("`real`", self.real is not None),
                ("a function", self.function is not None),
            )
            if present
        ]
        if not subjects:
            raise ConfigError("Give one or more run folders, `images=DIR` or `real=SPLIT`.")
        self._check_choices(subjects)
        several_subjects = len(self.runs) + len(subjects) - bool(self.runs) > 1
        if self.per_image and (self.protocol.name != "competition" or several_subjects):
            raise ConfigError(
                f"`out={self.out}`: a table of per-image scores needs exactly one subject and `protocol=competition`."
            )
        if self.data is None and subjects != ["a run"]:
            raise ConfigError(f"{subjects[-1]}: name the data to compare with, as in `data=my-flowers`.")
        if self.images is not None and not Path(self.images).expanduser().exists():
            raise ConfigError(f"`images={self.images}`: this folder or archive does not exist.")
        unavailable = sorted(set(self.protocol.metrics or ()) - set(list_folder_metrics()))
        if unavailable and (self.images or self.real):
            raise ConfigError(
                f"`metrics={','.join(unavailable)}` needs a subject that generates images, unlike {subjects[-1]}; "
                f"use {', '.join(list_folder_metrics())}."
            )

    def _check_choices(self, subjects: Sequence[str]) -> None:
        """Raise ConfigError for a choice that applies to none of the subjects."""
        protocol = self.protocol
        folder, real = {"`images`"}, {"`real`"}
        generators, not_runs = {"a run", "a function"}, {"`images`", "`real`", "a function"}
        choices = {
            "trim_border": (protocol.trim_border, folder, "applies to the images of a folder"),
            "skip_bad": (protocol.skip_bad, folder, "applies to the images of a folder"),
            "resolution": (self.resolution is not None, not_runs, "applies to images that do not come from a run"),
            "checkpoint": (self.checkpoint is not None, {"a run"}, "applies to a run"),
            "truncation": (protocol.truncation is not None, {"a run"}, "applies to a run"),
            "samples": (protocol.samples is not None, generators | real, "applies to captions or real images"),
            "per_caption": (
                protocol.per_caption > 1 and protocol.name == "default",
                generators,
                "applies to subjects that generate images",
            ),
        }  # fmt: skip
        for name, (present, applicable, scope) in choices.items():
            if present and not applicable & set(subjects):
                raise ConfigError(f"`{name}` {scope}, not to {subjects[0]}; leave it out.")
