"""Checkpoints: everything a run needs to go on bit for bit, as named safetensors, nothing pickled.

A checkpoint is a folder ``images-000064000`` written aside and renamed::

    generator.safetensors  generator-ema.safetensors  discriminator-64.safetensors (with its objective's state)
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
from stackflower.runs.folder import STATE, Run
from stackflower.stages.base import Stage
from stackflower.utils.atomic import replacing, write_text
from stackflower.utils.checksum import sha256_of

PlateauField = Literal["scale", "best", "total", "count"]


@dataclass(frozen=True)
class CheckpointState:
    """What ``state.json`` of a checkpoint holds: the numbers that training goes on with."""

    images: Natural  # seen
    step: Natural  # number of the next step
    number: Natural  # of the checkpoint, in the order of writing
    rollbacks: Natural  # returns to a checkpoint because of a loss that was not finite
    rate_scale: Positive  # the learning rates' factor since then
    plateaus: dict[
        str, dict[PlateauField, Annotated[float, AllowInfNan()]]
    ]  # of each optimizer, as `Plateau.to_dict` gives it
    processes: Count  # that wrote it, each its own random state
    scaler: dict[str, Any] | None  # of gradients in fp16
    # SHA-256 of each of the checkpoint's other files, filled in when it is published
    files: dict[str, str] = field(default_factory=dict)


def _contiguous(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().contiguous().cpu() for name, value in state.items()}


def save_weights(module: nn.Module, path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a module's state as safetensors, aside and then renamed."""
    with replacing(path) as temporary:
        save_file(_contiguous(module.state_dict()), temporary, metadata)


def load_weights(module: nn.Module, path: Path, otherwise: str = "Put the run's own file back or train anew.") -> None:
    """Read a module's state, every name and shape matching. RunError says what does not, and what to do: `otherwise`."""
    try:
        state = load_file(path)
    except FileNotFoundError:
        raise RunError(f"{path} is missing: part of the run was deleted. {otherwise}") from None
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path} is damaged ({error}). {otherwise}") from error
    mine = module.state_dict()
    wrong = sorted(set(mine) ^ set(state)) + sorted(
        name for name in set(mine) & set(state) if mine[name].shape != state[name].shape
    )
    if wrong:
        raise RunError(
            f"{path} is from other networks than config.json describes: {', '.join(wrong[:5])}"
            f"{f' and {len(wrong) - 5} more' if len(wrong) > 5 else ''}. {otherwise}"
        )
    module.load_state_dict(state)


def load_previous(stage: Stage, paths: Sequence[Path]) -> None:
    """Read the weights of the stages that `stage` refines, the latest first, each from its file."""
    for path in paths:
        assert stage.previous is not None
        stage = stage.previous
        load_weights(stage, path)


def optimizer_state(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, Tensor]:
    """An optimizer's state by the names of the parameters it moves: ``generator.dense.weight/exp_avg``."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in module.named_parameters()}
    return {
        f"{names[parameter]}/{key}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_state` gave."""
    parameters = dict(module.named_parameters())
    optimizer.state.clear()
    for key, value in state.items():
        name, _, field = key.rpartition("/")
        parameter = parameters[name]
        # Adam's moments have their parameter's layout; its step count is a float32 scalar
        optimizer.state[parameter][field] = (
            torch.empty_like(parameter).copy_(value)
            if value.shape == parameter.shape and value.ndim
            else value.to(parameter.device)
        )


def rng_state(device: torch.device) -> dict[str, Tensor]:
    """This process's global generators (dropout draws from them)."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_rng(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Put back what `rng_state` gave."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


class CheckpointWriter:
    """A checkpoint in the making: files go aside, `publish` makes them one complete checkpoint."""

    def __init__(self, run: Run, images: int):
        self.run = run
        self.final = run.checkpoints / f"images-{images:09d}"
        self.aside = run.checkpoints / f".images-{images:09d}"  # one name, so that all processes meet there

    def tensors(self, name: str, state: Mapping[str, Tensor]) -> None:
        """Write ``name.safetensors``."""
        try:
            self.aside.mkdir(parents=True, exist_ok=True)
            save_file(_contiguous(state), self.aside / f"{name}.safetensors")
        except (OSError, SafetensorError) as error:
            self.fail(error)

    def publish(self, state: CheckpointState) -> None:
        """Write ``state.json``, flush to disk, rename."""
        try:
            files = {path.name: sha256_of(path) for path in sorted(self.aside.glob("*.safetensors"))}
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
        """Give up this checkpoint, leaving the ones before it."""
        shutil.rmtree(self.aside, ignore_errors=True)
        complete = self.run.complete_checkpoints()
        kept = f"The last complete one, {complete[-1].name}, is untouched" if complete else "There is none before it"
        raise TrainingFailed(
            f"The checkpoint {self.final.name} could not be written: {error}. {kept}. Free some disk space, then resume with "
            f"`resume={self.run}`."
        ) from error


def read_state(path: Path) -> CheckpointState:
    """A checkpoint's ``state.json``. RunError says what is wrong with it."""
    problems: list[str] = []
    try:
        state = read_section(CheckpointState, json.loads((path / STATE).read_text(encoding="utf-8")), "state", problems)
    except (OSError, ValueError, RecursionError) as error:
        state, problems = None, [str(error)]
    if state is None:
        raise RunError(f"{path / STATE} is damaged: {' '.join(problems)} Delete {path} to resume from the one before.")
    return state


def check_files(path: Path, state: CheckpointState) -> None:
    """RunError where a file of the checkpoint at `path` is not as it was written: training would go on otherwise than it promises."""
    if not state.files:
        raise RunError(f"{path / STATE} is damaged: it names no files. Delete {path} to resume from the one before.")
    for name, digest in state.files.items():
        try:
            same = sha256_of(path / name) == digest
        except (OSError, ValueError):
            same = False
        if not same:
            raise RunError(
                f"{path / name} is missing or damaged, or of another checkpoint. Put it back, or delete {path} to resume from the one before."
            )


def write_state(path: Path, state: CheckpointState) -> None:
    """Replace a checkpoint's ``state.json``."""
    write_text(path / STATE, json.dumps(dataclasses.asdict(state), indent=2))


def read_tensors(path: Path, name: str) -> dict[str, Tensor]:
    """``name.safetensors`` of a checkpoint."""
    try:
        return load_file(path / f"{name}.safetensors")
    except (FileNotFoundError, SafetensorError, OSError) as error:
        raise RunError(
            f"{path / name}.safetensors is missing or damaged ({error}). Delete {path} to resume from the one before."
        ) from error
