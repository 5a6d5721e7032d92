"""What a simulated run shows, held against its truth: were the alarms right, and did renewal help?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

TOLERANCE = 0.05
PLAIN_FALL = 0.10  # a fall this deep must not go unnoticed for two months
REGAINED_SHARE = 0.8

Month = Mapping[str, Any]


def verdicts(months: Sequence[Month]) -> dict[str, Any]:
    """Return false alarms, recall lost and regained per alarmed class, and each claim with whether it holds.

    months: one object a month as `demo --json` prints it; the first is the reference window.
    """
    false_alarms = [
        {"window": m["window"], "class": name} for m in months for name in m["alarmed"] if not _fell(months[0], m, name)
    ]
    missed = _missed(months)
    recovery = [r for i, m in enumerate(months) for name in m["alarmed"] if (r := _recovery(months, i, name))]
    alarmed = [m["window"] for m in months if m["alarmed"]]
    promoted = [m["window"] for m in months if m["renewal"] and m["renewal"]["promoted"]]
    claims: list[tuple[str, bool]] = [
        (f"alarms in {', '.join(alarmed) or 'no month'} name only classes that really fell", not false_alarms),
        (f"every class that fell by {100 * PLAIN_FALL:.0f} points raised an alarm within two months", not missed),
        (f"every alarm led to a promotion ({', '.join(promoted) or 'none'})", promoted == alarmed),
    ]
    claims += [
        (
            f"{r['class']}: recall {r['reference']:.2f} fell to {r['fallen']:.2f}, then {r['after']:.2f} "
            f"({100 * r['regained']:.0f} % of the loss regained)",
            r["regained"] >= REGAINED_SHARE,
        )
        for r in recovery
    ]
    return {"false_alarms": false_alarms, "missed": missed, "recovery": recovery, "verdicts": claims}


def _true(month: Month, name: str) -> tuple[float | None, float | None]:
    found = next((c for c in month["classes"] if c["name"] == name), None)
    return (found["true_precision"], found["true_recall"]) if found else (None, None)


def _missed(months: Sequence[Month]) -> list[dict[str, str]]:
    """Return the classes that were plainly worse for two months on end, and raised no alarm in either."""
    return [
        {"window": first["window"], "class": c["name"]}
        for first, second in pairwise(months[1:])
        for c in first["classes"]
        if _fell(months[0], first, c["name"], PLAIN_FALL)
        and _fell(months[0], second, c["name"], PLAIN_FALL)
        and c["name"] not in (*first["alarmed"], *second["alarmed"])
    ]


def _fell(reference: Month, month: Month, name: str, points: float = TOLERANCE) -> bool:
    """Return whether the class's true precision or recall is below the reference's by more than `points`."""
    return any(
        before is not None and (now is None or now < before - points)
        for before, now in zip(_true(reference, name), _true(month, name), strict=True)
    )


def _recovery(months: Sequence[Month], place: int, name: str) -> dict[str, Any] | None:
    """Return what the month after an alarm regained of the recall that a class had lost, None where it lost little."""
    reference, fallen = _true(months[0], name)[1], _true(months[place], name)[1]
    if place + 1 >= len(months) or reference is None or fallen is None or reference - fallen <= TOLERANCE:
        return None
    after = _true(months[place + 1], name)[1] or 0.0
    regained = (after - fallen) / (reference - fallen)
    return {
        "class": name,
        "window": months[place]["window"],
        "reference": reference,
        "fallen": fallen,
        "after": after,
        "regained": regained,
    }
