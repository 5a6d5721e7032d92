"""A hash of the code that makes models, so that an upgrade retrains and two workspaces on one version agree."""

from __future__ import annotations

import hashlib
from pathlib import Path


def code_digest(package: Path, constraints: Path) -> str:
    """Return the sha256 over every Python file of `package` (paths and bytes, sorted) and the constraints file."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    if constraints.is_file():
        digest.update(constraints.read_bytes())
    return digest.hexdigest()


def write_code_lock(path: Path, package: Path, constraints: Path) -> None:
    """Write the digest to `path`, a dependency of every stage."""
    path.write_text(code_digest(package, constraints) + "\n", encoding="utf-8")
