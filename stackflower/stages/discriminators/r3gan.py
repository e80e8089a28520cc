"""R3GAN's discriminator (Huang et al. 2024), conditioned on text."""

from __future__ import annotations

import itertools
from functools import partial

from torch import Tensor, nn

from stackflower.options import Count
from stackflower.registry import register
from stackflower.stages.base import Discriminator, Text, Verdict
from stackflower.stages.layers import require_doublings
from stackflower.stages.r3gan_blocks import Resampling, build_convolution, build_residual_blocks, list_widths


@register("discriminator", "r3gan")
class R3Discriminator(Discriminator):
    """R3GAN's residual discriminator without normalisation (Huang et al. 2024, section 4).

    It mirrors the generator: residual blocks and bilinear downsampling, a depthwise 4×4 convolution, and an inner
    product with the text. The paper regularises it with the penalties ``r1`` and ``r2``.

    Args:
        channels: width at the full resolution, twice as much at lower resolutions; 384 in the release for 64 px.
        blocks: residual blocks per resolution.
        group_width: channels per group of the 3×3 convolutions; 16 in the release.
        projection_dim: size of the space in which image and text are compared.
    """

    brings = {"objective": "relativistic"}

    def __init__(
        self,
        *,
        text_dim: int,
        resolution: Count,
        channels: Count = 384,
        blocks: Count = 2,
        group_width: Count = 16,
        projection_dim: Count = 128,
    ):
        super().__init__()
        widths = list_widths(require_doublings(resolution, "The resolution of this discriminator"), channels)[::-1]
        build_level = partial(build_residual_blocks, group_width=group_width, count=blocks, levels=len(widths))
        layers: list[nn.Module] = [build_convolution(3, widths[0], 1, 1.0), *build_level(widths[0])]
        for narrow, wide in itertools.pairwise(widths):
            layers += [Resampling(narrow, wide, up=False), *build_level(wide)]
        self.layers = nn.Sequential(*layers)
        self.basis = nn.Conv2d(widths[-1], widths[-1], 4, groups=widths[-1], bias=False)
        nn.init.normal_(self.basis.weight, 0.0, 1 / 4)
        self.key = nn.Linear(widths[-1], projection_dim, bias=False)
        nn.init.normal_(self.key.weight, 0.0, widths[-1] ** -0.5)
        # the bias weights the part of the score that is independent of the text
        self.text = nn.Linear(text_dim, projection_dim)
        nn.init.normal_(self.text.weight, 0.0, text_dim**-0.5)
        nn.init.normal_(self.text.bias)

    def trunk(self, perceived: Tensor) -> Tensor:
        return self.key(self.basis(self.layers(perceived)).flatten(1))

    def judge(self, features: Tensor, text: Text) -> Verdict:
        query = self.text(text.embedding.to(features.dtype))
        return Verdict((features * query).sum(1).float() / features.shape[1] ** 0.5)
