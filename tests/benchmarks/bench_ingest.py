"""Images coming in, from ten thousand to a million: speed, memory and growth, beside a bare loop over the same files.

The images are blends of two of Fashion-MNIST each, 28 x 28, as compressed PNG files in class folders and in a tar. They
lie in the page cache, as files that have just been made do: what a disk can do is not measured.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

CLASSES = 10
FURTHER = 10_000
BARE_FILES = 20_000
READS = 200_000
CHUNK = 5_000


def main() -> None:
    """Print a table of reached beside demanded; exit 1 if one is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--keep", type=Path, help="where files are made, and found again by the next run")
    parser.add_argument("--cache", type=Path, help="where Fashion-MNIST lies or is put")
    parser.add_argument("--step", nargs=3, metavar=("WHAT", "SOURCE", "ROOT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        what, source, root = arguments.step
        print(json.dumps(STEPS[what](source, Path(root))))
        return
    with tempfile.TemporaryDirectory(prefix="perennial-bench-") as temporary:
        work = arguments.keep or Path(temporary)
        cache = arguments.cache or work / "cache"
        reached = [measure(images, work, cache) for images in sorted(arguments.images)]
    report(reached)


def measure(images: int, work: Path, cache: Path) -> dict[str, float]:
    """Return the figures of one size."""
    tree, more = made(work / f"{images}", images, 0, cache), made(work / f"{images}-more", FURTHER, images, cache)
    tar = packed(tree)
    figures: dict[str, float] = {"images": images}
    for kind, source in (("tar", tar), ("folder", tree)):  # the folder last: the further images go into its data
        root = work / f"{images}-workspace"
        shutil.rmtree(root, ignore_errors=True)
        cached(source)
        took = step("ingest", source, root)
        assert took["added"] == images, took
        figures |= {f"{kind}_rate": images / took["seconds"], f"{kind}_memory": took["memory"]}
    figures["bare_rate"] = step("bare", tree, root)["rate"]
    figures["reads"] = step("read", tree, root)["rate"]
    versioned = step("version", tree, root)
    figures |= {name: versioned[name] for name in ("add", "push")}
    further = step("ingest", more, root)
    assert further["added"] == FURTHER, further
    figures |= {"further_seconds": further["seconds"], "further_memory": further["memory"]}
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}), flush=True)
    return figures


def cached(source: Path) -> None:
    """Read all of a source once, so that the page cache has it."""
    for path in source.rglob("*") if source.is_dir() else (source,):
        if path.is_file():
            with path.open("rb") as file:
                while file.read(1 << 20):
                    pass


def report(reached: list[dict[str, float]]) -> None:
    """Print the demands beside the largest size's figures, and how each figure grows."""
    last = reached[-1]
    lines = [
        ("from a folder, images/s", last["folder_rate"], ">=", 4_000),
        ("from a tar, images/s", last["tar_rate"], ">=", 4_000),
        ("peak memory, GB", max(last["folder_memory"], last["tar_memory"], last["further_memory"]) / 1e9, "<=", 1.5),
        (f"{FURTHER:,} more, seconds", last["further_seconds"], "<=", 30),
        ("dvc add and push, minutes", (last["add"] + last["push"]) / 60, "<=", 3),
        ("random reads from shards, images/s", last["reads"], ">=", 50_000),
    ]
    print(f"\n{int(last['images']):,} images")
    missed = False
    for name, value, sign, demanded in lines:
        good = value >= demanded if sign == ">=" else value <= demanded
        missed |= not good
        print(f"{'yes' if good else 'NO '}  {name}: {value:,.2f}, demanded {sign} {demanded:,}")
    print(f"     a bare loop (read, hash, Pillow) on one core: {last['bare_rate']:,.0f} images/s; "
          f"the folder came in {last['folder_rate'] / last['bare_rate']:.2f} times as fast")  # fmt: skip
    for before, after in pairwise(reached):
        growth = {name: after[name] / before[name] for name in ("images", "folder_rate", "tar_rate", "folder_memory")}
        print(f"     {before['images']:,.0f} to {after['images']:,.0f} images: "
              + ", ".join(f"{name} x {value:.2f}" for name, value in growth.items()))  # fmt: skip
    sys.exit(int(missed))


def step(what: str, source: Path, root: Path) -> dict[str, Any]:
    """Run one step in a process of its own; return what it says with `memory`, the peak of it and all it starts."""
    command = [sys.executable, __file__, "--step", what, str(source), str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        peak, process = 0, psutil.Process(running.pid)
        while running.poll() is None:
            peak = max(peak, resident(process))
            time.sleep(0.05)
        assert running.stdout is not None
        said = running.stdout.read()
    if running.returncode:
        raise SystemExit(f"{what} failed")
    return {**json.loads(said), "memory": peak}


def resident(process: psutil.Process) -> int:
    """Return the bytes that a process and its children hold, what they share counted once for each."""
    total = 0
    for each in (process, *process.children(recursive=True)):
        try:
            total += each.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def ingest_step(source: str, root: Path) -> dict[str, Any]:
    """Bring `source` in, as `perennial ingest` does before it versions the result."""
    from components.data.decoding.decode import ImageLimits
    from components.data.ingestion.ingest import ingest
    from components.data.sources.opening import open_source
    from components.params import Params

    params = Params()
    start = time.perf_counter()
    items = open_source(source, limits=ImageLimits.of(params.data), cache=root / "cache")
    report = ingest(items, root=root, params=params, source=source)
    return {"seconds": time.perf_counter() - start, "added": report.added}


def bare_step(source: str, _root: Path) -> dict[str, Any]:
    """Do the least that anybody would: read each file, hash it, let Pillow decode it."""
    files = [path for folder in sorted(Path(source).iterdir()) for path in sorted(folder.iterdir())][:BARE_FILES]
    start = time.perf_counter()
    for path in files:
        content = path.read_bytes()
        hashlib.sha256(content).hexdigest()
        Image.open(io.BytesIO(content)).load()
    return {"rate": len(files) / (time.perf_counter() - start)}


def read_step(_source: str, root: Path) -> dict[str, Any]:
    """Read encoded bytes at random places."""
    from components.data.manifest import Manifest
    from components.data.shards import ShardReader
    from components.params import Params

    paths = Params().paths
    rows = Manifest.read(root / paths.manifest).table
    chosen = rows.take(np.random.default_rng(7).integers(0, len(rows), READS))
    places = list(zip(chosen["shard"].to_pylist(), chosen["row"].to_pylist(), strict=True))
    reader = ShardReader(root / paths.images)
    start = time.perf_counter()
    for place in places:
        reader.read(*place)
    return {"rate": READS / (time.perf_counter() - start)}


def version_step(_source: str, root: Path) -> dict[str, Any]:
    """Make a repository around the data, then `dvc add` and `dvc push` to a local remote."""
    from components.data.versioning.versions import dvc
    from components.params import Params

    paths = Params().paths
    subprocess.run(["git", "init", "--quiet", str(root)], check=True)
    dvc("init", "--quiet", cwd=root)
    dvc("remote", "add", "--quiet", "--default", "store", str(root / "remote"), cwd=root)
    dvc("config", "cache.type", "reflink,hardlink,copy", cwd=root)
    return {
        "add": seconds(lambda: dvc("add", paths.images, paths.manifest, cwd=root)),
        "push": seconds(lambda: dvc("push", cwd=root)),
        "at": datetime.now(UTC).isoformat(),
    }


STEPS: dict[str, Callable[[str, Path], dict[str, Any]]] = {
    "ingest": ingest_step,
    "bare": bare_step,
    "read": read_step,
    "version": version_step,
}


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def made(folder: Path, images: int, first: int, cache: Path) -> Path:
    """Return a folder of so many PNG files in class folders; image n is the same in every run."""
    if (folder / "complete").exists():
        return folder / "images"
    from components.data.sources.fashion_mnist import load_fashion_mnist

    data = load_fashion_mnist(cache)
    np.save(folder.parent / "pixels.npy", data.train_images)
    with ProcessPoolExecutor() as pool:
        starts = range(first, first + images, CHUNK)
        list(pool.map(make_some, [folder] * len(starts), starts, [first + images] * len(starts)))
    (folder / "complete").touch()
    return folder / "images"


def make_some(folder: Path, start: int, end: int) -> None:
    pixels = np.load(folder.parent / "pixels.npy", mmap_mode="r")
    for number in range(start, min(start + CHUNK, end)):
        rng = np.random.default_rng(number)
        one, other = pixels[rng.integers(0, len(pixels), 2)].astype(np.float32)
        share = rng.uniform(0.3, 0.7)
        blend = np.rint(share * one + (1 - share) * np.roll(other, rng.integers(-4, 5, 2), (0, 1))).astype(np.uint8)
        place = folder / "images" / f"class-{number % CLASSES}" / f"{number:08d}.png"
        if number < start + CLASSES:
            place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(blend).save(place)


def packed(tree: Path) -> Path:
    """Return a tar of a folder."""
    tar = tree.parent / "images.tar"
    if not tar.exists():
        with tarfile.open(tar.with_suffix(".partial"), "w") as archive:
            for name in walked(tree):
                archive.add(tree / name, name)
        tar.with_suffix(".partial").rename(tar)
    return tar


def walked(tree: Path) -> Iterator[str]:
    for folder in sorted(tree.iterdir()):
        for path in sorted(folder.iterdir()):
            yield f"{folder.name}/{path.name}"


if __name__ == "__main__":
    main()
