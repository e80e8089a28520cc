"""The domain classifier: a network trained on the labels, attributes and captions of a data set, to score images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from stackflower.evaluation.classifier.backbones import DEFAULT_WIDTHS, Network, create_backbone
from stackflower.evaluation.classifier.heads import CaptionHead, ClassHeads


class Outputs(NamedTuple):
    """Outputs of a domain classifier for a batch of images."""

    features: Tensor  # (N, F)
    heads: dict[str, Tensor]  # "label" and attributes → logits (N, values)
    vectors: Tensor  # (N, D) of unit length, to compare with captions; D = 0 without a caption head


class DomainClassifier(nn.Module):
    """A backbone with a head for labels, one for each attribute, and one for captions.

    It maps images `(N, 3, R, R)` in `[-1, 1]` to `Outputs`.

    Args:
        heads: "label" and the attributes, each with the names of its values, in the order of the logits; may be empty
            with a caption head.
        resolution: R.
        network: "plain", "resnet18", or "features" for a layer on a pretrained network.
        width: channels of the first layers, or features of the layer on a pretrained network.
        features: name and options of the pretrained network, for the network "features".
        fine_tuned: whether the pretrained network is trained too; its weights are then saved with the classifier.
        text: name and options of the text encoder of a caption head; or None.
        text_dim: size of the embeddings of captions.
        trained_on: description of the training data.
        held_out: scores on held-out images: ``accuracy`` and ``calibration_error`` of each head, ``r_precision``.
    """

    def __init__(
        self,
        *,
        heads: Mapping[str, tuple[str, ...]],
        resolution: int,
        network: Network = "plain",
        width: int | None = None,
        features: Mapping[str, Any] | None = None,
        fine_tuned: bool = False,
        text: Mapping[str, Any] | None = None,
        text_dim: int = 0,
        trained_on: str = "",
        held_out: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.heads = {name: tuple(values) for name, values in heads.items()}
        self.resolution, self.network, self.width = resolution, network, width or DEFAULT_WIDTHS[network]
        self.features, self.fine_tuned, self.text, self.text_dim = features, fine_tuned, text, text_dim
        self.trained_on, self.held_out = trained_on, dict(held_out or {})
        self.body = create_backbone(
            network, width=self.width, resolution=resolution, features=features, fine_tuned=fine_tuned
        )
        self.outputs = ClassHeads(self.body.feature_dim, self.heads)
        self.captions = CaptionHead(self.body.feature_dim, text_dim) if text is not None else None

    def classify(self, inputs: Tensor) -> Outputs:
        """Compute the outputs from the precomputed inputs of the backbone."""
        features = self.body(inputs)
        logits = self.outputs(features)
        no_vectors = features.new_zeros(len(features), 0)
        vectors = no_vectors if self.captions is None else self.captions.project_images(features)
        return Outputs(features.float(), logits, vectors.float())

    def forward(self, images: Tensor) -> Outputs:
        return self.classify(self.body.precompute(images))

    def get_settings(self) -> dict[str, Any]:
        """Return the arguments that build the same network: `DomainClassifier(**settings)`."""
        return {
            "heads": self.heads,
            "resolution": self.resolution,
            "network": self.network,
            "width": self.width,
            "features": self.features,
            "fine_tuned": self.fine_tuned,
            "text": self.text,
            "text_dim": self.text_dim,
            "trained_on": self.trained_on,
            "held_out": self.held_out,
        }
