"""Log-n: queries grow with the number of keys in sight."""

import math
from functools import partial

from torch import Tensor

from model.encodings.logn import QueryScale
from model.extensions import Extension, not_relative
from model.extensions.scales import scaled, softmax_reason


def log_n(n_T: Tensor, length: int) -> Tensor:
    """max(1, ln n / ln L)."""
    return (n_T.log() / math.log(length)).clamp_min(1.0)


class LogNExtension(Extension):
    """q_i × max(1, ln(i + 1) / ln L): the first L rows are as trained, the softmax over more keys is made sharper.

    The encoding `logn` (model/encodings/logn.py), put on a model that was trained without it. It fits every
    encoding whose weights are a softmax over the keys, except those that scale their queries with the length already
    and those with a window, in which the keys never become more.
    """

    def fits(self, encoding):
        for module in encoding.modules():
            if isinstance(module, QueryScale) or getattr(module, "grows_with_keys", False):
                return f"{type(module).__name__} scales its queries with the length already"
        if reason := softmax_reason(encoding):
            return reason
        if encoding.sees is not None:
            return f"a row of {type(encoding).__name__} sees no more than {encoding.sees} keys, however long the text"
        return None

    def extend(self, encoding, train_length, eval_length):
        scale = partial(log_n, length=train_length)
        return scaled(encoding, scale, grows_with_keys=True, **not_relative(encoding))  # n tells rows apart
