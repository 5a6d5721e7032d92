"""What the report asks further where images carry several labels."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from components.evaluation.examination.baseline import linear_label_baseline
from components.evaluation.examination.robustness import attacked_accuracy, corrupted_accuracy, looked_at_five_times
from components.evaluation.examination.several_questions import label_scores, label_target
from components.evaluation.training.folds import cross_validated_labels
from components.model.images.inputs import ImageSet
from components.model.images.preprocess import PreprocessSpec
from components.model.label_calibration import LabelRules
from components.params import Train

DIGITS = load_digits()
PIXELS = (DIGITS.images * 15.9).astype(np.uint8)[..., None]
TRUTH = np.stack([DIGITS.target % 2, DIGITS.target > 4, np.zeros_like(DIGITS.target)], axis=1).astype(np.int64)
PLAIN = PreprocessSpec(4, 1, "stretch", 1.0, "bilinear", (0.0,), (1.0,))
HALVES = PreprocessSpec(8, 1, "stretch", 1.0, "bilinear", (0.3,), (0.25,))


def test_linear_baseline_ranks_each_label_by_itself_and_gives_a_label_never_met_its_share() -> None:
    found = linear_label_baseline(PIXELS[:1000], TRUTH[:1000], PIXELS[1000:], TRUTH[1000:] > 0)
    assert found is not None
    assert 0.85 < found["macro_f1"] < 0.97
    assert 0.9 < found["map"] < 0.99  # of two labels: nobody carries the third
    assert (found["learnt_from"], found["images"]) == (1000, 797)
    shuffled = np.random.default_rng(0).permutation(TRUTH)
    chance = linear_label_baseline(PIXELS[:1000], shuffled[:1000], PIXELS[1000:], TRUTH[1000:] > 0)
    assert chance is not None
    assert chance["map"] < 0.6
    assert linear_label_baseline(PIXELS[:9], TRUTH[:9], PIXELS[:0], TRUTH[:0] > 0) is None


def halves() -> nn.Module:
    """Tells of an image of 4 x 4 whether its upper half is bright, and whether its lower half is."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with torch.no_grad():
        network[1].weight.zero_()
        network[1].weight[0, :8] = 1.0
        network[1].weight[1, 8:] = 1.0
        network[1].bias.fill_(-4.0)
    return network.eval()


RULES = LabelRules(
    scales=np.array([1.0, 2.0]), offsets=np.array([0.0, 1.0]), thresholds=np.array([0.5, 1 / (1 + np.exp(-1.0))]),
    own=np.ones(2, bool), shared_scale=1.0, label_noise=0.0,
)  # fmt: skip
"""With these, too, a half is bright from a mean of 0.5 on."""


def test_attack_counts_an_image_only_where_no_label_of_it_could_be_turned() -> None:
    upper, lower = np.array([100, 118, 150, 200]), np.array([200, 200, 136, 30])
    images = np.repeat(np.stack([upper, lower], axis=1).astype(np.uint8), 2, axis=1)[:, :, None, None]
    images = np.broadcast_to(images, (4, 4, 4, 1)).copy()
    labels = np.stack([upper > 127, lower > 127], axis=1).astype(np.int64)
    attack = partial(attacked_accuracy, halves(), PLAIN, images, target=label_target(RULES), steps=5)
    found = attack(labels, epsilon=12 / 255)  # 118 and 136 are nearer to the middle than that
    assert (found["clean"], found["fgsm"], found["pgd"]) == (1.0, 0.5, 0.5)
    assert attack(labels, epsilon=0.0)["pgd"] == 1.0
    wrong = labels.copy()
    wrong[0, 1] = 0
    assert attack(wrong, epsilon=0.0)["clean"] == 0.75


def test_an_image_is_right_where_all_its_labels_are() -> None:
    likely = np.array([[0.9, 0.2], [0.6, 0.8], [0.4, 0.74]])
    labels = np.array([[1, 0], [1, 1], [0, 1]])
    found = label_scores(labels, np.array([0.5, 0.75]), likely)
    assert found["exact_match"]["value"] == pytest.approx(2 / 3, abs=1e-5)
    assert found["macro_f1"] == pytest.approx((1 + 2 / 3) / 2, abs=1e-5)
    looks = looked_at_five_times(
        lambda images: np.tile(images.mean(axis=(1, 2)) / 255, (1, 2)), PIXELS[:3],
        partial(label_scores, labels, np.array([0.5, 0.75])), flip=False,
    )  # fmt: skip
    assert looks["once"].keys() == looks["averaged"].keys() == {"exact_match", "macro_f1"}


def test_worse_images_are_counted_by_what_is_said_to_be_right() -> None:
    found = corrupted_accuracy(lambda images: images.mean(axis=(1, 2, 3)) > 0, np.full((5, 16, 16, 1), 128, np.uint8))
    assert (found["images"], found["clean"]["value"], found["mean"]) == (5, 1.0, 1.0)


def test_every_fold_is_ranked_by_a_network_that_did_not_see_it() -> None:
    generator = np.random.default_rng(0)
    truth = (generator.random((240, 2)) < 0.5).astype(np.int64)
    pixels = generator.integers(0, 80, (240, 8, 8, 1))
    pixels[:, :4] += 150 * truth[:, 0, None, None, None]
    pixels[:, 4:] += 150 * truth[:, 1, None, None, None]
    data = ImageSet(pixels.astype(np.uint8), truth, np.ones(240, np.float32))
    train = Train(epochs=4, batch_size=32, precision="fp32")
    groups = [f"g{n // 2}" for n in range(240)]
    found = cross_validated_labels(data, groups, 2, spec=HALVES, train=train, folds=3)
    assert sum(row["images"] for row in found["folds"]) == 240
    assert found["map"]["mean"] > 0.95
    assert found["macro_f1"]["mean"] > 0.8
    noise = ImageSet(data.images, generator.permutation(truth), data.weights)
    by_chance = cross_validated_labels(noise, groups, 2, spec=HALVES, train=train, folds=3)
    assert by_chance["map"]["mean"] < 0.75
