"""The functions behind dvc.yaml: `python -m components.stages train`, in a workspace.

File in, file out: no database, no network, no clock but the one that stamps metrics.jsonl. Besides the sections
dvc.yaml names, a stage reads `paths` and the limits of `data`, which no accepted image exceeds.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from components.errors import DataError, IntegrityError, PerennialError, RefusedError
from components.model.artifact import ONNX_FILE, WEIGHTS_FILE, ModelSpec, file_sha256, write_spec
from components.params import Params, load_params

if TYPE_CHECKING:
    from torch import nn

    from components.evaluation.measure import Part
    from components.model.dataset import LearningSet, StoredImages

logger = logging.getLogger("components.stages")

METRICS_FILE = "metrics.json"
METRICS_LOG_FILE = "metrics.jsonl"

# The first with images is what calibration is judged on.
EVALUATED = ("frozen_test", "validation", "golden", "test")


def audit(params: Params) -> None:
    """Write which labels are hard to believe: suspects.parquet, out_of_fold.parquet, metrics.json."""
    from components.labels.issues import find_issues
    from components.labels.suspects import write_out_of_fold, write_suspects
    from components.model.dataset import StoredImages, load_learning
    from components.model.folds import unjudgeable_classes
    from components.model.out_of_fold import out_of_fold

    learning = load_learning(StoredImages.of(params), params.preprocess, params.train)
    groups, labels, classes = learning.rows["group_id"].to_pylist(), learning.data.labels, learning.classes
    probabilities, fold = out_of_fold(
        learning.data, groups, len(classes), spec=learning.spec, train=params.train, audit=params.audit
    )
    issues = find_issues(labels, probabilities)
    not_judged = unjudgeable_classes(groups, labels, len(classes), params.audit.folds)
    issues = replace(issues, suspect=issues.suspect & ~np.isin(labels, not_judged))

    folder = _fresh(params.paths.audit)
    image_ids = learning.rows["image_id"].to_pylist()
    write_suspects(folder, image_ids, labels, issues, classes)
    write_out_of_fold(folder, image_ids, probabilities, fold)
    given, doubted = (np.bincount(part, minlength=len(classes)) for part in (labels, labels[issues.suspect]))
    metrics = {
        "images": len(labels),
        "suspects": int(issues.suspect.sum()),
        "share": round(float(issues.suspect.mean()), 5),
        "noise": {name: round(doubted[k] / given[k], 5) for k, name in enumerate(classes) if given[k]},
        "agreement": round(float((issues.likely == labels).mean()), 5),
        "not_judged": [classes[k] for k in not_judged],
    }
    _write_json(folder / METRICS_FILE, metrics)
    logger.info("audit: %d of %d labels are suspect", metrics["suspects"], len(labels))


def train(params: Params) -> None:
    """Write a trained model: model.pt (weights only), model.json, metrics.jsonl, metrics.json, checkpoints."""
    import torch

    from components.model.backbones import build
    from components.model.dataset import StoredImages, load_learning
    from components.model.progress import MetricsLog
    from components.model.training import fit

    learning = load_learning(StoredImages.of(params), params.preprocess, params.train)
    weights = _weigh(learning, params)
    learnt = learning.training & (weights > 0)
    spec = ModelSpec(learning.classes, learning.spec, params.train.backbone)
    seed = params.train.seed + params.restart.number
    network = build(
        spec.backbone,
        classes=len(spec.classes),
        channels=spec.preprocess.channels,
        size=spec.preprocess.size,
        dropout=params.train.dropout,
        pretrained=params.train.pretrained,
        seed=seed,
    )
    folder = _fresh(params.paths.model)
    fitted = fit(
        network,
        replace(learning.data.take(learnt), weights=weights[learnt]),
        learning.data.take(~learning.training),
        spec=spec.preprocess,
        params=params.train.model_copy(update={"seed": seed}),
        log=MetricsLog(folder / METRICS_LOG_FILE, lambda: datetime.now(UTC)),
        checkpoints=folder / "checkpoints",
    )
    torch.save(fitted.network.state_dict(), folder / WEIGHTS_FILE)
    write_spec(folder, spec)
    metrics = {
        "images": int(learnt.sum()),
        "production_images": int((learnt & learning.production).sum()),
        "left_out": int((learning.training & ~learnt).sum()),
        "weighted_down": int((learnt & (weights < 1)).sum()),
        "validation_images": int((~learning.training).sum()),
        "best_epoch": fitted.epoch,
        "epochs": fitted.epochs,
        "precision": fitted.precision,
        **{name: round(value, 5) for name, value in fitted.validation.items()},
    }
    _write_json(folder / METRICS_FILE, metrics)
    logger.info("train: %d images, best epoch %d of %d", metrics["images"], fitted.epoch + 1, fitted.epochs)


def evaluate(params: Params) -> None:
    """Write what the model gets right on images it did not learn: metrics.json, report.md and two pictures."""
    from components.evaluation.measure import measure
    from components.evaluation.metrics import confusion
    from components.evaluation.report import draw_confusion, draw_reliability, markdown
    from components.model.backbones import restore
    from components.model.calibration import softmax
    from components.model.dataset import StoredImages

    network, spec = restore(Path(params.paths.model))
    stored = StoredImages.of(params)
    _same_classes(stored, spec)
    parts = _logits_of_parts(stored, network, spec, params.evaluate.batch_size)
    metrics = measure(parts, spec.classes, params.evaluate)
    metrics = {"backbone": spec.backbone, "class_names": list(spec.classes), **metrics}

    folder = _fresh(params.paths.evaluation)
    _write_json(folder / METRICS_FILE, metrics)
    (folder / "report.md").write_text(markdown(metrics), encoding="utf-8")
    judged = metrics["calibration"]["measured_on"]
    part, temperature = parts[judged], metrics["calibration"]["temperature"]
    counts = confusion(part.labels, part.logits.argmax(axis=1), len(spec.classes))
    draw_confusion(counts, spec.classes, folder / "confusion.png")
    curves = {"before": softmax(part.logits), "after temperature scaling": softmax(part.logits, temperature)}
    draw_reliability(curves, part.labels, params.evaluate.ece_bins, folder / "reliability.png")
    logger.info("evaluate: accuracy %.4f on %s", metrics["parts"][judged]["accuracy"]["value"], judged)


def export(params: Params) -> None:
    """Write the file that scores: model.onnx, model.json, metrics.json. Raises RefusedError if it answers otherwise."""
    from components.model.backbones import restore
    from components.model.dataset import StoredImages
    from components.model.export import embedding_parity, parity, to_onnx
    from components.model.predictor import Predictor
    from components.model.preprocess import prepare

    network, spec = restore(Path(params.paths.model))
    measured = _read_json(Path(params.paths.evaluation) / METRICS_FILE, "evaluate")
    temperature = measured["calibration"]["temperature"]
    stored = StoredImages.of(params)
    rows = stored.manifest.select("validation").slice(0, params.export.parity_images)

    folder = _fresh(params.paths.export)
    to_onnx(network, replace(spec, temperature=temperature), folder / ONNX_FILE)
    sha256 = file_sha256(folder / ONNX_FILE)
    write_spec(folder, spec.exported(temperature, params.score.review_below, sha256))
    predictor = Predictor(folder)
    places = zip(*(rows[name].to_pylist() for name in ("shard", "row", "image_id", "name")), strict=True)
    scored = prepare([stored.content(*place) for place in places], spec.preprocess, stored.limits).pixels
    trained_on = stored.pixels(rows, spec.preprocess)
    difference = parity(network, predictor, trained_on, scored)
    of_embeddings = embedding_parity(network, predictor, trained_on, scored)
    metrics = {
        "images": len(rows),
        "max_absolute_difference": difference,
        "embedding_difference": of_embeddings,
        "tolerance": params.export.parity_tolerance,
        "providers": list(predictor.providers),
        "onnx_bytes": (folder / ONNX_FILE).stat().st_size,
        "passed": max(difference, of_embeddings) <= params.export.parity_tolerance,
    }
    _write_json(folder / METRICS_FILE, metrics)
    if not metrics["passed"]:
        raise RefusedError(
            f"the exported model's logits differ from the trained one's by {difference:.2g}, its embeddings by "
            f"{of_embeddings:.2g} of their largest value, on {len(rows)} images; one is more than "
            f"export.parity_tolerance {params.export.parity_tolerance:g}; it is not used"
        )
    logger.info("export: logits agree within %.2g on %d images", difference, len(rows))


STAGES: Mapping[str, Callable[[Params], None]] = {
    "audit": audit,
    "train": train,
    "evaluate": evaluate,
    "export": export,
}


def main(arguments: Sequence[str]) -> int:
    """Run one stage in the working folder and return the exit code; a foreseen failure is one line on stderr."""
    if len(arguments) != 1 or arguments[0] not in STAGES:
        sys.stderr.write(f"usage: python -m components.stages {{{','.join(STAGES)}}}\n")
        return 2
    # Before torch loads: its idle threads would spin, and on a busy machine spinning makes training 10 times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(format="%(message)s")
    logger.setLevel(logging.INFO)
    try:
        STAGES[arguments[0]](load_params(Path("params.yaml")))
    except PerennialError as error:
        sys.stderr.write(f"{arguments[0]}: {' '.join(str(error).split())}\n")
        return error.exit_code
    return 0


def _weigh(learning: LearningSet, params: Params) -> NDArray[np.float32]:
    """Return every row's training weight (N,), 0 where it is left out."""
    from components.labels.suspects import read_suspects, training_weights

    suspect = read_suspects(Path(params.paths.audit), learning.rows["image_id"].to_pylist())
    return training_weights(
        suspect,
        learning.given,
        learning.production,
        policy=params.audit.policy,
        suspect_weight=params.audit.suspect_weight,
        production_weight=params.train.production_weight,
    )


def _logits_of_parts(stored: StoredImages, network: nn.Module, spec: ModelSpec, batch_size: int) -> dict[str, Part]:
    from components.evaluation.measure import Part
    from components.model.training import predict_logits

    parts = {}
    for name in EVALUATED:
        rows = stored.manifest.select(name)
        if len(rows):
            images = stored.pixels(rows, spec.preprocess)
            parts[name] = Part(predict_logits(network, images, spec.preprocess, batch_size), stored.labels(rows))
    return parts


def _same_classes(stored: StoredImages, spec: ModelSpec) -> None:
    if stored.manifest.classes != spec.classes:
        raise DataError("the model answers another class list than the manifest's; run the train stage again")


def _fresh(folder: str) -> Path:
    path = Path(folder)
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _read_json(path: Path, stage: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; run the {stage} stage first") from error
    except ValueError as error:
        raise IntegrityError(f"{path} is damaged, run the {stage} stage again: {error}") from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
