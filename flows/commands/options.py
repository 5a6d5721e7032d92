"""Options and output that every verb shares."""

from __future__ import annotations

import functools
import getpass
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from components.operations.services import Services

Command = Callable[..., Any]


def verb(function: Command) -> Command:
    """Give a verb `--workspace` and `--json`; it receives `root: Path` and `as_json: bool`."""

    @click.option("--workspace", "-w", default=None, metavar="DIR", help="The workspace to work in. [default: here]")
    @click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
    @functools.wraps(function)
    def wrapped(workspace: str | None, as_json: bool, **arguments: Any) -> Any:
        inherited = (click.get_current_context().find_root().obj or {}).get("workspace")
        return function(root=Path(workspace or inherited or "."), as_json=as_json, **arguments)

    return wrapped


def at_option(function: Command) -> Command:
    """Give a verb `--at TIME`, the moment it pretends to act at; it receives `now: datetime`."""

    @click.option("--at", default=None, metavar="TIME", help="Act as of this time (ISO 8601 with zone), for replays.")
    @functools.wraps(function)
    def wrapped(at: str | None, **arguments: Any) -> Any:
        from components.records import parse_time

        return function(now=parse_time(at) if at else datetime.now(UTC), **arguments)

    return wrapped


def window_option(function: Command) -> Command:
    """Give a verb `--window WINDOW`, checked before anything is started; it receives `window: str | None`."""

    @click.option("--window", default=None, metavar="WINDOW", help="A month, week or day. [default: the latest closed]")
    @functools.wraps(function)
    def wrapped(window: str | None, **arguments: Any) -> Any:
        from components.records import Window

        return function(window=Window.parse(window).name if window else None, **arguments)

    return wrapped


def columns_option(function: Command) -> Command:
    """Give a verb `--column FIELD=COLUMN`, which may come again; it receives `columns: tuple[str, ...]`."""
    return click.option(
        "--column", "columns", multiple=True, metavar="FIELD=COLUMN",
        help="What a list calls its path, label, group, captured_at or annotator; `FIELD=` if it has none.",
    )(function)  # fmt: skip


@contextmanager
def services(root: Path) -> Iterator[Services]:
    """Yield the opened services of the workspace at `root`, by the environment's settings."""
    from components.operations.services import open_services
    from components.settings import Settings, switch_telemetry_off

    switch_telemetry_off()
    with open_services(root, Settings.from_environment()) as opened:
        yield opened


def prepare_flows(
    root: Path, *, source: str | None = None, columns: Sequence[str] = (), own_server: bool = True
) -> str:
    """Check the workspace, see to a Prefect server, and return the workspace's absolute path for a flow.

    source: one that does not exist, or `columns` that say nothing, are told here, at once, and not after the seconds
    that Prefect takes to start. own_server: whether to start one for this process alone where none runs.
    """
    from components.data.decoding.decode import ImageLimits
    from components.data.sources.columns import ColumnNames
    from components.data.sources.opening import open_source
    from components.operations.services import prefect_api_url
    from components.operations.workspace import open_workspace
    from components.settings import Settings
    from flows.environment import prepare_prefect
    from flows.servers import prepare_client

    workspace = open_workspace(root, Settings.from_environment())
    if source is not None:
        limits, cache = ImageLimits.of(workspace.params.data), workspace.state / "cache"
        open_source(source, limits=limits, cache=cache, columns=ColumnNames.parse(columns))
    prepare = prepare_client if own_server else prepare_prefect
    prepare(workspace.state, prefect_api_url(workspace))
    return str(workspace.root)


def emit(result: Any, as_json: bool, lines: list[str] | str) -> None:
    """Print `result` as JSON, or `lines` for a person."""
    if as_json:
        click.echo(json.dumps(result, indent=2, default=str, ensure_ascii=False))
    else:
        click.echo(lines if isinstance(lines, str) else "\n".join(lines))


def person() -> str:
    """Return the name of who runs the verb, for the ledger."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a uid without a name, as in many containers
        return "unknown"


def without_password(url: str) -> str:
    """Return a URL as a person may see it over someone's shoulder; `--json` keeps what a client needs."""
    return re.sub(r"(://[^:/@]*:)[^/]*@", r"\1***@", url)


def table(header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    """Return a plain text table, columns as wide as their widest cell."""
    cells = [tuple(str(cell) for cell in row) for row in [header, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )
