"""Text that a trained model writes: how it goes on from a prompt, token by token.

go_on(load("runs/rope-s0-..."), "To be", Choice(tokens=64, temperature=0)).text
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.module import TextDataModule
from eval.record.trained import Trained
from model.block import Past
from model.transformer import Transformer

# Of `samples`: tokens of each, at most, both together fit into the training context; how many there are, at most.
PROMPT, CONTINUATION, SAMPLES = 32, 64, 3


@dataclass(frozen=True)
class Choice:
    """tokens: how many are written; temperature: the logits are divided by it, and at 0 always the most likely token is
    taken; top_k: of so many most likely ones alone, None: of all; seed: of the draws. Raises ValueError for what can't
    be."""

    tokens: int = 128
    temperature: float = 0.8
    top_k: int | None = None
    seed: int = 0

    def __post_init__(self):
        if self.tokens < 1:
            raise ValueError(f"tokens={self.tokens}: must be at least 1")
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature={self.temperature}: must be 0, for the most likely token, or more")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k={self.top_k}: must be at least 1; leave it out to choose among all tokens")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed={self.seed}: must lie in 0 .. 2^63 - 1")


@dataclass(frozen=True)
class Continuation:
    """prompt: as the tokenizer gives it back; text: what the model went on by, as far as prompt and text fit into the
    tokens that it was trained for; beyond: what it wrote after them; stopped: why it ended before it had written as
    many tokens as it should."""

    prompt: str
    text: str
    beyond: str
    stopped: str | None


def go_on(trained: Trained, prompt: str = "", choice: Choice | None = None) -> Continuation:
    """How a model goes on from a prompt, at the beginning of a document; no prompt: from that beginning. Only tokens
    that stand for text are chosen, so that a document doesn't end. All that was written before is read for each token.

    The same model, prompt and choice write the same text. Raises ValueError for a model of a task, and for a prompt
    that can't be encoded or is longer than the encoding is defined on.
    """
    choice = choice or Choice()
    tokens_1T, model = trained.encode(prompt), trained.model
    model.encoding.check_length(given := tokens_1T.shape[1])
    text_V = torch.zeros(len(model.embedding.weight), dtype=torch.bool)
    text_V[trained.tokenizer.text_ids] = True
    written, stopped = tokens_1T[0].tolist(), None
    try:
        for token in itertools.islice(drawn(model, tokens_1T, chooser(choice, text_V)), choice.tokens):
            written.append(token)
    except ValueError as error:  # not defined on so many tokens, or broken down there
        stopped = str(error).partition(": ")[0]  # without the remedy, which is another command's
    texts = [trained.tokenizer.decode(written[:end]) for end in (given, max(given, model.trained_length), None)]
    ends = [alike(text, texts[-1]) for text in texts]  # a character may lie across the cut
    parts = (texts[-1][start:end] for start, end in itertools.pairwise([0, *ends]))
    return Continuation(*parts, stopped)


def alike(text: str, other: str) -> int:
    """How many characters at their beginnings are the same.

    >>> alike("caf\ufffd", "café au lait")
    3
    """
    return next((n for n, (a, b) in enumerate(zip(text, other, strict=False)) if a != b), min(len(text), len(other)))


@torch.no_grad()
def drawn(model: Transformer, tokens_1T: Tensor, choose: Callable[[Tensor], int]) -> Iterator[int]:
    """The tokens that a model goes on by, endlessly, each as `choose` takes it by the logits (V,). Where early rows
    change with the length, all rows are computed anew for each token. Raises ValueError where the encoding is not
    defined on so many tokens."""
    past = Past() if model.encoding.prefix_consistent else None
    new_1T = tokens_1T
    while True:
        token = choose(model(new_1T, past)[0, -1])
        yield token
        next_11 = torch.tensor([[token]], device=tokens_1T.device)
        new_1T = torch.cat([new_1T, next_11], dim=1) if past is None else next_11


def chooser(choice: Choice, text_V: Tensor) -> Callable[[Tensor], int]:
    """Takes tokens by their logits (V,), of those that text_V, bool (V,), has. It raises ValueError for logits that are
    not finite."""
    generator = torch.Generator().manual_seed(choice.seed)

    def choose(logits_V: Tensor) -> int:
        if not logits_V.isfinite().all():
            raise ValueError("the model's logits are not finite at this length")
        logits_V = logits_V.double().masked_fill(~text_V, -math.inf)
        if choice.temperature == 0:
            return int(logits_V.argmax())
        if choice.top_k is not None and choice.top_k < len(logits_V):
            kept = logits_V.topk(choice.top_k)
            logits_V = torch.full_like(logits_V, -math.inf).scatter(0, kept.indices, kept.values)
        weights_V = torch.softmax((logits_V - logits_V.max()) / choice.temperature, dim=0)
        return int(torch.multinomial(weights_V, 1, generator=generator))

    return choose


def samples(model: Transformer, data: TextDataModule, context: int) -> list[dict[str, str | int]]:
    """Of the longest validation documents, the longest first: their beginning as prompt, the text that the model goes
    on by, always by the most likely token, the document's own, and how many tokens each of these two has."""
    stream, model = data.streams["validation"], model.eval()
    prompt, found = min(PROMPT, context // 2), []
    for index in np.argsort(-np.diff(stream.offsets), kind="stable")[:SAMPLES]:
        document = stream.document(int(index))[: min(context, prompt + CONTINUATION)]
        given_1T = torch.from_numpy(document[:prompt].astype(np.int64))[None].to(model.embedding.weight.device)
        likeliest = drawn(model, given_1T, lambda logits_V: int(logits_V.argmax()))
        text = [*itertools.islice(likeliest, max(0, len(document) - prompt))]
        parts = {"prompt": document[:prompt], "text": text, "document": document[prompt:]}
        found.append({name: data.tokenizer.decode(part) for name, part in parts.items()} | {"tokens": len(text)})
    return found
