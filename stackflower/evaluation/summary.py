"""Scores as text for people."""

from __future__ import annotations

from typing import Any


def describe(scores: dict[str, Any]) -> str:
    """The scores as a person reads them, the protocol below."""
    lines = []
    if "inception_score_mean" in scores:
        share = scores.get("inception_score_share_of_real")
        lines.append(
            f"Inception Score     {scores['inception_score_mean']:.2f} ± {scores['inception_score_std']:.2f}   real images "
            f"{scores['real_inception_score_mean']:.2f} ± {scores['real_inception_score_std']:.2f}   "
            + (f"share {share:.0%}" if share is not None else "(of another number of images: no share)")
        )
    if "frechet_distance" in scores:
        note = scores.get("frechet_distance_note", "")
        lines.append(f"Fréchet distance    {scores['frechet_distance']:.2f}" + (f"   ({note})" if note else ""))
    for name, value in scores.get("caption_accuracy", {}).items():
        if not name.endswith("_captions"):
            count = scores["caption_accuracy"].get(f"{name}_captions")
            lines.append(f"caption accuracy    {value:.3f}   {name}" + (f" ({count:,} captions)" if count else ""))
    if "diversity_within_caption" in scores:
        found = scores["diversity_within_caption"]
        lines.append(f"diversity           {found['value']:.2f}   of {found['against']}")
    lines.append("protocol")
    lines += [f"  {name:<18}{value}" for name, value in scores["protocol"].items()]
    return "\n".join(lines)
