"""Token losses of windows under a model: float64, in as few forward passes as possible."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data.stream import TokenStream
from data.windows import Windows, gather_windows
from model.devices import out_of_memory
from model.encodings import PositionEncoding
from model.transformer import Transformer

HEAD_LOGITS = 1 << 24  # logits held at once: the head runs over so many tokens · vocabulary
CACHED_LOGITS = 1 << 18  # of these so many in float64 at once, on the CPU: what its cache holds

T, U = TypeVar("T"), TypeVar("U")


class Scorer:
    """Scores windows of one stream with one model.

    batch_tokens: tokens a forward pass; halved, with a warning, where memory runs out.
    precision: "32", or "bf16" (autocast of all but the head); the losses are float64 log-probabilities either way.
    report: called after each pass with the share of what was asked that is done.
    """

    def __init__(
        self,
        model: Transformer,
        stream: TokenStream,
        batch_tokens: int,
        precision: str = "32",
        report: Callable[[float], None] = lambda share: None,
    ):
        self.model, self.stream, self.batch_tokens, self.precision = model.eval(), stream, batch_tokens, precision
        self.report = report

    def score(self, plans: Sequence[Windows], encoding: PositionEncoding | None = None) -> list[np.ndarray]:
        """For each plan, the losses (nats, float64) of its scored targets, window after window, concatenated.

        A window that several plans ask for is run once, by one of the devices of the run.
        """
        scored: dict[tuple[int, int], int] = {}
        for windows in plans:
            for start, stop, count in zip(*(part.tolist() for part in windows), strict=True):
                scored[start, stop] = max(count, scored.get((start, stop), 0))
        windows = list(scored.items())
        if not torch.distributed.is_initialized():
            losses = self._run(windows, encoding or self.model.encoding)
        else:
            rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
            shares = [None] * world
            torch.distributed.all_gather_object(
                shares, self._run(windows[rank::world], encoding or self.model.encoding)
            )
            losses = {window: values for share in shares for window, values in share.items()}
        return [
            np.concatenate(
                [
                    losses[start, stop][-count:]
                    for start, stop, count in zip(*(part.tolist() for part in windows), strict=True)
                ]
            )
            for windows in plans
        ]

    def _run(self, scored: Sequence[tuple[tuple[int, int], int]], encoding) -> dict[tuple[int, int], np.ndarray]:
        alike: dict[tuple[int, bool], list[tuple[int, int]]] = {}
        for (start, stop), count in scored:
            length = stop - start
            alike.setdefault((length, count > length // 2), []).append((start, count))
        losses, done, tokens = {}, 0, sum(stop - start for (start, stop), _ in scored)
        for (length, whole), windows in sorted(alike.items()):
            run = functools.partial(self._batch, length=length, whole=whole, encoding=encoding)
            for batch, values in self._by_batch(windows, length, run):
                losses.update({(start, start + length): row for (start, _), row in zip(batch, values, strict=True)})
                done += length * len(batch)
                self.report(done / tokens)
        return losses

    @torch.no_grad()
    def _batch(self, windows: Sequence[tuple[int, int]], length: int, whole: bool, encoding) -> list[np.ndarray]:
        """For each window (start, count) the losses of its last `count` targets, float64. whole: the last block
        computes all rows, by the kernel that is fastest for all; else those alone that are scored."""
        starts_W, counts_W = np.array(windows).T
        weight = self.model.embedding.weight
        device = weight.device
        tokens = gather_windows(self.stream, starts_W, length + 1).to(device)
        last = length if whole else int(counts_W.max())
        counts = torch.from_numpy(counts_W).to(device)
        scored_WN = torch.arange(last, device=device) >= last - counts[:, None]
        with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            hidden = self.model.hidden(tokens[:, :-1], encoding=encoding, last=None if whole else last)
        hidden, targets = hidden[scored_WN], tokens[:, -last:][scored_WN]  # (targets, D), (targets,)
        parts = [_losses(logits, of_them) for logits, of_them in self._logits(hidden, targets)]
        return np.split(torch.cat(parts).cpu().numpy(), np.cumsum(counts_W)[:-1])

    def answers(
        self, tokens_WT: np.ndarray, scored_T: np.ndarray, encoding: PositionEncoding | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Of windows that stand in no stream, and of those of their tokens that are scored (bool (T,), the same in all,
        not the first): the losses (nats, float64) and whether each is the model's most likely token, both (W, S).

        All S of a window are right exactly where greedy decoding writes them.
        """
        last = len(scored_T) - int(np.argmax(scored_T))
        whole = last > len(scored_T) // 2
        run = functools.partial(
            self._answers, scored_T=scored_T, last=None if whole else last, encoding=encoding or self.model.encoding
        )
        found = []
        for _, of_batch in self._by_batch(tokens_WT, len(scored_T) - 1, run):
            found.append(of_batch)
            self.report(sum(len(losses) for losses, _ in found) / len(tokens_WT))
        losses, right = zip(*found, strict=True)
        return np.concatenate(losses), np.concatenate(right)

    @torch.no_grad()
    def _answers(
        self, tokens_WT: np.ndarray, scored_T: np.ndarray, last: int | None, encoding: PositionEncoding
    ) -> tuple[np.ndarray, np.ndarray]:
        """`answers` of one batch. last: as in `Transformer.hidden`."""
        weight = self.model.embedding.weight
        tokens, scored = (torch.from_numpy(np.ascontiguousarray(x)).to(weight.device) for x in (tokens_WT, scored_T))
        with torch.autocast(weight.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            hidden = self.model.hidden(tokens[:, :-1], encoding=encoding, last=last)
        hidden = hidden[:, scored[-hidden.shape[1] :]].flatten(0, 1)
        found = [
            (_losses(logits, of_them), logits.argmax(dim=-1) == of_them)
            for logits, of_them in self._logits(hidden, tokens[:, scored].flatten())
        ]
        return tuple(torch.cat(parts).cpu().numpy().reshape(len(tokens), -1) for parts in zip(*found, strict=True))

    def _logits(self, hidden: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The logits (some, V) of what the last norm gives (targets, D), and the targets (targets,) that they are of,
        in parts that memory and cache hold."""
        weight = self.model.embedding.weight
        for h, t in zip(*(x.split(max(1, HEAD_LOGITS // len(weight))) for x in (hidden, targets)), strict=True):
            logits = F.linear(h.to(weight.dtype), weight)
            rows = len(logits) if logits.is_cuda else max(1, CACHED_LOGITS // len(weight))
            yield from zip(logits.split(rows), t.split(rows), strict=True)

    def _by_batch(
        self, windows: Sequence[T], length: int, run: Callable[[Sequence[T]], U]
    ) -> Iterator[tuple[Sequence[T], U]]:
        """Batches of windows of so many tokens, and what `run` makes of each; smaller ones where memory runs out."""
        done = 0
        while done < len(windows):
            batch = windows[done : done + max(1, self.batch_tokens // length)]
            try:
                found = run(batch)
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                if len(batch) == 1:
                    raise MemoryError(
                        f"out of memory with one window of {length} tokens: score the run by `python -m "
                        "eval run=...` with shorter eval.lengths or eval.precision=bf16, or choose a smaller model"
                    ) from None
                self.batch_tokens = length * (len(batch) // 2)
                warnings.warn(f"out of memory: eval.batch_tokens is halved to {self.batch_tokens}", stacklevel=2)
                torch.cuda.empty_cache()
                continue
            yield batch, found
            done += len(batch)


def _losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Nats, float64, by target."""
    return F.cross_entropy(logits.double(), targets, reduction="none")
