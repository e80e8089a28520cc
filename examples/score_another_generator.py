"""Score images that something else generates, with the protocol and the intervals of `stackflower eval`.

python examples/score_another_generator.py --data synthetic-flowers
"""

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor

import stackflower as sf

RESOLUTION = 64


def draw_blobs(captions: Sequence[str], seed: int) -> Tensor:
    """Draw a disc in a colour that the caption names: a stand-in for your model.

    Args:
        captions: one caption per image.
        seed: seed of the random numbers.

    Returns:
        Images, uint8 (N, 3, 64, 64).
    """
    colours = {"red": (200, 30, 40), "yellow": (230, 210, 40), "blue": (40, 60, 200), "white": (240, 240, 240)}
    generator = torch.Generator().manual_seed(seed)
    place = torch.rand(len(captions), 2, 1, 1, generator=generator) * 16 + 24
    rows, columns = torch.meshgrid(torch.arange(RESOLUTION), torch.arange(RESOLUTION), indexing="ij")
    inside = (rows - place[:, 0]) ** 2 + (columns - place[:, 1]) ** 2 < 18**2
    named = [next((colours[word] for word in colours if word in caption), (150, 90, 160)) for caption in captions]
    disc, background = torch.tensor(named)[:, :, None, None], torch.tensor((60, 120, 60))[None, :, None, None]
    return torch.where(inside[:, None], disc, background).to(torch.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="synthetic-flowers", help="name or path of the data set to compare with")
    parser.add_argument("--samples", type=int, default=500, help="number of captions")
    args = parser.parse_args()
    metrics = ("is", "fid", "captions")
    scores = sf.evaluate(draw_blobs, data=args.data, resolution=RESOLUTION, samples=args.samples, metrics=metrics)
    for name, value in scores.items():
        if isinstance(value, float):
            print(f"{name:40} {value:.4f}")
    print("protocol:", scores["protocol"])


if __name__ == "__main__":
    main()
