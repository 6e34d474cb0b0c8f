"""Random numbers of a training: a stream for each purpose and step.

Random numbers belong to their step: the order of an epoch and the noise of a step come from
generators that are seeded anew by (seed, purpose, number). So a training goes on from any step bit
for bit, and follows the same path on any number of processes, to rounding.
"""

import numpy as np
import torch

ORDER, NOISE, VALIDATION, TIMING = range(4)  # what random numbers are for


def seeded(generator: torch.Generator, seed: int, purpose: int, number: int = 0) -> torch.Generator:
    """The generator, set to where the random numbers of a step or epoch begin."""
    sequence = np.random.SeedSequence(seed, spawn_key=(purpose, number))
    return generator.manual_seed(int(sequence.generate_state(1, np.uint64)[0]))
