"""One simulated month after the other, each through the same flows a production service runs."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from components.data.sources.item import SourceItem
from components.data.sources.opening import open_source
from components.operations.labelling import take_answers
from components.operations.retraining.readiness import due_request
from components.records import Window
from components.simulation import annotators
from components.simulation.scenario import Scenario
from components.simulation.truth import share_right, true_accuracy
from components.simulation.verdicts import verdicts
from components.simulation.world import World
from components.store import labelling, predictions, reading
from flows.ingest import ingest
from flows.label import label
from flows.monitor import monitor
from flows.retrain import retrain
from flows.score import score
from flows.session import opened

FIRST = datetime(2026, 1, 1, tzinfo=UTC)
SCORED_ON = timedelta(days=26, hours=12)  # of the month: after the last renewal, so that one model serves a month
ANSWERS_TAKE = timedelta(days=7, hours=1)


class DemoRun:
    """A scenario on its way through a workspace. Iterate `months` once."""

    def __init__(self, scenario: Scenario, root: Path, incoming: Path, tell: Callable[[str], None]) -> None:
        self._scenario = scenario
        self._root = root
        self._incoming = incoming
        self._tell = tell
        self._rng = np.random.default_rng([scenario.seed, 99])
        self._asked: set[int] = set()
        self._of_doubts = np.random.default_rng([scenario.seed, 98])
        self._initial: dict[str, tuple[str, str]] = {}  # label and truth of the initial images, by image id
        with opened(str(root)) as services:
            cache, limits = root.parent / "cache", services.limits
        self._world = World(scenario, list(open_source(scenario.source, limits=limits, cache=cache)))

    def months(self) -> Iterator[dict[str, Any]]:
        """Bring the initial images in, train the first model, then live through the months; yield what each showed."""
        workspace = str(self._root)
        items, truth = self._world.initial()
        wrong = sum(truth[item.name] != item.label for item in items)
        self._initial = {
            hashlib.sha256(item.content).hexdigest(): (str(item.label), truth[item.name]) for item in items
        }
        before = FIRST - timedelta(days=4)
        self._tell(f"{len(items)} images come in, {wrong} of them with a label planted wrong")
        ingest(workspace, str(_archive(items, self._incoming / "initial.tar", labelled=True)), [], before)
        self._tell("first model: audit, train, evaluate, export, register, gate")
        first = retrain(workspace, "first model", "demo", False, before + timedelta(days=1), cause="manual")
        self._tell(f"version {first['version']}: {first['verdict']['reason']}")
        window = Window.containing(FIRST)
        for number in range(1, len(self._scenario.months) + 1):
            yield self._month(number, window)
            window = window.following()

    def _month(self, number: int, window: Window) -> dict[str, Any]:
        workspace = str(self._root)
        items, truth = self._world.month(number)
        archive = _archive(items, self._incoming / f"month-{number:02d}.tar", labelled=False)
        batch = score(workspace, str(archive), None, window.start + SCORED_ON)
        now = window.closes_at(49)
        label(workspace, window.name, now)
        now += ANSWERS_TAKE
        self._answer("accuracy", truth, now)
        self._answer("check", truth, now)
        segment = monitor(workspace, window.name, now)[0]
        if segment["decision"]["action"] == "ask-labels":
            self._tell(f"{window.name}: {segment['decision']['reason']}")
            now += ANSWERS_TAKE
            self._answer("accuracy", truth, now)
            segment = monitor(workspace, window.name, now)[0]
        renewal = None
        if segment["decision"]["action"] == "retrain":
            self._tell(f"{window.name}: {segment['decision']['reason']}")
            renewal = self._renew(truth, now + timedelta(hours=12))
        observed = self._with_truth(segment, batch, truth, renewal)
        self._tell(_one_line(observed))
        return {"month": number, **observed}

    def _renew(self, truth: dict[str, str], now: datetime) -> dict[str, Any] | None:
        workspace = str(self._root)
        self._answer("training", truth, now)
        if self._scenario.doubts_answered:
            self._answer_doubts(now)
        now += ANSWERS_TAKE
        with opened(workspace) as services:
            reason = due_request(services, now=now)
        if reason is None:
            return None
        return retrain(workspace, reason, "demo", False, now, cause="accuracy")

    def _answer(self, queue: str, truth: dict[str, str], now: datetime) -> None:
        """Let the simulated annotators answer what they have not seen yet; a task passed over stays so."""
        with opened(str(self._root)) as services:
            tasks = labelling.tasks(services.database, queue, limit=None)
            places = labelling.places(services.database, [t.task_id for t in tasks])
            names = {place.task_id: place.name for place in places}
            known = {task_id: truth[name] for task_id, name in names.items() if name in truth}
            fresh = [task for task in tasks if task.task_id in known and task.task_id not in self._asked]
            self._asked.update(task.task_id for task in fresh)
            answers = annotators.answer(fresh, known, self._scenario.annotators, self._rng, answered_at=now)
            take_answers(services, answers, now=now)

    def _answer_doubts(self, now: datetime) -> None:
        """Let them answer what the audit asks about the images that came with a label."""
        with opened(str(self._root)) as services:
            tasks = labelling.tasks(services.database, "audit", limit=None)
            known = {task.task_id: self._initial[task.image_id] for task in tasks if task.image_id in self._initial}
            fresh = [task for task in tasks if task.task_id in known and task.task_id not in self._asked]
            self._asked.update(task.task_id for task in fresh)
            truth = {task_id: true for task_id, (_, true) in known.items()}
            take_answers(
                services,
                annotators.answer(fresh, truth, self._scenario.annotators, self._of_doubts, answered_at=now),
                now=now,
            )
        wrong = sum(label != true for label, true in (known[task.task_id] for task in fresh))
        if fresh:
            self._tell(f"people look at {len(fresh)} labels that the audit doubts; {wrong} of them are wrong in truth")

    def _with_truth(
        self, segment: dict[str, Any], batch: dict[str, Any], truth: dict[str, str], renewal: dict[str, Any] | None
    ) -> dict[str, Any]:
        with opened(str(self._root)) as services:
            scored = predictions.find_batch(services.database, batch["batch"])
            rows = reading.batch_answers(services.database, scored) if scored is not None else []
        guesses, truths = [guess for _, guess in rows], [truth[name] for name, _ in rows]
        names = [c["name"] for c in segment["classes"]]
        true = {t.name: t.as_json() for t in true_accuracy(guesses, truths, names)}
        classes = [
            {**c, "true_precision": true[c["name"]]["precision"], "true_recall": true[c["name"]]["recall"]}
            for c in segment["classes"]
        ]
        action = segment["decision"]["action"]
        return {
            **segment,
            "classes": classes,
            "true_accuracy": share_right(guesses, truths),
            "alarmed": segment["decision"]["classes"] if action == "retrain" else [],
            "renewal": renewal,
        }

    def summary(self, months: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return what the run shows beside its truth, with one line a claim."""
        return {
            "workspace": str(self._root),
            "scenario": self._scenario.model_dump(mode="json"),
            "months": len(months),
            "alarms": [{"window": m["window"], "classes": m["alarmed"]} for m in months if m["alarmed"]],
            "labels": sum(m["labels"] for m in months),
            **verdicts(months),
        }


def _archive(items: Sequence[SourceItem], path: Path, *, labelled: bool) -> Path:
    """Write items as a .tar, in class folders where they are labelled, as a team would hand them over."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for item in items:
            name = f"{item.label}/{item.name.replace('/', '-')}" if labelled else item.name
            entry = tarfile.TarInfo(name)
            entry.size = len(item.content)
            archive.addfile(entry, io.BytesIO(item.content))
    return path


def _one_line(month: dict[str, Any]) -> str:
    overall = month["overall"]
    shown = f"{overall['value']:.3f} [{overall['low']:.3f}, {overall['high']:.3f}]" if overall else "not measurable"
    return (
        f"{month['window']}: version {month['model_version']}, accuracy {month['true_accuracy'] or 0:.3f} in truth, "
        f"{shown} estimated from {month['labels']} labels; {month['decision']['action']}"
    )
