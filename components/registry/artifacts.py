"""The folder a model version keeps: an MLflow ONNX model that is also an export folder, and its hash."""

from __future__ import annotations

import hashlib
import shutil
import warnings
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from components.model.artifact import ONNX_FILE, SPEC_FILE, ModelSpec, file_sha256, read_spec

CARD_FILE = "model_card.md"

# Everything a prediction depends on: the weights, and the classes, temperature and preprocessing beside them.
_HASHED_FILES = (SPEC_FILE, ONNX_FILE)


def artifact_sha256(folder: Path) -> str:
    """Return the sha256 over model.json and model.onnx of an export folder or a downloaded model version.

    Raises FileNotFoundError if one of the two is missing.
    """
    lines = (f"{name} {file_sha256(folder / name)}\n" for name in _HASHED_FILES)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def build_model_folder(export_folder: Path, target: Path, card_markdown: str) -> ModelSpec:
    """Make `target`, a new folder, an MLflow model of the ONNX flavour; return what its model.json says.

    It holds every file of `export_folder` unchanged (so a download is an export folder again), the model card, and
    MLflow's own files with the signature: uint8 images (-1, size, size, channels) in, float32 logits and probabilities
    (-1, classes) out, and float32 embeddings (-1, D) where the model has them. No file in it is a pickle. Raises
    IntegrityError if the export folder is not a complete model.
    """
    import onnx

    spec = read_spec(export_folder)
    model = onnx.load(export_folder / ONNX_FILE)
    _onnx_flavour().save_model(
        model,
        str(target),
        signature=_signature(spec, [output.name for output in model.graph.output]),
        pip_requirements=_requirements(),
        # A session of MLflow's own would try CUDA first and warn on every machine without it.
        onnx_execution_providers=["CPUExecutionProvider"],
        metadata={"classes": list(spec.classes)} | ({"thresholds": list(spec.thresholds)} if spec.several else {}),
        save_as_external_data=False,
    )
    # After MLflow has written its own copy: the bytes that were exported and hashed are the ones that are kept.
    shutil.copytree(export_folder, target, dirs_exist_ok=True)
    (target / CARD_FILE).write_text(card_markdown, encoding="utf-8")
    return spec


def _onnx_flavour() -> Any:
    with warnings.catch_warnings():
        # MLflow warns of type hints in its own source when it is imported.
        warnings.simplefilter("ignore", UserWarning)
        import mlflow.onnx
        import mlflow.pyfunc
    return mlflow.onnx


def _signature(spec: ModelSpec, answers: Sequence[str]) -> object:
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    size, channels, classes = spec.preprocess.size, spec.preprocess.channels, len(spec.classes)
    images = TensorSpec(np.dtype("uint8"), (-1, size, size, channels), "images")
    widths = {"logits": classes, "probabilities": classes}
    outputs = [TensorSpec(np.dtype("float32"), (-1, widths.get(name, -1)), name) for name in answers]
    return ModelSignature(inputs=Schema([images]), outputs=Schema(outputs))


def _requirements() -> list[str]:
    return [*(f"{name}=={version(name)}" for name in ("mlflow", "numpy", "onnx")), f"onnxruntime=={_runtime_version()}"]


def _runtime_version() -> str:
    # A served model needs no GPU: the plain wheel of the same version, whichever of the two is installed here.
    try:
        return version("onnxruntime-gpu")
    except PackageNotFoundError:
        return version("onnxruntime")
