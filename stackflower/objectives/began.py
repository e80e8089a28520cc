"""BEGAN's objective: an autoencoder and a generator kept in balance (Berthelot et al. 2017), with mismatched captions."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from stackflower.objectives.base import Objective, Pairs
from stackflower.options import Positive, Share, Weight
from stackflower.registry import register
from stackflower.stages.base import Critic, Text
from stackflower.utils.distributed import gathered, world


@register("objective", "began")
class BoundaryEquilibrium(Objective):
    """Boundary equilibrium (sections 3.3 and 3.4), for discriminators whose score is an error: low means real.

    The discriminator minimises L(x) − k·L(G(z)), the generator L(G(z)), and after each step
    k ← k + λ(γL(x) − L(G(z))), kept within [0, 1]. The convergence measure is L(x) + |γL(x) − L(G(z))|. From the
    conditional BEGAN of the anime-face report: real images with another picture's text raise the loss, up to
    `wrong_cap` times the error with their own; and an epoch leaves out the real images whose error is above the mean and
    `threshold` standard deviations of the epoch before (they are measured all the same, so they can come back; of a batch,
    at most half). With gradient accumulation, each part of a batch counts alike, however many of it are kept.

    Args:
        gamma: γ, the wanted L(G(z)) / L(x): the less, the sharper and the more alike the pictures; 0.4 in the report.
        rate: λ, how fast k moves.
        wrong_weight: weight of the mismatched pairs, ½ as in GAN-CLS; at 1 both errors can grow together without bound; 0 uses none.
        wrong_cap: beyond this many times the matching error, a mismatched error is not raised further.
        threshold: standard deviations above the mean at which a real image is left out; 0 leaves out none.
    """

    reads = "energy"
    converges = True

    k: Tensor
    limit: Tensor
    sums: Tensor
    dropped: Tensor

    def __init__(
        self,
        *,
        gamma: Share = 0.4,
        rate: Weight = 0.001,
        wrong_weight: Weight = 0.5,
        wrong_cap: Positive = 1.5,
        threshold: Weight = 2.0,
    ):
        super().__init__()
        self.gamma, self.rate = gamma, rate
        self.wrong_weight, self.wrong_cap, self.threshold = wrong_weight, wrong_cap, threshold
        self.mismatched = wrong_weight > 0
        self.register_buffer("k", torch.zeros(()))
        self.register_buffer("limit", torch.full((), torch.inf))  # the epoch's: above it, a real image is left out
        self.register_buffer(
            "sums", torch.zeros(3)
        )  # of this epoch's real errors: count, mean, summed squared deviations
        self.register_buffer("dropped", torch.zeros(()))

    def _note(self, errors: Tensor) -> None:
        """Merge a batch's errors (of all processes) into the epoch's mean and deviation (Chan et al. 1979)."""
        n = float(len(errors))
        count, mean, squares = self.sums
        delta = errors.mean() - mean
        whole = count + n
        self.sums.copy_(
            torch.stack(
                [
                    whole,
                    mean + delta * n / whole,
                    squares + (errors - errors.mean()).square().sum() + delta.square() * count * n / whole,
                ]
            )
        )

    def discriminator_terms(self, critic: Critic, pairs: Pairs) -> dict[str, Tensor]:
        shown, *mismatched = critic(pairs.real, [pairs.text] if pairs.wrong is None else [pairs.text, pairs.wrong])
        (drawn,) = critic(pairs.fake, [pairs.drawn])
        own = shown.match.detach()
        share = torch.full_like(own, 1 / len(own))
        if self.threshold:
            every = gathered(own)  # of all processes, whose losses are averaged
            kept = (every <= self.limit).sum()
            # where most of a batch is beyond it, the discriminator got worse, not the pictures; without them it would stay so
            most = 2 * kept >= len(every)
            share = torch.where(most, (own <= self.limit) / kept * world()[1], share)
            self.dropped += torch.where(most, len(every) - kept, 0)
            self._note(every)
        terms = {"real": (shown.match * share).sum(), "fake": -self.k * drawn.match.mean()}
        if mismatched:
            raised = mismatched[0].match.minimum(self.wrong_cap * own)
            terms["wrong"] = -self.wrong_weight * (raised * share).sum()
        return terms

    def generator_terms(self, critic: Critic, fake: Tensor, text: Text) -> dict[str, Tensor]:
        (drawn,) = critic(fake, [text])
        return {"fool": drawn.match.mean()}

    def after_step(self, measured: Mapping[str, Tensor]) -> dict[str, Tensor]:
        balance = self.gamma * measured["real"] - measured["fool"]
        self.k.copy_((self.k + self.rate * balance).clamp(0, 1))
        return {"k": self.k.clone(), "convergence": measured["real"] + balance.abs()}

    def after_epoch(self) -> dict[str, Tensor]:
        if not self.threshold:
            return {}
        count, mean, squares = self.sums.clone()
        self.limit.copy_(mean + self.threshold * (squares / count.clamp_min(1)).sqrt())
        told = {"dropped": self.dropped.clone(), "limit": self.limit.clone()}
        self.sums.zero_()
        self.dropped.zero_()
        return told
