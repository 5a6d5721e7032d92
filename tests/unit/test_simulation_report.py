import copy
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from components.errors import DataError
from components.simulation.charts import class_chart
from components.simulation.report import write_report
from components.simulation.story import class_stories, coverage, headline, month_events, v_level
from components.simulation.svg import ShareAxis, shortened
from components.simulation.timeline import NARROW, accuracy_chart
from components.simulation.verdicts import verdicts
from components.simulation.words import counted, planted_changes

CLASSES = ("Bag", "Boot", "Coat", "Dress", "Pullover", "Sandal", "Shirt", "Sneaker", "T-shirt", "Trouser")
LEVELS = {
    "Shirt": (0.76, 0.73),
    "Coat": (0.86, 0.84),
    "Pullover": (0.87, 0.85),
    "T-shirt": (0.86, 0.87),
    "Dress": (0.91, 0.92),
}
COLUMNS = ("predicted", "confidence", "brightness", "contrast", "sharpness", "saturation", "width", "height", "aspect", "bytes")  # fmt: skip


def estimated(truth: float, half: float, rng: np.random.Generator) -> dict:
    value = float(np.clip(truth + rng.normal(0, half / 2.4), 0.004, 0.996))
    return {
        "value": round(value, 5),
        "low": round(max(value - half, 0.0), 5),
        "high": round(min(value + 0.8 * half, 1.0), 5),
    }


def one_class(name: str, number: int, rng: np.random.Generator) -> dict:
    precision, recall = (level + rng.normal(0, 0.006) for level in LEVELS.get(name, (0.955, 0.955)))
    state, reasons = ("no-reference" if number == 1 else "ok"), []
    if number == 3 and name == "Sneaker":
        precision, recall, state = 0.62, 0.0193, "alarm"
        reasons = [
            "recall 3.1 % (at most 12.0 %), reference 95.2 %",
            "precision 58.8 % (at most 81.4 %), reference 95.9 %",
        ]
    elif number == 3 and name == "Bag":
        precision, state, reasons = (
            0.66,
            "alarm",
            ["precision 65.2 % (at most 78.9 %), reference 96.1 %"],
        )
    elif number == 5 and name == "Shirt":
        state, reasons = "suspect", ["recall 66.0 % (at most 74.9 %), reference 73.0 %"]
    elif number == 4 and name == "Sandal":
        state, reasons = "insufficient", ["worth 11 independent labels, too few for an alarm"]
    half = 0.04 if number == 1 else 0.085
    return {
        "name": name,
        "predicted": int(rng.integers(440, 560)),
        "labels": 125 if number == 1 else 25,
        "precision": estimated(precision, half, rng),
        "recall": estimated(recall, 1.3 * half, rng),
        "state": state,
        "reasons": reasons,
        "true_precision": round(precision, 5),
        "true_recall": round(recall, 5),
    }


def one_finding(column: str, number: int, rng: np.random.Generator) -> dict:
    if number == 1:
        state = "undecided: no drift reference yet; window 2026-01 is it from now on"
        return {"column": column, "p_value": None, "v": None, "drifted": False, "plain_p_value": None, "state": state}
    if column in ("saturation", "width", "height", "aspect"):
        state = "undecided: all rows lie in one cell"
        return {"column": column, "p_value": None, "v": None, "drifted": False, "plain_p_value": None, "state": state}
    drifted = number == 3 and column in ("predicted", "confidence", "brightness", "bytes")
    v = float(rng.uniform(0.12, 0.45) if drifted else rng.uniform(0.01, 0.045))
    p = 1e-9 if drifted else float(rng.uniform(0.2, 0.99))
    return {"column": column, "p_value": p, "v": v, "drifted": drifted, "plain_p_value": p / 3, "state": "ok"}


def checks() -> list[dict]:
    details = {
        "export parity": "the exported file agrees with the trained model",
        "calibration": "expected calibration error 0.014, at most 0.100",
        "overall": "accuracy +2.6 points, with 95 % confidence at least +1.9; -2.0 is allowed",
        "every class": "none of 10 classes is shown worse by -5.0",
        "alarmed class Bag": "precision +4.1 points, p 0.012 on 188 images; better at p < 0.2 is asked",
        "alarmed class Sneaker": "recall +31.0 points, p 0.000 on 214 images; precision +0.4 points, p 0.402 on 190 images; better at p < 0.2 is asked",  # noqa: E501
    }
    numbers = {"overall": {"candidate": 0.9171, "champion": 0.8914, "images": 1684}}
    numbers["every class"] = {"alpha": 0.05, "Bag recall": [0.0123456, 0.031, 188]}
    numbers["alarmed class Bag"] = {
        "p": 0.2,
        "precision": {"difference": 0.041, "p_value": 0.012, "images": 188},
    }
    return [{"name": n, "passed": True, "detail": d, "numbers": numbers.get(n, {})} for n, d in details.items()]


def renewal() -> dict:
    verdict = {"passed": True, "reason": "all 6 checks passed", "checks": checks()}
    return {
        "version": 2,
        "dataset_version": "data/2026-04-18-1",
        "verdict": verdict,
        "promoted": True,
    }


def one_month(number: int, rng: np.random.Generator) -> dict:
    true = (0.9142, 0.9098, 0.8214, 0.9166, 0.9154, 0.9172)[number - 1]
    alarmed = ["Sneaker", "Bag"] if number == 3 else []
    reason = "no class is shown to have fallen"
    if number == 1:
        reason = "window 2026-01 is the service's reference from now on (1126 labels)"
    if number == 3:
        reason = "accuracy fell: Sneaker recall 3.1 % (at most 12.0 %), reference 95.2 %; Bag precision 65.2 % (at most 78.9 %), reference 96.1 %"  # noqa: E501
    if number == 5:
        reason = "suspected but not shown on all labels: Shirt"
    return {
        "month": number,
        "window": f"2026-{number:02d}",
        "model_version": 1 if number <= 3 else 2,
        "predictions": 5000,
        "labels": (1126, 226, 604, 227, 409, 225)[number - 1],
        "overall": estimated(true, 0.016 if number == 1 else 0.036, rng),
        "calibration_error": round(float(rng.uniform(0.008, 0.03)), 5),
        "classes": [one_class(name, number, rng) for name in CLASSES],
        "drift": [one_finding(column, number, rng) for column in COLUMNS],
        "decision": {"action": "retrain" if alarmed else "none", "classes": alarmed, "reason": reason},
        "true_accuracy": true,
        "alarmed": alarmed,
        "renewal": renewal() if alarmed else None,
    }


def run(count: int = 6) -> tuple[list[dict], dict]:
    """A run as `demo --json` prints it: Sneakers change their style in month 3, version 2 knows it."""
    rng = np.random.default_rng(5)
    months = [one_month(number, rng) for number in range(1, count + 1)]
    style = {"kind": "new_style", "classes": ["Sneaker"], "severity": [1.0, 1.0], "until": None, "weights": {}, "to": None}  # fmt: skip
    scenario = {
        "source": "fashion-mnist",
        "seed": 7,
        "initial_images": 12000,
        "label_errors": 0.05,
        "annotators": {"count": 3, "error_rate": 0.03, "answer_rate": 0.9},
        "label_share": 0.05,
        "months": [{"images": 5000, "shifts": [style] if number == 3 else []} for number in range(1, count + 1)],
    }
    facts = {"workspace": "/srv/.demo/workspace", "seconds": 402, "peak_memory_gb": 1.62, "note": ""}
    summary = {"scenario": scenario, "months": count, **verdicts(months), **facts}
    return months, json.loads(json.dumps(summary))


class Page(HTMLParser):
    """What a test asks of a page: its tags with their attributes, and its text without style."""

    VOID = frozenset({"meta"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)


def rendered(tmp_path, months, summary) -> Page:
    path = tmp_path / "report.html"
    write_report(months, summary, path)
    return Page(path.read_text(encoding="utf-8"))


def test_nothing():
    assert copy and re and pytest and DataError
