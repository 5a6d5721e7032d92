"""What changed in a drifted window, on a real database, image store and exported model: words, page, alert."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from components.data.appearance import apply
from components.data.decoding.decode import decode
from components.data.png import encode_png
from components.data.sources.item import SourceItem
from components.errors import RefusedError
from components.model.artifact import ONNX_FILE, ModelSpec, file_sha256, read_spec, write_spec
from components.model.images.preprocess import PreprocessSpec
from components.operations.batches import score_items
from components.operations.monitoring.drift_explained import drift_page, explain_drift, explain_window
from components.operations.monitoring.judging import monitor_window
from components.operations.retention import expire
from components.operations.services import Services
from components.operations.workspace import Workspace
from components.params import Params
from components.records import Decision, ModelVersion, Window
from components.registry.artifacts import artifact_sha256
from components.registry.mlflow_registry import Registry
from components.scoring.images import ImageStore
from components.settings import Settings
from components.store import alerts_log, champions, monitoring, predictions, reading
from components.store.database import Database

pytestmark = pytest.mark.xdist_group("drift-explained")  # one worker makes what the module's tests share

OCTOBER, NOVEMBER = Window.parse("2026-10"), Window.parse("2026-11")
CLOSED = datetime(2026, 12, 3, 6, tzinfo=UTC)
HELD = "0"
HOSTILE = '<script>alert("1")</script>'


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, digits: list[SourceItem]) -> Path:
    """A small network that learnt 500 digits without the held one; the digit 1 has a hostile name."""
    from components.model.images.inputs import ImageSet
    from components.model.networks.backbones import build
    from components.model.serving.export import to_onnx
    from components.model.training.fit import fit
    from components.params import Augment, Train

    folder = tmp_path_factory.mktemp("exported")
    names = tuple(str(n) for n in range(10) if str(n) != HELD)
    items = [item for item in digits[:560] if item.label != HELD]
    images = np.stack([pixels(item)[..., None] for item in items])
    labels = np.array([names.index(str(item.label)) for item in items])
    spec = ModelSpec(
        tuple(HOSTILE if name == "1" else name for name in names),
        PreprocessSpec(images.shape[1], 1, "stretch", 1.0, "box", (0.3,), (0.35,)), "small_cnn",
    )  # fmt: skip
    network = build("small_cnn", classes=9, channels=1, size=images.shape[1], dropout=0.1, pretrained="none", seed=2)
    learning = ImageSet(images, labels, np.ones(len(labels), np.float32))
    rules = Train(batch_size=32, augment=Augment(shift=0.0))
    fitted = fit(network, learning, None, spec=spec.preprocess, params=rules, epochs=4)
    to_onnx(fitted.network, spec, folder / ONNX_FILE)
    write_spec(folder, spec.exported(1.0, 0.7, file_sha256(folder / ONNX_FILE)))
    return folder


def pixels(item: SourceItem) -> np.ndarray:
    with Image.open(io.BytesIO(item.content)) as image:
        return np.asarray(image.convert("L"))


@pytest.fixture
def services(database: Database, tmp_path: Path, exported: Path, make_model: Callable[..., ModelVersion]) -> Services:
    """A workspace whose champion is the small network, as if it had been fetched from the registry before."""
    workspace = Workspace(tmp_path, Params(), Settings())
    install(workspace, database, exported, make_model(1, read_spec(exported).classes))
    return Services(workspace, database, ImageStore(str(tmp_path / "images")), Registry("sqlite://", str(tmp_path)))


def install(workspace: Workspace, database: Database, exported: Path, model: ModelVersion) -> None:
    model = replace(model, artifact_sha256=artifact_sha256(exported))
    champions.register_model(database, model)
    before = champions.champion(database)
    champions.compare_and_set(
        database, expected=before.version if before else None, new=model.version, now=OCTOBER.start, actor="test",
        reason="for the test", evidence={},
    )  # fmt: skip
    shutil.copytree(exported, workspace.state / "models" / f"{model.version}-{model.artifact_sha256[:16]}")


Scored = Callable[[Window, Sequence[SourceItem]], None]


@pytest.fixture
def score(services: Services) -> Scored:
    def run(window: Window, items: Sequence[SourceItem]) -> None:
        moment = window.start + timedelta(days=10)
        score_items(services, lambda: iter(items), source="test", batch_id=window.name, now=moment)

    return run


@pytest.fixture(scope="module")
def months(digits: list[SourceItem]) -> tuple[list[SourceItem], list[SourceItem]]:
    """The known digits that were not learnt, in two halves."""
    known = [replace(item, label=None) for item in digits[560:] if item.label != HELD]
    return known[::2], known[1::2]


def changed(items: Sequence[SourceItem], kind: str, strength: float, limits: Any) -> Iterator[SourceItem]:
    rng = np.random.default_rng(4)
    for item in items:
        image = np.asarray(decode(item.content, limits))
        yield replace(item, content=encode_png(apply(kind, image, strength, rng)))


def reference_then(services: Services, score: Scored, before: Sequence[SourceItem], now: Sequence[SourceItem]) -> Any:
    """Score both months, October being the reference, and return November's one segment as it is monitored."""
    score(OCTOBER, before)
    monitor_window(services, OCTOBER.name, now=OCTOBER.closes_at(49))
    score(NOVEMBER, now)
    (segment,) = monitor_window(services, NOVEMBER.name, now=CLOSED)
    return segment


def test_darker_images_are_named_shown_and_told_in_the_alert_and_the_findings(
    services: Services, score: Scored, months: Any
) -> None:
    darker = list(changed(months[1], "brightness", 0.5, services.limits))
    found = reference_then(services, score, months[0], darker)["drift_explained"]
    assert found["corruption"]["fits"]
    assert found["corruption"]["kind"] == "brightness"
    assert found["corruption"]["strength"] == pytest.approx(0.5, abs=0.1)
    assert found["new_class"]["candidates"] == []
    assert found["embeddings"]["p_value"] < 0.01
    assert found["groups"]
    assert sum(group["images"] for group in found["groups"]) <= found["images"] == len(darker)
    assert "darkened to 60 % of the light" in found["headline"]

    (told,) = [row for row in alerts_log.recent_alerts(services.database, 10) if row["key"].startswith("drift/")]
    assert found["summary"][1] in told["body"]
    assert f"What changed: file://{services.workspace.reports}/2026-11-v1-drift.html" in told["body"]
    assert Path(found["page"]) == services.workspace.reports / "2026-11-v1-drift.html"
    assert "darkened to 60 % of the light" in Path(found["page"]).read_text(encoding="utf-8")


def test_the_page_stands_alone_and_keeps_hostile_names_as_text(services: Services, score: Scored, months: Any) -> None:
    found = reference_then(services, score, months[0], list(changed(months[1], "invert", 1.0, services.limits)))
    page = Path(found["drift_explained"]["page"]).read_text(encoding="utf-8")
    assert "<script" not in page.lower()
    assert "&lt;script&gt;alert(&#34;1&#34;)&lt;/script&gt;" in page
    sources = re.findall(r'\b(?:src|href)="([^"]*)"', page)
    assert len(sources) > 20
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    pictures = re.findall(r"<img [^>]*>", page)
    assert all(re.search(r'alt="[^"]{8,}"', picture) for picture in pictures)
    assert "default-src 'none'; img-src data:" in page
    for group in found["drift_explained"]["groups"]:
        assert f": {group['images']} images</h3>" in page


def test_a_digit_the_model_never_saw_is_shown_as_perhaps_a_new_class(
    services: Services, score: Scored, months: Any, digits: list[SourceItem]
) -> None:
    held = [replace(item, label=None) for item in digits[560:] if item.label == HELD]
    score(OCTOBER, months[0])
    monitor_window(services, OCTOBER.name, now=OCTOBER.closes_at(49))
    score(NOVEMBER, [*months[1], *held])
    (found,) = explain_window(services, NOVEMBER.name, now=CLOSED)
    (candidate,) = found["new_class"]["candidates"]
    assert 0.3 * len(held) < candidate["images"] < 1.2 * len(held)
    assert "perhaps a class that the model does not know" in " ".join(found["summary"])
    assert "Perhaps a new class" in Path(found["page"]).read_text(encoding="utf-8")


def test_an_alarm_is_explained_and_its_alert_says_what_is_seen_where_no_column_drifted(
    services: Services, score: Scored, months: Any, digits: list[SourceItem]
) -> None:
    held = [replace(item, label=None) for item in digits[560:] if item.label == HELD]
    score(OCTOBER, months[0])
    monitor_window(services, OCTOBER.name, now=OCTOBER.closes_at(49))
    score(NOVEMBER, [*months[1], *held])
    decision = Decision("retrain", ("2",), "accuracy fell")
    payload = {"final": True, "decision": decision.as_json(), "rules": {}, "states": {}}
    with services.database.transaction() as connection:
        monitoring.record_judgement(connection, NOVEMBER, 1, 1, payload, now=CLOSED)
    params = services.workspace.params
    blind = params.model_copy(update={"monitor": params.monitor.model_copy(update={"drift_v": 1.0})})
    services = replace(services, workspace=replace(services.workspace, params=blind))
    (segment,) = monitor_window(services, NOVEMBER.name, now=CLOSED)
    assert not any(finding["drifted"] for finding in segment["drift"])
    assert segment["drift_explained"]["new_class"]["candidates"]
    (told,) = [row for row in alerts_log.recent_alerts(services.database, 10) if row["key"].startswith("accuracy/")]
    assert "Perhaps a new class, in " in told["body"]
    assert f"What changed: file://{drift_page(services, NOVEMBER, 1)}" in told["body"]


def test_a_quiet_month_says_that_nothing_was_found(services: Services, score: Scored, months: Any) -> None:
    segment = reference_then(services, score, *months)
    assert segment["drift_explained"] is None
    (found,) = explain_window(services, NOVEMBER.name, now=CLOSED)
    assert found["headline"] == "No difference in the images was found"
    assert found["groups"] == found["new_class"]["candidates"] == []
    assert not found["corruption"]["fits"]
    assert "cannot be told from the reference" in Path(found["page"]).read_text(encoding="utf-8")


def test_it_is_explained_once_and_anew_when_asked(services: Services, score: Scored, months: Any) -> None:
    reference_then(services, score, months[0], list(changed(months[1], "contrast", 0.5, services.limits)))
    page = drift_page(services, NOVEMBER, 1)
    (segment,) = predictions.segments(services.database, NOVEMBER)
    written = page.stat().st_mtime_ns
    first = explain_drift(services, NOVEMBER, segment, now=CLOSED)
    assert page.stat().st_mtime_ns == written
    later = CLOSED + timedelta(days=1)
    assert explain_drift(services, NOVEMBER, segment, now=later) == first
    page.with_suffix(".json").write_text("half a line", encoding="utf-8")
    assert explain_drift(services, NOVEMBER, segment, now=later) == {**first, "explained_at": later.isoformat()}
    (again,) = explain_window(services, NOVEMBER.name, now=CLOSED)
    assert again == first
    assert page.stat().st_mtime_ns > written


def test_a_model_without_embeddings_says_so_and_still_names_poor_light(
    services: Services, score: Scored, months: Any, exported: Path, tmp_path: Path, make_model: Any
) -> None:
    old = shutil.copytree(exported, tmp_path / "old")
    model = onnx.load(old / ONNX_FILE)
    del model.graph.output[2:]
    onnx.save(model, old / ONNX_FILE)
    write_spec(old, read_spec(old).exported(1.0, 0.7, file_sha256(old / ONNX_FILE)))
    install(services.workspace, services.database, old, make_model(2, read_spec(old).classes))
    darker = list(changed(months[1], "brightness", 0.5, services.limits))
    found = reference_then(services, score, months[0], darker)["drift_explained"]
    assert found["model_version"] == 2
    assert "without embeddings" in found["summary"][0]
    assert (found["corruption"]["fits"], found["corruption"]["kind"]) == (True, "brightness")
    assert found["groups"] == found["new_class"]["candidates"] == []
    assert "the model gives no embeddings" in Path(found["page"]).read_text(encoding="utf-8")


def test_what_cannot_be_explained_is_told_in_words_and_stops_nothing(
    services: Services, score: Scored, months: Any
) -> None:
    with pytest.raises(RefusedError, match="window 2026-11 has no predictions"):
        explain_window(services, NOVEMBER.name, now=CLOSED)
    score(OCTOBER, months[0])
    (found,) = explain_window(services, OCTOBER.name, now=CLOSED)
    assert found["summary"] == ["What changed cannot be shown: there is no drift reference yet."]
    monitor_window(services, OCTOBER.name, now=OCTOBER.closes_at(49))
    (found,) = explain_window(services, OCTOBER.name, now=CLOSED)
    assert found["state"] == "window 2026-10 is the reference itself"
    score(NOVEMBER, list(changed(months[1], "brightness", 0.7, services.limits)))
    services.images.delete_month(OCTOBER.start.date())
    (segment,) = monitor_window(services, NOVEMBER.name, now=CLOSED)
    assert segment["drift_explained"]["state"] == "the images of 2026-10 are not stored any more"
    assert segment["drift_explained"]["page"] is None
    (told,) = alerts_log.recent_alerts(services.database, 10)
    assert "the images of 2026-10 are not stored any more" in told["body"]


def test_a_page_that_cannot_be_written_stops_the_explanation_and_not_the_monitoring(
    services: Services, score: Scored, months: Any
) -> None:
    (drift_page(services, NOVEMBER, 1) / "in the way").mkdir(parents=True)
    segment = reference_then(services, score, months[0], list(changed(months[1], "brightness", 0.7, services.limits)))
    assert segment["drift_explained"]["state"].startswith("the attempt failed: ")
    (told,) = alerts_log.recent_alerts(services.database, 10)
    assert told["key"].startswith("drift/")
    assert "What changed: " not in told["body"]


def test_few_images_are_a_state_and_not_a_failure(services: Services, score: Scored, months: Any) -> None:
    score(OCTOBER, months[0][:60])
    monitor_window(services, OCTOBER.name, now=OCTOBER.closes_at(49))
    score(NOVEMBER, months[1][:10])
    (found,) = explain_window(services, NOVEMBER.name, now=CLOSED)
    assert found["images"] == 10
    assert found["embeddings"]["state"] == "undecided: 10 images on one side, fewer than 50"
    assert found["corruption"]["state"] == "undecided: 10 images on one side, fewer than 50"
    assert "undecided" in found["new_class"]["state"]


def test_the_page_and_its_findings_go_with_the_other_pages(services: Services, score: Scored, months: Any) -> None:
    score(OCTOBER, months[0])
    monitoring.rollup(services.database, OCTOBER)
    page = drift_page(services, NOVEMBER, 1)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("page", encoding="utf-8")
    page.with_suffix(".json").write_text(json.dumps({"summary": []}), encoding="utf-8")
    assert expire(services, now=NOVEMBER.end + timedelta(days=80))["pages"] == []
    gone = expire(services, now=NOVEMBER.end + timedelta(days=91))["pages"]
    assert gone == ["2026-11-v1-drift.html", "2026-11-v1-drift.json"]
    assert not page.exists()


def test_a_sample_is_of_one_models_different_images(
    services: Services, months: Any, exported: Path, tmp_path: Path, make_model: Any
) -> None:
    other = shutil.copytree(exported, tmp_path / "other")
    write_spec(other, replace(read_spec(other), review_below=0.6))
    for name, items in (("one", months[0][:30]), ("again", months[0][:20]), ("other", months[1][:25])):
        if name == "other":
            install(services.workspace, services.database, other, make_model(2, read_spec(other).classes))
        moment = OCTOBER.start + timedelta(days=3)
        score_items(services, lambda items=items: iter(items), source="test", batch_id=name, now=moment)  # type: ignore[misc]

    def sampled(version: int | None, limit: int = 100) -> list[str]:
        return [one.place.image_id for one in reading.sample_images(services.database, OCTOBER, version, limit)]

    assert len(set(sampled(1))) == len(sampled(1)) == 30
    assert len(sampled(2)) == 25
    assert set(sampled(None)) == set(sampled(1)) | set(sampled(2))
    assert sampled(2, 7) == sampled(2)[:7]
    known = {*read_spec(exported).classes}
    assert {one.predicted for one in reading.sample_images(services.database, OCTOBER, None, 100)} <= known
