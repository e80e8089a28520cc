"""The tab that leads from one caption or seed to another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stackflower.demo import controls
from stackflower.demo.files import ANIMATIONS, make_file_stem, make_result_folder, write_animation, write_images
from stackflower.demo.requests import DEFAULT_FRAMES, interpolate, read_between_request
from stackflower.demo.tabs import Context, Tab
from stackflower.demo.values import MAX_IMAGES

# shows the frame at a position in percent; the browser has all frames, so that no request is needed
SCRUB = """(place, frames) => {
    if (!frames || !frames.length) return null;
    return frames[Math.round(place / 100 * (frames.length - 1))].image;
}"""


@dataclass(frozen=True)
class Outputs:
    """Components for the results."""

    shown: Any
    place: Any
    strip: Any
    notes: Any
    download: Any


def build(context: Context) -> None:
    """Add the components of the tab, and connect them."""
    import gradio as gr

    models = context.models
    captions = models.run(models.get, models.names[0]).captions
    with gr.Row(elem_classes="panes"):
        with gr.Column(scale=2, min_width=300):
            model = controls.add_model(models)
            caption = controls.add_caption("From", value=captions[0])
            end_caption = controls.add_caption("To", "The same caption", value=captions[-1])
            seed = controls.add_seed("From seed")
            end_seed = controls.add_seed("To seed", optional=True)
            with gr.Accordion("More", open=False):
                frames = gr.Slider(2, MAX_IMAGES, DEFAULT_FRAMES, step=1, label="Frames", buttons=[])
                truncation = controls.add_truncation()
                animation = gr.Radio(ANIMATIONS, value="GIF", label="Animation")
            button = gr.Button("Draw the way", variant="primary", elem_id="between")
        with gr.Column(scale=5, min_width=320):
            outputs = _add_outputs()
    inputs = [caption, end_caption, seed, end_seed, frames, truncation, animation, model]
    _connect(context, [button.click, caption.submit, end_caption.submit], inputs, outputs)


def _add_outputs() -> Outputs:
    import gradio as gr

    shown = gr.Image(
        label="Frame",
        show_label=False,
        interactive=False,
        format="png",
        buttons=["download"],
        elem_id="frame",
        height=384,
    )
    place = gr.Slider(0, 100, 0, step=0.5, label="Position in %", buttons=[], elem_id="scrub")
    strip = controls.add_gallery("Frames", 12, elem_id="strip", show_label=False, allow_preview=False, buttons=[])
    notes = controls.add_notes()
    download = gr.DownloadButton("Download the animation", visible=False, size="md")
    return Outputs(shown, place, strip, notes, download)


def _connect(context: Context, triggers: list[Any], inputs: list[Any], outputs: Outputs) -> None:
    """Draw the frames when the button is clicked or a caption is submitted, and scrub through them."""

    def run(
        caption: str,
        end_caption: str,
        seed: int,
        end_seed: str,
        frames: int,
        truncation: float,
        animation: str,
        model: str,
    ) -> tuple[Any, ...]:
        """Draw the frames between two captions, two seeds, or both; return them, an animation and notes."""
        request = read_between_request(model, caption, end_caption, seed, end_seed, frames, truncation, animation)
        drawn = interpolate(context.models, request)
        folder, stem = make_result_folder(context.folder), make_file_stem(" to ".join(request.captions))
        paths = write_images(drawn.images, folder, stem)
        film = write_animation(drawn.images, folder, stem, request.animation)
        return paths, film, controls.format_notes(drawn.notes)

    done = controls.connect(triggers, run, inputs, [outputs.strip, outputs.download, outputs.notes], "between")
    controls.reveal(done, outputs.notes, outputs.download)
    for listen in (done.success, outputs.place.input):
        listen(None, [outputs.place, outputs.strip], outputs.shown, js=SCRUB, **controls.QUIET)


tab = Tab("Between", 2, build)
