"""Damaged bytes: thousands of mutated photos and weights files, the same ones in every run, and one answer to each.

    FUZZ_CASES=20000 python -m pytest tests/test_fuzz.py     # more of them
"""

import functools
import io
import os
import sys
import time

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, features

import drawn
from faces import detectors, reading
from learn import classifier, runs
from live import stills
from watching import StandIn

CASES = int(os.environ.get("FUZZ_CASES", 1000))  # photos; weights files are an eighth of it
SECONDS, MEGABYTES = 10.0, 400  # most that one photo of this size may take


@functools.cache
def photos():
    """(what it is, bytes) of one drawn face in all formats and modes."""
    face = Image.fromarray(drawn.draw_face(3, "hat")).resize((96, 128))
    deep = Image.fromarray(np.asarray(face.convert("L")).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = [("JPEG", face, {}), ("JPEG", face, {"progressive": True, "exif": exif}),
             ("JPEG", face.convert("CMYK"), {}),
             ("BMP", face, {}), ("GIF", face, {}), ("GIF", face, {"save_all": True, "append_images": [face.rotate(9)]}),
             ("WEBP", face, {}), ("WEBP", face.convert("RGBA"), {"lossless": True}), ("TIFF", face, {}),
             ("TIFF", face.convert("F"), {}), ("PNG", deep, {})]
    kinds += [("PNG", face.convert(mode), {}) for mode in ("RGB", "L", "P", "RGBA", "LA", "1")]
    if features.check("libtiff"):
        kinds += [("TIFF", face, {"compression": name}) for name in ("tiff_lzw", "tiff_deflate", "jpeg")]
    made = []
    for form, image, settings in kinds:
        file = io.BytesIO()
        image.save(file, form, **settings)
        made.append((f"{form} {image.mode} {' '.join(settings)}", file.getvalue()))
    return made


def mutated(data, rng):
    """A damaged copy of bytes: cut off, a piece removed or doubled, or a few bytes changed, often in the header."""
    data, kind = bytearray(data), rng.integers(8)
    a, b = sorted(rng.integers(0, len(data), 2).tolist())
    if kind == 0:
        del data[a:]
    elif kind == 1:
        del data[a:b]
    elif kind == 2:
        data[a:a] = data[a:b]
    else:
        reach = len(data) if kind < 6 else min(len(data), 120)
        for place in rng.integers(0, reach, int(rng.integers(1, 6))).tolist():
            data[place] = int(rng.choice([0, 1, 127, 128, 255, int(rng.integers(256))]))
    return bytes(data)


def peak_megabytes():
    """The most memory this process has ever held; 0 on Windows, where nothing of the standard library tells it."""
    if os.name == "nt":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2 ** 20 if sys.platform == "darwin" else 2 ** 10)


def test_damaged_photos_are_read_or_refused(tmp_path, capfd):
    """read_photo and the photo path of realtime.py: an RGB picture or a PhotoError, in bounded time and memory."""
    path, answers = tmp_path / "a.jpg", {"read": 0, "refused": 0}
    before, cv_threads = peak_megabytes(), cv2.getNumThreads()
    for case in range(CASES):
        kind, data = photos()[case % len(photos())]
        rng = np.random.default_rng([7, case])
        path.write_bytes(mutated(data, rng))
        start = time.process_time()  # whatever other programs do
        try:
            image = reading.read_photo(path)
            assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and min(image.shape[:2]) >= 24
            answers["read"] += 1
            if answers["read"] % 8 == 1:
                crops = []

                def answer(given, crops=crops):
                    crops.extend(given)
                    return np.full((len(given), 2), 0.5)

                faces = stills.classify(image, StandIn(answer), detectors.get("haar"))
                assert all(crop.shape == (224, 224, 3) for crop in crops) and len(faces) == len(crops)
        except reading.PhotoError as error:
            assert "\n" not in str(error) and len(str(error)) < 120
            answers["refused"] += 1
        except Exception as error:
            pytest.fail(f"case {case} ({kind}): {error!r}")
        assert time.process_time() - start < SECONDS, f"case {case} ({kind})"
    assert min(answers.values()) > CASES / 10, answers
    assert peak_megabytes() - before < MEGABYTES
    assert cv2.getNumThreads() == cv_threads and "Traceback" not in capfd.readouterr().err


def test_damaged_weights_are_loaded_or_refused(tmp_path):
    """load_checkpoint: the facts of a weights file, or a WeightsError of one line."""
    path, answers = tmp_path / "a.pt", {"read": 0, "refused": 0}
    facts = {"model": "paper", "classes": ["beard", "hat"], "image_size": 224, "mean": [0.5] * 3, "std": [0.2] * 3,
             "margin": 0.2, "temperature": 1.0, "threshold": 0.7, "epoch": 3, "metrics": {"loss": 0.5},
             "state": {"a": torch.randn(20), "b": torch.randn(6).half()}}
    runs.save_weights(path, facts)
    whole = path.read_bytes()
    for case in range(CASES // 8):
        path.write_bytes(mutated(whole, np.random.default_rng([8, case])))
        try:
            assert set(classifier.METADATA) <= set(classifier.load_checkpoint(path))
            answers["read"] += 1
        except classifier.WeightsError as error:
            assert "\n" not in str(error)
            answers["refused"] += 1
        except Exception as error:
            pytest.fail(f"case {case}: {error!r}")
    assert answers["refused"] > CASES / 80, answers
