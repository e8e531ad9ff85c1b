"""Run train.py many times and kill it at random moments; a program of its own, so that PyTorch is imported once.

    python killing.py KILLS NAME=VALUE ...     # constants of train.py; ends with the number of kills, or an assertion

A fork costs a hundredth of a start, which leaves time for many kills.
"""

import csv
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import matplotlib.backends.backend_agg  # noqa: E402, F401  # once, instead of in each fork
import matplotlib.figure  # noqa: E402, F401

import train  # noqa: E402
from learn import classifier  # noqa: E402
from terminal import rules, script  # noqa: E402


def start(folder, *arguments):
    """Fork a process that runs train.py's main() with its files in `folder`. Returns its number."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        with open("out.txt", "a", encoding="utf-8") as out:
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
        rules.override(vars(train), [*sys.argv[2:], f"WEIGHTS_DIR={folder}", f"PLOTS_DIR={folder}", *arguments])
        script.run(train.main)
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, flush=True)
        code = int(stop.code not in (0, None))
    finally:
        sys.stdout.flush()
        os._exit(code)


def end_of(child):
    """Wait for a process: None if it was killed; assert that it ended well otherwise."""
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return None
    assert status == 0, Path("out.txt").read_text(encoding="utf-8")
    return True


def losses(folder):
    """What log.csv says of each epoch, without the seconds."""
    with open(Path(folder, "log.csv"), encoding="utf-8") as file:
        return [tuple(row[c] for c in ("epoch", "train_loss", "valid_loss", "best")) for row in csv.DictReader(file)]


def main():
    wanted, kills, rng, began = int(sys.argv[1]), 0, random.Random(7), time.monotonic()
    end_of(start("whole"))
    epoch = (time.monotonic() - began) / len(losses("whole"))  # seconds
    while kills < wanted:
        shutil.rmtree("killed", ignore_errors=True)
        finished = False
        while not finished:
            child = start("killed", f"RESUME={Path('killed', 'last.pt').exists()}")
            if kills < wanted:
                time.sleep(rng.uniform(0, 2.5 * epoch))
                os.kill(child, signal.SIGKILL)
            finished = end_of(child)
            kills += not finished
            for path in Path("killed").glob("[!.]*.pt"):
                classifier.load_weights(path)
        assert losses("killed") == losses("whole"), (losses("killed"), losses("whole"))
        for name in {p.name for p in Path("whole").glob("*.pt")}:
            # The same weights too, not only the same losses.
            a, b = (classifier.load_weights(Path(folder, name))[0].state_dict() for folder in ("whole", "killed"))
            assert all(a[k].equal(b[k]) for k in a), name
    print(f"{kills} kills, {Path('out.txt').read_text(encoding='utf-8').count('epochs done')} runs came to their end")


if __name__ == "__main__":
    main()
