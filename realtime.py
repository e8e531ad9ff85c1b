"""Live: every face boxed, with its class and how sure the network is.

    python realtime.py                             camera 0, in a window; where there is none, a portrait
    python realtime.py SOURCE=1                    another camera
    python realtime.py SOURCE=clip.mp4 OUTPUT=out.mp4 SHOW=False
    python realtime.py SOURCE=photo.jpg            or a folder of photos, OUTPUT=folder for the annotated ones
    python realtime.py SOURCE=rtsp://address       a network camera

Says which weights it uses. Keys: h help, q or Esc quit, space pause, s snapshot, g Grad-CAM, m mirror, r record.
"""

from terminal import script  # isort: skip  # first, see terminal/script.py

import contextlib
import functools
import os
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import processed
from faces import cutting
from live import capture, overlay, stills, tracks, window

# ------------------------------------------------------------------------------------------------
SOURCE = None  # None: camera 0; or the number of a camera, a video, a photo, a folder of photos, rtsp:// or http://
WEIGHTS = None  # None: what train.py made here, or else the better of the weights that ship; or a file
OUTPUT = None  # None: write nothing; a video's name (.mp4, .avi), or for photos a folder
SHOW = True  # False needs no display: lines of text instead of a window

LABELS = {}  # class -> text on the screen; for Spanish: {"man": "HOMBRE", "woman": "MUJER"}
UNSURE = "unsure"  # said below the threshold that is stored with the weights
MIRROR = True  # cameras are shown as a mirror shows; the key m changes it, the network sees the true picture
RETRY = 10.0  # seconds to wait for a camera that is busy or was pulled out
# ------------------------------------------------------------------------------------------------

LOADING = "loading the network ..."
HELP = ("h  help", "q, Esc  quit", "space  pause", "s  snapshot", "g  Grad-CAM", "m  mirror", "r  record")


def load(chosen):
    """Load weights, as WEIGHTS chooses. Returns (info, classify, explain); runs in a thread while the camera opens.

    classify: list of uint8 [S, S, 3] RGB crops -> float32 [N, n_classes]; explain: -> heat maps float32 [N, S, S].
    """
    import torch

    import model
    from learn import checkpoints

    net, info = checkpoints.load_weights(checkpoints.choose(chosen))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    net = net.to(device, memory_format=torch.channels_last)

    def classify(crops):
        return checkpoints.probabilities(net, info, crops, device)

    def explain(crops):
        return model.grad_cam(net, checkpoints.prepare(info, crops, device)).cpu().numpy()

    if device == "cpu":
        # A face or two are so little work that sharing it between threads can cost more than it gives.
        blank, times = [np.zeros((processed.IMAGE_SIZE, processed.IMAGE_SIZE, 3), np.uint8)], {}
        for threads in sorted({1, min(2, os.cpu_count() or 1), max(1, (os.cpu_count() or 1) // 2)}):
            torch.set_num_threads(threads)
            times[threads] = min(timed(classify, blank) for _ in range(4))
        torch.set_num_threads(min(times, key=times.get))
    return info, classify, explain


def timed(function, *arguments):
    """Seconds that a call takes."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def text_of(label, confidence, classes):
    """What stands beside a box: 'woman 93 %', or 'unsure'."""
    return UNSURE if label is None else f"{LABELS.get(classes[label], classes[label])} {confidence:.0%}"


def text_for(track, info):
    """The same for a track; nothing as long as it was not classified."""
    return "" if track.probabilities is None else text_of(track.label, track.probabilities.max(), info["classes"])


def toggle_record(view, files, reader):
    """Start or end a record (key r). Records are closed with `files` at the latest."""
    if view["record"]:
        stack, path, _ = view["record"]
        view["record"] = None
        stack.close()
        print(f"recorded: {path}", flush=True)
        return
    stack, path = files.enter_context(contextlib.ExitStack()), window.stamped("record", ".mp4")
    view["record"] = (stack, path, stack.enter_context(capture.video_writer(path, reader.rate, reader.live)))


def obey(key, view, picture, files, reader):
    """Do what a key asks, to the dict `view`; `picture` is what is on the screen."""
    if key in window.QUIT:
        view["quit"] = True
    elif key == ord(" "):
        view["pause"] = not view["pause"]
    elif key == ord("s"):
        window.snapshot(picture)
    elif key == ord("r"):
        toggle_record(view, files, reader)
    elif key in (ord("h"), ord("g"), ord("m")):
        name = {"h": "help", "g": "heat", "m": "mirror"}[chr(key)]
        view[name] = not view[name]


def status_lines(view, recent, reader, ready):
    """The lines of text in the corner. `recent`: (seconds, faces) of the frames of the last second."""
    span = recent[-1][0] - recent[0][0]
    rate, faces = (0, 0) if span <= 0 else ((len(recent) - 1) / span, sum(n for _, n in list(recent)[1:]) / span)
    lines = [f"{rate:.0f} frames/s   {faces:.0f} faces/s   {reader.dropped} dropped   h: help"]
    lines += [LOADING] * (not ready) + ["recording"] * bool(view["record"])
    return lines + list(HELP) * view["help"]


def say(faces, info, moment, said):
    """Without a window: a line whenever the label of a face changes. `said`: dict of what was said of each."""
    for t in faces:
        if t.probabilities is not None and said.get(t.number, "") != t.label:
            said[t.number] = t.label
            print(f"{moment:8.2f} s  face {t.number}: {text_for(t, info)}", flush=True)


def play(reader, loaded, output=None, mirror=False):
    """Follow the faces of a camera or a video until it ends or the user quits. Returns the dict of results.

    `loaded`: a future of load(); before it is done a live picture is shown without labels, and a video's first
    picture stands still.
    """
    tracker, screen, info, picture = tracks.Tracker(), window.Window(SHOW), None, None
    view = {"help": False, "heat": False, "mirror": mirror, "record": None, "pause": False, "quit": False}
    latencies, recent, said = deque(maxlen=100_000), deque(), {}
    frames, started = 0, None
    with contextlib.ExitStack() as files:
        files.callback(reader.stop)
        files.callback(screen.close)
        write = files.enter_context(capture.video_writer(output, reader.rate, reader.live)) if output else None
        try:
            while not reader.over() and not view["quit"]:
                if info is None and SHOW and not reader.live and not loaded.done():
                    first = reader.peek()
                    if first is None:
                        time.sleep(0.01)
                    elif screen.key(overlay.note(first, LOADING), 30) in window.QUIT:
                        view["quit"] = True
                    continue
                if info is None and (not reader.live or loaded.done()):
                    info, tracker.classify, explain = loaded.result()
                    tracker.threshold = info["threshold"]
                    tracker.cut = functools.partial(cutting.crop_frame, margin=info["margin"],
                                                    size=processed.IMAGE_SIZE, clahe=info["clahe"])
                if view["pause"]:
                    paused = overlay.note(picture, "paused: space goes on")
                    obey(screen.key(paused, 30), view, picture, files, reader)
                    due = time.perf_counter()
                    if reader.live:
                        reader.read()  # what a camera sends meanwhile is past
                    continue
                got = reader.read()
                if got is None:
                    if picture is not None and reader.lost:
                        waiting = overlay.note(picture, "the camera is gone, waiting for it")
                        obey(screen.key(waiting, 30), view, waiting, files, reader)
                    continue
                frame, moment, arrival = got
                started = started or arrival
                tracker.explain = explain if view["heat"] and info else None
                faces = tracker.step(frame, moment)
                drawn = [(t.shown, text_for(t, info), t.label, t.heat if view["heat"] else None) for t in faces]
                picture = overlay.draw(frame, drawn, (), view["mirror"], info["margin"] if info else 0.0)
                for target in (write, view["record"] and view["record"][2]):
                    if target:
                        target(picture, moment)  # without the numbers, which are of this machine
                frames += 1
                recent.append((time.perf_counter(), len(faces)))
                while recent[-1][0] - recent[0][0] > 1:
                    recent.popleft()
                wait = 1
                if SHOW:
                    overlay.write_lines(picture, status_lines(view, recent, reader, info))
                    latencies.append(time.perf_counter() - arrival)
                    if not reader.live:  # a video is shown at its own pace
                        now = time.perf_counter()
                        due = max(due + 1 / reader.rate, now - 0.2) if frames > 1 else now
                        wait = max(1, round((due - time.perf_counter()) * 1000))
                else:
                    latencies.append(time.perf_counter() - arrival)
                    say(faces, info, moment, said)
                obey(screen.key(picture, wait), view, picture, files, reader)
        except KeyboardInterrupt:  # without a window it is the way to end a camera, whose pictures are to be kept
            if not reader.live:
                raise
            view["quit"] = True
        if view["record"]:
            toggle_record(view, files, reader)
    return {"frames": frames, "seconds": time.perf_counter() - (started or 0), "faces": tracker.confirmed,
            "classified": tracker.classifications, "dropped": reader.dropped, "latencies": latencies,
            "lost": reader.live and reader.lost and not view["quit"]}


def report(result):
    """The last lines: counts and latency."""
    if not result["frames"]:
        return
    median, late = np.percentile(result["latencies"], (50, 95)) * 1000
    rate = result["frames"] / result["seconds"]
    print(f"{result['frames']} frames in {result['seconds']:.1f} s ({rate:.1f} frames/s), {result['dropped']} dropped, "
          f"{result['faces']} faces, {result['classified']} classifications")
    print(f"from a frame's arrival to its being drawn: median {median:.1f} ms, 95 % within {late:.1f} ms")


def main():
    global OUTPUT, SHOW
    script.check(globals(), ("SOURCE", SOURCE is None or type(SOURCE) is int or (isinstance(SOURCE, str) and SOURCE),
                             "None, the number of a camera, or a name"),
                 ("OUTPUT", OUTPUT is None or (isinstance(OUTPUT, str) and OUTPUT), "None or a name"),
                 ("RETRY", RETRY >= 0, "at least 0"))
    capture.quiet()
    problem = window.display_problem() if SHOW else None
    source, reader, paths = SOURCE, None, []
    if source is None:
        camera = None if problem else capture.open_capture(0)
        if camera is None:
            source = stills.portrait()
            reason = f"no window: {problem}" if problem else "there is no camera 0"
            print(f"{reason}; taking the portrait that comes with matplotlib instead")
            if problem or not SHOW:
                OUTPUT, SHOW = OUTPUT or str(Path(window.PLOTS_DIR, "realtime.jpg")), False
        else:
            source, problem = 0, None
            reader = capture.reader_of(0, camera, RETRY)
    elif problem:
        script.fail(f"{problem}; or set SHOW=False, with OUTPUT=<file> for a video or picture")
    pool = ThreadPoolExecutor(1, "load")
    loaded = pool.submit(load, WEIGHTS)
    try:
        if reader is None:
            if not isinstance(source, int) and not capture.is_url(source):
                paths = stills.photos_of(source)
            if paths:
                folder = Path(source) if Path(source).is_dir() else Path(source).parent
                output = stills.outputs(OUTPUT, paths, folder)
                counts = stills.annotate(paths, folder, output, loaded, processed.IMAGE_SIZE, text_of, SHOW)
                if OUTPUT:
                    print(f"written: {OUTPUT}")
                return int(counts["photos"] == 0)
            reader = capture.open_live(source, RETRY)
        if OUTPUT:
            capture.check_video_name(OUTPUT, source)
        result = play(reader, loaded, OUTPUT, MIRROR and isinstance(source, int))
        report(result)
        if OUTPUT and result["frames"]:
            print(f"written: {OUTPUT}")
        if result["lost"]:
            script.fail(capture.why_not(source))
    finally:
        pool.shutdown()


if __name__ == "__main__":
    script.override(globals())
    script.run(main, stopped="no frame more is read")
