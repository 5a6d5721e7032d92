"""Which known change of appearance, at which strength, turns the reference's images into ones like the window's?

Advisory: a name for what people see on the pictures, and often the answer is that none fits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.data.appearance import APPEARANCE, apply
from components.monitoring.drift.embeddings import DomainTest

FloatArray = NDArray[np.float64]
UInt8Array = NDArray[np.uint8]
Look = Callable[[Sequence[UInt8Array]], tuple[NDArray[Any], NDArray[Any] | None]]

FEWEST_IMAGES = 50
MOST_REFERENCE, MOST_WINDOW = 150, 400
COARSE = (0.1, 0.3, 0.5, 0.75, 1.0)
FINE = (-0.1, -0.05, 0.05, 0.1)
REFINED = 2
FITS = 0.8
MOST_LEFT = 0.5
AS_WELL = 0.03
PERMUTATIONS = 199
SIGNIFICANT = 0.01
MOST_DIMENSIONS = 30


@dataclass(frozen=True, slots=True)
class Fitted:
    """A kind of APPEARANCE at a strength of 0..1. explained: the share of the change that it reproduces, at most 1."""

    kind: str
    strength: float
    explained: float


@dataclass(frozen=True, slots=True)
class LikelyCorruption:
    """What fits. `state` is "ok" where the images did change, else it says why nothing is to be explained.

    best: what reproduces the change best, whether or not it `fits`. also: others that do it about as well.
    """

    state: str
    best: Fitted | None = None
    fits: bool = False
    also: tuple[Fitted, ...] = ()


def likely_corruption(
    reference: Sequence[UInt8Array], window: Sequence[UInt8Array], look: Look, *, seed: int = 0
) -> LikelyCorruption:
    """Return the known change that makes the reference's images most like the window's.

    reference, window: images (H, W) or (H, W, 3) uint8; the first 150 and 400 are used. look: gives the statistics
    (n, s) and the embeddings (n, D), or None, of images. Both samples are points in the space of statistics and
    embeddings, each with half of the weight; a change explains what it takes away of their energy distance (Székely &
    Rizzo 2013). It fits from four fifths on. Nothing is sought where the distance is within chance, at 1 %.
    """
    reference, window = reference[:MOST_REFERENCE], window[:MOST_WINDOW]
    fewest = min(len(reference), len(window))
    if fewest < FEWEST_IMAGES:
        return LikelyCorruption(f"undecided: {fewest} images on one side, fewer than {FEWEST_IMAGES}")
    before, now = look(reference), look(window)
    if not all(np.isfinite(part).all() for part in (*before, *now) if part is not None):
        return LikelyCorruption("undecided: statistics or embeddings hold numbers that are not finite")
    space = _Space(before, now)
    if space.p_value(np.random.default_rng(seed)) >= SIGNIFICANT:
        return LikelyCorruption(
            f"none is seen: statistics and embeddings of {len(reference)} images of the reference and {len(window)} of "
            "the window differ by no more than chance"
        )

    def tried(kind: str, strength: float) -> Fitted:
        rng = np.random.default_rng([seed, list(APPEARANCE).index(kind)])  # the same noise at every strength
        return Fitted(kind, strength, space.explained(look([apply(kind, i, strength, rng) for i in reference])))

    best = {kind: _best([tried(kind, strength) for strength in COARSE]) for kind in APPEARANCE}
    for rough in sorted(best.values(), key=lambda fit: -fit.explained)[:REFINED]:
        near = [round(rough.strength + step, 2) for step in FINE]
        best[rough.kind] = _best([rough, *(tried(rough.kind, s) for s in near if 0 < s <= 1)])
    ranked = sorted(best.values(), key=lambda fit: -fit.explained)
    fits = ranked[0].explained >= FITS
    also = [fit for fit in ranked[1:] if fits and fit.explained >= max(FITS, ranked[0].explained - AS_WELL)]
    return LikelyCorruption("ok", ranked[0], fits, tuple(also))


def refuted(found: LikelyCorruption, before: DomainTest, left: DomainTest) -> LikelyCorruption:
    """Return `found`, without its fit where it leaves more than half of what can be told apart.

    before, left: the test of the window against the reference, and against the reference after the change. A change
    that came to one class only is reproduced on average by giving some of it to all; image by image it is not.
    """
    if not found.fits or before.moved is None or left.moved is None or not left.changed:
        return found
    return found if left.moved <= MOST_LEFT * before.moved else replace(found, fits=False, also=())


def _best(fits: Sequence[Fitted]) -> Fitted:
    return max(fits, key=lambda fit: fit.explained)


class _Space:
    """Statistics and embeddings on one scale, and the energy distance of the window from other samples in it."""

    def __init__(
        self, reference: tuple[NDArray[Any], NDArray[Any] | None], window: tuple[NDArray[Any], NDArray[Any] | None]
    ) -> None:
        statistics = np.concatenate([reference[0], window[0]]).astype(np.float64)
        varying = statistics.std(axis=0) > 1e-6
        self._varying, self._mean = varying, statistics[:, varying].mean(axis=0)
        self._deviation = statistics[:, varying].std(axis=0) * np.sqrt(max(1, int(varying.sum())))
        self._axes: Any = None
        self._scale = 1.0
        if reference[1] is not None and window[1] is not None:
            self._learn_axes(np.concatenate([reference[1], window[1]]))
        self._window = self._points(window)
        self._reference = self._points(reference)
        self._within = _mean_distance(self._window)
        self._before = self._distance(self._reference)

    def _learn_axes(self, embeddings: NDArray[Any]) -> None:
        if embeddings.std(axis=0).max() <= 1e-6 * max(1e-12, float(np.abs(embeddings).max())):
            return
        from sklearn.decomposition import PCA

        most = min(MOST_DIMENSIONS, embeddings.shape[1], len(embeddings) // 4)
        self._axes = PCA(most, svd_solver="randomized", random_state=0).fit(embeddings.astype(np.float32))
        self._scale = float(np.sqrt((self._axes.transform(embeddings) ** 2).sum(axis=1).mean()))

    def _points(self, looked: tuple[NDArray[Any], NDArray[Any] | None]) -> FloatArray:
        statistics, embeddings = looked
        points = (statistics[:, self._varying] - self._mean) / self._deviation
        if self._axes is not None and embeddings is not None:
            points = np.concatenate([points, self._axes.transform(embeddings) / self._scale], axis=1)
        return np.asarray(points, np.float64)

    def _distance(self, points: FloatArray) -> float:
        from scipy.spatial.distance import cdist

        return float(2 * cdist(points, self._window).mean() - _mean_distance(points) - self._within)

    def explained(self, looked: tuple[NDArray[Any], NDArray[Any] | None]) -> float:
        """Return the share of the energy distance that is gone for these images instead of the reference's."""
        return min(1.0, 1 - self._distance(self._points(looked)) / self._before)

    def p_value(self, rng: np.random.Generator) -> float:
        """Return the permutation p-value of "reference and window are samples of one source"."""
        from scipy.spatial.distance import cdist

        pooled = np.concatenate([self._reference, self._window])
        distances, first = cdist(pooled, pooled), len(self._reference)
        side = np.repeat([1.0, 0.0], [first, len(self._window)])
        sides = np.stack([side, *(rng.permutation(side) for _ in range(PERMUTATIONS))], axis=1)  # (n, 1 + P)
        rest = 1 - sides
        second = len(pooled) - first
        between = (sides * (distances @ rest)).sum(axis=0) / (first * second)
        one = (sides * (distances @ sides)).sum(axis=0) / (first * (first - 1))
        other = (rest * (distances @ rest)).sum(axis=0) / (second * (second - 1))
        found: FloatArray = 2 * between - one - other
        return float((found >= found[0] - 1e-12).mean())


def _mean_distance(points: FloatArray) -> float:
    from scipy.spatial.distance import pdist

    return float(pdist(points).mean())


def strength_in_words(fit: Fitted) -> str:
    """Return what a change of this strength does, in plain words."""
    words: Mapping[str, str] = {
        "brightness": f"darkened to {100 * (1 - 0.8 * fit.strength):.0f} % of the light",
        "contrast": f"contrast lowered to {100 * (1 - 0.9 * fit.strength):.0f} %",
        "blur": f"blurred over {10 * fit.strength:.0f} % of the shorter side",
        "noise": f"noise of {80 * fit.strength:.0f} grey levels",
        "rotate": f"turned by {90 * fit.strength:.0f} degrees to either side",
        "invert": f"dark and light swapped in {100 * fit.strength:.0f} % of the images",
        "new_style": f"dark and light swapped and mirrored in {100 * fit.strength:.0f} % of the images",
    }
    return words.get(fit.kind, f"{fit.kind} at strength {fit.strength:.2f}")
