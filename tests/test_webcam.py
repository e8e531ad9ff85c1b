"""data/webcam.py: takes from clips and by keys, which side they go to, and that nothing is lost or written over."""

import signal
from pathlib import Path

import cv2
import numpy as np
import pytest

import clips
import running
import webcam
from faces import people
from live import capture, window
from test_window import Session, click_x, display, needs_screen  # noqa: F401  (display is a fixture)

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
    sizes = {cv2.imread(str(Path("data", p).resolve())).shape for p in first if p.isascii()}
    assert all(100 < min(size[:2]) and max(size[:2]) <= 640 for size in sizes)
    assert 40 <= len(first) <= 66, "two seconds at five photos per second, less the first frames"

    code, out, err = running.call(webcam, *arguments(films, (0, 1, 2)), cwd=tmp_path)
    assert code == 0 and "6 takes" in out
    again = photos()
    assert len(again) == 2 * len(first) and first.items() <= again.items(), "takes are numbered on, none is changed"
    assert sum(p.startswith("test/") for p in again) == sum(p.startswith("test/") for p in first)


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
    assert code == 0 and "no face, so that nothing is taken" in out
    code, out, err = running.call(webcam, *arguments(films, (0,)), cwd=tmp_path)
    assert code == 1 and err.count("\n") == 1 and "has not written it" in err and foreign.read_bytes() == b"mine"


def test_a_key_held_and_a_key_pressed_twice_both_make_a_take():
    keys = webcam.Keys()
    for moment in (0.0, 0.66, 0.70, 0.74, 0.78):  # held down: the system repeats it after a pause
        keys.press(0, moment)
        keys.tick(moment)
        assert keys.taking == 0
    keys.tick(1.5)
    assert keys.taking is None
    keys.press(1, 2.0)
    keys.tick(5.0)
    assert keys.taking == 1, "pressed once, it goes on"
    keys.press(1, 6.0)
    assert keys.taking is None


@pytest.fixture
def by_keys(films, tmp_path, monkeypatch):
    """take_by_keys() on a clip, with a window that answers what a list says: {frame: key}."""
    monkeypatch.chdir(tmp_path)

    def play(script_of_keys, clip=f"{WITH}0.mp4"):
        shown = []

        class Screen:
            def __init__(self, show, title):
                pass

            def key(self, image, wait=1):
                shown.append(image)
                return script_of_keys.get(len(shown), "")

            def close(self):
                pass

        monkeypatch.setattr(window, "Window", Screen)
        monkeypatch.setattr(webcam, "CLASSES", (WITH, WITHOUT))
        takes = webcam.Takes([WITH, WITHOUT])
        webcam.take_by_keys(takes, webcam.new_tracker(), capture.Reader(str(films / clip)))
        takes.finish()
        return shown

    return play


def test_nothing_is_written_before_a_key_and_a_take_ends_with_the_clip(by_keys):
    by_keys({})
    assert not Path("data").exists()
    by_keys({8: "1"})
    assert 3 <= len(photos()) <= 8


def test_space_discards_the_last_take_and_q_keeps_what_was_taken(by_keys):
    by_keys({6: "1", 14: " "})
    assert not photos()
    by_keys({6: "2", 14: "q"})
    assert photos() and all(p.startswith(f"raw/{WITHOUT}/") for p in photos())


@needs_screen
@pytest.mark.parametrize("way", ["X", "q", "Ctrl-C"])
def test_what_was_taken_stays_however_it_ends(display, films, tmp_path, way):  # noqa: F811
    film = tmp_path / "film.mp4"
    clips.write_clip(film, list(clips.frames_of([clips.person("hat", 3)], 40, 1)) * 5, 10.0)
    session = Session(display, tmp_path, f"CLASSES={(WITH, WITHOUT)!r}", f"SOURCE={film}", program="data/webcam.py",
                      title="webcam")
    session.until(lambda: session.press("2") or list(tmp_path.rglob("*_take01_0003.jpg")), 40)
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
