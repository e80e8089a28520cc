"""Set up Accelerate: device, precision and processes."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState, is_initialized

from stackflower.config.schema import RunConfig, Train
from stackflower.errors import ConfigError, MissingDependency
from stackflower.utils import devices
from stackflower.utils.launcher import launcher_environment


def keep_memory() -> bool:
    """Make glibc's malloc keep freed memory instead of returning it to the system.

    A training step on a CPU repeatedly allocates and frees the same hundred megabytes, which causes page faults. Memory
    use stays at its peak, which training reaches in its first step; call this after the data are prepared.

    Returns:
        Whether the allocator could be configured.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc
        return False
    trim_threshold, mmap_max = (-1, 2**31 - 1), (-4, 0)  # M_TRIM_THRESHOLD, M_MMAP_MAX of <malloc.h>
    return all(mallopt(*setting) for setting in (trim_threshold, mmap_max))


TRACKERS = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}  # name in Accelerate -> library


def check_trackers(report_to: Sequence[str]) -> None:
    """Check that trackers exist and that their libraries are installed.

    Args:
        report_to: names of trackers.

    Raises:
        ConfigError: a tracker is unknown.
        MissingDependency: the library of a tracker is not installed.
    """
    for tracker in report_to:
        library = TRACKERS.get(tracker)
        if library is None:
            raise ConfigError(f"`report_to={tracker}`: allowed are {', '.join(TRACKERS)}.")
        try:
            __import__(library)
        except ImportError:
            raise MissingDependency(library, tracker, f"`report_to={tracker}`") from None


def check_batch_size(train: Train, processes: int) -> None:
    """Raise ConfigError unless processes, accumulation steps and latents divide the batch into equal parts."""
    parts = processes * train.gradient_accumulation * train.latents_per_caption
    if train.batch_size % parts:
        raise ConfigError(
            f"train.batch_size = {train.batch_size} must be divisible by {parts} ({processes} processes × "
            f"{train.gradient_accumulation} accumulation steps × {train.latents_per_caption} latents per caption); "
            f"use `train.batch_size={-(-train.batch_size // parts) * parts}`."
        )


def check_host(precision: str) -> None:
    """Check that the calling program has not set up Accelerate with another device or precision.

    Accelerate has one state per process: a second `Accelerator` shares the device and precision of the first.

    Args:
        precision: precision of the training.

    Raises:
        ConfigError: the device or the precision differs from the training's.
    """
    if not is_initialized():
        return
    host = AcceleratorState()
    advice = "train before this program creates its `Accelerator`, or in another process"
    if not devices.has_accelerator() and host.device.type != "cpu":
        raise ConfigError(
            f"This program has set up Accelerate on {host.device}, and the training needs the CPU: {advice}."
        )
    if host.mixed_precision != precision:
        raise ConfigError(
            f"This program has set up Accelerate with mixed_precision={host.mixed_precision}, and the training needs "
            f"{precision}: use `mixed_precision={host.mixed_precision}`, {advice}."
        )


def set_backends(device: torch.device) -> None:
    """Enable TF32 and cuDNN's search for the fastest convolutions on a CUDA device."""
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True


def make_accelerator(config: RunConfig, report_to: Sequence[str] = (), project: str | None = None) -> Accelerator:
    """Create the Accelerator of a run.

    Args:
        config: the run's configuration.
        report_to: names of trackers.
        project: folder for the files of the trackers.

    Raises:
        ConfigError: a tracker is unknown, the batch can't be divided among processes, or this process has set up
            Accelerate in another way.
        MissingDependency: the library of a tracker is not installed.
    """
    precision = devices.resolve_precision(config.mixed_precision)
    check_trackers(report_to)
    check_host(precision)
    check_batch_size(config.train, devices.get_process_state().num_processes)
    with launcher_environment(devices.has_accelerator()):
        accelerator = Accelerator(
            cpu=not devices.has_accelerator(),  # processes on CPUs communicate over gloo
            mixed_precision=precision,
            log_with=list(report_to) or None,
            project_dir=project,
            # batch statistics are already synchronised, and a network may run several times before backward
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
        )
    set_backends(accelerator.device)
    return accelerator
