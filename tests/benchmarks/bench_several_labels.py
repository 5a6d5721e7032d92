"""Several labels an image, all the way: synthetic collages of two garments, from a list to what the store says of them.

Run: python tests/benchmarks/bench_several_labels.py [--images 40000] [--epochs 5] [--cache FOLDER]. The images are
synthetic: two garments of Fashion-MNIST side by side, one, or none; their labels are the set of what they show. Every
step is the product's own, in a workspace of its own with the embedded PostgreSQL: `perennial ingest` of a JSON Lines
list, `retrain` (audit, train, evaluate, export, gate), `score` of collages of garments that no model saw. Prints the
mean average precision that evaluation found, and the same of the scored images as stored, where labels that are surely
absent have no row and are ranked last together. Exits 1 if the first is below 0.95.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from collage_world import Collage, collages, write_list
from sqlalchemy import text

from components.data.sources.fashion_mnist import CLASSES, load_fashion_mnist
from components.model.average_precision import average_precisions
from components.operations.services import Services, discard_services, open_services
from components.settings import Settings

DEMANDED = 0.95
SCORED = 2000


def settings(epochs: int) -> dict[str, dict[str, Any]]:
    """Return what differs from the shipped parameters."""
    return {
        "data": {
            "several": True, "near_distance": 0,  # collages of different garments may look alike
            "split": {"train": 0.9, "validation": 0.05, "test": 0.05},
        },
        "preprocess": {"size": 40},
        "audit": {"folds": 2, "epochs": 1},
        "train": {
            "backbone": "medium_cnn", "epochs": epochs, "learning_rate": 0.004, "label_smoothing": 0.0,
            "augment": {"shift": 0.05, "flip": True},
        },
        "evaluate": {"bootstrap": 200},
    }  # fmt: skip


def perennial(root: Path, *arguments: str) -> Any:
    """Return what a command of the product printed as JSON, and say how long it took."""
    started = time.perf_counter()
    command = [str(Path(sys.executable).parent / "perennial"), *arguments, "--workspace", str(root), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ})
    if done.returncode not in (0, 3):
        sys.exit(f"perennial {arguments[0]} failed: {done.stdout}{done.stderr}")
    print(f"{arguments[0]}: {time.perf_counter() - started:.0f} s", flush=True)
    return json.loads(done.stdout)


def prepare(root: Path, epochs: int) -> None:
    """Make a workspace whose images carry several labels."""
    subprocess.run([str(Path(sys.executable).parent / "perennial"), "init", str(root)], check=True, capture_output=True)
    params = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    for section, values in settings(epochs).items():
        params[section].update(values)
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    for command in (["commit", "--quiet", "--all", "--message", "Several labels"], ["push", "--quiet"]):
        who = ["-c", "user.name=bench", "-c", "user.email=bench@localhost"]
        subprocess.run(["git", *who, *command], cwd=root, check=True)


def stored(services: Services, made: list[Collage]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what the store says of the scored collages: probability (N, K), predicted (N, K), and which are there."""
    asked = text(
        "SELECT p.name, l.label, l.positive, l.confidence FROM label_prediction l JOIN prediction p"
        " ON p.month = l.month AND p.batch_number = l.batch_number AND p.item_no = l.item_no"
    )
    probability, said = np.zeros((len(made), len(CLASSES))), np.zeros((len(made), len(CLASSES)), bool)
    with services.database.transaction() as connection:
        rows = connection.execute(asked).all()
        classes = connection.execute(text("SELECT classes FROM class_list WHERE several")).scalar_one()
    for name, label, positive, confidence in rows:
        place = int(Path(name).stem), CLASSES.index(classes[label])
        said[place] = positive
        probability[place] = confidence if positive else 1 - confidence
    truth = np.array([[name in one.labels for name in CLASSES] for one in made])
    return probability, said, truth


def main() -> int:
    """Print the figures and return the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=40_000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--cache", type=Path, help="where Fashion-MNIST is kept; [default: fetched anew]")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fashion-") as temporary:
        data = load_fashion_mnist(options.cache or Path(temporary))
    fresh = collages(data.test_images, data.test_labels, CLASSES, SCORED, seed=2)
    print(f"{options.images} synthetic collages of Fashion-MNIST's garments, {SCORED} more to score")
    with tempfile.TemporaryDirectory(prefix="several-") as name:
        root, folder = Path(name) / "workspace", Path(name)
        learnt = write_list(
            folder / "learnt", collages(data.train_images, data.train_labels, CLASSES, options.images, 1)
        )
        scored = write_list(folder / "scored", fresh)
        prepare(root, options.epochs)
        try:
            perennial(root, "ingest", str(learnt))
            renewed = perennial(root, "retrain")
            measured = json.loads((root / "artifacts" / "evaluation" / "metrics.json").read_text(encoding="utf-8"))
            part = measured["parts"]["frozen_test"]
            audited = json.loads((root / "artifacts" / "audit" / "metrics.json").read_text(encoding="utf-8"))
            print(f"audit: doubts {audited['suspects']} of {audited['images']} images")
            print(f"frozen test set, {part['images']} collages: mAP {part['map']}")
            for row in part["classes"]:
                print(f"  {row['name']:9} average precision {row['average_precision']['value']:.3f}")
            print(f"  all labels right {part['exact_match']}, without labels {part['without_labels']}")
            if not renewed["promoted"]:
                sys.exit(f"the gate refused: {renewed['verdict']['reason']}")
            perennial(root, "score", str(scored))
            with open_services(root, Settings.from_environment()) as services:
                probability, said, truth = stored(services, fresh)
        finally:
            discard_services(root, Settings.from_environment())
    ranked = average_precisions(truth, probability)
    exact = float((said == truth).all(axis=1).mean())
    print(f"store, {len(truth)} scored collages: mAP {ranked.mean():.4f}, all labels right {exact:.3f}")
    return 0 if part["map"]["value"] >= DEMANDED else 1


if __name__ == "__main__":
    sys.exit(main())
