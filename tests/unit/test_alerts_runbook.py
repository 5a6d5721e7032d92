"""Every alert that asks for something links to the section of the runbook that is about it."""

from __future__ import annotations

import os
from html.parser import HTMLParser
from pathlib import Path

import pytest

from components.alerts.message import failure_alert, recovered_alert, refused_retraining_alert
from components.alerts.runbook import SECTIONS, anchor, section_of, write_runbook
from components.records import Decision

RUNBOOK = Path(__file__).resolve().parents[2] / "infra" / "runbook.md"


class Anchors(HTMLParser):
    """Collects ids and looks for what a page from our own text must not hold."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.ids += [str(value) for name, value in attrs if name == "id"]


def read(page: Path) -> Anchors:
    found = Anchors()
    found.feed(page.read_text(encoding="utf-8"))
    return found


def test_every_section_that_alerts_name_is_there(tmp_path: Path) -> None:
    page = read(write_runbook(RUNBOOK, tmp_path / "runbook.html"))
    assert {anchor(heading) for heading in SECTIONS.values()} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert {"h2", "table", "code", "ol"} <= page.tags


def test_an_alert_with_something_to_do_has_a_section_and_good_news_has_none() -> None:
    assert section_of(failure_alert("retraining", "disk full").key) == "retraining-failed"
    assert section_of(refused_retraining_alert(Decision("refused")).key) == "retraining-was-refused"
    assert section_of("accuracy/2026-03/1") == "accuracy-fell-in-a-window"
    assert section_of("drift/1/brightness") == "drift-in-a-window"
    assert section_of(recovered_alert("x", "accuracy/2026-03/1").key) is None
    assert section_of("promoted/2") is None


def test_the_page_follows_the_runbook_and_is_not_written_for_nothing(tmp_path: Path) -> None:
    source, page = tmp_path / "runbook.md", tmp_path / "reports" / "runbook.html"
    source.write_text("## One (page)\n<script>alert(1)</script>\n", encoding="utf-8")
    written = read(write_runbook(source, page))
    assert (written.ids, "script" in written.tags) == (["one"], False)
    before = page.stat().st_ino
    assert write_runbook(source, page).stat().st_ino == before
    source.write_text("## Two (ticket)\n", encoding="utf-8")
    os.utime(source, ns=(page.stat().st_mtime_ns + 1, page.stat().st_mtime_ns + 1))
    assert read(write_runbook(source, page)).ids == ["two"]


@pytest.mark.parametrize("heading", ["Drift in a window (ticket)", "Drift  in a window"])
def test_what_stands_in_brackets_is_no_part_of_an_anchor(heading: str) -> None:
    assert anchor(heading) == "drift-in-a-window"
