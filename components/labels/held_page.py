"""Held images as a page: what each shows, under which labels it came, and how to decide. One file, no scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MOST_SHOWN = 240
WORDS = {
    "label-conflict": "came under another label than the stored one",
    "frozen-test": "people say another label than the frozen test set's, which is never changed",
    "frozen-group": "belongs to an image of the frozen test set, which takes nobody in",
    "no-class": "people say it shows none of the classes",
    "group-conflict": "would tie groups of two splits together",
}


def write_held_page(
    held: Sequence[Mapping[str, Any]], pictures: Mapping[str, str], *, total: int, version: str | None, path: Path
) -> None:
    """Write the page of held images to `path`, in the place of an older one.

    held: entries of the register, those that are shown, of `total`; `beside`: the id of an image of its group, or None.
    pictures: data URIs by image id.
    """
    from components.pages.page import page_environment, write_page

    context = {
        "held": held,
        "pictures": pictures,
        "further": total - len(held),
        "total": total,
        "version": version,
        "words": WORDS,
    }
    write_page(page_environment("components.labels").get_template("held.html").render(context), path)
