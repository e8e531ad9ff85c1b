"""What each stage costs, beside the paper's plain way of doing the same, measured in turn in one run.

    python -m tools.bench                               all stages, some ten minutes on two cores
    python -m tools.bench "STAGES=('live',)" REPEATS=9
    python -m tools.bench "STAGES=('memory',)"          training with and without engine.keep_memory()
    python -m tools.bench "STAGES=('hour',)"            an hour of frames as fast as they go: what memory and threads do
    python -m tools.bench "STAGES=('size',)"            what each step takes with more and more crops; half an hour

Needs nothing: it draws its faces, or takes your photos (PHOTOS). Writes nothing but a temporary folder. A ratio above
1 says that this project is faster; the spread is over the repeats. Close other programs: they take part in it.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "data")]  # so that it runs from any folder
from terminal import script  # isort: skip  # first, see terminal/script.py

# ruff: noqa: E402
import contextlib
import itertools
import multiprocessing
import os
import platform
import statistics
import subprocess
import tempfile
from concurrent.futures import ProcessPoolExecutor

import cv2
import numpy as np
import torch
from PIL import Image
from torch import nn

import dataset
import drawn
import model
import processed
import realtime
import train
from faces import cropping, detectors, reading
from learn import engine, runs
from tools import bench_live, bench_size, plain

# ------------------------------------------------------------------------------------------------
STAGES = ("crop", "big", "train", "evaluate", "live")
REPEATS = 5  # of each pair, in turn
PHOTOS = None  # folder of photos with a face each; None: faces are drawn
WEIGHTS = None  # of the network that "live" runs, on both sides; None: as realtime.py chooses
CROPS = 256  # crops in an epoch of "train" and "evaluate"
FRAMES = 300  # of the clip, 640x480 with one to three faces
SIZES = (10_000, 50_000, 200_000)  # crops, for "size": 5 GB in the temporary folder
HOUR = 108_000  # frames, for "hour", which only Linux can run
# ------------------------------------------------------------------------------------------------


def compare(name, unit, count, ours, plain, first=True):
    """Run two functions in turn, REPEATS times after a warm-up, and print their rates and the ratio."""
    if first:
        ours(), plain()
    pairs = [(realtime.timed(ours), realtime.timed(plain)) for _ in range(REPEATS)]
    ratios = sorted(b / a for a, b in pairs)
    a, b = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(f"{name:<42}{count / a:>10.1f}{count / b:>10.1f}  {unit:<9}{statistics.median(ratios):>6.2f}"
          f"  ({ratios[0]:.2f} to {ratios[-1]:.2f})", flush=True)


@contextlib.contextmanager
def elsewhere():
    """Gives a function that calls another in a process of its own, without engine.keep_memory() as here."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield lambda function, *arguments: pool.submit(function, *arguments).result()


def faces(count):
    """`count` RGB pictures of one face each, of the photos or drawn."""
    if PHOTOS is None:
        return [drawn.draw_face(np.random.default_rng((9, i)), drawn.CLASSES[i % 2]) for i in range(count)]
    paths = itertools.cycle(reading.list_photos(PHOTOS) or script.fail(f"PHOTOS={PHOTOS}: no photos there"))
    return [reading.read_photo(path) for path in itertools.islice(paths, count)]


def bench_crop(place, pictures):
    """Cropping: processed.py, start included, on all cores and on one; the plain loop on OpenCV's own threads."""
    paths = []
    for i, picture in enumerate(pictures * 20):
        paths.append(place / "raw" / drawn.CLASSES[i % 2] / f"{i}.jpg")
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(paths[-1], quality=90)
    (place / "crops").mkdir()

    def ours(count):
        folder = tempfile.mkdtemp(dir=place)  # anew each time: what is there already is not cropped again
        subprocess.run([sys.executable, processed.__file__, f"RAW_DIR={place / 'raw'}", f"FACES_DIR={folder}/faces",
                        f"SKIPPED={folder}/skipped.csv", f"WORKERS={count}"], check=True, capture_output=True)

    cores = os.cpu_count() or 1
    compare(f"processed.py: {cores} processes, plain loop", "photos/s", len(paths), lambda: ours(cores),
            lambda: plain.crops(paths, place / "crops"), first=False)
    compare(f"processed.py: {cores} processes, 1 process", "photos/s", len(paths), lambda: ours(cores),
            lambda: ours(1), first=False)


def bench_big(place, pictures):
    """Cropping 12-megapixel photos on one core, beside the plain loop on one core."""
    paths = []
    for i, picture in enumerate(pictures[:4]):
        paths.append(place / f"big{i}.jpg")
        Image.fromarray(cv2.resize(picture, (4000, 3000), interpolation=cv2.INTER_CUBIC)).save(paths[-1], quality=90)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    compare("crop 12-megapixel photos, one core", "photos/s", len(paths),
            lambda: [processed.one_photo((p, 0, place / "big_crop.jpg")) for p in paths],
            lambda: plain.crops(paths, place))
    cv2.setNumThreads(threads)


def make_crops(place, pictures):
    """place/set/{beard,hat}: CROPS crops, cut from the pictures. Returns the folder."""
    crops = [cropping.crop_face(p, face.box, cropping.MARGIN)
             for p in pictures if (face := detectors.get("haar").main_face(p)) is not None]
    for i in range(CROPS):
        path = place / "set" / drawn.CLASSES[i % 2] / f"{i}.jpg"
        cropping.write_crop(path, crops[i % len(crops)])
    return place / "set"


def bench_train(place, pictures):
    """An epoch of train.py beside the paper's loop, and beside its own steps on a batch that is ready in memory."""
    folder = make_crops(place, pictures)
    device, bf16 = engine.hardware()
    engine.keep_memory()
    for name in ("paper", "small"):
        net = model.build(name, 2).to(device, memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(net.parameters(), 1e-4, fused=device.type != "mps")
        batches = dataset.loader(folder, model.image_size(name), train.BATCH_SIZE, 0)
        engine.hold(batches, device)
        ready = torch.rand(train.BATCH_SIZE, 3, batches.dataset.shape[1], batches.dataset.shape[1], device=device)
        ready = ready.contiguous(memory_format=torch.channels_last)
        labels = torch.arange(train.BATCH_SIZE, device=device) % 2
        forward = engine.spread(net, ready, bf16)

        run = runs.Run(net, None, optimizer, batches.dataset.classes, {}, {}, forward=forward)

        def epoch(run=run, batches=batches):
            train.train_epoch(run, batches, 1, device, bf16)

        def steps(optimizer=optimizer, batches=batches, forward=forward, ready=ready, labels=labels):
            for _ in batches.sampler:
                logits = engine.outputs_of(forward, ready, bf16)
                optimizer.zero_grad(set_to_none=True)
                nn.functional.cross_entropy(logits, labels).backward()
                optimizer.step()
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        if name == "paper":
            with elsewhere() as call:
                compare("train the paper's network: train.py, plain", "images/s", CROPS, epoch,
                        lambda: call(plain.train, folder))
        compare(f"train {name!r}: train.py, steps in memory", "images/s", CROPS, epoch, steps)


def steps_of_paper(keep, count=4, batch_size=64):
    """Training steps of the paper's network on a CPU, with engine.keep_memory() or without."""
    if keep:
        engine.keep_memory()
    torch.manual_seed(0)
    net = model.build("paper", 2).to(memory_format=torch.channels_last)
    images = torch.rand(batch_size, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    for _ in range(count):
        nn.functional.cross_entropy(net(images), torch.arange(batch_size) % 2).backward()


def bench_memory(place, pictures):
    """Training steps with freed memory kept for the next one, beside steps that ask the system for it each time."""
    with elsewhere() as kept, elsewhere() as asked:
        compare("train 'paper' on a CPU: memory kept, not", "images/s", 4 * 64,
                lambda: kept(steps_of_paper, True), lambda: asked(steps_of_paper, False))


def bench_evaluate(place, pictures):
    """Evaluation of crops on disk: the paper's network, train.py's way and the plain way."""
    folder = make_crops(place, pictures)
    device, bf16 = engine.hardware()
    net = model.build("paper", 2).to(device, memory_format=torch.channels_last)
    batches = dataset.loader(folder, 224, 128)
    engine.hold(batches, device)
    with elsewhere() as call:
        compare("evaluate the paper's network: ours, plain", "images/s", CROPS,
                lambda: train.evaluate(net, batches, device, bf16), lambda: call(plain.evaluate, folder))


def measures():
    """{name of a stage: what measures it, a function of a temporary folder and of pictures with a face each}."""
    return {
        "crop": bench_crop, "big": bench_big, "train": bench_train, "memory": bench_memory, "evaluate": bench_evaluate,
        "live": lambda place, pictures: bench_live.live(place, pictures, compare, FRAMES, WEIGHTS),
        "hour": lambda place, pictures: bench_live.hour(place, pictures, FRAMES, WEIGHTS, HOUR),
        "size": lambda place, pictures: bench_size.size(place, pictures, SIZES),
    }


def main():
    known = measures()
    if not set(STAGES) <= known.keys() or REPEATS < 1:
        script.fail(f"STAGES={STAGES}, REPEATS={REPEATS}: stages are {', '.join(known)}, and at least 1 repeat")
    device, bf16 = engine.hardware()
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__} ({torch.get_num_threads()} "
          f"threads, {device}, {'bfloat16' if bf16 else 'float32'}), OpenCV {cv2.__version__}, Python "
          f"{platform.python_version()}, {platform.system()}")
    print(f"{'first, second':<42}{'first':>10}{'second':>10}  {'':<9}{'ratio':>6}  (over {REPEATS} repeats)")
    for name in STAGES:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
            known[name](Path(place), faces(bench_size.BASES if name == "size" else 48))


if __name__ == "__main__":
    script.override(globals())
    script.run(main, "nothing was written")
