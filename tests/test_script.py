"""script.py: constants from the command line, one-line errors, files that are whole or not there."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import processed
import realtime
import train
from faces import reading
from photos import fill
from running import POSIX, ROOT, call, press_ctrl_c, settle, start_python, wait_for
from terminal import files, rules, script
from terminal.files import atomic

ANYTHING = rules.Rule(lambda value: True, "anything")


def script_with(file="train.py", **constants):
    """The globals() of a script, whose constants may be anything."""
    return {**constants, "RULES": dict.fromkeys(constants, ANYTHING), "__file__": file}


def constants():
    known = script_with(EPOCHS=3, LR=0.1, NAME="a", OUTPUT=None, SHOW=True)
    known["RULES"] = dict(EPOCHS=(int, 1, None), LR=(float, 0, 10), NAME=str, OUTPUT=rules.optional(str), SHOW=bool)
    return {**known, "lower": 1, "INNER": 2}


@pytest.mark.parametrize(("argument", "name", "value"), [
    ("EPOCHS=5", "EPOCHS", 5), ("LR=1", "LR", 1), ("LR=1e-3", "LR", 1e-3), ("NAME=data/raw", "NAME", "data/raw"),
    ("NAME=7", "NAME", "7"), ("OUTPUT=a.mp4", "OUTPUT", "a.mp4"),
    ("OUTPUT=3", "OUTPUT", "3"), ("OUTPUT=None", "OUTPUT", None), ("SHOW=False", "SHOW", False),
])
def test_override_sets_a_constant(argument, name, value):
    namespace = constants()
    rules.override(namespace, [argument])
    assert namespace[name] == value and type(namespace[name]) is type(value)


@pytest.mark.parametrize("argument", ["EPOCHS=many", "EPOCHS=1.5", "EPOCHS=True", "SHOW=1", "LR=fast", "EPOCH=3",
                                      "--epochs", "lower=2", "INNER=3", "RULES={}"])
def test_override_refuses_in_one_line(argument):
    with pytest.raises(SystemExit) as stop:
        rules.override(constants(), [argument])
    assert str(stop.value).startswith("error: ") and "\n" not in str(stop.value)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(SystemExit, match="one of EPOCHS, LR, NAME, OUTPUT, SHOW$"):
        rules.override(constants(), ["EPOCH=3"])


def test_a_shared_constant_is_edited_in_its_file():
    with pytest.raises(SystemExit, match="edit it at the top of train.py"):
        rules.override(constants(), ["LR=0.5"], fixed={"LR"})


def test_atomic_leaves_the_old_file_when_the_block_fails(tmp_path):
    path = tmp_path / "sub" / "a.txt"
    with atomic(path) as temporary:
        temporary.write_text("old")
    with pytest.raises(RuntimeError), atomic(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device", "last.pt"), PermissionError(13, "denied")])
def test_run_turns_system_errors_into_one_line(error):
    def main():
        raise error

    with pytest.raises(SystemExit, match="^error: .*run again$"):
        script.run(main)


def test_ctrl_c_exits_with_130(capsys):
    def main():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        script.run(main, "go on with X")
    assert stop.value.code == 130 and "go on with X" in capsys.readouterr().err


def test_classes_are_folders_that_are_not_hidden(tmp_path):
    with pytest.raises(SystemExit, match="no folder .*: fill it"):
        reading.class_folders(tmp_path / "none", "fill it")
    for name in ("b", "a", ".hidden"):
        (tmp_path / name).mkdir()
    assert reading.class_folders(tmp_path, "fill it") == {"a": [tmp_path / "a"], "b": [tmp_path / "b"]}
    (tmp_path / "Unsure").mkdir()
    with pytest.raises(SystemExit, match="Unsure cannot have this name, which is a label: rename it"):
        reading.class_folders(tmp_path, "fill it")


@pytest.mark.parametrize(("name", "edited", "found"), [
    ("DETECTORS", ["haar", "yunet"], ("haar", "yunet")), ("SIZES", [], ()), ("RAW_DIR", None, None),
    ("RAW_DIR", "~/raw", os.path.expanduser("~/raw")), ("TEST_DIR", 3, 3)])
def test_a_constant_edited_in_its_file(name, edited, found):
    namespace = script_with(**{name: edited})
    rules.override(namespace, [])
    assert namespace[name] == found


def test_paths_on_the_command_line_belong_to_where_one_stands(tmp_path, monkeypatch):
    monkeypatch.setattr(script, "HOME", tmp_path / "project")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    namespace = script_with(RAW_DIR="data/raw", FACES_DIR="faces", SOURCE=None, OUTPUT=None, LOG="a.csv", SEED=0,
                            LISTS={"man": "m.txt"}, WEIGHTS=("a.pt",), NAME="b.txt", START="~/a.pt")
    rules.override(namespace, ["RAW_DIR=photos/", "SOURCE=rtsp://host/a", "OUTPUT=~/out", "SEED=3", "NAME=c.txt",
                                "LISTS={'man': 'x.txt'}", "WEIGHTS=('b.pt', '../c.pt')"])
    here = tmp_path / "here"
    assert rules.constants(namespace) == {
        "RAW_DIR": str(here / "photos"), "FACES_DIR": "faces", "SOURCE": "rtsp://host/a", "LOG": "a.csv", "SEED": 3,
        "OUTPUT": os.path.abspath(os.path.expanduser("~/out")), "LISTS": {"man": str(here / "x.txt")}, "NAME": "c.txt",
        "WEIGHTS": (str(here / "b.pt"), str(tmp_path / "c.pt")), "START": os.path.expanduser("~/a.pt")}


@pytest.mark.parametrize(("program", "arguments"), [
    ("validation.py", []), ("data/drawn.py", ["COUNT=2", "TEST_COUNT=1"]), ("data/folders.py", [])])
def test_paths_in_a_file_belong_to_the_project(program, arguments, tmp_path):
    """From another folder: nothing is written there, and what is looked for is looked for in the project."""
    (tmp_path / "project").mkdir()
    (tmp_path / "elsewhere").mkdir()
    done = subprocess.run([sys.executable, ROOT / program, *arguments], cwd=tmp_path / "elsewhere", capture_output=True,
                          text=True, env={**os.environ, "FACES_HOME": str(tmp_path / "project")}, timeout=200)
    assert "Traceback" not in done.stderr and not list((tmp_path / "elsewhere").iterdir())
    assert program != "data/drawn.py" or (tmp_path / "project" / "data" / "raw").is_dir()


def test_ctrl_c_in_a_notebook_leaves_its_handler_and_folder_as_they_were(tmp_path, monkeypatch):
    """Also a second time, in a thread, and with an output that is no terminal's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(script, "HOME", tmp_path.parent)
    monkeypatch.setattr(sys, "stdout", type("Output", (), {"write": lambda self, text: len(text)})())
    codes, before = [], signal.getsignal(signal.SIGINT)

    def main():
        assert Path.cwd() == tmp_path.parent
        raise KeyboardInterrupt

    def run():
        with pytest.raises(SystemExit) as stop:
            script.run(main)
        codes.append(stop.value.code)

    run()
    run()
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert codes == [130] * 3 and signal.getsignal(signal.SIGINT) is before and Path.cwd() == tmp_path


@pytest.mark.parametrize("started", ["-m cProfile SCRIPT", "-c RUNPY", "SCRIPT"])
def test_ctrl_c_works_where_multiprocessing_was_imported_first(started, tmp_path):
    """It is one line, and where another program ran the script its own handler is back afterwards."""
    program = tmp_path / "program.py"
    program.write_text(f"""if True:
        import multiprocessing, sys, time
        sys.path.insert(0, {str(ROOT)!r})
        from terminal import files, script

        def main():
            open("ready", "w").close()
            time.sleep(60)

        if __name__ == "__main__":
            script.run(main)
        """)
    code = f"""if True:
        import multiprocessing, runpy, signal
        try:
            runpy.run_path({str(program)!r}, run_name="__main__")
        finally:
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        """
    arguments = [{"SCRIPT": str(program), "RUNPY": code}.get(part, part) for part in started.split()]
    process = start_python(*arguments, cwd=tmp_path)
    wait_for((tmp_path / "ready").exists)
    press_ctrl_c(process)
    assert "stopped by Ctrl-C: run the same command again" in process.communicate(timeout=100)[1]
    assert process.returncode == (0 if "cProfile" in started else 130)  # it keeps the status to itself


@POSIX
def test_a_folder_that_is_gone_is_one_line(tmp_path):
    code = f"import os; os.rmdir(os.getcwd()); os.execv({sys.executable!r}, ['python', {str(ROOT / 'processed.py')!r}])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1 and done.stderr.startswith("error: the working folder does not exist any more")


@POSIX
def test_names_are_utf_8_whatever_the_locale_says(tmp_path):
    (tmp_path / "data/raw/ni\u00f1a").mkdir(parents=True)
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, ROOT / "processed.py"], cwd=tmp_path, env=environment, capture_output=True,
                          timeout=100)
    assert "(ni\u00f1a: has no photos)" in done.stderr.decode() and done.returncode == 1


def in_use(tries):
    """os.replace() of a file that another program of Windows holds open for so many tries."""
    real = os.replace

    def refuse(new, path):
        tries.append(path)
        if len(tries) < 4:
            error = PermissionError(13, "Access denied", str(path))
            error.winerror = 32
            raise error
        real(new, path)

    return refuse


def test_a_file_that_another_program_holds_open_is_waited_for(tmp_path, monkeypatch):
    tries = []
    monkeypatch.setattr(files.os, "replace", in_use(tries))
    with atomic(tmp_path / "log.csv") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "log.csv").read_text() == "new" and len(tries) == 4


def test_a_file_that_stays_open_is_one_line_that_names_it(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "BUSY", 0.0)
    monkeypatch.setattr(files.os, "replace", in_use([]))
    with pytest.raises(script.Problem, match="log.csv is open in another program"):
        with atomic(tmp_path / "log.csv") as temporary:
            temporary.write_text("new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: 9 bytes"),
    type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried to allocate 2.00 GiB"), MemoryError()])
def test_out_of_memory_is_one_line(error):
    def main():
        raise error

    with pytest.raises(SystemExit, match="^error: out of memory: .* lower BATCH_SIZE$"):
        script.run(main)


def test_classes_that_differ_by_case_alone_are_one_line(tmp_path):
    for name in ("Man", "man"):
        try:
            (tmp_path / name).mkdir()
        except FileExistsError:
            pytest.skip("this disk ignores case")
    with pytest.raises(SystemExit, match="the classes Man and man, which are the same name on many disks"):
        reading.class_folders(tmp_path, "")


def test_a_name_with_two_spaces_is_said_as_it_is_and_a_message_is_one_line():
    with pytest.raises(SystemExit, match="^error: data/a  b.jpg: it is no photo$"):
        script.fail("data/a  b.jpg:\n    it is no photo")


def test_paths_of_windows_are_told_as_in_the_documents(place):
    """bash there reads a backslash as something else; what repr() has doubled, and a regular expression, stay."""
    assert script.slashed(r"there is no folder data\raw\niña 早: fill it", windows=True) == (
        "there is no folder data/raw/niña 早: fill it")
    for text in (r"'a\\b' cannot be the name", r"PERSON is not a regular expression (bad escape \y at position 0)"):
        assert script.slashed(text, windows=True) == text
    assert script.slashed(r"a\b", windows=False) == r"a\b"
    with pytest.raises(SystemExit, match="there is no folder .*data/raw: fill it"):
        reading.class_folders(Path("data", "raw"), "fill it")


@pytest.mark.parametrize(("text", "value"), [
    (r"{'a': 'C:\Users\me\new.mp4', 'b': ('x\\y.mp4',)}", {"a": r"C:\Users\me\new.mp4", "b": (r"x\\y.mp4",)}),
    ("{'a': 'C:\\clips\\'}", {"a": "C:\\clips\\"}), ("{'a': 'b/new.mp4'}", {"a": "b/new.mp4"})])
def test_a_backslash_in_a_constant_is_that_of_a_path_on_windows(text, value):
    assert rules.parse("CLIPS", text, ANYTHING, windows=True) == value


def test_a_command_that_is_told_has_quotes_where_cmd_and_powershell_need_them(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(script.os, "name", "nt")
        told = script.command_line("python", "train.py", "LR=0.001", "WEIGHTS=my own/a.pt", "SOURCE=a&b(1).mp4", "X=")
    assert told == 'python train.py LR=0.001 "WEIGHTS=my own/a.pt" "SOURCE=a&b(1).mp4" X='


@POSIX
@pytest.mark.parametrize("closed", [(2,), (1, 2), (0, 1, 2)])
def test_streams_that_are_closed_are_no_traceback_and_take_no_file(tmp_path, closed):
    """>&-: the files of the run would have the numbers of output and errors."""
    fill(tmp_path / "data" / "raw")
    program = [sys.executable, ROOT / "processed.py", "WORKERS=1"]
    done = subprocess.run(program, cwd=tmp_path, preexec_fn=lambda: [os.close(number) for number in closed],
                          stdout=subprocess.PIPE, timeout=100)
    assert done.returncode == 0 and len(list(tmp_path.glob("processed/faces/*/[!.]*.jpg"))) == 4
    assert 1 in closed or b"4 of 4 photos kept" in done.stdout


@pytest.mark.parametrize("program", ["processed.py", "validation.py"])
def test_without_streams_as_under_pythonw_there_is_no_traceback(tmp_path, program):
    code = ("import io, runpy, sys, traceback; sys.stdin = sys.stdout = sys.stderr = None\n"
            "sys.argv = sys.argv[1:]\n"
            "try:\n    runpy.run_path(sys.argv[0], run_name='__main__')\n"
            "except SystemExit as stop:\n    open('code', 'w').write(str(stop.code))\n"
            "except BaseException:\n    open('code', 'w').write(traceback.format_exc())\n")
    fill(tmp_path / "data" / "raw", 4)
    if program == "validation.py":
        fill(tmp_path / "processed" / "faces", 4)
    subprocess.run([sys.executable, "-c", code, ROOT / program], cwd=tmp_path, timeout=100,
                   env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert (tmp_path / "code").read_text() in ("0", "None")


NUL = ["RAW_DIR='a\\0b'", "SKIPPED='a\\0b.csv'"] if os.name != "nt" else []  # on Windows that is 0b in the folder a


@pytest.mark.parametrize("argument", ["FACES_DIR=" + "a/" * 2000, "RAW_DIR=" + "a/" * 2000, *NUL,
                                      "FACES_DIR=" + "n" * 300, "CLAHE=" + "9" * 400])
def test_paths_and_numbers_beyond_all_measure_are_one_line(tmp_path, argument):
    fill(tmp_path / "data" / "raw")
    code, _, err = call(processed, "WORKERS=1", argument, cwd=tmp_path)
    assert code == 1 and err.count("\n") == 1 and err.startswith("error: "), err
    assert not [path for path in tmp_path.glob("[!d]*/**/*") if path.is_file()]


@pytest.mark.parametrize(("letters", "system", "line"), [(300, "nt", "a path has more than 259 letters .*aaa"),
                                                         (100, "nt", "free some space"), (300, "posix", "free some")])
def test_a_path_that_is_too_long_for_windows_is_said(letters, system, line, monkeypatch):
    def main():
        raise FileNotFoundError(2, "No such file or directory", "/" + "a" * letters)

    with monkeypatch.context() as patch, pytest.raises(SystemExit, match=line):
        patch.setattr(script.os, "name", system)
        script.run(main)


@pytest.mark.parametrize(("module", "name", "edited", "text", "value"), [
    (realtime, "SOURCE", "clip.mp4", "0", 0), (realtime, "SOURCE", 0, "clip.mp4", "clip.mp4"),
    (realtime, "OUTPUT", "out", "None", None), (realtime, "SOURCE", 0, "None", None),
    (train, "START", "weights/a.pt", "None", None), (train, "EPOCHS", 30, "None", None),
    (train, "AUXILIARY", (), "['age']", ("age",)), (train, "WEIGHTS_DIR", "weights", "1", "1")])
def test_what_is_edited_in_the_file_can_be_set_back(module, name, edited, text, value, monkeypatch):
    monkeypatch.setattr(module, name, edited)
    settle(module, monkeypatch, f"{name}={text}")
    assert getattr(module, name) == value and type(getattr(module, name)) is type(value)


def test_a_wrong_value_is_told_by_its_rule(monkeypatch):
    for argument, line in (("AUXILIARY=age", "AUXILIARY='age': must be some of age, "),
                           ("EPOCHS=0", "EPOCHS=0: must be None, or a whole number, at least 1")):
        with pytest.raises(SystemExit, match=f"^error: {line}"):
            settle(train, monkeypatch, argument)
