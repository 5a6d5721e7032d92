import numpy as np
import pytest

from components.errors import DataError
from components.model.out_of_fold.folds import assign_folds, unjudgeable_classes


def test_a_group_stays_in_one_fold():
    groups = [f"g{n // 3}" for n in range(90)]
    fold = assign_folds(groups, np.arange(90) % 7, 4, seed=1)
    assert all(len(set(fold[n : n + 3])) == 1 for n in range(0, 90, 3))


def test_every_class_is_spread_evenly():
    labels = np.repeat(np.arange(5), 31)
    fold = assign_folds([str(n) for n in range(155)], labels, 3, seed=1)
    counts = np.array([np.bincount(fold[labels == k], minlength=3) for k in range(5)])
    assert counts.min() >= 10
    assert counts.max() <= 11


def test_folds_follow_the_seed_and_not_the_order_of_rows():
    groups, labels = [str(n) for n in range(60)], np.arange(60) % 3
    fold = assign_folds(groups, labels, 3, seed=1)
    assert (assign_folds(groups[::-1], labels[::-1], 3, seed=1)[::-1] == fold).all()
    assert (assign_folds(groups, labels, 3, seed=2) != fold).any()


def test_fewer_groups_than_folds_are_refused():
    with pytest.raises(DataError, match=r"2 groups.*3 folds"):
        assign_folds(["a", "b", "b"], np.zeros(3, np.int64), 3, seed=1)


def test_a_class_with_fewer_groups_than_folds_cannot_be_judged():
    groups = ["a", "a", "a", "b", "c", "d"]
    assert unjudgeable_classes(groups, np.array([0, 0, 0, 1, 1, 1]), 3, folds=3).tolist() == [0]
