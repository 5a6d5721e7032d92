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

NEXT_TO_NOTHING = 1e-3
"""Weight of a label that is out of date where the audit's models learn: those images are to be judged, too."""

MOST_REWEIGHTED = 4.0
"""How many times an image may count where training is weighted by the classes' shares in production."""

# The first with images is what calibration is judged on.
EVALUATED = ("frozen_test", "validation", "golden", "test")


def audit(params: Params) -> None:
    """Write which labels are hard to believe or out of date: suspects, out_of_fold and stale .parquet, metrics.json."""
    from components.labels.issues import find_issues
    from components.labels.stale import find_stale, write_stale
    from components.labels.suspects import write_out_of_fold, write_suspects
    from components.model.dataset import StoredImages, load_learning
    from components.model.folds import unjudgeable_classes
    from components.model.out_of_fold import out_of_fold

    stored = StoredImages.of(params)
    learning = load_learning(stored, params.preprocess, params.train)
    stale = find_stale(stored, learning.spec, params)
    outdated = learning.named(stale.table["image_id"].to_pylist())
    groups, labels, classes = learning.rows["group_id"].to_pylist(), learning.data.labels, learning.classes
    counted = replace(learning.data, weights=np.where(outdated, NEXT_TO_NOTHING, learning.data.weights))
    probabilities, fold = out_of_fold(
        counted, groups, len(classes), spec=learning.spec, train=params.train, audit=params.audit
    )
    issues = find_issues(labels, probabilities)
    not_judged = unjudgeable_classes(groups, labels, len(classes), params.audit.folds)
    issues = replace(issues, suspect=issues.suspect & ~np.isin(labels, not_judged))

    folder = _fresh(params.paths.audit)
    image_ids = learning.rows["image_id"].to_pylist()
    write_suspects(folder, image_ids, labels, issues, classes)
    write_out_of_fold(folder, image_ids, probabilities, fold)
    write_stale(folder, stale)
    given, doubted = (np.bincount(part, minlength=len(classes)) for part in (labels, labels[issues.suspect]))
    metrics = {
        "images": len(labels),
        "suspects": int(issues.suspect.sum()),
        "share": round(float(issues.suspect.mean()), 5),
        "noise": {name: round(doubted[k] / given[k], 5) for k, name in enumerate(classes) if given[k]},
        "agreement": round(float((issues.likely == labels).mean()), 5),
        "not_judged": [classes[k] for k in not_judged],
        "stale": stale.report(),
    }
    _write_json(folder / METRICS_FILE, metrics)
    logger.info("audit: %d of %d labels are suspect", metrics["suspects"], len(labels))


def train(params: Params) -> None:
    """Write a trained model: model.pt (weights only), model.json, metrics.jsonl, metrics.json, checkpoints."""
    import torch

    from components.labels.stale import read_meanings, read_stale, read_successors
    from components.model.backbones import build
    from components.model.dataset import StoredImages, load_learning
    from components.model.progress import MetricsLog
    from components.model.training import fit

    learning = load_learning(StoredImages.of(params), params.preprocess, params.train)
    weights = _weigh(learning, params)
    outdated = learning.named(read_stale(Path(params.paths.audit)))
    learning, relearnt = _relearn(learning, read_meanings(Path(params.paths.audit)))
    weights = np.where(relearnt > 0, relearnt, weights)
    taken_over = read_successors(Path(params.paths.audit))
    weights *= np.array([taken_over.get(name, 1.0) for name in learning.rows["image_id"].to_pylist()], np.float32)
    learnt = learning.training & (weights > 0) & (~outdated | (relearnt > 0))
    weights, of_class = _as_in_production(learning, weights, learnt, params)
    judging = ~learning.training & ~outdated
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
        learning.data.take(judging),
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
        "out_of_date": int(outdated.sum()),
        "relearnt": int((relearnt > 0).sum()),
        "took_over": len(taken_over),
        "weighted_down": int((learnt & (weights < 1)).sum()),
        "validation_images": int(judging.sum()),
        "class_weights": of_class,
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
    from components.labels.stale import read_stale
    from components.model.backbones import restore
    from components.model.calibration import softmax
    from components.model.dataset import StoredImages

    network, spec = restore(Path(params.paths.model))
    stored = StoredImages.of(params)
    _same_classes(stored, spec)
    outdated = read_stale(Path(params.paths.audit))
    parts = _logits_of_parts(stored, network, spec, params.evaluate.batch_size, outdated)
    metrics = measure(parts, spec.classes, params.evaluate)
    metrics = {"backbone": spec.backbone, "class_names": list(spec.classes), "out_of_date": len(outdated), **metrics}

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


def _relearn(
    learning: LearningSet, meanings: Mapping[str, tuple[str, float]]
) -> tuple[LearningSet, NDArray[np.float32]]:
    """Return the set with training images under the class they mean now, and how much each of them counts (N,), else 0.

    In training alone: what was inferred measures nothing.
    """
    labels, counts = learning.data.labels.copy(), np.zeros(len(learning.training), np.float32)
    for row, image_id in enumerate(learning.rows["image_id"].to_pylist()):
        if image_id in meanings and learning.training[row]:
            means, counts[row] = meanings[image_id]
            labels[row] = learning.classes.index(means)
    return replace(learning, data=replace(learning.data, labels=labels)), counts


def _as_in_production(
    learning: LearningSet, weights: NDArray[np.float32], learnt: NDArray[np.bool_], params: Params
) -> tuple[NDArray[np.float32], dict[str, float]]:
    """Return the weights (N,) with every class counting as often as in `params.mix`, and what each was multiplied by.

    Unchanged, and nothing, where no mix is noted or a class of the data is not in it.
    """
    from components.monitoring.drift.label_shift import reweighting

    shares = params.mix.shares
    if not shares or not set(learning.classes) <= shares.keys():
        return weights, {}
    labels = learning.data.labels
    wanted = np.array([shares[name] for name in learning.classes])
    given = np.bincount(labels[learnt], weights[learnt], len(learning.classes))
    factors = reweighting(wanted / wanted.sum(), given / given.sum(), MOST_REWEIGHTED)
    told = {name: round(float(factor), 4) for name, factor in zip(learning.classes, factors, strict=True)}
    return (weights * factors[labels]).astype(np.float32), told


def _logits_of_parts(
    stored: StoredImages, network: nn.Module, spec: ModelSpec, batch_size: int, outdated: frozenset[str]
) -> dict[str, Part]:
    from components.data.manifest import without
    from components.evaluation.measure import Part
    from components.model.training import predict_logits

    parts = {}
    for name in EVALUATED:
        rows = without(stored.manifest.select(name), outdated)
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
