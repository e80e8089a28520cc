"""The training loop: steps, learning rates, logs, grids, checkpoints, and the return from losses that are not finite.

Everything counts images seen. Nothing here waits for the device but at the log interval.
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

AGREE_EVERY = 10  # steps between the moments at which several processes agree to stop, and on the length
ROLLBACKS = 3  # how often a run goes back to its last checkpoint before it gives up
WARM_UP = 2  # steps before the speed is measured
TENTHS = 10  # grids and checkpoints in a training, unless an interval is set


class Scorer(Protocol):
    """Scores of the networks in training, on every process."""

    measure: str  # of the scores, the one by which the best model is chosen
    lower_is_better: bool
    protocol: dict[str, Any]  # what scores that compare have in common

    def __call__(self, stage: Stage, encoder: TextEncoder | None) -> dict[str, float]:
        """Score the averaged `stage`, with the averaged `encoder` where that is trained too."""


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
        scorer: scores the averaged networks on held-out images; None: no scores.
        callbacks: run while it trains.
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
    ):
        self.config, self.run, self.networks, self.logger = config, run, networks, logger
        self.length, self.pace, self.save_length, self.scorer = length, pace, save_length, scorer
        self.accelerator: Accelerator = networks.accelerator
        self.device = self.accelerator.device
        self.callbacks = callbacks or Callback()
        self.can_pause = True  # whether there is time for grids and checkpoints before the last
        self.state = TrainingState(run, networks)
        self.training_step = TrainingStep(networks, logger.add)

    @property
    def images(self) -> int:
        """Images seen."""
        return self.state.images

    @property
    def epoch(self) -> int:
        """Images of a pass over the data."""
        return len(self.networks.batches)

    def describe_progress(self, stop: Stop) -> TrainingProgress:
        """Return how far the training is, for callbacks."""
        share, total = self.length.get_share(self.images), self.length.get_total(self.images)
        return TrainingProgress(self.run, self.images, self.state.step, share, total, stop.request)

    # ---- one step

    def train_step(self) -> None:
        """Train on the next batch (with `critic_steps`, batches)."""
        before = self.images
        self._set_rates()
        self.state.images = self.training_step(before, self.state.step)
        self._update_adversaries(self.images - before)
        if before // self.epoch != self.images // self.epoch:
            for name, adversary in self.networks.adversaries.items():
                self.logger.add({f"{name}/{key}": term for key, term in adversary.objective.after_epoch().items()})
        self._follow_plateaus(before)
        self.networks.update_averages(self.images, self.images - before)
        self.state.step += 1

    def _set_rates(self) -> None:
        share = self.length.get_share(self.images)
        for name, learner in self.networks.learners.items():
            rate = compute_learning_rate(self.config.optimizer[name], self.images, share, self.epoch)
            for group in learner.prepared.param_groups:
                group["lr"] = rate * self.state.rate_scale * self.state.plateaus[name].scale

    def _update_adversaries(self, images: int) -> None:
        """Update objectives and augmentations with state by the terms of a step, averaged over processes."""
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

    def _follow_plateaus(self, before: int) -> None:
        """Halve learning rates whose convergence measure has stopped falling over a window of images."""
        for name, plateau in self.state.plateaus.items():
            window = self.config.optimizer[name].plateau * self.epoch
            if window and before // window != self.images // window and plateau.close():
                self.logger.log_event(self.images, "plateau", network=name, scale=plateau.scale)

    # ---- the run

    def train(self, stop: Stop) -> str | None:
        """Train to the end or until asked to stop; why it stopped, or None. TrainingFailed if it can't go on."""
        output = self.config.output
        if not self.run.list_checkpoints():
            self._save()
        self.logger.start(self.images)
        stopped: str | None = None
        while not self.length.is_done(self.images):
            before = self.images
            self.train_step()
            self.callbacks.on_step(self.describe_progress(stop))
            stopping = self._agree(stop)
            done = self.length.is_done(self.images)
            save = done or stopping or self._has_crossed(before, output.checkpoint_every)
            if (save or self.state.step % output.log_every == 0) and (bad := self._report(save, stop)):
                self._roll_back(bad)
                continue
            grid = done or self._has_crossed(before, output.sample_every)
            if grid:
                self._run_paused("grid", self._save_grid)
            scored = self.scorer is not None and (
                done or before // output.eval_every != self.images // output.eval_every
            )
            if scored and not stopping:  # before the checkpoint: a run that is killed while it scores goes on before it
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
        """Do what training waits for, which a time limit reckons with."""
        began = self.logger.clock()
        work()
        if self.pace is not None:
            self.pace.pause(kind, self.logger.clock() - began, self.length.get_share(self.images))

    def _has_crossed(self, before: int, every: float) -> bool:
        """Return whether a multiple of `every` images lies between `before` and now.

        If `every` is 0, it is a tenth of the training, provided that the time limit leaves time for it.
        """
        if every:
            return before // every != self.images // every
        return self.can_pause and int(self.length.get_share(before) * TENTHS) != int(
            self.length.get_share(self.images) * TENTHS
        )

    def _agree(self, stop: Stop) -> bool:
        """Return whether to stop, and update the estimate of the length; several processes agree every few steps."""
        if self.accelerator.num_processes == 1:
            self._refit(self._estimate())
            self.can_pause = self._can_pause()
            return stop.is_requested()
        if self.state.step % AGREE_EVERY and self.state.step % self.config.output.log_every:
            return False
        # one process's estimate for all, and whether any was asked to stop
        main = self.accelerator.is_main_process
        own = [float(stop.is_requested()), float(self._estimate() if main else 0), float(main and self._can_pause())]
        agreed = torch.tensor(own, device=self.device, dtype=torch.float64)
        stopping, total, affords = self.accelerator.reduce(agreed, "sum").tolist()
        self._refit(int(total))
        self.can_pause = bool(affords)
        return bool(stopping)

    def _can_pause(self) -> bool:
        return self.pace is None or self.pace.can_pause()

    def _estimate(self) -> int:
        """Return the length that fits the time limit if it is time to estimate it, otherwise 0."""
        if self.pace is None:
            return 0
        if not self.pace.marks and self.state.step >= WARM_UP:
            self.pace.start(self.images)
        if not self.pace.is_due(self.images):
            return 0
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return self.pace.estimate(self.images, self.length.get_share(self.images))

    def _refit(self, total: int) -> None:
        if total:
            first = not self.length.knots
            self.length.refit(self.images, total)
            self.save_length(self.length)
            if first:
                self.logger.log_event(
                    self.images, "length", total=total, text=f"About {total:,} images fit into the time limit."
                )

    def _report(self, saving: bool, stop: Stop) -> list[str]:
        """Log the measures since the last report; the names of those that are not finite."""
        measures = self.logger.collect_measures()
        bad = [name for name, value in measures.items() if not math.isfinite(value)]
        if saving:  # the losses of the last step may be finite and the weights after it not
            bad += self.networks.find_non_finite()
        if not bad:
            rates = {f"lr/{name}": one.prepared.param_groups[0]["lr"] for name, one in self.networks.learners.items()}
            share, total = self.length.get_share(self.images), self.length.get_total(self.images)
            waiting = {"data/waiting": self.training_step.waited / self.logger.get_seconds_since_last()}
            most = math.inf if self.pace is None else self.pace.get_seconds_left()
            measures = {**measures, **rates, **waiting}
            self.logger.log(self.images, self.state.step, share, total, measures, most)
            self.callbacks.on_log(self.describe_progress(stop), measures)
        self.training_step.waited = 0.0
        return bad

    def _roll_back(self, bad: list[str]) -> None:
        """Return to the last complete checkpoint with half the learning rate, at most three times."""
        images, complete = self.images, self.run.list_checkpoints()
        if self.state.rollbacks >= ROLLBACKS or not complete:
            self.logger.log_event(images, "failed", terms=bad)
            raise TrainingFailed(
                f"Not finite after {images:,} images: {', '.join(bad)}, with {self.state.rollbacks} returns to the "
                f"last checkpoint and the learning rate scaled by {self.state.rate_scale:g}. {self.run} keeps the "
                "last finite checkpoint. A lower learning rate (`lr`) or a penalty such as `penalty=r1` usually helps."
            )
        self.state.roll_back(complete[-1])
        self.logger.forget()
        if self.pace is not None:
            self.pace.restart()
        scale = self.state.rate_scale
        if self.accelerator.is_main_process:
            self.logger.start(self.images)
        self.logger.log_event(
            images,
            "rollback",
            terms=bad,
            back_to=self.images,
            rate_scale=scale,
            time_number=self.state.rollbacks,
            text=f"{', '.join(bad)} not finite at {images:,} images: returning to {self.images:,}, learning "
            f"rate × {scale:g}.",
        )

    def _save_grid(self) -> None:
        if self.accelerator.is_main_process:
            with self.accelerator.autocast():
                encoder = None if self.networks.text is None else self.networks.averaged_encoder
                self.logger.save_grid(self.networks.ema.module, self.images, encoder)

    def _score(self) -> None:
        """Score the averaged networks, and keep them if no earlier ones were better by the chosen metric."""
        assert self.scorer is not None
        encoder = None if self.networks.text is None else self.networks.averaged_encoder
        scores = self.scorer(self.networks.ema.module, encoder)
        if not self.accelerator.is_main_process:
            return
        self.logger.log_scores(self.images, scores)
        value, best = scores[self.scorer.measure], self.run.read_best()
        if best is not None and best["protocol"] != self.scorer.protocol:
            aside = self.state.set_best_aside(best["images"])
            text = f"The best model so far was scored by another protocol; it is kept as {aside.name}."
            self.logger.log_event(self.images, "best", kept=aside.name, value=best["value"], text=text)
            best = None
        if best is None:
            better = math.isfinite(value)
        else:
            better = value < best["value"] if self.scorer.lower_is_better else value > best["value"]
        if better:
            self.state.save_best(value, scores, self.scorer.protocol)

    def _save(self) -> None:
        self.state.save(self.config.output.keep_last, self.config.output.keep_every)
