"""Getting an alert out: always to a file, and to every channel that answers. A dead channel stops nothing."""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from components.alerts.message import Alert, AlertLevel

MODE = 0o600  # alerts name classes and addresses of reports


def deliver(alert: Alert, *, file: Path, urls: Sequence[str], now: datetime) -> list[str]:
    """Write `alert` as one JSON line to `file`, send it to every Apprise URL, and return what failed, in words.

    Nothing is raised for a channel that is unknown, unreachable or refuses, nor for a file that cannot be written: the
    alert still goes to the others. A failure never shows a URL's password or token.
    """
    failures = []
    try:
        append_line(file, json.dumps(alert.as_json(now), ensure_ascii=False, sort_keys=True))
    except OSError as error:
        failures.append(f"{file}: {error.strerror or error}; the alert is not in the file")
    return failures + [failure for url in urls if (failure := _send(alert, url))]


def append_line(file: Path, line: str) -> None:
    """Append `line` to `file` whole or not at all, also when several processes do. Raises OSError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    content = (line + "\n").encode("utf-8")
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        end = os.fstat(descriptor).st_size
        try:
            written = os.write(descriptor, content)
            if written < len(content):
                raise OSError(f"only {written} of {len(content)} bytes could be written")
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, end)  # half a line would spoil the next one too
            raise
    finally:
        os.close(descriptor)


@contextmanager
def _quiet(level: int) -> Iterator[None]:
    """Let Apprise and urllib3 log nothing below `level`: what they say below it holds whole addresses with tokens."""
    loggers = [logging.getLogger(name) for name in ("apprise", "urllib3")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, before in zip(loggers, levels, strict=True):
            logger.setLevel(before)


def _address(shown: str) -> str:
    """Return scheme and host of a URL that Apprise has masked: its path and query may still hold a webhook's secret."""
    parts = urlsplit(shown)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _send(alert: Alert, url: str) -> str:
    """Return "" if the channel took the alert, else what failed."""
    import apprise

    kinds = {
        AlertLevel.PAGE: apprise.NotifyType.FAILURE,
        AlertLevel.TICKET: apprise.NotifyType.WARNING,
        AlertLevel.INFO: apprise.NotifyType.INFO,
    }
    scheme = url.split(":", 1)[0] if "://" in url else "an entry without ://"
    try:
        with _quiet(logging.CRITICAL + 1):  # its errors about an address name the address
            channel = apprise.Apprise.instantiate(url)
        if channel is None:
            return f"{scheme}: not a channel Apprise knows, or its address is incomplete; see PERENNIAL_ALERT_URLS"
        with _quiet(logging.WARNING):
            name = _address(str(channel.url(privacy=True)))
            # Else a channel takes plain text for the HTML or Markdown it prefers, and swallows lines and names.
            if "format" not in parse_qs(urlsplit(url).query):
                channel.notify_format = apprise.NotifyFormat.TEXT
            sender = apprise.Apprise(servers=[channel])
            sent = sender.notify(
                title=" ".join(alert.title.split()), body=alert.body, notify_type=kinds[alert.level],
                body_format=apprise.NotifyFormat.TEXT,
            )  # fmt: skip
    except (OSError, RuntimeError, TypeError, ValueError, apprise.exception.AppriseException) as error:
        return f"{scheme}: {type(error).__name__} while sending; the alert is in the file"
    return "" if sent else f"{name}: did not take the alert; it is in the file"
