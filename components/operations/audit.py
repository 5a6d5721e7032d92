"""The label audit of the current dataset version, outside a retraining."""

from __future__ import annotations

import json
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from components.data.ingestion.class_history import ClassHistory
from components.data.versioning.versions import WorkspaceClone, latest_dataset
from components.errors import RefusedError
from components.labels.audit_page import PAGE_FILE
from components.labels.findings import read_findings
from components.operations.doubted_labels import ask_people
from components.operations.ingestion import dataset_paths
from components.operations.services import Services
from components.params import load_params
from components.store import ledger


def commit_audit(clone: WorkspaceClone, *, before: bool) -> None:
    """Bring the dataset into the clone before the stage runs; publish the stage's result after it."""
    if before:
        clone.pull(*dataset_paths(load_params(clone.root / "params.yaml")))
        if latest_dataset(clone.root) is None:
            raise RefusedError("there is no data to audit yet; bring images in with `perennial ingest SOURCE`")
        return
    clone.commit(f"Audit {latest_dataset(clone.root)}")
    clone.publish()


def audit_summary(
    services: Services, clone: WorkspaceClone, *, limit: int, page: Path | None = None, now: datetime
) -> dict[str, Any]:
    """Return the audit's metrics and its `limit` worst suspects and findings, and note the audit in the ledger.

    The worst suspects are put before people. page: where the audit's page is copied to.
    """
    params = load_params(clone.root / "params.yaml")
    folder = clone.root / params.paths.audit
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    rows = pq.read_table(folder / "suspects.parquet").to_pylist()
    worst = sorted((row for row in rows if row["suspect"]), key=lambda row: (row["score"], row["image_id"]))
    version = latest_dataset(clone.root)
    if page is not None:
        page.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / PAGE_FILE, page)
    display = ClassHistory.read(clone.root / params.paths.manifest, images=False).display
    ledger.record(
        services.database, kind="audit", actor="audit", action="none", now=now, evidence=metrics,
        reason=f"{len(worst)} label suspects in {version}",
    )  # fmt: skip
    queue = ask_people(services, clone, now=now)
    findings = read_findings(folder, limit)
    shown = {row[side] for row in (*worst[:limit], *findings) for side in ("given", "likely")}
    return {
        "dataset_version": version,
        "metrics": metrics,
        "suspects": worst[:limit],
        "findings": findings,
        "queue": queue._asdict(),
        "display": {name: text for name, text in display.items() if name in shown},
    }
