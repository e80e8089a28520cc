"""Every part in small, and what holds for each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_features
from safetensors.torch import load_file, save_file

from stackflower import registry
from stackflower.stages.base import Refiner, Stage, Text, Words
from stackflower.text.base import TextEncoder

T, C, N, R, D = 12, 6, 8, 16, 9


def small(kind: str, name: str) -> dict[str, object]:
    """Options that make a part small, where it has them."""
    known = {"channels": 4, "resolution": R, "dim": C, "noise_dim": 5, "projection_dim": 7, "code_dim": 9, "scales": 1}
    known |= {"size": 64, "levels": 3, "pixels": 4} if name == "projected" else {}
    known |= {"scales": 2} if name == "attention" else {}
    return {key: value for key, value in known.items() if key in registry.get_options(kind, name)}


def make(kind: str, name: str, **more: object) -> torch.nn.Module:
    context = {
        "text_dim": T,
        "condition_dim": C,
        "word_dim": D,
        "resolution": R,
        "previous_resolution": R,
        "features": tiny_features(),
    }
    if name == "attention":
        more = {"resolution": 2 * R} | more
    if issubclass(registry.get(kind, name), Refiner):
        more = {"resolution": 2 * R} | more
        context["previous_resolution"] = int(more["resolution"]) // 2  # type: ignore[call-overload]
    wanted = {key: context[key] for key in registry.KINDS[kind].context}
    module = registry.create(kind, name, **wanted, **(small(kind, name) | more))
    assert isinstance(module, torch.nn.Module)
    for parameter in module.parameters():  # what begins as the identity or as nothing would hide what lies behind it
        if not parameter.detach().any():
            torch.nn.init.normal_(parameter, 0.0, 0.3)
    return module


def make_stage(conditioning: str = "augmentation", generator: str = "stage1") -> Stage:
    part = make("generator", generator)
    lower = make_stage() if isinstance(part, Refiner) else None
    return Stage(make("conditioning", conditioning), part, lower)  # type: ignore[arg-type]


def every_parameter_learns(module: torch.nn.Module, loss: torch.Tensor, but: str = "") -> None:
    loss.backward()
    for name, parameter in module.named_parameters():
        if but and name.endswith(but) and parameter.numel() == 1:
            continue
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def make_words(count: int = N, longest: int = 4, dim: int = D) -> Words:
    """Words of captions of different lengths, of which the last row has the longest; the padding is not zero."""
    lengths = torch.arange(count).sub(count - longest).clamp(1, longest)
    return Words(torch.randn(count, longest, dim), torch.arange(longest) < lengths[:, None])


def give_words(part: torch.nn.Module, count: int = N) -> list[Words]:
    """The words for a generator or stage that uses them, as a list of arguments."""
    return [make_words(count)] if part.uses_words else []


def text() -> Text:
    return Text(torch.randn(N, T), torch.randn(N, C))


def survives_a_file(module: torch.nn.Module, again: torch.nn.Module, path: Path) -> None:
    save_file({key: value.contiguous() for key, value in module.state_dict().items()}, path)
    again.load_state_dict(load_file(path))
    for key, value in module.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key


def save_inception_2015(path: Path) -> None:
    """Random weights of the 2015 Inception network; skips without torch-fidelity."""
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    blank = module.FeatureExtractorInceptionV3.__new__(module.FeatureExtractorInceptionV3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(module.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        blank.__init__("blank", ["2048"])
    torch.save(blank.state_dict(), path)


CAPTIONS = ["a red flower", "این گل سرخ است", "红色的花", "🌺", "a red flower", " ".join(["petal"] * 1000)]


FILES = {"word-vectors": "vectors.txt", "precomputed": "embeddings.npy"}  # of encoders that read one


def make_encoder(name: str, folder: Path) -> TextEncoder:
    """An encoder that has seen some captions."""
    generator = torch.Generator().manual_seed(0)
    lines = [
        f"{word} {' '.join(f'{v:.4f}' for v in torch.randn(10, generator=generator))}"
        for word in ["a", "red", "flower", "blue", "petal"]
    ]
    (folder / "vectors.txt").write_text("5 10\n" + "\n".join(lines), encoding="utf-8")
    np.save(folder / "embeddings.npy", torch.randn(len(CAPTIONS), 10, generator=generator).numpy())
    (folder / "embeddings.txt").write_text("\n".join(CAPTIONS), encoding="utf-8")
    encoder = registry.create("text", name, **({"path": str(folder / FILES[name])} if name in FILES else {}))
    assert isinstance(encoder, TextEncoder)
    torch.manual_seed(0)
    encoder.fit(CAPTIONS if name == "multi-hot" else ["a red flower", "a blue flower", "a red petal", "a blue petal"])
    return encoder
