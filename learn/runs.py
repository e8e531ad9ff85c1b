"""A training run: its state, the files that it writes, and how it is resumed from them. Nothing to run.

Files: weights/last.pt, best_weights_<epoch>.pt and best_weights.pt; plots/log.csv and metrics_<epoch>.png or .pdf.
"""

import csv
import dataclasses
import errno
import hashlib
import itertools
import math
import os
import re
from pathlib import Path
from typing import NamedTuple

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from judge import plots
from learn import classifier, devices, distributed
from terminal import files, records, script
from terminal.files import atomic

COLUMNS = ("epoch", "train_loss", "train_accuracy", "valid_loss", "valid_accuracy", "mean_loss", "lr", "data_s",
           "compute_s", "best")
# Constants of train.py that may differ in a resumed run without a warning: they change its losses by rounding at most.
MAY_CHANGE = {"RESUME", "TRAIN_DIR", "VALID_DIR", "WEIGHTS_DIR", "PLOTS_DIR", "PLOT_FORMAT", "DEVICE", "PRECISION"}
CHANGE_VALIDATION = ("image_size", "margin", "flip")  # metadata that change the validation loss of the same weights
FIXED = ("MODEL", "AUXILIARY", "EMA")  # constants that a resumed run must keep, since its network depends on them
KEEP_BEST = 3  # how many best_weights_<epoch>.pt files are kept
ENOUGH = 100  # minimum of people or takes in the validation crops for a reliable threshold for "unsure"
# Names of the files of which a run leaves several
BEST_WEIGHTS = r"best_weights_\d+\.pt"
METRICS_PLOT = rf"metrics_\d+\.({'|'.join(plots.ENDINGS)})"



@dataclasses.dataclass
class Run:
    """The state of training: what changes from epoch to epoch, and what last.pt keeps for RESUME."""

    net: torch.nn.Module
    ema: torch.nn.Module | None  # moving average of the weights of `net`; None if EMA is 0
    optimizer: torch.optim.Optimizer
    hardware: devices.Hardware
    constants: dict  # of train.py, by name
    metadata: dict  # of weights files, by name: see classifier.METADATA
    fingerprints: dict  # fingerprints() of the crops
    head_epochs: int = 0  # number of first epochs in which only the head is trained
    history: list = dataclasses.field(default_factory=list)  # a dict per epoch, of COLUMNS and "constants"
    comparable_from: int = 1  # epochs before this one had other validation crops or settings
    reached: float | None = None  # validation accuracy above the threshold, nan if none is; None: no epoch was trained

    @property
    def done(self):
        """The number of the last finished epoch."""
        return self.history[-1]["epoch"] if self.history else 0

    @property
    def eval_net(self):
        """The network that is evaluated and saved."""
        return self.net if self.ema is None else self.ema

    @property
    def best(self):
        """The row of the epoch whose weights are in best_weights.pt."""
        return [row for row in self.history if row["best"]][-1]

    @property
    def candidates(self):
        """The rows of the epochs from which the best is chosen."""
        return [row for row in self.history if row["epoch"] >= self.comparable_from]

    @property
    def patience(self):
        """Number of epochs without a validation error after which fine-tuning may end: an eighth of all EPOCHS."""
        return math.ceil(self.constants["EPOCHS"] / 8)

    @property
    def settled(self):
        """Whether all validation crops were right in each of the last `patience` epochs."""
        last = self.candidates[-self.patience:]
        return len(last) == self.patience and all(row["valid_accuracy"] == 1 for row in last)

    def training_net(self, epoch):
        """The network for the steps of an epoch, in training mode; during head_epochs all but its head is frozen.

        DistributedDataParallel averages the gradients of those parameters that are not frozen when it is made, so it is
        made for each epoch, in milliseconds.
        """
        frozen = epoch <= self.head_epochs
        self.net.features.requires_grad_(not frozen)
        self.net.train()
        self.net.features.train(not frozen)  # frozen features keep their batch statistics too
        return distributed.data_parallel(self.net, self.hardware.device)

    def update_ema(self, step):
        """Update the moving average, batch statistics too, with the decay EMA, or less in the first steps. `step`:
        counted from 0."""
        if self.ema is None:
            return
        update = get_ema_multi_avg_fn(min(self.constants["EMA"], (1 + step) / (10 + step)))
        averages = [v for v in self.ema.state_dict().values() if v.is_floating_point()]
        values = [v for v in self.net.state_dict().values() if v.is_floating_point()]
        update(averages, values, None)

    def add_epoch(self, **row):
        """Add an epoch to the history. `row`: all COLUMNS but "best"."""
        row["best"] = "yes" if all(row["mean_loss"] < other["mean_loss"] for other in self.candidates) else ""
        constants = " ".join(f"{name}={value}" for name, value in self.constants.items())
        self.history.append({**{column: row[column] for column in COLUMNS}, "constants": constants})


class Folders(NamedTuple):
    """The folders that a run writes into."""

    weights: Path
    plots: Path

    @distributed.first_only
    def claim(self):
        """Claim the files that a run writes; ends the program with one line if a file of that name is not ours."""
        if "last.pt" not in records.written(self.weights) and can_resume(self.weights / "last.pt"):
            records.change_record(self.weights, add=["last.pt"])  # copied from another machine, without its record
        records.claim(self.weights, ["last.pt", "best_weights.pt"])
        records.claim(self.plots, ["log.csv"])
        for folder, pattern in ((self.weights, BEST_WEIGHTS), (self.plots, METRICS_PLOT)):
            records.claim(folder, [path.name for path in folder.iterdir() if re.fullmatch(pattern, path.name)])

    def set_aside(self):
        """Link or copy the files of an earlier run into weights/run_<number>/, all of them or none."""
        best = sorted(n for n in records.written(self.weights) if re.fullmatch(BEST_WEIGHTS, n))
        metrics = sorted(n for n in records.written(self.plots) if re.fullmatch(METRICS_PLOT, n))
        paths = [self.weights / name for name in ("last.pt", "best_weights.pt", *best)]
        paths += [self.plots / name for name in ("log.csv", *metrics)]
        old = [path for path in paths if path.is_file()]
        if not old:
            return
        folders = (self.weights / f"run_{number}" for number in itertools.count(1))
        folder = next(folder for folder in folders if not folder.exists())
        records.claim(self.weights, [folder.name])
        with files.atomic_folder(folder) as temporary:
            for path in old:
                files.link(path, temporary / path.name)
        # best_weights.pt stays until the new run replaces it, so that test.py and realtime.py always have weights.
        records.remove_ours(self.weights, best)
        records.remove_ours(self.plots, metrics)
        # If the new run is killed before it has written its own last.pt, RESUME must not continue the old run.
        (self.weights / "last.pt").unlink(missing_ok=True)
        print(f"kept the {len(old)} files of the previous run in {folder.as_posix()}")


def can_resume(path):
    """Whether a file is a last.pt of this project."""
    try:
        return "optimizer" in classifier.load_checkpoint(path)
    except classifier.WeightsError:
        return False


def fingerprints(train, valid):
    """{"training": digest, "validation": digest} of the classes, names and file sizes of the crops, whatever their
    folder."""
    digests = {}
    for name, crops in (("training", train), ("validation", valid)):
        listed = sorted((crops.classes[label], path.name, path.stat().st_size)
                       for path, label in zip(crops.paths, crops.labels.tolist(), strict=True))
        digests[name] = hashlib.sha256(repr(listed).encode("utf-8", "surrogateescape")).hexdigest()
    return digests


def is_complete(last):
    """Whether the dict of a last.pt has all that resume() needs."""
    kinds = {"constants": dict, "crops": dict, "net": dict, "optimizer": dict, "history": list, "comparable_from": int,
             "head_epochs": int}
    if not all(isinstance(last.get(name), kind) for name, kind in kinds.items()):
        return False
    if not last["constants"].keys() >= set(FIXED) or not last["crops"].keys() >= {"training", "validation"}:
        return False
    numbers = set(COLUMNS) - {"best"}
    for row in last["history"]:
        if not isinstance(row, dict) or "best" not in row:
            return False
        if not all(isinstance(row.get(name), (int, float)) for name in numbers):
            return False
    return True


def read_last(path, run):
    """The dict of weights/last.pt (`path`); ends the program if the Run `run` cannot continue it."""
    last = classifier.load_checkpoint(path)
    if "optimizer" not in last:
        script.fail(f"{path} holds weights only, which is not enough to resume: start anew with RESUME=False")
    if not is_complete(last):
        script.fail(f"{path} was made by another version: start anew, with START={path} to fine-tune its weights")
    for name in FIXED:
        before, now = last["constants"][name], run.constants[name]
        if name == "EMA":  # another decay needs no other network
            before, now = bool(before), bool(now)
        if before != now:
            script.fail(f"{name} differs from that of the run: set it to {last['constants'][name]}, or start anew with "
                        "RESUME=False")
    if last["classes"] != run.metadata["classes"]:
        script.fail(f"{path} is for the classes {', '.join(last['classes'])}, and the crops are of "
                    f"{', '.join(run.metadata['classes'])}: start anew with RESUME=False")
    return last


def resume(run, path):
    """Load weights/last.pt (`path`) into a new Run; ends the program if it does not fit."""
    last = read_last(path, run)
    try:
        run.net.load_state_dict(last["net"])
        run.optimizer.load_state_dict(last["optimizer"])
        if run.ema is not None:
            run.ema.load_state_dict(last["ema"])
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError):
        script.fail(f"{path} does not fit this run, perhaps since data/people.csv has other groups than before: start "
                    "anew with RESUME=False")
    for group in run.optimizer.param_groups:
        group["weight_decay"] = run.constants["WEIGHT_DECAY"]  # not that of the run before
    run.history, run.comparable_from, run.head_epochs = last["history"], last["comparable_from"], last["head_epochs"]
    report_changes(run, last)


def report_changes(run, last):
    """Print what differs between a resumed Run and its last.pt, the dict `last`. If the validation losses before and
    after cannot be compared, the best epoch is chosen anew."""
    before = last["constants"]
    changed = [f"{name} {before[name]} -> {value}" for name, value in run.constants.items()
               if name not in MAY_CHANGE and before.get(name, value) != value]
    if changed:
        distributed.say(f"changed since the run began, so its numbers will differ: {', '.join(changed)}")
    other_crops = [split for split, digest in run.fingerprints.items() if last["crops"][split] != digest]
    if other_crops:
        distributed.say(f"the crops for {' and '.join(other_crops)} are not those of epoch {run.done}")
    if other_crops or any(last[name] != run.metadata[name] for name in CHANGE_VALIDATION):
        run.comparable_from = run.done + 1
        distributed.say(f"the best epoch is chosen anew, from epoch {run.done + 1} on; RESUME=False starts a new run")


@distributed.first_only
def announce(run, train, valid, recipe):
    """Print a summary of the run, and the header of the table of epochs. `train` and `valid` are loaders; `recipe`: the
    names of the constants that a recipe of train.py sets."""
    for name, split in (("train", train.dataset), ("valid", valid.dataset)):
        counts = ", ".join(f"{c} {(split.labels == i).sum():,}" for i, c in enumerate(split.classes))
        print(f"{name}: {len(split):,} crops ({counts})")
    size = run.metadata["image_size"]
    ranks = f" in each of {distributed.WORLD} processes" if distributed.WORLD > 1 else ""
    precision = "bfloat16" if run.hardware.bf16 else "float32"
    parameters = sum(p.numel() for p in run.net.parameters())
    print(f"network: {run.constants['MODEL']}, {parameters:,} parameters, {size}x{size} pixels; "
          f"{run.hardware.device}, {precision}, {torch.get_num_threads()} threads{ranks}; "
          f"epochs {run.done + 1} to {run.constants['EPOCHS']}, {len(train)} steps each")
    print("recipe: " + " ".join(f"{name}={run.constants[name]}" for name in recipe))
    print("".join(f"{c:>15}" for c in COLUMNS))


@distributed.first_only
def save(run, folders, sources):
    """Write the files of an epoch, and print its lines. `folders`: Folders; `sources`: of train.by_source()."""
    row = {column: run.history[-1][column] for column in COLUMNS}  # without the constants, which name folders
    if len(run.history) == 1:
        folders.set_aside()
    classes, ages = run.metadata["classes"], run.metadata["ages"]
    checkpoint = {**run.metadata, "epoch": run.done, "metrics": row,
                  "state": trimmed(run.eval_net, len(classes) + len(ages))}
    # last.pt comes last: if the program is killed in between, a resumed run writes the same files again.
    if row["best"]:
        keep_best(folders.weights, checkpoint, run.history)
    log = folders.plots / "log.csv"
    try:
        write_log(log, run.history)
    except files.Busy:  # open in a spreadsheet: training is worth more, and the next epoch writes all rows
        print(f"{log.as_posix()} is open in another program, and stays as it is: the training goes on", flush=True)
    save_weights(folders.weights / "last.pt", {
        **checkpoint, "net": run.net.state_dict(), "optimizer": run.optimizer.state_dict(), "history": run.history,
        "comparable_from": run.comparable_from, "head_epochs": run.head_epochs, "constants": run.constants,
        "crops": run.fingerprints,
        "ema": None if run.ema is None else run.ema.state_dict()})
    print("".join(f"{v:>15.5g}" if isinstance(v, float) else f"{v:>15}" for v in row.values()), flush=True)
    if len(sources) > 1:
        parts = []
        for name, result in sources.items():
            shares = ", ".join(f"{class_name} {recall:.1%}" for class_name, recall in result.recalls.items())
            parts.append(f"{name} {result.loss:.3f} ({shares})")
        print(" " * 15 + "   ".join(parts), flush=True)


def keep_best(folder, checkpoint, history):
    """Save the weights of a best epoch, in half precision; only the last KEEP_BEST such files are kept."""
    state = {k: v.half() if v.is_floating_point() else v for k, v in checkpoint["state"].items()}
    for name in (f"best_weights_{checkpoint['epoch']}.pt", "best_weights.pt"):
        records.claim(folder, [name])
        save_weights(folder / name, {**checkpoint, "state": state})
    epochs = [row["epoch"] for row in history if row["best"]]
    records.remove_ours(folder, [f"best_weights_{epoch}.pt" for epoch in epochs[:-KEEP_BEST]])


def write_log(path, history):
    """Write log.csv: a row per epoch, each with the constants it was trained with."""
    with atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        rows = csv.DictWriter(file, [*COLUMNS, "constants"])
        rows.writeheader()
        rows.writerows(history)


def save_weights(path, checkpoint):
    """Write a weights file: a dict of classifier.METADATA and more, of tensors and plain Python values.

    It is written under a temporary name and renamed, so that a stop or a full disk leaves the old one whole.
    """
    with atomic(path) as temporary:
        try:
            torch.save(checkpoint, temporary)
        except RuntimeError as error:  # what torch raises if a write fails
            raise OSError(errno.ENOSPC, f"cannot write the weights, is the disk full? ({str(error).splitlines()[0]})",
                          str(path)) from None
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())


@distributed.first_only
def conclude(run, folders, valid):
    """Draw the curves, and print the best epoch and whether the threshold for "unsure" is reliable. `valid`:
    dataset.Crops."""
    path = folders.plots / f"metrics_{run.done}.{run.constants['PLOT_FORMAT']}"
    records.claim_file(path)
    try:
        plot(run.history, path)
    except files.Busy:  # open in a viewer; the weights are saved
        print(f"{path.as_posix()} is open in another program, and stays as it is")
    missed = f"TARGET_ACCURACY={run.constants['TARGET_ACCURACY']} was not reached"
    if valid.n_people < ENOUGH:
        who = "person or take" if valid.n_people == 1 else "people or takes"
        of = f" of {valid.n_people} {who}" if valid.n_people < len(valid) else ""
        print(f"{len(valid)} validation crops{of} are few: the accuracy is a rough estimate, and so is the threshold "
              "for \"unsure\"")
    elif run.reached is not None and math.isnan(run.reached):
        print(f"{missed}: the network is not confident enough of any validation crop")
    elif run.reached is not None and run.reached < run.constants["TARGET_ACCURACY"]:
        print(f"{missed}: {run.reached:.1%} of the validation crops above the threshold are right")
    best = (folders.weights / "best_weights.pt").as_posix()
    arguments = [] if files.same_file(best, classifier.OWN) else [f"WEIGHTS={best}"]  # test.py's default is OWN
    following = script.command_line("python", "test.py", *arguments)
    print(f"epochs done: {run.done}; best: epoch {run.best['epoch']}, mean_loss {run.best['mean_loss']:.4f}, "
          f"validation accuracy {run.best['valid_accuracy']:.2%} -> {best}; next: {following}")


def plot(history, path):
    """Draw the two panels of the paper, loss and accuracy per epoch, as PNG or PDF by the suffix of `path`.

    `history`: as in Run; best_weights.pt is of the last epoch that is "best".
    """
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    fig, panels = plots.figure(1, 2, size=(5.0, 4.0))
    epochs, best = [row["epoch"] for row in history], [row["epoch"] for row in history if row["best"]]
    for axes, what in zip(panels, ("loss", "accuracy"), strict=True):
        for split, label in (("train", "training crops, as augmented"), ("valid", "validation crops")):
            axes.plot(epochs, [row[f"{split}_{what}"] for row in history], marker=".", label=label)
        if best:
            axes.axvline(best[-1], color="gray", linestyle="--", linewidth=0.8, label=f"best: epoch {best[-1]}, kept")
        axes.set(xlabel="epoch", title=f"{what} per epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=9)
    panels[0].set_ylabel("cross-entropy, mean over the crops")
    panels[1].set_ylabel("accuracy")
    panels[1].yaxis.set_major_formatter(PercentFormatter(1.0))
    plots.save(fig, path)


def last_layer(net):
    """The prefix of the last layer's weight and bias in a state dict."""
    return f"classifier.{len(net.classifier) - 1}."


def trimmed(net, outputs):
    """The state dict of `net`, on the CPU, with only the first `outputs` outputs of its last layer."""
    return {k: v.cpu()[:outputs].clone() if k.startswith(last_layer(net)) else v.cpu()
            for k, v in net.state_dict().items()}


def start_from(net, path, classes):
    """Load the weights file `path` of the same network into `net`, whose first outputs are `classes`. The last layer is
    loaded only if the file has the same classes: returns whether it was. Raises WeightsError.
    """
    started, metadata = classifier.load_weights(path)
    state, same_classes = started.state_dict(), metadata["classes"] == classes
    for name, own in net.state_dict().items():  # not copies: they share memory with the tensors of `net`
        if not name.startswith(last_layer(net)):
            own.copy_(state[name])
        elif same_classes:
            own[:len(classes)] = state[name][:len(classes)]
    return same_classes
