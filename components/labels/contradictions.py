"""Old labels that newer ones contradict: images like these have come to mean another class.

When bright boots become bags, the boots labelled before outvote the few labelled since, in training and in every
measurement. A model of the old labels says what was called a before. Among the images it calls a:

1. Do people say b more often than before? Compared within bins of that model's confidence (Mantel and Haenszel 1959),
   since people are asked about hesitant predictions more often, and those were always confused more often.
2. Which old labels a are contradicted? Those whose images the recent labels more likely call b, by a logistic
   regression of b against a on recent labels alone. What it looks at is chosen by cross-validation.

New images of b that the old model takes for a pass the first question, too. The second one finds hardly any old label
then: the old images of a do not look like them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from components.errors import DataError
from components.records import CONFIDENCE_EDGES

ALPHA = 0.001  # one-sided, shared over the pairs of classes that are asked about
LEAST_LABELS = 20  # recent labels b among what was called a
LEAST_RISE = 0.10  # of the share of b
FEWEST_OF_A_KIND = 10  # recent labels of either class to fit a model to; below, there is nothing to tell apart
CONTRADICTED = 0.5  # probability of b from which an old label a no longer counts
FOLDS = 5
STRENGTHS = (0.01, 0.1, 1.0, 10.0)  # C of the logistic regression

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.floating[Any]]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Examined:
    """N labelled images, before and after a change is suspected, and what a model of the old labels says of them.

    labels, called: (N,) class indices, what people said and what that model says. confidence: (N,) its own. recent:
    (N,) labelled since. learnt: (N,) old images which that model was trained on; its answers there prove nothing.
    """

    labels: IntArray
    called: IntArray
    confidence: FloatArray
    recent: BoolArray
    learnt: BoolArray


@dataclass(frozen=True, slots=True)
class Change:
    """What was called `before` is now called `now` more often: the shares of `now`, old and recent, and their test.

    risen: the difference within bins of confidence. recent_labels: of either class, among what was called `before`.
    """

    before: int
    now: int
    old_share: float
    recent_share: float
    risen: float
    p_value: float
    recent_labels: int


@dataclass(frozen=True, slots=True, eq=False)
class Contradicted:
    """Old labels of one change. rows: indices into the N images. probability: (rows,) of the class they mean now.

    successors: the recent labels, of either class, of what was called `before`: what stands in for them. features: what
    told them apart, "none" where recent labels hold hardly any `before`. log_loss: cross-validated.
    """

    rows: IntArray
    probability: FloatArray
    successors: IntArray
    features: str
    log_loss: float | None


def pairs_of(classes: Sequence[int], size: int) -> list[tuple[int, int]]:
    """Return every ordered pair of distinct classes of `size` in which one of `classes` takes part."""
    named = set(classes)
    return [(a, b) for a in range(size) for b in range(size) if a != b and (a in named or b in named)]


def find_changes(examined: Examined, pairs: Sequence[tuple[int, int]]) -> list[Change]:
    """Return the pairs (before, now) in which recent labels say `now` more often than old ones did, surest first.

    Shown at ALPHA shared over the pairs, by at least LEAST_RISE, on at least LEAST_LABELS recent labels `now`.
    Raises DataError if the arrays have different lengths.
    """
    if len({len(column) for column in _columns(examined)}) != 1:
        raise DataError("the columns of the examined images have different lengths; take them from the same rows")
    found = [_compare(examined, before, now) for before, now in pairs]
    shown = [change for change in found if change is not None and change.p_value < ALPHA / max(len(pairs), 1)]
    return sorted(shown, key=lambda change: (change.p_value, -change.risen))


def find_contradicted(
    examined: Examined, change: Change, features: Callable[[IntArray], Mapping[str, FloatArray]], *, seed: int
) -> Contradicted:
    """Return the old labels `change.before` whose images recent labels more likely call `change.now`.

    features: gives named tables (rows, D) for row indices; each, and all together, is tried. Deterministic for a seed.
    """
    called = examined.called == change.before
    both = np.isin(examined.labels, (change.before, change.now))
    recent = np.flatnonzero(called & both & examined.recent)
    old = np.flatnonzero(called & ~examined.recent & (examined.labels == change.before))
    says_now = examined.labels[recent] == change.now
    if min(says_now.sum(), (~says_now).sum()) < FEWEST_OF_A_KIND:
        share = float(says_now.mean())
        doomed = old if share >= CONTRADICTED else old[:0]
        return Contradicted(doomed, np.full(len(doomed), share), recent, "none", None)
    name, loss, probability = _best_model(features(recent), features(old), says_now, seed)
    told = probability >= CONTRADICTED
    return Contradicted(old[told], probability[told], recent, name, loss)


def _columns(examined: Examined) -> tuple[NDArray[Any], ...]:
    return (examined.labels, examined.called, examined.confidence, examined.recent, examined.learnt)


def _compare(examined: Examined, before: int, now: int) -> Change | None:
    inside = (examined.called == before) & np.isin(examined.labels, (before, now))
    recent, old = inside & examined.recent, inside & ~examined.recent & ~examined.learnt
    says_now = examined.labels == now
    if int((recent & says_now).sum()) < LEAST_LABELS or not old.any():
        return None
    bins = np.digitize(examined.confidence, CONFIDENCE_EDGES)
    tables = np.array(
        [
            [[int((group & says & (bins == b)).sum()) for says in (says_now, ~says_now)] for group in (recent, old)]
            for b in range(len(CONFIDENCE_EDGES) + 1)
        ],
        dtype=np.float64,
    )
    risen, p_value = mantel_haenszel(tables)
    if not risen >= LEAST_RISE:
        return None
    return Change(
        before=before,
        now=now,
        old_share=float(says_now[old].mean()),
        recent_share=float(says_now[recent].mean()),
        risen=risen,
        p_value=p_value,
        recent_labels=int(recent.sum()),
    )


def mantel_haenszel(tables: NDArray[np.float64]) -> tuple[float, float]:
    """Return the common risk difference of 2 x 2 tables and the one-sided p-value that it is above 0.

    tables: (S, 2, 2) counts, rows exposed and not, columns case and not. A stratum in which one row is empty says
    nothing. The test is Cochran, Mantel and Haenszel's, without continuity correction; NaN and 1 without any stratum.
    """
    rows = tables.sum(axis=2)
    tables = tables[(rows > 0).all(axis=1)]
    if not len(tables):
        return float("nan"), 1.0
    (exposed, other), total = tables.sum(axis=2).T, tables.sum(axis=(1, 2))
    weight = exposed * other / total
    risen = float((weight * (tables[:, 0, 0] / exposed - tables[:, 1, 0] / other)).sum() / weight.sum())
    cases = tables[:, :, 0].sum(axis=1)
    expected = exposed * cases / total
    variance = exposed * other * cases * (total - cases) / (total**2 * np.maximum(total - 1, 1))
    if variance.sum() <= 0:
        return risen, 1.0
    return risen, float(stats.norm.sf((tables[:, 0, 0] - expected).sum() / np.sqrt(variance.sum())))


def _best_model(
    recent: Mapping[str, FloatArray], old: Mapping[str, FloatArray], says_now: BoolArray, seed: int
) -> tuple[str, float, FloatArray]:
    """Return the features that tell best, their cross-validated log loss, and the probability of `now` for old rows."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    choices: list[tuple[str, ...]] = [(name,) for name in recent]
    if len(recent) > 1:
        choices.append(tuple(recent))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    best: tuple[float, tuple[str, ...], Any] | None = None
    for names in choices:
        table = np.hstack([recent[name] for name in names])
        for strength in STRENGTHS:
            model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000))
            told = cross_val_predict(model, table, says_now, cv=folds, method="predict_proba")[:, 1]
            loss = float(log_loss(says_now, told, labels=[False, True]))
            if best is None or loss < best[0]:
                best = loss, names, model.fit(table, says_now)
    if best is None:
        raise DataError("there are no features to tell recent labels apart by")
    loss, names, model = best
    probability = np.asarray(model.predict_proba(np.hstack([old[name] for name in names]))[:, 1], np.float64)
    return " and ".join(names), loss, probability
