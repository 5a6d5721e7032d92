"""10,000 classes: what is counted and reported of them takes megabytes, where a table of all pairs is 800."""

import json
import time
import tracemalloc

import numpy as np
import pytest

from components.data.ingestion.class_changes import Merge, Rename, Translation, applied
from components.data.manifest import Manifest
from components.evaluation.gates.one_class import CandidateResults, judge_candidate
from components.evaluation.measure import Part, measure
from components.evaluation.metrics.one_class import Answers, classification_report
from components.evaluation.page.markdown import draw_confusion, markdown
from components.labels import issues
from components.labels.issues import find_issues
from components.model.artifact import ModelSpec
from components.model.images.preprocess import PreprocessSpec
from components.params import Evaluate, Gate
from components.registry.card import model_card

K = 10_000
NAMES = tuple(f"class {k}" for k in range(K))
MEGABYTES = 1e6


@pytest.fixture
def peak():
    """A function that runs another one and returns its result, and the megabytes it took at its peak."""

    def run(function, *arguments, **more):
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            started = time.monotonic()
            found = function(*arguments, **more)
            took = time.monotonic() - started
            used = (tracemalloc.get_traced_memory()[1] - before) / MEGABYTES
            print(f"{getattr(function, '__name__', function)}: {used:.0f} MB, {took:.1f} s")  # noqa: T201
            return found, used
        finally:
            tracemalloc.stop()

    return run


def guesses(images: int, right: float = 0.8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = np.arange(images) % K
    wrong = generator.integers(0, K, images)
    return labels, np.where(generator.random(images) < right, labels, wrong)


def answers(images: int) -> Answers:
    labels, predicted = guesses(images)
    right = labels == predicted
    confidence = np.where(right, 0.9, 0.5)
    return Answers(K, labels, predicted, confidence, np.where(right, 0.9, 0.01), confidence**2, right)


@pytest.mark.slow
def test_metrics_report_and_card_are_bounded_and_readable(peak, tmp_path):
    report, used = peak(classification_report, answers(30_000), NAMES, bootstrap=200)
    assert used < 150
    assert report["confusion"] is None
    assert len(report["confused"]) == 20
    assert report["accuracy"]["value"] == pytest.approx(0.8, abs=0.01)
    calibration = {
        "temperature": 1.0, "fitted_on": 9, "label_noise": 0.0, "measured_on": "validation", "ece_before": 0.1,
        "ece_after": 0.1,
    }  # fmt: skip
    metrics = {
        "backbone": "x", "class_names": list(NAMES), "calibration": calibration, "parts": {"validation": report},
    }  # fmt: skip
    text, used = peak(markdown, metrics)
    assert used < 50
    assert len(text) < 100_000
    spec = ModelSpec(NAMES, PreprocessSpec(28, 1, "stretch", 1.0, "bilinear", (0.5,), (0.5,)), "small_cnn")
    card, used = peak(model_card, spec, metrics, facts={}, verdict=None)
    assert used < 50
    assert len(card) < 20_000
    assert "and 9900 more" in card
    _, used = peak(draw_confusion, confusion_of(30_000), NAMES, tmp_path / "c.png")
    assert used < 400  # the picture of 50 classes, and matplotlib


def confusion_of(images: int):
    from components.evaluation.metrics.confusion import Confusion

    return Confusion.of(*guesses(images), K)


@pytest.mark.slow
def test_logits_are_measured_some_rows_at_a_time(peak):
    labels, predicted = guesses(800)
    logits = np.zeros((800, K), np.float32)
    logits[np.arange(800), predicted] = 12
    measured, used = peak(measure, {"validation": Part(logits, labels)}, NAMES, Evaluate(bootstrap=100))
    assert (
        used < 250
    )  # 32 MB a piece; all of it at once in double precision, with what softmax needs, grows with the images
    assert measured["parts"]["validation"]["accuracy"]["value"] == pytest.approx(0.8, abs=0.05)


def test_the_gate_judges_ten_thousand_classes_in_seconds_and_names_the_worst(peak):
    labels, new = guesses(50_000)
    old = guesses(50_000, right=0.8, seed=1)[1]
    candidate = CandidateResults(NAMES, labels, new, 0.03, True)
    champion = CandidateResults(NAMES[: K - 1_000], labels, old)
    started = time.process_time()
    verdict, used = peak(
        judge_candidate, candidate, champion, alarmed={}, rules=Gate(floor=0.5), champion_expected=True
    )
    assert time.process_time() - started < 60
    assert used < 100
    assert len(verdict.checks) == 5
    assert len(json.dumps(verdict.as_json())) < 200_000
    assert len(verdict.reason) < 5_000  # it is a tag in the registry


@pytest.mark.slow
def test_suspects_among_many_classes_are_found_without_a_table_of_all_pairs(peak, monkeypatch):
    generator = np.random.default_rng(0)
    truth = np.arange(2_400) % 1_200
    probabilities = np.full((2_400, 1_200), 0.1 / 1_200, np.float32)
    probabilities[np.arange(2_400), truth] += 0.9
    given = truth.copy()
    planted = generator.permutation(2_400)[:100]
    given[planted] = (given[planted] + 7) % 1_200
    found, used = peak(find_issues, given, probabilities)
    assert used < 120
    suspects = set(np.flatnonzero(found.suspect))
    assert suspects <= set(planted)
    assert len(suspects) >= 95
    monkeypatch.setattr(issues, "MOST_AT_ONCE", 2_000)  # cleanlab's plain way
    assert (find_issues(given, probabilities).suspect == found.suspect).all()


def test_a_class_list_of_ten_thousand_is_changed_in_seconds(peak):
    rows = [
        {"image_id": f"{n:064x}", "label": NAMES[n % K], "split": "train", "state": "active"} for n in range(50_000)
    ]
    manifest = Manifest.from_rows(rows, NAMES)
    started = time.process_time()
    merge = Merge(NAMES[5_000:], NAMES[5_000])
    changed = applied(applied(manifest, Rename(NAMES[3], "x")), merge)
    translation = Translation.of(NAMES, changed.classes, (Rename(NAMES[3], "x"), merge))
    assert time.process_time() - started < 20
    assert changed.counts()["train"]["class 5000"] == 25_000
    assert len(translation.whole["class 5000"]) == 5_000
    assert len(translation.describe()) < 200_000
