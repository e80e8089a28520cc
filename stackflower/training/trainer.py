"""The training loop: steps, learning rates, logs, grids, checkpoints, and recovery from non-finite losses.

Intervals are in images seen. The loop synchronises with the device only at the log interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from accelerate import Accelerator

from stackflower.config.schema import RunConfig
from stackflower.errors import TrainingFailed
from stackflower.runs.folder import Run
from stackflower.stages.base import Stage
from stackflower.text.base import TextEncoder
from stackflower.training.callbacks import Callback, TrainingProgress
from stackflower.training.logger import RunLogger
from stackflower.training.networks import Networks
from stackflower.training.schedules import Length, Pace, compute_learning_rate
from stackflower.training.state import TrainingState
from stackflower.training.step import TrainingStep
from stackflower.training.stopping import Stop
from stackflower.utils.threads import ThreadChooser, make_chooser

AGREEMENT_INTERVAL = 10  # steps between synchronisations of several processes, about the length and stopping
MAX_ROLLBACKS = 3  # maximum number of returns to a checkpoint
WARM_UP_STEPS = 2  # number of steps before the speed is measured
DEFAULT_SAVES = 10  # number of grids and checkpoints per training, unless an interval is set


class Scorer(Protocol):
    """Scorer of the networks in training, called in every process."""

    measure: str  # name of the score that selects the best model
    lower_is_better: bool
    protocol: dict[str, Any]  # only scores with equal protocols are comparable

    def __call__(self, stage: Stage, encoder: TextEncoder | None) -> dict[str, float]:
        """Compute scores by name.

        Args:
            stage: averaged stage.
            encoder: averaged text encoder, if it is trained with the GAN.
        """


class Trainer:
    """Trainer of one run.

    Args:
        config: configuration of the run.
        run: the run, locked by the caller.
        networks: networks of the training.
        logger: logger of the run.
        length: length of the training.
        pace: estimator of the length under a time limit; None: the length is fixed.
        save_length: function that is called with the length after each estimate.
        scorer: scorer of the averaged networks on held-out images; None: no scores.
        callbacks: callbacks of the training.
        threads: chooser of the number of threads; None: keep torch's number.
    """

    def __init__(
        self,
        config: RunConfig,
        run: Run,
        networks: Networks,
        logger: RunLogger,
        length: Length,
        pace: Pace | None = None,
        save_length: Callable[[Length], None] = lambda length: None,
        scorer: Scorer | None = None,
        callbacks: Callback | None = None,
        threads: ThreadChooser | None = None,
    ):
        self.config, self.run, self.networks, self.logger = config, run, networks, logger
        self.length, self.pace, self.save_length, self.scorer = length, pace, save_length, scorer
        self.accelerator: Accelerator = networks.accelerator
        self.device = self.accelerator.device
        self.callbacks = callbacks or Callback()
        self.threads = threads or make_chooser(None, fixed=True)
        self.can_pause = True  # whether the time limit leaves time for grids and checkpoints before the end
        self.state = TrainingState(run, networks)
        self.training_step = TrainingStep(networks, logger.add)

    @property
    def images(self) -> int:
        """Number of images seen."""
        return self.state.images

    @property
    def epoch(self) -> int:
        """Number of images per pass over the data."""
        return len(self.networks.batches)

    def describe_progress(self, stop: Stop) -> TrainingProgress:
        """Return the progress of the training, for callbacks.

        Args:
            stop: ends the training early.
        """
        share, total = self.length.get_share(self.images), self.length.get_total(self.images)
        return TrainingProgress(self.run, self.images, self.state.step, share, total, stop.request)

    # ---- one step

    def train_step(self) -> None:
        """Train on the next batch (or batches, see `train.critic_steps`), and update rates, objectives and averages."""
        before = self.images
        self._set_rates()
        self.state.images = self.training_step(before, self.state.step)
        self._update_adversaries(self.images - before)
        if before // self.epoch != self.images // self.epoch:
            for name, adversary in self.networks.adversaries.items():
                self.logger.add({f"{name}/{key}": term for key, term in adversary.objective.after_epoch().items()})
        self._reduce_rates_on_plateau(before)
        self.networks.update_averages(self.images, self.images - before)
        self.state.step += 1

    def _set_rates(self) -> None:
        """Set the learning rates of the next step."""
        share = self.length.get_share(self.images)
        for name, learner in self.networks.learners.items():
            rate = compute_learning_rate(self.config.optimizer[name], self.images, share, self.epoch)
            for group in learner.prepared.param_groups:
                group["lr"] = rate * self.state.rate_scale * self.state.plateaus[name].scale

    def _update_adversaries(self, images: int) -> None:
        """Update objectives and augmentations that have state with the terms of a step, averaged over processes."""
        for name, adversary in self.networks.adversaries.items():
            if not adversary.has_state:
                continue
            discriminator_terms, generator_terms = self.training_step.latest[name]
            terms = {**discriminator_terms, **generator_terms, **adversary.measures()}
            mean = self.accelerator.reduce(torch.stack(list(terms.values())), "mean")
            measured = adversary.after_step(dict(zip(terms, mean, strict=True)), images)
            self.logger.add({f"{name}/{key}": value for key, value in measured.items()})
            for plateau in self.state.plateaus.values() if "convergence" in measured else ():
                plateau.add(measured["convergence"])

    def _reduce_rates_on_plateau(self, before: int) -> None:
        """Halve learning rates if the convergence measure did not decrease over the last window of images."""
        for name, plateau in self.state.plateaus.items():
            window = self.config.optimizer[name].plateau * self.epoch
            if window and before // window != self.images // window and plateau.close():
                self.logger.log_event(self.images, "plateau", network=name, scale=plateau.scale)

    # ---- the run

    def train(self, stop: Stop) -> str | None:
        """Train to the end, or until a stop is requested.

        Args:
            stop: requests to end the training early.

        Returns:
            Why the training stopped early; None if it did not.

        Raises:
            TrainingFailed: a loss remained non-finite, or a checkpoint could not be written.
        """
        output = self.config.output
        if not self.run.list_checkpoints():
            self._save()
        self.logger.start(self.images)
        stopped: str | None = None
        while not self.length.is_done(self.images):
            before = self.images
            with self.threads.timing(self.images):
                self.train_step()
            self.callbacks.on_step(self.describe_progress(stop))
            stopping = self._synchronise(stop)
            done = self.length.is_done(self.images)
            save = done or stopping or self._has_crossed(before, output.checkpoint_every)
            if (save or self.state.step % output.log_every == 0) and (non_finite := self._log_measures(save, stop)):
                self._roll_back(non_finite)
                continue
            grid = done or self._has_crossed(before, output.sample_every)
            if grid:
                self._run_paused("grid", self._save_grid)
            scored = self.scorer is not None and (
                done or before // output.eval_every != self.images // output.eval_every
            )
            if scored and not stopping:  # before the checkpoint: a run killed while scoring is scored after resuming
                self._run_paused("score", self._score)
            if save:
                self._run_paused("checkpoint", self._save)
                self.callbacks.on_checkpoint(self.describe_progress(stop), self.run.list_checkpoints()[-1])
            if scored and stopping:
                self._score()
            if stopping and not done:
                stopped = stop.reason or "another process's signal"
                break
        self.callbacks.on_end(self.describe_progress(stop), stopped)
        return stopped

    def _run_paused(self, kind: str, work: Callable[[], None]) -> None:
        """Run a function that interrupts the training, and record its duration for the time limit."""
        began = self.logger.clock()
        work()
        if self.pace is not None:
            self.pace.pause(kind, self.logger.clock() - began, self.length.get_share(self.images))

    def _has_crossed(self, before: int, every: float) -> bool:
        """Return whether the number of images has crossed a multiple of `every` since `before`.

        With 0, the interval is a tenth of the training, provided that the time limit leaves enough time.
        """
        if every:
            return before // every != self.images // every
        return self.can_pause and int(self.length.get_share(before) * DEFAULT_SAVES) != int(
            self.length.get_share(self.images) * DEFAULT_SAVES
        )

    def _synchronise(self, stop: Stop) -> bool:
        """Return whether to stop, and update the length; several processes synchronise every few steps."""
        if self.accelerator.num_processes == 1:
            self._update_length(self._estimate())
            self.can_pause = self._can_pause()
            return stop.is_requested()
        if self.state.step % AGREEMENT_INTERVAL and self.state.step % self.config.output.log_every:
            return False
        # all processes use the estimate of the main process, and stop if any process received a request
        main = self.accelerator.is_main_process
        votes = [float(stop.is_requested()), float(self._estimate() if main else 0), float(main and self._can_pause())]
        tensor = torch.tensor(votes, device=self.device, dtype=torch.float64)
        stopping, total, can_pause = self.accelerator.reduce(tensor, "sum").tolist()
        self._update_length(int(total))
        self.can_pause = bool(can_pause)
        return bool(stopping)

    def _can_pause(self) -> bool:
        """Return whether the time limit, if any, leaves time for another grid and checkpoint."""
        return self.pace is None or self.pace.can_pause()

    def _estimate(self) -> int:
        """Return the length that fits the time limit, or 0 if no estimate is due."""
        if self.pace is None:
            return 0
        if not self.pace.marks and self.state.step >= WARM_UP_STEPS:
            self.pace.start(self.images)
        if not self.pace.is_due(self.images):
            return 0
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return self.pace.estimate(self.images, self.length.get_share(self.images))

    def _update_length(self, total: int) -> None:
        """Set the estimated length; 0 keeps the current one."""
        if total:
            first = not self.length.knots
            self.length.refit(self.images, total)
            self.save_length(self.length)
            if first:
                self.logger.log_event(
                    self.images, "length", total=total, text=f"About {total:,} images fit into the time limit."
                )

    def _log_measures(self, saving: bool, stop: Stop) -> list[str]:
        """Log the measures since the last call, unless some are non-finite.

        Args:
            saving: whether a checkpoint follows, so that the weights are checked too.
            stop: requests to end the training early.

        Returns:
            The names of non-finite measures and weights.
        """
        measures = self.logger.collect_measures()
        non_finite = [name for name, value in measures.items() if not math.isfinite(value)]
        if saving:  # a step with finite losses can produce non-finite weights
            non_finite += self.networks.find_non_finite()
        if not non_finite:
            rates = {
                f"lr/{name}": learner.prepared.param_groups[0]["lr"] for name, learner in self.networks.learners.items()
            }
            share, total = self.length.get_share(self.images), self.length.get_total(self.images)
            waiting = {"data/waiting": self.training_step.waited / self.logger.get_seconds_since_last()}
            most = math.inf if self.pace is None else self.pace.get_seconds_left()
            measures = {**measures, **rates, **waiting}
            self.logger.log(self.images, self.state.step, share, total, measures, most)
            self.callbacks.on_log(self.describe_progress(stop), measures)
        self.training_step.waited = 0.0
        return non_finite

    def _roll_back(self, non_finite: list[str]) -> None:
        """Return to the last complete checkpoint with half the learning rate, at most `MAX_ROLLBACKS` times."""
        images, complete = self.images, self.run.list_checkpoints()
        if self.state.rollbacks >= MAX_ROLLBACKS or not complete:
            self.logger.log_event(images, "failed", terms=non_finite)
            raise TrainingFailed(
                f"Non-finite after {images:,} images: {', '.join(non_finite)}. The training returned to the last "
                f"checkpoint {self.state.rollbacks} times, with a learning rate scaled by {self.state.rate_scale:g}. "
                f"{self.run} keeps the last finite checkpoint. Try a lower learning rate (`lr`) or a penalty such as "
                "`penalty=r1`."
            )
        self.state.roll_back(complete[-1])
        self.logger.forget()
        self.threads.rewind(self.images)
        if self.pace is not None:
            self.pace.restart()
        scale = self.state.rate_scale
        if self.accelerator.is_main_process:
            self.logger.start(self.images)
        self.logger.log_event(
            images,
            "rollback",
            terms=non_finite,
            back_to=self.images,
            rate_scale=scale,
            time_number=self.state.rollbacks,
            text=f"Non-finite at {images:,} images: {', '.join(non_finite)}. Returning to {self.images:,} images with "
            f"the learning rate × {scale:g}.",
        )

    def _save_grid(self) -> None:
        """Save a sample grid of the averaged stage."""
        if self.accelerator.is_main_process:
            with self.accelerator.autocast():
                encoder = None if self.networks.text is None else self.networks.averaged_encoder
                self.logger.save_grid(self.networks.ema.module, self.images, encoder)

    def _score(self) -> None:
        """Score the averaged networks, and save them as the best model if their score is the best so far."""
        assert self.scorer is not None
        encoder = None if self.networks.text is None else self.networks.averaged_encoder
        scores = self.scorer(self.networks.ema.module, encoder)
        if not self.accelerator.is_main_process:
            return
        self.logger.log_scores(self.images, scores)
        value, best = scores[self.scorer.measure], self.run.read_best()
        if best is not None and best["protocol"] != self.scorer.protocol:
            aside = self.state.set_best_aside(best["images"])
            text = f"The best model so far was scored with another protocol; it is kept as {aside.name}."
            self.logger.log_event(self.images, "best", kept=aside.name, value=best["value"], text=text)
            best = None
        if best is None:
            better = math.isfinite(value)
        else:
            better = value < best["value"] if self.scorer.lower_is_better else value > best["value"]
        if better:
            self.state.save_best(value, scores, self.scorer.protocol)

    def _save(self) -> None:
        """Save a checkpoint."""
        self.state.save(self.config.output.keep_last, self.config.output.keep_every)
