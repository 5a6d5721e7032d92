"""What an alert says about the cause of a gap between production and offline accuracy."""

from __future__ import annotations

from collections.abc import Mapping

from components.alerts.message import Alert, AlertLevel


def skew_alert(
    window: str, model_version: int, *, reason: str, worst: str, largest: float, links: Mapping[str, str] | None = None
) -> Alert:
    """Return the page that serving does not do what training did. worst: the image with the largest difference."""
    return Alert(
        level=AlertLevel.PAGE,
        key=f"skew/{model_version}",
        title=f"Model {model_version} is served otherwise than it was trained",
        happened=reason,
        sure=f"certain for the images replayed, of window {window}: of image {worst} a probability differs by "
        f"{largest:.2g}",
        done="nothing was changed; the model keeps serving",
        todo="do not retrain for this: training is not what is wrong. Find what differs between the path that scores "
        "and the one that trained (the runbook lists where to look, `perennial history --kind skew` has the numbers), "
        "repair it, or `perennial rollback`",
        links=links or {},
    )


def gap_alert(window: str, model_version: int, *, reason: str, links: Mapping[str, str] | None = None) -> Alert:
    """Return the message that production is worse than offline, though serving does what training did."""
    return Alert(
        level=AlertLevel.INFO,
        key=f"gap/{window}/{model_version}",
        title=f"Model {model_version} does worse in production than offline",
        happened=reason,
        sure="the gap is shown on one side, beyond monitor.tolerance; the replay is exact for the images it took",
        done="nothing: alarms and retrainings come from the comparison with the service's reference alone",
        todo="look at production's images of these classes; labels from production teach the next model what they are",
        links=links or {},
    )
