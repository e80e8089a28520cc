"""The environment variables of launchers such as ``accelerate launch``, ``torchrun`` and ``mpirun``.

Accelerate and torch read about sixty variables. Some silently change a training, and a variable left over in the shell
makes a single process wait for others. So the variables are read only here: those that Stackflower uses are logged,
unsupported ones are errors, and the others are hidden from Accelerate.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from stackflower.errors import ConfigError

logger = logging.getLogger(__name__)

PROCESS_VARIABLES = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # set by launchers together with WORLD_SIZE
IGNORED_FOR_ONE_PROCESS = (*PROCESS_VARIABLES, "WORLD_SIZE", "LOCAL_WORLD_SIZE")
MPI_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")  # number of processes that MPI started
# variables that Accelerate may read: they do not affect results
PASSED_THROUGH = ("ACCELERATE_CPU_AFFINITY", "ACCELERATE_DEBUG_MODE", "ACCELERATE_LOG_LEVEL")
UNSUPPORTED = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "Accelerate's parallelism config",
    "ACCELERATE_USE_SAGEMAKER": "SageMaker",
}
TRUE_VALUES = ("1", "true", "yes", "on", "t", "y")


def read_process_count(environment: Mapping[str, str]) -> int:
    """Return the number of processes that a launcher started; 1 without a launcher.

    Args:
        environment: environment variables.

    Raises:
        ConfigError: the variables contradict one another.
    """
    counts = [_read_count(environment, name) for name in MPI_SIZES]
    if max(counts) > 1:
        return max(counts)
    count = _read_count(environment, "WORLD_SIZE")
    if count == 1:
        return 1
    missing = [name for name in PROCESS_VARIABLES if not environment.get(name)]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE={count} asks for {count} processes, but {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not set. Start the processes with `accelerate launch`, or unset "
            "WORLD_SIZE."
        )
    rank = _read_count(environment, "RANK", lowest=0)
    if rank >= count:
        raise ConfigError(
            f"RANK={rank} must be lower than WORLD_SIZE={count}. Start the processes with `accelerate launch`, or "
            "unset both."
        )
    return count


def count_local_processes(total: int) -> int:
    """Return the number of processes on this machine.

    Args:
        total: number of processes on all machines.
    """
    return min(total, _read_count(os.environ, "LOCAL_WORLD_SIZE")) if "LOCAL_WORLD_SIZE" in os.environ else total


def check_supported(environment: Mapping[str, str], has_accelerator: bool) -> None:
    """Check that Accelerate's variables ask for nothing that Stackflower does not support.

    Args:
        environment: environment variables.
        has_accelerator: whether a GPU is available.

    Raises:
        ConfigError: some variables are not supported; the error lists them.
    """
    problems = [
        f"{name}={environment[name]}: {what} is not supported. Unset the variable, or choose another setup with "
        "`accelerate config`."
        for name, what in UNSUPPORTED.items()
        if environment.get(name, "").lower() in TRUE_VALUES
    ]
    steps = environment.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS") or "1"
    if steps != "1":
        problems.append(
            f"ACCELERATE_GRADIENT_ACCUMULATION_STEPS={steps} is not supported. Unset it, and use "
            f"`train.gradient_accumulation={steps}`."
        )
    if (environment.get("ACCELERATE_DYNAMO_BACKEND") or "no").lower() != "no":
        problems.append(
            f"ACCELERATE_DYNAMO_BACKEND={environment['ACCELERATE_DYNAMO_BACKEND']} is not supported. Unset it, and use "
            "`train.compile=true`."
        )
    if has_accelerator and environment.get("ACCELERATE_USE_CPU", "").lower() in TRUE_VALUES:
        problems.append(
            f"ACCELERATE_USE_CPU={environment['ACCELERATE_USE_CPU']} is not supported. Unset it; to compute on the CPU "
            "of a machine with an NVIDIA GPU, set CUDA_VISIBLE_DEVICES to an empty string."
        )
    if problems:
        raise ConfigError(problems)


@contextmanager
def launcher_environment(has_accelerator: bool, report: bool = False) -> Iterator[None]:
    """Hide the variables that Stackflower does not use from Accelerate, inside the block.

    Args:
        has_accelerator: whether a GPU is available.
        report: log the number of processes, and ignored variables that may be intended.

    Raises:
        ConfigError: the variables contradict one another or are not supported.
    """
    count = read_process_count(os.environ)
    check_supported(os.environ, has_accelerator)
    hidden = {name: os.environ[name] for name in (IGNORED_FOR_ONE_PROCESS if count == 1 else ()) if name in os.environ}
    hidden |= {
        name: value
        for name, value in os.environ.items()
        if name.startswith("ACCELERATE_") and name not in PASSED_THROUGH
    }
    if report:
        _report(count, hidden)
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


def _report(count: int, hidden: Mapping[str, str]) -> None:
    """Log the number of processes, and ignored variables that may be intended."""
    if count > 1 and os.environ.get("RANK", "0") == "0":
        logger.info("Running in %d processes, started by a launcher.", count)
    if (
        count == 1
        and hidden.get("WORLD_SIZE") is None
        and (left := [name for name in PROCESS_VARIABLES[:2] if name in hidden])
    ):
        listed = " and ".join(f"{name}={hidden[name]}" for name in left)
        logger.info("Ignoring %s: without WORLD_SIZE, this is a single process.", listed)
    precision = hidden.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision not in ("", "no"):
        logger.info("Ignoring ACCELERATE_MIXED_PRECISION=%s; `mixed_precision` sets the precision.", precision)


def _read_count(environment: Mapping[str, str], name: str, lowest: int = 1) -> int:
    """Read an integer; the default is `lowest`."""
    text = environment.get(name) or str(lowest)
    try:
        number = int(text)
    except ValueError:
        number = lowest - 1
    if number < lowest:
        raise ConfigError(f"{name}={text} must be an integer of at least {lowest}; change or unset it.")
    return number
