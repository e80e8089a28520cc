"""Controls that several tabs share, and what they do without a request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stackflower.demo.messages import show_errors
from stackflower.demo.models import Models
from stackflower.demo.values import MAX_SEED, MAX_TRUNCATION

ROLL = f"() => Math.floor(Math.random() * {min(MAX_SEED, 10**6)})"  # short seeds are easier to note down
# options of events that only change the page
QUIET: dict[str, Any] = {"api_visibility": "private", "queue": False, "show_progress": "hidden"}
WORKER = "models"  # concurrency id of everything that a model does: one request at a time


def add_model(models: Models, label: str = "Model", index: int = 0) -> Any:
    """Add the choice of a model, which is hidden if only one is offered.

    Args:
        models: models of the demo.
        label: label of the control.
        index: position of the default among the models.
    """
    import gradio as gr

    return gr.Dropdown(
        models.choices,
        value=models.names[min(index, len(models.names) - 1)],
        label=label,
        visible=len(models.names) > 1,
        filterable=False,
    )


def add_caption(label: str = "Caption", placeholder: str = "Describe an image", value: str = "") -> Any:
    """Add a field for a caption; Shift and Enter submit it."""
    import gradio as gr

    return gr.Textbox(label=label, placeholder=placeholder, value=value, lines=2, max_lines=5)


def add_examples(captions: Sequence[str], caption: Any) -> Any:
    """Add example captions that fill a field when they are clicked.

    Args:
        captions: the examples.
        caption: field for the caption.

    Returns:
        The component, whose ``samples`` can be updated.
    """
    import gradio as gr

    examples = gr.Dataset(
        components=[caption],
        samples=[[text] for text in captions],
        label="Examples",
        layout="gallery",
        elem_classes="examples",
        container=False,
    )
    examples.click(lambda sample: sample[0], examples, caption, **QUIET)
    return examples


def add_seed(label: str = "Seed", optional: bool = False) -> Any:
    """Add a seed with a button that rolls a random one in the browser.

    Args:
        label: label of the field.
        optional: whether the field may be empty, as it is at first; it is then a field for text.
    """
    import gradio as gr

    with gr.Row(elem_classes="seed", equal_height=True):
        if optional:
            seed = gr.Textbox("", label=label, placeholder="The same seed", max_lines=1, min_width=80, scale=1)
        else:
            seed = gr.Number(0, label=label, precision=0, minimum=0, maximum=MAX_SEED, min_width=80, scale=1)
        dice = gr.Button("Roll", elem_classes="dice", size="sm", min_width=44, scale=0)
    js = f"() => String(({ROLL})())" if optional else ROLL
    dice.click(None, None, seed, js=js, **QUIET)
    return seed


def add_truncation() -> Any:
    """Add the truncation of the noise."""
    import gradio as gr

    return gr.Slider(
        0,
        MAX_TRUNCATION,
        0,
        step=0.1,
        label="Truncation",
        info="Lower values: more typical, less varied images. 0: off.",
        buttons=[],
    )


def add_notes() -> Any:
    """Add a field for notes about a request, such as words that the text encoder does not know; hidden if empty."""
    import gradio as gr

    return gr.Textbox(label="Notes", interactive=False, visible=False, lines=1, max_lines=6, elem_classes="notes")


def reveal(done: Any, notes: Any, *results: Any) -> None:
    """Show the results of a request once it has succeeded, and its notes if it has any.

    The request itself returns plain values, which API clients receive.

    Args:
        done: dependency that `connect` returned.
        notes: field of `add_notes`.
        results: components that are hidden until the first result.
    """
    import gradio as gr

    done.success(
        lambda text: [gr.update(visible=bool(text)), *[gr.update(visible=True)] * len(results)],
        notes,
        [notes, *results],
        **QUIET,
    )


def format_notes(notes: Sequence[str]) -> str:
    """Join notes, one sentence each, without repetitions.

    Args:
        notes: sentences.
    """
    return "\n".join(dict.fromkeys(notes))


def add_gallery(label: str, columns: int, **options: Any) -> Any:
    """Add a gallery of images, which are downloaded as PNG.

    Args:
        label: label of the gallery.
        columns: number of images side by side.
        options: further options of ``gradio.Gallery``.
    """
    import gradio as gr

    options = {"height": "auto", "object_fit": "contain", "buttons": ["download", "fullscreen"], **options}
    options["elem_classes"] = ["images", *options.get("elem_classes", [])]
    return gr.Gallery(label=label, columns=columns, format="png", interactive=False, **options)


def connect(triggers: Sequence[Any], function: Any, inputs: Sequence[Any], outputs: Sequence[Any], name: str) -> Any:
    """Call a function with raw values of controls, one request at a time, and offer it as ``/name`` to API clients.

    Values reach the function unchecked, so that its own messages name the controls.

    Args:
        triggers: events, such as ``button.click``.
        function: event listener; a StackflowerError is shown as a pop-up.
        inputs: controls, in the order of the function's parameters.
        outputs: components for the results; the first also shows that the function runs.
        name: name in the API.
    """
    import gradio as gr

    return gr.on(
        triggers,
        show_errors(function),
        list(inputs),
        list(outputs),
        api_name=name,
        preprocess=False,
        show_progress_on=outputs[0],
        concurrency_limit=1,
        concurrency_id=WORKER,
        trigger_mode="once",
    )
