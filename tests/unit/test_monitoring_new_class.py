"""A held-out digit is found as a group of its own; a quiet month, another mix and another look are not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from components.data.appearance import apply
from components.monitoring.drift.embeddings import common_points
from components.monitoring.drift.new_class import new_classes

DATA = load_digits()
PIXELS = np.rint(DATA.images * (255 / 16)).astype(np.uint8)
DIGIT = DATA.target


@dataclass(frozen=True)
class World:
    """A small network that never saw the digit `held`, and what it makes of images: its last hidden layer."""

    held: int
    network: MLPClassifier
    left: np.ndarray

    @classmethod
    def without(cls, held, seed=0):
        order = np.random.default_rng(seed).permutation(len(DIGIT))
        learnt = order[:500][DIGIT[order[:500]] != held]
        network = MLPClassifier((64,), solver="lbfgs", alpha=1e-2, max_iter=60, random_state=seed, tol=1e-2)
        return cls(held, network.fit(cls._flat(PIXELS[learnt]), DIGIT[learnt]), order[500:])

    @staticmethod
    def _flat(images):
        return images.reshape(len(images), -1) / 255

    def embed(self, images):
        return np.maximum(self._flat(images) @ self.network.coefs_[0] + self.network.intercepts_[0], 0)

    def find(self, reference, window, change=lambda image: image):
        before, now = PIXELS[reference], np.stack([change(image) for image in PIXELS[window]])
        points = common_points(self.embed(before), self.embed(now))
        return new_classes(points, self.network.predict(self._flat(before)))

    def halves(self, seed):
        """Two samples of the known digits that the network did not learn."""
        known = np.random.default_rng(seed).permutation(self.left[DIGIT[self.left] != self.held])
        return known[: len(known) // 2], known[len(known) // 2 :]


@pytest.fixture(scope="module", params=[0, 4, 6])
def world(request):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is stopped before it has converged, which is enough here
        return World.without(request.param)


@pytest.mark.parametrize("seed", range(4))
def test_a_quiet_month_holds_no_new_class(world, seed):
    found = world.find(*world.halves(seed))
    assert found.state == "ok"
    assert found.candidates == ()


def test_a_held_out_digit_is_found_as_one_pure_group(world):
    reference, window = world.halves(0)
    window = np.concatenate([window, world.left[DIGIT[world.left] == world.held]])
    window = np.random.default_rng(1).permutation(window)
    found = world.find(reference, window)
    assert found.state == "ok"
    assert found.lost_cluster is None
    (candidate,) = found.candidates
    assert (DIGIT[window[candidate.members]] == world.held).mean() > 0.95
    assert len(candidate.members) > 0.25 * (DIGIT[window] == world.held).sum()
    assert candidate.share == pytest.approx(len(candidate.members) / min(len(reference), len(window)))
    assert candidate.p_value < 0.05
    assert candidate.distance >= 1
    assert candidate.gap > 1.15


@pytest.mark.parametrize("tripled", [1, 2, 3])
def test_a_known_digit_that_comes_three_times_as_often_is_no_new_class(world, tripled):
    reference, window = world.halves(2)
    fewer = [window[DIGIT[window] == tripled], *(window[DIGIT[window] == d][::3] for d in range(10) if d != tripled)]
    found = world.find(reference, np.concatenate(fewer))
    assert found.candidates == ()


@pytest.mark.parametrize(
    ("kind", "strength"), [("brightness", 0.5), ("contrast", 0.4), ("noise", 0.5), ("rotate", 0.3)]
)
def test_another_look_of_everything_is_no_new_class(world, kind, strength):
    rng = np.random.default_rng(3)
    found = world.find(*world.halves(3), lambda image: apply(kind, image, strength, rng))
    assert found.candidates == ()


def five_classes(seed, moved):
    """Return embeddings of 100 images of each of five classes, before and now, and their classes before.

    moved: the classes whose images have left their place for a new one.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(500)
    label = np.repeat(np.arange(5), 100)[order]
    places = 14 * np.eye(10)
    before = places[label] + rng.normal(size=(500, 10))
    now = places[np.where(np.isin(label, moved), label + 5, label)] + rng.normal(size=(500, 10))
    return common_points(before, now), label


def test_a_class_that_looks_new_is_a_candidate_beside_what_is_gone():
    points, classes = five_classes(5, moved=[2])
    found = new_classes(points, classes)
    assert found.state == "ok"
    assert len(found.candidates) == 1
    assert np.isin(found.candidates[0].members, np.flatnonzero(classes == 2)).all()
    assert len(found.candidates[0].members) > 90
    assert found.lost_cluster == 2
    assert set(found.lost) == set(np.flatnonzero(classes == 2))


def test_several_classes_that_look_new_are_undecided():
    points, classes = five_classes(6, moved=[1, 3])
    found = new_classes(points, classes)
    assert found.candidates == ()
    assert "undecided: images of 2 classes look otherwise" in found.state


def test_a_group_of_most_of_the_window_is_another_look_and_no_class():
    rng = np.random.default_rng(7)
    before, now = rng.normal(size=(400, 5)), rng.normal(size=(400, 5))
    now[:240, 0] += 30
    found = new_classes(common_points(before, now), np.zeros(400, int))
    assert found.candidates == ()
    assert "undecided: 58 % of the window's images look otherwise" in found.state
    fewer = new_classes(common_points(before, np.concatenate([now[:80], now[240:]] * 2)[:240]), np.zeros(400, int))
    assert len(fewer.candidates) == 1


def test_too_few_images_and_broken_embeddings_are_undecided():
    few = np.random.default_rng(0).normal(size=(199, 4))
    assert new_classes(common_points(few, few), np.zeros(199, int)).state == (
        "undecided: 199 images on one side, fewer than 200"
    )
    broken = np.full((300, 4), np.nan)
    assert "not finite" in new_classes(common_points(broken, broken), np.zeros(300, int)).state


@pytest.mark.parametrize("seed", range(3))
def test_a_rare_class_that_comes_ten_times_as_often_is_no_new_class(seed):
    rng = np.random.default_rng(seed)
    places = 14 * np.eye(6)
    before, now = np.repeat(np.arange(5), [20, 120, 120, 120, 120]), np.repeat(np.arange(5), [200, 75, 75, 75, 75])
    before, now = rng.permutation(before), rng.permutation(now)
    points = common_points(*(points_of(places, label, rng) for label in (before, now)))
    assert new_classes(points, before).candidates == ()
    places[0] = -14  # the same window, but that class in a place where the reference has nothing
    points = common_points(points_of(14 * np.eye(6), before, rng), points_of(places, now, rng))
    assert len(new_classes(points, before).candidates) == 1


def points_of(places, label, rng):
    return places[label] + rng.normal(size=(len(label), 6))
