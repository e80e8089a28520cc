"""AttnGAN's generator (Xu et al. 2018, section 3.1): each pixel attends to the words of the caption."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stackflower.options import Count, Natural
from stackflower.registry import register
from stackflower.stages.base import WORDS, Generator, Words, initialise
from stackflower.stages.gated_blocks import GatedResidualBlock, build_gated_upsampling, list_scales
from stackflower.stages.layers import Norm, build_norm2d
from stackflower.stages.words import attend_to_words


class AttentionBranch(nn.Module):
    """Branch from features and words to features of twice the resolution: h_i = F_i(h_{i−1}, F_attn(e, h_{i−1})).

    The words e are projected to the channels of the features (e' = U e, eq. 2). Every position j attends to them with
    weights β_j = softmax of h_j · e', and is joined with c_j = Σ_i β_ji e'_i.

    Args:
        channels: channels of the features.
        word_dim: size D of the vector of a word.
        blocks: residual blocks.
        norm: normalisation after each convolution.
    """

    def __init__(self, channels: int, word_dim: int, blocks: int, norm: Norm):
        super().__init__()
        self.project = nn.Linear(word_dim, channels, bias=False)
        self.residual = nn.Sequential(*(GatedResidualBlock(2 * channels, norm) for _ in range(blocks)))
        self.up = build_gated_upsampling(2 * channels, channels, norm)

    def forward(self, features: Tensor, words: Words) -> tuple[Tensor, Tensor]:
        """Compute features of twice the resolution.

        Args:
            features: `(N, C, H, W)`.
            words: words of the captions.

        Returns:
            Features `(N, C, 2H, 2W)`, and the attention of each position to each word `(N, L, H, W)`.
        """
        keys = self.project(words.vectors)
        weights = attend_to_words(features.flatten(2).transpose(1, 2), keys, words.mask)
        context = (weights.to(keys.dtype) @ keys).transpose(1, 2).reshape_as(features)
        joined = torch.cat([features, context.to(features.dtype)], 1)
        maps = weights.transpose(1, 2).unflatten(2, features.shape[2:])
        return self.up(self.residual(joined)), maps


@register("generator", "attention")
class AttentionGenerator(Generator):
    """AttnGAN's generator (Xu et al. 2018, eqs. 1 and 2): images of several resolutions, refined by attention to words.

    Condition and noise are projected to 4×4 and upsampled to the smallest resolution. One branch per doubling follows,
    in which every position attends to the words of the caption. Every resolution has its own discriminator.

    Args:
        resolution: height and width of the largest images.
        scales: number of resolutions, each half of the next, at least 2; 3 in the paper (64, 128, 256).
        channels: width of the features of each resolution; 32 in the authors' configuration for birds, 48 for COCO.
        noise_dim: size of z.
        noise: distribution of z: standard normal, or uniform on [-1, 1].
        blocks: residual blocks per branch; 2 in the configuration for birds, 3 for COCO.
        norm: normalisation after each convolution.
    """

    requires = (*Generator.requires, WORDS)
    uses_words = True

    def __init__(
        self,
        *,
        condition_dim: int,
        word_dim: int,
        resolution: Count = 256,
        scales: Count = 3,
        channels: Count = 32,
        noise_dim: Count = 100,
        noise: Literal["normal", "uniform"] = "normal",
        blocks: Natural = 2,
        norm: Norm = "batch",
    ):
        super().__init__()
        self.resolutions, depth = list_scales(resolution, scales, 2, "each of at least two resolutions")
        self.noise_dim, self.noise = noise_dim, noise
        self.wide = channels * 2**depth
        self.dense = nn.Linear(condition_dim + noise_dim, self.wide * 16 * 2, bias=False)
        self.norm = build_norm2d(norm, self.wide * 2)
        widths = [self.wide // 2**level for level in range(depth)]
        self.trunk = nn.Sequential(*(build_gated_upsampling(wide, wide // 2, norm) for wide in widths))
        self.branches = nn.ModuleList(AttentionBranch(channels, word_dim, blocks, norm) for _ in range(scales - 1))
        self.to_image = nn.ModuleList(nn.Conv2d(channels, 3, 3, padding=1, bias=False) for _ in range(scales))
        initialise(self)

    def generate(self, condition: Tensor, noise: Tensor, words: Words | None = None) -> tuple[Tensor, ...]:
        assert words is not None
        return self.attend(condition, noise, words)[0]

    def attend(self, condition: Tensor, noise: Tensor, words: Words) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Generate images, and return where they attend to each word.

        Args:
            condition: conditions `(N, C)`.
            noise: noise `(N, noise_dim)`.
            words: words of the captions.

        Returns:
            One tensor of images `(N, 3, R, R)` for each R of `resolutions`, and one of weights `(N, L, R, R)` for each
            except the largest. At every position, the weights of the words sum to 1.
        """
        x = self.dense(torch.cat([condition, noise], 1)).reshape(len(condition), 2 * self.wide, 4, 4)
        features = self.trunk(F.glu(self.norm(x.contiguous(memory_format=torch.channels_last)), 1))
        images, maps = [torch.tanh(self.to_image[0](features))], []
        for branch, to_image in zip(self.branches, self.to_image[1:], strict=True):
            features, weights = branch(features, words)
            images.append(torch.tanh(to_image(features)))
            maps.append(weights)
        return tuple(images), tuple(maps)
