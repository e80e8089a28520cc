"""The command line: a group of commands, each in a module of `stackflower.commands` that is imported when used."""

from __future__ import annotations

from stackflower import __version__
from stackflower.commands.console import LazyGroup, version_option

main = LazyGroup(
    "stackflower",
    help="Train, sample and evaluate text-to-image GANs of the StackGAN family.",
    commands={
        "train": "stackflower.commands.train:train",
        "sample": "stackflower.commands.sample:sample",
        "eval": "stackflower.commands.evaluate:evaluate",
        "push": "stackflower.commands.push:push",
        "export": "stackflower.commands.export:export",
        "report": "stackflower.commands.report:report",
        "demo": "stackflower.commands.demo:demo",
        "data": "stackflower.commands.data:data",
        "train-text": "stackflower.commands.train_text:train_text",
        "train-classifier": "stackflower.commands.train_classifier:train_classifier",
        "embed": "stackflower.commands.embed:embed",
        "ls": "stackflower.commands.ls:ls",
    },
    params=[version_option(__version__)],
)
