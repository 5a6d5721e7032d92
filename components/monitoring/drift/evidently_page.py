"""The page people open to see how a window differs from its reference: Evidently, for display only.

Decisions come from our own tests. Evidently treats the reference as exact and would flag about half of all quiet
months, so the page says where the decision is.
"""

from __future__ import annotations

import html
import io
import math
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.errors import DataError, ServiceError

if TYPE_CHECKING:
    import pandas as pd

DRAWING_SECONDS = 600.0
SIDES = ("reference", "window")
Sides = tuple[Mapping[str, Sequence[Any] | np.ndarray], Mapping[str, Sequence[Any] | np.ndarray]]
# Evidently writes values into a script block as they are: a class named </script> would end it.
HARMLESS = str.maketrans({"<": "‹", ">": "›", "&": "＆", "\\": "＼", '"': "”", "'": "’", "`": "’"})


def write_page_apart(path: Path, rows: Callable[[], Sides | None], *, title: str, report_rows: int) -> Path | None:
    """Write the page as `write_page` does, in a process of its own: Evidently's memory is given back with it.

    rows: gives reference and window, or None where there is nothing to draw; called while that process imports
    Evidently, which takes longer than drawing. Returns None if nothing was drawn. Raises ServiceError with what the
    process said last, where it fails.
    """
    command = [sys.executable, "-m", __spec__.name, str(path), title, str(report_rows)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as drawing:
        try:
            sides = rows()
            if sides is None:
                return None
            said = drawing.communicate(_packed(sides), timeout=DRAWING_SECONDS)[1].decode("utf-8", "replace")
        except subprocess.TimeoutExpired as error:
            raise ServiceError(
                f"{path.name} was not drawn within {DRAWING_SECONDS:.0f} s; lower report_rows"
            ) from error
        finally:
            if drawing.poll() is None:
                drawing.kill()
    if drawing.returncode != 0:
        last = (said.strip().splitlines() or ["no word"])[-1]
        raise ServiceError(f"{path.name} could not be drawn: {last[:500]}")
    return path


def _packed(sides: Sides) -> bytes:
    columns = {
        f"{side} {name}": np.asarray(values)
        for side, of_side in zip(SIDES, sides, strict=True)
        for name, values in of_side.items()
    }
    packed = io.BytesIO()
    np.savez(packed, allow_pickle=False, **columns)
    return packed.getvalue()


def write_page(
    path: Path,
    *,
    reference: Mapping[str, Sequence[Any] | np.ndarray],
    window: Mapping[str, Sequence[Any] | np.ndarray],
    title: str,
    report_rows: int,
    seed: int = 0,
) -> Path:
    """Write the HTML page that compares `window` with `reference`, column by column, to `path` and return it.

    Columns of text, and the one named `predicted`, are categories, the rest numbers; rows with a missing or infinite
    value in a column do not count for it. At most `report_rows` rows a side are used, drawn with `seed`. Columns that
    are constant or empty are named on the page and left out. Raises DataError if none is left.
    """
    sides = [
        _sampled(side, report_rows, np.random.default_rng([seed, n])) for n, side in enumerate((reference, window))
    ]
    usable, left_out = _usable_columns(*sides)
    if not usable:
        raise DataError(f"no column of {sorted(window)} varies on both sides; there is no page to draw for {title!r}")
    numbers = [name for name in usable if sides[0][name].dtype.kind == "f"]
    page = _evidently_html(_frame(sides[0], usable), _frame(sides[1], usable), numbers)
    note = (
        f"{html.escape(title)}. For display only: decisions are made by Perennial's own tests and listed by "
        f"<code>perennial monitor</code>. Rows shown: "
        f"{_rows(sides[0])} of the reference, {_rows(sides[1])} of the window."
    )
    if left_out:
        note += f" Left out, constant or empty: {html.escape(', '.join(left_out))}."
    banner = f'<p style="font-family: sans-serif; padding: 1em; background: #fff4d6; margin: 0">{note}</p>'
    _replace_atomically(path, page.replace("<body>", f"<body>{banner}", 1))
    return path


def _sampled(
    side: Mapping[str, Sequence[Any] | np.ndarray], rows: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    columns = {name: np.asarray(values) for name, values in side.items()}
    length = max((len(values) for values in columns.values()), default=0)
    keep = np.sort(rng.choice(length, rows, replace=False)) if length > rows else np.arange(length)
    return {name: _typed(name, values[keep]) for name, values in columns.items()}


def _typed(name: str, values: np.ndarray) -> np.ndarray:
    if name == "predicted" or values.dtype.kind not in "fiub":
        return np.array([None if _missing(value) else str(value).translate(HARMLESS) for value in values], dtype=object)
    return values.astype(np.float64)


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _usable_columns(before: dict[str, np.ndarray], now: dict[str, np.ndarray]) -> tuple[list[str], list[str]]:
    usable: list[str] = []
    left_out: list[str] = []
    for name in before:
        if name in now:
            values = [_present(side[name]) for side in (before, now)]
            varied = all(len(side) for side in values) and len(set(np.concatenate(values).tolist())) > 1
            (usable if varied else left_out).append(name)
    return usable, left_out


def _present(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "f":
        return np.asarray(values[np.isfinite(values)])
    return np.asarray([value for value in values if value is not None], dtype=object)


def _frame(side: dict[str, np.ndarray], usable: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    frame = pd.DataFrame({name: side[name] for name in usable})
    return frame.replace([np.inf, -np.inf], np.nan)


def _evidently_html(before: pd.DataFrame, now: pd.DataFrame, numbers: Sequence[str]) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its histograms warn of empty bins by the dozen
        evidently = _evidently()
        categories = [name for name in now.columns if name not in numbers]
        definition = evidently.DataDefinition(numerical_columns=list(numbers), categorical_columns=categories)
        preset = evidently.presets.DataDriftPreset(cat_method="jensenshannon", num_method="wasserstein")
        result = evidently.Report([preset], include_tests=False).run(
            evidently.Dataset.from_pandas(now, data_definition=definition),
            evidently.Dataset.from_pandas(before, data_definition=definition),
        )
        return str(result.get_html_str(as_iframe=False))


def _evidently() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of deprecations
        import evidently.presets

        return evidently


def main(arguments: Sequence[str]) -> None:
    """Draw the page of `write_page_apart`: its path, its title and how many rows; the rows come by standard input."""
    path, title, report_rows = arguments
    _evidently()
    sides: dict[str, dict[str, np.ndarray]] = {side: {} for side in SIDES}
    with np.load(io.BytesIO(sys.stdin.buffer.read()), allow_pickle=False) as columns:
        for key in columns.files:
            side, _, name = key.partition(" ")
            sides[side][name] = columns[key]
    reference, window = (sides[side] for side in SIDES)
    write_page(Path(path), reference=reference, window=window, title=title, report_rows=int(report_rows))


def _rows(side: dict[str, np.ndarray]) -> int:
    return max((len(values) for values in side.values()), default=0)


def _replace_atomically(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(content)
        Path(temporary).replace(path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise


if __name__ == "__main__":
    main(sys.argv[1:])
