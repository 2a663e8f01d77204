"""Encodings and models with a length extension on them, and an extension held against its reference."""

import functools
import itertools

import numpy as np
import torch

from conf.schema import fewest_layers
from model.attention import attention
from model.catalogue import encoding_config, extension_config
from model.encodings import PositionEncoding, Shape, build_encoding
from model.extensions import build_extension
from tests.laws import SEPARATORS, Content, perturb, random_tokens, rig_model
from tests.references.extensions import EXTENSION_REFERENCES

L = 16  # training context of the models here, tokens
BATCH, HEADS = 5, 4
FREQUENCY_METHODS = {"pi", "ntk", "dynamic_ntk", "ntk_mixed", "yarn", "yarn_paper", "llama3", "longrope", "abf"}
DISTANCE_METHODS = {"rerope", "leaky_rerope", "self_extend"}
IN_TRAINING_ALONE = {"none", "random_positions"}  # what changes nothing at test
WITHIN_TRAINING_TOO = {"drop"}  # what changes a model at s ≤ 1 as well


@functools.cache
def encoding_of(name: str, head_dim: int = 14, context: int = L) -> PositionEncoding:
    """Four heads, two layers or as many as it needs, float64, in eval mode, its parameters moved off their initial
    values."""
    config = encoding_config(name)
    layers = max(2, fewest_layers(config))
    shape = Shape(HEADS * head_dim, HEADS, num_layers=layers, context=context, separators=SEPARATORS)
    return perturb(build_encoding(config, shape).double().eval())


@functools.cache
def model_of(name: str):
    """A transformer around `encoding_of(name)`, the same object for every test: no extension may change it."""
    return rig_model(encoding_of(name)).eval()


def extension_of(name: str, **settings):
    return build_extension({**extension_config(name), **settings})


def tuned(extension, encoding: PositionEncoding, train_length: int, eval_length: int):
    """The extension, what it leaves to tuning chosen by a loss that falls from each setting tried to the next."""
    tries = itertools.count()
    return extension.tune(lambda _: -next(tries), encoding, train_length, eval_length)


def hidden(name: str, extension, length: int, last: int | None = None) -> torch.Tensor:
    """The transformer's output on `length` tokens with its encoding extended to them, or its last rows alone."""
    owner = model_of(name)
    extension = tuned(extension, owner.encoding, L, length)
    extended = extension.apply(owner.encoding, L, length)
    with torch.no_grad():
        return owner.hidden(random_tokens(BATCH, length), encoding=extended, last=last)


def check_reference(name, extension=None, train_length=40, eval_length=90):
    """The extended encoding's attention, or its embeddings, equal the reference's."""
    reference = EXTENSION_REFERENCES[name]
    encoding = encoding_of(reference.encoding, head_dim=16, context=train_length)
    extension = extension or extension_of(name, **reference.settings)
    extended = extension.apply(encoding, train_length, eval_length)
    content = Content.random(encoding.shape, eval_length, batch=1)
    positions = extended.positions(content.tokens)
    with torch.no_grad():
        if reference.embed:
            actual = extended.embed(content.x, positions)[0]
            expected = reference.embed(extension, encoding, content.x[0].numpy(), train_length, eval_length)
        else:
            q, k, v = content.q, content.k, content.v
            actual = attention(q, k, v, extended, positions, content.x, 0, executor="dense")[0]
            arrays = (t[0].numpy() for t in (q, k, v))
            expected = reference.output(extension, encoding, *arrays, train_length, eval_length)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=0, atol=1e-9)
