"""params.yaml, typed and checked when loaded. A misspelt key is an error that names the nearest known one."""

from __future__ import annotations

import difflib
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from components.errors import ConfigurationError

M = TypeVar("M", bound=BaseModel)
Share = Annotated[float, Field(ge=0, le=1)]
OpenShare = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]


AUTO = "auto"  # a backbone that is chosen by trying
CHAMPION = "champion"  # whose weights training starts from


class Section(BaseModel):
    """A section that forbids unknown keys and never changes after loading."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Paths(Section):
    """Where the stages read and write, relative to the workspace's root."""

    images: str = "data/images"
    manifest: str = "data/manifest.parquet"
    code_lock: str = "code.lock"
    audit: str = "artifacts/audit"
    model: str = "artifacts/model"
    evaluation: str = "artifacts/evaluation"
    export: str = "artifacts/export"

    @model_validator(mode="after")
    def _inside(self) -> Self:
        for key, value in self:
            if Path(value).is_absolute() or ".." in Path(value).parts:
                raise ValueError(f"paths.{key} = {value!r} must lie inside the workspace")
        return self


class Split(Section):
    """Shares of the first ingest's groups; they sum to 1."""

    train: OpenShare = 0.75
    validation: OpenShare = 0.125
    test: OpenShare = 0.125

    @model_validator(mode="after")
    def _sum(self) -> Self:
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"data.split sums to {total:g}, not 1")
        return self


class Data(Section):
    """What may come in, and how it is split."""

    classes: tuple[str, ...] = ()
    several: bool = False
    split: Split = Split()
    seed: int = 7
    golden_share: Share = 0.2
    golden_share_alarmed: Share = 0.5
    golden_windows: Positive = 6
    max_file_bytes: Positive = 50_000_000
    max_pixels: Positive = 50_000_000
    min_side: Positive = 4
    decode_seconds: Positive = 10
    decode_bytes: Annotated[int, Field(ge=512 * 1024**2)] = 2_560 * 1024**2
    near_distance: Annotated[float, Field(ge=0, le=200)] = 20.0
    shard_bytes: Annotated[int, Field(ge=65_536)] = 67_108_864
    quarantine_bytes: Annotated[int, Field(ge=0)] = 1_073_741_824
    licence: Annotated[str, Field(max_length=500)] = ""


class Preprocess(Section):
    """How every image becomes the network's input; its hash travels with the model."""

    size: Annotated[int, Field(ge=8, le=1024)] = 28
    channels: Literal[1, 3] = 1
    resize: Literal["stretch", "crop"] = "stretch"
    crop_fraction: Annotated[float, Field(gt=0.3, le=1)] = 1.0
    filter: Literal["bilinear", "bicubic", "lanczos", "box"] = "bilinear"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


Head = Literal["linear", "mlp"]
AuditPolicy = Literal["keep", "down-weight", "drop", "soft-targets"]


class Features(Section):
    """A pre-trained backbone that judges labels beside the audit's own models, by a linear head; "" is none."""

    backbone: str = ""
    pretrained: str = "package"
    size: Annotated[int, Field(ge=8, le=1024)] = 96


class Audit(Section):
    """Out-of-fold label audit, and what training does with its suspects."""

    folds: Annotated[int, Field(ge=2, le=20)] = 3
    epochs: Positive = 4
    features: Features = Features()
    policy: AuditPolicy = "down-weight"
    suspect_weight: Share = 0.1


class Augment(Section):
    """Changes made to training images on the fly; none may change the label.

    policy, crop, saturation and hue are torchvision's, image by image, which costs a tenth to half a millisecond each;
    the others are made for a whole batch at once.
    """

    shift: Annotated[float, Field(ge=0, le=0.3)] = 0.07
    rotate: Annotated[float, Field(ge=0, le=45)] = 0.0
    brightness: Annotated[float, Field(ge=0, le=0.9)] = 0.0
    contrast: Annotated[float, Field(ge=0, le=0.9)] = 0.0
    flip: bool = False
    erase: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    policy: Literal["none", "trivial", "rand"] = "none"
    crop: Annotated[float, Field(gt=0.05, le=1)] = 1.0
    saturation: Annotated[float, Field(ge=0, le=0.9)] = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    mixup: Annotated[float, Field(ge=0, le=10)] = 0.0
    cutmix: Annotated[float, Field(ge=0, le=10)] = 0.0


class Imbalance(Section):
    """What is done where some classes have far more images than others; see `components.model.training.imbalance`."""

    remedy: Literal["none", "class-weights", "focal", "sampling"] = "none"
    strength: Annotated[float, Field(ge=0, le=1)] = 1.0
    gamma: Annotated[float, Field(ge=0, le=10)] = 2.0
    factors: dict[str, Annotated[float, Field(gt=0)]] = {}


class Transfer(Section):
    """How pre-trained weights are put to use; see `components.model.training.transfer`."""

    strategy: Literal["auto", "head", "two_phase", "full"] = "auto"
    head_epochs: Positive = 30
    head_rate: Annotated[float, Field(gt=0, le=1)] = 1e-3
    body_rate: Annotated[float, Field(gt=0, le=1)] = 1e-5
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.75
    unfreeze_every: Annotated[int, Field(ge=0)] = 0


class Shortlist(Section):
    """Which backbones `train.backbone: auto` tries, and how shortly."""

    backbones: Annotated[tuple[str, ...], Field(min_length=1)] = ("small_cnn", "medium_cnn")
    images: Positive = 5000
    epochs: Positive = 4
    most_ms: Annotated[float, Field(ge=0)] = 0.0


class Distil(Section):
    """A large trained model whose answers a small network learns; see `components.model.training.distillation`."""

    teacher: str = ""
    alpha: Share = 0.5
    temperature: Annotated[float, Field(gt=0, le=100)] = 2.0


class Train(Section):
    """One training run."""

    backbone: str = "small_cnn"
    pretrained: str = "none"
    head: Head = "linear"
    epochs: Positive = 18
    batch_size: Positive = 128
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.003
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    schedule: Literal["cosine", "step", "plateau"] = "cosine"
    plateau_patience: Annotated[int, Field(ge=0)] = 2
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.05
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1
    patience: Positive = 5
    keep_checkpoints: Positive = 3
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    gradient_clip: Annotated[float, Field(gt=0)] = 1.0
    processes: Annotated[int, Field(ge=0)] = 0
    deterministic: bool = False
    seed: int = 7
    production_weight: Annotated[float, Field(gt=0)] = 3.0
    class_mix: Literal["as-labelled", "production"] = "as-labelled"
    imbalance: Imbalance = Imbalance()
    augment: Augment = Augment()
    transfer: Transfer = Transfer()
    distil: Distil = Distil()
    shortlist: Shortlist = Shortlist()

    def named(self) -> Train:
        """Return the run with a backbone that has a name: where it is chosen by trying, the first of the shortlist."""
        return self if self.backbone != AUTO else self.model_copy(update={"backbone": self.shortlist.backbones[0]})

    @model_validator(mode="after")
    def _falls_before_it_stops(self) -> Self:
        if self.schedule == "plateau" and self.plateau_patience >= self.patience:
            raise ValueError(
                f"train.plateau_patience {self.plateau_patience} must be below train.patience {self.patience}: "
                "early stopping would end the run before the learning rate had ever fallen"
            )
        return self

    @model_validator(mode="after")
    def _starts_from_one_network(self) -> Self:
        if self.pretrained == CHAMPION and self.backbone == AUTO:
            raise ValueError("train.pretrained champion starts from one network; name its backbone, not auto")
        return self

    @model_validator(mode="after")
    def _one_remedy(self) -> Self:
        if self.class_mix == "production" and self.imbalance.remedy != "none":
            raise ValueError("train.class_mix: production and train.imbalance both weigh classes; choose one")
        return self


class Restart(Section):
    """Which of several trainings on the same data this is; a retraining sets it."""

    number: Annotated[int, Field(ge=0)] = 0


class Start(Section):
    """The champion whose weights training starts from; a retraining sets it where `train.pretrained` is champion.

    commit: where it was trained. sha256: of its weights. Version 0: there was none.
    """

    version: Annotated[int, Field(ge=0)] = 0
    commit: str = ""
    sha256: str = ""


class Mix(Section):
    """How often every class came in a window; a retraining sets it where `train.class_mix` is production."""

    window: str = ""
    shares: dict[str, Annotated[float, Field(ge=0, le=1)]] = {}


class SuspectedChange(Section):
    """Since which window classes fell: labels from before are held against those from then on."""

    since: str
    classes: Annotated[tuple[str, ...], Field(min_length=1)]


class Report(Section):
    """How many images each further question of the report is asked of; 0 leaves the question out."""

    linear_images: Annotated[int, Field(ge=0, le=5000)] = 2000
    corrupted_images: Annotated[int, Field(ge=0)] = 100
    attacked_images: Annotated[int, Field(ge=0)] = 64
    attack_epsilon: Annotated[float, Field(gt=0, le=0.5)] = 0.0157
    attack_steps: Annotated[int, Field(ge=1, le=100)] = 5
    five_looks_images: Annotated[int, Field(ge=0)] = 500
    ood_images: Annotated[int, Field(ge=0)] = 300
    saliency_images: Annotated[int, Field(ge=0, le=60)] = 8


class Evaluate(Section):
    """How a trained model is measured."""

    bootstrap: Annotated[int, Field(ge=100)] = 1000
    ece_bins: Annotated[int, Field(ge=2)] = 15
    batch_size: Positive = 512
    accepted_accuracy: OpenShare = 0.98
    familiar_share: OpenShare = 0.95
    ood: str = ""
    folds: Annotated[int, Field(ge=0, le=20)] = 0
    report: Report = Report()

    @model_validator(mode="after")
    def _folds(self) -> Self:
        if self.folds == 1:
            raise ValueError("evaluate.folds: 1 leaves nothing to learn from; write 0 for none, or 2 or more")
        return self


class Export(Section):
    """How the exported file must agree with the trained one, and whether it is in 8 bits."""

    parity_tolerance: Annotated[float, Field(gt=0)] = 1e-4
    parity_images: Positive = 64
    precision: Literal["fp32", "int8", "auto"] = "fp32"
    max_loss: Share = 0.01
    max_class_loss: Share = 0.02
    calibration_images: Annotated[int, Field(ge=16)] = 256
    judged_images: Positive = 1000
    latency_runs: Annotated[int, Field(ge=0)] = 20
    prune: Annotated[float, Field(ge=0, le=0.9)] = 0.0
    prune_epochs: Positive = 3


class Gate(Section):
    """What a candidate must show before it is promoted."""

    floor: Share = 0.60
    margin: Share = 0.02
    class_margin: Share = 0.05
    alarmed_p: OpenShare = 0.20
    max_ece: Share = 0.10


class Score(Section):
    """Batch scoring."""

    batch_size: Positive = 256
    chunk_rows: Positive = 4096
    review_below: Share | Literal["auto"] = "auto"
    workers: Annotated[int, Field(ge=0)] = 0
    keep_images_days: Positive = 90


class Labelling(Section):
    """What people are asked, and how many times."""

    share: OpenShare = 0.05
    reference_factor: Annotated[float, Field(ge=1)] = 5.0
    most_factor: Annotated[float, Field(ge=1)] = 2.0
    max_labels: Positive = 20_000
    training_queue: Annotated[int, Field(ge=0)] = 200
    audit_queue: Annotated[int, Field(ge=0)] = 200
    answers_per_task: Positive = 1
    check_share: Share = 0.1
    judge_at_response: OpenShare = 0.9
    judge_after_days: Annotated[float, Field(gt=0)] = 7.0
    lease_minutes: Annotated[float, Field(gt=0)] = 20.0


class Monitor(Section):
    """The trigger and the drift tests; see the design of the statistics in the documentation."""

    window: Literal["month", "week", "day"] = "month"
    close_after_hours: Annotated[float, Field(ge=0)] = 48.0
    floor: Share = 0.90
    tolerance: OpenShare = 0.05
    alpha_suspect: OpenShare = 0.10
    alpha_precision: OpenShare = 0.01
    alpha_recall: OpenShare = 0.005
    topup_labels: Annotated[int, Field(ge=0)] = 200
    topup_classes: Annotated[int, Field(ge=0)] = 3
    min_effective_labels: Annotated[float, Field(ge=1)] = 15.0
    pooled_windows: Annotated[int, Field(ge=1, le=60)] = 3
    drift_alpha: OpenShare = 0.01
    drift_v: OpenShare = 0.05
    drift_bins: Annotated[int, Field(ge=2)] = 20
    report_rows: Annotated[int, Field(ge=100, le=50_000)] = 20_000
    report_days: Positive = 90


class Retrain(Section):
    """When a retraining is worth it."""

    retrain_on: Literal["accuracy", "drift"] = "accuracy"
    cooldown_days: Annotated[float, Field(ge=0)] = 20.0
    minimum_new_labels: Annotated[int, Field(ge=0)] = 50
    most_per_month: Positive = 2
    candidates: Annotated[int, Field(ge=1, le=5)] = 2
    max_age_days: Positive = 183
    advice_seconds: Annotated[float, Field(ge=0)] = 300.0
    new_labels: Annotated[int, Field(ge=0)] = 2000


def _cron(line: str) -> str:
    from cronsim import CronSim, CronSimError

    if not line:  # on demand only
        return line
    try:
        CronSim(line, datetime(2000, 1, 1, tzinfo=UTC))
    except CronSimError as error:
        raise ValueError(f"not a cron line ({error}); write minute, hour, day, month, weekday: 0 3 1 * *") from error
    return line


Cron = Annotated[str, AfterValidator(_cron)]


class Schedule(Section):
    """Cron lines, UTC, of the deployments that `perennial serve` runs."""

    retrain: Cron = "0 3 1 * *"
    monitor: Cron = "0 6 * * *"
    score: Cron = "0 * * * *"
    inbox: str = "inbox"


class Alerts(Section):
    """Where alerts go besides the channels in PERENNIAL_ALERT_URLS."""

    file: str = "alerts.jsonl"
    links_base: str = ""


class Params(Section):
    """All of params.yaml."""

    paths: Paths = Paths()
    data: Data = Data()
    preprocess: Preprocess = Preprocess()
    audit: Audit = Audit()
    train: Train = Train()
    restart: Restart = Restart()
    changes: tuple[SuspectedChange, ...] = ()
    mix: Mix = Mix()
    start: Start = Start()
    evaluate: Evaluate = Evaluate()
    export: Export = Export()
    gate: Gate = Gate()
    score: Score = Score()
    labelling: Labelling = Labelling()
    monitor: Monitor = Monitor()
    retrain: Retrain = Retrain()
    schedule: Schedule = Schedule()
    alerts: Alerts = Alerts()


def load_params(path: Path) -> Params:
    """Return the parameters in the YAML file at `path`; absent keys take their defaults.

    Raises ConfigurationError, in one line, for a missing file, invalid YAML, an unknown key or a value out of range.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigurationError(f"{path} does not exist; `perennial init DIR` makes a workspace with one") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    return parse_strictly(Params, content if content is not None else {}, str(path))


def parse_strictly(model: type[M], content: object, where: str) -> M:
    """Return `content` as a `model`. Raises ConfigurationError naming file, key, value and the nearest known key."""
    if not isinstance(content, dict):
        raise ConfigurationError(f"{where}: expected a mapping of keys, got {type(content).__name__}")
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise ConfigurationError(f"{where}: " + "; ".join(_explain(model, e) for e in error.errors())) from error


def _explain(model: type[BaseModel], error: Any) -> str:
    keys = [str(part) for part in error["loc"]]
    name = ".".join(keys) or "the file"
    if error["type"] == "extra_forbidden":
        known = _known_keys(model, keys[:-1])
        near = difflib.get_close_matches(keys[-1], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        return f"unknown key {name!r}; {hint}"
    message = error["msg"].removeprefix("Value error, ")
    given = error.get("input")
    shown = f" (got {given!r})" if isinstance(given, str | int | float | bool) else ""
    return f"{name}: {message}{shown}"


def _known_keys(model: type[BaseModel], path: list[str]) -> list[str]:
    current: Any = model
    for key in path:
        if key.isdigit():  # a place in a list: its elements' model is already found
            continue
        field = current.model_fields.get(key) if hasattr(current, "model_fields") else None
        current = _model_in(field.annotation) if field is not None else None
    return sorted(current.model_fields) if hasattr(current, "model_fields") else []


def _model_in(annotation: Any) -> Any:
    """Return the model in an annotation such as `tuple[Month, ...]`, or None."""
    if hasattr(annotation, "model_fields"):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part)) is not None), None)
