"""Count what a run will cost, parameters, FLOPs and memory, on meta tensors, without computing anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch.utils.flop_counter import FlopCounterMode

from stackflower import build
from stackflower.adversary import Adversary, frozen
from stackflower.config.schema import RunConfig
from stackflower.data.source import Source
from stackflower.objectives.base import Pairs
from stackflower.stages.base import Stage, Text, count_parameters
from stackflower.text.base import TextEncoder
from stackflower.text.learned import LearnedEncoder
from stackflower.utils.devices import resolve_precision
from stackflower.utils.progress import format_duration


def plan(
    config: RunConfig, encoder: TextEncoder, source: Source, captions: Sequence[str], epoch: int
) -> dict[str, str]:
    """Return what a dry run prints, label to value; refuse what the training would refuse."""
    with torch.device("meta"):
        stage, _ = build.build_networks(config, encoder.dim)
    build.compute_load_size(config, stage, source)
    costs, lines, train = count_costs(config, encoder.dim), {}, config.train
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
        f"{costs['step_flops']:.3g} ({train.batch_size} images, without penalties and a text encoder's)"
    )
    lines["memory for training"] = f"about {costs['memory_bytes'] / 2**20:,.0f} MiB, and the data and libraries"
    return lines


def _count_step(
    stage: Stage, adversaries: Mapping[str, Adversary], text_dim: int, batch: int
) -> tuple[int, int, int, int]:
    """Count the FLOPs of a step on meta tensors.

    Returns:
        FLOPs of generating (forward), of the discriminators' step, of judging for the generator's step (both ways), and
        how many numbers are saved for the backward passes.
    """
    embedding, noise = torch.empty(batch, text_dim), torch.empty(batch, stage.noise_dim)
    saved = 0

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal saved
        saved += tensor.numel()
        return tensor

    label = torch.zeros(batch, dtype=torch.int64)
    flops = []
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with FlopCounterMode(display=False) as counter:
            generated = stage(embedding, noise)
        flops.append(counter.get_total_flops())
        text = Text(embedding, generated.condition, label)
        drawn = [image.detach().requires_grad_() for image in generated.images]
        seen = []
        with FlopCounterMode(display=False) as counter:
            for adversary, image in zip(adversaries.values(), drawn, strict=True):
                negative = text if adversary.objective.mismatched else None
                pairs = Pairs(torch.empty_like(image), image, text, negative, text)
                terms, perceived = adversary(pairs, noise, 1)
                torch.stack(list(terms.values())).sum().backward()
                seen.append((adversary, pairs._replace(negative_text=None), perceived))
        flops.append(counter.get_total_flops())
        with FlopCounterMode(display=False) as counter:
            for adversary, pairs, perceived in seen:
                with frozen(adversary):
                    terms = adversary.generator_terms(pairs, noise, 1, perceived=perceived)
                    torch.stack(list(terms.values())).sum().backward()
        flops.append(counter.get_total_flops())
    return flops[0], flops[1], flops[2], saved


def count_costs(config: RunConfig, text_dim: int) -> dict[str, float]:
    """Count the parameters of each network and the FLOPs of a training step, and estimate its memory in bytes.

    The step is counted on meta tensors: nothing is computed. A multiplication and an addition are two FLOPs. Penalties,
    which may come only every so many steps, are not counted.
    """
    with torch.device("meta"):
        stage, adversaries = build.build_networks(config, text_dim)
        for adversary in adversaries.values():
            adversary.penalties.clear()
        small, large = (_count_step(stage, adversaries, text_dim, batch) for batch in (2, 4))
    train, size = config.train, config.train.batch_size
    generate, discriminate, adversarial = (count / 2 * size for count in small[:3])
    # fakes are generated anew for each critic step but the last, and where a batch is split
    repeated = train.critic_steps - (train.gradient_accumulation == 1)
    activations = (large[3] - small[3]) / 2  # an image's; the rest are weights, counted below
    weights = count_parameters(stage) + sum(sum(p.numel() for p in one.parameters()) for one in adversaries.values())
    bytes_each = 2 if resolve_precision(config.mixed_precision) != "no" else 4
    part = size // train.gradient_accumulation
    return {
        "generator_parameters": sum(p.numel() for p in stage.parameters()),
        **{f"{name}_parameters": sum(p.numel() for p in one.parameters()) for name, one in adversaries.items()},
        "step_flops": (train.critic_steps * discriminate) + adversarial + (3 + repeated) * generate,
        # weights, gradients, two moments and the average, in float32; saved activations in the working precision
        "memory_bytes": weights * 4 * 5 + activations * part * bytes_each,
    }
