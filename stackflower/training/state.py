"""How far a training is, and its checkpoints: everything that a resumed run needs to go on bit for bit."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from stackflower.errors import TrainingFailed
from stackflower.runs.checkpoint import (
    CheckpointState,
    CheckpointWriter,
    check_files,
    get_optimizer_state,
    get_rng_state,
    load_weights,
    read_state,
    read_tensors,
    restore_optimizer,
    restore_rng,
    save_weights,
    write_state,
)
from stackflower.runs.folder import Run
from stackflower.training.networks import Networks
from stackflower.training.schedules import Plateau


class TrainingState:
    """Counters of a training beside its networks, and their checkpoints.

    A new number that a resumed run needs is a field of `CheckpointState`, which `make_checkpoint_state` writes and
    `restore` reads.

    Args:
        run: the run's folder.
        networks: what is trained.
    """

    def __init__(self, run: Run, networks: Networks):
        self.run, self.networks, self.accelerator = run, networks, networks.accelerator
        self.images = self.step = self.checkpoints = self.rollbacks = 0
        self.rate_scale = 1.0  # halved by every return to a checkpoint
        self.plateaus = {name: Plateau() for name in networks.learners}

    def make_checkpoint_state(self) -> CheckpointState:
        """Return the contents of ``state.json``."""
        scaler = self.accelerator.scaler
        return CheckpointState(
            images=self.images,
            step=self.step,
            number=self.checkpoints,
            rollbacks=self.rollbacks,
            rate_scale=self.rate_scale,
            plateaus={name: plateau.to_dict() for name, plateau in self.plateaus.items()},
            processes=self.accelerator.num_processes,
            scaler=scaler.state_dict() if scaler is not None else None,
        )

    def save(self, keep_last: int, keep_every: int) -> None:
        """Write a checkpoint and, as the run's model, the averaged stage; older checkpoints go."""
        writer = CheckpointWriter(self.run, self.images)
        if self.accelerator.is_main_process:
            self.checkpoints += 1
            for name, module in self.networks.modules().items():
                writer.write_tensors(name, module.state_dict())
            for name, learner in self.networks.learners.items():
                writer.write_tensors(f"optimizer-{name}", get_optimizer_state(learner.optimizer, learner.module))
        self.accelerator.wait_for_everyone()
        writer.write_tensors(f"rng-{self.accelerator.process_index}", get_rng_state(self.accelerator.device))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            writer.publish(self.make_checkpoint_state())
            self._save_model(f"The checkpoint of {self.images:,} images is complete")
            self.run.prune(keep_last, keep_every)
        self.accelerator.wait_for_everyone()

    def _save_model(self, kept: str) -> None:
        """Write the averaged stage (and encoder) as the run's model.

        Args:
            kept: sentence that says what is safe if writing fails.
        """
        try:
            save_weights(self.networks.ema.module, self.run.weights_file)
            if self.networks.text is not None:
                self.networks.averaged_encoder.save(self.run.text_folder)
        except (OSError, SafetensorError) as error:
            raise TrainingFailed(
                f"{self.run.weights_file} can't be written: {error}. {kept}. Free some disk space, then resume with "
                f"`resume={self.run}`."
            ) from error

    def save_best(self, value: float, scores: Mapping[str, float], protocol: Mapping[str, Any]) -> None:
        """Write the averaged stage (and encoder) as the run's best model. TrainingFailed where it can't be."""
        best = json.dumps({"images": self.images, "value": value, "scores": dict(scores), "protocol": dict(protocol)})
        try:
            if self.networks.text is not None:
                self.networks.averaged_encoder.save(self.run.best_text_folder(self.images))
            save_weights(self.networks.ema.module, self.run.best_weights, {"best": best})
        except (OSError, SafetensorError) as error:
            raise TrainingFailed(
                f"{self.run.best_weights} can't be written: {error}. The checkpoints are untouched. Free some disk "
                f"space, then resume with `resume={self.run}`."
            ) from error
        for path in self.run.path.glob("text-best-*"):
            aside = self.run.path / f"{path.name.replace('text', 'generator')}.safetensors"
            if path != self.run.best_text_folder(self.images) and not aside.exists():
                shutil.rmtree(path, ignore_errors=True)

    def set_best_aside(self, images: int) -> Path:
        """Keep the best model, of `images` images, under a name of its own; the file."""
        aside = self.run.path / f"generator-best-{images:09d}.safetensors"
        try:
            os.replace(self.run.best_weights, aside)
        except OSError as error:
            raise TrainingFailed(f"{aside} can't be written: {error}. The checkpoints are untouched.") from error
        return aside

    def restore(self, path: Path) -> None:
        """Put everything back as it was when the checkpoint at `path` was written."""
        state = read_state(path)
        check_files(path, state)
        otherwise = f"Delete {path} to resume from the checkpoint before."
        for name, module in self.networks.modules().items():
            load_weights(module, path / f"{name}.safetensors", otherwise)
        for name, learner in self.networks.learners.items():
            restore_optimizer(learner.optimizer, learner.module, read_tensors(path, f"optimizer-{name}"))
        if self.accelerator.process_index < state.processes:  # new processes keep their own
            random = read_tensors(path, f"rng-{self.accelerator.process_index}")
            restore_rng(random, self.accelerator.device)
        if state.scaler and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state.scaler)
        self.images, self.step, self.checkpoints = state.images, state.step, state.number
        self.rollbacks, self.rate_scale = state.rollbacks, state.rate_scale
        for name, values in state.plateaus.items():
            numbers: Any = values
            self.plateaus[name] = Plateau(**numbers)
        if self.accelerator.is_main_process:  # a kill may have come between this checkpoint and the run's model
            self._save_model(f"{path.name} is untouched")

    def roll_back(self, path: Path) -> None:
        """Back to the checkpoint at `path` with half the learning rates, which it remembers."""
        rollbacks, scale = self.rollbacks + 1, self.rate_scale / 2
        self.restore(path)
        self.rollbacks, self.rate_scale = rollbacks, scale
        if self.accelerator.is_main_process:  # so that a run killed now goes on with the lower rates
            write_state(path, replace(read_state(path), rollbacks=rollbacks, rate_scale=scale))
