"""Crops for the tests: of drawn faces, as splits; noise that resembles nothing, copies of it, and where they went."""

from pathlib import Path

import cv2
import numpy as np

import drawn
import validation
from faces import cropping, detectors, people, splits
from faces.cropping import MARGIN

CLASSES = ("man", "woman")


def picture(seed):
    """A crop that resembles no other: smooth noise, uint8 [224, 224, 3]."""
    rng = np.random.default_rng(seed)
    layers = [cv2.resize(rng.uniform(0, 255, (n, n, 3)).astype(np.float32), (224, 224), interpolation=cv2.INTER_CUBIC)
              for n in (6, 14, 30)]
    return np.clip(sum(layers) / 3, 0, 255).astype(np.uint8)


def save(path, image, quality=92):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tofile(path)


COPIES = {
    "encoded": lambda image: cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 35])[1], 1),
    "resized": lambda image: cv2.resize(cv2.resize(image, (120, 120), interpolation=cv2.INTER_AREA), (224, 224)),
    "brighter": lambda image: cv2.convertScaleAbs(image, alpha=1.08, beta=18),
    "cropped": lambda image: cv2.resize(image[8:220, 8:220], (224, 224)),
    "mirrored": lambda image: image[:, ::-1],
    "gray": lambda image: cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR),
}


def fill(place, man=40, woman=25):
    """Crops of two classes, none like another. Returns FACES_DIR."""
    faces = place / validation.FACES_DIR
    for base, (name, count) in enumerate(zip(CLASSES, (man, woman), strict=True)):
        for i in range(count):
            save(faces / name / f"face_{i}.jpg", picture(1000 * base + i))
    return faces


def sides():
    """{"class/name": "train" or "valid"} as it is on disk; a crop on both sides fails."""
    found = {}
    for side, folder in (("train", validation.TRAIN_DIR), ("valid", validation.VALID_DIR)):
        for path in validation.reading.list_photos(folder):
            key = path.relative_to(folder).as_posix()
            assert key not in found
            found[key] = side
    return found


def snapshot(folder):
    return {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in Path(folder).rglob("*")}


def plant(faces, names=range(20)):
    """Copies of crops of class man, each changed in one way. Returns [[keys of one photo]]."""
    groups = []
    for i in names:
        group = [f"man/face_{i}.jpg"]
        for kind, change in COPIES.items():
            save(faces / "man" / f"{kind}_{i}.jpg", change(picture(i)))
            group.append(f"man/{kind}_{i}.jpg")
        groups.append(group)
    return groups


def torn(groups):
    """How many of the groups lie on both sides."""
    side = sides()
    return sum(len({side[key] for key in group}) > 1 for group in groups)


def crop_of(picture):
    """The crop of the face in an RGB picture, as Haar's detector finds it: uint8 [224, 224, 3]."""
    return cropping.crop_face(picture, detectors.get("haar").main_face(picture).box, MARGIN)


def split(folder, count=4):
    """A split of crops of drawn faces, as validation.py leaves it."""
    for name in drawn.CLASSES:
        for i in range(count):
            cropping.write_crop(folder / name / f"{i}.jpg", crop_of(drawn.draw_face(i, name)))
    return folder


def both_splits(folder, train=4, valid=2):
    """folder/train and folder/valid, so many crops a class each."""
    split(folder / "train", train)
    split(folder / "valid", valid)
    return folder


def note(folder, known, clahe=0.0):
    """The notes on a split, as validation.py writes them: of some crops, by "class/name", what people.csv says."""
    persons = {path.relative_to(folder).as_posix(): people.Person() for path in folder.glob("*/*.jpg")}
    persons |= {name: people.Person(*each) for name, each in known.items()}
    splits.write(folder, splits.Split({}, [], None, clahe, persons))
