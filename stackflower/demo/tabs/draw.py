"""The tab that draws images for a caption."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stackflower.demo import controls
from stackflower.demo.files import make_file_stem, make_result_folder, write_archive, write_images
from stackflower.demo.messages import show_errors, spell
from stackflower.demo.models import DemoModel, Models
from stackflower.demo.requests import DEFAULT_IMAGES, draw, read_draw_request
from stackflower.demo.tabs import Context, Tab
from stackflower.demo.values import MAX_CANDIDATES, MAX_IMAGES

BEST_OF_INFO = "Draws K candidates per image and keeps the one that the discriminator scores highest."


@dataclass(frozen=True)
class Inputs:
    """Controls of the tab."""

    model: Any
    caption: Any
    examples: Any
    images: Any
    seed: Any
    truncation: Any
    best_of: Any
    side_by_side: Any
    button: Any


@dataclass(frozen=True)
class Outputs:
    """Components for the results."""

    gallery: Any
    notes: Any
    command: Any
    command_box: Any
    archive: Any


def build(context: Context) -> None:
    """Add the components of the tab, and connect them."""
    import gradio as gr

    with gr.Row(elem_classes="panes"):
        with gr.Column(scale=2, min_width=300):
            inputs = _add_inputs(context.models)
        with gr.Column(scale=5, min_width=320):
            outputs = _add_outputs()
    _connect(context, inputs, outputs)
    _follow_model(context.models, inputs)


def _add_inputs(models: Models) -> Inputs:
    import gradio as gr

    first = models.run(models.get, models.names[0])
    model = controls.add_model(models)
    caption = controls.add_caption(value=first.captions[0])
    examples = controls.add_examples(first.captions, caption)
    images = gr.Slider(1, MAX_IMAGES, DEFAULT_IMAGES, step=1, label="Images", buttons=[])
    seed = controls.add_seed()
    with gr.Accordion("More", open=False):
        truncation = controls.add_truncation()
        best_of = gr.Slider(1, MAX_CANDIDATES, 1, step=1, label="Best of", buttons=[], **_describe_best_of(first))
        joined = gr.Checkbox(False, label="All stages side by side", visible=first.has_several_resolutions)
    button = gr.Button("Draw", variant="primary", elem_id="draw")
    return Inputs(model, caption, examples, images, seed, truncation, best_of, joined, button)


def _add_outputs() -> Outputs:
    import gradio as gr

    gallery = controls.add_gallery("Images", 4, elem_id="drawn", show_label=False)
    notes = controls.add_notes()
    with gr.Group(visible=False) as command_box:
        command = gr.Textbox(
            label="Command that reproduces the images",
            interactive=False,
            lines=1,
            max_lines=4,
            buttons=["copy"],
            elem_classes="command",
        )
    archive = gr.DownloadButton("Download all as PNG", visible=False, size="md")
    return Outputs(gallery, notes, command, command_box, archive)


def _connect(context: Context, inputs: Inputs, outputs: Outputs) -> None:
    """Draw when the button is clicked or the caption is submitted."""
    import gradio as gr

    def run(
        caption: str, images: int, seed: int, truncation: float, best_of: int, side_by_side: bool, model: str
    ) -> tuple[Any, ...]:
        """Draw images for a caption; return the images, the command that reproduces them, an archive and notes."""
        request = read_draw_request(model, caption, images, seed, truncation, best_of, side_by_side)
        drawn = draw(context.models, request)
        command = context.format_command(request)
        folder, stem = make_result_folder(context.folder), f"{make_file_stem(request.caption)}-seed{request.seed}"
        paths = write_images(drawn.images, folder, stem, command)
        return paths, command, write_archive(paths, folder, stem, command), controls.format_notes(drawn.notes)

    done = controls.connect(
        [inputs.button.click, inputs.caption.submit],
        run,
        [
            inputs.caption,
            inputs.images,
            inputs.seed,
            inputs.truncation,
            inputs.best_of,
            inputs.side_by_side,
            inputs.model,
        ],
        [outputs.gallery, outputs.command, outputs.archive, outputs.notes],
        "draw",
    )
    controls.reveal(done, outputs.notes, outputs.command_box, outputs.archive)
    quiet = controls.QUIET
    done.success(lambda joined: gr.Gallery(columns=2 if joined else 4), inputs.side_by_side, outputs.gallery, **quiet)


def _follow_model(models: Models, inputs: Inputs) -> None:
    """Adapt the controls when another model is chosen."""
    import gradio as gr

    def choose(name: str) -> tuple[Any, ...]:
        chosen = models.run(models.get, name)
        return (
            gr.Dataset(samples=[[text] for text in chosen.captions]),
            gr.Slider(value=1, **_describe_best_of(chosen)),
            gr.Checkbox(value=False, visible=chosen.has_several_resolutions),
        )

    inputs.model.change(
        show_errors(choose),
        inputs.model,
        [inputs.examples, inputs.best_of, inputs.side_by_side],
        api_visibility="private",
        concurrency_id=controls.WORKER,
        concurrency_limit=1,
        show_progress="minimal",
    )


def _describe_best_of(model: DemoModel) -> dict[str, Any]:
    """Return what the control of `best_of` says, and whether it can be used."""
    return {"info": spell(model.best_of_problem) or BEST_OF_INFO, "interactive": not model.best_of_problem}


tab = Tab("Draw", 1, build)
