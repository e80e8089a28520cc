"""Averages of weights and learning rates, by hand."""

from __future__ import annotations

import pytest
import torch

from stackflower.config.schema import Optimizer
from stackflower.training.ema import EMA
from stackflower.training.schedules import Plateau, compute_learning_rate


def test_ema_halves_in_its_half_life() -> None:
    module = torch.nn.Linear(1, 1, bias=False)
    average = EMA(module, half_life=640)
    start = average.module.weight.item()
    torch.nn.init.constant_(module.weight, 5.0)
    for step in range(10):
        average.update(module, 1_000_000 + 64 * step, 64)
    assert average.module.weight.item() == pytest.approx(5 + (start - 5) / 2, rel=1e-5)


def test_learning_rate_halves_by_epochs_and_falls_at_the_end() -> None:
    halving = Optimizer(lr=1.0, halve_every=50)
    assert [compute_learning_rate(halving, images, images / 10**9, 100) for images in (0, 4999, 5000, 10_000)] == [
        1,
        1,
        0.5,
        0.25,
    ]
    falling = Optimizer(lr=1.0, decay_from=0.5)
    assert [compute_learning_rate(falling, images, images / 100, 10) for images in (0, 50, 75, 100)] == [1, 1, 0.5, 0]


def test_a_plateau_halves_after_a_window_that_brought_nothing() -> None:
    plateau, scales = Plateau(), []
    for first, second in ((4.0, 3.0), (2.0, 2.0), (2.5, 2.5), (1.0, 1.0), (1.0, 1.0)):
        plateau.add(torch.tensor(first))
        plateau = Plateau(**plateau.to_dict())  # as a run resumed in the middle of a window has it
        plateau.add(torch.tensor(second))
        plateau.close()
        scales.append(plateau.scale)
    assert scales == [1, 1, 0.5, 0.5, 0.25]
    assert plateau.best == 1.0
