"""A real MLflow: on SQLite for speed, once on PostgreSQL; and its own clients reading what we wrote."""

import hashlib
import json
import shutil
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from components.errors import ConflictError, DataError, IntegrityError, ServiceError
from components.model.artifact import ModelSpec, read_spec, write_spec
from components.model.images.preprocess import PreprocessSpec
from components.model.serving.predictor import Predictor
from components.registry.artifacts import artifact_sha256
from components.registry.mlflow_registry import Registry

CLASSES = ("ankle boot", "<b>bag</b>", "coat")
SIDE = 8


def write_export(folder: Path, seed: int = 0) -> Path:
    """Write a linear model as the export stage would: model.onnx with everything inside, model.json beside it."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    weights = numpy_helper.from_array(rng.normal(0, 0.1, (SIDE * SIDE, len(CLASSES))).astype(np.float32), "weights")
    temperature = numpy_helper.from_array(np.array(2.0, np.float32), "temperature")
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["floats"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
        helper.make_node("Div", ["logits", "temperature"], ["scaled"]),
        helper.make_node("Softmax", ["scaled"], ["probabilities"], axis=1),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", SIDE, SIDE, 1])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", len(CLASSES)])
        for name in ("logits", "probabilities")
    ]
    graph = helper.make_graph(nodes, "linear", [images], outputs, [weights, temperature])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, folder / "model.onnx")
    spec = ModelSpec(CLASSES, PreprocessSpec(SIDE, 1, "stretch", 1.0, "bilinear", (0.5,), (0.5,)), "linear")
    sha256 = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    write_spec(folder, spec.exported(temperature=2.0, review_below=0.7, onnx_sha256=sha256))
    (folder / "metrics.json").write_text('{"parity": 1e-6}')
    return folder


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database, made once: its migrations take seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    Registry(f"sqlite:///{path}", str(path.parent / "unused")).upgrade()
    return path


@pytest.fixture
def registry(migrated: Path, tmp_path: Path) -> Registry:
    shutil.copy(migrated, tmp_path / "mlflow.db")
    return Registry(f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path / "my artifacts"), clock=lambda: 1_790_000_000.0)


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_export(tmp_path_factory.mktemp("export") / "export")


def register(registry: Registry, export: Path, run_id: str | None = None, **changes) -> int:
    arguments = {
        "run_id": run_id or registry.start_run({"purpose": "test"}),
        "tags": {"dataset_version": "data/2026-10-01-1"},
        "metrics": {"accuracy": 0.91},
        "card_markdown": "# A card",
        "classes": CLASSES,
    }
    return registry.register(export, **(arguments | changes))


def images(count: int = 5) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, SIDE, SIDE, 1), dtype=np.uint8)


def test_a_registered_model_comes_back_as_the_export_it_was(registry, export, tmp_path):
    version = register(registry, export)
    folder = registry.download(version, tmp_path / "download")
    for name in ("model.onnx", "model.json", "metrics.json"):
        assert (folder / name).read_bytes() == (export / name).read_bytes()
    assert (folder / "model_card.md").read_text() == "# A card"
    assert artifact_sha256(folder) == artifact_sha256(export)
    for ours, theirs in zip(Predictor(folder).predict(images()), Predictor(export).predict(images()), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_no_file_of_a_registered_model_is_a_pickle(registry, export, tmp_path):
    folder = registry.download(register(registry, export), tmp_path / "download")
    names = {path.name for path in folder.rglob("*") if path.is_file()}
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pt", ".pth", ".joblib", ".bin"))]
    assert "MLmodel" in names


def test_registering_a_run_again_gives_the_same_version(registry, export):
    run_id = registry.start_run({}, key="request-7")
    first = register(registry, export, run_id)
    again = registry.start_run({}, key="request-7")
    assert again == run_id
    assert register(registry, export, again) == first
    assert register(registry, export) == first + 1


def test_a_run_killed_between_upload_and_version_registers_once(registry, export, monkeypatch):
    run_id = registry.start_run({})

    def killed(*_arguments: object, **_more: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(registry.client, "create_model_version", killed)
        with pytest.raises(KeyboardInterrupt):
            register(registry, export, run_id)
    assert register(registry, export, run_id) == 1


def test_a_run_with_other_files_than_its_version_is_a_conflict(registry, export, tmp_path):
    run_id = registry.start_run({})
    register(registry, export, run_id)
    with pytest.raises(ConflictError, match="version 1 with other files"):
        register(registry, write_export(tmp_path / "other", seed=1), run_id)


def test_a_model_of_another_class_list_is_refused(registry, export):
    with pytest.raises(DataError, match="ankle boot"):
        register(registry, export, classes=CLASSES[::-1])


def test_an_export_that_was_not_finished_is_refused(registry, tmp_path):
    with pytest.raises(IntegrityError, match=r"model\.json"):
        register(registry, tmp_path)


def test_versions_are_found_by_tag(registry, export):
    first, second = register(registry, export), register(registry, export, tags={"dataset_version": "other's"})
    assert registry.find_version_by_tag("dataset_version", "data/2026-10-01-1") == first
    assert registry.find_version_by_tag("dataset_version", "other's") == second
    assert registry.find_version_by_tag("dataset_version", "none") is None
    registry.set_tags(first, {"gate": "passed"})
    assert registry.tags(first)["gate"] == "passed"
    assert registry.tags(first)["perennial.artifact_sha256"] == artifact_sha256(export)


def test_the_champion_alias_moves_and_goes(registry, export):
    assert registry.champion_alias() is None
    registry.set_champion_alias(None)
    first, second = register(registry, export), register(registry, export)
    registry.set_champion_alias(first)
    assert registry.champion_alias() == first
    registry.set_champion_alias(second, first)
    registry.set_champion_alias(second, first)
    aliases = registry.client.get_registered_model("perennial").aliases
    assert {alias: int(version) for alias, version in aliases.items()} == {"champion": second, "previous": first}
    registry.set_champion_alias(None, None)
    assert registry.champion_alias() is None


def test_a_changed_file_is_not_handed_out(registry, export, tmp_path):
    version = register(registry, export)
    (stored,) = (tmp_path / "my artifacts").rglob("model.json")
    stored.write_text(stored.read_text().replace('"temperature": 2.0', '"temperature": 1.0'))
    with pytest.raises(IntegrityError, match="changed or damaged"):
        registry.download(version, tmp_path / "download")
    assert not (tmp_path / "download").exists()
    assert not list(tmp_path.glob(".download-*"))


def test_another_hash_than_the_one_asked_for_is_refused(registry, export, tmp_path):
    with pytest.raises(IntegrityError):
        registry.download(register(registry, export), tmp_path / "download", sha256="0" * 64)


def test_a_complete_download_is_used_again_and_a_damaged_one_replaced(registry, export, tmp_path):
    version, target = register(registry, export), tmp_path / "models" / "1"
    registry.download(version, target)
    marker = target / "marker"
    marker.touch()
    registry.download(version, target)
    assert marker.exists()
    (target / "model.onnx").write_bytes(b"cut")
    registry.download(version, target)
    assert not marker.exists()
    assert artifact_sha256(target) == artifact_sha256(export)


def test_a_moved_workspace_keeps_its_versions_and_writes_new_ones_to_its_new_place(registry, export, tmp_path):
    version = register(registry, export)
    (tmp_path / "moved").mkdir()
    shutil.move(tmp_path / "my artifacts", tmp_path / "moved" / "artifacts")
    moved = Registry(registry.tracking_uri, str(tmp_path / "moved" / "artifacts"))
    moved.download(version, tmp_path / "download")
    later = register(moved, export)
    assert not (tmp_path / "my artifacts").exists()
    moved.download(later, tmp_path / "later")


def test_the_card_can_be_replaced_after_the_gate(registry, export, tmp_path):
    version = register(registry, export)
    card = "# Judged\n" + "long " * 2000
    registry.set_card(version, card)
    assert (registry.download(version, tmp_path / "download") / "model_card.md").read_text() == card
    description = registry.client.get_model_version("perennial", str(version)).description
    assert description.startswith("# Judged")
    assert len(description) <= 5000


def test_params_and_metrics_are_recorded_under_names_mlflow_takes(registry):
    run_id = registry.start_run({})
    params = {"train": {"epochs": 3, "augment": {"flip": False}}}
    registry.log_params(run_id, params)
    registry.log_params(run_id, params)
    registry.log_metrics(run_id, {"recall <b>bag</b>'; DROP": 0.5, "accuracy": 1})
    data = registry.client.get_run(run_id).data
    assert data.params == {"train.epochs": "3", "train.augment.flip": "False"}
    assert data.metrics == {"recall _b_bag_/b___ DROP": 0.5, "accuracy": 1.0}
    registry.end_run(run_id, "FAILED")
    assert registry.client.get_run(run_id).info.status == "FAILED"


def metric_line(step: int, **values: float) -> str:
    return json.dumps({"step": step, "epoch": 0, "time": f"2026-10-01T00:00:{step:02d}+00:00", **values}) + "\n"


class Polled(threading.Event):
    """A stop signal that tells when its watcher has looked at it."""

    def __init__(self) -> None:
        super().__init__()
        self._looked = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self._looked.set()
        return super().wait(timeout)

    def next_look(self) -> None:
        self._looked.clear()
        assert self._looked.wait(30)


def test_metrics_are_logged_while_training_writes_them(registry, tmp_path):
    run_id, file, stop = registry.start_run({}), tmp_path / "metrics.jsonl", Polled()
    logged: list[int] = []
    tail = threading.Thread(
        target=lambda: logged.append(registry.tail_metrics(run_id, file, stop, poll_seconds=0.01)), daemon=True
    )
    tail.start()
    stop.next_look()

    def history() -> list[tuple[int, float]]:
        return [(point.step, point.value) for point in registry.client.get_metric_history(run_id, "loss")]

    half = metric_line(2, loss=0.5)
    file.write_text(metric_line(1, loss=1.0) + half[:20])
    stop.next_look()
    stop.next_look()
    assert history() == [(1, 1.0)]
    with file.open("a") as opened:
        opened.write(half[20:] + metric_line(3, loss=0.25, accuracy=0.9))
    stop.set()
    tail.join(timeout=30)
    assert logged == [4]
    assert history() == [(1, 1.0), (2, 0.5), (3, 0.25)]
    assert registry.client.get_metric_history(run_id, "accuracy")[0].timestamp == 1_790_812_803_000


def test_standard_clients_load_the_champion_and_predict(registry, export, monkeypatch):
    import mlflow

    registry.set_champion_alias(register(registry, export))
    monkeypatch.setattr(mlflow.tracking._tracking_service.utils, "_tracking_uri", None)
    mlflow.set_tracking_uri(registry.tracking_uri)
    mlflow.set_registry_uri(registry.tracking_uri)
    try:
        loaded = mlflow.pyfunc.load_model("models:/perennial@champion")
        answers = loaded.predict(images())
        with pytest.raises(mlflow.exceptions.MlflowException, match=r"shape|type"):
            loaded.predict(images().astype(np.float32))
    finally:
        mlflow.set_tracking_uri(None)
        mlflow.set_registry_uri(None)
    logits, probabilities = Predictor(export).predict(images())
    np.testing.assert_allclose(answers["logits"], logits, rtol=1e-6)
    np.testing.assert_allclose(answers["probabilities"], probabilities, rtol=1e-6)


def test_mlflow_serves_a_downloaded_version_over_http(registry, export, tmp_path):
    import mlflow.pyfunc
    from fastapi.testclient import TestClient
    from mlflow.pyfunc.scoring_server import init

    folder = registry.download(register(registry, export), tmp_path / "download")
    app = init(mlflow.pyfunc.load_model(str(folder)))
    answer = TestClient(app).post("/invocations", json={"inputs": images(2).tolist()})
    assert answer.status_code == 200, answer.text
    predictions = answer.json()["predictions"]
    np.testing.assert_allclose(predictions["probabilities"], Predictor(export).predict(images(2))[1], rtol=1e-5)


def test_the_same_on_postgresql_without_a_server(postgres, export, tmp_path):
    registry = Registry(postgres.ensure_database("mlflow_registry"), str(tmp_path / "artifacts"))
    registry.upgrade()
    registry.upgrade()
    run_id = registry.start_run({"purpose": "test"}, key="request-1")
    version = register(registry, export, run_id, card_markdown="# A card\n" + "ß" * 10_000)
    assert register(registry, export, registry.start_run({}, key="request-1")) == version
    registry.log_params(run_id, {"train": {"epochs": 3}})
    registry.set_champion_alias(version)
    assert registry.champion_alias() == version
    assert registry.find_version_by_tag("dataset_version", "data/2026-10-01-1") == version
    assert artifact_sha256(registry.download(version, tmp_path / "download")) == artifact_sha256(export)
    registry.set_champion_alias(None, version)
    assert registry.champion_alias() is None


def test_an_unreachable_store_is_a_service_error_without_the_password(tmp_path, monkeypatch):
    monkeypatch.setattr("components.registry.tracking.CONNECT_TRIES", 1)
    uri = f"postgresql+psycopg2://me:secret@/none?host={tmp_path}"
    with pytest.raises(ServiceError, match="starting a run") as error:
        Registry(uri, str(tmp_path)).start_run({})
    assert "secret" not in str(error.value)
    assert "me:***@" in str(error.value)


def test_a_folder_of_this_machine_is_not_forced_on_a_server(tmp_path):
    assert Registry("https://mlflow.example", str(tmp_path)).artifact_root is None
    assert Registry("https://mlflow.example", "s3://bucket/path").artifact_root == "s3://bucket/path"


def test_the_registered_specification_is_the_exported_one(registry, export, tmp_path):
    assert read_spec(registry.download(register(registry, export), tmp_path / "download")) == read_spec(export)
