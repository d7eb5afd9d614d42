"""Pictures from files: what people draw and photograph becomes what MNIST has; what is no picture is refused."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps

from sweeper.core.errors import InputError
from sweeper.datasets.pictures import read_pictures

FIGURE = 20 / 28


def drawing(size: tuple[int, int] = (640, 480), at: tuple[int, int] = (100, 50), scale: float = 1.0) -> Image.Image:
    """Draw a light 4 on black: two strokes and a bar, 200 pixels high."""
    picture = Image.new("L", size, 0)
    pen = ImageDraw.Draw(picture)
    for stroke in ([(20, 0), (0, 120), (120, 120)], [(90, 40), (90, 200)]):
        pen.line([(at[0] + x * scale, at[1] + y * scale) for x, y in stroke], fill=255, width=round(18 * scale))
    return picture


def read(picture: Image.Image, folder: Path, name: str = "four.png", **options: Any) -> Any:
    picture.save(folder / name, **options)
    names, pixels = read_pictures([folder / name], 28, FIGURE)
    assert names == [str(folder / name)] and pixels.shape == (1, 28, 28) and pixels.dtype == np.uint8
    return pixels[0]


def likeness(one: Any, other: Any) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def transparent(picture: Image.Image) -> Image.Image:
    result = Image.new("RGBA", picture.size, (0, 0, 0, 0))
    result.putalpha(picture)
    return result


def light_on_nothing(picture: Image.Image) -> Image.Image:
    result = Image.new("RGBA", picture.size, (255, 255, 255, 0))
    result.putalpha(picture)
    return result


def on_paper(picture: Image.Image) -> Image.Image:
    """Photograph it: pencil on greyish paper, with noise and a shadow."""
    noise = np.random.default_rng(0).normal(0, 4, (picture.height, picture.width))
    shadow = np.linspace(0, 12, picture.width)
    return Image.fromarray(np.clip(215 - 0.65 * np.asarray(picture, float) + noise - shadow, 0, 255).astype("uint8"))


SIGHTS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "light on dark": lambda picture: picture,
    "dark on light": ImageOps.invert,
    "in colour": lambda picture: ImageOps.colorize(picture, "yellow", "navy"),
    "dark on transparent": transparent,
    "light on transparent": light_on_nothing,
    "sixteen bits": lambda picture: Image.fromarray(np.asarray(picture).astype("uint16") * 257),
    "one bit": lambda picture: ImageOps.invert(picture).convert("1"),
    "pencil on paper": on_paper,
}


@pytest.mark.parametrize("sight", SIGHTS)
def test_same_figure_is_read_from_every_kind_of_picture(sight: str, tmp_path: Path) -> None:
    expected = read(drawing(), tmp_path, "expected.png")
    assert likeness(read(SIGHTS[sight](drawing()), tmp_path), expected) > 0.98


@pytest.mark.parametrize(
    ("size", "at", "scale"), [((3000, 2000), (1500, 900), 4.0), ((60, 80), (20, 20), 0.2), ((300, 300), (0, 0), 1.0)]
)
def test_size_and_place_of_the_figure_do_not_matter(
    size: tuple[int, int], at: tuple[int, int], scale: float, tmp_path: Path
) -> None:
    expected = read(drawing(), tmp_path, "expected.png")
    assert likeness(read(drawing(size, at, scale), tmp_path), expected) > 0.9


def test_figure_is_as_large_and_as_central_as_in_mnist(tmp_path: Path) -> None:
    pixels = read(drawing(), tmp_path).astype(float)
    rows, columns = np.flatnonzero(pixels.sum(axis=1)), np.flatnonzero(pixels.sum(axis=0))
    assert rows[-1] - rows[0] + 1 == 20 and columns[-1] - columns[0] + 1 <= 20
    for axis in (0, 1):
        centre = (pixels.sum(axis=1 - axis) * (np.arange(28) + 0.5)).sum() / pixels.sum()
        assert abs(centre - 14) <= 0.75
    assert pixels.max() == 255 and pixels[0, 0] == 0


def test_picture_as_the_network_takes_it_is_not_changed(tmp_path: Path) -> None:
    small = np.zeros((28, 28), np.uint8)
    small[3:9, 4:20] = 77
    assert np.array_equal(read(Image.fromarray(small), tmp_path), small)


def test_photograph_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # it has to be turned to the right
    turned = drawing((500, 500)).transpose(Image.Transpose.ROTATE_90)
    assert likeness(read(turned, tmp_path, "turned.jpg", exif=exif), read(drawing((500, 500)), tmp_path)) > 0.97


def test_folder_gives_its_pictures_in_order(tmp_path: Path) -> None:
    for name in ("b.png", "a.jpg", "c.bmp"):
        drawing().save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("none")
    names, pixels = read_pictures([tmp_path], 8, 1.0)
    assert [Path(name).name for name in names] == ["a.jpg", "b.png", "c.bmp"] and pixels.shape == (3, 8, 8)


@pytest.mark.parametrize(
    "array",
    [
        np.full((3, 28, 28), 51, np.uint8),
        np.full((3, 784), 51.0),
        np.full((3, 28, 28), 0.2, np.float32),
        np.full((3, 28, 28), 51, np.int64),
    ],
    ids=["uint8", "flat", "shares", "int64"],
)
def test_arrays_hold_pixels_or_shares_of_them(array: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", array)
    np.savez(tmp_path / "x.npz", y=np.arange(3), x=array)
    names, pixels = read_pictures([tmp_path / "x.npy", tmp_path / "x.npz"], 28, FIGURE)
    assert len(names) == 6 and names[1] == f"{tmp_path / 'x.npy'}[1]" and (pixels == 51).all()


def test_one_picture_may_be_an_array_alone(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.full((28, 28), 9, np.uint8))
    assert read_pictures([tmp_path / "x.npy"], 28, FIGURE)[1].shape == (1, 28, 28)


def bytes_of(picture: Image.Image) -> bytes:
    written = io.BytesIO()
    picture.save(written, "PNG")
    return written.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.png", b"no picture", "no picture that can be read"),
        ("a.png", b"", "no picture that can be read"),
        ("a.png", bytes_of(drawing())[:400], "no picture that can be read"),
        ("a.png", bytes_of(Image.new("L", (50, 50), 200)), "an empty picture; a figure has to stand out"),
        ("a.npy", b"no array", "no array that NumPy can read"),
        ("a.npz", b"", "no array that NumPy can read"),
    ],
    ids=["text", "empty", "cut", "blank", "no array", "no arrays"],
)
def test_what_is_no_picture_is_refused_by_name(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as raised:
        read_pictures([tmp_path / name], 28, FIGURE)
    assert str(raised.value).startswith(f"{tmp_path / name}: {message}")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 30, 28)), "3 x 30 x 28 of float64; the model takes pictures of 28 x 28 numbers"),
        (np.zeros((0, 28, 28)), "pixels are numbers from 0 to 255"),
        (np.full((1, 28, 28), np.nan), "pixels are numbers from 0 to 255"),
        (np.full((1, 28, 28), 256), "pixels are numbers from 0 to 255"),
        (np.full((1, 28, 28), "a"), "1 x 28 x 28 of <U1; the model takes"),
    ],
)
def test_array_of_another_shape_or_range_is_refused(array: Any, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(InputError, match=message):
        read_pictures([tmp_path / "x.npy"], 28, FIGURE)


def test_array_with_pickled_code_is_not_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(InputError, match="no array that NumPy can read"):
        read_pictures([tmp_path / "x.npy"], 28, FIGURE)


def test_unnamed_arrays_and_empty_folders_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.zeros(3), b=np.zeros(3))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="name its array x, of: a, b"):
        read_pictures([tmp_path / "x.npz"], 28, FIGURE)
    with pytest.raises(InputError, match="the folder holds no picture"):
        read_pictures([tmp_path / "empty"], 28, FIGURE)
    with pytest.raises(InputError, match="no such file or folder"):
        read_pictures([tmp_path / "none.png"], 28, FIGURE)
