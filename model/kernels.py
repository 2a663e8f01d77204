"""torch.compile for training, operators for which its own code on the CPU is slow (uncompiled, each is torch's of the
same name), and products in bf16 on processors that have no instruction for them. docs/speed.md has the figures."""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.library import Library, get_kernel

from model.devices import bf16_kernels

PRODUCTS = ("mm", "bmm", "addmm", "baddbmm")


def compile_training(function: Callable, gpu: bool) -> Callable:
    """The function compiled. On the CPU kernels are called from C++: with layers this small, Python's calls count. But
    not where products are widened, which C++ would call past the dispatcher."""
    return torch.compile(function, options={"cpp_wrapper": True} if not gpu and bf16_kernels() else None)


def materialise(x: Tensor) -> Tensor:
    """x itself. Compiled code computes it once, here, where else every kernel that reads it would compute it anew: for
    a small table that is read by large tensors."""
    return _materialise(x) if torch.compiler.is_compiling() else x


@torch.library.custom_op("trainshort::materialise", mutates_args=())
def _materialise(x: Tensor) -> Tensor:
    return x.clone(memory_format=torch.contiguous_format)


_materialise.register_fake(lambda x: torch.empty(x.shape, dtype=x.dtype, device=x.device))
_materialise.register_autograd(lambda context, gradient: gradient)


def gelu(x: Tensor) -> Tensor:
    """x · Φ(x), exact (Hendrycks & Gimpel 2016). On the CPU always torch's own kernel: it is nearly twice as fast as
    compiled code, and in bf16 2.7 times as fast as the tanh approximation."""
    return _gelu(x) if torch.compiler.is_compiling() and x.device.type == "cpu" else F.gelu(x)


@torch.library.custom_op("trainshort::gelu", mutates_args=())
def _gelu(x: Tensor) -> Tensor:
    return F.gelu(x)


@torch.library.custom_op("trainshort::gelu_backward", mutates_args=())
def _gelu_backward(gradient: Tensor, x: Tensor) -> Tensor:
    return torch.ops.aten.gelu_backward(gradient, x)


_gelu.register_fake(torch.empty_like)
_gelu_backward.register_fake(lambda gradient, x: torch.empty_like(gradient))
_gelu.register_autograd(
    lambda context, gradient: _gelu_backward(gradient, *context.saved_tensors),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)


def embedding(tokens: Tensor, weight_VD: Tensor) -> Tensor:
    """The rows of the table that the tokens name, (*tokens.shape, D). On the CPU with torch's own backward: compiled
    code adds to the table's gradient atomically, in an order that changes from run to run."""
    if torch.compiler.is_compiling() and weight_VD.device.type == "cpu":
        return _Embedding.apply(tokens, weight_VD)
    return F.embedding(tokens, weight_VD)


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(context, tokens: Tensor, weight_VD: Tensor) -> Tensor:
        context.save_for_backward(tokens)
        context.rows = len(weight_VD)
        return F.embedding(tokens, weight_VD)

    @staticmethod
    def backward(context, gradient: Tensor) -> tuple[None, Tensor]:
        return None, _embedding_backward(gradient, *context.saved_tensors, context.rows)


@torch.library.custom_op("trainshort::embedding_backward", mutates_args=())
def _embedding_backward(gradient: Tensor, tokens: Tensor, rows: int) -> Tensor:
    return torch.ops.aten.embedding_dense_backward(gradient, tokens, rows, -1, False)


_embedding_backward.register_fake(lambda gradient, tokens, rows: gradient.new_empty(rows, gradient.shape[-1]))


def cross_entropy(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """Cross-entropy of each target, nats, (N,), in float32 whatever the logits' dtype."""
    if torch.compiler.is_compiling():
        return _CrossEntropy.apply(logits_NV, targets_N)
    return F.cross_entropy(logits_NV.float(), targets_N, reduction="none")


class _CrossEntropy(torch.autograd.Function):
    """In each direction one pass over the logits, in their own dtype; torch's backward sums a row of zeros and a one
    for every row first."""

    @staticmethod
    def forward(context, logits_NV: Tensor, targets_N: Tensor) -> Tensor:
        largest_N1 = logits_NV.amax(-1, keepdim=True).float()
        log_sum_N1 = (logits_NV.float() - largest_N1).exp().sum(-1, keepdim=True).log()
        context.save_for_backward(logits_NV, targets_N, largest_N1, log_sum_N1)
        return (largest_N1 - logits_NV.gather(-1, targets_N[:, None]).float() + log_sum_N1)[:, 0]

    @staticmethod
    def backward(context, gradient_N: Tensor) -> tuple[Tensor, None]:
        logits_NV, targets_N, largest_N1, log_sum_N1 = context.saved_tensors
        tokens_V = torch.arange(logits_NV.shape[-1], dtype=torch.int32, device=logits_NV.device)
        share_NV = (logits_NV.float() - largest_N1 - log_sum_N1).exp()
        one_hot_NV = tokens_V == targets_N[:, None].int()
        return ((share_NV - one_hot_NV.float()) * gradient_N[:, None]).to(logits_NV.dtype), None


@functools.cache
def widen_products() -> Library:
    """From now on matrix products of bf16 numbers are computed in float32 on the CPU, and rounded: for a processor on
    which torch has no more for them than a plain loop, 40 times as slow."""
    library = Library("aten", "IMPL")  # in place for as long as it lives
    with warnings.catch_warnings(action="ignore"):  # torch says that it overrides its own
        for name in itertools.chain(PRODUCTS, (f"{name}.out" for name in PRODUCTS)):  # compiled code calls the latter
            library.impl(name, _widened(get_kernel(f"aten::{name}", "CPU")), "CPU", with_keyset=True)
    return library


def _widened(kernel) -> Callable[..., Tensor]:
    """A kernel of a product, whose operands are widened to float32 where they are bf16, and its result rounded."""

    def product(keys, *operands: Tensor, **others) -> Tensor:
        if operands[-1].dtype != torch.bfloat16:
            return kernel.call_boxed(keys, *operands, **others)
        out = others.get("out")
        if out is not None:
            others["out"] = torch.empty_like(out, dtype=torch.float32)
        wide = kernel.call_boxed(keys, *(operand.float() for operand in operands), **others)
        return wide.to(torch.bfloat16) if out is None else out.copy_(wide)

    return product
