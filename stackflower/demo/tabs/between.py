"""The tab that leads from one caption or seed to another."""

from __future__ import annotations

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


def build(context: Context) -> None:
    """Add the controls of the tab, and connect them."""
    import gradio as gr

    models = context.models
    captions = models.run(models.get, models.names[0]).captions
    with gr.Row(elem_classes="panes"):
        with gr.Column(scale=2, min_width=300, elem_classes="controls"):
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
            strip = controls.add_gallery(
                "Frames", 12, elem_id="strip", show_label=False, allow_preview=False, buttons=[]
            )
            notes = controls.add_notes()
            download = gr.DownloadButton("Download the animation", visible=False, size="md")

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
        request = read_between_request(model, caption, end_caption, seed, end_seed, frames, truncation, animation)
        drawn = interpolate(models, request)
        folder, stem = make_result_folder(context.folder), make_file_stem(" to ".join(request.captions))
        paths = write_images(drawn.images, folder, stem)
        film = write_animation(drawn.images, folder, stem, request.animation)
        return paths, film, controls.format_notes(drawn.notes)

    inputs = [caption, end_caption, seed, end_seed, frames, truncation, animation, model]
    triggers = [button.click, caption.submit, end_caption.submit]
    done = controls.connect(triggers, run, inputs, [strip, download, notes], "between")
    controls.reveal(done, notes, download)
    for listen in (done.success, place.input):
        listen(None, [place, strip], shown, js=SCRUB, api_visibility="private", queue=False, show_progress="hidden")


tab = Tab("Between", 2, build)
