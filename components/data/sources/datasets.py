"""Named data sets: Fashion-MNIST, scikit-learn's digits, and whatever torchvision can download."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.data.png import encode_png
from components.data.sources.fashion_mnist import CLASSES, SYSTEM_FOLDER, load_fashion_mnist
from components.data.sources.item import Content, SourceEntry
from components.errors import ConfigurationError, DataError, ServiceError


def fashion_mnist_entries(
    cache: Path, system_folder: Path = SYSTEM_FOLDER, *, fetch: bool = True
) -> Iterator[SourceEntry]:
    """Yield Fashion-MNIST's 60,000 training images, then its 10,000 test images, as PNG files."""
    data = load_fashion_mnist(cache, system_folder, fetch=fetch)
    for part, images, labels in (
        ("train", data.train_images, data.train_labels),
        ("test", data.test_images, data.test_labels),
    ):
        for number, (pixels, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            yield _entry(f"{part}/{number:05d}.png", pixels, CLASSES[label])


def digits_entries() -> Iterator[SourceEntry]:
    """Yield scikit-learn's 1,797 handwritten digits, 8 x 8 grey pixels, as PNG files labelled "0" to "9"."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    for number, (pixels, label) in enumerate(zip(images, digits.target.tolist(), strict=True)):
        yield _entry(f"digits/{number:04d}.png", pixels, str(label))


def torchvision_entries(name: str, cache: Path, *, fetch: bool) -> Iterator[SourceEntry]:
    """Yield every image of the torchvision classification data set `name`, downloaded into `cache`, as PNG files.

    Raises ConfigurationError for an unknown name, ServiceError if it cannot be downloaded, DataError if it is not there
    and `fetch` forbids to.
    """
    from torchvision import datasets

    builder = getattr(datasets, name, None)
    if name not in datasets.__all__ or not inspect.isclass(builder):
        near = difflib.get_close_matches(name, datasets.__all__, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "see torchvision.datasets"
        raise ConfigurationError(f"torchvision has no data set {name!r}; {hint}")
    for part, arguments in _parts(builder):
        found = _download(builder, name, {**arguments, "download": fetch}, cache)
        for number, (image, target) in enumerate(found):
            pixels = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
            yield _entry(f"{part}/{number:06d}.png", pixels, target)


def _entry(name: str, pixels: NDArray[np.uint8], label: str) -> SourceEntry:
    def read() -> Content:
        return encode_png(pixels), None

    return SourceEntry(name, read, label=label)


def _parts(builder: Any) -> list[tuple[str, dict[str, Any]]]:
    parameters = inspect.signature(builder).parameters
    if "download" not in parameters:
        raise ConfigurationError(f"torchvision cannot download {builder.__name__}; fetch it and name its folder")
    if "train" in parameters:
        return [("train", {"train": True}), ("test", {"train": False})]
    if "split" in parameters:
        return [(part, {"split": part}) for part in ("train", "test")]
    return [("all", {})]


def _download(builder: Any, name: str, arguments: dict[str, Any], cache: Path) -> Iterator[tuple[Any, str]]:
    folder = cache / "torchvision" / name
    if not arguments["download"] and not folder.exists():
        raise DataError(f"torchvision:{name} is not on this machine yet; it is downloaded by `perennial ingest`")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        dataset = builder(str(folder), **arguments)
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise ServiceError(f"torchvision:{name} cannot be had: {' '.join(str(error).split())[:300]}") from error
    names = getattr(dataset, "classes", None)
    for number in range(len(dataset)):
        image, target = dataset[number]
        if not isinstance(target, int) or not hasattr(image, "mode"):
            raise ConfigurationError(f"torchvision:{name} is no classification data set: a target is {target!r:.80}")
        yield image, str(names[target]) if names else str(target)
