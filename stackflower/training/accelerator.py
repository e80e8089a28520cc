"""Device, precision and processes: the set-up of Accelerate."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs

from stackflower.config.schema import RunConfig
from stackflower.errors import ConfigError, MissingDependency
from stackflower.utils import devices


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


TRACKERS = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}


def check_trackers(report_to: Sequence[str]) -> None:
    """ConfigError or MissingDependency for a tracker that is unknown or not installed."""
    for tracker in report_to:
        library = TRACKERS.get(tracker)
        if library is None:
            raise ConfigError(f"`report_to={tracker}`: allowed are {', '.join(TRACKERS)}.")
        try:
            __import__(library)
        except ImportError:
            raise MissingDependency(library, tracker, f"`report_to={tracker}`") from None


def make_accelerator(config: RunConfig, report_to: Sequence[str] = (), project: str | None = None) -> Accelerator:
    """The Accelerator of a run. ConfigError if the batch size is not divisible among processes, accumulation steps and latents."""
    check_trackers(report_to)
    accelerator = Accelerator(
        cpu=not devices.has_accelerator(),  # so that processes on CPUs use gloo
        mixed_precision=devices.resolve_precision(config.mixed_precision),
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
            f"use `train.batch_size={-(-train.batch_size // parts) * parts}`."
        )
    if accelerator.device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    return accelerator
