"""The training loop: steps, learning rates, logs, grids, checkpoints, and the return from losses that are not finite.

Everything counts images seen. Nothing here waits for the device but at the log interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError

from stackflower.config.schema import RunConfig
from stackflower.errors import TrainingFailed
from stackflower.objectives.base import Objective
from stackflower.runs.checkpoint import (
    CheckpointState,
    CheckpointWriter,
    load_weights,
    optimizer_state,
    read_state,
    read_tensors,
    restore_optimizer,
    restore_rng,
    rng_state,
    save_weights,
    write_state,
)
from stackflower.runs.folder import RunFolder
from stackflower.training.accelerator import keep_memory
from stackflower.training.logger import RunLogger
from stackflower.training.networks import Networks
from stackflower.training.schedules import Length, Pace, Plateau, learning_rate
from stackflower.training.step import TrainingStep
from stackflower.training.stopping import Stop

AGREE_EVERY = 10  # steps between the moments at which several processes agree to stop, and on the length
ROLLBACKS = 3  # how often a run goes back to its last checkpoint before it gives up
WARM_UP = 2  # steps before the speed is measured
TENTHS = 10  # grids and checkpoints in a training, unless an interval is set


@dataclass
class Position:
    """How far training is."""

    images: int = 0
    step: int = 0
    checkpoints: int = 0
    rollbacks: int = 0
    rate_scale: float = 1.0


class Trainer:
    """Trains one run.

    Args:
        config: the run's configuration.
        run: its folder, locked by the caller.
        networks: what is trained.
        logger: where progress is reported.
        length: of the training.
        pace: fits the length to a time limit; None where the length is known.
        save_length: called with the length whenever it is fitted anew.
    """

    def __init__(
        self,
        config: RunConfig,
        run: RunFolder,
        networks: Networks,
        logger: RunLogger,
        length: Length,
        pace: Pace | None = None,
        save_length: Callable[[Length], None] = lambda length: None,
    ):
        self.config, self.run, self.networks, self.logger = config, run, networks, logger
        self.length, self.pace, self.save_length = length, pace, save_length
        self.accelerator: Accelerator = networks.accelerator
        self.device = self.accelerator.device
        if self.device.type == "cpu":
            keep_memory()
        self.position = Position()
        self.training_step = TrainingStep(networks, logger.add)
        self.plateaus = {name: Plateau() for name in networks.learners}

    @property
    def images(self) -> int:
        """Images seen."""
        return self.position.images

    @property
    def epoch(self) -> int:
        """Images of a pass over the data."""
        return len(self.networks.batches)

    # ---- one step

    def train_step(self) -> None:
        """Train on the next batch (with `critic_steps`, batches)."""
        before = self.images
        self._set_rates()
        self.position.images = self.training_step(before, self.position.step)
        self._update_objectives()
        if before // self.epoch != self.images // self.epoch:
            for name, adversary in self.networks.adversaries.items():
                self.logger.add({f"{name}/{key}": term for key, term in adversary.objective.after_epoch().items()})
        self._follow_plateaus(before)
        self.networks.update_averages(self.images, self.images - before)
        self.position.step += 1

    def _set_rates(self) -> None:
        share = self.length.share(self.images)
        for name, learner in self.networks.learners.items():
            rate = learning_rate(self.config.optimizer[name], self.images, share, self.epoch)
            for group in learner.prepared.param_groups:
                group["lr"] = rate * self.position.rate_scale * self.plateaus[name].scale

    def _update_objectives(self) -> None:
        """Let objectives with state of their own update it, by the step's terms averaged over processes."""
        for name, adversary in self.networks.adversaries.items():
            if type(adversary.objective).after_step is Objective.after_step:
                continue
            discriminator_terms, generator_terms = self.training_step.latest[name]
            terms = {**discriminator_terms, **generator_terms}
            mean = self.accelerator.reduce(torch.stack(list(terms.values())), "mean")
            measured = adversary.objective.after_step(dict(zip(terms, mean, strict=True)))
            self.logger.add({f"{name}/{key}": value for key, value in measured.items()})
            for plateau in self.plateaus.values() if "convergence" in measured else ():
                plateau.add(measured["convergence"])

    def _follow_plateaus(self, before: int) -> None:
        """Halve learning rates whose convergence measure has stopped falling over a window of images."""
        for name, plateau in self.plateaus.items():
            window = self.config.optimizer[name].plateau * self.epoch
            if window and before // window != self.images // window and plateau.close():
                self.logger.event(self.images, "plateau", network=name, scale=plateau.scale)

    # ---- the run

    def train(self, stop: Stop) -> str | None:
        """Train to the end or until asked to stop; why it stopped, or None. TrainingFailed if it can't go on."""
        output = self.config.output
        if not self.run.complete_checkpoints():
            self.save()
        self.logger.start(self.images)
        while not self.length.done(self.images):
            before = self.images
            self.train_step()
            stopping = self._agree(stop)
            done = self.length.done(self.images)
            save = done or stopping or self._crossed(before, output.checkpoint_every)
            if (save or self.position.step % output.log_every == 0) and (bad := self._report(save)):
                self._roll_back(bad)
                continue
            began = self.logger.clock()
            grid = done or self._crossed(before, output.sample_every)
            if grid:
                self._grid()
            if save:
                self.save()
            if self.pace is not None and save and grid:
                self.pace.reserve = self.logger.clock() - began
            if stopping and not done:
                return stop.reason or "another process's signal"
        return None

    def _crossed(self, before: int, every: float) -> bool:
        """Whether a multiple of `every` images, or of a tenth of the training, lies between `before` and now."""
        if every:
            return before // every != self.images // every
        return int(self.length.share(before) * TENTHS) != int(self.length.share(self.images) * TENTHS)

    def _agree(self, stop: Stop) -> bool:
        """Whether to stop, and a new estimate of the length where a time limit sets it; several processes agree every few steps."""
        if self.accelerator.num_processes == 1:
            self._refit(self._estimate())
            return stop.asked()
        if self.position.step % AGREE_EVERY and self.position.step % self.config.output.log_every:
            return False
        # one process's estimate for all, and whether any was asked to stop
        estimate = self._estimate() if self.accelerator.is_main_process else 0
        agreed = torch.tensor([float(stop.asked()), float(estimate)], device=self.device, dtype=torch.float64)
        stopping, total = self.accelerator.reduce(agreed, "sum").tolist()
        self._refit(int(total))
        return bool(stopping)

    def _estimate(self) -> int:
        """The length that fits the time limit, where it is time to estimate it; else 0."""
        if self.pace is None:
            return 0
        if not self.pace.marks and self.position.step >= WARM_UP:
            self.pace.start(self.images)
        if not self.pace.due(self.images):
            return 0
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return self.pace.estimate(self.images)

    def _refit(self, total: int) -> None:
        if total:
            first = not self.length.knots
            self.length.refit(self.images, total)
            self.save_length(self.length)
            if first:
                self.logger.event(
                    self.images, "length", total=total, text=f"About {total:,} images fit into the time limit."
                )

    def _report(self, saving: bool) -> list[str]:
        """Log the measures since the last report; the names of those that are not finite."""
        measures = self.logger.measures()
        bad = [name for name, value in measures.items() if not math.isfinite(value)]
        if saving:  # the losses of the last step may be finite and the weights after it not
            bad += self.networks.not_finite()
        if not bad:
            rates = {f"lr/{name}": one.prepared.param_groups[0]["lr"] for name, one in self.networks.learners.items()}
            share, total = self.length.share(self.images), self.length.total(self.images)
            self.logger.log(self.images, self.position.step, share, total, {**measures, **rates})
        return bad

    def _roll_back(self, bad: list[str]) -> None:
        """Back to the last complete checkpoint with half the learning rate, at most three times."""
        rollbacks, scale = self.position.rollbacks + 1, self.position.rate_scale / 2
        images, complete = self.images, self.run.complete_checkpoints()
        if rollbacks > ROLLBACKS or not complete:
            self.logger.event(images, "failed", terms=bad)
            raise TrainingFailed(
                f"The loss term {', '.join(bad)} is not finite after {images:,} images, {ROLLBACKS} returns to the last "
                f"checkpoint and a learning rate of {self.position.rate_scale:g} of the given one. The last finite checkpoint "
                f"is kept in {self.run}. A lower --set optimizer.generator.lr (and discriminator) or a penalty such as "
                "--penalty r1 usually helps."
            )
        self.restore(complete[-1])
        self.position.rollbacks, self.position.rate_scale = rollbacks, scale
        if self.accelerator.is_main_process:  # so that a run killed now goes on with the lower rate
            write_state(complete[-1], replace(read_state(complete[-1]), rollbacks=rollbacks, rate_scale=scale))
            self.logger.start(self.images)
        self.logger.event(
            images,
            "rollback",
            terms=bad,
            back_to=self.images,
            rate_scale=scale,
            time_number=rollbacks,
            text=f"{', '.join(bad)} not finite at {images:,} images: back to {self.images:,}, learning rate × {scale:g}",
        )

    def _grid(self) -> None:
        if self.accelerator.is_main_process:
            with self.accelerator.autocast():
                encoder = None if self.networks.text is None else self.networks.averaged_encoder
                self.logger.grid(self.networks.ema.module, self.images, encoder)

    # ---- checkpoints

    def _state(self) -> CheckpointState:
        scaler, position = self.accelerator.scaler, self.position
        return CheckpointState(
            images=position.images,
            step=position.step,
            number=position.checkpoints,
            rollbacks=position.rollbacks,
            rate_scale=position.rate_scale,
            plateaus={name: plateau.to_dict() for name, plateau in self.plateaus.items()},
            processes=self.accelerator.num_processes,
            scaler=scaler.state_dict() if scaler is not None else None,
        )

    def save(self) -> None:
        """Write a checkpoint and, as the run's model, the averaged stage."""
        writer = CheckpointWriter(self.run, self.images)
        if self.accelerator.is_main_process:
            self.position.checkpoints += 1
            for name, module in self.networks.modules().items():
                writer.tensors(name, module.state_dict())
            for name, learner in self.networks.learners.items():
                writer.tensors(f"optimizer-{name}", optimizer_state(learner.optimizer, learner.module))
        self.accelerator.wait_for_everyone()
        writer.tensors(f"rng-{self.accelerator.process_index}", rng_state(self.device))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            writer.publish(self._state())
            self._save_model(f"The checkpoint of {self.images:,} images is complete")
            self.run.prune(self.config.output.keep_last, self.config.output.keep_every)
        self.accelerator.wait_for_everyone()

    def _save_model(self, kept: str) -> None:
        """Write the averaged stage (and encoder) as the run's model. TrainingFailed, saying what is `kept`, where it can't be."""
        try:
            save_weights(self.networks.ema.module, self.run.weights_file)
            if self.networks.text is not None:
                self.networks.averaged_encoder.save(self.run.text_folder)
        except (OSError, SafetensorError) as error:
            raise TrainingFailed(
                f"{self.run.weights_file} can't be written: {error}. {kept}. Make room and type: "
                f"stackflower train --resume {self.run}"
            ) from error

    def restore(self, path: Path) -> None:
        """Put everything back as it was when the checkpoint at `path` was written."""
        state = read_state(path)
        otherwise = f"Delete {path} to resume from the checkpoint before."
        for name, module in self.networks.modules().items():
            load_weights(module, path / f"{name}.safetensors", otherwise)
        for name, learner in self.networks.learners.items():
            restore_optimizer(learner.optimizer, learner.module, read_tensors(path, f"optimizer-{name}"))
        if self.accelerator.process_index < state.processes:  # new processes keep their own
            restore_rng(read_tensors(path, f"rng-{self.accelerator.process_index}"), self.device)
        if state.scaler and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state.scaler)
        self.position = Position(state.images, state.step, state.number, state.rollbacks, state.rate_scale)
        plateaus: dict[str, Any] = {name: Plateau(**values) for name, values in state.plateaus.items()}
        self.plateaus |= plateaus
        self.logger.forget()
        if self.accelerator.is_main_process:  # a kill may have come between this checkpoint and the run's model
            self._save_model(f"{path.name} is untouched")
