"""Photos that Pillow refuses and every viewer shows: the bytes, mended in memory. Nothing to run."""

import io
import struct
import zlib

import cv2
import numpy as np
from PIL import TiffImagePlugin

# ------------------------------------------------------------------------------------------------
END = b"\xff\xd9"  # the end mark of a JPEG
LONG_TEXT = 65536  # bytes, unpacked, from which a text in a PNG is left out: nothing that a photo needs is as long
TOPS = (255, 1023, 4095, 16383, 65535)  # brightest value of photos with 8, 10, 12, 14, 16 bits per colour
# ------------------------------------------------------------------------------------------------

# What may follow the last byte of a picture that is whole, and changes nothing there: it does where blocks are missing.
# Bits of both kinds, and restart marks, since a decoder that waits for one takes nothing else.
TAILS = (b"", b"\xaa" * 64, b"\x55" * 64, bytes(range(1, 255)), *(b"".join(
    b"\xff" + bytes([0xD0 + (first + i) % 8]) + bytes(range(1, 90)) for i in range(8)) for first in range(0, 8, 4)))


def lacks_end_mark(data):
    """Whether the bytes are a JPEG that stops before its end mark."""
    return data.startswith(b"\xff\xd8") and not data.rstrip(b"\0").endswith(END)


def with_end_marks(data):
    """The bytes of such a JPEG, ended in several ways: they decode to one picture where nothing of it is missing.

    None where whole scans are missing, as of a progressive JPEG that stops early: it would be a blurred picture.
    """
    body = data.rstrip(b"\0")
    if len(data) - len(body) < 3:  # one or two may belong to the picture; more are what a damaged disk has filled up
        body = data
    if body.endswith(b"\xff"):
        body = body[:-1] if len(body) == len(data) else body + b"\0"
    return [body + tail + END for tail in TAILS] if all_scans(body) else None


def all_scans(data):
    """Whether a JPEG's scans hold every coefficient of every colour to its last bit (ITU T.81, annexes B and G)."""
    missing, at = None, 2
    while (at := data.find(b"\xff", at)) >= 0 and at + 4 <= len(data):
        mark, length = data[at + 1], int.from_bytes(data[at + 2:at + 4], "big")
        if mark in (0x00, 0x01, 0xFF) or 0xD0 <= mark <= 0xD9:  # no segment: what lies within a scan
            at += 1 if mark == 0xFF else 2
            continue
        segment = data[at + 4:at + 2 + length]
        if 0xC0 <= mark <= 0xCF and mark not in (0xC4, 0xC8, 0xCC) and len(segment) > 5:  # a frame: its colours
            missing = {(segment[6 + 3 * i], k) for i in range((len(segment) - 6) // 3) for k in range(64)}
        elif mark == 0xDA and missing is not None and segment and len(segment) == 2 * segment[0] + 4:
            start, stop, bits = segment[-3:]
            if not bits & 15:  # the last bits of these coefficients
                missing -= {(segment[1 + 2 * i], k) for i in range(segment[0]) for k in range(start, stop + 1)}
        at += 2 + length
    return missing is not None and not missing


def without_bad_extras(data):
    """The bytes of a PNG without what a viewer leaves out: chunks that are not needed and whose checksum is wrong, and
    texts and colour profiles of more than LONG_TEXT bytes, which Pillow refuses.
    """
    kept, at = [data[:8]], 8
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8:at + 8 + length]
        extra = kind[0] & 32  # small first letter: pictures can be shown without it
        damaged = data[at + 8 + length:at + 12 + length] != struct.pack(">I", zlib.crc32(kind + body))
        long = kind in (b"zTXt", b"iTXt", b"tEXt", b"iCCP") and unpacked(kind, body) > LONG_TEXT
        if not (extra and (damaged or long)):
            kept.append(data[at:at + 12 + length])
        at += 12 + length
    return b"".join(kept) + data[at:]


def unpacked(kind, body):
    """Bytes of a PNG's text, counted up to LONG_TEXT + 1; what is no packed text counts as it is."""
    for start in [i + 2 for i in range(min(len(body), 400)) if not body[i]] if kind != b"tEXt" else ():
        try:
            return len(zlib.decompressobj().decompress(body[start:], LONG_TEXT + 1))
        except zlib.error:
            continue
    return len(body)


def eight_bits(pixels):
    """Pixels of any range as uint8 0..255: of 10, 12, 14, 16 bits, or numbers of 0 to 1. `pixels`: any shape.

    The range is the least that holds them, so that scans of one depth stay comparable.
    """
    pixels = np.nan_to_num(np.asarray(pixels, np.float32), posinf=0.0, neginf=0.0)
    return np.clip(pixels * (255.0 / brightest(pixels)), 0, 255).astype(np.uint8)


def brightest(pixels):
    """The value that stands for white in float32 `pixels`."""
    if not pixels.size:
        return 255.0
    most = float(pixels.max())
    # Numbers with fractions mean 0 to 1 where nearly all are within it: some light may be brighter than white.
    share = float(np.percentile(pixels[::max(1, len(pixels) // 512)], 98))
    if share <= 1.2 and (pixels != np.rint(pixels)).any():
        return 1.0
    return next((float(top) for top in TOPS if most <= top), max(most, 1.0))


def tiff_size(data):
    """(width, height) that a TIFF claims, read without decoding it; None where it has none."""
    try:
        folder = TiffImagePlugin.ImageFileDirectory_v2(data[:8])
        file = io.BytesIO(data)
        file.seek(folder.next)
        folder.load(file)
        return int(folder[256]), int(folder[257])
    except Exception:  # damaged
        return None


def deep(data):
    """A photo of more than 8 bits per colour as uint8 [H, W, 3] RGB, not turned upright, or None: read by OpenCV."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.dtype == np.uint8:
        return None
    image = eight_bits(image if image.ndim == 2 else image[:, :, :3])
    return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB if image.ndim == 2 else cv2.COLOR_BGR2RGB)
