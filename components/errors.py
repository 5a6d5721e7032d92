"""The errors a user can meet. Every message says what, where, which value, and what to do."""

from __future__ import annotations


class PerennialError(Exception):
    """Something failed in a way we foresaw; the command line prints the message and exits with `exit_code`."""

    exit_code = 1


class ConfigurationError(PerennialError):
    """A setting, a parameter or an argument is wrong; nothing was done."""

    exit_code = 2


class DataError(PerennialError):
    """Images, labels or a manifest are not what they should be."""


class IntegrityError(PerennialError):
    """Stored bytes differ from the hash they were stored under; their use is stopped."""


class NoSpaceError(PerennialError):
    """The disk is full, or a quota or a limit on files is reached. Run it again when there is room."""


RESTORE = "`perennial doctor --restore` brings it back from the DVC remote"
"""What to do where versioned data is damaged."""


class ServiceError(PerennialError):
    """PostgreSQL, MLflow, Prefect, git or DVC did not do what it was asked."""


class BusyError(ServiceError):
    """Another command holds the lock; try again when it has finished."""


class RefusedError(PerennialError):
    """A gate or a rule said no. The reason is in the ledger."""

    exit_code = 3


class ConflictError(RefusedError):
    """The world changed since it was read (a lost race), or the same key came with other content."""
