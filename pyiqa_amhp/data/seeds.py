"""Random numbers that depend on given seeds alone, whatever was drawn before and by whom."""

import random
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def random_numbers_from(*seeds: int):
    """Python's, NumPy's and torch's (CPU) random numbers from these seeds, and then as before."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    numbers = np.random.SeedSequence(seeds).generate_state(2, np.uint64).tolist()
    random.seed(numbers[0])
    np.random.seed(numbers[0] % 2**32)
    torch.default_generator.manual_seed(numbers[1] % 2**63)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
