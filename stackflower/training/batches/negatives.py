"""Negative captions: captions of other images, which an image does not match."""

from __future__ import annotations

import torch
from torch import Tensor

from stackflower.data.prepared import Prepared
from stackflower.training.batches.captions import Captions
from stackflower.utils.rng import draw_below

TRIES = 8  # captions drawn to find one that the image does not have


class NegativeSampler:
    """Sampler that draws, for each image, another image of a different class, uniformly.

    If the images have no classes or are all of one class, each image is a class of its own.

    Args:
        labels: classes of the images, int64 `(N,)`, or None.
        count: number N of images.
        device: device of the draws.
    """

    def __init__(self, labels: Tensor | None, count: int, device: torch.device | str = "cpu"):
        if labels is None or len(labels.unique()) < 2:
            labels = torch.arange(count)
        _, labels = labels.unique(return_inverse=True)
        sizes = torch.bincount(labels)
        starts = sizes.cumsum(0) - sizes
        self.order = labels.argsort(stable=True).to(device)  # images, class by class
        self.start, self.size = starts[labels].to(device), sizes[labels].to(device)
        self.labels = labels.to(device)  # (N,), class of each image

    def __call__(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """Draw images of other classes.

        Args:
            index: images `(n,)`.
            generator: generator of the draws.

        Returns:
            Images `(n,)`.
        """
        start, size = self.start[index], self.size[index]
        others = (len(self.order) - size).clamp_min(1)
        draw = draw_below(others, generator)
        return self.order[torch.where(draw >= start, draw + size, draw) % len(self.order)]


class NegativeCaptions:
    """Sampler of captions of other images, none of which is identical to a caption of the image.

    Args:
        data: prepared split.
        captions: its captions on the device.
        count: number of captions drawn per image, from which `choose_hardest` chooses.
        device: device of the draws.
    """

    def __init__(self, data: Prepared, captions: Captions, count: int, device: torch.device):
        self.captions, self.count = captions, count
        self.images = NegativeSampler(data.classes(), len(data.captions), device)
        self.shared = SharedTexts.find_in(data, device)

    def __call__(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """Draw captions of other images.

        Args:
            index: images `(n,)`.
            generator: generator of the draws.

        Returns:
            Numbers of the captions `(n, count, averaged)`, padded with -1 if an image has fewer.
        """
        repeated = index.repeat_interleave(self.count)
        if self.shared is None:
            numbers = self.captions.draw(self.images(repeated, generator), generator)
        else:
            drawn = self.captions.draw(self.images(repeated.repeat_interleave(TRIES), generator), generator)
            numbers = self.shared.choose_negative(repeated, drawn.unflatten(0, (len(repeated), TRIES)))
        return numbers.unflatten(0, (len(index), self.count))

    def choose_hardest(self, candidates: Tensor, matching: Tensor) -> tuple[Tensor, Tensor]:
        """Choose hard negatives (Faghri et al. 2018, VSE++).

        Args:
            candidates: numbers of captions `(n, K, A)`.
            matching: embeddings `(n, T)` of the images' own captions.

        Returns:
            The embeddings `(n, T)` that are most similar to `matching`, and the numbers of their captions `(n,)`.
        """
        embeddings = self.captions.compute_mean_embedding(candidates)
        hardest = torch.einsum("nkt,nt->nk", embeddings, matching).argmax(1)
        rows = torch.arange(len(embeddings), device=embeddings.device)
        return embeddings[rows, hardest], candidates[rows, hardest, 0]

    def label(self, index: Tensor, captions: Tensor) -> Tensor:
        """Return the class of each text: the class of its image, or the text itself if classes share captions.

        A text that two images share is then not a negative for either image.

        Args:
            index: images `(n,)`.
            captions: numbers of their captions `(n, averaged)`.
        """
        if self.shared is None or self.captions.averaged > 1:
            return self.images.labels[index]
        return self.shared.text_of[captions[:, 0]]


class SharedTexts:
    """The texts of captions, for data without labels in which different images share captions.

    Args:
        text_of: number of the text of each caption `(C,)`; identical captions have the same number.
        own: numbers of the texts of each image `(N, most)`, padded with -1.
    """

    def __init__(self, text_of: Tensor, own: Tensor):
        self.text_of, self.own = text_of, own

    @classmethod
    def find_in(cls, data: Prepared, device: torch.device) -> SharedTexts | None:
        """Find the shared captions of a prepared split.

        Args:
            data: prepared split.
            device: device of the draws.

        Returns:
            The texts; None if the data have labels, or no caption is shared.
        """
        if data.labels is not None:
            return None
        number_of: dict[str, int] = {}
        numbers = torch.tensor([number_of.setdefault(text, len(number_of)) for text in data.flatten_captions()])
        counts = torch.tensor([len(captions) for captions in data.captions])
        pairs = torch.stack([numbers, data.classes().repeat_interleave(counts)])
        if pairs.unique(dim=1).shape[1] == len(number_of):
            return None
        place, offsets = torch.arange(int(counts.max())), counts.cumsum(0) - counts
        own = numbers[(offsets[:, None] + place).clamp_max(len(numbers) - 1)].masked_fill(place >= counts[:, None], -1)
        return cls(numbers.to(device), own.to(device))

    def choose_negative(self, index: Tensor, drawn: Tensor) -> Tensor:
        """Choose one of several drawn captions for each image.

        It is the first that shares no text with the image, or else the one that shares fewest.

        Args:
            index: images `(n,)`.
            drawn: numbers of captions `(n, TRIES, averaged)`.

        Returns:
            Numbers of captions `(n, averaged)`.
        """
        text = torch.where(drawn >= 0, self.text_of[drawn.clamp_min(0)], -2)
        shared = (text[..., None] == self.own[index][:, None, None]).any(3).sum(2)
        return drawn[torch.arange(len(index), device=index.device), shared.argmin(1)]
