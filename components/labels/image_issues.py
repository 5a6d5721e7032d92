"""Which images look wrong, whatever their label: the only place that calls cleanvision."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

IMAGE_ISSUES: Mapping[str, str] = {
    "dark": "almost nothing in it is bright",
    "light": "almost nothing in it is dark",
    "blurry": "no edge in it is sharp",
    "low_information": "hardly any detail",
    "odd_size": "of another size than the other images",
    "odd_aspect_ratio": "very long or very tall",
}
"""What is looked for, as cleanvision names it, and what it means."""

MOST_COMMON = 0.05
"""Share of images above which a property is how these data are, and no issue of single ones."""


@dataclass(frozen=True, slots=True)
class ImageIssue:
    """One image that looks wrong. row: its place. severity: 0..1, how far beyond cleanvision's threshold it lies."""

    row: int
    kind: str
    severity: float


@dataclass(frozen=True, slots=True)
class ImageIssues:
    """What was found: single images, worst first; and properties that more than MOST_COMMON share, by their share."""

    issues: tuple[ImageIssue, ...]
    common: Mapping[str, float]

    def report(self) -> dict[str, Any]:
        """Return what metrics.json says: images by kind of issue, and what the images have in common."""
        counts = {kind: sum(issue.kind == kind for issue in self.issues) for kind in IMAGE_ISSUES}
        return {"counts": counts, "common": {kind: round(share, 5) for kind, share in self.common.items()}}


def find_image_issues(images: Sequence[Image.Image]) -> ImageIssues:
    """Return which of the decoded images (modes "L" and "RGB") look wrong, by cleanvision's rules for IMAGE_ISSUES.

    images: asked for one at a time, each once; a sequence that decodes when it is asked keeps memory small.
    """
    if not len(images):
        return ImageIssues((), {})
    from cleanvision.imagelab import Imagelab

    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):  # its progress bar
        lab = Imagelab(torchvision_dataset=_AsDataset(images))
        # One job: its worker processes would be forked from a process full of torch's threads.
        lab.find_issues(issue_types={kind: {} for kind in IMAGE_ISSUES}, n_jobs=1, verbose=False)
    found: list[ImageIssue] = []
    common = {}
    for kind in IMAGE_ISSUES:
        flagged = np.flatnonzero(lab.issues[f"is_{kind}_issue"].to_numpy())
        if len(flagged) > MOST_COMMON * len(images):
            common[kind] = len(flagged) / len(images)
            continue
        scores = lab.issues[f"{kind}_score"].to_numpy()
        # The worst image that passes stands for the threshold, which cleanvision keeps to itself.
        threshold = float(np.delete(scores, flagged).min(initial=1.0)) or 1.0
        found.extend(ImageIssue(int(row), kind, float(np.clip(1 - scores[row] / threshold, 0, 1))) for row in flagged)
    return ImageIssues(tuple(sorted(found, key=lambda issue: (-issue.severity, issue.row, issue.kind))), common)


class _AsDataset:
    """Images as what torchvision calls a data set: an item is a tuple that begins with the image."""

    def __init__(self, images: Sequence[Image.Image]) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, row: int) -> tuple[Image.Image]:
        return (self._images[row],)
