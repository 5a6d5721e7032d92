"""A workspace: a folder with its own git, DVC, dvc.yaml, params.yaml, and its state in `.perennial`."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from components.data.code_lock import write_code_lock
from components.data.versioning.dvc_remote import EMBEDDED_REMOTE, REMOTE, configure_dvc, remote_folder
from components.data.versioning.git import commit_all, git, is_source_checkout
from components.errors import ConfigurationError, RefusedError
from components.params import Params, load_params, parse_strictly
from components.settings import Settings

STATE = ".perennial"
PACKAGE = Path(__file__).resolve().parents[1]
_GIT_IGNORED = f"/{STATE}/\n/inbox/\n__pycache__/\n"
_DVC_IGNORED = f"# Not data: state, caches\n{STATE}\n__pycache__\ninbox\n"
_DVC_CONFIG = f"""[core]
    analytics = false
    remote = store
['{REMOTE}']
    url = {EMBEDDED_REMOTE}
    verify = true
"""


@dataclass(frozen=True, slots=True)
class Workspace:
    """An opened workspace: where it lies, its parameters, and what the environment says."""

    root: Path
    params: Params
    settings: Settings

    @property
    def state(self) -> Path:
        """Return the git-ignored folder of everything that is not a version: services, caches, images, reports."""
        return self.root / STATE

    @property
    def origin(self) -> str:
        """Return the URL that flows clone from and push to."""
        return self.settings.workspace_git_url or str(self.state / "origin.git")

    @property
    def image_store_url(self) -> str:
        """Return where the pixels of scored images are kept."""
        return self.settings.image_store_url or str(self.state / "images")

    @property
    def inbox(self) -> Path:
        """Return the watched folder that hourly scoring takes its files from."""
        return self.root / self.params.schedule.inbox

    @property
    def reports(self) -> Path:
        """Return the folder of pages that alerts link to."""
        return self.state / "reports"


def template_folder() -> Path:
    """Return the folder of the templates dvc.yaml and params.yaml: the source's root, or the installed share."""
    for folder in (PACKAGE.parent, Path(sys.prefix) / "share" / "perennial"):
        if (folder / "dvc.yaml").is_file() and (folder / "params.yaml").is_file():
            return folder
    raise ConfigurationError(
        f"the templates dvc.yaml and params.yaml are missing beside {PACKAGE}; reinstall perennial"
    )


def open_workspace(root: Path, settings: Settings) -> Workspace:
    """Return the workspace at `root`, its params checked.

    Raises RefusedError in Perennial's source checkout, ConfigurationError where there is no workspace.
    """
    root = root.resolve()
    if is_source_checkout(root):
        raise RefusedError(
            f"{root} is Perennial's source, not a workspace; make one with `perennial init DIR`, use --workspace DIR"
        )
    if not (root / STATE).is_dir() or not (root / "dvc.yaml").is_file():
        raise ConfigurationError(
            f"{root} is not a workspace (no {STATE}, no dvc.yaml); make one with `perennial init {root}`"
        )
    return Workspace(root, load_params(root / "params.yaml"), settings)


def init_workspace(root: Path, settings: Settings, overrides: Mapping[str, Any] | None = None) -> Workspace:
    """Make a workspace at `root` and return it; one that exists is opened and left as it is.

    overrides: params.yaml values by section, such as {"preprocess": {"size": 28}}, written into the new file.
    Raises ConfigurationError for a folder that holds other things, RefusedError inside Perennial's source checkout.
    """
    root = root.resolve()
    if is_source_checkout(root):
        raise RefusedError(f"{root} is Perennial's source; choose another folder, as in `perennial init ~/classifier`")
    if (root / STATE / "complete").is_file():
        return open_workspace(root, settings)
    if root.exists() and any(path.name != STATE for path in root.iterdir()) and not (root / STATE).is_dir():
        raise ConfigurationError(f"{root} is not empty and not a workspace; choose a new folder")
    overridden = _merged(template_folder() / "params.yaml", overrides or {})
    state = root / STATE
    state.mkdir(parents=True, exist_ok=True)
    state.chmod(0o755)
    _make_repository(root, Workspace(root, Params(), settings).origin, overridden)
    configure_dvc(root, state)
    if (folder := remote_folder(root)) is not None and folder.is_relative_to(state):
        folder.mkdir(exist_ok=True)  # once: one that is gone later is not made anew
    (state / "complete").touch()  # Last: an interrupted init is finished by the next.
    return open_workspace(root, settings)


def _make_repository(root: Path, origin: str, params: str) -> None:
    embedded = root / STATE / "origin.git"
    if origin == str(embedded) and not (embedded / "HEAD").is_file():
        git("init", "--quiet", "--bare", str(embedded), cwd=root)
    if not (root / ".git").is_dir():
        git("init", "--quiet", ".", cwd=root)
        git("remote", "add", "origin", origin, cwd=root)
    if git("ls-remote", "--heads", "origin", "main", cwd=root):  # somebody made it before: join
        git("fetch", "--quiet", "--tags", "origin", cwd=root)
        git("checkout", "--quiet", "-B", "main", "origin/main", cwd=root)
        return
    _write_templates(root, params)
    commit_all(root, "Make the workspace")
    git("push", "--quiet", "--set-upstream", "origin", "main", cwd=root)


def _write_templates(root: Path, params: str) -> None:
    templates = template_folder()
    shutil.copyfile(templates / "dvc.yaml", root / "dvc.yaml")
    (root / "params.yaml").write_text(params, encoding="utf-8")
    (root / ".gitignore").write_text(_GIT_IGNORED, encoding="utf-8")
    (root / ".dvcignore").write_text(_DVC_IGNORED, encoding="utf-8")
    (root / ".dvc").mkdir(exist_ok=True)
    (root / ".dvc" / "config").write_text(_DVC_CONFIG, encoding="utf-8")
    (root / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n", encoding="utf-8")
    write_code_lock(root / "code.lock", PACKAGE, templates / "constraints.txt")


def _merged(template: Path, overrides: Mapping[str, Any]) -> str:
    text = template.read_text(encoding="utf-8")
    if not overrides:
        return text  # with its comments
    content: dict[str, Any] = yaml.safe_load(text)
    _update(content, overrides)
    parse_strictly(Params, content, "overrides")
    return (
        "# Made by `perennial`; the meaning of each key is in the template, params.yaml of the source.\n"
        + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    )


def _update(content: dict[str, Any], overrides: Mapping[str, Any]) -> None:
    for key, value in overrides.items():
        if isinstance(value, Mapping) and isinstance(content.get(key), dict):
            _update(content[key], value)
        else:
            content[key] = value
