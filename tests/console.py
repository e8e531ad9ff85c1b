"""A console of Windows for one program, with somebody at its keyboard; tests/running.py starts it.

    python console.py COMMAND ...     # from stdin: c presses Ctrl-C in the console, k kills the program alone

It ends with the program's status when no other process is left in the console, or with 99 where one stays.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time

PATIENCE = 30  # seconds that processes of the program may take to end after it


def press(program):
    """Do what comes through stdin."""
    while key := os.read(0, 1):
        program.kill() if key == b"k" else os.kill(0, signal.CTRL_C_EVENT)  # 0: all processes in the console


def others():
    """The number of other processes in the console."""
    return ctypes.windll.kernel32.GetConsoleProcessList((ctypes.c_uint32 * 1)(), 1) - 1


if __name__ == "__main__":
    program = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=press, args=(program,), daemon=True).start()
    status, until = program.wait(), time.monotonic() + PATIENCE
    while others() and time.monotonic() < until:
        time.sleep(0.1)
    os._exit(99 if others() else status)
