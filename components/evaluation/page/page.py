"""The evaluation as a page: one file, no scripts, readable without a network."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.evaluation.page.chart import Chart
from components.evaluation.page.further_sections import PARTS
from components.evaluation.page.section import images, percent
from components.evaluation.page.sections import classes, confused, headline, judged_part, other_sets

PAGE_FILE = "report.html"


@dataclass(frozen=True, slots=True)
class Shown:
    """One image that a person looks at. picture: a data URI. name: of its file. words: what the model said of it."""

    picture: str
    name: str
    words: str


@dataclass(frozen=True, slots=True)
class Pair:
    """Images of class `label` taken for `predicted`, `images` in all; `typical`: one of `predicted` that was right."""

    label: str
    predicted: str
    images: int
    shown: tuple[Shown, ...]
    typical: Shown | None


@dataclass(frozen=True, slots=True)
class Fault:
    """One wrong answer. glowing: a data URI, the image with what spoke for the answer."""

    shown: Shown
    glowing: str
    label: str
    predicted: str


@dataclass(frozen=True, slots=True)
class Pictures:
    """What the page shows beside words and numbers. confusion, reliability: PNG as data URIs."""

    confusion: str
    reliability: str
    pairs: Sequence[Pair] = ()
    faults: Sequence[Fault] = ()
    curves: Sequence[Chart] = ()


def write_report_page(metrics: Mapping[str, Any], pictures: Pictures, path: Path) -> None:
    """Write the page of an evaluation to `path`, in the place of an older one. metrics: its metrics.json."""
    from components.pages.page import page_environment, write_page

    part = judged_part(metrics)
    context = {
        "metrics": metrics,
        "right": percent(part["accuracy"]["value"]),
        "images": images(part["images"]),
        "headline": headline(metrics),
        "classes": classes(metrics),
        "confused": confused(metrics),
        "sets": other_sets(metrics),
        "further": [section for make in PARTS if (section := make(metrics)) is not None],
        "pictures": pictures,
    }
    write_page(page_environment("components.evaluation.page").get_template("report.html").render(context), path)


def png_uri(path: Path) -> str:
    """Return a PNG file as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
