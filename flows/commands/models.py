"""Verbs about models: retrain, promote, reject, rollback, reproduce, history."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.commands.options import at_option, emit, person, prepare_flows, services, table, verb

if TYPE_CHECKING:
    from components.monitoring.retraining import Cause


@click.command(epilog='Example: perennial retrain --reason "new camera at gate 4"')
@click.option("--reason", default="", help="Why; recorded in the ledger.")
@click.option("--force", is_flag=True, help="Retrain even if it seems not worth it; needs --reason.")
@click.option("--scheduled", is_flag=True, help="Ask as the schedule does: once for each of its times, if worth it.")
@verb
@at_option
def retrain(root: Path, as_json: bool, now: datetime, reason: str, force: bool, scheduled: bool) -> None:
    """Train a candidate on everything settled, gate it against the champion, and promote it or say why not.

    Exit 3 if it is not worth it (nothing new, cooldown, one under way) or if the gate refuses the candidate.
    """
    if force and not reason:
        raise click.UsageError("--force needs --reason: an override is recorded with it")
    if force and scheduled:
        raise click.UsageError("--force overrides what --scheduled asks; give one of them")
    from components.operations.retraining.causes import require_schedule_due
    from components.operations.retraining.worth import ask_worth_it

    cause: Cause = "schedule" if scheduled else "manual"
    reason = reason or ("schedule" if scheduled else "on demand")
    with services(root) as opened:  # A cheap question, answered before Prefect is imported.
        if scheduled:
            require_schedule_due(opened, now=now)
        ask_worth_it(opened, cause=cause, reason=reason, force=force, actor=person(), now=now)
    workspace = prepare_flows(root)
    from flows.retrain import retrain as flow

    result = flow(workspace, reason, person(), force, now, cause=cause)
    emit(result, as_json, _verdict_lines(result))
    if not result["promoted"]:
        raise click.exceptions.Exit(3)


def _verdict_lines(result: dict[str, Any]) -> list[str]:
    rows = [(c["name"], "passed" if c["passed"] else "REFUSED", c["detail"]) for c in result["verdict"]["checks"]]
    outcome = "promoted" if result["promoted"] else "kept as a candidate; the champion stays"
    return [f"version {result['version']}: {outcome}", table(("check", "", "detail"), rows)]


@click.command(epilog="Example: perennial advise --class Boot --class Sandal")
@click.option("--class", "classes", multiple=True, metavar="NAME", help="Advice for this class. [default: the worst]")
@click.option("--seconds", default=None, type=click.FloatRange(min=1), help="[default: retrain.advice_seconds]")
@verb
@at_option
def advise(root: Path, as_json: bool, now: datetime, classes: tuple[str, ...], seconds: float | None) -> None:
    """Say what would help the model: more labels, cleaner labels, other data or another backbone.

    Trains the recipe of params.yaml shortly on parts of the newest dataset version, in at most so many seconds, and
    extends the curve of its errors to twice as many images.
    """
    from components.operations.retraining.advice import advise_now

    with services(root) as opened:
        limit = seconds or opened.workspace.params.retrain.advice_seconds or 300.0
        result = advise_now(opened, classes, seconds=limit, now=now)
    emit(result, as_json, [one["words"] for one in result["advice"]])


@click.command(epilog='Example: perennial promote 7 --reason "checked the newly wrong images"')
@click.argument("version", type=int)
@click.option("--reason", default="", help="Why; recorded in the ledger.")
@click.option("--override", is_flag=True, help="Promote although the gate refused; needs --reason.")
@verb
@at_option
def promote(root: Path, as_json: bool, now: datetime, version: int, reason: str, override: bool) -> None:
    """Make VERSION the champion. Exit 3 if its gate refused it, unless overridden with a reason."""
    if override and not reason:
        raise click.UsageError("--override needs --reason: it is recorded")
    from components.operations.promotion import promote as act

    with services(root) as opened:
        result = act(opened, version, actor=person(), reason=reason or "on demand", override=override, now=now)
    emit(result, as_json, f"version {version} is the champion (before: {result['previous'] or 'none'})")


@click.command(epilog='Example: perennial reject 7 --reason "worse on night images"')
@click.argument("version", type=int)
@click.option("--reason", required=True, help="Why; recorded in the ledger.")
@verb
@at_option
def reject(root: Path, as_json: bool, now: datetime, version: int, reason: str) -> None:
    """Reject a candidate; it can no longer be promoted without --override."""
    from components.operations.promotion import reject as act

    with services(root) as opened:
        result = act(opened, version, actor=person(), reason=reason, now=now)
    emit(result, as_json, f"version {version} is rejected")


@click.command(epilog='Example: perennial rollback --reason "alerts since this morning"')
@click.option("--reason", required=True, help="Why; recorded in the ledger.")
@verb
@at_option
def rollback(root: Path, as_json: bool, now: datetime, reason: str) -> None:
    """Make the previous champion the champion again, at once."""
    workspace = prepare_flows(root)
    from flows.rollback import rollback as flow

    result = flow(workspace, person(), reason, now)
    emit(result, as_json, f"version {result['version']} is the champion again (before: {result['previous']})")


@click.command(epilog="Example: perennial reproduce 7")
@click.argument("version", type=int)
@verb
def reproduce(root: Path, as_json: bool, version: int) -> None:
    """Make VERSION again from its own record and compare the two on images that neither learnt from.

    In a checkout of its commit, with its images and parameters and today's code; nothing is published or registered.
    Exit 3 if the answers differ by more than chance.
    """
    workspace = prepare_flows(root)
    from flows.reproduce import reproduce as flow

    result = flow(workspace, version)
    emit(result, as_json, result["words"])
    if result["outcome"] == "different":
        raise click.exceptions.Exit(3)


@click.command(epilog="Example: perennial history --limit 50 --kind promotion")
@click.option("--limit", default=20, show_default=True, help="How many entries, newest first.")
@click.option("--kind", default=None, help="Only entries of this kind.")
@click.option("--window", default=None, metavar="WINDOW", help="Only entries about this month, week or day.")
@verb
def history(root: Path, as_json: bool, limit: int, kind: str | None, window: str | None) -> None:
    """Show the ledger: every trigger, refusal, promotion, rejection, rollback and override, with its reason."""
    from components.records import Window
    from components.store.ledger import history as read

    named = Window.parse(window).name if window else None
    with services(root) as opened:
        entries = read(opened.database, limit=limit, kind=kind, window=named)
    rows = [(f"{e['at']:%Y-%m-%d %H:%M}", e["kind"], e["action"], e["actor"], e["reason"]) for e in entries]
    emit(entries, as_json, table(("when (UTC)", "kind", "action", "by", "reason"), rows))


VERBS = (retrain, advise, promote, reject, rollback, reproduce, history)
