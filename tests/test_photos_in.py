"""Photos as people have them: damaged facts, any depth, huge, half written."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from faces import mending, reading
from photos import GRAY, PHOTO, chunk, jpeg, read

ENTRIES = {"a signed width": struct.pack("<HHLl", 256, 9, 1, -5),
           "an unknown type": struct.pack("<HHLl", 305, 99, 1, 1),
           "a count of 2^31": struct.pack("<HHLl", 271, 2, 2 ** 31, 40), "a list out of the file":
           struct.pack("<HHLl", 0x8769, 4, 1, 2 ** 30), "a fraction over nothing": struct.pack("<HHLl", 282, 5, 1, -9)}


@pytest.mark.parametrize("what", ENTRIES)
@pytest.mark.parametrize("first", [True, False])
def test_one_bad_tag_does_not_keep_a_photo_from_being_turned(what, first, tmp_path):
    turn = struct.pack("<HHLHH", 274, 3, 1, 6, 0)
    entries = (ENTRIES[what] + turn) if first else turn + ENTRIES[what]
    exif = b"Exif\0\0II*\0" + struct.pack("<LH", 8, 2) + entries + bytes(4)
    image = read(tmp_path / "a.jpg", jpeg(exif=exif))
    assert image.shape == (PHOTO.shape[1], PHOTO.shape[0], 3)
    assert np.abs(image.astype(int) - np.rot90(PHOTO, -1)).mean() < 8


@pytest.mark.parametrize("value", range(10))
def test_all_orientations(value, tmp_path):
    turned = {2: np.fliplr, 3: lambda p: np.rot90(p, 2), 4: np.flipud, 5: lambda p: p.transpose(1, 0, 2),
              6: lambda p: np.rot90(p, -1), 7: lambda p: np.rot90(p, 2).transpose(1, 0, 2), 8: np.rot90}
    wanted, exif = turned.get(value, lambda p: p)(PHOTO), Image.Exif()
    exif[274] = value
    for form, settings in (("JPEG", {"exif": exif}), ("PNG", {"exif": exif}), ("WEBP", {"exif": exif}),
                           ("TIFF", {"tiffinfo": {274: value}})):
        image = read(tmp_path / "a", jpeg(form=form, **settings))
        assert image.shape == wanted.shape and np.abs(image.astype(int) - wanted).mean() < 12, form


def test_a_gray_tiff_that_lies_is_turned_whole(tmp_path):
    for picture in (GRAY, GRAY.astype(np.uint16) * 257):
        image = read(tmp_path / "a.tif", jpeg(picture, "TIFF", tiffinfo={274: 6}))
        np.testing.assert_array_equal(image[:, :, 0], np.rot90(GRAY, -1))


@pytest.mark.parametrize("kind", ["zTXt", "iTXt", "iCCP", "at the end", "much in all"])
def test_long_texts_in_a_png_are_left_out(kind, tmp_path):
    info, settings = PngImagePlugin.PngInfo(), {}
    if kind == "zTXt":
        info.add_text("prompt", "a girl " * 300_000, zip=True)
    if kind == "iTXt":
        info.add_itxt("prompt", "a girl " * 300_000, zip=True)
    if kind == "iCCP":
        settings["icc_profile"] = bytes(3_000_000)
    data = jpeg(form="PNG", pnginfo=info, **settings)
    if kind == "at the end":
        data = data[:-12] + chunk(b"zTXt", b"prompt\0\0" + zlib.compress(bytes(2_000_000))) + data[-12:]
    if kind == "much in all":
        data = data[:33] + chunk(b"tEXt", b"prompt\0" + b"x" * 70_000_000) + data[33:]
    np.testing.assert_array_equal(read(tmp_path / "a.png", data), PHOTO)


@pytest.mark.parametrize(("bits", "factor"), [(10, 4), (12, 16), (14, 64), (16, 257)])
@pytest.mark.parametrize("form", [".tif", ".png"])
def test_all_depths_come_out_alike(bits, factor, form, tmp_path):
    for picture in (GRAY, PHOTO[:, :, ::-1]):
        data = cv2.imencode(form, np.ascontiguousarray(picture).astype(np.uint16) * factor)[1].tobytes()
        image = read(tmp_path / f"a{form}", data)
        wanted = PHOTO if picture.ndim == 3 else np.repeat(GRAY[:, :, None], 3, 2)
        assert np.abs(image.astype(int) - wanted).max() <= 3


@pytest.mark.parametrize("top", [1.0, 255.0, 65535.0])
def test_float_photos_keep_their_light(top, tmp_path):
    for picture in (GRAY, PHOTO[:, :, ::-1]):
        numbers = np.ascontiguousarray(picture).astype(np.float32) * (top / 255)
        image = read(tmp_path / "f.tif", cv2.imencode(".tif", numbers)[1].tobytes())
        assert abs(image.mean() - picture.mean()) < 3
    light = GRAY.astype(np.float32) / 255
    light[:2], light[-1, :3] = 1.7, (np.nan, np.inf, -np.inf)  # brighter than white, and no numbers
    assert abs(read(tmp_path / "f.tif", jpeg(light, "TIFF")).mean() - GRAY.mean()) < 3


def test_other_byte_orders_and_modes(tmp_path):
    scanned = (GRAY.astype(np.uint32) * 257).astype(">u2")
    tags = [(256, 4, GRAY.shape[1]), (257, 4, GRAY.shape[0]), (258, 3, 16 << 16), (259, 3, 1 << 16), (262, 3, 1 << 16),
            (273, 4, 150), (277, 3, 1 << 16), (278, 4, GRAY.shape[0]), (279, 4, scanned.nbytes)]
    head = b"MM\0*" + struct.pack(">LH", 8, len(tags)) + b"".join(struct.pack(">HHLL", t, k, 1, v) for t, k, v in tags)
    image = read(tmp_path / "a.tif", (head + bytes(150 - len(head))) + scanned.tobytes())
    np.testing.assert_array_equal(image[:, :, 1], GRAY)
    for mode in ("LA", "PA", "P", "CMYK", "RGBA", "1", "YCbCr"):
        image = read(tmp_path / "a.tif", jpeg(Image.fromarray(PHOTO).convert(mode), "TIFF"))
        assert image.shape == PHOTO.shape and abs(image.mean() - PHOTO.mean()) < 4, mode


def test_photos_of_phones_are_not_too_large(tmp_path):
    huge = jpeg(np.full((12000, 9000, 3), 90, np.uint8), quality=30)
    image = read(tmp_path / "a.jpg", huge)
    assert image.shape == (3000, 2250, 3) and abs(image.mean() - 90) < 2
    frame = huge.index(b"\xff\xc0") + 5

    def claim(height, width):
        return huge[:frame] + struct.pack(">HH", height, width) + huge[frame + 4:]

    for size in ((60_000, 60_000), (20_000, 20_000), (64_000, 3_000)):  # the last cannot be reduced
        with pytest.raises(reading.PhotoError, match="too large"):
            read(tmp_path / "a.jpg", claim(*size))
    with pytest.raises(reading.PhotoError, match="too large"):
        read(tmp_path / "a.png", b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 11_000, 11_000, 8, 2, 0,
                                                                                 0, 0)) + chunk(b"IEND", b""))


def test_a_photo_of_several_pictures_is_reduced_like_others(tmp_path):
    large = Image.new("RGB", (8000, 6000), (90, 90, 90))
    data = jpeg(large, "MPO", save_all=True, append_images=[large.resize((800, 600))])
    assert read(tmp_path / "a.mpo", data).shape == read(tmp_path / "a.jpg", jpeg(large)).shape == (3000, 4000, 3)


KINDS = {"plain": {}, "full colour": {"subsampling": 0}, "progressive": {"progressive": True}, "gray": {},
         "restarts": {"restart_marker_blocks": 7}, "restarts by row": {"restart_marker_rows": 1},
         "coarse": {"quality": 20}}


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_end_mark_may_lack(kind, tmp_path):
    data, path = jpeg(GRAY if kind == "gray" else PHOTO, **KINDS[kind]), tmp_path / "a.jpg"
    whole = read(path, data)
    for end in (data[:-1], data[:-2], data[:-2] + bytes(5000)):
        np.testing.assert_array_equal(read(path, end), whole)
    marks = [i for i in range(700, len(data) - 9) if data[i] == 0xFF and 0xC0 <= data[i + 1] <= 0xDA]
    cuts = [len(data) - n for n in (3, 4, 6, 9, 30)] + list(range(300, len(data) - 20, len(data) // 12)) + marks[::9]
    for cut in cuts:
        with pytest.raises(reading.PhotoError):
            read(path, data[:cut])
    with pytest.raises(reading.PhotoError):
        read(path, data[:len(data) // 2] + bytes(len(data) // 2))  # as a damaged disk leaves it
    assert not mending.lacks_end_mark(data)
