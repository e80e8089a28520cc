"""One training step: the only place where the adversarial losses are differentiated.

The text encoder is trained, where it learns too; images are generated; the discriminators are trained on real, mismatched and fake
pairs, then the stage on the discriminators' scores. Nothing here waits for the device.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stackflower.adversary import frozen
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


class TrainingStep:
    """Moves the networks' weights by one batch, or with `critic_steps` by several.

    Args:
        networks: of the run.
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
        self.waited = 0.0  # seconds that steps were waiting for their batches, since it was last read

    def __call__(self, images: int, step: int) -> int:
        """Train on the batch after `images` images, step number `step`; the images seen then.

        Afterwards `latest` holds the terms of each adversary, the discriminator's and the generator's, averaged over the step.
        """
        self.latest = {name: ({}, {}) for name in self.networks.adversaries}
        parts: list[Batch] = []
        reals: list[_Real] = []
        generated: list[tuple[Generated, Text]] | None = None
        for turn in range(self.train.critic_steps):
            began = time.perf_counter()
            batch = self.networks.batches(images, self.train.batch_size, self.share)
            self.waited += time.perf_counter() - began
            parts = batch.split(self.train.gradient_accumulation)
            if self.networks.text is not None and turn == 0:
                self._text_step(parts)
            # generated once for both steps where the graph fits; else anew, so that only one part's graph is held
            if len(parts) == 1 and turn == self.train.critic_steps - 1:
                with self.accelerator.autocast():
                    generated = [self._generate(parts[0])]
            with self.accelerator.autocast():
                reals = [self._real(part) for part in parts]
            self._discriminator_step(parts, reals, generated, step)
            images += self.train.batch_size
        self._generator_step(parts, reals, generated, step)
        return images

    def _real(self, batch: Batch) -> _Real:
        (text,) = self._texts(batch.text)
        return _Real(self._pyramid(batch.images), text._replace(label=batch.label, others=batch.others))

    def _texts(self, *embeddings: Tensor) -> list[Text]:
        """Texts for discriminators: each embedding with its condition, detached."""
        conditioning = self.networks.stage.conditioning
        with torch.no_grad():
            noise = embeddings[0].new_zeros(len(embeddings[0]), conditioning.noise_dim)
            return [Text(embedding, conditioning(embedding, noise).mean) for embedding in embeddings]

    def _generate(self, batch: Batch) -> tuple[Generated, Text]:
        generated = self.networks.wrapped(batch.fake_text, batch.noise)
        return generated, Text(batch.fake_text, generated.condition, batch.fake_label, batch.others)

    def _backward(self, terms: Terms, parts: int) -> None:
        """Gradients of the sum of the terms of one of `parts` of a batch."""
        self.add_terms(terms, 1 / parts)
        self.accelerator.backward(torch.stack([term.float() for term in terms.values()]).sum() / parts)

    def _keep(self, latest: Terms, found: Terms, count: int) -> None:
        """Average terms that come `count` times in a step."""
        for name, term in found.items():
            latest[name] = latest.get(name, 0.0) + term.detach().float() / count

    def _no_sync(self, module: Any, last: bool) -> AbstractContextManager[Any]:
        """Gradients are exchanged after the last part of a batch."""
        return nullcontext() if last else self.accelerator.no_sync(module)

    def _discriminator_step(
        self, parts: list[Batch], reals: list[_Real], generated: list[tuple[Generated, Text]] | None, step: int
    ) -> None:
        for position, (batch, real) in enumerate(zip(parts, reals, strict=True)):
            last = position == len(parts) - 1
            with ExitStack() as stack:
                for adversary in self.networks.wrapped_adversaries.values():
                    stack.enter_context(self._no_sync(adversary, last))
                with self.accelerator.autocast():
                    terms = self._discriminator_terms(
                        batch, real, None if generated is None else generated[position], step
                    )
                count = len(parts) * self.train.critic_steps
                for name, found in terms.items():
                    self._keep(self.latest[name][0], found, count)
                named = {f"{name}/{key}": term for name, found in terms.items() for key, term in found.items()}
                self._backward(named, len(parts))
        self._apply("discriminator")

    def _discriminator_terms(
        self, batch: Batch, real: _Real, generated: tuple[Generated, Text] | None, step: int
    ) -> dict[str, Terms]:
        if generated is None:
            with torch.no_grad():
                generated = self._generate(batch)
        fakes, fake_text = generated
        (negative,) = self._texts(batch.negative_text)
        terms = {}
        for (name, adversary), image, fake in zip(
            self.networks.wrapped_adversaries.items(), real.images, fakes.images, strict=True
        ):
            used = negative if self.networks.adversaries[name].objective.mismatched else None
            pairs = Pairs(image, fake, real.text, used, fake_text, self.train.latents_per_caption)
            terms[name] = adversary(pairs, batch.noise, step, batch.augmentation)
        return terms

    def _pyramid(self, images: Tensor) -> list[Tensor]:
        """The real images at each of the stage's resolutions."""
        return [
            images if resolution == images.shape[-1] else torch.nn.functional.adaptive_avg_pool2d(images, resolution)
            for resolution in self.networks.stage.resolutions
        ]

    def _generator_step(
        self, parts: list[Batch], reals: list[_Real], generated: list[tuple[Generated, Text]] | None, step: int
    ) -> None:
        networks = self.networks
        with ExitStack() as stack:
            for adversary in networks.adversaries.values():
                stack.enter_context(frozen(adversary))
            for position, (batch, real) in enumerate(zip(parts, reals, strict=True)):
                with self._no_sync(networks.wrapped, position == len(parts) - 1), self.accelerator.autocast():
                    fakes, text = self._generate(batch) if generated is None else generated[position]
                    terms = {
                        f"generator/{key}": networks.stage.weights[key] * term for key, term in fakes.terms.items()
                    }
                    for (name, adversary), image, fake in zip(
                        networks.adversaries.items(), real.images, fakes.images, strict=True
                    ):
                        pairs = Pairs(image, fake, real.text, None, text, self.train.latents_per_caption)
                        found = adversary.generator_terms(pairs, batch.noise, step, batch.augmentation)
                        self._keep(self.latest[name][1], found, len(parts))
                        resolution = name.rpartition("-")[2]
                        terms |= {f"generator/{key}-{resolution}": term for key, term in found.items()}
                    self._backward(terms, len(parts))
        self._apply("generator")

    def _text_step(self, parts: list[Batch]) -> None:
        assert self.networks.text is not None
        tokens, trainer = self.networks.text.tokens, self.networks.wrapped_text
        for position, batch in enumerate(parts):
            with self._no_sync(trainer, position == len(parts) - 1), self.accelerator.autocast():
                found = trainer(batch.images, tokens[batch.caption], tokens[batch.negative_caption], batch.label)
                self._backward({f"text/{key}": term for key, term in found.items()}, len(parts))
        self._apply("text")

    def _apply(self, name: str) -> None:
        module, _, optimizer = self.networks.learners[name]
        limit = self.networks.config.optimizer[name].clip_norm
        if limit:
            self.accelerator.clip_grad_norm_([p for p in module.parameters() if p.requires_grad], limit)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
