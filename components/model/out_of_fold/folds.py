"""Cross-validation folds that keep groups together and classes balanced."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from components.errors import DataError


def assign_folds(groups: Sequence[str], labels: NDArray[np.integer], folds: int, seed: int) -> NDArray[np.int64]:
    """Return the fold (N,) in 0..folds-1 of every row; rows of one group share a fold.

    labels: (N,) class indices. Each class's groups, in an order drawn by `seed`, are dealt out in turn, so a class is
    spread as evenly as its groups allow; a group of several classes is dealt with its first row's.
    Raises DataError if there are fewer groups than folds.
    """
    first: dict[str, int] = {}
    for group, label in zip(groups, labels.tolist(), strict=True):
        first.setdefault(group, label)
    if len(first) < folds:
        raise DataError(f"{len(first)} groups of images cannot fill {folds} folds; ingest more or lower audit.folds")
    key = seed.to_bytes(8, "big", signed=True)
    order = sorted(first, key=lambda g: (first[g], hashlib.blake2b(g.encode(), digest_size=8, key=key).digest(), g))
    fold_of = {group: number % folds for number, group in enumerate(order)}
    return np.array([fold_of[group] for group in groups], dtype=np.int64)


def unjudgeable_classes(
    groups: Sequence[str], labels: NDArray[np.integer], classes: int, folds: int
) -> NDArray[np.int64]:
    """Return the indices of classes that have images, but fewer groups than folds.

    In some fold such a class was nearly or wholly unseen in training, so its labels look wrong without being so.
    """
    seen: list[set[str]] = [set() for _ in range(classes)]
    for group, label in zip(groups, labels.tolist(), strict=True):
        seen[label].add(group)
    return np.array([k for k in range(classes) if 0 < len(seen[k]) < folds], dtype=np.int64)


def rarest_labels(given: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return the index (N,) of the rarest label of every row (N, K), K where it carries none: what folds balance."""
    counts = given.sum(axis=0)
    number = np.where(given > 0, counts, len(given) + 1).argmin(axis=1)
    return np.asarray(np.where(given.any(axis=1), number, given.shape[1]), np.int64)
