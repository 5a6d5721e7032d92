"""Draws for several labels: nested, within bounds, few images for all labels, and membership a matter of `u` alone."""

from __future__ import annotations

import label_worlds
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.errors import DataError
from components.monitoring.judgement.several_labels import estimate_labels
from components.monitoring.judgement.trigger import Suspicion
from components.monitoring.sampling.several_labels import (
    allocate_labels,
    draw_labels,
    expected_images,
    of_label,
    overlap_of,
    plan_label_top_up,
)
from components.params import Monitor
from components.records import CONFIDENCE_BINS, LabelCounts, LabelSizes

CELLS = 2 * CONFIDENCE_BINS


def counts_of(stratum: np.ndarray, confidence: float = 0.9) -> LabelCounts:
    """Return the strata of (N, K) images before anything is drawn."""
    labels = stratum.shape[1]
    population = np.bincount(stratum.reshape(-1), minlength=labels * CELLS).reshape(labels, 2, CONFIDENCE_BINS)
    nothing = np.zeros_like(population)
    sure = np.where(population > 0, confidence, np.nan)
    return LabelCounts(tuple(f"l{k}" for k in range(labels)), population, nothing, nothing, nothing, sure, 0, 0)


def without_absences(stratum: np.ndarray) -> np.ndarray:
    return np.where(stratum % CELLS == CELLS - 1, -1, stratum)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    """Draw (N, K) strata, (N,) `u` and a budget."""
    images, labels = draw(st.integers(1, 400)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    often = rng.dirichlet(np.append(np.full(CELLS - 1, 0.2), draw(st.sampled_from([0.5, 5.0]))), labels)
    cells = np.stack([rng.choice(CELLS, images, p=often[k]) for k in range(labels)], axis=1)
    return cells + CELLS * np.arange(labels), rng.random(images), draw(st.integers(0, 500))


@settings(deadline=None, max_examples=60)
@given(worlds())
def test_a_draw_keeps_to_its_bounds_and_holds_the_smallest_u_of_every_stratum(
    world: tuple[np.ndarray, np.ndarray, int],
) -> None:
    stratum, u, n = world
    counts = counts_of(stratum)
    overlap = overlap_of(without_absences(stratum))
    sizes = allocate_labels(counts, overlap, n)
    assert np.all(sizes.sizes >= 0) and np.all(sizes.sizes <= counts.population)
    assert 0 <= sizes.base <= len(u)
    if n == 0:
        assert sizes.base == sizes.sizes.sum() == 0
        return
    minima = np.minimum(counts.population, 2)
    minima[:, 1, -1] = 0
    least = LabelSizes(sizes.base, minima)
    expected = expected_images(counts.population, overlap, sizes)
    assert expected <= min(n, len(u)) + 0.5 or np.array_equal(sizes.sizes, least.sizes)
    drawn, limits, held = draw_labels(stratum, u, sizes)
    for h, (limit, many) in enumerate(zip(limits.reshape(-1), held.reshape(-1), strict=True)):
        members = np.sort(u[(stratum == h).any(axis=1)])
        assert many >= min(sizes.sizes.reshape(-1)[h], len(members))
        if many:
            assert limit == members[many - 1]
            assert np.count_nonzero(u[drawn][(stratum[drawn] == h).any(axis=1)] <= limit) == many
    assert set(drawn) >= set(np.argsort(u)[: sizes.base])


@settings(deadline=None, max_examples=40)
@given(worlds(), st.integers(0, 2**32))
def test_a_top_up_contains_the_draw_and_its_samples(world: tuple[np.ndarray, np.ndarray, int], seed: int) -> None:
    stratum, u, n = world
    counts = counts_of(stratum)
    first = draw_labels(stratum, u, allocate_labels(counts, overlap_of(without_absences(stratum)), n))
    extra = np.random.default_rng(seed).integers(0, 5, counts.population.shape)
    more = draw_labels(stratum, u, LabelSizes(0, np.minimum(first[2] + extra, counts.population)))
    assert set(more[0]) >= set(first[0])
    assert np.all(more[2] >= first[2])
    assert np.all((more[1] >= first[1]) | np.isnan(first[1]))


@pytest.mark.parametrize("n", [300, 600, 1500])
def test_as_many_different_images_are_drawn_as_the_budget_says(n: int) -> None:
    rng = np.random.default_rng(3)
    drawn = []
    for _ in range(12):
        month = label_worlds.label_month(rng)
        drawn.append(label_worlds.answered(month, n).tasks)
    assert np.mean(drawn) == pytest.approx(n, rel=0.02)
    assert np.std(drawn) < 0.05 * n


def test_labels_share_their_images_so_that_few_serve_all() -> None:
    month = label_worlds.label_month(np.random.default_rng(4))
    counts = label_worlds.answered(month, 600)
    answers_a_label = counts.labelled.sum(axis=(1, 2))
    assert answers_a_label.min() > 300  # of 600 images every label has more than half
    assert answers_a_label.sum() > 6 * counts.tasks
    positives = counts.labelled[:, 0].sum(axis=1)
    assert positives.min() > 12
    apart = np.minimum(counts.population, 2).sum()
    assert counts.tasks < apart + 600


def test_images_drawn_for_another_label_alone_are_not_counted_for_this_one() -> None:
    month = label_worlds.label_month(np.random.default_rng(5))
    counts = label_worlds.answered(month, 600)
    assert np.array_equal(counts.labelled, counts.drawn)
    sure = counts.labelled[:, 1, -1]
    assert np.all(sure < 0.6 * counts.tasks)  # though nearly every one of the images lacks a rare label surely


def test_the_last_bin_of_absences_has_the_base_and_no_more() -> None:
    month = label_worlds.label_month(np.random.default_rng(6))
    counts = label_worlds.strata_of(month)
    sizes = allocate_labels(counts, overlap_of(without_absences(month.stratum)), 800)
    assert sizes.base == 400
    assert sizes.sizes[:, 1, -1].sum() == 0


def test_a_small_window_is_drawn_whole() -> None:
    month = label_worlds.label_month(np.random.default_rng(8), images=120)
    counts = label_worlds.answered(month, 500)
    assert counts.tasks == 120
    assert np.array_equal(counts.labelled, counts.population)
    found = estimate_labels(counts)
    known = ~np.isnan(found.precision.value)
    assert np.allclose(found.precision.value[known], month.precision()[known])
    # What is known of every image has no error left.
    recall = ~np.isnan(found.recall.value)
    assert np.allclose(found.recall.value[recall], month.recall()[recall])


def test_a_stratum_without_a_confidence_is_named() -> None:
    stratum = np.zeros((10, 1), np.int64)
    counts = counts_of(stratum, confidence=1.5)
    with pytest.raises(DataError, match=r"mean confidence is 1\.5"):
        allocate_labels(counts, overlap_of(stratum), 5)


def test_a_suspected_recall_is_topped_up_among_the_absences_and_a_precision_among_the_predictions() -> None:
    month = label_worlds.label_month(np.random.default_rng(9))
    counts = label_worlds.answered(month, 600)
    rules = Monitor(topup_labels=100, topup_classes=2)
    suspects = [
        Suspicion(3, "label 3", "recall", 0.8, 0.9, 0.85, -4.0),
        Suspicion(5, "label 5", "precision", 0.8, 0.9, 0.85, -3.0),
        Suspicion(3, "label 3", "precision", 0.8, 0.9, 0.85, -2.0),
        Suspicion(7, "label 7", "precision", 0.8, 0.9, 0.85, -1.0),
    ]
    plan = plan_label_top_up(counts, suspects, rules)
    assert sorted(np.flatnonzero(plan.sum(axis=(1, 2)))) == [3, 5]
    assert plan[3].sum() == plan[5].sum() == 100
    assert plan[3, 1].sum() > 50
    assert plan[5, 1].sum() == 0
    assert plan_label_top_up(counts, suspects, Monitor(topup_labels=0)).sum() == 0
    assert of_label(counts, 3).classes == ("label 3", "not label 3")
