"""Runs work on all cores, or on many machines, by joblib; in background threads; and in other programs. Nothing to run.
"""

import contextlib
import ctypes
import importlib
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import Future
from multiprocessing import resource_tracker
from pathlib import Path

import cv2

from terminal import script, stops

BACKENDS = ("loky", "dask", "ray")  # of joblib: this machine's cores, or a cluster of machines with one shared disk
# joblib's resource tracker would warn of leaks after Ctrl-C, although everything has been removed.
TRACKER = "ignore:resource_tracker"
AHEAD = 256  # jobs per process that may be done before their results are used; limits memory
END = object()


def cores():
    """The number of cores that this program may use, which containers and schedulers may limit."""
    import joblib  # here, since its import takes a tenth of a second and the live window does not need it

    return joblib.cpu_count()


def start_worker(parent):
    """Set up a worker process: one OpenCV thread, since the processes use all cores; stops are left to the parent. If
    the parent (`parent`: its process id) is killed, the worker ends too."""
    for number in stops.SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(1)

    def leave_with_parent():
        if os.name == "nt":  # where the parent's id does not change when it ends
            multiprocessing.parent_process().join()
        else:
            while os.getppid() == parent:
                time.sleep(1)
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()


def in_background(function, *arguments):
    """A Future of function(*arguments), from a thread that the program does not wait for when it ends."""
    future = Future()

    def work():
        try:
            future.set_result(function(*arguments))
        except BaseException as error:  # result() raises it, SystemExit too
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future


@contextlib.contextmanager
def leaving_threads():
    """If the block ends the program, do not wait for running threads: a camera's driver may block one for ever, and a
    half-loaded PyTorch would crash while Python ends. A notebook that runs a script is not ended."""
    try:
        yield
    except SystemExit as stop:
        if not stops.IS_PROGRAM or not any(thread.daemon for thread in threading.enumerate()):
            raise
        status = stop.code or 0
        with contextlib.suppress(OSError):  # the reader of the output has gone
            if isinstance(status, str):
                print(status, file=sys.stderr)
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status if isinstance(status, int) else 1)


def connected(backend):
    """A context in which joblib works with one of BACKENDS. The backend's own settings, such as DASK_SCHEDULER_ADDRESS
    and RAY_ADDRESS, name the machines."""
    try:
        if backend == "dask":
            from dask.distributed import Client

            client = Client()
            client.run(importlib.import_module, "faces")  # joblib would wait for ever for workers that cannot import it
            return client
        if backend == "ray":
            from ray.util.joblib import register_ray

            register_ray()
    except (ImportError, OSError) as error:
        script.fail(f"BACKEND={backend}: {error}; install it, and start its workers in this project's folder")
    return contextlib.nullcontext()


def in_processes(function, jobs, processes, backend="loky"):
    """Yield function(*job) for each job, in order, from so many processes of one of joblib's BACKENDS.

    A job is a tuple of plain values: of an object whose class is in the script that was started, joblib would send the
    class with each job, which takes a millisecond.
    If a process is killed, the program ends with one line. Whatever ends this generator, running jobs are finished
    first, so that no file is written later, or left half written.
    """
    with stops.later():  # a stop amid an import would leave its file open
        import joblib
        from joblib.externals.loky.process_executor import BrokenProcessPool

    if function.__module__ == "__main__":
        # By its module's name, so that the processes import it; otherwise joblib would send its code with each job.
        module = importlib.import_module(Path(sys.modules["__main__"].__file__).stem)
        function = getattr(module, function.__name__)
    jobs = iter(jobs)
    results, ended = iter(()), False
    if TRACKER not in sys.warnoptions:
        sys.warnoptions.append(TRACKER)
    settings = {"initializer": start_worker, "initargs": (os.getpid(),)} if backend == "loky" else {}

    def tasks(portion):  # joblib takes them when a process is free
        for job in portion:
            if ended:
                return
            yield joblib.delayed(attempt)(function, *job)

    def finish():
        nonlocal ended
        ended = True
        with stops.later(), contextlib.suppress(BrokenProcessPool):
            for _ in results:
                pass

    script.AT_END.append(finish)  # needed if an error in the caller abandons this generator
    try:
        with connected(backend), joblib.parallel_config(backend, **settings):
            # In portions, since joblib would otherwise do all jobs, even if their results are not used.
            while portion := list(itertools.islice(jobs, AHEAD * processes)):
                with stops.later(), without_stops():
                    results = joblib.Parallel(processes, return_as="generator")(tasks(portion))
                yield from answers(results)
    except BrokenProcessPool:
        script.fail("a process was killed, probably for lack of memory: run the same command again, with WORKERS=1 if "
                    "it happens again")
    finally:
        finish()
        script.AT_END.remove(finish)


def attempt(function, *job):
    """Worker: (function(*job), None), or (None, (error, traceback)), since on an error joblib would kill the other
    processes during their work."""
    try:
        return function(*job), None
    except BaseException as error:
        return None, (error, traceback.format_exc())


def answers(results):
    """Yield the answers of the jobs from the results of attempt(); an error is raised here. A stop waits until joblib
    has given a result, since joblib must not be interrupted."""
    while True:
        with stops.later():
            result = next(results, END)
        if result is END:
            return
        answer, failure = result
        if failure:
            error, trace = failure
            raise error from RuntimeError(f"in a process:\n{trace}")
        yield answer


@contextlib.contextmanager
def without_stops():
    """Processes started in this block ignore stops; their parent handles them, and waits for its processes."""
    if os.name == "nt":  # where processes inherit that Ctrl-C is ignored; after the block, Ctrl-C works again here
        ctypes.windll.kernel32.SetConsoleCtrlHandler(None, True)
        try:
            yield
        finally:
            ctypes.windll.kernel32.SetConsoleCtrlHandler(None, False)
        return
    from joblib.externals.loky.backend import resource_tracker as another

    mask = signal.pthread_sigmask(signal.SIG_BLOCK, stops.SIGNALS)
    for tracker in (resource_tracker, another):
        tracker.ensure_running()  # if it starts one, Python unblocks the signals
        signal.pthread_sigmask(signal.SIG_BLOCK, stops.SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def run_program(*command):
    """Run another program and return its exit status. A stop is passed on to it; then this waits for its end."""
    with subprocess.Popen(command) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            if os.name != "nt":  # on Windows, Ctrl-C reaches both, and terminate() would kill
                process.terminate()
            process.wait()
            raise
