"""Statistics of scored images, computed batch by batch, so that memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stackflower.evaluation.extractors.base import Extracted

HEAD = "head/"  # before the name of an attribute's logits


@dataclass
class Moments:
    """Mean and covariance of features, in float64, updated batch by batch (Chan et al. 1983)."""

    count: int = 0
    mean: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))  # (F,)
    scatter: Tensor = field(
        default_factory=lambda: torch.zeros(0, 0, dtype=torch.float64)
    )  # (F, F) Σ (x − mean)(x − mean)ᵀ

    @classmethod
    def of(cls, features: Tensor) -> Moments:
        """Those of features (N, F)."""
        rows = features.double()
        mean = rows.mean(0)
        centred = rows - mean
        return cls(len(rows), mean, centred.T @ centred)

    def add(self, other: Moments) -> None:
        """Those of both."""
        if not self.count or not other.count:
            if other.count:
                self.count, self.mean, self.scatter = other.count, other.mean.clone(), other.scatter.clone()
            return
        total = self.count + other.count
        gap = other.mean - self.mean
        self.scatter += other.scatter + torch.outer(gap, gap) * (self.count * other.count / total)
        self.mean = self.mean + gap * (other.count / total)
        self.count = total

    @property
    def covariance(self) -> Tensor:
        """(F, F), unbiased."""
        return self.scatter / (self.count - 1)


@dataclass
class ClassSums:
    """What the Inception Score needs of class probabilities, for each of its splits, in float64."""

    count: Tensor  # (S,) images
    negentropy: Tensor  # (S,) Σ over images of Σ_y p log p
    probability: Tensor  # (S, K) Σ over images of p

    @classmethod
    def of(cls, logits: Tensor, split: Tensor, splits: int) -> ClassSums:
        """Those of logits (N, K) of images in the splits `split` (N,)."""
        log = logits.double().log_softmax(1)
        zeros = torch.zeros(splits, dtype=torch.float64)
        return cls(
            zeros.index_add(0, split, torch.ones(len(split), dtype=torch.float64)),
            zeros.index_add(0, split, (log.exp() * log).sum(1)),
            torch.zeros(splits, logits.shape[1], dtype=torch.float64).index_add(0, split, log.exp()),
        )

    def add(self, other: ClassSums) -> None:
        """Those of both."""
        self.count = self.count + other.count
        self.negentropy = self.negentropy + other.negentropy
        self.probability = self.probability + other.probability

    def compute_scores(self) -> Tensor:
        """Compute exp E KL(p(y|x) ‖ p(y)) `(S,)` within each split; NaN for a split without images."""
        marginal = self.probability / self.count[:, None]
        return torch.exp(self.negentropy / self.count - torch.xlogy(marginal, marginal).sum(1))


class Statistics:
    """Statistics of images in random order: moments and class sums of all, and the outputs of the first ones.

    Args:
        total: expected number of images, which sets the splits of the Inception Score.
        splits: splits of the Inception Score, whose sizes differ by at most one.
        most_rows: number of images whose outputs are kept.
    """

    def __init__(self, total: int, splits: int, most_rows: int):
        self.total, self.splits, self.most_rows = total, splits, most_rows
        self.moments = Moments()
        self.classes: ClassSums | None = None
        self._parts: list[Extracted] = []

    def add(self, found: Extracted, places: Tensor) -> None:
        """Add images.

        Args:
            found: outputs of the images.
            places: increasing places `(N,)` of the images in the order. The place of an image that can't be read stays
                empty.
        """
        self.moments.add(Moments.of(found.features))
        if found.logits.shape[1]:
            self._add_classes(ClassSums.of(found.logits, self._split(places), self.splits))
        kept = int((places < self.most_rows).sum())
        if kept:
            self._parts.append(found.rows(slice(0, kept)))

    def _split(self, places: Tensor) -> Tensor:
        """(N,) the split of each place, as `Tensor.tensor_split` makes them."""
        short, longer = divmod(self.total, self.splits)
        edges = torch.tensor([number * short + min(number, longer) for number in range(1, self.splits)])
        return torch.searchsorted(edges, places, right=True)

    def _add_classes(self, sums: ClassSums) -> None:
        if self.classes is None:
            self.classes = sums
        else:
            self.classes.add(sums)

    def merge(self, others: Iterable[Statistics]) -> None:
        """Add what other processes have, in the order of their shares."""
        for other in others:
            self.moments.add(other.moments)
            if other.classes is not None:
                self._add_classes(other.classes)
            self._parts += other._parts

    @classmethod
    def of(cls, found: Extracted, splits: int = 1, most_rows: int | None = None) -> Statistics:
        """Those of outputs that are all there."""
        count = len(found.features)
        statistics = cls(count, splits, count if most_rows is None else most_rows)
        statistics.add(found, torch.arange(count))
        return statistics

    @property
    def count(self) -> int:
        """Number of images."""
        return self.moments.count

    @property
    def rows(self) -> Extracted:
        """The outputs of the images at the first `most_rows` places."""
        if len(self._parts) > 1:
            self._parts = [Extracted.concatenate(self._parts)]
        return self._parts[0]

    # ---- as a file

    def to_tensors(self) -> dict[str, Tensor]:
        """Everything, as tensors by name."""
        rows = self.rows
        found = {
            "settings": torch.tensor([self.total, self.splits, self.most_rows, self.count]),
            "mean": self.moments.mean,
            "scatter": self.moments.scatter,
            **{name: getattr(rows, name) for name in ("features", "logits", "vectors")},
            **{HEAD + name: values for name, values in rows.heads.items()},
        }
        if self.classes is not None:
            found |= {name: getattr(self.classes, name) for name in ("count", "negentropy", "probability")}
        return {name: values.contiguous() for name, values in found.items()}

    @classmethod
    def from_tensors(cls, found: Mapping[str, Tensor]) -> Statistics:
        """Rebuild statistics from the result of `tensors`. KeyError if a tensor is missing."""
        total, splits, most_rows, count = (int(value) for value in found["settings"])
        statistics = cls(total, splits, most_rows)
        statistics.moments = Moments(count, found["mean"], found["scatter"])
        heads = {name.removeprefix(HEAD): values for name, values in found.items() if name.startswith(HEAD)}
        statistics._parts = [Extracted(found["features"], found["logits"], heads, found["vectors"])]
        if "probability" in found:
            statistics.classes = ClassSums(found["count"], found["negentropy"], found["probability"])
        return statistics
