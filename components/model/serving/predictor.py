"""The scoring side: an exported model folder, run by ONNX Runtime. No torch here."""

from __future__ import annotations

import ctypes
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.errors import DataError, IntegrityError, RefusedError, ServiceError
from components.model.artifact import ONNX_FILE, ModelSpec, read_spec

EMBEDDING = "embedding"

FloatArray = NDArray[np.float32]


class Predictor:
    """A loaded model; `predict` may be called from several threads.

    spec: what model.json says. providers: what ONNX Runtime really runs on, in its words. device: "cuda" or "cpu".
    device_reason: one sentence on why it is that device. embeds: whether the file gives embeddings too; those exported
    by earlier versions do not.
    """

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        """Load `folder`'s model.json and model.onnx; `threads` of computation (default: ONNX Runtime's choice).

        Raises IntegrityError if a file is missing, damaged or differs from the hash in model.json, and RefusedError if
        the model was trained under other preprocessing rules than this code's.
        """
        self.spec: ModelSpec = read_spec(folder)
        content = _read_verified(folder / ONNX_FILE, self.spec.onnx_sha256)
        self._session, self.device_reason = _open_session(content, threads, folder)
        self.providers: tuple[str, ...] = tuple(self._session.get_providers())
        self.embeds = EMBEDDING in [output.name for output in self._session.get_outputs()]
        self.device = "cuda" if "CUDAExecutionProvider" in self.providers else "cpu"

    def predict(self, images: NDArray[np.uint8]) -> tuple[FloatArray, FloatArray]:
        """Return logits (N, K) and calibrated probabilities (N, K), float32, of images (N, size, size, channels) uint8.

        Where images carry several labels (`spec.several`), each probability is a label's own; see `decisions`.

        Raises DataError if the array has another shape or type; nothing is cast or resized silently.
        """
        self._check(images)
        if len(images) == 0:
            classes = len(self.spec.classes)
            return np.empty((0, classes), np.float32), np.empty((0, classes), np.float32)
        logits, probabilities = self._session.run(["logits", "probabilities"], {"images": images})
        return logits, probabilities

    def embed(self, images: NDArray[np.uint8]) -> FloatArray:
        """Return the embeddings (N, D) float32 of images (N, size, size, channels) uint8: what the last layer is given.

        D is the model's own; it is 0 for no images. Raises DataError as `predict`, and RefusedError where the model was
        exported without embeddings.
        """
        self._check(images)
        if not self.embeds:
            raise RefusedError("the model was exported without embeddings; `perennial retrain` makes one that has them")
        if len(images) == 0:
            return np.empty((0, 0), np.float32)
        (embeddings,) = self._session.run([EMBEDDING], {"images": images})
        return np.asarray(embeddings, np.float32)

    def _check(self, images: NDArray[np.uint8]) -> None:
        preprocess = self.spec.preprocess
        expected = (preprocess.size, preprocess.size, preprocess.channels)
        if images.dtype != np.uint8 or images.shape[1:] != expected:
            raise DataError(
                f"the model takes uint8 images of shape (N, {', '.join(map(str, expected))}), "
                f"got {images.dtype} {images.shape}; prepare them with components.model.images.preprocess"
            )


def energy(logits: NDArray[np.floating], temperature: float) -> FloatArray:
    """Return the energy score (N,) of logits (N, K): -T log Σ exp(logit / T); higher is stranger. Liu et al. 2020."""
    scaled = logits.astype(np.float64) / temperature
    peak = scaled.max(axis=1)
    total = peak + np.log(np.exp(scaled - peak[:, None]).sum(axis=1))
    return np.asarray(-temperature * total, dtype=np.float32)


def joint_energy(logits: NDArray[np.floating]) -> FloatArray:
    """Return the same (N,) where images carry several labels: -Σ log(1 + exp logit). Wang et al. 2021."""
    return np.asarray(-np.logaddexp(0, logits.astype(np.float64)).sum(axis=1), dtype=np.float32)


def decisions(probabilities: NDArray[np.floating], spec: ModelSpec) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return which labels are answered (N, K), and how sure each of these decisions is (N, K), in 0.5..1.

    Half-sure is a label at its threshold, wherever that lies; sure is one at probability 0 or 1.
    """
    return decided(probabilities, np.asarray(spec.thresholds or (0.5,) * len(spec.classes)))


def decided(
    probabilities: NDArray[np.floating], thresholds: NDArray[np.floating]
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return the same of probabilities (N, K) and thresholds (K,)."""
    positive = probabilities >= thresholds
    room = np.maximum(np.where(positive, 1 - thresholds, thresholds), 1e-9)
    return positive, 0.5 + 0.5 * np.minimum(np.abs(probabilities - thresholds) / room, 1.0)


def _read_verified(path: Path, expected: str | None) -> bytes:
    if expected is None:
        raise IntegrityError(f"{path.parent}: model.json names no onnx_sha256; run the export stage first")
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise IntegrityError(f"{path} does not exist; export the model again or download it again") from error
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise IntegrityError(
            f"{path}: sha256 is {found[:12]}…, model.json says {expected[:12]}…; the file was changed or damaged, "
            "it is not used. Download the model again or roll back"
        )
    return content


def _open_session(content: bytes, threads: int | None, folder: Path) -> tuple[Any, str]:
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    unloadable = (state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf)
    providers, reason = _wanted_providers(onnxruntime.get_available_providers())
    if "CUDAExecutionProvider" in providers:
        onnxruntime.preload_dlls()  # the CUDA libraries lie in torch's wheels, not on the loader's path
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    # Idle threads that spin take the cores from decoding and writing, which run beside inference.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        # From bytes: what was hashed is what runs, and external files a model may name are out of reach.
        session = onnxruntime.InferenceSession(content, options, providers=providers)
    except (*unloadable, state.NotImplemented, state.RuntimeException) as error:
        raise ServiceError(f"{folder}: ONNX Runtime does not load the model: {error}") from error
    if "CUDAExecutionProvider" in providers and "CUDAExecutionProvider" not in session.get_providers():
        reason = "an NVIDIA driver is here, but ONNX Runtime could not load the CUDA libraries; running on the CPU"
    return session, reason


def _wanted_providers(available: list[str]) -> tuple[list[str], str]:
    if "CUDAExecutionProvider" not in available:
        return ["CPUExecutionProvider"], "this ONNX Runtime is built without CUDA"
    if not _nvidia_driver():
        return ["CPUExecutionProvider"], "no NVIDIA driver on this machine"
    return ["CUDAExecutionProvider", "CPUExecutionProvider"], "an NVIDIA GPU is used"


def _nvidia_driver() -> bool:
    # Asked before ONNX Runtime is: without a driver it prints errors and falls back without saying so.
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True
