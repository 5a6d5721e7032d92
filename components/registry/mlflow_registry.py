"""MLflow as Perennial uses it: one experiment, one registered model, aliases that mirror our own champion pointer."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from components.errors import ConflictError, DataError, IntegrityError
from components.registry.artifacts import CARD_FILE, artifact_sha256, build_model_folder
from components.registry.tracking import Tracking, plain

CHAMPION = "champion"
PREVIOUS = "previous"
SHA256_TAG = "perennial.artifact_sha256"

_MODEL_FOLDER = "model"
_DESCRIPTION_LENGTH = 4_900  # MLflow's column holds 5,000


class Registry(Tracking):
    """An MLflow tracking store with its registry, and in it the versions of one registered model."""

    def register(
        self,
        export_folder: Path,
        *,
        run_id: str,
        tags: Mapping[str, str],
        metrics: Mapping[str, float],
        card_markdown: str,
        classes: Sequence[str],
    ) -> int:
        """Return the number of the model version of a run, registering `export_folder` as it unless that was done.

        Raises DataError if the exported classes are not `classes`, IntegrityError if the export is not complete, and
        ConflictError if the run has a version with other files.
        """
        with tempfile.TemporaryDirectory(prefix="perennial-register-") as temporary:
            folder = Path(temporary) / _MODEL_FOLDER
            spec = build_model_folder(export_folder, folder, card_markdown)
            if spec.classes != tuple(classes):
                raise DataError(f"{export_folder} answers {list(spec.classes)}, not {list(classes)}; export again")
            digest = artifact_sha256(folder)
            existing = self._version_of_run(run_id)
            if existing is not None:
                if existing.tags.get(SHA256_TAG) != digest:
                    raise ConflictError(
                        f"run {run_id} is registered as version {existing.version} with other files; start a new run"
                    )
                return int(existing.version)
            self.log_artifacts(run_id, folder, _MODEL_FOLDER)
        self.log_metrics(run_id, metrics)
        with self.asking(f"registering run {run_id}"):
            self._ensure_model()
            source = f"{self.client.get_run(run_id).info.artifact_uri}/{_MODEL_FOLDER}"
            version = self.client.create_model_version(
                self.name, source, run_id, {**tags, SHA256_TAG: digest}, description=_description(card_markdown)
            )
        return int(version.version)

    def set_card(self, version: int, card_markdown: str) -> None:
        """Replace a version's model card, in its folder and as its description in MLflow's pages."""
        with self.asking(f"writing the card of version {version}"):
            run_id = self._version(version).run_id
            self.client.log_text(run_id, card_markdown, f"{_MODEL_FOLDER}/{CARD_FILE}")
            self.client.update_model_version(self.name, str(version), _description(card_markdown))

    def set_tags(self, version: int, tags: Mapping[str, str]) -> None:
        """Set tags of a version, such as the gate's verdict."""
        with self.asking(f"tagging version {version}"):
            for key, value in tags.items():
                self.client.set_model_version_tag(self.name, str(version), key, value)

    def tags(self, version: int) -> dict[str, str]:
        """Return a version's tags."""
        with self.asking(f"reading version {version}"):
            return dict(self._version(version).tags)

    def set_champion_alias(self, version: int | None, previous: int | None = None) -> None:
        """Make the aliases `champion` and `previous` name these versions; None removes an alias.

        They mirror the pointer in our own table, which decides: call this after it was changed, or to repair them.
        """
        wanted = {CHAMPION: version, PREVIOUS: previous}
        with self.asking("setting the champion alias"):
            present = self._aliases()
            for alias, number in wanted.items():
                if number is not None:
                    self.client.set_registered_model_alias(self.name, alias, str(number))
                elif alias in present:
                    self.client.delete_registered_model_alias(self.name, alias)

    def champion_alias(self) -> int | None:
        """Return the version that the alias `champion` names."""
        with self.asking("reading the champion alias"):
            return self._aliases().get(CHAMPION)

    def find_version_by_tag(self, key: str, value: str) -> int | None:
        """Return the newest version whose tag `key` is `value`."""
        with self.asking("searching versions"):
            found = [int(version.version) for version in self._versions() if version.tags.get(key) == value]
        return max(found, default=None)

    def download(self, version: int, target: Path, *, sha256: str | None = None) -> Path:
        """Return `target`, holding a version's files: an export folder with MLflow's own beside.

        A target that already holds them is left alone; it appears whole or not at all. Raises IntegrityError if the
        files differ from `sha256`, an `artifact_sha256` (default: the one the version was registered with).
        """
        with self.asking(f"reading version {version}"):
            found = self._version(version)
        wanted = sha256 or found.tags.get(SHA256_TAG)
        if wanted is None:
            raise IntegrityError(f"version {version} was not registered by Perennial: it carries no {SHA256_TAG}")
        if _holds(target, wanted):
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=target.parent) as temporary:
            with self.asking(f"downloading version {version}"):
                folder = self._fetch(found, Path(temporary))
            if not _holds(folder, wanted):
                raise IntegrityError(
                    f"version {version}: its files are not the ones registered ({wanted[:12]}…); they were changed or "
                    "damaged, and are not used. Roll back, or restore the artifact store from a backup"
                )
            shutil.rmtree(target, ignore_errors=True)
            folder.replace(target)
        return target

    def remove_file(self, run_id: str, path: str) -> bool:
        """Remove a file of a run, wherever the run's files lie now; return whether it was there."""
        from mlflow.exceptions import MlflowException
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        with self.asking(f"removing {path} of run {run_id}"):
            try:
                places = {self.client.get_run(run_id).info.artifact_uri}
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                return False
            if self.artifact_root is not None:  # the workspace may have been moved, or copied, since
                places.add(f"{self.artifact_root}/{run_id}/artifacts")
            found = False
            for repository in map(get_artifact_repository, sorted(places)):
                folder = path.rpartition("/")[0] or None
                if path in {entry.path for entry in repository.list_artifacts(folder)}:
                    repository.delete_artifacts(path)
                    found = True
        return found

    def _ensure_model(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _versions(self, run_id: str | None = None) -> Iterator[Any]:
        wanted = f"name = '{self.name}'" + (f" and run_id = '{plain(run_id)}'" if run_id else "")
        token = None
        while True:
            page = self.client.search_model_versions(wanted, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _version_of_run(self, run_id: str) -> Any | None:
        with self.asking(f"looking for the version of run {run_id}"):
            return next(self._versions(run_id), None)

    def _version(self, version: int) -> Any:
        return self.client.get_model_version(self.name, str(version))

    def _aliases(self) -> dict[str, int]:
        from mlflow.exceptions import MlflowException

        try:
            aliases = self.client.get_registered_model(self.name).aliases
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return {}
        return {alias: int(version) for alias, version in aliases.items()}

    def _fetch(self, version: Any, into: Path) -> Path:
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException

        # Where the files are now: under this root, if the workspace was moved since they were written.
        moved = f"{self.artifact_root}/{version.run_id}/artifacts/{_MODEL_FOLDER}"
        if self.artifact_root is not None and moved != version.source:
            with suppress(MlflowException, OSError):
                return Path(download_artifacts(moved, dst_path=str(into), tracking_uri=self.tracking_uri))
        return Path(download_artifacts(version.source, dst_path=str(into), tracking_uri=self.tracking_uri))


def _holds(folder: Path, sha256: str) -> bool:
    try:
        return artifact_sha256(folder) == sha256
    except FileNotFoundError:
        return False


def _description(card_markdown: str) -> str:
    if len(card_markdown) <= _DESCRIPTION_LENGTH:
        return card_markdown
    return f"{card_markdown[:_DESCRIPTION_LENGTH]}\n\n… the rest is in {CARD_FILE}"
