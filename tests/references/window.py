"""Reference of the local window, the control."""

import math

from tests.references import Reference, softmax_rows
from tests.references.mixed import rope_score


def window(encoding, q_HTK, k_HTK, v_HTK, x_TD, tokens_T, layer):
    H, T, _ = q_HTK.shape
    inner, width = rope_score(encoding.inner, q_HTK, k_HTK), encoding.shape.context // 2
    return softmax_rows(lambda h, i, j: inner(h, i, j) if j > i - width else -math.inf, H, T, v_HTK)


REFERENCES = {"window": Reference("Beltagy et al. 2020, the last L/2 keys alone, by RoPE's score", window)}
