"""Measuring, judging and showing several labels an image."""

from __future__ import annotations

import json

import numpy as np
import pytest

from components.errors import DataError
from components.evaluation.gates.checks import EVERY_CLASS
from components.evaluation.gates.several import SetResults, judge_several
from components.evaluation.metrics.set_answers import SetPart, label_calibration_error
from components.evaluation.metrics.several import measure_several
from components.model.artifact import ModelSpec
from components.model.images.preprocess import PreprocessSpec
from components.model.serving.predictor import decisions
from components.monitoring.comparison.skew import OfflineRecall
from components.params import Evaluate, Gate
from components.records import GateCheck
from components.registry.card import model_card

NAMES = ("cat", "<img src=x onerror=alert(1)>", "a|b", "never")
COMMON = np.array([0.5, 0.3, 0.15, 0.0])
RULES = Gate()
QUICK = Evaluate(bootstrap=100)
PREPROCESS = PreprocessSpec(8, 1, "stretch", 1.0, "bilinear", (0.5,), (0.5,))


def truth_of(images: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).random((images, 4)) < COMMON).astype(np.int64)


def part(images: int, seed: int = 0, noise: float = 1.0) -> SetPart:
    truth = truth_of(images, seed)
    spread = np.random.default_rng(seed + 100).normal(0, noise, truth.shape)
    return SetPart((4 * truth - 2 + spread).astype(np.float32), truth)


def measured() -> dict:
    found, _ = measure_several({"frozen_test": part(400, 1), "validation": part(400, 2)}, NAMES, QUICK)
    return {"backbone": "small_cnn", "class_names": list(NAMES), "out_of_date": 0, **found}


def test_the_report_counts_what_it_says() -> None:
    found = measured()
    json.dumps(found, allow_nan=False)
    test = found["parts"]["frozen_test"]
    truth = part(400, 1).labels
    assert [row["images"] for row in test["classes"]] == truth.sum(axis=0).tolist()
    assert test["without_labels"]["images"] == int((truth.sum(axis=1) == 0).sum())
    assert test["classes"][3]["average_precision"] is None and test["classes"][3]["recall"] is None
    assert test["map"]["low"] <= test["map"]["value"] <= test["map"]["high"]
    assert 0.95 < test["map"]["value"] < 1
    for row in test["classes"][:3]:
        assert row["f1"]["low"] <= row["f1"]["value"] <= row["f1"]["high"]
    assert [row["tuned"] for row in found["labels"]] == [True, True, True, False]
    assert found["calibration"]["ece_after"] < 0.06
    recalls = OfflineRecall.of_report(found)
    assert recalls.images == tuple(truth.sum(axis=0).tolist())


def test_intervals_hold_the_truth_in_most_draws() -> None:
    truth = measure_several({"frozen_test": part(40_000, 7), "validation": part(400, 2)}, NAMES, QUICK)[0]
    whole = truth["parts"]["frozen_test"]["map"]["value"]
    inside = 0
    for seed in range(20, 50):
        found = measure_several({"frozen_test": part(300, seed), "validation": part(400, 2)}, NAMES, QUICK)[0]
        inside += found["parts"]["frozen_test"]["map"]["low"] <= whole <= found["parts"]["frozen_test"]["map"]["high"]
    assert inside >= 25


def test_no_validation_images_and_other_classes_are_refused() -> None:
    with pytest.raises(DataError, match="no validation images"):
        measure_several({"frozen_test": part(10)}, NAMES, QUICK)
    with pytest.raises(DataError, match="another class list"):
        measure_several({"validation": part(10)}, NAMES[:2], QUICK)


def sets(images: int, seed: int, wrong: float = 0.0) -> tuple[SetPart, np.ndarray]:
    """Images with four labels by probabilities that are true, a share of them with one label given wrong; and truth."""
    rng = np.random.default_rng(seed)
    score = rng.normal((0.0, -5.0, -10.0, -15.0), 9.0, (images, 4))
    truth = (rng.random((images, 4)) < 1 / (1 + np.exp(-score))).astype(np.int64)
    given = truth.copy()
    spoilt = np.flatnonzero(rng.random(images) < wrong)
    given[spoilt, rng.integers(0, 4, len(spoilt))] ^= 1
    return SetPart((score / 2).astype(np.float32), given), truth > 0


@pytest.mark.parametrize("wrong", [0.0, 0.05])
def test_images_that_nobody_sees_have_all_labels_right_as_often_as_stated(wrong: float) -> None:
    rules = Evaluate(bootstrap=100, accepted_accuracy=0.95)
    validation, _ = sets(4000, 1, wrong)
    fresh, truth = sets(20_000, 2)
    found, fitted = measure_several({"frozen_test": fresh, "validation": validation}, NAMES, rules)
    review = found["answering"]["review"]
    assert review["reached"]
    assert review["label_noise"] == pytest.approx(wrong, abs=0.015)
    spec = ModelSpec(NAMES, PREPROCESS, "small_cnn", several=True, thresholds=tuple(fitted.thresholds),
                     scales=tuple(fitted.scales), offsets=tuple(fitted.offsets))  # fmt: skip
    said, sure = decisions(fitted.probabilities(fresh.logits), spec)
    accepted = ~(sure < review["threshold"]).any(axis=1)  # as the scorer does
    right = (said == truth).all(axis=1)
    assert right.mean() < 0.9
    assert right[accepted].mean() == pytest.approx(0.95, abs=0.012)
    assert accepted.mean() > 0.4
    assert review["accuracy"]["value"] == pytest.approx(right[accepted].mean(), abs=1e-4)
    assert review["coverage"]["value"] == pytest.approx(accepted.mean(), abs=1e-4)
    assert review["label_accuracy"] == pytest.approx((said == truth)[accepted].mean(), abs=1e-4)


def test_where_the_promise_cannot_be_kept_every_image_goes_to_a_person() -> None:
    hard = part(400, 2, noise=40.0)
    review = measure_several({"validation": hard}, NAMES, QUICK)[0]["answering"]["review"]
    assert not review["reached"]
    assert (review["threshold"], review["accepted"], review["label_accuracy"]) == (1.0, 0, None)


def test_calibration_error_is_nought_for_true_probabilities_and_not_for_bold_ones() -> None:
    rng = np.random.default_rng(5)
    probability = rng.random((20_000, 2))
    truth = rng.random((20_000, 2)) < probability
    assert label_calibration_error(truth, probability, 15) < 0.02
    assert label_calibration_error(truth, np.round(probability), 15) > 0.2
    assert np.isnan(label_calibration_error(np.zeros((5, 2), bool), np.zeros((5, 2)), 15))


def test_the_card_tells_of_labels_and_escapes_them() -> None:
    spec = ModelSpec(NAMES, PREPROCESS, "small_cnn", several=True)
    text = model_card(spec, measured(), facts={"dataset_version": "d"}, verdict=None)
    assert "4 labels, any number an image" in text
    assert "| mAP |" in text and "Always answering every label" in text
    assert "<img" not in text


def results(said: np.ndarray, truth: np.ndarray, **more) -> SetResults:
    return SetResults(
        more.pop("classes", NAMES[: truth.shape[1]]), truth > 0, said > 0, ece=0.03, parity_ok=True, **more
    )


def spoilt(truth: np.ndarray, share: float, labels: tuple[int, ...] = (0, 1, 2), seed: int = 0) -> np.ndarray:
    """The truth with a share of the rows of some labels turned round."""
    rng, said = np.random.default_rng(seed), truth.copy()
    for k in labels:
        turned = rng.random(len(truth)) < share
        said[turned, k] = 1 - said[turned, k]
    return said


def judged(candidate: SetResults, champion: SetResults | None, **more) -> dict[str, GateCheck]:
    expected = more.pop("champion_expected", champion is not None)
    verdict = judge_several(
        candidate, champion, alarmed=more.pop("alarmed", {}), rules=RULES, champion_expected=expected
    )  # fmt: skip
    json.dumps(verdict.as_json(), allow_nan=False)
    return {check.name: check for check in verdict.checks}


def test_a_first_model_meets_the_floor_and_beats_saying_everything() -> None:
    truth = truth_of(400)
    assert judged(results(spoilt(truth, 0.05), truth), None)["first model"].passed
    assert not judged(results(spoilt(truth, 0.45), truth), None)["first model"].passed
    crowded = (np.random.default_rng(1).random((400, 4)) < 0.9).astype(np.int64)
    everything = judged(results(np.ones_like(crowded), crowded), None)["first model"]
    assert not everything.passed and "every label always gives" in everything.detail
    assert not judged(results(truth, truth), None, champion_expected=True)["baseline"].passed
    assert not judged(results(truth * 0, truth * 0), None)["images"].passed


def test_an_equal_candidate_passes_and_a_worse_one_is_refused_by_name() -> None:
    truth = truth_of(1500)
    old = results(spoilt(truth, 0.05, seed=1), truth)
    assert all(check.passed for check in judged(results(spoilt(truth, 0.05, seed=2), truth), old).values())
    worse = judged(results(spoilt(truth, 0.15, seed=3), truth), old)
    assert not worse["overall"].passed
    one = judged(results(spoilt(spoilt(truth, 0.05, seed=2), 0.3, labels=(2,), seed=4), truth), old)
    assert not one[EVERY_CLASS].passed
    assert "a|b" in one[EVERY_CLASS].detail and "cat" not in one[EVERY_CLASS].detail


def test_an_alarmed_label_must_be_better_and_a_new_one_meets_the_floor() -> None:
    truth = truth_of(1500)
    old = results(spoilt(truth, 0.3, labels=(0,), seed=1), truth)
    alarmed = {"cat": ["recall"], "never": ["recall"]}
    found = judged(results(spoilt(truth, 0.02, seed=2), truth), old, alarmed=alarmed)
    assert found["alarmed class cat"].passed
    assert not found["alarmed class never"].passed
    assert not judged(old, old, alarmed={"cat": ["recall"]})["alarmed class cat"].passed
    young = SetResults(NAMES[:2], truth > 0, spoilt(truth, 0.05, seed=3) > 0, note="renamed")
    fresh = judged(results(spoilt(truth, 0.05, seed=4), truth), young)
    assert fresh["new class a|b"].passed and not fresh["new class never"].passed
    assert fresh["class list"].detail.endswith("renamed")


def test_answers_on_other_images_are_refused() -> None:
    truth = truth_of(50)
    with pytest.raises(DataError, match="same images"):
        judged(results(truth, truth), results(truth, truth_of(50, seed=9)))
    with pytest.raises(DataError, match="shapes"):
        judged(results(truth, truth), results(truth[:10], truth))
