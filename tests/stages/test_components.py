"""Every registered part, by parametrization: it builds, its shapes are right, gradients reach all of it, it survives a file."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_features
from safetensors.torch import load_file, save_file
from torchvision.models import inception_v3, shufflenet_v2_x0_5

from stackflower import registry
from stackflower.adversary import Adversary, frozen
from stackflower.declarations import Requirement
from stackflower.evaluation.classifier.files import save_classifier
from stackflower.evaluation.classifier.network import DomainClassifier
from stackflower.objectives.base import Pairs
from stackflower.penalties.base import PenaltyInputs
from stackflower.stages.base import Refiner, Stage, Text
from stackflower.text.base import TextEncoder

T, C, N, R = 12, 6, 8, 16


def small(kind: str, name: str) -> dict[str, object]:
    """Options that make a part small, where it has them."""
    known = {"channels": 4, "resolution": R, "dim": C, "noise_dim": 5, "projection_dim": 7, "code_dim": 9, "scales": 1}
    known |= {"size": 64, "levels": 3, "pixels": 4} if name == "projected" else {}
    return {key: value for key, value in known.items() if key in registry.options(kind, name)}


def make(kind: str, name: str, **more: object) -> torch.nn.Module:
    context = {
        "text_dim": T,
        "condition_dim": C,
        "resolution": R,
        "previous_resolution": R,
        "features": tiny_features(),
    }
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


def text() -> Text:
    return Text(torch.randn(N, T), torch.randn(N, C))


def survives_a_file(module: torch.nn.Module, again: torch.nn.Module, path: Path) -> None:
    save_file({key: value.contiguous() for key, value in module.state_dict().items()}, path)
    again.load_state_dict(load_file(path))
    for key, value in module.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key


@pytest.mark.parametrize("name", registry.list_parts("conditioning"))
def test_conditioning(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    part = make("conditioning", name)
    found = part(torch.randn(N, T), torch.randn(N, part.noise_dim))  # type: ignore[operator]
    assert found.sample.shape == found.mean.shape == (N, part.dim)
    assert set(found.terms) == set(part.weights)
    every_parameter_learns(part, found.sample.square().sum() + sum(found.terms.values()))
    survives_a_file(part, make("conditioning", name), tmp_path / "part.safetensors")


@pytest.mark.parametrize("name", registry.list_parts("generator"))
@pytest.mark.parametrize("resolution", [16, 64])
def test_generator(name: str, resolution: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    scales = {"scales": 3} if name == "tree" and resolution == 64 else {}
    part = make("generator", name, resolution=resolution, **scales)
    below = [torch.rand(N, 3, resolution // 2, resolution // 2)] if isinstance(part, Refiner) else []
    images = part(torch.randn(N, C), torch.randn(N, part.noise_dim), *below)  # type: ignore[operator]
    assert part.resolutions == ((16, 32, 64) if scales else (resolution,))
    assert [image.shape for image in images] == [(N, 3, r, r) for r in part.resolutions]
    assert name in ("began", "r3gan") or all(image.abs().max() <= 1 for image in images)
    terms = part.terms(images)  # type: ignore[operator]
    assert set(terms) == set(part.weights)
    every_parameter_learns(part, sum((image * torch.randn_like(image)).sum() for image in images) + sum(terms.values()))
    survives_a_file(part, make("generator", name, resolution=resolution, **scales), tmp_path / "part.safetensors")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("stage1", {"style": True}),
        ("stage1", {"mapping_layers": 2}),
        ("stage1", {"style": True, "mapping_layers": 1, "dropout": 0.5}),
        *((name, {"norm": norm}) for name in ("stage1", "dcgan", "residual") for norm in ("virtual", "layer", "none")),
    ],
)
def test_generators_options(name: str, options: dict[str, object]) -> None:
    torch.manual_seed(0)
    part = make("generator", name, channels=16, **options)
    (images,) = part(torch.randn(N, C), torch.randn(N, part.noise_dim))  # type: ignore[operator]
    every_parameter_learns(part, (images * torch.randn_like(images)).sum())


@pytest.mark.parametrize("name", registry.list_parts("generator"))
def test_a_picture_depends_on_text_and_noise_alone(name: str) -> None:
    stage = make_stage(generator=name).eval()
    embedding, noise = torch.randn(2, T), torch.randn(2, stage.noise_dim)
    with torch.no_grad():
        first, again = stage(embedding, noise).images[0], stage(embedding, noise).images[0]
        other = stage(embedding, noise.flip(0)).images[0]
        elsewhere = stage(embedding.flip(0), noise).images[0]
    assert torch.equal(first, again)
    assert not torch.allclose(first, other) and not torch.allclose(first, elsewhere)


@pytest.mark.parametrize("name", ["stage1", "dcgan", "residual"])
def test_with_virtual_batch_norm_no_picture_depends_on_its_neighbours(name: str) -> None:
    torch.manual_seed(0)
    part = make("generator", name, norm="virtual").train()
    condition, noise = torch.randn(N, C), torch.randn(N, 5)
    assert part.reference_batch is not None
    part.reference_batch.set(condition, noise)
    (together,), (alone,) = part(condition, noise), part(condition[2:3], noise[2:3])
    assert torch.allclose(together[2], alone[0], atol=1e-5)
    part.reference_batch.set(condition.flip(0)[:3], noise[:3])
    assert not torch.allclose(part(condition, noise)[0], together, atol=1e-3), "the fixed batch matters"


def test_a_stage_over_another_draws_from_what_that_one_drew() -> None:
    torch.manual_seed(0)
    stage = make_stage(generator="stage2").train()
    assert stage.previous is not None and not stage.previous.training
    assert stage.all_resolutions == (R, 2 * R) and stage.resolutions == (2 * R,)
    noise = stage.draw_noise(N, torch.Generator().manual_seed(0))
    embedding = torch.randn(N, T)
    drawn = stage(embedding, noise)
    below = stage.previous(embedding, noise[:, : stage.previous.noise_dim])
    assert torch.equal(drawn.previous[0], below.images[0]) and drawn.images[0].shape[-1] == 2 * R
    drawn.images[0].sum().backward()
    assert all(parameter.grad is None for parameter in stage.previous.parameters()), "the stage below is not trained"
    other = noise.clone()
    other[:, : stage.previous.noise_dim] = 0
    assert not torch.equal(stage(embedding, other).images[0], drawn.images[0])


def test_a_third_stage_goes_over_the_second() -> None:
    second = make_stage(generator="stage2")
    part = registry.create(
        "generator", "stage2", condition_dim=C, previous_resolution=2 * R, resolution=8 * R, channels=4
    )
    third = Stage(make("conditioning", "augmentation"), part, second)  # type: ignore[arg-type]
    drawn = third(torch.randn(2, T), third.draw_noise(2, torch.Generator().manual_seed(0)))
    assert (
        [image.shape[-1] for image in (*drawn.previous, *drawn.images)] == list(third.all_resolutions) == [16, 32, 128]
    )


def test_uniform_noise_is_for_the_generator_alone() -> None:
    stage = Stage(make("conditioning", "augmentation"), make("generator", "stage1", noise="uniform"))  # type: ignore[arg-type]
    noise = stage.draw_noise(2000, torch.Generator().manual_seed(0))
    mine, theirs = noise.split([C, 5], dim=1)
    assert mine.abs().max() > 2 and theirs.abs().max() <= 1
    assert mine.std() == pytest.approx(1, abs=0.05) and theirs.std() == pytest.approx(3**-0.5, abs=0.02)


@pytest.mark.parametrize("name", registry.list_parts("discriminator"))
def test_discriminator(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    part = make("discriminator", name)
    seen = []
    part.trunk, trunk = (lambda images: seen.append(1) or trunk(images)), part.trunk  # type: ignore[func-returns-value]
    verdicts = part(torch.randn(N, 3, R, R).clamp(-1, 1), [text(), text()])
    assert len(seen) == 1, "the trunk is run once, however many texts"
    assert [verdict.score.shape for verdict in verdicts] == [(N,), (N,)]
    assert not torch.equal(verdicts[0].score, verdicts[1].score)
    scores = [score for one in verdicts for score in (one.score, one.similarity) if score is not None]
    every_parameter_learns(part, sum((score * torch.randn_like(score)).sum() for score in scores))
    survives_a_file(part, make("discriminator", name), tmp_path / "part.safetensors")


@pytest.mark.parametrize(
    "options",
    [
        {"text": "embedding"},
        {"minibatch_deviation": True},
        {"unconditional": True},
        {"contrastive": True},
        {"norm": "none"},
        {"norm": "layer"},
        {"norm": "instance"},
    ],
)
def test_matching_discriminators_options(options: dict[str, object]) -> None:
    part = make("discriminator", "matching", **options)
    (verdict,) = part(torch.randn(N, 3, R, R), [text()])
    assert (verdict.real is not None) == options.get("unconditional", False)
    assert (verdict.similarity is not None) == options.get("contrastive", False)
    scores = [score for score in verdict if score is not None]
    every_parameter_learns(part, sum((score * torch.randn_like(score)).sum() for score in scores))


def test_the_matching_discriminator_joins_text_by_one_convolution() -> None:
    """Its two halves are the 3×3 convolution over features and repeated text that the paper describes."""
    part, images, words = make("discriminator", "matching").double(), torch.randn(N, 3, R, R).double(), text()
    words = Text(words.embedding.double(), words.condition.double())
    features = part.trunk(images)
    repeated = words.condition[:, :, None, None].expand(-1, -1, 4, 4)
    expected = part.head(part.join(torch.cat([features, repeated], 1))).flatten()
    (verdict,) = part(images, [words])
    assert torch.allclose(verdict.match.double(), expected, atol=1e-5)
    assert torch.allclose(part.judge(features, words).match, verdict.match, atol=1e-5)


@pytest.mark.parametrize("objective", registry.list_parts("objective"))
@pytest.mark.parametrize("discriminator", registry.list_parts("discriminator"))
def test_one_step_of_both_sides(objective: str, discriminator: str) -> None:
    torch.manual_seed(0)
    critic, goal = make("discriminator", discriminator), registry.create("objective", objective)
    wanted = {each.trait for each in goal.requires if isinstance(each, Requirement) and each.of == "discriminator"}
    if not all(trait in critic.offers for trait in wanted):
        pytest.skip(f"{wanted} against {critic.offers} is refused at start-up")
    if objective == "began":
        goal.k.fill_(0.5)  # at 0, where it begins, drawn images do not count
    side, stage = Adversary(critic, goal, {}), make_stage()  # type: ignore[arg-type]
    noise = torch.randn(N, stage.noise_dim)
    drawn = stage(torch.randn(N, T), noise)
    words = Text(torch.randn(N, T), drawn.condition)
    pairs = Pairs(torch.rand(N, 3, R, R), drawn.images[0], words, text() if goal.mismatched else None, words)
    terms, perceived = side(pairs, noise, 0)
    assert torch.autograd.grad(sum(terms.values()), drawn.images[0], allow_unused=True, retain_graph=True) == (None,)
    assert all(term.ndim == 0 and torch.isfinite(term) for term in terms.values())
    spread = torch.linspace(0.5, 1.5, len(terms))  # a bias sees real − ½(wrong + fake), which may cancel
    # where only differences of scores count, an offset of all scores learns nothing
    every_parameter_learns(
        side.discriminator, (torch.stack(list(terms.values())) * spread).sum(), "bias" if goal.relativistic else ""
    )
    side.zero_grad()
    with frozen(side):
        terms = side.generator_terms(pairs._replace(negative_text=None), noise, 0, None, perceived)
    every_parameter_learns(stage, sum(terms.values()) + sum(drawn.terms.values()))
    assert all(parameter.grad is None for parameter in side.parameters()), (
        "the generator's step leaves the discriminator alone"
    )


@pytest.mark.parametrize("name", registry.list_parts("penalty"))
def test_penalty(name: str) -> None:
    torch.manual_seed(0)
    critic, stage, penalty = (
        make("discriminator", "matching", norm="none"),
        make_stage(),
        registry.create("penalty", name),
    )
    noise = torch.randn(N, stage.noise_dim)
    drawn = stage(torch.randn(N, T), noise).images[0]
    drawn = 30 * drawn if name == "out-of-range" else drawn
    value = penalty(
        PenaltyInputs(critic, torch.rand(N, 3, R, R), drawn, text(), text(), noise, lambda images: (images,))
    )
    assert value.ndim == 0 and value.dtype == torch.float32 and value > 0
    value.backward()
    moved = critic if penalty.network == "discriminator" else stage
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in moved.parameters())


def test_a_lazy_penalty_is_weighed_for_the_steps_between() -> None:
    torch.manual_seed(0)
    images, words, noise = torch.rand(N, 3, R, R), text(), torch.randn(N, 3)
    critic = make("discriminator", "matching", norm="none")
    pairs = Pairs(images, images, words, words, words)
    values = {}
    for every, weight in ((1, 2.0), (4, 2.0), (1, 0.0)):
        side = Adversary(
            critic,
            registry.create("objective", "hinge"),
            {"r1": registry.create("penalty", "r1", weight=weight, every=every)},
        )  # type: ignore[arg-type]
        values[every, weight] = [side(pairs, noise, step)[0].get("r1") for step in range(4)]
    assert values[4, 2.0][1:] == [None] * 3 and values[1, 0.0] == [None] * 4, "of weight 0, it costs nothing either"
    assert values[4, 2.0][0].item() == pytest.approx(4 * values[1, 2.0][0].item())


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


@pytest.mark.parametrize("name", sorted(set(registry.list_parts("text")) - {"huggingface"}))
def test_text_encoder(name: str, tmp_path: Path) -> None:
    encoder = make_encoder(name, tmp_path)
    captions = CAPTIONS
    table = encoder.encode(captions)
    assert table.shape == (len(captions), encoder.dim) and table.dtype == torch.float32
    assert torch.allclose(table.norm(dim=1), torch.ones(len(captions)), atol=1e-5)
    assert torch.allclose(table[0], table[4], atol=1e-6)
    assert torch.allclose(encoder.encode(captions[:1]), table[:1], atol=1e-5)
    assert encoder(captions).square().mean(1).sqrt() == pytest.approx([1.0] * len(captions), abs=1e-4)
    assert encoder.fingerprint() == make_encoder(name, tmp_path).fingerprint()
    assert encoder.unknown(["a red flower", CAPTIONS[0]]) == []
    strange = ["a zyx red flower", "flower zyx!"]
    known = {"multi-hot": ["a zyx red flower", "flower zyx!"], "word-vectors": ["zyx"], "rnn": ["zyx"]}
    assert encoder.unknown(strange) == known.get(name, [])
    encoder.save(tmp_path / "kept")
    again = registry.create("text", name, **({"path": "gone.txt"} if name in FILES else {}))
    again.restore(tmp_path / "kept")
    again.fit(["something else"])
    assert torch.allclose(again.encode(captions), table, atol=1e-6) and again.fingerprint() == encoder.fingerprint()


def save_inception_2015(path: Path) -> None:
    """Random weights of the 2015 Inception network; skips without torch-fidelity."""
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    blank = module.FeatureExtractorInceptionV3.__new__(module.FeatureExtractorInceptionV3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(module.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        blank.__init__("blank", ["2048"])
    torch.save(blank.state_dict(), path)


def save_clip(folder: Path) -> None:
    """A tiny CLIP model of random weights, with a tokenizer of a few words."""

    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

    words = {word: number for number, word in enumerate(["<pad>", "<unk>", "a", "red", "blue", "flower", "one"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="one"
    ).save_pretrained(folder)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**small, "vocab_size": 8, "max_position_embeddings": 8, "eos_token_id": 6}
    config = CLIPConfig(
        text_config=text, vision_config={**small, "image_size": 32, "patch_size": 16}, projection_dim=12
    )
    CLIPModel(config).save_pretrained(folder)


@pytest.mark.parametrize("name", registry.list_parts("extractor"))
def test_extractor(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights, options = tmp_path / "weights", {}
    if name == "inception-2015":
        save_inception_2015(weights)
    elif name == "features":
        options = {"network": "torchvision", "model": "shufflenet_v2_x0_5", "size": 64}
        torch.save(shufflenet_v2_x0_5(weights=None).state_dict(), weights)
    elif name == "clip":
        pytest.importorskip("transformers")
        save_clip(weights)
    elif name == "inception-v3":
        torch.save(inception_v3(weights=None, init_weights=False, aux_logits=True).state_dict(), weights)
    else:
        heads = {"label": ("a", "b", "c"), "colour": ("red", "blue")}
        text = {"name": "ngram", "dim": 16}
        save_classifier(DomainClassifier(heads=heads, resolution=R, width=4, text=text, text_dim=16).eval(), weights)
    extractor = registry.create("extractor", name, weights=str(weights), **options)
    images = torch.randint(0, 256, (3, 3, 20, 20), dtype=torch.uint8)
    found, one = extractor(images), extractor(images[1:2])
    texts = extractor.embed(["a red flower", "a blue one"])
    assert texts is None if not found.vectors.shape[1] else texts.shape == (2, found.vectors.shape[1])
    assert torch.allclose(found.vectors[1], one.vectors[0], atol=1e-4)
    assert found.features.shape[0] == found.logits.shape[0] == 3 and found.logits.dtype == torch.float32
    assert torch.allclose(found.logits[1], one.logits[0], rtol=1e-3, atol=1e-4), "each picture by itself"
    assert {head: values.shape[1] for head, values in found.heads.items()} == {
        head: len(values) for head, values in extractor.attributes.items()
    }
    assert extractor.describe()["classes"] == found.logits.shape[1]
    assert len(str(extractor.describe()["weights_sha256"])) == 16


@pytest.mark.parametrize("name", registry.list_parts("metric"))
def test_metric(name: str) -> None:
    """Of real images against themselves the scores are finite and can be printed; the same again are the same."""
    from stackflower.data.prepared import Prepared
    from stackflower.data.source import Rows
    from stackflower.evaluation.extractors.base import Extracted
    from stackflower.evaluation.metrics.base import Sample
    from stackflower.evaluation.protocol import Protocol
    from stackflower.evaluation.reference import Reference
    from stackflower.evaluation.scoring import describe, score
    from stackflower.evaluation.statistics import Statistics

    torch.manual_seed(0)
    N = 120
    colours = ["red", "blue"] * (N // 2)
    captions = [[f"a {one} flower, number {number}"] for number, one in enumerate(colours)]
    rows = Rows(captions, [0, 1] * (N // 2), attributes={"colour": colours})
    source = registry.create("data", "synthetic-flowers", count=1)
    source.similar = lambda *_: None
    noise = lambda count: torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8)  # noqa: E731
    data = Prepared(noise(N).permute(0, 2, 3, 1), rows, "")

    def features(count: int) -> Extracted:
        found = torch.randn(count, 5)
        heads = {"colour": torch.nn.functional.one_hot(torch.arange(count) % 2).float()}
        return Extracted(found, found[:, :3], heads, torch.nn.functional.normalize(found, dim=1))

    outputs = features(N)
    real = Statistics.of(outputs, 2)
    sample = Sample(
        fake=real,
        real=real,
        protocol=Protocol(metrics=[name], splits=2),
        reference=Reference(source, "test", data, 16),
        attributes={"colour": ("red", "blue")},
        extract=lambda images: features(len(images)),
        embed=lambda captions: outputs.vectors[: len(captions)],
        captions=[captions[0] for captions in rows.captions],
        pairs=[(number, 0) for number in range(N)],
        chosen=range(N),
        generate=lambda captions, each, seed: features(len(captions) * each),
        images=lambda captions, each, seed: iter([noise(len(captions) * each)]),
        training=lambda: Statistics.of(features(30)),
    )
    scores = score(sample)
    numbers = [v for v in scores.values() if isinstance(v, float)]
    numbers += [v for part in scores.values() if isinstance(part, dict) for v in part.values() if isinstance(v, float)]
    assert numbers and all(math.isfinite(value) for value in numbers)
    assert describe({**scores, "protocol": {"split": "test"}}).splitlines()[-1].split() == ["split", "test"]
    intervals = [(scores, key) for key in scores if key.endswith("_interval")]
    intervals += [
        (part, key) for part in scores.values() if isinstance(part, dict) for key in part if key.endswith("interval")
    ]
    assert intervals, "every score has an interval"
    for group, key in intervals:
        low, high = group[key]
        value = group[key.removesuffix("_interval") if key != "interval" else "value"]
        assert low <= value + 1e-9 and value - 1e-9 <= high, key
    if name in ("r-precision", "similarity"):
        assert scores["r_precision" if name == "r-precision" else "text_similarity"] == pytest.approx(1)
    if name == "captions":
        assert scores["caption_accuracy"]["colour"] == scores["caption_accuracy"]["all_mentioned"] == 1.0
    if name == "fid":
        assert scores["frechet_distance"] == pytest.approx(0, abs=1e-6)
