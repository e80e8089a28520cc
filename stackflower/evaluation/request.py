"""What an evaluation is asked for, and what does not go together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stackflower.errors import ConfigError
from stackflower.evaluation.protocol import Protocol
from stackflower.evaluation.scoring import of_folders
from stackflower.evaluation.subjects import Function

PER_IMAGE = ".csv"  # of a table of images


@dataclass(frozen=True)
class EvaluationRequest:
    """What is scored, and how.

    Args:
        runs: folders of runs.
        images: folder of images.
        real: split whose real images are scored.
        function: function from captions and a seed to images.
        data: part of the data set to compare with; None: the run's own.
        extractor: name of the feature extractor; None: the one that suits the data.
        options: options of the extractor.
        protocol: choices behind the scores.
        resolution: pixels of images that are not a run's.
        data_options: options of the data set.
        load_size: pixels at which real images are prepared; their center counts.
        out: file for the scores; None: one in the run's folder.
        compare: file of other scores to compare with.
        checkpoint: "best", "all", the images after which a checkpoint was written, or None for a run's last model.
    """

    runs: Sequence[str] = ()
    images: str | None = None
    real: str | None = None
    function: Function | None = None
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

    @property
    def per_image(self) -> bool:
        """Whether `out` is a table of images rather than a file of scores."""
        return self.out is not None and self.out.lower().endswith(PER_IMAGE)

    def check(self) -> None:
        """Raise ConfigError for what does not go together."""
        given = [
            what
            for what, there in (
                ("a run", bool(self.runs)),
                ("`images`", self.images is not None),
                ("`real`", self.real is not None),
                ("a function", self.function is not None),
            )
            if there
        ]
        if not given:
            raise ConfigError("Give one or more run folders, `images=DIR` or `real=SPLIT`.")
        self._check_choices(given)
        several = len(self.runs) + len(given) - bool(self.runs) > 1
        if self.per_image and (self.protocol.name != "competition" or several):
            raise ConfigError(
                f"`out={self.out}`: a table of images is written for one subject, with `protocol=competition`."
            )
        if self.data is None and given != ["a run"]:
            raise ConfigError(f"{given[-1]}: name the data to compare with, as in `data=my-flowers`.")
        if self.images is not None and not Path(self.images).expanduser().is_dir():
            raise ConfigError(f"`images={self.images}`: this folder does not exist.")
        refused = sorted(set(self.protocol.metrics or ()) - set(of_folders()))
        if refused and (self.images or self.real):
            raise ConfigError(
                f"`metrics={','.join(refused)}` generates images, and {given[-1]} can't; use {', '.join(of_folders())}."
            )

    def _check_choices(self, given: Sequence[str]) -> None:
        """Raise ConfigError for a choice that applies to none of the subjects."""
        protocol = self.protocol
        folder, real = {"`images`"}, {"`real`"}
        generated, others = {"a run", "a function"}, {"`images`", "`real`", "a function"}
        choices = {
            "trim_border": (protocol.trim_border, folder, "applies to the images of a folder"),
            "skip_bad": (protocol.skip_bad, folder, "applies to the images of a folder"),
            "resolution": (self.resolution is not None, others, "applies to images that are not a run's"),
            "checkpoint": (self.checkpoint is not None, {"a run"}, "applies to a run"),
            "truncation": (protocol.truncation is not None, {"a run"}, "applies to a run"),
            "samples": (protocol.samples is not None, generated | real, "applies to captions or real images"),
            "per_caption": (
                protocol.per_caption > 1 and protocol.name == "default", generated, "applies to what generates images"
            ),
        }  # fmt: skip
        for name, (there, subjects, why) in choices.items():
            if there and not subjects & set(given):
                raise ConfigError(f"`{name}` {why}, and {given[0]} is scored as it is; leave it out.")
