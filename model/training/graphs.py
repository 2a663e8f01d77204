"""CUDA graphs: the kernels of a step recorded once, then launched together: launches are most of a small step."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from model.transformer import Transformer


class Replayed:
    """A function of a batch (and of a transformer's parameters) that is recorded, forward and backward, when it first
    meets a batch on CUDA in training, and replayed for every later one of that shape: the same kernels, and so the
    same bits, without a launch for each. Anything else (evaluation, another shape) is computed as ever.

    function: from a batch to tensors, by kernels alone: nothing in it may wait for the device or copy to it, or change
    what Python keeps. Where recording fails, a warning says why, and every step is launched by itself.
    One backward pass a forward pass: gradients that accumulate over several would be overwritten.
    """

    def __init__(self, function: Callable[[Tensor], tuple[Tensor, ...]], transformer: Transformer):
        self.function, self.transformer = function, transformer
        self.shape: torch.Size | None = None
        self.replay = function

    def __call__(self, batch: Tensor) -> tuple[Tensor, ...]:
        if not (batch.is_cuda and torch.is_grad_enabled()):
            return self.function(batch)
        if self.shape is None:
            self.shape = batch.shape
            self._record(batch)
        return (self.replay if batch.shape == self.shape else self.function)(batch)

    def _record(self, batch: Tensor) -> None:
        before = [(buffer, buffer.clone()) for buffer in self.transformer.buffers()]  # recording runs the function
        torch.clear_autocast_cache()
        recorded = _Recorded(self.function, self.transformer)
        try:
            with recorded.autocast():
                torch.cuda.make_graphed_callables(recorded, (batch.clone(),), allow_unused_input=True)
            self.replay = recorded
        except RuntimeError as error:
            reason = str(error).strip().partition("\n")[0]
            warnings.warn(
                f"a training step of this model can't be recorded as a CUDA graph ({reason}): each of its kernels is "
                "launched by itself, which is slower where the model is small",
                stacklevel=2,
            )
        for buffer, value in before:
            buffer.copy_(value)


class _Recorded(nn.Module):
    """The function as a module, whose parameters get gradients. Not part of the one that is trained."""

    def __init__(self, function: Callable[[Tensor], tuple[Tensor, ...]], transformer: Transformer):
        super().__init__()
        self.function, self.transformer = function, transformer
        self.enabled, self.dtype = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")

    def autocast(self) -> torch.autocast:
        """The caller's, without its cache of weights, which a graph can't refill."""
        return torch.autocast("cuda", self.dtype, enabled=self.enabled, cache_enabled=False)

    def forward(self, batch: Tensor) -> tuple[Tensor, ...]:
        with self.autocast():
            return self.function(batch)
