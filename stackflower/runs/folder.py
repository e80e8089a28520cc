"""A run is a folder: its files, who may write to it, and which checkpoints are complete.

config.json  metrics.jsonl  generator.safetensors  generator-stage1.safetensors …  text/  samples/*.png
checkpoints/images-*/
generator-best.safetensors, where a training is scored: the model with the best score so far
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open

from stackflower.config.schema import RunConfig
from stackflower.errors import ConfigError, RunError
from stackflower.runs.record import RunRecord
from stackflower.utils.atomic import RESUMES, reporting_write_errors, write_text

STATE = "state.json"  # the last file written into a checkpoint


class Run:
    """A run: a folder with its configuration, measures, samples, checkpoints and model.

    `Pipeline.from_run`, `evaluate` and `train(resume=…)` take it as they take its path.

    Args:
        path: folder of the run.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path).expanduser()

    def __str__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def images(self) -> int:
        """Number of images that the newest complete checkpoint was trained on; 0 without one."""
        return max(self.checkpoint_images(), default=0)

    @property
    def config_file(self) -> Path:
        return self.path / "config.json"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def weights_file(self) -> Path:
        """The trained stage: the averaged weights, or the current ones where averaging is off."""
        return self.path / "generator.safetensors"

    def previous_weights(self, stage: int) -> list[Path]:
        """Of a run of stage `stage`, the files of the earlier stages, the latest first."""
        return [self.path / f"generator-stage{number}.safetensors" for number in range(stage - 1, 0, -1)]

    @property
    def text_folder(self) -> Path:
        """What the run's text encoder keeps: a vocabulary, weights, vectors."""
        return self.path / "text"

    @property
    def best_weights(self) -> Path:
        """The stage that scored best during training; the file's metadata has its scores."""
        return self.path / "generator-best.safetensors"

    def best_text(self, images: int) -> Path:
        """What a text encoder that is trained with the GAN kept after `images` images, when the stage scored best."""
        return self.path / f"text-best-{images:09d}"

    def best(self) -> dict[str, Any] | None:
        """``images``, ``value``, ``scores`` and ``protocol`` of the best model; None where there is none, or its file
        is damaged.
        """
        try:
            with safe_open(self.best_weights, "pt") as handle:
                found = json.loads((handle.metadata() or {})["best"])
            return {
                "images": int(found["images"]),
                "value": float(found["value"]),
                "scores": dict(found["scores"]),
                "protocol": dict(found["protocol"]),
            }
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    @property
    def scores(self) -> Path:
        """Files of `stackflower eval`."""
        return self.path / "scores"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def checkpoint_images(self) -> list[int]:
        """The images after which each finished checkpoint was written, fewest first."""
        return [int(path.name.rpartition("-")[2]) for path in self.complete_checkpoints()]

    def checkpoint_at(self, images: str) -> Path:
        """The checkpoint that was written after so many images. RunError lists those that there are."""
        known = self.checkpoint_images()
        if not images.isdecimal() or int(images) not in known:
            listed = ", ".join(map(str, known)) or "none"
            raise RunError(f"{self} has no checkpoint {images}; it has: {listed}{', best' if self.best() else ''}.")
        return self.complete_checkpoints()[known.index(int(images))]

    def complete_checkpoints(self) -> list[Path]:
        """Finished checkpoints, oldest first."""
        return sorted(path.parent for path in self.checkpoints.glob(f"images-*/{STATE}"))

    # ---- config.json

    def record(self) -> RunRecord:
        """What ``config.json`` holds, checked. RunError says what is missing or wrong."""
        if not self.path.is_dir():
            near = sorted(str(p.parent) for p in Path("runs").glob("*/config.json"))
            hint = f" The runs here: {', '.join(near[-5:])}." if near else " `stackflower train` makes one."
            raise RunError(f"There is no run folder {self.path}.{hint}")
        try:
            return RunRecord.from_dict(json.loads(self.config_file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise RunError(
                f"{self.path} is no run folder, or part of it was deleted: config.json is missing. Without it the "
                "networks can't be rebuilt; put it back or train anew."
            ) from None
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(
                f"{self.config_file} is damaged ({error}); put an undamaged copy back or train anew."
            ) from error
        except ConfigError as error:
            raise RunError(f"{self.config_file} does not fit this version of Stackflower:\n{error}") from error

    def config(self) -> RunConfig:
        """The run's configuration."""
        return self.record().config

    def update(self, record: RunRecord) -> None:
        """Replace ``config.json``. RunError where it can't be written; the one before stays."""
        with reporting_write_errors(self.config_file, RunError, RESUMES):
            write_text(self.config_file, json.dumps(dataclasses.asdict(record), indent=2, ensure_ascii=False) + "\n")

    # ---- metrics.jsonl

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl`` with a number of images; half a line, as a killed run may leave, and bytes
        that are no UTF-8 are left out.
        """
        if not self.metrics_file.is_file():
            return []
        rows = []
        for line in self.metrics_file.read_bytes().splitlines():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict) and isinstance(row.get("images"), int):
                rows.append(row)
        return rows

    # ---- writing

    def _contents(self) -> Iterator[Path]:
        """What is in the folder, but for what is left of a run that was killed before it began."""
        for path in self.path.iterdir():
            if not path.name.startswith(".") and (path.is_file() or any(path.iterdir())):
                yield path

    def refuse_taken(self) -> None:
        """RunError if something is there already."""
        if self.path.is_file() or (self.path.is_dir() and any(self._contents())):
            what = "holds a run" if self.config_file.exists() else "is not empty"
            raise RunError(
                f"{self.path} {what}. Resume a run with `resume={self.path}`; a new one needs another `out`."
            )

    def create(self, record: RunRecord) -> None:
        """Make the folder with its configuration. RunError if something is there already."""
        self.refuse_taken()
        with reporting_write_errors(self.path, RunError):
            self.samples.mkdir(parents=True, exist_ok=True)
            self.checkpoints.mkdir(exist_ok=True)
        self.update(record)  # last: with it, the folder is a run

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder against other writers. RunError if another process writes to it."""
        lock = FileLock(self.path / ".lock")  # the system's: it is released with the process, however that ends
        with reporting_write_errors(self.path, RunError):
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise RunError(
                    f"Another process is writing to {self.path}. Wait until it ends, stop it, or choose another `out`."
                ) from None
        try:
            yield
        finally:
            lock.release()

    def prune(self, keep_last: int, keep_every: int) -> None:
        """Delete all but the newest `keep_last` checkpoints and every `keep_every`-th of all that were written."""
        for path in self.complete_checkpoints()[:-keep_last]:
            try:
                number = json.loads((path / STATE).read_text(encoding="utf-8"))["number"]
            except (OSError, ValueError, KeyError, TypeError):
                number = 0  # damaged: it can't be resumed from
            if not (keep_every and number and number % keep_every == 0):
                (path / STATE).unlink()  # no longer complete, whatever happens next
                shutil.rmtree(path, ignore_errors=True)
        for path in self.checkpoints.iterdir():
            if not (path / STATE).exists():
                shutil.rmtree(path, ignore_errors=True)


def newest_run(root: str | Path = "runs") -> Run:
    """The run that was written last. RunError if there is none."""
    found = sorted(
        Path(root).glob("*/config.json"), key=lambda path: max(p.stat().st_mtime for p in path.parent.iterdir())
    )
    if not found:
        raise RunError(f"There is no run in {root}/ to resume. Name its folder: `resume=RUN`.")
    return Run(found[-1].parent)


def free_name(recipe: str, root: str | Path = "runs") -> Path:
    """A folder name no run has yet: ``runs/quickstart-1``, ``-2`` …"""
    stem = Path(recipe).stem or "run"
    number = 1
    while (Path(root) / f"{stem}-{number}").exists():
        number += 1
    return Path(root) / f"{stem}-{number}"
