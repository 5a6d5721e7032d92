"""Can a classifier tell a window's images from the reference's by their embeddings, and which of them moved most?

Advisory: nothing is decided by it. It is there to show people what a drifted window looks like.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

FEWEST_ROWS = 50
MOST_ROWS = 5_000
FOLDS = 5
PERMUTATIONS = 999
MOST_WIDTH = 512
MOST_DIMENSIONS = 50
SIGNIFICANT = 0.01
MOST_GROUPS = 4
FEWEST_MOVED, MOST_MOVED = 20, 400
CLEARLY_APART = 0.15  # mean silhouette from which several groups are told rather than one

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Points:
    """Embeddings of both sides on common axes: reference (n₀, d) and window (n₁, d), centred, of mean square 1.

    state: "ok", or why nothing can be compared; the arrays are empty then.
    """

    reference: FloatArray
    window: FloatArray
    state: str = "ok"


@dataclass(frozen=True, slots=True)
class DomainTest:
    """How well the two sides can be told apart.

    auc: of out-of-fold scores; 0.5 is chance. p_value: of "both sides come from one source". moved: at least this share
    of the window, 0..1, would have to be other images for the sides to be alike. reference_scores (n₀,) and
    window_scores (n₁,): out-of-fold probabilities of being of the window. All None or empty where `state` is not "ok".
    """

    state: str
    auc: float | None
    p_value: float | None
    moved: float | None
    reference_scores: FloatArray
    window_scores: FloatArray

    @property
    def changed(self) -> bool:
        """Return whether the sides differ beyond chance, at 1 %."""
        return self.p_value is not None and self.p_value < SIGNIFICANT


@dataclass(frozen=True, slots=True)
class MovedGroup:
    """Rows of the window that moved most and resemble each other; `members`, the most typical first."""

    members: IntArray


def narrowed(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return embeddings (n, D) in at most 512 random directions, the same ones for every n; narrower ones as they are.

    Distances change by a few percent (Johnson & Lindenstrauss 1984), memory and time by the factor.
    """
    if embeddings.shape[1] <= MOST_WIDTH:
        return embeddings
    return np.asarray(embeddings @ _directions(embeddings.shape[1]), np.float32)


@lru_cache(maxsize=1)
def _directions(width: int) -> NDArray[np.float32]:
    drawn = np.random.default_rng(0).standard_normal((width, MOST_WIDTH), np.float32)
    return np.asarray(drawn / np.float32(np.sqrt(MOST_WIDTH)))


def common_points(reference: NDArray[Any], window: NDArray[Any]) -> Points:
    """Return embeddings (n₀, D) and (n₁, D) on at most 50 common principal axes; at most 5,000 rows a side are used.

    The axes are found without knowing the sides, so that they favour no difference. Undecidable input gives a state in
    words: fewer than 50 rows on a side, numbers that are not finite, the same embedding everywhere.
    """
    sides = [np.asarray(side, np.float32)[:MOST_ROWS] for side in (reference, window)]
    complaint = _complaint(*sides)
    if complaint:
        empty = np.empty((0, 0))
        return Points(empty, empty, complaint)
    from sklearn.decomposition import PCA

    pooled = np.concatenate(sides)
    most = min(MOST_DIMENSIONS, pooled.shape[1], len(pooled) // 4)
    axes = PCA(most, svd_solver="randomized", random_state=0).fit_transform(pooled).astype(np.float64)
    spread = axes.std(axis=0)
    axes = axes[:, spread > 1e-6 * spread.max()]  # the rest is rounding
    axes /= np.sqrt((axes**2).sum(axis=1).mean())
    return Points(axes[: len(sides[0])], axes[len(sides[0]) :])


def domain_test(points: Points, *, seed: int = 0) -> DomainTest:
    """Return how well a logistic regression tells the two sides apart.

    The scores and the AUC are out of fold, over five folds. Their labels may not simply be permuted: each fold's
    scores were learnt from the labels of the others. So the p-value is of a second pass in which a fold is scored by
    what was learnt from the folds before it alone: whatever these were, under the null hypothesis a fold's labels are
    then exchangeable given its scores, and permuting them within the folds is exact. That costs four fits; fitting
    anew for every permutation would cost thousands. Lopez-Paz & Oquab 2017 (classifier two-sample tests).
    """
    if points.state != "ok":
        return DomainTest(points.state, None, None, None, np.empty(0), np.empty(0))
    of_reference = len(points.reference)
    rows = np.concatenate([points.reference, points.window])
    side = np.repeat([0, 1], [of_reference, len(points.window)])
    rng = np.random.default_rng(seed)
    fold = np.empty(len(side), np.int64)
    for value in (0, 1):  # every fold has its share of both
        count = int((side == value).sum())
        fold[side == value] = rng.permutation(np.arange(count) % FOLDS)
    scores = np.empty(len(side))
    for number in range(FOLDS):
        scores[fold == number] = _score(rows, side, fold != number, fold == number)
    areas = [_area(scores[fold == number], side[fold == number]) for number in range(FOLDS)]
    prior = side.mean()
    moved = float((scores[side == 1] > prior).mean() - (scores[side == 0] > prior).mean())
    return DomainTest(
        state="ok",
        auc=float(np.mean(areas)),
        p_value=_p_value(rows, side, fold, rng),
        moved=max(0.0, moved),
        reference_scores=scores[:of_reference],
        window_scores=scores[of_reference:],
    )


def moved_groups(points: Points, test: DomainTest, *, seed: int = 0) -> list[MovedGroup]:
    """Return the window's most moved rows in one to four groups, the largest first; none where nothing changed.

    As many rows as the test says have moved, 20 to 400, those with the highest scores; k-means, as many groups as lie
    most clearly apart.
    """
    if not test.changed or test.moved is None:
        return []
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    count = int(np.clip(round(test.moved * len(points.window)), FEWEST_MOVED, min(MOST_MOVED, len(points.window))))
    rows = np.sort(np.argsort(-test.window_scores, kind="stable")[:count])
    chosen = points.window[rows]
    best, clearest = np.zeros(count, np.int64), CLEARLY_APART
    for number in range(2, min(MOST_GROUPS, count // FEWEST_MOVED * 2) + 1):
        found = KMeans(number, n_init=4, random_state=seed).fit_predict(chosen)
        apart = float(silhouette_score(chosen, found)) if len(set(found.tolist())) > 1 else -1.0
        if apart > clearest:
            best, clearest = found.astype(np.int64), apart
    groups = [rows[best == label] for label in np.unique(best)]
    return [MovedGroup(most_typical(points.window, group)) for group in sorted(groups, key=len, reverse=True)]


def most_typical(points: FloatArray, rows: IntArray) -> IntArray:
    """Return `rows` of points (n, d), nearest to their common centre first."""
    centre = points[rows].mean(axis=0)
    return rows[np.argsort(((points[rows] - centre) ** 2).sum(axis=1), kind="stable")]


def nearest_reference(points: Points, rows: IntArray) -> IntArray:
    """Return, for each of these window rows, the reference row nearest to it."""
    from sklearn.neighbors import NearestNeighbors

    found = NearestNeighbors(n_neighbors=1).fit(points.reference).kneighbors(points.window[rows], return_distance=False)
    return np.asarray(found[:, 0], np.int64)


def _complaint(reference: NDArray[np.float32], window: NDArray[np.float32]) -> str | None:
    fewest = min(len(reference), len(window))
    if fewest < FEWEST_ROWS:
        return f"undecided: {fewest} images on one side, fewer than {FEWEST_ROWS}"
    if reference.ndim != 2 or window.ndim != 2 or reference.shape[1] != window.shape[1] or not reference.shape[1]:
        return f"undecided: embeddings of shapes {reference.shape} and {window.shape} cannot be compared"
    broken = sum(int((~np.isfinite(side).all(axis=1)).sum()) for side in (reference, window))
    if broken:
        return f"undecided: {broken} embeddings hold numbers that are not finite"
    spread = np.concatenate([reference, window]).std(axis=0, dtype=np.float64).max()
    if spread <= 1e-6 * max(1e-12, float(np.abs(reference).max())):
        return "undecided: constant, all embeddings are the same"
    return None


def _score(rows: FloatArray, side: IntArray, learnt: NDArray[np.bool_], scored: NDArray[np.bool_]) -> FloatArray:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, solver="newton-cholesky"))
    return np.asarray(classifier.fit(rows[learnt], side[learnt]).predict_proba(rows[scored])[:, 1])


def _area(scores: FloatArray, side: NDArray[np.integer[Any]]) -> float:
    """Return the area under the ROC curve, ties counted half."""
    from scipy.stats import rankdata

    ranks, above = rankdata(scores), int(side.sum())
    return float((ranks[side == 1].sum() - above * (above + 1) / 2) / (above * (len(side) - above)))


def _p_value(rows: FloatArray, side: IntArray, fold: IntArray, rng: np.random.Generator) -> float:
    from scipy.stats import rankdata

    found, by_chance = 0.0, np.zeros(PERMUTATIONS)
    for number in range(1, FOLDS):
        of_fold = side[fold == number]
        ranks = rankdata(_score(rows, side, fold < number, fold == number))
        above = int(of_fold.sum())
        scale = above * (len(of_fold) - above)
        found += ranks[of_fold == 1].sum() / scale
        shuffled = rng.permuted(np.tile(ranks, (PERMUTATIONS, 1)), axis=1)
        by_chance += shuffled[:, :above].sum(axis=1) / scale
    return float((1 + (by_chance >= found - 1e-12).sum()) / (1 + PERMUTATIONS))
