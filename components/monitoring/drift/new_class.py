"""Does a window hold a group of images that the reference has nothing like: perhaps a class the model does not know?

Advisory, as everything told from embeddings: a person looks at the pictures and says what they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.monitoring.drift.embeddings import FloatArray, IntArray, Points, most_typical

FEWEST_ROWS = 200  # of each side; below, a group worth telling of has too few members
NEIGHBOURS = 30
LINKS = 10
CORE_SHARE = 0.9  # of a row's neighbours are of its own side, where half are by chance: nine times as dense
EDGE_SHARE = 0.75
FEWEST_MEMBERS, SMALLEST_SHARE, MOST_SHARE = 20, 0.01, 0.5
MOST_RISE = 5.0  # times as frequent a known image may become by a mere change of the class mix
SURE = 0.01
FARTHEST_CENTRE = 0.8  # spreads of the nearest reference cluster
WIDEST_GAP = 1.15  # times the usual distance within that cluster; a mix changed twentyfold reaches 1.08
LOST_BESIDE = 0.2  # lost rows for one of the group's, from which on the reference is said to have moved too
LOST_TOGETHER = 0.8
FEWEST_OF_CLUSTER = 10


@dataclass(frozen=True, slots=True)
class Candidate:
    """A dense group of the window without its like in the reference.

    members: rows of the window, the most typical first. share: of the window, 0..1. p_value: of "such images became at
    most five times as frequent as they were". reference_rows: those that lie within the group all the same. distance:
    of the group's centre from the nearest reference cluster's, in spreads of that cluster. gap: how far a member is
    from the reference, as a multiple of the usual distance within that cluster. nearest: that cluster's label.
    """

    members: IntArray
    share: float
    p_value: float
    reference_rows: int
    distance: float
    gap: float
    nearest: int


@dataclass(frozen=True, slots=True)
class NewClasses:
    """What was found: `state` is "ok", or says why no candidate can be named.

    lost: rows of the reference that the window has nothing like, the most typical first; told beside candidates only
    where they are of one cluster, `lost_cluster`: that class may just look new.
    """

    state: str
    candidates: tuple[Candidate, ...] = ()
    lost: IntArray = field(default_factory=lambda: np.empty(0, np.int64))
    lost_cluster: int | None = None


def new_classes(points: Points, clusters: NDArray[np.integer[Any]]) -> NewClasses:
    """Return the window's groups that the reference has nothing like, the largest first.

    clusters: (n₀,) what each reference row is taken for, as the model's answers. A row belongs to a group's core where
    nine of ten of its thirty nearest rows are the window's, and to its edge where three of four are and it is linked
    with the core. A group is a candidate if it is large enough (20 rows and 1 %), if the reference has too few rows in
    it for a mere change of the mix, and if it lies apart: about as far from the nearest cluster as that is wide, and at
    a gap. Where that is said of half of the window, or the reference has lost as much across its clusters, the whole
    window looks otherwise, and none is named. The sides are compared at equal size, by their first rows.
    """
    if points.state != "ok":
        return NewClasses(points.state)
    rows = min(len(points.reference), len(points.window))
    if rows < FEWEST_ROWS:
        return NewClasses(f"undecided: {rows} images on one side, fewer than {FEWEST_ROWS}")
    space = _Space(points.reference[:rows], points.window[:rows], np.asarray(clusters[:rows], np.int64))
    found = [candidate for group in space.groups() if (candidate := space.candidate(group)) is not None]
    return _told(space, sorted(found, key=lambda candidate: -len(candidate.members)))


def _told(space: _Space, found: Sequence[Candidate]) -> NewClasses:
    if not found:
        return NewClasses("ok")
    share = sum(candidate.share for candidate in found)
    if share > MOST_SHARE:
        return NewClasses(
            f"undecided: {100 * share:.0f} % of the window's images look otherwise than the reference's; "
            "among them a new class could not be told"
        )
    lost = space.lost()
    if len(lost) <= LOST_BESIDE * sum(len(candidate.members) for candidate in found):
        return NewClasses("ok", tuple(found))
    labels, counts = np.unique(space.clusters[lost], return_counts=True)
    if counts.max() < LOST_TOGETHER * len(lost):
        return NewClasses(
            f"undecided: images of {len(labels)} classes look otherwise than in the reference; "
            "among them a new class could not be told"
        )
    return NewClasses("ok", tuple(found), most_typical(space.reference, lost), int(labels[counts.argmax()]))


class _Space:
    """Both sides with their neighbours; the reference's rows come first, as many as the window's."""

    def __init__(self, reference: FloatArray, window: FloatArray, clusters: IntArray) -> None:
        from sklearn.neighbors import NearestNeighbors

        self.reference, self.window, self.clusters = reference, window, clusters
        self._rows = len(reference)
        self._all = np.concatenate([reference, window])
        self._of_window = np.repeat([False, True], self._rows)
        near = NearestNeighbors(n_neighbors=NEIGHBOURS + 1).fit(self._all).kneighbors(return_distance=False)
        self._near = np.asarray(near, np.int64)
        self._share = self._of_window[self._near].mean(axis=1)
        self._to_reference = NearestNeighbors(n_neighbors=LINKS // 2).fit(reference)
        self._usual = self._to_reference.kneighbors()[0][:, -1]  # of reference rows, themselves left out

    def lost(self) -> IntArray:
        """Return the reference rows around which the window is thin."""
        return np.flatnonzero((self._share <= 1 - CORE_SHARE) & ~self._of_window)

    def groups(self) -> list[IntArray]:
        """Return the rows, counted over both sides, of each set of window rows that are linked and dense."""
        from scipy.sparse import coo_matrix
        from scipy.sparse.csgraph import connected_components

        dense = np.flatnonzero((self._share >= EDGE_SHARE) & self._of_window)
        place = np.full(len(self._all), -1)
        place[dense] = np.arange(len(dense))
        one, other = np.repeat(np.arange(len(dense)), LINKS), place[self._near[dense, :LINKS]].ravel()
        one, other = one[other >= 0], other[other >= 0]
        links = coo_matrix((np.ones(len(one)), (one, other)), shape=(len(dense), len(dense))).tocsr()
        number, label = connected_components(links.minimum(links.T), directed=False)
        return [dense[label == n] for n in range(number)]

    def candidate(self, group: IntArray) -> Candidate | None:
        """Return the group as a candidate, or None where it is too small, too mixed or too near."""
        from scipy.stats import binom

        core = group[self._share[group] >= CORE_SHARE]
        if len(group) < max(FEWEST_MEMBERS, SMALLEST_SHARE * self._rows) or len(core) < FEWEST_MEMBERS // 2:
            return None
        inside = self._reference_rows_within(core)
        p_value = float(binom.cdf(inside, len(core) + inside, 1 / (1 + MOST_RISE)))
        distances, neighbours = self._to_reference.kneighbors(self._all[core])
        labels, counts = np.unique(self.clusters[neighbours], return_counts=True)
        nearest = int(labels[counts.argmax()])
        gap = float(np.median(distances[:, -1]) / max(1e-12, np.median(self._usual[self.clusters == nearest])))
        distance = self._distance(self._all[core].mean(axis=0))
        if p_value >= SURE or gap < WIDEST_GAP or distance < FARTHEST_CENTRE:
            return None
        members = most_typical(self.window, group - self._rows)
        return Candidate(members, len(members) / self._rows, p_value, inside, distance, gap, nearest)

    def _reference_rows_within(self, core: IntArray) -> int:
        of_core = np.zeros(len(self._all), bool)
        of_core[core] = True
        within = of_core[self._near[:, :LINKS]].mean(axis=1) >= 0.5
        return int((within & (self._share >= CORE_SHARE) & ~self._of_window).sum())

    def _distance(self, centre: FloatArray) -> float:
        """Return how far `centre` is from the nearest cluster's centre, in that cluster's mean distance from it."""
        found = []
        for label in np.unique(self.clusters):
            rows = self.reference[self.clusters == label]
            if len(rows) >= FEWEST_OF_CLUSTER:
                middle = rows.mean(axis=0)
                spread = np.linalg.norm(rows - middle, axis=1).mean()
                found.append((float(np.linalg.norm(centre - middle)), float(spread)))
        away, spread = min(found, default=(np.inf, 1.0))
        return away / max(spread, 1e-12)
