"""Images that are none of the classes: does the energy of their answers give them away?

Energy is -T log Σ exp(logit / T), higher for what is stranger (Liu et al. 2020).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from components.data.decoding.decode import ImageLimits
from components.data.decoding.isolation import IsolationLimits
from components.data.sources.folders import LocalFolder
from components.errors import DataError
from components.evaluation.metrics.ranking import auroc
from components.model.images.preparing import IsolatedPreparer
from components.model.images.preprocess import PreprocessSpec, resize
from components.params import Data

AT_ONCE = 64  # files

UInt8Array = NDArray[np.uint8]
FloatArray = NDArray[np.floating]


def energy_threshold(validation: FloatArray, kept: float) -> float:
    """Return the energy that a share `kept` of validation images (N,), N > 0, do not exceed: above it is strange.

    Raises DataError for no images, or an energy that is not finite.
    """
    if not len(validation) or not np.isfinite(validation).all():
        raise DataError(f"a threshold needs finite energies of validation images, got {len(validation)} energies")
    return float(np.quantile(validation.astype(np.float64), kept, method="higher"))


def unfamiliar_report(
    judged: FloatArray, threshold: float, kept: float, others: Mapping[str, FloatArray]
) -> dict[str, Any]:
    """Return how well energy tells strange images from the judged ones.

    judged: energies (N,) of images of the classes. others: of each named set of strange images (M,). "sets" gives for
    each the AUROC, with DeLong's interval, and the share above `threshold`, which a share `kept` of validation keep to.
    """
    sets = [
        {
            "name": name,
            "images": len(energies),
            "auroc": auroc(energies, judged),
            "caught": round(float((energies > threshold).mean()), 5),
        }
        for name, energies in others.items()
    ]
    of_judged = round(float((judged <= threshold).mean()), 5)
    return {
        "score": "energy",
        "threshold": round(threshold, 5),
        "true_positives": kept,
        "kept": of_judged,
        "sets": sets,
    }


def strange_images(folder: str, spec: PreprocessSpec, data: Data, most: int) -> dict[str, UInt8Array]:
    """Return sets of images (M, size, size, channels) uint8, each of at most `most`, to be told from the classes'.

    folder: images of anything else, at any depth, decoded in processes of their own; "" takes what is always there:
    handwritten digits and noise. data: limits of what a file may be and take.
    Raises DataError for a folder that is not there, or has no image that can be used.
    """
    if folder:
        return {f"images of {Path(folder).name}": _of_folder(Path(folder), spec, data, most)}
    from sklearn.datasets import load_digits

    digits = np.asarray(load_digits().images[:most] * (255 / 16), np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (most, spec.size, spec.size, spec.channels), dtype=np.uint8)
    drawn = np.stack([resize(Image.fromarray(digit), spec) for digit in digits])
    return {"handwritten digits": drawn, "uniform noise": noise}


def _of_folder(folder: Path, spec: PreprocessSpec, data: Data, most: int) -> UInt8Array:
    if not folder.is_dir():
        raise DataError(
            f"evaluate.ood: {folder} is not a folder; name one with images of other things, or leave it empty"
        )
    names = sorted(member.name for member in LocalFolder(folder).members())
    drawn = (folder / names[place] for place in np.random.default_rng(0).permutation(len(names)))
    small = (path for path in drawn if path.stat().st_size <= data.max_file_bytes)
    found: list[UInt8Array] = []
    with IsolatedPreparer(spec, ImageLimits.of(data), IsolationLimits.of(data)) as preparer:
        while len(found) < most and (some := list(islice(small, min(AT_ONCE, most - len(found))))):
            # Not every file of a folder is an image: those that are not are passed over.
            found += list(preparer.prepare([path.read_bytes() for path in some]).pixels)
    if not found:
        raise DataError(f"evaluate.ood: none of {len(names)} files in {folder} is an image that can be used")
    return np.stack(found)
