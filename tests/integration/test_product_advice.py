"""Advice on real digits: short trainings in a process of their own, what they say, and where it is kept."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from components.alerts.message import AlertLevel
from components.errors import ServiceError
from components.evaluation.training.advice import Remedy
from components.operations.retraining import advice, renewal
from components.operations.retraining.attempt import Attempt, begin
from components.store import alerts_log, champions, ledger

if TYPE_CHECKING:
    from components.operations.services import Services

pytestmark = [pytest.mark.xdist_group("workspace"), pytest.mark.timeout(900), pytest.mark.slow]

NOW = datetime(2027, 5, 4, 12, tzinfo=UTC)


def test_the_command_says_what_would_help_and_the_ledger_keeps_the_curve(
    apart: Services, perennial: Callable[..., Any]
) -> None:
    root, url = apart.workspace.root, apart.workspace.settings.database_url
    shown = perennial(
        "advise", "--class", "8", "--seconds", "120", "--json", "--workspace", str(root), DATABASE_URL=url
    )
    assert shown.code == 0, shown.err
    curve, (overall, eight) = shown.json["curve"], shown.json["advice"]
    shares = [round(8 * point["share"]) for point in curve["points"]]
    assert shares[:3] == [8, 2, 4]
    errors = {round(8 * p["share"]): sum(p["wrong"]) for p in curve["points"]}
    assert errors[min(errors)] > errors[8]  # more images, fewer errors
    assert max(p["images"] for p in curve["points"]) > 1000
    assert sum(curve["held_out"]) > 150
    assert (overall["class"], eight["class"]) == (None, "8")
    assert overall["twice"]["low"] <= overall["error"]
    assert set(overall["remedies"]) <= set(Remedy)
    assert eight["words"].startswith("8: ")
    (row,) = ledger.history(apart.database, 5, kind="advice")
    assert (row["actor"], row["reason"]) == ("advise", shown.json["reason"])
    assert row["evidence"]["curve"] == curve


def test_a_refused_candidates_alert_says_what_would_help(apart: Services, product: Any) -> None:
    from components.data.versioning.versions import past_checkout

    version = champions.champion(apart.database).version
    attempt = begin(apart, cause="manual", reason="a test", force=True, actor="test", now=NOW)
    attempt = Attempt.from_json({**attempt.as_json(), "alarmed": {"3": ["recall"], "gnu": ["recall"]}})
    workspace = apart.workspace
    params = workspace.params
    targets = [f"{params.paths.images}.dvc", f"{params.paths.manifest}.dvc", params.paths.audit]
    commit = champions.model(apart.database, version).git_commit
    with past_checkout(origin=workspace.origin, state=workspace.state, commit=commit, targets=targets) as root:
        words = advice.advise_refused(apart, root, attempt, version, now=NOW)
    assert "all classes: " in words
    assert "; 3: " in words
    refused = {
        "passed": False,
        "reason": "overall: worse",
        "checks": [{"name": "overall", "passed": False, "detail": "worse"}],
    }
    assert renewal.settle(apart, attempt, version, refused, now=NOW, advice=words) is False
    (told,) = [a for a in alerts_log.recent_alerts(apart.database, 20) if a["key"] == f"kept-champion/{version}"]
    assert told["level"] == AlertLevel.TICKET
    assert words in told["body"]
    (row,) = ledger.history(apart.database, 5, kind="advice")
    assert (row["model_version"], row["classes"], row["reason"]) == (version, ["3"], words)


def test_a_folder_without_data_gives_no_advice_but_a_reason(apart: Services, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("{}\n", encoding="utf-8")
    with pytest.raises(ServiceError, match="the learning curve could not be made: "):
        advice.curve_of(tmp_path, 5)
    attempt = Attempt(request=1, number=1, worker="w", cause="manual", reason="r", alarmed={})
    assert "what would help could not be found out" in advice.advise_refused(apart, tmp_path, attempt, 1, now=NOW)
    assert ledger.history(apart.database, 5, kind="advice") == []


def test_no_training_begins_that_would_end_too_late(product: Any, tmp_path: Path) -> None:
    """The first training always runs: without one there is nothing to say. A second one does not fit into a moment."""
    from components.data.versioning.versions import past_checkout
    from components.operations.workspace import open_workspace
    from components.settings import Settings

    workspace = open_workspace(product.root, Settings())
    targets = [f"{path}.dvc" for path in (workspace.params.paths.images, workspace.params.paths.manifest)]
    file = tmp_path / "curve.json"
    with past_checkout(
        origin=workspace.origin, state=workspace.state, commit="origin/main", targets=targets
    ) as root:  # fmt: skip
        subprocess.run([sys.executable, "-m", "components.curve", str(file), "0.5"], cwd=root, check=True, timeout=300)
    curve = json.loads(file.read_text(encoding="utf-8"))
    assert [point["share"] for point in curve["points"]] == [1.0]
    assert curve["doubted"] is None
