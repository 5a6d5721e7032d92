"""Verbs about the workspace itself: init, doctor, up, down."""

from __future__ import annotations

from pathlib import Path

import click

from flows.commands.options import emit, table, verb, without_password


@click.command(epilog="Example: perennial init ~/classifier")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def init(directory: Path, as_json: bool) -> None:
    """Make a workspace: a folder with its own git, DVC, dvc.yaml and params.yaml. An existing one stays as it is."""
    from components.operations.workspace import init_workspace
    from components.settings import Settings, switch_telemetry_off

    switch_telemetry_off()
    workspace = init_workspace(directory, Settings.from_environment())
    emit(
        {"workspace": str(workspace.root), "origin": workspace.origin},
        as_json,
        f"{workspace.root} is ready. Next: cd {workspace.root}, set preprocess in params.yaml, perennial ingest SOURCE",
    )


@click.command(epilog="Example: perennial doctor --data")
@click.option("--data", is_flag=True, help="Hold every stored file of every dataset version to its hash.")
@click.option("--restore", is_flag=True, help="The same, and bring what is damaged from where it is sound.")
@verb
def doctor(root: Path, as_json: bool, data: bool, restore: bool) -> None:
    """Check every part the workspace stands on and print every URL. Exit 1 if a part does not work."""
    from components.operations.doctor import examine
    from components.settings import Settings, switch_telemetry_off

    switch_telemetry_off()
    result = examine(root, Settings.from_environment(), data=data, restore=restore)
    rows = [(check["name"], "ok" if check["ok"] else "FAILED", check["detail"]) for check in result["checks"]]
    urls = [(name, without_password(value)) for name, value in result.items() if name not in {"checks", "ok"}]
    emit(result, as_json, [table(("check", "", "detail"), rows), "", table(("what", "where"), urls)])
    if not result["ok"]:
        raise click.exceptions.Exit(1)


@click.command(epilog="Example: perennial up --port 4200")
@click.option("--port", default=4200, show_default=True, help="Port of Prefect's server on 127.0.0.1.")
@verb
def up(root: Path, as_json: bool, port: int) -> None:
    """Run PostgreSQL and Prefect's server in the foreground until Ctrl-C; then stop both."""
    workspace = prepare_up(root)
    from flows.servers import run_services

    run_services(
        workspace,
        port=port,
        on_ready=lambda urls: emit(
            urls, as_json, table(("what", "where"), [(name, without_password(url)) for name, url in urls.items()])
        ),
    )


def prepare_up(root: Path) -> str:
    """Check the workspace and set Prefect's environment for its own server, not for a client of another."""
    from components.operations.workspace import open_workspace
    from components.settings import Settings
    from flows.environment import prepare_prefect

    workspace = open_workspace(root, Settings.from_environment())
    prepare_prefect(workspace.state, None)
    return str(workspace.root)


@click.command(epilog="Example: perennial down")
@verb
def down(root: Path, as_json: bool) -> None:
    """Stop the embedded services of the workspace. Data stays; the next command starts them again."""
    from components.operations.services import stop_services
    from components.settings import Settings

    stopped = stop_services(root, Settings.from_environment())
    emit({"stopped": stopped}, as_json, f"stopped: {', '.join(stopped) or 'nothing was running'}")


VERBS = (init, doctor, up, down)
