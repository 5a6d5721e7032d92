"""When a refused candidate is followed by another one of the same attempt."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from components.operations.retraining.attempt import Attempt
from components.operations.retraining.renewal import another_candidate
from components.params import Params
from components.store import ledger
from components.store.database import Database

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def verdict(*failed: str) -> dict[str, Any]:
    names = ("calibration", "overall", "every class", "alarmed class cat")
    checks = [{"name": name, "passed": name not in failed, "detail": name} for name in names]
    return {"passed": not failed, "reason": ", ".join(failed), "checks": checks}


@pytest.mark.parametrize(
    ("failed", "candidate", "expected"),
    [
        (("every class",), 0, True),
        (("every class",), 1, False),  # params.yaml allows two
        ((), 0, False),
        (("every class", "overall"), 0, False),
        (("alarmed class cat",), 0, False),
        (("every class", "alarmed class cat"), 0, False),
    ],
)
def test_only_a_fall_in_a_class_that_did_not_alarm_is_worth_another_candidate(
    database: Database, failed: tuple[str, ...], candidate: int, expected: bool
) -> None:
    services: Any = SimpleNamespace(database=database, workspace=SimpleNamespace(params=Params()))
    attempt = Attempt(
        request=1, number=1, worker="w", cause="accuracy", reason="r", alarmed={"cat": []}, candidate=candidate
    )
    assert another_candidate(services, attempt, 2, verdict(*failed), now=NOW) is expected
    noted = [(e["kind"], e["action"], e["model_version"]) for e in ledger.history(database, limit=5)]
    assert noted == ([("gate", "another", 2)] if expected else [])
