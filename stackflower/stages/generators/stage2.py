"""StackGAN's Stage-II generator (Zhang et al. 2016, section 3.3), which refines and upsamples Stage-I images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stackflower.errors import ComponentError
from stackflower.options import Count, Natural, Weight
from stackflower.registry import register
from stackflower.stages.base import Refiner, initialise
from stackflower.stages.layers import Norm, UpsampleConv, build_norm2d

SHORTCUT_CHANNELS = 16  # width between the two convolutions of the shortcut


class ResidualBlock(nn.Module):
    """Residual block of two 3×3 convolutions with normalisation.

    Args:
        channels: channels of the input and the output.
        norm: normalisation after each convolution.
    """

    def __init__(self, channels: int, norm: Norm):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=norm == "none"),
            build_norm2d(norm, channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1, bias=norm == "none"),
            build_norm2d(norm, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(x + self.layers(x))


@register("generator", "stage2")
class StageTwoGenerator(Refiner):
    """StackGAN's Stage-II generator (Zhang et al. 2016, section 3.3): refines and upsamples previous-stage images.

    Two strided convolutions encode the image (64×64 → 16×16). The condition, repeated over all positions, joins the
    features in a 3×3 convolution. Residual blocks follow, then nearest-neighbour upsampling and 3×3 convolutions. The
    ratio of the resolutions must be a power of two.

    Args:
        resolution: height and width of the image; None: `factor` times the resolution of the previous stage.
        factor: ratio of the resolutions, used if `resolution` is None; 4 in the paper (64 → 256).
        channels: width at the resolution of the input, four times as much at a quarter of it; 128 in the paper.
        blocks: residual blocks; 4 in the paper's 256×256 model.
        norm: normalisation after each convolution.
        shortcut: feed the upsampled image of the previous stage to the last two convolutions too, and add their output
            to it before the tanh. The stage then learns a residual, keeps edges that the encoder loses, and starts from
            the upsampled image. Not in the paper; it improves short trainings considerably.
        consistency_weight: weight of the term "consistency", the mean squared difference between the image of the
            previous stage and this stage's image, downsampled to the same size. Not in the paper, whose Stage-II may
            change anything; in short trainings, such changes make images worse.
    """

    def __init__(
        self,
        *,
        condition_dim: int,
        previous_resolution: int = 64,
        resolution: Count | None = None,
        factor: Count = 4,
        channels: Count = 128,
        blocks: Natural = 4,
        norm: Norm = "batch",
        shortcut: bool = False,
        consistency_weight: Weight = 0.0,
    ):
        super().__init__()
        setting = f"`generator.resolution={resolution}`" if resolution else f"`generator.factor={factor}`"
        resolution = resolution or factor * previous_resolution
        factor, rest = divmod(resolution, previous_resolution)
        if rest or factor < 2 or factor & (factor - 1) or previous_resolution % 4:
            raise ComponentError(
                f"{setting} does not fit a previous stage of {previous_resolution} px: the factor must be 2, 4, 8, …; "
                f"the resolution {', '.join(str(previous_resolution * 2**power) for power in (1, 2, 3))}, … px."
            )
        self.resolutions = (resolution,)
        self.shortcut = shortcut
        self.weights = {"consistency": consistency_weight} if consistency_weight else {}
        wide = 4 * channels
        self.encoder = nn.Sequential(
            nn.Conv2d(3, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, 2 * channels, 4, 2, 1, bias=norm == "none"),
            build_norm2d(norm, 2 * channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(2 * channels, wide, 4, 2, 1, bias=norm == "none"),
            build_norm2d(norm, wide),
            nn.ReLU(inplace=True),
        )
        self.join = nn.Sequential(
            nn.Conv2d(wide + condition_dim, wide, 3, padding=1, bias=norm == "none"),
            build_norm2d(norm, wide),
            nn.ReLU(inplace=True),
        )
        self.residual = nn.Sequential(*(ResidualBlock(wide, norm) for _ in range(blocks)))
        layers: list[nn.Module] = []
        for _ in range((4 * factor).bit_length() - 1):
            narrow = max(wide // 2, channels // 4, 4)
            layers += [UpsampleConv(wide, narrow), build_norm2d(norm, narrow), nn.ReLU(inplace=True)]
            wide = narrow
        self.up = nn.Sequential(*layers)
        last = nn.Conv2d(SHORTCUT_CHANNELS if shortcut else wide, 3, 3, padding=1)
        shortcut_layers = (
            [nn.Conv2d(wide + 3, SHORTCUT_CHANNELS, 3, padding=1), nn.LeakyReLU(0.2, inplace=True)] if shortcut else []
        )
        self.to_image = nn.Sequential(*shortcut_layers, last)
        initialise(self)
        if shortcut:
            nn.init.zeros_(last.weight)

    def generate(self, condition: Tensor, noise: Tensor, image: Tensor | None = None) -> tuple[Tensor, ...]:
        assert image is not None
        features = self.encoder(image)
        condition_map = condition.to(features.dtype)[:, :, None, None].expand(-1, -1, *features.shape[2:])
        x = self.up(self.residual(self.join(torch.cat([features, condition_map], 1))))
        if not self.shortcut:
            return (torch.tanh(self.to_image(x)),)
        upsampled = nn.functional.interpolate(image.float(), size=x.shape[-1], mode="bilinear")
        residual = self.to_image(torch.cat([x, upsampled.to(x.dtype)], 1))
        # added before the tanh, so a zero residual leaves the image unchanged
        return (torch.tanh(residual + torch.atanh(upsampled.clamp(-0.99, 0.99))),)

    def terms(self, images: tuple[Tensor, ...], image: Tensor | None = None) -> dict[str, Tensor]:
        if not self.weights:
            return {}
        assert image is not None
        small = nn.functional.adaptive_avg_pool2d(images[-1].float(), image.shape[-1])
        return {"consistency": nn.functional.mse_loss(small, image.float())}
