"""Photos as people have them: damaged facts, any depth, huge, half written."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

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


def test_a_gray_tiff_that_is_stored_on_its_side_is_turned(tmp_path):
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
    np.testing.assert_array_equal(read(tmp_path / "a.jpg", jpeg(form="BMP")), PHOTO)  # by content, not by suffix
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
    with pytest.raises(reading.PhotoError, match=r"too large \(11000x11000\)"):
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
def test_a_jpeg_may_lack_its_end_marker_and_nothing_else(kind, tmp_path):
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
    assert not mending.lacks_end_marker(data)


def profile(**moved):
    """The bytes of an sRGB profile in which tags stand for each other: rXYZ=b"gXYZ" swaps red and green."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for one, other in moved.items():
        one = one.encode()
        data = data.replace(one, b"????", 1).replace(other, one, 1).replace(b"????", other, 1)
    return data


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP", "HEIF"])
def test_colour_profiles_are_followed(form, tmp_path):
    """A profile whose red is green, under the name of sRGB: what a viewer shows has them the other way round."""
    settings = {"quality": 95} if form != "PNG" else {}
    plain = read(tmp_path / "a", jpeg(form=form, **settings)).astype(int)
    same = read(tmp_path / "a", jpeg(form=form, icc_profile=profile(), **settings))
    np.testing.assert_array_equal(same, plain)
    swapped = read(tmp_path / "a", jpeg(form=form, icc_profile=profile(rXYZ=b"gXYZ"), **settings)).astype(int)
    assert np.abs(swapped - plain[:, :, [1, 0, 2]]).mean() < 3 < np.abs(swapped - plain).mean()
    for damaged in (b"", b"none", profile()[:200], profile(rXYZ=b"gXYZ")[:-100]):
        assert read(tmp_path / "a", jpeg(form=form, icc_profile=damaged, **settings)).shape == plain.shape


def test_colour_profiles_of_photos_with_alpha_palette_and_gray(tmp_path):
    swapped = profile(rXYZ=b"gXYZ")
    for mode in ("RGBA", "P", "L", "LA"):
        image = Image.fromarray(PHOTO).convert(mode)
        seen = read(tmp_path / "a.png", jpeg(image, "PNG", icc_profile=swapped)).astype(int)
        wanted = np.asarray(image.convert("RGB"), int)
        assert np.abs(seen - (wanted[:, :, [1, 0, 2]] if mode in ("RGBA", "P") else wanted)).mean() < 2, mode


def test_cmyk_photos_with_and_without_adobes_marker(tmp_path):
    image = Image.fromarray(PHOTO).convert("CMYK")
    marked = jpeg(image, quality=95)
    at = marked.index(b"\xff\xee")
    size = 2 + int.from_bytes(marked[at + 2:at + 4], "big")
    negative = jpeg(Image.fromarray(255 - np.asarray(image), "CMYK"), quality=95)  # as who knows no Adobe writes it
    unmarked = negative[:at] + negative[at + size:]
    assert b"Adobe" in marked and b"Adobe" not in unmarked
    for data in (marked, unmarked):
        assert np.abs(read(tmp_path / "a.jpg", data).astype(int) - PHOTO).mean() < 6


@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"gAMA", b"pHYs", b"tIME", b"eXIf", b"raNd"])
def test_a_png_is_read_whatever_a_chunk_that_is_not_needed_holds(kind, tmp_path):
    data = jpeg(form="PNG")
    for body in (b"prompt\0text", b"", bytes(9)):
        bad = chunk(kind, body)[:-4] + b"\1\2\3\4"
        for at in (33, len(data) - 12):
            np.testing.assert_array_equal(read(tmp_path / "a.png", data[:at] + bad + data[at:]), PHOTO)


@pytest.mark.parametrize("kind", [b"IHDR", b"IDAT", b"PLTE", b"RanD"])
def test_a_png_with_a_damaged_chunk_that_is_needed_is_refused(kind, tmp_path):
    data = jpeg(form="PNG")
    at = data.find(kind)
    broken = (data[:33] + chunk(kind, bytes(9))[:-4] + b"\1\2\3\4" + data[33:] if at < 0
              else data[:at + 4] + bytes([data[at + 4] ^ 1]) + data[at + 5:])
    with pytest.raises(reading.PhotoError):
        read(tmp_path / "a.png", broken)


def test_photos_of_iphones(tmp_path):
    """HEIC, which turns itself, in the colours of its screen; cut short it is named as what it is."""
    exif = Image.Exif()
    exif[274] = 6
    image = read(tmp_path / "IMG_1.HEIC", jpeg(form="HEIF", exif=exif.tobytes(), quality=95))
    assert image.shape == (PHOTO.shape[1], PHOTO.shape[0], 3)
    assert np.abs(image.astype(int) - np.rot90(PHOTO, -1)).mean() < 6
    assert reading.list_photos(tmp_path) == [tmp_path / "IMG_1.HEIC"]
    data = jpeg(form="HEIF")
    for cut in (0, 20, 300, len(data) // 2):
        with pytest.raises(reading.PhotoError, match="HEIC" if cut in (0, 20) else None):
            read(tmp_path / "b.heic", data[:cut])
    with pytest.raises(reading.PhotoError, match="^damaged, or .* save this AVIF as JPEG"):
        read(tmp_path / "c.jpg", jpeg(form="AVIF")[:20])


def pq(light):
    """The PQ signal, 0..1, of light in cd/m2: ITU-R BT.2100, the inverse of what a screen does."""
    power = (light / 10000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


@pytest.mark.parametrize("form", ["PNG", "HEIF"])
def test_light_that_is_said_outside_a_profile_is_shown_as_on_a_usual_screen(form, tmp_path):
    """Gray of 18 % of white: 46 % of the PQ signal, 38 % of HLG's, and 118 in sRGB."""
    path = tmp_path / f"a.{form.lower()}"
    for transfer, signal in ((16, pq(0.18 * 203)), (18, (3 * 0.18 * 0.26496256) ** 0.5)):
        picture = Image.fromarray(np.full((64, 64, 3), round(255 * signal), np.uint8))
        if form == "HEIF":
            reading.pillow_heif.register_heif_opener()
            picture.save(path, quality=100, color_primaries=9, transfer_characteristics=transfer, matrix_coefficients=9)
        else:
            picture.save(path)
            data = path.read_bytes()
            path.write_bytes(data[:33] + chunk(b"cICP", bytes([9, transfer, 0, 1])) + data[33:])
        assert abs(int(reading.read_photo(path)[30, 30, 0]) - 118) <= 4, transfer


def test_a_png_that_states_a_gamma_is_shown_by_it(tmp_path):
    path = tmp_path / "a.png"
    for gamma, shown in ((100000, 98), (45455, 31), (0, 31)):
        Image.fromarray(np.full((64, 64, 3), 31, np.uint8)).save(path)
        data = path.read_bytes()
        path.write_bytes(data[:33] + chunk(b"gAMA", struct.pack(">I", gamma)) + data[33:])
        assert abs(int(reading.read_photo(path)[30, 30, 0]) - shown) <= 1


def test_a_jpeg_of_thousands_of_passes_is_refused(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)).save(path, progressive=True)
    assert reading.read_photo(path).shape == (200, 200, 3)
    data = path.read_bytes()
    last = data.rindex(b"\xff\xda")
    path.write_bytes(data[:-2] + data[last:-2] * 3000 + data[-2:])
    with pytest.raises(reading.PhotoError, match="too many scans"):
        reading.read_photo(path)


def test_huge_profiles_are_not_kept(tmp_path):
    reading.srgb_transform.cache_clear()
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for i in range(3):
        large = profile + bytes(5_000_000) + bytes([i])
        Image.new("RGB", (64, 64), (i, 0, 0)).save(tmp_path / "a.png", icc_profile=large)
        reading.read_photo(tmp_path / "a.png")
    assert reading.srgb_transform.cache_info().currsize == 0
