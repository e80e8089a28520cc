"""The counters and checkpoints of a training: everything that a resumed run needs to continue bit for bit."""

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
    """The counters of a training, and the checkpoints of counters and networks.

    To save another counter, add a field to `CheckpointState`, write it in `make_checkpoint_state` and read it in
    `restore`.

    Args:
        run: the run.
        networks: networks of the training.
    """

    def __init__(self, run: Run, networks: Networks):
        self.run, self.networks, self.accelerator = run, networks, networks.accelerator
        self.images = self.step = self.checkpoints = self.rollbacks = 0
        self.rate_scale = 1.0  # scale of the learning rates, halved by each return to a checkpoint
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
        """Write a checkpoint, and the averaged networks as the run's model; delete old checkpoints.

        Args:
            keep_last: number of newest checkpoints to keep.
            keep_every: also keep every Nth checkpoint; 0: none.

        Raises:
            TrainingFailed: the checkpoint or the model can't be written.
        """
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
        """Write the averaged stage, and the text encoder if it is trained, as the run's model.

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
        """Write the averaged stage, and the text encoder if it is trained, as the run's best model.

        Args:
            value: score that selects the best model.
            scores: all scores by name.
            protocol: protocol of the scores.

        Raises:
            TrainingFailed: the model can't be written.
        """
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
        """Rename the best model so that the next one does not replace it.

        Args:
            images: number of images after which the model was written.

        Returns:
            The new path.

        Raises:
            TrainingFailed: the file can't be renamed.
        """
        aside = self.run.path / f"generator-best-{images:09d}.safetensors"
        try:
            os.replace(self.run.best_weights, aside)
        except OSError as error:
            raise TrainingFailed(f"{aside} can't be written: {error}. The checkpoints are untouched.") from error
        return aside

    def restore(self, path: Path) -> None:
        """Restore networks, optimizers, counters and random state from a checkpoint.

        Args:
            path: folder of the checkpoint.

        Raises:
            RunError: the checkpoint is damaged or belongs to other networks.
            TrainingFailed: the run's model can't be written.
        """
        state = read_state(path)
        check_files(path, state)
        otherwise = f"Delete {path} to resume from the checkpoint before."
        for name, module in self.networks.modules().items():
            load_weights(module, path / f"{name}.safetensors", otherwise)
        for name, learner in self.networks.learners.items():
            restore_optimizer(learner.optimizer, learner.module, read_tensors(path, f"optimizer-{name}"))
        if self.accelerator.process_index < state.processes:  # additional processes keep their own random state
            random = read_tensors(path, f"rng-{self.accelerator.process_index}")
            restore_rng(random, self.accelerator.device)
        if state.scaler and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state.scaler)
        self.images, self.step, self.checkpoints = state.images, state.step, state.number
        self.rollbacks, self.rate_scale = state.rollbacks, state.rate_scale
        for name, values in state.plateaus.items():
            numbers: Any = values
            self.plateaus[name] = Plateau(**numbers)
        if self.accelerator.is_main_process:  # the run may have been killed before it wrote this checkpoint's model
            self._save_model(f"{path.name} is untouched")

    def roll_back(self, path: Path) -> None:
        """Return to a checkpoint with half the learning rates, and record these in the checkpoint.

        Args:
            path: folder of the checkpoint.

        Raises:
            RunError: the checkpoint is damaged.
            TrainingFailed: the run's model can't be written.
        """
        rollbacks, scale = self.rollbacks + 1, self.rate_scale / 2
        self.restore(path)
        self.rollbacks, self.rate_scale = rollbacks, scale
        if self.accelerator.is_main_process:  # a run that is killed now resumes with the lower rates
            write_state(path, replace(read_state(path), rollbacks=rollbacks, rate_scale=scale))
