"""Report a training by a progress line, ``metrics.jsonl``, trackers and grids of generated images."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from stackflower.data.grids import draw_captioned_grid, save_image
from stackflower.data.images import to_uint8
from stackflower.runs.folder import Run
from stackflower.stages.base import Stage, Words
from stackflower.text.base import TextEncoder
from stackflower.utils.atomic import write_text
from stackflower.utils.progress import bars_shown, format_duration

logger = logging.getLogger(__name__)

LINE_INTERVAL = 10.0  # seconds between progress lines if stderr is not a terminal, which would show a bar
BAR_FORMAT = "{percentage:3.0f}%|{bar:20}| {postfix}"
KEPT_EVENTS = ("rollback", "failed")  # kept when a resumed run drops the lines after its checkpoint


def format_progress(
    images: int, total: int | None, speed: float, left: float | None, measures: Mapping[str, float]
) -> str:
    """Format the number of images, the speed and the remaining time, followed by the losses of each network.

    The losses read ``discriminator: real 0.41 fake 0.33  generator: kl 0.06``. The names of a generator's terms contain
    the resolution only if it has several discriminators.

    Args:
        images: number of images seen.
        total: number of images to train on; None: not known yet.
        speed: images per second.
        left: remaining seconds; None: not known yet.
        measures: losses and learning rates by name.
    """
    adversaries = {name.partition("/")[0] for name in measures if name.startswith("discriminator-")}
    networks: dict[str, list[str]] = {}
    for name, value in measures.items():
        network, _, term = name.partition("/")
        if network == "lr":
            continue
        if len(adversaries) == 1 and network != "text":
            resolution = next(iter(adversaries)).rpartition("-")[2]
            network, term = network.removesuffix(f"-{resolution}"), term.removesuffix(f"-{resolution}")
        networks.setdefault(network, []).append(f"{term} {value:.2f}")
    of = f"/{total:,}" if total is not None else ""
    until = f"{format_duration(left)} left" if left is not None else "measuring the speed"
    losses = "  ".join(f"{network}: {' '.join(terms)}" for network, terms in networks.items())
    return f"{images:,}{of} images  {speed:.0f} images/s  {until}  {losses}"


class RunLogger:
    """Logger that sums the loss terms of steps and reports their means. Only the main process writes.

    Args:
        run: the run folder.
        accelerator: device, processes and trackers.
        captions: captions of the sample grid, one per row.
        embeddings: embeddings `(rows, T)` of the captions; not used if the encoder is trained with the GAN.
        noise_seed: seed of the grid's noise, the same for the whole run.
        words: words of the captions, if the stage uses words and the encoder is not trained with the GAN.
    """

    def __init__(
        self,
        run: Run,
        accelerator: Accelerator,
        captions: list[str],
        embeddings: Tensor,
        noise_seed: int,
        words: Words | None = None,
    ):
        self.run, self.accelerator = run, accelerator
        self.captions, self.embeddings, self.noise_seed = captions, embeddings.to(accelerator.device), noise_seed
        self.words = words
        if accelerator.is_main_process:
            self._write_captions()
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, float] = {}
        self.began = self.printed = self.clock()
        self.began_at = 0
        self.last = (self.began, 0)
        self.bar: Any = None

    clock = staticmethod(time.monotonic)

    # ---- measures: summed on the device, transferred at the log interval

    def add(self, terms: Mapping[str, Tensor], weight: float = 1.0) -> None:
        """Add the terms of a step, without waiting for the device.

        Args:
            terms: scalars by name.
            weight: weight of the terms in the mean.
        """
        for name, term in terms.items():
            value = term.detach().float() * weight
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0.0) + weight

    def collect_measures(self) -> dict[str, float]:
        """Return the means of the terms over steps and processes, and reset the sums. Waits for the device."""
        if not self.sums:
            return {}
        names = sorted(self.sums)
        means = torch.stack([self.sums[name] / self.counts[name] for name in names])
        means = self.accelerator.reduce(means, "mean") if self.accelerator.num_processes > 1 else means
        self.forget()
        return dict(zip(names, means.tolist(), strict=True))

    def forget(self) -> None:
        """Reset the sums."""
        self.sums, self.counts = {}, {}

    # ---- reports

    def start(self, images: int) -> None:
        """Start reporting at `images` images, and drop later lines of ``metrics.jsonl`` except `KEPT_EVENTS`."""
        self.began, self.began_at = self.clock(), images
        self.last = (self.began, images)
        if not self.accelerator.is_main_process or not self.run.metrics_file.is_file():
            return
        kept = [row for row in self.run.read_metrics() if row["images"] <= images or row.get("event") in KEPT_EVENTS]
        try:
            write_text(self.run.metrics_file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept))
        except OSError as error:
            self.log_message(f"metrics.jsonl could not be written: {error}")

    def get_seconds_since_last(self) -> float:
        """Return the seconds since the last line, or since the start of the training."""
        return max(self.clock() - self.last[0], 1e-9)

    def log(
        self,
        images: int,
        step: int,
        share: float,
        total: int | None,
        measures: Mapping[str, float],
        most: float = math.inf,
    ) -> None:
        """Write measures to ``metrics.jsonl``, the trackers and the console.

        Args:
            images: number of images seen.
            step: number of steps.
            share: share of the training that is done.
            total: number of images to train on; None: not known yet.
            measures: values by name.
            most: upper bound of the remaining seconds.
        """
        if not self.accelerator.is_main_process:
            return
        now = self.clock()
        speed = (images - self.last[1]) / max(now - self.last[0], 1e-9)
        self.last = (now, images)
        values = {
            "images": images,
            "step": step,
            "share": round(share, 6),
            "seconds": round(now - self.began, 2),
            "images_per_second": round(speed, 1),
        }
        if self.accelerator.device.type == "cuda":
            values["memory_gib"] = round(torch.cuda.max_memory_allocated(self.accelerator.device) / 2**30, 3)
        values |= {name: float(f"{value:.6g}") for name, value in measures.items()}
        self._write(values)
        self.accelerator.log(values, step=images)
        average = (images - self.began_at) / max(now - self.began, 1e-9)
        left = None if total is None else min(most, (total - images) / max(average, 1e-9))
        self._show(share, format_progress(images, total, speed, left, measures), now)

    def log_scores(self, images: int, scores: Mapping[str, float]) -> None:
        """Write scores on held-out images to ``metrics.jsonl``, the trackers and the console."""
        values = {f"eval/{name}": float(f"{value:.6g}") for name, value in scores.items()}
        self._write({"images": images, **values})
        self.accelerator.log(values, step=images)
        self.log_message(f"{images:,} images: " + "  ".join(f"{name} {value:.4g}" for name, value in scores.items()))

    def log_event(self, images: int, kind: str, text: str = "", **values: Any) -> None:
        """Write an event to ``metrics.jsonl``.

        Args:
            images: number of images seen.
            kind: kind of event, such as "rollback".
            text: text for the console, if any.
            values: further fields of the line.
        """
        if self.accelerator.is_main_process:
            self._write({"images": images, "event": kind, **values})
            if text:
                self.log_message(text)

    def log_message(self, text: str) -> None:
        """Log a line at level INFO; the command line prints it above the progress bar."""
        logger.info(text)

    def _write(self, values: Mapping[str, Any]) -> None:
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        try:
            with self.run.metrics_file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(finite, ensure_ascii=False) + "\n")
        except OSError as error:  # the next checkpoint reports a full disk; a log line must not end the training
            self.log_message(f"metrics.jsonl could not be written: {error}")

    def _show(self, share: float, line: str, now: float) -> None:
        if not bars_shown():
            return
        if sys.stderr.isatty():
            self.bar = self.bar or tqdm(total=1.0, bar_format=BAR_FORMAT, file=sys.stderr, dynamic_ncols=True)
            self.bar.n = share
            self.bar.set_postfix_str(line)  # also draws the bar
            if share >= 1:
                self.bar.close()
        elif now - self.printed > LINE_INTERVAL or share >= 1:
            self.printed = now
            logger.info("%3.0f%%  %s", share * 100, line)

    def _write_captions(self) -> None:
        try:
            write_text(self.run.captions_file, "".join(f"{caption}\n" for caption in self.captions))
        except OSError as error:
            self.log_message(f"The captions of the sample grids could not be written: {error}")

    @torch.no_grad()
    def save_grid(self, stage: Stage, images: int, encoder: TextEncoder | None = None, columns: int = 8) -> None:
        """Generate a grid from the run's fixed captions and noise, and save it as ``samples/images-….png``.

        Args:
            stage: stage that generates the images.
            images: number of images seen, for the name of the file.
            encoder: text encoder that is trained with the GAN; None: use the embeddings given to the constructor.
            columns: number of images per caption.
        """
        embeddings, words = self.embeddings, self.words
        if encoder is not None:
            embeddings, words = encoder.embed_captions(self.captions, stage.uses_words)
        embeddings = embeddings.to(self.accelerator.device)
        generator = torch.Generator(embeddings.device).manual_seed(self.noise_seed)
        noise = stage.draw_noise(len(embeddings) * columns, generator)
        rows = torch.arange(len(embeddings)).repeat_interleave(columns)
        words = None if words is None else words.take(rows).to(embeddings.device)
        generated = stage(embeddings.repeat_interleave(columns, 0), noise, words).images[-1]
        grid = draw_captioned_grid(to_uint8(generated).numpy(), self.captions)
        try:
            save_image(grid, self.run.samples / f"images-{images:09d}.png", grid=True)
        except OSError as error:
            self.log_message(f"The sample grid could not be written: {error}")
        self._send_grid(grid, images)

    def _send_grid(self, grid: np.ndarray, images: int) -> None:
        """Send a grid to the trackers that take images: TensorBoard and Weights & Biases."""
        for tracker in self.accelerator.trackers:
            if hasattr(tracker, "log_images"):
                layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                tracker.log_images({"samples": grid[None]}, step=images, **layout)
