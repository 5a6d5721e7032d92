"""The page people open: written whole, safe to open, and honest about what it is."""

from __future__ import annotations

import numpy as np
import psutil
import pytest

from components.errors import DataError, ServiceError
from components.monitoring.drift.evidently_page import write_page, write_page_apart

EVIL = "</script><script>alert(1)</script>"


def side(rng, names, rows=300):
    confidence = rng.random(rows).astype(np.float32)
    confidence[:3] = [np.nan, np.inf, -np.inf]
    return {
        "predicted": rng.choice(names, rows),
        "confidence": confidence,
        "width": np.full(rows, 28),
        "saturation": np.full(rows, np.nan),
    }


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("reports") / "month" / "2026-10.html"
    window = side(rng, ["Bag", EVIL, "Boot"], 500)
    write_page(
        path, reference=side(rng, ["Bag", EVIL]), window=window, title="Window <2026-10>", report_rows=400, seed=1
    )
    return path


def test_the_page_says_where_the_decision_is_and_how_many_rows_it_shows(page):
    text = page.read_text(encoding="utf-8")
    assert "For display only" in text
    assert "300 of the reference, 400 of the window" in text
    assert "Window &lt;2026-10&gt;" in text


def test_constant_and_empty_columns_are_named(page):
    assert "constant or empty: width, saturation" in page.read_text(encoding="utf-8")


def test_a_class_name_cannot_end_the_script_it_is_shown_in(page):
    text = page.read_text(encoding="utf-8")
    assert EVIL not in text
    assert "script›alert(1)" in text or "script\\u203aalert(1)" in text


def test_nothing_half_written_is_left(page):
    assert [entry.name for entry in page.parent.iterdir()] == ["2026-10.html"]


def test_a_window_in_which_nothing_varies_has_no_page(tmp_path):
    constant = {"predicted": ["Bag"] * 10, "width": [28] * 10}
    with pytest.raises(DataError, match="no column"):
        write_page(tmp_path / "x.html", reference=constant, window=constant, title="quiet", report_rows=100)


def test_a_process_of_its_own_draws_the_same_page(tmp_path):
    rng = np.random.default_rng(0)
    sides = side(rng, ["Bag", EVIL]), side(rng, ["Bag", EVIL, "Boot"], 500)
    path = tmp_path / "month" / "2026-10.html"
    assert write_page_apart(path, lambda: sides, title="Window <2026-10>", report_rows=400) == path
    text = path.read_text(encoding="utf-8")
    assert "300 of the reference, 400 of the window" in text
    assert "constant or empty: width, saturation" in text
    assert EVIL not in text
    assert [entry.name for entry in path.parent.iterdir()] == ["2026-10.html"]


def test_what_that_process_says_of_its_failure_is_passed_on(tmp_path):
    constant = {"predicted": ["Bag"] * 10, "width": [28] * 10}
    with pytest.raises(ServiceError, match=r"x\.html could not be drawn: .*no column of"):
        write_page_apart(tmp_path / "x.html", lambda: (constant, constant), title="quiet", report_rows=100)
    assert list(tmp_path.iterdir()) == []


def test_without_rows_nothing_is_drawn_and_no_process_stays(tmp_path):
    before = psutil.Process().children()
    assert write_page_apart(tmp_path / "x.html", lambda: None, title="quiet", report_rows=100) is None
    with pytest.raises(ZeroDivisionError):
        write_page_apart(tmp_path / "x.html", lambda: 1 / 0, title="quiet", report_rows=100)
    assert list(tmp_path.iterdir()) == []
    assert psutil.Process().children() == before
