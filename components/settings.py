"""What the environment says: URLs, secrets, folders. Read by entry points alone; everyone else receives arguments."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

TELEMETRY_OFF = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """Every environment variable Perennial reads. None means: the embedded default of the workspace."""

    database_url: str | None = None
    mlflow_tracking_uri: str | None = None
    prefect_api_url: str | None = None
    workspace_git_url: str | None = None
    image_store_url: str | None = None
    alert_urls: tuple[str, ...] = ()
    tensorboard_folder: str | None = None

    @staticmethod
    def variables() -> tuple[str, ...]:
        """Return the names of the environment variables that are read."""
        return (
            "DATABASE_URL",
            "MLFLOW_TRACKING_URI",
            "PREFECT_API_URL",
            "WORKSPACE_GIT_URL",
            "IMAGE_STORE_URL",
            "PERENNIAL_ALERT_URLS",
            "PERENNIAL_TENSORBOARD_FOLDER",
        )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Return the settings of `environment` (default: this process's). Empty values count as absent."""
        source = os.environ if environment is None else environment
        return cls(
            database_url=source.get("DATABASE_URL") or None,
            mlflow_tracking_uri=source.get("MLFLOW_TRACKING_URI") or None,
            prefect_api_url=source.get("PREFECT_API_URL") or None,
            workspace_git_url=source.get("WORKSPACE_GIT_URL") or None,
            image_store_url=source.get("IMAGE_STORE_URL") or None,
            alert_urls=tuple(source.get("PERENNIAL_ALERT_URLS", "").split()),
            tensorboard_folder=source.get("PERENNIAL_TENSORBOARD_FOLDER") or None,
        )


def switch_telemetry_off() -> None:
    """Tell every library in this process and its children not to phone home. A user's own value stays."""
    for name, value in TELEMETRY_OFF.items():
        os.environ.setdefault(name, value)
