"""Helpers and fixtures of all tests: a cache folder of their own, a fresh state of Accelerate, tiny runs."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from click.testing import CliRunner, Result
from sample_data import write_folder, write_picture

from stackflower.evaluation.classifier.files import save_classifier
from stackflower.evaluation.classifier.network import DomainClassifier
from stackflower.features.base import Features

ROOT = Path(__file__).resolve().parent.parent  # of the repository

# Marks tests that send signals to processes, or read or set their limits.
posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and limits")


def symlink(link: Path, target: Path | str) -> None:
    """Make a symbolic link; skip the test where the system does not allow it, as Windows without privileges."""
    try:
        link.symlink_to(target, target_is_directory=(link.parent / target).is_dir())
    except OSError as error:
        pytest.skip(f"symbolic links can't be made here: {error}")


def settings(*pairs: str) -> list[str]:
    """Return command-line arguments that set each ``name=value``."""
    return [part for pair in pairs for part in ("--set", pair)]


TINY_NETWORKS = [
    *settings("generator.resolution=16", "generator.channels=4", "discriminator.channels=4", "conditioning.dim=8"),
    *settings("train.load_size=64"),
    *("--batch-size", "8", "--mixed-precision", "no"),
]
FEW = settings("data.count=48", "data.validation=16", "data.test=16")
TINY = [*TINY_NETWORKS, *FEW, *settings("text.dim=64")]
ATTENTION = [
    "--generator",
    "attention",
    *settings("generator.scales=2", "generator.blocks=1", "generator.resolution=32"),
]


class Pyramid(torch.nn.Module):
    """Network of three feature maps, at strides 4, 8 and 16, that needs no extra packages."""

    def __init__(self) -> None:
        super().__init__()
        widths = ((3, 6, 4), (6, 8, 2), (8, 10, 2))
        self.layers = torch.nn.ModuleList(torch.nn.Conv2d(a, b, 2 * s - 1, s, s - 1) for a, b, s in widths)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the maps, from fine to coarse."""
        maps = []
        for layer in self.layers:
            x = torch.nn.functional.leaky_relu(layer(x), 0.1)
            maps.append(x)
        return maps


def tiny_features() -> Features:
    """Build features with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Features(Pyramid(), (0.5,) * 3, (0.5,) * 3, "tiny", 32)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep the cache of this session in a folder of its own, and the Hugging Face hub offline."""
    folder = tmp_path_factory.mktemp("cache")
    before = dict(os.environ)
    os.environ |= {"STACKFLOWER_CACHE": str(folder), "HF_HUB_OFFLINE": "1"}
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    yield folder
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def projected_flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the flags of a tiny projected discriminator on a torchvision network with random weights."""
    from torchvision.models import shufflenet_v2_x0_5

    path = tmp_path_factory.mktemp("features") / "weights.pt"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(shufflenet_v2_x0_5(weights=None).state_dict(), path)
    network = ("features.name=torchvision", "features.model=shufflenet_v2_x0_5", f"features.weights={path}")
    sizes = ("features.size=64", "discriminator.size=64", "discriminator.mixing=8", "discriminator.pixels=4")
    return ["--discriminator", "projected", *settings(*network, *sizes)]


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    """Reset the state that Accelerate keeps in the process, after every test."""
    yield
    AcceleratorState._reset_state()
    PartialState._reset_state()


@pytest.fixture
def stackflower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Return a function that runs a command in this process, in an empty folder."""
    from stackflower.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "stackflower.utils.devices.has_accelerator", lambda: False
    )  # the same tests on a machine with a GPU

    def run(*arguments: object, code: int = 0) -> Result:
        AcceleratorState._reset_state()
        PartialState._reset_state()
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result

    return run


@pytest.fixture
def shell(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs a Python module in a process of its own."""

    def run(*arguments: object, timeout: float = 300, **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *map(str, arguments)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=timeout,
            **options,
        )  # type: ignore[call-overload]

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a tiny run, shared by the tests that only read it."""
    from stackflower.cli import main

    folder = tmp_path_factory.mktemp("trained") / "run"
    result = CliRunner().invoke(main, ["train", "--images", "96", "--out", str(folder), *TINY])
    AcceleratorState._reset_state()
    PartialState._reset_state()
    assert result.exit_code == 0, result.output
    return folder


def real_data() -> Path:
    """Return the folder that the environment variable ``STACKFLOWER_REAL_DATA`` names, or skip the test."""
    folder = os.environ.get("STACKFLOWER_REAL_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("the environment variable STACKFLOWER_REAL_DATA does not name a folder of photographs")
    return Path(folder)


def find_free_port() -> int:
    """Return a port of 127.0.0.1 that no other process uses."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def write_random_images(folder: Path, count: int, size: tuple[int, int] = (20, 20)) -> None:
    """Fill a folder with images of random pixels, `size` (width, height)."""
    from PIL import Image

    folder.mkdir(exist_ok=True)
    for number in range(count):
        pixels = torch.randint(0, 256, (size[1], size[0], 3), dtype=torch.uint8).numpy()
        Image.fromarray(pixels).save(folder / f"{size[0]}-{number:03d}.png")


@pytest.fixture
def domain_flags(stackflower, tmp_path: Path) -> list[str]:
    """Make a data set, and return the flags that score images with a classifier of random weights on it.

    The data set has 120 validation images; the classifier also compares images with captions.
    """
    torch.manual_seed(0)
    heads = {"label": ("a", "b", "c"), "colour": ("red", "blue")}
    model = DomainClassifier(heads=heads, resolution=16, width=4, text={"name": "ngram", "dim": 32}, text_dim=32)
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.constant_(layer.weight, 4)  # so that differences of scores exceed rounding errors
    save_classifier(model, tmp_path / "j.safetensors")
    counts = ("--count", 40, "--validation", 120, "--test", 30, "--resolution", 64)
    stackflower("data", "make", "synthetic-flowers", "--out", "data", *counts)
    return ["--data", "data", "--split", "validation", "--extractor", "domain", "--weights", "j.safetensors"]


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """Make an image folder of twelve images with labels and captions in several scripts, and return it."""
    for number in range(12):
        write_picture(tmp_path / "good" / f"{number}.jpg")
    captions = ["a red flower", "une fleur rouge", "红色的花", "گل سرخ", "красный цветок", "🌹 rose"]
    rows = [
        {
            "file_name": f"{n}.jpg",
            "text": captions if n % 2 else captions[n // 2],
            "label": n % 3,
            "class_name": f"class {n % 3}",
        }
        for n in range(12)
    ]
    return write_folder(tmp_path / "good", rows)
