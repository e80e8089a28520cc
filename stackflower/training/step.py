"""One training step: the only place where the adversarial losses are differentiated.

The text encoder is trained, where it learns too; images are generated; the discriminators are trained on real,
mismatched and fake pairs, then the stage on the discriminators' scores. Nothing here waits for the device.
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
    """What both steps take of the real part of a batch."""

    images: list[Tensor]  # at each of the stage's resolutions
    text: Text


class _Fake(NamedTuple):
    """What was generated for a batch, and its texts."""

    generated: Generated
    text: Text


SeenBy = dict[str, Perceived]
"""What each discriminator, by name, perceived in its step: the generator's step takes it for the same images."""


class TrainingStep:
    """Move the networks' weights by one batch, or with `critic_steps` by several.

    Args:
        networks: networks of the run.
        add_terms: called with the weighted terms of every backward pass, by name (``discriminator-64/real``,
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
        """Train on the batch after `images` images, step number `step`, and return the number of images seen then.

        Afterwards `latest` holds the terms of each adversary, the discriminator's and the generator's, averaged over
        the step.
        """
        self.latest = {name: ({}, {}) for name in self.networks.adversaries}
        parts: list[Batch] = []
        reals: list[_Real] = []
        fake: _Fake | None = None
        seen: SeenBy = {}
        for turn in range(self.train.critic_steps):
            began = time.perf_counter()
            batch = self.networks.batches(images, self.train.batch_size, self.share)
            self.waited += time.perf_counter() - began
            parts = batch.split(self.train.gradient_accumulation)
            if self.networks.text is not None and turn == 0:
                self._train_text(parts)
            # one part is generated once for both steps; several are generated again, so that only one graph is held
            if len(parts) == 1 and turn == self.train.critic_steps - 1:
                with self.accelerator.autocast():
                    fake = self._generate(parts[0])
            with self.accelerator.autocast():
                reals = [self._prepare_real(part) for part in parts]
            seen = self._train_discriminators(parts, reals, fake, step)
            images += self.train.batch_size
        self._train_stage(parts, reals, fake, seen, step)
        return images

    def _prepare_real(self, batch: Batch) -> _Real:
        (text,) = self._make_texts(batch.text)
        return _Real(self._scale_images(batch.images), text._replace(label=batch.label, others=batch.others))

    def _make_texts(self, *embeddings: Tensor) -> list[Text]:
        """Make texts for discriminators: each embedding with its condition, detached."""
        conditioning = self.networks.stage.conditioning
        with torch.no_grad():
            noise = embeddings[0].new_zeros(len(embeddings[0]), conditioning.noise_dim)
            return [Text(embedding, conditioning(embedding, noise).mean) for embedding in embeddings]

    def _generate(self, batch: Batch) -> _Fake:
        generated = self.networks.wrapped(batch.fake_text, batch.noise)
        return _Fake(generated, Text(batch.fake_text, generated.condition, batch.fake_label, batch.others))

    def _backward(self, terms: Terms, parts: int) -> None:
        """Compute the gradients of the sum of the terms of one of `parts` of a batch."""
        self.add_terms(terms, 1 / parts)
        self.accelerator.backward(torch.stack([term.float() for term in terms.values()]).sum() / parts)

    def _average(self, latest: Terms, terms: Terms, count: int) -> None:
        """Average terms that come `count` times in a step."""
        for name, term in terms.items():
            latest[name] = latest.get(name, 0.0) + term.detach().float() / count

    def _no_sync(self, module: Any, last: bool) -> AbstractContextManager[Any]:
        """Exchange gradients after the last part of a batch alone."""
        return nullcontext() if last else self.accelerator.no_sync(module)

    def _train_discriminators(self, parts: list[Batch], reals: list[_Real], fake: _Fake | None, step: int) -> SeenBy:
        """Train the discriminators.

        Args:
            parts: of the batch.
            reals: real images and texts of each part.
            fake: generated images of the only part, with their graph; None: generate those of each part without one.
            step: number of the step.

        Returns:
            What the discriminators perceived of `fake`'s part; empty without `fake`.
        """
        seen: SeenBy = {}
        count = len(parts) * self.train.critic_steps
        for position, (batch, real) in enumerate(zip(parts, reals, strict=True)):
            with ExitStack() as stack:
                for adversary in self.networks.wrapped_adversaries.values():
                    stack.enter_context(self._no_sync(adversary, position == len(parts) - 1))
                with self.accelerator.autocast():
                    terms, seen = self._compute_discriminator_terms(batch, real, fake, step)
                for name, terms_of_one in terms.items():
                    self._average(self.latest[name][0], terms_of_one, count)
                named = {f"{name}/{key}": term for name, each in terms.items() for key, term in each.items()}
                self._backward(named, len(parts))
        self._update_weights("discriminator")
        return seen

    def _compute_discriminator_terms(
        self, batch: Batch, real: _Real, fake: _Fake | None, step: int
    ) -> tuple[dict[str, Terms], SeenBy]:
        """Compute each discriminator's terms, and what it perceived of `fake`."""
        again = fake is None  # the generator's step generates its own images, and takes nothing from here
        if fake is None:
            with torch.no_grad():
                fake = self._generate(batch)
        (negative,) = self._make_texts(batch.negative_text)
        terms, seen = dict[str, Terms](), SeenBy()
        for (name, adversary), real_image, fake_image in zip(
            self.networks.wrapped_adversaries.items(), real.images, fake.generated.images, strict=True
        ):
            mismatched = negative if self.networks.adversaries[name].objective.mismatched else None
            pairs = Pairs(real_image, fake_image, real.text, mismatched, fake.text, self.train.latents_per_caption)
            terms[name], perceived = adversary(pairs, batch.noise, step, batch.augmentation)
            if not again:
                seen[name] = perceived
        return terms, seen

    def _scale_images(self, images: Tensor) -> list[Tensor]:
        """Scale the real images to each of the stage's resolutions."""
        return [
            images if resolution == images.shape[-1] else torch.nn.functional.adaptive_avg_pool2d(images, resolution)
            for resolution in self.networks.stage.resolutions
        ]

    def _train_stage(self, parts: list[Batch], reals: list[_Real], fake: _Fake | None, seen: SeenBy, step: int) -> None:
        """Train the stage.

        Args:
            parts: of the batch.
            reals: real images and texts of each part.
            fake: generated images of the only part, with their graph; None: generate those of each part.
            seen: what the discriminators' step perceived of the same images; empty without `fake`.
            step: number of the step.
        """
        with ExitStack() as stack:
            for adversary in self.networks.adversaries.values():
                stack.enter_context(frozen(adversary))
            for position, (batch, real) in enumerate(zip(parts, reals, strict=True)):
                last = position == len(parts) - 1
                with self._no_sync(self.networks.wrapped, last), self.accelerator.autocast():
                    shown = self._generate(batch) if fake is None else fake
                    terms = self._compute_generator_terms(batch, real, shown, seen, step)
                    for name, terms_of_one in terms.items():
                        self._average(self.latest[name][1], terms_of_one, len(parts))
                    self._backward(self._name_generator_terms(shown, terms), len(parts))
        self._update_weights("generator")

    def _compute_generator_terms(
        self, batch: Batch, real: _Real, fake: _Fake, seen: SeenBy, step: int
    ) -> dict[str, Terms]:
        """Compute the generator's terms against each discriminator."""
        terms = {}
        for (name, adversary), real_image, fake_image in zip(
            self.networks.adversaries.items(), real.images, fake.generated.images, strict=True
        ):
            pairs = Pairs(real_image, fake_image, real.text, None, fake.text, self.train.latents_per_caption)
            terms[name] = adversary.generator_terms(pairs, batch.noise, step, batch.augmentation, seen.get(name))
        return terms

    def _name_generator_terms(self, fake: _Fake, terms: dict[str, Terms]) -> Terms:
        """Join the stage's own terms, weighted, and those against each discriminator, by the names of the log."""
        weights = self.networks.stage.weights
        named = {f"generator/{key}": weights[key] * term for key, term in fake.generated.terms.items()}
        for name, terms_of_one in terms.items():
            resolution = name.rpartition("-")[2]
            named |= {f"generator/{key}-{resolution}": term for key, term in terms_of_one.items()}
        return named

    def _train_text(self, parts: list[Batch]) -> None:
        assert self.networks.text is not None
        tokens, trainer = self.networks.text.tokens, self.networks.wrapped_text
        for position, batch in enumerate(parts):
            with self._no_sync(trainer, position == len(parts) - 1), self.accelerator.autocast():
                terms = trainer(batch.images, tokens[batch.caption], tokens[batch.negative_caption], batch.label)
                self._backward({f"text/{key}": term for key, term in terms.items()}, len(parts))
        self._update_weights("text")

    def _update_weights(self, name: str) -> None:
        module, _, optimizer = self.networks.learners[name]
        limit = self.networks.config.optimizer[name].clip_norm
        if limit:
            self.accelerator.clip_grad_norm_([p for p in module.parameters() if p.requires_grad], limit)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
