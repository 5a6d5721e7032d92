import re
from pathlib import Path

import numpy as np
import pytest

from components.errors import ConfigurationError
from components.evaluation.metrics.one_class import Answers, classification_report
from components.model.artifact import ModelSpec
from components.model.images.preprocess import PreprocessSpec
from components.records import GateCheck, GateVerdict
from components.registry import card
from components.registry.card import model_card

CLASSES = ("good", "bad", "absent", "<img src=x onerror=alert(1)>", "a|b\n# c", "[click](javascript:x)")
FACTS = {"dataset_version": "data/2026-10-01-1", "git_commit": "0123abc", "reason": "alarm in `bad`"}


def spec(classes: tuple[str, ...] = CLASSES) -> ModelSpec:
    return ModelSpec(classes, PreprocessSpec(28, 1, "stretch", 1.0, "bilinear", (0.5,), (0.5,)), "small_cnn")


def evaluation(classes: tuple[str, ...] = CLASSES) -> dict:
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 3, 4, 5], 400)
    guesses = np.where((labels == 1) & (rng.random(400) < 0.6), 0, labels)
    probabilities = np.full((400, len(classes)), 0.02)
    probabilities[np.arange(400), guesses] = 1 - 0.02 * (len(classes) - 1)
    report = classification_report(Answers.of(probabilities, labels), classes, bootstrap=100)
    calibration = {"temperature": 1.3, "fitted_on": 200, "measured_on": "frozen_test"}
    return {"calibration": calibration, "parts": {"frozen_test": report, "validation": report}}


def verdict(*, passed: bool) -> dict:
    return GateVerdict(
        (GateCheck("overall", True, "0.91 against 0.90"), GateCheck("class bad", passed, "0.40 | worse"))
    ).as_json()


def render(**changes) -> str:
    arguments = {"facts": FACTS, "verdict": verdict(passed=True)} | changes
    return model_card(spec(), evaluation(), **arguments)


def test_the_card_says_how_many_labels_no_longer_count():
    assert "out of date" not in render()
    text = model_card(spec(), evaluation() | {"out_of_date": 633}, facts=FACTS, verdict=None)
    assert "633 labels are out of date, since newer ones contradict them" in text


def test_the_card_says_what_it_was_made_from_and_how_good_it_is():
    text = render()
    assert "| dataset version | data/2026-10-01-1 |" in text
    report = evaluation()["parts"]["frozen_test"]
    shown = "{value:.3f} ({low:.3f} to {high:.3f})".format(**report["accuracy"])
    assert f"| frozen test | 400 | {shown} |" in text
    assert "below 0.7 should be seen by a person" in text
    assert "fitted on 200 validation images" in text


def test_display_names_stand_beside_names_and_are_text():
    display = {"bad": "Faulty <b>part</b> | [x](javascript:y)", "unknown": "nothing"}
    text = render(display=display)
    assert "<b>" not in text
    assert not re.search(r"(?<!\\)\]\(javascript", text)
    assert "nothing" not in text
    shown = "Faulty &lt;b&gt;part&lt;/b&gt; \\| \\[x\\](javascript:y) (bad)"
    assert f"Classes: good, {shown}, absent" in text
    assert f"\n| {shown} | " in text


def test_the_weakest_class_comes_first_and_an_unmeasured_one_says_so():
    text = render()
    rows = re.findall(r"^\| (\w+) \| \d+ \| .*\(", text.partition("weakest first")[2], re.MULTILINE)
    assert rows[0] == "bad"
    assert "| absent | 0 | not measurable | not measurable |" in text


def test_the_verdict_stands_at_the_top_with_every_check_below():
    assert "**Not judged yet.**" in render(verdict=None)
    assert "## The gate" not in render(verdict=None)
    assert "**Passed the gate:** all 2 checks passed." in render()
    refused = render(verdict=verdict(passed=False))
    assert "**Refused by the gate:** class bad: 0.40 \\| worse." in refused
    assert "| class bad | **no** | 0.40 \\| worse |" in refused


def test_hostile_class_names_stay_text():
    text = render()
    assert "<img" not in text
    assert "&lt;img src=x onerror=alert(1)&gt;" in text
    assert not re.search(r"(?<!\\)\[click", text)
    assert not re.search(r"^# c", text, re.MULTILINE)
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert all(len(re.findall(r"(?<!\\)\|", line)) in (3, 4, 5, 6) for line in tables)


def test_many_classes_make_a_short_card():
    classes = tuple(f"class {number}" for number in range(300))
    text = model_card(spec(classes), evaluation(classes), facts=FACTS, verdict=None)
    assert "and 200 more." in text
    assert "(10 of 300)" in text
    assert len(text) < 8000


def test_a_missing_template_is_an_error_that_says_where_it_was_looked_for(monkeypatch, tmp_path):
    monkeypatch.setattr(card, "__file__", str(tmp_path / "components" / "registry" / "card.py"))
    monkeypatch.setattr(card.sys, "prefix", str(tmp_path / "prefix"))
    with pytest.raises(ConfigurationError, match=re.escape(str(tmp_path / "prefix"))):
        render()


def test_the_installed_template_is_found_where_there_is_no_source(monkeypatch, tmp_path):
    installed = tmp_path / "prefix" / "share" / "perennial" / "mlflow"
    installed.mkdir(parents=True)
    (installed / card.TEMPLATE).write_bytes(
        (Path(__file__).resolve().parents[2] / "mlflow" / card.TEMPLATE).read_bytes()
    )
    expected = render()
    monkeypatch.setattr(card, "__file__", str(tmp_path / "components" / "registry" / "card.py"))
    monkeypatch.setattr(card.sys, "prefix", str(tmp_path / "prefix"))
    assert render() == expected
