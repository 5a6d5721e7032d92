"""The rules that a backtest tries: those in force, those of a file that changes some of them, and two baselines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from components.errors import ConfigurationError
from components.params import Labelling, Monitor, Params, Retrain, Section, parse_strictly

IN_FORCE, ALWAYS, NEVER, RECORDED = "in force", "always-fire", "never-fire", "recorded"
SECTIONS = ("monitor", "labelling", "retrain")

# What a backtest has nothing to show of: drift, pages, images asked twice, several candidates of one retraining.
WITHOUT_EFFECT = frozenset(
    {
        "monitor.drift_bins", "monitor.report_rows", "monitor.report_days", "labelling.answers_per_task",
        "labelling.check_share", "labelling.judge_at_response", "labelling.lease_minutes", "retrain.retrain_on",
        "retrain.candidates", "retrain.max_age_days",
    }
)  # fmt: skip

Fires = Literal["judged", "always", "never"]


class RulesFile(Section):
    """What a rules file may hold: any of these sections of params.yaml, any of their keys."""

    monitor: Monitor = Monitor()
    labelling: Labelling = Labelling()
    retrain: Retrain = Retrain()


@dataclass(frozen=True, slots=True)
class Rules:
    """One set of rules under its name. fires: by judgement, or, for a baseline, in every window or in none.

    changed: each key that differs from the rules in force, with its value there and here.
    """

    name: str
    monitor: Monitor
    labelling: Labelling
    retrain: Retrain
    fires: Fires = "judged"
    changed: tuple[tuple[str, Any, Any], ...] = ()

    @property
    def without_effect(self) -> tuple[str, ...]:
        """Return the changed keys that no backtest can show anything of."""
        return tuple(key for key, _, _ in self.changed if key in WITHOUT_EFFECT)


def in_force(params: Params, name: str = IN_FORCE, fires: Fires = "judged") -> Rules:
    """Return the rules of params.yaml."""
    return Rules(name, params.monitor, params.labelling, params.retrain, fires)


def compared(params: Params, files: Sequence[Path]) -> list[Rules]:
    """Return the rules in force, those of each file, and the baselines that fire always and never.

    A file goes by its stem, or by its path where two have the same stem or it is a name of ours.
    Raises ConfigurationError for a file that is no rules file.
    """
    files = list(dict.fromkeys(files))
    stems = Counter(path.stem for path in files)
    stems.update({IN_FORCE: 1, ALWAYS: 1, NEVER: 1, RECORDED: 1})
    named = [(path, path.stem if stems[path.stem] == 1 else str(path)) for path in files]
    return [
        in_force(params),
        *(load_rules(path, name, params) for path, name in named),
        in_force(params, ALWAYS, "always"),
        in_force(params, NEVER, "never"),
    ]


def load_rules(path: Path, name: str, params: Params) -> Rules:
    """Return the rules of a YAML file; what it does not say is as in `params`.

    Raises ConfigurationError, in one line, for a missing file, invalid YAML, an unknown section or key, a value out of
    range, and for another `monitor.window`: samples are drawn from whole windows and cannot be cut anew.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigurationError(f"rules file {path} does not exist") from error
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"rules file {path} is not readable YAML: {' '.join(str(error).split())}") from error
    given = parse_strictly(RulesFile, content if content is not None else {}, str(path))
    merged: dict[str, Any] = {}
    changed = []
    for section in SECTIONS:
        ours, theirs = getattr(params, section), getattr(given, section)
        said = {key: getattr(theirs, key) for key in sorted(theirs.model_fields_set)}
        merged[section] = ours.model_copy(update=said)
        changed += [
            (f"{section}.{k}", getattr(ours, k), value) for k, value in said.items() if value != getattr(ours, k)
        ]
    if merged["monitor"].window != params.monitor.window:
        raise ConfigurationError(
            f"{path}: monitor.window is {merged['monitor'].window!r}, the service's is {params.monitor.window!r}; a "
            "backtest cannot cut windows anew, leave that key out"
        )
    return Rules(name, **merged, changed=tuple(changed))
