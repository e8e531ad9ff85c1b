"""The files that train.py leaves of a run: best weights, log.csv, the plot; and what it does with those of the run
before. Nothing to run."""

import csv
import re
from pathlib import Path

from learn import checkpoints
from terminal.files import atomic, link

COLUMNS = ("epoch", "train_loss", "train_accuracy", "valid_loss", "valid_accuracy", "lr", "data_s", "compute_s", "best")


def set_aside(weights, plots):
    """Keep what an earlier run left: its files move to weights/run_<number>/; best_weights.pt stays in place too."""
    # last.pt first: whatever stops the program in between, RESUME does not take it for this run's.
    files = (weights / "last.pt", *weights.glob("best_weights*.pt"), plots / "log.csv")
    old = [path for path in files if path.exists()]
    if not old:
        return
    numbers = [int(m[1]) for p in weights.glob("run_*") if (m := re.fullmatch(r"run_(\d+)", p.name))]
    folder = weights / f"run_{max(numbers, default=0) + 1}"
    folder.mkdir(parents=True)
    for path in old:
        if path.name == "best_weights.pt":
            link(path, folder / path.name)
        else:
            path.replace(folder / path.name)
    print(f"kept the {len(old)} files of the run before in {folder}")


def keep_best(weights, checkpoint, count):
    """Save the weights of a best epoch, in half precision; only the last `count` such files stay."""
    state = {k: v.half() if v.is_floating_point() else v for k, v in checkpoint["state"].items()}
    checkpoint = {**checkpoint, "state": state}
    for name in (f"best_weights_{checkpoint['epoch']}.pt", "best_weights.pt"):
        checkpoints.save_weights(weights / name, checkpoint)
    names = [p.name for p in weights.iterdir()]
    for old in sorted(int(m[1]) for n in names if (m := re.fullmatch(r"best_weights_(\d+)\.pt", n)))[:-count]:
        Path(weights, f"best_weights_{old}.pt").unlink(missing_ok=True)


def write_log(path, history, constants):
    """log.csv: a row an epoch, and the constants of the run with each."""
    said = " ".join(f"{k}={v}" for k, v in constants.items())
    with atomic(path) as temporary:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow([*COLUMNS, "constants"])
            rows.writerows([*(row[c] for c in COLUMNS), said] for row in history)


def plot(history, path):
    """The paper's two panels: loss and accuracy per epoch, for training and validation."""
    from matplotlib.figure import Figure  # only here: it takes a second to import

    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, what in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for split in ("train", "valid"):
            axes.plot([r["epoch"] for r in history], [r[f"{split}_{what}"] for r in history], marker=".", label=split)
        axes.set(xlabel="epoch", ylabel=what, title=f"{what} per epoch")
        axes.grid(alpha=0.3)
        axes.legend()
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=110)
