"""The stage that doubts: labels, images, and what is out of date."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from components.labels.issues import find_issues
from components.labels.stale import find_stale, write_stale
from components.labels.suspects import write_out_of_fold, write_suspects
from components.model.dataset import StoredImages, load_learning
from components.model.folds import unjudgeable_classes
from components.model.out_of_fold import out_of_fold
from components.params import Params
from components.stages.files import METRICS_FILE, fresh, write_json

logger = logging.getLogger(__name__)

NEXT_TO_NOTHING = 1e-3
"""Weight of a label that is out of date where the audit's models learn: those images are to be judged, too."""


def run(params: Params) -> None:
    """Write which labels are hard to believe or out of date: suspects, out_of_fold and stale .parquet, metrics.json."""
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

    folder = fresh(params.paths.audit)
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
    write_json(folder / METRICS_FILE, metrics)
    logger.info("audit: %d of %d labels are suspect", metrics["suspects"], len(labels))
