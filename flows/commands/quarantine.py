"""Verbs about what an ingest could not take: quarantine, and letting files in after all."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import click

from components.data.sources.item import printable
from flows.commands.options import at_option, emit, person, services, table, verb

_WIDEST = 80


@click.group(
    invoke_without_command=True, epilog="Example: perennial quarantine --reason label-conflict --html held.html"
)
@click.option("--reason", default=None, help="Only files with this reason, such as too-many-pixels.")
@click.option("--state", type=click.Choice(["quarantined", "held"]), default=None, help="Only files in this state.")
@click.option("--limit", type=click.IntRange(min=0), default=50, show_default=True, help="How many files to show.")
@click.option(
    "--html", "page", type=click.Path(dir_okay=False, path_type=Path), help="A page with pictures of held images."
)
@verb
@click.pass_context
def quarantine(
    context: click.Context,
    root: Path,
    as_json: bool,
    reason: str | None,
    state: str | None,
    limit: int,
    page: Path | None,
) -> None:
    """Show what an ingest could not take, or let it in.

    Quarantined files cannot be used: damaged, over a limit, without a label. Held ones could be, and contradict what is
    stored: another label for the same image, or a group that lies in two splits or in the frozen test set.
    """
    if context.invoked_subcommand is not None:
        if as_json or reason or state or page:
            raise click.UsageError(f"options belong to {context.invoked_subcommand}; put them at the end")
        context.find_root().obj = {"workspace": str(root)}  # given here, it holds for what follows
        return
    from components.operations.held_pictures import write_held
    from components.operations.quarantine import list_quarantine
    from components.operations.workspace import open_workspace
    from components.settings import Settings

    workspace = open_workspace(root, Settings.from_environment())
    result = list_quarantine(workspace, reason=reason, state=state, limit=limit)
    if page is not None:
        write_held(workspace, page, reason=reason)
    emit(result, as_json, [*_listed(result), *([str(page)] if page else [])])


@quarantine.command(epilog="Example: perennial quarantine show 3f9ac02be81d")
@click.argument("image")
@verb
def show(root: Path, as_json: bool, image: str) -> None:
    """Show all that is known of one file that was set aside: its id, six digits or more of it, or its name."""
    from components.operations.quarantine import show_quarantined
    from components.operations.workspace import open_workspace
    from components.settings import Settings

    found = show_quarantined(open_workspace(root, Settings.from_environment()), image)
    lines = [table(("", ""), [(key, _cell(value)) for key, value in one.items() if value is not None]) for one in found]
    emit(found, as_json, lines)


@quarantine.command(epilog="Example: perennial quarantine release 3f9ac02be81d --label heron")
@click.argument("images", nargs=-1, metavar="[IMAGE]...")
@click.option("--reason", default=None, help="All files with this reason; with IMAGE, only those among them.")
@click.option("--label", default=None, metavar="CLASS", help="What they show, as you decide. [default: as they came]")
@click.option("--dry-run", is_flag=True, help="Say what would become of each file, and change nothing.")
@verb
@at_option
def release(
    root: Path,
    as_json: bool,
    now: datetime,
    images: tuple[str, ...],
    reason: str | None,
    label: str | None,
    dry_run: bool,
) -> None:
    """Let files in that were set aside, judged anew by the limits that are committed.

    IMAGE: an id, six digits or more of it, or a name; named ones come in together or not at all. A label that you give,
    or let in against the stored one, is recorded as corrected by you; the stored one given as --label settles the
    matter. Nothing comes into the frozen test set, nor does what belongs to it come into any other.
    """
    if not images and reason is None:
        raise click.UsageError("name an IMAGE, or a --reason")
    from components.operations.quarantine import release_files

    with services(root) as opened:
        result = release_files(
            opened, images, reason=reason, label=label, dry_run=dry_run, actor=person(), now=now
        )  # fmt: skip
    emit(result, as_json, _released(result, reason))


def _listed(result: dict[str, Any]) -> list[str]:
    lines = [f"{result['files']} files await a decision in {result['dataset_version'] or 'no dataset version yet'}"]
    if not result["files"]:
        return lines
    lines += [
        table(("state", "reason", "files"), [(c["state"], c["reason"], c["files"]) for c in result["counts"]]),
        "",
    ]
    rows = [
        (
            one["image_id"][:12] if one["image_id"] else "-",
            _cell(one["name"]),
            _cell(one["source"] or "-"),
            one["reason"],
            _cell(one["label"] or "-"),
            _cell(one["stored"] or "-"),
            "-" if one["at"] is None else f"{one['at']:%Y-%m-%d %H:%M}",
            _cell(one["detail"]),
        )
        for one in result["shown"]
    ]
    lines.append(table(("image", "name", "source", "reason", "label", "stored as", "when (UTC)", "detail"), rows))
    if result["more"]:
        lines.append(f"… and {result['more']} more; --limit N shows more of them, --reason and --state fewer")
    return lines


def _released(result: dict[str, Any], reason: str | None) -> list[str]:
    would = "would be " if result["dry_run"] else ""
    lines = [
        f"{result['dataset_version'] or 'nothing changed'}: {result['released']} {would}released, {result['settled']} "
        f"{would}settled with the stored label, {result['refused']} {would}refused"
    ]
    rows = [
        (_cell(f["name"]), f["reason"], f["outcome"], _cell(f["label"] or "-"), f["detail"]) for f in result["files"]
    ]
    if rows:
        lines += ["", table(("file", "set aside as", "now", "label", ""), rows[:50])]
        further = len(rows) - 50 + result["more"]
        lines += [f"… and {further} more"] if further > 0 else []
    lines += [f"{image_id[:12]} is in use already" for image_id in result["already"]]
    if not rows and not result["already"]:
        lines.append(f"nothing is set aside for {reason!r}; `perennial quarantine` lists the reasons there are")
    return lines


def _cell(value: Any) -> str:
    text = printable(str(value))
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 1]}…"


VERBS = (quarantine,)
