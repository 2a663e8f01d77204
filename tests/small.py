"""A corpus of a few dozen tokens, a model to match, and the loss of one token by itself: to test evaluation with."""

import numpy as np
import torch

from conf.schema import EvaluationSettings, ProbeSettings, fewest_layers
from data.stream import TokenStream
from eval.measure.perplexity import Perplexity
from eval.measure.streams import Streams
from eval.record.folder import RunFolder
from model.catalogue import encoding_config
from model.encodings import Shape, build_encoding
from model.transformer import Transformer

VOCABULARY = 11
SEPARATOR = 0
CONTEXT = 8  # training context, tokens

SETTINGS = EvaluationSettings(
    lengths=[0.5, 1, 2],
    protocols=["fixed_targets", "non_overlapping", "sliding", "positions"],
    split="test",
    targets=3,
    windows=1000,
    tokens=None,
    stride=3,
    cross_documents=False,
    batch_tokens=64,
    precision="32",
    extensions=["none"],
    extension_settings={},
    controls=[],
    probes=[],
    probe=ProbeSettings(windows=12, longest=4, span=None),
)
PROTOCOLS = SETTINGS.protocols


def evaluate(
    model: Transformer,
    stream: TokenStream,
    folder: RunFolder,
    settings: EvaluationSettings,
    *,
    calibration: TokenStream | None = None,
    floors: TokenStream | None = None,
) -> list[dict]:
    """Scores what is missing into the folder; the rows that the settings ask for. calibration, floors: the streams
    for tuning and for n-grams, where the test has them."""
    streams = Streams(stream, calibration or stream, floors or stream)
    perplexity = Perplexity(settings, streams, CONTEXT)
    folder.turn_to(perplexity.key)
    for found in perplexity.rows(model, folder.results["rows"], folder.losses.keys()):
        folder.add(found)
    return perplexity.asked(folder.results["rows"])


def small_stream(*sizes: int, seed: int = 0) -> TokenStream:
    """Documents of so many tokens, the separator first; tokens of one to three bytes."""
    generator = np.random.default_rng(seed)
    tokens = generator.integers(1, VOCABULARY, sum(sizes)).astype(np.uint16)
    token_bytes = generator.integers(1, 4, sum(sizes)).astype(np.uint16)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    tokens[offsets[:-1]], token_bytes[offsets[:-1]] = SEPARATOR, 0
    return TokenStream(tokens, token_bytes, offsets, tuple(f"document {d}" for d in range(len(sizes))), SEPARATOR)


def small_model(name: str = "alibi", num_layers: int = 2, **settings) -> Transformer:
    """A random model in float64, its weights large enough for its losses to differ."""
    separators = {"line": (1,), "sentence": (2,)}
    config = {**encoding_config(name), **settings}
    layers = max(num_layers, fewest_layers(config))
    shape = Shape(dim=40, num_heads=4, num_layers=layers, context=CONTEXT, separators=separators)
    model = Transformer(VOCABULARY, build_encoding(config, shape)).double().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.mul_(8 if name.endswith(("out.weight", "down.weight")) else 1)
    return model


@torch.no_grad()
def token_loss(model: Transformer, tokens: np.ndarray, start: int, target: int) -> float:
    """-ln p(tokens[target] | tokens[start:target]) in nats, from a forward pass of its own."""
    context = torch.from_numpy(tokens[start:target].astype(np.int64))[None]
    return -model(context)[0, -1].log_softmax(-1)[int(tokens[target])].item()
