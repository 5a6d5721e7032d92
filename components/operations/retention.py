"""What is kept how long: pixels and pages go, numbers stay."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from components.errors import ConfigurationError
from components.operations.services import Services
from components.records import Window, require_utc
from components.store import labelling, ledger


def expire(services: Services, *, now: datetime) -> dict[str, Any]:
    """Delete the pixels and the pages past their time; return the months and the pages that went.

    A month's pixels stay while a settled answer about them has not reached the training data, and, up to twice as long,
    while a task about them is open. Predictions keep their numbers and lose the picture.
    """
    now, params = require_utc(now), services.workspace.params
    keep = timedelta(days=params.score.keep_images_days)
    needed = labelling.months_in_use(services.database, asked_since=now - 2 * keep)
    months = []
    for month in services.images.months():
        closed = Window.parse(f"{month:%Y-%m}").closes_at(params.monitor.close_after_hours)
        if now > closed + keep and month not in needed and services.images.delete_month(month):
            months.append(f"{month:%Y-%m}")
    pages = _expired_pages(services, now - timedelta(days=params.monitor.report_days))
    result = {"months": months, "pages": pages}
    if months or pages:
        reason = f"pixels of {', '.join(months) or 'no month'} and {len(pages)} pages are past their time"
        ledger.record(
            services.database,
            kind="retention",
            actor="daily",
            action="deleted",
            reason=reason,
            evidence=result,
            now=now,
        )
    return result


def _expired_pages(services: Services, oldest: datetime) -> list[str]:
    gone = []
    reports = services.workspace.reports
    # The findings of a page of what changed lie beside it.
    for page in sorted([*reports.glob("*-v*.html"), *reports.glob("*-v*-drift.json")]):
        try:
            window = Window.parse(page.name.rpartition("-v")[0])
        except ConfigurationError:  # not one of ours
            continue
        if window.end < oldest:
            page.unlink(missing_ok=True)
            gone.append(page.name)
    return gone
