"""Training's path and scoring's give the same logits for 500 real files of mixed size, format and mode.

Training: ingested, stored in shards, `StoredImages.pixels`, PyTorch. Scoring: the file as it came, decoded in a process
of its own, ONNX Runtime. The pictures are photographs that come with scikit-learn and Matplotlib.
"""

import hashlib
import io
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import get_data_path
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from components.data.decoding.decode import ImageLimits
from components.data.decoding.isolation import IsolationLimits
from components.data.ingestion.ingest import ingest
from components.data.sources.item import SourceItem
from components.model.answering import predict_logits
from components.model.artifact import ONNX_FILE, ModelSpec, file_sha256, write_spec
from components.model.images.dataset import StoredImages
from components.model.images.preparing import IsolatedPreparer
from components.model.images.preprocess import PreprocessSpec
from components.model.networks.backbones import build
from components.model.serving.export import to_onnx
from components.model.serving.predictor import Predictor
from components.params import Params, parse_strictly

pytestmark = pytest.mark.xdist_group("train_serve_parity")

FILES = 500
TOLERANCE = 1e-4
PARAMS = parse_strictly(Params, {"preprocess": {"size": 32, "channels": 3}, "data": {"near_distance": 0}}, "test")
PREPROCESS = PreprocessSpec(32, 3, "crop", 0.9, "bilinear", (0.5, 0.45, 0.4), (0.25, 0.26, 0.27))
SPEC = ModelSpec(tuple("abcdefgh"), PREPROCESS, "small_cnn")


def jpeg(image: Image.Image, **options) -> bytes:
    return encoded(image, "JPEG", quality=85, **options)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(image: Image.Image, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return jpeg(image, exif=exif)


def see_through(image: Image.Image, mode: str) -> Image.Image:
    kept = image.convert(mode.removesuffix("A") or "L")
    kept.putalpha(Image.linear_gradient("L").resize(image.size))
    return kept


def sixteen_bit(image: Image.Image) -> Image.Image:
    grey = np.asarray(image.convert("L"), np.uint16)
    return Image.fromarray(grey * 257 + np.uint16(1))


def palette_with_a_clear_colour(image: Image.Image) -> bytes:
    return encoded(image.quantize(64), "PNG", transparency=3)


KINDS = {
    "jpeg": jpeg,
    "jpeg-grey": lambda image: jpeg(image.convert("L")),
    "jpeg-cmyk": lambda image: jpeg(image.convert("CMYK")),
    "jpeg-progressive": lambda image: jpeg(image, progressive=True, subsampling=2),
    **{f"jpeg-exif-{n}": (lambda image, n=n: turned(image, n)) for n in (3, 5, 6, 8)},
    "png": lambda image: encoded(image, "PNG"),
    "png-grey": lambda image: encoded(image.convert("L"), "PNG"),
    "png-palette": lambda image: encoded(image.quantize(32), "PNG"),
    "png-palette-clear": palette_with_a_clear_colour,
    "png-rgba": lambda image: encoded(see_through(image, "RGBA"), "PNG"),
    "png-la": lambda image: encoded(see_through(image, "LA"), "PNG"),
    "png-1-bit": lambda image: encoded(image.convert("1"), "PNG"),
    "png-16-bit": lambda image: encoded(sixteen_bit(image), "PNG"),
    "tiff-16-bit": lambda image: encoded(sixteen_bit(image), "TIFF"),
    "tiff-cmyk": lambda image: encoded(image.convert("CMYK"), "TIFF"),
    "webp": lambda image: encoded(image, "WEBP", quality=80),
    "gif": lambda image: encoded(image, "GIF"),
    "bmp": lambda image: encoded(image, "BMP"),
}


@pytest.fixture(scope="module")
def files() -> dict[str, tuple[str, bytes]]:
    """Sha256 to kind and bytes: pieces of photographs, 8 to 300 pixels a side, and digits, each kind in turn."""
    folder = Path(get_data_path()) / "sample_data"
    pictures = [Image.fromarray(picture) for picture in load_sample_images().images]
    pictures += [Image.open(folder / name).convert("RGB") for name in ("grace_hopper.jpg", "logo2.png")]
    pictures += [Image.fromarray((digit * 15.9).astype(np.uint8)).convert("RGB") for digit in load_digits().images[:40]]
    generator = np.random.default_rng(0)
    made: dict[str, tuple[str, bytes]] = {}
    number = 0
    while len(made) < FILES:
        kind = list(KINDS)[number % len(KINDS)]
        photograph, digit = int(generator.integers(4)), int(generator.integers(4, len(pictures)))
        picture = pictures[photograph if number % 7 else digit]
        width, height = (int(min(side, generator.integers(8, 300))) for side in picture.size)
        left, top = (int(generator.integers(picture.size[n] - side + 1)) for n, side in enumerate((width, height)))
        content = KINDS[kind](picture.crop((left, top, left + width, top + height)))
        made[hashlib.sha256(content).hexdigest()] = (kind, content)
        number += 1
    return made


@pytest.fixture(scope="module")
def trained() -> torch.nn.Module:
    """A network whose logits spread over some units, as a trained one's do: drawn weights give hundredths."""
    network = build("small_cnn", classes=8, channels=3, size=32, dropout=0.0, pretrained="none", seed=1).eval()
    with torch.no_grad():
        network.classifier.weight *= 40
    return network


@pytest.fixture(scope="module")
def training_side(files, trained, tmp_path_factory) -> dict[str, np.ndarray]:
    """Image id to the logits of the training path."""
    root = tmp_path_factory.mktemp("workspace")
    items = [SourceItem(f"{n}-{kind}", content, "ab"[n % 2]) for n, (kind, content) in enumerate(files.values())]
    ingest(items, root=root, params=PARAMS, source="photographs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        stored = StoredImages.of(PARAMS)
        rows = stored.manifest.select("train", "validation", "frozen_test")
        logits = predict_logits(trained, stored.pixels(rows, PREPROCESS), PREPROCESS)
    return dict(zip(rows["image_id"].to_pylist(), logits, strict=True))


@pytest.fixture(scope="module")
def predictor(trained, tmp_path_factory) -> Predictor:
    folder = tmp_path_factory.mktemp("export")
    to_onnx(trained, SPEC, folder / ONNX_FILE)
    write_spec(folder, SPEC.exported(1.0, 0.7, file_sha256(folder / ONNX_FILE)))
    return Predictor(folder, threads=1)


def scoring_side(predictor: Predictor, files, preprocess: PreprocessSpec) -> dict[str, np.ndarray]:
    with IsolatedPreparer(preprocess, ImageLimits.of(PARAMS.data), IsolationLimits.of(PARAMS.data), 1) as preparer:
        prepared = preparer.prepare([content for _, content in files.values()])
    assert not prepared.refused
    return dict(zip(files, predictor.predict(prepared.pixels)[0], strict=True))


def differences(training: dict[str, np.ndarray], scoring: dict[str, np.ndarray]) -> dict[str, float]:
    assert training.keys() == scoring.keys()
    return {image_id: float(np.abs(training[image_id] - scoring[image_id]).max()) for image_id in training}


def test_the_files_are_many_and_mixed(files):
    kinds = Counter(kind for kind, _ in files.values())
    sizes = {Image.open(io.BytesIO(content)).size for _, content in files.values()}
    modes = {Image.open(io.BytesIO(content)).mode for _, content in files.values()}
    assert len(files) == FILES
    assert min(kinds.values()) >= 15
    assert len(sizes) > 300
    assert modes >= {"RGB", "L", "P", "1", "RGBA", "LA", "CMYK", "I;16"}


def test_both_paths_give_the_same_logits(files, training_side, predictor):
    apart = differences(training_side, scoring_side(predictor, files, PREPROCESS))
    worst = max(apart, key=apart.get)
    assert apart[worst] <= TOLERANCE, files[worst][0]
    assert np.std(list(training_side.values())) > 0.5


@pytest.mark.parametrize(
    "change", [{"filter": "bicubic"}, {"filter": "box"}, {"resize": "stretch"}, {"crop_fraction": 0.88}]
)
def test_a_rule_that_is_changed_on_one_side_alone_shows(files, training_side, predictor, change):
    some = dict(list(files.items())[:60])
    training = {image_id: training_side[image_id] for image_id in some}
    apart = differences(training, scoring_side(predictor, some, replace(PREPROCESS, **change)))
    assert max(apart.values()) > 100 * TOLERANCE
    assert np.median(list(apart.values())) > TOLERANCE
