"""A trained run as a Python object: captions in, pictures out. It needs nothing but the run folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from stackflower.adversary import Side
from stackflower.build import build_encoder, build_networks
from stackflower.data.images import to_uint8
from stackflower.errors import ConfigError, RunError
from stackflower.runs.checkpoint import load_weights
from stackflower.runs.folder import RunFolder
from stackflower.stages.base import Generated, Stage, Text
from stackflower.text.base import TextEncoder
from stackflower.utils.rng import seeded

SMALLEST = 0.01  # truncation, in standard deviations


class Pipeline:
    """Draws pictures for captions::

        Pipeline.from_run("runs/quickstart-1")("a red flower with pointed petals", per_caption=8, seed=0)

    Args:
        stage: the network that draws, in evaluation mode.
        encoder: the caption encoder it was trained with.
        device: where to draw.
        judge: the discriminator side of the largest pictures, for `best_of`; or None.
    """

    def __init__(
        self, stage: Stage, encoder: TextEncoder, device: torch.device | str = "cpu", judge: Side | None = None
    ):
        self.device = torch.device(device)
        self.stage = stage.eval().requires_grad_(False).to(self.device).to(memory_format=torch.channels_last)
        self.encoder = encoder
        self.judge = None if judge is None else judge.eval().requires_grad_(False).to(self.device)

    @classmethod
    def from_run(
        cls, run: str | Path, device: torch.device | str | None = None, *, with_judge: bool = False
    ) -> Pipeline:
        """Rebuild what a run trained: averaged weights, encoder, sizes; `with_judge`, the newest checkpoint's discriminator
        too. RunError says what is missing."""
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
        stage, sides = build_networks(config, values["text_dim"])
        load_weights(stage, folder.weights_file)
        judge = None
        if with_judge:
            whole = folder.whole_checkpoints()
            if not whole:
                raise RunError(
                    f"{folder} has no checkpoint left, and the discriminator that chooses is kept there; leave out --best-of."
                )
            name, judge = list(sides.items())[-1]
            load_weights(judge, whole[-1] / f"{name}.safetensors")
        if device is None:
            device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
        return cls(stage, encoder, device or "cpu", judge)

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
        best_of: int = 1,
        side_by_side: bool = False,
        part: tuple[int, int] = (0, 1),
    ) -> Iterator[Tensor]:
        """Pictures uint8 (n, R, R, 3) batch by batch, caption by caption, `per_caption` of each.

        With `best_of` K, K are drawn for each picture and the one is kept that the discriminator believes most. With
        `side_by_side`, a picture is every resolution that the stage and those below draw, enlarged to R, the lowest at the left.

        A picture depends on its caption, the seed and its place in the list, not on `batch_size` or what follows. With `truncation`, noise beyond ± that many standard deviations is drawn again (Brock et al. 2019).
        `part` (k, n) draws only the k-th of n equal shares of the list.
        """
        if not captions:
            raise ConfigError('There is no caption to draw: give one or more sentences, as in "a red flower".')
        for number, caption in enumerate(captions, 1):
            if not caption.strip():
                raise ConfigError(f"Caption {number} is empty; write what the picture should show.")
        if best_of > 1 and self.judge is None:
            raise ConfigError("Choosing the best needs the discriminator: Pipeline.from_run(…, with_judge=True).")
        if truncation is not None and not truncation >= SMALLEST:
            raise ConfigError(
                f"truncation = {truncation}: at least {SMALLEST}, below which hardly any noise is left to draw."
            )
        wanted = self.encoder(list(captions)).repeat_interleave(per_caption, 0)
        total = len(wanted)
        noise = self._noise(seed, total * best_of, truncation)
        last = total * (part[0] + 1) // part[1]
        step = max(1, batch_size // best_of)
        for first in range(total * part[0] // part[1], last, step):
            end = min(first + step, last)
            embedding = wanted[first:end].repeat_interleave(best_of, 0).to(self.device)
            with torch.inference_mode():
                drawn = self.stage(embedding, noise[first * best_of : end * best_of].to(self.device))
                chosen = self._best(drawn, embedding, best_of) if best_of > 1 else torch.arange(end - first)
                every = [*drawn.lower, *drawn.images] if side_by_side else [drawn.images[-1]]
                yield to_uint8(
                    torch.cat(
                        [
                            torch.nn.functional.interpolate(one[chosen].float(), size=self.resolution, mode="nearest")
                            for one in every
                        ],
                        3,
                    )
                )

    def _best(self, drawn: Generated, embedding: Tensor, count: int) -> Tensor:
        """Of every `count` neighbours, the row of the one that the discriminator believes most."""
        assert self.judge is not None
        score = torch.cat(
            [  # a picture's own candidates by themselves: some discriminators look at a whole batch
                self.judge.discriminator(images, [Text(words, condition)])[0].match.float()
                for images, words, condition in zip(
                    drawn.images[-1].split(count), embedding.split(count), drawn.condition.split(count), strict=True
                )
            ]
        )
        if self.judge.discriminator.reads == "energy":
            score = -score
        best = score.unflatten(0, (-1, count)).argmax(1)
        return best + torch.arange(len(best), device=best.device) * count

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
        best_of: int = 1,
        side_by_side: bool = False,
    ) -> list[Image.Image]:
        """The pictures as PIL images, all of the first caption, then of the second …"""
        captions = [captions] if isinstance(captions, str) else captions
        batches = self.draw(
            captions,
            per_caption=per_caption,
            seed=seed,
            batch_size=batch_size,
            truncation=truncation,
            best_of=best_of,
            side_by_side=side_by_side,
        )
        return [Image.fromarray(image.numpy()) for batch in batches for image in batch]
