"""The label audit: how many wrong labels it finds, planted ones and people's own, what it costs, what training gains.

Run: python tests/benchmarks/bench_label_audit.py [--cache FOLDER] [--cifar FOLDER] [--only planted human policies]
--cifar: a folder with train.zip, test.zip (class folders) and human-labels.csv (file, clean, random1: one person's
label), as CIFAR-10 with CIFAR-10N's labels. Without it, only planted errors are judged. The baseline printed beside is
three-fold cross-validation of a plain network of six convolutions, 8 epochs, mirrored images, judged by cleanlab alone.
People who are asked are simulated: they say the clean label. Exits 1 if a figure is missed.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from bench_monitoring import Row, at_most, show
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from components.data.sources.fashion_mnist import load_fashion_mnist
from components.labels.issues import find_issues
from components.labels.suspects import soft_targets, training_weights
from components.model.answering import predict_logits
from components.model.images.inputs import ImageSet, channel_statistics
from components.model.images.preprocess import PreprocessSpec, resize
from components.model.networks.backbones import build, recorded_statistics
from components.model.out_of_fold import probabilities as judging
from components.model.out_of_fold.probabilities import agreed, head_out_of_fold, out_of_fold
from components.model.serving.frozen_features import frozen_features
from components.model.training.fit import fit
from components.params import Audit, Augment, Preprocess, Train

CLASSES = 10
SEEDS = (7, 11, 13)
PLANTED_IMAGES = 20_000
PLANTED_SHARE = 0.1
BACKBONE, SIDE = "tf_efficientnet_lite0", 96
BASELINE = {"AUROC": 0.919, "AP": 0.760}  # of the plain network, on random1
LOOK_ALIKE = {0: 6, 1: 3, 2: 4, 3: 1, 4: 2, 5: 7, 6: 0, 7: 9, 8: 5, 9: 7}  # Fashion-MNIST
AUDIT = Audit(folds=3, epochs=8)

Labels = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Found:
    """How well wrong labels were found."""

    auroc: float
    precision_average: float
    precision: float
    recall: float
    accuracy: float

    def words(self) -> str:
        return (
            f"AUROC {self.auroc:.4f}, AP {self.precision_average:.4f}, precision {self.precision:.3f}, "
            f"recall {self.recall:.3f}, out-of-fold accuracy {self.accuracy:.4f}"
        )


def judged(given: Labels, true: Labels, probabilities: Floats) -> Found:
    issues, wrong = find_issues(given, probabilities), given != true
    return Found(
        float(roc_auc_score(wrong, -issues.score)),
        float(average_precision_score(wrong, -issues.score)),
        float(wrong[issues.suspect].mean()),
        float(issues.suspect[wrong].mean()),
        float((probabilities.argmax(axis=1) == true).mean()),
    )


def planted(cache: Path) -> list[Row]:
    data = load_fashion_mnist(cache)
    chosen = np.sort(np.random.default_rng(7).permutation(len(data.train_images))[:PLANTED_IMAGES])
    images, true = data.train_images[chosen][..., None], data.train_labels[chosen].astype(np.int64)
    spec = PreprocessSpec.of(Preprocess(), *channel_statistics(images))
    rows = []
    ratios = []
    for kind in ("uniform", "pairwise"):
        found = []
        for seed in SEEDS:
            given = with_errors(true, kind, seed)
            train = Train(seed=seed)
            started = time.perf_counter()
            with timed_fits() as fits:
                probabilities, _ = folded(images, given, spec, train)
            found.append(judged(given, true, probabilities))
            took = time.perf_counter() - started
            ratios.append(took / fits.seconds)
            print(
                f"  {kind}, seed {seed}: {found[-1].words()}; {took:.0f} s, fold trainings {fits.seconds:.0f} s",
                flush=True,
            )
        auroc = float(np.mean([one.auroc for one in found]))
        rows.append(at_least(f"{kind} errors, AUROC", auroc, 0.99 if kind == "uniform" else 0.95))
        if kind == "uniform":
            rows.append(at_least("uniform errors, precision", float(np.mean([one.precision for one in found])), 0.60))
            rows.append(at_least("uniform errors, recall", float(np.mean([one.recall for one in found])), 0.90))
    rows.append(at_most("audit time over fold trainings", float(np.mean(ratios)), 1.25))
    return rows


def with_errors(true: Labels, kind: str, seed: int) -> Labels:
    generator = np.random.default_rng(seed)
    given, wrong = true.copy(), generator.random(len(true)) < PLANTED_SHARE
    if kind == "uniform":
        given[wrong] = (true[wrong] + generator.integers(1, CLASSES, int(wrong.sum()))) % CLASSES
    else:
        given[wrong] = np.array([LOOK_ALIKE[k] for k in range(CLASSES)])[true[wrong]]
    return given


def folded(images: NDArray[np.uint8], given: Labels, spec: PreprocessSpec, train: Train) -> tuple[Floats, Labels]:
    data = ImageSet(images, given, np.ones(len(given), np.float32))
    groups = [str(number) for number in range(len(given))]
    return out_of_fold(data, groups, CLASSES, spec=spec, train=train, audit=AUDIT)


class timed_fits:  # noqa: N801  (used as a function)
    """Measure what the trainings themselves take of what is done inside."""

    def __enter__(self) -> timed_fits:
        self.seconds, self._fit = 0.0, judging.fit
        judging.fit = self._timed
        return self

    def __exit__(self, *_: object) -> None:
        judging.fit = self._fit

    def _timed(self, *arguments: object, **named: object) -> object:
        started = time.perf_counter()
        fitted = self._fit(*arguments, **named)  # type: ignore[arg-type]
        self.seconds += time.perf_counter() - started
        return fitted


@dataclass(frozen=True)
class People:
    """Photographs with one person's label each, and the right ones."""

    images: NDArray[np.uint8]
    given: Labels
    true: Labels
    test_images: NDArray[np.uint8]
    test_labels: Labels


def people(folder: Path) -> People:
    with (folder / "human-labels.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = sorted({row["clean"] for row in rows})
    index = {name: number for number, name in enumerate(names)}
    with zipfile.ZipFile(folder / "train.zip") as archive:
        inside = {name.split("train/", 1)[-1]: name for name in archive.namelist()}
        images = np.stack([pixels(archive.read(inside[row["file"].split("train/", 1)[-1]])) for row in rows])
    with zipfile.ZipFile(folder / "test.zip") as archive:
        tested = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        test_images = np.stack([pixels(archive.read(name)) for name in tested])
    return People(
        images,
        np.array([index[row["random1"]] for row in rows]),
        np.array([index[row["clean"]] for row in rows]),
        test_images,
        np.array([index[name.split("/")[-2]] for name in tested]),
    )


def pixels(content: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


TRAIN = Train(augment=Augment(shift=0.12, flip=True), batch_size=256)


def human(data: People) -> tuple[list[Row], Floats]:
    spec = PreprocessSpec.of(Preprocess(size=32, channels=3), *channel_statistics(data.images))
    started = time.perf_counter()
    own, fold = folded(data.images, data.given, spec, TRAIN)
    took_own = time.perf_counter() - started
    print(f"  own network: {judged(data.given, data.true, own).words()}; {took_own:.0f} s", flush=True)

    started = time.perf_counter()
    features = frozen_features(enlarged(data.images), BACKBONE, "package", backbone_spec())
    took_features = time.perf_counter() - started
    weighted = ImageSet(data.images, data.given, np.ones(len(data.given), np.float32))
    head = head_out_of_fold(features, weighted, fold, CLASSES)
    took_head = time.perf_counter() - started - took_features
    print(f"  frozen {BACKBONE}: {judged(data.given, data.true, head).words()}; "
          f"features {took_features:.0f} s, heads {took_head:.0f} s", flush=True)  # fmt: skip
    both = agreed(own, head)
    found = judged(data.given, data.true, both)
    print(f"  both: {found.words()}; {took_own + took_features + took_head:.0f} s, "
          f"{(took_own + took_features + took_head) / took_own:.2f} times the own network's", flush=True)  # fmt: skip
    return [
        at_least("people's errors, AUROC", found.auroc, BASELINE["AUROC"] + 0.015),
        at_least("people's errors, AP", found.precision_average, BASELINE["AP"] + 0.04),
    ], both


def backbone_spec() -> PreprocessSpec:
    mean, std = recorded_statistics(BACKBONE, 3) or ((0.5,) * 3, (0.5,) * 3)
    return PreprocessSpec(SIDE, 3, "stretch", 1.0, "bicubic", mean, std)


def enlarged(images: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    spec = backbone_spec()
    for start in range(0, len(images), 1000):
        yield np.stack([resize(Image.fromarray(image), spec) for image in images[start : start + 1000]])


def policies(data: People, probabilities: Floats) -> list[Row]:
    """Train under every policy and with clean labels; judge on the clean test images."""
    issues = find_issues(data.given, probabilities)
    worst = np.zeros(len(data.given), bool)
    worst[np.argsort(issues.score, kind="stable")[: len(worst) // 10]] = True
    everyone, nobody = np.ones(len(worst), bool), np.zeros(len(worst), bool)

    def weights(policy: str, unconfirmed: NDArray[np.bool_]) -> Floats:
        return training_weights(
            issues.suspect, unconfirmed, nobody,
            policy=policy, suspect_weight=AUDIT.suspect_weight, production_weight=1.0,
        )  # fmt: skip

    answered = np.where(worst, data.true, data.given)
    plain = ImageSet(data.images, data.given, np.ones(len(worst), np.float32))
    kept = weights("drop", everyone) > 0
    sets = {
        "keep": plain,
        "drop": plain.take(kept),
        "down-weight": replace(plain, weights=weights("down-weight", everyone)),
        "soft-targets": replace(plain, targets=soft_targets(data.given, probabilities, issues.suspect)),
        "ask": replace(plain, labels=answered, weights=weights("down-weight", ~worst)),
        "clean labels": replace(plain, labels=data.true),
    }
    spec = PreprocessSpec.of(Preprocess(size=32, channels=3), *channel_statistics(data.images))
    reached: dict[str, list[float]] = {name: [] for name in sets}
    for seed in SEEDS:
        for name, training in sets.items():
            network = build(
                "small_cnn", classes=CLASSES, channels=3, size=32, dropout=TRAIN.dropout, pretrained="none", seed=seed
            )
            fitted = fit(
                network, training, None, spec=spec, params=TRAIN.model_copy(update={"seed": seed}), epochs=AUDIT.epochs
            )
            answers = predict_logits(fitted.network, data.test_images, spec).argmax(axis=1)
            reached[name].append(100 * float((answers == data.test_labels).mean()))
            print(f"  seed {seed}, {name}: {reached[name][-1]:.2f} %", flush=True)
    mean = {name: float(np.mean(figures)) for name, figures in reached.items()}
    for name, figures in reached.items():
        against = f"against keep {mean[name] - mean['keep']:+.2f}"
        print(f"  {name:13s} {mean[name]:.2f} % ({min(figures):.2f} to {max(figures):.2f}), {against}")
    return [
        at_least("the default policy against keep, points", mean[Audit().policy] - mean["keep"], 0.0),
        at_least("asking about the worst tenth against keep, points", mean["ask"] - mean["keep"], 0.8),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, help="where Fashion-MNIST lies or is put")
    parser.add_argument("--cifar", type=Path, help="photographs with people's labels")
    parser.add_argument(
        "--only", nargs="+", choices=["planted", "human", "policies"], default=["planted", "human", "policies"]
    )
    parser.add_argument(
        "--keep", type=Path, help="where the judges' probabilities are kept for another run of policies"
    )
    arguments = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        kept = (arguments.keep or Path(temporary)) / "judged.npy"
        if "planted" in arguments.only:
            rows += planted(arguments.cache or Path(temporary))
        if arguments.cifar and {"human", "policies"} & {*arguments.only}:
            data = people(arguments.cifar)
            if "human" in arguments.only or not kept.exists():
                found, probabilities = human(data)
                rows += found
                np.save(kept, probabilities)
            if "policies" in arguments.only:
                rows += policies(data, np.load(kept))
        elif not arguments.cifar:
            print(json.dumps({"skipped": "people's own errors: no --cifar folder was given"}))
    sys.exit(min(1, show(rows)))


def at_least(name: str, reached: float, wanted: float) -> Row:
    return name, f"{reached:.3f}", f">= {wanted:g}", reached >= wanted


if __name__ == "__main__":
    main()
