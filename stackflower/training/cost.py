"""What a run will cost."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.utils.flop_counter import FlopCounterMode

from stackflower.adversary import Side, frozen
from stackflower.build import build_networks
from stackflower.config.schema import RunConfig
from stackflower.objectives.base import Pairs
from stackflower.stages.base import Stage, Text, parameters_of
from stackflower.training.accelerator import resolve_precision


def _step_on_meta(stage: Stage, sides: Mapping[str, Side], text_dim: int, batch: int) -> tuple[int, int, int, int]:
    """FLOPs of drawing (forward), of the discriminators' step, of judging for the generator's step, both ways, and the
    numbers that are kept for the backward pass of the larger of the two."""
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
            drawn = stage(embedding, noise)
        flops.append(counter.get_total_flops())
        text = Text(embedding, drawn.condition, label)
        with FlopCounterMode(display=False) as counter:
            for side, image in zip(sides.values(), drawn.images, strict=True):
                wrong = text if side.objective.mismatched else None
                pairs = Pairs(torch.empty_like(image), image.detach(), text, wrong, text)
                terms = side.objective.discriminator_terms(side.discriminator, pairs)
                torch.stack(list(terms.values())).sum().backward()
        flops.append(counter.get_total_flops())
        with FlopCounterMode(display=False) as counter:
            for side, image in zip(sides.values(), drawn.images, strict=True):
                with frozen(side):
                    terms = side.objective.generator_terms(side.discriminator, image.detach().requires_grad_(), text)
                    torch.stack(list(terms.values())).sum().backward()
        flops.append(counter.get_total_flops())
    return flops[0], flops[1], flops[2], saved


def cost(config: RunConfig, text_dim: int) -> dict[str, float]:
    """Parameters of each network, FLOPs of a training step, and an estimate of its memory in bytes.

    The step is counted on meta tensors: nothing is computed. A multiplication and an addition are two FLOPs. Penalties,
    which may come only every so many steps, are not counted.
    """
    with torch.device("meta"):
        stage, sides = build_networks(config, text_dim)
        small, large = (_step_on_meta(stage, sides, text_dim, batch) for batch in (2, 4))
    train, size = config.train, config.train.batch_size
    draw, judge, fool = (count / 2 * size for count in small[:3])
    # what the discriminators are shown is drawn anew for each critic step but the last, and where a batch is split
    redrawn = train.critic_steps - (train.gradient_accumulation == 1)
    activations = (large[3] - small[3]) / 2  # an image's; the rest are weights, counted below
    weights = parameters_of(stage) + sum(sum(p.numel() for p in side.parameters()) for side in sides.values())
    bytes_each = 2 if resolve_precision(config.mixed_precision) != "no" else 4
    part = size // train.gradient_accumulation
    return {
        "generator_parameters": sum(p.numel() for p in stage.parameters()),
        **{f"{name}_parameters": sum(p.numel() for p in side.parameters()) for name, side in sides.items()},
        "step_flops": (train.critic_steps * judge) + fool + 3 * draw + redrawn * draw,
        # weights, gradients, two moments and the average, in float32; saved activations in the working precision
        "memory_bytes": weights * 4 * 5 + activations * part * bytes_each,
    }
