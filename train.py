"""Step 3: train the network.

    python train.py                    processed/train, processed/valid  ->  weights/, plots/
    python train.py RESUME=True        continues a stopped run to the same numbers
    torchrun --nproc-per-node=2 train.py       the same on two GPUs, or processes, at once

Writes weights/best_weights_<epoch>.pt whenever the validation loss improves (and weights/best_weights.pt, which
test.py and realtime.py read), weights/last.pt and plots/log.csv after every epoch, and plots/metrics_<epoch>.png at
the end. The files of an earlier run are kept in weights/run_<number>/.
The paper's own settings: python train.py EPOCHS=50 BATCH_SIZE=16 SCHEDULE=constant WEIGHT_DECAY=0.0
LABEL_SMOOTHING=0.0 AVERAGE=0.0 AUGMENT=paper FLIP=False
"""

from terminal import script  # isort: skip  # first, see terminal/script.py

import copy
import math
import sys
import time
from pathlib import Path

import torch
from torch.nn import functional
from tqdm import tqdm

import dataset
import model as networks
import processed
from faces import people
from learn import augment, auxiliary, checkpoints, engine, runs
from terminal.files import sweep
from validation import TRAIN_DIR, VALID_DIR

# ------------------------------------------------------------------------------------------------
WEIGHTS_DIR = "weights"
PLOTS_DIR = "plots"
MODEL = "paper"  # a key of model.NETWORKS: paper, small, or vgg16, resnet18, mobilenet_v3_small, efficientnet_b0
IMAGE_SIZE = None  # side of the network's input in pixels; None: the one it was made for
START = None  # a weights file of the same network to go on from, as "weights/small.pt"; for other classes too
PRETRAINED = True  # torchvision's networks start from ImageNet weights, where they can be had
WARMUP_EPOCHS = 1  # first epochs after such a start, in which only a new head learns
EPOCHS = 12  # the paper: 50
BATCH_SIZE = 64  # the paper: 16
LR = 1e-3  # of Adam, at its highest; to fine-tune ImageNet weights a third of it is usual
SCHEDULE = "onecycle"  # "onecycle": warm up, then down to zero along a cosine; "constant": the paper's
WEIGHT_DECAY = 0.05  # decoupled (AdamW); 0.0 is plain Adam
LABEL_SMOOTHING = 0.05  # training only: losses that are reported have none
AVERAGE = 0.998  # share of the old in the moving average of the weights, which is what is evaluated; 0.0: off
AUGMENT = "face"  # a key of augment.AUGMENTATIONS
# Name beginnings of sources, as ("news-",): within each, all classes count the same, so that "in the news" doesn't come
# to mean "a man". (): every photo counts the same.
BALANCE = ()
# Columns of data/groups.csv, as ("age", "ethnicity"), that the network has to tell beside the class while it learns:
# features that know more of a face are better at the class too. Weights files do not hold that part. (): class alone.
AUXILIARY = ()
GROUPS = people.GROUPS  # the file of these columns
AUXILIARY_WEIGHT = 0.2  # of the loss of each, beside that of the class
# Margin of the crops that are judged, at validation and with the weights from then on; None: processed.MARGIN, as in
# training. There crops are enlarged at random, and networks with a global pooling are better if those that are judged
# are so a little too: Touvron et al., "Fixing the train-test resolution discrepancy", NeurIPS 2019.
JUDGED_MARGIN = None
FLIP = True  # judge a crop by itself and its mirror image, at validation and with the weights from then on
SEED = 0
RESUME = False  # True continues from weights/last.pt
KEEP_BEST = 3  # best_weights_<epoch>.pt files that stay
SURE = 0.97  # realtime.py says "unsure" below the confidence from which validation accuracy is at least this
DEVICE = "auto"  # "auto", "cpu", "cuda", "mps"
PRECISION = "auto"  # "auto": bfloat16 where the hardware has it; "float32"; "bfloat16"
# ------------------------------------------------------------------------------------------------

MAY_CHANGE = {"RESUME", "TRAIN_DIR", "VALID_DIR", "WEIGHTS_DIR", "PLOTS_DIR", "KEEP_BEST", "DEVICE", "PRECISION",
              "GROUPS"}


def check_constants():
    """End with one line if a constant is out of its range."""
    script.check(globals(), ("EPOCHS", EPOCHS >= 1, "at least 1"), ("BATCH_SIZE", BATCH_SIZE >= 1, "at least 1"),
                 ("LR", 0 < LR < 10, "above 0 and below 10"),
                 ("IMAGE_SIZE", IMAGE_SIZE in (None, 224) or MODEL != "paper" and isinstance(IMAGE_SIZE, int)
                  and 32 <= IMAGE_SIZE <= 224, "None, or from 32 to 224; the paper's network takes 224 alone"),
                 ("START", START is None or isinstance(START, str), "None, or the path of a weights file"),
                 ("WARMUP_EPOCHS", WARMUP_EPOCHS >= 0, "at least 0"),
                 ("KEEP_BEST", KEEP_BEST >= 1, "at least 1"),
                 ("WEIGHT_DECAY", 0 <= WEIGHT_DECAY <= 1, "between 0 and 1"),
                 ("LABEL_SMOOTHING", 0 <= LABEL_SMOOTHING < 1, "from 0 to below 1"),
                 ("AVERAGE", 0 <= AVERAGE < 1, "from 0 to below 1"), ("SURE", 0 < SURE < 1, "within 0 and 1"),
                 ("JUDGED_MARGIN", JUDGED_MARGIN is None or isinstance(JUDGED_MARGIN, float | int)
                  and 0 <= JUDGED_MARGIN <= 1, "None, or between 0 and 1"),
                 ("BALANCE", all(isinstance(v, str) for v in BALANCE), 'names\' beginnings, as ("news-",)'),
                 ("AUXILIARY", set(AUXILIARY) <= set(people.COLUMNS), f"of {people.COLUMNS}, or ()"),
                 ("AUXILIARY_WEIGHT", 0 < AUXILIARY_WEIGHT <= 10, "above 0, at most 10"),
                 ("MODEL", MODEL in networks.NETWORKS, f"one of {', '.join(networks.NETWORKS)}"),
                 ("AUGMENT", AUGMENT in augment.AUGMENTATIONS, f"one of {', '.join(augment.AUGMENTATIONS)}"),
                 ("SCHEDULE", SCHEDULE in ("onecycle", "constant"), "onecycle or constant"),
                 ("PRECISION", PRECISION in ("auto", "float32", "bfloat16"), "auto, float32 or bfloat16"),
                 ("DEVICE", DEVICE in ("auto", "cpu", "cuda", "mps"), "auto, cpu, cuda or mps"))


def learning_rate(progress):
    """The learning rate at `progress` (0..1 of all steps): up along a line for a tenth, then down along a cosine."""
    if SCHEDULE == "constant":
        return LR
    return LR * (progress / 0.1 if progress < 0.1 else 0.5 * (1 + math.cos(math.pi * (progress - 0.1) / 0.9)))


def check_loss(loss, epoch):
    """End with one line where a loss is no number, before anything is written over."""
    if not math.isfinite(loss):
        script.fail(f"the loss became {loss} in epoch {epoch}: the weights saved so far are kept; lower LR "
                    f"(now {LR}) and start again, or continue with RESUME=True LR={LR / 3:.0e}")


def train_epoch(net, average, optimizer, batches, epoch, device, bf16, forward=None):
    """One pass over the training crops. Returns (loss, accuracy) per sample and seconds for data and for compute.

    `forward`: what engine.spread() makes of `net`. A GPU works on what is started here, so only the sum of its seconds
    means something.
    """
    net.train()
    forward, sampler = forward or net, batches.sampler
    sampler.epoch = epoch
    if not next(net.features.parameters()).requires_grad:
        net.features.eval()  # what is frozen keeps its batch statistics too
    # Dropout draws from PyTorch's own generator: seeded anew, an epoch is the same after a resume.
    torch.manual_seed(dataset.generator_for(SEED, epoch, engine.RANK).initial_seed())
    n_classes, sizes = len(batches.dataset.classes), batches.dataset.auxiliary_sizes
    averaged = None if average is None else (engine.numbers(average), engine.numbers(net))

    def prepare(step, batch):
        images, *others = (part.to(device) for part in batch)
        generator = dataset.generator_for(SEED, epoch, step)
        images = augment.augment(images, AUGMENT, generator, *sampler.share(step))
        return images, *others

    sums = torch.zeros(3, dtype=torch.float64)  # loss, right answers, images
    waiting = []  # losses and right answers of steps that a GPU may not have finished
    data_s = compute_s = 0
    start = time.perf_counter()
    bar = tqdm(engine.ahead(prepare, batches, device), desc=f"epoch {epoch}", total=len(batches),
               unit_scale=BATCH_SIZE, unit="img", leave=False, disable=True if engine.RANK else None)
    for step, (images, labels, weights, tasks) in enumerate(bar):
        data_s, start = data_s + time.perf_counter() - start, time.perf_counter()
        done = (epoch - 1) * len(batches) + step
        for group in optimizer.param_groups:
            group["lr"] = learning_rate((done + 1) / (EPOCHS * len(batches)))
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits, more = forward(images).float().tensor_split([n_classes], 1)
        loss = functional.cross_entropy(logits, labels, label_smoothing=LABEL_SMOOTHING, reduction="none")
        loss = loss * weights
        if sizes:
            loss = loss + AUXILIARY_WEIGHT * auxiliary.loss(more, tasks, sizes)
        # Ranks average their gradients, and their shares of a batch may differ by one image: the whole batch's mean.
        loss = loss.sum() * (engine.WORLD / sampler.share(step)[1])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if averaged is not None:
            engine.blend(*averaged, done, AVERAGE)
        with torch.no_grad():
            plain = functional.cross_entropy(logits, labels, reduction="sum")
            waiting.append(torch.stack([plain, (logits.argmax(1) == labels).sum()]))
        sums[2] += len(labels)
        if device.type == "cpu" or len(waiting) == 50 or step == len(batches) - 1:
            sums[:2] += torch.stack(waiting).cpu().double().sum(0)
            waiting.clear()
            check_loss(sums[0].item(), epoch)
        compute_s, start = compute_s + time.perf_counter() - start, time.perf_counter()
    loss, right, seen = engine.total(sums).tolist()
    return loss / seen, right / seen, data_s, compute_s


@torch.inference_mode()
def evaluate(net, batches, device, bf16, flip=False):
    """Logits float32 [N, n_classes] and labels int64 [N] of a split, on the CPU, without augmentation.

    `flip`: see model.logits_of. Every rank does its share and gets all of it.
    """
    net.eval()
    engine.share_statistics(net)
    crops = batches.dataset
    transform = dataset.evaluation_transform(crops.shape[1])
    logits = torch.zeros(len(crops), len(crops.classes), device=device)
    bar = tqdm(batches, desc="validation", unit="batch", leave=False, disable=True if engine.RANK else None)
    for (images, *_), rows in zip(bar, batches.sampler, strict=True):
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            part = networks.logits_of(net, transform(images.to(device)), flip)
        logits[rows] = part[:, :logits.shape[1]].float()  # without those of auxiliary tasks
    return engine.total(logits).cpu(), crops.labels


def announce(net, train, valid, done, device, bf16):
    """Print what is about to happen, and the head of the table that follows."""
    for name, split in (("train", train.dataset), ("valid", valid.dataset)):
        counts = ", ".join(f"{c} {(split.labels == i).sum():,}" for i, c in enumerate(split.classes))
        print(f"{name}: {len(split):,} crops ({counts})")
    size, ranks = valid.dataset.shape[1], f" in each of {engine.WORLD} processes" if engine.WORLD > 1 else ""
    print(f"network: {MODEL}, {sum(p.numel() for p in net.parameters()):,} parameters, {size}x{size} pixels; "
          f"{device}, {'bfloat16' if bf16 else 'float32'}, {torch.get_num_threads()} threads{ranks}; "
          f"epochs {done + 1} to {EPOCHS}, {len(train)} steps each")
    print("".join(f"{c:>15}" for c in runs.COLUMNS))


def starting_weights(net, classes):
    """Give the network the weights that START or PRETRAINED name; returns whether all but its head has learned."""
    if START:
        return not checkpoints.start_from(net, START, MODEL, classes)
    if not PRETRAINED or not isinstance(net, networks.Backbone):
        return False
    with engine.one_at_first():
        problem = networks.load_imagenet(net)
    if problem and not engine.RANK:
        print(problem, flush=True)
    return not problem


def resume(net, average, optimizer, classes, constants):
    """Load weights/last.pt into the parts given.

    Returns (epochs done, history, best validation loss, what starting_weights() returned).
    """
    last = checkpoints.load_checkpoint(Path(WEIGHTS_DIR, "last.pt"))
    if "optimizer" not in last:
        script.fail(f"{WEIGHTS_DIR}/last.pt holds weights alone, which is not enough to go on: start anew")
    if last["classes"] != classes or last["model"] != MODEL:
        script.fail(f"weights/last.pt is a {last['model']} network for {', '.join(last['classes'])}, and this run is "
                    f"{MODEL} for {', '.join(classes)}: start anew with RESUME=False")
    began = tuple(last["constants"].get("AUXILIARY", ()))
    if began != tuple(AUXILIARY):
        script.fail("AUXILIARY is not what the run began with, and the network's last layer depends on it: set it to "
                    f"{began}, or start anew with RESUME=False")
    changed = [k for k, v in constants.items() if k not in MAY_CHANGE and last["constants"].get(k, v) != v]
    if changed:
        print("changed since the run began, so its numbers will differ: "
              + ", ".join(f"{k} {last['constants'].get(k)} -> {constants[k]}" for k in changed))
    net.load_state_dict(last["net"])
    optimizer.load_state_dict(last["optimizer"])
    if average is not None:
        average.load_state_dict(last.get("average") or last["state"])
    return last["epoch"], last["history"], last["best"], last.get("pretrained", False)


def main():
    check_constants()
    device, bf16 = engine.hardware(DEVICE, PRECISION)
    engine.keep_memory()
    engine.join(device)
    try:
        fit(device, bf16)
    finally:
        engine.leave()


def fit(device, bf16):
    """All epochs, from the first or from where weights/last.pt stands."""
    writes = engine.RANK == 0
    size = IMAGE_SIZE or networks.image_size(MODEL)
    margin = processed.MARGIN if JUDGED_MARGIN is None else float(JUDGED_MARGIN)
    with engine.one_at_first():
        train = dataset.loader(TRAIN_DIR, size, BATCH_SIZE, SEED, engine.RANK, engine.WORLD)
        valid = dataset.loader(VALID_DIR, size, 256 if device.type == "cuda" else 128, None, engine.RANK, engine.WORLD,
                               margin)
    classes = train.dataset.classes
    if valid.dataset.classes != classes:
        script.fail(f"{TRAIN_DIR} and {VALID_DIR} hold different classes: run 'python validation.py'")
    if BALANCE:
        dataset.balance(train.dataset, BALANCE)
    labels, sizes = auxiliary.labels(train.dataset.files, AUXILIARY, GROUPS)
    train.dataset.auxiliary, train.dataset.auxiliary_sizes = labels, sizes
    for loader in (train, valid):
        engine.hold(loader, device)
    torch.manual_seed(SEED)
    net = networks.build(MODEL, len(classes) + sum(sizes)).to(device, memory_format=torch.channels_last)
    pretrained = not RESUME and starting_weights(net, classes)
    average = copy.deepcopy(net) if AVERAGE else None
    optimizer = torch.optim.AdamW(net.parameters(), LR, weight_decay=WEIGHT_DECAY, fused=device.type != "mps")
    constants = {k: v for k, v in script.constants(globals()).items() if k != "MAY_CHANGE"}
    constants["CLAHE"] = processed.CLAHE
    done, history, best = 0, [], math.inf
    if RESUME:
        done, history, best, pretrained = resume(net, average, optimizer, classes, constants)
    elif writes:
        runs.set_aside(Path(WEIGHTS_DIR), Path(PLOTS_DIR))
    sweep(WEIGHTS_DIR)
    if writes:
        announce(net, train, valid, done, device, bf16)
    for epoch in range(done + 1, EPOCHS + 1):
        net.features.requires_grad_(not pretrained or epoch > WARMUP_EPOCHS)
        if epoch in (done + 1, WARMUP_EPOCHS + 1):
            sample = torch.zeros(BATCH_SIZE, 3, size, size, device=device).to(memory_format=torch.channels_last)
            forward = engine.spread(net, sample, bf16)  # anew when more parameters learn
        loss, accuracy, data_s, compute_s = train_epoch(net, average, optimizer, train, epoch, device, bf16, forward)
        shown = net if average is None else average
        logits, labels = evaluate(shown, valid, device, bf16, FLIP)
        valid_loss = functional.cross_entropy(logits, labels).item()
        check_loss(valid_loss, epoch)  # the last step of an epoch can break what its own loss does not show
        improved = valid_loss < best
        best = min(best, valid_loss)
        valid_accuracy = (logits.argmax(1) == labels).float().mean().item()
        row = (epoch, loss, accuracy, valid_loss, valid_accuracy, optimizer.param_groups[0]["lr"], round(data_s, 2),
               round(compute_s, 2), "yes" if improved else "")
        history.append(dict(zip(runs.COLUMNS, row, strict=True)))
        if not writes:
            continue
        temperature, threshold = engine.calibrate(logits, labels, SURE)
        checkpoint = {"model": MODEL, "classes": classes, "image_size": size, "mean": dataset.MEAN, "std": dataset.STD,
                      "margin": margin, "clahe": processed.CLAHE, "flip": FLIP,
                      "temperature": temperature, "threshold": threshold, "epoch": epoch, "metrics": history[-1],
                      "state": checkpoints.trimmed(shown, len(classes))}
        # last.pt comes last: whatever stops the program in between, a resumed run writes the same files again.
        if improved:
            runs.keep_best(Path(WEIGHTS_DIR), checkpoint, KEEP_BEST)
        runs.write_log(Path(PLOTS_DIR, "log.csv"), history, constants)
        checkpoints.save_weights(Path(WEIGHTS_DIR, "last.pt"), {
            **checkpoint, "net": net.state_dict(), "optimizer": optimizer.state_dict(), "history": history,
            "best": best, "pretrained": pretrained, "constants": constants,
            "average": None if average is None else average.state_dict()})
        print("".join(f"{v:>15.5g}" if isinstance(v, float) else f"{v:>15}" for v in history[-1].values()), flush=True)
    if history and writes:
        top = min(history, key=lambda r: r["valid_loss"])
        runs.plot(history, Path(PLOTS_DIR, f"metrics_{history[-1]['epoch']}.png"))
        print(f"{len(history)} epochs done; best: epoch {top['epoch']}, validation loss {top['valid_loss']:.4f}, "
              f"accuracy {top['valid_accuracy']:.2%} -> {WEIGHTS_DIR}/best_weights.pt; next: python test.py")


if __name__ == "__main__":
    script.override(globals())
    again = " ".join(a for a in sys.argv[1:] if not a.startswith("RESUME="))
    script.run(main, f"finished epochs are kept; continue with 'python train.py RESUME=True {again}".rstrip() + "'")
