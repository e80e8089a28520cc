"""A trained run as a Python object: captions in, pictures out. It needs nothing but the run folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from stackflower.build import build_encoder, build_stage
from stackflower.checkpoint import load_weights
from stackflower.data.batches import seeded
from stackflower.errors import ConfigError, RunError
from stackflower.runs import RunFolder
from stackflower.stages.base import Stage
from stackflower.text.base import TextEncoder


def to_uint8(images: Tensor) -> Tensor:
    """(N, 3, H, W) in [-1, 1] to uint8 (N, H, W, 3) on the CPU."""
    return images.float().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()


class Pipeline:
    """Draws pictures for captions::

        Pipeline.from_run("runs/quickstart-1")("a red flower with pointed petals", per_caption=8, seed=0)

    Args:
        stage: the network that draws, in evaluation mode.
        encoder: the caption encoder it was trained with.
        device: where to draw.
    """

    def __init__(self, stage: Stage, encoder: TextEncoder, device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        self.stage = stage.eval().requires_grad_(False).to(self.device).to(memory_format=torch.channels_last)
        self.encoder = encoder

    @classmethod
    def from_run(cls, run: str | Path, device: torch.device | str | None = None) -> Pipeline:
        """Rebuild what a run trained: averaged weights, encoder, sizes. RunError says what is missing."""
        folder = RunFolder(run)
        values, config = folder.values(), folder.config()
        encoder = build_encoder(config, folder.text_folder)
        known = values.get("encoder")
        if encoder.dim != values["text_dim"] or known not in (None, encoder.fingerprint()):
            raise RunError(
                f"{folder} was trained with another text encoder ({known}, {values['text_dim']} numbers) than this one "
                f"({encoder.fingerprint()}, {encoder.dim}): what it draws would not be what is asked. Put back the encoder, or "
                f"the version of Stackflower that trained it ({values.get('stackflower', 'unknown')})."
            )
        stage = build_stage(config, values["text_dim"])
        load_weights(stage, folder.weights_file)
        if device is None:
            device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
        return cls(stage, encoder, device or "cpu")

    @property
    def resolution(self) -> int:
        """Height and width of the pictures."""
        return self.stage.resolutions[-1]

    def draw(
        self,
        captions: Sequence[str],
        *,
        per_caption: int = 1,
        seed: int = 0,
        batch_size: int = 64,
        truncation: float | None = None,
        part: tuple[int, int] = (0, 1),
    ) -> Iterator[Tensor]:
        """Pictures uint8 (n, R, R, 3) batch by batch, caption by caption, `per_caption` of each.

        A picture depends on its caption, the seed and its place in the list, not on `batch_size` or what follows. With `truncation`, noise beyond ± that many standard deviations is drawn again (Brock et al. 2019).
        `part` (k, n) draws only the k-th of n equal shares of the list.
        """
        if not captions:
            raise ConfigError('There is no caption to draw: give one or more sentences, as in "a red flower".')
        for number, caption in enumerate(captions, 1):
            if not caption.strip():
                raise ConfigError(f"Caption {number} is empty; write what the picture should show.")
        wanted = self.encoder(list(captions)).repeat_interleave(per_caption, 0)
        total = len(wanted)
        noise = self._noise(seed, total, truncation)
        last = total * (part[0] + 1) // part[1]
        for first in range(total * part[0] // part[1], last, batch_size):
            rows = slice(first, min(first + batch_size, last))
            with torch.inference_mode():
                yield to_uint8(self.stage(wanted[rows].to(self.device), noise[rows].to(self.device)).images[-1])

    def _noise(self, seed: int, rows: int, truncation: float | None, block: int = 64) -> Tensor:
        """Noise (rows, Z), drawn in blocks with seeds of their own, so that more rows don't change the first ones."""
        generators = [seeded(seed, 3, number) for number in range(-(-rows // block))]
        noise = torch.cat([self._block(block, g, truncation) for g in generators])
        return noise[:rows]

    def _block(self, rows: int, generator: torch.Generator, truncation: float | None) -> Tensor:
        noise = self.stage.draw_noise(rows, generator)
        while truncation is not None and bool((outside := noise.abs() > truncation).any()):
            noise = torch.where(outside, self.stage.draw_noise(rows, generator), noise)
        return noise

    def __call__(
        self,
        captions: str | Sequence[str],
        *,
        per_caption: int = 1,
        seed: int = 0,
        batch_size: int = 64,
        truncation: float | None = None,
    ) -> list[Image.Image]:
        """The pictures as PIL images, all of the first caption, then of the second …"""
        captions = [captions] if isinstance(captions, str) else captions
        batches = self.draw(captions, per_caption=per_caption, seed=seed, batch_size=batch_size, truncation=truncation)
        return [Image.fromarray(image.numpy()) for batch in batches for image in batch]
