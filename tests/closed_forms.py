"""Critics whose verdicts are known numbers, for the closed forms of losses and penalties."""

from __future__ import annotations

import math
from typing import Any

import torch

from stackflower.penalties.base import PenaltyInputs
from stackflower.stages.base import Text, Verdict


def critic(match: dict[str, float]):
    """A critic whose verdict is a constant for each kind of pair, told apart by the text's first number."""

    def judge(images: torch.Tensor, texts: list[Text]) -> list[Verdict]:
        kind = "fake" if images[0, 0, 0, 0] < 0 else "real"
        return [Verdict(torch.full((2,), match["negative" if text.embedding[0, 0] < 0 else kind])) for text in texts]

    return judge


REAL, FAKE = torch.ones(2, 3, 4, 4), -torch.ones(2, 3, 4, 4)


RIGHT, WRONG = Text(torch.ones(2, 1), torch.ones(2, 1)), Text(-torch.ones(2, 1), torch.ones(2, 1))


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def penalised(judge: Any, real: torch.Tensor, fake: torch.Tensor, **given: Any) -> PenaltyInputs:
    """The inputs of a penalty; images are their own maps."""
    usual = {"text": RIGHT, "fake_text": RIGHT, "noise": torch.zeros(2, 1), "maps": lambda images: (images,)}
    return PenaltyInputs(judge, real, fake, **(usual | given))
