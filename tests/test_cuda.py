"""Augmentation and a step on a CUDA GPU give what they give on a CPU. Without a GPU these tests are left out."""

import numpy as np
import pytest
import torch

import dataset
import running
import train
from crops import both_splits
from learn import augment
from test_train import losses

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def test_augmentation_of_a_gpu_equals_that_of_a_cpu():
    images = torch.randint(0, 256, (64, 96, 96, 3), dtype=torch.uint8, generator=dataset.generator_for(0))
    images = images.permute(0, 3, 1, 2)
    for seed in range(5):
        there = augment.augment(images.cuda(), "occlusion", dataset.generator_for(seed)).cpu()
        here = augment.augment(images, "occlusion", dataset.generator_for(seed))
        # Rounding can move a coefficient of JPEG to the next step: few pixels, so the mean tells.
        assert (there - here).abs().mean() < 1e-3


@pytest.mark.parametrize("name", ["paper", "small"])
def test_a_gpu_trains_as_a_cpu_does(tmp_path, name):
    """Without augmentation, of whose noise each device has its own."""
    faces = both_splits(tmp_path / "faces")
    rows = []
    for device in ("cpu", "cuda"):
        (tmp_path / device).mkdir()
        code, _, err = running.call(train, f"TRAIN_DIR={faces / 'train'}", f"VALID_DIR={faces / 'valid'}", "EPOCHS=2",
                                    "BATCH_SIZE=4", "PRECISION=float32", f"MODEL={name}", "AUGMENT=none",
                                    f"DEVICE={device}", cwd=tmp_path / device)
        assert code == 0, err
        rows.append([[float(v) for v in row] for row in losses(tmp_path / device)])
    assert np.allclose(*rows, rtol=0.02)
