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


def set_temperature(path: Path, temperature: float) -> None:
    """Change what the file's logits are divided by before the softmax."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(path)
    graph = model.graph
    (softmax,) = (node for node in graph.node if "probabilities" in node.output)
    # The exporter leaves the division out where the temperature is 1.
    division = next((node for node in graph.node if softmax.input[0] in node.output and node.op_type == "Div"), None)
    graph.initializer.append(numpy_helper.from_array(np.array(temperature, np.float32), "fitted_temperature"))
    if division is not None:
        division.input[1] = "fitted_temperature"
    else:
        division = helper.make_node("Div", [softmax.input[0], "fitted_temperature"], ["scaled"], "temper")
        softmax.input[0] = "scaled"
        graph.node.insert(list(graph.node).index(softmax), division)
    onnx.save_model(model, str(path), save_as_external_data=False)


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
