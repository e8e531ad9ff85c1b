"""Takes photos of your own classes with your webcam, for training and for the test, in takes.

    python data/webcam.py "CLASSES=('glasses', 'none')"
    python data/webcam.py SHOW=False "CLIPS={'glasses': ('a.mp4', 'b.mp4'), 'none': 'c.mp4'}"   each clip once

Hold 1 or F1 to take photos of the first class, 2 or F2 of the second, ..., or press once to start and again to stop.
Space discards the last take; q, Esc and the X button end it. A photo is the part of the frame around the largest face.

Photos go to data/raw/<class>, and stay on this machine. Nothing is written until you press a key. All photos of one
press are a take. Take all classes in the same light, place and clothes before you change these: takes with the same
number belong together, which data/people.csv notes. So validation.py keeps them on one side, and the last number that
all classes have goes to data/test.
"""

import importing  # isort: skip  # first, since it imports terminal/script.py

import contextlib
import hashlib
import re
import time
from collections import defaultdict
from pathlib import Path

import cv2

import processed
from faces import cropping, detectors, people, reading
from live import capture, overlay, sources, tracks, window
from terminal import rules, script, stops, workers
from terminal.files import atomic, gone, locked
from terminal.names import UNSURE, normal
from terminal.places import PLACES
from terminal.records import claim, remove_ours, written

# ------------------------------------------------------------------------------------------------
CLASSES = ("glasses", "none")  # at most nine, in the order of the keys 1, 2, ...
SOURCE = None  # None: camera 0; or a camera's number, a video, rtsp:// or http://
RAW_DIR = PLACES["RAW_DIR"]
TEST_DIR = PLACES["TEST_DIR"]
PEOPLE = people.PEOPLE
TEST_TAKES = 1  # how many takes of each class go to TEST_DIR, the last ones that all classes have; 0: none
RATE = 5.0  # photos per second
MIRROR = True  # flip a camera's picture, as a mirror does; photos are not flipped
SHOW = True  # False: take CLIPS without a window, for machines without a display
CLIPS = {}  # {class: a clip, or several}, such as {"glasses": ("a.mp4", "b.mp4")}; each clip is a take
RETRY = capture.RETRY  # seconds to wait for a camera that is busy or unplugged
# ------------------------------------------------------------------------------------------------

AROUND = 1.0  # share of the face's box that a photo has on each side, so that later steps can detect the face
ENOUGH_TAKES = 3  # takes of a class: one each for training, validation and test; five are much better
FEWER = 0.5  # a hint names a class with less than this share of the photos of the largest class
REPEAT = 0.8  # seconds within which a repeated key counts as held (systems wait up to 0.66 s before the first repeat)
RELEASED = 0.4  # seconds without a key after which a held key counts as released
JFIF = 20  # bytes of OpenCV's JPEGs before the place for a comment


class Takes:
    """The takes of all classes, earlier runs included.

    `photos`: {class: {number of a take: names}}; a name is <class>/<class>_take03_0012.jpg. `new`: (class, number) of
    this run's takes, in order, including clips that an earlier run has taken.
    """

    def __init__(self, classes):
        self.photos, self.new = {name: takes_in(TEST_DIR, name) | takes_in(RAW_DIR, name) for name in classes}, []
        self.clip = ""  # digest of the current clip

    def start(self, name):
        """Start a take of a class."""
        number = max(self.photos[name], default=0) + 1
        self.photos[name][number] = []
        self.new.append((name, number))

    def last(self):
        """The names of the photos of the last take."""
        name, number = self.new[-1]
        return self.photos[name][number]

    def add(self, photo):
        """Write a photo, uint8 [H, W, 3] BGR, of the current take."""
        data = cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, cropping.JPEG_QUALITY])[1].tobytes()
        with stops.later():
            if not self.last():
                self.reserve_number()
            (name, number), names = self.new[-1], self.last()
            inner = f"{name}/{name}_take{number:02d}_{len(names) + 1:04d}.jpg"
            claim(RAW_DIR, [inner])
            with atomic(Path(RAW_DIR, inner)) as temporary:
                temporary.write_bytes(data[:JFIF] + comment(self.clip) + data[JFIF:])
            names.append(inner)

    def reserve_number(self):
        """Make sure that no other take has the number of the current one, such as a take of a second run at the same
        time: the run that creates the first photo gets the number."""
        name, number = self.new.pop()
        names = self.photos[name].pop(number)
        while True:
            first = f"{name}/{name}_take{number:02d}_0001.jpg"
            claim(RAW_DIR, [first])
            with contextlib.suppress(FileExistsError):
                if not Path(TEST_DIR, first).exists():
                    Path(RAW_DIR, first).open("xb").close()
                    break
            number += 1
        self.new.append((name, number))
        self.photos[name][number] = names

    def lost(self):
        """The photos of this run's takes that have disappeared: list of Paths."""
        names = [inner for name, number in self.new for inner in self.photos[name][number]]
        return [Path(RAW_DIR, inner) for inner in names
                if not any(Path(folder, inner).is_file() for folder in (RAW_DIR, TEST_DIR))]

    def discard(self):
        """Delete the photos of the last take of this run. Returns a line for the user."""
        if not self.new:
            return "nothing to discard"
        name, number = self.new.pop()
        names = self.photos[name].pop(number)
        remove_ours(RAW_DIR, names)
        return f"discarded: take {number} of {name}, {len(names)} photos"

    def earlier(self, name, clip):
        """The number of an earlier run's take of a clip (given by its digest), or None. A take without rows in PEOPLE
        was stopped before its end: it is deleted here, and taken again."""
        table = people.read(PEOPLE) or {}
        for number, names in list(self.photos[name].items()):
            paths = [Path(folder, inner) for inner in names for folder in (TEST_DIR, RAW_DIR)]
            if any(path.is_file() and has_comment(path, clip) for path in paths):
                if any(people.of(table, path) for path in paths):
                    return number
                remove_ours(RAW_DIR, self.photos[name].pop(number))
        return None

    def end(self):
        """End the current take: add it to PEOPLE, or drop it if it has no photos."""
        if not self.last():
            name, number = self.new.pop()
            del self.photos[name][number]
            return
        # Takes with the same number get the same name in all classes, so that they are on one side. Earlier takes of
        # this run are written again, since a second run may have written the file at the same moment.
        people.write(PEOPLE, [(Path(inner).name, people.TAKES, f"{people.TAKES} take {number}", "", "")
                              for name, number in self.new for inner in self.photos[name][number]])

    def counts(self, name):
        """(photos, takes) of a class, earlier runs included."""
        takes = self.photos[name].values()
        return sum(map(len, takes)), len(takes)

    def hints(self):
        """Lines that say what is missing."""
        counts = {name: self.counts(name) for name in self.photos}
        maximum, lines = max(photos for photos, _ in counts.values()), []
        for name, (photos, takes) in counts.items():
            if takes < ENOUGH_TAKES:
                lines.append(f"{name}: {plural(takes, 'take')} of {ENOUGH_TAKES}, better 5: vary light, angle, clothes")
            elif photos < FEWER * maximum:
                lines.append(f"{name} has far fewer photos: take some more")
        return lines

    def for_test(self):
        """The numbers of the takes for TEST_DIR: those of takes that it already has, and the last ones that all
        classes have since this run, if enough others are left."""
        chosen = {number for name in self.photos for number in takes_in(TEST_DIR, name)}
        common = set.intersection(*(set(takes) for takes in self.photos.values()))
        for number in sorted(common.intersection(number for _, number in self.new), reverse=True):
            others = min(len(takes.keys() - chosen - {number}) for takes in self.photos.values())
            if len(chosen) < TEST_TAKES and others >= ENOUGH_TAKES - 1:
                chosen.add(number)
        return chosen

    def finish(self):
        """Move the takes for the test to TEST_DIR, and print a summary."""
        chosen = self.for_test()
        for name, takes in self.photos.items():
            for number, names in takes_in(RAW_DIR, name).items():
                if number in chosen:
                    importing.move(names, RAW_DIR, TEST_DIR)
            photos, count = self.counts(name)
            print(f"{name}: {photos} photos in {plural(count, 'take')}, {len(chosen & takes.keys())} of them for the "
                  "test")
        print(f"the photos are in {RAW_DIR} and {TEST_DIR}, and nowhere else")
        print("\n".join(self.hints()) or "next:\n  python processed.py\n  python validation.py\n"
              "  python train.py MODEL=small START=weights/shipped/small.pt")


def takes_in(folder, name):
    """{number of a take: its photos} of a class in RAW_DIR or TEST_DIR; only photos that this project has written."""
    pattern = re.compile(rf"{re.escape(name)}/{re.escape(name)}_take(\d+)_\d+\.jpg")
    found = defaultdict(list)
    for photo in written(folder):
        match = pattern.fullmatch(photo)
        if match and Path(folder, photo).is_file():
            found[int(match[1])].append(photo)
    return dict(found)


def digest_of(clip):
    """A digest of a clip, which identifies it under any name; "" if it is not a file, but an address."""
    if not Path(clip).is_file():
        return ""
    digest = hashlib.sha256()
    with open(clip, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return f"clip {digest.hexdigest()[:16]}"


def comment(text):
    """The bytes of a comment segment of a JPEG; b"" without a `text` (ASCII)."""
    if not text:
        return b""
    return b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text.encode()


def has_comment(photo, text):
    """Whether a photo has `text` as its comment()."""
    with open(photo, "rb") as file:
        return bool(text) and comment(text) in file.read(JFIF + 100)


def plural(count, word):
    """'1 take', '2 takes'."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def around_face(frame, box):
    """The part of a BGR frame around a box (x, y, width, height), see AROUND: uint8 [H, W, 3]."""
    x, y, w, h = box
    x0, y0 = max(0, round(x - AROUND * w)), max(0, round(y - AROUND * h))
    return frame[y0:round(y + (1 + AROUND) * h), x0:round(x + (1 + AROUND) * w)]


class Keys:
    """The class that is being taken, from keys that are held down, or pressed once to start and again to stop.

    `last`: time of the last key; `asked`: time of the last query. A slow machine asks rarely, and the key may have come
    at any time between two queries.
    """

    def __init__(self):
        self.taking, self.held, self.last, self.asked = None, False, 0.0, 0.0

    def press(self, index, now):
        """The key of a class at time `now`, in seconds."""
        if index != self.taking:
            self.taking, self.held = index, False
        elif self.asked - self.last <= REPEAT:
            self.held = True
        else:
            self.taking = None
        self.last = now

    def tick(self, now):
        """Call this after each query for a key: a held key is released if it did not come in two queries."""
        if self.held and self.last < self.asked and now - self.last > RELEASED:
            self.taking, self.held = None, False
        self.asked = now


class Studio:
    """The live window: a box around the largest face, counts by class, photos while a key is active."""

    def __init__(self, takes, tracker):
        self.takes, self.tracker, self.keys, self.classes = takes, tracker, Keys(), list(takes.photos)
        self.current, self.photo_time, self.message = None, -1.0, ""

    def step(self, frame, timestamp, brief=False):
        """Track the faces of a frame and take a photo if one is due. Returns the faces, the largest first."""
        faces = sorted(self.tracker.step(frame, timestamp, brief), key=lambda t: -t.smooth[2] * t.smooth[3])
        if self.current is not None:
            if not faces:
                self.message = "no face: no photo is taken"
            elif timestamp - self.photo_time >= 1 / RATE - 1e-6:
                self.takes.add(around_face(frame, faces[0].smooth))
                self.photo_time = timestamp
                self.message = f"{len(faces)} faces: the largest is taken" if len(faces) > 1 else ""
        return faces

    def set_class(self, index):
        """Start or end a take: photos are of class `index` from now on; None: no photos."""
        if index == self.current:
            return
        if self.current is not None:
            self.takes.end()
        self.current, self.photo_time, self.message = index, -1.0, ""
        if index is not None:
            self.takes.start(self.classes[index])

    def obey(self, key, now):
        """Apply a key. Returns whether to continue."""
        if key in window.QUIT:
            return False
        index = class_of(key)
        if key == " ":
            empty = self.current is not None and not self.takes.last()
            self.keys.taking = None
            self.set_class(None)
            self.message = "nothing was taken" if empty else self.takes.discard()
        elif index is not None and index < len(self.classes):
            self.keys.press(index, now)
        self.keys.tick(now)
        self.set_class(self.keys.taking)
        return True

    def lines(self):
        """The lines of text with the picture."""
        lines = []
        for i, name in enumerate(self.classes):
            photos, takes = self.takes.counts(name)
            lines.append(f"hold {i + 1} or F{i + 1}: {name}   {photos} photos, {plural(takes, 'take')}")
        lines.append("space: discard the last take   q: end")
        return lines + ([self.message] if self.message else self.takes.hints()[:1])

    def draw(self, frame, faces, mirror):
        """A new picture of a frame, BGR."""
        drawn = [(face.smooth, "", self.current if i == 0 else None, None, 0.0) for i, face in enumerate(faces)]
        picture = overlay.draw(frame, drawn, mirror)
        if self.current is not None:
            (height, width), colour = picture.shape[:2], overlay.COLOURS[self.current % len(overlay.COLOURS)]
            cv2.rectangle(picture, (0, 0), (width - 1, height - 1), colour[::-1], max(4, min(height, width) // 40))
            text = f"TAKING {self.classes[self.current]}: {len(self.takes.last())} photos"
            mask = overlay.fitted(overlay.text_mask(text, 2 * overlay.text_size(picture.shape)), width, height)
            overlay.stamp(picture, mask, 0, height - len(mask), colour)
        return picture


def new_tracker():
    """A tracker that detects faces without classifying them."""
    return tracks.Tracker(detector=detectors.get(processed.DETECTOR))


def take_by_keys(takes, tracker, reader, screen):
    """Show the window until a key or the end of the source closes it. Raises Problem if the source had a problem."""
    studio, due = Studio(takes, tracker), None
    mirror, picture = MIRROR and sources.is_camera(reader.source), None
    try:
        while not reader.finished():
            if (got := reader.read()) is not None:
                frame, timestamp, _ = got
                picture = studio.draw(frame, studio.step(frame, timestamp, reader.brief), mirror)
                shown = overlay.caption(picture, studio.lines())
                now = time.perf_counter()
                due = now if due is None or reader.live else max(due + 1 / reader.rate, now)
                wait = max(1, round((due - now) * 1000))
            elif reader.waiting():
                wait = 30
                shown = overlay.caption(picture, [f"waiting for {sources.public(reader.source)} ..."])
            else:
                continue
            if not studio.obey(screen.show(shown, wait), time.perf_counter()):
                return
        if problem := reader.problem("video"):
            raise script.Problem(problem)
    finally:
        with stops.later():
            studio.set_class(None)


def class_of(key):
    """The index of the class of a key, 1 or F1, 2 or F2, ...; None for other keys. Function keys never need a shift."""
    number = key.removeprefix("f")
    return int(number) - 1 if len(number) == 1 and number in "123456789" else None


def take_clips(takes):
    """Take each clip of CLIPS, without a window, unless an earlier run has taken it."""
    for name, clips in CLIPS.items():
        for clip in as_clips(clips):
            takes.clip = digest_of(clip)
            lock = locked(clip, wait=False) if takes.clip else contextlib.nullcontext()
            with lock as mine:
                if mine is False:  # a second take of a clip could be in the training, and the first in the test
                    raise script.Problem(f"{clip} is being taken by another run: wait for its end, and run the same "
                                         "command again")
                if number := takes.earlier(normal(name), takes.clip):
                    takes.new.append((normal(name), number))
                    print(f"{clip}: already taken as take {number} of {name}")
                    continue
                photos = take_clip(takes, normal(name), clip)
            print(f"{clip}: {photos} photos of {name}" if photos else f"{clip}: no face, so no photo is taken")


def as_clips(value):
    """The clips of a class, from a value of CLIPS, which is one clip or several."""
    return [value] if isinstance(value, str) else value


def take_clip(takes, name, clip):
    """Take one clip, whole or not at all. Returns the number of its photos."""
    studio = Studio(takes, new_tracker())
    studio.set_class(studio.classes.index(name))
    try:
        with contextlib.closing(capture.Reader(clip, 0)) as reader:
            while not reader.finished():
                if (got := reader.read()) is not None:
                    studio.step(*got[:2], reader.brief)
        if problem := reader.problem("video"):
            raise script.Problem(problem)
        if lost := takes.lost():
            raise gone(lost[0])
        photos = len(takes.last())
    except BaseException:
        takes.discard()
        raise
    with stops.later():
        studio.set_class(None)
    return photos


def is_class(name):
    """Whether a class can have this name, on all systems."""
    return name.strip() == name and importing.is_file_name(name, windows=True) and name.casefold() != UNSURE


def are_classes(chosen):
    """Whether CLASSES are two to nine names, each once, in any Unicode form."""
    names = rules.sequence(rules.Rule(is_class, "a name"), "names", 2, 9)
    return names.holds(chosen) and len(set(map(normal, chosen))) == len(chosen)


def are_clips(chosen):
    """Whether CLIPS has a clip, or several, for each of its classes; it may be empty."""
    clips = rules.either(str, rules.sequence(str, "clips", 1))
    return all(isinstance(name, str) and rules.keeps(value, clips) for name, value in chosen.items())


RULES = dict(
    CLASSES=rules.Rule(are_classes, "two to nine different names of folders, such as ('glasses', 'none')"),
    SOURCE=rules.optional(rules.either((int, 0, 9999), str)), RAW_DIR=str, TEST_DIR=str, PEOPLE=str,
    TEST_TAKES=(int, 0, 1000), RATE=(float, 0.01, 30), MIRROR=bool, SHOW=bool,
    RETRY=(float, 0, 1e6),
    CLIPS=rules.Rule(are_clips, "a clip, or several, of each class, such as {'glasses': 'a.mp4'}"))


def main():
    rules.check(globals())
    rules.check(vars(processed))
    names = [normal(name) for name in CLASSES]
    others = [name for name in CLIPS if normal(name) not in names]
    if others:  # not a rule, since the command line may set CLIPS before CLASSES
        script.fail(f"CLIPS has clips of {', '.join(others)}, but the CLASSES are {', '.join(names)}")
    if not SHOW and not CLIPS:
        script.fail("SHOW=False has no keys: name clips for the classes, such as \"CLIPS={'glasses': 'a.mp4'}\"")
    importing.check_targets(globals(), names)
    capture.quiet()
    takes = Takes(names)
    if not SHOW:
        take_clips(takes)  # a stopped run moves nothing; the next one takes the rest
        takes.finish()
        return
    try:
        source = 0 if SOURCE is None else sources.named(SOURCE)
        if isinstance(source, str) and (Path(source).is_dir() or reading.named_as_photo(Path(source))):
            raise script.Problem(f"{source} is not a video: put photos into {RAW_DIR}/<class>/, or import them with "
                                 "data/folders.py")
        tracker = new_tracker()
        with (contextlib.closing(window.Window(True, "webcam")) as screen,
              contextlib.closing(capture.Reader(source, RETRY)) as reader):
            take_by_keys(takes, tracker, reader, screen)
    except window.NoWindow as error:
        raise script.Problem(f"{error}; or set SHOW=False and CLIPS") from None
    finally:
        with stops.later():
            takes.finish()


if __name__ == "__main__":
    rules.override(globals())
    with workers.leaving_threads():
        script.run(main, stopped="the photos taken are kept" + ("" if SHOW else "; the same command takes the rest"))
