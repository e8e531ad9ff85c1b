"""Photo files for the tests: one drawn face in any format, pieces of PNG, class folders."""

import csv
import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pillow_heif
from PIL import Image

import drawn
from faces import reading

pillow_heif.register_heif_opener()  # Pillow writes HEIC by it too
PHOTO = drawn.draw_face(3, "hat")
GRAY = cv2.cvtColor(PHOTO, cv2.COLOR_RGB2GRAY)


def face(seed=3, name="hat"):
    """A drawn face as a picture of Pillow."""
    return Image.fromarray(drawn.draw_face(seed, name))


def save(path, picture):
    """Write an RGB picture, uint8 [H, W, 3], in the form that its name tells. Returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(picture)).save(path)
    return path


def jpeg(picture=PHOTO, form="JPEG", **settings):
    """The bytes of a picture as a file."""
    data = io.BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(data, form, **settings)
    return data.getvalue()


def read(path, data):
    """What read_photo() makes of these bytes."""
    path.write_bytes(data)
    return reading.read_photo(path)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def fill(folder, count=2, names=drawn.CLASSES):
    """Class folders with drawn faces, the same ones in each."""
    for name in names:
        (folder / name).mkdir(parents=True)
    for i in range(count):
        data = jpeg(drawn.draw_face(i, drawn.CLASSES[0]), "PNG", compress_level=1)
        for name in names:
            (folder / name / f"{i}.png").write_bytes(data)


def rows(path="processed/skipped.csv"):
    with open(path, encoding="utf-8", newline="") as file:
        return {Path(row["photo"]).name: (row["status"], row["reason"]) for row in csv.DictReader(file)}
