"""model.json: everything about a trained model that is not a weight."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

from components.errors import ConfigurationError, IntegrityError, RefusedError
from components.model.images.preprocess import PreprocessSpec
from components.params import Head, Section, parse_strictly

SPEC_FILE = "model.json"
ONNX_FILE = "model.onnx"
WEIGHTS_FILE = "model.pt"

START_FOLDER = Path(".perennial") / "start"
"""Where a retraining puts the champion's weights for the train stage, inside the folder it runs in."""


class NetworkKind(NamedTuple):
    """What two networks must share for one to start from the other's weights. size: in pixels."""

    backbone: str
    head: Head
    size: int
    channels: int
    several: bool

    def __str__(self) -> str:
        answers = "several labels" if self.several else "one class"
        return (
            f"{self.backbone} with a {self.head} head at {self.size} px, {self.channels} channels, for {answers} an "
            "image"
        )

    def require_start_from(self, champion: NetworkKind) -> None:
        """Raise ConfigurationError unless a network of this kind can start from the champion's weights."""
        if self != champion:
            raise ConfigurationError(
                f"train.pretrained is champion, and the champion is {champion}, which {self} cannot start from; set "
                "train.pretrained to none, or backbone, head and preprocess to the champion's"
            )


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What a model answers and how it must be fed.

    classes: names in the order of the network's outputs. temperature: divides the logits before the softmax.
    review_below: calibrated confidence under which a prediction needs a person; of several labels, the least sure
    decision's, as of `predictor.decisions`. unfamiliar_above: energy above which an image is probably none of the
    classes, None where it was not measured. onnx_sha256: None until exported.
    lightened: the file was pruned or put in 8 bits after training, so its answers are not quite the trained network's.
    head: how the network answers from what its backbone sees.
    reject_class: the class of images that are none of the others; whatever its confidence, a person sees such an
    answer. "" where there is none.
    several: an image carries any number of the classes. What evaluation found of each (K,) is then, and only then, in
    scales and offsets, which make its logit the calibrated one, `scale * logit + offset`, whose sigmoid is the
    probability; and in thresholds, the probability from which on it is answered. Empty until exported.
    Raises ConfigurationError for fewer than two classes, a repeated class, a temperature that is not positive, or such
    numbers that are not one for each class.
    """

    classes: tuple[str, ...]
    preprocess: PreprocessSpec
    backbone: str
    temperature: float = 1.0
    review_below: float = 0.7
    onnx_sha256: str | None = None
    unfamiliar_above: float | None = None
    lightened: bool = False
    head: Head = "linear"
    reject_class: str = ""
    several: bool = False
    thresholds: tuple[float, ...] = ()
    scales: tuple[float, ...] = ()
    offsets: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            raise ConfigurationError(f"classes {list(self.classes)[:20]} must be two or more different names")
        if not math.isfinite(self.temperature) or self.temperature <= 0:
            raise ConfigurationError(f"temperature {self.temperature} must be a positive number")
        lengths = {len(self.thresholds), len(self.scales), len(self.offsets)}
        if lengths != {0} and (not self.several or lengths != {len(self.classes)}):
            raise ConfigurationError(f"thresholds, scales and offsets must be {len(self.classes)} each, or none")
        if not all(0 <= threshold <= 1 for threshold in self.thresholds):
            raise ConfigurationError(f"thresholds {self.thresholds[:20]} must lie between 0 and 1")
        reject_index(self.reject_class, self.classes)

    @property
    def kind(self) -> NetworkKind:
        """Return what another network must share to start from this one's weights."""
        fed = self.preprocess
        return NetworkKind(self.backbone, self.head, fed.size, fed.channels, self.several)

    @property
    def steepest(self) -> float:
        """Return by how much a calibrated logit changes, at most, where the network's changes by one."""
        return max(self.scales, default=1.0) if self.several else 1 / self.temperature

    def exported(
        self, temperature: float, review_below: float, onnx_sha256: str, unfamiliar_above: float | None = None
    ) -> ModelSpec:
        """Return this specification with what evaluation and export found out."""
        return replace(
            self,
            temperature=temperature,
            review_below=review_below,
            unfamiliar_above=unfamiliar_above,
            onnx_sha256=onnx_sha256,
        )


class _PreprocessPart(Section):
    size: int
    channels: int
    resize: str
    crop_fraction: float
    filter: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


class _File(Section):
    format: Literal[1]
    classes: tuple[str, ...]
    preprocess: _PreprocessPart
    preprocess_sha256: str
    backbone: str
    temperature: float
    review_below: float
    unfamiliar_above: float | None = None
    onnx_sha256: str | None
    lightened: bool = False
    head: Head = "linear"
    reject_class: str = ""
    several: bool = False
    thresholds: tuple[float, ...] = ()
    scales: tuple[float, ...] = ()
    offsets: tuple[float, ...] = ()


def reject_index(name: str, classes: Sequence[str]) -> int | None:
    """Return the place of the class that says an image is none of the others, None where there is no such class.

    Raises ConfigurationError where it is not among `classes`.
    """
    if not name:
        return None
    if name not in classes:
        raise ConfigurationError(
            f"evaluate.reject_class {name!r} is not among the {len(classes)} classes; `perennial classes` lists them"
        )
    return list(classes).index(name)


def write_spec(folder: Path, spec: ModelSpec) -> None:
    """Write `spec` as model.json into `folder`, with the digest of its preprocessing as this code understands it."""
    content = {"format": 1, **asdict(spec), "preprocess_sha256": spec.preprocess.digest()}
    if not spec.several:  # a model of one class an image is written as ever
        for name in ("several", "thresholds", "scales", "offsets"):
            del content[name]
    if spec.head == "linear":
        del content["head"]
    if not spec.reject_class:
        del content["reject_class"]
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
    (folder / SPEC_FILE).write_text(text + "\n", encoding="utf-8")


def read_spec(folder: Path) -> ModelSpec:
    """Return the specification in `folder`/model.json.

    Raises IntegrityError if the file is missing, malformed or has unknown keys, and RefusedError if the model was
    trained under other preprocessing rules than this code's: its answers would be silently worse.
    """
    path = folder / SPEC_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        part = parse_strictly(_File, content, str(path))
        preprocess = PreprocessSpec(**part.preprocess.model_dump())
        told = part.model_dump(exclude={"format", "preprocess", "preprocess_sha256"})
        spec = ModelSpec(preprocess=preprocess, **told)
    except FileNotFoundError as error:
        raise IntegrityError(f"{path} does not exist; {folder} is not a complete model, export it again") from error
    except (ValueError, ConfigurationError) as error:
        raise IntegrityError(f"{path} is damaged, export the model again: {error}") from error
    if part.preprocess_sha256 != preprocess.digest():
        raise RefusedError(
            f"{path}: the model was trained with preprocessing {part.preprocess_sha256[:12]}, this version "
            f"of Perennial does {preprocess.digest()[:12]}; retrain, or score with the version that trained it"
        )
    return spec


def file_sha256(path: Path) -> str:
    """Return the hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
