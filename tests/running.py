"""Scripts as users run them, in processes of their own or with constants set; and waiting for what they do."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from terminal import rules, script

ROOT = Path(__file__).resolve().parent.parent
POSIX = pytest.mark.skipif(os.name == "nt", reason="process groups, limits and links of POSIX")
WINDOWS = pytest.mark.skipif(os.name != "nt", reason="elsewhere a file that another program has open can be replaced")
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc, /dev and X11 of Linux")


def start(program, *arguments, cwd, **environment):
    """A script as a user starts it; see start_python()."""
    return start_python("-W", "error", str(ROOT / program), *arguments, cwd=cwd, **environment)


def start_python(*arguments, cwd, **environment):
    """Python in a process group of its own, as a terminal gives it, or on Windows a console of its own."""
    command = [sys.executable, *arguments]
    if os.name == "nt":
        return subprocess.Popen([sys.executable, str(ROOT / "tests" / "console.py"), *command], cwd=cwd, text=True,
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                creationflags=subprocess.CREATE_NEW_CONSOLE, env={**os.environ, **environment})
    return subprocess.Popen(command, cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            start_new_session=True, env={**os.environ, **environment})


def press_ctrl_c(process):
    """Ctrl-C in the terminal of a process of start(): it goes to all processes there."""
    if os.name == "nt":
        process.stdin.write("c")
        process.stdin.flush()
    else:
        os.killpg(process.pid, signal.SIGINT)


def kill(process):
    """Kill the script of start() alone, without its processes."""
    if os.name == "nt":
        process.stdin.write("k")
        process.stdin.flush()
    else:
        process.kill()


def none_left(process):
    """Whether all processes of a script of start() are gone, when that itself has ended."""
    if os.name == "nt":
        return process.returncode != 99  # console.py has waited for them
    try:
        os.killpg(process.pid, 0)
    except (ProcessLookupError, PermissionError):  # the latter on macOS
        return True
    return False


def run(program, *arguments, cwd):
    """The same until it ends: (exit status, what it printed, what it said of errors)."""
    process = start(program, *arguments, cwd=cwd)
    out, err = process.communicate(timeout=200)
    return process.returncode, out, err


def settle(module, monkeypatch, *arguments):
    """Set a script's constants as its command line would, until the test ends."""
    for name in rules.constants(vars(module)):
        monkeypatch.setattr(module, name, getattr(module, name))
    monkeypatch.setattr(sys, "argv", [module.__file__, *arguments])
    rules.override(vars(module))


def call(module, *arguments, cwd):
    """What run() gives, of a script's main() in this process: no start of seconds, for all but the start itself. A
    training's plot as PNG is an empty file, and test.py draws nothing."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.chdir(cwd)
        if hasattr(module, "runs"):
            plot = module.runs.plot
            patch.setattr(module.runs, "plot", lambda *to: to[1].touch() if to[1].suffix == ".png" else plot(*to))
        if hasattr(module, "report"):
            patch.setattr(module.report, "save", lambda *_: None)
        try:
            settle(module, patch, *arguments)
            script.run(module.main)
        except SystemExit as stop:
            code = stop.code or 0
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
    return code, *(stream.buffer.getvalue().decode() for stream in (out, err))


def wait_for(what, seconds=180):
    """Wait until what() is true."""
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.01)


@contextlib.contextmanager
def held_open(path):
    """In this block another process has a file open, as a spreadsheet or an antivirus has it on Windows."""
    code = "import sys; file = open(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as process:
        assert process.stdout.readline().strip() == b"open"
        yield


def slowly(folder, i):
    """A job of a worker process, of which number 3 is an error. Here, since workers import its module."""
    (folder / f"began{i}").touch()
    if i == 3:
        raise ValueError("no number 3")
    time.sleep(0.3)
    (folder / f"done{i}").touch()


def tree(folder):
    """All files in and below a folder: {relative path: bytes}."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*")
            if path.is_file()}


def children(pid):
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
