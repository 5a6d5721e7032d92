import json

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, f1_score, log_loss, precision_recall_fscore_support
from statsmodels.stats.proportion import proportion_confint

from components.errors import DataError
from components.evaluation.measure import Part, measure
from components.evaluation.metrics.confusion import Confusion
from components.evaluation.metrics.one_class import (
    Answers,
    bootstrap_f1,
    classification_report,
    macro_f1,
    precision_recall_f1,
    wilson,
)
from components.evaluation.page.markdown import draw_confusion, draw_reliability, markdown
from components.model.calibration import softmax
from components.params import Evaluate

EMPTY = Confusion.of_table(np.zeros((2, 2), np.int64))
HOSTILE = ("<script>alert(1)</script>", "a|b`c", "$x^{2", "[l](javascript:x)\n# head")


def answers(number: int = 800, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, number)
    logits = generator.normal(size=(number, classes))
    logits[np.arange(number), labels] += 1.5
    return labels, logits


def test_per_class_metrics_are_scikit_learns():
    labels, logits = answers()
    predicted = logits.argmax(axis=1)
    counts = Confusion.of(labels, predicted, 4)
    expected = precision_recall_fscore_support(labels, predicted)[:3]
    for ours, theirs in zip(precision_recall_f1(counts), expected, strict=True):
        assert ours == pytest.approx(theirs)
    assert macro_f1(counts) == pytest.approx(f1_score(labels, predicted, average="macro"))


def test_class_that_is_neither_there_nor_predicted_is_not_zero_but_nothing():
    counts = Confusion.of_table(np.array([[5, 1, 0], [0, 4, 0], [0, 0, 0]]))
    precision, recall, f1 = precision_recall_f1(counts)
    assert np.isnan([precision[2], recall[2], f1[2]]).all()
    assert macro_f1(counts) == pytest.approx(f1[:2].mean())
    assert np.isnan(macro_f1(EMPTY))


@pytest.mark.parametrize("trials", [1, 10, 250])
def test_wilson_interval_is_statsmodels(trials):
    for successes in {0, 1, trials // 2, trials}:
        expected = proportion_confint(successes, trials, method="wilson")
        assert wilson(successes, trials) == pytest.approx(expected, abs=1e-9)
    assert wilson(0, 0) == (0.0, 1.0)


def test_bootstrap_intervals_cover_the_truth_about_as_often_as_they_say():
    generator = np.random.default_rng(0)
    shares = np.array([[0.30, 0.05, 0.02], [0.04, 0.25, 0.03], [0.01, 0.05, 0.25]])
    truth = macro_f1(Confusion.of_table((shares * 1e6).astype(np.int64)))
    covered = 0
    for draw in range(200):
        counts = generator.multinomial(400, shares.ravel()).reshape(3, 3)
        low, high = bootstrap_f1(Confusion.of_table(counts), 300, seed=draw)[0]
        covered += low <= truth <= high
    assert 0.90 <= covered / 200 <= 0.99


def test_bootstrap_follows_the_seed_and_bears_empty_classes():
    counts = Confusion.of_table(np.array([[5, 1, 0], [0, 4, 0], [0, 0, 0]]))
    one, two = bootstrap_f1(counts, 100, seed=1), bootstrap_f1(counts, 100, seed=1)
    assert (one[0] == two[0]).all()
    assert np.isnan(one[1][2]).all()
    assert np.isfinite(one[1][:2]).all()
    assert np.isnan(bootstrap_f1(EMPTY, 100, seed=1)[0]).all()


def test_bootstrap_of_a_thousand_classes_needs_little_memory():
    generator = np.random.default_rng(0)
    counts = Confusion.of(generator.integers(0, 1000, 3000), generator.integers(0, 1000, 3000), 1000)
    assert bootstrap_f1(counts, 100, seed=1)[1].shape == (1000, 2)


def test_report_is_json_and_its_numbers_are_right():
    labels, logits = answers()
    probabilities = softmax(logits)
    report = classification_report(Answers.of(probabilities, labels), list("abcd"), bootstrap=200, seed=1)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["accuracy"]["value"] == pytest.approx((logits.argmax(axis=1) == labels).mean(), abs=1e-5)
    assert report["log_loss"] == pytest.approx(log_loss(labels, probabilities), abs=1e-5)
    brier = sum(brier_score_loss(labels == k, probabilities[:, k]) for k in range(4))
    assert report["brier"] == pytest.approx(brier, abs=1e-5)
    assert report["baseline"]["accuracy"] == pytest.approx(np.bincount(labels).max() / len(labels), abs=1e-5)
    for metric in [report["accuracy"], report["macro_f1"], *(row["f1"] for row in report["classes"])]:
        assert metric["low"] < metric["value"] < metric["high"]


def test_report_of_a_set_without_some_class_has_none_there():
    labels, logits = answers()
    kept = labels != 2
    logits[:, 2] = -99
    report = classification_report(Answers.of(softmax(logits[kept]), labels[kept]), list("abcd"), bootstrap=100)
    row = report["classes"][2]
    assert (row["images"], row["predicted"]) == (0, 0)
    assert (row["precision"], row["recall"], row["f1"]) == (None, None, None)


@pytest.mark.parametrize("shape", [(0, 3), (4, 2), (3, 3)])
def test_nothing_to_measure_is_refused(shape):
    with pytest.raises(DataError):
        classification_report(Answers.of(np.ones(shape), np.zeros(4 if shape[0] else 0, np.int64)), list("abc"))


def test_index_outside_the_class_list_is_refused():
    with pytest.raises(DataError, match="outside the class list"):
        Confusion.of(np.array([0, 3]), np.array([0, 1]), 3)


def evaluation(classes: tuple[str, ...]) -> dict:
    validation, test = answers(seed=1), answers(seed=2)
    parts = {
        name: Part(p[1].astype(np.float32) * 3, p[0]) for name, p in (("frozen_test", test), ("validation", validation))
    }
    measured = measure(parts, classes, Evaluate(bootstrap=100))
    return {"backbone": "small_cnn", "class_names": list(classes), **measured}


def test_measure_fits_on_validation_and_judges_on_the_first_part():
    metrics = evaluation(tuple("abcd"))
    assert metrics["calibration"]["measured_on"] == "frozen_test"
    assert metrics["calibration"]["ece_after"] < metrics["calibration"]["ece_before"]
    assert metrics["parts"]["frozen_test"]["ece"] == metrics["calibration"]["ece_after"]


def test_measure_without_validation_is_refused():
    labels, logits = answers()
    with pytest.raises(DataError, match="no validation images"):
        measure({"frozen_test": Part(logits.astype(np.float32), labels)}, list("abcd"), Evaluate())


def test_hostile_class_names_cannot_leave_their_cell():
    text = markdown(evaluation(HOSTILE))
    assert "<script>" not in text
    assert "](javascript" not in text
    assert "\n# head" not in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert {row.count("|") for row in rows} == {3, 4, 7}  # the headline, the table of errors, and that of classes


def test_pictures_are_drawn_with_any_class_name(tmp_path):
    labels, logits = answers()
    draw_confusion(Confusion.of(labels, logits.argmax(axis=1), 4), HOSTILE, tmp_path / "c.png")
    before = Answers.of(logits, labels, 1.0)
    draw_reliability({"before": (before.confidence, before.right)}, 15, tmp_path / "r.png")
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in ("c.png", "r.png"))


def test_report_of_many_classes_shows_the_worst_and_folds_the_rest():
    labels, logits = answers(6000, 700)
    names = [f"class {k}" for k in range(700)]
    parts = {"validation": Part(logits.astype(np.float32), labels)}
    metrics = {"backbone": "x", "class_names": names, **measure(parts, names, Evaluate(bootstrap=100))}
    shown, folded = markdown(metrics).split("<details>")
    folded, confused = folded.split("</details>")
    assert "The 20 worst of 700 classes" in shown
    assert [text.count("\n| class ") for text in (shown, folded)] == [20 + 1, 500 + 1]
    assert "The next 500 classes; 180 better ones are in metrics.json" in folded
    f1 = {row["name"]: row["f1"]["value"] for row in metrics["parts"]["validation"]["classes"]}
    first = [
        line.split(" | ")[0].removeprefix("| ") for line in (shown + folded).splitlines() if line.startswith("| class ")
    ]
    told = [f1[name] for name in first if name in f1]
    assert told == sorted(f1.values())[:520]
    assert confused.count("\n| class ") == 20


def test_the_commonest_errors_come_first_and_parts_of_the_table_are_the_tables():
    table = np.random.default_rng(0).integers(0, 9, (6, 6)) * np.random.default_rng(1).integers(0, 2, (6, 6))
    counts = Confusion.of_table(table)
    assert (counts.table() == table).all()
    assert (counts.table([4, 1]) == table[np.ix_([4, 1], [4, 1])]).all()
    assert (counts.hits == np.diag(table)).all()
    assert (counts.present == table.sum(axis=1)).all()
    assert (counts.predicted == table.sum(axis=0)).all()
    wrong = table - np.diag(np.diag(table))
    worst = counts.worst(4)
    assert [many for _, _, many in worst] == sorted(wrong.ravel(), reverse=True)[:4]
    assert all(wrong[label, said] == many for label, said, many in worst)
