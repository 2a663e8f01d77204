"""References of the encodings that look at content: CoPE, FoX, Cable, DAPE, stick-breaking; and of combinations."""

import math

import numpy as np

from tests.references import Reference, softmax_rows
from tests.references.bias import alibi, array
from tests.references.mixed import rope_score


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def scaled_products(q_HTK, k_HTK) -> np.ndarray:
    """q_i · k_j / √K, (H, T, T)."""
    return np.einsum("hik,hjk->hij", q_HTK, k_HTK) / math.sqrt(q_HTK.shape[-1])


def sum_of_tokens_between(token):
    """score(h, i, j) = Σ_{t=j+1..i} token(w · x_t + b), w and b of the layer and head."""

    def bias(encoding, x_TD, layer):
        weight, offset = array(encoding.weight_LHD)[layer], array(encoding.bias_LH)[layer]
        each = [[token(weight[h] @ x + offset[h]) for x in x_TD] for h in range(len(weight))]
        return lambda h, i, j: math.fsum(each[h][j + 1 : i + 1])

    return bias


fox_bias = sum_of_tokens_between(lambda z: math.log(sigmoid(z)))
cable_bias = sum_of_tokens_between(lambda z: -math.log(1 + math.exp(z)))


def biased(bias):
    def output(encoding, q_HTK, k_HTK, v_HTK, x_TD, tokens_T, layer):
        products, added = scaled_products(q_HTK, k_HTK), bias(encoding, x_TD, layer)
        H, T, _ = q_HTK.shape
        return softmax_rows(lambda h, i, j: products[h, i, j] + added(h, i, j), H, T, v_HTK)

    return output


def cope(encoding, q_HTK, k_HTK, v_HTK, x_TD, tokens_T, layer):
    products, e_PK = scaled_products(q_HTK, k_HTK), array(encoding.table_LPK)[layer]
    last = len(e_PK) - 1

    def score(h, i, j):
        p = min(math.fsum(sigmoid(products[h, i, t]) for t in range(j, i + 1)), last)
        below, above = math.floor(p), math.ceil(p)
        return products[h, i, j] + q_HTK[h, i] @ ((1 - (p - below)) * e_PK[below] + (p - below) * e_PK[above])

    H, T, _ = q_HTK.shape
    return softmax_rows(score, H, T, v_HTK)


def dape(encoding, q_HTK, k_HTK, v_HTK, x_TD, tokens_T, layer):
    """The bias inside is ALiBi's."""
    products, bias = scaled_products(q_HTK, k_HTK), alibi(encoding.inner, layer)
    H, T, _ = q_HTK.shape
    up, down = encoding.up[layer], encoding.down[layer]

    def score(h, i, j):
        biases = [bias(head, i, j) for head in range(H)]
        hidden = array(up.weight) @ np.array([*products[:, i, j], *biases]) + array(up.bias)
        hidden = [u if u > 0 else 0.01 * u for u in hidden]
        return products[h, i, j] + biases[h] + array(down.weight)[h] @ hidden

    return softmax_rows(score, H, T, v_HTK)


def stick_breaking(encoding, q_HTK, k_HTK, v_HTK, x_TD, tokens_T, layer):
    products, out_HTK = scaled_products(q_HTK, k_HTK), np.zeros_like(v_HTK)
    H, T, _ = q_HTK.shape
    for h in range(H):
        for i in range(T):
            left = 1.0
            for j in reversed(range(i)):
                share = sigmoid(products[h, i, j])
                out_HTK[h, i] += left * share * v_HTK[h, j]
                left *= 1 - share
            if encoding.remainder == "self":
                out_HTK[h, i] += left * v_HTK[h, i]
    return out_HTK


def rope_and(bias):
    """RoPE's scores plus a bias: bias(encoding, x_TD, layer) -> (h, i, j) -> number."""

    def output(encoding, q_HTK, k_HTK, v_HTK, x_TD, tokens_T, layer):
        rope, added = rope_score(next(iter(encoding.parts.values())), q_HTK, k_HTK), bias(encoding, x_TD, layer)
        H, T, _ = q_HTK.shape
        return softmax_rows(lambda h, i, j: rope(h, i, j) + added(h, i, j), H, T, v_HTK)

    return output


REFERENCES = {
    "cable": Reference("Veisi et al. 2025, section 3: −softplus summed over the tokens between", biased(cable_bias)),
    "combined": Reference(
        "RoPE's scores plus ALiBi's bias",
        rope_and(lambda encoding, x_TD, layer: alibi(encoding.parts["second"], layer)),
    ),
    "cope": Reference("Golovneva et al. 2024, equations 4 to 7 and the scaling of the listing", cope),
    "dape": Reference("Zheng et al. 2024, equation 5 and the authors' LeakyReLU network, around ALiBi", dape),
    "fox": Reference(
        "Lin et al. 2025, equations 5 and 6: log forget gates summed over the tokens between", biased(fox_bias)
    ),
    "rope_fox": Reference(
        "RoPE's scores plus the forget gates of FoX",
        rope_and(lambda encoding, x_TD, layer: fox_bias(encoding.parts["fox"], x_TD, layer)),
    ),
    "stick_breaking": Reference("Tan et al. 2025, equation 1: a stick broken from the nearest key on", stick_breaking),
}
