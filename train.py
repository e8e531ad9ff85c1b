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
from faces import cropping, people
from learn import augment, auxiliary, engine, runs, teacher
from terminal.files import sweep
from validation import TRAIN_DIR, VALID_DIR

# ------------------------------------------------------------------------------------------------
WEIGHTS_DIR = "weights"
PLOTS_DIR = "plots"
MODEL = "paper"  # a key of model.NETWORKS: paper, small, wide, vgg16, resnet18, mobilenet_v3_small, efficientnet_b0
IMAGE_SIZE = None  # side of the network's input in pixels; None: the one it was made for
START = None  # a weights file of the same network to go on from, as "weights/shipped/small.pt"; for other classes too
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
# Beginnings of the names of crops that tell their sources, as ("news-",); crops with none of them are one source more.
# Within each all classes count the same, so that "in the news" does not come to mean "a man"; validation is told source
# by source, and the best epoch has the least mean of their losses. (): every crop counts the same.
SOURCES = ()
EVEN = 0.0  # 0..1, how nearly sources count the same: 0.0 by their numbers of crops, 1.0 all alike
# Columns of data/people.csv, as ("age", "ethnicity"), that the network has to tell beside the class while it learns:
# features that know more of a face are better at the class too. Weights files keep the age, so that a child's face can
# be called unsure (classifier.CHILD), and nothing else of it. (): the class alone.
AUXILIARY = ()
PEOPLE = people.PEOPLE  # the file of these columns
AUXILIARY_WEIGHT = 0.2  # of the loss of each, beside that of the class
# A weights file of any network for the same classes, whose answers the network learns beside the labels. None: labels.
TEACHER = None
TEACHER_SHARE = 0.5  # of the loss of the class: how far the answers are from the teacher's
# Margin of the crops that are judged, at validation and with the weights from then on; None: cropping.MARGIN, as in
# training. There crops are enlarged at random, and networks with a global pooling are better if those that are judged
# are so a little too: Touvron et al., "Fixing the train-test resolution discrepancy", NeurIPS 2019.
JUDGED_MARGIN = None
CLAHE = None  # clip limit of the equalisation that the crops were made with, for the weights; None: processed.CLAHE
FLIP = True  # judge a crop by itself and its mirror image, at validation and with the weights from then on
SEED = 0
RESUME = False  # True continues from weights/last.pt
KEEP_BEST = 3  # best_weights_<epoch>.pt files that stay
# realtime.py says "unsure" below the confidence from which validation accuracy is at least this. Groups that a network
# fails more often need it high: at 0.97 small.pt would be right about 96 % of those Black women that it is sure of.
SURE = 0.98
DEVICE = "auto"  # "auto", "cpu", "cuda", "mps"
PRECISION = "auto"  # "auto": bfloat16 where the hardware has it; "float32"; "bfloat16"
CACHE_GB = 10.0  # of disk for decoded crops, which spares every epoch the decoding; larger splits are decoded in each
# ------------------------------------------------------------------------------------------------


def check_constants():
    """End with one line if a constant is out of its range."""
    script.check(globals(), ("EPOCHS", EPOCHS >= 1, "at least 1"), ("BATCH_SIZE", BATCH_SIZE >= 1, "at least 1"),
                 ("LR", 0 < LR < 10, "above 0 and below 10"), ("CACHE_GB", CACHE_GB >= 0, "at least 0"),
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
                 ("SOURCES", all(isinstance(v, str) for v in SOURCES), 'beginnings of names, as ("news-",)'),
                 ("EVEN", 0 <= EVEN <= 1, "between 0 and 1"),
                 ("AUXILIARY", set(AUXILIARY) <= set(auxiliary.TASKS), f"of {auxiliary.TASKS}, or ()"),
                 ("AUXILIARY_WEIGHT", 0 < AUXILIARY_WEIGHT <= 10, "above 0, at most 10"),
                 ("TEACHER", TEACHER is None or isinstance(TEACHER, str), "None, or the path of a weights file"),
                 ("TEACHER", not isinstance(TEACHER, str)
                  or Path(TEACHER).resolve().parent != Path(WEIGHTS_DIR).resolve()
                  or not Path(TEACHER).name.startswith(("best_weights", "last.")),
                  "a file that this run does not write over: copy it, or set WEIGHTS_DIR"),
                 ("TEACHER_SHARE", 0 < TEACHER_SHARE <= 1, "above 0, at most 1"),
                 ("CLAHE", CLAHE is None or isinstance(CLAHE, float | int) and 0 <= CLAHE <= 40,
                  "None, or between 0 and 40"),
                 ("MODEL", MODEL in networks.NETWORKS, f"one of {', '.join(networks.NETWORKS)}"),
                 ("AUGMENT", AUGMENT in augment.AUGMENTATIONS, f"one of {', '.join(augment.AUGMENTATIONS)}"),
                 ("SCHEDULE", SCHEDULE in ("onecycle", "constant"), "onecycle or constant"),
                 ("PRECISION", PRECISION in ("auto", "float32", "bfloat16"), "auto, float32 or bfloat16"),
                 ("DEVICE", DEVICE in ("auto", "cpu", "cuda", "mps"), "auto, cpu, cuda or mps"))


def equalised():
    """The clip limit of CLAHE in the crops."""
    return processed.CLAHE if CLAHE is None else float(CLAHE)


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


def augmented(batches, epoch, device, ask=None):
    """Yield the batches of an epoch on `device`, augmented: (images float32 [N, 3, S, S], labels, weights, tasks), and
    what a teacher says of the images where there is one (`ask`, see teacher.ask())."""
    def prepare(step, batch):
        images, *facts = (part.to(device) for part in batch)
        generator = dataset.generator_for(SEED, epoch, step)
        images = augment.augment(images, AUGMENT, generator, *batches.sampler.share(step))
        return images, *facts, *([ask(images)] if ask else [])

    return engine.ahead(prepare, batches, device)


def loss_of(outputs, labels, weights, tasks, sizes, taught=None):
    """(loss of each image, float32 [N], logits of its class [N, n_classes]): cross entropy, weighted, and a share of
    that of each auxiliary task, of which `sizes` are the numbers of classes. `taught`: a teacher's probabilities."""
    logits, others = outputs.tensor_split([outputs.shape[1] - sum(sizes)], 1)
    loss = functional.cross_entropy(logits, labels, label_smoothing=LABEL_SMOOTHING, reduction="none")
    if taught is not None:
        loss = torch.lerp(loss, functional.cross_entropy(logits, taught, reduction="none"), TEACHER_SHARE)
    loss = loss * weights
    return loss + AUXILIARY_WEIGHT * auxiliary.loss(others, tasks, sizes) if sizes else loss, logits


def train_epoch(run, batches, epoch, device, bf16):
    """One pass over the training crops, a step per batch. `run`: a runs.Run, whose networks and optimizer change.

    Returns (loss, accuracy), means over all images, and the seconds spent on (data, compute). A GPU computes on what
    was started before, so that only the sum of its seconds means something.
    """
    sampler, sizes = batches.sampler, batches.dataset.auxiliary_sizes
    sampler.epoch = epoch
    run.net.train()
    if not next(run.net.features.parameters()).requires_grad:
        run.net.features.eval()  # what is frozen keeps its batch statistics too
    # Dropout draws from PyTorch's own generator: seeded anew, an epoch is the same after a resume.
    torch.manual_seed(dataset.generator_for(SEED, epoch, engine.RANK).initial_seed())
    averaged = None if run.average is None else (engine.floats(run.average), engine.floats(run.net))
    tally, data_s, compute_s, start = engine.Tally(device), 0, 0, time.perf_counter()
    bar = tqdm(augmented(batches, epoch, device, run.teacher), desc=f"epoch {epoch}", total=len(batches),
               unit_scale=BATCH_SIZE, unit="img", leave=False, disable=True if engine.RANK else None)
    for step, (images, labels, weights, tasks, *taught) in enumerate(bar):
        data_s, start = data_s + time.perf_counter() - start, time.perf_counter()
        done = (epoch - 1) * len(batches) + step
        for group in run.optimizer.param_groups:
            group["lr"] = learning_rate((done + 1) / (EPOCHS * len(batches)))
        run.optimizer.zero_grad(set_to_none=True)
        outputs = engine.outputs_of(run.forward, images, bf16)
        losses, logits = loss_of(outputs, labels, weights, tasks, sizes, *taught)
        # Ranks average their gradients, and their shares of a batch may differ by one image: the whole batch's mean.
        (losses.sum() * (engine.WORLD / sampler.share(step)[1])).backward()
        run.optimizer.step()
        if averaged is not None:
            engine.blend(*averaged, done, AVERAGE)
        tally.add(logits, labels)
        check_loss(tally.loss, epoch)
        compute_s, start = compute_s + time.perf_counter() - start, time.perf_counter()
    loss, accuracy = tally.means()
    check_loss(loss, epoch)
    return loss, accuracy, data_s, compute_s + time.perf_counter() - start


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


def by_source(logits, labels, crops):
    """{source: (loss, recall of each class)} of a split, floats; a recall is nan where a source has none of a class.

    `logits` float32 [N, n_classes], `labels` int64 [N]; `crops`: the dataset.Crops they are of.
    """
    source, told = dataset.sources_of(crops, SOURCES), {}
    for one in source.unique().tolist():
        some, true = logits[source == one], labels[source == one]
        right = some.argmax(1) == true
        recall = [right[true == c].float().mean().item() for c in range(len(crops.classes))]
        told[SOURCES[one] if one >= 0 else "others"] = functional.cross_entropy(some, true).item(), recall
    return told


def loaders(device, size, margin):
    """The loaders of the training crops, with weights and auxiliary labels, and of the validation crops."""
    with engine.one_at_first():
        budget = CACHE_GB * 1e9
        train = dataset.loader(TRAIN_DIR, size, BATCH_SIZE, SEED, engine.RANK, engine.WORLD, budget=budget)
        budget -= train.dataset.cached * math.prod(train.dataset.shape)
        judged = 256 if device.type == "cuda" else 128  # crops per batch; changes speed and memory, no result
        valid = dataset.loader(VALID_DIR, size, judged, None, engine.RANK, engine.WORLD, margin, budget)
    crops = train.dataset
    if valid.dataset.classes != crops.classes:
        script.fail(f"{TRAIN_DIR} and {VALID_DIR} hold different classes: run 'python validation.py'")
    if SOURCES:
        dataset.weigh(crops, dataset.sources_of(crops, SOURCES), EVEN)
    crops.auxiliary, crops.auxiliary_sizes, crops.ages = auxiliary.labels(crops.files, AUXILIARY, PEOPLE)
    for loader in (train, valid):
        engine.hold(loader, device)
    return train, valid


def begin(train, valid, size, device, bf16):
    """The runs.Run to go on with: new, or with RESUME what weights/last.pt holds."""
    torch.manual_seed(SEED)
    classes = train.dataset.classes
    net = networks.build(MODEL, len(classes) + sum(train.dataset.auxiliary_sizes))
    net = net.to(device, memory_format=torch.channels_last)
    pretrained = not RESUME and runs.initialise(net, MODEL, classes, START, PRETRAINED)
    optimizer = torch.optim.AdamW(net.parameters(), LR, weight_decay=WEIGHT_DECAY, fused=device.type != "mps")
    run = runs.Run(net, copy.deepcopy(net) if AVERAGE else None, optimizer, classes, pretrained=pretrained,
                   constants={**script.constants(globals()), "CLAHE": equalised()},
                   teacher=TEACHER and teacher.ask(TEACHER, classes, device, bf16),
                   crops=runs.fingerprint(train.dataset, valid.dataset))
    if RESUME:
        runs.resume(run, Path(WEIGHTS_DIR, "last.pt"))
    elif engine.RANK == 0:
        runs.set_aside(Path(WEIGHTS_DIR), Path(PLOTS_DIR))
    sweep(WEIGHTS_DIR)
    return run


def fit(device, bf16):
    """All epochs, from the first or from where weights/last.pt stands."""
    size = IMAGE_SIZE or networks.image_size(MODEL)
    margin = cropping.MARGIN if JUDGED_MARGIN is None else float(JUDGED_MARGIN)
    train, valid = loaders(device, size, margin)
    run = begin(train, valid, size, device, bf16)
    facts = {"model": MODEL, "classes": run.classes, "image_size": size, "mean": dataset.MEAN, "std": dataset.STD,
             "margin": margin, "clahe": equalised(), "finders": [processed.made_with()], "flip": FLIP,
             "ages": train.dataset.ages}
    if engine.RANK == 0:
        runs.announce(run, train, valid, device, bf16)
    first = run.done + 1
    for epoch in range(first, EPOCHS + 1):
        run.net.features.requires_grad_(not run.pretrained or epoch > WARMUP_EPOCHS)
        if epoch in (first, WARMUP_EPOCHS + 1):
            sample = torch.zeros(BATCH_SIZE, 3, size, size, device=device).to(memory_format=torch.channels_last)
            run.forward = engine.spread(run.net, sample, bf16)  # anew when more parameters learn
        loss, accuracy, data_s, compute_s = train_epoch(run, train, epoch, device, bf16)
        logits, labels = evaluate(run.judged, valid, device, bf16, FLIP)
        valid_loss = functional.cross_entropy(logits, labels).item()
        check_loss(valid_loss, epoch)  # the last step of an epoch can break what its own loss does not show
        sources = by_source(logits, labels, valid.dataset)
        mean_loss = sum(source_loss for source_loss, _ in sources.values()) / len(sources)
        run.note(sources, epoch=epoch, train_loss=loss, train_accuracy=accuracy, valid_loss=valid_loss,
                 mean_loss=mean_loss,
                 valid_accuracy=(logits.argmax(1) == labels).float().mean().item(),
                 lr=run.optimizer.param_groups[0]["lr"], data_s=round(data_s, 2), compute_s=round(compute_s, 2))
        if engine.RANK == 0:
            facts["temperature"], facts["threshold"] = engine.calibrate(logits, labels, SURE)
            runs.save(run, facts, Path(WEIGHTS_DIR), Path(PLOTS_DIR), KEEP_BEST)
    if engine.RANK == 0:
        runs.conclude(run, Path(WEIGHTS_DIR), Path(PLOTS_DIR))


def main():
    check_constants()
    if AUXILIARY:
        people.read(PEOPLE)  # a file that cannot be read is said before the crops are decoded
    device, bf16 = engine.hardware(DEVICE, PRECISION)
    engine.keep_memory()
    engine.join(device)
    try:
        fit(device, bf16)
    finally:
        engine.leave()


if __name__ == "__main__":
    script.override(globals())
    again = " ".join(a for a in sys.argv[1:] if not a.startswith("RESUME="))
    script.run(main, f"finished epochs are kept; continue with 'python train.py RESUME=True {again}".rstrip() + "'")
