"""What a model of the labels before a change makes of every image: the old meaning, to hold new labels against."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from components.model.answering import predict_logits
from components.model.calibration import softmax
from components.model.images.image_statistics import Glance, image_statistics
from components.model.images.inputs import ImageSet, Normalise
from components.model.images.preprocess import PreprocessSpec
from components.model.networks.backbones import embed_and_answer, network_of
from components.model.training.fit import fit
from components.params import Audit, Train
from components.records import IMAGE_STATISTICS

COMPONENTS = 32  # of an embedding, its principal ones
FITTED_ON = 2_000  # images at most, to find these
AT_ONCE = 256

FloatArray = NDArray[np.float64]
Features = Callable[[NDArray[np.int64]], Mapping[str, FloatArray]]


@dataclass(frozen=True, slots=True, eq=False)
class Past:
    """A model of old labels and what it says of N images: called (N,) class indices, confidence (N,)."""

    network: nn.Module
    called: NDArray[np.int64]
    confidence: NDArray[np.float32]


def past_model(
    old: ImageSet, images: NDArray[np.uint8], classes: int, *, spec: PreprocessSpec, train: Train, audit: Audit
) -> Past:
    """Return a model trained on `old` for as many epochs as the audit's, and its answers to `images`."""
    network = network_of(train, classes, spec, train.seed)
    fitted = fit(network, old, None, spec=spec, params=train, epochs=audit.epochs)
    probabilities = softmax(predict_logits(fitted.network, images, spec))
    return Past(fitted.network.cpu(), probabilities.argmax(axis=1).astype(np.int64), probabilities.max(axis=1))


def features_of(
    past: Past, images: NDArray[np.uint8], spec: PreprocessSpec, *, fit_on: NDArray[np.int64], seed: int
) -> Features:
    """Return a function from row indices to named features (rows, D): "statistics" and "embedding".

    statistics: those of the image as the network sees it. embedding: principal components of the model's own, found on
    at most 2,000 of the rows `fit_on`; memory does not grow with the number of images.
    """
    from sklearn.decomposition import PCA

    rng = np.random.default_rng(seed)
    sample = rng.permutation(fit_on)[:FITTED_ON]
    seen = np.concatenate(list(_embeddings(past.network, images, spec, sample)))
    components = min(COMPONENTS, len(seen), seen.shape[1])
    reduce = PCA(components, svd_solver="randomized", random_state=seed).fit(seen)

    def features(rows: NDArray[np.int64]) -> Mapping[str, FloatArray]:
        parts = [reduce.transform(part) for part in _embeddings(past.network, images, spec, rows)]
        embedding = np.concatenate(parts) if parts else np.empty((0, components))
        return {"statistics": _statistics(images, rows), "embedding": embedding.astype(np.float64)}

    return features


def _embeddings(network: nn.Module, images: NDArray[np.uint8], spec: PreprocessSpec, rows: NDArray[np.int64]) -> Any:
    normalise = Normalise(spec)
    network.eval()
    with torch.inference_mode():
        for start in range(0, len(rows), AT_ONCE):
            pixels = torch.from_numpy(images[rows[start : start + AT_ONCE]])
            yield embed_and_answer(network, normalise(pixels))[0].float().numpy()


def _statistics(images: NDArray[np.uint8], rows: NDArray[np.int64]) -> FloatArray:
    """Return the statistics (rows, D) that the pixels alone tell."""
    of_pixels = [IMAGE_STATISTICS.index(name) for name in ("brightness", "contrast", "sharpness", "saturation")]
    table = np.empty((len(rows), len(of_pixels)))
    for start in range(0, len(rows), AT_ONCE):
        some = images[rows[start : start + AT_ONCE]]
        glances = [Glance(i[..., 0] if i.shape[-1] == 1 else i, i.shape[1], i.shape[0], 0) for i in some]
        table[start : start + AT_ONCE] = image_statistics(glances)[:, of_pixels]
    return table
