"""Old labels that newer ones contradict, in a small world: half of class 0, told by one feature, becomes class 1."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray
from statsmodels.stats.contingency_tables import StratifiedTable

from components.errors import DataError
from components.labels.contradictions import (
    Examined,
    find_changes,
    find_contradicted,
    mantel_haenszel,
    pairs_of,
)

SIZE = 4
Tables = Mapping[str, NDArray[np.float64]]


class World:
    """Images of classes 0 to 3, half of them of class 0; `shade` tells what recent ones of class 0 mean."""

    def __init__(self, seed: int, *, old: int = 2000, recent: int = 240, changed: str = "bright") -> None:
        rng = np.random.default_rng(seed)
        count = old + recent
        self.recent = np.arange(count) >= old
        truth = np.where(rng.random(count) < 0.5, 0, rng.integers(1, SIZE, count))
        truth = np.where(self.recent, np.where(rng.random(count) < 0.9, 0, truth), truth)
        self.shade = rng.normal(size=count)
        called = np.where(rng.random(count) < 0.95, truth, (truth + 1) % SIZE)
        labels = np.where(rng.random(count) < 0.97, truth, (truth + 1) % SIZE)
        self.now = truth.copy()
        if changed == "bright":
            self.now[(truth == 0) & (self.shade > 0)] = 1
        elif changed == "all":
            self.now[truth == 0] = 1
        elif changed == "newcomers":  # images of class 1 in a new style, which the old model takes for class 0
            stranger = self.recent & (rng.random(count) < 0.4)
            self.now = np.where(stranger, 1, self.now)
            called = np.where(stranger, 0, called)
            self.shade = np.where(stranger, self.shade + 8, self.shade)
        labels = np.where(self.recent & (rng.random(count) < 0.97), self.now, labels)
        # People were asked about hesitant images first, and what is hesitant is more often wrong, then as now.
        confidence = np.where(called == truth, rng.beta(8, 1, count), rng.beta(3, 2, count))
        kept = np.flatnonzero(~self.recent | (confidence < 0.97))
        self.recent, self.now, self.shade = self.recent[kept], self.now[kept], self.shade[kept]
        learnt = ~self.recent & (rng.random(len(kept)) < 0.7)
        self.examined = Examined(labels[kept], called[kept], confidence[kept], self.recent, learnt)
        self.noise = rng.normal(size=(len(kept), 3))

    def features(self, rows: NDArray[np.int64]) -> Tables:
        return {"noise": self.noise[rows], "shade": self.shade[rows, None]}


@pytest.mark.parametrize("seed", range(5))
def test_the_old_labels_that_recent_ones_contradict_are_found(seed: int) -> None:
    world = World(seed)
    (change,) = find_changes(world.examined, pairs_of([0], SIZE))
    assert (change.before, change.now) == (0, 1)
    assert change.old_share < 0.15
    assert change.recent_share > 0.4
    found = find_contradicted(world.examined, change, world.features, seed=1)
    assert "shade" in found.features
    truly = (world.now == 1) & (world.examined.labels == 0) & (world.examined.called == 0) & ~world.recent
    assert np.isin(np.flatnonzero(truly), found.rows).mean() > 0.9
    assert truly[found.rows].mean() > 0.9
    assert (found.probability >= 0.5).all()
    assert not world.recent[found.rows].any()
    assert world.recent[found.successors].all()
    assert set(world.examined.labels[found.successors]) == {0, 1}


@pytest.mark.parametrize("seed", range(20))
def test_nothing_has_changed_where_hesitant_images_were_asked_about_more_often(seed: int) -> None:
    world = World(seed, changed="nothing")
    assert find_changes(world.examined, pairs_of([0, 1], SIZE)) == []


@pytest.mark.parametrize("seed", range(5))
def test_newcomers_that_are_taken_for_a_class_cost_hardly_any_of_its_old_labels(seed: int) -> None:
    world = World(seed, changed="newcomers")
    (change, *_) = find_changes(world.examined, pairs_of([1], SIZE))
    found = find_contradicted(world.examined, change, world.features, seed=1)
    old = (world.examined.called == 0) & ~world.recent
    assert len(found.rows) < 0.01 * old.sum()


def test_where_hardly_a_recent_label_says_the_old_class_all_old_ones_are_out_of_date() -> None:
    world = World(1, changed="all")
    world.examined.labels[world.recent & (world.examined.labels == 0)] = 2
    (change, *_) = find_changes(world.examined, pairs_of([0], SIZE))
    found = find_contradicted(world.examined, change, world.features, seed=1)
    old = (world.examined.called == 0) & (world.examined.labels == 0) & ~world.recent
    assert found.features == "none"
    np.testing.assert_array_equal(found.rows, np.flatnonzero(old))


def test_a_few_labels_show_nothing() -> None:
    assert find_changes(World(1, recent=30).examined, pairs_of([0], SIZE)) == []


def test_every_pair_of_a_fallen_class_is_asked_about_once() -> None:
    assert pairs_of([1], 3) == [(0, 1), (1, 0), (1, 2), (2, 1)]
    assert len(set(pairs_of([0, 1], 4))) == len(pairs_of([0, 1], 4)) == 10


def test_columns_of_different_lengths_are_refused() -> None:
    short = np.zeros(3, np.int64)
    with pytest.raises(DataError, match="different lengths"):
        find_changes(Examined(short, short, np.zeros(3), np.zeros(2, bool), np.zeros(3, bool)), [(0, 1)])


@pytest.mark.parametrize("seed", range(5))
def test_the_test_is_cochran_mantel_and_haenszels(seed: int) -> None:
    tables = np.random.default_rng(seed).integers(1, 40, (4, 2, 2)).astype(np.float64)
    known = StratifiedTable(list(tables))
    risen, p_value = mantel_haenszel(tables)
    two_sided = known.test_null_odds(correction=False).pvalue
    assert min(p_value, 1 - p_value) * 2 == pytest.approx(two_sided, rel=1e-9)
    by_hand = [(t[0].sum() * t[1].sum() / t.sum(), t[0, 0] / t[0].sum() - t[1, 0] / t[1].sum()) for t in tables]
    assert risen == pytest.approx(sum(w * d for w, d in by_hand) / sum(w for w, _ in by_hand))


def test_strata_without_both_groups_say_nothing() -> None:
    empty = np.array([[[3.0, 4.0], [0.0, 0.0]]])
    assert mantel_haenszel(empty)[1] == 1.0
    full = np.array([[[30.0, 4.0], [3.0, 40.0]]])
    assert mantel_haenszel(np.concatenate([empty, full])) == mantel_haenszel(full)
    constant = np.array([[[5.0, 0.0], [7.0, 0.0]]])
    assert mantel_haenszel(constant) == (0.0, 1.0)
