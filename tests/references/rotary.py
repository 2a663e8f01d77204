"""References of the rotary encodings: angles in loops, then the 2 × 2 rotation of each pair."""

import math

import numpy as np

from tests.references import Reference, identity, softmax_rows


def ladder(width: int, base: float) -> list[float]:
    """θ_k = base^(−2k/width), k = 0 .. width/2 − 1 (RoFormer, eq. 15)."""
    return [base ** (-2 * k / width) for k in range(width // 2)]


def rotated(vector: np.ndarray, angles: list[float], interleaved: bool = False) -> np.ndarray:
    """The vector, each pair multiplied by e^(i · angle) as a complex number; coordinates without an angle stay."""
    P = len(angles)
    out = vector.copy()
    for k, angle in enumerate(angles):
        first, second = (2 * k, 2 * k + 1) if interleaved else (k, k + P)
        z = complex(vector[first], vector[second]) * complex(math.cos(angle), math.sin(angle))
        out[first], out[second] = z.real, z.imag
    return out


def turning(angles, *, qk: bool = True, v: bool = False, out: int = 0):
    """Attention whose rows turn: angles(encoding, x_TD, tokens_T, layer, head, row) -> radians of each pair.

    qk, v: what turns. out: the output turns by the row's angles times this.
    """

    def output(encoding, q_HTK, k_HTK, v_HTK, x_TD, tokens_T, layer):
        H, T, K = q_HTK.shape
        angle = [[angles(encoding, x_TD, tokens_T, layer, h, t) for t in range(T)] for h in range(H)]

        def rows(x_HTK, turns: bool, sign: int = 1):
            if not turns:
                return x_HTK
            every = [[[sign * a for a in angle[h][t]] for t in range(T)] for h in range(H)]
            return np.array(
                [[rotated(x_HTK[h, t], every[h][t], encoding.interleaved) for t in range(T)] for h in range(H)]
            )

        q, k, values = rows(q_HTK, qk), rows(k_HTK, qk), rows(v_HTK, v)
        mixed = softmax_rows(lambda h, i, j: q[h, i] @ k[h, j] / math.sqrt(K), H, T, values)
        return rows(mixed, out != 0, out)

    return output


def rope(encoding, x_TD, tokens_T, layer, h, i):
    return [i * theta for theta in ladder(encoding.shape.head_dim, encoding.base)]


def partial(encoding, x_TD, tokens_T, layer, h, i):
    d = encoding.shape.head_dim
    kept = max(1, math.floor(encoding.p * d / 2))
    return [i * theta if k < kept else 0.0 for k, theta in enumerate(ladder(d, encoding.base))]


def partial_head(encoding, x_TD, tokens_T, layer, h, i):
    width = max(2, 2 * round(encoding.share * encoding.shape.head_dim / 2))
    return [i * theta for theta in ladder(width, encoding.base)]


def learned(encoding, x_TD, tokens_T, layer, h, i):
    delta_P = encoding.log_ratio_LHP.detach().double().numpy()[layer, h]
    start = ladder(encoding.shape.head_dim, encoding.base)
    return [i * math.exp(math.log(theta) + delta) for theta, delta in zip(start, delta_P, strict=True)]


def multiscale(encoding, x_TD, tokens_T, layer, h, i):
    H, low, high = encoding.shape.num_heads, math.log(encoding.lowest_base), math.log(encoding.highest_base)
    log_base = (low + high) / 2 if H == 1 else low + (high - low) * h / (H - 1)
    return [i * theta for theta in ladder(encoding.shape.head_dim, math.exp(log_base))]


def layerwise(encoding, x_TD, tokens_T, layer, h, i):
    base = encoding.bases[layer % len(encoding.bases)]
    return [0.0 if base is None else i * theta for theta in ladder(encoding.shape.head_dim, base or 1.0)]


def line_and_place(encoding, tokens_T, i) -> tuple[int, int]:
    """How many units ended before token i, and how many tokens of its own unit stand before it."""
    ends = [t for t in range(i) if tokens_T[t] in encoding.shape.separators[encoding.unit]]
    return len(ends), i - (ends[-1] + 1 if ends else 0)


def axial(encoding, x_TD, tokens_T, layer, h, i):
    line, place = line_and_place(encoding, tokens_T, i)
    pairs, A = encoding.shape.head_dim // 2, len(encoding.axes)
    angles = []
    for a, axis in enumerate(encoding.axes):
        own = pairs // A + (1 if a < pairs % A else 0)
        coordinate = {"token": i, "line": line, "token_in_line": place}[axis]
        angles += [coordinate * theta for theta in ladder(2 * own, encoding.base)]
    return angles


def hierarchical(encoding, x_TD, tokens_T, layer, h, i):
    line, _ = line_and_place(encoding, tokens_T, i)
    pairs = encoding.shape.head_dim // 2
    tokens = round(encoding.token_share * pairs)
    upper = ladder(2 * (pairs - tokens), encoding.unit_base) if tokens < pairs else []
    return [i * theta for theta in ladder(2 * tokens, encoding.base)] + [line * theta for theta in upper]


def selective(encoding, x_TD, tokens_T, layer, h, i):
    rate_P = encoding.log_rate_LHP.detach().double().numpy()[layer, h]
    step_PD = encoding.step_LHPD.detach().double().numpy()[layer, h]
    angles = []
    for k, theta in enumerate(ladder(encoding.shape.head_dim, encoding.base)):
        travelled = sum(float(step_PD[k] @ x_TD[t]) / math.sqrt(float(x_TD[t] @ x_TD[t])) for t in range(i + 1))
        angles.append(theta * (math.exp(rate_P[k]) * i + travelled))
    return angles


def turned_embeddings(encoding, x_TD, tokens_T):
    T, D = x_TD.shape
    return np.array([rotated(x_TD[i], [i * theta for theta in ladder(D, encoding.base)]) for i in range(T)])


def placement(**where):
    """rope at another place; `embed` where nothing but the embeddings turns."""
    source = "the definition in model/encodings/rope_placement.py"
    if where.get("embeddings"):
        return Reference(source, embed=turned_embeddings)
    return Reference(source, turning(rope, **where), identity)


REFERENCES = {
    "rope": Reference("Su et al. 2021, eq. 13 to 15", turning(rope)),
    "rope_abf": Reference("Su et al. 2021, eq. 15, with the base of Xiong et al. 2023", turning(rope)),
    "rope_partial": Reference("Barbero et al. 2024, section 6: p-RoPE", turning(partial)),
    "rope_partial_head": Reference("GPT-NeoX: rotary on the first quarter of the head", turning(partial_head)),
    "rope_learned": Reference("the definition in model/encodings/rope_learned.py", turning(learned)),
    "rope_multiscale": Reference("the definition in model/encodings/rope_multiscale.py", turning(multiscale)),
    "rope_layerwise": Reference("Su et al. 2021, eq. 15, with a base a layer", turning(layerwise)),
    "rope_nope": Reference("Yang et al. 2025: layers of RoPE and of NoPE", turning(layerwise)),
    "rope_axial": Reference("the definition in model/encodings/rope_axial.py", turning(axial)),
    "rope_hierarchical": Reference("the definition in model/encodings/rope_axial.py", turning(hierarchical)),
    "rope_selective": Reference("the definition in model/encodings/rope_selective.py", turning(selective)),
    "rope_placement": placement(v=True, out=-1),
    "rope_embeddings": placement(embeddings=True),
    "rope_output": placement(qk=False, out=1),
}
