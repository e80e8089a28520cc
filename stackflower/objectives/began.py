"""BEGAN's objective (Berthelot et al. 2017), extended to mismatched captions."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from stackflower.declarations import Requirement
from stackflower.objectives.base import Objective, Pairs
from stackflower.options import Positive, Share, Weight
from stackflower.registry import register
from stackflower.stages.base import Critic
from stackflower.utils.distributed import gather, get_rank_and_size


class OutlierRejection(nn.Module):
    """Rejection of real images whose error is far above the mean of the previous epoch (the anime-face report).

    Errors of rejected images still enter the statistics, so an image can be accepted again.

    Args:
        threshold: number of standard deviations above the mean from which an image is rejected.
    """

    limit: Tensor
    statistics: Tensor
    dropped: Tensor

    def __init__(self, threshold: float):
        super().__init__()
        self.threshold = threshold
        self.register_buffer("limit", torch.full((), torch.inf))  # error above which an image is rejected in this epoch
        self.register_buffer("statistics", torch.zeros(3))  # count, mean and squared deviations of this epoch's errors
        self.register_buffer("dropped", torch.zeros(()))  # images rejected in this epoch

    def weigh(self, errors: Tensor) -> Tensor:
        """Return the weight of each image in the mean over the batch, 0 for rejected images.

        If most of the batch exceeds the limit, the discriminator rather than the images got worse, and no image is
        rejected.

        Args:
            errors: errors of the real images of this process, `(N,)`.

        Returns:
            Weights `(N,)`.
        """
        all_errors = gather(errors)  # of all processes, because their losses are averaged
        kept = (all_errors <= self.limit).sum()
        reject = 2 * kept >= len(all_errors)
        self.dropped += torch.where(reject, len(all_errors) - kept, 0)
        self._update(all_errors)
        equal = torch.full_like(errors, 1 / len(errors))
        return torch.where(reject, (errors <= self.limit) / kept * get_rank_and_size()[1], equal)

    def _update(self, errors: Tensor) -> None:
        """Merge the errors of a batch into the statistics of the epoch (Chan et al. 1979)."""
        n = float(len(errors))
        count, mean, squares = self.statistics
        delta, total = errors.mean() - mean, count + n
        squares = squares + (errors - errors.mean()).square().sum() + delta.square() * count * n / total
        self.statistics.copy_(torch.stack([total, mean + delta * n / total, squares]))

    def after_epoch(self) -> dict[str, Tensor]:
        """Set the limit for the next epoch; return the number of rejected images and the new limit for the log."""
        count, mean, squares = self.statistics.clone()
        self.limit.copy_(mean + self.threshold * (squares / count.clamp_min(1)).sqrt())
        measured = {"dropped": self.dropped.clone(), "limit": self.limit.clone()}
        self.statistics.zero_()
        self.dropped.zero_()
        return measured


@register("objective", "began")
class BoundaryEquilibrium(Objective):
    """Boundary equilibrium (Berthelot et al. 2017, sections 3.3 and 3.4), for scores that are errors: low means real.

    The discriminator minimises L(x) − k·L(G(z)), the generator L(G(z)). After each step, k ← k + λ(γL(x) − L(G(z))),
    clipped to [0, 1]. The convergence measure is L(x) + |γL(x) − L(G(z))|.

    Two terms come from the conditional BEGAN of the anime-face report: the discriminator also maximises the error of
    real images with a mismatched text, up to `negative_cap` times the error with their own text; and `OutlierRejection`
    rejects real images. With gradient accumulation, all parts of a batch have the same weight, however many images are
    rejected in each.

    Args:
        gamma: γ, the target of L(G(z)) / L(x): lower values give sharper and less diverse images; 0.4 in the report.
        rate: λ, the learning rate of k.
        negative_weight: weight of the mismatched pairs: ½ as in GAN-CLS; with 1, both errors can grow together without
            bound; with 0, no mismatched pairs are used.
        negative_cap: multiple of the matching error above which a mismatched error is not increased further.
        threshold: number of standard deviations above the mean from which a real image is rejected; 0 rejects none.
    """

    requires = (
        Requirement("energy scores", of="discriminator", why="requires energy scores, but {other} outputs {offered}"),
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
