"""A command's own Prefect server that cannot start; commands with one that does are in the tests of the product."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(600)

# Waited for as Prefect's client would, which finds nobody there; and not reaped, which is for those who started it.
STARTED = """
import os, sys
from pathlib import Path
import psutil
from flows.servers import prepare_client
prepare_client(Path(sys.argv[1]), None)
(server,) = psutil.Process().children()
os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)
"""


def test_it_is_told_with_the_place_of_its_log(tmp_path: Path, environment: Callable[..., dict[str, str]]) -> None:
    (tmp_path / "prefect").mkdir()
    (tmp_path / "prefect" / "prefect.db").write_bytes(b"no database" * 1000)
    done = subprocess.run(
        [sys.executable, "-c", STARTED, str(tmp_path)],
        env=environment(), capture_output=True, text=True, check=False, timeout=500,
    )  # fmt: skip
    assert done.stderr == f"perennial: Prefect's server ended with 3; see {tmp_path}/prefect.log\n"
    assert "file is not a database" in (tmp_path / "prefect.log").read_text(encoding="utf-8")
