"""Losses that train an encoder of captions, and the network that they train, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stackflower.text.encoders.rnn import BidirectionalGRU
from stackflower.text.ranking import cosine_ranking_loss, joint_embedding_loss


def test_the_cosine_ranking_loss_is_the_reports() -> None:
    torch.manual_seed(0)
    image, own, wrong = (torch.randn(5, 7, dtype=torch.float64, requires_grad=True) for _ in range(3))
    label = torch.tensor([0, 1, 1, 2, 0])
    value = cosine_ranking_loss(image, own, wrong, label, 0.2)
    x, v, w = (tensor.detach().numpy() for tensor in (image, own, wrong))

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    captions = [max(0, 0.2 - cosine(x[n], v[n]) + cosine(x[n], w[n])) for n in range(5)]
    # the wrong picture is the row before's, where that is of another class: not for rows 0 (class of row 4) and 2
    pictures = [max(0, 0.2 - cosine(x[n], v[n]) + cosine(x[n - 1], v[n])) for n in (1, 3, 4)]
    assert value.item() == pytest.approx(np.mean(captions) + np.mean(pictures), rel=1e-9)
    assert torch.autograd.gradcheck(lambda *t: cosine_ranking_loss(*t, label, 5.0), (image, own, wrong))


def test_the_joint_embedding_loss_is_symmetric_and_spares_ones_own_class() -> None:
    torch.manual_seed(0)
    image, text = (torch.randn(4, 6, dtype=torch.float64, requires_grad=True) for _ in range(2))
    label = torch.tensor([0, 1, 0, 2])
    score, expected = (image @ text.T).detach().numpy(), 0.0
    for n in range(4):
        others = [m for m in range(4) if label[m] != label[n]]
        expected += np.mean([max(0, 1 + score[n, m] - score[n, n]) for m in others]) / 4
        expected += np.mean([max(0, 1 + score[m, n] - score[n, n]) for m in others]) / 4
    value = joint_embedding_loss(image, text, label, 1.0)
    assert value.item() == pytest.approx(expected, rel=1e-9)
    assert joint_embedding_loss(text, image, label, 1.0).item() == pytest.approx(expected, rel=1e-9)
    assert torch.autograd.gradcheck(lambda a, b: joint_embedding_loss(a, b, label, 9.0), (image, text))


def test_the_backwards_direction_reads_a_caption_backwards_whatever_pads_it() -> None:
    """Against torch's own packed bidirectional GRU."""
    torch.manual_seed(0)
    network = BidirectionalGRU(12, 5, 8)
    both = torch.nn.GRU(5, 4, batch_first=True, bidirectional=True)
    for mine, suffix in ((network.forwards, "_l0"), (network.backwards, "_l0_reverse")):
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(both, name + suffix).data.copy_(getattr(mine, f"{name}_l0"))
    tokens = torch.tensor([[3, 4, 5, 0, 0], [6, 7, 8, 9, 10], [2, 0, 0, 0, 0]])
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        network.words(tokens), torch.tensor([3, 5, 1]), batch_first=True, enforce_sorted=False
    )
    _, last = both(packed)
    assert torch.allclose(network(tokens), torch.cat([last[0], last[1]], 1), atol=1e-6)
