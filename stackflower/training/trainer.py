"""The training loop: the only file that calls backward.

A step: rank captions, where the text encoder learns too; draw, judge real, mismatched and drawn pairs, step the
discriminators; judge what was drawn again, step the stage; move the averages. Everything counts images seen. Nothing here waits for the device but at the log interval.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from torch import Tensor

from stackflower.adversary import Side, frozen
from stackflower.build import build_networks, build_text_side
from stackflower.config.schema import RunConfig
from stackflower.data.sampling import Batch, Batches, DrawNoise
from stackflower.errors import TrainingFailed
from stackflower.objectives.base import Objective, Pairs
from stackflower.runs.checkpoint import (
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
from stackflower.stages.base import Generated, Generator, Text
from stackflower.stages.layers import synchronise_batch_norm
from stackflower.text.learned import LearnedEncoder
from stackflower.training.accelerator import keep_memory
from stackflower.training.ema import EMA
from stackflower.training.logger import Journal
from stackflower.training.schedules import Plateau, learning_rate
from stackflower.training.stopping import Stop

AGREE_EVERY = 10  # steps between the moments at which several processes agree to stop
ROLLBACKS = 3  # how often a run goes back to its last checkpoint before it gives up


class LearnedText(NamedTuple):
    """A text encoder that is trained with the GAN, and the training captions as it reads them."""

    encoder: LearnedEncoder
    tokens: Tensor  # (captions, L) int64

    @torch.no_grad()
    def embed(self, captions: Tensor) -> Tensor:
        """Embeddings (…, T) of captions by number (…,), as the encoder is now."""
        return self.encoder.embed(self.tokens[captions])


class Learner(NamedTuple):
    """What one optimizer moves."""

    module: torch.nn.Module  # bare: checkpoints hold it without wrappers
    optimizer: torch.optim.Optimizer
    prepared: Any  # the optimizer as Accelerate steps it


class Trainer:
    """Trains one run.

    Args:
        config: the run's configuration.
        run: its folder, locked by the caller.
        accelerator: device, precision and processes.
        make_batches: from `Stage.draw_noise` to the training batches on the accelerator's device.
        text_dim: T of the embeddings.
        journal: where progress is told.
        total: images to train on.
        text: the encoder to train beside, or None where captions were encoded once.
        lower_weights: the model of the run below, for a stage over another.
    """

    def __init__(
        self,
        config: RunConfig,
        run: RunFolder,
        accelerator: Accelerator,
        make_batches: Callable[[DrawNoise], Batches],
        text_dim: int,
        journal: Journal,
        total: int,
        text: LearnedText | None = None,
        lower_weights: Path | None = None,
    ):
        self.config, self.run, self.accelerator, self.journal, self.total = config, run, accelerator, journal, total
        self.device = accelerator.device
        if self.device.type == "cpu":
            keep_memory()
        torch.manual_seed(config.seed + accelerator.process_index)  # dropout: other numbers on every process
        stage, sides = build_networks(config, text_dim)
        if lower_weights is not None:
            assert stage.lower is not None
            load_weights(stage.lower, lower_weights)
        for network in (stage, *sides.values()):
            network.to(self.device).to(memory_format=torch.channels_last)
            synchronise_batch_norm(network, config.train.sync_batch_norm)
        self.stage, self.sides, self.text = stage, sides, text
        self.batches = make_batches(stage.draw_noise)
        if type(stage.generator).remember is not Generator.remember:
            first = self.batches(0, config.train.batch_size)
            stage.remember(first.drawn, first.noise)
        self.ema = EMA(stage, config.train.ema_half_life)
        self.images = self.step = self.checkpoints = self.rollbacks = 0
        self.rate_scale = 1.0
        self.latest: dict[str, Tensor] = {}  # this step's terms, for objectives with state
        # wrapping comes last: checkpoints hold the bare networks
        self.wrapped = accelerator.prepare(stage)
        self.wrapped_sides: dict[str, Side] = {name: accelerator.prepare(side) for name, side in sides.items()}
        self.learners: dict[str, Learner] = {}
        self._learn("generator", stage)
        self._learn("discriminator", torch.nn.ModuleDict(sides))
        if text is not None:
            text_side = build_text_side(config, text.encoder, max(stage.resolutions)).to(self.device)
            self.wrapped_text = accelerator.prepare(text_side)
            self.text_ema = EMA(text.encoder.network, config.train.ema_half_life)
            self.averaged_encoder = copy.copy(text.encoder)  # the same tokens, the averaged weights
            self.averaged_encoder.network = self.text_ema.module
            self._learn("text", text_side)
        self.plateaus = {name: Plateau() for name in self.learners}
        rank, world = accelerator.process_index, accelerator.num_processes
        share = config.train.batch_size // world
        self.share = slice(rank * share, (rank + 1) * share)

    def _learn(self, name: str, module: torch.nn.Module) -> None:
        optimizer = self._optimizer(name, module)
        self.learners[name] = Learner(module, optimizer, self.accelerator.prepare(optimizer))

    def _optimizer(self, side: str, module: torch.nn.Module) -> torch.optim.Optimizer:
        settings = self.config.optimizer[side]
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        if settings.name == "rmsprop":
            return torch.optim.RMSprop(parameters, lr=settings.lr, alpha=settings.beta2, momentum=settings.beta1)
        if settings.name == "sgd":
            return torch.optim.SGD(parameters, lr=settings.lr, momentum=settings.beta1, fused=True)
        return torch.optim.Adam(parameters, lr=settings.lr, betas=(settings.beta1, settings.beta2), fused=True)

    # ---- one step

    def _texts(self, *embeddings: Tensor) -> list[Text]:
        """Texts for discriminators: each embedding with its condition, detached."""
        with torch.no_grad():
            noise = embeddings[0].new_zeros(len(embeddings[0]), self.stage.conditioning.noise_dim)
            return [Text(embedding, self.stage.conditioning(embedding, noise).mean) for embedding in embeddings]

    def _draw(self, batch: Batch) -> tuple[Generated, Text]:
        drawn = self.wrapped(batch.drawn, batch.noise)
        return drawn, Text(batch.drawn, drawn.condition, batch.drawn_label)

    def _backward(self, terms: dict[str, Tensor], parts: int, turns: int = 1) -> None:
        """Gradients of the terms' sum; `turns` is how often these terms come in a step."""
        self.journal.add(terms, 1 / parts)
        for name, term in terms.items():
            self.latest[name] = self.latest.get(name, 0.0) + term.detach().float() / (parts * turns)
        self.accelerator.backward(torch.stack([term.float() for term in terms.values()]).sum() / parts)

    def _waiting(self, wrapped: Any, last: bool) -> Any:
        """Hold back the exchange of gradients until the last part of a batch."""
        return nullcontext() if last else self.accelerator.no_sync(wrapped)

    def _discriminator_step(self, parts: list[Batch], drawings: list[tuple[Generated, Text]] | None) -> None:
        for position, batch in enumerate(parts):
            with ExitStack() as stack:
                for side in self.wrapped_sides.values():
                    stack.enter_context(self._waiting(side, position == len(parts) - 1))
                with self.accelerator.autocast():
                    if drawings is None:
                        with torch.no_grad():
                            drawn, text = self._draw(batch)
                    else:
                        drawn, text = drawings[position]
                    shown, wrong = self._texts(batch.embeddings, batch.wrong)
                    shown = shown._replace(label=batch.label)
                    terms: dict[str, Tensor] = {}
                    for (name, side), real, fake in zip(
                        self.wrapped_sides.items(), self._pyramid(batch.images), drawn.images, strict=True
                    ):
                        wanted = wrong if self.sides[name].objective.mismatched else None
                        pairs = Pairs(real, fake.detach(), shown, wanted, text)
                        found = side(pairs, batch.noise, self.step)
                        terms |= {f"{name}/{key}": value for key, value in found.items()}
                self._backward(terms, len(parts), self.config.train.critic_steps)
        self._apply("discriminator")

    def _pyramid(self, images: Tensor) -> list[Tensor]:
        """The real images at each of the stage's resolutions."""
        return [
            images if resolution == images.shape[-1] else torch.nn.functional.adaptive_avg_pool2d(images, resolution)
            for resolution in self.stage.resolutions
        ]

    def _generator_step(self, parts: list[Batch], drawings: list[tuple[Generated, Text]] | None) -> None:
        with ExitStack() as stack:
            for side in self.sides.values():
                stack.enter_context(frozen(side))
            for position, batch in enumerate(parts):
                with self._waiting(self.wrapped, position == len(parts) - 1), self.accelerator.autocast():
                    drawn, text = self._draw(batch) if drawings is None else drawings[position]
                    weights = self.stage.weights
                    terms = {f"generator/{key}": weights[key] * value for key, value in drawn.terms.items()}
                    for (name, side), fake in zip(self.sides.items(), drawn.images, strict=True):
                        found = side.generator_terms(fake, text, batch.noise, self.step)
                        terms |= {f"generator/{key}-{name.rpartition('-')[2]}": value for key, value in found.items()}
                    self._backward(terms, len(parts))
        self._apply("generator")

    def _text_step(self, parts: list[Batch]) -> None:
        assert self.text is not None
        for position, batch in enumerate(parts):
            last = position == len(parts) - 1
            with self._waiting(self.wrapped_text, last), self.accelerator.autocast():
                tokens = self.text.tokens
                found = self.wrapped_text(batch.images, tokens[batch.caption], tokens[batch.wrong_caption], batch.label)
                self._backward({f"text/{key}": value for key, value in found.items()}, len(parts))
        self._apply("text")

    def _apply(self, name: str) -> None:
        module, _, optimizer = self.learners[name]
        limit = self.config.optimizer[name].clip_norm
        if limit:
            self.accelerator.clip_grad_norm_([p for p in module.parameters() if p.requires_grad], limit)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def _rates(self) -> None:
        for name, learner in self.learners.items():
            rate = learning_rate(self.config.optimizer[name], self.images, self.total, len(self.batches))
            for group in learner.prepared.param_groups:
                group["lr"] = rate * self.rate_scale * self.plateaus[name].scale

    def _after_step(self) -> None:
        """Let objectives with state of their own move it, by the step's terms averaged over processes."""
        for name, side in self.sides.items():
            if type(side.objective).after_step is not Objective.after_step:
                own = {key: value for key, value in self.latest.items() if self._belongs(key, name)}
                mean = self.accelerator.reduce(torch.stack(list(own.values())), "mean")
                suffix = f"-{name.rpartition('-')[2]}"
                measured = {
                    key.partition("/")[2].removesuffix(suffix): value for key, value in zip(own, mean, strict=True)
                }
                told = side.objective.after_step(measured)
                self.journal.add({f"{name}/{k}": v for k, v in told.items()})
                for plateau in self.plateaus.values() if "convergence" in told else ():
                    plateau.note(told["convergence"])
        self.latest = {}

    def _follow(self, before: int) -> None:
        """Halve learning rates whose convergence measure has stopped falling over a window of images."""
        for name, plateau in self.plateaus.items():
            window = self.config.optimizer[name].plateau * len(self.batches)
            if window and before // window != self.images // window and plateau.close():
                self.journal.event(self.images, "plateau", side=name, scale=plateau.scale)

    def _after_epoch(self) -> None:
        for name, side in self.sides.items():
            self.journal.add({f"{name}/{key}": value for key, value in side.objective.after_epoch().items()})

    @staticmethod
    def _belongs(term: str, side: str) -> bool:
        """Whether a term is of a side: ``discriminator-64/real`` and ``generator/fool-64`` are of discriminator-64."""
        return term.startswith(f"{side}/") or term.endswith(f"-{side.rpartition('-')[2]}")

    def train_step(self) -> None:
        """Train on the next batch (with `critic_steps`, batches)."""
        train, before = self.config.train, self.images
        self._rates()
        parts: list[Batch] = []
        drawings: list[tuple[Generated, Text]] | None = None
        for turn in range(train.critic_steps):
            batch = self.batches(self.images, train.batch_size, self.share)
            parts = batch.split(train.gradient_accumulation)
            if self.text is not None and turn == 0:
                self._text_step(parts)
            # drawn once for both sides where the graph fits; else anew, so that only one part's graph is held
            if len(parts) == 1 and turn == train.critic_steps - 1:
                with self.accelerator.autocast():
                    drawings = [self._draw(parts[0])]
            self._discriminator_step(parts, drawings)
            self.images += train.batch_size
        self._generator_step(parts, drawings)
        self._after_step()
        if before // len(self.batches) != self.images // len(self.batches):
            self._after_epoch()
        self._follow(before)
        self.ema.update(self.stage, self.images, self.images - before)
        if self.text is not None:
            self.text_ema.update(self.text.encoder.network, self.images, self.images - before)
        self.step += 1

    # ---- the run

    def train(self, stop: Stop) -> str | None:
        """Train to the end or until asked to stop; why it stopped, or None. TrainingFailed if it can't go on."""
        output = self.config.output
        grids = output.sample_every or self.total / 10
        saves = output.checkpoint_every or self.total / 10
        if not self.run.whole_checkpoints():
            self.save()
        self.journal.start(self.images, self.total)
        while self.images < self.total:
            before = self.images
            self.train_step()
            done = self.images >= self.total
            due = self.step % output.log_every == 0
            stopping = self.agreed(stop, due or self.step % AGREE_EVERY == 0)
            save = done or stopping or before // saves != self.images // saves
            if due or save:
                bad = self._report(save)
                if bad:
                    self._roll_back(bad)
                    continue
            if before // grids != self.images // grids or done:
                self._grid()
            if save:
                self.save()
            if stopping and not done:
                return stop.reason or "another process's signal"
        return None

    def agreed(self, stop: Stop, now: bool = True) -> bool:
        """Whether any process was asked to stop; several processes agree when it is time to (`now`)."""
        if self.accelerator.num_processes == 1:
            return stop.asked()
        if not now:
            return False
        asked = torch.tensor([float(stop.asked())], device=self.device)
        return bool(self.accelerator.reduce(asked, "sum").item())

    def _report(self, saving: bool) -> list[str]:
        """Log the measures since the last report; the names of those that are not finite."""
        measures = self.journal.measures(self.accelerator)
        bad = [name for name, value in measures.items() if not math.isfinite(value)]
        if saving:  # the last step's losses may be finite and what it made of the weights not
            norms = {name: torch._foreach_norm(list(one.module.parameters())) for name, one in self.learners.items()}
            bad += [f"{name}'s weights" for name, norm in norms.items() if not torch.stack(norm).isfinite().all()]
        if not bad:
            rates = {f"lr/{name}": one.prepared.param_groups[0]["lr"] for name, one in self.learners.items()}
            self.journal.log(self.images, self.step, {**measures, **rates})
        return bad

    def _roll_back(self, bad: list[str]) -> None:
        """Back to the last whole checkpoint with half the learning rate, at most three times."""
        self.rollbacks += 1
        rollbacks, scale = self.rollbacks, self.rate_scale / 2
        images = self.images
        whole = self.run.whole_checkpoints()
        if rollbacks > ROLLBACKS or not whole:
            self.journal.event(images, "failed", terms=bad)
            raise TrainingFailed(
                f"The loss term {', '.join(bad)} is not finite after {images:,} images, {ROLLBACKS} returns to the last "
                f"checkpoint and a learning rate of {self.rate_scale:g} of the given one. The last finite checkpoint is "
                f"kept in {self.run}. A lower --set optimizer.generator.lr (and discriminator) or a penalty such as "
                "--penalty r1 usually helps."
            )
        self.restore(whole[-1])
        self.rollbacks, self.rate_scale = rollbacks, scale
        if self.accelerator.is_main_process:  # so that a run killed now goes on with what it learned from this
            write_state(whole[-1], {**read_state(whole[-1]), "rollbacks": rollbacks, "rate_scale": scale})
            self.journal.start(self.images, self.total)
        self.journal.event(
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
                encoder = None if self.text is None else self.averaged_encoder
                self.journal.grid(self.ema.module, self.images, encoder)

    def save(self) -> None:
        """Write a checkpoint and, as the run's model, the averaged stage."""
        writer = CheckpointWriter(self.run, self.images)
        if self.accelerator.is_main_process:
            self.checkpoints += 1
            writer.tensors("generator", self.stage.state_dict())
            writer.tensors("generator-ema", self.ema.module.state_dict())
            for name, side in self.sides.items():
                writer.tensors(name, side.state_dict())
            if self.text is not None:
                writer.tensors("text", self.learners["text"].module.state_dict())
                writer.tensors("text-ema", self.text_ema.module.state_dict())
            for name, learner in self.learners.items():
                writer.tensors(f"optimizer-{name}", optimizer_state(learner.optimizer, learner.module))
        self.accelerator.wait_for_everyone()
        writer.tensors(f"rng-{self.accelerator.process_index}", rng_state(self.device))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            writer.publish(
                {
                    "images": self.images,
                    "step": self.step,
                    "number": self.checkpoints,
                    "rollbacks": self.rollbacks,
                    "rate_scale": self.rate_scale,
                    "plateaus": {name: plateau.plain() for name, plateau in self.plateaus.items()},
                    "processes": self.accelerator.num_processes,
                    "scaler": scaler.state_dict() if scaler is not None else None,
                }
            )
            self._save_model(f"The checkpoint of {self.images:,} images is whole")
            self.run.prune(self.config.output.keep_last, self.config.output.keep_every)
        self.accelerator.wait_for_everyone()

    def _save_model(self, kept: str) -> None:
        """Write the averaged stage (and encoder) as the run's model. TrainingFailed, saying what is `kept`, where it can't be."""
        try:
            save_weights(self.ema.module, self.run.weights_file)
            if self.text is not None:
                self.averaged_encoder.save(self.run.text_folder)
        except (OSError, SafetensorError) as error:
            raise TrainingFailed(
                f"{self.run.weights_file} can't be written: {error}. {kept}. Make room and type: "
                f"stackflower train --resume {self.run}"
            ) from error

    def restore(self, path: Any) -> None:
        """Put everything back as it was when the checkpoint at `path` was written."""
        state = read_state(path)
        otherwise = f"Delete {path} to resume from the checkpoint before."
        load_weights(self.stage, path / "generator.safetensors", otherwise)
        load_weights(self.ema.module, path / "generator-ema.safetensors", otherwise)
        for name, side in self.sides.items():
            load_weights(side, path / f"{name}.safetensors", otherwise)
        if self.text is not None:
            load_weights(self.learners["text"].module, path / "text.safetensors", otherwise)
            load_weights(self.text_ema.module, path / "text-ema.safetensors", otherwise)
        for name, learner in self.learners.items():
            restore_optimizer(learner.optimizer, learner.module, read_tensors(path, f"optimizer-{name}"))
        rng = path / f"rng-{self.accelerator.process_index}.safetensors"
        if self.accelerator.process_index < state["processes"]:  # new processes keep their own
            restore_rng(read_tensors(path, rng.stem), self.device)
        if state["scaler"] and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.images, self.step, self.checkpoints = state["images"], state["step"], state["number"]
        self.rollbacks, self.rate_scale = state["rollbacks"], state["rate_scale"]
        self.plateaus = {name: Plateau(**values) for name, values in state.get("plateaus", {}).items()} or self.plateaus
        self.journal.forget()
        if self.accelerator.is_main_process:  # a kill may have come between this checkpoint and the run's model
            self._save_model(f"{path.name} is untouched")
