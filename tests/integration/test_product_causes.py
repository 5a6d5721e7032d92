"""The daily flow and the schedule's own ask on a real workspace: what is asked, refused and said."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text

pytestmark = [pytest.mark.xdist_group("workspace"), pytest.mark.timeout(1800), pytest.mark.slow]

TWO_DAYS_AND_A_SCHEDULE = """
import json, sys
from pathlib import Path
from flows.commands.options import prepare_flows
workspace = prepare_flows(Path(sys.argv[1]))
from flows.monitor import daily
from flows.retrain import monthly
print(json.dumps([daily(workspace), daily(workspace), monthly(workspace)], default=str))
"""


def test_a_service_that_slept_for_months_asks_once_is_refused_and_says_why(
    product: Any, apart: Any, perennial: Callable[..., Any], environment: Callable[..., dict[str, str]]
) -> None:
    from components.store import ledger

    url = {"DATABASE_URL": apart.workspace.settings.database_url}
    here = ("--workspace", str(product.root))
    early = perennial("retrain", "--scheduled", *here, **url)  # trained today: the schedule's time was before
    assert early.code == 3
    assert "has asked already" in early.err

    with apart.database.transaction() as connection:
        connection.execute(text("UPDATE retrain_request SET started_at = started_at - interval '70 days'"))
    done = subprocess.run(
        [sys.executable, "-c", TWO_DAYS_AND_A_SCHEDULE, str(product.root)],
        env=environment(**url), capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, second, scheduled = json.loads(done.stdout.splitlines()[-1])
    assert first["asked"]["action"] == "refused"
    assert "0 new audited labels since the last training, 50 are needed" in first["asked"]["reason"]
    assert second["asked"]["action"] == "none"
    assert first["renewal"] is second["renewal"] is None
    assert "has asked already" in scheduled["refused"]
    assert [row["action"] for row in ledger.history(apart.database, 9, "ask")] == ["none", "refused"]

    with apart.database.transaction() as connection:  # the ledger keeps what was said; here it never was
        connection.execute(text("ALTER TABLE decision DISABLE TRIGGER USER"))
        connection.execute(text("DELETE FROM decision WHERE kind = 'ask'"))
    late = perennial("retrain", "--scheduled", *here, **url)
    assert late.code == 3
    assert "0 new audited labels since the last training, 50 are needed" in late.err
