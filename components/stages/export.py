"""The stage that writes the file that scores."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from components.data.decoding.turns import available_cores
from components.errors import DataError, PerennialError, RefusedError
from components.evaluation.again import Figures, Job, figures_elsewhere, refuse_unless_near, refuse_unless_same
from components.evaluation.given import Given, given_logits
from components.model.answering import predict_logits
from components.model.artifact import ONNX_FILE, SPEC_FILE, ModelSpec, file_sha256, write_spec
from components.model.images.dataset import StoredImages
from components.model.images.preprocess import prepare
from components.model.networks.backbones import restore
from components.model.serving.export import embedding_parity, parity, to_onnx
from components.model.serving.latency import Latency, measure_latency
from components.model.serving.predictor import Predictor
from components.params import Params
from components.stages.exporting.exported import Exported, HeldBack, open_exported
from components.stages.exporting.int8 import attempt_int8, calibration_images, not_possible, require_used
from components.stages.exporting.pruned import fewer_channels
from components.stages.exporting.table import export_table
from components.stages.files import METRICS_FILE, fresh, read_json, write_json

logger = logging.getLogger(__name__)

TABLE_FILE = "export.md"


def run(params: Params) -> None:
    """Write the file that scores: model.onnx, model.json, metrics.json, export.md.

    Raises RefusedError if it answers otherwise than the trained network or, read anew in a new process, than here.
    """
    network, spec = restore(Path(params.paths.model))
    measured = read_json(Path(params.paths.evaluation) / METRICS_FILE, "evaluate")
    ready = _measured(spec, measured)
    stored = StoredImages.of(params)
    if stored.manifest.classes != spec.classes:
        raise DataError("the model answers another class list than the manifest's; run the train stage again")
    rows = stored.manifest.select("validation").slice(0, params.export.judged_images)
    held_back = stored.pixels(rows, spec.preprocess), stored.labels(rows)

    folder = fresh(params.paths.export)
    to_onnx(network, ready, folder / ONNX_FILE)
    write_spec(folder, _exported(ready, measured, params, file_sha256(folder / ONNX_FILE)))
    full = open_exported(folder, held_back)
    metrics = {"several": spec.several} | _parity(network, full.predictor, stored, params)
    write_json(folder / METRICS_FILE, metrics | {"passed": False})  # not before everything is known
    _refuse_disparity(metrics)
    base, pruned, answers = full, None, full.answers
    if params.export.prune:
        network, base, pruned = fewer_channels(network, full, stored, held_back, params)
        metrics |= _parity(network, base.predictor, stored, params)
        _refuse_disparity(metrics)
    chosen, about = _choose(base, answers, stored, held_back, params)
    metrics |= about | {"pruned": pruned} | {"onnx_bytes": (folder / ONNX_FILE).stat().st_size, "passed": False}
    write_json(folder / METRICS_FILE, metrics)
    if params.export.precision == "int8":
        require_used(metrics["int8"])

    logits = predict_logits(network, held_back[0], spec.preprocess)
    trained = given_logits(logits, held_back[1], base.predictor.spec)
    figures = {
        "trained": Figures.of(trained, params.evaluate.ece_bins),
        "here": Figures.of(chosen.answers, params.evaluate.ece_bins),
        "elsewhere": figures_elsewhere(_job(params, len(rows))),
    }
    metrics["figures"] = {name: asdict(one) for name, one in figures.items()}
    write_json(folder / METRICS_FILE, metrics)
    (folder / TABLE_FILE).write_text(export_table(metrics), encoding="utf-8")
    refuse_unless_same(figures["here"], figures["elsewhere"], on_gpu=chosen.predictor.device == "cuda")
    if chosen is base:  # INT8 was judged by what it loses
        tolerance = params.export.parity_tolerance * base.predictor.spec.steepest
        refuse_unless_near(figures["here"], figures["trained"], tolerance)
    write_json(folder / METRICS_FILE, metrics | {"passed": True})
    logger.info(
        "export: %s, logits agree within %.2g on %d images",
        *(metrics[name] for name in ("precision", "max_absolute_difference", "images")),
    )


def _parity(network: nn.Module, predictor: Predictor, stored: StoredImages, params: Params) -> dict[str, Any]:
    """Return how far the fp32 file is from the trained network, on files prepared for scoring and for training."""
    rows = stored.manifest.select("validation").slice(0, params.export.parity_images)
    spec = predictor.spec.preprocess
    places = zip(*(rows[name].to_pylist() for name in ("shard", "row", "image_id", "name")), strict=True)
    scored = prepare([stored.content(*place) for place in places], spec, stored.limits).pixels
    trained_on = stored.pixels(rows, spec)
    difference = parity(network, predictor, trained_on, scored)
    of_embeddings = embedding_parity(network, predictor, trained_on, scored)
    return {
        "images": len(rows),
        "max_absolute_difference": difference,
        "embedding_difference": of_embeddings,
        "tolerance": params.export.parity_tolerance,
        "providers": list(predictor.providers),
        "passed": max(difference, of_embeddings) <= params.export.parity_tolerance,
    }


def _refuse_disparity(metrics: dict[str, Any]) -> None:
    if not metrics["passed"]:
        raise RefusedError(
            f"the exported model's logits differ from the trained one's by {metrics['max_absolute_difference']:.2g}, "
            f"its embeddings by {metrics['embedding_difference']:.2g} of their largest value, on {metrics['images']} "
            f"images; one is more than export.parity_tolerance {metrics['tolerance']:g}; it is not used"
        )


def _choose(
    full: Exported, whole: Given, stored: StoredImages, held_back: HeldBack, params: Params
) -> tuple[Exported, dict[str, Any]]:
    """Return the form that scores, its files in the export folder, and what metrics.json says of the choice.

    whole: the answers that INT8 is held to, those of the network before it was pruned.
    Raises RefusedError as `quantise` where INT8 is asked for.
    """
    rules = params.export
    if rules.precision == "fp32":
        latency = _latency({"fp32": full}, held_back, rules.latency_runs)
        return full, {"precision": "fp32", "int8": None, "latency": _told(latency, full)}
    with TemporaryDirectory(prefix="perennial-export-") as name:
        try:
            attempt = attempt_int8(full, whole, Path(name), calibration_images(stored, params, full), held_back, params)
        except PerennialError as error:
            if rules.precision == "int8":
                raise
            latency = _latency({"fp32": full}, held_back, rules.latency_runs)
            return full, {"precision": "fp32", "int8": not_possible(error), "latency": _told(latency, full)}
        # Without a measurement nothing is known to be faster: `auto` takes its own where none is asked for.
        runs = rules.latency_runs or (1 if rules.precision == "auto" else 0)
        latency = _latency({"fp32": full, "int8": attempt.light}, held_back, runs)
        told = attempt.told(full, latency, rules.precision)
        about = {"int8": told, "fp32_bytes": full.size, "latency": _told(latency, full)}
        if not told["used"]:
            return full, {"precision": "fp32", **about}
        for file in (ONNX_FILE, SPEC_FILE):
            shutil.copyfile(attempt.light.folder / file, full.folder / file)
        return attempt.light, {"precision": "int8", **about}


def _latency(forms: dict[str, Exported], held_back: HeldBack, runs: int) -> dict[str, list[Latency]]:
    if runs == 0:
        return {}
    return measure_latency({name: form.predictor for name, form in forms.items()}, held_back[0], runs)


def _told(latency: dict[str, list[Latency]], full: Exported) -> dict[str, Any] | None:
    if not latency:
        return None
    files = {
        name: [asdict(one) | {"images_per_second": round(one.images_per_second, 1)} for one in rows]
        for name, rows in latency.items()
    }
    return {"device": full.predictor.device, "threads": available_cores(), "files": files}


def _job(params: Params, images: int) -> Job:
    data = params.data
    return Job(
        export=str(Path(params.paths.export).resolve()),
        shards=str(Path(params.paths.images).resolve()),
        manifest=str(Path(params.paths.manifest).resolve()),
        images=images,
        max_bytes=data.max_file_bytes,
        max_pixels=data.max_pixels,
        min_side=data.min_side,
        threads=available_cores(),
        ece_bins=params.evaluate.ece_bins,
    )


def _exported(ready: ModelSpec, measured: Mapping[str, Any], params: Params, sha256: str) -> ModelSpec:
    """Return the specification of the file with this hash, with what the scorer is told of answers and images."""
    answering, wanted = measured.get("answering", {}), params.score.review_below
    if wanted == "auto":
        wanted = answering["review"]["threshold"] if answering else ready.review_below
    return ready.exported(ready.temperature, wanted, sha256, answering.get("unfamiliar_above"))


def _measured(spec: ModelSpec, measured: Mapping[str, Any]) -> ModelSpec:
    """Return the specification with the calibration, and the thresholds of several labels, that evaluation found."""
    if not spec.several:
        reject = measured.get("answering", {}).get("reject_class", "")
        return replace(spec, temperature=measured["calibration"]["temperature"], reject_class=reject)
    rules = {row["name"]: row for row in measured["labels"]}
    columns = {
        field: tuple(float(rules[name][key]) for name in spec.classes)
        for field, key in (("thresholds", "threshold"), ("scales", "scale"), ("offsets", "offset"))
    }
    return replace(spec, thresholds=columns["thresholds"], scales=columns["scales"], offsets=columns["offsets"])
