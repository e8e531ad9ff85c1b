"""data/webcam.py: takes from clips and by keys, which side they go to, and that nothing is lost or written over."""

import json
import signal
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

import clips
import drawn
import processed
import running
import test as testing
import train
import validation
import webcam
from faces import people
from live import capture, window
from test_window import Session, click_x, display, needs_screen  # noqa: F401  (display is a fixture)
from watching import Screen

WITH, WITHOUT = "brille é", "none"  # a class name with an accent


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Three clips of each class, each of another drawn person, and one of an empty room; four seconds each."""
    folder = tmp_path_factory.mktemp("films")
    for k in range(3):
        for name, kind in ((WITH, "hat"), (WITHOUT, "beard")):
            clips.write_clip(folder / f"{name}{k}.mp4", clips.frames_of([clips.person(kind, k)], 20, k), 10.0)
    clips.write_clip(folder / "empty.mp4", [np.full((480, 640, 3), 90, np.uint8)] * 10, 10.0)
    return folder


def arguments(films, takes):
    chosen = {name: tuple((films / f"{name}{k}.mp4").as_posix() for k in takes) for name in (WITH, WITHOUT)}
    return f"CLASSES={(WITH, WITHOUT)!r}", "SHOW=False", f"CLIPS={chosen!r}"


def photos(folder="data"):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in Path(folder).rglob("*.jpg")}


def test_takes_from_clips_are_groups_and_the_last_goes_to_the_test(films, tmp_path, monkeypatch):
    code, out, err = running.call(webcam, *arguments(films, (0, 1, 2)), cwd=tmp_path)
    assert code == 0 and not err, err
    monkeypatch.chdir(tmp_path)
    first = photos()
    for name in (WITH, WITHOUT):
        numbers = {side: {p.split("_take")[1][:2] for p in first if p.startswith(f"{side}/{name}/")}
                   for side in ("raw", "test")}
        assert numbers == {"raw": {"01", "02"}, "test": {"03"}}
    table = people.read()
    assert {people.of(table, Path(p)).person for p in first} == {
        f"webcam take {k}" for k in (1, 2, 3)}
    assert {people.of(table, Path(p)).source for p in first} == {people.TAKES}
    sizes = {cv2.imread(str(Path("data", p).resolve())).shape for p in first if p.isascii()}
    assert all(100 < min(size[:2]) and max(size[:2]) <= 640 for size in sizes)
    assert 40 <= len(first) <= 66, "two seconds at five photos per second, less the first frames"

    for order in ((0, 1, 2), (2, 1, 0)):
        code, out, err = running.call(webcam, *arguments(films, order), "RATE=9", cwd=tmp_path)
        assert code == 0 and out.count("already") == 6 and photos() == first


def test_another_clip_is_another_take_and_changes_none(films, tmp_path, monkeypatch):
    assert running.call(webcam, *arguments(films, (0, 1)), cwd=tmp_path)[0] == 0
    monkeypatch.chdir(tmp_path)
    first = photos()
    for name in (WITH, WITHOUT):
        (tmp_path / f"{name}0.mp4").write_bytes((films / f"{name}0.mp4").read_bytes())  # under another name
    code, out, _ = running.call(webcam, *arguments(tmp_path, (0,)), cwd=tmp_path)
    assert code == 0 and out.count("already") == 2 and photos() == first
    code, out, _ = running.call(webcam, *arguments(films, (2,)), cwd=tmp_path)
    taken = photos()
    assert code == 0 and "3 takes" in out and first.items() <= taken.items(), "takes are numbered on, none is changed"
    assert {p.split("_take")[1][:2] for p in taken.keys() - first.keys()} == {"03"}
    assert all(p.startswith("test/") == ("_take03" in p) for p in taken)
    bytes_of = [data for p, data in taken.items()]
    assert len(set(bytes_of)) == len(bytes_of), "no photo is in the training and the test"


def test_one_person_who_changes_one_thing_gets_through(tmp_path, monkeypatch):
    """Three takes with a hat and three without, before one wall: from clips to an accuracy that says it is of one take.
    """
    monkeypatch.chdir(tmp_path)
    who, chosen = drawn.draw_person(np.random.default_rng(4)), {}
    for name, kind in (("hat", "hat"), ("none", "beard")):
        for k in range(3):
            picture = drawn.draw_face(np.random.default_rng(k), kind, who)
            clips.write_clip(tmp_path / f"{name}{k}.mp4", clips.frames_of([picture], 16, 1), 10.0)
            chosen[name] = (*chosen.get(name, ()), f"{name}{k}.mp4")
    start = f"START={running.ROOT / 'weights' / 'shipped' / 'small.pt'}"
    for program, *arguments in ((webcam, "CLASSES=('hat', 'none')", "SHOW=False", f"CLIPS={chosen!r}"),
                                (processed, "WORKERS=1"), (validation,),
                                (train, "MODEL=small", start, "EPOCHS=1", "PRECISION=float32"), (testing, "WORKERS=1")):
        code, out, err = running.call(program, *arguments, cwd=tmp_path)
        assert code == 0, (program.__name__, out, err)
    sides = {side: {(p.parent.name, p.name.split("_take")[1][:2]) for p in Path(side).glob("*/*.jpg")}
             for side in ("processed/train", "processed/valid", "data/test")}
    assert {number for _, number in sides["data/test"]} == {"03"} and all(len(side) == 2 for side in sides.values())
    result = json.loads(Path("plots/test_metrics.json").read_text("utf-8"))
    assert result["n"] >= 8 and result["clusters"] == 1 and result["copies"]["in_two_classes"] == []
    assert result["accuracy_ci"][1] - result["accuracy_ci"][0] > 0.7


def numbers(name):
    """The numbers of the takes of a class that are in data/raw, and in data/test."""
    return [{int(p.name.split("_take")[1][:2]) for p in Path("data", side, name).glob("*.jpg")}
            for side in ("raw", "test")]


@pytest.fixture
def studio(tmp_path, monkeypatch):
    """A function that makes webcam.Takes of classes, and takes one of two photos of each class in a list of names."""
    monkeypatch.chdir(tmp_path)

    def take(names, classes=("a", "b")):
        takes = webcam.Takes(classes)
        for name in names:
            takes.start(name)
            for _ in range(2):
                takes.add(np.zeros((60, 60, 3), np.uint8))
            takes.end()
        takes.finish()

    return take


@pytest.mark.parametrize("order", ["aabbabababb", "aaaaabbbbbb"])
def test_takes_of_one_number_go_together(studio, order):
    """Five takes of one class and six of the other: the fifth of both is the test."""
    studio(order)
    assert numbers("a") == [{1, 2, 3, 4}, {5}] and numbers("b") == [{1, 2, 3, 4, 6}, {5}]
    studio("ab")
    assert numbers("a") == [{1, 2, 3, 4, 6}, {5}] and numbers("b") == [{1, 2, 3, 4, 6, 7}, {5}]
    studio("ccccc", "ac")
    assert numbers("c") == [{1, 2, 3, 4}, {5}], "what is the test of one class is that of a new one"


def test_a_class_that_is_taken_later_has_its_test_then(studio):
    studio("aaa")
    assert numbers("a") == [{1, 2, 3}, set()] and not Path("data/test").exists()
    studio("bbb")
    assert numbers("a") == numbers("b") == [{1, 2}, {3}]


def test_takes_that_an_earlier_version_has_parted_come_together(studio):
    studio("ababab")
    webcam.importing.move([f"b/b_take03_000{i}.jpg" for i in (1, 2)], "data/test", "data/raw")
    assert numbers("b") == [{1, 2, 3}, set()]
    studio("")
    assert numbers("a") == numbers("b") == [{1, 2}, {3}]


def test_two_at_once_on_one_class_lose_no_photo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    both = [webcam.Takes(("a", "b")) for _ in range(2)]
    for takes in both:
        takes.start("a")
    for i in range(5):
        for number, takes in enumerate(both):
            if i < 3 or number:
                takes.add(np.full((60, 60, 3), 100 * number, np.uint8))
    for takes in both:
        takes.end()
    table = people.read()
    found = sorted(Path("data/raw/a").glob("*.jpg"))
    assert [p.name for p in found] == [f"a_take01_000{i}.jpg" for i in (1, 2, 3)] + [
        f"a_take02_000{i}.jpg" for i in range(1, 6)]
    assert [cv2.imread(str(p)).mean().round() for p in found] == [0] * 3 + [100] * 5
    assert [people.of(table, p).person for p in found] == ["webcam take 1"] * 3 + ["webcam take 2"] * 5
    assert both[1].counts("a") == (5, 1) and both[1].discard() == "discarded: take 2 of a, 5 photos"


def test_too_few_takes_are_said_and_stay_for_training(films, tmp_path):
    code, out, _ = running.call(webcam, *arguments(films, (0,)), cwd=tmp_path)
    assert code == 0 and "1 take of 3, better 5" in out and not (tmp_path / "data" / "test").exists()


def test_no_face_takes_nothing_and_a_foreign_photo_stays(films, tmp_path):
    foreign = tmp_path / "data" / "raw" / WITHOUT / f"{WITHOUT}_take01_0001.jpg"
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"mine")
    empty = (films / "empty.mp4").as_posix()
    code, out, err = running.call(webcam, f"CLASSES={(WITH, WITHOUT)!r}", "SHOW=False",
                                  f"CLIPS={{{WITH!r}: {empty!r}}}", cwd=tmp_path)
    assert code == 0 and "no face, so no photo is taken" in out
    code, out, err = running.call(webcam, *arguments(films, (0,)), cwd=tmp_path)
    assert code == 1 and err.count("\n") == 1 and "has not written it" in err and foreign.read_bytes() == b"mine"


def test_a_key_held_and_a_key_pressed_twice_both_make_a_take():
    keys = webcam.Keys()
    for moment in (0.0, 0.66, 0.70, 0.74, 0.78):  # held down: the system repeats it after a pause
        keys.press(0, moment)
        keys.tick(moment)
        assert keys.taking == 0
    keys.tick(1.2)
    keys.tick(1.5)
    assert keys.taking is None
    keys.press(1, 2.0)
    keys.tick(5.0)
    assert keys.taking == 1, "pressed once, it goes on"
    keys.press(1, 6.0)
    assert keys.taking is None


@pytest.mark.parametrize("pause", [0.04, 0.3, 0.5, 0.7, 1.2, 3.0])
@pytest.mark.parametrize("delay", [0.25, 0.66])
def test_one_hold_is_one_take_however_slow_the_machine_is(pause, delay):
    """A key is held for 10 s: it comes at once, and from `delay` on every 0.04 s; it is asked for every `pause` s."""
    keys, takes, before = webcam.Keys(), 0, -1.0
    for now in np.arange(0, 10 + 6 * pause + 1, pause):
        came = before < 0 <= now or now >= delay and before < 10
        was = keys.taking
        if came:
            keys.press(0, now)
        keys.tick(now)
        takes += was is None and keys.taking is not None
        assert keys.taking == 0 or now >= 10
        before = now
    assert takes == 1 and keys.taking is None


@pytest.mark.parametrize(("code", "index"), [
    (ord("1"), 0), (ord("9"), 8), (ord("0"), None), (ord("&"), None), (-1, None), (ord("a"), None),
    (0xFFBE, 0), (0xFFC6, 8), (0xFFC7, None), (0x70 << 16, 0), (0x78 << 16, 8), (0xF704, 0), (0xFF51, None)])
def test_digits_and_function_keys_take(code, index):
    """0xFFBE, 0x70 << 16, 0xF704: what waitKeyEx() gives for F1 on Linux, Windows and macOS; 0xFF51: Left."""
    assert webcam.class_of(window.name_of(code)) == index


@pytest.mark.parametrize(("source", "words"), [
    (".", ("is not a video", "data/raw/<class>/")), ("photo.jpg", ("is not a video", "data/raw/<class>/")),
    ("none.mp4", ("SOURCE=<camera number, address, video>",)), ("", ("SOURCE=''", "a text"))])
def test_a_source_without_takes_is_one_line(tmp_path, monkeypatch, source, words):
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff")
    monkeypatch.setattr(window, "Window", lambda *_: SimpleNamespace(close=lambda: None, show=lambda *_: ""))
    code, _, err = running.call(webcam, f"SOURCE={source}", cwd=tmp_path)
    assert code == 1 and err.count("\n") == 1 and all(word in err for word in words) and "photo or folder" not in err


@running.LINUX
def test_without_a_display_it_ends_with_one_line(tmp_path, monkeypatch):
    """Four times: a camera that is being opened ended the program with a signal now and then."""
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    for _ in range(4):
        code, out, err = running.run("data/webcam.py", "CLASSES=('a', 'b')", cwd=tmp_path)
        assert code == 1 and err.startswith("error: there is no display") and err.count("\n") == 1, err


@pytest.fixture
def by_keys(films, tmp_path, monkeypatch):
    """take_by_keys() on a clip, with a window that answers what a list says: {frame: key}."""
    monkeypatch.chdir(tmp_path)

    def play(keys, clip=f"{WITH}0.mp4"):
        screen, takes = Screen(keys), webcam.Takes([WITH, WITHOUT])
        webcam.take_by_keys(takes, webcam.new_tracker(), capture.Reader(str(films / clip)), screen)
        takes.finish()
        return screen.pictures

    return play


def test_nothing_is_written_before_a_key_and_a_take_ends_with_the_clip(by_keys):
    by_keys({})
    assert not Path("data").exists()
    shown = by_keys({8: "1"})
    plain, taking = (shown[i][-100:].astype(int) for i in (6, -1))
    assert 3 <= len(photos()) <= 8
    assert abs(plain - taking).mean() > 10, "large and in the colour of the class: it is being taken"


def test_space_discards_the_last_take_and_q_keeps_what_was_taken(by_keys):
    by_keys({6: "1", 14: " "})
    assert not photos()
    by_keys({6: "2", 14: "q"})
    assert photos() and all(p.startswith(f"raw/{WITHOUT}/") for p in photos())


@needs_screen
@pytest.mark.parametrize(("key", "way"), [("2", "X"), ("F2", "q"), ("2", "Ctrl-C")])
def test_what_was_taken_stays_however_it_ends(display, films, tmp_path, key, way):  # noqa: F811
    film = tmp_path / "film.mp4"
    clips.write_clip(film, list(clips.frames_of([clips.person("hat", 3)], 40, 1)) * 5, 10.0)
    session = Session(display, tmp_path, f"CLASSES={(WITH, WITHOUT)!r}", f"SOURCE={film}", program="data/webcam.py",
                      title="webcam")
    session.until(lambda: session.press(key) or list(tmp_path.rglob("*_take01_0003.jpg")), 40)
    if way == "X":
        click_x(session.env["DISPLAY"], int(session.window))
    elif way == "q":
        session.press("q")
    else:
        session.process.send_signal(signal.SIGINT)
    out, err = session.process.communicate(timeout=20)
    assert session.process.returncode == (130 if way == "Ctrl-C" else 0) and err.count("\n") <= 2, err
    taken = photos(tmp_path / "data")
    assert len(taken) >= 3 and (tmp_path / "data" / "people.csv").read_text("utf-8").count("take 1,") >= 3
    assert f"{WITHOUT}: {len(taken)} photos" in out
