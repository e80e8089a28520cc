"""The deep attentional multimodal similarity model (DAMSM) of AttnGAN (Xu et al. 2018, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stackflower.options import Positive
from stackflower.stages.base import Words
from stackflower.text.regions import Regions


@dataclass(frozen=True)
class DamsmOptions:
    """Options of the DAMSM, by default those of the paper."""

    gamma1: Positive = 4.0  # how sharply a word attends to regions (eq. 9)
    gamma2: Positive = 5.0  # how much the words that match best count (eq. 10)
    gamma3: Positive = 10.0  # inverse temperature of the cross entropy (eq. 11)
    root: bool = True  # divide the score by gamma2, as in eq. 10; the authors' release does not


PAPER = DamsmOptions()


def match_words(words: Words, regions: Tensor, options: DamsmOptions = PAPER) -> Tensor:
    """Compute how well the words of captions match the regions of images (eqs. 7 to 10).

    s = eᵀv, normalised over the words to s̄; α = softmax over regions of γ₁ s̄; c_i = Σ_j α_ij v_j; the score is
    log Σ_i exp(γ₂ cos(c_i, e_i)) / γ₂. Padding has a weight of exactly zero.

    Args:
        words: words e of T captions.
        regions: regions v of I images `(I, M, D)`.
        options: γ₁ and γ₂.

    Returns:
        Scores of all pairs `(I, T)`.
    """
    similarity = torch.einsum("tld,imd->itlm", words.vectors, regions)
    shares = similarity.masked_fill(~words.mask[None, :, :, None], -torch.inf).softmax(2)
    weights = (options.gamma1 * shares).softmax(3)
    # c_i itself, (I, T, L, D), is not needed: its inner product with e_i is Σ_j α_ij s_ij, and its norm follows from
    # the inner products of the regions
    products = (weights * similarity).sum(3)
    gram = regions @ regions.transpose(1, 2)
    norms = ((weights.flatten(1, 2) @ gram).view_as(weights) * weights).sum(3).clamp_min(1e-12).sqrt()
    cosine = products / (norms * words.vectors.norm(dim=2)).clamp_min(1e-8)
    scores = (options.gamma2 * cosine).masked_fill(~words.mask, -torch.inf).logsumexp(2)
    return scores / options.gamma2 if options.root else scores


def contrast_pairs(scores: Tensor, label: Tensor, gamma3: float = PAPER.gamma3) -> Tensor:
    """Compute the cross entropy of the matching pairs, over the captions and over the images (eqs. 11 to 13).

    Other pairs of one class are left out.

    Args:
        scores: scores of images and captions `(N, N)`, of which those of the matching pairs are on the diagonal.
        label: classes `(N,)`.
        gamma3: inverse temperature γ₃.

    Returns:
        The sum of both means, a scalar.
    """
    same = (label[:, None] == label) & ~torch.eye(len(label), dtype=torch.bool, device=label.device)
    logits = (gamma3 * scores).masked_fill(same, -torch.inf)
    target = torch.arange(len(label), device=label.device)
    return F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)


def compute_damsm_losses(
    regions: Regions, words: Words, sentence: Tensor, label: Tensor, options: DamsmOptions = PAPER
) -> dict[str, Tensor]:
    """Compute the DAMSM loss between images and their captions.

    Args:
        regions: regions `(N, M, D)` and global vectors `(N, D)` of images.
        words: words of their captions.
        sentence: embeddings `(N, D)` of their captions.
        label: classes `(N,)`; other pairs of one class are left out.
        options: γ₁ to γ₃.

    Returns:
        The terms "words" and "sentence", float32 or wider, whose sum is the loss.
    """
    by_sentence = F.normalize(regions.whole, dim=1) @ F.normalize(sentence, dim=1).T
    return {
        "words": contrast_pairs(match_words(words, regions.parts, options), label, options.gamma3),
        "sentence": contrast_pairs(by_sentence, label, options.gamma3),
    }
