"""References of the length extensions: a trained encoding, stretched, again from the papers' formulas in float64 loops.

`EXTENSION_REFERENCES` holds one for each yaml of conf/extension, by its name; tests/test_extensions.py holds the
methods to them. As with the encodings', they take settings and learned values off the objects and nothing else.

Shapes in names: T tokens, H heads, K head width, D model width; one sequence, no batch axis. L is the training length,
N the evaluation length.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.references import softmax_rows

REFERENCES = {}  # of encodings: none here


@dataclass(frozen=True)
class ExtensionReference:
    """What an extension has to compute, and where that was taken from.

    source: the paper's equation, or the authors' code, that it was written from.
    output: (extension, encoding, q_HTK, k_HTK, v_HTK, L, N) -> each head's output, (H, T, K).
    embed: (extension, encoding, x_TD, L, N) -> the embeddings before the first block, (T, D).
    encoding: the encoding it is tried on. settings: of the extension, where its defaults are not the paper's.
    """

    source: str
    output: Callable | None = None
    embed: Callable | None = None
    encoding: str = "rope"
    settings: dict = field(default_factory=dict)


# ------------------------------------------------------------------------------------------------ rotations and a score


def rope_score(q_K, k_K, frequencies, distance: float) -> float:
    """q turned to `distance` tokens after k, half-split pairs, and their product over √K."""
    half = len(q_K) // 2
    total = 0.0
    for p, theta in enumerate(frequencies):
        a, b, c, d = q_K[p], q_K[p + half], k_K[p], k_K[p + half]
        total += (a * c + b * d) * math.cos(distance * theta) + (a * d - b * c) * math.sin(distance * theta)
    return total / math.sqrt(len(q_K))


def base_frequencies(encoding, K: int, base: float | None = None) -> list[float]:
    return [(base or encoding.base) ** (-2 * p / K) for p in range(K // 2)]


def by_frequencies(frequencies: Callable, temperature: Callable = lambda extension, L, N: 1.0) -> Callable:
    """The output under frequencies(extension, encoding, K, L, N), the scores × temperature(extension, L, N)²."""

    def output(extension, encoding, q_HTK, k_HTK, v_HTK, L, N):
        H, T, K = q_HTK.shape
        thetas = frequencies(extension, encoding, K, L, N)
        square = temperature(extension, L, N) ** 2
        score = lambda h, i, j: square * rope_score(q_HTK[h, i], k_HTK[h, j], thetas, i - j)  # noqa: E731
        return softmax_rows(score, H, T, v_HTK)

    return output


def by_distance(distance: Callable) -> Callable:
    """The output of RoPE where i and j are distance(extension, i, j, L, N) tokens apart, or unseen where None."""

    def output(extension, encoding, q_HTK, k_HTK, v_HTK, L, N):
        H, T, K = q_HTK.shape
        thetas = base_frequencies(encoding, K)

        def score(h, i, j):
            apart = distance(extension, i, j, L, N)
            return -math.inf if apart is None else rope_score(q_HTK[h, i], k_HTK[h, j], thetas, apart)

        return softmax_rows(score, H, T, v_HTK)

    return output


# ------------------------------------------------------------------------------------------------------ the frequencies


def pi(extension, encoding, K, L, N):
    return [theta / (N / L) for theta in base_frequencies(encoding, K)]


def ntk(extension, encoding, K, L, N):
    return base_frequencies(encoding, K, encoding.base * (N / L) ** (K / (K - 2)))


def dynamic_ntk(extension, encoding, K, L, N):
    a = extension.alpha
    return base_frequencies(encoding, K, encoding.base * (a * N / L - (a - 1)) ** (K / (K - 2)))


def ntk_mixed(extension, encoding, K, L, N):
    a = math.log(N / L) / (K / 2) ** extension.power
    return [theta * math.exp(-a * m**extension.power) for m, theta in enumerate(base_frequencies(encoding, K), start=1)]


def yarn(extension, encoding, K, L, N):
    def correction(turns):
        return K * math.log(L / (turns * 2 * math.pi)) / (2 * math.log(encoding.base))

    low = max(math.floor(correction(extension.beta_fast)), 0)
    high = min(math.ceil(correction(extension.beta_slow)), K - 1)
    thetas = []
    for p, theta in enumerate(base_frequencies(encoding, K)):
        ramp = min(max((p - low) / (high - low if high != low else 0.001), 0), 1)
        thetas.append(theta / (N / L) * ramp + theta * (1 - ramp))
    return thetas


def yarn_paper(extension, encoding, K, L, N):
    alpha, beta, s = extension.beta_slow, extension.beta_fast, N / L
    thetas = []
    for theta in base_frequencies(encoding, K):
        r = L / (2 * math.pi / theta)
        gamma = 0 if r < alpha else 1 if r > beta else (r - alpha) / (beta - alpha)
        thetas.append((1 - gamma) * theta / s + gamma * theta)
    return thetas


def llama3(extension, encoding, K, L, N):
    factor, low, high = extension.factor or N / L, extension.low, extension.high
    thetas = []
    for theta in base_frequencies(encoding, K):
        wavelength = 2 * math.pi / theta
        if wavelength < L / high:
            thetas.append(theta)
        elif wavelength > L / low:
            thetas.append(theta / factor)
        else:
            smooth = (L / wavelength - low) / (high - low)
            thetas.append((1 - smooth) * theta / factor + smooth * theta)
    return thetas


def longrope(extension, encoding, K, L, N):
    return [theta / factor for theta, factor in zip(base_frequencies(encoding, K), extension.factors, strict=True)]


def abf(extension, encoding, K, L, N):
    s, of_xiong = N / L, math.log(50) / math.log(8)  # 10,000 to 500,000 for 4,096 to 32,768 tokens
    return base_frequencies(encoding, K, extension.base or encoding.base * s**of_xiong)


def pose(extension, encoding, K, L, N):
    return yarn(extension.inner, encoding, K, L, N)  # in evaluation; its positions are tests/test_drawn_positions.py's


def yarn_temperature(extension, L, N):
    return extension.temperature * math.log(N / L) + 1


def longrope_temperature(extension, L, N):
    return math.sqrt(1 + math.log(N / L) / math.log(L))


# -------------------------------------------------------------------------------------------------------- the distances


def rerope(extension, i, j, L, N):
    w = extension.window or L // 2
    return i - j if i - j < w else w


def leaky_rerope(extension, i, j, L, N):
    w = extension.window or L // 2
    k = extension.slowdown or (N - 1 - w) / (L - 1 - w)
    return i - j if i - j < w else w + (i - j - w) / k


def self_extend(extension, i, j, L, N):
    W = extension.window or L // 2
    G = extension.group or next(G for G in range(1, N) if (N - 1) // G + W - W // G <= L - 1)
    return i - j if i - j < W else i // G + W - W // G - j // G


def window(extension, i, j, L, N):
    """The cache of row i, token by token: the first tokens, then the last ones, placed at 0, 1, 2, .."""
    size = extension.window or L - extension.sinks
    cache = [t for t in range(i + 1) if t < extension.sinks or t > i - size]
    return cache.index(i) - cache.index(j) if j in cache else None


# -------------------------------------------------------------------------------------------------- the other encodings


def drop(extension, encoding, q_HTK, k_HTK, v_HTK, L, N):
    H, T, K = q_HTK.shape
    return softmax_rows(lambda h, i, j: q_HTK[h, i] @ k_HTK[h, j] / math.sqrt(K), H, T, v_HTK)


def logit_scale(extension, encoding, q_HTK, k_HTK, v_HTK, L, N):
    H, T, K = q_HTK.shape
    slopes, beta = encoding.slopes_H.tolist(), 1 + extension.a * math.log(N / L)
    score = lambda h, i, j: beta * (q_HTK[h, i] @ k_HTK[h, j]) / math.sqrt(K) - slopes[h] * (i - j)  # noqa: E731
    return softmax_rows(score, H, T, v_HTK)


def logn(extension, encoding, q_HTK, k_HTK, v_HTK, L, N):
    H, T, K = q_HTK.shape
    thetas = base_frequencies(encoding, K)

    def score(h, i, j):
        return max(1.0, math.log(i + 1) / math.log(L)) * rope_score(q_HTK[h, i], k_HTK[h, j], thetas, i - j)

    return softmax_rows(score, H, T, v_HTK)


def by_rows(scale: Callable) -> Callable:
    """RoPE's score × scale(extension, keys that the row sees, L)."""

    def output(extension, encoding, q_HTK, k_HTK, v_HTK, L, N):
        H, T, K = q_HTK.shape
        thetas = base_frequencies(encoding, K)
        score = lambda h, i, j: (  # noqa: E731
            scale(extension, i + 1, L) * rope_score(q_HTK[h, i], k_HTK[h, j], thetas, i - j)
        )
        return softmax_rows(score, H, T, v_HTK)

    return output


def llama4_scale(extension, n, L):
    return 1 + extension.a * math.log(1 + n // L)


def swan_scale(extension, n, L):
    return math.log(extension.a + n) / math.log(extension.a + L) if n > L else 1.0


def layers(extension, encoding, q_HTK, k_HTK, v_HTK, L, N):
    """PI on Gemma 3's first layer, which has a base of 10,000 and here a window of L/8."""
    H, T, K = q_HTK.shape
    thetas = [10_000 ** (-2 * p / K) * L / N for p in range(K // 2)]
    score = lambda h, i, j: (  # noqa: E731
        rope_score(q_HTK[h, i], k_HTK[h, j], thetas, i - j) if i - j < L // 8 else -math.inf
    )
    return softmax_rows(score, H, T, v_HTK)


def alibi_interpolation(extension, encoding, q_HTK, k_HTK, v_HTK, L, N):
    H, T, K = q_HTK.shape
    slopes = encoding.slopes_H.tolist()  # ALiBi's own are held to their reference elsewhere

    def score(h, i, j):
        return q_HTK[h, i] @ k_HTK[h, j] / math.sqrt(K) - slopes[h] * (i - j) / (N / L)

    return softmax_rows(score, H, T, v_HTK)


def table_interpolation(extension, encoding, x_TD, L, N):
    table = encoding.table.detach().double().numpy()
    out = x_TD.copy()
    for i in range(len(x_TD)):
        place = i * (L - 1) / (N - 1)
        below = min(int(place), L - 2)
        out[i] += (below + 1 - place) * table[below] + (place - below) * table[below + 1]
    return out


EXTENSION_REFERENCES = {
    "pi": ExtensionReference("Chen et al. 2023, equation 4", by_frequencies(pi)),
    "ntk": ExtensionReference("YaRN's section 3.1: a change of the base", by_frequencies(ntk)),
    "dynamic_ntk": ExtensionReference("a change of the base, by the length", by_frequencies(dynamic_ntk)),
    "ntk_mixed": ExtensionReference("the author's code", by_frequencies(ntk_mixed)),
    "yarn": ExtensionReference(
        "the authors' code", by_frequencies(yarn, yarn_temperature), settings={"beta_fast": 4.0, "beta_slow": 0.05}
    ),
    "yarn_paper": ExtensionReference(
        "equations 17 to 22",
        by_frequencies(yarn_paper, yarn_temperature),
        settings={"beta_fast": 4.0, "beta_slow": 0.05},
    ),
    "llama3": ExtensionReference(
        "the released code", by_frequencies(llama3), settings={"low": 0.1, "high": 3.0, "factor": 3.0}
    ),
    "longrope": ExtensionReference(
        "the released code",
        by_frequencies(longrope, longrope_temperature),
        settings={"factors": [1.0, 1.1, 1.5, 1.6, 1.7, 2.0, 2.2, 2.7]},
    ),
    "abf": ExtensionReference("Xiong et al. 2023: a change of the base", by_frequencies(abf)),
    "drop": ExtensionReference("Gelberg et al. 2025: no positions", drop),
    "logit_scale": ExtensionReference(
        "Gelberg et al. 2025: β = 1 + a ln s", logit_scale, encoding="alibi", settings={"a": 0.412}
    ),
    "pose": ExtensionReference(
        "the authors' code of YaRN, in evaluation",
        by_frequencies(pose, lambda extension, L, N: yarn_temperature(extension.inner, L, N)),
        settings={"inner": {"_target_": "model.extensions.yarn.YaRN", "beta_fast": 4.0, "beta_slow": 0.05}},
    ),
    "random_positions": ExtensionReference(
        "RoPE, in evaluation", by_frequencies(lambda extension, encoding, K, L, N: base_frequencies(encoding, K))
    ),
    "rerope": ExtensionReference("Su 2023, the clipped distance", by_distance(rerope)),
    "leaky_rerope": ExtensionReference("Su 2023, the leaky distance", by_distance(leaky_rerope)),
    "self_extend": ExtensionReference("the authors' code", by_distance(self_extend), settings={"window": 21}),
    "logn": ExtensionReference("Su 2021", logn),
    "llama4_scale": ExtensionReference("Llama 4 in transformers", by_rows(llama4_scale), settings={"a": 0.3}),
    "swan_scale": ExtensionReference("Puvvada et al. 2025: log(a + n)", by_rows(swan_scale), settings={"a": 7.0}),
    "layers": ExtensionReference(
        "Chen et al. 2023, equation 4, in a local layer",
        layers,
        encoding="gemma3",
        settings={"inner": {"_target_": "model.extensions.pi.PI"}},
    ),
    "window": ExtensionReference("Xiao et al. 2023: a cache, token by token", by_distance(window)),
    "alibi_interpolation": ExtensionReference("Al-Khateeb et al. 2023", alibi_interpolation, encoding="alibi"),
    "table_interpolation": ExtensionReference(
        "linear interpolation between rows", embed=table_interpolation, encoding="learned"
    ),
}
