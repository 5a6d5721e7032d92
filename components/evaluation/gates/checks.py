"""The gate's checks that are the same for one class an image and for several labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from components.evaluation.metrics.paired import better_p_value, class_difference
from components.params import Gate
from components.records import GateCheck, GateVerdict

METRICS = ("recall", "precision")
EVERY_CLASS = "every class"
MOST_NAMED = 20  # classes in one sentence, or one check each

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


class Candidate(Protocol):
    """What the gate asks of a model whatever it answers."""

    @property
    def ece(self) -> float:
        """Calibration error on the gate's images."""

    @property
    def parity_ok(self) -> bool:
        """Whether the exported file agrees with the trained model."""


def verdict(
    candidate: Candidate,
    rules: Gate,
    *,
    measure: str,
    nothing: str,
    missing: bool,
    comparison: Callable[[], Sequence[GateCheck]],
) -> GateVerdict:
    """Return the verdict on a candidate: export parity, calibration, then those of `comparison`.

    measure: the name of its calibration error. nothing: in words, why there is nothing to judge on, "" where there is.
    missing: whether the champion's answers should be there and are not. In both cases nothing is compared.
    """
    checks = [_parity(candidate.parity_ok), _calibration(measure, candidate.ece, rules)]
    if nothing:
        checks.append(GateCheck("images", False, nothing))
    elif missing:
        checks.append(GateCheck("baseline", False, "the champion's answers on the gate's images are missing"))
    else:
        checks += comparison()
    return GateVerdict(tuple(checks))


def _parity(agrees: bool) -> GateCheck:
    words = "agrees" if agrees else "does not agree"
    return GateCheck("export parity", agrees, f"the exported file {words} with the trained model")


def _calibration(measure: str, ece: float, rules: Gate) -> GateCheck:
    passed = bool(ece <= rules.max_ece)  # False for NaN
    detail = f"{measure} {ece:.3f}, at most {rules.max_ece:.3f}"
    return GateCheck("calibration", passed, detail, {"ece": ece, "max_ece": rules.max_ece})


def alarmed_check(
    title: str, columns: tuple[IntArray, IntArray, IntArray], k: int, metrics: Sequence[str], rules: Gate
) -> GateCheck:
    """Return whether the candidate is better where class k raised its alarm.

    columns: (N,) the labels, what the candidate says and what the champion says. metrics: of the rules that raised it;
    none stands for both. With two rules one of them is enough: the other is often alarmed by its shadow, as the
    precision of a class that is hardly predicted any more, and the check of every class guards it.
    """
    better, words = False, []
    numbers: dict[str, object] = {"p": rules.alarmed_p}
    for metric in metrics or METRICS:
        difference = class_difference(*columns, k, metric)
        if difference is None:
            words.append(f"{metric} cannot be compared: no such image")
            continue
        p_value = better_p_value(*columns, k, metric)
        numbers[metric] = {"difference": difference.value, "p_value": p_value, "images": difference.images}
        better |= difference.value > 0 and p_value < rules.alarmed_p
        words.append(f"{metric} {points(difference.value)} points, p {p_value:.3f} on {difference.images} images")
    return GateCheck(title, better, f"{'; '.join(words)}; better at p < {rules.alarmed_p:g} is asked", numbers)


def new_class_check(name: str, there: BoolArray, said: BoolArray, rules: Gate) -> GateCheck:
    """Return whether a class the champion does not know reaches the floor and beats always answering it.

    there, said: (N,), which images are of it, and are said to be.
    """
    if not there.any():
        return GateCheck(f"new class {name}", False, "there is no labelled image of it to judge on")
    recall, share = float(said[there].mean()), float(there.mean())
    precision = float(there[said].mean()) if said.any() else 0.0
    passed = recall >= rules.floor and precision >= rules.floor and precision > share
    detail = f"recall {100 * recall:.1f} %, precision {100 * precision:.1f} %, floor {100 * rules.floor:.1f} %"
    numbers = {
        "recall": recall, "precision": precision, "floor": rules.floor, "share": share, "images": int(there.sum()),
    }  # fmt: skip
    return GateCheck(f"new class {name}", passed, detail, numbers)


def none_worse_check(worse: Sequence[str], of_all: str, numbers: dict[str, object], rules: Gate) -> GateCheck:
    """Return the check of every class. worse: in words, those shown to be worse. of_all: how many were compared."""
    said = list(worse[:MOST_NAMED])
    said += [f"and {len(worse) - MOST_NAMED} more"] if len(worse) > MOST_NAMED else []
    none = f"none of {of_all} is shown to be more than {100 * rules.class_margin:.0f} points worse"
    return GateCheck(EVERY_CLASS, not worse, "; ".join(said) or none, numbers)


def points(difference: float) -> str:
    """Return a difference of shares in percentage points, with its sign."""
    return f"{100 * difference:+.1f}"
