"""The base class of metrics: scores of generated images beside real ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from stackflower.errors import DataError
from stackflower.evaluation.extractors.base import Extracted
from stackflower.evaluation.protocol import Protocol
from stackflower.evaluation.reference import Reference


@dataclass(frozen=True)
class Sample:
    """What metrics are computed from; images of a folder have no captions."""

    fake: Extracted  # of the generated images, in random order
    real: Extracted  # of the real images, in random order
    protocol: Protocol
    reference: Reference
    attributes: Mapping[
        str, tuple[str, ...]
    ]  # the extractor's heads: attribute → its values, in the order of the logits
    extract: Callable[[Tensor], Extracted]  # uint8 images (N, 3, H, W) → features, shared by all processes
    captions: Sequence[tuple[int, int]] | None = (
        None  # of each generated image: number of a real image and of its caption
    )
    generate: Callable[[Sequence[str], int, int], Extracted] | None = None  # captions, images of each, seed → features
    original_inception: bool = False  # whether the extractor is the one with which distances are called FID and KID


class Metric(ABC):
    """One or several related scores. A subclass computes them in float64."""

    needs_captions: ClassVar[bool] = False  # whether it is of no use for a folder of images
    measure: ClassVar[str | None] = None  # the score by which one run is better than another; None: none alone
    lower_is_better: ClassVar[bool] = False
    position: ClassVar[int] = 100  # place in the report, the lowest first

    @abstractmethod
    def compute(self, sample: Sample) -> dict[str, Any]:
        """Scores by name, as ``--json`` prints them. DataError where the data do not allow it: raised to the user only where the
        metric was asked for by name."""

    @abstractmethod
    def lines(self, scores: Mapping[str, Any]) -> list[str]:
        """The same scores as text, a line each."""


def line(label: str, text: str) -> str:
    """A line of the report."""
    return f"{label:<20}{text}"


def unavailable(what: str, why: str) -> DataError:
    """The error for data that do not allow a metric."""
    return DataError(f"{what} can't be computed: {why}")
