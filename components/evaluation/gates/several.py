"""Promote a candidate that answers several labels an image? The questions of `gate`, asked label by label.

Overall, the mean F1 over labels must be shown not to be worse by more than the margin. No label's recall or precision
may be shown to be worse by more than its margin; one that raised an alarm must be better. The first model, and a label
the champion does not know, meet a floor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.errors import DataError
from components.evaluation.gates.checks import (
    METRICS,
    alarmed_check,
    new_class_check,
    none_worse_check,
    points,
    verdict,
)
from components.evaluation.gates.one_class import ALPHA, EXPECTED_FALSE_REFUSALS, MOST_NUMBERED
from components.evaluation.metrics.paired import class_difference
from components.evaluation.metrics.several import macro_f1
from components.params import Gate
from components.records import GateCheck, GateVerdict

DRAWS = 1000
DRAWS_AT_ONCE = 2_000_000

BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class SetResults:
    """One model's answers on the gate's images. truth, said: (N, K) bool, by the candidate's class list.

    classes: the labels this model knows, by the candidate's names. ece: mean calibration error over labels. parity_ok:
    whether the exported file agrees with the trained model. The champion's last two are not looked at. note: as of
    `one_class.CandidateResults`.
    """

    classes: tuple[str, ...]
    truth: BoolArray
    said: BoolArray
    ece: float = float("nan")
    parity_ok: bool = False
    note: str = ""


def judge_several(
    candidate: SetResults,
    champion: SetResults | None,
    *,
    alarmed: Mapping[str, Sequence[str]],
    rules: Gate,
    champion_expected: bool,
) -> GateVerdict:
    """Return every check of `candidate` with its numbers; it may be promoted only if all passed.

    The arguments are those of `one_class.judge_candidate`. Raises DataError if the arrays do not belong together.
    """
    _check_arrays(candidate, champion)
    return verdict(
        candidate,
        rules,
        measure="mean calibration error of a label",
        nothing="" if candidate.truth.any() else "there is no image that carries a label to judge on",
        missing=champion is None and champion_expected,
        comparison=lambda: (
            [_first_model(candidate, rules)]
            if champion is None
            else _against_champion(candidate, champion, alarmed, rules)
        ),
    )


def _first_model(candidate: SetResults, rules: Gate) -> GateCheck:
    """Return the check of a service's first model: the floor, and more than always answering every label."""
    always = np.broadcast_to(candidate.truth.any(axis=0), candidate.truth.shape)
    reached, trivial = macro_f1(candidate.truth, candidate.said), macro_f1(candidate.truth, always)
    bound = float(np.percentile(_drawn_gain(candidate.truth, candidate.said, always), 100 * ALPHA))
    detail = (
        f"macro-F1 {_percent(reached)}, floor {_percent(rules.floor)}; every label always gives {_percent(trivial)}"
    )
    numbers = {
        "macro_f1": reached, "floor": rules.floor, "trivial": trivial, "gain_lower": bound,
        "images": len(candidate.truth),
    }  # fmt: skip
    return GateCheck("first model", bool(reached >= rules.floor and bound > 0), detail, numbers)


def _against_champion(
    candidate: SetResults, champion: SetResults, alarmed: Mapping[str, Sequence[str]], rules: Gate
) -> list[GateCheck]:
    old = set(champion.classes)
    known = [k for k, name in enumerate(candidate.classes) if name in old]
    checks = [_overall(candidate, champion, known, rules), _labels_not_worse(candidate, champion, known, rules)]
    checks += [
        _alarmed_label(candidate, champion, name, metrics, rules)
        for name, metrics in sorted(alarmed.items())
        if name in old
    ]
    if champion.note:
        checks.append(GateCheck("class list", True, f"the champion answers an older one: {champion.note}"))
    new = [k for k, name in enumerate(candidate.classes) if name not in old]
    return checks + [
        new_class_check(candidate.classes[k], candidate.truth[:, k], candidate.said[:, k], rules) for k in new
    ]


def _overall(candidate: SetResults, champion: SetResults, known: Sequence[int], rules: Gate) -> GateCheck:
    truth, new, old = (some[:, known] for some in (candidate.truth, candidate.said, champion.said))
    if not truth.any():
        return GateCheck("overall", False, "no image carries a label that the champion knows")
    ours, theirs = macro_f1(truth, new), macro_f1(truth, old)
    bound = float(np.percentile(_drawn_gain(truth, new, old), 100 * ALPHA))
    detail = (
        f"macro-F1 {points(ours - theirs)} points, with 95 % confidence at least {points(bound)}; "
        f"{points(-rules.margin)} is allowed"
    )
    numbers = {
        "candidate": ours, "champion": theirs, "difference": ours - theirs, "lower": bound, "margin": rules.margin,
        "images": len(truth),
    }  # fmt: skip
    return GateCheck("overall", bound > -rules.margin, detail, numbers)


def _drawn_gain(truth: BoolArray, new: BoolArray, old: BoolArray) -> NDArray[np.float64]:
    """Return how much larger the macro-F1 of `new` is than that of `old`, in draws of as many images (D,).

    A label that a draw does not have, and neither model says there, counts in neither mean.
    """
    generator = np.random.default_rng(0)
    images = len(truth)
    cells = [(truth & new), (truth & old), new, old, truth]
    columns = np.concatenate(cells, axis=1).astype(np.float64)
    found = []
    piece = max(1, DRAWS_AT_ONCE // max(images, columns.shape[1]))
    for start in range(0, DRAWS, piece):
        weights = generator.multinomial(images, np.full(images, 1 / images), size=min(piece, DRAWS - start))
        hits_new, hits_old, said_new, said_old, there = np.split(weights @ columns, len(cells), axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            ours, theirs = 2 * hits_new / (said_new + there), 2 * hits_old / (said_old + there)
        known = (said_new + said_old + there) > 0
        of_label = np.where(known, np.nan_to_num(ours) - np.nan_to_num(theirs), 0.0)
        found.append(of_label.sum(axis=1) / np.maximum(known.sum(axis=1), 1))
    return np.concatenate(found)


def _labels_not_worse(candidate: SetResults, champion: SetResults, known: Sequence[int], rules: Gate) -> GateCheck:
    alpha = min(ALPHA, EXPECTED_FALSE_REFUSALS / max(len(known), 1))
    found = []
    for k in known:
        columns = _of_label(candidate, champion, k)
        for metric in METRICS:
            difference = class_difference(*columns, 1, metric)
            if difference is not None:
                found.append((difference.upper(alpha), f"{candidate.classes[k]} {metric}", difference))
    found.sort(key=lambda one: one[0])
    worse = [one for one in found if one[0] < -rules.class_margin]
    numbers: dict[str, object] = {"alpha": alpha, "class_margin": rules.class_margin}
    numbers |= {name: [one.value, upper, one.images] for upper, name, one in found[:MOST_NUMBERED]}
    said = [f"{name} {points(one.value)} points (at most {points(upper)})" for upper, name, one in worse]
    return none_worse_check(said, f"{len(known)} labels", numbers, rules)


def _alarmed_label(
    candidate: SetResults, champion: SetResults, name: str, metrics: Sequence[str], rules: Gate
) -> GateCheck:
    title = f"alarmed class {name}"
    if name not in candidate.classes:
        return GateCheck(title, False, "the candidate does not know this label")
    return alarmed_check(title, _of_label(candidate, champion, candidate.classes.index(name)), 1, metrics, rules)


def _of_label(candidate: SetResults, champion: SetResults, k: int) -> tuple[IntArray, IntArray, IntArray]:
    """Return label k as a problem of two classes (N,): the truth, and what candidate and champion say."""
    truth, new, old = (some[:, k].astype(np.int64) for some in (candidate.truth, candidate.said, champion.said))
    return truth, new, old


def _check_arrays(candidate: SetResults, champion: SetResults | None) -> None:
    wanted = (len(candidate.truth), len(candidate.classes))
    shapes = [candidate.truth.shape, candidate.said.shape, *([champion.said.shape] if champion is not None else [])]
    if any(shape != wanted for shape in shapes):
        raise DataError(f"labels and answers have shapes {shapes}, not all {wanted}: score both models again")
    if champion is not None and not np.array_equal(champion.truth, candidate.truth):
        raise DataError("candidate and champion were not judged on the same images in the same order; score both again")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
