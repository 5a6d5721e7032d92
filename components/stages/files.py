"""What the stages read and write: folders made anew, metrics, and words for what is missing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.errors import DataError, IntegrityError

METRICS_FILE = "metrics.json"
METRICS_LOG_FILE = "metrics.jsonl"
REPORT_FILE = "report.md"


def fresh(folder: str) -> Path:
    """Return a folder of the stage's own, empty."""
    path = Path(folder)
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON that people can read, too."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path, stage: str) -> Any:
    """Return what `path` says. Raises DataError where `stage` has not written it, IntegrityError if it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; run the {stage} stage first") from error
    except ValueError as error:
        raise IntegrityError(f"{path} is damaged, run the {stage} stage again: {error}") from error
