"""Which new images look the same as others, new or stored: found without comparing every image with every other.

Descriptors are projected on the few directions in which they differ most. A projection on orthonormal directions brings
two descriptors closer or leaves them, so a search of the projections within the distance asked for finds every pair,
and some that are none; these candidates are compared whole. Only crowds are cut short: see MOST_CANDIDATES.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from components.data.descriptor import DESCRIPTOR_BYTES, SQUARED_WEIGHTS
from components.errors import DataError

NEAR = 20.0
"""The largest distance of near-duplicates: cells that differ by a twentieth of the contrast, root-mean-square."""

MOST_CANDIDATES = 64
"""An image is compared with at most so many others, those of the nearest projections. Where more are within reach, as
among thousands of nearly blank images, a pair can be missed; its images still share a group if a chain of found pairs
joins them."""

_DIRECTIONS = 12  # more leave fewer candidates, but slow the search down in crowds
_SAMPLED = 10_000  # descriptors from which the directions are found
_GLANCE = 1.0  # in crowds, the candidates may be this part farther away than the nearest ones
_ROWS = 8192  # projected or looked up at a time
_PAIRS = 16_384  # compared whole at a time
_MOST_KEPT = 1_000_000  # pairs in memory before they are reduced to a forest

UInt8Array = NDArray[np.uint8]
IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class NearPairs:
    """Pairs that join every group of near-duplicates, and no more: the forest of the least distances.

    first: (P,) a new image's index. second: (P,) the other's: below the number of new images it is one of them, larger
    than `first`; from there on a stored one's, counted on. distance: (P,). Sorted by first, then second. crowded: how
    many different new descriptors had as many candidates as are compared at most.
    """

    first: IntArray
    second: IntArray
    distance: FloatArray
    crowded: int


def near_pairs(new: UInt8Array, stored: UInt8Array, *, within: float = NEAR, workers: int = -1) -> NearPairs:
    """Return pairs at most `within` apart, of two new images or of a new and a stored one, that join each group.

    new: (N, DESCRIPTOR_BYTES) and stored: (M, DESCRIPTOR_BYTES) of components.data.descriptor, of one version of its
    rules. The distance is Euclidean, each byte's squared difference counted SQUARED_WEIGHTS times. Two images are in
    one group if a chain of such pairs joins them; groups do not depend on the order of rows. Images of one descriptor
    are each paired with one of them, a stored one if there is any. workers: threads of the search, -1 for all cores.
    Raises DataError for arrays of another shape or type.
    """
    for name, rows in (("new", new), ("stored", stored)):
        if rows.ndim != 2 or rows.shape[1] != DESCRIPTOR_BYTES or rows.dtype != np.uint8:
            found = f"descriptors of shape {rows.shape}, {rows.dtype}"
            raise DataError(f"{name}: {found}; (rows, {DESCRIPTOR_BYTES}), uint8, are needed: make them anew")
    rows = np.concatenate([new, stored]) if len(stored) else np.ascontiguousarray(new)
    alike = _Alike.of(rows, len(new))
    forest = _Forest(len(alike.anchor))
    crowded = 0
    for one, other, full in _candidates(rows, alike, within, workers):
        crowded += full
        for start in range(0, len(one), _PAIRS):
            left, right = one[start : start + _PAIRS], other[start : start + _PAIRS]
            squared = _squared(rows[alike.anchor[left]], rows[alike.anchor[right]])
            near = squared <= within**2
            forest.add(left[near], right[near], squared[near])
    return _of_images(alike, forest.pairs(), crowded)


@dataclass(frozen=True, slots=True)
class _Alike:
    """The different descriptors, in the order of their bytes, so that the order of images does not matter.

    anchor: (U,) the image that stands for each, a stored one if there is any. newcomer: (U,) its first new image, or
    -1. repeats: (R,) new images that are not their descriptor's anchor; anchors: (R,) that anchor.
    """

    anchor: IntArray
    newcomer: IntArray
    repeats: IntArray
    anchors: IntArray

    @classmethod
    def of(cls, rows: UInt8Array, new: int) -> _Alike:
        """Return the different ones of `rows`, the first `new` of which are new."""
        order = np.argsort(rows.view(f"V{DESCRIPTOR_BYTES}").ravel(), kind="stable")
        opens = np.ones(len(rows), bool)
        for start in range(1, len(rows), _ROWS):
            here = order[start : start + _ROWS]
            opens[start : start + _ROWS] = (rows[here] != rows[order[start - 1 : start - 1 + len(here)]]).any(axis=1)
        begins = np.flatnonzero(opens)
        sizes = np.diff(np.append(begins, len(rows)))
        is_new = order < new
        news = np.add.reduceat(is_new, begins, dtype=np.int64) if len(rows) else begins
        first = order[begins]  # the sort is stable: an equal descriptor's new images come first, by their index
        anchor = np.where(news < sizes, order[np.minimum(begins + news, len(rows) - 1)], first)
        anchors = np.repeat(anchor, sizes)
        repeated = is_new & (order != anchors)
        return cls(anchor, np.where(news > 0, first, -1), order[repeated], anchors[repeated])


class _Forest:
    """Pairs of `size` things, thinned to those of least distance that join the same things."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: list[IntArray] = []
        self._count = 0

    def add(self, one: IntArray, other: IntArray, squared: FloatArray) -> None:
        """Note pairs and their squared distances, whole numbers."""
        self._kept.append(np.stack([one, other, squared.astype(np.int64)]))
        self._count += len(one)
        if self._count > max(_MOST_KEPT, self._size):
            self._kept = [self.pairs()]
            self._count = self._kept[0].shape[1]

    def pairs(self) -> IntArray:
        """Return the forest: (3, P), one, other, squared distance."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import minimum_spanning_tree

        one, other, squared = np.concatenate([np.empty((3, 0), np.int64), *self._kept], axis=1)
        low, high = np.minimum(one, other), np.maximum(one, other)
        _, once = np.unique(low * self._size + high, return_index=True)
        # One more, since no entry of a sparse matrix is 0.
        graph = coo_array((squared[once] + 1.0, (low[once], high[once])), shape=(self._size, self._size))
        tree = minimum_spanning_tree(graph.tocsr()).tocoo()
        return np.stack([tree.row, tree.col, tree.data - 1]).astype(np.int64)


def _candidates(
    rows: UInt8Array, alike: _Alike, within: float, workers: int
) -> Iterator[tuple[IntArray, IntArray, int]]:
    """Yield different descriptors that may be near each other, one of them new; and how many have too many such."""
    from scipy.spatial import cKDTree

    if not (alike.newcomer >= 0).any():
        return
    directions = _directions(rows, alike.anchor)
    projected = np.empty((len(alike.anchor), directions.shape[1]))
    for start in range(0, len(projected), _ROWS):
        projected[start : start + _ROWS] = rows[alike.anchor[start : start + _ROWS]] @ directions
    tree = cKDTree(projected, balanced_tree=False)
    asked = tree.indices[
        alike.newcomer[tree.indices] >= 0
    ]  # neighbours in the tree follow each other: four times as fast
    reach = within * (1 + 1e-9) + 1e-6  # a bound that is not reached itself, and rounding
    for start in range(0, len(asked), _ROWS):
        here = asked[start : start + _ROWS]
        search = partial(tree.query, k=MOST_CANDIDATES + 1, distance_upper_bound=reach, workers=workers)
        distances, found = search(projected[here], eps=_GLANCE)  # far faster than exactly, in crowds
        sparse = np.isinf(distances[:, -1])  # no crowd, so every candidate is wanted
        distances[sparse], found[sparse] = search(projected[here[sparse]])
        valid = np.isfinite(distances)
        full = int(valid[:, -1].sum())
        valid &= found != here[:, None]
        yield np.repeat(here, valid.sum(axis=1)), found[valid], full


def _directions(rows: UInt8Array, different: IntArray) -> FloatArray:
    """Return (DESCRIPTOR_BYTES, _DIRECTIONS): what to multiply bytes by, for the coordinates that vary most.

    Orthonormal, once bytes are weighted as the distance weighs them; from a sample of `rows[different]`.
    """
    weights = np.sqrt(SQUARED_WEIGHTS)
    sample = rows[different[:: -(-len(different) // _SAMPLED)]] * weights
    sample -= sample.mean(axis=0)
    _, directions = np.linalg.eigh(sample.T @ sample)
    scaled: FloatArray = directions[:, -_DIRECTIONS:] * weights[:, None]
    return scaled


def _squared(one: UInt8Array, other: UInt8Array) -> FloatArray:
    """Return the squared distances of rows, (P,): whole numbers."""
    apart = one.astype(np.float32) - other  # every square and sum below 2 ** 24 is exact
    np.square(apart, out=apart)
    squared: FloatArray = (apart @ SQUARED_WEIGHTS.astype(np.float32)).astype(np.float64)
    return squared


def _of_images(alike: _Alike, pairs: IntArray, crowded: int) -> NearPairs:
    """Return pairs of descriptors, (3, P), as pairs of images, and those of equal descriptors."""
    one, other, squared = pairs
    turned = alike.newcomer[one] < 0
    one, other = np.where(turned, other, one), np.where(turned, one, other)
    first = np.concatenate([alike.newcomer[one], alike.repeats])
    second = np.concatenate([alike.anchor[other], alike.anchors])
    distance = np.concatenate([np.sqrt(squared), np.zeros(len(alike.repeats))])
    first, second = np.minimum(first, second), np.maximum(first, second)
    order = np.lexsort((second, first))
    return NearPairs(first[order], second[order], distance[order], crowded)
