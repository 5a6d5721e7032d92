"""The page that shows what changed in a drifted window: one file, no scripts, readable without a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.monitoring.drift.likely_corruption import strength_in_words
from components.monitoring.drift.story import Explanation, headline, listed, sentences


@dataclass(frozen=True, slots=True)
class Picture:
    """One image as a data URI, and the class the model calls it."""

    picture: str
    called: str


@dataclass(frozen=True, slots=True)
class Pair:
    """An image above another one: of the window above the nearest of the reference, or before above after."""

    above: Picture
    below: Picture


@dataclass(frozen=True, slots=True)
class Album:
    """The page's pictures.

    groups, newcomers: of each, images of the window above the nearest of the reference. changed: reference images
    before and after the likely change, with images of the `window` beside. gone: of the reference, without their like.
    """

    groups: Sequence[Sequence[Pair]] = ()
    newcomers: Sequence[Sequence[Pair]] = ()
    changed: Sequence[Pair] = ()
    window: Sequence[Picture] = ()
    gone: Sequence[Picture] = ()


def write_drift_page(found: Explanation, album: Album, path: Path) -> None:
    """Write the page to `path`, in the place of an older one. The same arguments give the same bytes."""
    from components.pages.page import page_environment, write_page

    environment = page_environment("components.monitoring.drift", {"listed": listed, "strength": strength_in_words})
    context: dict[str, Any] = {
        "found": found,
        "album": album,
        "headline": headline(found),
        "sentences": sentences(found),
        "answers": sorted(found.answers, key=lambda answer: -abs(answer[2] - answer[1])),
    }
    write_page(environment.get_template("drift_explained.html").render(context), path)
