"""The one decoder of the product: training, scoring and every check read images through `decode`."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin

from components.errors import DataError

if TYPE_CHECKING:  # a process that only decodes starts twice as fast without them
    from components import params

DECODER_RULES = 1
"""Raised by one whenever a rule below changes what pixels a file gives; part of every preprocessing digest."""

FORMATS = (
    "PNG",
    "JPEG",
    "GIF",
    "BMP",
    TiffImagePlugin.TiffImageFile.format,
    WebPImagePlugin.WebPImageFile.format,
    "PPM",
)
"""What is opened at all. Formats that run interpreters or shell out (EPS, WMF) stay closed."""

_MAGIC = (
    b"\x89PNG",
    b"\xff\xd8\xff",
    b"GIF8",
    b"BM",
    b"II*\x00",
    b"MM\x00*",
    b"RIFF",
    b"P1",
    b"P2",
    b"P3",
    b"P4",
    b"P5",
    b"P6",
)

# What Pillow is known to raise on hostile files. Warning: its warnings are exceptions where a caller made them so.
_PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    EOFError,
    RuntimeError,
    AssertionError,
    struct.error,
    zlib.error,
    MemoryError,
    Warning,
)

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION_TAG = 0x0112
_EXIF_KEYS = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What a file may be at most: `max_bytes` encoded, `max_pixels` in all; and `min_side` pixels at least."""

    max_bytes: int
    max_pixels: int
    min_side: int

    @classmethod
    def of(cls, data: params.Data) -> ImageLimits:
        """Return the limits that the `data` section of params.yaml states."""
        return cls(data.max_file_bytes, data.max_pixels, data.min_side)


class ImageRejected(DataError):  # noqa: N818 - a verdict on one file, not a failure of ours
    """A file that is not an image we use; `reason` is the stated rule, `detail` what was found.

    Reasons: empty, too-many-bytes, not-an-image, too-many-pixels, too-small, truncated, corrupt.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


def decode(content: bytes, limits: ImageLimits) -> Image.Image:
    """Return the first frame of an encoded image, upright, in mode "L" or "RGB".

    Rules: EXIF orientation is applied; transparency is laid on white; palette and CMYK become RGB; 1-bit becomes L;
    integers of more than 8 bits are scaled linearly from their full range (never clipped); floats likewise. Colour
    profiles are ignored. Size limits are checked before any pixel is decoded. Raises ImageRejected, nothing else.
    """
    if not content:
        raise ImageRejected("empty", "0 bytes")
    if len(content) > limits.max_bytes:
        raise ImageRejected("too-many-bytes", f"{len(content)} bytes, at most {limits.max_bytes} are allowed")
    image = _open(content)
    _check_size(image.size, limits)
    try:
        image.load()
        upright = _upright(image)
        _check_size(upright.size, limits)  # some formats state a frame's own size only when it is read
        return _eight_bit(upright)
    except _PILLOW_ERRORS as error:
        if isinstance(error, ImageRejected):
            raise
        text = " ".join(str(error).split()) or type(error).__name__
        short = isinstance(error, EOFError) or any(word in text for word in ("truncated", "not enough", "end of file"))
        raise ImageRejected("truncated" if short else "corrupt", f"{image.format}: {text}") from error


@cache
def _let_our_limits_decide() -> None:
    # Pillow prints a warning from 89 million pixels on. Whether that is too many is for `ImageLimits` to say.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def _open(content: bytes) -> ImageFile.ImageFile:
    _let_our_limits_decide()
    try:
        return Image.open(io.BytesIO(content), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageRejected("too-many-pixels", str(error)) from error
    except UnidentifiedImageError as error:
        if content.startswith(_MAGIC):
            raise ImageRejected("corrupt", "starts like an image, but its header cannot be read") from error
        raise ImageRejected("not-an-image", f"none of {', '.join(FORMATS)}; starts with {content[:8]!r}") from error
    except _PILLOW_ERRORS as error:
        raise ImageRejected("corrupt", f"header: {' '.join(str(error).split()) or type(error).__name__}") from error


def _check_size(size: tuple[int, int], limits: ImageLimits) -> None:
    width, height = size
    if width * height > limits.max_pixels:
        raise ImageRejected("too-many-pixels", f"{width} x {height} pixels, at most {limits.max_pixels} are allowed")
    if min(width, height) < limits.min_side:
        raise ImageRejected("too-small", f"{width} x {height} pixels, each side needs {limits.min_side}")


def _upright(image: Image.Image) -> Image.Image:
    """Return the image as its EXIF orientation says; broken EXIF data says nothing, as in every viewer."""
    if not any(key in image.info for key in _EXIF_KEYS):  # a TIFF is turned by Pillow itself when it is loaded
        return image
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except _PILLOW_ERRORS:
        return image
    method = _TRANSPOSE.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)


def _eight_bit(image: Image.Image) -> Image.Image:
    mode = image.mode
    if mode.startswith("I") or mode == "F":
        return _scaled_to_eight_bit(image)
    if mode in ("LA", "La", "RGBA", "RGBa", "PA") or "transparency" in image.info:
        return _on_white(image)
    if mode in ("L", "RGB"):
        return image
    try:
        return image.convert("L" if mode == "1" else "RGB")
    except ValueError as error:
        raise ImageRejected("not-an-image", f"pixels of mode {mode} have no rule; convert the file to RGB") from error


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode in ("1", "L", "LA", "La"):
        pixels = image.convert("LA")
        white = Image.new("L", pixels.size, 255)
        white.paste(pixels.getchannel("L"), mask=pixels.getchannel("A"))
        return white
    pixels = image.convert("RGBA")
    white = Image.new("RGB", pixels.size, (255, 255, 255))
    white.paste(pixels, mask=pixels.getchannel("A"))
    return white


def _scaled_to_eight_bit(image: Image.Image) -> Image.Image:
    """Return grey pixels of 16 or 32 bits or floats as mode L, by the range their values need."""
    values: NDArray[Any] = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise ImageRejected("corrupt", "pixels hold NaN or infinity")
    scaled = np.rint(np.clip(values, 0, None) * (255.0 / _full_scale(image.mode, float(values.max())))).astype(np.uint8)
    key = image.info.get("transparency")
    if isinstance(key, int):
        scaled[values == key] = 255
    return Image.fromarray(scaled)


def _full_scale(mode: str, maximum: float) -> float:
    """Return what counts as white: 65535 for integers unless they exceed it; floats: 1, 255, 65535, as they need."""
    for scale in (1.0, 255.0, 65535.0) if mode == "F" else (65535.0,):
        if maximum <= scale:
            return scale
    return max(maximum, 2.0**31 - 1)


def file_suffix(content: bytes) -> str:
    """Return the file name's suffix of an accepted image's format, such as `.png`; from its header alone."""
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        return f".{str(image.format).lower()}"
