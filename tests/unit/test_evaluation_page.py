import re

import numpy as np
import pytest
from PIL import Image

from components.evaluation.measure import Part, measure
from components.evaluation.metrics.slices import slice_rows
from components.evaluation.page.chart import line_chart
from components.evaluation.page.markdown import markdown
from components.evaluation.page.page import Fault, Pair, Pictures, Shown, write_report_page
from components.pages.page import data_uri
from components.params import Evaluate

HOSTILE = ("<script>alert(1)</script>", "a|b`c", "$x^{2", "[l](javascript:x)\n# head")
PICTURE = data_uri(Image.new("L", (8, 8)))


@pytest.fixture
def metrics() -> dict:
    """An evaluation with hostile names and everything the report tells of."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, 400)
    logits = generator.normal(size=(400, 4))
    logits[np.arange(400), labels] += 2
    part = Part(logits.astype(np.float32), labels)
    right = logits.argmax(axis=1) == labels
    measured = measure({"frozen_test": part, "validation": part}, HOSTILE, Evaluate(bootstrap=100))
    accuracy = {"value": 0.6, "low": 0.55, "high": 0.65}
    return {
        "backbone": "small_cnn", "class_names": list(HOSTILE), **measured,
        "baselines": {"linear": {"accuracy": accuracy, "macro_f1": 0.8, "learnt_from": 300, "images": 400}},
        "training": {
            "state": "overfitted", "words": "It fell.", "remedy": "Raise <it>.", "epochs": 5, "learnt": 0.9,
            "learnt_images": 10,
        },
        "robustness": {
            "images": 50, "clean": accuracy, "mean": 0.4,
            "corruptions": {"haze": [0.5, 0.4, 0.3, 0.2, 0.1], "JPEG": [0.6, 0.5, 0.5, 0.5, 0.4]},
        },
        "attacks": {"images": 9, "epsilon": 0.0157, "steps": 5, "clean": 0.9, "fgsm": 0.337, "pgd": 0.118},
        "five_looks": {
            "images": 9, "views": 5, "flip": True, "once": {"accuracy": accuracy, "macro_f1": 0.61, "brier": 0.4},
            "averaged": {"accuracy": accuracy, "macro_f1": 0.662, "brier": 0.35},
        },
        "unfamiliar": {
            "score": "energy", "threshold": -3.456, "true_positives": 0.95, "kept": 0.944,
            "sets": [{"name": "<i>cats</i>", "images": 77, "auroc": accuracy, "caught": 0.2}],
        },
        "folds": {
            "folds": [{"images": 9, "accuracy": 0.7, "macro_f1": 0.6}, {"images": 8, "accuracy": 0.8, "macro_f1": 0.7}],
            "accuracy": {"mean": 0.75, "deviation": 0.0707}, "macro_f1": {"mean": 0.65, "deviation": 0.0707},
        },
        "slices": slice_rows(right, {"source": ["<img src=x>"] * 150 + ["b"] * 200 + ["c"] * 50}),
    }  # fmt: skip


def page(metrics, tmp_path) -> str:
    shown = Shown(PICTURE, "<b>name</b>.png", "98 % sure")
    pairs = [Pair(HOSTILE[0], HOSTILE[1], 3, (shown,), shown)]
    faults = [Fault(shown, PICTURE, HOSTILE[2], HOSTILE[3])]
    curves = [line_chart("Loss", {"a": [1.0, 0.5], "b": [1.2, None]}, level=(0.9, "guessing"))]
    write_report_page(metrics, Pictures(PICTURE, PICTURE, pairs, faults, curves), tmp_path / "report.html")
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_page_is_one_file_without_scripts_and_names_stay_text(metrics, tmp_path):
    text = page(metrics, tmp_path)
    assert "default-src 'none'" in text
    assert not re.search(r"<script|<b>name|<i>cats|<img src=x|https?://|style=|onload=", text)
    assert "&lt;script&gt;alert(1)" in text
    assert len(set(re.findall(r' id="([^"]+)"', text))) == len(re.findall(r' id="', text))


def test_page_and_markdown_tell_the_same_numbers(metrics, tmp_path):
    text, told = page(metrics, tmp_path), markdown(metrics)
    part = metrics["parts"]["frozen_test"]
    for value in (part["accuracy"], part["macro_f1"], metrics["slices"][0]["accuracy"]):
        words = f"{100 * value['value']:.1f} % ({100 * value['low']:.1f}–{100 * value['high']:.1f})"
        assert words in text
        assert words in told
    assert f"{part['roc_auc']['value']:.3f} (" in told
    assert "Baseline: linear" in told
    assert "few images" in told
    assert "| haze | 50 % | 40 % | 30 % | 20 % | 10 % |\n| JPEG" in told
    for words in ("11.8 %", "66.2 %", "two of them mirrored", "-3.46", "94.4 %", "75.0 % ± 7.1"):
        assert words in text
        assert words in told
    assert "Overfitted. It fell." in told
    assert "<polyline" in text
    assert "Hardly told from the classes: &lt;i&gt;cats" in text
    assert "What to do: Raise &lt;it&gt;." in text


def test_network_that_is_no_better_than_a_line_is_warned_of(metrics, tmp_path):
    assert "not surely better than a linear" not in markdown(metrics)
    metrics["baselines"]["linear"]["accuracy"] = {"value": 0.95, "low": 0.94, "high": 0.99}
    assert "not surely better than a linear" in markdown(metrics)
    assert "not surely better than a linear" in page(metrics, tmp_path)


def test_hostile_names_cannot_leave_their_cell_in_any_table(metrics):
    told = markdown(metrics)
    assert "<script>" not in told
    assert "<img" not in told
    assert "\n# head" not in told
    tables: list[set[int]] = [set()]
    for line in told.splitlines():
        if line.startswith("|"):
            tables[-1].add(line.count("|"))
        elif tables[-1]:
            tables.append(set())
    assert all(len(widths) <= 1 for widths in tables)
    assert len(tables) > 4
