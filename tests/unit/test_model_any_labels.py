"""Several labels an image: ranking, loss, calibration, thresholds, and what scoring makes of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score

from components.errors import ConfigurationError, DataError
from components.model.artifact import SPEC_FILE, ModelSpec, read_spec, write_spec
from components.model.average_precision import average_precisions, mean_average_precision
from components.model.images.inputs import ImageSet
from components.model.images.preprocess import PreprocessSpec
from components.model.label_calibration import FEWEST, best_threshold, fit_label_rules
from components.model.networks.backbones import build
from components.model.serving.predictor import decisions, joint_energy
from components.model.training.fit import fit
from components.model.training.objectives.any_labels import MEAN_AP, AnyLabels
from components.model.training.objectives.imbalance import Remedy, remedy_for
from components.params import Imbalance, Preprocess, Train

ONE = torch.ones(1)

RULES = PreprocessSpec(8, 1, "stretch", 1.0, "bilinear", (0.5,), (0.5,))
SPEC = ModelSpec(
    ("a", "b"), RULES, "small_cnn", several=True, thresholds=(0.5, 0.2), scales=(1.0, 2.0), offsets=(0.0, -1.0)
)


def world(images: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels (N, 4): of well-ranked, scaled, shifted and rare labels."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((images, 4)) < (0.5, 0.3, 0.2, 0.01)).astype(np.int64)
    score = 2 * truth - 1 + rng.normal(0, 1, truth.shape)
    return (score * (1.0, 5.0, 1.0, 1.0) + (0.0, 0.0, 3.0, 0.0)).astype(np.float32), truth


def test_average_precision_is_scikit_learns_with_ties_too() -> None:
    rng = np.random.default_rng(1)
    truth = (rng.random((300, 5)) < 0.3).astype(int)
    truth[:, 4] = 0
    scores = np.round(rng.random((300, 5)) + truth, 1)  # many equal
    found = average_precisions(truth, scores)
    assert found[:4] == pytest.approx([average_precision_score(truth[:, k], scores[:, k]) for k in range(4)])
    assert np.isnan(found[4])
    assert mean_average_precision(truth, scores) == pytest.approx(found[:4].mean())


def test_weights_count_images_as_often_as_copies_would() -> None:
    rng = np.random.default_rng(2)
    truth, scores = (rng.random((40, 2)) < 0.4).astype(int), np.round(rng.random((40, 2)), 1)
    weights = rng.integers(0, 4, 40)
    copies = np.repeat(np.arange(40), weights)
    drawn = average_precisions(truth, scores, weights[None].astype(float))
    assert drawn[0] == pytest.approx(average_precisions(truth[copies], scores[copies]))


def test_the_loss_is_binary_cross_entropy_of_each_label_and_smoothing_pulls_to_a_half() -> None:
    logits, targets = torch.tensor([[2.0, -1.0]]), torch.tensor([[1, 0]])
    plain = AnyLabels(0.0).losses(logits, targets, ONE)
    own = -(torch.log(torch.sigmoid(logits[0, 0])) + torch.log(1 - torch.sigmoid(logits[0, 1]))) / 2
    assert float(plain) == pytest.approx(float(own), abs=1e-6)
    sure = torch.tensor([[20.0, -20.0]])
    assert float(AnyLabels(0.2).losses(sure, targets, ONE)) > 1.0 > float(AnyLabels(0.0).losses(sure, targets, ONE))
    focal = AnyLabels(0.0, Remedy("focal", np.array([1.0, 1.0], np.float32), 0.0)).losses(logits, targets, ONE)
    assert float(focal) == pytest.approx(float(plain), abs=1e-6)
    weighed = AnyLabels(0.0, Remedy("focal", np.array([3.0, 1.0], np.float32), 2.0)).losses(logits, targets, ONE)
    assert float(weighed) < float(plain)


def test_a_label_that_does_not_count_teaches_nothing_and_the_others_of_its_image_do() -> None:
    logits, targets = torch.tensor([[2.0, -1.0], [0.5, 0.5]], requires_grad=True), torch.tensor([[1, 0], [0, 1]])
    for remedy in (None, Remedy("focal", np.ones(2, np.float32), 2.0)):
        whole = AnyLabels(0.0, remedy).losses(logits, targets, torch.tensor([1.0, 2.0]))
        alike = AnyLabels(0.0, remedy).losses(logits, targets, torch.tensor([[1.0, 1.0], [2.0, 2.0]]))
        assert alike.tolist() == pytest.approx(whole.tolist())
        masked = AnyLabels(0.0, remedy).losses(logits, targets, torch.tensor([[0.0, 1.0], [1.0, 1.0]]))
        (gradient,) = torch.autograd.grad(masked.sum(), logits)
        assert gradient[0, 0] == 0
        assert (gradient.flatten()[1:] != 0).all()


def test_weights_of_labels_train_a_network_and_are_balanced_like_those_of_images() -> None:
    images = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1), dtype=np.uint8)
    bright = (images.mean(axis=(1, 2, 3)) > 127).astype(np.int64)
    labels = np.stack([bright, 1 - bright], axis=1)
    weights = np.ones((64, 2), np.float32)
    weights[::4, 1] = 0.0
    data = ImageSet(images, labels, weights)
    remedy = remedy_for(labels, weights, ("bright", "dark"), Imbalance(remedy="class-weights"))
    carried = (labels * weights).sum(axis=0)
    assert remedy is not None
    assert remedy.factors[1] / remedy.factors[0] == pytest.approx(carried[0] / carried[1], rel=1e-5)
    assert remedy.counted(labels, weights)[0].shape == (64, 2)
    network = build("small_cnn", classes=2, channels=1, size=8, dropout=0.0, pretrained="none")
    spec = PreprocessSpec.of(Preprocess(size=8), (0.5,), (0.25,))
    params = Train(batch_size=32, precision="fp32", augment={"mixup": 0.4})
    assert fit(network, data, None, spec=spec, params=params, epochs=2, remedy=remedy).epochs == 2
    with pytest.raises(DataError, match="weight"):
        ImageSet(images, labels, np.zeros((64, 2), np.float32))


def test_epochs_are_compared_by_mean_average_precision_and_none_without_a_label() -> None:
    objective = AnyLabels(0.0)
    tally = objective.tally()
    tally.add(torch.tensor([[3.0, -1.0], [-2.0, -1.5]]), torch.tensor([[1, 0], [0, 0]]))
    tally.add(torch.tensor([[1.0, -0.5]]), torch.tensor([[1, 1]]))
    metrics = tally.metrics()
    assert objective.watched == MEAN_AP
    assert float(metrics[MEAN_AP]) == 1.0
    assert float(metrics["validation_exact_match"]) == pytest.approx(2 / 3)
    empty = objective.tally()
    empty.add(torch.zeros(2, 2), torch.zeros(2, 2, dtype=torch.int64))
    assert float(empty.metrics()[MEAN_AP]) == 0.0


def test_a_row_counts_as_its_rarest_label() -> None:
    labels = np.array([[1, 0, 0], [1, 0, 0], [1, 1, 0], [0, 0, 0]])
    remedy = remedy_for(labels, np.ones(4, np.float32), ("a", "b", "c"), Imbalance(remedy="class-weights"))
    assert remedy is not None
    assert remedy.factors[1] == pytest.approx(3 * remedy.factors[0])
    assert remedy.of_rows(labels).tolist() == pytest.approx(
        [remedy.factors[0], remedy.factors[0], remedy.factors[1], 1.0]
    )


def test_calibration_mends_scale_and_shift_of_each_label_and_rare_ones_share() -> None:
    logits, truth = world(4000)
    assert truth[:, 3].sum() >= FEWEST
    rules = fit_label_rules(logits, truth)
    fresh, right = world(20_000, seed=1)
    found = rules.probabilities(fresh)
    for k in range(3):
        for low in (0.05, 0.3, 0.6, 0.85):
            some = (found[:, k] > low) & (found[:, k] < low + 0.1)
            assert right[some, k].mean() == pytest.approx(low + 0.05, abs=0.05)
        own, half = (f1_score(right[:, k], found[:, k] >= t) for t in (rules.thresholds[k], 0.5))
        assert rules.thresholds[k] != 0.5 and own > half - 0.005
    few = fit_label_rules(logits[:200], truth[:200])
    assert (few.own.tolist(), few.offsets[3], few.thresholds[3]) == ([True, True, True, False], 0.0, 0.5)
    assert few.scales[3] == few.shared_scale


def test_a_label_told_apart_without_an_error_keeps_finite_numbers() -> None:
    truth = np.repeat([[0], [1]], 50, axis=0)
    rules = fit_label_rules((20.0 * truth - 10).astype(np.float32), truth)
    assert np.isfinite([*rules.scales, *rules.offsets]).all()
    found = rules.probabilities(np.array([[-10.0], [10.0]]))
    assert found[0, 0] < rules.thresholds[0] < found[1, 0]


def test_a_label_ranked_the_wrong_way_round_is_not_turned() -> None:
    rng = np.random.default_rng(3)
    truth = (rng.random((400, 1)) < 0.5).astype(np.int64)
    rules = fit_label_rules((-3.0 * (2 * truth - 1) + rng.normal(0, 1, truth.shape)).astype(np.float32), truth)
    assert rules.scales[0] > 0 and not rules.own[0]


def test_the_threshold_is_the_best_for_f1() -> None:
    rng = np.random.default_rng(4)
    truth = rng.random(500) < 0.1
    probability = np.clip(0.3 * truth + rng.normal(0.2, 0.12, 500), 0, 1)
    chosen = best_threshold(truth, probability)
    tried = [f1_score(truth, probability >= t, zero_division=0) for t in np.linspace(0.01, 0.99, 197)]
    assert f1_score(truth, probability >= chosen) >= max(tried)
    assert best_threshold(np.zeros(10, bool), np.linspace(0, 1, 10)) == 0.5
    assert best_threshold(np.array([True, False]), np.array([0.4, 0.4])) == 0.5


@pytest.mark.parametrize("logits", [np.zeros((0, 2)), np.zeros((3, 1)), np.full((3, 2), np.nan)])
def test_what_cannot_be_calibrated_is_refused(logits: np.ndarray) -> None:
    with pytest.raises(DataError, match="calibration got"):
        fit_label_rules(logits, np.zeros((len(logits), 2), np.int64))


def test_a_label_at_its_threshold_is_half_sure_wherever_that_lies() -> None:
    said, sure = decisions(np.array([[0.5, 0.2], [1.0, 0.0], [0.25, 0.6], [0.49, 0.1]]), SPEC)
    assert said.tolist() == [[True, True], [True, False], [False, True], [False, False]]
    assert sure == pytest.approx(np.array([[0.5, 0.5], [1.0, 1.0], [0.75, 0.75], [0.51, 0.75]]))


def test_joint_energy_is_highest_where_no_label_is_likely() -> None:
    found = joint_energy(np.array([[-5.0, -5.0], [5.0, -5.0], [5.0, 5.0], [800.0, -800.0]]))
    assert found[0] > found[1] > found[2] > found[3]
    assert np.isfinite(found).all()


def test_a_specification_of_several_survives_the_file_and_one_of_one_label_is_written_as_ever(tmp_path) -> None:
    write_spec(tmp_path, SPEC)
    assert read_spec(tmp_path) == SPEC
    write_spec(tmp_path, replace(SPEC, several=False, thresholds=(), scales=(), offsets=()))
    text = (tmp_path / SPEC_FILE).read_text()
    assert "several" not in text and "thresholds" not in text
    assert not read_spec(tmp_path).several


@pytest.mark.parametrize(
    "changed", [{"several": False}, {"thresholds": (0.5,)}, {"thresholds": (0.5, 1.5)}, {"scales": ()}]
)
def test_numbers_that_do_not_fit_the_classes_are_refused(changed) -> None:
    with pytest.raises(ConfigurationError):
        replace(SPEC, **changed)
