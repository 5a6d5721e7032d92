"""The stage that writes the file that scores."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from components.errors import RefusedError
from components.model.artifact import ONNX_FILE, file_sha256, write_spec
from components.model.images.dataset import StoredImages
from components.model.images.preprocess import prepare
from components.model.networks.backbones import restore
from components.model.serving.export import embedding_parity, parity, to_onnx
from components.model.serving.predictor import Predictor
from components.params import Params
from components.stages.files import METRICS_FILE, fresh, read_json, write_json

logger = logging.getLogger(__name__)


def run(params: Params) -> None:
    """Write the file that scores: model.onnx, model.json, metrics.json. Raises RefusedError if it answers otherwise."""
    network, spec = restore(Path(params.paths.model))
    measured = read_json(Path(params.paths.evaluation) / METRICS_FILE, "evaluate")
    temperature = measured["calibration"]["temperature"]
    stored = StoredImages.of(params)
    rows = stored.manifest.select("validation").slice(0, params.export.parity_images)

    folder = fresh(params.paths.export)
    to_onnx(network, replace(spec, temperature=temperature), folder / ONNX_FILE)
    sha256 = file_sha256(folder / ONNX_FILE)
    answering, wanted = measured["answering"], params.score.review_below
    review_below = answering["review"]["threshold"] if wanted == "auto" else wanted
    write_spec(folder, spec.exported(temperature, review_below, sha256, answering["unfamiliar_above"]))
    predictor = Predictor(folder)
    places = zip(*(rows[name].to_pylist() for name in ("shard", "row", "image_id", "name")), strict=True)
    scored = prepare([stored.content(*place) for place in places], spec.preprocess, stored.limits).pixels
    trained_on = stored.pixels(rows, spec.preprocess)
    difference = parity(network, predictor, trained_on, scored)
    of_embeddings = embedding_parity(network, predictor, trained_on, scored)
    metrics = {
        "images": len(rows),
        "max_absolute_difference": difference,
        "embedding_difference": of_embeddings,
        "tolerance": params.export.parity_tolerance,
        "providers": list(predictor.providers),
        "onnx_bytes": (folder / ONNX_FILE).stat().st_size,
        "passed": max(difference, of_embeddings) <= params.export.parity_tolerance,
    }
    write_json(folder / METRICS_FILE, metrics)
    if not metrics["passed"]:
        raise RefusedError(
            f"the exported model's logits differ from the trained one's by {difference:.2g}, its embeddings by "
            f"{of_embeddings:.2g} of their largest value, on {len(rows)} images; one is more than "
            f"export.parity_tolerance {params.export.parity_tolerance:g}; it is not used"
        )
    logger.info("export: logits agree within %.2g on %d images", difference, len(rows))
