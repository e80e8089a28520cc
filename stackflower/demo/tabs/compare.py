"""The tab that shows two models for the same caption and noise."""

from __future__ import annotations

from typing import Any

from stackflower.demo import controls
from stackflower.demo.files import make_file_stem, make_result_folder, write_images
from stackflower.demo.requests import DEFAULT_IMAGES, compare, read_draw_request
from stackflower.demo.tabs import Context, Tab
from stackflower.demo.values import MAX_IMAGES, read_integer

ONE_MODEL = "The demo was started with one model; start it with two to compare them."


def build(context: Context) -> None:
    """Add the controls of the tab, and connect them."""
    import gradio as gr

    models = context.models
    captions = models.run(models.get, models.names[0]).captions
    most = MAX_IMAGES // 2
    with gr.Row(elem_classes="panes"):
        with gr.Column(scale=2, min_width=300):
            if len(models.names) == 1:
                gr.Markdown(ONE_MODEL, elem_classes="hint")
            model = controls.add_model(models, "First model")
            other_model = controls.add_model(models, "Second model", 1)
            caption = controls.add_caption(value=captions[0])
            controls.add_examples(captions, caption)
            images = gr.Slider(1, most, DEFAULT_IMAGES, step=1, label="Images", buttons=[])
            seed = controls.add_seed()
            with gr.Accordion("More", open=False):
                truncation = controls.add_truncation()
            button = gr.Button("Compare", variant="primary", interactive=len(models.names) > 1, elem_id="compare")
        with gr.Column(scale=5, min_width=320):
            first = controls.add_gallery("First model", 4, elem_id="first", elem_classes=["labelled"])
            second = controls.add_gallery("Second model", 4, elem_id="second", elem_classes=["labelled"])
            notes = controls.add_notes()

    def run(caption: str, images: int, seed: int, truncation: float, model: str, other_model: str) -> tuple[Any, ...]:
        count = read_integer("images", images, 1, most)
        requests = [
            read_draw_request(name, caption, count, seed, truncation, 1, False) for name in (model, other_model)
        ]
        *drawn, different = compare(models, (requests[0], requests[1]))
        folder, stem = make_result_folder(context.folder), f"{make_file_stem(caption)}-seed{requests[0].seed}"
        galleries = [
            write_images(result.images, folder, f"{stem}-{order}", context.format_command(request))
            for order, request, result in zip("ab", requests, drawn, strict=True)
        ]
        return *galleries, controls.format_notes([*different, *drawn[0].notes, *drawn[1].notes])

    inputs = [caption, images, seed, truncation, model, other_model]
    done = controls.connect([button.click, caption.submit], run, inputs, [first, second, notes], "compare")
    controls.reveal(done, notes)
    labels = {name: label for label, name in models.choices}
    done.success(
        lambda *names: [gr.Gallery(label=labels[name]) for name in names],
        [model, other_model],
        [first, second],
        **controls.QUIET,
    )


tab = Tab("Compare", 3, build)
