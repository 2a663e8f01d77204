"""The floor under every language model: what counting single tokens, or pairs of them, already predicts.

Unigram with additive smoothing (k = 1/2: Krichevsky & Trofimov, IEEE Trans. Information Theory 27 (1981)), and bigram
interpolated with it by Witten & Bell's method C (IEEE Trans. Information Theory 37 (1991); the form of Chen & Goodman,
https://aclanthology.org/P96-1041), which has no constant to tune:

    p(w)     = (c(w) + k) / (Σ c + k V)
    p(w | v) = (c(v w) + n(v) p(w)) / (c(v) + n(v))

c counts the training tokens, c(v) the tokens that follow v, and n(v) the *different* ones: the more company a token has
kept, the likelier the next is new. A model whose loss lies above these has learnt nothing from its longer context.

Shapes in names: T tokens, V vocabulary, P distinct pairs of neighbours and one sentinel.
"""

from dataclasses import dataclass

import numpy as np

ADD_K = 0.5


@dataclass(frozen=True, eq=False)
class NGram:
    """A fitted unigram or bigram; make one with `NGram.fit`. A unigram is the bigram that has seen no pair."""

    unigram_V: np.ndarray  # p(w), float64
    pair_P: np.ndarray  # v V + w of each pair seen, ascending, then V²: a sentinel greater than all
    count_P: np.ndarray  # c(v w); 0 for the sentinel
    followed_V: np.ndarray  # c(v)
    kinds_V: np.ndarray  # n(v); 1 where v was never followed by anything, so that p(w | v) becomes p(w)

    @classmethod
    def fit(
        cls, tokens_T: np.ndarray, vocab_size: int, order: int, *, document_starts: np.ndarray | None = None
    ) -> "NGram":
        """Count a training stream; takes some 40 bytes of memory a token.

        Args:
            tokens_T: integer ids in [0, vocab_size), documents one after the other.
            vocab_size: V. Every token of it gets a probability above zero, seen or not.
            order: 1 for a unigram, 2 for a bigram.
            document_starts: index of the first token of each document. As in the data's streams that token is a
                separator: it gives context to the next one, but neither it nor a pair that ends in it is counted.
                None takes the whole stream as one document and counts its first token.

        Raises:
            ValueError: ids that are not integers of the vocabulary, a start beyond the stream, another order, or
                nothing to count.
        """
        if order not in (1, 2):
            raise ValueError(f"order is {order}; choose 1 (unigram) or 2 (bigram)")
        tokens_T = _checked_tokens(tokens_T, vocab_size)
        counted_T = np.ones(len(tokens_T), dtype=bool)
        if document_starts is not None:
            starts = np.asarray(document_starts)
            if starts.size and not 0 <= starts.min() <= starts.max() < len(tokens_T):
                raise ValueError(
                    f"document_starts run from {starts.min()} to {starts.max()} in a stream of {len(tokens_T)} tokens; "
                    "give the index of each document's first token, without the end of the last"
                )
            counted_T[starts] = False
        if not counted_T.any():
            raise ValueError(f"none of the {len(tokens_T)} tokens can be counted; fit on text of at least one more")

        count_V = np.bincount(tokens_T[counted_T], minlength=vocab_size)
        if order == 1:
            pair_P, count_P = np.empty((2, 0), dtype=np.int64)
        else:
            pair_T = tokens_T[:-1] * vocab_size + tokens_T[1:]
            pair_P, count_P = np.unique(pair_T[counted_T[1:]], return_counts=True)
        previous_P = pair_P // vocab_size
        return cls(
            unigram_V=(count_V + ADD_K) / (count_V.sum() + ADD_K * vocab_size),
            pair_P=np.append(pair_P, vocab_size**2),
            count_P=np.append(count_P, 0),
            followed_V=np.bincount(previous_P, weights=count_P, minlength=vocab_size),
            kinds_V=np.maximum(np.bincount(previous_P, minlength=vocab_size), 1),
        )

    @property
    def vocab_size(self) -> int:
        return len(self.unigram_V)

    def token_losses(self, tokens_T: np.ndarray) -> np.ndarray:
        """-ln p of each token given the one before it, the first by the unigram: float64 (T,), in nats.

        A whole stream may be scored at once: a document's first real token follows its separator, and the loss of the
        separator, which no protocol scores, is to be left out.

        Raises:
            ValueError: ids that are not integers of the vocabulary.
        """
        tokens_T = _checked_tokens(tokens_T, self.vocab_size)
        probability_T = self.unigram_V[tokens_T]
        previous, pair = tokens_T[:-1], tokens_T[:-1] * self.vocab_size + tokens_T[1:]
        at = np.searchsorted(self.pair_P, pair)
        count = np.where(self.pair_P[at] == pair, self.count_P[at], 0)
        kinds, followed = self.kinds_V[previous], self.followed_V[previous]
        probability_T[1:] = (count + kinds * probability_T[1:]) / (followed + kinds)
        return -np.log(probability_T)


def _checked_tokens(tokens_T: np.ndarray, vocab_size: int) -> np.ndarray:
    """As int64, in which a pair of 16-bit ids cannot overflow."""
    tokens_T = np.asarray(tokens_T)
    if tokens_T.ndim != 1 or not np.issubdtype(tokens_T.dtype, np.integer):
        raise ValueError(f"tokens have shape {tokens_T.shape} and type {tokens_T.dtype}; give one row of integer ids")
    if tokens_T.size and not 0 <= tokens_T.min() <= tokens_T.max() < vocab_size:
        raise ValueError(
            f"tokens run from {tokens_T.min()} to {tokens_T.max()} in a vocabulary of {vocab_size}; "
            "use the tokenizer that made them"
        )
    return tokens_T.astype(np.int64)
