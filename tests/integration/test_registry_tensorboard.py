"""A training's metrics as event files, read back record by record."""

from __future__ import annotations

import builtins
import json
import logging
import struct
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event as Record

from components.operations.retraining.renewal import following_metrics
from components.operations.services import Services
from components.operations.workspace import Workspace
from components.params import Params
from components.registry.mlflow_registry import Registry
from components.registry.tensorboard import tail_events
from components.scoring.images import ImageStore
from components.settings import Settings
from components.store.database import Database


def line(step: int, **values: float) -> str:
    return json.dumps({"step": step, "epoch": 0, "time": f"2026-10-01T00:00:{step:02d}+00:00", **values}) + "\n"


def scalars(folder: Path) -> list[tuple[str, int, float, float]]:
    """Read (name, step, value, time) from the one event file: records of length, checksum, content, checksum."""
    (path,) = folder.iterdir()
    content, at, found = path.read_bytes(), 0, []
    while at < len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        record = Record.FromString(content[at + 12 : at + 12 + length])
        found += [(value.tag, record.step, value.simple_value, record.wall_time) for value in record.summary.value]
        at += length + 16
    return found


def written(folder: Path, file: Path) -> None:
    stop = Event()
    stop.set()
    tail_events(folder, file, stop)


def test_every_number_is_written_once_with_its_step_and_time(tmp_path: Path) -> None:
    file, folder = tmp_path / "metrics.jsonl", tmp_path / "events" / "run"
    folder.mkdir(parents=True)
    (folder / "events.out.tfevents.1.earlier").write_bytes(b"of an attempt that was killed")
    file.write_text(line(1, train_loss=1.0) + line(2, train_loss=0.5, macro_f1=0.75), encoding="utf-8")
    written(folder, file)
    assert scalars(folder) == [
        ("train_loss", 1, 1.0, 1790812801.0),
        ("train_loss", 2, 0.5, 1790812802.0),
        ("macro_f1", 2, 0.75, 1790812802.0),
    ]


def test_a_folder_that_cannot_be_written_to_is_told_and_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, taken = tmp_path / "metrics.jsonl", tmp_path / "taken"
    file.write_text(line(1, train_loss=1.0), encoding="utf-8")
    taken.write_text("no folder", encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        written(taken / "run", file)
    assert f"nothing more is written to {taken / 'run'}" in caplog.text


def test_without_the_package_the_command_that_installs_it_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "tensorboardX":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with caplog.at_level(logging.WARNING):
        written(tmp_path / "run", tmp_path / "metrics.jsonl")
    assert "pip install 'perennial[tensorboard]'" in caplog.text
    assert not (tmp_path / "run").exists()


def test_a_training_is_followed_to_mlflow_and_to_the_folder_asked_for(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("{}", encoding="utf-8")
    settings = Settings(tensorboard_folder=str(tmp_path / "events"))
    registry = Registry(f"sqlite:///{tmp_path / 'mlflow.db'}", str(tmp_path / "runs"))
    registry.upgrade()
    workspace = Workspace(tmp_path, Params(), settings)
    services = Services(workspace, Database("postgresql://unused"), ImageStore(str(tmp_path / "images")), registry)
    run = registry.start_run({})
    file = tmp_path / Params().paths.model / "metrics.jsonl"
    with following_metrics(services, run, tmp_path):
        file.parent.mkdir(parents=True)
        file.write_text(line(1, train_loss=1.0) + line(2, train_loss=0.5), encoding="utf-8")
    assert [(name, step, value) for name, step, value, _ in scalars(tmp_path / "events" / run)] == [
        ("train_loss", 1, 1.0),
        ("train_loss", 2, 0.5),
    ]
    logged = registry.client.get_metric_history(run, "train_loss")
    assert [(point.step, point.value) for point in logged] == [(1, 1.0), (2, 0.5)]
