"""From a trained network to the one file that scores: ONNX with scaling, normalisation and calibration inside."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from components.model.answering import predict_logits
from components.model.artifact import ModelSpec
from components.model.images.inputs import Normalise
from components.model.networks.backbones import embed_and_answer
from components.model.serving.predictor import EMBEDDING, Predictor

OPSET = 20


class Scorer(nn.Module):
    """Images (N, size, size, channels) uint8 to logits (N, K), calibrated probabilities (N, K), embedding (N, D).

    Where images carry several labels, each probability is a label's own.
    """

    scales: Tensor
    offsets: Tensor

    def __init__(self, network: nn.Module, spec: ModelSpec) -> None:
        super().__init__()
        self.normalise = Normalise(spec.preprocess)
        self.network = network
        self.temperature = spec.temperature
        self.several = spec.several
        if spec.several:
            self.register_buffer("scales", torch.tensor(spec.scales or (1.0,) * len(spec.classes)))
            self.register_buffer("offsets", torch.tensor(spec.offsets or (0.0,) * len(spec.classes)))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits, probabilities and embedding."""
        embedding, logits = embed_and_answer(self.network, self.normalise(images))
        if self.several:
            return logits, torch.sigmoid(logits * self.scales + self.offsets), embedding
        return logits, torch.softmax(logits / self.temperature, dim=1), embedding


def to_onnx(network: nn.Module, spec: ModelSpec, path: Path) -> None:
    """Write `network` to `path` as one self-contained ONNX file with a dynamic batch.

    Input "images" (N, size, size, channels) uint8; outputs "logits" and "probabilities", both (N, K), and
    "embedding" (N, D), float32. Scoring asks for the first two; the third is there for those who ask what changed.
    """
    import onnx

    scorer = Scorer(network.cpu().to(memory_format=torch.contiguous_format), spec).eval()
    side, channels = spec.preprocess.size, spec.preprocess.channels
    example = torch.zeros(2, side, side, channels, dtype=torch.uint8)  # one would fix the batch at one
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            scorer,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["logits", "probabilities", EMBEDDING],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise AssertionError("the exporter returns a program when it is given no file")
    model = program.model_proto
    # The exporter notes source lines of the machine it ran on; the same weights must give the same bytes anywhere.
    for node in [
        model,
        *model.graph.node,
        model.graph,
        *model.graph.input,
        *model.graph.output,
        *model.graph.value_info,
    ]:
        del node.metadata_props[:]
    onnx.save_model(model, str(path), save_as_external_data=False)


def parity(network: nn.Module, predictor: Predictor, trained_on: NDArray[np.uint8], scored: NDArray[np.uint8]) -> float:
    """Return the largest absolute difference between torch's logits and ONNX Runtime's of the same files.

    trained_on, scored: (N, size, size, channels) uint8, the same files as prepared for training and for scoring.
    """
    ours = predict_logits(network, trained_on, predictor.spec.preprocess)
    theirs, _ = predictor.predict(scored)
    return float(np.abs(ours - theirs).max())


def embedding_parity(
    network: nn.Module, predictor: Predictor, trained_on: NDArray[np.uint8], scored: NDArray[np.uint8]
) -> float:
    """Return the largest difference between torch's embeddings and ONNX Runtime's, as a share of the largest value.

    trained_on, scored: as in `parity`. Embeddings have no scale of their own as logits have; below 1 none is assumed.
    """
    pixels = Normalise(predictor.spec.preprocess)(torch.from_numpy(trained_on))
    with torch.inference_mode():
        ours = embed_and_answer(network.eval(), pixels)[0].numpy()
    return float(np.abs(ours - predictor.embed(scored)).max() / max(1.0, float(np.abs(ours).max())))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress lines and its own deprecations out of the stage's output."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
