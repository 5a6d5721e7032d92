"""params.yaml: every section of it, typed."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import yaml
from pydantic import model_validator

from components.errors import ConfigurationError
from components.params.data import Data, Paths, Preprocess, Split
from components.params.judging import Evaluate, Export, Gate, Report
from components.params.section import OpenShare, Positive, Section, Share, parse_strictly
from components.params.service import Alerts, Labelling, Monitor, Retrain, Schedule, Score
from components.params.training import (
    AUTO,
    CHAMPION,
    Audit,
    AuditPolicy,
    Augment,
    Distil,
    Features,
    Head,
    Imbalance,
    Mix,
    Restart,
    Shortlist,
    Start,
    SuspectedChange,
    Train,
    Transfer,
)

__all__ = [
    "AUTO", "CHAMPION", "Alerts", "Audit", "AuditPolicy", "Augment", "Data", "Distil", "Evaluate", "Export",
    "Features", "Gate", "Head", "Imbalance", "Labelling", "Mix", "Monitor", "OpenShare", "Params", "Paths",
    "Positive", "Preprocess", "Report", "Restart", "Retrain", "Schedule", "Score", "Section", "Share", "Shortlist",
    "Split", "Start", "SuspectedChange", "Train", "Transfer", "load_params", "parse_strictly",
]  # fmt: skip


class Params(Section):
    """All of params.yaml."""

    paths: Paths = Paths()
    data: Data = Data()
    preprocess: Preprocess = Preprocess()
    audit: Audit = Audit()
    train: Train = Train()
    restart: Restart = Restart()
    changes: tuple[SuspectedChange, ...] = ()
    mix: Mix = Mix()
    start: Start = Start()
    evaluate: Evaluate = Evaluate()
    export: Export = Export()
    gate: Gate = Gate()
    score: Score = Score()
    labelling: Labelling = Labelling()
    monitor: Monitor = Monitor()
    retrain: Retrain = Retrain()
    schedule: Schedule = Schedule()
    alerts: Alerts = Alerts()

    @model_validator(mode="after")
    def _one_class_to_reject_by(self) -> Self:
        if self.evaluate.reject_class and self.data.several:
            raise ValueError(
                "evaluate.reject_class is for one class an image; with data.several such an image has no label"
            )
        return self


def load_params(path: Path) -> Params:
    """Return the parameters in the YAML file at `path`; absent keys take their defaults.

    Raises ConfigurationError, in one line, for a missing file, invalid YAML, an unknown key or a value out of range.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigurationError(f"{path} does not exist; `perennial init DIR` makes a workspace with one") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    return parse_strictly(Params, content if content is not None else {}, str(path))
