"""StackGAN's Stage-I generator (Zhang et al. 2016, sections 3.2 and 4)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from stackflower.errors import ComponentError
from stackflower.options import Below1, Count, Natural
from stackflower.registry import register
from stackflower.stages.base import Generator, initialise
from stackflower.stages.layers import GeneratorNorm, ReferenceBatch, UpsampleConv, build_norm2d, require_doublings


class UpBlock(nn.Module):
    """Nearest-neighbour upsampling by two, 3×3 convolution, normalisation and ReLU.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        norm: normalisation.
        style_dim: size of the style that scales and shifts the normalised channels (conditional normalisation, Brock
            et al. 2019); 0: no style.
    """

    def __init__(self, in_channels: int, out_channels: int, norm: GeneratorNorm, style_dim: int = 0):
        super().__init__()
        self.convolution = UpsampleConv(in_channels, out_channels)
        self.norm = build_norm2d(norm, out_channels)
        self.style = nn.Linear(style_dim, 2 * out_channels) if style_dim else None

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """Map `(N, in_channels, H, W)` to `(N, out_channels, 2H, 2W)`, given the style `(N, style_dim)`."""
        x = self.norm(self.convolution(x))
        if self.style is not None:
            scale, shift = self.style(style)[:, :, None, None].chunk(2, dim=1)
            x = x * (1 + scale) + shift  # several times as fast as addcmul when broadcasting over few channels
        return nn.functional.relu(x, inplace=True)


@register("generator", "stage1")
class StageOneGenerator(Generator):
    """StackGAN's Stage-I generator (Zhang et al. 2016, section 3.2): a linear layer to 4×4, then upsampling blocks.

    The linear layer takes condition and noise. The width is 8·`channels` at 4×4 and halves with every doubling of the
    resolution. The defaults are those of the paper's 64×64 generator.

    Args:
        resolution: height and width of the image, a power of two from 16 up.
        channels: an eighth of the width at 4×4; 128 in the paper, 192 in the authors' PyTorch release.
        noise_dim: size of z.
        noise: distribution of z: standard normal, or uniform on [-1, 1].
        norm: normalisation after each convolution.
        style: let condition and noise also scale and shift the channels of every block.
        mapping_layers: linear layers applied to condition and noise before everything else, twice as wide as these (the
            mapping network of Karras et al. 2019). Without them, the effects of text and noise are merely added, so the
            noise can't be limited to what the text leaves open.
        dropout: probability that a channel is zeroed at 4×4 and 8×8 during training.
    """

    def __init__(
        self,
        *,
        condition_dim: int,
        resolution: Count = 64,
        channels: Count = 128,
        noise_dim: Count = 100,
        noise: Literal["normal", "uniform"] = "normal",
        norm: GeneratorNorm = "batch",
        style: bool = False,
        mapping_layers: Natural = 0,
        dropout: Below1 = 0.0,
    ):
        super().__init__()
        depth = require_doublings(resolution, "`generator.resolution`")
        if channels * 8 % 2**depth:
            raise ComponentError(
                f"`generator.channels` is {channels}, but 8 × channels must be divisible by {2**depth}."
            )
        self.resolutions = (resolution,)
        self.noise_dim, self.noise = noise_dim, noise
        self.dropout = nn.Dropout2d(dropout)
        self.widths = [channels * 8 // 2**level for level in range(depth + 1)]
        inputs = condition_dim + noise_dim
        layers: list[nn.Module] = []
        for _ in range(mapping_layers):
            layers += [nn.Linear(inputs, 2 * (condition_dim + noise_dim)), nn.LeakyReLU(0.2)]
            inputs = 2 * (condition_dim + noise_dim)
        self.dense = nn.Linear(inputs, self.widths[0] * 16, bias=False)
        self.norm = build_norm2d(norm, self.widths[0])
        self.blocks = nn.ModuleList(
            UpBlock(wide, narrow, norm, inputs if style else 0)
            for wide, narrow in zip(self.widths, self.widths[1:], strict=False)
        )
        self.to_image = nn.Conv2d(self.widths[-1], 3, 3, padding=1, bias=False)
        initialise(self)
        for layer in layers:
            if isinstance(layer, nn.Linear):  # N(0, 0.02) would shrink the activations to almost nothing
                nn.init.kaiming_normal_(layer.weight, 0.2)
        self.mapping = nn.Sequential(*layers)
        self.reference_batch = ReferenceBatch(condition_dim, noise_dim) if norm == "virtual" else None

    def generate(self, condition: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        style = self.mapping(torch.cat([condition, noise], 1))
        x = self.dense(style).unflatten(1, (self.widths[0], 4, 4))
        x = nn.functional.relu(self.norm(x.contiguous(memory_format=torch.channels_last)), inplace=True)
        x = self.dropout(x)
        for depth, block in enumerate(self.blocks):
            x = block(x, style)
            if depth == 0:
                x = self.dropout(x)
        return (torch.tanh(self.to_image(x)),)
