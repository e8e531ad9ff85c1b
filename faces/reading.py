"""Photos of any usual format, read one way. Nothing to run."""

import os
import stat
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from terminal import script

# ------------------------------------------------------------------------------------------------
MAX_PIXELS = 100_000_000  # a photo that claims more is refused before it is decoded
REDUCE_FROM = 2560  # pixels a side from which a JPEG is decoded at a half, a quarter or an eighth: as good for a crop
# ------------------------------------------------------------------------------------------------

PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"}
# What a photo may contain, whatever its name: Pillow would also run Ghostscript on a .jpg that holds PostScript.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "AVIF")


class PhotoError(script.Problem):
    """A photo that cannot be read; the message is the reason, in a few words."""


def list_photos(folder):
    """Sorted paths of the photos under `folder`, at any depth. Links to folders are not followed, so none can loop."""
    found = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(root, n) for n in names if not n.startswith(".") and Path(n).suffix.lower() in PHOTO_SUFFIXES]
    return sorted(found)


def read_photo(path):
    """Read a photo of any usual format, by content, whatever its name says. Returns uint8 [H, W, 3] RGB, upright.

    Honours EXIF orientation; gray, palette, CMYK, 16-bit and transparent (on white) photos become RGB; of an
    animation the first frame counts. Raises PhotoError with a short reason.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged metadata: the pixels decide
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise PhotoError("not a file")  # a pipe or a device could be read for ever
            Image.init()  # fills Image.OPEN, once
            with Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN]) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise PhotoError(f"too large ({width}x{height})")
                if min(width, height) < 24:
                    raise PhotoError(f"too small ({width}x{height})")
                if image.format == "JPEG":
                    # libjpeg reduces by 2, 4 or 8 while decoding: big photos cost a fraction of the time.
                    image.draft("RGB", (REDUCE_FROM, REDUCE_FROM))
                return to_rgb(ImageOps.exif_transpose(image))
    except PhotoError:
        raise
    except UnidentifiedImageError:
        raise PhotoError("not an image") from None
    except MemoryError:
        raise PhotoError("too large for this machine's memory") from None
    except Exception as error:  # decoders raise nearly everything on damaged files
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise PhotoError(f"unreadable ({' '.join(reason.split())[:80]})") from None


def to_rgb(image):
    """A PIL image of any mode as uint8 [H, W, 3] RGB."""
    if image.mode.startswith(("I", "F")):  # 16 bits or more: stretch what is there, keep 16-bit scans comparable
        pixels = np.asarray(image, dtype=np.float32)
        top = 65535.0 if pixels.max(initial=0) > 255 else 255.0
        gray = np.clip(np.nan_to_num(pixels) * (255.0 / top), 0, 255).astype(np.uint8)
        return np.repeat(gray[:, :, None], 3, axis=2)
    if "A" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))
