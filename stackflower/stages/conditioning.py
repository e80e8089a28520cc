"""Conditionings, which map text embeddings to the condition of a generator."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stackflower.options import Count, Weight
from stackflower.registry import register
from stackflower.stages.base import Condition, Conditioning


def compute_kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Compute KL(N(mean, exp(log_variance)) ‖ N(0, 1)) as a float32 scalar, averaged over images and dimensions."""
    mean, log_variance = mean.float(), log_variance.float()
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()


@register("conditioning", "augmentation")
class ConditioningAugmentation(Conditioning):
    """Conditioning augmentation (Zhang et al. 2016, section 3.1): c = μ(φ) + σ(φ)·ε, with KL(N(μ, σ²) ‖ N(0, I)).

    μ and log σ² are the output of a linear layer, followed by a leaky ReLU (as in Stage-I of the authors' first
    release) or, with `gated`, by a gated linear unit (as in their PyTorch release).

    Args:
        dim: size C of the condition.
        kl_weight: weight of the KL term; 2 in the authors' configuration.
        gated: use a gated linear unit instead of a leaky ReLU.
    """

    def __init__(self, *, text_dim: int, dim: Count = 128, kl_weight: Weight = 2.0, gated: bool = False):
        super().__init__()
        self.dim = self.noise_dim = dim
        self.gated = gated
        self.weights = {"kl": kl_weight}
        self.dense = nn.Linear(text_dim, dim * (4 if gated else 2))

    def forward(self, embedding: Tensor, noise: Tensor) -> Condition:
        hidden = self.dense(embedding)
        hidden = nn.functional.glu(hidden) if self.gated else nn.functional.leaky_relu(hidden, 0.2)
        mean, log_variance = hidden.float().chunk(2, dim=1)
        sample = mean + torch.exp(0.5 * log_variance) * noise
        return Condition(sample, mean, {"kl": compute_kl_to_standard_normal(mean, log_variance)})


@register("conditioning", "projection")
class ProjectionConditioning(Conditioning):
    """Deterministic conditioning of GAN-CLS (Reed et al. 2016): a linear layer and a leaky ReLU.

    Args:
        dim: size C of the condition.
        noise: standard deviation of normal noise added to the condition. It keeps a condition from identifying a single
            image, which the anime-face report proposes against mode collapse.
    """

    def __init__(self, *, text_dim: int, dim: Count = 128, noise: Weight = 0.0):
        super().__init__()
        self.dim = dim
        self.noise, self.noise_dim = noise, dim if noise else 0
        self.dense = nn.Linear(text_dim, dim)

    def forward(self, embedding: Tensor, noise: Tensor) -> Condition:
        condition = nn.functional.leaky_relu(self.dense(embedding), 0.2).float()
        return Condition(condition + self.noise * noise if self.noise else condition, condition, {})
