"""The `perennial` command. Result on stdout, log and progress on stderr; exit 0 done, 1 failed, 2 usage, 3 refused."""

from __future__ import annotations

import logging
import os
import sys

import click

from components.errors import PerennialError
from flows.commands import backtest, classes, data, labels, lineage, loop, models, quarantine, workspaces
from flows.interrupt import hear_interrupts

VERBS = (
    *workspaces.VERBS, *data.VERBS, *quarantine.VERBS, *classes.VERBS, *models.VERBS, *labels.VERBS, *backtest.VERBS,
    *lineage.VERBS, *loop.VERBS,
)  # fmt: skip


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--workspace", "-w", default=None, metavar="DIR", help="The workspace to work in. [default: here]")
@click.option("--verbose", "-v", is_flag=True, help="Log what is done, to stderr.")
@click.version_option(package_name="perennial")
@click.pass_context
def cli(context: click.Context, workspace: str | None, verbose: bool) -> None:
    """Image classifiers that renew themselves.

    Images come in and are versioned, their labels are audited, a classifier is trained, gated, promoted and scores
    batches. People label a few well-chosen predictions; from those answers each class's production accuracy is
    estimated with honest intervals, and a class that has really got worse is retrained.

    Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 refused by a gate or a rule.
    """
    context.obj = {"workspace": workspace}
    _configure_logging(verbose)


for verb in VERBS:
    cli.add_command(verb)


def _configure_logging(verbose: bool) -> None:
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("components").setLevel(logging.INFO if verbose else logging.WARNING)
    logging.getLogger("flows").setLevel(logging.INFO if verbose else logging.WARNING)


def main() -> None:
    """Run the command line and leave with the designed exit code; a foreseen error is one line on stderr."""
    hear_interrupts()
    try:
        code = cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except click.Abort:
        code = 130
    except PerennialError as error:
        click.echo(f"perennial: {error}", err=True)
        code = error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # The reader left; that is not a failure.
        code = 0
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
