"""Estimate the cost of a run (parameters, FLOPs and memory) on meta tensors, without computing anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch.utils.flop_counter import FlopCounterMode

from stackflower import build
from stackflower.adversary import Adversary, frozen
from stackflower.config.schema import RunConfig
from stackflower.data.source import Source
from stackflower.objectives.base import Pairs
from stackflower.stages.base import Stage, Text, Words, count_parameters
from stackflower.text.base import TextEncoder
from stackflower.text.learned import LearnedEncoder
from stackflower.utils.devices import resolve_precision
from stackflower.utils.progress import format_duration

WORDS_PER_CAPTION = 20  # assumed


def plan(
    config: RunConfig, encoder: TextEncoder, source: Source, captions: Sequence[str], epoch: int
) -> dict[str, str]:
    """Estimate the cost of a training for a dry run.

    Args:
        config: configuration of the run.
        encoder: text encoder.
        source: data set.
        captions: training captions, to which a text encoder that is trained with the GAN is fitted.
        epoch: number of images per pass over the data.

    Returns:
        Texts by label.

    Raises:
        ConfigError: the data can't be prepared at the size that the training needs.
    """
    with torch.device("meta"):
        stage, _ = build.build_networks(config, encoder.dim, encoder.word_dim)
    build.compute_load_size(config, stage, source)
    costs, lines, train = count_costs(config, encoder.dim, encoder.word_dim), {}, config.train
    for name, value in costs.items():
        if name.endswith("_parameters"):
            lines[name.removesuffix("_parameters") + " parameters"] = f"{value:,}"
    if isinstance(encoder, LearnedEncoder) and encoder.learns:
        build.fit_encoder(config, encoder, captions)
        ranking = build.build_text_ranking(config, encoder, max(stage.resolutions))
        lines["text parameters"] = f"{sum(p.numel() for p in ranking.parameters()):,}"
    lines["images per epoch"] = f"{epoch:,}"
    if train.time_limit is None:
        lines["images to train on"] = f"{train.images or int((train.epochs or 0) * epoch):,}"
    else:
        lines["images to train on"] = f"as many as fit into {format_duration(train.time_limit)}"
    lines["FLOPs of a step"] = (
        f"{costs['step_flops']:.3g} ({train.batch_size} images, without penalties and the text encoder)"
    )
    lines["memory for training"] = f"about {costs['memory_bytes'] / 2**20:,.0f} MiB, plus the data and libraries"
    return lines


def _count_step(
    stage: Stage, adversaries: Mapping[str, Adversary], text_dim: int, batch: int, word_dim: int
) -> tuple[int, int, int, int]:
    """Count the FLOPs of a step on meta tensors.

    Args:
        stage: stage on the device "meta".
        adversaries: its adversaries, without penalties.
        text_dim: size T of the text embeddings.
        batch: number of images.
        word_dim: size D of the vectors of words; 0 if the text encoder has none.

    Returns:
        FLOPs of generating the images (forward), of the discriminators' step, and of the generator's step through the
        discriminators (forward and backward); and the number of values that are saved for the backward passes.
    """
    embedding, noise = torch.empty(batch, text_dim), torch.empty(batch, stage.noise_dim)
    words = None
    if build.use_words(stage, adversaries):
        mask = torch.ones(batch, WORDS_PER_CAPTION, dtype=torch.bool)
        words = Words(torch.empty(batch, WORDS_PER_CAPTION, word_dim), mask)
    saved = 0

    def count_saved(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal saved
        saved += tensor.numel()
        return tensor

    label = torch.zeros(batch, dtype=torch.int64)
    flops = []
    with torch.autograd.graph.saved_tensors_hooks(count_saved, lambda tensor: tensor):
        with FlopCounterMode(display=False) as counter:
            generated = stage(embedding, noise, words)
        flops.append(counter.get_total_flops())
        text = Text(embedding, generated.condition, label, words=words)
        fakes = [image.detach().requires_grad_() for image in generated.images]
        judged = []
        with FlopCounterMode(display=False) as counter:
            for adversary, image in zip(adversaries.values(), fakes, strict=True):
                negative = text if adversary.objective.mismatched else None
                pairs = Pairs(torch.empty_like(image), image, text, negative, text)
                terms, perceived = adversary(pairs, noise, 1)
                torch.stack(list(terms.values())).sum().backward()
                judged.append((adversary, pairs._replace(negative_text=None), perceived))
        flops.append(counter.get_total_flops())
        with FlopCounterMode(display=False) as counter:
            for adversary, pairs, perceived in judged:
                with frozen(adversary):
                    terms = adversary.generator_terms(pairs, noise, 1, perceived=perceived)
                    torch.stack(list(terms.values())).sum().backward()
        flops.append(counter.get_total_flops())
    return flops[0], flops[1], flops[2], saved


def count_costs(config: RunConfig, text_dim: int, word_dim: int = 0) -> dict[str, float]:
    """Count the parameters of each network and the FLOPs of a training step, and estimate its memory.

    The step runs on meta tensors, so nothing is computed. A multiplication and an addition are two FLOPs. Penalties are
    not counted, because they may apply only every so many steps.

    Args:
        config: configuration of the run.
        text_dim: size T of the text embeddings.
        word_dim: size D of the vectors of words; 0 if the text encoder has none.

    Returns:
        ``step_flops``, ``memory_bytes``, and the number of parameters of each network as ``NETWORK_parameters``.
    """
    with torch.device("meta"):
        stage, adversaries = build.build_networks(config, text_dim, word_dim)
        for adversary in adversaries.values():
            adversary.penalties.clear()
        small, large = (_count_step(stage, adversaries, text_dim, batch, word_dim) for batch in (2, 4))
    train, size = config.train, config.train.batch_size
    generate, discriminate, adversarial = (count / 2 * size for count in small[:3])
    # images are generated again for each critic step except the last, and for each part of a split batch
    repeated = train.critic_steps - (train.gradient_accumulation == 1)
    activations = (large[3] - small[3]) / 2  # per image; the difference leaves out weights, which are counted below
    weights = count_parameters(stage) + sum(sum(p.numel() for p in net.parameters()) for net in adversaries.values())
    bytes_each = 2 if resolve_precision(config.mixed_precision) != "no" else 4
    part = size // train.gradient_accumulation
    return {
        "generator_parameters": sum(p.numel() for p in stage.parameters()),
        **{f"{name}_parameters": sum(p.numel() for p in net.parameters()) for name, net in adversaries.items()},
        "step_flops": (train.critic_steps * discriminate) + adversarial + (3 + repeated) * generate,
        # weights, gradients, two moments and the average in float32, and saved activations in the working precision
        "memory_bytes": weights * 4 * 5 + activations * part * bytes_each,
    }
