"""What an audit doubts: in one list, worst first, on a page that shows it and obeys nothing it shows."""

import html.parser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.data.descriptor import descriptor
from components.labels.annotators import OPINIONS
from components.labels.audit_page import MOST_SHOWN, Shown, write_audit_page
from components.labels.conflicts import find_conflicts
from components.labels.findings import CONFLICT, LABEL, Audited, Finding, ranked, read_findings, write_findings
from components.labels.image_issues import IMAGE_ISSUES, ImageIssue, ImageIssues, find_image_issues
from components.labels.issues import LabelIssues
from components.pages.page import data_uri

RNG = np.random.default_rng(7)


def scene(number: int, size: tuple[int, int] = (48, 48)) -> Image.Image:
    """A picture with shapes, edges and some noise, another one for each number."""
    rng = np.random.default_rng(number)
    small = rng.integers(0, 256, (6, 6), dtype=np.uint8)
    shapes = Image.fromarray(small).resize(size, Image.Resampling.NEAREST)
    noise = rng.integers(-12, 13, size[::-1])
    return Image.fromarray(np.clip(np.asarray(shapes).astype(int) + noise, 0, 255).astype(np.uint8))


def haze() -> Image.Image:
    """A row of greys, each a little lighter than the one before: no edge."""
    return Image.fromarray(np.linspace(0, 110, 48 * 48).reshape(48, 48).astype(np.uint8))


def test_images_that_look_wrong_are_named_and_the_others_are_not() -> None:
    images = [scene(number) for number in range(200)]
    images[3] = Image.fromarray(np.asarray(images[3]) // 40)
    images[5] = haze()
    images[7] = Image.new("L", (48, 48), 255)
    images[11] = scene(11, (480, 480))
    images[13] = scene(13, (200, 12))
    found = find_image_issues(images)
    kinds: dict[int, set[str]] = {}
    for issue in found.issues:
        kinds.setdefault(issue.row, set()).add(issue.kind)

    assert kinds.keys() == {3, 5, 7, 11, 13}
    assert "dark" in kinds[3]
    assert "blurry" in kinds[5]
    assert {"light", "low_information"} <= kinds[7]
    assert "odd_size" in kinds[11]
    assert "odd_aspect_ratio" in kinds[13]
    assert all(0 <= issue.severity <= 1 for issue in found.issues)
    assert list(found.issues) == sorted(found.issues, key=lambda issue: -issue.severity)
    assert found.common == {}
    assert found.report()["counts"]["odd_aspect_ratio"] == 1


def test_what_many_images_share_is_how_the_data_are() -> None:
    images = [Image.fromarray(np.asarray(scene(n)) // 40) if n % 5 == 0 else scene(n) for n in range(100)]
    found = find_image_issues(images)

    assert found.common["dark"] == 0.2
    assert not any(issue.kind == "dark" for issue in found.issues)


def test_no_images_no_issues() -> None:
    assert find_image_issues([]) == ImageIssues((), {})


def test_near_duplicates_with_different_labels_are_in_conflict() -> None:
    images = [scene(number) for number in range(30)]
    images += [image.resize((96, 96)) for image in images[:6]]
    labels = np.array([n % 3 for n in range(30)] + [0, 1, 2, 1, 2, 0])
    found = find_conflicts(np.stack([descriptor(image) for image in images]), labels)

    assert found.images == 12
    assert sorted(zip(found.first.tolist(), found.second.tolist(), strict=True)) == [(3, 33), (4, 34), (5, 35)]
    assert (found.likeness > 0).all()
    assert found.report() == {"images": 12, "conflicts": 3}


CLASSES = ("cat", "dog", "<script>alert(1)</script>", "unused")
LABELS = np.array([0, 0, 1, 1, 2, 2])
IDS = [f"{n:064x}" for n in range(6)]
ISSUES = LabelIssues(
    suspect=np.array([True, False, True, False, True, False]),
    score=np.array([0.1, 0.9, 0.02, 0.7, 0.3, 0.5]),
    likely=np.array([1, 0, 2, 1, 0, 2]),
)
AUDITED = Audited(IDS, LABELS, CLASSES)


def findings() -> list[Finding]:
    looks = ImageIssues((ImageIssue(3, "dark", 0.95),), {"blurry": 0.4})
    alike = find_conflicts(np.stack([descriptor(scene(n % 5)) for n in range(6)]), LABELS)
    return ranked([*AUDITED.of_labels(ISSUES), *AUDITED.of_images(looks), *AUDITED.of_conflicts(alike)])


def test_one_list_holds_every_doubt_worst_first(tmp_path: Path) -> None:
    found = findings()

    assert [(finding.image_id, finding.kind) for finding in found] == [
        (IDS[0], CONFLICT), (IDS[2], LABEL), (IDS[3], "dark"), (IDS[0], LABEL), (IDS[4], LABEL),
    ]  # fmt: skip
    assert found[1].likely == CLASSES[2]
    assert found[0].beside == IDS[5]
    write_findings(tmp_path, found)
    assert [row["severity"] for row in read_findings(tmp_path, 3)] == [1.0, 0.98, 0.95]


def test_every_class_with_images_has_its_row() -> None:
    rows = AUDITED.class_rows(ISSUES, np.array([1]))

    assert [row["name"] for row in rows] == list(CLASSES[:3])
    assert rows[0] == {
        "name": "cat", "images": 2, "suspects": 1, "judged": True, "threshold": 0.5, "likely": "dog",
    }  # fmt: skip
    assert not rows[1]["judged"]


def metrics(**changed: Any) -> dict[str, Any]:
    return {
        "images": 6, "suspects": 3, "share": 0.5, "agreement": 0.5,
        "classes": AUDITED.class_rows(ISSUES, np.array([1])), "not_judged": ["dog"],
        "image_issues": ImageIssues((ImageIssue(3, "dark", 0.95),), {"blurry": 0.4}).report(),
        "near_duplicates": {"images": 2, "conflicts": 1}, "findings": 5,
        "policy": "Training learns doubted labels as they are.", "method": "3 models.",
        "stale": {"labels": 1, "changes": [{"words": "of what was called <b>cat</b>, people say dog"}]},
    } | changed  # fmt: skip


class _Page(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.said = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.said += data


def read(path: Path) -> _Page:
    page = _Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


HOSTILE = Shown(data_uri(scene(1)), '"><img src=x onerror=alert(1)>', "javascript:alert(1)")


def test_the_page_shows_the_findings_and_obeys_none(tmp_path: Path) -> None:
    write_audit_page(metrics(), findings(), lambda _: HOSTILE, tmp_path / "audit.html")
    page = read(tmp_path / "audit.html")

    assert "script" not in page.tags
    assert all(source.startswith("data:image/") for source in page.sources)
    assert page.tags.count("img") == 6  # five findings, one of them beside another image
    assert "3 of 6 labels are hard to believe" in page.said
    assert "<script>alert(1)</script>?" in page.said
    assert "40.0\N{NO-BREAK SPACE}% of all: so these data are" in page.said
    assert "not judged" in page.said
    assert "of what was called <b>cat</b>" in page.said


def test_annotators_are_shown_by_their_names_as_text_and_those_with_too_few_opinions_unjudged(tmp_path: Path) -> None:
    one = {"name": HOSTILE.name, "opinions": 900, "shared": 90, "quality": 0.512, "agreement": 0.5,
           "said": CLASSES[2], "meant": "cat", "times": 7}  # fmt: skip
    few = one | {"name": "bob", "shared": 3, "quality": None, "agreement": None, "times": 0}
    crowd = {
        "annotators": 300, "opinions": 1200, "images": 400, "shared": 390, "agreement": 0.8, "differ": 1, "too_few": 1,
        "fewest_shared": 20, "not_judged": None, "people": [one, few] * 40,
    }  # fmt: skip
    doubt = Finding(IDS[0], OPINIONS, 0.7, "cat", "1 of 3 annotators say so", likely=CLASSES[2])
    write_audit_page(metrics(annotators=crowd), [doubt], lambda _: HOSTILE, tmp_path / "audit.html")
    page = read(tmp_path / "audit.html")

    assert "script" not in page.tags
    assert page.tags.count("img") == 1
    assert page.said.count(HOSTILE.name) == 20 + 1  # once as the picture's name
    assert "says <script>alert(1)</script> where it is cat, 7 times" in page.said
    assert page.said.count("too few to judge") == 20
    assert "<script>alert(1)</script>?" in page.said
    assert "260 further annotators" in page.said
    alone = crowd | {"not_judged": "no image has the opinions of two annotators", "agreement": None}
    write_audit_page(metrics(annotators=alone), [], lambda _: HOSTILE, tmp_path / "audit.html")
    assert "Nobody is judged: no image has" in read(tmp_path / "audit.html").said


def test_the_page_is_the_same_for_the_same_audit_and_bounded(tmp_path: Path) -> None:
    many = [Finding(IDS[n % 6], LABEL, 0.5, "cat", "believed with 50 %", likely="dog") for n in range(10 * MOST_SHOWN)]
    asked: list[str] = []

    def show(image_id: str) -> Shown:
        asked.append(image_id)
        return HOSTILE

    for name in ("one.html", "other.html"):
        write_audit_page(metrics(findings=len(many)), many, show, tmp_path / name)

    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "other.html").read_bytes()
    assert len(asked) == 12
    assert f"{9 * MOST_SHOWN:,} more" in read(tmp_path / "one.html").said


@pytest.mark.parametrize("classes", [[], metrics()["classes"]])
def test_the_page_of_an_audit_without_findings_says_so(tmp_path: Path, classes: list[dict[str, Any]]) -> None:
    nothing = metrics(
        suspects=0, share=0.0, classes=classes, not_judged=[], findings=0,
        near_duplicates={"images": 0, "conflicts": 0},
        stale={"labels": 0, "changes": []}, image_issues={"counts": dict.fromkeys(IMAGE_ISSUES, 0), "common": {}},
    )  # fmt: skip
    write_audit_page(nothing, [], lambda _: HOSTILE, tmp_path / "audit.html")

    assert "Nothing: no label is doubted" in read(tmp_path / "audit.html").said
