"""Generate images for captions with a trained run or a shared model, from nothing but its folder."""

from __future__ import annotations

import operator
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from stackflower.adversary import Adversary
from stackflower.build import load_run
from stackflower.data.grids import draw_captioned_grid, save_image
from stackflower.data.images import to_uint8
from stackflower.declarations import offers_trait
from stackflower.errors import ConfigError, ModelError
from stackflower.models import hub
from stackflower.models.card import render_card
from stackflower.models.describe import describe_run
from stackflower.models.finding import find_model
from stackflower.models.folder import load_model, save_model
from stackflower.models.record import ModelRecord, is_model, mention_pickles
from stackflower.runs.folder import Run
from stackflower.stages.base import Generated, Stage, Text
from stackflower.stages.noise import NoiseTable
from stackflower.text.base import Embedded, TextEncoder
from stackflower.text.checks import clean_captions, report_given_captions
from stackflower.text.chunks import CaptionChunks
from stackflower.utils.atomic import reporting_write_errors, write_text
from stackflower.utils.distributed import share
from stackflower.utils.progress import progress_bar as show_progress
from stackflower.utils.progress import progress_bars

SMALLEST_TRUNCATION = 0.01  # standard deviations
MOST_CANDIDATES = 256  # upper bound of `best_of`
CARD_CAPTIONS, CARD_IMAGES = 4, 6  # rows and columns of the picture in a model card


class Pipeline:
    """A trained stage with its text encoder, which generates images for captions.

    Args:
        stage: trained stage.
        encoder: text encoder that the stage was trained with.
        device: device to run on.
        adversary: adversary of the largest images, for `best_of`; None: `best_of` is not available.
        record: description of the model, for `save_pretrained`; None: the pipeline can't be saved.

    Example:
        >>> import stackflower as sf
        >>> pipeline = sf.Pipeline.from_pretrained("flowers")  # doctest: +SKIP
        >>> images = pipeline("a red flower with pointed petals", per_caption=8, seed=0)  # doctest: +SKIP
        >>> sf.grid(images, columns=4).save("red.png")  # doctest: +SKIP
    """

    def __init__(
        self,
        stage: Stage,
        encoder: TextEncoder,
        device: torch.device | str = "cpu",
        adversary: Adversary | None = None,
        record: ModelRecord | None = None,
    ):
        self.stage = stage.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.encoder = encoder
        self.adversary = None if adversary is None else adversary.eval().requires_grad_(False)
        self.record = record
        self.to(device)

    def to(self, device: torch.device | str) -> Pipeline:
        """Move the pipeline to a device.

        Args:
            device: device, such as "cuda".

        Returns:
            The pipeline itself.
        """
        self.device = torch.device(device)
        self.stage.to(self.device)
        self.encoder.to(self.device)
        if self.adversary is not None:
            self.adversary.to(self.device)
        return self

    @classmethod
    def from_run(
        cls,
        run: str | os.PathLike[str],
        device: torch.device | str | None = None,
        *,
        with_discriminator: bool = False,
        checkpoint: str | None = None,
    ) -> Pipeline:
        """Load a run's averaged weights and its text encoder.

        Args:
            run: run, or its folder.
            device: device to run on. Default: the GPU if one is available, otherwise the CPU.
            with_discriminator: also load the newest checkpoint's discriminator, for `best_of`.
            checkpoint: "best" for the weights that scored best during training, or the number of images after which a
                checkpoint was written, such as "20000". Default: the last model.

        Returns:
            The pipeline.

        Raises:
            RunError: part of the run is missing or damaged; the message says which.
        """
        with torch.random.fork_rng(devices=[]):  # building networks draws weights, which are then replaced
            stage, encoder, adversary = load_run(Run(run), with_discriminator, checkpoint)
        record = describe_run(Run(run), checkpoint=checkpoint)
        return cls(stage, encoder, _choose_device(device), adversary, record)

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str],
        device: torch.device | str | None = None,
        *,
        revision: str | None = None,
        with_discriminator: bool = False,
        checkpoint: str | None = None,
    ) -> Pipeline:
        """Load a shared model or a run.

        Args:
            model: folder of a model or a run; else the name of a model that is shipped with Stackflower, such as
                "flowers"; else an id on the Hugging Face Hub, such as "owner/flowers".
            device: device to run on. Default: the GPU if one is available, otherwise the CPU.
            revision: branch, tag or commit on the Hub. Default: the newest.
            with_discriminator: also load the discriminator, for `best_of`; only runs have one.
            checkpoint: checkpoint of a run (see `from_run`).

        Returns:
            The pipeline.

        Raises:
            ModelError: the model does not exist, can't be reached, or is incomplete, damaged or of a newer version.
            ConfigError: `with_discriminator` or `checkpoint` is given for a model that is not a run.
            RunError: part of a run is missing or damaged.
        """
        folder = find_model(model, revision)
        if not Run(folder).config_file.exists():
            raise ModelError(
                f"{folder} holds neither a model nor a run: config.json is missing.{mention_pickles(folder)}"
            )
        if not is_model(folder):
            return cls.from_run(folder, device, with_discriminator=with_discriminator, checkpoint=checkpoint)
        if with_discriminator or checkpoint is not None:
            name = "best_of" if with_discriminator else "checkpoint"
            raise ConfigError(
                f"`{name}` needs the folder of a run; the model {model} has no discriminator and no checkpoints."
            )
        with torch.random.fork_rng(devices=[]):
            stage, encoder, record = load_model(folder)
        return cls(stage, encoder, _choose_device(device), None, record)

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        half: bool = False,
        captions: Sequence[str] | None = None,
        title: str | None = None,
        data: str | None = None,
        license: str | None = None,
    ) -> ModelRecord:
        """Write a model folder, which `from_pretrained` loads: configuration, weights, text encoder and card.

        The folder holds no optimizer, no discriminator, no paths and no names of computers. Weights are safetensors.

        Args:
            folder: folder to write.
            half: store the weights in float16, which halves the files and changes images by at most 2/255.
            captions: example captions, of which the first four are drawn in the card. Default: those of the run's
                sample grids, which are captions of its training data.
            title: name of the model in its card. Default: the name of the folder.
            data: name of the training data in the card. Default: the name of their folder.
            license: licence of the weights, by its identifier on the Hub, such as "cc-by-4.0".

        Returns:
            The record of the model.

        Raises:
            ConfigError: the pipeline was not loaded from a run or a model, or a caption can't be used.
            ModelError: the folder holds something else, or the weights can't be converted.
        """
        if self.record is None:
            raise ConfigError("Only a pipeline that was loaded from a run or a model can be saved.")
        path, record = Path(folder).expanduser(), self.record
        if captions is not None:
            record = replace(record, captions=clean_captions(captions))
        if data is not None:
            record = replace(record, training={**record.training, "data": data})
        with reporting_write_errors(path, ModelError):
            record = save_model(path, self.stage, self.encoder, record, "fp16" if half else "fp32")
            shown = record.captions[:CARD_CAPTIONS]
            if shown:
                images = torch.cat(list(self.generate(shown, per_caption=CARD_IMAGES)))
                save_image(draw_captioned_grid(images.numpy(), shown), path / "samples.jpg", grid=True)
            write_text(path / "README.md", render_card(record, title or path.resolve().name, license, bool(shown)))
        return record

    def push_to_hub(self, model: str, *, private: bool = False, **options: Any) -> str:
        """Upload the model to the Hugging Face Hub.

        Args:
            model: id, such as "owner/flowers"; its repository is created if it does not exist.
            private: create a private repository.
            options: options of `save_pretrained`.

        Returns:
            The address of the model.

        Raises:
            ModelError: the id is wrong, the user is not logged in or may not write, or the Hub can't be reached.
            ConfigError: as of `save_pretrained`.
        """
        hub.check_access(model)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "model"
            self.save_pretrained(folder, title=model, **options)
            return hub.push(folder, model, private)

    @property
    def resolution(self) -> int:
        """Height and width of the images, in pixels."""
        return self.stage.resolutions[-1]

    def check_captions(self, captions: Sequence[str]) -> list[str]:
        """Check captions as those of data are checked, and log warnings about what the text encoder drops.

        Args:
            captions: one or more sentences.

        Returns:
            The captions, with single spaces between words, as in data.

        Raises:
            ConfigError: a caption is empty, too long or not valid text.
            DataError: the text encoder can represent nothing of a caption.
        """
        cleaned = clean_captions(captions)
        report_given_captions(self.encoder, cleaned)
        return cleaned

    def generate(
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
        """Generate images batch by batch.

        An image depends on its caption, the seed and its position in the list, but not on `batch_size` or on later
        captions. Memory use does not grow with the number of images. What the text encoder drops from the captions is
        not reported (see `check_captions`).

        Args:
            captions: one or more sentences.
            per_caption: number of images per caption.
            seed: seed of the noise.
            batch_size: number of images generated at a time.
            truncation: redraw values of the noise whose magnitude exceeds this (Brock et al. 2019).
            best_of: number of candidates per image, at most 256; the one that the discriminator scores highest is kept.
            side_by_side: join all resolutions of the stage and of its previous stages in one image, lowest on the left.
            part: (k, n): generate only the share number k, counted from 0, of n equal shares of the list.

        Yields:
            Batches of images, uint8 `(n, R, R, 3)` on the CPU, or `(n, R, k·R, 3)` with `side_by_side`.

        Raises:
            ConfigError: a caption is empty, or a value is of another type or out of range.
        """
        self._check_arguments(captions, truncation, per_caption=per_caption, batch_size=batch_size, best_of=best_of)
        noise = NoiseTable(self.stage, _read_integer("seed", seed), truncation)
        rows = share(len(captions) * per_caption, part)
        step = max(1, batch_size // best_of)
        uses_words = self.stage.uses_words or (best_of > 1 and self.adversary is not None and self.adversary.uses_words)
        encoded = CaptionChunks(self.encoder, captions, uses_words)
        for first in range(rows.start, rows.stop, step):
            end = min(first + step, rows.stop)
            numbers = torch.arange(first, end).div(per_caption, rounding_mode="floor").repeat_interleave(best_of)
            text = encoded.embed(numbers, self.device)
            with torch.inference_mode():
                latents = noise.get_rows(first * best_of, end * best_of).to(self.device)
                generated = self.stage(text.embedding, latents, text.words)
                chosen = self._choose_best(generated, text, best_of) if best_of > 1 else torch.arange(end - first)
                sizes = [*generated.previous, *generated.images] if side_by_side else [generated.images[-1]]
                images = to_uint8(torch.cat([self._upsample(images[chosen]) for images in sizes], 3))
            yield images  # outside of inference mode, which would otherwise reach the caller

    def interpolate(
        self,
        captions: Sequence[str],
        steps: int,
        *,
        per_caption: int = 1,
        seed: int = 0,
        end_seed: int | None = None,
        batch_size: int = 64,
        truncation: float | None = None,
    ) -> Iterator[Tensor]:
        """Generate rows of images that interpolate between captions, or between noises.

        With several captions, a row leads from the first caption to the last through the others, along straight lines
        between their embeddings; a stage that uses words is given those of the nearer caption. With one caption, a row
        leads from one noise to another (`Stage.interpolate_noise`). With `end_seed`, a row also leads from the noise of
        one seed to that of another, whatever the captions.

        Args:
            captions: one or more sentences.
            steps: number of images per row, at least 2.
            per_caption: number of rows, each with its own noise.
            seed: seed of the noise.
            end_seed: seed of the noise at the end of a row. Default: the noise of several captions stays the same, and
                that of a single caption ends at another noise of `seed`.
            batch_size: number of images generated at a time.
            truncation: redraw values of the noise whose magnitude exceeds this (Brock et al. 2019).

        Yields:
            Batches of images, uint8 `(n, R, R, 3)` on the CPU, row by row.

        Raises:
            ConfigError: a caption is empty, or a value is of another type or out of range.
        """
        self._check_arguments(captions, truncation, per_caption=per_caption, batch_size=batch_size)
        if _read_integer("steps", steps) < 2:
            raise ConfigError(f"`steps` must be at least 2, got {steps}.")
        ends, words = self.encoder.embed_captions(list(captions), self.stage.uses_words)
        ends = ends.to(self.device)
        noise, positions = NoiseTable(self.stage, _read_integer("seed", seed), truncation), torch.linspace(0, 1, steps)
        end_noise = (
            None if end_seed is None else NoiseTable(self.stage, _read_integer("end_seed", end_seed), truncation)
        )
        place = positions * (len(captions) - 1)
        first = place.long().clamp(max=max(len(captions) - 2, 0))
        weight = (place - first)[:, None].to(self.device)
        path = torch.lerp(ends[first], ends[(first + 1).clamp(max=len(captions) - 1)], weight)
        nearer = torch.where(place - first > 0.5, first + 1, first)
        for row in range(per_caption):
            if end_noise is not None:
                start, end = torch.cat([noise.get_rows(row, row + 1), end_noise.get_rows(row, row + 1)])
                latents = self.stage.interpolate_noise(start, end, positions)
            elif len(captions) > 1:
                latents = noise.get_rows(row, row + 1).expand(steps, -1)
            else:
                start, end = noise.get_rows(2 * row, 2 * row + 2)
                latents = self.stage.interpolate_noise(start, end, positions)
            for steps_of_batch in torch.arange(steps).split(batch_size):
                own_words = None if words is None else words.take(nearer[steps_of_batch]).to(self.device)
                with torch.inference_mode():
                    latent = latents[steps_of_batch].to(self.device)
                    images = to_uint8(self.stage(path[steps_of_batch], latent, own_words).images[-1])
                yield images

    def _check_arguments(self, captions: Sequence[str], truncation: float | None, **counts: int) -> None:
        """Raise ConfigError for a caption that can't be used or a value that is of another type or out of range.

        Args:
            captions: captions to generate images for.
            truncation: truncation of the noise, if any.
            counts: values of other parameters by name, at least 1 each.
        """
        clean_captions(captions)
        for name, count in counts.items():
            if _read_integer(name, count) < 1:
                raise ConfigError(f"`{name}` must be at least 1, got {count}.")
        best_of = counts.get("best_of", 1)
        if best_of > 1 and self.adversary is None:
            raise ConfigError("`best_of` needs the discriminator: Pipeline.from_run(…, with_discriminator=True).")
        if best_of > MOST_CANDIDATES:
            raise ConfigError(f"`best_of` must be at most {MOST_CANDIDATES}, got {best_of}.")
        if truncation is not None and not truncation >= SMALLEST_TRUNCATION:
            raise ConfigError(
                f"`truncation` must be at least {SMALLEST_TRUNCATION}, got {truncation}; below that, hardly any noise "
                "remains."
            )

    def _upsample(self, images: Tensor) -> Tensor:
        """Enlarge images to the pipeline's resolution, by nearest neighbours."""
        if images.shape[-1] == self.resolution:
            return images.float()
        return torch.nn.functional.interpolate(images.float(), size=self.resolution, mode="nearest")

    def _choose_best(self, generated: Generated, text: Embedded, count: int) -> Tensor:
        """Return, for each group of `count` neighbouring rows, the row that the discriminator scores highest."""
        assert self.adversary is not None
        scores = []
        # the candidates of each image apart, because some discriminators compare the images of a batch
        for first in range(0, len(text.embedding), count):
            rows = slice(first, first + count)
            words = None if text.words is None else text.words.take(rows)
            candidate = Text(text.embedding[rows], generated.condition[rows], words=words)
            scores.append(self.adversary.discriminator(generated.images[-1][rows], [candidate])[0].score.float())
        score = torch.cat(scores)
        if offers_trait(self.adversary.discriminator, "energy scores"):
            score = -score
        best = score.unflatten(0, (-1, count)).argmax(1)
        return best + torch.arange(len(best), device=best.device) * count

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
        progress_bar: bool = False,
    ) -> list[Image.Image]:
        """Generate images for one or more captions.

        Args:
            captions: one sentence, or several.
            per_caption: number of images per caption.
            seed: seed of the noise.
            batch_size: number of images generated at a time.
            truncation: redraw values of the noise whose magnitude exceeds this (Brock et al. 2019).
            best_of: number of candidates per image, at most 256; the one that the discriminator scores highest is kept.
            side_by_side: join all resolutions of the stage and of its previous stages in one image, lowest on the left.
            progress_bar: show a progress bar on stderr.

        Returns:
            The images of the first caption, then those of the second, and so on.

        Raises:
            ConfigError: a caption is empty, too long or not valid text, or a value is of another type or out of range.
            DataError: the text encoder can represent nothing of a caption.
        """
        texts = self.check_captions([captions] if isinstance(captions, str) else list(captions))
        batches = self.generate(
            texts,
            per_caption=per_caption,
            seed=seed,
            batch_size=batch_size,
            truncation=truncation,
            best_of=best_of,
            side_by_side=side_by_side,
        )
        images, total = [], len(texts) * _read_integer("per_caption", per_caption)
        with progress_bars(progress_bar), show_progress("generating", total) as progress:
            for batch in batches:
                images += [Image.fromarray(image.numpy()) for image in batch]
                progress(len(batch))
        return images


def _choose_device(device: torch.device | str | None) -> torch.device | str:
    """Return the given device, or else the GPU if one is available, or else the CPU."""
    if device is None and torch.accelerator.is_available():
        device = torch.accelerator.current_accelerator()
    return device or "cpu"


def _read_integer(name: str, value: Any) -> int:
    """Return an integer of any library as Python's; raise ConfigError for any other value."""
    try:
        return int(operator.index(value))
    except TypeError:
        raise ConfigError(f"`{name}` must be an integer, got {value!r}.") from None
