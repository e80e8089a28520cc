"""Every registered extractor, with random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_parts import R, make_encoder, save_inception_2015
from torchvision.models import inception_v3, shufflenet_v2_x0_5

from stackflower import registry
from stackflower.errors import DataError
from stackflower.evaluation.classifier.files import save_classifier
from stackflower.evaluation.classifier.network import DomainClassifier
from stackflower.evaluation.extractors.inception_2015 import OriginalInception
from stackflower.text.regions import ConvolutionalRegions, save_image_encoder


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
def test_every_extractor_judges_each_image_by_itself(name: str, tmp_path: Path) -> None:
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
    elif name == "damsm":
        encoder = make_encoder("rnn", tmp_path)
        encoder.save(weights)
        save_image_encoder(ConvolutionalRegions(encoder.dim, 32, 4), weights, encoder.dim, {})
        (weights / "text.json").write_text('{"text": {"name": "rnn", "loss": "damsm"}}')
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


def safetensors_and_pickle(payload: bytes) -> bytes:
    """A safetensors file with one tensor, which is a pickle too: strings of the pickle take up the header.

    The length of the header begins a string of 40 bytes (``T``), in the header are strings of up to 126 (``U~``), and
    the tensor is the rest of the pickle.
    """
    start = '{"__metadata__":{"x":"'.ljust(37, "a")
    end = f'"}},"t":{{"dtype":"U8","shape":[{len(payload)}],"data_offsets":[0,{len(payload)}]}}}}'
    header = start + ("U~" + "a" * 126) * 79 + "U0" + "a" * 48 + "U{" + end.rjust(123, "a")
    length = b"T" + (40).to_bytes(7, "little")
    assert len(header) == int.from_bytes(length, "little")
    return length + header.encode() + payload


@pytest.mark.extras
@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_weights_of_inception_that_would_do_harm_are_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch_fidelity")
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    path.write_bytes(safetensors_and_pickle(b"cposix\nsystem\n(S'touch owned'\ntR."))
    assert list(load_file(path)) == ["t"]
    with pytest.raises(DataError, match="The 2015 Inception network can't be loaded"):
        OriginalInception(weights=str(path))
    assert not Path("owned").exists()
