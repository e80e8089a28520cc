"""BEGAN's objective (Berthelot et al. 2017): an autoencoder and a generator kept in balance, with mismatched
captions."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from stackflower.declarations import Requirement
from stackflower.objectives.base import Objective, Pairs
from stackflower.options import Positive, Share, Weight
from stackflower.registry import register
from stackflower.stages.base import Critic
from stackflower.utils.distributed import gathered, world


class OutlierRejection(nn.Module):
    """Leaves out real images whose error is far above the mean of the epoch before (the anime-face report).

    Errors of rejected images count in the statistics all the same, so an image can come back.

    Args:
        threshold: standard deviations above the mean at which an image is left out.
    """

    limit: Tensor
    statistics: Tensor
    dropped: Tensor

    def __init__(self, threshold: float):
        super().__init__()
        self.threshold = threshold
        self.register_buffer("limit", torch.full((), torch.inf))  # this epoch's: above it, an image is left out
        self.register_buffer("statistics", torch.zeros(3))  # of this epoch's errors: count, mean, squared deviations
        self.register_buffer("dropped", torch.zeros(()))  # images left out in this epoch

    def weigh(self, errors: Tensor) -> Tensor:
        """The weight of each image in the mean, from this process's errors (N,): 0 for outliers. Where most of a batch
        lies above the limit, the discriminator got worse, not the images, and none is left out."""
        every = gathered(errors)  # of all processes, whose losses are averaged
        kept = (every <= self.limit).sum()
        reject = 2 * kept >= len(every)
        self.dropped += torch.where(reject, len(every) - kept, 0)
        self._update(every)
        equal = torch.full_like(errors, 1 / len(errors))
        return torch.where(reject, (errors <= self.limit) / kept * world()[1], equal)

    def _update(self, errors: Tensor) -> None:
        """Merge a batch's errors into the epoch's mean and deviation (Chan et al. 1979)."""
        n = float(len(errors))
        count, mean, squares = self.statistics
        delta, total = errors.mean() - mean, count + n
        squares = squares + (errors - errors.mean()).square().sum() + delta.square() * count * n / total
        self.statistics.copy_(torch.stack([total, mean + delta * n / total, squares]))

    def after_epoch(self) -> dict[str, Tensor]:
        """Set the next epoch's limit; the images dropped and the limit, for the log."""
        count, mean, squares = self.statistics.clone()
        self.limit.copy_(mean + self.threshold * (squares / count.clamp_min(1)).sqrt())
        measured = {"dropped": self.dropped.clone(), "limit": self.limit.clone()}
        self.statistics.zero_()
        self.dropped.zero_()
        return measured


@register("objective", "began")
class BoundaryEquilibrium(Objective):
    """Boundary equilibrium (sections 3.3 and 3.4), for discriminators whose score is an error: low means real.

    The discriminator minimises L(x) − k·L(G(z)), the generator L(G(z)), and after each step k ← k + λ(γL(x) − L(G(z))),
    clipped to [0, 1]. The convergence measure is L(x) + |γL(x) − L(G(z))|. From the conditional BEGAN of the anime-face
    report: real images with a mismatched text raise the loss, up to `negative_cap` times the error with their own text;
    and `OutlierRejection`. With gradient accumulation, each part of a batch has the same weight, however many of its
    images are kept.

    Args:
        gamma: γ, the target of L(G(z)) / L(x): lower is sharper and less diverse; 0.4 in the report.
        rate: λ, the learning rate of k.
        negative_weight: weight of the mismatched pairs, ½ as in GAN-CLS; at 1 both errors can grow together without
            bound; 0 uses none.
        negative_cap: beyond this many times the matching error, a mismatched error is not raised further.
        threshold: standard deviations above the mean at which a real image is left out; 0 leaves out none.
    """

    requires = (
        Requirement("energy scores", of="discriminator", why="works on energy scores, and {other} gives {offered}"),
    )
    offers = ("convergence measure",)

    k: Tensor

    def __init__(
        self,
        *,
        gamma: Share = 0.4,
        rate: Weight = 0.001,
        negative_weight: Weight = 0.5,
        negative_cap: Positive = 1.5,
        threshold: Weight = 2.0,
    ):
        super().__init__()
        self.gamma, self.rate = gamma, rate
        self.negative_weight, self.negative_cap = negative_weight, negative_cap
        self.mismatched = negative_weight > 0
        self.register_buffer("k", torch.zeros(()))
        self.outliers = OutlierRejection(threshold) if threshold else None

    def discriminator_terms(self, critic: Critic, pairs: Pairs) -> dict[str, Tensor]:
        texts = [pairs.text] if pairs.negative_text is None else [pairs.text, pairs.negative_text]
        real, *mismatched = critic(pairs.real, texts)
        (fake,) = critic(pairs.fake, [pairs.fake_text])
        errors = real.score.detach()
        equal = torch.full_like(errors, 1 / len(errors))
        weights = equal if self.outliers is None else self.outliers.weigh(errors)
        terms = {"real": (real.score * weights).sum(), "fake": -self.k * fake.score.mean()}
        if mismatched:
            capped = mismatched[0].score.minimum(self.negative_cap * errors)
            terms["negative"] = -self.negative_weight * (capped * weights).sum()
        return terms

    def generator_terms(self, critic: Critic, pairs: Pairs) -> dict[str, Tensor]:
        (verdict,) = critic(pairs.fake, [pairs.fake_text])
        return {"adversarial": verdict.score.mean()}

    def after_step(self, measured: Mapping[str, Tensor]) -> dict[str, Tensor]:
        balance = self.gamma * measured["real"] - measured["adversarial"]
        self.k.copy_((self.k + self.rate * balance).clamp(0, 1))
        return {"k": self.k.clone(), "convergence": measured["real"] + balance.abs()}

    def after_epoch(self) -> dict[str, Tensor]:
        return {} if self.outliers is None else self.outliers.after_epoch()
