"""A batch as the world delivers it: what can be used is scored by a stated rule, the rest set aside with a reason."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import text

pytestmark = [pytest.mark.xdist_group("workspace"), pytest.mark.timeout(1800), pytest.mark.slow]

WIDTH, HEIGHT = 24, 12
REASONS = {
    "corrupt-checksum.png": "corrupt",
    "corrupt-header.png": "corrupt",
    "empty.png": "empty",
    "huge.png": "too-many-pixels",
    "letter.jpg": "not-an-image",
    "speck.png": "too-small",
    "truncated.jpg": "truncated",
    "truncated.png": "truncated",
}


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def forged_png(width: int, height: int) -> bytes:
    """A file of some hundred bytes whose header promises `width` x `height` pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def ramp() -> Image.Image:
    """Grey pixels that grow from 0 on the left to 250 on the right."""
    return Image.fromarray(np.tile(np.linspace(0, 250, WIDTH).astype(np.uint8), (HEIGHT, 1)))


def usable_files() -> dict[str, bytes]:
    colour = Image.merge("RGB", [ramp(), ramp(), ramp()])
    sixteen_bit = Image.fromarray(np.asarray(ramp()).astype(np.uint16) * 257)
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera stood on its side: shown, the picture is as wide as it is stored high
    inverted = Image.fromarray(255 - np.asarray(ramp()))
    return {
        "animated.gif": encoded(ramp(), "GIF", save_all=True, append_images=[inverted], duration=100),
        "cmyk.jpg": encoded(colour.convert("CMYK"), "JPEG", quality=95),
        "one-bit.png": encoded(ramp().convert("1"), "PNG"),
        "palette.png": encoded(colour.quantize(64), "PNG"),
        "plain.png": encoded(ramp(), "PNG"),
        "rotated.jpg": encoded(colour, "JPEG", quality=95, exif=turned),
        "sixteen-bit.png": encoded(sixteen_bit, "PNG"),
        "transparent.png": encoded(Image.merge("LA", [ramp(), Image.new("L", ramp().size, 0)]), "PNG"),
    }


def unusable_files() -> dict[str, bytes]:
    noise = np.random.default_rng(9).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    png, jpeg = encoded(Image.fromarray(noise), "PNG"), encoded(Image.fromarray(noise), "JPEG", quality=95)
    spoilt = bytearray(encoded(ramp(), "PNG"))
    spoilt[18] ^= 0xFF  # inside the header, which its checksum no longer fits
    return {
        "corrupt-checksum.png": bytes(spoilt),
        "corrupt-header.png": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "empty.png": b"",
        "huge.png": forged_png(10_000, 10_000),
        "letter.jpg": b"Dear Sir or Madam, please find attached the photograph.",
        "speck.png": encoded(Image.new("L", (2, 2)), "PNG"),
        "truncated.jpg": jpeg[: len(jpeg) // 2],
        "truncated.png": png[: len(png) // 2],
    }


@pytest.fixture(scope="module")
def incoming(digits: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with good, odd and unusable files."""
    folder = tmp_path_factory.mktemp("hostile") / "incoming"
    folder.mkdir()
    good = {Path(item.name).name: item.content for item in digits[:70]}  # more than one chunk
    for name, content in {**good, **usable_files(), **unusable_files()}.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def delivered(product: Any, perennial: Callable[..., Any], incoming: Path) -> Any:
    """What `perennial score --json` said of the folder."""
    done = perennial("score", str(incoming), "--workspace", str(product.root), "--json")
    assert (done.code, done.err) == (0, "")
    return done.json


@pytest.fixture
def rows(delivered: Any, services: Any) -> dict[str, Any]:
    """The logged predictions of the delivery by file name."""
    asked = text(
        "SELECT p.name, p.width, p.height, p.brightness, p.confidence"
        " FROM prediction p JOIN batch b ON b.number = p.batch_number WHERE b.id = :batch"
    )
    with services.database.transaction() as connection:
        return {row.name: row for row in connection.execute(asked, {"batch": delivered["batch"]})}


def test_every_unusable_file_is_set_aside_with_its_reason_and_all_others_are_scored(
    delivered: Any, rows: dict[str, Any]
) -> None:
    aside = {entry["name"]: entry["reason"] for entry in delivered["set_aside_items"]}
    assert aside == REASONS
    assert all(entry["detail"] for entry in delivered["set_aside_items"])
    assert delivered["set_aside"] == len(REASONS)
    assert delivered["images"] == 70 + len(usable_files()) + len(REASONS)
    assert delivered["predictions"] == delivered["new_rows"] == len(rows) == 70 + len(usable_files())
    assert set(usable_files()) < set(rows)


def test_the_forged_size_is_named_in_the_reason(delivered: Any) -> None:
    (huge,) = [entry for entry in delivered["set_aside_items"] if entry["name"] == "huge.png"]
    assert "10000 x 10000 pixels, at most 50000000" in huge["detail"]


@pytest.mark.parametrize("name", ["plain.png", "sixteen-bit.png", "cmyk.jpg", "palette.png", "animated.gif"])
def test_the_same_picture_in_another_encoding_is_as_bright(name: str, rows: dict[str, Any]) -> None:
    # 16 bits are scaled, not clipped to white; of an animation it is the first frame, whose mean is not its inverse's.
    expected = float(np.asarray(ramp()).mean()) / 255
    assert rows[name].brightness == pytest.approx(expected, abs=0.02)
    assert (rows[name].width, rows[name].height) == (WIDTH, HEIGHT)


def test_a_camera_on_its_side_gives_an_upright_picture(rows: dict[str, Any]) -> None:
    assert (rows["rotated.jpg"].width, rows["rotated.jpg"].height) == (HEIGHT, WIDTH)


def test_what_is_transparent_is_white(rows: dict[str, Any]) -> None:
    assert rows["transparent.png"].brightness == pytest.approx(1.0)


def test_scoring_the_delivery_again_adds_nothing_and_sets_the_same_aside(
    services: Any, delivered: Any, incoming: Path, today: datetime
) -> None:
    from components.operations.batches import score_source

    again = score_source(services, str(incoming), batch_id=None, now=today)
    assert again["new_rows"] == 0
    assert again["set_aside_items"] == delivered["set_aside_items"]


@pytest.mark.usefixtures("misbehaving")
def test_a_file_that_ends_the_decoder_costs_the_batch_nothing_else(
    services: Any, digits: list[Any], today: datetime, tmp_path: Path
) -> None:
    from components.operations.batches import score_source

    (tmp_path / "incoming").mkdir()
    for number, content in enumerate([*(item.content for item in digits[70:80]), b"crash"]):
        (tmp_path / "incoming" / f"{number}.png").write_bytes(content)

    scored = score_source(services, str(tmp_path / "incoming"), batch_id=None, now=today)
    assert scored["predictions"] == 10
    assert [(entry["name"], entry["reason"]) for entry in scored["set_aside_items"]] == [("10.png", "decoder-crashed")]
