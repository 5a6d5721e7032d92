"""The page and the Markdown of an evaluation of several labels an image."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.evaluation.metrics.set_answers import SetPart
from components.evaluation.metrics.several import measure_several
from components.evaluation.metrics.slices import slice_rows
from components.evaluation.page.chart import line_chart
from components.evaluation.page.page import Shown
from components.evaluation.page.several_markdown import several_markdown
from components.evaluation.page.several_page import LabelPictures, Slips, write_labels_page
from components.pages.page import data_uri
from components.params import Evaluate

HOSTILE = ("cat", "<script>alert(1)</script>", "a|b`c", "[l](javascript:x)\n# head", "never")
PICTURE = data_uri(Image.new("L", (8, 8)))


def part(images: int, seed: int) -> SetPart:
    generator = np.random.default_rng(seed)
    truth = (generator.random((images, 5)) < [0.5, 0.3, 0.3, 0.2, 0.0]).astype(np.int64)
    return SetPart((4 * truth - 2 + generator.normal(0, 1, truth.shape)).astype(np.float32), truth)


@pytest.fixture
def metrics() -> dict:
    """An evaluation with hostile names and everything the report tells of."""
    found, _ = measure_several(
        {"frozen_test": part(400, 1), "validation": part(300, 2)}, HOSTILE, Evaluate(bootstrap=100)
    )
    right = np.arange(400) % 4 != 0
    return {
        "backbone": "<b>small</b>", "class_names": list(HOSTILE), **found,
        "training": {
            "state": "overfitted", "words": "It fell.", "remedy": "Raise <it>.", "epochs": 5, "learnt": 0.9,
            "learnt_images": 10,
        },
        "baselines": {"linear": {"macro_f1": 0.3456, "map": 0.4567, "learnt_from": 100, "images": 400}},
        "robustness": {
            "images": 100, "clean": {"value": 0.8, "low": 0.7, "high": 0.87}, "mean": 0.6543,
            "corruptions": {"blur": [0.7, 0.6, 0.5, 0.4, 0.3], "fog": [0.8] * 5},
        },
        "attacks": {"images": 64, "epsilon": 0.0157, "steps": 5, "clean": 0.8, "fgsm": 0.2345, "pgd": 0.1234},
        "five_looks": {
            "images": 50, "views": 5, "flip": False,
            "once": {"exact_match": {"value": 0.8, "low": 0.7, "high": 0.87}, "macro_f1": 0.7654},
            "averaged": {"exact_match": {"value": 0.82, "low": 0.72, "high": 0.89}, "macro_f1": 0.7777},
        },
        "folds": {
            "folds": [{"images": 40, "map": 0.9, "macro_f1": None}, {"images": 40, "map": 0.8, "macro_f1": 0.7}],
            "map": {"mean": 0.85, "deviation": 0.0707}, "macro_f1": None,
        },
        "slices": slice_rows(right, {"source": ["<img src=x>"] * 150 + ["b"] * 200 + ["c"] * 50}),
    }  # fmt: skip


def page(metrics: dict, folder: Path) -> str:
    shown = Shown(PICTURE, "<b>name</b>.png", "98 % likely")
    slips = [Slips(HOSTILE[1], 3, 1, (shown,), (shown,)), Slips(HOSTILE[2], 2, 0, (shown,), ())]
    curves = [line_chart("Loss", {"a": [1.0, 0.5], "b": [1.2, None]}, level=(0.9, "guessing"))]
    write_labels_page(metrics, LabelPictures(PICTURE, slips, curves), folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


def test_page_is_one_file_without_scripts_and_names_stay_text(metrics: dict, tmp_path: Path) -> None:
    text = page(metrics, tmp_path)
    assert "default-src 'none'" in text
    assert not re.search(r"<script|<b>name|<b>small|<img src=x|https?://|style=|onload=", text)
    assert "&lt;script&gt;alert(1)" in text
    assert len(set(re.findall(r' id="([^"]+)"', text))) == len(re.findall(r' id="', text))
    assert text.count("are said to:") == 1
    assert "<polyline" in text


def test_page_and_markdown_tell_the_same_numbers(metrics: dict, tmp_path: Path) -> None:
    text, told = page(metrics, tmp_path), several_markdown(metrics)
    judged, other = metrics["parts"]["frozen_test"], metrics["parts"]["validation"]
    row, review = judged["classes"][0], metrics["answering"]["review"]
    for value in (
        judged["map"], judged["macro_f1"], judged["exact_match"], other["map"], row["f1"], row["precision"],
        row["recall"], row["average_precision"], judged["without_labels"]["answered_with_none"],
        metrics["slices"][0]["accuracy"], review["coverage"], review["accuracy"],
    ):  # fmt: skip
        words = f"{100 * value['value']:.1f} % ({100 * value['low']:.1f}–{100 * value['high']:.1f})"
        assert words in text
        assert words in told
    for words in (
        f"{100 * judged['micro_f1']:.1f} %", f"{judged['ece']:.3f}", f"{judged['labels_per_image']:.2f}",
        f"{metrics['labels'][0]['threshold']:.2f}", "which is 0.5: never", "Overfitted. It fell.", "few images",
        "All labels right", f"is {review['threshold']:.3f} sure or more",
        "34.6 %", "45.7 %", "80.0 % (70.0–87.0) have all labels right", "65.4 %", "23.4 %", "12.3 %",
        "76.5 %", "77.8 %", "mean average precision 85.0 % ± 7.1", "What to do: Raise",
        "answered with their labels and no other",
    ):  # fmt: skip
        assert words in text
        assert words in told
    assert "never" not in [cell.split("|")[1].strip() for cell in told.splitlines() if cell.startswith("| ")]


def test_worst_label_is_first(metrics: dict) -> None:
    rows = [line for line in several_markdown(metrics).splitlines() if line.count("|") == 8 and "---" not in line]
    shares = [float(line.split("|")[3].split("%")[0]) for line in rows[1:]]
    assert len(shares) == 4
    assert shares == sorted(shares)


def test_network_no_better_than_answering_everything_is_warned_of(metrics: dict, tmp_path: Path) -> None:
    assert "not surely better than answering every label" not in several_markdown(metrics)
    metrics["parts"]["frozen_test"]["baseline"]["macro_f1"] = 0.99
    assert "not surely better than answering every label" in several_markdown(metrics)
    assert "not surely better than answering every label" in page(metrics, tmp_path)


def test_network_that_ranks_no_better_than_pixels_alone_is_warned_of(metrics: dict) -> None:
    assert "not surely rank better than a linear classifier" not in several_markdown(metrics)
    metrics["baselines"]["linear"]["map"] = 0.999
    assert "not surely rank better than a linear classifier" in several_markdown(metrics)
    metrics["baselines"]["linear"] = None  # it was not asked for
    assert "linear" not in several_markdown(metrics)


def test_hostile_names_cannot_leave_their_cell_in_any_table(metrics: dict) -> None:
    told = several_markdown(metrics)
    assert "<script>" not in told and "<b>" not in told and "<img" not in told
    assert "\n# head" not in told
    tables: list[set[int]] = [set()]
    for line in told.splitlines():
        if line.startswith("|"):
            tables[-1].add(line.count("|"))
        elif tables[-1]:
            tables.append(set())
    assert all(len(widths) <= 1 for widths in tables)
    assert len(tables) > 3
