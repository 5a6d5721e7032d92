"""What the audit asks, and one training run, with what a retraining writes into it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from components.params.section import Positive, Section, Share

AUTO = "auto"  # a backbone that is chosen by trying
CHAMPION = "champion"  # whose weights training starts from

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
    """What is done where some classes have far more images than others; see `training.objectives.imbalance`."""

    remedy: Literal["none", "class-weights", "focal", "sampling"] = "none"
    strength: Annotated[float, Field(ge=0, le=1)] = 1.0
    gamma: Annotated[float, Field(ge=0, le=10)] = 2.0
    factors: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)


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
    """A large trained model whose answers a small network learns; see `training.objectives.distillation`."""

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
    shares: dict[str, Share] = Field(default_factory=dict)


class SuspectedChange(Section):
    """Since which window classes fell: labels from before are held against those from then on."""

    since: str
    classes: Annotated[tuple[str, ...], Field(min_length=1)]
