"""Export of a stage to ONNX, the format of ONNX Runtime and other inference libraries."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stackflower import __version__
from stackflower.errors import ComponentError, ConfigError, MissingDependency, ModelError, summarise_error
from stackflower.stages.base import Stage
from stackflower.utils.atomic import replacing, reporting_write_errors

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 18  # the lowest that torch's exporter translates to, so the most runtimes support it
EXAMPLE_BATCH = 3  # rows of the inputs that the network is traced with; any number other than 1 does
VERSION_KEY = "stackflower"  # metadata that every exported file has
LARGEST_HALF = 65504.0  # largest finite float16


class _Images(nn.Module):
    """Stage whose output is the images of all its resolutions, earlier stages included, lowest first."""

    def __init__(self, stage: Stage):
        super().__init__()
        self.stage = stage

    def forward(self, embedding: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        generated = self.stage(embedding, noise)
        return (*generated.previous, *generated.images)


def name_outputs(stage: Stage) -> list[str]:
    """Return the names of the outputs of an exported stage, such as ``images_64``, lowest resolution first."""
    return [f"images_{resolution}" for resolution in stage.all_resolutions]


def export_onnx(stage: Stage, text_dim: int, path: Path, *, half: bool = False) -> None:
    """Write a stage as an ONNX file.

    The inputs are ``embedding`` `(N, T)`, the output of the text encoder, and ``noise`` `(N, Z)`, both float32. The
    outputs are the images of all resolutions, earlier stages included, lowest first: ``images_64`` `(N, 3, 64, 64)` and
    so on, float32 in `[-1, 1]`. N is free. The metadata of the file are the version of Stackflower (``stackflower``),
    ``opset``, ``text_dim``, and, as JSON, ``resolutions`` and ``noise``, the distribution and size of each part of the
    noise.

    Args:
        stage: trained stage; it is set to evaluation mode.
        text_dim: size T of the text embeddings.
        path: file to write; an earlier export there is replaced.
        half: store weights as float16, which halves the file. Computations stay in float32.

    Raises:
        MissingDependency: onnx or onnxscript is not installed.
        ComponentError: the generator or the conditioning can't be exported.
        ConfigError: the file can't be written, or exists and is not an export.
    """
    onnx = _import_onnx()
    check_replaceable(path)
    model = _translate(stage.eval(), text_dim)
    _drop_traces(model)
    if half:
        _halve_weights(model)
    model.producer_name, model.producer_version = "stackflower", __version__
    onnx.helper.set_model_props(model, _describe(stage, text_dim))
    onnx.checker.check_model(model)
    with reporting_write_errors(path, ConfigError), replacing(path) as temporary:
        onnx.save_model(model, temporary)


def check_replaceable(path: Path) -> None:
    """Check that a file does not exist or is an earlier export.

    Raises:
        ConfigError: it is another file, or a folder.
    """
    if path.exists():
        try:
            read_metadata(path)
        except ModelError as error:
            raise ConfigError(f"{path} exists and is not an export of Stackflower. Choose another `out`.") from error


def read_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of an exported file.

    Args:
        path: file that `export_onnx` wrote.

    Raises:
        ModelError: the file is missing or was not exported by Stackflower.
        MissingDependency: onnx or onnxscript is not installed.
    """
    onnx = _import_onnx()
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model(path, load_external_data=False)
    except (OSError, DecodeError) as error:
        raise ModelError(f"{path} is not an ONNX file: {summarise_error(error)}") from error
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    if VERSION_KEY not in metadata:
        raise ModelError(f"{path} was not exported by Stackflower.")
    return metadata


def _import_onnx() -> Any:
    try:
        import onnx
        import onnxscript  # noqa: F401  (torch's exporter imports it)
    except ImportError:
        raise MissingDependency("onnx and onnxscript", "onnx", "The export to ONNX") from None
    return onnx


def _describe(stage: Stage, text_dim: int) -> dict[str, str]:
    return {
        VERSION_KEY: __version__,
        "opset": str(OPSET),
        "text_dim": str(text_dim),
        "resolutions": json.dumps(stage.all_resolutions),
        "noise": json.dumps(stage.noise_parts),
    }


def _translate(stage: Stage, text_dim: int) -> ModelProto:
    """Translate a stage with torch's exporter.

    Raises:
        ComponentError: an operation has no translation, or the number of images is not free.
    """
    device = next(iter(stage.state_dict().values())).device
    inputs = [torch.zeros(EXAMPLE_BATCH, size, device=device) for size in (text_dim, stage.noise_dim)]
    batch = torch.export.Dim("batch", min=1)
    try:
        with _silent_exporter():
            program = torch.onnx.export(
                _Images(stage),
                tuple(inputs),
                input_names=["embedding", "noise"],
                output_names=name_outputs(stage),
                dynamic_shapes=({0: batch}, {0: batch}),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise ComponentError(f"The generator can't be exported to ONNX: {summarise_error(error)}") from error
    assert program is not None
    model: ModelProto = program.model_proto
    if any(value.type.tensor_type.shape.dim[0].dim_value for value in model.graph.input):
        raise ComponentError(
            "The generator can't be exported to ONNX, because its code fixes the number of images: in `generate`, "
            "write x.shape[0] instead of len(x)."
        )
    return model


@contextmanager
def _silent_exporter() -> Iterator[None]:
    """Hide the warnings of torch's exporter, which are about its own code."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _drop_traces(model: ModelProto) -> None:
    """Delete the stack traces that torch's exporter records, which contain the paths of source files."""
    graph = model.graph
    for entry in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        entry.ClearField("metadata_props")
        entry.ClearField("doc_string")


def _halve_weights(model: ModelProto) -> None:
    """Store matrices and kernels as float16, each followed by a cast to float32.

    Runtimes compute the casts once, when they load the file. Vectors, such as variances, are few and stay float32.
    """
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < 2:
            continue
        values = numpy_helper.to_array(tensor)
        if not bool((np.abs(values) <= LARGEST_HALF).all()):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_half"))
        casts.append(helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    graph.ClearField("node")
    graph.node.extend(nodes)
