"""Pictures from files as inputs of a network: any size, dark on light or light on dark, as MNIST has them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from sweeper.core.errors import InputError
from sweeper.core.text import first_line, format_list
from sweeper.datasets.containers import Array

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
"""Endings of the files of a folder that are taken for pictures; a file that is named may have any."""

ARRAY_SUFFIXES = (".npy", ".npz")

MAX_PICTURES = 100_000

_LIT = 0.2
"""Share of the brightest ink from which a pixel belongs to the figure: paper and JPEG are never quite even."""


def read_pictures(paths: Sequence[Path], side: int, figure: float) -> tuple[list[str], Array]:
    """Return the name of each picture, and all of them as `[n, side, side]` of uint8: light figures on black.

    A picture of this size on black is taken as it is. Of any other, the figure is cut out, scaled and centred by its
    centre of mass, as it was done for MNIST (http://yann.lecun.com/exdb/mnist/).

    Args:
        paths: pictures, folders of pictures, and arrays in .npy or .npz.
        figure: the longer side of a figure, as a share of the picture's: 20/28 for MNIST.

    Raises:
        InputError: a file is no picture, holds no figure, or an array of another shape.
    """
    import numpy as np

    names: list[str] = []
    parts: list[Array] = []
    for path in _files(paths):
        if path.suffix.lower() in ARRAY_SUFFIXES:
            found = _read_array(path, side)
            names += [f"{path}[{index}]" for index in range(len(found))]
        else:
            found = _read_picture(path, side, figure)[None]
            names.append(str(path))
        parts.append(found)
        if len(names) > MAX_PICTURES:
            raise InputError(f"{path}: more than {MAX_PICTURES:,} pictures; name fewer")
    return names, np.concatenate(parts)


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder")
        if not path.is_dir():
            yield path
            continue
        inside = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
        if not inside:
            raise InputError(f"{path}: the folder holds no picture ({', '.join(SUFFIXES)})")
        yield from inside


def _read_array(path: Path, side: int) -> Array:
    """Return the pictures of an array `[n, side, side]`, flat or alone; floats up to 1 are taken for shares of 255."""
    import numpy as np

    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.lib.npyio.NpzFile):
            wanted = [name for name in ("x_test", "x", *loaded.files[:1]) if name in loaded.files]
            if not wanted or len(loaded.files) > 1 and wanted[0] not in ("x_test", "x"):
                raise InputError(f"{path}: name its array x, of: {format_list(loaded.files)}")
            loaded = loaded[wanted[0]]
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: no array that NumPy can read ({first_line(error)})") from error
    is_one = loaded.shape in ((side, side), (side * side,))
    if loaded.dtype.kind not in "buif" or not (is_one or loaded.shape[1:] in ((side, side), (side * side,))):
        shape = " x ".join(map(str, loaded.shape)) or "one number"
        raise InputError(f"{path}: {shape} of {loaded.dtype}; the model takes pictures of {side} x {side} numbers")
    pixels = loaded.astype(np.float32).reshape(-1, side, side)
    if not len(pixels) or not np.isfinite(pixels).all() or pixels.min() < 0 or pixels.max() > 255:
        raise InputError(f"{path}: pixels are numbers from 0 to 255, or from 0 to 1")
    if loaded.dtype.kind == "f" and pixels.max() <= 1:
        pixels = pixels * 255
    return np.round(pixels).astype(np.uint8)


def _read_picture(path: Path, side: int, figure: float) -> Array:
    import numpy as np
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            grey = _on_even_ground(ImageOps.exif_transpose(opened))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: no picture that can be read ({first_line(error)})") from error
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    ground = float(np.median(border))
    if grey.shape == (side, side) and ground == 0:
        return grey.astype(np.uint8)
    ink = grey - ground if ground < 128 else ground - grey
    ink = np.clip(ink / max(1.0, ink.max()), 0.0, 1.0)
    rows, columns = (np.flatnonzero((ink > _LIT).any(axis=axis)) for axis in (1, 0))
    if grey.max() - grey.min() < 16 or not len(rows):
        raise InputError(f"{path}: an empty picture; a figure has to stand out from its ground")
    cut = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = side * figure / max(cut.shape)
    size = tuple(max(1, round(length * scale)) for length in reversed(cut.shape))
    small = np.asarray(Image.fromarray(cut.astype(np.float32)).resize(size, Image.Resampling.BOX if scale < 1 else 2))
    return _centred(np.where(small < _LIT / 2, 0.0, small) / small.max(), side)


def _on_even_ground(picture: object) -> Array:
    """Return a picture in grey; what is transparent becomes dark behind a light figure, and light behind a dark one."""
    import numpy as np
    from PIL import Image

    assert isinstance(picture, Image.Image)
    if picture.mode in ("I", "I;16", "I;16B", "F"):  # more than 256 shades
        shades = np.asarray(picture, np.float32)
        return shades * (255 / max(255.0, float(shades.max())))
    colours = np.asarray(picture.convert("RGBA"), np.float32)
    grey, opaque = colours[:, :, :3] @ np.array([0.299, 0.587, 0.114], np.float32), colours[:, :, 3] / 255
    mean = (grey * opaque).sum() / max(1.0, opaque.sum())
    return grey * opaque + (1 - opaque) * (0.0 if mean > 127 else 255.0)


def _centred(figure: Array, side: int) -> Array:
    """Return the figure on black with its centre of mass in the middle, as far as it stays inside."""
    import numpy as np

    picture, total = np.zeros((side, side), np.float32), figure.sum()
    places = []
    for axis, length in enumerate(figure.shape):
        centre = (figure.sum(axis=1 - axis) * (np.arange(length) + 0.5)).sum() / total
        places.append(min(max(0, round(side / 2 - centre)), side - length))
    top, left = places
    picture[top : top + figure.shape[0], left : left + figure.shape[1]] = figure
    return np.round(picture * 255).astype(np.uint8)
