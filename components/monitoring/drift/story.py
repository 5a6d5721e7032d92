"""What is known of a drifted window, in sentences: for the page, the alert and the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.monitoring.drift.embeddings import DomainTest
from components.monitoring.drift.likely_corruption import LikelyCorruption, strength_in_words

NAMED_AT_MOST = 3
SMALLEST_TOLD = 0.03  # of the answers, by which a class's share moved
CLEAR = 0.01
NO_EMBEDDINGS = (
    "The model was exported by an earlier version of Perennial, without embeddings: groups of images and a new class "
    "cannot be told. The next retraining brings them."
)


@dataclass(frozen=True, slots=True)
class Called:
    """A group of the window's images. called: how many of them the model calls what, the most frequent first."""

    images: int
    called: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Newcomer:
    """A candidate for a new class: its images, their share of the window (0..1), its p-value, distance and gap."""

    group: Called
    share: float
    p_value: float
    distance: float
    gap: float
    reference_images: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """All that was found out about a window.

    images, reference_images: how many were looked at. missing: how many more could not be read. statistics and
    answers: name, before and now (medians; shares of the answers). newcomers_state: "ok" or why none can be named.
    corrected: they were sought against the reference as it would be after the likely corruption, which leaves `left` to
    be told. gone: the class whose reference images have no like in the window, if there is one, and how many they are.
    """

    window: str
    model_version: int
    reference_window: str
    images: int
    reference_images: int
    missing: int
    embeds: bool
    statistics: Sequence[tuple[str, float, float]]
    answers: Sequence[tuple[str, float, float]]
    test: DomainTest
    groups: Sequence[Called]
    corruption: LikelyCorruption
    newcomers_state: str
    newcomers: Sequence[Newcomer]
    corrected: bool
    left: DomainTest | None = None
    gone: tuple[str, int] | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the findings as machines read them; `summary` is the text for people."""
        best = self.corruption.best
        return {
            "window": self.window,
            "model_version": self.model_version,
            "reference_window": self.reference_window,
            "state": "ok",
            "headline": headline(self),
            "summary": sentences(self),
            "images": self.images,
            "reference_images": self.reference_images,
            "missing": self.missing,
            "statistics": [{"name": n, "before": round(b, 4), "now": round(a, 4)} for n, b, a in self.statistics],
            "answers": [{"class": n, "before": round(b, 4), "now": round(a, 4)} for n, b, a in self.answers],
            "embeddings": {
                "state": self.test.state,
                "auc": _rounded(self.test.auc),
                "p_value": self.test.p_value,
                "moved": _rounded(self.test.moved),
            },
            "groups": [{"images": group.images, "called": dict(group.called)} for group in self.groups],
            "corruption": {
                "state": self.corruption.state,
                "fits": self.corruption.fits,
                "kind": best.kind if best else None,
                "strength": best.strength if best else None,
                "explained": _rounded(best.explained) if best else None,
                "also": [{"kind": fit.kind, "strength": fit.strength} for fit in self.corruption.also],
            },
            "new_class": {
                "state": self.newcomers_state,
                "corrected": self.corrected,
                "gone": self.gone[0] if self.gone else None,
                "candidates": [
                    {
                        "images": one.group.images,
                        "share": round(one.share, 4),
                        "called": dict(one.group.called),
                        "p_value": _rounded(one.p_value),
                        "distance": round(one.distance, 3),
                        "gap": round(one.gap, 3),
                        "reference_images": one.reference_images,
                    }
                    for one in self.newcomers
                ],
            },
        }


def headline(found: Explanation) -> str:
    """Return the one most telling thing."""
    parts = []
    if found.corruption.fits and found.corruption.best:
        parts.append(f"the images look changed: {strength_in_words(found.corruption.best)}")
    if found.newcomers:
        new = f"perhaps a new class, in {_percent(sum(one.share for one in found.newcomers))} of the images"
        parts.append(f"{new}, or {found.gone[0]} in a new look" if found.gone else new)
    moved = _moved_answers(found)
    if not parts and found.test.changed:
        parts.append(
            f"the images differ, most of all in what the model calls them: {moved[0]}"
            if moved
            else "the images differ, and nothing known says how; look at the groups"
        )
    if not parts and found.corruption.best:
        parts.append("the images look otherwise, and no known change fits")
    if not parts:
        parts.append("no difference in the images was found" if found.embeds else "no change of the look was found")
    text = "; ".join(parts)
    return text[0].upper() + text[1:]


def sentences(found: Explanation) -> list[str]:
    """Return everything that is known, and how sure it is, one sentence a finding."""
    told = [*_domain(found), *_corruption(found), *_newcomers(found), *_answers(found)]
    if found.missing:
        told.append(f"{found.missing} further images of the two samples could not be read any more.")
    return told


def listed(called: Mapping[str, int]) -> str:
    """Return how many images were called what, as in "Shirt (60), Coat (30) and 2 further classes (5)"."""
    shown = [f"{name} ({count:,})" for name, count in list(called.items())[:NAMED_AT_MOST]]
    rest = list(called.values())[NAMED_AT_MOST:]
    if rest:
        shown.append(f"{len(rest)} further {'class' if len(rest) == 1 else 'classes'} ({sum(rest):,})")
    return shown[0] if len(shown) == 1 else ", ".join(shown[:-1]) + " and " + shown[-1]


def _domain(found: Explanation) -> list[str]:
    if not found.embeds:
        return [NO_EMBEDDINGS]
    test = found.test
    if test.auc is None or test.p_value is None or test.moved is None:
        return [f"Whether the images differ is {test.state}."]
    measured = f"AUC {test.auc:.2f}, where 0.50 is chance; p {test.p_value:.3f}"
    if not test.changed:
        return [f"A classifier cannot tell the window's images from the reference's ({measured})."]
    return [
        f"A classifier tells the window's images from the reference's ({measured}): at least {_percent(test.moved)} of "
        "the window would have to be other images for the two to be alike."
    ]


def _corruption(found: Explanation) -> list[str]:
    corruption = found.corruption
    if corruption.best is None:
        return [f"Change of the look: {corruption.state}."]
    best = corruption.best
    if not corruption.fits:
        return [
            "None of the known changes of the look fits: the best of them "
            f"({strength_in_words(best)}) explains {_percent(max(0.0, best.explained))} of the difference."
        ]
    also = "".join(f"; {strength_in_words(fit)} fits about as well" for fit in corruption.also)
    return [
        f"The reference's images look like the window's when {strength_in_words(best)}: that explains "
        f"{_percent(best.explained)} of the difference ({best.kind}, strength {best.strength:.2f}){also}.",
        *_left(found),
    ]


def _left(found: Explanation) -> list[str]:
    if found.left is None or found.left.auc is None:
        return []
    if not found.left.changed:
        return [f"After that change the classifier finds nothing more (AUC {found.left.auc:.2f})."]
    return [f"After that change something is left: AUC {found.left.auc:.2f}, p {found.left.p_value:.3f}."]


def _newcomers(found: Explanation) -> list[str]:
    if not found.embeds:
        return []
    beside = " beside that change" if found.corrected else ""
    if found.newcomers_state != "ok":
        return [f"Whether there is a new class{beside} is {found.newcomers_state}."]
    if not found.newcomers:
        return [f"No group without its like in the reference was found{beside}."]
    told = []
    for one in found.newcomers:
        sure = "clear" if one.p_value < CLEAR else "not quite sure"
        told.append(
            f"{one.group.images:,} images, {_percent(one.share)} of the window, are alike among themselves and unlike "
            f"the reference{beside}: perhaps a class that the model does not know ({sure}: p "
            f"{max(one.p_value, 0.001):.3f} of a mere change of the mix; {one.distance:.1f} times as far from the "
            f"nearest known group as that is wide). The model calls them {listed(one.group.called)}."
        )
    if found.gone:
        told.append(
            f"The reference's images called {found.gone[0]} have no like any more ({found.gone[1]:,} of them): instead "
            f"of a new class it may be {found.gone[0]} in a new look."
        )
    return told


def _answers(found: Explanation) -> list[str]:
    told = _moved_answers(found)[:NAMED_AT_MOST]
    return [f"The model's answers moved: {', '.join(told)}."] if told else []


def _moved_answers(found: Explanation) -> list[str]:
    moved = sorted(found.answers, key=lambda answer: -abs(answer[2] - answer[1]))
    return [f"{n} {_percent(b)} → {_percent(a)}" for n, b, a in moved if abs(a - b) >= SMALLEST_TOLD]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share < 0.1 else f"{100 * share:.0f} %"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)
