"""CUDA graphs: the kernels of a step recorded once, then launched together: launches are most of a small step."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

WARM_UP = 3  # passes before the one that is recorded: kernels are chosen and compiled in them


class Recorded:
    """The loss of a batch and its gradients, recorded when it first meets a batch on CUDA in training, and replayed
    for every later one of that shape: the same kernels, and so the same bits. Anything else is computed as ever.

    loss: from a batch to its mean loss, a scalar, by kernels alone: nothing in it may wait for the device or copy to
    it, or change what Python keeps. Where recording fails, a warning says why, and each kernel goes on being launched.
    A loss that was replayed has no graph of its own: `backward` knows. Gradients that accumulate over several losses
    would be overwritten.
    """

    def __init__(self, loss: Callable[[Tensor], Tensor], module: nn.Module):
        self.loss, self.module = loss, module
        self.parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.batch: Tensor | None = None  # where the graph reads it
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, batch: Tensor) -> Tensor:
        if self.batch is None and batch.is_cuda and torch.is_grad_enabled():
            self._record(batch)
        if self.graph is None or not torch.is_grad_enabled() or batch.shape != self.batch.shape:
            return self.loss(batch)
        self.batch.copy_(batch)
        self.graph.replay()
        return self.found

    def backward(self, loss: Tensor) -> None:
        """Gives the parameters the gradients of the loss that was computed last."""
        if loss.requires_grad:
            loss.backward()
            return
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient

    def _record(self, batch: Tensor) -> None:
        self.batch = batch.clone()
        before = [(buffer, buffer.clone()) for buffer in self.module.buffers()]  # recording runs the function
        # Autocast without its cache of weights, which a replay can't fill again.
        enabled, dtype = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
        torch.clear_autocast_cache()
        stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.autocast("cuda", dtype, enabled=enabled, cache_enabled=False):
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP):
                    self._loss_and_gradients()
            torch.cuda.current_stream().wait_stream(stream)
            try:
                with torch.cuda.graph(graph):
                    self.found, self.gradients = self._loss_and_gradients()
                self.graph = graph
            except RuntimeError as error:
                reason = str(error).strip().partition("\n")[0]
                warnings.warn(
                    f"a training step of this model can't be recorded as a CUDA graph ({reason}): each of its kernels "
                    "is launched by itself, which is slower where the model is small",
                    stacklevel=2,
                )
        for buffer, value in before:
            buffer.copy_(value)

    def _loss_and_gradients(self) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        loss = self.loss(self.batch)
        return loss.detach(), torch.autograd.grad(loss, self.parameters, allow_unused=True)
