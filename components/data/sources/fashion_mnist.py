"""Fashion-MNIST (Xiao, Rasul, Vollgraf 2017): 70,000 real images of clothes, from wherever they can be had."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.errors import DataError, ServiceError

CLASSES = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Boot")
"""By index in the label files; shorter than the originals' "T-shirt/top" and "Ankle boot"."""

SYSTEM_FOLDER = Path("/usr/share/datasets/fashion-mnist")

_PACKAGE = "dataset-fashion-mnist"
_SECONDS = 300
_FILES = {
    "train-images-idx3-ubyte.gz": (60_000, 28, 28),
    "train-labels-idx1-ubyte.gz": (60_000,),
    "t10k-images-idx3-ubyte.gz": (10_000, 28, 28),
    "t10k-labels-idx1-ubyte.gz": (10_000,),
}


@dataclass(frozen=True)
class FashionMnist:
    """train_images: (60000, 28, 28) uint8; train_labels: (60000,) uint8 in 0..9; test_*: the same of 10,000."""

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.uint8]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.uint8]


def load_fashion_mnist(cache: Path, system_folder: Path = SYSTEM_FOLDER, *, fetch: bool = True) -> FashionMnist:
    """Return the data set from the installed Debian package, from `cache`, or else fetched into `cache`.

    It is fetched with apt (into private folders: no root, no package lists needed), else with torchvision. Raises
    ServiceError, with all reasons, if none of that works, and DataError if it is not there and `fetch` forbids to.
    """
    kept = cache / "fashion-mnist"
    reasons = []
    for folder in (system_folder, kept):
        try:
            return read_idx_folder(folder)
        except DataError as error:
            reasons.append(str(error))
    if not fetch:
        raise DataError("fashion-mnist is not on this machine yet; it is fetched by `perennial ingest`")
    cache.mkdir(parents=True, exist_ok=True)
    for way in (_fetch_with_apt, _fetch_with_torchvision):
        try:
            return _fetched(way, cache, kept)
        except (DataError, ServiceError) as error:
            reasons.append(str(error))
    raise ServiceError(f"Fashion-MNIST cannot be had: {'; '.join(reasons)}. Install the package {_PACKAGE}")


def read_idx_folder(folder: Path) -> FashionMnist:
    """Return the four files in `folder`. Raises DataError if one is missing, damaged, or of another shape."""
    arrays = [read_idx(folder / name, shape) for name, shape in _FILES.items()]
    for name, labels in zip(list(_FILES)[1::2], arrays[1::2], strict=True):
        if int(labels.max()) >= len(CLASSES):
            raise DataError(f"{folder / name} holds label {labels.max()}, expected 0..{len(CLASSES) - 1}")
    return FashionMnist(*arrays)


def read_idx(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return the uint8 array in a gzipped IDX file. Raises DataError unless its header states exactly `shape`."""
    header_bytes = 4 + 4 * len(shape)
    expected = header_bytes + int(np.prod(shape))
    try:
        with gzip.open(path) as file:
            content = file.read(expected + 1)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged ({error}); remove it") from error
    header = np.array([0x0800 + len(shape), *shape], ">u4").tobytes()
    if content[:header_bytes] != header or len(content) != expected:
        raise DataError(f"{path} is not an IDX file of shape {shape}; remove it")
    return np.frombuffer(content, np.uint8, offset=header_bytes).reshape(shape)


def _fetched(fetch: Callable[[Path], Path], cache: Path, kept: Path) -> FashionMnist:
    """Return the data set that `fetch` finds, checked, and move its files into `kept`, all or none."""
    with tempfile.TemporaryDirectory(dir=cache, prefix=".fetching-") as temporary:
        folder = fetch(Path(temporary))
        data = read_idx_folder(folder)
        complete = Path(temporary) / "complete"
        complete.mkdir()
        for name in _FILES:
            (folder / name).replace(complete / name)
        if kept.exists():
            shutil.rmtree(kept)  # it was read just now and found incomplete
        complete.replace(kept)
    return data


def _fetch_with_apt(folder: Path) -> Path:
    options = []
    for key, name in {"Dir::State::lists": "lists", "Dir::Cache": "cache", "Dir::Cache::archives": "archives"}.items():
        (folder / name / "partial").mkdir(parents=True)
        options += ["-o", f"{key}={folder / name}"]
    options += ["-o", "APT::Sandbox::User="]  # the folders belong to us, not to the user _apt
    _run(["apt-get", *options, "-qq", "update"], folder)
    _run(["apt-get", *options, "-qq", "download", _PACKAGE], folder)
    packages = sorted(folder.glob(f"{_PACKAGE}_*.deb"))
    if not packages:
        raise ServiceError(f"apt-get download {_PACKAGE} left no file")
    _run(["dpkg-deb", "-x", str(packages[0]), str(folder / "package")], folder)
    return folder / "package" / SYSTEM_FOLDER.relative_to("/")


def _run(command: list[str], folder: Path) -> None:
    shown = " ".join([command[0], command[-1]])
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=_SECONDS)
    except FileNotFoundError as error:
        raise ServiceError(f"{command[0]} is not installed here") from error
    except subprocess.TimeoutExpired as error:
        raise ServiceError(f"{shown} took more than {_SECONDS} s") from error
    except subprocess.CalledProcessError as error:
        raise ServiceError(f"{shown} failed: {' '.join(error.stderr.split())[-300:]}") from error


def _fetch_with_torchvision(folder: Path) -> Path:
    from torchvision.datasets import FashionMNIST

    try:
        FashionMNIST(str(folder), download=True)
    except (OSError, RuntimeError) as error:
        raise ServiceError(f"torchvision's download failed: {' '.join(str(error).split())[:300]}") from error
    return folder / "FashionMNIST" / "raw"
