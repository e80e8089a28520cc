"""Checkpoints: everything needed to resume a run bit for bit, as safetensors and JSON, nothing pickled.

A checkpoint is a folder such as ``images-000064000``, written under a temporary name and renamed. Its files::

    generator.safetensors  generator-ema.safetensors  discriminator-64.safetensors (with the state of its objective)
    optimizer-generator.safetensors  optimizer-discriminator.safetensors  rng-0.safetensors …  state.json
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import AllowInfNan
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from stackflower.errors import RunError, TrainingFailed
from stackflower.options import Count, Natural, Positive, read_section
from stackflower.runs.folder import STATE_FILE, Run
from stackflower.stages.base import Stage
from stackflower.utils.atomic import replacing, write_text
from stackflower.utils.checksum import compute_sha256

PlateauField = Literal["scale", "best", "total", "count"]


@dataclass(frozen=True)
class CheckpointState:
    """The contents of a checkpoint's ``state.json``: counters and schedules.

    Args:
        images: number of training images so far.
        step: number of the next step.
        number: number of the checkpoint, in the order of writing.
        rollbacks: how often training returned to a checkpoint because a loss was not finite.
        rate_scale: factor of the learning rates, reduced by each rollback.
        plateaus: `Plateau.to_dict` of each optimizer.
        processes: number of processes, each with its own random state.
        scaler: state of the gradient scaler in fp16; None in other precisions.
        files: SHA-256 of each other file of the checkpoint, filled in by `CheckpointWriter.publish`.
    """

    images: Natural
    step: Natural
    number: Natural
    rollbacks: Natural
    rate_scale: Positive
    plateaus: dict[str, dict[PlateauField, Annotated[float, AllowInfNan()]]]
    processes: Count
    scaler: dict[str, Any] | None
    files: dict[str, str] = field(default_factory=dict)


def _contiguous(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().contiguous().cpu() for name, value in state.items()}


def save_weights(module: nn.Module, path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a module's state to a safetensors file, replacing it only when the new one is complete."""
    with replacing(path) as temporary:
        save_file(_contiguous(module.state_dict()), temporary, metadata)


def load_weights(
    module: nn.Module, path: Path, advice: str = "Restore the run's own file, or train a new run."
) -> None:
    """Load a module's state from a safetensors file.

    Args:
        module: module to load into; every name and shape must match.
        path: the file.
        advice: end of the error message: what to do.

    Raises:
        RunError: the file is missing, damaged or of another network.
    """
    try:
        state = load_file(path)
    except FileNotFoundError:
        raise RunError(f"{path} is missing: part of the run was deleted. {advice}") from None
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path} is damaged ({error}). {advice}") from error
    expected = module.state_dict()
    mismatched = sorted(set(expected) ^ set(state)) + sorted(
        name for name in set(expected) & set(state) if expected[name].shape != state[name].shape
    )
    if mismatched:
        raise RunError(
            f"{path} does not match the networks in config.json: {', '.join(mismatched[:5])}"
            f"{f' and {len(mismatched) - 5} more' if len(mismatched) > 5 else ''}. {advice}"
        )
    module.load_state_dict(state)


def load_previous(stage: Stage, paths: Sequence[Path]) -> None:
    """Load the weights of the stages before `stage`, the latest first, one file per stage."""
    for path in paths:
        assert stage.previous is not None
        stage = stage.previous
        load_weights(stage, path)


def get_optimizer_state(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, Tensor]:
    """Return an optimizer's state by parameter name, as in ``generator.dense.weight/exp_avg``."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in module.named_parameters()}
    return {
        f"{names[parameter]}/{key}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Restore a state returned by `get_optimizer_state`."""
    parameters = dict(module.named_parameters())
    optimizer.state.clear()
    for key, value in state.items():
        name, _, field = key.rpartition("/")
        parameter = parameters[name]
        # Adam's moments take the memory layout of their parameter; its step count is a float32 scalar
        optimizer.state[parameter][field] = (
            torch.empty_like(parameter).copy_(value)
            if value.shape == parameter.shape and value.ndim
            else value.to(parameter.device)
        )


def get_rng_state(device: torch.device) -> dict[str, Tensor]:
    """Return the state of this process's global random generators, which dropout uses."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_rng(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Restore a state returned by `get_rng_state`."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


class CheckpointWriter:
    """A writer of one checkpoint: files go to a temporary folder, which `publish` renames.

    Args:
        run: the run.
        images: number of training images so far.
    """

    def __init__(self, run: Run, images: int):
        self.run = run
        self.final = run.checkpoints / f"images-{images:09d}"
        self.aside = run.checkpoints / f".images-{images:09d}"  # the same on all processes

    def write_tensors(self, name: str, state: Mapping[str, Tensor]) -> None:
        """Write ``name.safetensors``.

        Raises:
            TrainingFailed: it can't be written.
        """
        try:
            self.aside.mkdir(parents=True, exist_ok=True)
            save_file(_contiguous(state), self.aside / f"{name}.safetensors")
        except (OSError, SafetensorError) as error:
            self.fail(error)

    def publish(self, state: CheckpointState) -> None:
        """Write ``state.json``, flush all files to disk and rename the folder.

        Raises:
            TrainingFailed: the checkpoint can't be written.
        """
        try:
            files = {path.name: compute_sha256(path) for path in sorted(self.aside.glob("*.safetensors"))}
            write_state(self.aside, dataclasses.replace(state, files=files))
            for path in self.aside.iterdir():
                with path.open("rb") as handle:
                    os.fsync(handle.fileno())
            if self.final.exists():
                shutil.rmtree(self.final)
            os.replace(self.aside, self.final)
        except OSError as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """Delete the unfinished checkpoint and raise TrainingFailed; earlier checkpoints are kept."""
        shutil.rmtree(self.aside, ignore_errors=True)
        complete = self.run.list_checkpoints()
        kept = f"The previous one, {complete[-1].name}, is untouched" if complete else "The run has no earlier one"
        raise TrainingFailed(
            f"The checkpoint {self.final.name} could not be written: {error}. {kept}. Free some disk space, then "
            f"resume with `resume={self.run}`."
        ) from error


def read_state(path: Path) -> CheckpointState:
    """Read a checkpoint's ``state.json``.

    Raises:
        RunError: the file is missing or damaged.
    """
    problems: list[str] = []
    try:
        state = read_section(
            CheckpointState, json.loads((path / STATE_FILE).read_text(encoding="utf-8")), "state", problems
        )
    except (OSError, ValueError, RecursionError) as error:
        state, problems = None, [str(error)]
    if state is None:
        raise RunError(
            f"{path / STATE_FILE} is damaged: {' '.join(problems)} Delete {path} to resume from the previous one."
        )
    return state


def check_files(path: Path, state: CheckpointState) -> None:
    """Check the files of the checkpoint at `path` against the hashes in its state.

    Raises:
        RunError: a file is missing or has changed.
    """
    if not state.files:
        raise RunError(
            f"{path / STATE_FILE} is damaged: it names no files. Delete {path} to resume from the previous one."
        )
    for name, digest in state.files.items():
        try:
            same = compute_sha256(path / name) == digest
        except (OSError, ValueError):
            same = False
        if not same:
            raise RunError(
                f"{path / name} is missing or damaged, or belongs to another checkpoint. Restore it, or delete {path} "
                "to resume from the previous one."
            )


def write_state(path: Path, state: CheckpointState) -> None:
    """Replace a checkpoint's ``state.json``."""
    write_text(path / STATE_FILE, json.dumps(dataclasses.asdict(state), indent=2))


def read_tensors(path: Path, name: str) -> dict[str, Tensor]:
    """Read ``name.safetensors`` of a checkpoint.

    Raises:
        RunError: the file is missing or damaged.
    """
    try:
        return load_file(path / f"{name}.safetensors")
    except (FileNotFoundError, SafetensorError, OSError) as error:
        raise RunError(
            f"{path / name}.safetensors is missing or damaged ({error}). Delete {path} to resume from the previous one."
        ) from error
