"""The dataset card: what it says is what the manifest holds, and its advice is never a block."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from components.data.manifest import Manifest
from components.data.quarantine.register import REGISTER_SCHEMA
from components.dataset_card.advice import advice
from components.dataset_card.facts import MOST_SOURCES, card_facts, training_images
from components.dataset_card.page import MOST_CLASSES, write_card_page

HOSTILE = '<img src=x onerror="alert(1)">'


def row(number: int, label: str, split: str | None = "train", **cells: Any) -> dict[str, Any]:
    plain = {"label": label, "split": split, "state": "active", "shard": "s", "row": number, "source": "photos"}
    return {"image_id": f"{number:064x}", "group_id": f"g{number}", "label_origin": "given", **plain, **cells}


ROWS = [
    *(row(n, "cat") for n in range(30)),
    *(row(30 + n, "dog", "validation", group_id="patient") for n in range(5)),
    row(40, "dog", "golden", window="2026-10", source="production", label_origin="consensus"),
    row(41, "dog", None, state="quarantined", reason="truncated", shard=None, row=None),
    row(42, "cat", None, state="held", reason="frozen-group"),
    row(43, "cat", "train", state="recalled", reason="wish"),
]
MANIFEST = Manifest.from_rows(ROWS, ("cat", "dog", HOSTILE))
SIZES = np.array([[28, 28]] * 34 + [[640, 480], [0, 0]])
NOTHING = REGISTER_SCHEMA.empty_table()
AWAITING = pa.table({
    "state": ["held", "held", "quarantined", "quarantined"],
    "reason": ["frozen-group", "label-conflict", "truncated", "truncated"],
})  # fmt: skip
AUDIT = {
    "images": 35, "suspects": 7, "share": 0.2,
    "image_issues": {"counts": {"dark": 2, "blurry": 0}, "common": {"low_information": 0.14}},
    "near_duplicates": {"images": 4, "conflicts": 1},
}  # fmt: skip


def facts(**changed: Any) -> dict[str, Any]:
    return card_facts(
        MANIFEST, SIZES, AWAITING, **({"version": "data/2026-11-22-1", "licence": "CC0", "audit": AUDIT} | changed)
    )


def test_the_facts_are_the_manifests() -> None:
    found = facts()

    assert (found["images"], found["production"]) == (36, 1)
    assert found["splits"] == {"train": 30, "validation": 5, "golden": 1}
    assert found["classes"][1] == {"name": "dog", "train": 0, "validation": 5, "golden": 1}
    assert found["sources"] == [{"source": "photos", "images": 35}, {"source": "production", "images": 1}]
    assert found["origins"] == {"consensus": 1, "given": 35}
    assert found["groups"] == {"number": 32, "largest": 5}
    assert found["set_aside"] == {
        "held": {"frozen-group": 1, "label-conflict": 1}, "quarantined": {"truncated": 2}, "recalled": {"wish": 1},
    }  # fmt: skip
    assert found["sizes"]["common"] == [[28, 28, 34], [640, 480, 1]]
    assert (found["sizes"]["unknown"], found["sizes"]["smallest"]) == (1, [28, 28])
    assert found["issues"]["looks"] == {"dark": 2}
    assert training_images(found) == {"cat": 30, "dog": 0, HOSTILE: 0}


def test_many_sources_are_folded() -> None:
    manifest = Manifest.from_rows([row(n, "cat", source=f"s{n}") for n in range(MOST_SOURCES + 5)], ("cat",))
    found = card_facts(manifest, np.zeros((MOST_SOURCES + 5, 2), int), NOTHING, version=None, licence="", audit=None)

    assert found["sources"][-1] == {"source": "5 further sources", "images": 5}
    assert sum(entry["images"] for entry in found["sources"]) == MOST_SOURCES + 5
    assert (found["licence"], found["issues"], found["sizes"]["median"]) == (None, None, None)


def test_an_empty_manifest_has_a_card(tmp_path: Path) -> None:
    found = card_facts(Manifest.empty(), np.zeros((0, 2), int), NOTHING, version=None, licence="", audit=None)
    write_card_page(found, [], {}, {}, tmp_path / "card.html")

    assert (found["images"], found["classes"], found["captured"]) == (0, [], None)
    assert "0 images of 0 classes" in (tmp_path / "card.html").read_text()


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (0, "no training image"), (1, "few-shot"), (49, "few-shot"), (50, "fewer than 100"), (99, "fewer than 100"),
        (100, "fewer than 500"), (499, "fewer than 500"),
    ],
)  # fmt: skip
def test_few_images_are_told(images: int, words: str) -> None:
    (told,) = advice({"rare": images}, pretrained=True)

    assert told.startswith("rare: ")
    assert words in told


def test_enough_images_in_balance_need_no_advice() -> None:
    assert advice({"a": 500, "b": 5000}, pretrained=True) == []
    assert advice({"a": 10_000, "b": 20_000}, pretrained=False) == []
    assert advice({}, pretrained=False) == []


def test_training_from_scratch_on_little_and_imbalance_are_told() -> None:
    told = advice({"common": 9_000, "rare": 800}, pretrained=False)

    assert [words.split(":")[0] for words in told] == [
        "4,900 training images in the middle class, and training starts from scratch",
        "common comes 11 times as often as rare, whose errors weigh little in training",
    ]


def test_advice_on_a_thousand_classes_is_short() -> None:
    told = advice({f"class {n}": n % 400 for n in range(1000)}, pretrained=False)

    assert all(len(words) < 400 for words in told)
    assert any("and 992 more" in words or "more classes" in words for words in told)


def test_the_page_shows_hostile_names_as_text(tmp_path: Path) -> None:
    write_card_page(facts(licence=HOSTILE), [HOSTILE], {"cat": HOSTILE}, {"cat": ["data:,"]}, tmp_path / "card.html")
    page = (tmp_path / "card.html").read_text(encoding="utf-8")

    assert "<img src=x" not in page
    assert page.count("&lt;img src=x") == 4
    assert "20.0 %" in page
    assert "1 pair of images that look the same" in page


def test_the_page_of_many_classes_folds_the_rest(tmp_path: Path) -> None:
    names = tuple(f"class {n}" for n in range(1000))
    manifest = Manifest.from_rows([row(n, names[n % 1000]) for n in range(3000)], names)
    found = card_facts(manifest, np.full((3000, 2), 28), NOTHING, version=None, licence="", audit=None)
    write_card_page(found, [], {}, {}, tmp_path / "card.html")
    page = (tmp_path / "card.html").read_text(encoding="utf-8")

    assert f"{1000 - MOST_CLASSES} further classes" in page
    assert f"<td>{3 * (1000 - MOST_CLASSES):,}</td>" in page
    assert len(page) < 200_000
