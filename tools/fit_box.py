"""Where Haar's box lies for a face that YuNet sees: the numbers SIDE and CENTRE of faces/yunet.py, fitted anew.

    python -m tools.fit_box PHOTOS=data/raw

Reads photos, changes nothing. Faces that both finders see are compared: the side of Haar's box with the box of YuNet,
and its centre with the line from between the eyes to between the corners of the mouth.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs from any folder
from terminal import script  # isort: skip  # first, see terminal/script.py

# ruff: noqa: E402
import cv2
import numpy as np
from tqdm import tqdm

from faces import finding, reading, yunet

# ------------------------------------------------------------------------------------------------
PHOTOS = "data/raw"  # folder of photos, at any depth
COUNT = 2500  # photos drawn from it at random; 0: all
SEED = 0  # of that draw
# ------------------------------------------------------------------------------------------------

NEAR, ALIKE = 0.4, 1.5  # one face: middles so near, in sides of Haar's box, and sizes that differ by no larger factor


def pair(photo):
    """(Haar's box, row of yunet.search()) of the largest face of an RGB photo; None where the two do not agree."""
    boxes = finding.find_faces(photo).astype(np.float64)
    rows = yunet.search(cv2.cvtColor(photo, cv2.COLOR_RGB2BGR), 320, 0.7)
    if not len(boxes) or not len(rows):
        return None
    x, y, side, _ = boxes[0]
    away = np.hypot(*(rows[:, :2] + rows[:, 2:4] / 2 - (x + side / 2, y + side / 2)).T) / side
    row = rows[away.argmin()]
    return (boxes[0], row) if away.min() < NEAR and 1 / ALIKE < row[2] / side < ALIKE else None


def main():
    photos = reading.list_photos(PHOTOS)
    if 0 < COUNT < len(photos):
        photos = [photos[i] for i in np.random.default_rng(SEED).choice(len(photos), COUNT, replace=False)]
    if not photos or finding.YUNET not in finding.usable((finding.HAAR, finding.YUNET)):
        script.fail(f"it takes photos in PHOTOS={PHOTOS} ({len(photos)} there) and YuNet's model")
    pairs = []
    for path in tqdm(photos, unit="photo", smoothing=0):
        try:
            pairs.append(pair(reading.read_photo(path)))
        except reading.PhotoError:
            pairs.append(None)
    found = [both for both in pairs if both is not None]
    if not found:
        script.fail(f"no face in {PHOTOS} that both finders see: name another folder with PHOTOS=")
    boxes, rows = (np.array(part) for part in zip(*found, strict=True))
    points = rows[:, 4:14].reshape(-1, 5, 2)
    eyes, sides = points[:, :2].mean(1), boxes[:, 2]
    down, off = points[:, 3:].mean(1) - eyes, boxes[:, :2] + boxes[:, 2:] / 2 - eyes
    means = np.sqrt(rows[:, 2] * rows[:, 3])
    side, centre = np.median(sides / means), np.median((off * down).sum(1) / (down * down).sum(1))
    wrong = np.abs(side * means / sides - 1).mean(), (np.hypot(*(centre * down - off).T) / sides).mean()
    print(f"SIDE {side:.3f} ({wrong[0]:.1%} off on average), CENTRE {centre:.3f} ({wrong[1]:.1%} of a side off); "
          f"{len(found)} faces that both saw, of {len(photos)} photos")


if __name__ == "__main__":
    script.override(globals())
    script.run(main)
