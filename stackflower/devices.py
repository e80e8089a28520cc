"""Which device, which precision, how many processes; and what a run will cost."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping, Sequence

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState
from torch.utils.flop_counter import FlopCounterMode

from stackflower.build import build_networks
from stackflower.config import RunConfig
from stackflower.errors import ConfigError, MissingDependency
from stackflower.objectives import Pairs
from stackflower.sides import Side, frozen
from stackflower.stages.base import Stage, Text, parameters_of


def keep_memory() -> bool:
    """Have glibc keep what is freed instead of giving it back to the system and faulting it in again, page by page.

    A step on a CPU frees and asks for the same hundred megabytes over and over; whether it could be set. Memory in use
    stays at its peak, which training reaches in its first step; call it when the data are ready.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    trim_threshold, mmap_max = (-1, 2**31 - 1), (-4, 0)  # M_TRIM_THRESHOLD, M_MMAP_MAX of <malloc.h>
    return all(mallopt(*setting) for setting in (trim_threshold, mmap_max))


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


def check_trackers(report_to: Sequence[str]) -> None:
    """ConfigError or MissingDependency for a tracker that is unknown or not installed."""
    for tracker in report_to:
        library = TRACKERS.get(tracker)
        if library is None:
            raise ConfigError(f"--report-to {tracker}: allowed are {', '.join(TRACKERS)}.")
        try:
            __import__(library)
        except ImportError:
            raise MissingDependency(library, tracker, f"--report-to {tracker}") from None


def make_accelerator(config: RunConfig, report_to: Sequence[str] = (), project: str | None = None) -> Accelerator:
    """Accelerate's view of this process; the batch must divide among the processes."""
    check_trackers(report_to)
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
