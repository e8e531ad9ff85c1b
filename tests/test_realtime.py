"""realtime.py from source to output: cameras that fail, videos kept whole, photos, texts, threads and memory."""

import functools
import http.server
import os
import subprocess
import sys
import threading
import time
import tracemalloc
import types
from concurrent.futures import Future

import cv2
import numpy as np
import pytest

import boxes
import clips
import realtime
from faces import detectors
from live import capture, controls, overlay, player, results, sources, stills, tracks, videos, window, writing
from running import call, wait_for
from terminal import records
from watching import CAMERAS, Camera, Screen, classify, haar, loading, play, program, reader_of, watch


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Two people, a cut to an empty stretch, and one person: 60 frames at 24 a second."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    two, one = [clips.person("hat", 3), clips.person("beard", 4)], [clips.person("hat", 3)]
    frames = [*clips.frames_of(two, 25, 1), *clips.frames_of([], 10, 3), *clips.frames_of(one, 25, 2)]
    clips.write_clip(path, frames, 24.0)
    return path


@pytest.fixture
def no_window(monkeypatch):
    monkeypatch.setattr(realtime, "SHOW", False)


def test_output_has_all_frames_and_the_rate(clip, tmp_path, no_window):
    reader = capture.Reader(str(clip))
    result = play(reader, loading(), tmp_path / "out.mp4")
    frames = clips.read_clip(tmp_path / "out.mp4")
    assert result.frames == len(frames) == 60
    assert cv2.VideoCapture(str(tmp_path / "out.mp4")).get(cv2.CAP_PROP_FPS) == pytest.approx(24.0)
    assert result.faces >= 2 and not result.problem
    assert [p.name for p in tmp_path.glob("[!.]*")] == ["out.mp4"]
    drawn_on = [np.abs(frame.astype(int) - original).max() > 60
                for frame, original in zip(frames, clips.read_clip(clip), strict=True)]
    assert not any(drawn_on[25:35]), "nobody is there"
    assert all(drawn_on[4:25]) and all(drawn_on[50:])


def test_play_leaves_no_thread_and_no_memory(clip, no_window):
    def once():
        play(capture.Reader(str(clip)), loading())

    before = threading.active_count()
    once()
    tracemalloc.start()
    once()
    first = tracemalloc.get_traced_memory()[0]
    for _ in range(3):
        once()
    grown = tracemalloc.get_traced_memory()[0] - first
    tracemalloc.stop()
    assert threading.active_count() == before and grown < 200_000


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a display is taken for granted elsewhere")
@pytest.mark.parametrize("display", [{}, {"DISPLAY": ":987"}])
def test_without_a_display_one_line_that_names_the_way_out(clip, tmp_path, display):
    done = program(f"SOURCE={clip}", cwd=tmp_path, **display)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "SHOW=False" in done.stderr and "display" in done.stderr


def test_an_opencv_without_windows_is_named(monkeypatch):
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:                           NONE\n")
    assert "opencv-python-headless" in window.display_problem()


@pytest.mark.parametrize("answer", [0.0, -1.0, cv2.error("no window")])
def test_the_x_button_quits_once_the_window_was_open(answer, no_gui, monkeypatch):
    """Some builds tell -1 for ever, or 0 at first: then nobody has closed it."""
    answers = []

    def visible(*_):
        if isinstance(answers[-1], Exception):
            raise answers[-1]
        return answers[-1]

    monkeypatch.setattr(cv2, "getWindowProperty", visible)
    screen, keys = window.NativeWindow("t"), []
    for now in (answer, answer, 1.0, 1.0, answer):
        answers.append(now)
        keys.append(screen.show(np.zeros((48, 64, 3), np.uint8), 1))
    assert keys[:4] == [""] * 4 and keys[4] in window.QUIT


def test_the_video_that_is_read_is_never_replaced(clip, tmp_path):
    before, alias = clip.read_bytes(), tmp_path / "alias.mp4"
    os.link(clip, alias)
    for output in (clip, clip.parent / ".." / clip.parent.name / clip.name, alias):
        code, _, err = call(realtime, f"SOURCE={clip}", f"OUTPUT={output}", "SHOW=False", cwd=tmp_path)
        assert code == 1 and "would replace the video that is read" in err and err.count("\n") == 1
        assert clip.read_bytes() == before


def test_status_tells_rates():
    playing = player.Player(capture.Reader("none.mp4"), loading(), controls.Controls(), results.Results(), haar(),
                            window.Window(False))
    assert playing.ready()
    playing.recent = [(i / 25, 2) for i in range(26)]
    assert player.rates(playing.recent) == "25 frames/s   50 faces/s"
    assert playing.lines("a note") == ["a note   h: help"]


def played(monkeypatch, tmp_path, clip, keys, output=None, network=None):
    """What the window shows of a clip where it answers with these keys, see watching.Screen; and the results."""
    screen = Screen(keys)
    monkeypatch.setattr(window, "Window", lambda show: screen)
    monkeypatch.setattr(writing, "SAVED_DIR", str(tmp_path))
    reader = capture.Reader(str(clip))
    monkeypatch.setattr(reader, "waiting", lambda: False)  # a slow machine would show, between frames, that it waits
    wait_for(lambda: reader.peek() is not None)
    result = play(reader, network or loading(), output)
    assert screen.closed
    return screen.pictures, result


def test_what_the_window_shows(clip, monkeypatch, tmp_path):
    keys = {3: "h", 5: "g", 8: "m", 20: "r", 30: "r", 32: "q"}
    shown, result = played(monkeypatch, tmp_path, clip, keys)
    assert result.frames == 32 and not result.problem
    assert all((picture[480:] == 30).all(2).mean() > 0.5 for picture in shown), "the dark plate of the numbers"
    assert len(shown[3]) > len(shown[2]) > 480, "the help"
    written, = tmp_path.glob("record*")
    assert len(clips.read_clip(written)) == 10


@pytest.mark.parametrize("blurred", [False, True])
def test_while_the_network_loads_the_first_picture_is_shown_and_q_ends(clip, monkeypatch, tmp_path, blurred):
    """With BLUR nobody is shown before faces can be found."""
    monkeypatch.setattr(realtime, "BLUR", blurred)
    shown, result = played(monkeypatch, tmp_path, clip, "ssq", network=Future())
    assert result.frames == 0 and np.array_equal(shown[0], shown[2])
    if blurred:
        assert np.ptp(shown[0][:200]) == 0
    else:
        assert np.abs(shown[0][:200].astype(int) - clips.read_clip(clip)[0][:200]).mean() < 1


def test_no_frame_is_lost_while_the_network_loads(clip, monkeypatch, tmp_path):
    network = Future()

    def keys():
        yield from "ss"
        network.set_result(loading().result())
        yield from "sssssq"

    assert played(monkeypatch, tmp_path, clip, keys(), network=network)[1].frames == 5


def test_a_blurred_camera_shows_nobody_before_faces_can_be_found():
    screen, reader = Screen({}), reader_of(0, Camera(10_000, 0.01))
    playing = player.Player(reader, loading(), controls.Controls(blur=True), results.Results(), Future(), screen)
    wait_for(lambda: reader.peek() is not None)
    playing.advance()
    reader.close()
    picture, = screen.pictures
    assert playing.frames == 0 and np.ptp(picture[:200]) == 0


def test_space_pauses_and_a_record_of_no_frame_is_none(clip, tmp_path, monkeypatch, capsys):
    """Paused at the fourth frame, r twice, then on: no frame came while it was to be recorded."""
    _, result = played(monkeypatch, tmp_path, clip, "xxx rr q")
    assert result.frames < 7 and "no frame was read during the recording" in capsys.readouterr().out
    assert not list(tmp_path.glob("[!.]*"))


def test_keys_show_at_once_what_they_do_while_it_is_paused(clip, monkeypatch, tmp_path):
    keys = [""] * 14 + [" ", "m", "m", "g", "g", "b", "b", "h", "h", "c", "c", "left", "", "q"]
    shown, result = played(monkeypatch, tmp_path, clip, keys)
    paused = shown[15:]
    changes = [not np.array_equal(picture, paused[0]) for picture in paused]
    assert changes == [False, True] * 5 + [False] * 3 and result.frames == 15
    assert np.array_equal(paused[0][:200], shown[14][:200]), "and the note covers nothing"


def test_a_clip_stays_on_the_screen_until_a_key_and_is_written_by_then(clip, monkeypatch, tmp_path):
    output = tmp_path / "o.mp4"

    def keys():
        yield from [""] * 62
        assert output.exists()
        yield from ["x", "left", "m", "s", " "]

    shown, result = played(monkeypatch, tmp_path, clip, keys(), output)
    assert result.frames == 60 and len(shown) == 67 and len(list(tmp_path.glob("snapshot*.jpg"))) == 1
    pictures = [picture[:480] for picture in shown]
    assert np.array_equal(pictures[59], pictures[62])
    assert not np.array_equal(pictures[64], pictures[66]), "the key m shows"


def test_blurred_faces_in_a_video(clip, tmp_path, monkeypatch, no_window):
    """From the frame on in which a face is first hit, and before it is labelled; the network sees it as it is."""
    given = []

    def watched(crops):
        given.extend(crops)
        return classify(crops)

    monkeypatch.setattr(realtime, "BLUR", True)
    monkeypatch.setattr(controls.Controls, "text_of", lambda *_: "")  # letters over a blur may look like a face
    play(capture.Reader(str(clip)), loading(watched), str(tmp_path / "a.mp4"))
    frames = clips.read_clip(tmp_path / "a.mp4")
    assert len(frames) == 60 and len(detectors.get("haar").all_faces(clips.read_clip(clip)[20])) >= 2
    for i in (1, 10, 20, 45, 59):
        assert not len(detectors.get("haar").all_faces(frames[i])), i
    assert len(given) > 5 and detectors.get("haar").main_face(given[0]) is not None


def test_ctrl_c_ends_a_camera_and_keeps_what_was_written(tmp_path, monkeypatch, no_window):
    camera, steps = Camera(10_000, 0.002), []

    def step(tracker, frame, now, brief):
        steps.append(now)
        if len(steps) == 20:
            raise KeyboardInterrupt
        return []

    monkeypatch.setattr(tracks.Tracker, "step", step)
    reader = reader_of(0, camera)
    result = play(reader, loading(), str(tmp_path / "a.mp4"))
    assert result.frames == 19 and not result.problem and camera.released
    assert clips.read_clip(tmp_path / "a.mp4")


def test_ctrl_c_before_the_first_frame_leaves_no_video(clip, tmp_path, monkeypatch, no_window, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(tracks.Tracker, "step", stop)
    monkeypatch.setattr(realtime, "OUTPUT", str(tmp_path / "a.mp4"))
    with pytest.raises(KeyboardInterrupt):
        watch(clip, loading())
    assert [path.name for path in tmp_path.iterdir()] == [records.RECORD] and "written" not in capsys.readouterr().out


@pytest.fixture
def lines(monkeypatch, tmp_path):
    """The lines of text that the window has shown; there is no camera, and q is pressed on what is no waiting."""
    shown = []

    class Screen:
        shown, lost = True, False

        def __init__(self, show):
            pass

        def show(self, image, wait):
            return "" if " ..." in shown[-1][0] else "q"

        def close(self):
            pass

    monkeypatch.chdir(tmp_path)
    caption = overlay.caption
    monkeypatch.setattr(overlay, "caption", lambda image, lines: shown.append(list(lines)) or caption(image, lines))
    monkeypatch.setattr(window, "Window", Screen)
    monkeypatch.setattr(capture, "open_capture", lambda *_: None)
    monkeypatch.setattr(capture, "OPENING", 0.5)
    monkeypatch.setattr(sources, "why_not", lambda source, *_: f"there is no camera {source}: connect one")
    monkeypatch.setattr(realtime, "RETRY", 0.5)
    return shown


def test_without_a_camera_the_reason_stands_in_the_window(lines):
    detector = Future()
    detector.set_result(detectors.get("haar"))
    assert realtime.camera_or_portrait(loading(), detector) == 0
    assert ["looking for a camera ...", "there is no camera 0: connect one"] in lines
    assert lines[-1][0].startswith("there is no camera 0: connect one") and "portrait" in lines[-1][0]
    with pytest.raises(SystemExit, match="there is no camera 3: connect one"):
        realtime.watch(capture.Reader(3, 0.5), loading(), haar(), window.Window(True))
    assert ["waiting for camera 3 ...", "there is no camera 3: connect one"] in lines


def test_a_video_of_no_camera_is_no_folder_of_photos(lines, monkeypatch):
    monkeypatch.setattr(realtime, "OUTPUT", "out.mp4")
    with pytest.raises(SystemExit, match="^error: OUTPUT=out.mp4 is a video, and there is no camera 0: connect one$"):
        realtime.camera_or_portrait(loading(), Future())


@pytest.mark.parametrize("kind", ["never", "empty", "opening blocks", "reading blocks", "blocks later", "none"])
def test_a_camera_that_gives_no_frames_is_one_line_after_retry(kind, tmp_path, monkeypatch, no_window, capsys):
    names = {}
    monkeypatch.setattr(cv2, "VideoCapture", cv2.VideoCapture)
    exec(CAMERAS, names)
    monkeypatch.setenv("CAMERA", kind)
    monkeypatch.setattr(capture, "OPENING", 1.0)
    monkeypatch.setattr(capture, "open_capture", lambda *_: None if kind == "none" else names["Camera"]())
    monkeypatch.setattr(realtime, "OUTPUT", str(tmp_path / "o.mp4"))
    started = time.monotonic()
    with pytest.raises(SystemExit, match="^error: [^\n]*camera 0[^\n]*$"):
        realtime.watch(capture.Reader(0, 1.0), loading(), haar(), window.Window(False))
    assert 1 <= time.monotonic() - started < 60, "those that block do so for longer"
    assert "camera 0 does not answer, trying for 1 s" in capsys.readouterr().out
    left = {path.name for path in tmp_path.iterdir()} - {records.RECORD}
    assert left == ({"o.mp4"} if kind == "blocks later" else set())


@pytest.mark.parametrize("system", ["linux", "win32", "darwin"])
def test_where_no_window_can_be_opened_the_remedy_is_the_systems_own(system, monkeypatch):
    """Its process ends at once, with a reason. Neither ssh -X nor Qt is there on Windows and macOS."""
    start = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda _, **files: start(
        [sys.executable, "-c", "raise SystemExit('no screen')"], **files))
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setenv("DISPLAY", ":0")
    shown = window.Window(True)
    with pytest.raises(window.NoWindow, match="no screen") as told:
        shown.show(np.zeros((48, 64, 3), np.uint8), 1)
    shown.close()
    assert ("ssh" in str(told.value)) == ("QT_" in str(told.value)) == (system == "linux")


@pytest.fixture
def people(tmp_path):
    """Pictures of two people, and clips of them that are short."""
    frames = list(clips.frames_of([clips.person("hat", 3), clips.person("beard", 4)], 9, 1))
    for count in (1, 2, 9):
        clips.write_clip(tmp_path / f"{count}.mp4", frames[:count])
    cv2.imwrite(str(tmp_path / "shot.jpg"), frames[0])
    return tmp_path


@pytest.mark.parametrize("name", ["1.mp4", "2.mp4"])
def test_the_faces_of_one_or_two_frames_are_labelled(people, name, no_window):
    reader = capture.Reader(str(people / name))
    result = play(reader, loading())
    assert result.frames == int(name[0]) and result.faces == 2 and not result.problem
    rows = [row for _, rows in videos.follow(str(people / name), loading().result(), detectors.get("haar"))
            for row in rows]
    assert len(rows) == 2 * int(name[0]) and all(row.label for row in rows)


def test_the_picture_that_an_address_gives_is_labelled(people, no_window):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(people))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for name, count in (("shot.jpg", 1), ("2.mp4", 2)):
            reader = capture.Reader(f"http://127.0.0.1:{server.server_port}/{name}", 1.0)
            result = play(reader, loading())
            assert result.frames == count and result.faces == 2 and not result.problem
        server.shutdown()


def test_a_clip_that_begins_with_a_picture_is_told(people, no_window):
    """OpenCV plays the first of the tracks alone."""
    for first, second, told in (("1.mp4", "9.mp4", True), ("9.mp4", "1.mp4", False)):
        path = people / f"{first[0]}_{second}"
        path.write_bytes(boxes.two_tracks((people / first).read_bytes(), (people / second).read_bytes()))
        result = play(capture.Reader(str(path)), loading())
        assert ("begins with a picture" in (result.problem or "")) == told and result.faces == 2


def test_only_pictures_that_were_written_are_told(tmp_path, capsys):
    """WebP holds 16,383 pixels a side. What cannot be written is said, and alone it is an error."""
    tall, small = (tmp_path / name for name in ("tall.png", "small.png"))
    for path, height in ((tall, 20_000), (small, 90)):
        cv2.imwrite(str(path), np.full((height, 90, 3), 90, np.uint8))
    for source, output, status in ((tall, tmp_path / "x.webp", 1), (small, tmp_path / "y.webp", 0),
                                   (tall, None, 0)):
        photos = stills.album(source, output)
        assert realtime.view(photos, loading(), output, haar(), window.Window(False)) == status
        said = capsys.readouterr().out
        assert (f"written: {output}\n" in said) == (output is not None and output.exists()) == ("y.webp" in str(output))
        assert ("x.webp cannot be written" in said) == (output == tmp_path / "x.webp")


def reading_threads():
    return [thread for thread in threading.enumerate() if thread.name == "reader"]


@pytest.mark.parametrize("opens", [True, False])
def test_q_while_a_camera_is_looked_for_closes_all(opens, monkeypatch):
    """At the first picture, whether the camera would have opened a little later or not."""
    pressed, closed = threading.Event(), []

    class Quits(Screen):
        def show(self, image, wait):
            pressed.set()
            return "q"

        def close(self):
            closed.append(self)

    def open_late(*_):
        pressed.wait()
        return Camera(10_000, 0.01) if opens else None

    monkeypatch.setattr(window, "Window", lambda show: Quits(()))
    monkeypatch.setattr(capture, "open_capture", open_late)
    monkeypatch.setattr(realtime, "RETRY", 1000.0)
    before = reading_threads()
    assert realtime.camera_or_portrait(loading(), haar()) == 0 and closed
    for thread in set(reading_threads()) - set(before):
        thread.join(20)
        assert not thread.is_alive()


def test_a_name_that_is_refused_leaves_no_reader(clip, tmp_path):
    before = reading_threads()
    code, _, err = call(realtime, f"SOURCE={clip}", "OUTPUT=x.txt", "SHOW=False", "WEIGHTS=none.pt", cwd=tmp_path)
    assert code == 1 and "must end in one of" in err
    for thread in set(reading_threads()) - set(before):
        thread.join(20)
        assert not thread.is_alive()


def test_the_keys_s_and_r_without_a_place_to_write_leave_the_output_whole(clip, tmp_path, monkeypatch, capsys):
    (tmp_path / "saved").write_text("a file of the user's, where the folder would be")
    keys = ["", "", "", "s", "r", "s", *[""] * 54, "q"]
    screen = Screen(keys)
    monkeypatch.setattr(window, "Window", lambda show: screen)
    monkeypatch.setattr(writing, "SAVED_DIR", str(tmp_path / "saved"))
    reader = capture.Reader(str(clip))
    monkeypatch.setattr(reader, "waiting", lambda: False)
    result = play(reader, loading(), tmp_path / "o.mp4")
    assert result.frames == 60 and result.error is None and (tmp_path / "o.mp4").is_file()
    assert capsys.readouterr().out.count("saved is a file, but must be a folder: name another\n") == 3


def test_an_error_of_the_log_leaves_the_output_until_there(clip, tmp_path, monkeypatch, no_window, capsys):
    added, output = [], tmp_path / "a.mp4"

    def add(log, rows):
        added.append(rows)
        if len(added) > 7:
            raise OSError(28, "No space left on device", "log.csv")

    monkeypatch.setattr(results.Results, "add", add)
    monkeypatch.setattr(realtime, "OUTPUT", str(output))
    with pytest.raises(OSError, match="No space left"):
        watch(clip, loading())
    assert cv2.VideoCapture(str(output)).get(cv2.CAP_PROP_FRAME_COUNT) == 7
    assert f"written: {output}, up to second 0.25\n" in capsys.readouterr().out


def test_a_pause_of_a_camera_is_not_in_its_recording():
    """Its frames go on meanwhile; ten minutes of them would be 15,000 equal pictures, written at once."""
    camera = Camera(0)
    reader = reader_of(0, camera, 0.0)
    screen = Screen([""] * 3 + [" ", "", ""])
    playing = player.Player(reader, loading(), controls.Controls(), results.Results(), haar(), screen)
    times, frame = [], np.zeros((48, 64, 3), np.uint8)
    playing.recording = types.SimpleNamespace(write=lambda picture, timestamp: times.append(timestamp))
    for timestamp in (1.0, 1.04, 1.08):
        playing.step(frame, timestamp, time.perf_counter())
    playing.controls.pause = True
    playing.advance()
    assert not playing.controls.pause
    for timestamp in (601.12, 601.16):
        playing.step(frame, timestamp, time.perf_counter())
    assert times == pytest.approx([1.0, 1.04, 1.08, 1.08, 1.12]) and playing.timestamp == 601.16
    reader.close()


def test_keys_while_the_network_loads_are_obeyed_and_q_is_no_error(clip, tmp_path, monkeypatch):
    monkeypatch.setattr(realtime, "OUTPUT", str(tmp_path / "o.mp4"))
    monkeypatch.setattr(writing, "SAVED_DIR", str(tmp_path))
    chosen = controls.Controls()
    monkeypatch.setattr(realtime, "controls_of", lambda mirror: chosen)
    watch(clip, Future(), Screen(["h", "b", "s", "r", "r", "m", "q"]))
    assert chosen.help and chosen.blur and chosen.mirror and chosen.quit and not (tmp_path / "o.mp4").exists()


def test_a_camera_whose_opening_takes_too_long_is_given_up_for_the_portrait(lines, monkeypatch):
    """A driver may block for longer than RETRY: whether the camera opens is not known by then."""
    given_up = threading.Event()
    monkeypatch.setattr(capture, "open_capture", lambda *_: given_up.wait(60) and None)
    assert realtime.camera_or_portrait(loading(), haar()) == 0
    given_up.set()
    assert lines[-1][0].startswith("there is no camera 0: connect one") and "portrait" in lines[-1][0]


def test_only_the_script_gets_ctrl_c_on_windows_too(monkeypatch):
    """start_new_session has no effect there."""
    monkeypatch.setattr(window.subprocess, "CREATE_NEW_PROCESS_GROUP", 0x200, raising=False)
    assert window.own_group(windows=True) == {"creationflags": 0x200}
    assert window.own_group(windows=False) == {"start_new_session": True}
