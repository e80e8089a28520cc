"""Statistics of scored images, computed batch by batch in memory that does not grow with their number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stackflower.evaluation.extractors.base import Extracted

HEAD_PREFIX = "head/"  # of the names of attributes' logits in a file


@dataclass
class Moments:
    """Mean and covariance of features, in float64, updated batch by batch (Chan et al. 1983)."""

    count: int = 0
    mean: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))  # (F,)
    # (F, F) Σ (x − mean)(x − mean)ᵀ
    scatter: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.float64))

    @classmethod
    def of(cls, features: Tensor) -> Moments:
        """Compute the moments of features `(N, F)`."""
        rows = features.double()
        mean = rows.mean(0)
        centred = rows - mean
        return cls(len(rows), mean, centred.T @ centred)

    def add(self, other: Moments) -> None:
        """Merge the moments of other images into these."""
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
        """Unbiased covariance `(F, F)`."""
        return self.scatter / (self.count - 1)


@dataclass
class ClassSums:
    """Sums of class probabilities within each split of the Inception Score, in float64."""

    count: Tensor  # (S,) number of images
    negentropy: Tensor  # (S,) Σ over images of Σ_y p log p
    probability: Tensor  # (S, K) Σ over images of p

    @classmethod
    def of(cls, logits: Tensor, split: Tensor, splits: int) -> ClassSums:
        """Compute the sums of images.

        Args:
            logits: logits `(N, K)`.
            split: split of each image, `(N,)`.
            splits: number of splits S.
        """
        log = logits.double().log_softmax(1)
        zeros = torch.zeros(splits, dtype=torch.float64)
        return cls(
            zeros.index_add(0, split, torch.ones(len(split), dtype=torch.float64)),
            zeros.index_add(0, split, (log.exp() * log).sum(1)),
            torch.zeros(splits, logits.shape[1], dtype=torch.float64).index_add(0, split, log.exp()),
        )

    def add(self, other: ClassSums) -> None:
        """Add the sums of other images to these."""
        self.count = self.count + other.count
        self.negentropy = self.negentropy + other.negentropy
        self.probability = self.probability + other.probability

    def compute_scores(self) -> Tensor:
        """Compute exp E KL(p(y|x) ‖ p(y)) `(S,)` within each split; NaN for a split without images."""
        marginal = self.probability / self.count[:, None]
        return torch.exp(self.negentropy / self.count - torch.xlogy(marginal, marginal).sum(1))


class Statistics:
    """Statistics of images in random order: moments and class sums of all images, and the outputs of the first ones.

    Args:
        total: expected number of images, which determines the splits of the Inception Score.
        splits: number of splits, whose sizes differ by at most one.
        max_rows: maximum number of images whose outputs are kept.
    """

    def __init__(self, total: int, splits: int, max_rows: int):
        self.total, self.splits, self.max_rows = total, splits, max_rows
        self.moments = Moments()
        self.classes: ClassSums | None = None
        self._parts: list[Extracted] = []

    def add(self, outputs: Extracted, places: Tensor) -> None:
        """Add images.

        Args:
            outputs: outputs of the extractor for the images.
            places: positions `(N,)` of the images in the random order, increasing. Images that can't be read leave
                gaps.
        """
        self.moments.add(Moments.of(outputs.features))
        if outputs.logits.shape[1]:
            self._add_classes(ClassSums.of(outputs.logits, self._find_splits(places), self.splits))
        kept = int((places < self.max_rows).sum())
        if kept:
            self._parts.append(outputs.rows(slice(0, kept)))

    def _find_splits(self, places: Tensor) -> Tensor:
        """Return the split `(N,)` of each place, with the sizes of `Tensor.tensor_split`."""
        size, larger = divmod(self.total, self.splits)  # the first `larger` splits have one more image
        edges = torch.tensor([number * size + min(number, larger) for number in range(1, self.splits)])
        return torch.searchsorted(edges, places, right=True)

    def _add_classes(self, sums: ClassSums) -> None:
        if self.classes is None:
            self.classes = sums
        else:
            self.classes.add(sums)

    def merge(self, others: Iterable[Statistics]) -> None:
        """Add the statistics of other processes, in the order of their shares."""
        for other in others:
            self.moments.add(other.moments)
            if other.classes is not None:
                self._add_classes(other.classes)
            self._parts += other._parts

    @classmethod
    def of(cls, outputs: Extracted, splits: int = 1, max_rows: int | None = None) -> Statistics:
        """Compute the statistics of complete outputs."""
        count = len(outputs.features)
        statistics = cls(count, splits, count if max_rows is None else max_rows)
        statistics.add(outputs, torch.arange(count))
        return statistics

    @property
    def count(self) -> int:
        """Number of images."""
        return self.moments.count

    @property
    def rows(self) -> Extracted:
        """Outputs of the images at the first `max_rows` places."""
        if len(self._parts) > 1:
            self._parts = [Extracted.concatenate(self._parts)]
        return self._parts[0]

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the statistics as named tensors, to save them in a file."""
        rows = self.rows
        tensors = {
            "settings": torch.tensor([self.total, self.splits, self.max_rows, self.count]),
            "mean": self.moments.mean,
            "scatter": self.moments.scatter,
            **{name: getattr(rows, name) for name in ("features", "logits", "vectors")},
            **{HEAD_PREFIX + name: values for name, values in rows.heads.items()},
        }
        if self.classes is not None:
            tensors |= {name: getattr(self.classes, name) for name in ("count", "negentropy", "probability")}
        return {name: values.contiguous() for name, values in tensors.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Statistics:
        """Rebuild statistics from the result of `to_tensors`.

        Raises:
            KeyError: a tensor is missing.
        """
        total, splits, max_rows, count = (int(value) for value in tensors["settings"])
        statistics = cls(total, splits, max_rows)
        statistics.moments = Moments(count, tensors["mean"], tensors["scatter"])
        heads = {
            name.removeprefix(HEAD_PREFIX): values for name, values in tensors.items() if name.startswith(HEAD_PREFIX)
        }
        statistics._parts = [Extracted(tensors["features"], tensors["logits"], heads, tensors["vectors"])]
        if "probability" in tensors:
            statistics.classes = ClassSums(tensors["count"], tensors["negentropy"], tensors["probability"])
        return statistics
