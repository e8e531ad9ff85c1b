"""Draws faces, for tests and for a first run without photos or internet: the same seed gives the same pixels.

    python data/drawn.py        ->  data/raw/{beard,hat}/*.jpg  and  data/test/{beard,hat}/*.jpg

Each person is drawn several times, in different poses, light and places, and has a name in data/people.csv, so that the
split by person has an effect. They show nobody: they are ellipses with noise, in which detectors find a face.
"""

import importing  # isort: skip  # first, since it imports terminal/script.py

import math
import tempfile
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from faces import people
from judge import overlap
from terminal import rules, script
from terminal.files import atomic
from terminal.places import PLACES
from terminal.records import claim, written

# ------------------------------------------------------------------------------------------------
RAW_DIR = PLACES["RAW_DIR"]
TEST_DIR = PLACES["TEST_DIR"]
PEOPLE = people.PEOPLE
COUNT = 200  # pictures per class for training and validation
TEST_COUNT = 50  # pictures per class for the test, of other people
PER_PERSON = 4  # pictures of one person
SEED = 0
JPEG_QUALITY = 85
# ------------------------------------------------------------------------------------------------

CLASSES = ("beard", "hat")
FIRST_STRANGER = 5000  # index of the first test person; those of training begin at 0
ROUNDS = 10  # attempts to replace people of the test; thousands of people cannot all look different


def draw_person(rng):
    """The features of a person in all pictures: dict of colours (0..255, RGB) and lengths, see Easel."""
    shade = rng.uniform(0, 1)  # skin from dark to light
    skin = np.array([118, 78, 56]) * (1 - shade) + np.array([244, 206, 180]) * shade + rng.normal(0, 6, 3)
    return {
        "skin": np.clip(skin, 40, 250),
        "hair": np.clip(np.array([60, 42, 30]) * rng.uniform(0.3, 1.0 + 0.9 * shade) + rng.normal(0, 5, 3), 5, 120),
        "cloth": rng.uniform(20, 230, 3),
        "hat": rng.uniform(20, 235, 3),
        "iris": rng.uniform(20, 90, 3),
        "long": rng.uniform(1.18, 1.44),  # height of the head over its width
        "eyes": rng.uniform(0.37, 0.48),  # from the middle to an eye
        "eye_y": rng.uniform(-0.22, -0.10),
        "eye": rng.uniform(0.13, 0.20),  # half of an eye's width
        "socket": rng.uniform(0.65, 0.9),  # how dark
        "brow": rng.uniform(0.04, 0.12),
        "brow_y": rng.uniform(0.12, 0.24),  # over the eye
        "slant": rng.uniform(-0.06, 0.06),  # the outer end of a brow over its middle
        "bridge": rng.uniform(0.7, 1.0),  # how bright
        "nose": rng.uniform(0.34, 0.56),
        "lips": rng.uniform(0.22, 0.36),  # under the nose
        "mouth": rng.uniform(0.20, 0.38),
        "cheek": rng.uniform(0.5, 0.9),
        "spots": rng.uniform(-0.8, 0.8, (18, 2)),  # moles and freckles, as people have them
        "spot": rng.uniform(0.015, 0.06, 18),
        "shaved": rng.uniform((0.62, 0.38), (0.82, 0.50)),  # half of the size of the part without a beard
        "mane": rng.uniform(1.02, 1.22),  # hair beside the face
        "fringe": rng.uniform(0.60, 0.80),  # height of the hairline above the face's middle
        "rim": rng.uniform(0.54, 0.64),  # height of the hat's rim
        "chin": rng.uniform(0.15, 0.45),  # where the beard begins, under the middle
    }


class Easel:
    """A picture, float32 [H, W, 3] in 0..255, on which shapes are painted in the coordinates of a face.

    Coordinates are in half-widths of the face from its middle, y down. `at`: its middle in pixels; `unit`: half its
    width in pixels; `tilt`: in radians.
    """

    def __init__(self, picture, at, unit, tilt):
        self.picture, self.at, self.unit, self.tilt = picture, at, unit, tilt

    def point(self, x, y):
        """A point in sixteenths of a pixel, for cv2."""
        cos, sin = np.cos(self.tilt), np.sin(self.tilt)
        return [round(16 * (self.at[0] + self.unit * (x * cos - y * sin))),
                round(16 * (self.at[1] + self.unit * (x * sin + y * cos)))]

    def area(self, x, y, rx, ry, start=0, end=360):
        """The mask of an ellipse, or of a part of one: float32 [H, W], 0..1."""
        mask = np.zeros(self.picture.shape[:2], np.float32)
        axes = [max(16, round(16 * self.unit * r)) for r in (rx, ry)]
        cv2.ellipse(mask, self.point(x, y), axes, float(np.rad2deg(self.tilt)), start, end, 1.0, -1, cv2.LINE_AA, 4)
        return mask

    def paint(self, mask, colour, soft=0.0, strength=1.0):
        """Blend in a colour where the mask is; `soft` blurs its edge."""
        x, y, w, h = cv2.boundingRect((mask > 0).view(np.uint8))
        reach = int(3 * soft * self.unit) + 1
        window = np.s_[max(0, y - reach):y + h + reach, max(0, x - reach):x + w + reach]
        share = mask[window]
        if soft:
            share = cv2.GaussianBlur(share, (0, 0), soft * self.unit)
        share = share[:, :, None] * np.float32(strength)
        self.picture[window] += share * (np.asarray(colour, np.float32) - self.picture[window])

    def ellipse(self, x, y, rx, ry, colour, start=0, end=360, soft=0.0, strength=1.0):
        """Paint an ellipse, or a part of one."""
        self.paint(self.area(x, y, rx, ry, start, end), colour, soft, strength)


def draw_face(rng, name, person=None):
    """A picture of class `name` ('beard' or 'hat') with one upright face: uint8 [about 320, about 240, 3] RGB.

    `rng` is a numpy Generator, or a seed; `person`: of draw_person(); None: a random one.
    """
    if name not in CLASSES:
        raise ValueError(f"class {name!r} is not one of {', '.join(CLASSES)}")
    rng = np.random.default_rng(rng)
    p = person or draw_person(rng)
    width, height = int(rng.integers(225, 256)), int(rng.integers(300, 341))
    a = rng.uniform(0.20, 0.30) * width  # half of the face's width, pixels
    b = a * p["long"]
    cx = rng.uniform(1.15 * a, width - 1.15 * a)
    cy = rng.uniform(1.3 * b, height - 1.25 * b) if height > 2.55 * b else height / 2
    tilt = np.deg2rad(rng.normal(0, 3))
    turn = rng.normal(0, 0.045)
    easel = Easel(background(rng, height, width), (cx, cy), a, tilt)
    paint_person(easel, name, p, turn, rng)
    return photograph(rng, easel.picture)


def paint_person(easel, name, p, turn, rng):
    """Paint head and shoulders of a person of class `name` on an Easel.

    `p`: dict of draw_person(); `turn`: sideways shift of the features, as the head turns, float, in half-widths of the
    face; `rng`: a numpy Generator.
    """
    long = p["long"]
    easel.ellipse(0, long + 1.45, 1.9, 1.15, p["cloth"])  # shoulders
    easel.ellipse(0, long + 0.05, 0.52, 0.62, p["skin"] * 0.5)  # neck, in the head's shadow
    easel.ellipse(0, -0.12 * long, p["mane"], long * 1.02, p["hair"])
    around, head = easel.picture.copy(), easel.area(0, 0, 1, long)
    easel.paint(head, p["skin"])
    draw_light(easel, p, turn)
    draw_eyes(easel, p, turn, rng)
    draw_nose(easel, p, turn)
    if name == "beard":
        beard = easel.area(0, p["chin"], 1.0, long - p["chin"], 0, 180) - easel.area(turn, 0.30, *p["shaved"])
        hairs = np.clip(rng.normal(1, 0.25, easel.picture.shape[:2]), 0.3, 1).astype(np.float32)
        easel.paint(np.clip(beard, 0, 1) * hairs, p["hair"], soft=0.03, strength=0.9)
    smile = rng.uniform(0.03, 0.10)
    lips, mouth_y = p["skin"] * (0.82, 0.50, 0.50), p["nose"] + p["lips"]
    easel.ellipse(turn * 2, mouth_y, p["mouth"], smile + 0.03, lips)
    easel.ellipse(turn * 2, mouth_y, p["mouth"] * 0.95, max(0.02, smile * 0.5), lips * 0.5)
    easel.picture[:] = around + (easel.picture - around) * head[:, :, None]  # clips the features to the head
    if name == "hat":
        rim = -p["rim"] * long
        easel.ellipse(0, rim + 0.1, 1.2, long * 0.72, p["hat"], 180, 360)
        cv2.line(easel.picture, easel.point(-1.1, rim), easel.point(1.1, rim), (p["hat"] * 0.7).tolist(),
                 max(1, round(0.2 * easel.unit)), cv2.LINE_AA, 4)
    else:
        easel.ellipse(0, -p["fringe"] * long, 0.95, long * 0.45, p["hair"], 180, 360, soft=0.02)


def draw_light(easel, p, turn):
    """Paint light and shadow of a round head on an Easel: cheeks and forehead are lighter than the sides. `p`, `turn`:
    see paint_person()."""
    light = np.minimum(p["skin"] * 1.18, 255)
    for side in (-1, 1):
        easel.ellipse(side * 1.0 + turn, 0.1, 0.22, p["long"], p["skin"] * 0.6, soft=0.1, strength=0.6)
        easel.ellipse(side * 0.45 + turn, 0.28, 0.30, 0.24, light, soft=0.1, strength=p["cheek"])
    easel.ellipse(turn, -0.62, 0.6, 0.22, light, soft=0.1, strength=0.6)


def draw_eyes(easel, p, turn, rng):
    """Paint the eyes, with a random gaze, their sockets, lids and brows. `p`, `turn`, `rng`: see paint_person()."""
    hair = p["hair"]
    eye_y, look, opening = p["eye_y"] + rng.normal(0, 0.01), rng.normal(0, 0.025), rng.uniform(0.07, 0.11)
    for side in (-1, 1):
        x = side * p["eyes"] + turn * 1.5
        easel.ellipse(x, eye_y - 0.04, 0.28, 0.16, p["skin"] * 0.45, soft=0.045, strength=p["socket"])
        easel.ellipse(x, eye_y, p["eye"], opening, (225, 220, 215))
        easel.ellipse(x + look, eye_y, 0.085, min(0.085, opening + 0.01), p["iris"])
        easel.ellipse(x + look, eye_y, 0.04, 0.04, (8, 8, 8))
        easel.ellipse(x, eye_y + 0.02, 0.21, opening + 0.07, hair * 0.7, 195, 345, strength=0.5)  # lid
        for step in (-0.15, -0.05, 0.05, 0.15):
            easel.ellipse(x + step, eye_y - p["brow_y"] - p["slant"] * side * step / 0.15, 0.09, p["brow"] * 0.6,
                          hair * 0.8, soft=0.012)


def draw_nose(easel, p, turn):
    """Paint the nose with its light and shadow, and spots of the skin. `p`, `turn`: see paint_person()."""
    skin, nose = p["skin"], p["nose"]
    dark, light = skin * 0.45, np.minimum(skin * 1.18, 255)
    easel.ellipse(turn * 2, 0.02, 0.10, 0.34, np.minimum(skin * 1.22, 255), soft=0.04, strength=p["bridge"])
    easel.ellipse(turn * 2.4, nose - 0.08, 0.15, 0.10, light, soft=0.03, strength=0.8)
    for side in (-1, 1):
        easel.ellipse(side * 0.10 + turn * 2.4, nose, 0.055, 0.035, dark * 0.6, soft=0.01)
    easel.ellipse(turn * 2.2, nose + 0.06, 0.2, 0.05, dark, soft=0.03, strength=0.5)
    for (x, y), size in zip(p["spots"], p["spot"], strict=True):
        easel.ellipse(x + turn, y, size, size, skin * 0.55, soft=0.01, strength=0.6)


def background(rng, height, width):
    """A gradient of two colours, with blurred blobs: float32 [height, width, 3], 0..255."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[-1:1:height * 1j, -1:1:width * 1j].astype(np.float32)
    share = (0.5 + 0.35 * (x * np.cos(angle) + y * np.sin(angle)))[:, :, None]
    canvas = (share * rng.uniform(40, 235, 3) + (1 - share) * rng.uniform(40, 235, 3)).astype(np.float32)
    for _ in range(int(rng.integers(2, 7))):
        corner, size = rng.uniform(0, 1, 2) * (width, height), rng.uniform(0.1, 0.5, 2) * (width, height)
        low, high = corner.astype(int).tolist(), (corner + size).astype(int).tolist()
        cv2.rectangle(canvas, low, high, rng.uniform(30, 240, 3).tolist(), -1)
    return cv2.GaussianBlur(canvas, (0, 0), float(rng.uniform(3, 7)))


def photograph(rng, canvas):
    """Simulate a camera (light from a side, blur, noise): float32 [H, W, 3] -> uint8 [H, W, 3]."""
    angle, depth = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.28)
    y, x = np.mgrid[-1:1:canvas.shape[0] * 1j, -1:1:canvas.shape[1] * 1j]
    light = rng.uniform(0.75, 1.1) * (1 + depth * (x * np.cos(angle) + y * np.sin(angle)))
    picture = cv2.GaussianBlur(canvas * light[:, :, None], (0, 0), float(rng.uniform(0.3, 1.1)))
    picture += rng.normal(0, rng.uniform(1, 6), picture.shape)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def person_name(index):
    """The name of person `index`, counted from 0, of two syllables or more: Baba, Babe, ..."""
    syllables = [c + v for c in "bdfgklmnprstvwyzhjcx" for v in "aeiou"]
    name = ""
    while index or len(name) < 4:
        name = syllables[index % 100] + name
        index //= 100
    return name.capitalize()


def file_name(name, person, take):
    """The file name of a picture of class `name`; `person` and `take` count from 0."""
    return f"{name.capitalize()}_{person_name(person)}_{take + 1:04d}.jpg"


def draw(folder, jobs):
    """Draw pictures, (class, person, take) each, into `folder`. Returns how many are new, and all rows for PEOPLE."""
    names = [f"{name}/{file_name(name, person, take)}" for name, person, take in jobs]
    # Existing files may be older than the record; they are compared below.
    claim(folder, [name for name in names if not Path(folder, name).exists()])
    new, rows, ours = 0, [], written(folder)
    for name, person, take in tqdm(jobs, unit="face", smoothing=0):
        path = Path(folder, name, file_name(name, person, take))
        rows.append((path.name, "drawn", f"{name} {person_name(person)}", "", ""))
        data = picture(name, person, take)
        if path.is_file() and path.read_bytes() == data:
            continue
        if path.is_file() and f"{name}/{path.name}" not in ours:
            script.fail(f"{path} already exists, and is another picture: move it away, or name another folder")
        with atomic(path) as temporary:
            temporary.write_bytes(data)
        new += 1
    return new, rows


def picture(name, person, take):
    """The bytes of a JPEG of person `person` of class `name`; `take` counts from 0."""
    key = (SEED, CLASSES.index(name), person)
    who = draw_person(np.random.default_rng((*key, 0)))
    drawn = draw_face(np.random.default_rng((*key, take + 1)), name, who)
    settings = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    return cv2.imencode(".jpg", cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR), settings)[1].tobytes()


def jobs_of(persons, count):
    """[(class, person, take)] of `count` pictures of each class. `persons`: {class: the numbers of its people}."""
    return [(name, persons[name][i // PER_PERSON], i % PER_PERSON) for name in CLASSES for i in range(count)]


def strangers(training):
    """{class: numbers of people for the test}. People with a picture that is a near-duplicate of one of the photos
    `training`, which would make the test too easy, are replaced, in at most ROUNDS attempts.
    """
    first = max(FIRST_STRANGER, math.ceil(COUNT / PER_PERSON))
    following = first + math.ceil(TEST_COUNT / PER_PERSON)
    chosen = {name: list(range(first, following)) for name in CLASSES}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(ROUNDS):
            owners = {}  # picture -> person
            for name, person, take in jobs_of(chosen, TEST_COUNT):
                path = Path(folder, file_name(name, person, take))
                owners[path] = name, person
                if not path.exists():
                    path.write_bytes(picture(name, person, take))
            paths = [*training, *owners]
            alike = set()  # people with a picture that is a copy of one in training
            for group in overlap.copied(paths):
                if min(group) < len(training):
                    alike.update(owners[paths[i]] for i in group if i >= len(training))
            for name, person in sorted(alike):
                chosen[name][chosen[name].index(person)] = following
                following += 1
            if not alike:
                break
    return chosen


RULES = dict(RAW_DIR=str, TEST_DIR=str, PEOPLE=str, COUNT=(int, 1, 10**6), TEST_COUNT=(int, 0, 10**6),
             PER_PERSON=(int, 1, 10**6), SEED=(int, 0, 2**63 - 1), JPEG_QUALITY=(int, 1, 100))


def main():
    rules.check(globals())
    importing.check_targets(globals(), CLASSES)
    jobs = jobs_of(dict.fromkeys(CLASSES, range(COUNT)), COUNT)
    new, rows = draw(RAW_DIR, jobs)
    training = [Path(RAW_DIR, name, file_name(name, person, take)) for name, person, take in jobs]
    test_jobs = jobs_of(strangers(training), TEST_COUNT)
    new_tests, test_rows = draw(TEST_DIR, test_jobs)
    people.write(PEOPLE, rows + test_rows)
    for folder, count in ((RAW_DIR, COUNT), (TEST_DIR, TEST_COUNT)):
        print(f"{folder}: " + ", ".join(f"{count} {name}" for name in CLASSES))
    new += new_tests
    print(f"{new} pictures written, {len(jobs + test_jobs) - new} existed already. Next: python processed.py")


if __name__ == "__main__":
    rules.override(globals())
    script.run(main)
