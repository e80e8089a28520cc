"""The networks of a training (stage, adversaries and text encoder) with their optimizers, averages and wrappers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from stackflower.adversary import Adversary
from stackflower.build import build_networks, build_text_ranking, use_words
from stackflower.config.schema import Optimizer, RunConfig
from stackflower.models.start import load_start
from stackflower.runs.checkpoint import load_previous
from stackflower.stages.layers import synchronise_batch_norm
from stackflower.text.learned import LearnedEncoder
from stackflower.training.batches.assembly import Batches
from stackflower.training.batches.batch import Drawing, build_drawing
from stackflower.training.ema import EMA


class LearnedText(NamedTuple):
    """A text encoder that is trained with the GAN, and the tokens of the training captions.

    Args:
        encoder: text encoder.
        tokens: tokens of the captions ``(captions, L)``, int64.
    """

    encoder: LearnedEncoder
    tokens: Tensor

    @torch.no_grad()
    def embed(self, captions: Tensor) -> Tensor:
        """Return embeddings ``(…, T)`` of the captions with the numbers ``(…)``, using the current weights."""
        return self.encoder.embed(self.tokens[captions])


class Learner(NamedTuple):
    """A network and its optimizer.

    Args:
        module: the network without wrappers, as checkpoints hold it.
        optimizer: its optimizer.
        prepared: the optimizer wrapped by Accelerate.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    prepared: Any


def build_optimizer(settings: Optimizer, module: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer of a network's trainable parameters."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if settings.name == "rmsprop":
        return torch.optim.RMSprop(parameters, lr=settings.lr, alpha=settings.beta2, momentum=settings.beta1)
    if settings.name == "sgd":
        return torch.optim.SGD(parameters, lr=settings.lr, momentum=settings.beta1, fused=True)
    return torch.optim.Adam(parameters, lr=settings.lr, betas=(settings.beta1, settings.beta2), fused=True)


class Networks:
    """The networks of a training, built from the configuration on the accelerator's device.

    Args:
        config: the run's configuration.
        accelerator: device, precision and processes.
        make_batches: function that builds the training batches for a `Drawing`.
        text_dim: size T of the embeddings.
        text: text encoder to train with the GAN; None if captions were encoded once.
        previous_weights: weights of the earlier stages, the latest first.
        starts: whether to load the weights of `RunConfig.start_from`, in a new run.
        word_dim: size D of the vectors of words; 0 if the text encoder has none.
    """

    def __init__(
        self,
        config: RunConfig,
        accelerator: Accelerator,
        make_batches: Callable[[Drawing], Batches],
        text_dim: int,
        text: LearnedText | None = None,
        previous_weights: Sequence[Path] = (),
        starts: bool = False,
        word_dim: int = 0,
    ):
        self.config, self.accelerator, self.text = config, accelerator, text
        torch.manual_seed(config.seed + accelerator.process_index)  # dropout must differ between processes
        stage, adversaries = build_networks(config, text_dim, word_dim)
        load_previous(stage, previous_weights)
        if starts and config.start_from is not None:
            load_start(config.start_from, stage)
        for network in (stage, *adversaries.values()):
            network.to(accelerator.device).to(memory_format=torch.channels_last)
            synchronise_batch_norm(network, config.train.sync_batch_norm)
        self.stage, self.adversaries = stage, adversaries
        draws = max(adversary.augmentation.dim for adversary in adversaries.values())
        words = use_words(stage, adversaries)
        self.batches = make_batches(build_drawing(config, max(stage.resolutions), stage.draw_noise, draws, words))
        if stage.generator.reference_batch is not None:
            first = self.batches(0, config.train.batch_size)
            stage.set_reference_batch(first.fake_text, first.noise)
        self.ema = EMA(stage, config.train.ema_half_life)
        if config.train.compile:  # after copying the average, which is not compiled
            stage.compile()
            for adversary in adversaries.values():
                adversary.compile_networks()
        # last, because checkpoints hold the networks without wrappers
        self.wrapped = accelerator.prepare(stage)
        self.wrapped_adversaries: dict[str, Adversary] = {
            name: accelerator.prepare(adversary) for name, adversary in adversaries.items()
        }
        self.learners: dict[str, Learner] = {}
        self._add_learner("generator", stage)
        self._add_learner("discriminator", nn.ModuleDict(adversaries))
        if text is not None:
            self._add_text_learner(text)

    def _add_text_learner(self, text: LearnedText) -> None:
        trainer = build_text_ranking(self.config, text.encoder, max(self.stage.resolutions))
        trainer.to(self.accelerator.device)
        self.wrapped_text = self.accelerator.prepare(trainer)
        self.text_ema = EMA(text.encoder.network, self.config.train.ema_half_life)
        self.averaged_encoder = copy.copy(text.encoder)  # shares the vocabulary, has the averaged weights
        self.averaged_encoder.network = self.text_ema.module
        self._add_learner("text", trainer)

    def _add_learner(self, name: str, module: nn.Module) -> None:
        optimizer = build_optimizer(self.config.optimizer[name], module)
        self.learners[name] = Learner(module, optimizer, self.accelerator.prepare(optimizer))

    def modules(self) -> dict[str, nn.Module]:
        """Return the networks of a checkpoint by file name, without suffix."""
        text = {} if self.text is None else {"text": self.learners["text"].module, "text-ema": self.text_ema.module}
        return {"generator": self.stage, "generator-ema": self.ema.module, **self.adversaries, **text}

    def update_averages(self, images: int, new: int) -> None:
        """Update the averages of the weights.

        Args:
            images: number of training images so far.
            new: number of images since the last update.
        """
        self.ema.update(self.stage, images, new)
        if self.text is not None:
            self.text_ema.update(self.text.encoder.network, images, new)

    def find_non_finite(self) -> list[str]:
        """Return the networks with non-finite weights, as in "generator's weights". Waits for the device."""
        norms = {
            name: torch._foreach_norm(list(learner.module.parameters())) for name, learner in self.learners.items()
        }
        return [f"{name}'s weights" for name, norm in norms.items() if not torch.stack(norm).isfinite().all()]
