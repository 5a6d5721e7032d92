"""`backbone: auto`: a shortlist tried shortly on these images and this machine, and the network that is chosen."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from components.errors import ConfigurationError
from components.model.answering import predict_logits
from components.model.artifact import ONNX_FILE, ModelSpec, file_sha256, write_spec
from components.model.images.inputs import ImageSet
from components.model.images.preprocess import PreprocessSpec
from components.model.networks.backbones import network_of
from components.model.networks.facts import BackboneFacts, facts_of
from components.model.serving.export import to_onnx
from components.model.serving.latency import measure_latency
from components.model.serving.predictor import Predictor
from components.model.training.progress import MetricsLog
from components.model.training.transfer import train
from components.params import Train

logger = logging.getLogger(__name__)

RUNS = 20  # of the latency at each batch size


@dataclass(frozen=True, slots=True)
class Tried:
    """One backbone of the shortlist. accuracy: on the validation images, after a short training of `seconds`.

    latency_ms: the median of one image, as exported. reason: why it was chosen, or was not.
    """

    facts: BackboneFacts
    accuracy: float
    seconds: float
    latency_ms: float
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return what is known of it, ready for JSON."""
        facts = asdict(self.facts)
        return facts | {name: value for name, value in asdict(self).items() if name != "facts"}


def choose(tried: Sequence[Tried], images: int, most_ms: float) -> tuple[str, list[Tried]]:
    """Return the chosen backbone's name, and all of them with the reasons.

    Of those that answer an image within `most_ms` (0: any), it is the one with the least work among all whose accuracy
    on the `images` validation images is within one standard error of the best. Raises ConfigurationError where none
    answers in time.
    """
    quick = [one for one in tried if not most_ms or one.latency_ms <= most_ms]
    if not quick:
        fastest = min(tried, key=lambda one: one.latency_ms)
        raise ConfigurationError(
            f"no backbone of train.shortlist answers an image within {most_ms:g} ms on this machine; the quickest, "
            f"{fastest.facts.name}, takes {fastest.latency_ms:.1f}: raise train.shortlist.most_ms or list smaller ones"
        )
    best = max(one.accuracy for one in quick)
    error = float(np.sqrt(max(best * (1 - best), 1 / images) / images))
    level = [one for one in quick if one.accuracy >= best - error]
    chosen = min(level, key=lambda one: one.facts.macs)
    return chosen.facts.name, [replace(one, reason=_reason(one, chosen, best, error, most_ms)) for one in tried]


def _reason(one: Tried, chosen: Tried, best: float, error: float, most_ms: float) -> str:
    if one is chosen:
        return "chosen: the least work among those as accurate as the best"
    if most_ms and one.latency_ms > most_ms:
        return f"takes {one.latency_ms:.1f} ms for an image, more than {most_ms:g}"
    if one.accuracy < best - error:
        return f"{100 * (best - one.accuracy):.1f} points below the best"
    return "as accurate, and more work"


def try_backbones(
    training: ImageSet,
    validation: ImageSet,
    classes: tuple[str, ...],
    spec_of: Callable[[str], PreprocessSpec],
    params: Train,
) -> tuple[str, list[Tried]]:
    """Return the backbone to train, and what was found of each of `params.shortlist.backbones`.

    Each learns from the same `params.shortlist.images` training images for as many epochs. spec_of: how images are
    prepared for a backbone; the pixels are the same, the normalisation may differ. Raises as `choose` and `build`.
    """
    rules = params.shortlist
    generator = np.random.default_rng(params.seed)
    some = _some(training, rules.images, generator)
    judged = _some(validation, rules.images, generator)
    tried = [_try(name, some, judged, classes, spec_of(name), params) for name in rules.backbones]
    name, told = choose(tried, len(judged), rules.most_ms)
    for one in told:
        logger.info(
            "train: %s: %.1f %%, %.1f million parameters, %.1f million multiply-adds, %.2f ms an image; %s",
            one.facts.name, 100 * one.accuracy, one.facts.parameters / 1e6, one.facts.macs / 1e6, one.latency_ms,
            one.reason,
        )  # fmt: skip
    return name, told


def _some(data: ImageSet, most: int, generator: np.random.Generator) -> ImageSet:
    rows: NDArray[np.int64] = np.sort(generator.permutation(len(data))[:most])
    return data.take(rows)


def _try(
    name: str, training: ImageSet, validation: ImageSet, classes: tuple[str, ...], spec: PreprocessSpec, params: Train
) -> Tried:
    rules = params.model_copy(update={"backbone": name, "epochs": params.shortlist.epochs})
    network = network_of(rules, len(classes), spec, rules.seed)
    facts = facts_of(name, network, channels=spec.channels, size=spec.size)
    if warning := facts.warning(gpu=torch.cuda.is_available()):
        logger.warning("%s", warning)
    with TemporaryDirectory(prefix="perennial-shortlist-") as temporary:
        folder = Path(temporary)
        log = MetricsLog(folder / "metrics.jsonl")
        started = time.perf_counter()
        fitted = train(
            network, training, validation, spec=spec, params=rules, log=log, checkpoints=folder / "checkpoints"
        ).fitted
        seconds = time.perf_counter() - started
        model = ModelSpec(classes, spec, name)
        to_onnx(fitted.network, model, folder / ONNX_FILE)
        write_spec(folder, replace(model, onnx_sha256=file_sha256(folder / ONNX_FILE)))
        latency = measure_latency({name: Predictor(folder)}, validation.images, RUNS)[name][0]
    right = predict_logits(fitted.network, validation.images, spec).argmax(axis=1) == validation.labels
    return Tried(facts, round(float(right.mean()), 5), round(seconds, 1), latency.p50_ms)
