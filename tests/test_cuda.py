"""The recorded ways of a CUDA GPU give what the plain ways give. Without a GPU these tests are left out."""

import copy

import numpy as np
import pytest
import torch

import dataset
import model as networks
import train
from learn import augment, engine, runs
from test_augment import as_a_gpu_would
from test_dataset import split

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def test_recorded_augmentation_equals_the_plain_one():
    """Noise apart, of which each device has its own."""
    augment.AUGMENTATIONS["quiet"] = {**augment.AUGMENTATIONS["face"], "noise": 0}
    images = torch.randint(0, 256, (64, 96, 96, 3), dtype=torch.uint8, generator=dataset.generator_for(0))
    images = images.permute(0, 3, 1, 2)
    try:
        for seed in range(5):
            there = augment.augment(images.cuda(), "quiet", dataset.generator_for(seed)).cpu()
            here = as_a_gpu_would(images, "quiet", dataset.generator_for(seed))
            # Rounding can move a coefficient of JPEG to the next step: few pixels, so the mean tells.
            assert (there - here).abs().mean() < 1e-4
    finally:
        del augment.AUGMENTATIONS["quiet"]


@pytest.mark.parametrize("name", ["paper", "small"])
def test_recorded_steps_equal_the_plain_ones(tmp_path, monkeypatch, name):
    monkeypatch.setattr(train, "BATCH_SIZE", 8)
    folder, device, results = split(tmp_path / "train", 12), torch.device("cuda", 0), []
    side = networks.image_size(name)
    for recorded in (False, True):
        batches = dataset.loader(folder, side, 8, 0)
        engine.hold(batches, device)
        torch.manual_seed(0)
        net = networks.build(name, 2).to(device, memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(net.parameters(), 1e-3, fused=True)
        images = torch.zeros(8, 3, side, side, device=device).to(memory_format=torch.channels_last)
        run = runs.Run(net, copy.deepcopy(net), optimizer, batches.dataset.classes, {}, {},
                       forward=engine.spread(net, images, True) if recorded else net)
        results.append([train.train_epoch(run, batches, epoch, device, True)[:2] for epoch in (1, 2)])
    assert np.allclose(*results, rtol=1e-3)
