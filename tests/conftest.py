"""Every test starts from the same random state, on one thread, and leaves the global generators as it found them."""

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def same_random_state():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
