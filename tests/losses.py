"""Made-up losses of known truth, of the sizes of a small study.

A seed moves perplexity by 0.7 % (sd), a held-out block by 30 %, but alike for both encodings of a pair, whose
difference it moves by 3 %; as much again is noise. Difficulty is skewed.
"""

import numpy as np

TRUE_DIFFERENCE = -0.004  # nats a token
SEED_SD = 0.007
BLOCK_SD = 0.03  # of a paired difference
REST_SD = 0.03


def synthetic_differences(
    rng, runs, seeds, blocks, *, nats=TRUE_DIFFERENCE, seed_sd=SEED_SD, block_sd=BLOCK_SD, rest_sd=REST_SD
):
    """loss_RSW (runs, seeds, windows) and tokens_W, one window a block; block effects are a gamma of skewness 1."""
    tokens_W = np.random.default_rng(0).integers(200, 257, blocks)
    seed_RS1 = seed_sd * rng.standard_normal((runs, seeds, 1))
    block_R1W = block_sd * (rng.gamma(4, size=(runs, 1, blocks)) - 4) / 2
    rest_RSW = rest_sd * rng.standard_normal((runs, seeds, blocks))
    return (nats + seed_RS1 + block_R1W + rest_RSW) * tokens_W, tokens_W
