"""The base class of metrics: scores of generated images beside real ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from stackflower.declarations import Declared
from stackflower.errors import DataError
from stackflower.evaluation.extractors.base import Extracted
from stackflower.evaluation.protocol import Protocol
from stackflower.evaluation.reference import Reference
from stackflower.evaluation.statistics import Statistics


class CaptionPairs(NamedTuple):
    """Images beside their captions in one space."""

    images: Tensor  # (N, D) of unit length
    texts: Tensor  # (N, D) of unit length
    captions: list[str]


@dataclass(frozen=True)
class MetricInputs:
    """What metrics are computed from; images of a folder may have no captions, and their captions no real image."""

    fake: Statistics  # of the generated images
    real: Statistics  # of the real images
    protocol: Protocol
    reference: Reference
    attributes: Mapping[
        str, tuple[str, ...]
    ]  # the extractor's heads: attribute → its values, in the order of the logits
    extract: Callable[[Tensor], Extracted]  # uint8 images (N, 3, H, W) → features, shared by all processes
    embed: Callable[[Sequence[str]], Tensor | None] = lambda captions: None  # captions → (N, D), `Extractor.embed`
    captions: Sequence[str] | None = None  # of each generated image
    no_captions_reason: str = "these images have no captions."  # why there are none
    pairs: Sequence[tuple[int, int]] | None = None  # of each generated image: number of a real image and of its caption
    chosen: Sequence[int] = ()  # numbers of the real images, in their order
    generate: Callable[[Sequence[str], int, int], Extracted] | None = None  # captions, images of each, seed → features
    images: Callable[[Sequence[str], int, int], Iterator[Tensor]] | None = None  # the same → uint8 (n, 3, R, R)
    training: Callable[[], Statistics | None] = lambda: (
        None
    )  # of the training split; None where it is what is compared with
    original_inception: bool = False  # whether the extractor is the one with which distances are called FID and KID

    def kept_captions(self) -> list[str]:
        """Return the captions of the generated images whose outputs are kept."""
        return list(self.captions or ())[: len(self.fake.rows.features)]

    def match_captions(self, what: str) -> tuple[CaptionPairs, CaptionPairs | None]:
        """Pair generated images with their captions, and real images with their first caption.

        Args:
            what: name of the metric, for the error message.

        Raises:
            DataError: the extractor has no common space of images and captions.
        """
        captions, rows = self.kept_captions(), self.fake.rows.vectors
        texts = self.embed(captions) if captions and rows.shape[1] else None
        if texts is None:
            raise unavailable_error(
                what,
                "this extractor does not compare images with captions; use `extractor=clip`, or train a classifier "
                "with a text encoder (`stackflower train-classifier`).",
            )
        known = self.real.rows.vectors
        first = [self.reference.data.captions[image][0] for image in self.chosen[: len(known)]]
        own = self.embed(first) if first else None
        return CaptionPairs(rows, texts, captions), None if own is None else CaptionPairs(known, own, first)


class Metric(Declared, ABC):
    """One or several related scores. A subclass computes them in float64."""

    needs_captions: ClassVar[bool] = False  # whether it is of no use for images without captions
    needs_run: ClassVar[bool] = False  # whether it generates images itself
    by_default: ClassVar[bool] = True  # whether it is computed without being asked for
    needs_attributes: ClassVar[bool] = False  # whether it is of no use for data without attributes
    measure: ClassVar[str | None] = None  # the score by which one run is better than another; None: none alone
    lower_is_better: ClassVar[bool] = False
    limits: ClassVar[
        Mapping[str, str]
    ] = {}  # other names that a limit of a score may have, with their score as `scoring.collect_numbers` names it
    position: ClassVar[int] = 100  # place in the report, the lowest first

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "measure" in vars(cls) and cls.measure is not None:
            cls.offers = (*cls.offers, "ranking")

    @abstractmethod
    def compute(self, inputs: MetricInputs) -> dict[str, Any]:
        """Compute the metric.

        Returns:
            Scores by name, as ``stackflower eval`` prints them in JSON. ``NAME_interval`` is the 95% interval of NAME.

        Raises:
            DataError: the data do not allow it. Users see it only if they asked for this metric.
        """

    @abstractmethod
    def lines(self, scores: Mapping[str, Any]) -> list[str]:
        """Format the scores as text, one line per score."""


def line(label: str, text: str, interval: Sequence[float] | None = None) -> str:
    """Format one line of the report."""
    within = "" if not interval else f"   95%: {interval[0]:.4g} to {interval[1]:.4g}"
    return f"{label:<20}{text}{within}"


def unavailable_error(what: str, why: str) -> DataError:
    """Build the error for data that do not allow a metric."""
    return DataError(f"{what} can't be computed: {why}")
