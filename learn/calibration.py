"""Calibration of a network's confidence, and the choice of the threshold for "unsure". Nothing to run."""

import math

import torch
from torch.nn import functional

HIGHEST_THRESHOLD = 0.95  # above it, few faces would get a label


def calibrate(logits, labels, target_accuracy, few=False):
    """(temperature, threshold, accuracy): the temperature with the lowest validation loss; the lowest confidence, at
    most HIGHEST_THRESHOLD, from which the accuracy is at least `target_accuracy`; and the accuracy from there on, nan
    if no prediction is so confident.

    `logits`: float32 [N, C], `labels`: int64 [N], of the validation crops. `few`: they are too few to choose by: the
    threshold is then at least half way from chance to 1, since all of them may be right by luck.

    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
    """
    # Not below 0.5: if all of a few crops are right, the lower the temperature, the lower the loss.
    temperatures = torch.logspace(math.log10(0.5), 1, 261)
    losses = torch.stack([functional.cross_entropy(logits / t, labels) for t in temperatures])
    temperature = temperatures[losses.argmin()].item()
    confidence, predicted = (logits / temperature).softmax(1).max(1)
    correct = (predicted == labels).float()
    chance = 1 / logits.shape[1]
    lowest = (chance + 1) / 2 if few else chance
    for threshold in torch.arange(math.ceil(lowest * 100) / 100, HIGHEST_THRESHOLD + 0.005, 0.01).tolist():
        chosen = confidence >= threshold
        if chosen.any() and correct[chosen].mean() >= target_accuracy:
            return temperature, threshold, correct[chosen].mean().item()
    return temperature, HIGHEST_THRESHOLD, correct[confidence >= HIGHEST_THRESHOLD].mean().item()
