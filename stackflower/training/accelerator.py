"""Which device, which precision, how many processes; and what a run will cost."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState

from stackflower.config.schema import RunConfig
from stackflower.errors import ConfigError, MissingDependency


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
