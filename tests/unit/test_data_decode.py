"""The decoder's rules, checked on pixels."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from components.data.decoding.decode import ImageLimits, ImageRejected, decode
from components.data.png import encode_png
from components.errors import DataError
from components.params import Data

LIMITS = ImageLimits(max_bytes=1_000_000, max_pixels=1_000_000, min_side=4)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels_of(content: bytes) -> np.ndarray:
    return np.asarray(decode(content, LIMITS))


def rejection(content: bytes, limits: ImageLimits = LIMITS) -> ImageRejected:
    with pytest.raises(ImageRejected) as caught:
        decode(content, limits)
    return caught.value


def png_with_header(width: int, height: int) -> bytes:
    """A PNG whose header claims a size that its few bytes cannot hold."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\x00" * 100)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


GREY = np.arange(0, 240, 5, dtype=np.uint8).reshape(6, 8)


def test_grey_and_colour_pass_unchanged() -> None:
    colour = np.stack([GREY, GREY[::-1], 255 - GREY], axis=2)

    assert decode(encoded(Image.fromarray(GREY)), LIMITS).mode == "L"
    np.testing.assert_array_equal(pixels_of(encoded(Image.fromarray(GREY))), GREY)
    np.testing.assert_array_equal(pixels_of(encoded(Image.fromarray(colour))), colour)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_grey_is_scaled_and_never_clipped_to_white(kind: str) -> None:
    np.testing.assert_array_equal(pixels_of(encoded(Image.fromarray(GREY.astype(np.uint16) * 257), kind)), GREY)


def test_a_sixteen_bit_image_of_small_values_stays_dark() -> None:
    assert pixels_of(encoded(Image.fromarray(np.full((6, 6), 300, np.uint16)))).max() == 1


def test_thirty_two_bit_integers_and_floats_are_scaled_by_the_range_they_need() -> None:
    integers = np.linspace(0, 2**31 - 1, 36).astype(np.int32).reshape(6, 6)
    shares = np.linspace(0, 1, 36, dtype=np.float32).reshape(6, 6)
    expected = np.rint(np.linspace(0, 255, 36)).astype(np.uint8).reshape(6, 6)

    np.testing.assert_array_equal(pixels_of(encoded(Image.fromarray(integers), "TIFF")), expected)
    np.testing.assert_array_equal(pixels_of(encoded(Image.fromarray(shares), "TIFF")), expected)
    np.testing.assert_array_equal(pixels_of(encoded(Image.fromarray(shares * 255), "TIFF")), expected)


def test_floats_that_are_no_numbers_are_rejected() -> None:
    values = np.ones((6, 6), np.float32)
    values[2, 3] = np.nan

    assert rejection(encoded(Image.fromarray(values), "TIFF")).reason == "corrupt"


def test_one_bit_becomes_grey() -> None:
    image = Image.fromarray(np.where(GREY > 100, 255, 0).astype(np.uint8)).convert("1")

    decoded = decode(encoded(image), LIMITS)
    assert decoded.mode == "L"
    assert sorted(set(np.asarray(decoded).ravel().tolist())) == [0, 255]


def test_palette_becomes_rgb_and_its_transparent_entry_white() -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([10, 20, 30, 200, 0, 0])
    image.putpixel((0, 0), 0)

    assert pixels_of(encoded(image))[0, 0].tolist() == [10, 20, 30]
    assert pixels_of(encoded(image, transparency=0))[0, 0].tolist() == [255, 255, 255]
    assert pixels_of(encoded(image, transparency=0))[1, 1].tolist() == [200, 0, 0]


def test_alpha_is_laid_on_white() -> None:
    colour = np.zeros((4, 4, 4), np.uint8)
    colour[0, 0] = [200, 100, 0, 255]
    colour[1, 1] = [0, 0, 0, 128]
    decoded = pixels_of(encoded(Image.fromarray(colour)))

    assert decoded.shape == (4, 4, 3)
    assert decoded[0, 0].tolist() == [200, 100, 0]
    assert decoded[1, 1].tolist() == [127, 127, 127]
    assert decoded[2, 2].tolist() == [255, 255, 255]


def test_grey_with_alpha_stays_grey_on_white() -> None:
    grey = np.zeros((4, 4, 2), np.uint8)
    grey[0, 0] = [90, 255]
    bands = [Image.fromarray(np.ascontiguousarray(grey[:, :, band])) for band in (0, 1)]
    decoded = pixels_of(encoded(Image.merge("LA", bands)))

    assert decoded.shape == (4, 4)
    assert decoded[0, 0] == 90
    assert decoded[3, 3] == 255


def test_the_transparent_grey_of_eight_and_sixteen_bits_is_white() -> None:
    eight = np.full((4, 4), 7, np.uint8)
    sixteen = np.full((4, 4), 7 * 257, np.uint16)
    eight[0, 0] = sixteen[0, 0] = 0

    for content in (
        encoded(Image.fromarray(eight), transparency=0),
        encoded(Image.fromarray(sixteen), transparency=0),
    ):
        assert pixels_of(content)[0, 0] == 255
        assert pixels_of(content)[1, 1] == 7


def test_cmyk_becomes_rgb() -> None:
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    decoded = pixels_of(encoded(image, "JPEG", quality=95))

    assert decoded.shape == (8, 8, 3)
    assert decoded[4, 4, 0] > 240
    assert decoded[4, 4, 1:].max() < 15


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.T),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: np.rot90(a, 2).T),
        (8, np.rot90),
    ],
)
def test_exif_orientation_is_applied_once(kind: str, orientation: int, turn: object) -> None:
    grey = np.kron(np.array([[0, 80], [160, 240], [40, 200]], np.uint8), np.ones((16, 16), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode(encoded(Image.fromarray(grey), kind, exif=exif), LIMITS).convert("L")
    expected = turn(grey)

    assert np.asarray(decoded).shape == expected.shape
    assert np.abs(np.asarray(decoded)[8::16, 8::16].astype(int) - expected[8::16, 8::16]).max() < 6


@pytest.mark.parametrize(
    "exif",
    [b"Exif\x00\x00MM\x00*\xff\xff", b"Exif\x00\x00", b"garbage", b"Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xff"],
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
def test_broken_exif_says_nothing(exif: bytes) -> None:
    assert pixels_of(encoded(Image.fromarray(GREY), "JPEG", exif=exif)).shape == GREY.shape


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_an_animation_gives_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)

    assert pixels_of(content)[4, 4, 0] > 240
    assert pixels_of(content)[4, 4, 1:].max() < 10


def test_empty_and_oversized_files_are_rejected_before_they_are_opened() -> None:
    assert rejection(b"").reason == "empty"
    assert rejection(b"x" * 11, ImageLimits(10, 100, 1)).reason == "too-many-bytes"


def test_a_file_that_is_no_image_is_told_from_one_whose_header_is_broken() -> None:
    assert rejection(b"<html><body>404</body></html>").reason == "not-an-image"
    assert rejection(b"\x89PNG\r\n\x1a\nrubbish").reason == "corrupt"


def test_a_format_outside_the_list_is_no_image() -> None:
    assert rejection(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n").reason == "not-an-image"
    assert rejection(encoded(Image.fromarray(GREY), "ICO")).reason == "not-an-image"


@pytest.mark.parametrize(("width", "height"), [(1001, 1000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_a_forged_size_is_rejected_before_pixels_are_decoded(width: int, height: int) -> None:
    assert rejection(png_with_header(width, height)).reason == "too-many-pixels"


def test_a_forged_webp_canvas_is_rejected_before_it_is_allocated() -> None:
    animation = encoded(
        Image.new("RGB", (8, 8)), "WEBP", save_all=True, append_images=[Image.new("RGB", (8, 8), (9, 9, 9))]
    )
    forged = animation[:24] + (16_382).to_bytes(3, "little") * 2 + animation[30:]

    assert rejection(forged).reason == "too-many-pixels"


def test_the_size_limits_are_inclusive() -> None:
    decode(encode_png(np.zeros((10, 10), np.uint8)), ImageLimits(10_000, 100, 10))

    assert rejection(encode_png(np.zeros((10, 10), np.uint8)), ImageLimits(10_000, 99, 10)).reason == "too-many-pixels"
    assert rejection(encode_png(np.zeros((9, 20), np.uint8)), ImageLimits(10_000, 900, 10)).reason == "too-small"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "PPM"])
def test_a_truncated_file_is_rejected(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    content = encoded(Image.fromarray(noise), kind)

    assert rejection(content[: len(content) // 2]).reason in ("truncated", "corrupt")


def test_a_flipped_bit_in_a_png_is_found() -> None:
    content = bytearray(encode_png(GREY))
    content[60] ^= 1

    assert rejection(bytes(content)).reason == "corrupt"


def test_a_rejection_is_a_data_error_that_says_why() -> None:
    error = rejection(b"")

    assert isinstance(error, DataError)
    assert str(error) == "empty: 0 bytes"


def test_limits_come_from_the_parameters() -> None:
    data = Data(max_file_bytes=5, max_pixels=6, min_side=7)

    assert ImageLimits.of(data) == ImageLimits(5, 6, 7)


def test_own_png_is_what_pillow_reads_and_never_changes() -> None:
    colour = np.random.default_rng(1).integers(0, 256, (200, 150, 3), dtype=np.uint8)

    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(encode_png(colour)))), colour)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(encode_png(GREY)))), GREY)
    assert zlib.crc32(encode_png(GREY)) == 2952945389


def test_own_png_refuses_other_pixels() -> None:
    for pixels in (np.zeros((4, 4), np.float32), np.zeros((4, 4, 4), np.uint8), np.zeros(4, np.uint8)):
        with pytest.raises(DataError, match="expected uint8"):
            encode_png(pixels)


@pytest.mark.parametrize(("form", "suffix"), [("PNG", ".png"), ("JPEG", ".jpeg"), ("GIF", ".gif"), ("BMP", ".bmp")])
def test_a_picture_handed_out_is_named_by_its_format(form: str, suffix: str) -> None:
    from components.data.decoding.decode import file_suffix

    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, form)
    assert file_suffix(file.getvalue()) == suffix
