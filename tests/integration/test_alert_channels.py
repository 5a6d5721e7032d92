"""Alerts through Apprise to receivers on this machine: what arrives, what a dead one does, what no log ever shows."""

from __future__ import annotations

import email
import email.policy
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Thread
from typing import Any

import pytest

from components.alerts.channels import deliver
from components.alerts.message import Alert, AlertLevel, failure_alert

# Apprise imports imghdr from the standard library when it loads its channels.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

NOW = datetime(2026, 11, 3, 6, tzinfo=UTC)
LONG = "; ".join(f"class {number}: recall {number / 10:.1f} % (at most 12.0 %)" for number in range(400))
ALERT = Alert(
    AlertLevel.PAGE,
    key="accuracy/2026-10/3",
    title="Accuracy fell in 2026-10: <b>Stiefel</b>, 靴 & *Bag* 👟",
    happened=f"model 3 got worse in <script>, a_b_c, 靴: {LONG}",
    sure="95 % intervals: precision 3.0 % (1.0–8.0)",
    done="a retraining was requested",
    todo="have the training queue answered (`perennial label export tasks.json --queue training`)",
    links={
        "Report": "https://reports.example/2026-10-v3.html?a=1&b=2#drift_of_x",
        "Runbook": "file:///srv/a%20b/.perennial/reports/runbook.html#accuracy-fell-in-a-window",
    },
)
SECRETS = ("wordpass", "hooktoken", "headertoken", "mailpass", "querytoken")


@dataclass
class Receiver:
    """What a server on this machine was sent. `status`: what it answers web requests with."""

    port: int = 0
    status: int = 200
    posts: list[tuple[str, bytes]] = field(default_factory=list)
    mails: list[tuple[list[str], EmailMessage]] = field(default_factory=list)


@pytest.fixture
def web() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            receiver.posts.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(receiver.status)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *arguments: Any) -> None:
            """Keep the test's output clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver.port = server.server_port
        yield from served(server, receiver)


@pytest.fixture
def post_office() -> Iterator[Receiver]:
    """A mail server that takes every message and knows no passwords."""
    receiver = Receiver()

    class Handler(StreamRequestHandler):
        def handle(self) -> None:
            recipients: list[str] = []
            self.say("220 here")
            while line := self.rfile.readline():
                verb = line.strip().upper()
                if verb.startswith(b"RCPT"):
                    recipients.append(line.decode().strip().removeprefix("rcpt TO:"))
                if verb == b"QUIT":
                    self.say("221 bye")
                    return
                if verb == b"DATA":
                    self.say("354 go on")
                    message = email.message_from_bytes(self.read_message(), policy=email.policy.default)
                    assert isinstance(message, EmailMessage)
                    receiver.mails.append((recipients, message))
                self.say("250 fine")

        def read_message(self) -> bytes:
            content = b""
            while (line := self.rfile.readline()) != b".\r\n":
                content += line[1:] if line.startswith(b"..") else line
            return content

        def say(self, words: str) -> None:
            self.wfile.write(words.encode() + b"\r\n")

    with ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        receiver.port = server.server_address[1]
        yield from served(server, receiver)


def served(server: Any, receiver: Receiver) -> Iterator[Receiver]:
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield receiver
    server.shutdown()
    thread.join()


def sent(alert: Alert, tmp_path: Path, *urls: str) -> list[str]:
    return deliver(alert, file=tmp_path / "alerts.jsonl", urls=urls, now=NOW)


def test_a_webhook_receives_the_whole_alert(web: Receiver, tmp_path: Path) -> None:
    assert sent(ALERT, tmp_path, f"json://127.0.0.1:{web.port}/hook") == []
    ((path, content),) = web.posts
    assert path == "/hook"
    received = json.loads(content)
    assert received["title"] == ALERT.title
    assert received["message"].splitlines() == ALERT.body.splitlines()
    assert received["type"] == "failure"


def test_a_chat_s_incoming_webhook_receives_the_whole_alert_as_one_text(web: Receiver, tmp_path: Path) -> None:
    """Mattermost's take the JSON that Slack's do; Apprise sends Slack's own to slack.com alone."""
    assert sent(ALERT, tmp_path, f"mmost://127.0.0.1:{web.port}/hooktoken") == []
    ((path, content),) = web.posts
    assert path == "/hooks/hooktoken"
    assert json.loads(content)["text"].splitlines() == [ALERT.title, *ALERT.body.splitlines()]


@pytest.mark.parametrize("form", ["", "&format=html"])
def test_an_e_mail_keeps_its_lines_and_what_looks_like_markup(post_office: Receiver, tmp_path: Path, form: str) -> None:
    where = f"mailto://127.0.0.1:{post_office.port}/?mode=insecure&from=perennial@example.org&to=ann@example.org{form}"
    assert sent(ALERT, tmp_path, where) == []
    ((recipients, message),) = post_office.mails
    assert recipients == ["<ann@example.org>"]
    assert message["subject"] == ALERT.title
    plain = message.get_body(("plain",))
    assert plain is not None
    assert plain.get_content().splitlines() == ALERT.body.splitlines()
    page = message.get_body(("html",))
    assert (page is not None) == bool(form)
    if page is not None:
        assert "<script>" not in page.get_content()
        assert "&lt;script&gt;" in page.get_content()


def test_a_title_of_several_lines_cannot_write_a_mail_s_headers(post_office: Receiver, tmp_path: Path) -> None:
    alert = failure_alert("x\nBcc: eve@example.org", "broken")
    where = f"mailto://127.0.0.1:{post_office.port}/?mode=insecure&from=p@example.org&to=ann@example.org"
    assert sent(alert, tmp_path, where) == []
    ((recipients, message),) = post_office.mails
    assert recipients == ["<ann@example.org>"]
    assert message["subject"] == "x Bcc: eve@example.org failed"


def test_dead_and_refusing_channels_are_named_and_stop_nothing_and_no_log_shows_a_secret(
    web: Receiver, post_office: Receiver, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    web.status = 500
    alive = f"mailto://127.0.0.1:{post_office.port}/?mode=insecure&from=p@example.org&to=ann@example.org"
    dead = (
        "json://bob:wordpass@127.0.0.1:1/hooktoken?+X-Token=headertoken",
        f"json://127.0.0.1:{web.port}/hooktoken?-key=querytoken",
        f"mmost://127.0.0.1:{web.port}/hooktoken",
        f"mailto://ann:mailpass@127.0.0.1:{post_office.port}/?mode=insecure&from=p@example.org&to=ann@example.org",
        "no-such-channel://querytoken",
        "slack://hooktoken",
        "hooktoken",
    )
    failures = sent(ALERT, tmp_path, *dead, alive)
    assert len(failures) == len(dead)
    assert failures[0] == "json://127.0.0.1:1: did not take the alert; it is in the file"
    assert failures[1].startswith(f"json://127.0.0.1:{web.port}: did not")
    assert len(post_office.mails) == 1
    shown = "\n".join([*failures, caplog.text, (tmp_path / "alerts.jsonl").read_text(encoding="utf-8")])
    assert not [secret for secret in SECRETS if secret in shown]


def test_a_secret_in_an_error_s_words_stays_out_of_the_alert() -> None:
    alert = failure_alert("retraining", "git push https://bot:wordpass@git.example/w.git failed")
    assert "wordpass" not in alert.body
    assert "https://bot:***@git.example/w.git" in alert.body
