"""The n-gram floors equal their formulas counted by hand in loops, and are probabilities.

python -m pytest tests/test_ngram.py
"""

from itertools import pairwise
from math import log

import numpy as np
import pytest

from eval.measure.ngram import ADD_K, NGram

SEPARATOR = 5
TOKENS = np.array([5, 0, 1, 0, 1, 2, 5, 1, 0, 0, 3, 1, 5, 2, 2], dtype=np.uint16)  # three documents; 4 never occurs
STARTS = np.array([0, 6, 12])
VOCAB = 6


def documents_by_hand():
    return [TOKENS[low:high].tolist() for low, high in zip(STARTS, [*STARTS[1:], len(TOKENS)], strict=True)]


def unigram_by_hand(w):
    targets = [token for document in documents_by_hand() for token in document[1:]]
    return (targets.count(w) + ADD_K) / (len(targets) + ADD_K * VOCAB)


def bigram_by_hand(v, w):
    pairs = [pair for document in documents_by_hand() for pair in pairwise(document)]
    followers = [after for before, after in pairs if before == v]
    if not followers:
        return unigram_by_hand(w)
    kinds = len(set(followers))
    return (followers.count(w) + kinds * unigram_by_hand(w)) / (len(followers) + kinds)


def test_a_unigram_is_its_formula_counted_by_hand():
    losses = NGram.fit(TOKENS, VOCAB, 1, document_starts=STARTS).token_losses(TOKENS)
    assert losses.dtype == np.float64
    np.testing.assert_allclose(losses, [-log(unigram_by_hand(w)) for w in TOKENS], rtol=1e-14)


def test_a_bigram_is_its_formula_counted_by_hand_for_every_pair_of_the_vocabulary():
    bigram = NGram.fit(TOKENS, VOCAB, 2, document_starts=STARTS)
    for v in range(VOCAB):
        for w in range(VOCAB):
            expected = [-log(unigram_by_hand(v)), -log(bigram_by_hand(v, w))]
            np.testing.assert_allclose(bigram.token_losses(np.array([v, w])), expected, rtol=1e-14)


def test_the_loss_of_a_token_depends_on_the_one_before_it_alone():
    bigram = NGram.fit(TOKENS, VOCAB, 2, document_starts=STARTS)
    pairs = [bigram.token_losses(TOKENS[i - 1 : i + 1])[1] for i in range(1, len(TOKENS))]
    np.testing.assert_array_equal(bigram.token_losses(TOKENS)[1:], pairs)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("starts", [None, STARTS])
def test_the_probabilities_after_every_token_sum_to_one(order, starts):
    ngram = NGram.fit(TOKENS, VOCAB, order, document_starts=starts)
    for v in range(VOCAB):
        total = sum(np.exp(-ngram.token_losses(np.array([v, w]))[1]) for w in range(VOCAB))
        assert total == pytest.approx(1, abs=1e-12)


def test_without_document_starts_every_token_counts():
    losses = NGram.fit(np.array([0, 1, 1]), 2, 2).token_losses(np.array([1, 1]))
    p_1 = (2 + ADD_K) / (3 + 2 * ADD_K)
    np.testing.assert_allclose(np.exp(-losses), [p_1, (1 + 1 * p_1) / (1 + 1)])


def test_the_last_token_of_a_document_says_nothing_of_the_next_document():
    bigram = NGram.fit(TOKENS, VOCAB, 2, document_starts=STARTS)
    one_document = NGram.fit(TOKENS, VOCAB, 2)
    across = np.array([TOKENS[STARTS[1] - 1], SEPARATOR])
    assert bigram.token_losses(across)[1] > one_document.token_losses(across)[1] + 0.5


def test_a_bigram_finds_the_entropy_of_a_markov_chain_and_a_unigram_that_of_its_tokens():
    rng = np.random.default_rng(0)
    step_VV = rng.dirichlet(np.full(8, 0.3), size=8)
    tokens = [0]
    for u in rng.random(60_000):
        tokens.append(min(7, int(np.searchsorted(np.cumsum(step_VV[tokens[-1]]), u))))
    train, held_out = np.array(tokens[:40_000]), np.array(tokens[40_000:])
    values, vectors = np.linalg.eig(step_VV.T)
    p_V = np.real(vectors[:, np.argmax(np.real(values))])
    p_V /= p_V.sum()
    safe_VV = np.where(step_VV > 0, step_VV, 1)
    assert NGram.fit(train, 8, 1).token_losses(held_out).mean() == pytest.approx(-p_V @ np.log(p_V), rel=0.01)
    entropy_rate = -p_V @ np.sum(step_VV * np.log(safe_VV), axis=1)
    assert NGram.fit(train, 8, 2).token_losses(held_out).mean() == pytest.approx(entropy_rate, rel=0.01)


def test_sixteen_bit_ids_of_a_large_vocabulary_do_not_overflow():
    rng, vocab_size = np.random.default_rng(1), 50_000
    tokens = rng.integers(0, vocab_size, 20_000)
    tokens[1::2] = vocab_size - 1 - tokens[::2]  # every second token follows from the one before it
    narrow, wide = tokens.astype(np.uint16), tokens.astype(np.int64)
    losses = NGram.fit(narrow, vocab_size, 2).token_losses(narrow)
    np.testing.assert_array_equal(losses, NGram.fit(wide, vocab_size, 2).token_losses(wide))
    assert losses[1::2].mean() < 2 < 7 < NGram.fit(narrow, vocab_size, 1).token_losses(narrow).mean()


def test_no_tokens_have_no_losses():
    assert NGram.fit(TOKENS, VOCAB, 2).token_losses(TOKENS[:0]).shape == (0,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: NGram.fit(TOKENS, VOCAB, 3), "order is 3"),
        (lambda: NGram.fit(TOKENS, 5, 2), "from 0 to 5 in a vocabulary of 5"),
        (lambda: NGram.fit(np.array([-1, 2]), VOCAB, 2), "from -1 to 2"),
        (lambda: NGram.fit(TOKENS.astype(float), VOCAB, 2), "type float64"),
        (lambda: NGram.fit(TOKENS[None], VOCAB, 2), r"shape \(1, 15\)"),
        (lambda: NGram.fit(TOKENS[:0], VOCAB, 1), "none of the 0 tokens"),
        (lambda: NGram.fit(TOKENS[:1], VOCAB, 2, document_starts=[0]), "none of the 1 tokens"),
        (lambda: NGram.fit(TOKENS, VOCAB, 2, document_starts=[0, 15]), "from 0 to 15 in a stream of 15"),
        (lambda: NGram.fit(TOKENS, VOCAB, 2, document_starts=[-1]), "from -1 to -1"),
        (lambda: NGram.fit(TOKENS, VOCAB, 2).token_losses(np.array([6])), "from 6 to 6 in a vocabulary of 6"),
    ],
)
def test_a_users_mistake_is_refused_with_its_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()
