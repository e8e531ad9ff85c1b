"""Step 3: train the network.

    python train.py                    processed/train, processed/valid  ->  weights/, plots/
    python train.py ... RESUME=True    continues a stopped run; it ends with the weights of one that never stopped
    python train.py PAPER=True         the paper's own settings
    torchrun --nproc-per-node=2 train.py       data-parallel, on two GPUs or in two CPU processes

It writes weights/last.pt and plots/log.csv after every epoch; weights/best_weights_<epoch>.pt and
weights/best_weights.pt, which test.py and realtime.py read, whenever mean_loss() of the validation improves; and
plots/metrics_<epoch>.png at the end. The files of an earlier run are kept in weights/run_<number>/.
"""

from terminal import script  # isort: skip  # first, so that Ctrl-C during the other imports is one line

import copy
import math
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch.nn import functional

import dataset
import model as networks
from faces import cropping
from judge import plots
from learn import augment, auxiliary, calibration, classifier, devices, distributed, runs
from terminal import places, rules, stops
from validation import TRAIN_DIR, VALID_DIR

# ------------------------------------------------------------------------------------------------ settings
WEIGHTS_DIR = "weights"
PLOTS_DIR = "plots"
PLOT_FORMAT = "png"  # file format of the plots; "pdf" for reports
MODEL = "paper"  # a key of model.NETWORKS: paper, small, vgg16, resnet18, mobilenet_v3_small, efficientnet_b0
START = None  # weights to fine-tune, such as "weights/shipped/small.pt": of the same MODEL; the classes may differ
IMAGE_SIZE = None  # side of the network's input in pixels; None: that of START, or of MODEL
SEED = 0
RESUME = False  # True continues from weights/last.pt
DEVICE = "auto"  # "auto": a CUDA GPU if there is one, else the CPU; "cpu", "cuda", "mps"
PRECISION = "auto"  # "auto": bfloat16 if the hardware supports it; "float32"; "bfloat16"

# ------------------------------------------------------------------------------------------------ the recipe
PAPER = False  # True: the paper's recipe
# None: the value in RECIPES, below
EPOCHS = None
BATCH_SIZE = None  # crops per step
LR = None  # peak learning rate of AdamW
AUGMENT = None  # a key of augment.AUGMENTATIONS: none, face, occlusion, paper
WEIGHT_DECAY = None  # decoupled (AdamW); 0.0 is plain Adam
LABEL_SMOOTHING = None  # of the training loss only; the losses in log.csv are without it
EMA = None  # decay of the exponential moving average of the weights, which is evaluated and saved; 0.0: off
# Weight the crops so that all classes count the same within each source that data/people.csv names. Otherwise a source
# with more men than women, such as the news, teaches the network to recognise the source and answer "man".
BALANCE = None

# Auxiliary tasks: columns of data/people.csv, such as ("age", "ethnicity"), that the network predicts beside the class,
# which improves its features. Weights files keep the age outputs (see classifier.CHILD). (): the class only.
AUXILIARY = ()
# Margin around the face in validation crops, as a share of its size; saved with the weights for test.py and
# realtime.py. Random zoom enlarges faces in training, so validation is better with a smaller margin than training:
# Touvron et al., "Fixing the train-test resolution discrepancy", NeurIPS 2019. None: that of START, or cropping.MARGIN.
EVAL_MARGIN = None
# The threshold for "unsure" is the lowest confidence from which the validation accuracy is at least this. With a lower
# target, more errors are left in the groups that the network fails most often.
TARGET_ACCURACY = 0.98
# ------------------------------------------------------------------------------------------------

RECIPES = {
    "default": {"EPOCHS": 12, "BATCH_SIZE": 64, "LR": 1e-3, "AUGMENT": "face", "WEIGHT_DECAY": 0.05,
                "LABEL_SMOOTHING": 0.05, "EMA": 0.998, "BALANCE": True},
    "paper": {"EPOCHS": 50, "BATCH_SIZE": 16, "LR": 1e-3, "AUGMENT": "paper", "WEIGHT_DECAY": 0.0,
              "LABEL_SMOOTHING": 0.0, "EMA": 0.0, "BALANCE": False},
}
# With START: the recipe "default", but this LR, and as many EPOCHS as these steps need, at least 4
FINE_TUNING_LR = 3e-4
FINE_TUNING_STEPS = 400  # see docs/experiments.md

saved_epochs = []  # the epochs that this process has saved, for how_to_continue()


def chosen_constants(n_crops):
    """The constants of this run for `n_crops` training crops, with those of the recipe: dict of name -> value."""
    constants = rules.constants(globals())
    recipe = dict(RECIPES["paper" if PAPER else "default"])
    if START and not PAPER:
        steps_per_epoch = math.ceil(n_crops / (BATCH_SIZE or recipe["BATCH_SIZE"]))
        recipe["LR"] = FINE_TUNING_LR
        recipe["EPOCHS"] = max(4, math.ceil(FINE_TUNING_STEPS / steps_per_epoch))
    return constants | {name: value for name, value in recipe.items() if constants[name] is None}


def learning_rate(progress, constants):
    """The learning rate at `progress` (0..1 of all steps): linear warm-up for a tenth of them, then cosine decay; with
    PAPER constant."""
    peak = constants["LR"]
    if constants["PAPER"]:
        return peak
    if progress < 0.1:
        return peak * progress / 0.1
    return peak * 0.5 * (1 + math.cos(math.pi * (progress - 0.1) / 0.9))


def training_loss(outputs, labels, sample_weights, task_labels, task_sizes, smoothing):
    """Weighted cross-entropy of the classes plus that of the auxiliary tasks, summed over the batch.

    outputs: logits of the classes, then of the tasks, [N, C + sum of task_sizes]; labels, sample_weights: [N];
    task_labels: [N, tasks].
    """
    n_classes = outputs.shape[1] - sum(task_sizes)
    losses = functional.cross_entropy(outputs[:, :n_classes], labels, reduction="none", label_smoothing=smoothing)
    losses = losses * sample_weights
    if task_sizes:
        losses = losses + auxiliary.WEIGHT * auxiliary.loss(outputs[:, n_classes:], task_labels, task_sizes)
    return losses.sum()


def train_epoch(run, loader, epoch):
    """One pass over the training crops: updates the network, its moving average and the optimizer of `run`, a runs.Run.

    Returns (loss, accuracy, data_s, compute_s): means over all images, and the seconds spent on loading and
    augmentation, and on the rest. A GPU's work is queued, so that there only the sum of the two is exact.
    """
    constants, device, crops = run.constants, run.hardware.device, loader.dataset
    net = run.training_net(epoch)
    loader.sampler.epoch = epoch
    # Dropout uses PyTorch's global generator. It is seeded here, so that an epoch is the same after a resume.
    torch.manual_seed(dataset.seed_of(constants["SEED"], epoch, distributed.RANK))
    sums = torch.zeros(2, device=device)  # of the losses, and of the correct predictions
    data_s = 0.0
    began = waiting_since = time.perf_counter()
    bar = distributed.progress_bar(loader, desc=f"epoch {epoch}", unit_scale=constants["BATCH_SIZE"], unit="img")
    for step, batch in enumerate(bar):
        images, labels, sample_weights, task_labels = (
            part.to(device, non_blocking=device.type == "cuda") for part in batch)
        batch_size = loader.sampler.sizes[step]  # over all processes: `images` are the rows sampler.rows of the batch
        generator = dataset.generator_for(constants["SEED"], epoch, step)
        images = augment.augment(images, constants["AUGMENT"], generator, loader.sampler.rows, batch_size)
        data_s += time.perf_counter() - waiting_since

        steps_done = (epoch - 1) * len(loader) + step
        progress = (steps_done + 0.5) / (constants["EPOCHS"] * len(loader))  # + 0.5: the rate is never 0
        for group in run.optimizer.param_groups:
            group["lr"] = learning_rate(progress, constants)
        with run.hardware.autocast():
            outputs = net(images).float()
        loss = training_loss(outputs, labels, sample_weights, task_labels, crops.task_sizes,
                             constants["LABEL_SMOOTHING"])
        run.optimizer.zero_grad(set_to_none=True)
        (loss * distributed.WORLD / batch_size).backward()  # times WORLD, since DDP averages what must be summed
        run.optimizer.step()
        run.update_ema(steps_done)

        with torch.no_grad():  # the log has the plain loss: no smoothing, sample weights or auxiliary tasks
            logits = outputs[:, :len(crops.classes)]
            sums[0] += functional.cross_entropy(logits, labels, reduction="sum")
            sums[1] += (logits.argmax(1) == labels).sum()
        waiting_since = time.perf_counter()
    loss, accuracy = (distributed.total(sums.cpu()) / len(crops)).tolist()
    return loss, accuracy, data_s, time.perf_counter() - began - data_s


def check_loss(loss, epoch):
    """End with one line, before anything of the epoch is saved, if a loss is NaN or infinite."""
    if not math.isfinite(loss):
        others = " or continue with RESUME=True and a lower LR" if epoch > 1 else " with a lower LR"
        script.fail(f"the loss became {loss} in epoch {epoch}: the weights saved so far are kept; start again" + others)


@torch.inference_mode()
def evaluate(run, loader):
    """Logits float32 [N, n_classes] and labels int64 [N] of a split, on the CPU, without augmentation, from the moving
    average of the network (if EMA is 0, from the network itself).

    Each process evaluates its rows of every batch; all of them return the logits of the whole split.
    """
    net, device, crops = run.eval_net, run.hardware.device, loader.dataset
    net.eval()
    distributed.broadcast_buffers(net)
    transform = dataset.evaluation_transform(crops.image_size)
    logits = torch.zeros(len(crops), len(crops.classes), device=device)
    bar = distributed.progress_bar(loader, desc="validation", unit="batch")
    for (images, *_), rows in zip(bar, loader.sampler, strict=True):  # the sampler yields the same indices again
        images = transform(images.to(device))
        with run.hardware.autocast():
            outputs = net(images)
            if run.metadata["flip"]:  # test-time augmentation: the mean with the logits of the mirror image
                outputs = (outputs + net(images.flip(3))) / 2
        logits[rows] = outputs[:, :len(crops.classes)].float()  # without the outputs of auxiliary tasks
    return distributed.total(logits.cpu()), crops.labels  # rows of other processes are 0 here, so the sum is complete


class SourceResult(NamedTuple):
    """The validation of the crops of one source."""

    count: int  # of crops
    loss: float
    recalls: dict  # {class: its recall}, of the classes that the source has


def by_source(logits, labels, crops):
    """{source: SourceResult} of a split. `logits`: float32 [N, n_classes], `labels`: int64 [N], `crops`: dataset.Crops.
    """
    results = {}
    for index, source in enumerate(crops.sources):
        of_source = crops.source_index == index
        own_logits, own_labels = logits[of_source], labels[of_source]
        correct = own_logits.argmax(1) == own_labels
        recalls = {}
        for label, name in enumerate(crops.classes):
            of_class = own_labels == label
            if of_class.any():
                recalls[name] = correct[of_class].float().mean().item()
        loss = functional.cross_entropy(own_logits, own_labels).item()
        results[source] = SourceResult(len(own_labels), loss, recalls)
    return results


def mean_loss(results):
    """The weighted mean of the losses of some SourceResults. The weight is the square root of the number of crops: a
    large source does not hide the others, and five webcam photos do not count as much as 20,000."""
    weights = [math.sqrt(result.count) for result in results]
    return sum(weight * result.loss for weight, result in zip(weights, results, strict=True)) / sum(weights)


def input_format():
    """(side of the network's input in pixels, margin of the validation crops)."""
    image_size, margin = networks.image_size(MODEL), cropping.MARGIN
    if START:
        start = classifier.load_checkpoint(START)
        if start["model"] != MODEL:
            script.fail(f"START={START} is a {start['model']} network and this run trains {MODEL}: choose another "
                        f"START, or MODEL={start['model']}")
        image_size, margin = start["image_size"], start["margin"]
    if IMAGE_SIZE is not None:
        image_size = IMAGE_SIZE
    if EVAL_MARGIN is not None:
        margin = float(EVAL_MARGIN)
    return image_size, margin


def load_data(image_size, margin, device):
    """The dataset.Crops of training and validation. `image_size`, `margin`: of input_format()."""
    with distributed.first_process_first():
        train = dataset.Crops(TRAIN_DIR, image_size).prepare(quiet=not distributed.IS_FIRST)
        valid = dataset.Crops(VALID_DIR, image_size, margin).prepare(quiet=not distributed.IS_FIRST)
    if lacking := sorted({*train.classes} ^ {*valid.classes}):
        script.fail(f"{TRAIN_DIR} or {VALID_DIR} has no crops of {', '.join(lacking)}: run 'python validation.py'")
    train.task_labels, train.task_sizes, train.ages = auxiliary.labels(train.known, AUXILIARY)
    for crops in (train, valid):
        crops.move_to(device)
    return train, valid


def load_pretrained(net, classes):
    """Load the weights of START, or for a Backbone those of ImageNet, into `net`, whose first outputs are `classes`.

    Returns whether the features are pretrained and the head is new. The first epoch then trains only the head, since
    its first gradients are noise to the features.
    """
    if START:
        has_head = runs.start_from(net, START, classes)
        return not has_head
    if isinstance(net, networks.Backbone):
        with distributed.first_process_first():
            problem = networks.load_imagenet(net)  # None, or why there are no pretrained features
        distributed.say(problem)
        return problem is None
    return False


def begin(train, valid, constants, hardware):
    """The runs.Run to train: a new one, or with RESUME that of weights/last.pt. `train`, `valid`: dataset.Crops."""
    torch.manual_seed(SEED)
    net = networks.build(MODEL, len(train.classes) + sum(train.task_sizes))
    net = net.to(hardware.device, memory_format=torch.channels_last)
    head_first = not RESUME and load_pretrained(net, train.classes)
    # What test.py and realtime.py need to know, saved with the weights.
    metadata = {"model": MODEL, "classes": train.classes, "image_size": valid.image_size, "mean": dataset.MEAN,
                "std": dataset.STD, "margin": valid.margin, "clahe": train.clahe, "flip": not constants["PAPER"],
                "ages": train.ages}
    optimizer = torch.optim.AdamW(net.parameters(), constants["LR"], weight_decay=constants["WEIGHT_DECAY"],
                                  fused=hardware.device.type != "mps")  # one pass over all parameters: faster
    ema = copy.deepcopy(net) if constants["EMA"] else None
    run = runs.Run(net, ema, optimizer, hardware, constants, metadata, runs.fingerprints(train, valid),
                   head_epochs=1 if head_first else 0)
    if RESUME:
        runs.resume(run, Path(WEIGHTS_DIR, "last.pt"))
    return run


def is_finished(run):
    """Whether no epoch is left to train. Fine-tuning ends once it is settled, unless EPOCHS is set."""
    may_end_early = START is not None and EPOCHS is None
    return run.done >= run.constants["EPOCHS"] or (may_end_early and run.settled)


def train_and_validate(run, train_loader, valid_loader):
    """Train, validate and calibrate for one epoch, add it to the history of `run`, and return its {source:
    SourceResult}."""
    epoch, valid = run.done + 1, valid_loader.dataset
    loss, accuracy, data_s, compute_s = train_epoch(run, train_loader, epoch)
    logits, labels = evaluate(run, valid_loader)
    valid_loss = functional.cross_entropy(logits, labels).item()
    valid_accuracy = (logits.argmax(1) == labels).float().mean().item()
    check_loss(loss, epoch)
    check_loss(valid_loss, epoch)  # weights that are NaN since the last step show only here
    results = by_source(logits, labels, valid)
    run.add_epoch(epoch=epoch, train_loss=loss, train_accuracy=accuracy, valid_loss=valid_loss,
                  valid_accuracy=valid_accuracy, mean_loss=mean_loss(results.values()),
                  lr=run.optimizer.param_groups[0]["lr"], data_s=round(data_s, 2), compute_s=round(compute_s, 2))
    temperature, threshold, run.reached = calibration.calibrate(
        logits, labels, run.constants["TARGET_ACCURACY"], few=valid.n_people < runs.ENOUGH)
    run.metadata |= {"temperature": temperature, "threshold": threshold}
    return results


def fit(hardware):
    """Train all epochs, or with RESUME those that weights/last.pt has not done."""
    image_size, margin = input_format()
    folders = runs.Folders(Path(WEIGHTS_DIR), Path(PLOTS_DIR))
    folders.claim()  # before any work, since it ends the program if a file of the user's would be overwritten
    train, valid = load_data(image_size, margin, hardware.device)
    constants = chosen_constants(len(train))
    if constants["BALANCE"]:
        train.balance()
    run = begin(train, valid, constants, hardware)
    valid_batch_size = 256 if hardware.device.type == "cuda" else 128  # affects speed and memory only
    train_loader = dataset.loader(train, constants["BATCH_SIZE"], SEED, distributed.RANK, distributed.WORLD)
    valid_loader = dataset.loader(valid, valid_batch_size, None, distributed.RANK, distributed.WORLD)
    distributed.check_batch_sizes(run.net, train.image_size, train_loader.sampler.sizes)
    if is_finished(run):
        ten_more = same_command(f"EPOCHS={run.done + 10}", "RESUME=True")
        distributed.say(f"all {run.done} epochs were done before; ten more: {ten_more}")
    else:
        runs.announce(run, train_loader, valid_loader, recipe=RECIPES["default"])
        while not is_finished(run):
            results = train_and_validate(run, train_loader, valid_loader)
            with stops.later():  # Ctrl-C waits here, so that either all files of an epoch are written or none
                runs.save(run, folders, results)
                saved_epochs.append(run.done)
        if run.done < constants["EPOCHS"]:
            distributed.say(f"training ends early: all {len(valid)} validation crops were right in the last "
                            f"{run.patience} epochs")
    runs.conclude(run, folders, valid)


RULES = dict(
    TRAIN_DIR=str, VALID_DIR=str, WEIGHTS_DIR=str, PLOTS_DIR=str, PLOT_FORMAT=plots.ENDINGS, MODEL=networks.NETWORKS,
    START=rules.optional(str), EPOCHS=rules.optional((int, 1, None)), BATCH_SIZE=rules.optional((int, 1, None)),
    LR=rules.optional((float, 1e-12, 10)), IMAGE_SIZE=rules.optional((int, 32, 224)), SEED=(int, 0, 2**63 - 1),
    RESUME=bool, DEVICE=("auto", "cpu", "cuda", "mps"), PAPER=bool, AUGMENT=rules.optional(augment.AUGMENTATIONS),
    WEIGHT_DECAY=rules.optional((float, 0, 1)), LABEL_SMOOTHING=rules.optional((float, 0, 0.99)),
    EMA=rules.optional((float, 0, 0.99999)), BALANCE=rules.optional(bool),
    AUXILIARY=rules.some_of(auxiliary.TASKS), EVAL_MARGIN=rules.optional((float, 0, cropping.MARGIN)),
    TARGET_ACCURACY=(float, 0.01, 0.9999), PRECISION=("auto", "float32", "bfloat16"))


def main():
    rules.check(globals())
    if MODEL == "paper" and IMAGE_SIZE not in (None, 224):
        script.fail(f"IMAGE_SIZE={IMAGE_SIZE}: must be None or 224, the only size that the paper's network takes")
    places.check_outputs(globals(), "WEIGHTS_DIR", "PLOTS_DIR")
    hardware = devices.choose(DEVICE, PRECISION, distributed.LOCAL_RANK)
    devices.limit_threads()
    devices.keep_memory()  # faster steps on Linux: the C library keeps freed memory
    with distributed.ranks(hardware.device):
        fit(hardware)


def same_command(*changes):
    """This command line with some constants changed, each "NAME=VALUE", as text."""
    if distributed.WORLD > 1:
        return f"the same command and {' '.join(changes)}"
    names = {change.partition("=")[0] for change in changes}
    kept = [argument for argument in sys.argv[1:] if argument.partition("=")[0] not in names]
    return script.command_line("python", "train.py", *kept, *changes)


def how_to_continue():
    """What to do after a stop."""
    if not saved_epochs:
        return "no epoch is finished: run the same command again"
    return f"finished epochs are kept; continue with: {same_command('RESUME=True')}"


if __name__ == "__main__":
    rules.override(globals())
    script.run(main, stopped=how_to_continue)
