"""References of encodings whose layers differ: each layer as its model's publication has it, by loops over (i, j).

Which layer is which, its base, its share of turning pairs and what it sees are written down here again, from the
sources, and nothing of them is taken off the encoding but the sizes of the model."""

import math
from dataclasses import dataclass

from tests.references import Reference, softmax_rows
from tests.references.rotary import ladder, rotated


@dataclass(frozen=True)
class Layer:
    """base: of its rotation, None where it has none. turning: share of the pairs that turn, the fastest. window, chunk:
    L over its tokens. step: L over the tokens of a step of Llama 4's temperature."""

    base: float | None = None
    turning: float = 1.0
    window: int | None = None
    chunk: int | None = None
    step: int | None = None


def pattern(*layers: Layer):
    def output(encoding, q_HTK, k_HTK, v_HTK, x_TD, tokens_T, layer):
        here, L = layers[layer % len(layers)], encoding.shape.context
        H, T, K = q_HTK.shape
        thetas = [0.0] * (K // 2)
        if here.base:
            turning = max(1, int(here.turning * K / 2))
            thetas = [theta if k < turning else 0.0 for k, theta in enumerate(ladder(K, here.base))]

        def score(h, i, j):
            if here.window and i - j >= L // here.window:
                return -math.inf
            if here.chunk and i // (L // here.chunk) != j // (L // here.chunk):
                return -math.inf
            q = rotated(q_HTK[h, i], [i * theta for theta in thetas], False)
            k = rotated(k_HTK[h, j], [j * theta for theta in thetas], False)
            scale = 1 + 0.1 * math.log(1 + (i + 1) // (L // here.step)) if here.step else 1.0
            return scale * (q @ k) / math.sqrt(K)

        return softmax_rows(score, H, T, v_HTK)

    return output


REFERENCES = {
    "chunked": Reference("Llama 4 in transformers: chunks of L/4, by RoPE's score", pattern(Layer(1e4, chunk=4))),
    "layers": Reference("RoPE in a window of L/4, and NoPE, in turn", pattern(Layer(1e4, window=4), Layer())),
    "swan": Reference(
        "Puvvada et al. 2025: global NoPE, then three of RoPE in a window",
        pattern(Layer(), *[Layer(1e4, window=4)] * 3),
    ),
    "rnope_swa": Reference(
        "Yang et al. 2025: three of RoPE in a window, then global NoPE", pattern(*[Layer(5e4, window=4)] * 3, Layer())
    ),
    "irope": Reference(
        "Llama 4 in transformers: three of RoPE in chunks, then NoPE with its temperature",
        pattern(*[Layer(5e5, chunk=4)] * 3, Layer(step=4)),
    ),
    "gemma3": Reference(
        "Gemma Team 2025: five in a window, base 10,000, then one of base 1,000,000",
        pattern(*[Layer(1e4, window=8)] * 5, Layer(1e6)),
    ),
    "gemma4": Reference(
        "Gemma 4 in transformers: as Gemma 3, a quarter of the pairs turning in the global layers",
        pattern(*[Layer(1e4, window=8)] * 5, Layer(1e6, turning=0.25)),
    ),
    "gpt_oss": Reference(
        "openai/gpt-oss, model.py: a window in every other layer, the first on; base 150,000",
        pattern(Layer(1.5e5, window=8), Layer(1.5e5)),
    ),
    "smollm3": Reference(
        "SmolLM3 in transformers: three of RoPE, base 5,000,000, then NoPE", pattern(*[Layer(5e6)] * 3, Layer())
    ),
}
