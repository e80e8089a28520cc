"""``stackflower push``: upload a model to the Hugging Face Hub."""

from __future__ import annotations

import click

from stackflower.commands.console import Command, show
from stackflower.commands.options import checkpoint_option, format_examples, json_option, model_options
from stackflower.commands.streams import decode_argument


@click.command(
    cls=Command,
    epilog=format_examples(
        "stackflower push runs/quickstart-1 ada/synthetic-flowers --license cc0-1.0",
        "stackflower push runs/photographs-1 ada/my-flowers --private --half",
    ),
)
@click.argument("model")
@click.argument("repository")
@click.option("--private", is_flag=True, help="Create a private repository.")
@model_options
@checkpoint_option
@json_option
def push(
    model: str,
    repository: str,
    private: bool,
    captions: tuple[str, ...],
    half: bool,
    data_name: str | None,
    license: str | None,
    checkpoint: str | None,
    as_json: bool,
) -> None:
    """Upload MODEL, a run or a model folder, to REPOSITORY on the Hugging Face Hub, such as ada/flowers.

    The repository gets the files that `stackflower export` writes. Log in first, with `hf auth login`.
    """
    from stackflower.models.hub import check_access
    from stackflower.pipeline import Pipeline

    check_access(repository)
    pipeline = Pipeline.from_pretrained(model, "cpu", checkpoint=checkpoint)
    address = pipeline.push_to_hub(
        repository,
        private=private,
        half=half,
        captions=[decode_argument(caption) for caption in captions] or None,
        data=data_name,
        license=license,
    )
    show({"url": address}, as_json, lambda: address)
