import base64
import hashlib
import json
import time
from html.parser import HTMLParser

import numpy as np
import pytest

from components.errors import DataError
from components.simulation.charts import METRICS, class_chart
from components.simulation.report import write_report
from components.simulation.story import class_stories, coverage, headline, month_events, v_level
from components.simulation.svg import ShareAxis, shortened
from components.simulation.timeline import NARROW, accuracy_chart
from components.simulation.verdicts import verdicts
from components.simulation.words import counted, planted_changes

CLASSES = ("Bag", "Boot", "Coat", "Dress", "Pullover", "Sandal", "Shirt", "Sneaker", "T-shirt", "Trouser")
LEVELS = {
    "Shirt": (0.76, 0.73),
    "Coat": (0.86, 0.84),
    "Pullover": (0.87, 0.85),
    "T-shirt": (0.86, 0.87),
    "Dress": (0.91, 0.92),
}
COLUMNS = (
    "predicted",
    "confidence",
    "brightness",
    "contrast",
    "sharpness",
    "saturation",
    "width",
    "height",
    "aspect",
    "bytes",
)


def estimated(truth: float, half: float, rng: np.random.Generator) -> dict:
    value = float(np.clip(truth + rng.normal(0, half / 2.4), 0.004, 0.996))
    return {
        "value": round(value, 5),
        "low": round(max(value - half, 0.0), 5),
        "high": round(min(value + 0.8 * half, 1.0), 5),
    }


def one_class(name: str, number: int, rng: np.random.Generator) -> dict:
    precision, recall = (level + rng.normal(0, 0.006) for level in LEVELS.get(name, (0.955, 0.955)))
    state, reasons = ("no-reference" if number == 1 else "ok"), []
    if number == 3 and name == "Sneaker":
        precision, recall, state = 0.62, 0.0193, "alarm"
        reasons = [
            "recall 3.1 % (at most 12.0 %), reference 95.2 %",
            "precision 58.8 % (at most 81.4 %), reference 95.9 %",
        ]
    elif number == 3 and name == "Bag":
        precision, state, reasons = (
            0.66,
            "alarm",
            ["precision 65.2 % (at most 78.9 %), reference 96.1 %"],
        )
    elif number == 5 and name == "Shirt":
        state, reasons = "suspect", ["recall 66.0 % (at most 74.9 %), reference 73.0 %"]
    elif number == 4 and name == "Sandal":
        state, reasons = "insufficient", ["worth 11 independent labels, too few for an alarm"]
    half = 0.04 if number == 1 else 0.085
    return {
        "name": name,
        "predicted": int(rng.integers(440, 560)),
        "labels": 125 if number == 1 else 25,
        "precision": estimated(precision, half, rng),
        "recall": estimated(recall, 1.3 * half, rng),
        "state": state,
        "reasons": reasons,
        "true_precision": round(precision, 5),
        "true_recall": round(recall, 5),
    }


def one_finding(column: str, number: int, rng: np.random.Generator) -> dict:
    if number == 1:
        state = "undecided: no drift reference yet; window 2026-01 is it from now on"
        return {"column": column, "p_value": None, "v": None, "drifted": False, "plain_p_value": None, "state": state}
    if column in ("saturation", "width", "height", "aspect"):
        state = "undecided: all rows lie in one cell"
        return {"column": column, "p_value": None, "v": None, "drifted": False, "plain_p_value": None, "state": state}
    drifted = number == 3 and column in ("predicted", "confidence", "brightness", "bytes")
    v = float(rng.uniform(0.12, 0.45) if drifted else rng.uniform(0.01, 0.045))
    p = 1e-9 if drifted else float(rng.uniform(0.2, 0.99))
    return {"column": column, "p_value": p, "v": v, "drifted": drifted, "plain_p_value": p / 3, "state": "ok"}


def checks() -> list[dict]:
    details = {
        "export parity": "the exported file agrees with the trained model",
        "calibration": "expected calibration error 0.014, at most 0.100",
        "overall": "accuracy +2.6 points, with 95 % confidence at least +1.9; -2.0 is allowed",
        "every class": "none of 10 classes is shown worse by +5.0",
        "alarmed class Bag": "precision +4.1 points, p 0.012 on 188 images; better at p < 0.2 is asked",
        "alarmed class Sneaker": "recall +31.0 points, p 0.000 on 214 images; precision +0.4 points, p 0.402 on 190 images; better at p < 0.2 is asked",  # noqa: E501
    }
    numbers = {"overall": {"candidate": 0.9171, "champion": 0.8914, "images": 1684}}
    numbers["every class"] = {"alpha": 0.05, "Bag recall": [0.0123456, 0.031, 188]}
    numbers["alarmed class Bag"] = {
        "p": 0.2,
        "precision": {"difference": 0.041, "p_value": 0.012, "images": 188},
    }
    return [{"name": n, "passed": True, "detail": d, "numbers": numbers.get(n, {})} for n, d in details.items()]


def renewal() -> dict:
    verdict = {"passed": True, "reason": "all 6 checks passed", "checks": checks()}
    return {
        "version": 2,
        "dataset_version": "data/2026-04-18-1",
        "verdict": verdict,
        "promoted": True,
    }


def one_month(number: int, rng: np.random.Generator) -> dict:
    true = (0.9142, 0.9098, 0.8214, 0.9166, 0.9154, 0.9172)[number - 1]
    alarmed = ["Sneaker", "Bag"] if number == 3 else []
    reason = "no class is shown to have fallen"
    if number == 1:
        reason = "window 2026-01 is the service's reference from now on (1126 labels)"
    if number == 3:
        reason = "accuracy fell: Sneaker recall 3.1 % (at most 12.0 %), reference 95.2 %; Bag precision 65.2 % (at most 78.9 %), reference 96.1 %"  # noqa: E501
    if number == 5:
        reason = "suspected but not shown on all labels: Shirt"
    return {
        "month": number,
        "window": f"2026-{number:02d}",
        "model_version": 1 if number <= 3 else 2,
        "predictions": 5000,
        "labels": (1126, 226, 604, 227, 409, 225)[number - 1],
        "overall": estimated(true, 0.016 if number == 1 else 0.036, rng),
        "calibration_error": round(float(rng.uniform(0.008, 0.03)), 5),
        "classes": [one_class(name, number, rng) for name in CLASSES],
        "drift": [one_finding(column, number, rng) for column in COLUMNS],
        "decision": {"action": "retrain" if alarmed else "none", "classes": alarmed, "reason": reason},
        "true_accuracy": true,
        "alarmed": alarmed,
        "renewal": renewal() if alarmed else None,
    }


def run(count: int = 6) -> tuple[list[dict], dict]:
    """A run as `demo --json` prints it: Sneakers change their style in month 3, version 2 knows it."""
    rng = np.random.default_rng(9)
    months = [one_month(number, rng) for number in range(1, count + 1)]
    style = {
        "kind": "new_style",
        "classes": ["Sneaker"],
        "severity": [1.0, 1.0],
        "until": None,
        "weights": {},
        "to": None,
    }
    scenario = {
        "source": "fashion-mnist",
        "seed": 7,
        "initial_images": 12000,
        "label_errors": 0.05,
        "annotators": {"count": 3, "error_rate": 0.03, "answer_rate": 0.9},
        "label_share": 0.05,
        "months": [{"images": 5000, "shifts": [style] if number == 3 else []} for number in range(1, count + 1)],
    }
    facts = {"workspace": "/srv/.demo/workspace", "seconds": 402, "peak_memory_gb": 1.62, "note": ""}
    summary = {"scenario": scenario, "months": count, **verdicts(months), **facts}
    return months, json.loads(json.dumps(summary))


class Page(HTMLParser):
    """What a test asks of a page: its tags with their attributes, and its text without style."""

    VOID = frozenset({"meta"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)


def rendered(tmp_path, months, summary) -> Page:
    path = tmp_path / "report.html"
    write_report(months, summary, path)
    return Page(path.read_text(encoding="utf-8"))


def test_page_needs_no_network_and_no_script(tmp_path):
    page = rendered(tmp_path, *run())
    assert not {"script", "link", "img", "iframe", "object", "image"} & {tag for tag, _ in page.tags}
    assert not {"src", "href", "style", "onload", "onclick"} & {
        name for _, attributes in page.tags for name in attributes
    }
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "http://" not in html and "https://" not in html and "url(" not in html


def test_policy_allows_exactly_the_style_of_the_page(tmp_path):
    page = rendered(tmp_path, *run())
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    style = html.split("<style>")[1].split("</style>")[0]
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; ")
    assert f"style-src 'sha256-{digest}';" in policy
    assert "unsafe" not in policy


def test_every_chart_says_in_words_what_it_shows(tmp_path):
    page = rendered(tmp_path, *run())
    drawings = [attributes for tag, attributes in page.tags if tag == "svg"]
    charts = [attributes for attributes in drawings if attributes.get("role") == "img"]
    assert len(charts) == 2 + 2 * len(CLASSES) + 1  # overall twice (one a screen width), two a class, labels
    assert all(attributes["aria-label"] for attributes in charts)
    assert all(a.get("aria-hidden") == "true" for a in drawings if a not in charts)
    sneaker = next(a["aria-label"] for a in charts if a["aria-label"].startswith("Sneaker, recall"))
    assert "March 2026: estimated" in sneaker and "in truth 1.9" in sneaker and "Alarm: March 2026." in sneaker


def test_every_chart_has_its_numbers_in_a_table(tmp_path):
    months, summary = run()
    page = rendered(tmp_path, months, summary)
    # months, decisions, overall, classes, labels, drift and its tests, checks and their numbers
    assert sum(tag == "table" for tag, _ in page.tags) == 3 + len(CLASSES) + 1 + 2 + 2
    text = page.text.replace("\xa0", " ")
    for bounds in (month["overall"] for month in months):
        assert f"{100 * bounds['low']:.1f} to {100 * bounds['high']:.1f}" in text
    assert "0.01235, 0.031, 188" in page.text


def test_page_says_what_is_real_and_what_is_simulated(tmp_path):
    text = rendered(tmp_path, *run()).text.replace("\xa0", " ")
    assert "the images (fashion-mnist)" in text
    assert "the services: PostgreSQL, MLflow, DVC and Prefect" in text
    assert "the drift: Sneaker images arrive in a new style, inverted and mirrored" in text
    assert "programs that know the truth, err in 3 % of their answers and pass over 10 % of their tasks" in text


def test_page_tells_the_months_in_order(tmp_path):
    text = rendered(tmp_path, *run()).text
    told = [
        "Window 2026-01 is the service's reference",
        "Alarm for Sneaker and Bag.",
        "Version 2 is trained, passes 6 of 6 checks and takes over.",
        "Suspected but not shown on all labels: Shirt.",
    ]
    places = [text.index(sentence) for sentence in told]
    assert places == sorted(places)


def test_a_claim_that_fails_is_in_the_headline_and_in_words(tmp_path):
    months, summary = run()
    broken = next(claim for claim in summary["verdicts"] if claim[0].startswith("every alarm led"))
    broken[1] = False
    page = rendered(tmp_path, months, summary)
    assert "Six simulated months, and 1 of 4 claims does not hold" in page.text
    assert page.text.count("✗ does not hold Every alarm led to a promotion") == 1
    assert page.text.count("✓ holds") == 3


def test_headline_claims_no_more_than_the_verdicts():
    months, summary = run()
    assert headline(months, summary) == "Accuracy fell in March. The service noticed, and renewed its model."
    assert headline(months, summary | {"note": "too small"}).endswith("the mechanics of the whole loop")
    quiet, quiet_summary = run(2)
    assert headline(quiet, quiet_summary) == "Two simulated months without an alarm: one model served throughout"


def test_a_refused_renewal_is_shown_as_refused(tmp_path):
    months, summary = run()
    months[2]["renewal"]["promoted"] = False
    months[2]["renewal"]["verdict"]["checks"][2]["passed"] = False
    page = rendered(tmp_path, months, summary)
    assert "Version 2 is trained, passes 5 of 6 checks and is refused." in page.text
    assert "✗ failed" in page.text
    assert "a new version is refused" in page.text
    kinds = [a.get("class") for tag, a in page.tags if tag in ("polygon", "line")]
    assert "refused" in kinds and "thread renewal" not in kinds


def test_what_was_not_measured_is_said_and_not_drawn(tmp_path):
    months, summary = run(2)
    for month in months:
        month |= {"overall": None, "true_accuracy": None, "calibration_error": None, "labels": 0, "predictions": 0}
        month["drift"] = []
        for found in month["classes"]:
            found |= {"precision": None, "recall": None, "true_precision": None, "true_recall": None}
            found |= {"state": "not-measurable", "labels": 0}
    page = rendered(tmp_path, months, summary | {"seconds": None, "workspace": None})
    drawn = [a.get("class") for tag, a in page.tags if tag in ("rect", "circle")]
    assert (drawn.count("interval"), drawn.count("truth")) == (2, 2)  # in the two legends
    assert "not measured" in page.text and "No column was watched." in page.text
    assert "None" not in page.text


def test_a_class_that_comes_later_is_missing_before(tmp_path):
    months, summary = run()
    for month in months[:3]:
        month["classes"] = [c for c in month["classes"] if c["name"] != "Boot"]
    boot = next(story for story in class_stories(months) if story.name == "Boot")
    assert [month.found is None for month in boot.months] == [True] * 3 + [False] * 3
    assert "class unknown to this month's model" in rendered(tmp_path, months, summary).text


def test_hostile_names_stay_text(tmp_path):
    months, summary = run()
    name = "\"><script>alert(1)</script><b onclick='x'>\udcff"
    for month in months:
        month["classes"][7]["name"] = name
    months[2]["alarmed"] = months[2]["decision"]["classes"] = [name]
    summary["scenario"]["months"][2]["shifts"][0]["classes"] = [name]
    summary["verdicts"].append([name, True])
    page = rendered(tmp_path, months, summary)
    assert not {"script", "b"} & {tag for tag, _ in page.tags}
    assert "alert(1)" in page.text


def test_same_run_gives_the_same_bytes_in_place_of_the_old_page(tmp_path):
    path = tmp_path / "new" / "report.html"
    write_report(*run(), path)
    first = path.read_bytes()
    path.write_text("old")
    write_report(*run(), path)
    assert path.read_bytes() == first
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]


def test_page_is_small_and_quick_even_with_many_classes(tmp_path):
    months, summary = run()
    for month in months:
        extra = [{**month["classes"][0], "name": f"Bag {number}"} for number in range(60)]
        month["classes"] = month["classes"] + extra
    started = time.perf_counter()
    page = rendered(tmp_path, months, summary)
    assert time.perf_counter() - started < 3
    assert (tmp_path / "report.html").stat().st_size < 1_000_000
    assert "The other 46 classes, as tables:" in page.text


def test_a_run_without_a_month_is_refused(tmp_path):
    with pytest.raises(DataError, match="no month to report"):
        write_report([], {"verdicts": []}, tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_dot_lies_in_its_bar_exactly_where_the_interval_holds_the_truth():
    months, _ = run()
    months[1]["true_accuracy"] = months[1]["overall"]["high"] + 0.01
    drawing = accuracy_chart(months, [], NARROW)
    bars = [mark.attributes for mark in drawing.marks if mark.attributes["class"] == "interval"]
    dots = [mark.attributes for mark in drawing.marks if mark.tag == "circle"]
    inside = [
        float(bar["y"]) - 0.1 <= float(dot["cy"]) <= float(bar["y"]) + float(bar["height"]) + 0.1
        for bar, dot in zip(bars, dots, strict=True)
    ]
    held = [m["overall"]["low"] <= m["true_accuracy"] <= m["overall"]["high"] for m in months]
    assert inside == held
    assert held[1] is False
    assert coverage(months)["overall"] == (sum(held), 6)


def test_alarm_is_marked_only_where_its_reasons_name_the_measure():
    months, _ = run()
    marks = {metric: [m.tag for m in class_chart(months, "Bag", metric, 0.0).marks] for metric in METRICS}
    assert marks["precision"].count("polygon") == 1
    assert marks["recall"].count("polygon") == 0


def test_alarmed_classes_come_first_then_suspected_ones_then_the_weakest():
    names = [story.name for story in class_stories(run()[0])]
    assert set(names[:2]) == {"Sneaker", "Bag"}
    assert names[2] == "Shirt"
    assert set(names[3:6]) == {"Coat", "Pullover", "T-shirt"}


def test_drawing_keeps_its_marks_on_the_canvas():
    for count in (1, 6, 24):
        months = [{**month, "window": f"2026-{1 + n % 12:02d}"} for n, month in enumerate((run()[0] * 4)[:count])]
        drawing = accuracy_chart(months, planted_changes({}, count), NARROW)
        for mark in drawing.marks:
            assert 0 <= float(mark.attributes.get("x", 0)) <= drawing.width
            assert 0 <= float(mark.attributes.get("y", mark.attributes.get("cy", 0))) <= drawing.height


def test_a_planted_change_spans_its_months_and_says_its_strength():
    shift = {"kind": "relabel", "classes": ["Coat"], "to": "Shirt", "severity": [0.1, 0.9], "until": 4}
    everywhere = {"kind": "blur", "classes": [], "severity": [0.5, 0.5], "until": None}
    scenario = {"months": [{}, {"shifts": [shift]}, {"shifts": [everywhere]}, {}, {}]}
    relabel, blur = planted_changes(scenario, 5)
    assert (relabel.first, relabel.last, blur.first, blur.last) == (1, 3, 2, 4)
    assert relabel.sentence == "Coat images mean another class, Shirt (strength 10\xa0% to 90\xa0%)"
    assert blur.sentence == "All images get blurred (strength 50\xa0%)"
    assert planted_changes(scenario, 2)[0].last == 1
    quiet = run()[0][1]
    assert ("planted", "New meaning: Coat: over.") in month_events(quiet, [relabel], 4)
    assert not any(kind == "planted" for kind, _ in month_events(quiet, [relabel], 3))


@pytest.mark.parametrize(
    ("values", "lowest"), [([0.97, 0.99], 0.95), ([0.91], 0.9), ([0.79, 1.0], 0.7), ([0.3], 0.0), ([], 0.0)]
)
def test_axis_is_the_narrowest_that_shows_all(values, lowest):
    axis = ShareAxis.showing(values, top=10, bottom=110)
    assert axis.lowest == lowest
    assert axis.ticks()[0] == lowest and axis.ticks()[-1] == pytest.approx(1)
    assert axis.y(lowest) == 110 and axis.y(1.0) == pytest.approx(10)


def test_words():
    assert [counted(n, "alarm") for n in (0, 1, 12, 1250)] == [
        "no alarms",
        "one alarm",
        "twelve alarms",
        "1,250 alarms",
    ]
    assert shortened("Sneaker, Bag", 40, 10) == "Sneake…"
    assert shortened("Bag", 40, 10) == "Bag"
    assert [v_level(v) for v in (None, 0.01, 0.05, 0.9)] == [0, 0, 2, 5]
