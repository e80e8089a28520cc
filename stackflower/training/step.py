"""The training step, the only place where the adversarial losses are differentiated.

A step trains the text encoder (if it is trained with the GAN), generates images, trains the discriminators on real,
mismatched and fake pairs, and then trains the stage on the discriminators' scores. Nothing here waits for the device.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stackflower.adversary import Perceived, frozen
from stackflower.objectives.base import Pairs
from stackflower.stages.base import Generated, Text
from stackflower.training.batches.batch import Batch
from stackflower.training.networks import Networks

Terms = dict[str, Tensor]
AddTerms = Callable[[Mapping[str, Tensor], float], None]


class _Real(NamedTuple):
    """The real images and texts of a part of a batch, which both networks' steps use."""

    images: list[Tensor]  # at each of the stage's resolutions
    text: Text


class _Fake(NamedTuple):
    """The generated images of a part of a batch, and their texts."""

    generated: Generated
    text: Text


PerceivedBy = dict[str, Perceived]
"""By name of the discriminator, what it perceived in its step; the generator's step uses it for the same images."""


class TrainingStep:
    """A training step on one batch, or on several with `train.critic_steps`.

    Args:
        networks: networks of the training.
        add_terms: called after each backward pass with its weighted terms by name (``discriminator-64/real``,
            ``generator/kl``), and their share of the step.
    """

    def __init__(self, networks: Networks, add_terms: AddTerms):
        self.networks, self.add_terms = networks, add_terms
        self.accelerator, self.train = networks.accelerator, networks.config.train
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        share = self.train.batch_size // world
        self.share = slice(rank * share, (rank + 1) * share)
        self.latest: dict[str, tuple[Terms, Terms]] = {}
        self.waited = 0.0  # seconds that steps have waited for batches since this was last reset

    def __call__(self, images: int, step: int) -> int:
        """Train on the next batch.

        Afterwards, `latest` holds the discriminator's and the generator's terms against each adversary, averaged over
        the step.

        Args:
            images: number of images seen before the step.
            step: number of the step.

        Returns:
            The number of images seen after the step.
        """
        self.latest = {name: ({}, {}) for name in self.networks.adversaries}
        parts: list[Batch] = []
        reals: list[_Real] = []
        fake: _Fake | None = None
        perceived: PerceivedBy = {}
        for turn in range(self.train.critic_steps):
            began = time.perf_counter()
            batch = self.networks.batches(images, self.train.batch_size, self.share)
            self.waited += time.perf_counter() - began
            parts = batch.split(self.train.gradient_accumulation)
            if self.networks.text is not None and turn == 0:
                self._train_text(parts)
            # a single part is generated once for both steps; several parts are generated twice, to hold only one graph
            if len(parts) == 1 and turn == self.train.critic_steps - 1:
                with self.accelerator.autocast():
                    fake = self._generate(parts[0])
            with self.accelerator.autocast():
                reals = [self._prepare_real(part) for part in parts]
            perceived = self._train_discriminators(parts, reals, fake, step)
            images += self.train.batch_size
        self._train_stage(parts, reals, fake, perceived, step)
        return images

    def _prepare_real(self, batch: Batch) -> _Real:
        """Scale the real images, and make their texts."""
        (text,) = self._make_texts(batch.text)
        text = text._replace(label=batch.label, others=batch.others, words=batch.words)
        return _Real(self._scale_images(batch.images), text)

    def _make_texts(self, *embeddings: Tensor) -> list[Text]:
        """Make a text for the discriminators from each embedding, with its detached condition."""
        conditioning = self.networks.stage.conditioning
        with torch.no_grad():
            noise = embeddings[0].new_zeros(len(embeddings[0]), conditioning.noise_dim)
            return [Text(embedding, conditioning(embedding, noise).mean) for embedding in embeddings]

    def _generate(self, batch: Batch) -> _Fake:
        """Generate images for a part of a batch."""
        generated = self.networks.wrapped(batch.fake_text, batch.noise, batch.fake_words)
        text = Text(batch.fake_text, generated.condition, batch.fake_label, batch.others, batch.fake_words)
        return _Fake(generated, text)

    def _backward(self, terms: Terms, parts: int) -> None:
        """Add the gradients of the sum of terms, for one of `parts` equal parts of a batch."""
        self.add_terms(terms, 1 / parts)
        self.accelerator.backward(torch.stack([term.float() for term in terms.values()]).sum() / parts)

    def _average(self, latest: Terms, terms: Terms, count: int) -> None:
        """Add terms that are computed `count` times per step to their averages, in place."""
        for name, term in terms.items():
            latest[name] = latest.get(name, 0.0) + term.detach().float() / count

    def _no_sync(self, module: Any, last: bool) -> AbstractContextManager[Any]:
        """Return a context in which gradients are exchanged between processes only for the last part of a batch."""
        return nullcontext() if last else self.accelerator.no_sync(module)

    def _train_discriminators(
        self, parts: list[Batch], reals: list[_Real], fake: _Fake | None, step: int
    ) -> PerceivedBy:
        """Train the discriminators.

        Args:
            parts: parts of the batch.
            reals: real images and texts of each part.
            fake: generated images of a single part, with their graph; None: generate the images of each part, without
                a graph.
            step: number of the step.

        Returns:
            What the discriminators perceived; empty without `fake`.
        """
        perceived: PerceivedBy = {}
        count = len(parts) * self.train.critic_steps
        for position, (batch, real) in enumerate(zip(parts, reals, strict=True)):
            with ExitStack() as stack:
                for adversary in self.networks.wrapped_adversaries.values():
                    stack.enter_context(self._no_sync(adversary, position == len(parts) - 1))
                with self.accelerator.autocast():
                    terms, perceived = self._compute_discriminator_terms(batch, real, fake, step)
                for name, own_terms in terms.items():
                    self._average(self.latest[name][0], own_terms, count)
                named = {f"{name}/{key}": term for name, own in terms.items() for key, term in own.items()}
                self._backward(named, len(parts))
        self._update_weights("discriminator")
        return perceived

    def _compute_discriminator_terms(
        self, batch: Batch, real: _Real, fake: _Fake | None, step: int
    ) -> tuple[dict[str, Terms], PerceivedBy]:
        """Compute the terms of each discriminator, and what it perceived of `fake`."""
        again = fake is None  # the generator's step then generates its own images
        if fake is None:
            with torch.no_grad():
                fake = self._generate(batch)
        (negative,) = self._make_texts(batch.negative_text)
        negative = negative._replace(words=batch.negative_words)
        terms, perceived = dict[str, Terms](), PerceivedBy()
        for (name, adversary), real_image, fake_image in zip(
            self.networks.wrapped_adversaries.items(), real.images, fake.generated.images, strict=True
        ):
            mismatched = negative if self.networks.adversaries[name].objective.mismatched else None
            pairs = Pairs(real_image, fake_image, real.text, mismatched, fake.text, self.train.latents_per_caption)
            terms[name], of_adversary = adversary(pairs, batch.noise, step, batch.augmentation)
            if not again:
                perceived[name] = of_adversary
        return terms, perceived

    def _scale_images(self, images: Tensor) -> list[Tensor]:
        """Scale the real images to each of the stage's resolutions."""
        return [
            images if resolution == images.shape[-1] else torch.nn.functional.adaptive_avg_pool2d(images, resolution)
            for resolution in self.networks.stage.resolutions
        ]

    def _train_stage(
        self, parts: list[Batch], reals: list[_Real], fake: _Fake | None, perceived: PerceivedBy, step: int
    ) -> None:
        """Train the stage.

        Args:
            parts: parts of the batch.
            reals: real images and texts of each part.
            fake: generated images of a single part, with their graph; None: generate the images of each part.
            perceived: what the discriminators perceived of the same images; empty without `fake`.
            step: number of the step.
        """
        with ExitStack() as stack:
            for adversary in self.networks.adversaries.values():
                stack.enter_context(frozen(adversary))
            for position, (batch, real) in enumerate(zip(parts, reals, strict=True)):
                last = position == len(parts) - 1
                with self._no_sync(self.networks.wrapped, last), self.accelerator.autocast():
                    generated = self._generate(batch) if fake is None else fake
                    terms = self._compute_generator_terms(batch, real, generated, perceived, step)
                    for name, own_terms in terms.items():
                        self._average(self.latest[name][1], own_terms, len(parts))
                    self._backward(self._name_generator_terms(generated, terms), len(parts))
        self._update_weights("generator")

    def _compute_generator_terms(
        self, batch: Batch, real: _Real, fake: _Fake, perceived: PerceivedBy, step: int
    ) -> dict[str, Terms]:
        """Compute the terms of the generator against each discriminator."""
        terms = {}
        for (name, adversary), real_image, fake_image in zip(
            self.networks.adversaries.items(), real.images, fake.generated.images, strict=True
        ):
            pairs = Pairs(real_image, fake_image, real.text, None, fake.text, self.train.latents_per_caption)
            terms[name] = adversary.generator_terms(pairs, batch.noise, step, batch.augmentation, perceived.get(name))
        return terms

    def _name_generator_terms(self, fake: _Fake, terms: dict[str, Terms]) -> Terms:
        """Join the weighted terms of the stage itself and the terms against each discriminator, named as in the log."""
        weights = self.networks.stage.weights
        named = {f"generator/{key}": weights[key] * term for key, term in fake.generated.terms.items()}
        for name, own_terms in terms.items():
            resolution = name.rpartition("-")[2]
            named |= {f"generator/{key}-{resolution}": term for key, term in own_terms.items()}
        return named

    def _train_text(self, parts: list[Batch]) -> None:
        """Train the text encoder."""
        assert self.networks.text is not None
        tokens, trainer = self.networks.text.tokens, self.networks.wrapped_text
        for position, batch in enumerate(parts):
            with self._no_sync(trainer, position == len(parts) - 1), self.accelerator.autocast():
                terms = trainer(batch.images, tokens[batch.caption], tokens[batch.negative_caption], batch.label)
                self._backward({f"text/{key}": term for key, term in terms.items()}, len(parts))
        self._update_weights("text")

    def _update_weights(self, name: str) -> None:
        """Clip the gradients of a learner, step its optimizer and reset the gradients."""
        module, _, optimizer = self.networks.learners[name]
        limit = self.networks.config.optimizer[name].clip_norm
        if limit:
            self.accelerator.clip_grad_norm_([p for p in module.parameters() if p.requires_grad], limit)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
