"""What a run tells: a progress bar, ``metrics.jsonl``, trackers, and grids of what it draws."""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any

import click
import torch
from accelerate import Accelerator
from torch import Tensor

from stackflower.data.images import captioned, save_png, to_uint8
from stackflower.runs.folder import RunFolder
from stackflower.stages.base import Stage
from stackflower.text.base import TextEncoder
from stackflower.utils.atomic import write_text
from stackflower.utils.progress import duration

QUIET = 10.0  # seconds between lines where there is no terminal to draw a bar on


class Journal:
    """Keeps the books of a run. Only the main process writes.

    Args:
        run: the run folder.
        captions: of the sample grid, one row each.
        embeddings: (rows, T) of those captions; of no use where the encoder learns.
        noise_seed: of the grid's noise, the same for the whole run.
    """

    def __init__(
        self, run: RunFolder, accelerator: Accelerator, captions: list[str], embeddings: Tensor, noise_seed: int
    ):
        self.run, self.accelerator = run, accelerator
        self.captions, self.embeddings, self.noise_seed = captions, embeddings.to(accelerator.device), noise_seed
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, float] = {}
        self.total = self.began_at = 0
        self.began = self.spoke = time.monotonic()
        self.last = (self.began, 0)

    # ---- measures: summed on the device, read at the log interval

    def add(self, terms: Mapping[str, Tensor], weight: float = 1.0) -> None:
        """Note a step's terms, without waiting for the device."""
        for name, term in terms.items():
            value = term.detach().float() * weight
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0.0) + weight

    def measures(self, accelerator: Accelerator) -> dict[str, float]:
        """Means of the noted terms over steps and processes since the last call; waits for the device."""
        if not self.sums:
            return {}
        names = sorted(self.sums)
        means = torch.stack([self.sums[name] / self.counts[name] for name in names])
        means = accelerator.reduce(means, "mean") if accelerator.num_processes > 1 else means
        self.forget()
        return dict(zip(names, means.tolist(), strict=True))

    def forget(self) -> None:
        """Drop what was noted since the last report."""
        self.sums, self.counts = {}, {}

    # ---- telling

    def start(self, images: int, total: int) -> None:
        """Training goes from `images` to `total` images; lines of a resumed run's future are dropped."""
        self.began, self.began_at, self.total = time.monotonic(), images, total
        self.last = (self.began, images)
        if self.accelerator.is_main_process and self.run.metrics_file.exists():
            kept = []
            for line in self.run.metrics_file.read_text(encoding="utf-8").splitlines(keepends=True):
                try:  # a killed run may leave half a line
                    values = json.loads(line)
                    if values["images"] <= images or values.get("event") in ("rollback", "failed"):
                        kept.append(line)
                except (json.JSONDecodeError, KeyError):
                    continue
            try:
                write_text(self.run.metrics_file, "".join(kept))
            except OSError as error:
                click.echo(f"metrics.jsonl could not be written: {error}", err=True)

    def log(self, images: int, step: int, measures: Mapping[str, float]) -> None:
        """One line of metrics.jsonl, of the trackers, and of the console."""
        if not self.accelerator.is_main_process:
            return
        now = time.monotonic()
        speed = (images - self.last[1]) / max(now - self.last[0], 1e-9)
        self.last = (now, images)
        values = {
            "images": images,
            "step": step,
            "seconds": round(now - self.began, 2),
            "images_per_second": round(speed, 1),
        }
        values |= {name: float(f"{value:.6g}") for name, value in measures.items()}
        self._write(values)
        self.accelerator.log(values, step=images)
        self._show(images, speed, measures, now)

    def event(self, images: int, kind: str, text: str = "", **values: Any) -> None:
        """Something out of the ordinary, for metrics.jsonl and the console."""
        if self.accelerator.is_main_process:
            self._write({"images": images, "event": kind, **values})
            if text:
                click.echo(f"\n{text}" if sys.stderr.isatty() else text, err=True)

    def _write(self, values: Mapping[str, Any]) -> None:
        plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        try:
            with self.run.metrics_file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(plain, ensure_ascii=False) + "\n")
        except OSError as error:  # a full disk must not end training before the checkpoint says so
            click.echo(f"metrics.jsonl could not be written: {error}", err=True)

    def _show(self, images: int, speed: float, measures: Mapping[str, float], now: float) -> None:
        done = images / self.total
        overall = (images - self.began_at) / max(now - self.began, 1e-9)
        left = duration((self.total - images) / max(overall, 1e-9))
        sides = {name.partition("/")[0] for name in measures if name.startswith("discriminator-")}
        shown = []
        for name, value in measures.items():
            side, _, term = name.partition("/")
            if side != "lr":  # of several discriminators, each with its resolution
                of = f"-{side.rpartition('-')[2]}" if len(sides) > 1 and side in sides else ""
                shown.append(f"{term}{of} {value:.2f}")
        terms = " ".join(shown)
        line = f"{images:,}/{self.total:,} images  {speed:.0f}/s  {left} left  {terms}"
        if sys.stderr.isatty():
            bar = "█" * int(20 * done) + "░" * (20 - int(20 * done))
            columns = shutil.get_terminal_size((100, 20)).columns
            click.echo("\r\x1b[K" + f"{bar} {line}"[: columns - 1], err=True, nl=images >= self.total)
        elif now - self.spoke > QUIET or images >= self.total:
            self.spoke = now
            click.echo(line, err=True)

    @torch.no_grad()
    def grid(self, stage: Stage, images: int, encoder: TextEncoder | None = None, columns: int = 8) -> None:
        """Draw the fixed captions with the fixed noise, a row each, to ``samples/images-….png``; `encoder` is one that
        has learned since."""
        embeddings = self.embeddings if encoder is None else encoder(self.captions).to(self.accelerator.device)
        generator = torch.Generator(embeddings.device).manual_seed(self.noise_seed)
        noise = stage.draw_noise(len(embeddings) * columns, generator)
        drawn = stage(embeddings.repeat_interleave(columns, 0), noise).images[-1]
        try:
            save_png(captioned(to_uint8(drawn).numpy(), self.captions), self.run.samples / f"images-{images:09d}.png")
        except OSError as error:
            click.echo(f"The sample grid could not be written: {error}", err=True)
