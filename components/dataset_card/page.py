"""The dataset card as a page: one file, no scripts, readable without a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MOST_CLASSES = 60
ORIGINS = {
    "given": "as they came with the images",
    "opinions": "what most of several annotators said",
    "consensus": "agreed on by several people",
    "corrected": "corrected by people",
}
LOOKS = {
    "train": "learnt from",
    "validation": "choosing and calibrating the model",
    "test": "later test images",
    "frozen_test": "the frozen test set",
    "golden": "from production, measured on only",
}


def write_card_page(
    facts: Mapping[str, Any],
    advice: Sequence[str],
    display: Mapping[str, str],
    samples: Mapping[str, Sequence[str]],
    path: Path,
) -> None:
    """Write the card of a dataset version to `path`, in the place of an older one.

    facts: of `card_facts`. display: names that people read, by class. samples: pictures of a class as data URIs.
    """
    from components.pages.page import page_environment, write_page

    splits = list(facts["splits"])
    rows = [{**row, "images": sum(row[split] for split in splits)} for row in facts["classes"]]
    rows.sort(key=lambda row: (-row["images"], row["name"]))
    context = {
        "facts": facts,
        "advice": advice,
        "display": display,
        "samples": samples,
        "splits": splits,
        "meanings": LOOKS,
        "origins": ORIGINS,
        "rows": rows[:MOST_CLASSES],
        "further": rows[MOST_CLASSES:],
        "most": max((row["images"] for row in rows), default=0),
    }
    write_page(page_environment("components.dataset_card").get_template("dataset_card.html").render(context), path)
