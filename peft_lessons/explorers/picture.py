"""A matrix as a picture: one pixel an entry, in a PNG that stands in the page itself.

Blue is below zero, white is zero, red is above. A matrix with more than `LARGEST` rows or columns is shown by every
second, third, ... of them, and the caption says so: real entries, where averages would look calmer than the matrix is.

Source: the file format is that of the PNG specification (W3C, third edition), with a palette.
"""

import base64
import struct
import zlib
from functools import cache
from html import escape

import numpy as np

LARGEST = 128
SHADES = 15  # on each side of white: enough for the eye, and small to send
BELOW, ABOVE = (0, 82, 147), (178, 54, 0)  # darker ends of the course's blue and vermilion


def heat_map(
    matrix: np.ndarray,
    *,
    title: str,
    limit: float | None = None,
    shape: tuple[int, int] | None = None,
    side: int = 210,
) -> str:
    """A matrix as coloured pixels, with its title and shape.

    Args:
        matrix: any two-dimensional numbers.
        title: stands under the picture and is its alternative text.
        limit: the size of the darkest colour; the largest entry where not given. Larger entries are drawn like it.
        shape: of the whole matrix, where `matrix` already holds only those rows and columns of it that `thinned` says.
        side: the longer side on the page, in pixels.

    Returns:
        A `<figure>` of HTML.

    Raises:
        ValueError: it is not two-dimensional, or empty.
    """
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or not matrix.size:
        raise ValueError(f"A picture needs a matrix; this has shape {matrix.shape}.")
    rows, columns = shape or matrix.shape
    shown = (matrix if shape else matrix[thinned(rows, columns)]).astype(float)
    limit = float(np.abs(matrix).max()) if limit is None else limit
    levels = np.rint(SHADES * (1 + shaded(shown, limit))).astype(np.uint8)
    data = base64.b64encode(png(levels)).decode()
    scale = side / max(rows, columns)
    high, wide = max(8, round(rows * scale)), max(8, round(columns * scale))
    words = f"{title}, {rows} × {columns}"
    steps = [part.step for part in thinned(rows, columns)]
    note = "" if max(steps) == 1 else f"; every {_nth(steps[0], 'row')} and {_nth(steps[1], 'column')}"
    style = f"width: {wide}px; height: {high}px; image-rendering: pixelated; border: 1px solid #8888"
    image = f'<img alt="{escape(words)}" src="data:image/png;base64,{data}" style="{style}">'
    return f"<figure>{image}<figcaption>{escape(words + note)}</figcaption></figure>"


def thinned(rows: int, columns: int) -> tuple[slice, slice]:
    """The rows and columns that a picture of such a matrix shows."""
    down, right = (slice(None, None, -(-n // LARGEST)) for n in (rows, columns))
    return down, right


def shaded(matrix: np.ndarray, limit: float) -> np.ndarray:
    """Entries over the limit, from -1 to 1, rounded to the shades that a picture has; it keeps files small."""
    return np.rint(np.clip(matrix / (limit or 1.0), -1, 1) * SHADES) / SHADES


def png(levels: np.ndarray) -> bytes:
    """A PNG file of shades: 0 is the far end below, SHADES is white, 2 SHADES the far end above."""
    rows, columns = levels.shape
    lines = np.hstack([np.zeros((rows, 1), np.uint8), levels]).tobytes()  # a zero before each line: no filter
    header = struct.pack(">IIBBBBB", columns, rows, 8, 3, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"PLTE", _palette()), (b"IDAT", zlib.compress(lines, 1)), (b"IEND", b""))
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


@cache
def _palette() -> bytes:
    shades = []
    for level in range(-SHADES, SHADES + 1):
        end, share = np.array(BELOW if level < 0 else ABOVE), abs(level) / SHADES
        shades.append(np.rint(255 + share * (end - 255)))
    return np.array(shades, dtype=np.uint8).tobytes()


def _nth(step: int, what: str) -> str:
    return {1: what, 2: f"2nd {what}", 3: f"3rd {what}"}.get(step, f"{step}th {what}")
