"""Which device, which precision, how many processes; and what a run will cost."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState
from torch.utils.flop_counter import FlopCounterMode

from stackflower.build import build_networks
from stackflower.config import RunConfig
from stackflower.errors import ConfigError, MissingDependency
from stackflower.objectives import Pairs
from stackflower.sides import frozen
from stackflower.stages.base import Text, parameters_of


def has_accelerator() -> bool:
    """Whether a GPU (CUDA, ROCm, Apple, XPU) is there for training."""
    return torch.accelerator.is_available()


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 natively (AVX512-BF16 or AMX)."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)


def resolve_precision(asked: str) -> str:
    """`auto` as what the device multiplies natively; a sentence for what it can't."""
    cuda = torch.cuda.is_available()
    if asked == "auto":
        if has_accelerator():
            return "bf16" if cuda and torch.cuda.is_bf16_supported(including_emulation=False) else "no"
        return "bf16" if cpu_has_bf16() else "no"
    if asked == "fp16" and not has_accelerator():
        raise ConfigError("--mixed-precision fp16 needs a GPU; on this machine use auto, bf16 or no.")
    return asked


def describe_device(precision: str) -> str:
    """The device in words: ``CPU, 2 threads, bf16``."""
    name = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else (
            str(torch.accelerator.current_accelerator()).upper()
            if has_accelerator()
            else f"CPU, {torch.get_num_threads()} threads"
        )
    )
    return f"{name}, {'float32' if precision == 'no' else precision}"


def process_state() -> PartialState:
    """This process among those that were launched together."""
    return PartialState(cpu=not has_accelerator())


TRACKERS = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}


def make_accelerator(config: RunConfig, report_to: Sequence[str] = (), project: str | None = None) -> Accelerator:
    """Accelerate's view of this process; the batch must divide among the processes."""
    for tracker in report_to:
        library = TRACKERS.get(tracker)
        if library is None:
            raise ConfigError(f"--report-to {tracker}: allowed are {', '.join(TRACKERS)}.")
        try:
            __import__(library)
        except ImportError:
            raise MissingDependency(library, tracker, f"--report-to {tracker}") from None
    os.environ.setdefault("ACCELERATE_MIXED_PRECISION", "no")  # the run says which, not the machine's configuration
    accelerator = Accelerator(
        cpu=not has_accelerator(),  # so that processes on CPUs find each other (gloo)
        mixed_precision=resolve_precision(config.mixed_precision),
        log_with=list(report_to) or None,
        project_dir=project,
        # statistics are exchanged where they are computed, and a discriminator's trunk may be used twice a step
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    train = config.train
    parts = accelerator.num_processes * train.gradient_accumulation * train.noises_per_caption
    if train.batch_size % parts:
        raise ConfigError(
            f"train.batch_size = {train.batch_size} must divide by {parts} ({accelerator.num_processes} processes × "
            f"{train.gradient_accumulation} accumulation steps × {train.noises_per_caption} noises a caption); "
            f"use --batch-size {-(-train.batch_size // parts) * parts}."
        )
    if accelerator.device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    if not accelerator.is_main_process:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - lives as long as the process
    return accelerator


def cost(config: RunConfig, text_dim: int) -> dict[str, float]:
    """Parameters of each network, FLOPs of a training step, and an estimate of its memory in bytes.

    The step is counted on meta tensors: nothing is computed. A multiplication and an addition are two FLOPs.
    """
    with torch.device("meta"):
        stage, sides = build_networks(config, text_dim)
        batch = 2  # enough for batch statistics; a step is linear in it
        embedding, noise = torch.empty(batch, text_dim), torch.empty(batch, stage.noise_dim)
        saved = 0

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal saved
            saved += tensor.numel()
            return tensor

        counter = FlopCounterMode(display=False)
        with counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            drawn = stage(embedding, noise)
            text = Text(embedding, drawn.condition)
            for side, image in zip(sides.values(), drawn.images, strict=True):
                wrong = text if side.objective.mismatched else None
                terms = side(
                    Pairs(torch.empty_like(image), image.detach(), text, wrong, text), noise, 1
                )  # no lazy ones
                torch.stack(list(terms.values())).sum().backward()
            fooled: list[torch.Tensor] = []
            for side, image in zip(sides.values(), drawn.images, strict=True):
                with frozen(side):
                    fooled += side.generator_terms(image, text, noise, 1).values()
            torch.stack([*fooled, *drawn.terms.values()]).sum().backward()
    weights = parameters_of(stage) + sum(sum(p.numel() for p in side.parameters()) for side in sides.values())
    size = config.train.batch_size
    bytes_each = 2 if resolve_precision(config.mixed_precision) != "no" else 4
    part = size // config.train.gradient_accumulation
    return {
        "generator_parameters": sum(p.numel() for p in stage.parameters()),
        **{f"{name}_parameters": sum(p.numel() for p in side.parameters()) for name, side in sides.items()},
        "step_flops": counter.get_total_flops() / batch * size,
        # weights, gradients, two moments and the average, in float32; saved activations in the working precision
        "memory_bytes": weights * 4 * 5 + saved / batch * part * bytes_each,
    }
