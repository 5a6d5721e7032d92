"""Runs in MLflow's tracking store: start, follow, end."""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Literal

from components.errors import DataError, ServiceError
from components.registry.metrics_file import MetricPoint, follow_metrics

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN_KEY_TAG = "perennial.key"
CONNECT_TRIES = 8
"""How often MLflow asks a database that is down: some twenty seconds with its pauses; its default is two minutes."""

_PLAIN = re.compile(r"[\w.:/-]{1,200}")
_NOT_IN_KEYS = re.compile(r"[^\w.:/ -]")
_PASSWORD = re.compile(r"(://[^:/@\s]*):[^@\s]*@")
_METRICS_AT_ONCE = 1_000
_PARAMS_AT_ONCE = 100


class Tracking:
    """One MLflow tracking store: a database URI, or an MLflow server's URL. Connects when it is first used."""

    def __init__(
        self, tracking_uri: str, artifact_root: str, name: str = "perennial", *, clock: Callable[[], float] = time.time
    ) -> None:
        """Use the experiment and the registered model `name`; new runs keep their files under `artifact_root`.

        artifact_root: a folder or a URL that MLflow writes to (`s3://…`); a server's files lie where the server says,
        not in a folder of this machine. clock: seconds since 1970, UTC.
        """
        self.tracking_uri = tracking_uri
        self.name = plain(name)
        self.artifact_root: str | None = artifact_root
        if "://" not in artifact_root:
            self.artifact_root = None if self._is_server else Path(artifact_root).resolve().as_uri()
        self._clock = clock

    def upgrade(self) -> None:
        """Bring the tables of a database URI to this MLflow's version, or make them; a server does that itself.

        Not safe to run twice at once: hold a lock around it.
        """
        if self._is_server:
            return
        from mlflow.db import commands

        with self.asking("upgrading its tables"):
            commands.main(["upgrade", self.tracking_uri], standalone_mode=False)

    def start_run(self, tags: Mapping[str, str], *, key: str | None = None, run_name: str | None = None) -> str:
        """Return the id of a new running run with `tags`; with `key`, of the run started under it before, if any."""
        with self.asking("starting a run"):
            experiment = self._experiment()
            if key is not None:
                tags = {**tags, RUN_KEY_TAG: plain(key)}
                found = self.client.search_runs([experiment], f"tags.`{RUN_KEY_TAG}` = '{key}'", max_results=1)
                if found:
                    self.client.update_run(found[0].info.run_id, status="RUNNING")
                    return str(found[0].info.run_id)
            return str(self.client.create_run(experiment, tags=dict(tags), run_name=run_name).info.run_id)

    def end_run(self, run_id: str, status: Literal["FINISHED", "FAILED", "KILLED"] = "FINISHED") -> None:
        """Mark a run as ended."""
        with self.asking(f"ending run {run_id}"):
            self.client.set_terminated(run_id, status)

    def end_running(self, tag: str, value: str, status: Literal["FAILED", "KILLED"]) -> None:
        """Mark every run as ended that still counts as running and has this tag: their process is no more."""
        wanted = f"tags.`{plain(tag)}` = '{plain(value)}' and attributes.status = 'RUNNING'"
        with self.asking(f"ending the runs of {tag} {value}"):
            for run in self.client.search_runs([self._experiment()], wanted):
                self.client.set_terminated(run.info.run_id, status)

    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Record a run's parameters, nested mappings as `section.key`. Logging the same again changes nothing."""
        from mlflow.entities import Param

        entries = [Param(_key(key), str(value)) for key, value in _flat(params)]
        with self.asking(f"logging parameters of run {run_id}"):
            for start in range(0, len(entries), _PARAMS_AT_ONCE):
                self.client.log_batch(run_id, params=entries[start : start + _PARAMS_AT_ONCE])

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], step: int = 0) -> None:
        """Record numbers of a run, as of now."""
        timestamp_ms = int(1000 * self._clock())
        self._log_points(run_id, [MetricPoint(key, float(value), timestamp_ms, step) for key, value in metrics.items()])

    def tail_metrics(self, run_id: str, file: Path, stop: Event, *, poll_seconds: float = 1.0) -> int:
        """Log the lines of a metrics.jsonl as training writes them, as `follow_metrics`; return how many numbers."""
        return follow_metrics(file, stop, partial(self._log_points, run_id), poll_seconds=poll_seconds)

    def log_artifacts(self, run_id: str, folder: Path, into: str | None = None) -> None:
        """Copy the files of `folder` into the run, under its folder `into`."""
        with self.asking(f"storing files of run {run_id}"):
            self.client.log_artifacts(run_id, str(folder), into)

    @cached_property
    def client(self) -> MlflowClient:
        """Return MLflow's own client of this store."""
        from mlflow import MlflowClient
        from mlflow.store.db import utils as database

        database.MAX_RETRY_COUNT = CONNECT_TRIES
        logging.getLogger(database.__name__).setLevel(logging.ERROR)  # it prints each try
        return MlflowClient(tracking_uri=self.tracking_uri, registry_uri=self.tracking_uri)

    @property
    def _is_server(self) -> bool:
        return self.tracking_uri.startswith(("http://", "https://"))

    def _experiment(self) -> str:
        root = self.artifact_root
        # A workspace that was moved keeps its old runs, whose folder is fixed, and starts an experiment for new ones.
        suffix = hashlib.sha256((root or "").encode()).hexdigest()[:8]
        for name in (self.name, f"{self.name}-{suffix}"):
            found = self.client.get_experiment_by_name(name)
            if found is None:
                return str(self.client.create_experiment(name, artifact_location=root))
            if root in (None, found.artifact_location):
                return str(found.experiment_id)
        raise ServiceError(f"experiment {name!r} in MLflow keeps its files elsewhere; rename it there")

    def _log_points(self, run_id: str, points: Sequence[MetricPoint]) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(_key(point.key), point.value, point.timestamp_ms, point.step) for point in points]
        with self.asking(f"logging metrics of run {run_id}"):
            for start in range(0, len(metrics), _METRICS_AT_ONCE):
                self.client.log_batch(run_id, metrics=metrics[start : start + _METRICS_AT_ONCE])

    @contextmanager
    def asking(self, what: str) -> Iterator[None]:
        """Turn an error of MLflow or of its database into a ServiceError that names `what`, without passwords."""
        from mlflow.exceptions import MlflowException
        from mlflow.store.db import utils as database  # MLflow lets its driver's connection errors through

        try:
            yield
        except (MlflowException, database.sqlalchemy.exc.SQLAlchemyError, OSError) as error:
            detail = _masked(" ".join(str(error).split()))
            raise ServiceError(
                f"MLflow at {_masked(self.tracking_uri)}: {what} failed: {detail[:1000]}; "
                "check that it runs (`perennial doctor`), then try again"
            ) from error


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _key(name: str) -> str:
    """Return a name that MLflow takes as a metric's: class names may hold anything."""
    return _NOT_IN_KEYS.sub("_", name)[:250]


def plain(value: str) -> str:
    """Return a value that needs no quoting in MLflow's filter language, which has no bound parameters."""
    if _PLAIN.fullmatch(value) is None:
        raise DataError(f"{value!r} may hold letters, digits and _ . : / - only, at most 200 of them")
    return value


def _masked(text: str) -> str:
    return _PASSWORD.sub(r"\1:***@", text)
