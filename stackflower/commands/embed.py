"""``stackflower embed``: compute sentence embeddings."""

from __future__ import annotations

import click

from stackflower.commands.console import Command, show
from stackflower.commands.options import format_examples, json_option


@click.command(
    cls=Command,
    settings={"file": "captions"},
    epilog=format_examples(
        'stackflower embed "a red flower" "a crimson bloom"', "stackflower embed --captions captions.txt --out e.npy"
    ),
)
@click.argument("captions", nargs=-1)
@click.option(
    "--captions",
    "file",
    metavar="FILE",
    help="Text file with one caption per line, or a metadata.jsonl, of which all captions are used.",
)
@click.option("--text", default="ngram", show_default=True, metavar="NAME|MODEL", help="Text encoder.")
@click.option(
    "--out",
    metavar="FILE",
    help="File for the embeddings, float32 (N, T): .safetensors, which includes the captions, or .npy.",
)
@json_option
def embed(captions: tuple[str, ...], file: str | None, text: str, out: str | None, as_json: bool) -> None:
    """Compute sentence embeddings of unit length."""
    from stackflower.data.caption_files import collect_captions
    from stackflower.runs.trained_text import find_text_encoder
    from stackflower.text.files import embed_captions, save_embeddings

    sentences = collect_captions(captions, file, every=True)
    table = embed_captions(sentences, find_text_encoder(text) or {})
    if out is not None:
        save_embeddings(table, sentences, out)
        values = {"file": out, "captions": len(sentences), "dimensions": table.shape[1]}
        show(values, as_json, lambda: f"{out}: {len(sentences)} × {table.shape[1]}")
        return
    lines = [f"{len(sentences)} captions, {table.shape[1]} dimensions; cosine similarities:"]
    lines += [
        "  ".join(f"{value:5.2f}" for value in row) + f"  {caption}"
        for row, caption in zip(table @ table.T, sentences, strict=True)
    ][:20]
    show({"captions": sentences, "embeddings": table.tolist()}, as_json, lambda: "\n".join(lines))
