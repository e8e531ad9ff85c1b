"""Handles Ctrl-C, SIGTERM (docker stop, timeout) and SIGHUP (a closed terminal) alike, as "stops". Nothing to run.

While a script's main() runs, the first stop raises KeyboardInterrupt in the main thread. Later stops are only noted, so
that nothing interrupts the clean-up. Before and after main(), when nothing can be lost, a stop ends the program
at once. A signal that is ignored, as under nohup, or Ctrl-C in programs that a shell starts with &, stays ignored.

terminal/script.py imports this module first, and it imports little, since until then Ctrl-C gives a traceback.
"""

import atexit
import builtins
import contextlib
import errno
import os
import signal
import sys
import threading

# SIGBREAK is Ctrl-Break on Windows, which has no SIGHUP.
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]

came = []  # numbers of the signals received, in order
working = False  # whether the next signal interrupts main()
held = 0  # number of active blocks of later()
code = None  # the exit status of a script that is ending


def name():
    """The name of the first stop, for messages: "Ctrl-C", "SIGTERM", ..."""
    number = came[0] if came else signal.SIGINT
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


def status():
    """The exit status of a stopped program, as in shells: 128 plus the number of the signal."""
    return 128 + (came[0] if came else signal.SIGINT)


def leave(number, frame):
    """Signal handler for when nothing can be lost: print one line and exit. If a script is ending, e.g. waiting for
    threads, exit with its own status and print nothing."""
    if code is None:
        came.append(number)
        with contextlib.suppress(OSError):  # the terminal was closed
            os.write(2, f"\nstopped by {name()}\n".encode())
    with contextlib.suppress(Exception):  # the last output may still be in the buffer
        sys.stdout.flush()
    os._exit(status() if code is None else code)


def answer(number, frame):
    """Signal handler while a script runs."""
    came.append(number)
    if number == getattr(signal, "SIGHUP", None):
        silence_terminals()
    if working and not held:
        interrupt()


def interrupt():
    """Raise KeyboardInterrupt, once per main()."""
    global working
    working = False
    raise KeyboardInterrupt


def silence_terminals():
    """Redirect output to a closed terminal to nowhere, so that it is not an error during the clean-up."""
    for stream in (1, 2):
        try:
            os.get_terminal_size(stream)
        except OSError as error:
            if error.errno != errno.EIO:  # a file or a pipe
                continue
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)


@contextlib.contextmanager
def handled():
    """Context with answer() as the handler of stops; afterwards the old handlers are restored.

    In a notebook, or another program that runs a script, only Ctrl-C is handled, and in a thread no signal is.
    """
    global held, code
    came.clear()
    held, code = 0, None
    mine = SIGNALS if IS_PROGRAM else [signal.SIGINT]
    before = handlers(mine) if threading.current_thread() is threading.main_thread() else {}
    for number in before:
        signal.signal(number, answer)
    try:
        yield
    except SystemExit as end:
        if isinstance(end.code, int):
            code = end.code
        else:
            code = 0 if end.code is None else 1  # a message
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def handlers(numbers):
    """{signal: its handler}, without signals that are ignored, or whose handler is not Python's."""
    found = {number: signal.getsignal(number) for number in numbers}
    return {number: handler for number, handler in found.items() if handler not in (signal.SIG_IGN, None)}


@contextlib.contextmanager
def at_work():
    """Context of main(), in which the first stop raises KeyboardInterrupt."""
    global working
    working = True
    try:
        yield
    finally:
        working = False


@contextlib.contextmanager
def later():
    """Context that delays a stop until its end."""
    global held
    if threading.current_thread() is not threading.main_thread():  # stops do not interrupt other threads
        yield
        return
    held += 1
    try:
        yield
    finally:
        held -= 1
    if came and working and not held:
        interrupt()


def ignore():
    """Ignore stops at exit, since libraries take a while to end, and the exit status is already decided."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def open_streams():
    """Connect closed standard streams (>&-, or pythonw on Windows) to nowhere. Otherwise the next file that is opened
    would get their number, and output of libraries would go into it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, number)  # child processes inherit it
            if null > 2:
                os.close(null)
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: SIM115


def is_program():
    """Whether Python was started to run one of our scripts, not a notebook, a test or another program that runs one."""
    started, main = sys.orig_argv[1:], sys.modules["__main__"]
    path, module = getattr(main, "__file__", None), getattr(main, "__spec__", None)
    if not path or sys.flags.interactive or hasattr(builtins, "get_ipython"):
        return False
    path, home = os.path.realpath(path), os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    named = module.name in started if module else any(os.path.realpath(part) == path for part in started)
    return named and os.path.dirname(path) in (home, *(os.path.join(home, room) for room in ("data", "faces", "tools")))


open_streams()
IS_PROGRAM = is_program()
if IS_PROGRAM:
    for each in handlers(SIGNALS):
        signal.signal(each, leave)  # until run() takes over, so that a stop during the import of PyTorch is one line
    atexit.register(ignore)
