"""Register a discriminator of your own and train with it.

python examples/own_discriminator.py --images 20000 --out runs/own
"""

import argparse
import logging
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

import stackflower as sf
from stackflower.options import Count
from stackflower.stages import Discriminator, Text, Verdict


@sf.register("discriminator", "cosine")
class CosineDiscriminator(Discriminator):
    """Compares image features and text by their cosine.

    Args:
        channels: width of the first convolution, doubled by each of the next two.
    """

    def __init__(self, *, text_dim: int, channels: Count = 32):
        super().__init__()
        widths = (3, channels, 2 * channels, 4 * channels)
        convolutions = [
            nn.Sequential(nn.Conv2d(before, after, 4, 2, 1), nn.LeakyReLU(0.2)) for before, after in pairwise(widths)
        ]
        self.layers = nn.Sequential(*convolutions)
        self.text = nn.Linear(text_dim, widths[-1])
        self.score = nn.Linear(widths[-1], 1)

    def trunk(self, images: Tensor) -> Tensor:
        return self.layers(images).mean((2, 3))

    def judge(self, features: Tensor, text: Text) -> Verdict:
        cosine = F.cosine_similarity(features, self.text(text.embedding))
        return Verdict((self.score(features).flatten() + 5 * cosine).float())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="synthetic-flowers", help="name or path of a data set")
    parser.add_argument("--images", type=int, default=20_000, help="number of images to train on")
    parser.add_argument("--out", default="runs/own", help="folder of the run")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    discriminator = {"name": "cosine", "channels": 48}
    options = {"data": args.data, "images": args.images, "out": args.out}
    run = sf.train("quickstart", discriminator=discriminator, objective="hinge", **options)
    print(run, run.images)


if __name__ == "__main__":
    main()
