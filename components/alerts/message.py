"""What an alert says: what happened, how sure we are, what was done, and what a person should do."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from components.records import ClassAccuracy, ClassState, Decision, DriftFinding, GateVerdict, Interval, require_utc

NAMED_AT_MOST = 10
_PASSWORD = re.compile(r"(://[^:/@\s]*:)[^/@\s]*@")  # of a URL in an error's words


class AlertLevel(StrEnum):
    """How soon somebody should look."""

    PAGE = "page"
    TICKET = "ticket"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Alert:
    """One message. `key` is the same for the same trouble, so that it is told once and can recover.

    happened, sure, done, todo: plain text sentences. links: title to address.
    """

    level: AlertLevel
    key: str
    title: str
    happened: str
    sure: str
    done: str
    todo: str
    links: Mapping[str, str] = field(default_factory=dict)

    @property
    def body(self) -> str:
        """Return the text for a person, one line a question and one a link."""
        lines = [
            f"What happened: {self.happened}",
            f"How sure: {self.sure}",
            f"What was done: {self.done}",
            f"What to do: {self.todo}",
        ]
        return "\n".join(lines + [f"{title}: {address}" for title, address in self.links.items()])

    def as_json(self, at: datetime) -> dict[str, Any]:
        """Return the object a file of alerts holds, one a line; `at` is the time it was raised."""
        return {
            "at": require_utc(at).isoformat(),
            "level": str(self.level),
            "key": self.key,
            "title": self.title,
            "body": self.body,
            "links": dict(self.links),
        }


def accuracy_alert(
    window: str,
    model_version: int,
    classes: Sequence[ClassAccuracy],
    decision: Decision,
    *,
    images_asked: int = 0,
    note: str = "",
    seen: str = "",
    links: Mapping[str, str] | None = None,
) -> Alert:
    """Return the alert for a window in which classes fell: `decision` says what was made of it.

    images_asked: how many images of these classes were put into the training queue. note: what is known of the
    annotators' errors. seen: how the window's images differ from the reference's.
    """
    fallen = [c for c in classes if c.state is ClassState.ALARM]
    names = _named([c.name for c in fallen])
    refused = decision.action == "refused"
    return Alert(
        level=AlertLevel.PAGE,
        key=f"accuracy/{window}/{model_version}",
        title=f"Accuracy fell in {window}: {names}",
        happened=f"model {model_version} got worse in {names} in window {window}: "
        + "; ".join(f"{c.name}: {', '.join(c.reasons)}" for c in fallen[:NAMED_AT_MOST])
        + (f". {seen}" if seen else ""),
        sure="95 % intervals: "
        + "; ".join(_intervals(c) for c in fallen[:NAMED_AT_MOST])
        + (f". {note[0].upper()}{note[1:]}; the verdict compares answers with the reference's answers" if note else ""),
        done=f"no retraining was started: {decision.reason}"
        if refused
        else f"a retraining was requested, and {images_asked} images of these classes are asked for to learn from",
        todo="have the training queue answered (`perennial label export tasks.json --queue training`): the retraining "
        "starts when most of it is in, or after labelling.judge_after_days; `perennial retrain` starts it now. If the "
        "fall came with a new model, `perennial rollback` takes it back",
        links=links or {},
    )


def fall_alert(
    window: str,
    model_version: int,
    since: str,
    fallen: Mapping[str, Sequence[str]],
    *,
    judged: str,
    mix: str = "",
    links: Mapping[str, str] | None = None,
) -> Alert:
    """Return the message that classes read lower than in the window `since`, and raised no alarm.

    fallen: by class, what fell, in words. judged: what the window's judgement says. mix: a change of the class mix.
    """
    names = _named(list(fallen))
    told = "; ".join(f"{name}: {', '.join(words)}" for name, words in list(fallen.items())[:NAMED_AT_MOST])
    return Alert(
        level=AlertLevel.INFO,
        key=f"fell/{window}/{model_version}",
        title=f"Lower in {window} than in {since}: {names}",
        happened=f"model {model_version} reads lower in {names} than in the window before, {since}, and no class raised"
        f" an alarm: {told}",
        sure="shown on one side at the alarm level, shared over the classes"
        + (f", beyond what the mix explains ({mix})" if mix else "")
        + f"; against the service's reference: {judged}",
        done="nothing: alarms and retrainings come from the comparison with the reference alone",
        todo="nothing now. If it goes on falling, the next windows raise an alarm; if you know of a change in the "
        "images, look at these classes in the report",
        links=links or {},
    )


def drift_alert(
    window: str,
    model_version: int,
    found: Sequence[DriftFinding],
    *,
    labels_asked: int,
    drawn: bool = True,
    explained: Sequence[str] = (),
    links: Mapping[str, str] | None = None,
) -> Alert:
    """Return the alert for columns that drifted; `labels_asked` further images are put before annotators.

    drawn: whether that is done; a window that is still open is drawn when it closes. explained: what is known of the
    cause, from predictions and from images, one sentence a finding.
    """
    drifted = [f for f in found if f.drifted]
    names = _named([f.column for f in drifted])
    differ = f"{names} differ from the reference of model {model_version}"
    return Alert(
        level=AlertLevel.TICKET,
        key=f"drift/{model_version}/{','.join(sorted(f.column for f in drifted))}",
        title=f"Drift in {window}: {names}",
        happened=" ".join([f"{differ}.", *explained]) if explained else differ,
        sure="; ".join(f"{f.column}: V {f.v or 0:.2f}, p {f.p_value or 0:.1e}" for f in drifted[:NAMED_AT_MOST])
        + "; drift alone does not say that accuracy fell",
        done="nothing: accuracy decides"
        if not labels_asked
        else f"{labels_asked} more labels were asked for"
        if drawn
        else f"{labels_asked} more labels, by what has come so far, are asked for when the window is drawn",
        todo="open the page of what changed and look at its images; answer the label queue so that accuracy can be "
        "measured",
        links=links or {},
    )


def refused_retraining_alert(decision: Decision, *, links: Mapping[str, str] | None = None) -> Alert:
    """Return the alert for a retraining that was wanted and not started."""
    names = _named(decision.classes) or "no class in particular"
    return Alert(
        level=AlertLevel.TICKET,
        key=f"retraining-refused/{','.join(sorted(decision.classes))}",
        title="Retraining was refused",
        happened=f"a retraining was asked for ({names}) and not started",
        sure=f"certain: {decision.reason}",
        done="the refusal is in the ledger; the champion keeps serving",
        todo="wait, bring more labels, or start it by hand with `perennial retrain`",
        links=links or {},
    )


def old_champion_alert(champion: int, age: str, refusal: str, *, links: Mapping[str, str] | None = None) -> Alert:
    """Return the alert for a champion past its age, in words, that cannot be renewed now because of `refusal`."""
    return Alert(
        level=AlertLevel.TICKET,
        key=f"champion-age/{champion}",
        title=f"Version {champion} is past its age and is not renewed",
        happened=f"{age}; a retraining would be refused",
        sure=f"certain: {refusal}",
        done="nothing: it keeps serving, and is asked about again every day",
        todo="bring what is missing, labels or images; `perennial retrain` starts one that waits for no cooldown, and "
        "retrain.max_age_days says how old is too old",
        links=links or {},
    )


def promotion_alert(
    old: int | None, new: int, verdict: GateVerdict, *, links: Mapping[str, str] | None = None
) -> Alert:
    """Return the message that `new` has replaced `old`."""
    before = f"version {old}" if old is not None else "no model"
    return Alert(
        level=AlertLevel.INFO,
        key=f"promoted/{new}",
        title=f"Version {new} was promoted",
        happened=f"version {new} replaced {before}",
        sure=f"{verdict.reason}. " + "; ".join(f"{c.name}: {c.detail}" for c in verdict.checks[:NAMED_AT_MOST]),
        done="new batches are scored with it",
        todo="nothing; `perennial rollback` takes it back",
        links=links or {},
    )


def kept_champion_alert(
    champion: int | None,
    candidate: int,
    verdict: GateVerdict,
    *,
    advice: str = "",
    links: Mapping[str, str] | None = None,
) -> Alert:
    """Return the message that the gate refused `candidate`. advice: what would help, in words."""
    kept = f"version {champion} stays" if champion is not None else "there is still no champion"
    return Alert(
        level=AlertLevel.TICKET,
        key=f"kept-champion/{candidate}",
        title=f"Version {candidate} was not promoted",
        happened=f"the gate refused version {candidate}; {kept}",
        sure=verdict.reason,
        done="the verdict is in the ledger and on the model's card",
        todo=f"look at the failed checks; what would help: {advice}"
        if advice
        else "look at the failed checks; more labels of those classes, other data or another backbone may help",
        links=links or {},
    )


def failure_alert(what: str, error: str, *, links: Mapping[str, str] | None = None) -> Alert:
    """Return the alert for a run of `what` that failed with the message `error`."""
    return Alert(
        level=AlertLevel.PAGE,
        key=f"failed/{what}",
        title=f"{what} failed",
        happened=f"{what} failed: " + _PASSWORD.sub(r"\1***@", error),
        sure="certain",
        done="nothing was changed; the next scheduled run tries again",
        todo="read the message and the log; `perennial doctor` checks every part",
        links=links or {},
    )


def well_again_alert(title: str, key: str, window: str, well: Sequence[ClassAccuracy], still: Sequence[str]) -> Alert:
    """Return the message that the `well` classes of the alert told under `key` with `title` are well again in `window`.

    still: its other classes, which are not shown to be well; without any the alert is over.
    """
    names = _named([c.name for c in well])
    return Alert(
        level=AlertLevel.INFO,
        key=f"recovered/{key}" + (f"/{','.join(sorted(c.name for c in well))}" if still else ""),
        title=f"Well again in {window}: {names}" if still else f"Recovered: {title}",
        happened=f"in window {window} nothing is found against {names or 'the classes that are left'}"
        + (f"; not shown to be well: {_named(still)}" if still else f"; this is over: {title}"),
        sure="95 % intervals: " + ("; ".join(_intervals(c) for c in well[:NAMED_AT_MOST]) or "none"),
        done="the alert stays open for the others" if still else "the alert was closed",
        todo="nothing",
    )


def recovered_alert(title: str, key: str, *, links: Mapping[str, str] | None = None) -> Alert:
    """Return the message that the trouble told under `key` with `title` is over."""
    return Alert(
        level=AlertLevel.INFO,
        key=f"recovered/{key}",
        title=f"Recovered: {title}",
        happened=f"this is over: {title}",
        sure="the last check found nothing of it",
        done="the alert was closed",
        todo="nothing",
        links=links or {},
    )


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMED_AT_MOST])
    return shown if len(names) <= NAMED_AT_MOST else f"{shown} and {len(names) - NAMED_AT_MOST} more"


def _intervals(c: ClassAccuracy) -> str:
    rates: list[tuple[str, Interval | None]] = [("precision", c.precision), ("recall", c.recall)]
    shown = [
        f"{name} {100 * r.value:.1f} % ({100 * r.low:.1f}-{100 * r.high:.1f})" for name, r in rates if r is not None
    ]
    return f"{c.name} {', '.join(shown)}"
