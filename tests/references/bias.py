"""References of the encodings that add a bias or a relative term to the scores."""

import math

from tests.references import Reference, softmax_rows


def array(parameter):
    return parameter.detach().double().numpy()


def bias_output(bias):
    """Output of q·k/√K + bias(encoding, layer)(h, i, j)."""

    def output(encoding, q_HTK, k_HTK, v_HTK, x_TD, tokens_T, layer):
        H, T, K = q_HTK.shape
        b = bias(encoding, layer)
        return softmax_rows(lambda h, i, j: q_HTK[h, i] @ k_HTK[h, j] / math.sqrt(K) + b(h, i, j), H, T, v_HTK)

    return output


def slopes(H, exponent=8.0):
    """The authors' recursion, on plain floats."""
    if H & (H - 1) == 0:
        start = 2 ** (-exponent / H)
        return [start * start**n for n in range(H)]
    below = 1
    while 2 * below < H:
        below *= 2
    return slopes(below, exponent) + slopes(2 * below, exponent)[::2][: H - below]


def alibi(encoding, layer):
    m = slopes(encoding.shape.num_heads, encoding.exponent)
    return lambda h, i, j: -m[h] * (i - j)


def alibi_learned(encoding, layer):
    m, s = slopes(encoding.shape.num_heads, encoding.exponent), array(encoding.log_factor_H)
    return lambda h, i, j: -m[h] * math.exp(s[h]) * (i - j)


def relative(encoding, layer):
    table = array(encoding.table_HN)
    return lambda h, i, j: table[h, i - j if i - j < encoding.max_distance else encoding.max_distance]


def t5_bucket(D, n, M):
    """As many logarithmic steps above n/2 as fit below D; found by counting, with a whole power kept exact."""
    half, step = n // 2, 0
    if half > D:
        return D
    while step < n - half - 1 and half * (M / half) ** ((step + 1) / (n - half)) <= D * (1 + 1e-12):
        step += 1
    return half + step


def t5(encoding, layer):
    table = array(encoding.table_HN)
    return lambda h, i, j: table[h, t5_bucket(i - j, encoding.num_buckets, encoding.max_distance)]


def kerple_log(encoding, layer):
    p, a = array(encoding.p_H), array(encoding.a_H)
    return lambda h, i, j: -max(p[h], 0.01) * math.log(1 + max(a[h], 0.01) * (i - j))


def kerple_power(encoding, layer):
    p, a = array(encoding.p_H), array(encoding.a_H)
    return lambda h, i, j: -max(a[h], 0.01) * (i - j) ** min(max(p[h], 0.01), 2.0)


def sandwich(encoding, layer):
    w, base, H = encoding.width, encoding.base, encoding.shape.num_heads

    def embedded(position):
        return [wave(position / base ** (2 * k / w)) for k in range(w // 2) for wave in (math.sin, math.cos)]

    def bias(h, i, j):
        return math.fsum(p * q for p, q in zip(embedded(i), embedded(j), strict=True)) / (8 * (h + 1) / H)

    return bias


def relu_network(network):
    """x (a list of numbers) -> head h's output, of Linear, ReLU, Linear without bias."""
    first, bias, last = array(network[0].weight), array(network[0].bias), array(network[2].weight)

    def run(h, x):
        hidden = [
            max(0.0, sum(w * xi for w, xi in zip(row, x, strict=True)) + b) for row, b in zip(first, bias, strict=True)
        ]
        return math.fsum(w * a for w, a in zip(last[h], hidden, strict=True))

    return run


def fire(encoding, layer):
    c, threshold = abs(array(encoding.c)[layer]), abs(array(encoding.multiplier)[layer] * encoding.threshold)
    network = relu_network(encoding.networks[layer])

    def bias(h, i, j):
        return network(h, [math.log(c * (i - j) + 1) / (math.log(c * max(i, threshold) + 1) + 1e-6)])

    return bias


def cpb(features):
    def prepare(encoding, layer):
        network = relu_network(encoding.networks[layer])
        return lambda h, i, j: network(h, features(i - j, encoding.shape.context))

    return Reference("Liu et al. 2022, equation 4; the network of CrossFormer, section 3.3", bias_output(prepare))


def fourier(D, L):
    waves = [D / max(1.0, L / math.pi) ** (2 * k / 32) for k in range(16)]
    return [f(wave) for wave in waves for f in (math.sin, math.cos)]


def shaw(encoding, q_HTK, k_HTK, v_HTK, x_TD, tokens_T, layer, by_key=False):
    H, T, K = q_HTK.shape
    a = array(encoding.table_LNK)[layer]

    def score(h, i, j):
        row = a[i - j if i - j < encoding.max_distance else encoding.max_distance]
        return (q_HTK[h, i] @ (k_HTK[h, j] + row) + (k_HTK[h, j] @ row if by_key else 0)) / math.sqrt(K)

    return softmax_rows(score, H, T, v_HTK)


def huang(*args):
    return shaw(*args, by_key=True)


def transformer_xl(encoding, q_HTK, k_HTK, v_HTK, x_TD, tokens_T, layer):
    H, T, K = q_HTK.shape
    own = layer if encoding.untied else 0
    u, v, W = array(encoding.u_NHK)[own], array(encoding.v_NHK)[own], array(encoding.project_LHKR)[layer]
    waves = [encoding.base ** (-2 * k / encoding.width) for k in range(encoding.width // 2)]

    def score(h, i, j):
        R = [math.cos((i - j) * wave) for wave in waves] + [math.sin((i - j) * wave) for wave in waves]
        return ((q_HTK[h, i] + u[h]) @ k_HTK[h, j] + (q_HTK[h, i] + v[h]) @ (W[h] @ R)) / math.sqrt(K)

    return softmax_rows(score, H, T, v_HTK)


def deberta(encoding, q_HTK, k_HTK, v_HTK, x_TD, tokens_T, layer):
    H, T, K = q_HTK.shape
    P, W_k, W_q = array(encoding.table_ND), array(encoding.key_LHDK)[layer], array(encoding.query_LHDK)[layer]

    def delta(i, j):
        if i - j <= -encoding.span:
            return 0
        return 2 * encoding.span - 1 if i - j >= encoding.span else i - j + encoding.span

    def score(h, i, j):
        content = q_HTK[h, i] @ (P[delta(i, j)] @ W_k[h])
        position = k_HTK[h, j] @ (P[delta(j, i) if encoding.key_first else delta(i, j)] @ W_q[h])
        return (q_HTK[h, i] @ k_HTK[h, j] + content + position) / math.sqrt(3 * K)

    return softmax_rows(score, H, T, v_HTK)


REFERENCES = {
    "alibi": Reference("Press et al. 2022, section 3, and the slopes of the authors' code", bias_output(alibi)),
    "alibi_learned": Reference("the same, each slope times e^s", bias_output(alibi_learned)),
    "relative": Reference("Shaw et al. 2018, equation 4, a scalar for each distance", bias_output(relative)),
    "t5": Reference("Raffel et al. 2020, section 2.1, and mesh-tensorflow's buckets", bias_output(t5)),
    "kerple_log": Reference("Chi et al. 2022, equation 7, and the authors' bounds", bias_output(kerple_log)),
    "kerple_power": Reference("Chi et al. 2022, equation 6, and the authors' bounds", bias_output(kerple_power)),
    "sandwich": Reference("Chi et al. 2023, the listing: inner products of sinusoids", bias_output(sandwich)),
    "fire": Reference("Li et al. 2023, equations 3 to 5, and the authors' 1e-6", bias_output(fire)),
    "cpb_linear": cpb(lambda D, L: [D / L]),
    "cpb": cpb(lambda D, L: [math.log(1 + D)]),
    "cpb_fourier": cpb(fourier),
    "shaw": Reference("Shaw et al. 2018, equation 4", shaw),
    "huang": Reference("Huang et al. 2020, method 4", huang),
    "transformer_xl": Reference("Dai et al. 2019, section 3.3", transformer_xl),
    "deberta": Reference("He et al. 2021, equations 3 and 4", deberta),
}
