"""Alerts: what they say, and that no dead channel loses one."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from components.alerts.channels import append_line, deliver
from components.alerts.message import (
    AlertLevel,
    accuracy_alert,
    drift_alert,
    failure_alert,
    kept_champion_alert,
    promotion_alert,
    recovered_alert,
    refused_retraining_alert,
)
from components.records import (
    ClassAccuracy,
    ClassState,
    Decision,
    DriftFinding,
    GateCheck,
    GateVerdict,
    Interval,
)

# Apprise imports imghdr from the standard library when it loads its channels.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

NOW = datetime(2026, 11, 3, 6, tzinfo=UTC)
FALLEN = ClassAccuracy(
    "Sneaker", 27, 24, None, Interval(0.03, 0.01, 0.08), ClassState.ALARM, ("recall 3.0 %, reference 95.0 %",)
)
FINE = ClassAccuracy("Bag", 500, 40, Interval(0.95, 0.9, 0.98), Interval(0.94, 0.9, 0.98), ClassState.OK)
PASSED = GateVerdict((GateCheck("overall", True, "accuracy +2.0 points"),))
REFUSED = GateVerdict((GateCheck("overall", False, "accuracy -3.0 points"),))


@pytest.fixture
def alert():
    decision = Decision("retrain", ("Sneaker",), "accuracy fell")
    return accuracy_alert("2026-10", 3, [FALLEN, FINE], decision, links={"Report": "reports/2026-10.html"})


def test_an_accuracy_alert_answers_the_four_questions_and_names_only_what_fell(alert):
    lines = alert.body.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "What happened",
        "How sure",
        "What was done",
        "What to do",
        "Report",
    ]
    assert "Sneaker" in lines[0]
    assert "recall 3.0 % (1.0-8.0)" in lines[1]
    assert "Bag" not in alert.body
    assert alert.level is AlertLevel.PAGE


def test_an_accuracy_alert_says_when_no_retraining_follows():
    decision = Decision("refused", ("Sneaker",), "the cooldown ends on Friday")
    body = accuracy_alert("2026-10", 3, [FALLEN], decision).body
    assert "no retraining was started: the cooldown ends on Friday" in body


def test_the_same_trouble_has_the_same_key_and_another_one_another():
    def key(window, version):
        return accuracy_alert(window, version, [FALLEN], Decision("retrain")).key

    assert key("2026-10", 3) == key("2026-10", 3)
    assert len({key("2026-10", 3), key("2026-11", 3), key("2026-10", 4)}) == 3


def test_a_drift_alert_names_the_drifted_columns_and_says_that_drift_is_not_accuracy():
    found = [DriftFinding("brightness", 1e-9, 0.31, True), DriftFinding("width", 0.7, 0.01, False)]
    alert = drift_alert("2026-10", 3, found, labels_asked=40)
    assert "brightness: V 0.31, p 1.0e-09" in alert.body
    assert "width" not in alert.body
    assert "drift alone does not say that accuracy fell" in alert.body
    assert "40 more labels" in alert.body
    told = drift_alert("2026-10", 3, found, labels_asked=0, explained=["It is darker.", "No new class."]).body
    assert "What happened: brightness differ from the reference of model 3. It is darker. No new class.\n" in told


def test_gate_alerts_give_the_verdict():
    assert "version 2 replaced version 1" in promotion_alert(1, 2, PASSED).body
    assert "version 1 replaced no model" in promotion_alert(None, 1, PASSED).body
    kept = kept_champion_alert(1, 2, REFUSED)
    assert "overall: accuracy -3.0 points" in kept.body
    assert "version 1 stays" in kept.body
    assert "another backbone may help" in kept.body
    advised = kept_champion_alert(1, 2, REFUSED, advice="more labels of Boot would help").body
    assert "look at the failed checks; what would help: more labels of Boot would help" in advised
    assert "may help" not in advised


def test_other_alerts_say_what_to_do():
    assert "perennial retrain" in refused_retraining_alert(Decision("refused", (), "too soon")).body
    assert "perennial doctor" in failure_alert("retraining", "disk full").body
    assert recovered_alert("Drift in 2026-10", "drift/1").level is AlertLevel.INFO


def test_a_long_list_of_classes_is_cut_short():
    many = [ClassAccuracy(f"class {k}", 9, 9, None, None, ClassState.ALARM, ("recall 1 %",)) for k in range(200)]
    alert = accuracy_alert("2026-10", 3, many, Decision("retrain"))
    assert "and 190 more" in alert.title
    assert len(alert.body) < 2000


def test_an_alert_is_one_json_line(alert, tmp_path):
    file = tmp_path / "deep" / "alerts.jsonl"
    assert deliver(alert, file=file, urls=(), now=NOW) == []
    assert deliver(alert, file=file, urls=(), now=NOW) == []
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 2
    assert lines[0]["at"] == "2026-11-03T06:00:00+00:00"
    assert lines[0]["body"] == alert.body
    assert file.stat().st_mode & 0o077 == 0


def test_lines_of_many_writers_never_mix(tmp_path):
    file = tmp_path / "alerts.jsonl"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: append_line(file, json.dumps({"n": n, "pad": "x" * 5000})), range(100)))
    numbers = [json.loads(line)["n"] for line in file.read_text(encoding="utf-8").splitlines()]
    assert sorted(numbers) == list(range(100))


def test_half_a_line_is_taken_back(tmp_path, monkeypatch):
    file = tmp_path / "alerts.jsonl"
    append_line(file, "first")
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: write(descriptor, content[:3]))
    with pytest.raises(OSError, match="only 3 of 7 bytes"):
        append_line(file, "second")
    assert file.read_text(encoding="utf-8") == "first\n"


def test_a_dead_file_and_dead_channels_are_reported_and_stop_nothing(alert, tmp_path):
    (tmp_path / "taken").write_text("a file, not a folder")
    with Receiver() as receiver:
        failures = deliver(
            alert,
            file=tmp_path / "taken" / "alerts.jsonl",
            urls=("json://127.0.0.1:1/", "no-such-channel://x", receiver.url),
            now=NOW,
        )
    assert len(failures) == 3
    assert "alerts.jsonl" in failures[0]
    assert "did not take the alert" in failures[1]
    assert failures[2].startswith("no-such-channel: not a channel")
    assert receiver.received[0]["title"] == alert.title
    assert "What happened" in receiver.received[0]["message"]


def test_a_failure_never_shows_a_password(alert, tmp_path):
    failures = deliver(alert, file=tmp_path / "alerts.jsonl", urls=("json://bob:secretword@127.0.0.1:1/",), now=NOW)
    assert len(failures) == 1
    assert "secretword" not in failures[0]


class Receiver:
    """A webhook on this machine that keeps what it is sent."""

    def __enter__(self):
        received = self.received = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *arguments):
                """Keep the test's output clean."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"json://127.0.0.1:{self.server.server_port}/"
        self.thread = Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
