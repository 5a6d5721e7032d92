"""The page of held images: names and labels from outside are text on it, and it is bounded by who calls it."""

from pathlib import Path

from components.labels.held_page import write_held_page

HOSTILE = "<img src=x onerror=alert(1)>"


def entry(**cells: object) -> dict[str, object]:
    held = {"image_id": "3f" * 32, "name": HOSTILE, "reason": "label-conflict", "detail": "", "label": HOSTILE}
    return {**held, "stored": HOSTILE, "beside": None, **cells}


def test_hostile_names_and_labels_are_shown_as_text(tmp_path: Path) -> None:
    write_held_page([entry()], {"3f" * 32: "data:,"}, total=1, version=HOSTILE, path=tmp_path / "held.html")
    page = (tmp_path / "held.html").read_text(encoding="utf-8")
    assert "<img src=x" not in page
    assert page.count("&lt;img src=x") == 5  # version, name, both labels, and the picture's text
    assert "default-src 'none'" in page
    assert "<script" not in page


def test_what_has_no_picture_and_what_is_left_out_is_told(tmp_path: Path) -> None:
    held = [entry(reason="frozen-group", stored=None, label=None, beside="4f" * 32)]
    write_held_page(held, {"4f" * 32: "data:,"}, total=1200, version=None, path=tmp_path / "held.html")
    page = (tmp_path / "held.html").read_text(encoding="utf-8")
    assert "1,200 images held in no dataset version" in page
    assert "The first 1; 1,199 more" in page
    assert "belongs to an image of the frozen test set" in page
    assert page.count("<img") == 1
