import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from components.errors import DataError
from components.evaluation.examination.baseline import linear_baseline, small_pixels
from components.evaluation.metrics.one_class import Answers
from components.evaluation.metrics.ranking import auroc, macro_auroc
from components.evaluation.metrics.scores import ece_interval, score_intervals
from components.evaluation.metrics.slices import UNKNOWN, slice_rows, terciles
from components.model.calibration import calibration_error, softmax


def answers(number: int = 600, classes: int = 7, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, number)
    logits = generator.normal(size=(number, classes))
    logits[np.arange(number), labels] += 1.5
    return labels, logits


def test_macro_auroc_is_scikit_learns_at_any_temperature():
    labels, logits = answers()
    for temperature in (0.5, 2.0):
        expected = roc_auc_score(labels, softmax(logits, temperature), multi_class="ovr", average="macro")
        assert macro_auroc(logits, labels, temperature)["value"] == pytest.approx(expected, abs=1e-5)


def test_auroc_counts_ties_half_and_leaves_out_classes_without_images():
    generator = np.random.default_rng(3)
    wanted, others = generator.integers(2, 9, 80), generator.integers(0, 7, 120)
    expected = roc_auc_score([1] * 80 + [0] * 120, [*wanted, *others])
    assert auroc(wanted, others)["value"] == pytest.approx(expected, abs=1e-5)
    forth, back = auroc(wanted, others), auroc(others, wanted)
    assert [forth["low"], forth["high"]] == pytest.approx([1 - back["high"], 1 - back["low"]], abs=2e-5)
    labels, logits = answers(classes=3)
    kept = labels != 2
    assert macro_auroc(logits[kept], labels[kept], 1.0)["classes"] == 2
    assert macro_auroc(logits[labels == 1], labels[labels == 1], 1.0) is None


def test_intervals_of_auroc_hold_the_truth_as_often_as_they_say():
    truth = macro_auroc(*reversed(answers(20_000, 4, seed=99)), 1.0)["value"]
    found = [macro_auroc(*reversed(answers(150, 4, seed=n)), 1.0) for n in range(300)]
    held = np.mean([one["low"] <= truth <= one["high"] for one in found])
    assert 0.91 < held < 0.98


def test_auroc_of_nothing_or_of_nan_is_refused():
    for other in (np.array([]), np.array([np.nan])):
        with pytest.raises(DataError):
            auroc(np.array([1.0]), other)


def test_calibration_errors_interval_is_that_of_redrawn_images():
    labels, logits = answers(400)
    given = Answers.of(logits, labels, 0.5)
    ours = ece_interval(given.confidence, given.right, bins=10, draws=2000, seed=0)
    generator = np.random.default_rng(1)
    rows = (generator.integers(0, 400, 400) for _ in range(2000))
    redrawn = np.percentile([calibration_error(given.confidence[r], given.right[r], 10) for r in rows], (2.5, 97.5))
    assert (ours["low"], ours["high"]) == pytest.approx(redrawn, abs=0.006)
    assert ours["value"] == pytest.approx(calibration_error(given.confidence, given.right, 10), abs=1e-5)


def test_every_interval_holds_its_value_and_top5_needs_six_classes():
    labels, logits = answers()
    found = score_intervals(Answers.of(logits, labels, 1.0), bins=15, bootstrap=200)
    for one in found.values():
        assert one["low"] <= one["value"] <= one["high"]
    few = answers(100, 5)
    assert score_intervals(Answers.of(few[1], few[0], 1.0), bins=15, bootstrap=200)["top5"] is None


def test_the_worst_slice_comes_first_and_a_few_unlucky_images_do_not():
    right = np.array([True] * 300 + [False] * 100 + [True] * 100 + [False] * 2 + [True])
    source = ["good"] * 300 + ["bad"] * 200 + ["tiny"] * 3
    rows = slice_rows(right, {"source": source, "same": ["x"] * 503})
    assert [(row["value"], row["images"]) for row in rows] == [("bad", 200), ("tiny", 3), ("good", 300)]
    assert rows[0]["accuracy"]["value"] == 0.5


def test_thirds_are_as_large_as_their_name_says():
    names = terciles(np.array([*range(99), np.nan]), ("a", "b", "c"))
    told, counts = np.unique(names, return_counts=True)
    assert counts.tolist() == [33, 33, 33, 1]
    assert told[-1] == UNKNOWN
    assert set(terciles(np.full(5, 28.0), ("a", "b", "c"), " px")) == {"28 px"}


def test_linear_baseline_knows_digits_and_small_pixels_are_means():
    digits = load_digits()
    pixels = (digits.images * 15.9).astype(np.uint8)[..., None]
    found = linear_baseline(pixels[:1000], digits.target[:1000], pixels[1000:], digits.target[1000:], 10)
    assert 0.85 < found["accuracy"]["low"] < found["accuracy"]["value"] < found["accuracy"]["high"] < 0.97
    assert found["images"] == 797
    assert linear_baseline(pixels[:5], digits.target[:5], pixels[:5], digits.target[:5], 500) is None
    image = np.arange(28 * 28 * 3, dtype=np.uint64).reshape(1, 28, 28, 3).astype(np.uint8)
    expected = image.reshape(1, 14, 2, 14, 2, 3).mean(axis=(2, 4)).reshape(1, -1) / 255
    assert small_pixels(image) == pytest.approx(expected, abs=1e-6)
    assert small_pixels(np.full((2, 17, 17, 1), 255, np.uint8)) == pytest.approx(1.0)
