"""References of the encodings that are neither a plain rotation nor a bias: added embeddings, query scaling around
RoPE, xPos, HoPE, PoPE, PaTH and randomized positions."""

import math

import numpy as np
import torch

from tests.references import Reference, softmax_rows
from tests.references.rotary import ladder, rotated


def parameter(tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


# ------------------------------------------------------------------------------------------------------------ embedded


def sinusoid(i: int, width: int, base: float) -> list[float]:
    """PE(i, 2k) = sin(i / base^(2k/width)), PE(i, 2k+1) = cos(same)."""
    return [(math.cos if c % 2 else math.sin)(i / base ** ((c - c % 2) / width)) for c in range(width)]


def sinusoidal(encoding, x_TD, tokens_T):
    scale, (T, D) = float(encoding.scale), x_TD.shape
    return np.array([[x_TD[i, c] + scale * sinusoid(i, D, encoding.base)[c] for c in range(D)] for i in range(T)])


def learned(encoding, x_TD, tokens_T):
    table = parameter(encoding.table)
    return np.array([x_TD[i] + table[i] for i in range(len(x_TD))])


def axial_learned(encoding, x_TD, tokens_T):
    tokens, lines, places = parameter(encoding.tables_ATD)
    out, line, place = x_TD.copy(), 0, 0
    for i, token in enumerate(tokens_T):
        out[i] += tokens[i] + lines[line] + places[place]
        place += 1
        if int(token) in encoding.shape.separators["line"]:  # it ends its line and still belongs to it
            line, place = line + 1, 0
    return out


# ----------------------------------------------------------------------------------------------------- rotated, scaled


def rope_score(encoding, q_HTK, k_HTK, positions=None):
    """score(h, i, j) of RoPE; the row's number is its position unless positions are given."""
    thetas = ladder(encoding.shape.head_dim, encoding.base)
    p = range(q_HTK.shape[1]) if positions is None else positions

    def score(h, i, j):
        q = rotated(q_HTK[h, i], [p[i] * theta for theta in thetas], encoding.interleaved)
        return q @ rotated(k_HTK[h, j], [p[j] * theta for theta in thetas], encoding.interleaved) / math.sqrt(len(q))

    return score


def around_rope(factor):
    """Softmax of factor(encoding, layer, h, keys in sight) times RoPE's score."""

    def output(encoding, q_HTK, k_HTK, v_HTK, x_TD, tokens_T, layer):
        H, T, _ = q_HTK.shape
        inner = rope_score(encoding.inner, q_HTK, k_HTK)
        return softmax_rows(lambda h, i, j: factor(encoding, layer, h, i + 1) * inner(h, i, j), H, T, v_HTK)

    return output


def logn(encoding, layer, h, n):
    return max(1.0, math.log(n) / math.log(encoding.length))


def ssmax(encoding, layer, h, n):
    return parameter(encoding.scale_LH1)[layer, h, 0] * math.log(n)


def temperature(encoding, layer, h, n):
    return 1 + encoding.strength * math.log(1 + n // encoding.floor)


def randomized(encoding, q_HTK, k_HTK, v_HTK, x_TD, tokens_T, layer):
    H, T, _ = q_HTK.shape
    longest = encoding.max_length
    seed = (int(encoding.seed) - 0x9E3779B97F4A7C15 * T) % 2**63  # at test: the draw of number −T
    sample = sorted(torch.randperm(longest, generator=torch.Generator().manual_seed(seed)).tolist()[:T])
    assert len(set(sample)) == T and sample[0] >= 0 and sample[-1] < 16 * encoding.shape.context == longest
    return softmax_rows(rope_score(encoding.inner, q_HTK, k_HTK, sample), H, T, v_HTK)


def hope(encoding, q_HTK, k_HTK, v_HTK, x_TD, tokens_T, layer):
    H, T, K = q_HTK.shape
    thetas = [t if 2 * math.pi / t <= encoding.shape.context else 0.0 for t in ladder(K, encoding.base)]

    def score(h, i, j):
        return q_HTK[h, i] @ rotated(k_HTK[h, j], [(j - i) * theta for theta in thetas]) / math.sqrt(K)

    return softmax_rows(score, H, T, v_HTK)


def xpos(encoding, q_HTK, k_HTK, v_HTK, x_TD, tokens_T, layer):
    H, T, K = q_HTK.shape
    thetas, L = ladder(K, encoding.base), encoding.shape.context

    def score(h, i, j):
        total = 0.0
        for k, theta in enumerate(thetas):
            zeta = (2 * k / K + 0.4) / 1.4
            q = complex(q_HTK[h, i, k], q_HTK[h, i, k + K // 2])
            key = complex(k_HTK[h, j, k], k_HTK[h, j, k + K // 2])
            turned = complex(math.cos((i - j) * theta), math.sin((i - j) * theta))
            total += zeta ** ((i - j) / (L / 2)) * (q * turned * key.conjugate()).real
        return total / math.sqrt(K)

    return softmax_rows(score, H, T, v_HTK)


def polar(encoding, q_HTK, k_HTK, v_HTK, x_TD, tokens_T, layer):
    H, T, K = q_HTK.shape
    phases = parameter(encoding.phases)[layer, :, 0]

    def softplus(x):
        return math.log1p(math.exp(x))

    def score(h, i, j):
        total = 0.0
        for c in range(K):
            theta, delta = encoding.base ** (-c / K), min(0.0, max(-2 * math.pi, phases[h, c]))
            total += softplus(q_HTK[h, i, c]) * softplus(k_HTK[h, j, c]) * math.cos((j - i) * theta + delta)
        return total / math.sqrt(K)

    return softmax_rows(score, H, T, v_HTK)


# ---------------------------------------------------------------------------------------------------------------- PaTH


def path(encoding, q_HTK, k_HTK, v_HTK, x_TD, tokens_T, layer):
    H, T, K = q_HTK.shape
    names = ("down_LDR", "up_LRD", "taps_LWD", "beta_LDH", "beta_bias_LH")
    down, up, taps, u, b = (parameter(getattr(encoding, name))[layer] for name in names)
    low = x_TD @ down @ up
    w_THK, beta_TH = np.zeros((T, H, K)), np.zeros((T, H))
    for t in range(T):
        mixed = sum(taps[2 - back] * low[t - back] for back in range(3) if t - back >= 0)
        active = (mixed / (1 + np.exp(-mixed))).reshape(H, K)
        for h in range(H):
            w_THK[t, h] = active[h] / math.sqrt(active[h] @ active[h])
            beta_TH[t, h] = 2 / (1 + math.exp(-(x_TD[t] @ u[:, h] + b[h])))

    def score(h, i, j):
        carried = k_HTK[h, j]
        for t in range(j + 1, i + 1):  # H_{j+1} first, H_i last
            carried = carried - beta_TH[t, h] * w_THK[t, h] * (w_THK[t, h] @ carried)
        return q_HTK[h, i] @ carried / math.sqrt(K)

    return softmax_rows(score, H, T, v_HTK)


REFERENCES = {
    "sinusoidal": Reference("Vaswani et al. 2017, section 3.5", embed=sinusoidal),
    "sinusoidal_scaled": Reference("Vaswani et al. 2017, section 3.5, times a learned scalar", embed=sinusoidal),
    "learned": Reference("x_i + P_i (GPT-2)", embed=learned),
    "axial_learned": Reference("x_i + a row of each of three tables, coordinates counted", embed=axial_learned),
    "logn": Reference("Su 2021, max(1, ln n / ln L) · RoPE's score", around_rope(logn)),
    "ssmax": Reference("Nakanishi 2025, s · ln n · RoPE's score", around_rope(ssmax)),
    "temperature": Reference("Llama 4 in transformers, on RoPE's score", around_rope(temperature)),
    "randomized": Reference("Ruoss et al. 2023, RoPE at an ordered sample of positions", randomized),
    "hope": Reference("Chen et al. 2025, RoPE where 2π/θ ≤ L, as a product of i − j", hope),
    "xpos": Reference("Sun et al. 2023, eq. with ζ^((i−j)/B) as complex numbers of i − j, B = L/2, γ = 0.4", xpos),
    "polar": Reference("Gopalakrishnan et al. 2025, eq. 6 with δ", polar),
    "path": Reference("Yang et al. 2025, the product of H_t one by one", path),
}
