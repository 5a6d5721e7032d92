"""From an exported fp32 file to one of 8-bit weights and activations: a quarter of the size, faster on a CPU."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.errors import DataError, RefusedError
from components.model.artifact import ONNX_FILE, ModelSpec

IMAGES_AT_ONCE = 32
FEWEST_IMAGES = 16  # to calibrate on, below which a range is a guess

_QUANTISED = (
    "Add", "AveragePool", "Clip", "Concat", "Conv", "Gemm", "GlobalAveragePool", "MatMul", "MaxPool", "Relu", "Reshape",
)  # fmt: skip


def quantise(source: Path, target: Path, images: NDArray[np.uint8], spec: ModelSpec) -> None:
    """Write the fp32 file `source` to `target` in 8 bits (QDQ, static, per channel); the same bytes for the same input.

    images: (N, size, size, channels) uint8 training images, on which the ranges of activations are measured. Input and
    outputs stay as they were. In fp32 stay what is small and costs answers most: normalisation, the first convolution,
    the last layer's output, the softmax. Raises DataError for fewer than 16 images, or of another shape, and
    RefusedError if the network has no layer that can be quantised.
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    _check(images, spec)
    with TemporaryDirectory(prefix="perennial-int8-") as name, _quiet():
        prepared = Path(name) / ONNX_FILE
        # Its symbolic inference needs sympy and adds nothing: the only unknown is the batch.
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        kept = _kept(prepared)
        quantization.quantize_static(
            str(prepared),
            str(target),
            _calibration(images),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(_QUANTISED),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=kept,
            use_external_data_format=False,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            # Logits in 256 steps would give confidences in 256 steps.
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]},
        )
        _shift_logits(source, target, images)


def set_calibration(path: Path, spec: ModelSpec) -> None:
    """Change what makes the file's logits probabilities: the temperature, or every label's scale and offset."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(path)
    graph = model.graph
    steps = [("Mul", spec.scales), ("Add", spec.offsets)] if spec.several else [("Div", spec.temperature)]
    (last,) = (node for node in graph.node if "probabilities" in node.output)
    last.input[0] = said = "logits"
    _drop_unused(graph)  # what stood between; the names are free again
    for number, (operation, values) in enumerate(steps):
        name = f"fitted_{number}"
        graph.initializer.append(numpy_helper.from_array(np.array(values, np.float32), name))
        node = helper.make_node(operation, [said, name], [f"calibrated_{number}"], f"calibrate_{number}")
        graph.node.insert(list(graph.node).index(last), node)
        said = node.output[0]
    last.input[0] = said
    onnx.save_model(model, str(path), save_as_external_data=False)


def _drop_unused(graph: Any) -> None:
    """Take out of an ONNX graph the nodes and numbers that no output depends on."""
    while True:
        used = {output.name for output in graph.output} | {name for node in graph.node for name in node.input}
        idle = [node for node in graph.node if not used & set(node.output)]
        if not idle:
            break
        for node in idle:
            graph.node.remove(node)
    for numbers in [one for one in graph.initializer if one.name not in used]:
        graph.initializer.remove(numbers)


def _check(images: NDArray[np.uint8], spec: ModelSpec) -> None:
    preprocess = spec.preprocess
    wanted = (preprocess.size, preprocess.size, preprocess.channels)
    if images.dtype != np.uint8 or images.shape[1:] != wanted:
        raise DataError(f"calibration takes uint8 images of shape (N, {wanted}), got {images.dtype} {images.shape}")
    if len(images) < FEWEST_IMAGES:
        raise DataError(
            f"{len(images)} training images to calibrate INT8 on; {FEWEST_IMAGES} are needed, raise "
            "export.calibration_images or ingest more"
        )


def _kept(path: Path) -> list[str]:
    """Return the names of the nodes that stay in fp32. Raises RefusedError if nothing else is left.

    The first convolution: in 8 bits its input would be moved to a layout in which normalising three channels takes a
    quarter of the whole time. A depthwise one after it: few weights, whose channels differ most. Measured with
    EfficientNet-Lite0: a quarter less error in the logits for 2 % of the time; further ones cost time and gain nothing.
    """
    import onnx

    nodes = onnx.load(path).graph.node
    layers = [node for node in nodes if node.op_type in ("Conv", "Gemm", "MatMul")]
    if len(layers) < 2:
        raise RefusedError("the network has no second layer, so nothing in it would be faster in INT8; use fp32")
    return [layer.name for layer in layers[: 2 if _groups(layers[1]) > 1 else 1]]


def _groups(layer: Any) -> int:
    return next((int(attribute.i) for attribute in layer.attribute if attribute.name == "group"), 1)


def _shift_logits(source: Path, target: Path, images: NDArray[np.uint8]) -> None:
    """Add to the file's logits what they are too low by on average: rounding moves some classes' more than others'.

    After Nagel et al. 2019 (bias correction), of the last layer alone.
    """
    import onnx
    from onnx import helper, numpy_helper

    shift = (_logits(source, images) - _logits(target, images)).mean(axis=0, dtype=np.float64)
    model = onnx.load(target)
    graph = model.graph
    (last,) = (node for node in graph.node if "logits" in node.output)
    last.output[list(last.output).index("logits")] = "logits_before_shift"
    graph.initializer.append(numpy_helper.from_array(shift.astype(np.float32), "logits_shift"))
    added = helper.make_node("Add", ["logits_before_shift", "logits_shift"], ["logits"], "shift_logits")
    graph.node.insert(list(graph.node).index(last) + 1, added)
    onnx.save_model(model, str(target), save_as_external_data=False)


def _logits(path: Path, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    starts = range(0, len(images), IMAGES_AT_ONCE)
    return np.concatenate([session.run(["logits"], {"images": images[s : s + IMAGES_AT_ONCE]})[0] for s in starts])


def _calibration(images: NDArray[np.uint8]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Batches(CalibrationDataReader):  # type: ignore[misc] # read without its types
        def __init__(self) -> None:
            self._starts = iter(range(0, len(images), IMAGES_AT_ONCE))

        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            start = next(self._starts, None)
            return None if start is None else {"images": images[start : start + IMAGES_AT_ONCE]}

    return Batches()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the tool's advice, which it gives to the root logger, out of the stage's output."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
