"""The known change that was made is named, at about its strength; a quiet month, a mix and another thing are not."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from components.data.appearance import APPEARANCE, apply
from components.model.images.image_statistics import Glance, image_statistics
from components.monitoring.drift.embeddings import DomainTest
from components.monitoring.drift.likely_corruption import (
    Fitted,
    LikelyCorruption,
    likely_corruption,
    refuted,
    strength_in_words,
)

DATA = load_digits()
PIXELS = np.kron(np.rint(DATA.images * (255 / 16)), np.ones((1, 2, 2))).astype(np.uint8)  # 16 pixels a side
FILTERS = np.random.default_rng(0).normal(size=(256, 40)) / 16


def look(images):
    return statistics_alone(images)[0], np.maximum(np.stack(images).reshape(len(images), -1) / 255 @ FILTERS, 0)


def statistics_alone(images):
    return image_statistics([Glance.at(Image.fromarray(image), 0) for image in images])[:, :4], None


def halves(seed):
    order = np.random.default_rng(seed).permutation(len(PIXELS))
    return list(PIXELS[order[:150]]), list(PIXELS[order[150:550]])


def changed(images, kind, strength, seed=9):
    rng = np.random.default_rng(seed)
    return [apply(kind, image, strength, rng) for image in images]


@pytest.mark.parametrize("looks", [look, statistics_alone])
@pytest.mark.parametrize("seed", range(5))
def test_a_quiet_month_has_nothing_to_explain(seed, looks):
    found = likely_corruption(*halves(seed), looks)
    assert found.state.startswith("none is seen")
    assert found.best is None
    assert not found.fits


@pytest.mark.parametrize(
    ("kind", "strength"),
    [
        ("brightness", 0.25), ("brightness", 0.6), ("contrast", 0.4), ("blur", 0.5), ("noise", 0.3), ("rotate", 0.4),
        ("invert", 0.35), ("invert", 1.0), ("new_style", 0.7),
    ],
)  # fmt: skip
def test_the_change_that_was_made_is_named_at_about_its_strength(kind, strength):
    reference, window = halves(1)
    found = likely_corruption(reference, changed(window, kind, strength), look)
    assert found.state == "ok"
    assert found.fits
    named = {fit.kind: fit for fit in (found.best, *found.also)}
    assert named[kind].strength == pytest.approx(strength, abs=0.1)
    assert named[kind].explained > 0.9


def test_the_image_statistics_alone_name_poor_light_too():
    reference, window = halves(2)
    found = likely_corruption(reference, changed(window, "brightness", 0.5), statistics_alone)
    assert found.fits
    assert (found.best.kind, found.best.strength) == ("brightness", pytest.approx(0.5, abs=0.1))


def test_another_mix_of_classes_is_no_change_of_the_look():
    reference, _ = halves(3)
    ones = [image for image, digit in zip(PIXELS, DATA.target, strict=True) if digit == 1]
    assert not likely_corruption(reference, ones, look).fits


def test_images_of_something_else_fit_none_and_the_nearest_is_told():
    reference, _ = halves(4)
    stripes = np.random.default_rng(0).integers(0, 256, (200, 16, 1)).astype(np.uint8) * np.ones((1, 1, 16), np.uint8)
    found = likely_corruption(reference, list(stripes), look)
    assert found.state == "ok"
    assert not found.fits
    assert found.best is not None
    assert found.also == ()


def test_colour_images_are_taken_too():
    rng = np.random.default_rng(5)
    reference = list(rng.integers(0, 256, (80, 12, 12, 3), dtype=np.uint8))
    window = changed(list(rng.integers(0, 256, (80, 12, 12, 3), dtype=np.uint8)), "contrast", 0.5)
    found = likely_corruption(reference, window, statistics_alone)
    assert (found.fits, found.best.kind) == (True, "contrast")


def test_what_cannot_be_decided_is_a_state_in_words():
    reference, window = halves(0)
    assert likely_corruption(reference[:49], window, look).state == "undecided: 49 images on one side, fewer than 50"
    assert likely_corruption(reference, [], look).state == "undecided: 0 images on one side, fewer than 50"

    def broken(images):
        statistics, embeddings = look(images)
        return statistics, embeddings * np.nan

    assert "not finite" in likely_corruption(reference, window, broken).state
    same = [np.full((16, 16), 7, np.uint8)] * 60
    assert likely_corruption(same, same, look).state.startswith("none is seen")


def test_a_change_that_leaves_most_to_be_told_apart_is_refuted():
    fits = LikelyCorruption("ok", Fitted("invert", 0.1, 0.9), True)
    none = np.empty(0)
    before, half, more = (DomainTest("ok", 0.6, 0.001, moved, none, none) for moved in (0.10, 0.05, 0.06))
    assert refuted(fits, before, half).fits
    assert not refuted(fits, before, more).fits
    assert refuted(fits, before, DomainTest("ok", 0.51, 0.4, 0.09, none, none)).fits


@pytest.mark.parametrize("kind", APPEARANCE)
def test_every_kind_has_its_words(kind):
    assert f"{kind} at strength" not in strength_in_words(Fitted(kind, 0.5, 1.0))
