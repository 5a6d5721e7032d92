"""The stage that doubts: labels and who gave them, images, and what is out of date."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from components.data.annotations import read_annotations
from components.data.described import read_descriptors
from components.data.label_sets import encode
from components.data.manifest import RowIndex
from components.errors import ConfigurationError
from components.labels.annotators import Crowd, judge_annotators
from components.labels.audit_page import PAGE_FILE, Shown, write_audit_page
from components.labels.conflicts import find_conflicts
from components.labels.findings import Audited, Finding, ranked, write_findings
from components.labels.image_issues import find_image_issues
from components.labels.issues import find_issues, find_set_issues
from components.labels.noise import estimate_noise
from components.labels.set_audit import label_rows, set_findings, shown_sets, unjudgeable_labels
from components.labels.stale import find_stale, write_stale
from components.labels.suspects import write_out_of_fold, write_suspects
from components.model.images.dataset import DecodedImages, LearningSet, StoredImages, load_learning
from components.model.images.inputs import ImageSet
from components.model.images.preprocess import PreprocessSpec
from components.model.networks.backbones import recorded_statistics
from components.model.out_of_fold.folds import rarest_labels, unjudgeable_classes
from components.model.out_of_fold.probabilities import agreed, head_out_of_fold, out_of_fold
from components.model.serving.frozen_features import frozen_features
from components.pages.page import data_uri
from components.params import Audit, Params
from components.stages.files import METRICS_FILE, fresh, write_json

logger = logging.getLogger(__name__)

NEXT_TO_NOTHING = 1e-3
"""Weight of a label that is out of date where the audit's models learn: those images are to be judged, too."""

_ROWS = 2048  # of which the pixels for a backbone are in memory at a time
_UNKNOWN = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # mean and deviation where a backbone's own are not recorded

_POLICY_WORDS = {
    "keep": "Training learns doubted labels as they are.",
    "down-weight": "Training lets doubted labels that nobody has confirmed count less.",
    "drop": "Training leaves out doubted labels that nobody has confirmed.",
    "soft-targets": "Training learns what the audit's models hold likely in place of labels that they doubt.",
}


def run(params: Params) -> None:
    """Write what is hard to believe, looks wrong or is out of date: tables, metrics.json and the page audit.html."""
    stored = StoredImages.of(params)
    learning = load_learning(stored, params.preprocess, params.train)
    stale = find_stale(stored, learning.spec, params)
    outdated = learning.named(stale.table["image_id"].to_pylist())
    counted = replace(learning.data, weights=np.where(outdated, NEXT_TO_NOTHING, learning.data.weights))
    judged = (_judge_sets if learning.data.several else _judge_labels)(stored, learning, counted, params)
    audited = judged.audited

    folder = fresh(params.paths.audit)
    write_suspects(folder, audited.image_ids, judged.given, judged.likely, judged.score, judged.suspect)
    write_out_of_fold(folder, audited.image_ids, judged.probabilities, judged.fold)
    write_stale(folder, stale)
    looks = find_image_issues(DecodedImages(stored, learning.rows))
    descriptors = read_descriptors(stored.reader, learning.rows, stored.limits)
    alike = find_conflicts(descriptors, audited.labels, params.data.near_distance)
    judged.crowd.write(folder)
    findings = ranked(
        [*judged.findings, *judged.crowd.findings(), *audited.of_images(looks), *audited.of_conflicts(alike)]
    )  # fmt: skip
    metrics = {
        "images": len(judged.suspect),
        "suspects": int(judged.suspect.sum()),
        "share": round(float(judged.suspect.mean()), 5),
        "agreement": round(judged.agreement, 5),
        "classes": judged.classes,
        "noise": judged.noise,
        "not_judged": judged.not_judged,
        "image_issues": looks.report(),
        "near_duplicates": alike.report(),
        "annotators": judged.crowd.report(),
        "findings": len(findings),
        "policy": _POLICY_WORDS[params.audit.policy],
        "method": _method(params.audit),
        "stale": stale.report(),
    }
    write_json(folder / METRICS_FILE, metrics)
    write_findings(folder, findings)
    write_audit_page(metrics, findings, _Shown(stored, learning.rows), folder / PAGE_FILE)
    logger.info(
        "audit: %d of %d labels are suspect, %d findings", metrics["suspects"], metrics["images"], len(findings)
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Judged:
    """What models say of the labels of N images. given, likely: (N,) as stored. The others are as the files have them.

    audited: what the other findings are named by.
    """

    audited: Audited
    given: Sequence[str]
    likely: Sequence[str]
    score: NDArray[np.float64]
    suspect: NDArray[np.bool_]
    probabilities: NDArray[np.float32]
    fold: NDArray[np.int64]
    findings: Sequence[Finding]
    agreement: float
    classes: Sequence[dict[str, Any]]
    noise: Mapping[str, Any]
    not_judged: Sequence[str]
    crowd: Crowd


def _judge_labels(stored: StoredImages, learning: LearningSet, counted: ImageSet, params: Params) -> _Judged:
    groups, labels, classes = learning.rows["group_id"].to_pylist(), learning.data.labels, learning.classes
    probabilities, fold = out_of_fold(
        counted, groups, len(classes), spec=learning.spec, train=params.train, audit=params.audit
    )
    if params.audit.features.backbone:
        seen = _features(stored, learning.rows, params)
        probabilities = agreed(probabilities, head_out_of_fold(seen, counted, fold, len(classes)))
    issues, noise = find_issues(labels, probabilities), estimate_noise(labels, probabilities)
    not_judged = unjudgeable_classes(groups, labels, len(classes), params.audit.folds)
    issues = replace(issues, suspect=issues.suspect & ~np.isin(labels, not_judged))

    image_ids = learning.rows["image_id"].to_pylist()
    audited = Audited(image_ids, labels, classes)
    crowd = judge_annotators(
        read_annotations(stored.manifest, Path(params.paths.manifest)), image_ids, labels, classes, probabilities,
        not_judged,
    )  # fmt: skip
    return _Judged(
        audited=audited,
        given=[classes[k] for k in labels],
        likely=[classes[k] for k in issues.likely],
        score=issues.score,
        suspect=issues.suspect,
        probabilities=probabilities,
        fold=fold,
        findings=list(audited.of_labels(issues)),
        agreement=float((issues.likely == labels).mean()),
        classes=audited.class_rows(issues, not_judged),
        noise=noise.report(classes) if noise is not None else {},
        not_judged=[classes[k] for k in not_judged],
        crowd=crowd,
    )


def _judge_sets(stored: StoredImages, learning: LearningSet, counted: ImageSet, params: Params) -> _Judged:
    """Return the same of images that carry several labels; the other findings name them by their sets."""
    if params.audit.features.backbone:
        raise ConfigurationError('audit.features judges images of one label each; set audit.features.backbone to ""')
    groups, given, classes = learning.rows["group_id"].to_pylist(), learning.data.labels, learning.classes
    probabilities, fold = out_of_fold(
        counted, groups, len(classes), spec=learning.spec, train=params.train, audit=params.audit,
        strata=rarest_labels(given),
    )  # fmt: skip
    issues = find_set_issues(given, probabilities)
    not_judged = unjudgeable_labels(groups, given, params.audit.folds)
    issues.doubted[:, not_judged] = False
    image_ids = learning.rows["image_id"].to_pylist()
    sets, of_row = np.unique(shown_sets(given, classes), return_inverse=True)
    nobody = read_annotations(stored.manifest, Path(params.paths.manifest))
    changed = given ^ issues.doubted
    return _Judged(
        audited=Audited(image_ids, of_row.astype(np.int64), sets.tolist()),
        given=[encode(classes[k] for k in np.flatnonzero(row)) for row in given],
        likely=[encode(classes[k] for k in np.flatnonzero(row)) for row in changed],
        score=issues.score,
        suspect=issues.suspect,
        probabilities=probabilities,
        fold=fold,
        findings=list(set_findings(image_ids, given, issues, probabilities, classes)),
        agreement=float(((probabilities >= 0.5) == (given > 0)).all(axis=1).mean()),
        classes=label_rows(given, issues, probabilities, not_judged, classes),
        noise={},
        not_judged=[classes[k] for k in not_judged],
        crowd=judge_annotators(nobody, image_ids, of_row.astype(np.int64), sets.tolist(), probabilities, not_judged),
    )


def _features(stored: StoredImages, rows: pa.Table, params: Params) -> NDArray[np.float32]:
    """Return what the pre-trained backbone sees in the images of `rows`: (N, D)."""
    wanted = params.audit.features
    preprocess = params.preprocess.model_copy(update={"size": wanted.size, "channels": 3, "filter": "bicubic"})
    mean, std = recorded_statistics(wanted.backbone, 3) or _UNKNOWN
    spec = replace(PreprocessSpec.of(preprocess, mean, std), mean=mean, std=std)
    parts = (stored.pixels(rows.slice(start, _ROWS), spec) for start in range(0, len(rows), _ROWS))
    return frozen_features(parts, wanted.backbone, wanted.pretrained, spec)


def _method(audit: Audit) -> str:
    said = f"{audit.folds} models, {audit.epochs} epochs each, judged images they had not seen."
    if audit.features.backbone:
        said += f" So did linear heads on what {audit.features.backbone} sees; both had to agree."
    return said


class _Shown:
    """What the page shows of an image, by its id."""

    def __init__(self, stored: StoredImages, rows: pa.Table) -> None:
        self._stored = stored
        self._rows = rows
        self._index = RowIndex(rows)

    def __call__(self, image_id: str) -> Shown:
        row = self._index.row(image_id)
        assert row is not None  # noqa: S101  (findings are about these rows)
        place = self._rows.slice(row, 1).to_pylist()[0]
        return Shown(data_uri(self._stored.image(place)), place["name"] or "", place["source"] or "")
