"""The presets of encoding=layers against the models of transformers that they are named for: the attention of every
layer of a whole model, with its own masks and rotations, on its own weights.

python -m pytest tests/test_third_party_layers.py
"""

import importlib

import pytest
import torch

from model.attention import attention
from model.catalogue import encoding_config
from model.encodings import Shape, build_encoding
from tests.laws import difference

HEADS, WIDTH, CONTEXT, T, LAYERS = 3, 8, 32, 41, 8  # T beyond the context; layers that leave a period of 6 unfinished
DIM, VOCABULARY = HEADS * WIDTH, 40
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": DIM,
    "intermediate_size": 20,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "head_dim": WIDTH,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "attn_implementation": "eager",
}
MOE = {"num_local_experts": 2, "num_experts_per_tok": 1}


def published(name: str, **settings):
    """A small model of transformers, untrained, whose layout is that of its configuration's defaults."""
    module = importlib.import_module(f"transformers.models.{name}.modeling_{name}")
    prefix = {"llama4": "Llama4Text", "gemma3": "Gemma3Text", "gemma4": "Gemma4Text", "gpt_oss": "GptOss"}
    prefix = prefix.get(name) or {"cohere2": "Cohere2", "smollm3": "SmolLM3"}[name]
    configuration = importlib.import_module(f"transformers.models.{name}.configuration_{name}")
    config = getattr(configuration, f"{prefix}Config")(**{**SIZES, **settings})
    torch.manual_seed(0)
    model = getattr(module, f"{prefix}Model")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return model


def layers_of(model) -> list[tuple[torch.nn.Module, torch.Tensor, torch.Tensor]]:
    """The attention of each layer, what it was given and what it returned on the same random tokens: (2, T, DIM)."""
    found = []
    hooks = [
        layer.self_attn.register_forward_hook(
            lambda module, args, kwargs, out: found.append((module, (args or [kwargs["hidden_states"]])[0], out[0])),
            with_kwargs=True,
        )
        for layer in model.layers
    ]
    tokens = torch.randint(1, VOCABULARY, (2, T), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        model(input_ids=tokens, use_cache=False)
    for hook in hooks:
        hook.remove()
    return found


def ours(encoding, module, x_BTD, layer: int) -> torch.Tensor:
    """The same projections, and between them this attention."""
    q, k, v = (
        getattr(module, f"{name}_proj")(x_BTD).unflatten(-1, (HEADS, WIDTH)).transpose(1, 2) for name in ("q", "k", "v")
    )
    for name in ("q", "k", "v"):
        if (norm := getattr(module, f"{name}_norm", None)) is not None:
            q, k, v = (norm(t) if which == name else t for which, t in (("q", q), ("k", k), ("v", v)))
    q = q * (module.scaling * WIDTH**0.5)
    out = attention(q, k, v, encoding, torch.arange(T), x_BTD, layer)
    return module.o_proj(out.transpose(1, 2).flatten(-2))


PUBLISHED = {  # windows and chunks as the presets scale them to a context of 32
    "rnope_swa": ("cohere2", {"sliding_window": 8, "rope_parameters": {"rope_type": "default", "rope_theta": 5e4}}),
    "irope": (
        "llama4",
        {"attention_chunk_size": 8, "floor_scale": 8, "use_qk_norm": False, "intermediate_size_mlp": 20, **MOE},
    ),
    "gemma3": ("gemma3", {"sliding_window": 4, "query_pre_attn_scalar": WIDTH}),
    "gemma4": (
        "gemma4",
        {
            "sliding_window": 4,
            "global_head_dim": WIDTH,
            "hidden_size_per_layer_input": 0,
            "num_hidden_layers": 12,  # whose last is global in any case
        },
    ),
    "gpt_oss": (
        "gpt_oss",
        {"sliding_window": 4, "rope_parameters": {"rope_type": "default", "rope_theta": 1.5e5}, **MOE},
    ),
    "smollm3": ("smollm3", {"rope_parameters": {"rope_type": "default", "rope_theta": 5e6}}),
}
INTERLEAVED = {
    "rnope_swa": "local",
    "irope": "local.inner",
}  # pairs (2k, 2k + 1): the same up to an order of coordinates


def preset(name: str, num_layers: int):
    config = encoding_config(
        name, [f"encoding.parts.{INTERLEAVED[name]}.interleaved=true"] if name in INTERLEAVED else []
    )
    return build_encoding(config, Shape(DIM, HEADS, num_layers, CONTEXT)).eval()


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_every_layer_is_that_of_the_published_model(name):
    pytest.importorskip("transformers")
    family, settings = PUBLISHED[name]
    model = published(family, **settings)
    encoding = preset(name, len(model.layers))
    with torch.no_grad():
        for layer in model.layers:
            if hasattr(layer.self_attn, "sinks"):
                layer.self_attn.sinks.fill_(-1e4)  # gpt-oss's, which is not part of the preset
    found, errors = layers_of(model), {}
    assert len(found) == len(model.layers)
    for layer, (module, x_BTD, wanted_BTD) in enumerate(found):
        another = next(other for other in range(len(found)) if encoding.at(other) is not encoding.at(layer))
        with torch.no_grad():
            errors[layer] = difference(ours(encoding, module, x_BTD, layer), wanted_BTD)
            wrong = difference(ours(encoding, module, x_BTD, another), wanted_BTD)
        assert wrong > 1e-2, f"{name}: layer {layer} might as well be {encoding.at(another)}"
    assert max(errors.values()) < 1e-4, f"{name}: the layers differ by {errors}"
