"""The golden set rolls on with the months, and nothing a model is judged on is ever learnt from: the leak guard."""

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from components.data.decoding.isolation import IsolatedDecoder
from components.data.ingestion.ingest import ingest
from components.data.manifest import Manifest
from components.data.png import encode_png
from components.data.sources.item import SourceItem
from components.operations.retraining.comparison import held_out
from components.params import Params

PARAMS = Params.model_validate({"data": {"golden_windows": 2, "golden_share": 0.4, "golden_share_alarmed": 0.8}})
PIXELS = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
IMAGES = [encode_png(pixels) for pixels in PIXELS]
FIRST = [SourceItem(f"{n}", IMAGES[n], "ab"[n % 2], group=f"cam-{n % 7}" if n % 3 else None) for n in range(16)]
MONTHS = st.lists(
    st.tuples(
        st.lists(  # image, label, camera: images come again, and cameras are shared between months
            st.tuples(st.integers(8, 59), st.sampled_from("ab"), st.sampled_from([None, "cam-1", "cam-8", "cam-9"])),
            max_size=12,
        ),
        st.sampled_from([(), ("a",), ("a", "b")]),
    ),
    min_size=2,
    max_size=5,
)


@settings(max_examples=25, deadline=None)
@given(MONTHS)
def test_what_is_judged_on_was_never_learnt_from_and_only_the_latest_windows_judge(
    decoder: IsolatedDecoder, months: list[tuple[list[tuple[int, str, str | None]], tuple[str, ...]]]
) -> None:
    learnt_images: set[str] = set()
    learnt_groups: set[str] = set()
    judged: set[str] = set()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        ingest(FIRST, root=root, params=PARAMS, source="first", decoder=decoder)
        for number, (asked, alarmed) in enumerate(months, 1):
            items = [
                SourceItem(
                    f"{n}", IMAGES[n], label, group=camera, label_origin="consensus", window=f"2026-{number:02d}"
                )
                for n, label, camera in asked
            ]
            ingest(
                items, root=root, params=PARAMS, source="production", production=True, alarmed_classes=alarmed,
                decoder=decoder,
            )  # fmt: skip
            manifest = Manifest.read(root / PARAMS.paths.manifest)
            learnt = manifest.select("train")
            learnt_images |= set(learnt["image_id"].to_pylist())
            learnt_groups |= set(learnt["group_id"].to_pylist())
            gate = held_out(manifest, PARAMS.data.golden_windows)
            judged |= set(gate.rows["image_id"].to_pylist())
            # Of all times: what was learnt once is not judged on later, nor the other way round, nor its group.
            assert not judged & learnt_images
            assert not set(gate.rows["group_id"].to_pylist()) & learnt_groups

            golden = manifest.select("golden")
            windows = sorted(set(golden["window"].to_pylist()))
            judging = {
                w for w, is_golden in zip(gate.rows["window"].to_pylist(), gate.golden, strict=True) if is_golden
            }
            assert judging == set(windows[-PARAMS.data.golden_windows :])
            kept = {
                image
                for image, w in zip(golden["image_id"].to_pylist(), golden["window"].to_pylist(), strict=True)
                if w in judging
            }
            assert kept <= set(gate.rows["image_id"].to_pylist())
