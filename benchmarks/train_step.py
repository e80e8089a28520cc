"""Compare the training step of the paper's Stage-I at batch size 64 with a plain implementation.

    python benchmarks/train_step.py --steps 5

The plain implementation uses eager float32, contiguous memory, separate upsampling and convolution, and unfused
optimizers. It runs the trunk again for the mismatched pair. Both implementations are measured in one process. Across
machines, compare only the ratio and the shares. Run this script on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stackflower.build import build_source, build_stage, compute_load_size
from stackflower.config.merge import merge
from stackflower.config.resolve import resolve
from stackflower.data.prepared import Prepared
from stackflower.data.source import Rows
from stackflower.recipes.load import load_recipe
from stackflower.runs.folder import Run
from stackflower.training.accelerator import keep_memory, make_accelerator
from stackflower.training.batches.assembly import Batches
from stackflower.training.batches.batch import Drawing
from stackflower.training.batches.prepared import PreparedBatches
from stackflower.training.cost import count_costs
from stackflower.training.logger import RunLogger
from stackflower.training.networks import Networks
from stackflower.training.schedules import Length
from stackflower.training.trainer import Trainer
from stackflower.utils.devices import describe_device, get_process_state, resolve_precision

TEXT = 1024


class PlainGenerator(nn.Module):
    """Stage-I with conditioning augmentation, in plain PyTorch."""

    def __init__(self, width: int = 128, condition: int = 128, noise: int = 100):
        super().__init__()
        self.width, self.condition = width, condition
        self.text = nn.Linear(TEXT, 2 * condition)
        self.dense = nn.Sequential(
            nn.Linear(condition + noise, width * 8 * 16, bias=False), nn.BatchNorm1d(width * 128), nn.ReLU()
        )
        blocks: list[nn.Module] = []
        for level in range(4):
            channels = width * 8 // 2**level
            blocks += [
                nn.Upsample(scale_factor=2),
                nn.Conv2d(channels, channels // 2, 3, 1, 1, bias=False),
                nn.BatchNorm2d(channels // 2),
                nn.ReLU(),
            ]
        self.blocks = nn.Sequential(*blocks, nn.Conv2d(width // 2, 3, 3, 1, 1, bias=False), nn.Tanh())

    def forward(self, embedding: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = F.leaky_relu(self.text(embedding), 0.2).chunk(2, 1)
        condition = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        images = self.blocks(self.dense(torch.cat([condition, noise], 1)).reshape(-1, self.width * 8, 4, 4))
        return images, mean, 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()


class PlainDiscriminator(nn.Module):
    """Stage-I's discriminator, in plain PyTorch."""

    def __init__(self, width: int = 64, condition: int = 128):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for level in range(3):
            channels = width * 2**level
            layers += [
                nn.Conv2d(channels, 2 * channels, 4, 2, 1, bias=False),
                nn.BatchNorm2d(2 * channels),
                nn.LeakyReLU(0.2),
            ]
        self.trunk = nn.Sequential(*layers)
        channels = width * 8
        self.joint = nn.Sequential(
            nn.Conv2d(channels + condition, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.LeakyReLU(0.2),
            nn.Conv2d(channels, 1, 4),
        )

    def forward(self, images: Tensor, condition: Tensor) -> Tensor:
        features = self.trunk(images)
        return self.joint(torch.cat([features, condition[:, :, None, None].expand(-1, -1, 4, 4)], 1)).flatten()


def make_plain_step(device: torch.device, batch: int) -> Callable[[], None]:
    """Return a function that runs a training step in plain PyTorch."""
    generator, discriminator = PlainGenerator().to(device), PlainDiscriminator().to(device)
    optimizers = [
        torch.optim.Adam(m.parameters(), 2e-4, (0.5, 0.999), foreach=False, fused=False)
        for m in (generator, discriminator)
    ]
    real, embedding = torch.rand(batch, 3, 64, 64, device=device) * 2 - 1, torch.randn(batch, TEXT, device=device)
    ones, zeros = torch.ones(batch, device=device), torch.zeros(batch, device=device)
    bce = F.binary_cross_entropy_with_logits

    def step() -> None:
        images, mean, kl = generator(embedding, torch.randn(batch, 100, device=device))
        condition = mean.detach()
        loss = bce(discriminator(real, condition), ones) + 0.5 * (
            bce(discriminator(real, condition.roll(1, 0)), zeros)
            + bce(discriminator(images.detach(), condition), zeros)
        )
        optimizers[1].zero_grad()
        loss.backward()
        optimizers[1].step()
        loss = bce(discriminator(images, condition), ones) + 2 * kl
        optimizers[0].zero_grad()
        loss.backward()
        optimizers[0].step()

    return step


def build_trainer(folder: str, batch: int, images: int = 2048) -> Trainer:
    """Build the trainer of the recipe `stackgan` on random images in memory."""
    settings = {"train.batch_size": batch, "text.dim": TEXT, "output.log_every": 1_000_000}
    config = resolve(merge(load_recipe("stackgan"), {}, settings))
    accelerator = make_accelerator(config)
    keep_memory()
    rows = Rows(captions=[["a flower"] * 5] * images, labels=[number % 50 for number in range(images)])

    size = compute_load_size(config, build_stage(config, TEXT), build_source(config))
    data = Prepared(torch.randint(0, 255, (images, size, size, 3), dtype=torch.uint8), rows, "")
    embeddings = torch.randn(5 * images, TEXT)

    def batches(drawing: Drawing) -> Batches:
        return PreparedBatches(data, embeddings.to(accelerator.device).__getitem__, drawing, accelerator.device)

    run = Run(folder)
    logger = RunLogger(run, accelerator, ["a flower"], torch.zeros(1, TEXT), 0)
    networks = Networks(config, accelerator, batches, TEXT)
    return Trainer(config, run, networks, logger, Length.from_total(10**9))


def time_calls(step: Callable[[], object], steps: int, device: torch.device) -> float:
    """Measure the mean seconds per call."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    wait()
    began = time.perf_counter()
    for _ in range(steps):
        step()
    wait()
    return (time.perf_counter() - began) / steps


def time_median(step: Callable[[], object], steps: int, rounds: int, device: torch.device) -> float:
    """Measure the median over rounds of the mean seconds per call, after two warm-up calls."""
    time_calls(step, 2, device)
    return sorted(time_calls(step, steps, device) for _ in range(rounds))[rounds // 2]


def measure_matrix_rate(dtype: torch.dtype, device: torch.device, size: int = 2048) -> float:
    """Measure the best FLOP/s of a square matrix product in `dtype`."""
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    time_calls(lambda: left @ right, 3, device)
    return max(2 * size**3 / time_calls(lambda: left @ right, 3, device) for _ in range(5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5, help="steps of each implementation in a round")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; the median is reported")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # time the plain step before Stackflower changes the settings of malloc (`keep_memory`)
        device = get_process_state().device
        plain_seconds = time_median(make_plain_step(device, args.batch_size), args.steps, args.rounds, device)
        trainer = build_trainer(str(Path(folder) / "run"), args.batch_size)
        our_seconds = time_median(trainer.train_step, args.steps, args.rounds, device)
        batch_seconds = time_calls(lambda: trainer.networks.batches(trainer.images, args.batch_size), 20, device)
        precision = resolve_precision("auto")
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        matrix_rate = measure_matrix_rate(dtype, device)
        executed_flops = count_costs(trainer.config, TEXT)["step_flops"]
    nominal_flops = count_nominal_flops(args.batch_size)
    results = {
        "device": describe_device(precision),
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "plain_images_per_second": args.batch_size / plain_seconds,
        "images_per_second": args.batch_size / our_seconds,
        "ratio": plain_seconds / our_seconds,
        "matrix_product_gflops": matrix_rate / 1e9,
        "share_of_matrix_rate": nominal_flops / our_seconds / matrix_rate,
        "share_of_matrix_rate_executed": executed_flops / our_seconds / matrix_rate,
        "data_pipeline_share": batch_seconds / our_seconds,
    }
    if args.json:
        print(json.dumps(results))
    else:
        for name, value in results.items():
            print(f"{name:<32}{value:.3f}" if isinstance(value, float) else f"{name:<32}{value}")


def count_nominal_flops(batch: int) -> float:
    """Count the FLOPs of a step with the paper's networks.

    They are counted on the plain networks, with one pass of the trunk over the real images.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        generator, discriminator = PlainGenerator(), PlainDiscriminator()
        embedding, real = torch.empty(2, TEXT), torch.empty(2, 3, 64, 64)
        with FlopCounterMode(display=False) as counter:
            images, mean, kl = generator(embedding, torch.empty(2, 100))
            condition = mean.detach()
            features = [discriminator.trunk(real), discriminator.trunk(images.detach())]
            condition_map = condition[:, :, None, None].expand(-1, -1, 4, 4)
            pairs = [features[0], features[0], features[1]]
            torch.stack([discriminator.joint(torch.cat([f, condition_map], 1)).sum() for f in pairs]).sum().backward()
            discriminator.requires_grad_(False)
            (discriminator(images, condition).sum() + kl).backward()
    return counter.get_total_flops() / 2 * batch


if __name__ == "__main__":
    main()
