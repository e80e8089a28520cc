"""What a process asks of the machine it trains on."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState

import stackflower as sf
from stackflower.errors import ConfigError
from stackflower.training.accelerator import check_host

FAULTS = """
import resource
import torch
from stackflower.training.accelerator import keep_memory

def faults(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(8_000_000)  # 32 MB, freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

assert keep_memory()
faults(4)
print(faults(20))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc's allocator")
def test_freed_memory_is_kept_for_the_next_step() -> None:
    """Of twenty blocks of 7,812 pages, each in the place of the one before, few pages are faulted in again."""
    found = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    assert int(found.stdout) < 2 * 7_812 + 2_000, "a block may find a new place, but not each of them"


def test_a_program_that_uses_accelerate_in_another_precision_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stackflower.utils.devices.has_accelerator", lambda: False)
    host = Accelerator(cpu=True, mixed_precision="bf16")
    with pytest.raises(ConfigError) as error:
        sf.train("quickstart", images=64, out=tmp_path / "run", mixed_precision="no", progress_bar=False)
    assert "mixed_precision=bf16, and the training needs no: use `mixed_precision=bf16`" in str(error.value)
    assert host.mixed_precision == "bf16" and AcceleratorState().mixed_precision == "bf16", "its state is left alone"
    assert not (tmp_path / "run").exists()


def test_a_program_that_uses_accelerate_on_another_device_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stackflower.utils.devices.has_accelerator", lambda: False)
    Accelerator(cpu=True, mixed_precision="no")
    check_host("no")
    PartialState().device = torch.device("meta")
    with pytest.raises(ConfigError, match="set up Accelerate on meta, and the training needs the CPU"):
        check_host("no")
