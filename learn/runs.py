"""A training run: what it knows, what it says, and the files that it leaves and goes on from. Nothing to run.

Files: weights/last.pt, best_weights_<epoch>.pt and best_weights.pt; plots/log.csv and metrics_<epoch>.png.
"""

import csv
import dataclasses
import hashlib
import math
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch

import model
from learn import classifier, engine
from terminal import files, pictures, script
from terminal.files import atomic

COLUMNS = ("epoch", "train_loss", "train_accuracy", "valid_loss", "valid_accuracy", "mean_loss", "lr", "data_s",
           "compute_s", "best")
# Constants of train.py that a resumed run may have otherwise, since its numbers stay the same.
MAY_CHANGE = {"RESUME", "TRAIN_DIR", "VALID_DIR", "WEIGHTS_DIR", "PLOTS_DIR", "DEVICE", "PRECISION"}
JUDGES = {"JUDGED_MARGIN", "IMAGE_SIZE", "PAPER"}  # those that validation losses depend on, whatever was learned
FIXED = {"AUXILIARY": "the network's last layer", "EMA": "the average of the weights"}  # those that cannot change
KEEP_BEST = 3  # best_weights_<epoch>.pt files that stay
ENOUGH = 100  # validation crops by which the threshold for "unsure" can be chosen well


@dataclasses.dataclass
class Run:
    """What training changes from epoch to epoch, and what it has to know again when it goes on."""

    net: torch.nn.Module
    ema: torch.nn.Module | None  # moving average of the weights of `net`
    optimizer: torch.optim.Optimizer
    classes: list  # their names
    constants: dict  # of train.py, by name
    crops: dict  # fingerprint() of what it learns from and is judged by
    task_sizes: list = dataclasses.field(default_factory=list)  # numbers of classes of the auxiliary tasks
    pretrained: bool = False  # whether all but the last layer had learned before
    history: list = dataclasses.field(default_factory=list)  # a dict of COLUMNS per epoch
    best: float = math.inf  # lowest mean of the sources' validation losses, of the epochs after `since`
    since: int = 0  # epochs up to this one were judged by other crops, or otherwise
    sources: dict = dataclasses.field(default_factory=dict)  # {source: (loss, recall of each class)} of the last epoch
    sure: float = 1.0  # accuracy of the validation crops that it is sure of, after the last epoch; nan: of none

    @property
    def done(self):
        """The number of the last epoch that is done."""
        return self.history[-1]["epoch"] if self.history else 0

    @property
    def judged(self):
        """The network that is evaluated and saved."""
        return self.net if self.ema is None else self.ema

    def note(self, sources, **row):
        """Add an epoch to the history: all COLUMNS but "best", which is worked out here; `sources`: see there."""
        improved = row["mean_loss"] < self.best
        self.best = min(self.best, row["mean_loss"])
        row["best"] = "yes" if improved else ""
        self.history.append({column: row[column] for column in COLUMNS})
        self.sources = sources


class Files(NamedTuple):
    """The folders that a run writes into."""

    weights: Path
    plots: Path

    def claim(self):
        """Note what a run writes; ends the program with one line where a file of that name is not ours."""
        ours = ["last.pt"] if is_checkpoint(self.weights / "last.pt") else []
        files.claim(self.weights, ["last.pt", "best_weights.pt"], ours)
        files.claim(self.plots, ["log.csv"])
        for folder, pattern in ((self.weights, r"best_weights_\d+\.pt"), (self.plots, r"metrics_\d+\.png")):
            files.claim(folder, [path.name for path in folder.iterdir() if re.fullmatch(pattern, path.name)])

    def earlier(self):
        """[(path, name)] of what an earlier run has left, with the name in the folder where it is kept."""
        names = [name for name in files.written(self.weights) if re.fullmatch(r"(last|best_weights(_\d+)?)\.pt", name)]
        found = [(self.weights / name, name) for name in sorted(names)]
        return [(path, name) for path, name in [*found, (self.plots / "log.csv", "log.csv")] if path.is_file()]

    def set_aside(self):
        """Keep what an earlier run left in weights/run_<number>/, all of it or nothing."""
        old = self.earlier()
        if not old:
            return
        numbers = [int(m[1]) for p in self.weights.glob("run_*") if (m := re.fullmatch(r"run_(\d+)", p.name))]
        folder = self.weights / f"run_{max(numbers, default=0) + 1}"
        temporary = Path(tempfile.mkdtemp(prefix=".tmp-", dir=self.weights))
        try:
            for path, name in old:
                files.link(path, temporary / name)  # a copy where the folders lie on two drives
            if os.name != "nt":
                temporary.chmod(0o777 & ~files.UMASK)
            os.replace(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        # What the new run replaces stays until then, so that test.py and realtime.py always have weights.
        files.remove_ours(self.weights, [name for _, name in old if name.startswith("best_weights_")])
        print(f"kept the {len(old)} files of the run before in {folder}")


def is_checkpoint(path):
    """Whether a file is a last.pt of this project: one whose folder was copied without its record is ours as well."""
    try:
        return "optimizer" in classifier.load_checkpoint(path)
    except classifier.WeightsError:
        return False


def fingerprint(train, valid):
    """{"training": ..., "validation": ...}: digests of the crops of a split, by class, name and size, which stay the
    same when its folder moves."""
    facts = {name: sorted((crops.classes[label], path.name, path.stat().st_size)
                          for path, label in zip(crops.files, crops.labels.tolist(), strict=True))
             for name, crops in (("training", train), ("validation", valid))}
    return {name: hashlib.sha256(repr(rows).encode("utf-8", "surrogateescape")).hexdigest()
            for name, rows in facts.items()}


def resume(run, path):
    """Put what weights/last.pt (`path`) holds into a new Run; ends the program where that does not fit."""
    last, constants, name = classifier.load_checkpoint(path), run.constants, run.constants["MODEL"]
    if "optimizer" not in last:
        script.fail(f"{path} holds weights alone, which is not enough to go on: start anew")
    if last["classes"] != run.classes or last["model"] != name:
        script.fail(f"{path} is a {last['model']} network for {', '.join(last['classes'])}, and this run is "
                    f"{name} for {', '.join(run.classes)}: start anew with RESUME=False")
    for constant, what in FIXED.items():
        if constant not in last["constants"]:
            script.fail(f"{path} was made by another version: start anew, with START={path} to go on from its weights")
        began = last["constants"][constant]
        if constant == "EMA" and bool(began) == bool(constants["EMA"]):
            continue
        if began != constants[constant]:
            script.fail(f"{constant} is not what the run began with, and {what} depends on it: set it to {began}, or "
                        "start anew with RESUME=False")
    try:
        run.net.load_state_dict(last["net"])
        run.optimizer.load_state_dict(last["optimizer"])
        if run.ema is not None:
            run.ema.load_state_dict(last["ema"])
    except (RuntimeError, ValueError, KeyError):
        script.fail(f"{path} does not fit this run, as where data/people.csv names other groups than before: start "
                    "anew with RESUME=False")
    run.history, run.best, run.since = last["history"], last["best"], last.get("since", 0)
    run.pretrained = last.get("pretrained", False)
    changed = [k for k, v in constants.items() if k not in MAY_CHANGE and last["constants"].get(k, v) != v]
    crops = [split for split, digest in last.get("crops", {}).items() if run.crops[split] != digest]
    lines = []
    if changed:
        lines.append("changed since the run began, so its numbers will differ: "
                    + ", ".join(f"{k} {last['constants'].get(k)} -> {constants[k]}" for k in changed))
    if crops:
        lines.append(f"the crops for {' and '.join(crops)} are not those of epoch {run.done}")
    if crops or JUDGES & set(changed):  # losses before and after cannot be compared
        run.best, run.since = math.inf, run.done
        lines.append(f"the best epoch is chosen anew, from epoch {run.done + 1} on; RESUME=False starts all anew")
    if lines and engine.RANK == 0:
        print("\n".join(lines))


def announce(run, train, valid, device, bf16):
    """Print what is about to happen, and the head of the table that follows. `train` and `valid` are loaders."""
    for name, split in (("train", train.dataset), ("valid", valid.dataset)):
        counts = ", ".join(f"{c} {(split.labels == i).sum():,}" for i, c in enumerate(split.classes))
        print(f"{name}: {len(split):,} crops ({counts})")
    size, ranks = valid.dataset.shape[1], f" in each of {engine.WORLD} processes" if engine.WORLD > 1 else ""
    parameters = sum(p.numel() for p in run.net.parameters())
    print(f"network: {run.constants['MODEL']}, {parameters:,} parameters, {size}x{size} pixels; "
          f"{device}, {'bfloat16' if bf16 else 'float32'}, {torch.get_num_threads()} threads{ranks}; "
          f"epochs {run.done + 1} to {run.constants['EPOCHS']}, {len(train)} steps each")
    print("".join(f"{c:>15}" for c in COLUMNS))


def save(run, facts, folders):
    """Write the files of an epoch, and print its line. `facts`: those of a weights file that an epoch has not changed;
    `folders`: Files."""
    row = run.history[-1]
    if len(run.history) == 1:
        folders.set_aside()
    checkpoint = {**facts, "epoch": run.done, "metrics": row,
                  "state": trimmed(run.judged, len(run.classes) + len(facts["ages"]))}
    # last.pt comes last: whatever stops the program in between, a resumed run writes the same files again.
    if row["best"]:
        keep_best(folders.weights, checkpoint)
    write_log(folders.plots / "log.csv", run.history, run.constants)
    save_weights(folders.weights / "last.pt", {
        **checkpoint, "net": run.net.state_dict(), "optimizer": run.optimizer.state_dict(), "history": run.history,
        "best": run.best, "since": run.since, "pretrained": run.pretrained, "constants": run.constants,
        "crops": run.crops, "ema": None if run.ema is None else run.ema.state_dict()})
    print("".join(f"{v:>15.5g}" if isinstance(v, float) else f"{v:>15}" for v in row.values()), flush=True)
    if len(run.sources) > 1:
        print(f"{'':>15}" + "   ".join(
            f"{name} {loss:.3f} (" + ", ".join(f"{c} {r:.1%}" for c, r in zip(run.classes, recalls, strict=True)) + ")"
            for name, (loss, recalls) in run.sources.items()), flush=True)


def conclude(run, folders, n_valid):
    """Draw the curves, and say which epoch is best and what "unsure" is worth. `n_valid`: validation crops."""
    if not run.history:
        return
    path = folders.plots / f"metrics_{run.done}.png"
    files.claim_file(path)
    plot(run.history, path)
    judged = [row for row in run.history if row["epoch"] > run.since] or run.history
    top = min(judged, key=lambda row: row["mean_loss"])
    wanted = run.constants["SURE"]
    if n_valid < ENOUGH:
        print(f"{n_valid} validation crops are few: the accuracy is rough, and so is the threshold for \"unsure\"")
    elif math.isnan(run.sure):
        print(f"SURE={wanted} was not reached: the network is not confident enough of any validation crop, so that "
              "realtime.py says \"unsure\" of most faces")
    elif run.sure < wanted:
        print(f"SURE={wanted} was not reached: of what it is sure of, {run.sure:.1%} of the validation crops are right")
    print(f"{len(run.history)} epochs done; best: epoch {top['epoch']}, validation loss {top['valid_loss']:.4f}, "
          f"accuracy {top['valid_accuracy']:.2%} -> {folders.weights}/best_weights.pt; next: python test.py")


def keep_best(weights, checkpoint):
    """Save the weights of a best epoch, in half precision; only the last KEEP_BEST such files stay."""
    state = {k: v.half() if v.is_floating_point() else v for k, v in checkpoint["state"].items()}
    checkpoint = {**checkpoint, "state": state}
    for name in (f"best_weights_{checkpoint['epoch']}.pt", "best_weights.pt"):
        files.claim(weights, [name])
        save_weights(weights / name, checkpoint)
    matches = [re.fullmatch(r"best_weights_(\d+)\.pt", name) for name in files.written(weights)]
    epochs = sorted(int(match[1]) for match in matches if match)
    files.remove_ours(weights, [f"best_weights_{epoch}.pt" for epoch in epochs[:-KEEP_BEST]])


def write_log(path, history, constants):
    """Write log.csv: a row per epoch, each with the constants of the run."""
    described = " ".join(f"{k}={v}" for k, v in constants.items())
    with atomic(path) as temporary:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow([*COLUMNS, "constants"])
            rows.writerows([*(row.get(c, "") for c in COLUMNS), described] for row in history)


def plot(history, path):
    """Draw the two panels of the paper: loss and accuracy per epoch, for training and validation."""
    fig, panels = pictures.figure(1, 2, size=(5.0, 4.0))
    for axes, what in zip(panels, ("loss", "accuracy"), strict=True):
        for split in ("train", "valid"):
            axes.plot([r["epoch"] for r in history], [r[f"{split}_{what}"] for r in history], marker=".", label=split)
        axes.set(xlabel="epoch", ylabel=what, title=f"{what} per epoch")
        axes.grid(alpha=0.3)
        axes.legend()
    pictures.save(fig, path)


def save_weights(path, checkpoint):
    """Write a plain dict of tensors and Python values: the facts named in FACTS, `state`, and whatever else.

    The file is written under a temporary name and renamed, so that a stop or a full disk leaves the old one whole.
    """
    with atomic(path) as temporary:
        try:
            torch.save(checkpoint, temporary)
        except RuntimeError as error:  # torch reports a failed write so
            raise OSError(28, f"cannot write the weights, is the disk full? ({str(error).splitlines()[0]})",
                          str(path)) from None
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())


def last_layer(net):
    """The names in a state dict of the last layer's weight and bias."""
    return [f"classifier.{len(net.classifier) - 1}.{name}" for name in ("weight", "bias")]


def trimmed(net, outputs):
    """The state dict of `net`, on the CPU, with the first `outputs` of its last layer, without those of other tasks."""
    return {k: v.cpu()[:outputs].clone() if k in last_layer(net) and len(v) > outputs else v.cpu()
            for k, v in net.state_dict().items()}


def start_from(net, path, classes):
    """Give `net` (for `classes` and maybe more) the weights of a file of the same network, without its last layer where
    that is for other classes. Returns whether all were taken; raises WeightsError.
    """
    started, info = classifier.load_weights(path)
    state, same = started.state_dict(), info["classes"] == classes
    for key in last_layer(net):
        own = net.state_dict()[key].clone()
        if same:
            own[:len(classes)] = state[key][:len(classes)]
        state[key] = own
    net.load_state_dict(state)
    return same


def initialise(net, classes, start):
    """Give `net` (for `classes` and maybe more) what a run starts from: the weights file `start`, or if it is None
    ImageNet's weights, for a network that has such.

    Returns whether all but the last layer has learned before.
    """
    if start:
        return not start_from(net, start, classes)
    if not isinstance(net, model.Backbone):
        return False
    with engine.one_at_first():
        problem = model.load_imagenet(net)
    if problem and not engine.RANK:
        print(problem, flush=True)
    return not problem
