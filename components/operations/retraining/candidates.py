"""A trained candidate: registered with everything that made it, then judged against the champion on the same images."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from components.data.ingestion.class_history import ClassHistory
from components.data.manifest import Manifest
from components.model.artifact import read_spec
from components.model.serving.predictor import Predictor
from components.monitoring.comparison.skew import OfflineRecall
from components.operations.carrying import older_lists
from components.operations.models import load_predictor
from components.operations.retraining.attempt import Attempt
from components.operations.retraining.comparison import clone_reader, held_out, probabilities
from components.operations.retraining.judged import Answered, put_before_gate
from components.operations.retraining.renewal import stage_metrics
from components.operations.services import Services
from components.params import load_params
from components.records import ModelVersion
from components.registry.artifacts import artifact_sha256
from components.registry.card import model_card
from components.store import champions

FROZEN_TEST_USES = "frozen_test_uses"
"""How many models have been measured on the frozen test set, as a version's tag and on its card."""


def register(
    services: Services, clone: Path, attempt: Attempt, *, run_id: str, dataset: str, commit: str, now: datetime
) -> int:
    """Return the candidate's version, in MLflow and in our own table; a repeated call finds the one made before."""
    params = load_params(clone / "params.yaml")
    export = clone / params.paths.export
    spec = read_spec(export)
    metrics = stage_metrics(clone, params)
    registry = services.registry
    registry.log_artifacts(run_id, clone / params.paths.evaluation, "evaluation")
    registry.log_artifacts(run_id, clone / params.paths.audit, "audit")
    registry.log_artifacts(run_id, clone / params.paths.model / "augmentation", "augmentation")
    display = ClassHistory.read(clone / params.paths.manifest, images=False).display
    headline = _headline(metrics["evaluation"])
    facts = {"dataset_version": dataset, "git_commit": commit, "cause": attempt.cause, "reason": attempt.reason}
    facts |= {FROZEN_TEST_USES: str(_frozen_test_uses(services, headline, run_id))}
    version = registry.register(
        export, run_id=run_id, tags=facts, metrics=headline,
        card_markdown=model_card(spec, metrics["evaluation"], facts=facts, verdict=None, display=display),
        classes=spec.classes,
    )  # fmt: skip
    registry.end_run(run_id)
    champions.register_model(
        services.database,
        ModelVersion(
            version=version,
            run_id=run_id,
            dataset_version=dataset,
            git_commit=commit,
            classes=spec.classes,
            artifact_sha256=artifact_sha256(export),
            preprocess_sha256=spec.preprocess.digest(),
            state="candidate",
            created_at=now,
            several=spec.several,
            metrics={
                "evaluation": headline,
                "offline": OfflineRecall.of_report(metrics["evaluation"]).as_json(),
                "cause": attempt.cause,
                "reason": attempt.reason,
                FROZEN_TEST_USES: int(facts[FROZEN_TEST_USES]),
            },
        ),
    )
    return version


def judge(services: Services, clone: Path, attempt: Attempt, version: int) -> dict[str, Any]:
    """Return the gate's verdict on a registered candidate, noted in our table, in MLflow and on its card."""
    from components.labels.stale import read_stale  # loads scipy.stats, half a second for every other command

    params = load_params(clone / "params.yaml")
    export = clone / params.paths.export
    metrics = stage_metrics(clone, params)
    outdated = read_stale(clone / params.paths.audit)
    images = held_out(Manifest.read(clone / params.paths.manifest), params.data.golden_windows, outdated)
    reader, batch = clone_reader(clone, params), params.evaluate.batch_size
    candidate = Predictor(export)
    ours = Answered(candidate.spec, probabilities(candidate, images.rows, reader, services.limits, batch))
    current = champions.champion(services.database)
    theirs = translation = None
    if current is not None:
        serving = load_predictor(services, current)
        theirs = Answered(serving.spec, probabilities(serving, images.rows, reader, services.limits, batch))
        translation = older_lists(services, clone, params, images=False).translation(current)
    verdict = put_before_gate(
        images.labels, ours, theirs, translation, alarmed=attempt.alarmed,
        parity_ok=bool(metrics["export"].get("passed", False)), params=params,
    ).as_json()  # fmt: skip
    if translation is not None and not translation.trivial:
        verdict["class_list"] = translation.as_json()
    verdict["images"] = {
        "validation": int((~images.golden).sum()), "golden": int(images.golden.sum()), "out_of_date": len(outdated),
    }  # fmt: skip
    verdict["against"] = current.version if current else None
    display = ClassHistory.read(clone / params.paths.manifest, images=False).display
    _note(services, version, verdict, metrics["evaluation"], display)
    return verdict


def _note(
    services: Services,
    version: int,
    verdict: dict[str, Any],
    evaluation: dict[str, Any],
    display: Mapping[str, str],
) -> None:
    champions.add_metrics(services.database, version, {"verdict": verdict})
    registry, model = services.registry, champions.model(services.database, version)
    registry.set_tags(version, {"gate": "passed" if verdict["passed"] else "refused", "gate_reason": verdict["reason"]})
    facts = {
        "dataset_version": model.dataset_version,
        "git_commit": model.git_commit,
        "cause": str(model.metrics.get("cause", "")),
        "reason": str(model.metrics.get("reason", "")),
        FROZEN_TEST_USES: str(model.metrics.get(FROZEN_TEST_USES, "not counted")),
    }
    spec = load_predictor(services, model).spec
    registry.set_card(version, model_card(spec, evaluation, facts=facts, verdict=verdict, display=display))


def _frozen_test_uses(services: Services, headline: Mapping[str, float], run_id: str) -> int:
    """Return how many registered models were measured on the frozen test set, the one with this headline included.

    The more there were, the more the best figure among them flatters; the gate decides on other images.
    """
    others = [model for model in champions.models(services.database) if model.run_id != run_id]
    told = [headline, *(model.metrics.get("evaluation", {}) for model in others)]
    return sum(any(name.startswith("frozen_test.") for name in one) for one in told)


def _headline(evaluation: dict[str, Any]) -> dict[str, float]:
    """Return the numbers a registry page shows first: those at the top of each split's report."""
    calibration = evaluation["calibration"]
    found = {name: float(calibration[name]) for name in ("temperature", "ece_before", "ece_after")}
    for part, report in evaluation["parts"].items():
        for name in ("accuracy", "macro_f1", "map", "exact_match"):
            value = report.get(name)
            if isinstance(value, dict):
                found[f"{part}.{name}"] = float(value["value"])
    return found
