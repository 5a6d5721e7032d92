"""Where DVC keeps things: the private settings of a checkout, and the remote, which has to be there before a flow."""

from __future__ import annotations

import configparser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from components.data.sources.remote import without_credentials
from components.errors import ServiceError

EMBEDDED_REMOTE = "../.perennial/dvc-remote"
REMOTE = 'remote "store"'
_SECTION = f"'{REMOTE}'"


def configure_dvc(root: Path, state: Path) -> None:
    """Write a checkout's private DVC settings: one cache for all of them, and where the embedded remote really lies.

    A remote that the user moved elsewhere (`dvc remote modify store url …`, committed) is left alone.
    """
    local = configparser.ConfigParser(interpolation=None)
    # DVC's notes on files it has hashed go with the checkout; in its usual place those of every clone would stay.
    local["core"] = {"site_cache_dir": str(root / ".dvc" / "tmp" / "site")}
    # Files in a clone are links to the cache: a clone of a million images costs seconds, not a copy.
    local["cache"] = {"dir": str(state / "dvc-cache"), "type": '"reflink,hardlink,copy"'}
    if _committed_url(root) == EMBEDDED_REMOTE:
        local[_SECTION] = {"url": str(state / "dvc-remote")}
    with (root / ".dvc" / "config.local").open("w", encoding="utf-8") as file:
        local.write(file)


def remote_url(root: Path) -> str:
    """Return where the remote of a checkout lies, as its settings say, without credentials."""
    local = configparser.ConfigParser(interpolation=None)
    local.read(root / ".dvc" / "config.local", encoding="utf-8")
    return without_credentials(local.get(_SECTION, "url", fallback=_committed_url(root)))


def remote_folder(root: Path) -> Path | None:
    """Return the folder that the remote of a checkout is, or None where it is no folder of this machine."""
    url = remote_url(root)
    if url.startswith("file://"):
        return Path(unquote(urlsplit(url).path))
    return None if "://" in url else root / ".dvc" / url  # an absolute one stays as it is


def require_remote(root: Path, version: str) -> None:
    """Raise ServiceError where the remote is a folder that does not hold the object `version`, named by its MD5.

    DVC makes a folder that is missing, and pushes there what is new: all older versions would be in no remote at all.
    What is not a folder is asked by DVC itself.
    """
    folder = remote_folder(root)
    if folder is None:
        return
    try:
        (folder / "files" / "md5" / version[:2] / version[2:]).stat()
    except OSError as error:
        raise ServiceError(
            f"the DVC remote {folder} does not hold the newest dataset version ({error.strerror}); nothing was done. "
            "Was it renamed, or is it not mounted? Bring it back and run this again. If it is lost for good, "
            "`dvc push --all-commits` in the workspace fills a new one from this machine's cache"
        ) from error


def _committed_url(root: Path) -> str:
    committed = configparser.ConfigParser(interpolation=None)
    committed.read(root / ".dvc" / "config", encoding="utf-8")
    return committed.get(_SECTION, "url", fallback=EMBEDDED_REMOTE)
