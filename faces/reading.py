"""Finds and reads photos of all usual formats. Nothing to run."""

import functools
import io
import os
import stat
import struct
import warnings
from pathlib import Path

import numpy as np
import pillow_heif
from PIL import Image, ImageChops, ImageCms, PngImagePlugin, UnidentifiedImageError

from faces import mending
from terminal import script
from terminal.files import is_link, walk
from terminal.names import UNSURE, is_system, normal

# ------------------------------------------------------------------------------------------------
MAX_PIXELS = 100_000_000  # a photo that claims more is refused before it is decoded
MAX_JPEG_PIXELS = 250_000_000  # the same for a JPEG, which is decoded at a reduced size; phones make 200 megapixels
MAX_PROGRESSIVE = 125_000_000  # the same for a progressive JPEG, which needs half a gigabyte of memory
MAX_SCANS = 200  # scans of a progressive JPEG; encoders make 20 at most
MAX_PROFILE = 4_000_000  # bytes of a colour profile up to which its transform is cached
HEAD = 65536  # first bytes of a file, in which its transfer function is sought
MAX_MENDED = 400_000_000  # bytes of a damaged file up to which it is mended in memory
REDUCE_FROM = 2560  # pixels a side from which a JPEG is decoded at 1/2, 1/4 or 1/8, which is as good for a crop
REDUCE_HUGE_FROM = 1600  # the same for a JPEG of more than MAX_PIXELS, whose sensor outresolves its lens
MIN_SIDE = 24  # pixels; a smaller photo is refused
# ------------------------------------------------------------------------------------------------

# Files with other suffixes are photos if they begin like photos.
PHOTO_SUFFIXES = set(".jpg .jpeg .jpe .jfif .jif .mpo .png .apng .bmp .dib .webp .tif .tiff .gif .avif .jp2 .j2k .jpx "
                     ".heic .heif .hif .ppm .pgm .pbm .pnm .pfm .jxl".split())
RAW_SUFFIXES = set(".dng .cr2 .cr3 .crw .nef .nrw .arw .sr2 .srf .orf .rw2 .raf .pef .srw .x3f .3fr .iiq .rwl".split())
# Formats that are decoded, whatever the suffix. By default, Pillow would run Ghostscript on PostScript in a .jpg.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "AVIF", "HEIF", "JPEG2000", "PPM")
# First bytes of photos, and the brands of HEIC and AVIF, which follow bytes 4 to 7, "ftyp".
STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ",
          b"\xff\x4f\xff\x51", b"\0\0\0\x0cJXL ")
BRANDS = (b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
# Pillow's own limits: decode() has others, and some PNGs have megabytes of text.
Image.MAX_IMAGE_PIXELS = MAX_JPEG_PIXELS
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
         5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
         8: Image.Transpose.ROTATE_90}  # EXIF orientation -> transposition that turns the photo upright
ORIENTATION, DNG_VERSION, INNER_PICTURES = 0x0112, 0xC612, 0x014A  # tags of EXIF and TIFF


class PhotoError(script.Problem):
    """A photo that cannot be read; the message is a short reason."""


class PassingError(PhotoError):
    """A photo that cannot be read now, but maybe later: no permission, too little memory, a failing network drive."""


def list_photos(folder, others=None):
    """Sorted paths of the photos under `folder`, at any depth, recognised by their suffixes or their first bytes.

    Unreadable photos are included, but an unreadable folder is a Problem. Other files are added to the list `others`,
    except those that operating systems leave everywhere. Links to folders are not followed.
    """
    others = [] if others is None else others
    photos, found = [], []
    for root, folders, names in walk(folder):
        folders[:] = [name for name in folders if not is_system(name)]
        found += [os.path.join(root, name) for name in names if not is_system(name)]
    found.sort(key=lambda name: os.path.normcase(name).split(os.sep))  # the order of Paths, in a tenth of the time
    for path in map(Path, found):
        if named_as_photo(path) or begins_as_photo(path, unread=True):
            photos.append(path)
        else:
            others.append(path)
    return photos


def class_folders(folder, fill_hint):
    """{class: [its folders]}, sorted. A class is a normal() name; it has two folders if both Unicode forms exist.

    The program ends if `folder` does not exist, or has a name that is not UTF-8 or is UNSURE, or a broken link.
    """
    folder, found = Path(folder), {}
    if not folder.is_dir():
        script.fail(f"there is no folder {folder}: {fill_hint}")
    for path in sorted(p for p in folder.iterdir() if not is_system(p.name)):
        if is_link(path) and not path.exists():
            script.fail(f"{path} is a link that leads nowhere: plug in its drive, or delete the link")
        if not path.is_dir():
            continue
        if os.fsencode(path.name).decode("utf-8", "replace") != path.name:
            script.fail(f"the name of the class folder {path} is not valid UTF-8: rename it")
        if normal(path.name).casefold() == UNSURE:
            script.fail(f"the class folder {path} cannot have this name, which is a label: rename it")
        found.setdefault(normal(path.name), []).append(path)
    folded = {}
    for name in found:
        other = folded.setdefault(name.casefold(), name)
        if other != name:
            script.fail(f"{folder} has the classes {other} and {name}, which are the same name on many disks: rename "
                        "one, or move its photos to the other")
    return dict(sorted(found.items()))


def class_photos(folder, fill_hint, what="photos", others=None, minimum=2):
    """{class: its photos}, both sorted, of the class folders in `folder`; fewer than `minimum` classes end the program.

    A folder without photos is no class; a line names it. `what`: a word for the photos in messages; `fill_hint`: see
    class_folders(); `others`: see list_photos().
    """
    others = [] if others is None else others
    listed, empty = {}, []
    classes = class_folders(folder, fill_hint)
    check_parts(classes)
    for name, places in classes.items():
        beside = []
        photos = [photo for place in places for photo in list_photos(place, beside)]
        if photos:
            listed[name] = photos
        else:
            but = f" but {len(beside)} other file(s), such as {beside[0].name}" if beside else ""
            empty.append(f"{name}: has no {what}{but}")
        others += beside
    if len(listed) < minimum:
        none = f" ({'; '.join(empty)})" if empty else ""
        script.fail(f"{folder} has {len(listed)} class folder(s){none} and needs at least {minimum}: {fill_hint}")
    if empty:
        print(f"{folder}: not a class: {'; '.join(empty)}")
    hidden = [path.name for path in Path(folder).iterdir() if path.name.startswith(".") and path.is_dir()
              and list_photos(path)]
    if hidden:
        print(f"{folder}: hidden folders are not classes: {', '.join(sorted(hidden))}")
    return listed


def check_parts(classes):
    """End the program if the class folders, {class: [its folders]}, are parts of a data set that contain the classes,
    such as Training/{male,female} and Validation/{male,female}."""
    inner = [{p.name for p in place.iterdir() if p.is_dir() and not is_system(p.name)}
             for places in classes.values() for place in places]
    common = set.intersection(*inner) if len(inner) > 1 else set()
    photos = any(named_as_photo(p) for places in classes.values() for place in places for p in place.iterdir())
    if len(common) > 1 and not photos:
        folder = next(iter(classes.values()))[0].parent
        script.fail(f"{folder} has {', '.join(classes)}, and each of these has {', '.join(sorted(common))}, which seem "
                    f"to be the classes: move them out of {folder}, and import each part with data/folders.py")


def named_as_photo(path):
    """Whether a file has the suffix of a photo."""
    return path.suffix.lower() in PHOTO_SUFFIXES | RAW_SUFFIXES


def begins_as_photo(path, unread=False):
    """Whether a file begins like a photo; False for pipes and devices. `unread`: the answer for unreadable files."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with open(path, "rb") as file:
            start = file.read(32)
    except OSError:
        return unread
    webp = start[:4] == b"RIFF" and start[8:12] == b"WEBP"
    bmp = start[:2] == b"BM" and start[6:10] == bytes(4)
    ppm = start[:1] == b"P" and start[1:2] in b"123456Ff" and start[2:3].isspace() and len(start) > 8
    return start.startswith(STARTS) or has_brand(start) or webp or bmp or ppm


def has_brand(start):
    """Whether the first bytes of a file are those of HEIC or AVIF."""
    return start[4:8] == b"ftyp" and start[8:12] in BRANDS


def read_photo(path):
    """Read a photo of any usual format, whatever its suffix. Returns uint8 [H, W, 3] RGB, upright.

    Applies EXIF orientation and colour profiles; gray, palette, CMYK, 10- to 16-bit, float and transparent (on white)
    photos become RGB; an animation becomes its first frame. Raises PhotoError with a short reason.
    """
    path = Path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged metadata; the pixels decide
            status = os.stat(path)
            if not stat.S_ISREG(status.st_mode):
                raise PhotoError("not a file")  # reading a pipe or a device might never end
            Image.init()  # fills Image.OPEN, once
            if "HEIF" not in Image.OPEN:
                pillow_heif.register_heif_opener()
            with open(path, "rb") as file:  # given a path, Pillow maps the file, and garbles TIFFs with wrong headers
                try:
                    return decode(file, path)
                except (PhotoError, Image.DecompressionBombError, MemoryError):
                    raise
                except Exception as error:  # decoders may raise anything on damaged files
                    file.seek(0)
                    # No more than the file has: Windows reserves all the memory that is asked for.
                    return mended(file.read(min(status.st_size, MAX_MENDED)), path, error)
    except PhotoError:
        raise
    except Image.DecompressionBombError:
        raise PhotoError("too large") from None
    except MemoryError:
        raise PassingError("too large for this machine's memory") from None
    except UnidentifiedImageError:  # its message contains a memory address
        raise PhotoError("not an image") from None
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        kind = PassingError if getattr(error, "errno", None) else PhotoError  # decoders raise OSError without errno
        raise kind(f"unreadable ({' '.join(reason.split())[:80]})") from None


def decode(file, path):
    """The pixels of an image, uint8 [H, W, 3] RGB, upright. `file`: open for bytes; `path`: its name.

    Raises PhotoError for a file that must not be decoded, and any exception of Pillow's.
    """
    with Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN]) as image:
        width, height = image.size
        jpeg = image.format in ("JPEG", "MPO")
        maximum = MAX_PIXELS
        if jpeg:
            maximum = MAX_PROGRESSIVE if image.info.get("progressive") else MAX_JPEG_PIXELS
            # libjpeg reduces by 2, 4 or 8 while decoding, so that big photos take a fraction of the time.
            side = REDUCE_FROM if width * height <= MAX_PIXELS else REDUCE_HUGE_FROM
            image.draft("RGB", (side, side))
        if width * height > maximum or image.width * image.height > MAX_PIXELS:
            raise PhotoError(f"too large ({width}x{height})")
        if min(width, height) < MIN_SIDE:
            raise PhotoError(f"too small ({width}x{height})")
        if image.format == "TIFF" and is_raw(image.tag_v2, path.suffix.lower()):
            raise PhotoError("a camera's raw file: save it as JPEG")
        deep = image.format in ("PNG", "TIFF") and image.mode.startswith("RGB") and ";16" in str(image.tile)
        file.seek(0)
        if jpeg and image.info.get("progressive") and mending.count_scans(file.read()) > MAX_SCANS:
            raise PhotoError("a JPEG of too many scans, which would take minutes")
        image.load()
        pixels, profile = image, image.info.get("icc_profile")
        if image.mode == "CMYK" and jpeg and "adobe" not in image.info:  # Pillow inverts it, as if it were Adobe's
            pixels = ImageChops.invert(image)
        rgb = to_rgb(upright(pixels, image), profile)
        file.seek(0)
        gamma = image.info.get("gamma") if not profile and "srgb" not in image.info else None
        curve = mending.light_curve(mending.transfer_of(file.read(HEAD)), gamma)
        if curve is not None:
            rgb = curve[rgb]
        # Pillow keeps the upper 8 of 16 bits, in which photos of 10 to 14 bits have next to nothing.
        full = mending.deep(path.read_bytes()) if deep and rgb.max() < 64 else None
        if full is None:
            return rgb
        rgb = to_rgb(upright(Image.fromarray(full), image), profile)
        return rgb if curve is None else curve[rgb]


def is_raw(tags, suffix):
    """Whether a TIFF with such tags and such a suffix is a camera's raw file."""
    return DNG_VERSION in tags or (INNER_PICTURES in tags and suffix in RAW_SUFFIXES)


def mended(data, path, error):
    """The pixels of a file, given its bytes, on which Pillow has raised `error`. Raises `error` or PhotoError if the
    picture cannot be read whole."""
    if data.startswith(b"\x89PNG"):
        needed = mending.without_extras(data)
        if needed != data:
            return decode(io.BytesIO(needed), path)
    if mending.lacks_end_marker(data):
        pictures = (decode(io.BytesIO(whole), path) for whole in mending.with_end_markers(data))
        first = next(pictures, None)
        if first is not None and all(np.array_equal(first, other) for other in pictures):
            return first
    if not isinstance(error, UnidentifiedImageError):
        raise error
    size = mending.tiff_size(data)
    pixels = None
    if size and min(size) >= MIN_SIDE and size[0] * size[1] <= MAX_PIXELS:
        pixels = mending.deep(data)
    if pixels is None:
        raise PhotoError(what_it_is(data[:32], path.suffix.lower()))
    return pixels


def what_it_is(start, suffix):
    """Why a file that Pillow does not recognise cannot be read, by its first bytes and its suffix."""
    if start[8:12] in (b"avif", b"avis") or suffix == ".avif":
        kind = "AVIF"
    elif has_brand(start) or suffix in (".heic", ".heif", ".hif"):
        kind = "HEIC"
    elif start.startswith((b"\0\0\0\x0cJXL ", b"\xff\x0a")) or suffix == ".jxl":
        kind = "JPEG XL"
    elif suffix in RAW_SUFFIXES:
        kind = "camera's raw file"
    else:
        return "not an image"
    return f"damaged, or of a kind that cannot be read here: save this {kind} as JPEG"


def upright(image, original):
    """A PIL image, turned by the EXIF orientation of `original`, if it has one."""
    turn = orientation((original.info.get("exif") or b"").removeprefix(b"Exif\0\0"))
    try:
        turn = turn or original.getexif().get(ORIENTATION)  # also from other places, such as XMP
    except Exception:  # a damaged tag may raise anything
        turn = None
    return image.transpose(TURNS[turn]) if turn in TURNS else image


def orientation(exif):
    """The orientation in the bytes of an EXIF block, or None. Unlike Pillow, it does not stop at a damaged tag.

    TIFF 6.0, section 2: byte order, 42, offset of a list of tags; each tag has 12 bytes: tag, type, count, value.
    """
    try:
        order = {b"II": "<", b"MM": ">"}[exif[:2]]
        start = struct.unpack_from(order + "L", exif, 4)[0]
        count = struct.unpack_from(order + "H", exif, start)[0]
        for i in range(count):
            tag, kind, _, value = struct.unpack_from(order + "HHLH", exif, start + 2 + 12 * i)
            if (tag, kind) == (ORIENTATION, 3):
                return value
    except (KeyError, struct.error):  # not EXIF, or cut off
        pass
    return None


def to_rgb(image, profile):
    """A PIL image of any mode as uint8 [H, W, 3] RGB. `profile`: the bytes of its colour profile, or None."""
    if image.mode.startswith(("I", "F")):  # more than 8 bits
        return np.repeat(mending.eight_bits(image)[:, :, None], 3, axis=2)
    if "A" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
    elif image.mode == "P":
        image = image.convert("RGB")
    if profile:
        # A large profile would fill the cache, so its transform is made anew.
        make = srgb_transform if len(profile) <= MAX_PROFILE else srgb_transform.__wrapped__
        transform = make(profile, image.mode)
        if transform is not None:
            image = ImageCms.applyTransform(image, transform)
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


@functools.lru_cache(maxsize=8)  # photos of one camera have one profile
def srgb_transform(profile, mode):
    """The transform of pixels of `mode` from a colour profile (its bytes) to sRGB; None if it changes next to nothing,
    or the profile is damaged or for another mode.
    """
    to_mode = "RGBA" if mode == "RGBA" else "RGB"
    try:
        transform = ImageCms.buildTransform(ImageCms.ImageCmsProfile(io.BytesIO(profile)),
                                            ImageCms.createProfile("sRGB"), mode, to_mode)
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None
    if mode in ("RGB", "RGBA"):  # tried on pixels, since the names of profiles say little
        levels = np.array(np.meshgrid(*[range(0, 256, 51)] * 3), np.uint8).reshape(1, -1, 3)
        probe = Image.fromarray(levels).convert(mode)
        changed = np.asarray(ImageCms.applyTransform(probe, transform), int)[:, :, :3]
        if np.abs(changed - levels).max() <= 2:
            return None
    return transform
