"""Log-n: queries grow with the number of keys in sight."""

from model.encodings.logn import LogN, QueryScale
from model.encodings.stick_breaking import StickBreaking
from model.extensions import Extension


class LogNExtension(Extension):
    """q_i × max(1, ln(i + 1) / ln L): the first L rows are as trained, the softmax over more keys is made sharper.

    The encoding `logn` (model/encodings/logn.py), put around a model that was trained without it. It fits every
    encoding whose weights are a softmax over the keys, except those that scale their queries with the length already
    and those with a window, in which the keys never become more.
    """

    def fits(self, encoding):
        for module in encoding.modules():
            if isinstance(module, QueryScale):
                return f"{type(module).__name__} scales its queries with the length already"
            if isinstance(module, StickBreaking):
                return f"{type(module).__name__} has no softmax that would need sharpening"
        if encoding.sees is not None:
            return f"a row of {type(encoding).__name__} sees no more than {encoding.sees} keys, however long the text"
        return None

    def extend(self, encoding, train_length, eval_length):
        scaled = LogN(encoding.shape, encoding, length=train_length)
        scaled.training = encoding.training
        return scaled
