"""Devices of this machine, and the precision they compute in."""

from __future__ import annotations

import torch
from accelerate import PartialState

from stackflower.errors import ConfigError
from stackflower.utils.launcher import launcher_environment
from stackflower.utils.threads import describe_threads


def has_accelerator() -> bool:
    """Return whether a GPU (CUDA, ROCm, Apple, XPU) is available."""
    return torch.accelerator.is_available()


def cpu_has_bf16() -> bool:
    """Return whether this CPU multiplies bfloat16 natively (AVX512-BF16 or AMX)."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)


def resolve_precision(precision: str) -> str:
    """Resolve "auto" to "bf16" where the device supports it natively, else to "no"; keep any other precision.

    Raises:
        ConfigError: the precision is "fp16" and no GPU is available.
    """
    cuda = torch.cuda.is_available()
    if precision == "auto":
        if has_accelerator():
            return "bf16" if cuda and torch.cuda.is_bf16_supported(including_emulation=False) else "no"
        return "bf16" if cpu_has_bf16() else "no"
    if precision == "fp16" and not has_accelerator():
        raise ConfigError("`mixed_precision=fp16` needs a GPU. On this machine, use auto, bf16 or no.")
    return precision


def describe_device(precision: str, threads: str | None = None) -> str:
    """Describe the device and the precision: ``CPU, 2 threads, bf16``.

    Args:
        precision: precision of the computation.
        threads: description of the number of threads on a CPU; None: torch's.
    """
    name = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else (
            str(torch.accelerator.current_accelerator()).upper()
            if has_accelerator()
            else f"CPU, {threads or describe_threads(torch.get_num_threads())}"
        )
    )
    return f"{name}, {'float32' if precision == 'no' else precision}"


def get_process_state() -> PartialState:
    """Return Accelerate's state of this process: its device, its rank and the number of processes.

    Raises:
        ConfigError: the environment variables of a launcher can't be used (see `utils.launcher`).
    """
    if PartialState._shared_state:
        return PartialState()
    with launcher_environment(has_accelerator(), report=True):
        return PartialState(cpu=not has_accelerator())
