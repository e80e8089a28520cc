"""The Stage-II generator of StackGAN (Zhang et al. 2016, section 3.3): it corrects a small picture and draws it larger."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stackflower.errors import ComponentError
from stackflower.options import Count, Natural, Weight
from stackflower.registry import register
from stackflower.stages.base import Refiner, initialise
from stackflower.stages.layers import Norm, UpsampleConv, norm2d

LAST = 16  # width between the two convolutions that see the picture below


class Residual(nn.Module):
    """Two 3×3 convolutions with norms, added to their input."""

    def __init__(self, channels: int, norm: Norm):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=norm == "none"),
            norm2d(norm, channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1, bias=norm == "none"),
            norm2d(norm, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(x + self.layers(x))


@register("generator", "stage2")
class StageTwoGenerator(Refiner):
    """Stage-II: the picture below, encoded to a quarter of its size and joined with the condition, drawn at `resolution`.

    Two strided convolutions (64×64 → 16×16), the condition repeated over all positions and joined by a 3×3 convolution,
    residual blocks, then nearest enlargement and 3×3 convolutions. Any pair of resolutions goes whose ratio is a power of two.

    Args:
        resolution: height and width of the image; None: `factor` times those of the picture below.
        factor: 4 in the paper (64 → 256).
        channels: width at the picture's own size, 4-fold at a quarter of it; 128 in the paper.
        blocks: residual blocks; 4 in the paper's 256×256 model.
        norm: normalisation after each convolution.
        shortcut: two last convolutions see the picture below, enlarged, beside the features, and what they draw is added to it
            before the tanh: the stage learns what to change, with edges in sight that a quarter of the size has lost. Not in
            the paper; short trainings gain much by it. Training begins at the enlarged picture itself.
        consistency_weight: of the term "consistency": mean squared difference between the picture below and the image averaged
            down to its size (low-resolution consistency, as in super-resolution). Not in the paper, which lets Stage-II redraw
            anything; few steps redraw for the worse.
    """

    def __init__(
        self,
        *,
        condition_dim: int,
        lower_resolution: int = 64,
        resolution: Count | None = None,
        factor: Count = 4,
        channels: Count = 128,
        blocks: Natural = 4,
        norm: Norm = "batch",
        shortcut: bool = False,
        consistency_weight: Weight = 0.0,
    ):
        super().__init__()
        asked = f"generator.resolution = {resolution}" if resolution else f"generator.factor = {factor}"
        resolution = resolution or factor * lower_resolution
        factor, rest = divmod(resolution, lower_resolution)
        if rest or factor < 2 or factor & (factor - 1) or lower_resolution % 4:
            raise ComponentError(
                f"{asked} over a stage of {lower_resolution} px: allowed are a factor of 2, 4, 8 …, which is "
                f"{', '.join(str(lower_resolution * 2**power) for power in (1, 2, 3))} … px."
            )
        self.resolutions = (resolution,)
        self.shortcut = shortcut
        self.weights = {"consistency": consistency_weight} if consistency_weight else {}
        wide = 4 * channels
        self.encoder = nn.Sequential(
            nn.Conv2d(3, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, 2 * channels, 4, 2, 1, bias=norm == "none"),
            norm2d(norm, 2 * channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(2 * channels, wide, 4, 2, 1, bias=norm == "none"),
            norm2d(norm, wide),
            nn.ReLU(inplace=True),
        )
        self.join = nn.Sequential(
            nn.Conv2d(wide + condition_dim, wide, 3, padding=1, bias=norm == "none"),
            norm2d(norm, wide),
            nn.ReLU(inplace=True),
        )
        self.residual = nn.Sequential(*(Residual(wide, norm) for _ in range(blocks)))
        layers: list[nn.Module] = []
        for _ in range((4 * factor).bit_length() - 1):
            narrow = max(wide // 2, channels // 4, 4)
            layers += [UpsampleConv(wide, narrow), norm2d(norm, narrow), nn.ReLU(inplace=True)]
            wide = narrow
        self.up = nn.Sequential(*layers)
        last = nn.Conv2d(LAST if shortcut else wide, 3, 3, padding=1)
        seeing = [nn.Conv2d(wide + 3, LAST, 3, padding=1), nn.LeakyReLU(0.2, inplace=True)] if shortcut else []
        self.to_image = nn.Sequential(*seeing, last)
        initialise(self)
        if shortcut:
            nn.init.zeros_(last.weight)

    def forward(self, condition: Tensor, noise: Tensor, image: Tensor | None = None) -> tuple[Tensor, ...]:
        assert image is not None
        features = self.encoder(image)
        words = condition.to(features.dtype)[:, :, None, None].expand(-1, -1, *features.shape[2:])
        x = self.up(self.residual(self.join(torch.cat([features, words], 1))))
        if not self.shortcut:
            return (torch.tanh(self.to_image(x)),)
        below = nn.functional.interpolate(image.float(), size=x.shape[-1], mode="bilinear")
        drawn = self.to_image(torch.cat([x, below.to(x.dtype)], 1))
        # in the tanh's own scale, so that an unchanged picture needs a zero
        return (torch.tanh(drawn + torch.atanh(below.clamp(-0.99, 0.99))),)

    def terms(self, images: tuple[Tensor, ...], image: Tensor | None = None) -> dict[str, Tensor]:
        if not self.weights:
            return {}
        assert image is not None
        small = nn.functional.adaptive_avg_pool2d(images[-1].float(), image.shape[-1])
        return {"consistency": nn.functional.mse_loss(small, image.float())}
