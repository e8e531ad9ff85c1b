"""Mends, in memory, photos that viewers show, but that Pillow refuses or shows too dark. Nothing to run."""

import io
import re
import struct
import zlib

import cv2
import numpy as np
from PIL import TiffImagePlugin

# ------------------------------------------------------------------------------------------------
END = b"\xff\xd9"  # the end marker of a JPEG
TEXTS = (b"tEXt", b"zTXt", b"iTXt")  # chunks of a PNG
PQ, HLG = 16, 18  # transfer functions of ITU-T H.273
TOPS = (255, 1023, 4095, 16383, 65535)  # largest value of photos with 8, 10, 12, 14, 16 bits per colour
# ------------------------------------------------------------------------------------------------


def restarts(first):
    """All eight restart markers, beginning with number `first`, each followed by other bytes."""
    return b"".join(b"\xff" + bytes([0xD0 + (first + i) % 8]) + bytes(range(1, 90)) for i in range(8))


# Bytes to follow the data of a JPEG: they change its picture only if blocks of it are missing. Restart markers are
# among them, since a decoder that waits for one ignores other bytes.
TAILS = (b"", b"\xaa" * 64, b"\x55" * 64, bytes(range(1, 255)), restarts(0), restarts(4))


def lacks_end_marker(data):
    """Whether the bytes are a JPEG without its end marker."""
    return data.startswith(b"\xff\xd8") and not data.rstrip(b"\0").endswith(END)


def with_end_markers(data):
    """The bytes of a JPEG without its end marker, completed in several ways: list; all decode to the same picture if no
    part of it is missing.

    The list is empty if whole scans are missing, as in a progressive JPEG that is cut off, which would be blurred.
    """
    body = data.rstrip(b"\0")
    if len(data) - len(body) < 3:  # one or two zeros may belong to the picture; more come from a damaged disk
        body = data
    if body.endswith(b"\xff") and len(body) == len(data):
        body = body[:-1]  # the first half of the end marker
    elif body.endswith(b"\xff"):
        body += b"\0"  # the picture's own zero, which belongs to every 0xFF in its data
    return [body + tail + END for tail in TAILS] if has_all_scans(body) else []


def has_all_scans(data):
    """Whether a JPEG's scans have every coefficient of every colour to its last bit (ITU T.81, annexes B and G)."""
    # The place of the frame header: the last one, since a preview's comes before it.
    frame = max(data.rfind(marker) for marker in (b"\xff\xc0", b"\xff\xc1", b"\xff\xc2"))
    if not 0 <= frame < len(data) - 10:
        return False
    count = data[frame + 9]
    colours = data[frame + 10:frame + 10 + 3 * count:3]  # of three bytes each, the first is the colour's number
    missing = {(colour, k) for colour in colours for k in range(64)}
    for scan in re.finditer(rb"\xff\xda\0.", data[frame:], re.DOTALL):
        start = frame + scan.end()
        length = data[start - 1] - 2
        header = data[start:start + length]  # number of colours, two bytes for each, first and last k, bits
        if len(header) < 6:
            continue
        *colours, first, last, bits = header
        if not bits & 15:  # this scan has the last bits of its coefficients
            for colour in colours[1::2]:
                missing -= {(colour, k) for k in range(first, last + 1)}
    return not missing


def without_extras(data):
    """The bytes of a PNG without its texts, and without ancillary chunks whose checksum is wrong."""
    kept, at = [data[:8]], 8
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        chunk = data[at:at + 12 + length]
        critical = not kind[0] & 32  # its name begins with a capital letter
        if critical or (kind not in TEXTS and is_intact(chunk)):
            kept.append(chunk)
        at += len(chunk)
    return b"".join(kept) + data[at:]


def is_intact(chunk):
    """Whether the checksum of a PNG's chunk is right."""
    return chunk[-4:] == struct.pack(">I", zlib.crc32(chunk[4:-4]))


def eight_bits(pixels):
    """Pixels of 10 to 16 bits, or fractions in 0..1, as uint8 0..255. `pixels`: any shape.

    White is the largest value of the smallest bit depth that has them all, so that scans of one depth are comparable.
    """
    pixels = np.nan_to_num(np.asarray(pixels, np.float32), posinf=0.0, neginf=0.0)
    some_rows = pixels[::max(1, len(pixels) // 512)]
    maximum, bright = float(pixels.max()), float(np.percentile(some_rows, 98))
    if bright <= 1.2 and (pixels != np.rint(pixels)).any():  # fractions; some may be brighter than white
        white = 1.0
    else:
        white = next((float(top) for top in TOPS if maximum <= top), maximum)
    return np.clip(pixels * (255.0 / white), 0, 255).astype(np.uint8)


def count_scans(data):
    """The number of scans of a JPEG, those of its preview included; most JPEGs have one."""
    return len(re.findall(rb"\xff\xda\0[\x06-\x0c]", data))


def transfer_of(data):
    """The transfer function that a PNG, HEIC or AVIF states outside a colour profile: a number of ITU-T H.273, or None.
    `data`: the first bytes of the file."""
    at = data.find(b"cICP", 0, data.find(b"IDAT") + 1)  # before the pixels
    if data.startswith(b"\x89PNG") and 0 < at < len(data) - 6:
        return data[at + 5]
    at = data.find(b"colrnclx")
    if data[4:8] == b"ftyp" and 0 < at < len(data) - 12:
        return struct.unpack_from(">H", data, at + 10)[0]
    return None


def light_curve(transfer, gamma):
    """A lookup table to sRGB, uint8 [256], for the pixels of a photo, or None if it needs no conversion. `transfer`: of
    transfer_of(); `gamma`: the gAMA of a PNG, or None.

    PQ and HLG (ITU-R BT.2100) have light brighter than white: white is 203 cd/m2, or 75 %, by ITU-R BT.2408.
    """
    signal = np.arange(256) / 255
    if transfer == PQ:
        power = signal ** (1 / 78.84375)
        share = np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)  # of 10,000 cd/m2, to a power
        light = share ** (1 / 0.1593017578125) * 10000 / 203
    elif transfer == HLG:
        light = np.where(signal <= 0.5, signal ** 2 / 3, (np.exp((signal - 0.55991073) / 0.17883277) + 0.28466892) / 12)
        light = light / 0.26496256
    elif gamma and abs(gamma - 1 / 2.2) > 0.02 and 0.1 <= gamma <= 5:
        return np.rint(255 * signal ** (1 / 2.2 / gamma)).astype(np.uint8)
    else:
        return None
    light = np.minimum(light, 1)
    shown = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(255 * shown).astype(np.uint8)


def tiff_size(data):
    """(width, height) that a TIFF claims, read without decoding it; None if it has none."""
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(data[:8])
        file = io.BytesIO(data)
        file.seek(tags.next)
        tags.load(file)
        return int(tags[256]), int(tags[257])
    except Exception:  # damaged, or no TIFF
        return None


def deep(data):
    """A photo of more than 8 bits per colour, read by OpenCV: uint8 [H, W, 3] RGB, not turned upright, or None."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.dtype == np.uint8:
        return None
    image = eight_bits(image if image.ndim == 2 else image[:, :, :3])
    return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB if image.ndim == 2 else cv2.COLOR_BGR2RGB)
