"""The tab that draws images for a caption."""

from __future__ import annotations

from typing import Any

from stackflower.demo import controls
from stackflower.demo.files import make_file_stem, make_result_folder, write_archive, write_images
from stackflower.demo.messages import show_errors, spell
from stackflower.demo.models import DemoModel
from stackflower.demo.requests import DEFAULT_IMAGES, draw, read_draw_request
from stackflower.demo.tabs import Context, Tab
from stackflower.demo.values import MAX_CANDIDATES, MAX_IMAGES

BEST_OF_INFO = "Draws K candidates per image and keeps the one that the discriminator scores highest."


def build(context: Context) -> None:
    """Add the controls of the tab, and connect them."""
    import gradio as gr

    models = context.models
    first = models.run(models.get, models.names[0])
    with gr.Row(elem_classes="panes"):
        with gr.Column(scale=2, min_width=300, elem_classes="controls"):
            model = controls.add_model(models)
            caption = controls.add_caption(value=first.captions[0])
            examples = controls.add_examples(first.captions, caption)
            images = gr.Slider(1, MAX_IMAGES, DEFAULT_IMAGES, step=1, label="Images", buttons=[])
            seed = controls.add_seed()
            with gr.Accordion("More", open=False):
                truncation = controls.add_truncation()
                best_of = gr.Slider(
                    1, MAX_CANDIDATES, 1, step=1, label="Best of", buttons=[], **_describe_best_of(first)
                )
                side_by_side = gr.Checkbox(
                    False, label="All stages side by side", visible=first.has_several_resolutions
                )
            button = gr.Button("Draw", variant="primary", elem_id="draw")
        with gr.Column(scale=5, min_width=320):
            gallery = controls.add_gallery("Images", 4, elem_id="drawn", show_label=False)
            notes = controls.add_notes()
            with gr.Group(visible=False) as result:
                command = gr.Textbox(
                    label="Command that reproduces the images",
                    interactive=False,
                    lines=1,
                    max_lines=4,
                    buttons=["copy"],
                    elem_classes="command",
                )
            archive = gr.DownloadButton("Download all as PNG", visible=False, size="md")

    def run(
        caption: str, images: int, seed: int, truncation: float, best_of: int, side_by_side: bool, model: str
    ) -> tuple[Any, ...]:
        request = read_draw_request(model, caption, images, seed, truncation, best_of, side_by_side)
        drawn = draw(models, request)
        text = context.format_command(request)
        folder, stem = make_result_folder(context.folder), f"{make_file_stem(request.caption)}-seed{request.seed}"
        paths = write_images(drawn.images, folder, stem, text)
        packed = write_archive(paths, folder, stem, text)
        return paths, text, packed, controls.format_notes(drawn.notes)

    inputs = [caption, images, seed, truncation, best_of, side_by_side, model]
    done = controls.connect([button.click, caption.submit], run, inputs, [gallery, command, archive, notes], "draw")
    controls.reveal(done, notes, result, archive)
    quiet: dict[str, Any] = {"api_visibility": "private", "queue": False, "show_progress": "hidden"}
    done.success(lambda joined: gr.Gallery(columns=1 if joined else 4), side_by_side, gallery, **quiet)

    def choose(name: str) -> tuple[Any, ...]:
        chosen = models.run(models.get, name)
        return (
            gr.Dataset(samples=[[text] for text in chosen.captions]),
            gr.Slider(value=1, **_describe_best_of(chosen)),
            gr.Checkbox(value=False, visible=chosen.has_several_resolutions),
        )

    model.change(
        show_errors(choose),
        model,
        [examples, best_of, side_by_side],
        api_visibility="private",
        concurrency_id=controls.WORKER,
        concurrency_limit=1,
        show_progress="minimal",
    )


def _describe_best_of(model: DemoModel) -> dict[str, Any]:
    """Return what the control of `best_of` says, and whether it can be used."""
    return {"info": spell(model.best_of_problem) or BEST_OF_INFO, "interactive": not model.best_of_problem}


tab = Tab("Draw", 1, build)
