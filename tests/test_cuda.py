"""A step on a CUDA GPU gives what it gives on a CPU. Without a GPU these tests are left out."""

import numpy as np
import pytest
import torch

import running
import train
from test_dataset import both_splits
from test_train import losses

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


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
