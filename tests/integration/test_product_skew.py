"""Production worse than offline, on a trained workspace: a broken serving path is named, a whole one is not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from components.labels.consensus import settle
from components.model.artifact import read_spec, write_spec
from components.records import LabelAnswer
from components.registry.artifacts import artifact_sha256
from components.store import alerts_log, champions, labelling, ledger

if TYPE_CHECKING:
    from components.data.sources.item import SourceItem
    from components.operations.services import Services

pytestmark = [pytest.mark.xdist_group("workspace"), pytest.mark.timeout(900), pytest.mark.slow]

MONTH = "2027-03"
SCORED, CLOSED = datetime(2027, 3, 10, tzinfo=UTC), datetime(2027, 4, 4, tzinfo=UTC)
Score = Callable[["Services", str, datetime], None]


@pytest.fixture
def truth(digits: list[SourceItem]) -> dict[str, str]:
    import hashlib

    return {hashlib.sha256(item.content).hexdigest(): str(item.label) for item in digits}


def judged(services: Services, truth: dict[str, str], now: datetime = CLOSED) -> dict[str, Any]:
    """Draw the month, have it answered by `truth`, and return what the monitor finds."""
    from functools import partial

    from components.operations.labelling import draw_window
    from components.operations.monitoring.judging import monitor_window

    draw_window(services, MONTH, now=now)
    tasks = [t for t in labelling.tasks(services.database, "accuracy", limit=None) if t.window == MONTH]
    answers = [LabelAnswer(t.task_id, truth[t.image_id], "ann", now) for t in tasks]
    labelling.record_answers(services.database, answers, now=now, settle=partial(settle, wanted=1))
    (found,) = monitor_window(services, MONTH, now=now)
    return found


def serve_with(services: Services, **rules: Any) -> Path:
    """Break the serving path: the champion's files are prepared by other rules than it was trained with."""
    from dataclasses import replace

    from sqlalchemy import text

    from components.operations.models import load_predictor, require_champion

    model = require_champion(services)
    load_predictor(services, model)
    models = services.workspace.state / "models"
    whole, broken = models / f"{model.version}-{model.artifact_sha256[:16]}", models / "broken"
    shutil.copytree(whole, broken)
    spec = read_spec(broken)
    write_spec(broken, replace(spec, preprocess=replace(spec.preprocess, **rules)))
    sha256 = artifact_sha256(broken)
    renamed = models / f"{model.version}-{sha256[:16]}"
    broken.rename(renamed)
    change = text("UPDATE model_version SET artifact_sha256 = :sha256 WHERE version = :version")
    with services.database.transaction() as connection:
        connection.execute(change, {"sha256": sha256, "version": model.version})
    return renamed


def alerts(services: Services, prefix: str) -> list[dict[str, Any]]:
    return [a for a in alerts_log.recent_alerts(services.database, 50) if a["key"].startswith(prefix)]


def test_another_preparation_of_images_at_scoring_is_named_as_skew(
    apart: Services, truth: dict[str, str], score_month: Score
) -> None:
    folder = serve_with(apart, filter="box", resize="crop", crop_fraction=0.75)
    try:
        score_month(apart, "skewed", SCORED)
        found = judged(apart, truth)
    finally:
        shutil.rmtree(folder)
    skew = found["skew"]
    assert skew["state"] == "skew"
    assert skew["replay"]["images"] == 500
    assert skew["replay"]["differing"] > 250  # how many, depends on the champion that the tests before left
    assert skew["replay"]["changed"] > 50
    worst = skew["replay"]["worst_image"]
    assert worst in truth
    (page,) = alerts(apart, "skew/")
    assert (page["level"], worst in page["body"]) == ("page", True)
    assert "do not retrain for this" in page["body"]
    (row,) = ledger.history(apart.database, 5, kind="skew")
    assert (row["action"], row["window"], row["model_version"]) == ("skew", MONTH, found["model_version"])
    assert row["evidence"]["verdict"] == skew
    assert sum(row["evidence"]["offline"]["images"]) > 100
    # Asked once: the answer stands, and nobody is told twice.
    assert judged(apart, truth, CLOSED + timedelta(days=1))["skew"] == skew
    assert len(ledger.history(apart.database, 5, kind="skew")) == len(alerts(apart, "skew/")) == 1


def test_a_gap_of_a_whole_serving_path_is_another_population(
    apart: Services, truth: dict[str, str], score_month: Score
) -> None:
    score_month(apart, "other labels", SCORED)
    # What people call right has changed: threes are eights now, and fours nines.
    changed = {"3": "8", "4": "9"}
    found = judged(apart, {image: changed.get(label, label) for image, label in truth.items()})
    skew = found["skew"]
    assert skew["state"] == "drift"
    assert skew["replay"]["differing"] == 0
    assert {c["name"] for c in skew["gap"]["classes"]} == {"8", "9"}
    (told,) = alerts(apart, "gap/")
    assert told["level"] == "info"
    assert alerts(apart, "skew/") == []


def test_a_healthy_model_shows_no_gap(apart: Services, truth: dict[str, str], score_month: Score) -> None:
    score_month(apart, "healthy", SCORED)
    assert judged(apart, truth)["skew"]["state"] == "no-gap"
    assert alerts(apart, "gap/") + alerts(apart, "skew/") == []


def test_where_the_checkpoint_cannot_be_had_the_gap_is_told_and_tried_again(
    apart: Services, truth: dict[str, str], score_month: Score
) -> None:
    from sqlalchemy import text

    score_month(apart, "other labels", SCORED)
    version = champions.champion(apart.database).version
    commit = champions.model(apart.database, version).git_commit
    change = text("UPDATE model_version SET git_commit = :commit WHERE version = :version")
    with apart.database.transaction() as connection:
        connection.execute(change, {"commit": "f" * 40, "version": version})
    others = {image: {"3": "8", "4": "9"}.get(label, label) for image, label in truth.items()}
    skew = judged(apart, others)["skew"]
    assert skew["state"] == "untested"
    assert "could not be tested: git checkout failed" in skew["reason"]
    assert skew["gap"]["shown"]
    with apart.database.transaction() as connection:
        connection.execute(change, {"commit": commit, "version": version})
    assert judged(apart, others, CLOSED + timedelta(days=1))["skew"]["state"] == "drift"
    assert [r["action"] for r in ledger.history(apart.database, 5, kind="skew")] == ["drift", "untested"]
