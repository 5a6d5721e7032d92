"""The export stage's attempt at a network with fewer channels, and whether it may take the whole one's place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from components.errors import RefusedError
from components.model.answering import predict_logits
from components.model.artifact import ONNX_FILE, ModelSpec, file_sha256, write_spec
from components.model.calibration import sigmoid, softmax
from components.model.images.dataset import StoredImages
from components.model.images.inputs import ImageSet
from components.model.networks.pruning import parameters, prune
from components.model.serving.export import to_onnx
from components.params import Params
from components.stages.exporting.exported import Exported, HeldBack, judge_against, open_exported
from components.stages.exporting.refitted import refitted

GENTLER = 0.3  # of train.learning_rate: what is left is to move a little, not to be learnt anew


def fewer_channels(
    network: nn.Module, whole: Exported, stored: StoredImages, held_back: HeldBack, params: Params
) -> tuple[nn.Module, Exported, dict[str, Any]]:
    """Return the pruned network, its file in the place of `whole`'s, and what metrics.json says of it.

    Raises RefusedError if it loses more than int8 may, or as `prune`.
    """
    spec = whole.predictor.spec
    size = whole.size
    smaller = _learn_from(network, prune(network, spec, params.export.prune), spec, stored, params)
    logits = predict_logits(smaller, held_back[0], spec.preprocess)
    spec = refitted(spec, logits, held_back[1], params)
    path = whole.folder / ONNX_FILE
    to_onnx(smaller, spec, path)
    write_spec(whole.folder, replace(spec, onnx_sha256=file_sha256(path)))
    pruned = open_exported(whole.folder, held_back)
    verdict = judge_against(whole.answers, pruned, params)
    if not verdict.passed:
        raise RefusedError(
            f"with export.prune {params.export.prune:g} {'; '.join(verdict.reasons)}; lower it, or raise "
            "export.prune_epochs"
        )
    return smaller, pruned, {
        "share": params.export.prune,
        "parameters": parameters(smaller),
        "parameters_whole": parameters(network),
        "bytes": pruned.size,
        "bytes_whole": size,
        "loss": round(verdict.overall.share, 5),
        "worst_class": verdict.worst.name,
        "worst_class_loss": round(verdict.worst.share, 5),
    }  # fmt: skip


def _learn_from(
    teacher: nn.Module, smaller: nn.Module, spec: ModelSpec, stored: StoredImages, params: Params
) -> nn.Module:
    """Return `smaller` trained a little on what the whole network says of the training images.

    Not on their labels: which of them count, and how much, the whole network has learnt already.
    """
    from components.model.training.fit import fit

    rows = stored.manifest.select("train")
    images = stored.pixels(rows, spec.preprocess)
    logits = predict_logits(teacher, images, spec.preprocess)
    said = (sigmoid if spec.several else softmax)(logits).astype(np.float32)
    labels = (said >= 0.5) if spec.several else said.argmax(axis=1)
    learnt = ImageSet(images, labels.astype(np.int64), np.ones(len(images), np.float32), said)
    rules = params.train.model_copy(
        update={"label_smoothing": 0.0, "learning_rate": GENTLER * params.train.learning_rate}
    )
    epochs = params.export.prune_epochs
    return fit(smaller, learnt, None, spec=spec.preprocess, params=rules, epochs=epochs).network
