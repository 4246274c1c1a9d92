"""Slides: every kind of file gives the pixels of other readers, its pixel size and a fingerprint, or a clear error."""

from __future__ import annotations

import os
import shutil
import weakref
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ds2c_cli.errors import InputError
from ds2c_cli.io import slides as slides_module
from ds2c_cli.io.slides import FlatImage, Slide, TiledTiff, blocks_of, crop_block, open_slide
from ds2c_cli.io.tissue import glass_colour, tissue_mask

WSI = Path(__file__).parents[2] / "shared" / "data" / "wsi"
GLASS = (238, 234, 240)


def paint(width: int = 700, height: int = 500) -> np.ndarray:
    """A smooth (height, width, 3) uint8 picture: glass around a stained ellipse."""
    y, x = np.mgrid[:height, :width]
    stain = np.stack([190 + 25 * np.sin(x / 17), 110 + 40 * np.cos(y / 23), 170 + 30 * np.sin((x + y) / 31)], -1)
    ellipse = ((x / width - 0.5) / 0.38) ** 2 + ((y / height - 0.5) / 0.38) ** 2 < 1
    return np.where(ellipse[..., None], stain, GLASS).astype(np.uint8)


PICTURE = paint()


def write_tiled(path: Path, picture: np.ndarray = PICTURE, levels: int = 1, **options: object) -> Path:
    """A tiled TIFF of 128 px tiles; lower levels, each half the one above, are SubIFDs."""
    options = {"photometric": "rgb", "tile": (128, 128), "compression": "zlib", "metadata": None, **options}
    with tifffile.TiffWriter(path, ome=options.pop("ome", None)) as writer:
        writer.write(picture, subifds=levels - 1, **options)
        options.pop("description", None)
        for level in range(1, levels):
            writer.write(picture[:: 2**level, :: 2**level], subfiletype=1, **options)
    return path


def write_aperio(path: Path, description: str) -> Path:
    """What Aperio's scanners write: levels as pages beside a strip-wise thumbnail, and a description that tells."""
    tiled = {"photometric": "rgb", "tile": (128, 128), "compression": "jpeg", "metadata": None}
    with tifffile.TiffWriter(path) as writer:
        writer.write(PICTURE, description=f"Aperio Image Library v12\n{description}", **tiled)
        writer.write(PICTURE[::5, ::5], photometric="rgb", compression="jpeg", metadata=None)
        writer.write(PICTURE[::4, ::4], description="Aperio Image Library v12\nlevel", **tiled)
    return path


def write_sparse(path: Path, picture: np.ndarray, missing: set[tuple[int, int]], tile: int = 128) -> Path:
    """A tiled TIFF in which some tiles (row, column), not the first, have no bytes."""
    rows, columns = (-(-n // tile) for n in picture.shape[:2])
    padded = np.pad(picture, ((0, rows * tile - picture.shape[0]), (0, columns * tile - picture.shape[1]), (0, 0)))
    tiles = (
        None if (row, column) in missing else padded[row * tile :, column * tile :][:tile, :tile]
        for row in range(rows)
        for column in range(columns)
    )
    tifffile.imwrite(
        path, tiles, shape=picture.shape, dtype=np.uint8, photometric="rgb", compression="zlib", tile=(tile, tile)
    )
    return path


def write_strips(path: Path, picture: np.ndarray = PICTURE, **options: object) -> Path:
    """A TIFF without tiles, 64 rows a strip."""
    options = {"photometric": "rgb", "rowsperstrip": 64, "compression": "zlib", "metadata": None, **options}
    tifffile.imwrite(path, picture, **options)
    return path


def whole(path: Path) -> np.ndarray:
    """All pixels of level 0."""
    slide = open_slide(path)
    return slide.read(0, 0, width=slide.width, height=slide.height)


def count_reads(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How often what begins at each byte of the file is read from now on."""
    times: Counter[int] = Counter()
    read = os.pread
    monkeypatch.setattr(os, "pread", lambda file, count, offset: times.update([offset]) or read(file, count, offset))
    return times


def refused(path: Path) -> InputError:
    """The error a file is refused with, at the latest when all of it is read."""
    with pytest.raises(InputError) as error:
        whole(path)
    assert str(path) in error.value.message
    assert error.value.hint
    return error.value


# Pixels


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"levels": 3},
        {"compression": None},
        {"compression": "lzw"},
        {"compression": "jpeg"},
        {"compression": "jpeg", "compressionargs": {"level": 95}, "levels": 2},
        {"compression": "jpeg2000"},
        {"planarconfig": "separate"},
        {"tile": (64, 256)},
        {"bigtiff": True},
        {"byteorder": ">"},
    ],
    ids=lambda options: ",".join(map(str, options.items())) or "zlib",
)
def test_tiled_tiffs_have_the_pixels_of_tifffile(tmp_path, options):
    options = dict(options)
    writer = {name: options.pop(name) for name in ("bigtiff", "byteorder") if name in options}
    picture = np.moveaxis(PICTURE, -1, 0) if options.get("planarconfig") else PICTURE
    path = tmp_path / "slide.tif"
    if writer:
        tifffile.imwrite(path, picture, photometric="rgb", tile=(128, 128), **writer)
    else:
        write_tiled(path, picture, **options)
    slide = open_slide(path)
    assert isinstance(slide, TiledTiff)
    assert (slide.width, slide.height) == (700, 500)
    expected = tifffile.imread(path)
    assert (whole(path) == (np.moveaxis(expected, 0, -1) if options.get("planarconfig") else expected)).all()
    assert np.abs(whole(path).astype(int) - PICTURE).mean() < 5


def test_every_level_of_a_pyramid_is_read(tmp_path):
    slide = open_slide(write_tiled(tmp_path / "slide.tif", levels=3))
    assert slide._levels() == [(700, 500), (350, 250), (175, 125)]
    for level in range(3):
        width, height = slide._levels()[level]
        assert (slide.read(0, 0, width=width, height=height, level=level) == PICTURE[:: 2**level, :: 2**level]).all()


@pytest.mark.parametrize("extra", ["interleaved", "separate"])
def test_an_alpha_channel_of_tiles_is_left_out(tmp_path, extra):
    rgba = np.dstack([PICTURE, np.full(PICTURE.shape[:2], 255, np.uint8)])
    path = tmp_path / "slide.tif"
    if extra == "separate":
        write_tiled(path, np.moveaxis(rgba, -1, 0), planarconfig="separate", extrasamples=["unassalpha"])
    else:
        write_tiled(path, rgba, extrasamples=["unassalpha"])
    assert isinstance(open_slide(path), TiledTiff)
    assert (whole(path) == PICTURE).all()


def test_an_aperio_slide_leaves_out_its_thumbnail(tmp_path):
    path = write_aperio(tmp_path / "slide.svs", "700x500 |AppMag = 20|MPP = 0.4990")
    slide = open_slide(path)
    assert slide._levels() == [(700, 500), (175, 125)]
    assert slide.mpp == pytest.approx(0.499)
    assert (whole(path) == tifffile.imread(path, key=0)).all()


@pytest.mark.parametrize("name", ["slide.png", "slide.jpg", "slide.tif", "deflate.tif"])
def test_images_without_tiles_have_the_pixels_of_pillow(tmp_path, name):
    path = tmp_path / name
    Image.fromarray(PICTURE).save(path, **({"compression": "tiff_adobe_deflate"} if "deflate" in name else {}))
    assert isinstance(open_slide(path), TiledTiff if name == "deflate.tif" else FlatImage)  # that one is in strips
    with Image.open(path) as image:
        difference = np.abs(whole(path).astype(int) - np.asarray(image))
    assert difference.max() <= (3 if name.endswith("jpg") else 0)  # JPEG decoders round differently


@pytest.mark.parametrize("mode", ["L", "P", "RGBA"])
def test_other_colours_of_a_png_become_rgb(tmp_path, mode):
    path = tmp_path / "slide.png"
    Image.fromarray(PICTURE).convert(mode).save(path)
    with Image.open(path) as image:
        assert (whole(path) == np.asarray(image.convert("RGB"))).all()


def test_what_is_transparent_is_white(tmp_path):
    rgba = np.dstack([PICTURE, np.full(PICTURE.shape[:2], 255, np.uint8)])
    rgba[:100] = 0
    Image.fromarray(rgba).save(tmp_path / "slide.png")
    assert (whole(tmp_path / "slide.png")[:100] == 255).all()
    assert (whole(tmp_path / "slide.png")[100:] == PICTURE[100:]).all()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rowsperstrip": 1},
        {"rowsperstrip": 499},
        {"compression": None},
        {"compression": "jpeg"},
        {"compression": "lzw", "predictor": True},
        {"planarconfig": "separate"},
        {"bigtiff": True, "byteorder": ">"},
    ],
    ids=lambda options: ",".join(map(str, options.items())) or "zlib",
)
def test_tiffs_in_strips_have_the_pixels_of_tifffile(tmp_path, options):
    planar = "planarconfig" in options
    path = write_strips(tmp_path / "slide.tif", np.moveaxis(PICTURE, -1, 0) if planar else PICTURE, **options)
    assert isinstance(open_slide(path), TiledTiff)
    expected = tifffile.imread(path)
    assert (whole(path) == (np.moveaxis(expected, 0, -1) if planar else expected)).all()
    assert np.abs(whole(path).astype(int) - PICTURE).mean() < 5


@pytest.mark.parametrize("options", [{"rowsperstrip": 500}, {"rowsperstrip": 500, "planarconfig": "separate"}])
def test_a_tiff_of_one_strip_is_held_in_memory(tmp_path, options):
    picture = np.moveaxis(PICTURE, -1, 0) if "planarconfig" in options else PICTURE
    path = write_strips(tmp_path / "slide.tif", picture, **options)
    assert isinstance(open_slide(path), FlatImage)
    assert (whole(path) == PICTURE).all()


@pytest.mark.parametrize("options", [{"rowsperstrip": 64}, {"tile": (128, 128)}], ids=["strips", "tiles"])
@pytest.mark.parametrize("planar", [False, True], ids=["interleaved", "separate"])
def test_what_is_transparent_in_a_tiff_is_white(tmp_path, options, planar):
    rgba = np.dstack([PICTURE, np.full(PICTURE.shape[:2], 255, np.uint8)])
    rgba[:100] = 0
    path = tmp_path / "slide.tif"
    layout = {"planarconfig": "separate" if planar else "contig", "extrasamples": ["unassalpha"]}
    tifffile.imwrite(path, np.moveaxis(rgba, -1, 0) if planar else rgba, photometric="rgb", **layout, **options)
    assert (whole(path)[:100] == 255).all()
    assert (whole(path)[100:] == PICTURE[100:]).all()


@pytest.mark.parametrize("write", [write_tiled, write_strips])
def test_a_slide_that_is_let_go_is_freed_at_once(tmp_path, write):
    slide = open_slide(write(tmp_path / "slide.tif"))
    slide.read(0, 0, width=700, height=500)
    kept = weakref.ref(slide)
    del slide
    assert kept() is None  # not only when Python looks for cycles


def test_decoded_strips_are_kept_within_bounds(tmp_path, monkeypatch):
    path = write_strips(tmp_path / "slide.tif")
    slide = open_slide(path)
    read = count_reads(monkeypatch)
    boxes = np.array([[x, y, 50] for y in range(0, 450, 30) for x in range(0, 650, 30)])
    for rows in blocks_of(boxes, 128):
        crop_block(slide, boxes[rows])
    assert set(read.values()) == {1}  # five blocks lie beside each other
    monkeypatch.setattr(slides_module, "STRIP_BYTES", 2 * 64 * 700 * 3)
    small = open_slide(path)
    assert (small.read(0, 0, width=700, height=500) == PICTURE).all()
    assert small._tiles[0].cache_info().currsize == 2
    monkeypatch.setattr(slides_module, "STRIP_BYTES", 63 * 700 * 3)
    assert isinstance(open_slide(path), FlatImage)  # a single strip is too large to be kept


def test_a_slide_is_known_by_what_it_is_not_by_its_name(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "slide.png")
    (tmp_path / "slide.png").rename(tmp_path / "slide.svs")
    assert (whole(tmp_path / "slide.svs") == PICTURE).all()


# Pixel size


def test_an_ome_tiff_tells_its_pixel_size_in_any_unit(tmp_path):
    for number, (size, unit, mpp) in enumerate(
        [(0.25, "µm", 0.25), (250, "nm", 0.25), (0.00025, "mm", 0.25), (1, "pixel", None), (1, "reference frame", None)]
    ):
        metadata = {"axes": "YXS", "PhysicalSizeX": size, "PhysicalSizeXUnit": unit}
        path = tmp_path / f"{number}.ome.tif"
        write_tiled(path, ome=True, levels=2, metadata=metadata)
        assert open_slide(path).mpp == (None if mpp is None else pytest.approx(mpp))
        assert (whole(path) == PICTURE).all()


@pytest.mark.parametrize(
    ("resolution", "unit", "mpp"),
    [
        (40_000, "CENTIMETER", 0.25),
        (25_400 / 0.5, "INCH", 0.5),
        (72, "INCH", None),  # print resolutions, no pixel sizes
        (96, "INCH", None),
        (300, "INCH", None),
        (28, "CENTIMETER", None),
        (1, "NONE", None),
        (40_000, "NONE", None),
        (1e9, "CENTIMETER", None),
    ],
)
@pytest.mark.parametrize("tiled", [True, False])
def test_resolution_tags_count_where_they_are_plausible(tmp_path, resolution, unit, mpp, tiled):
    tifffile.imwrite(
        tmp_path / "slide.tif", PICTURE, photometric="rgb", resolution=(resolution, resolution), resolutionunit=unit,
        tile=(128, 128) if tiled else None, metadata=None,
    )  # fmt: skip
    assert open_slide(tmp_path / "slide.tif").mpp == (None if mpp is None else pytest.approx(mpp))


@pytest.mark.parametrize(
    ("description", "mpp"),
    [("|AppMag = 20|MPP = 0.4990", 0.499), ("|MPP=0.25|AppMag=40", 0.25), ("|AppMag = 20", None), ("|MPP = 0|", None)],
)
def test_aperios_description_tells_the_pixel_size(tmp_path, description, mpp):
    assert open_slide(write_aperio(tmp_path / "slide.svs", description)).mpp == (mpp and pytest.approx(mpp))


def test_aperios_pixel_size_beats_a_print_resolution(tmp_path):
    write_tiled(tmp_path / "slide.tif", description="Aperio |MPP = 0.5", resolution=(72, 72), resolutionunit="INCH")
    assert open_slide(tmp_path / "slide.tif").mpp == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["slide.png", "slide.jpg"])
def test_the_dpi_of_a_picture_is_no_pixel_size(tmp_path, name):
    Image.fromarray(PICTURE).save(tmp_path / name, dpi=(72, 72))
    assert open_slide(tmp_path / name).mpp is None


# What is missing


def test_missing_tiles_have_the_colour_of_the_glass(tmp_path):
    path = write_sparse(tmp_path / "slide.tif", PICTURE, {(0, 1), (2, 3), (3, 5)})
    slide = open_slide(path)
    assert tuple(slide.background) == GLASS
    expected = PICTURE.copy()
    for row, column in ((0, 1), (2, 3), (3, 5)):
        expected[row * 128 : (row + 1) * 128, column * 128 : (column + 1) * 128] = GLASS
    assert (whole(path) == expected).all()
    assert (slide.thumbnail(700)[0] == expected).all()
    again = open_slide(path)  # the other way round: the first thing asked for is a missing tile
    assert (again.read(130, 10, width=20, height=20) == GLASS).all()


def test_a_slide_of_missing_tiles_but_one_is_glass(tmp_path):
    everything = {(row, column) for row in range(4) for column in range(6)} - {(0, 0)}
    pixels = whole(write_sparse(tmp_path / "slide.tif", PICTURE, everything))
    assert (pixels[:128, :128] == PICTURE[:128, :128]).all()
    assert (pixels[128:] == GLASS).all()


# Truncation and what is no slide


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.5, 0.6, 0.999])
@pytest.mark.parametrize("name", ["tiled.tif", "pyramid.tif", "strips.tif", "raw.tif", "slide.jpg", "slide.png", "svs"])
def test_a_truncated_file_is_refused(tmp_path, name, share):
    path = tmp_path / name
    match name:
        case "tiled.tif":
            write_tiled(path, compression="jpeg")
        case "pyramid.tif":
            write_tiled(path, levels=3)
        case "strips.tif":
            tifffile.imwrite(path, PICTURE, photometric="rgb", compression="zlib", rowsperstrip=50)
        case "raw.tif":
            Image.fromarray(PICTURE).save(path, format="TIFF")
        case "svs":
            write_aperio(path, "|MPP = 0.5")
        case _:
            Image.fromarray(PICTURE).save(path)
    whole(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    refused(path)


def test_a_file_that_lost_lower_levels_only_still_has_level_0(tmp_path):
    path = write_aperio(tmp_path / "slide.svs", "|MPP = 0.5")
    before = whole(path)
    with tifffile.TiffFile(path) as tiff:
        end = max(np.add(tiff.pages[0].dataoffsets, tiff.pages[0].databytecounts))
    path.write_bytes(path.read_bytes()[: end + 1000])
    assert open_slide(path)._levels() == [(700, 500)]
    assert (whole(path) == before).all()


def test_every_cut_of_a_small_tiled_file_is_refused(tmp_path):
    path = write_tiled(tmp_path / "slide.tif", PICTURE[:100, :200], tile=(64, 64), compression="jpeg")
    data = path.read_bytes()
    for length in range(0, len(data), max(1, len(data) // 150)):
        path.write_bytes(data[:length])
        refused(path)


def test_a_damaged_tile_is_named(tmp_path):
    path = write_tiled(tmp_path / "slide.tif")
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[0].dataoffsets[7]
    data = bytearray(path.read_bytes())
    data[offset : offset + 50] = bytes(50)
    path.write_bytes(data)
    assert "tile 7 cannot be decoded" in refused(path).message
    assert (open_slide(path).read(0, 0, width=128, height=128) == PICTURE[:128, :128]).all()


def test_a_missing_file_and_a_folder_are_no_slide(tmp_path):
    assert refused(tmp_path / "no.svs").message == f"there is no slide {tmp_path / 'no.svs'}"
    assert refused(tmp_path).message == f"there is no slide {tmp_path}"


@pytest.mark.parametrize(
    "content", [b"", b"II", b"cells,x,y\n", b"II*\0\x08\0\0\0", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"]
)
def test_what_is_no_image_is_refused(tmp_path, content):
    (tmp_path / "slide.svs").write_bytes(content)
    refused(tmp_path / "slide.svs")


@pytest.mark.parametrize(
    ("picture", "options", "says"),
    [
        (PICTURE.astype(np.uint16), {"photometric": "rgb"}, "uint16"),
        (PICTURE.astype(np.uint16), {"photometric": "rgb", "tile": (128, 128)}, "uint16"),
        (np.dstack([PICTURE, PICTURE[..., :1]]), {"photometric": "separated"}, "SEPARATED"),
        (PICTURE[..., 0], {"photometric": "miniswhite"}, "MINISWHITE"),
        (np.zeros((5, 64, 64), np.uint8), {"photometric": "minisblack"}, "(5, 64, 64)"),
    ],
    ids=["16 bit", "16 bit, tiled", "CMYK", "inverted", "five planes"],
)
def test_colours_that_are_not_rgb_are_refused(tmp_path, picture, options, says):
    tifffile.imwrite(tmp_path / "slide.tif", picture, **options)
    assert says in refused(tmp_path / "slide.tif").message


def test_the_indices_of_a_palette_are_not_taken_for_grey(tmp_path):
    Image.fromarray(PICTURE).quantize(16).save(tmp_path / "slide.tif")
    assert "PALETTE" in refused(tmp_path / "slide.tif").message


# Fingerprint

WRITERS = {
    "tiled.tif": write_tiled,
    "strips.tif": lambda path, picture=PICTURE: write_strips(path, picture, rowsperstrip=250),
    "raw.tif": lambda path, picture=PICTURE: write_tiled(path, picture, compression=None, tile=(256, 256)),
    "flat.png": lambda path, picture=PICTURE: Image.fromarray(picture).save(path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_renamed_copy_is_the_same_slide_and_changed_pixels_another(tmp_path, name):
    path = tmp_path / name
    WRITERS[name](path)
    before = open_slide(path).fingerprint()
    assert before == open_slide(path).fingerprint()
    shutil.copy(path, tmp_path / "copy.svs")
    assert open_slide(tmp_path / "copy.svs").fingerprint() == before
    changed = PICTURE.copy()
    changed[250, 350] += 1  # in the middle: the first and the last tile are as before
    WRITERS[name](path, changed)
    assert open_slide(path).fingerprint() != before


def test_another_description_is_the_same_slide_and_another_encoding_another(tmp_path):
    one = open_slide(write_tiled(tmp_path / "one.tif", description="of Monday")).fingerprint()
    two = open_slide(write_tiled(tmp_path / "two.tif", description="of Tuesday, with more to say")).fingerprint()
    three = open_slide(write_tiled(tmp_path / "three.tif", compression="jpeg")).fingerprint()
    four = open_slide(write_tiled(tmp_path / "four.tif", tile=(64, 64))).fingerprint()
    assert one == two
    assert len({one, three, four}) == 3


# Rectangles, crops, thumbnails


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """The picture as a slide in tiles, in strips, and held in memory."""
    folder = tmp_path_factory.mktemp("slides")
    Image.fromarray(PICTURE).save(folder / "flat.png")
    paths = [write_tiled(folder / "tiled.tif", levels=2), write_strips(folder / "strips.tif"), folder / "flat.png"]
    return [open_slide(path) for path in paths]


corners = st.integers(-300, 900)


@given(x=corners, y=corners, width=st.integers(1, 400), height=st.integers(1, 400))
def test_what_lies_outside_the_slide_is_glass(slides, x, y, width, height):
    padded = np.empty((2000, 2000, 3), np.uint8)
    padded[:] = GLASS
    padded[300:800, 300:1000] = PICTURE
    for slide in slides:
        assert (slide.read(x, y, width=width, height=height) == padded[y + 300 :, x + 300 :][:height, :width]).all()


@given(
    boxes=st.lists(st.tuples(corners, corners, st.integers(1, 2000)), max_size=40),
    block=st.sampled_from([1, 64, 2048]),
)
def test_blocks_hold_every_box_once_in_reading_order_and_are_small(boxes, block):
    boxes = np.array(boxes, np.int64).reshape(-1, 3)
    blocks = blocks_of(boxes, block)
    assert sorted(np.concatenate([np.array([], np.int64), *blocks])) == list(range(len(boxes)))
    corners = [np.unique(boxes[rows, 1::-1] // block, axis=0).tolist() for rows in blocks]
    assert all(len(one) == 1 for one in corners)
    assert corners == sorted(corners)
    for rows in blocks:
        span = (boxes[rows, :2] + boxes[rows, 2:]).max(0) - boxes[rows, :2].min(0)
        assert (span < block + boxes[rows, 2].max()).all()


@given(
    boxes=st.lists(st.tuples(corners, corners, st.integers(1, 250)), max_size=25),
    block=st.sampled_from([64, 100, 256, 2048]),
)
def test_crops_are_what_is_read_box_by_box(slides, boxes, block):
    boxes = np.array(boxes, np.int64).reshape(-1, 3)
    for slide in slides:
        for rows in blocks_of(boxes, block):
            for (x, y, side), crop in zip(boxes[rows].tolist(), crop_block(slide, boxes[rows]), strict=True):
                assert crop.dtype == np.uint8
                assert (crop == slide.read(x, y, width=side, height=side)).all()


@pytest.mark.parametrize("write", [write_tiled, write_strips])
@pytest.mark.parametrize("count", [1, 3, 20, 500])
def test_what_some_box_of_a_block_touches_is_decoded_once_and_nothing_else(tmp_path, monkeypatch, write, count):
    path = write(tmp_path / "slide.tif")
    slide = open_slide(path)
    generator = np.random.default_rng(count)
    boxes = generator.integers([-50, -50, 1], [690, 490, 60], (count, 3))
    boxes = boxes[(boxes[:, :2] + boxes[:, 2:] > 0).all(1)]
    slide.background = np.array(GLASS)  # measuring it reads the whole slide
    read = count_reads(monkeypatch)
    crop_block(slide, boxes)
    with tifffile.TiffFile(path) as tiff:
        offsets = tiff.pages[0].dataoffsets
    width, height, across = (128, 128, 6) if write is write_tiled else (700, 64, 1)
    touched = {
        offsets[row * across + column]
        for x, y, side in boxes.tolist()
        for row in range(max(y, 0) // height, (min(y + side, 500) - 1) // height + 1)
        for column in range(max(x, 0) // width, (min(x + side, 700) - 1) // width + 1)
    }
    assert set(read) == touched
    assert set(read.values()) == {1}


def test_a_slide_without_glass_is_padded_white(tmp_path):
    Image.fromarray(np.full((40, 40, 3), (120, 60, 130), np.uint8)).save(tmp_path / "slide.png")
    slide = open_slide(tmp_path / "slide.png")
    assert slide.background.tolist() == [255, 255, 255]
    assert slide.read(-1, 0, width=2, height=1)[0].tolist() == [[255, 255, 255], [120, 60, 130]]


@pytest.mark.parametrize("longest", [50, 200, 350, 700, 5000])
def test_a_thumbnail_is_small_and_knows_its_scale(slides, longest):
    for slide in slides:
        thumbnail, scale = slide.thumbnail(longest)
        assert max(thumbnail.shape) <= longest
        height, width = thumbnail.shape[:2]
        assert abs(width * scale - 700) < scale
        assert abs(height * scale - 500) < scale
        middle = PICTURE[int(height // 2 * scale) :, int(width // 2 * scale) :][: int(scale), : int(scale)]
        assert np.abs(thumbnail[height // 2, width // 2] - middle.mean((0, 1))).max() < 12


def test_a_ribbon_has_a_thumbnail(tmp_path):
    Image.fromarray(PICTURE[250:252]).resize((3000, 2)).save(tmp_path / "slide.png")
    thumbnail, scale = open_slide(tmp_path / "slide.png").thumbnail(512)
    assert thumbnail.shape == (1, 1500, 3)
    assert scale == 2


def test_tissue_is_what_differs_from_the_glass():
    mask = tissue_mask(PICTURE)
    y, x = np.mgrid[:500, :700]
    radius = np.sqrt(((x / 700 - 0.5) / 0.38) ** 2 + ((y / 500 - 0.5) / 0.38) ** 2)
    assert mask[radius < 0.95].all()
    assert not mask[radius > 1.05].any()
    assert not tissue_mask(np.full((50, 60, 3), GLASS, np.uint8)).any()
    assert tuple(glass_colour(PICTURE)) == GLASS


# Threads


def crops_of_four_threads(slide: Slide, boxes: np.ndarray) -> list[list[np.ndarray]]:
    """The crops of each block, asked for three times by four threads at once."""
    blocks = blocks_of(boxes, 200)
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda rows: crop_block(slide, boxes[rows]), blocks * 3))


def assert_threads_read_the_same_pixels(path: Path) -> None:
    alone = open_slide(path)
    boxes = np.random.default_rng(0).integers([-30, -30, 1], [690, 490, 80], (300, 3))
    expected = [crop_block(alone, boxes[rows]) for rows in blocks_of(boxes, 200)] * 3
    for ours, theirs in zip(crops_of_four_threads(open_slide(path), boxes), expected, strict=True):
        assert all((a == b).all() for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    ("write", "options"),
    [
        (write_tiled, {"compression": None}),
        (write_tiled, {"compression": "zlib", "predictor": True}),
        (write_tiled, {"compression": "lzw", "predictor": True}),
        (write_tiled, {"compression": "jpeg"}),
        (write_tiled, {"compression": "jpeg2000"}),
        (write_strips, {"compression": "zlib", "predictor": True}),
        (write_strips, {"compression": "jpeg", "rowsperstrip": 16}),
    ],
    ids=lambda value: getattr(value, "__name__", None) or ",".join(map(str, value.values())),
)
def test_threads_that_share_a_slide_read_the_same_pixels_as_one(tmp_path, write, options):
    assert_threads_read_the_same_pixels(write(tmp_path / "slide.tif", **options))


def test_threads_that_share_a_flat_or_a_sparse_slide_read_the_same_pixels_as_one(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "slide.png")
    assert_threads_read_the_same_pixels(tmp_path / "slide.png")
    assert_threads_read_the_same_pixels(write_sparse(tmp_path / "slide.tif", PICTURE, {(0, 1), (2, 3)}))


# Real slides


@pytest.mark.skipif(not WSI.is_dir(), reason="../shared/data/wsi is not on this machine")
@pytest.mark.parametrize(
    ("name", "levels", "mpp"),
    [
        ("cmu-1-small-region.svs", [(2220, 2967)], 0.499),
        ("tcga-cr-7395-01a-01-ts1.svs", [(4443, 3567), (2221, 1783)], None),
    ],
)
def test_real_aperio_slides_have_the_pixels_of_other_readers(name, levels, mpp):
    slide = open_slide(WSI / name)
    assert slide._levels() == levels
    assert slide.mpp == mpp
    width, height = levels[0]
    boxes = [(0, 0), (width - 90, height - 70), (width // 2, height // 3), (230, 250)]
    openslide = pytest.importorskip("openslide")
    with openslide.OpenSlide(WSI / name) as other:
        for x, y in boxes:
            expected = np.asarray(other.read_region((x, y), 0, (90, 70)).convert("RGB"))
            assert (slide.read(x, y, width=90, height=70) == expected).all()


@pytest.mark.skipif(not WSI.is_dir(), reason="../shared/data/wsi is not on this machine")
@pytest.mark.parametrize("name", ["cmu-1-small-region.svs", "tcga-cr-7395-01a-01-ts1.svs"])
def test_threads_read_the_same_pixels_of_a_real_slide(name):
    assert_threads_read_the_same_pixels(WSI / name)  # JPEG with its tables apart, JPEG 2000
