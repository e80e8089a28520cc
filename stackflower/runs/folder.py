"""The folder of a run: paths of its files, reading and writing them, and which checkpoints are complete.

Its files::

    config.json                    configuration and the values that were resolved from the data
    metrics.jsonl                  measurements and events, one per line
    generator.safetensors          trained stage
    generator-stage1.safetensors   earlier stages, in the run of a later one
    generator-best.safetensors     stage with the best score, if the run is scored during training
    text/                          files of the text encoder
    samples/*.png                  sample grids
    checkpoints/images-*/          checkpoints
    scores/                        files of `stackflower eval`
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
from stackflower.utils.atomic import RESUME_ADVICE, reporting_write_errors, write_text

STATE_FILE = "state.json"  # written last: a checkpoint with it is complete


class Run:
    """A run: a folder with a configuration, measurements, samples, checkpoints and a trained model.

    `Pipeline.from_run`, `evaluate` and `train(resume=…)` accept a run or its path. Creating a `Run` reads and writes
    nothing; the folder need not exist.

    Args:
        path: folder of the run.

    Example:
        >>> from stackflower import Run
        >>> run = Run("runs/flowers")
        >>> run.weights_file.as_posix()
        'runs/flowers/generator.safetensors'
        >>> run.images  # doctest: +SKIP
        20000
        >>> run.read_config().recipe  # doctest: +SKIP
        'quickstart'
        >>> run.read_metrics()[-1]["images"]  # doctest: +SKIP
        20000
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
        """Number of training images of the newest complete checkpoint; 0 without one."""
        return max(self.list_checkpoint_images(), default=0)

    @property
    def is_untrained(self) -> bool:
        """Whether the run's only checkpoint is from before the first step, so that its model is untrained."""
        return self.list_checkpoint_images() == [0]

    @property
    def config_file(self) -> Path:
        """Path of ``config.json``."""
        return self.path / "config.json"

    @property
    def metrics_file(self) -> Path:
        """Path of ``metrics.jsonl``."""
        return self.path / "metrics.jsonl"

    @property
    def weights_file(self) -> Path:
        """Weights of the trained stage: averaged, or the current ones if averaging is off."""
        return self.path / "generator.safetensors"

    def previous_weights_files(self, stage: int) -> list[Path]:
        """Return the weights of the stages before `stage`, the latest first."""
        return [self.path / f"generator-stage{number}.safetensors" for number in range(stage - 1, 0, -1)]

    @property
    def text_folder(self) -> Path:
        """Folder of the text encoder's files: a vocabulary, weights or vectors."""
        return self.path / "text"

    @property
    def best_weights(self) -> Path:
        """Weights of the stage that scored best during training; the file's metadata holds the scores."""
        return self.path / "generator-best.safetensors"

    def best_text_folder(self, images: int) -> Path:
        """Return the folder of the text encoder that belongs to `best_weights`.

        It exists if the encoder is trained with the GAN.

        Args:
            images: number of images after which the stage scored best.
        """
        return self.path / f"text-best-{images:09d}"

    def read_best(self) -> dict[str, Any] | None:
        """Read the scores of the best model.

        Returns:
            ``images``, ``value``, ``scores`` and ``protocol``; None if the run has no best model or its file is
            damaged.
        """
        try:
            with safe_open(self.best_weights, "pt") as handle:
                best = json.loads((handle.metadata() or {})["best"])
            return {
                "images": int(best["images"]),
                "value": float(best["value"]),
                "scores": dict(best["scores"]),
                "protocol": dict(best["protocol"]),
            }
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    @property
    def samples(self) -> Path:
        """Folder of the sample grids."""
        return self.path / "samples"

    @property
    def captions_file(self) -> Path:
        """File with the captions of the sample grids, one per line."""
        return self.samples / "captions.txt"

    def read_captions(self) -> list[str]:
        """Read the captions of the sample grids; empty if they are unknown."""
        try:
            return self.captions_file.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):
            return []

    @property
    def scores(self) -> Path:
        """Folder of the scores that `stackflower eval` writes."""
        return self.path / "scores"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    def list_checkpoint_images(self) -> list[int]:
        """Return the number of training images of each complete checkpoint, in ascending order."""
        return [int(path.name.rpartition("-")[2]) for path in self.list_checkpoints()]

    def find_checkpoint(self, images: str) -> Path:
        """Return the folder of the checkpoint written after `images` images.

        Args:
            images: number of images, in digits.

        Raises:
            RunError: the run has no such checkpoint; the message lists those it has.
        """
        available = self.list_checkpoint_images()
        if not images.isdecimal() or int(images) not in available:
            listed = ", ".join(map(str, available)) or "none"
            raise RunError(
                f"{self} has no checkpoint {images}; it has: {listed}{', best' if self.read_best() else ''}."
            )
        return self.list_checkpoints()[available.index(int(images))]

    def list_checkpoints(self) -> list[Path]:
        """Return the folders of the complete checkpoints, oldest first."""
        return sorted(path.parent for path in self.checkpoints.glob(f"images-*/{STATE_FILE}"))

    # ---- config.json

    def read_record(self) -> RunRecord:
        """Read and validate ``config.json``.

        Returns:
            The configuration, and the values that were resolved from the data.

        Raises:
            RunError: the folder or the file is missing, damaged or of another version.
        """
        if not self.path.is_dir():
            nearby = sorted(str(p.parent) for p in Path("runs").glob("*/config.json"))
            hint = f" Runs in runs/: {', '.join(nearby[-5:])}." if nearby else " Create one with `stackflower train`."
            raise RunError(f"Run folder {self.path} does not exist.{hint}")
        try:
            return RunRecord.from_dict(json.loads(self.config_file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise RunError(
                f"{self.path} is not a run folder: config.json is missing. If it was deleted, restore it, or train a "
                "new run; the networks can't be rebuilt without it."
            ) from None
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(
                f"{self.config_file} is damaged ({error}). Restore an intact copy, or train a new run."
            ) from error
        except ConfigError as error:
            raise RunError(f"{self.config_file} is not valid in this version of Stackflower:\n{error}") from error

    def read_config(self) -> RunConfig:
        """Read the run's configuration.

        Raises:
            RunError: as of `read_record`.
        """
        return self.read_record().config

    def update(self, record: RunRecord) -> None:
        """Replace ``config.json``.

        Raises:
            RunError: it can't be written; the previous file is kept.
        """
        with reporting_write_errors(self.config_file, RunError, RESUME_ADVICE):
            write_text(self.config_file, json.dumps(dataclasses.asdict(record), indent=2, ensure_ascii=False) + "\n")

    # ---- metrics.jsonl

    def read_metrics(self) -> list[dict[str, Any]]:
        """Read ``metrics.jsonl``.

        Returns:
            The measurements and events, each with its number of ``images``, in the order of writing. Lines that can't
            be parsed, such as the last one of a killed run, are skipped. Empty if the file does not exist.
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
        """Yield the files and folders in the run's folder, ignoring leftovers of a run that never started."""
        for path in self.path.iterdir():
            if not path.name.startswith(".") and (path.is_file() or any(path.iterdir())):
                yield path

    def refuse_taken(self) -> None:
        """Check that the folder is empty or does not exist.

        Raises:
            RunError: the folder holds a run or other files; the message says how to proceed.
        """
        if self.path.is_file() or (self.path.is_dir() and any(self._contents())):
            if self.is_untrained:
                with self.lock():  # a run that is in its first steps must not be deleted
                    raise RunError(
                        f"{self.path} holds an untrained run. Resume it with `resume={self.path}`; to train with other "
                        "settings, delete the folder or choose another `out`."
                    )
            content = "already holds a run" if self.config_file.exists() else "already exists and is not empty"
            raise RunError(f"{self.path} {content}. Choose another `out`, or resume a run with `resume={self.path}`.")

    def create(self, record: RunRecord) -> None:
        """Create the folder and its ``config.json``.

        Raises:
            RunError: the folder holds a run or other files, or can't be written.
        """
        self.refuse_taken()
        with reporting_write_errors(self.path, RunError):
            self.samples.mkdir(parents=True, exist_ok=True)
            self.checkpoints.mkdir(exist_ok=True)
        self.update(record)  # last: it makes the folder a run

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from writing to the folder, inside a ``with`` block.

        Raises:
            RunError: another process is writing to it, or the folder can't be written.
        """
        lock = FileLock(
            self.path / ".lock"
        )  # a lock of the operating system, which releases it if the process is killed
        with reporting_write_errors(self.path, RunError):
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise RunError(
                    f"Another process is writing to {self.path}. Wait until it finishes, stop it, or choose another "
                    "`out`."
                ) from None
        try:
            yield
        finally:
            lock.release()

    def prune(self, keep_last: int, keep_every: int) -> None:
        """Delete old and incomplete checkpoints.

        Args:
            keep_last: number of newest checkpoints to keep.
            keep_every: keep every `keep_every`-th checkpoint as well; 0 keeps no other.
        """
        for path in self.list_checkpoints()[:-keep_last]:
            try:
                number = json.loads((path / STATE_FILE).read_text(encoding="utf-8"))["number"]
            except (OSError, ValueError, KeyError, TypeError):
                number = 0  # damaged: a training can't resume from it
            if not (keep_every and number and number % keep_every == 0):
                (path / STATE_FILE).unlink()  # first: marks the checkpoint as incomplete
                shutil.rmtree(path, ignore_errors=True)
        for path in self.checkpoints.iterdir():
            if not (path / STATE_FILE).exists():
                shutil.rmtree(path, ignore_errors=True)


def find_newest_run(root: str | Path = "runs") -> Run:
    """Return the run in `root` that was written to last.

    Raises:
        RunError: `root` has no run.
    """
    if not (runs := list_runs(root)):
        raise RunError(f"{root}/ contains no run to resume. Name the folder of a run: `resume=RUN`.")
    return runs[0]


def list_runs(root: str | Path = "runs") -> list[Run]:
    """Return the runs in `root`, the one that was written to last first."""
    config_files = sorted(
        Path(root).glob("*/config.json"), key=lambda path: max(p.stat().st_mtime for p in path.parent.iterdir())
    )
    return [Run(path.parent) for path in reversed(config_files)]


def find_free_name(recipe: str, root: str | Path = "runs") -> Path:
    """Return the first free path of the form ``ROOT/RECIPE-N``, such as ``runs/quickstart-1``."""
    stem = Path(recipe).stem or "run"
    number = 1
    while (Path(root) / f"{stem}-{number}").exists():
        number += 1
    return Path(root) / f"{stem}-{number}"
