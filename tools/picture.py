"""Makes the animation of the live window in the README, with drawn people and without a display.

    python -m tools.picture        ->  plots/window.webp and plots/window.png, in half a minute

Drawn people walk through a room, near and far, one with a tilted head. The live window plays that clip with the shipped
weights, and its pictures are saved. A network that has learned from photos is unsure of most drawn faces, so the people
are chosen: some that it classifies as men, some as women, and one of whom it is unsure.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "data")]  # so that it runs from any folder
from terminal import script  # isort: skip  # first, so that Ctrl-C during the other imports is one line

# ruff: noqa: E402
import contextlib
import tempfile
from concurrent.futures import Future

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

import drawn
from faces import cropping, detectors
from learn import classifier
from live import capture, controls, player, results
from terminal import rules
from terminal.files import atomic
from terminal.records import claim_file

# ------------------------------------------------------------------------------------------------
OUTPUT = "plots/window.webp"  # a still is written beside it, as .png
WEIGHTS = classifier.SHIPPED
SECONDS = 5.0  # length of the animation
# ------------------------------------------------------------------------------------------------

SIZE, RATE = (720, 405), 12.0  # pixels; frames per second
WANTED = ("man", "woman", None, "woman", "man")  # predicted class of each of WALKS; None: unsure
# Of each person: x of the face's centre at the start and at the end, y, half the face's width, all in pixels, and its
# tilt in degrees.
WALKS = ((90, 290, 120, 22, 0), (660, 500, 130, 26, 0), (380, 340, 140, 36, 26), (90, 210, 235, 52, 0),
         (640, 510, 245, 58, 0))
STILL = 0.7  # the still shows the frame after this share of the clip


def scene(people, progress):
    """The room and the people in it at `progress` (0..1 of the clip): uint8 [H, W, 3] RGB."""
    width, height = SIZE
    room = cv2.GaussianBlur(drawn.background(np.random.default_rng(11), height, width), (0, 0), 14)
    room = 0.45 * room + 80
    for k, ((seed, kind), (start, end, y, half, tilt)) in enumerate(zip(people, WALKS, strict=True)):
        x = start + (end - start) * progress
        step = 0.07 * half * np.sin(2 * np.pi * (4 * progress + k / 5))
        lean = np.deg2rad(tilt + 3 * np.sin(2 * np.pi * (progress + k / 3)))
        person = drawn.draw_person(np.random.default_rng((seed, 0)))
        easel = drawn.Easel(room, (x, y + step), half, lean)
        drawn.paint_person(easel, kind, person, 0.04 * np.sign(end - start), np.random.default_rng((seed, 1)))
    return np.clip(np.rint(cv2.GaussianBlur(room, (0, 0), 0.6)), 0, 255).astype(np.uint8)


def choose(network, detector):
    """[(seed, kind)] of drawn people whom the network classifies as WANTED."""
    found, seed = {}, 0
    with tqdm(total=len(WANTED), desc="people", unit="person") as bar:
        while len(found) < len(WANTED) and seed < 400:
            kind = drawn.CLASSES[seed % 2]
            room = np.full((240, 240, 3), 150, np.float32)
            easel = drawn.Easel(room, (120, 105), 45, 0.0)
            drawn.paint_person(easel, kind, drawn.draw_person(np.random.default_rng((seed, 0))), 0.03,
                               np.random.default_rng((seed, 1)))
            picture = np.clip(room, 0, 255).astype(np.uint8)
            face = detector.main_face(picture)
            if face is not None:
                crop = cropping.crop_face(picture, face.box, network.margin, network.clahe, face.roll)
                probabilities, child = network.predict([crop])
                # Not near the threshold, so that the labels stay the same throughout the clip.
                label = network.label(probabilities[0], child[0], network.threshold + 0.04)
                name = None if label is None else network.classes[label]
                unclear = name is None and probabilities[0].max() < 0.7
                free = [i for i, wanted in enumerate(WANTED) if wanted == name and i not in found]
                if free and (name or unclear):
                    found[free[0]] = (seed, kind)
                    bar.update()
            seed += 1
    if len(found) < len(WANTED):
        script.fail("with these weights too few drawn people are classified as WANTED: set WEIGHTS")
    return [found[i] for i in range(len(WANTED))]


class Screen:
    """A stand-in for the window: keeps the pictures of a clip of so many frames, then counts as closed."""

    shown, lost = True, False

    def __init__(self, frames):
        self.pictures, self.frames = [], frames

    def show(self, image, wait):
        """Keep a picture, BGR uint8 [H, W, 3], and return a key, as window.Window does."""
        if len(self.pictures) == self.frames:
            return "q"
        self.pictures.append(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
        return ""


def shown(clip, frames, network, detector):
    """The pictures in the live window for a clip of so many frames: list of uint8 [H, W, 3] RGB."""
    loading, ready, screen = Future(), Future(), Screen(frames)
    loading.set_result(network)
    ready.set_result(detector)
    with contextlib.closing(capture.Reader(str(clip), 0)) as reader:
        player.Player(reader, loading, controls.Controls(counts=True), results.Results(), ready, screen).play()
    return screen.pictures


RULES = dict(OUTPUT=rules.ends_in(".webp"), WEIGHTS=str, SECONDS=(float, 0.5, 60))


def main():
    rules.check(globals())
    capture.quiet()
    output, still = Path(OUTPUT), Path(OUTPUT).with_suffix(".png")
    for path in (output, still):
        claim_file(path)
    network, detector = classifier.Classifier(WEIGHTS), detectors.get("yunet", strict=True)
    people, count = choose(network, detector), round(SECONDS * RATE)
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder, "clip.avi")
        video = cv2.VideoWriter(str(clip), cv2.VideoWriter_fourcc(*"MJPG"), RATE, SIZE)
        for i in tqdm(range(count), desc="drawing", unit="frame"):
            video.write(cv2.cvtColor(scene(people, i / count), cv2.COLOR_RGB2BGR))
        video.release()
        pictures = [Image.fromarray(picture) for picture in shown(clip, count, network, detector)]
    with atomic(output) as temporary:
        pictures[0].save(temporary, "WEBP", save_all=True, append_images=pictures[1:], duration=round(1000 / RATE),
                         loop=0, quality=60, method=4)
    with atomic(still) as temporary:
        pictures[int(STILL * len(pictures))].quantize(256, dither=Image.Dither.NONE).save(temporary, "PNG")
    print(f"{output}: {len(pictures)} pictures of {SIZE[0]}x{SIZE[1]} pixels, {output.stat().st_size / 1000:.0f} KB; "
          f"{still}: {still.stat().st_size / 1000:.0f} KB")


if __name__ == "__main__":
    rules.override(globals())
    script.run(main)
