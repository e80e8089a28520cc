"""Device, precision and processes: the set-up of Accelerate."""

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
    """Make glibc's malloc keep freed memory instead of returning it to the system; returns whether it could be set.

    A training step on a CPU allocates and frees the same hundred megabytes again and again, which costs page faults. Memory in use
    stays at its peak, which training reaches in its first step; call it when the data are prepared.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc
        return False
    trim_threshold, mmap_max = (-1, 2**31 - 1), (-4, 0)  # M_TRIM_THRESHOLD, M_MMAP_MAX of <malloc.h>
    return all(mallopt(*setting) for setting in (trim_threshold, mmap_max))


def has_accelerator() -> bool:
    """Whether a GPU (CUDA, ROCm, Apple, XPU) is available."""
    return torch.accelerator.is_available()


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 natively (AVX512-BF16 or AMX)."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)


def resolve_precision(precision: str) -> str:
    """The precision to train in: for `auto`, bf16 where the device supports it natively, else "no". ConfigError for fp16 without a GPU."""
    cuda = torch.cuda.is_available()
    if precision == "auto":
        if has_accelerator():
            return "bf16" if cuda and torch.cuda.is_bf16_supported(including_emulation=False) else "no"
        return "bf16" if cpu_has_bf16() else "no"
    if precision == "fp16" and not has_accelerator():
        raise ConfigError("--mixed-precision fp16 needs a GPU; on this machine use auto, bf16 or no.")
    return precision


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
    """Accelerate's state of this process: its device, rank and number of processes."""
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
    """The Accelerator of a run. ConfigError if the batch size is not divisible among processes, accumulation steps and latents."""
    check_trackers(report_to)
    os.environ.setdefault(
        "ACCELERATE_MIXED_PRECISION", "no"
    )  # the run's precision, not that of Accelerate's configuration file
    accelerator = Accelerator(
        cpu=not has_accelerator(),  # so that processes on CPUs use gloo
        mixed_precision=resolve_precision(config.mixed_precision),
        log_with=list(report_to) or None,
        project_dir=project,
        # batch statistics are already synchronised, and a network may run several times before backward
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    train = config.train
    parts = accelerator.num_processes * train.gradient_accumulation * train.latents_per_caption
    if train.batch_size % parts:
        raise ConfigError(
            f"train.batch_size = {train.batch_size} must be divisible by {parts} ({accelerator.num_processes} processes × "
            f"{train.gradient_accumulation} accumulation steps × {train.latents_per_caption} latents a caption); "
            f"use --batch-size {-(-train.batch_size // parts) * parts}."
        )
    if accelerator.device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    if not accelerator.is_main_process:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - stays open as long as the process
    return accelerator
