"""Step 3: train the network.

    python train.py                    processed/train, processed/valid  ->  weights/, plots/
    python train.py RESUME=True        continues a stopped run to the same numbers
    python train.py PAPER=True         the paper's own settings
    torchrun --nproc-per-node=2 train.py       the same on two GPUs, or processes, at once

Whenever the validation loss improves, the mean over the sources of the crops, it writes weights/best_weights_<epoch>.pt
and weights/best_weights.pt, which test.py and realtime.py read; after every epoch weights/last.pt and plots/log.csv; at
the end plots/metrics_<epoch>.png. The files of an earlier run are kept in weights/run_<number>/.
"""

from terminal import script  # isort: skip  # first, see terminal/script.py

import copy
import math
import sys
import time
from pathlib import Path

import torch
from torch.nn import functional

import dataset
import model as networks
from faces import cropping
from judge import pictures
from learn import augment, auxiliary, classifier, engine, runs
from terminal import files, rules, stops
from validation import TRAIN_DIR, VALID_DIR

# ------------------------------------------------------------------------------------------------ what people change
WEIGHTS_DIR = "weights"
PLOTS_DIR = "plots"
PICTURES = "png"  # how their names end; "pdf" for reports
MODEL = "paper"  # a key of model.NETWORKS: paper, small, vgg16, resnet18, mobilenet_v3_small, efficientnet_b0
START = None  # a weights file of the same network to fine-tune, as "weights/shipped/small.pt"; for other classes too
# None, here and below, stands for a value that settings() or load_data() chooses, and that log.csv then has.
EPOCHS = None
BATCH_SIZE = None  # crops in a step
LR = None  # of Adam, at its highest
IMAGE_SIZE = None  # side of the network's input in pixels
SEED = 0
RESUME = False  # True continues from weights/last.pt
DEVICE = "auto"  # "auto": a CUDA GPU, or else the CPU; "cpu", "cuda", "mps"

# ------------------------------------------------------------------------------------------------ the recipe
PAPER = False  # True: the paper's recipe, see settings(), whatever the constants below say
AUGMENT = "face"  # a key of augment.AUGMENTATIONS: none, face, occlusion, paper
WEIGHT_DECAY = 0.05  # decoupled (AdamW); 0.0 is plain Adam
LABEL_SMOOTHING = 0.05  # training only: losses that are reported have none
EMA = 0.998  # decay of the moving average of the weights, which is what is evaluated; 0.0: off
# Within each source that data/people.csv names all classes count the same, so that "in the news" does not come to mean
# "a man".
BALANCE = True
# Columns of data/people.csv, as ("age", "ethnicity"), that the network learns beside the class: features that know more
# of a face are better at the class too. Weights files keep the ages (see classifier.CHILD). (): the class alone.
AUXILIARY = ()
# Margin of the crops at validation, and with the weights from then on. Crops that are enlarged at random in training
# are judged better a little enlarged: Touvron et al., "Fixing the train-test resolution discrepancy", NeurIPS 2019.
JUDGED_MARGIN = None
# realtime.py says "unsure" below the confidence from which validation accuracy is at least this. Groups that a network
# fails more often need it high.
TARGET_ACCURACY = 0.98
PRECISION = "auto"  # "auto": bfloat16 where the hardware has it; "float32"; "bfloat16"
# ------------------------------------------------------------------------------------------------


def settings(n_crops):
    """The constants of this run for `n_crops` training crops: dict of name -> value."""
    constants, fixed = script.constants(globals()), {}
    defaults = {"EPOCHS": 12, "BATCH_SIZE": 64, "LR": 1e-3}
    if PAPER:
        defaults |= {"EPOCHS": 50, "BATCH_SIZE": 16}
        fixed = {"AUGMENT": "paper", "WEIGHT_DECAY": 0.0, "LABEL_SMOOTHING": 0.0, "EMA": 0.0, "BALANCE": False}
    elif START:
        # Fine-tuning needs about 400 steps: see docs/experiments.md.
        steps_per_epoch = math.ceil(n_crops / (BATCH_SIZE or defaults["BATCH_SIZE"]))
        defaults |= {"EPOCHS": max(4, math.ceil(400 / steps_per_epoch)), "LR": 3e-4}
    chosen = {name: value for name, value in defaults.items() if constants[name] is None}
    return constants | chosen | fixed


def learning_rate(progress, peak):
    """The learning rate at `progress` (0..1 of all steps): up linearly for a tenth, then down along a cosine; the
    paper's is constant."""
    if PAPER:
        return peak
    if progress < 0.1:
        return peak * progress / 0.1
    return peak * 0.5 * (1 + math.cos(math.pi * (progress - 0.1) / 0.9))


def training_loss(outputs, labels, sample_weights, tasks, task_sizes, smoothing):
    """What a step minimises, summed over the batch: weighted cross-entropy of the classes, and the auxiliary tasks'.

    outputs: logits of the classes, then those of the tasks, [N, C + sum of task_sizes]; labels, sample_weights: [N];
    tasks: [N, tasks].
    """
    n_classes = outputs.shape[1] - sum(task_sizes)
    losses = functional.cross_entropy(outputs[:, :n_classes], labels, reduction="none", label_smoothing=smoothing)
    losses = losses * sample_weights
    if task_sizes:
        losses = losses + auxiliary.WEIGHT * auxiliary.loss(outputs[:, n_classes:], tasks, task_sizes)
    return losses.sum()


def train_epoch(run, batches, epoch):
    """One pass over the training crops, a step per batch: changes the networks and the optimizer of `run`, a runs.Run.

    Returns (loss, accuracy), means over all images, and the seconds spent on (data, compute).
    """
    constants, device, crops = run.constants, run.hardware.device, batches.dataset
    model = run.trained_in(epoch)
    batches.sampler.epoch = epoch
    # Dropout draws from PyTorch's own generator: seeded anew, an epoch is the same after a resume.
    torch.manual_seed(dataset.generator_for(SEED, epoch, engine.RANK).initial_seed())
    began, data_s, sums = time.perf_counter(), 0.0, []  # sums: of each step its loss, right answers and images
    waiting_since = began
    bar = engine.progress(batches, desc=f"epoch {epoch}", unit_scale=constants["BATCH_SIZE"], unit="img")
    for step, batch in enumerate(bar):
        images, labels, sample_weights, tasks = (part.to(device, non_blocking=device.type == "cuda") for part in batch)
        batch_size = batches.sampler.sizes[step]  # of the whole batch; each process has some of its rows
        images = augment.augment(images, constants["AUGMENT"], dataset.generator_for(SEED, epoch, step),
                                 batches.sampler.rows, batch_size)
        data_s += time.perf_counter() - waiting_since

        steps_done = (epoch - 1) * len(batches) + step
        for group in run.optimizer.param_groups:  # the middle of a step: its rate is 0 neither first nor last
            group["lr"] = learning_rate((steps_done + 0.5) / (constants["EPOCHS"] * len(batches)), constants["LR"])
        with run.hardware.autocast():
            outputs = model(images).float()
        loss = training_loss(outputs, labels, sample_weights, tasks, crops.task_sizes, constants["LABEL_SMOOTHING"])
        run.optimizer.zero_grad(set_to_none=True)
        (loss * engine.WORLD / batch_size).backward()  # processes average their gradients
        run.optimizer.step()
        if run.ema is not None:
            engine.update_ema(run.ema, run.net, constants["EMA"], steps_done)

        with torch.no_grad():  # the log has the loss without smoothing, weights and auxiliary tasks
            logits = outputs[:, :len(crops.classes)]
            cross_entropy = functional.cross_entropy(logits, labels, reduction="sum")
            right = (logits.argmax(1) == labels).sum()
            sums.append(torch.stack([cross_entropy, right, torch.full_like(right, len(labels))]))
        if step % 50 == 0:  # .item() waits for the GPU
            check_loss(loss.item(), epoch)
        waiting_since = time.perf_counter()
    loss, right, count = engine.total(sum(torch.stack(sums).cpu().double())).tolist()
    return loss / count, right / count, data_s, time.perf_counter() - began - data_s


def check_loss(loss, epoch):
    """End with one line where a loss is not finite, before anything is written over."""
    if not math.isfinite(loss):
        script.fail(f"the loss became {loss} in epoch {epoch}: the weights saved so far are kept; lower LR and start "
                    "again, or continue with RESUME=True and a lower LR")


@torch.inference_mode()
def evaluate(run, batches):
    """Logits float32 [N, n_classes] and labels int64 [N] of a split, on the CPU, without augmentation, by the moving
    average of the network (the network itself where EMA is 0).

    Every process does its share and gets all of it.
    """
    net, device, crops = run.eval_net, run.hardware.device, batches.dataset
    net.eval()
    engine.share_statistics(net)
    transform = dataset.evaluation_transform(crops.shape[1])
    logits = torch.zeros(len(crops), len(crops.classes), device=device)
    bar = engine.progress(batches, desc="validation", unit="batch")
    for (images, *_), rows in zip(bar, batches.sampler, strict=True):
        images = transform(images.to(device))
        with run.hardware.autocast():
            outputs = net(images)
            if run.metadata["flip"]:  # the mean with the mirror image's: twice the work for fewer errors
                outputs = (outputs + net(images.flip(3))) / 2
        logits[rows] = outputs[:, :len(crops.classes)].float()  # without those of auxiliary tasks
    return engine.total(logits.cpu()), crops.labels


def by_source(logits, labels, crops):
    """{source: (number of crops, loss, recall of each class)} of a split; a recall is nan where a source has none of a
    class.

    `logits` float32 [N, n_classes], `labels` int64 [N]; `crops`: the dataset.Crops they are of.
    """
    results = {}
    for number, source in enumerate(crops.sources):
        own = crops.source == number
        right = logits[own].argmax(1) == labels[own]
        recalls = [right[labels[own] == c].float().mean().item() for c in range(len(crops.classes))]
        results[source] = int(own.sum()), functional.cross_entropy(logits[own], labels[own]).item(), recalls
    return results


def mean_loss(sources):
    """The mean of the sources' losses, of by_source(), each weighted by the square root of its number of crops: a large
    source does not hide the others, and five photos of a webcam do not count as much as 20,000."""
    weights = [math.sqrt(count) for count, _, _ in sources.values()]
    return sum(w * loss for w, (_, loss, _) in zip(weights, sources.values(), strict=True)) / sum(weights)


def read_start():
    """The metadata of START, a dict; an empty one where nothing is fine-tuned."""
    if not START:
        return {}
    start = classifier.load_checkpoint(START)
    if start["model"] != MODEL:
        script.fail(f"START={START} is a {start['model']} network and this run trains {MODEL}: choose another START, "
                    f"or MODEL={start['model']}")
    return start


def load_data(start, device):
    """The dataset.Crops of training and validation, as the network takes them. `start`: of read_start()."""
    size = IMAGE_SIZE or start.get("image_size") or networks.image_size(MODEL)
    margin = start.get("margin", cropping.MARGIN) if JUDGED_MARGIN is None else float(JUDGED_MARGIN)
    with engine.one_at_first():
        train = dataset.Crops(TRAIN_DIR, size).prepare(quiet=not engine.IS_FIRST)
        valid = dataset.Crops(VALID_DIR, size, margin).prepare(quiet=not engine.IS_FIRST)
    if lacking := sorted({*train.classes} ^ {*valid.classes}):
        script.fail(f"of {TRAIN_DIR} and {VALID_DIR} one has no crops of {', '.join(lacking)}: run 'python "
                    "validation.py'")
    train.auxiliary, train.task_sizes, train.ages = auxiliary.labels(train.known, AUXILIARY)
    for crops in (train, valid):
        crops.move_to(device)
    return train, valid


def begin(train, valid, constants, hardware):
    """The runs.Run to go on with: new, or with RESUME what weights/last.pt holds. `train`, `valid`: dataset.Crops."""
    torch.manual_seed(SEED)
    net = networks.build(MODEL, len(train.classes) + sum(train.task_sizes))
    net = net.to(hardware.device, memory_format=torch.channels_last)
    head_epochs = 0  # at first only a new head learns: its gradients are noise to features that have learned before
    if START and not RESUME:
        head_epochs = 0 if runs.start_from(net, START, train.classes) else 1
    elif isinstance(net, networks.Backbone) and not RESUME:
        with engine.one_at_first():
            problem = networks.load_imagenet(net)
        head_epochs = 0 if problem else 1
        engine.say(problem)
    # What test.py and realtime.py need to know, saved with the weights.
    metadata = {"model": MODEL, "classes": train.classes, "image_size": valid.shape[1], "mean": dataset.MEAN,
                "std": dataset.STD, "margin": valid.margin, "clahe": train.clahe, "flip": not PAPER,
                "ages": train.ages}
    optimizer = torch.optim.AdamW(net.parameters(), constants["LR"], weight_decay=constants["WEIGHT_DECAY"],
                                  fused=hardware.device.type != "mps")
    run = runs.Run(net, copy.deepcopy(net) if constants["EMA"] else None, optimizer, hardware, constants, metadata,
                   runs.fingerprint(train, valid), head_epochs)
    if RESUME:
        runs.resume(run, Path(WEIGHTS_DIR, "last.pt"))
    return run


def is_finished(run):
    """Whether no epoch is left. If settings() has chosen the epochs of a fine-tuning, it ends once it is settled."""
    return run.done >= run.constants["EPOCHS"] or bool(START) and EPOCHS is None and run.settled


def fit(hardware):
    """All epochs, from the first or from where weights/last.pt stands."""
    start, folders = read_start(), runs.Folders(Path(WEIGHTS_DIR), Path(PLOTS_DIR))
    files.check_outputs(globals(), "WEIGHTS_DIR", "PLOTS_DIR")
    folders.claim()  # before work starts: what is not ours is not written over
    train, valid = load_data(start, hardware.device)
    constants = settings(len(train))
    if constants["BALANCE"]:
        train.balance()
    run = begin(train, valid, constants, hardware)
    judged_at_once = 256 if hardware.device.type == "cuda" else 128  # changes speed and memory, no result
    train_batches = dataset.loader(train, constants["BATCH_SIZE"], SEED, engine.RANK, engine.WORLD)
    valid_batches = dataset.loader(valid, judged_at_once, None, engine.RANK, engine.WORLD)
    engine.check_shares(run.net, train.shape[1], train_batches.sampler.sizes)
    if is_finished(run):
        engine.say(f"all {run.done} epochs were done before: EPOCHS={run.done + 10} RESUME=True trains ten more")
    else:
        runs.announce(run, train_batches, valid_batches)
    reached = 1.0  # if no epoch is left, there is nothing to say about it
    while not is_finished(run):
        epoch = run.done + 1
        loss, accuracy, data_s, compute_s = train_epoch(run, train_batches, epoch)
        logits, labels = evaluate(run, valid_batches)
        valid_loss = functional.cross_entropy(logits, labels).item()
        for value in (loss, valid_loss):  # the last step can break what its own loss does not show
            check_loss(value, epoch)
        sources = by_source(logits, labels, valid)
        run.note(epoch=epoch, train_loss=loss, train_accuracy=accuracy, valid_loss=valid_loss,
                 valid_accuracy=(logits.argmax(1) == labels).float().mean().item(),
                 mean_loss=mean_loss(sources),
                 lr=run.optimizer.param_groups[0]["lr"], data_s=round(data_s, 2), compute_s=round(compute_s, 2))
        temperature, threshold, reached = engine.calibrate(logits, labels, TARGET_ACCURACY,
                                                            few=valid.people < runs.ENOUGH)
        run.metadata |= {"temperature": temperature, "threshold": threshold}
        with stops.later():  # all files of an epoch, or none
            runs.save(run, folders, sources)
    if run.done < constants["EPOCHS"]:
        engine.say(f"all {len(valid)} validation crops have been right for an eighth of the {constants['EPOCHS']} "
                   "epochs, which cannot improve: training ends early")
    runs.conclude(run, folders, reached, valid)


def check_constants():
    """End with one line if a constant is out of its range."""
    rules.check(
        globals(), WEIGHTS_DIR=str, PLOTS_DIR=str, PICTURES=pictures.ENDINGS, MODEL=networks.NETWORKS,
        START=rules.optional(str),
        EPOCHS=rules.optional((int, 1, None)), BATCH_SIZE=rules.optional((int, 1, None)),
        LR=rules.optional((float, 1e-12, 10)), IMAGE_SIZE=rules.optional((int, 32, 224)), SEED=(int, 0, 2**63 - 1),
        RESUME=bool, DEVICE=("auto", "cpu", "cuda", "mps"), PAPER=bool, AUGMENT=augment.AUGMENTATIONS,
        WEIGHT_DECAY=(float, 0, 1), LABEL_SMOOTHING=(float, 0, 0.99), EMA=(float, 0, 0.99999), BALANCE=bool,
        AUXILIARY=rules.some_of(auxiliary.TASKS), JUDGED_MARGIN=rules.optional((float, 0, cropping.MARGIN)),
        TARGET_ACCURACY=(float, 0.01, 0.9999),
        PRECISION=("auto", "float32", "bfloat16"), TRAIN_DIR=str, VALID_DIR=str)
    if MODEL == "paper" and IMAGE_SIZE not in (None, 224):
        script.fail(f"IMAGE_SIZE={IMAGE_SIZE}: must be None or 224, since the paper's network takes 224 alone")


def main():
    check_constants()
    hardware = engine.hardware(DEVICE, PRECISION)
    engine.keep_memory()
    with engine.ranks(hardware.device):
        fit(hardware)


if __name__ == "__main__":
    script.override(globals())
    again = [argument for argument in sys.argv[1:] if not argument.startswith("RESUME=")]
    script.run(main, stopped="finished epochs are kept; continue with: "
               + script.command_line("python", "train.py", *again, "RESUME=True"))
