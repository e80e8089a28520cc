"""Projection discriminator (Miyato & Koyama 2018) with spectral normalisation (Miyato et al. 2018)."""

from __future__ import annotations

import itertools

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from stackflower.options import Count
from stackflower.registry import register
from stackflower.stages.base import Discriminator, Text, Verdict, initialise
from stackflower.stages.layers import require_doublings


@register("discriminator", "projection")
class ProjectionDiscriminator(Discriminator):
    """Projection discriminator (Miyato & Koyama 2018, eq. 3): a linear score plus an inner product with the text.

    ``match = ψ(h) + eᵀ V h``, where h is the sum of a convolutional trunk's features over 4×4 positions and e is the
    text embedding.

    Args:
        channels: width of the first layer; doubles with every halving of the resolution, up to 8-fold.
        spectral: apply spectral normalisation, which divides every weight by its largest singular value.
    """

    brings = {"objective": "hinge"}

    def __init__(self, *, text_dim: int, resolution: Count, channels: Count = 64, spectral: bool = True):
        super().__init__()
        depth = require_doublings(resolution, "The resolution of this discriminator")
        widths = [channels * min(2**level, 8) for level in range(depth)]
        layers: list[nn.Module] = []
        for narrow, wide in itertools.pairwise([3, *widths]):
            layers += [nn.Conv2d(narrow, wide, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        self.layers = nn.Sequential(*layers)
        self.project_text = nn.Linear(text_dim, widths[-1], bias=False)
        self.head = nn.Linear(widths[-1], 1)
        initialise(self)
        if spectral:
            for layer in [*self.layers, self.project_text, self.head]:
                if isinstance(layer, (nn.Conv2d, nn.Linear)):
                    spectral_norm(layer)

    def trunk(self, perceived: Tensor) -> Tensor:
        return self.layers(perceived).sum((2, 3))

    def judge(self, features: Tensor, text: Text) -> Verdict:
        text_features = self.project_text(text.embedding.to(features.dtype))
        return Verdict((self.head(features)[:, 0] + (text_features * features).sum(1)).float())
