"""The variables of launchers: used, ignored or refused, but never silently obeyed."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from conftest import TINY
from running import same

from stackflower.errors import ConfigError
from stackflower.utils.devices import get_process_state
from stackflower.utils.launcher import check_supported, count_local_processes, launcher_environment, read_process_count

TORCHRUN = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def test_processes_are_counted_for_each_launcher() -> None:
    assert read_process_count({}) == read_process_count({"RANK": "0", "LOCAL_RANK": "0"}) == 1
    assert read_process_count({"WORLD_SIZE": "1", "LOCAL_RANK": "0"}) == 1
    assert read_process_count(TORCHRUN) == 2
    assert read_process_count({"OMPI_COMM_WORLD_SIZE": "4"}) == 4


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "2", "RANK": "0"}, "LOCAL_RANK, MASTER_ADDR, MASTER_PORT are not set"),
        ({**TORCHRUN, "RANK": "2"}, "RANK=2 must be lower than WORLD_SIZE=2"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE=two must be an integer"),
    ],
)
def test_variables_that_contradict_one_another_are_refused(variables: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_process_count(variables)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, "FSDP is not supported"),
        ({"ACCELERATE_USE_DEEPSPEED": "1"}, "DeepSpeed is not supported"),
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, "use `train.gradient_accumulation=4`"),
        ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, "use `train.compile=true`"),
    ],
)
def test_what_is_not_supported_is_refused(variables: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_supported(variables, has_accelerator=False)


def test_what_accelerate_launch_sets_is_accepted() -> None:
    usual = {"ACCELERATE_USE_CPU": "True", "ACCELERATE_MIXED_PRECISION": "fp16", "ACCELERATE_DYNAMO_BACKEND": "NO"}
    check_supported({**usual, "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1"}, has_accelerator=False)
    with pytest.raises(ConfigError, match="CUDA_VISIBLE_DEVICES"):
        check_supported(usual, has_accelerator=True)


def test_leftovers_are_hidden_from_accelerate_and_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    left = {"RANK": "0", "LOCAL_RANK": "0", "ACCELERATE_MIXED_PRECISION": "fp16", "ACCELERATE_TORCH_DEVICE": "meta"}
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    with caplog.at_level(logging.INFO), launcher_environment(has_accelerator=False, report=True):
        assert not left.keys() & os.environ.keys()
    assert {name: os.environ[name] for name in left} == left
    assert "Ignoring RANK=0 and LOCAL_RANK=0: without WORLD_SIZE" in caplog.text
    assert "Ignoring ACCELERATE_MIXED_PRECISION=fp16" in caplog.text


def test_leftovers_do_not_change_the_process_or_the_weights(
    stackflower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stackflower.utils.devices.has_accelerator", lambda: False)
    stackflower("train", "--out", "clean", "--images", 16, *TINY)
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "1")
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    stackflower("train", "--out", "left", "--images", 16, *TINY)
    same(tmp_path / "clean", tmp_path / "left")
    assert get_process_state().num_processes == 1
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    refused = stackflower("train", "--out", "third", "--images", 16, *TINY, code=2)
    assert "use --gradient-accumulation 4" in refused.output and not (tmp_path / "third").exists()


def test_local_processes_are_at_most_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert count_local_processes(1) == 1 and count_local_processes(16) == 8
