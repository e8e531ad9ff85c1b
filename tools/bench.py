"""Benchmark: the time of each step, compared with the paper's simple implementation, alternating in one run.

    python -m tools.bench                            all stages, some minutes on two cores
    python -m tools.bench "STAGES=('live',)" REPEATS=9

It draws its own faces, unless PHOTOS names your photos, and writes only to a temporary folder. Each script is run as a
user runs it. A ratio above 1 means that this project is faster; the spread is over the repeats. Close other programs,
since they would change the times.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "data")]  # so that it runs from any folder
from terminal import script  # isort: skip  # first, so that Ctrl-C during the other imports is one line

# ruff: noqa: E402
import csv
import itertools
import math
import platform
import re
import statistics
import subprocess
import tempfile
import time

import cv2
import numpy as np
import torch
from PIL import Image

import drawn
from faces import cropping, detectors, reading
from learn import classifier
from terminal import rules, workers
from tools import plain

# ------------------------------------------------------------------------------------------------
STAGES = ("crop", "train", "evaluate", "live", "size")
REPEATS = 3  # runs of each pair, alternating
PHOTOS = None  # folder of photos with one face each; None: draw faces
WEIGHTS = None  # weights file for "evaluate" and "live", on both sides; None: as in realtime.py
COUNT = 480  # photos for "crop"
CROPS = 192  # crops in an epoch of "train", and for "evaluate"
FRAMES = 150  # frames in each clip of "live", 640x480
SIZES = (1_000, 4_000)  # numbers of crops for "size"
# ------------------------------------------------------------------------------------------------


def seconds(function, *arguments):
    """The seconds that a call takes."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def compare(name, unit, count, ours, theirs):
    """Run two functions alternately, each of which returns its seconds for `count` units, and print their rates and the
    ratio."""
    pairs = [(ours(), theirs()) for _ in range(REPEATS)]
    ratios = sorted(b / a for a, b in pairs)
    a, b = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(f"{name:<42}{count / a:>10.1f}{count / b:>10.1f}  {unit:<9}{statistics.median(ratios):>6.2f}"
          f"  ({ratios[0]:.2f} to {ratios[-1]:.2f})", flush=True)


def run(name, *arguments):
    """Run a script of the project with constants on its command line. Returns its output."""
    done = subprocess.run([sys.executable, str(ROOT / name), *arguments], capture_output=True, text=True,
                          encoding="utf-8", errors="replace")
    if done.returncode:
        script.fail(f"{name} {' '.join(arguments)} ended with status {done.returncode}: {done.stderr[-500:]}")
    return done.stdout


def pictures(count):
    """`count` RGB pictures of one face each, from PHOTOS or drawn."""
    if PHOTOS is None:
        return [drawn.draw_face((9, i), drawn.CLASSES[i % 2]) for i in range(count)]
    photos = reading.list_photos(PHOTOS)
    if not photos:
        script.fail(f"PHOTOS={PHOTOS}: it has no photos; name a folder of photos, or None")
    paths = itertools.cycle(photos)
    return [reading.read_photo(path) for path in itertools.islice(paths, count)]


def write(folder, images):
    """Write RGB images as JPEG into two class folders in `folder`. Returns their paths."""
    paths = []
    for i, image in enumerate(images):
        paths.append(folder / drawn.CLASSES[i % 2] / f"{i}.jpg")
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(paths[-1], quality=90)
    return paths


def crops_of(images):
    """A crop, uint8 [S, S, 3], of each image in which a face is found."""
    found = ((image, detectors.get("haar").main_face(image)) for image in images)
    return [cropping.crop_face(image, face.box, cropping.MARGIN) for image, face in found if face is not None]


def bench_crop(place):
    """Cropping: processed.py, compared with a loop that reads, detects, crops and writes."""
    faces = pictures(48)
    for name, images in (("small photos", faces * (COUNT // 48)),
                         ("12 megapixels", [cv2.resize(image, (4000, 3000)) for image in faces[:16]])):
        raw, target = place / name / "raw", place / name / "plain"
        paths = write(raw, images)
        target.mkdir()

        def ours(raw=raw):
            folder = tempfile.mkdtemp(dir=place)  # a new one each time, since processed.py skips what it has cropped
            return seconds(run, "processed.py", f"RAW_DIR={raw}", f"FACES_DIR={folder}/faces",
                           f"SKIPPED={folder}/skipped.csv")

        compare(f"processed.py, {len(paths)} {name}", "photos/s", len(paths), ours,
                lambda paths=paths, target=target: seconds(plain.crops, paths, target))


def bench_train(place):
    """The second epoch of train.py, compared with that of the paper's loop with the paper's network."""
    crops = crops_of(pictures(48))
    write(place / "train", itertools.islice(itertools.cycle(crops), CROPS))
    write(place / "valid", crops[:8])
    plain.train(place / "train")

    def ours(name):
        folder = Path(tempfile.mkdtemp(dir=place))
        run("train.py", f"TRAIN_DIR={place / 'train'}", f"VALID_DIR={place / 'valid'}", f"WEIGHTS_DIR={folder}/weights",
            f"PLOTS_DIR={folder}/plots", f"MODEL={name}", "EPOCHS=2")
        with open(folder / "plots" / "log.csv", encoding="utf-8", newline="") as file:
            epoch = list(csv.DictReader(file))[-1]
        return float(epoch["data_s"]) + float(epoch["compute_s"])

    for name in ("paper", "small"):
        compare(f"an epoch of MODEL={name}, the paper's loop", "images/s", CROPS, lambda name=name: ours(name),
                lambda: seconds(plain.train, place / "train"))


def bench_evaluate(place):
    """Classifying crops: Classifier, 64 crops at a time, compared with the same network, one crop at a time."""
    loaded = classifier.Classifier(WEIGHTS)
    net, metadata = classifier.load_weights(loaded.path)
    crops = list(itertools.islice(itertools.cycle(crops_of(pictures(48))), CROPS))

    def ours():
        return seconds(lambda: [loaded.predict(crops[start:start + 64]) for start in range(0, CROPS, 64)])

    ours()
    compare(f"evaluate {loaded.name}, mirror images too", "images/s", CROPS, ours,
            lambda: seconds(lambda: [plain.answer(net, metadata, crop) for crop in crops]))


def clip(path, images, count):
    """Write a video of 640x480 pixels in which `count` faces move in front of a blurred wall."""
    rng = np.random.default_rng(0)
    wall = cv2.GaussianBlur(rng.integers(0, 255, (480, 640, 3)).astype(np.uint8), (0, 0), 31)
    wall = cv2.normalize(wall, None, 60, 200, cv2.NORM_MINMAX)
    columns = min(count, 3)
    size = min(230, 640 // columns - 2)
    heads = [cv2.resize(crop, (size, size))[:, :, ::-1] for crop in crops_of(images)[:count]]
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 30, (640, 480))
    for i in range(FRAMES):
        frame = wall.copy()
        for k, head in enumerate(heads):
            x = round(640 * (k % columns + 0.5) / columns - size / 2 + 8 * math.sin(i / 15 + k))
            x, y = int(np.clip(x, 0, 640 - size)), 20 + 235 * (k // columns) + round(8 * math.cos(i / 20 + k))
            frame[y:y + size, x:x + size] = head
        video.write(cv2.add(frame, rng.normal(0, 3, frame.shape), dtype=cv2.CV_8U))
    video.release()


def bench_live(place):
    """realtime.py on clips with one and with six faces, without its start, compared with the paper's loop."""
    path = classifier.choose(WEIGHTS)
    net, metadata = classifier.load_weights(path)
    for count in (1, 6):
        video = place / f"{count}.mp4"
        clip(video, pictures(12), count)

        def ours(video=video):
            output = run("realtime.py", f"SOURCE={video}", f"WEIGHTS={Path(path).resolve()}", "SHOW=False")
            return FRAMES / float(re.search(r"\(([\d.]+) frames/s\)", output)[1])

        compare(f"live, {count} face(s)", "frames/s", FRAMES, ours,
                lambda video=video: seconds(plain.live, video, net, metadata))


def mixed(crops, number):
    """A crop that is no copy of another: a blend of two of `crops`, each rotated and enlarged at random."""
    rng, size = np.random.default_rng((7, number)), len(crops[0])
    parts = []
    for one in rng.choice(len(crops), 2, replace=False):
        warp = cv2.getRotationMatrix2D((size / 2, size / 2), rng.uniform(-25, 25), rng.uniform(1.0, 1.5))
        warp[:, 2] += rng.uniform(-0.1, 0.1, 2) * size
        parts.append(cv2.warpAffine(crops[one], warp, (size, size), borderMode=cv2.BORDER_REFLECT_101))
    return cv2.addWeighted(parts[0], 0.5, parts[1], 0.5, 0)


def bench_size(place):
    """validation.py on fewer and on more crops, to show how its time grows."""
    crops = crops_of(pictures(128))
    before = None
    for size in sorted(SIZES):
        folder = place / str(size)
        write(folder / "faces", (mixed(crops, i) for i in range(size)))
        took = seconds(run, "validation.py", f"FACES_DIR={folder / 'faces'}", f"TRAIN_DIR={folder / 'train'}",
                       f"VALID_DIR={folder / 'valid'}")
        growth = ""
        if before is not None:
            exponent = math.log(took / before[1]) / math.log(size / before[0])
            growth = f", {2 ** exponent:.2f} times as long for twice the crops"
        print(f"validation.py, {size:,} crops: {took:.1f} s{growth}", flush=True)
        before = size, took


BENCHES = {"crop": bench_crop, "train": bench_train, "evaluate": bench_evaluate, "live": bench_live, "size": bench_size}


RULES = dict(STAGES=rules.some_of(BENCHES), REPEATS=(int, 1, 1000), PHOTOS=rules.optional(str),
             WEIGHTS=rules.optional(str), COUNT=(int, 1, 10**6), CROPS=(int, 8, 10**6), FRAMES=(int, 10, 10**6),
             SIZES=rules.sequence((int, 200, None), "different whole numbers from 200, as (1000, 4000)", 1))


def main():
    rules.check(globals())
    print(f"{platform.machine()}, {workers.cores()} cores, torch {torch.__version__} ({torch.get_num_threads()} "
          f"threads), OpenCV {cv2.__version__}, Python {platform.python_version()}, {platform.system()}")
    print(f"{'':<42}{'here':>10}{'plain':>10}  {'':<9}{'ratio':>6}  (over {REPEATS} repeats)")
    for name in STAGES:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
            BENCHES[name](Path(place))


if __name__ == "__main__":
    rules.override(globals())
    script.run(main, "nothing was written")
