"""Ctrl-C, SIGTERM and SIGHUP, once or many times: one line, a status, and nothing lost that cannot be done again.

    STOPS=200 python -m pytest tests/test_stops.py     # more random ones
"""

import contextlib
import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

import clips
import realtime
import webcam
from live import results
from photos import fill
from running import POSIX, ROOT, call, kill, none_left, press_ctrl_c, slowly, start, tree, wait_for
from terminal import files, records, script, stops, workers
from watching import loading, read_log, watch

STOPS = int(os.environ.get("STOPS", 4))
SMALL = ROOT / "weights" / "shipped" / "small.pt"
CODES = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129} if os.name != "nt" else {"SIGINT": 130}
NAMES = {"SIGINT": "Ctrl-C", "SIGTERM": "SIGTERM", "SIGHUP": "SIGHUP"}


def send(process, *names, group=True, pause=0.05):
    """Signals as a terminal sends them, to all processes, or to the first alone. On Windows each is Ctrl-C, to all."""
    for name in names:
        try:
            if os.name == "nt":
                (kill if name == "SIGKILL" else press_ctrl_c)(process)
            else:
                (os.killpg if group else os.kill)(process.pid, getattr(signal, name))
        except OSError:  # it has ended
            return
        time.sleep(pause)


def ended(process, first):
    """Wait for the end: one line, the status of the first signal, and no process left. Returns what was printed."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == CODES[first] and "Traceback" not in err, err
    assert err.count("stopped by") == 1 and f"stopped by {NAMES[first]}" in err, err
    wait_for(lambda: none_left(process), 20)
    return out


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with photos, on which processed.py was never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    fill(folder / "data" / "raw", 20)
    (folder / "data/raw/hat/none.png").write_bytes((folder / "data/raw/hat/1.png").read_bytes()[:500])
    assert call_processed(folder).returncode == 0
    return folder


def call_processed(folder):
    process = start("processed.py", "WORKERS=2", cwd=folder)
    process.communicate(timeout=200)
    return process


def skipped(folder):
    """skipped.csv without the times."""
    with open(folder / "processed" / "skipped.csv", encoding="utf-8", newline="") as file:
        return [[row["photo"], row["status"], row["reason"]] for row in csv.DictReader(file)]


def same_in_the_end(whole, folder):
    """One more run, and all is as if it had never been stopped."""
    process = start("processed.py", "WORKERS=2", cwd=folder)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0 and "40 of 41 photos kept" in out, out + err
    assert skipped(folder) == skipped(whole)
    assert outcome(whole) == outcome(folder)


def outcome(folder):
    """The files in processed/, {name: content}, without what tells a copy of a photo from the photo."""
    found = tree(folder / "processed")
    del found["skipped.csv"]
    recipe, *photos = found["faces/.recipe"].split(b"\n")
    found["faces/.recipe"] = [recipe, *(line.rpartition(b"-")[2] for line in photos)]  # digest and name
    return found


BURSTS = [(("SIGINT",), True), (("SIGINT",) * 6, False), (("SIGTERM",) * 2, False),
          (("SIGHUP", "SIGINT", "SIGINT", "SIGTERM"), True)]


@pytest.mark.parametrize(("burst", "group"), [each for each in BURSTS if CODES.keys() >= set(each[0])])
def test_processed_is_stopped_once_however_often_it_is_asked_to(whole, tmp_path, burst, group):
    shutil.copytree(whole / "data", tmp_path / "data")
    process = start("processed.py", "WORKERS=2", cwd=tmp_path)
    wait_for(lambda: len(list(tmp_path.glob("processed/faces/*/[!.]*.jpg"))) > 3)
    send(process, *burst, group=group)
    ended(process, burst[0])
    crops = {f"{path.parent.name}/{path.name}" for path in tmp_path.glob("processed/faces/*/[!.]*.jpg")}
    assert crops < records.written(tmp_path / "processed/faces") == crops | {".recipe"}
    assert not list(tmp_path.rglob(".tmp-*"))
    same_in_the_end(whole, tmp_path)


def test_random_stops_of_processed_end_as_if_there_were_none(whole, tmp_path):
    rng = random.Random(3)
    shutil.copytree(whole / "data", tmp_path / "data")
    for _ in range(STOPS):
        process = start("processed.py", "WORKERS=2", cwd=tmp_path)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0.3, 6))
        burst = rng.choices(list(CODES), k=rng.randint(1, 6))
        send(process, *burst, group=rng.random() < 0.5, pause=rng.uniform(0, 0.3))
        _, err = process.communicate(timeout=120)
        assert process.returncode in (*CODES.values(), 0) and "Traceback" not in err, (process.returncode, err)
    same_in_the_end(whole, tmp_path)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A clip of a minute."""
    path = tmp_path_factory.mktemp("film") / "film.avi"
    clips.write_clip(path, list(clips.frames_of([clips.person("hat", 3)], 30, 1)) * 20, 10.0)
    return path


@pytest.mark.parametrize("name", CODES)
def test_what_was_written_of_a_clip_stays_and_is_said(film, tmp_path, name):
    """Also where it was started with &, so that Ctrl-C is ignored."""
    background = name != "SIGINT"
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if background else None
    process = start("realtime.py", f"SOURCE={film}", f"WEIGHTS={SMALL}", "SHOW=False", "OUTPUT=o.mp4", "LOG=seen.csv",
                    cwd=tmp_path)
    if background:
        signal.signal(signal.SIGINT, handler)
    wait_for(lambda: (tmp_path / "seen.csv").is_file() and (tmp_path / "seen.csv").stat().st_size > 2000)
    seen = read_log(tmp_path / "seen.csv")  # while it grows
    if background:
        send(process, "SIGINT", "SIGINT")
        assert process.poll() is None
    send(process, name, name)
    out = ended(process, name)
    until = next(float(line.rpartition(" ")[2]) for line in out.splitlines() if line.startswith("written: o.mp4"))
    assert len(clips.read_clip(tmp_path / "o.mp4")) == round(until * 10) + 1 and 0 < until < 59
    rows = read_log(tmp_path / "seen.csv")
    assert len(seen) > 20 and rows[:len(seen)] == seen and abs(float(rows[-1]["time"]) - until) < 0.01
    assert f"written: seen.csv, up to second {until:.2f}" in out and not list(tmp_path.glob(".tmp*"))


def test_a_stop_in_a_notebook_keeps_what_was_written(film, tmp_path, monkeypatch):
    """There no handler is ours before; and the video gets its name before the stop goes on."""
    monkeypatch.chdir(tmp_path)
    for setting, value in (("SHOW", False), ("OUTPUT", "o.mp4")):
        monkeypatch.setattr(realtime, setting, value)
    add, count = results.Results.add, []

    def stop(self, rows):
        count.append(1)
        if len(count) == 5:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        add(self, rows)

    monkeypatch.setattr(results.Results, "add", stop)
    with pytest.raises(SystemExit) as end:
        script.run(lambda: watch(film, loading()))
    assert end.value.code == 130 and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert len(clips.read_clip("o.mp4")) == 5


def test_photos_annotated_until_a_stop_are_said(tmp_path, monkeypatch):
    fill(tmp_path / "photos", 20)
    process = start("realtime.py", "SOURCE=photos", f"WEIGHTS={SMALL}", "SHOW=False", "OUTPUT=out", cwd=tmp_path)
    wait_for(lambda: list(tmp_path.glob("out/*/*.png")))
    name = list(CODES)[-1]
    send(process, name)
    out = ended(process, name)
    assert "written: out" in out and "photos, " in out and not list(tmp_path.rglob(".tmp*"))


PROGRAM = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from terminal import files, records, script, stops

def slow():
    print("ending", flush=True)
    time.sleep(1)
    open("ended", "w").close()

def main():
    script.AT_END.append(slow)
    records.claim(".", ["a.txt", "b.txt"])
    with files.atomic("a.txt") as new:
        new.write_text("a")
    print("working", flush=True)
    time.sleep(0 if "quick" in sys.argv else 60)

if __name__ == "__main__":
    stops.IS_PROGRAM = True
    script.run(main)
"""


@pytest.mark.parametrize("first", CODES)
def test_the_clean_up_is_not_interrupted(tmp_path, first):
    (tmp_path / "program.py").write_text(PROGRAM)
    process = start(tmp_path / "program.py", cwd=tmp_path)
    assert process.stdout.readline() == "working\n"
    send(process, first, "SIGINT", "SIGTERM", "SIGHUP", "SIGINT", "SIGINT", "SIGINT", pause=0.1)
    ended(process, first)
    assert (tmp_path / "ended").exists() and records.written(tmp_path) == {"a.txt"}


@pytest.mark.parametrize("name", CODES)
def test_a_stop_when_all_is_done_changes_nothing(tmp_path, name):
    (tmp_path / "program.py").write_text(PROGRAM)
    process = start(tmp_path / "program.py", "quick", cwd=tmp_path)
    assert process.stdout.readline() == "working\n" and process.stdout.readline() == "ending\n"
    send(process, name, name)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0 and not err and records.written(tmp_path) == {"a.txt"}


def test_a_terminal_that_is_closed_is_no_error(tmp_path):
    """Its end of the line is gone: what is printed during the clean-up goes nowhere."""
    pty = pytest.importorskip("pty")
    (tmp_path / "program.py").write_text(PROGRAM)
    child, terminal = pty.fork()
    if not child:
        os.chdir(tmp_path)
        os.execv(sys.executable, [sys.executable, "program.py"])
    assert b"working" in os.read(terminal, 1000)
    os.close(terminal)  # the system sends SIGHUP
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 129
    assert (tmp_path / "ended").exists() and records.written(tmp_path) == {"a.txt"}


@pytest.mark.parametrize(("program", "name"), [
    ("data/drawn.py", "SIGINT"), ("data/folders.py", "SIGTERM"), ("data/sets.py", "SIGHUP"),
    ("data/congress.py", "SIGINT"), ("data/webcam.py", "SIGINT"), ("processed.py", "SIGHUP"),
    ("validation.py", "SIGTERM")])
def test_a_stop_while_a_script_imports_is_one_line(tmp_path, program, name):
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "tqdm.py").write_text("import time\nopen('importing', 'w').close()\ntime.sleep(60)\n")
    name = name if name in CODES else "SIGINT"
    process = start(program, cwd=tmp_path, PYTHONPATH=str(tmp_path / "slow"))
    wait_for((tmp_path / "importing").exists)
    send(process, name)
    ended(process, name)


@pytest.fixture(scope="module")
def takes(tmp_path_factory):
    """CLIPS of two classes, and the photos of a run of data/webcam.py that was never stopped."""
    folder, chosen = tmp_path_factory.mktemp("takes"), {"a": [], "b": []}
    for k in range(3):
        for name, kind in (("a", "hat"), ("b", "beard")):
            chosen[name].append((folder / f"{name}{k}.mp4").as_posix())
            clips.write_clip(chosen[name][-1], clips.frames_of([clips.person(kind, k)], 16, k), 10.0)
    arguments = ["CLASSES=('a', 'b')", "SHOW=False", f"CLIPS={chosen!r}"]
    assert call(webcam, *arguments, cwd=folder)[0] == 0
    return folder / "data", arguments


def taken(folder):
    """The photos and people.csv, in any order of its lines."""
    found = tree(folder)
    found["people.csv"] = sorted(found["people.csv"].splitlines())
    return {name: data for name, data in found.items() if records.RECORD not in name} | {
        name: sorted(data.split()) for name, data in found.items() if records.RECORD in name}


@pytest.mark.parametrize("name", [*CODES, "SIGKILL"])
def test_clips_are_taken_once_and_whole_whatever_stops_it(takes, tmp_path, name):
    folder, arguments = takes
    for wanted in (3, 25):  # of 48 photos
        process = start("data/webcam.py", *arguments, cwd=tmp_path)
        while len(list(tmp_path.glob("data/*/*/[!.]*.jpg"))) < wanted and process.poll() is None:
            time.sleep(0.01)
        send(process, name)
        out, err = process.communicate(timeout=120)
        assert process.returncode in (CODES.get(name, -9 if os.name != "nt" else 1), 0) and "Traceback" not in err, err
    assert call(webcam, *arguments, cwd=tmp_path)[0] == 0
    assert taken(tmp_path / "data") == taken(folder)
    code, out, _ = call(webcam, *arguments, cwd=tmp_path)
    assert code == 0 and out.count("already") == 6 and taken(tmp_path / "data") == taken(folder)


@POSIX
def test_a_program_that_is_run_gets_the_stop_and_is_waited_for(tmp_path):
    """tools.compare runs train.py so."""
    child = "import signal, sys, time; from pathlib import Path; " \
            "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(1), Path('ended').touch(), sys.exit(0))); " \
            "Path('ready').touch(); time.sleep(60)"
    parent = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from terminal import script, stops, workers; " \
             f"stops.IS_PROGRAM = True; script.run(lambda: workers.run_program(sys.executable, '-c', {child!r}))"
    process = subprocess.Popen([sys.executable, "-c", parent], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    wait_for((tmp_path / "ready").exists)
    send(process, "SIGTERM", "SIGTERM", group=False)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 143 and (tmp_path / "ended").exists(), err


def test_an_error_in_a_process_leaves_the_others_to_finish(tmp_path):
    """joblib would kill them in the midst of a file."""
    with pytest.raises(ValueError, match="no number 3"):
        list(workers.in_processes(slowly, [(tmp_path, i) for i in range(99)], 2))
    began, done = ({path.name for path in tmp_path.glob(pattern)} for pattern in ("began*", "done*"))
    assert len(began) < 99 and {name.replace("began", "done") for name in began - {"began3"}} == done


def test_later_holds_a_stop_until_the_end_of_its_block():
    done = []

    def main():
        with stops.later():
            with stops.later():
                signal.raise_signal(signal.SIGINT)
                done.append(1)
            done.append(2)
        done.append(3)

    with pytest.raises(SystemExit) as end:
        script.run(main)
    assert end.value.code == 130 and done == [1, 2]


@POSIX
def test_a_clip_that_another_run_is_taking_is_not_taken_twice(takes, tmp_path):
    with files.locked(takes[0].parent / "a0.mp4"):
        code, _, err = call(webcam, *takes[1], cwd=tmp_path)
    assert code == 1 and "a0.mp4 is being taken by another run" in err and not list(tmp_path.rglob("*.jpg"))
    assert call(webcam, *takes[1], cwd=tmp_path)[0] == 0 and taken(tmp_path / "data") == taken(takes[0])


@POSIX
def test_photos_of_a_take_that_disappear_in_mid_run_are_said(takes, tmp_path, monkeypatch):
    add, count = webcam.Takes.add, []

    def add_then_delete(self, photo):
        add(self, photo)
        count.append(photo)
        if len(count) == 20:
            shutil.rmtree(webcam.RAW_DIR)

    with monkeypatch.context() as patch:
        patch.setattr(webcam.Takes, "add", add_then_delete)
        code, _, err = call(webcam, *takes[1], cwd=tmp_path)
    assert code == 1 and "is gone" in err
    assert call(webcam, *takes[1], cwd=tmp_path)[0] == 0 and taken(tmp_path / "data") == taken(takes[0])


@pytest.mark.parametrize(("module", "ours"), [("faces.yunet", True), ("tools.bench", True), ("live.window", False)])
def test_a_module_that_is_run_is_a_program_of_ours(module, ours, monkeypatch):
    """So that SIGTERM is one line; the process of the window, which its script ends, is none."""
    path = str(ROOT / f"{module.replace('.', '/')}.py")
    started = SimpleNamespace(__file__=path, __spec__=SimpleNamespace(name=module))
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "__main__", started)
        patch.setattr(sys, "orig_argv", [sys.executable, "-m", module])
        found = stops.is_program()
    assert found == ours
