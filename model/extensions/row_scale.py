"""Scales of the queries that grow along the text, as the global layers of SWAN and Llama 4 have them, fitted."""

import math
from functools import partial

from torch import Tensor

from model.encodings.logn import QueryScale
from model.extensions import not_relative
from model.extensions.logit_scale import LogitScale
from model.extensions.scales import scaled


def in_steps(n_T: Tensor, a: float, length: int) -> Tensor:
    """1 + a · ln(1 + ⌊n / L⌋)."""
    return 1 + a * (n_T / length).floor().log1p()


def shifted_log(n_T: Tensor, a: float, length: int) -> Tensor:
    """max(1, ln(a + n) / ln(a + L))."""
    return ((a + n_T).log() / math.log(a + length)).clamp_min(1.0)


class Llama4Scale(LogitScale):
    """q_i × (1 + a · ln(1 + ⌊n / L⌋)), n the keys that row i sees: unchanged below L, then sharper in steps.

    Llama 4 (Meta 2025) in its global layers, with a = 0.1 and steps of 8,192 tokens (the encoding `temperature`): on a
    model that was trained without. Where layers differ it acts on those that see everything.

    a: null is fitted on the calibration split, from 0 to 1; 0 changes nothing and is always among them.
    Raises ValueError where it is negative, and for `apply` before it is fitted.
    """

    scale = staticmethod(in_steps)

    def fits(self, encoding):
        for module in encoding.modules():
            if isinstance(module, QueryScale) or getattr(module, "grows_with_keys", False):
                return f"{type(module).__name__} scales its queries with the length already"
        if encoding.sees is not None:
            return f"a row of {type(encoding).__name__} sees no more than {encoding.sees} keys, however long the text"
        return super().fits(encoding)

    def extend(self, encoding, train_length, eval_length):
        if self.a is None:
            raise ValueError("extension.a=null: fit it on a calibration split first (`tune`), or give it")
        scale = partial(self.scale, a=self.a, length=train_length)
        return scaled(encoding, scale, grows_with_keys=True, **not_relative(encoding))  # n tells rows apart


class SWANScale(Llama4Scale):
    """q_i × max(1, ln(a + n) / ln(a + L)), n the keys that row i sees: the larger a, the more slowly it grows.

    SWAN-GPT (Puvvada et al. 2025, https://arxiv.org/abs/2504.08719), which scales the scores of its layers without
    positions by log(a + n) at test, a fitted to the perplexity of 32K tokens: without it retrieval fails at the
    training length already. Here it is divided by its value at L, so that nothing changes within the training length;
    a = 0 is log-n.

    a: tokens; null is fitted on the calibration split, from 0 to some hundred training lengths, where nearly nothing
    changes. Raises ValueError where it is negative, and for `apply` before it is fitted.
    """

    scale = staticmethod(shifted_log)
    coarse, fine = (0.0, 0.5, 2.0, 8.0, 32.0, 128.0), (2.0, 2.0**0.5)  # in training lengths; factors

    @staticmethod
    def beside(best, step):
        return best / step, best * step

    @staticmethod
    def unit(train_length):
        return train_length
