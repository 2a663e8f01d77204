"""PoSE: a stage at the short length in which positions are skipped, as they are in a longer text."""

from model.extensions.drawn import DrawnPositions


class PoSE(DrawnPositions):
    """In training the T tokens of a window stand at 0 .. c − 1 and at c + u .. T − 1 + u, where c is drawn from
    1 .. ⌊(T + 1)/2⌋ and u from 0 .. N − T, uniformly, both ends included. In evaluation positions are the tokens' own.

    Zhu et al. 2023, "PoSE: Efficient Context Window Extension of LLMs via Positional Skip-wise Training",
    https://arxiv.org/abs/2309.10400, with two chunks, as in the authors' code: every distance below N is met in
    training at the cost of T tokens. It goes on top of a method that stretches to N: theirs are PI, NTK and YaRN.

    Departs from the authors: one draw serves a batch, where theirs draw for each text; and the second chunk is the text
    that follows the first, where theirs is taken from a random later place of the document.

    inner: the extension that it goes on top of (none: positions alone). length: N, tokens, of the stage, above its
    context. seed: of the draws, which are a function of it and of how many there were, kept in the state_dict, so that
    a resumed stage draws what an uninterrupted one does; the run's own by default.
    Raises ValueError for a length that isn't above the context, an inner extension that doesn't fit, or one that hides
    keys or drops positions. At test time, without a stage, it is its inner extension.
    """

    how = "skip"
