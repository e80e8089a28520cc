"""The base class of metrics, which score generated images against real ones."""

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
    """Images and their captions in a common space."""

    images: Tensor  # (N, D) of unit length
    texts: Tensor  # (N, D) of unit length
    captions: list[str]


@dataclass(frozen=True)
class MetricInputs:
    """Inputs of metrics.

    Images of a folder may lack captions, or have captions that describe no real image.
    """

    fake: Statistics  # of the generated images
    real: Statistics  # of the real images
    protocol: Protocol
    reference: Reference
    attributes: Mapping[str, tuple[str, ...]]  # attribute → its values, in the order of the extractor's logits
    extract: Callable[[Tensor], Extracted]  # uint8 images (N, 3, H, W) → features; the processes share the work
    embed: Callable[[Sequence[str]], Tensor | None] = lambda captions: None  # captions → (N, D), `Extractor.embed`
    captions: Sequence[str] | None = None  # of each generated image
    no_captions_reason: str = "these images have no captions."  # why `captions` is None
    pairs: Sequence[tuple[int, int]] | None = None  # for each generated image: numbers of a real image and its caption
    chosen: Sequence[int] = ()  # numbers of the real images, in the order of `real`
    # functions of captions, images per caption and seed; None if the subject generates no images
    generate: Callable[[Sequence[str], int, int], Extracted] | None = None
    images: Callable[[Sequence[str], int, int], Iterator[Tensor]] | None = None  # → batches, uint8 (n, 3, R, R)
    # statistics of training images; None if the reference is the training split
    training: Callable[[], Statistics | None] = lambda: None
    original_inception: bool = False  # the extractor is the 2015 Inception network: FID, KID

    def list_kept_captions(self) -> list[str]:
        """Return the captions of the generated images whose outputs are kept."""
        return list(self.captions or ())[: len(self.fake.rows.features)]

    def match_captions(self, metric: str) -> tuple[CaptionPairs, CaptionPairs | None]:
        """Pair generated images with their captions, and real images with their first caption.

        Args:
            metric: name of the metric, for the error message.

        Returns:
            The pairs of the generated images, and those of the real images, or None without real images.

        Raises:
            DataError: the extractor has no common space of images and captions.
        """
        captions, images = self.list_kept_captions(), self.fake.rows.vectors
        texts = self.embed(captions) if captions and images.shape[1] else None
        if texts is None:
            raise build_unavailable_error(
                metric,
                "this extractor does not compare images with captions; use `extractor=clip`, or train a classifier "
                "with a text encoder (`stackflower train-classifier`).",
            )
        real_images = self.real.rows.vectors
        chosen = [self.reference.data.captions[image][:1] for image in self.chosen[: len(real_images)]]
        real_captions = [caption for captions_of_image in chosen for caption in captions_of_image]
        real_texts = self.embed(real_captions) if real_captions else None
        real = None if real_texts is None else CaptionPairs(real_images, real_texts, real_captions)
        return CaptionPairs(images, texts, captions), real


class Metric(Declared, ABC):
    """Base class of metrics, each of one score or several related ones, computed in float64."""

    needs_captions: ClassVar[bool] = False  # skipped for images without captions
    needs_run: ClassVar[bool] = False  # generates images itself
    by_default: ClassVar[bool] = True  # computed unless the protocol names metrics
    needs_attributes: ClassVar[bool] = False  # skipped for data without attributes
    measure: ClassVar[str | None] = None  # score that ranks runs; None: the metric has no such score
    lower_is_better: ClassVar[bool] = False
    # further names for limits → the score that they refer to, as `scoring.collect_numbers` names it
    limits: ClassVar[Mapping[str, str]] = {}
    position: ClassVar[int] = 100  # place in the report, in ascending order

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
            DataError: the data do not allow it. Users see it only if the protocol names this metric.
        """

    @abstractmethod
    def lines(self, scores: Mapping[str, Any]) -> list[str]:
        """Format the scores as text, one line per score."""


def format_line(label: str, text: str, interval: Sequence[float] | None = None) -> str:
    """Format one line of the report."""
    suffix = "" if not interval else f"   95%: {interval[0]:.4g} to {interval[1]:.4g}"
    return f"{label:<20}{text}{suffix}"


def build_unavailable_error(metric: str, reason: str) -> DataError:
    """Build the error for data that do not allow a metric."""
    return DataError(f"{metric} can't be computed: {reason}")
