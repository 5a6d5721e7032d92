"""Simulated annotators. Every answer they give is signed `simulated-N`: no report may pass them off as people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from components.errors import ConfigurationError
from components.records import Answer, LabelAnswer, LabelTask, require_utc

if TYPE_CHECKING:
    from datetime import datetime

    import numpy as np

    from components.simulation.scenario import Annotators


def answer(
    tasks: Sequence[LabelTask],
    truth: Mapping[int, str],
    people: Annotators,
    rng: np.random.Generator,
    *,
    answered_at: datetime,
    answers_per_task: int = 1,
) -> list[LabelAnswer]:
    """Return the answers of simulated annotators to `tasks`, in the order of their ids.

    truth: the true class by task id; one that is not among the task's classes is answered `other`. Each task is
    answered with probability `answer_rate`, by `answers_per_task` different annotators, each of whom names another
    class of the task with probability `error_rate`. Raises ConfigurationError if there are too few annotators.
    """
    if answers_per_task > people.count:
        raise ConfigurationError(f"{answers_per_task} answers a task need as many annotators; there are {people.count}")
    moment = require_utc(answered_at)
    answers: list[LabelAnswer] = []
    for task in sorted(tasks, key=lambda task: task.task_id):
        if rng.random() >= people.answer_rate:
            continue
        for person in rng.permutation(people.count)[:answers_per_task]:
            annotator = f"simulated-{person + 1}"
            answers.append(
                LabelAnswer(
                    task_id=task.task_id,
                    answer=_opinion(task, truth[task.task_id], people.error_rate, rng),
                    annotator=annotator,
                    answered_at=moment,
                    seconds=round(float(rng.lognormal(0.7, 0.5)), 2),
                    key=f"{annotator}:{task.task_id}",
                )
            )
    return answers


def _opinion(task: LabelTask, true_class: str, error_rate: float, rng: np.random.Generator) -> str:
    right = true_class if true_class in task.classes else str(Answer.OTHER)
    if rng.random() >= error_rate:
        return right
    return str(rng.choice([name for name in task.classes if name != right]))
