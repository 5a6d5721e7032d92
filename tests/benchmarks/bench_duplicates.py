"""Near-duplicates planted among real images: how many are found, how many others are taken for such, time and memory.

Run: python tests/benchmarks/bench_duplicates.py [--cache FOLDER] [--photographs SOURCE]. The 60,000 training images of
Fashion-MNIST and 2,000 copies, 200 of each kind of change. An untouched image is wrongly grouped if it shares a group
with another untouched one, though some of those are copies indeed. Growth is measured on blends of two random images,
each size in a process of its own. --photographs: class folders or an archive of colour images, treated alike without
demands. Exits 1 if a figure is missed.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from bench_monitor import peak_megabytes
from bench_monitoring import Row, at_least, at_most, show
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from components.data.decoding.decode import ImageLimits, decode
from components.data.descriptor import CELLS, DESCRIPTOR_BYTES, descriptor
from components.data.ingestion.near_duplicates import NEAR, near_pairs
from components.data.sources.fashion_mnist import load_fashion_mnist
from components.data.sources.opening import open_source
from components.params import Data

SEED = 20_261_122
PLANTED = 200  # of each kind
SIZES = (10_000, 100_000, 1_000_000)
NONE = np.empty((0, DESCRIPTOR_BYTES), np.uint8)
Picture = Image.Image
Change = Callable[[Picture, np.random.Generator], Picture]


def jpeg(image: Picture, quality: int) -> Picture:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return decode(file.getvalue(), ImageLimits.of(Data()))


def sized(image: Picture, factor: float, how: Image.Resampling) -> Picture:
    return image.resize((round(image.width * factor), round(image.height * factor)), how)


def lighter(image: Picture, levels: int) -> Picture:
    return image.point(lambda value: min(255, max(0, value + levels)))


def shifted(image: Picture, rng: np.random.Generator) -> Picture:
    down, right = [(1, 0), (-1, 0), (0, 1), (0, -1)][rng.integers(4)]
    return Image.fromarray(np.roll(np.asarray(image), (down, right), (0, 1)))


def cropped(image: Picture, rng: np.random.Generator) -> Picture:
    left, top, right, bottom = (int(side) for side in np.eye(4, dtype=int)[rng.integers(4)])
    return image.crop((left, top, image.width - right, image.height - bottom))


DEMANDED: dict[str, Change] = {
    "JPEG of quality 75": lambda image, _: jpeg(image, 75),
    "JPEG of quality 90": lambda image, _: jpeg(image, 90),
    "doubled, bilinear": lambda image, _: sized(image, 2, Image.Resampling.BILINEAR),
    "doubled, bicubic": lambda image, _: sized(image, 2, Image.Resampling.BICUBIC),
    "3 levels lighter": lambda image, _: lighter(image, 3),
    "3 levels darker": lambda image, _: lighter(image, -3),
}
REPORTED: dict[str, Change] = {
    "halved, Lanczos": lambda image, _: sized(image, 0.5, Image.Resampling.LANCZOS),
    "1 pixel cropped from a side": cropped,
    "1 pixel shifted": shifted,
    "mirrored": lambda image, _: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}


def groups(count: int, new: np.ndarray, within: float) -> tuple[np.ndarray, float]:
    """Return the group of each of `count` images, and the seconds it took to find the pairs."""
    start = time.perf_counter()
    pairs = near_pairs(new, NONE, within=within)
    seconds = time.perf_counter() - start
    graph = coo_array((np.ones(len(pairs.first)), (pairs.first, pairs.second)), shape=(count, count))
    return connected_components(graph, directed=False)[1], seconds


def planted(images: Sequence[Picture], kinds: dict[str, Change], wanted: float | None, within: float) -> list[Row]:
    """Return the figures of copies planted among `images`; demands only where `wanted` is a recall."""
    rng = np.random.default_rng(SEED)
    originals = rng.choice(len(images), PLANTED * len(kinds), replace=False)
    names = np.repeat(list(kinds), PLANTED)
    copies = [kinds[name](images[number], rng) for name, number in zip(names, originals, strict=True)]
    start = time.perf_counter()
    described = np.stack([descriptor(image) for image in [*images, *copies]])
    describing = time.perf_counter() - start
    group, searching = groups(len(described), described, within)
    found = group[len(images) :] == group[originals]
    rows = [
        at_least(f"recall, {name}, %", 100 * found[names == name].mean(), wanted if name in DEMANDED else None)
        for name in kinds
    ]
    others = np.bincount(group[: len(images)])[group[: len(images)]] > 1
    demanded = wanted is not None
    rows.append(at_most("untouched images grouped with each other, %", 100 * others.mean(), 0.5 if demanded else None))
    rows.append(at_most("untouched images grouped with each other", others.sum(), None))
    each = 1e6 * describing / len(described)
    rows.append(at_most("one descriptor, microseconds", each, 60 if demanded else None))
    rows.append(at_most("all descriptors and the search, s", describing + searching, 60 if demanded else None))
    rows.append(at_most("the search alone, s", searching, None))
    return rows


def blends(images: np.ndarray, count: int) -> np.ndarray:
    """Return descriptors of mixtures of two random images each."""
    rng = np.random.default_rng(SEED)
    described = np.empty((count, DESCRIPTOR_BYTES), np.uint8)
    for number in range(count):
        one, other = images[rng.integers(len(images), size=2)]
        share = rng.uniform(0.3, 0.7)
        described[number] = descriptor(Image.fromarray(np.rint(one * share + other * (1 - share)).astype(np.uint8)))
    return described


def noisy(count: int) -> np.ndarray:
    """Return descriptors of nearly blank images of 120 pixels a side, all near each other, no two the same."""
    rng = np.random.default_rng(SEED)
    fields = rng.normal(200, 2, (1000, 120, 120))
    base = np.stack([descriptor(Image.fromarray(np.rint(field).astype(np.uint8))) for field in fields])
    more = np.repeat(base, -(-count // len(base)), axis=0)[:count].astype(int)
    more[:, : CELLS**2] += rng.integers(-1, 2, (count, CELLS**2))
    return more.clip(0, 255).astype(np.uint8)


def search_alone(file: Path) -> dict[str, float]:
    """Search the descriptors in `file`; return processor seconds and megabytes beyond the input."""
    described = np.load(file)
    near_pairs(described[:100], NONE)  # imports
    before, start = peak_megabytes(), time.process_time()
    pairs = near_pairs(described, NONE)
    used = {"seconds": time.process_time() - start, "megabytes": peak_megabytes() - before}
    return {**used, "pairs": len(pairs.first), "crowded": pairs.crowded}


def measured(described: np.ndarray) -> dict[str, float]:
    """Return what `search_alone` says, run in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "descriptors.npy"
        np.save(file, described)
        done = subprocess.run(
            [sys.executable, __file__, "--search", str(file)], capture_output=True, text=True, check=True
        )
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def growth(images: np.ndarray) -> list[Row]:
    described = blends(images, SIZES[-1])
    runs = [measured(described[:size]) for size in SIZES]
    rows: list[Row] = []
    for size, run in zip(SIZES, runs, strict=True):
        rows.append(at_most(f"{size:,} blends: processor seconds", run["seconds"], None))
        rows.append(at_most(f"{size:,} blends: megabytes beyond the input", run["megabytes"], 400))
        rows.append(at_most(f"{size:,} blends: images with more candidates than compared", run["crowded"], None))
    for before, after, size in zip(runs, runs[1:], SIZES[1:], strict=False):
        ratio = after["seconds"] / before["seconds"]
        rows.append(at_most(f"seconds, {size:,} over a tenth of it (quadratic: 100)", ratio, 60))
        ratio = after["megabytes"] / before["megabytes"]
        rows.append(at_most(f"megabytes, {size:,} over a tenth of it (linear: 10)", ratio, 10))
    return rows


def crowd() -> list[Row]:
    described = noisy(100_000)
    run = measured(described)
    group, _ = groups(len(described), described, NEAR)
    return [
        at_most("100,000 nearly blank images: processor seconds", run["seconds"], 60),
        at_most("100,000 nearly blank images: megabytes beyond the input", run["megabytes"], 400),
        at_most("100,000 nearly blank images: groups", group.max() + 1, 1),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, help="where Fashion-MNIST is kept; default a temporary folder")
    parser.add_argument("--photographs", help="class folders or an archive of images")
    parser.add_argument("--search", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.search:
        print(json.dumps(search_alone(options.search)))
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        images = load_fashion_mnist(options.cache or Path(temporary)).train_images
        print(f"Fashion-MNIST, distance at most {NEAR:g}")
        missed = show(planted([Image.fromarray(image) for image in images], DEMANDED | REPORTED, 95, NEAR))
        if options.photographs:
            limits = ImageLimits.of(Data())
            items = open_source(options.photographs, limits=limits, cache=Path(temporary))
            photographs = [decode(item.content, limits) for item in items]
            for within in (NEAR, 2 * NEAR, 55.0):
                print(f"{len(photographs):,} photographs, distance at most {within:g}")
                show(planted(photographs, DEMANDED | REPORTED, None, within))
    missed += show(crowd())
    missed += show(growth(images))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
