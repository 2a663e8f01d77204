"""The presets of encoding=layers, and the options of a block, against the models of transformers that have them: the
attention of every layer of a whole model, with its own masks and rotations, on its own weights.

python -m pytest tests/test_third_party_layers.py
"""

import importlib

import pytest
import torch

from model.attention import attention
from model.block import PLAIN, BlockOptions
from model.catalogue import encoding_config
from model.encodings import Shape, build_encoding
from model.transformer import Transformer
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
PREFIXES = {
    "cohere2": "Cohere2",
    "gemma3": "Gemma3Text",
    "gemma4": "Gemma4Text",
    "gpt_oss": "GptOss",
    "llama4": "Llama4Text",
    "qwen3": "Qwen3",
    "qwen3_next": "Qwen3Next",
    "smollm3": "SmolLM3",
}


def published(name: str, **settings):
    """A small model of transformers, untrained, whose layout is that of its configuration's defaults."""
    module = importlib.import_module(f"transformers.models.{name}.modeling_{name}")
    prefix = PREFIXES[name]
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


BLOCKS = {  # family: its encoding here, the options of its blocks, and whether its norms scale by 1 + their weight
    "qwen3": ("rope", BlockOptions(qk_norm=True), False, {}),
    "gemma3": ("gemma3", BlockOptions(qk_norm=True), True, PUBLISHED["gemma3"][1]),
    "qwen3_next": (
        "rope",
        BlockOptions(qk_norm=True, output_gate="element"),
        True,
        {
            "layer_types": ["full_attention"] * LAYERS,
            "num_experts": 2,
            "num_experts_per_tok": 1,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0},
        },
    ),
    "gpt_oss": ("gpt_oss", BlockOptions(sink=True), False, {**PUBLISHED["gpt_oss"][1], "attention_bias": False}),
}


@pytest.mark.parametrize("family", sorted(BLOCKS))
def test_every_block_with_its_options_is_that_of_the_published_model(family):
    pytest.importorskip("transformers")
    name, options, plus_one, settings = BLOCKS[family]
    model = published(family, **settings)
    encoding = preset(name, len(model.layers))
    blocks, plain = (Transformer(VOCABULARY, encoding, options=given).eval().blocks for given in (options, PLAIN))
    for layer, (module, x_BTD, wanted_BTD) in enumerate(layers_of(model)):
        errors = []
        for block in (blocks[layer], plain[layer]):
            block.load_state_dict(weights_of(module, block, plus_one), strict=False)
            with torch.no_grad():
                errors.append(difference(block.attend(x_BTD, encoding, torch.arange(T), layer), wanted_BTD))
        assert errors[0] < 1e-4, f"{family}: layer {layer} differs by {errors[0]}"
        assert errors[1] > 1e-2, f"{family}: layer {layer} is the same without {options}"


def weights_of(module, block, plus_one: bool) -> dict[str, torch.Tensor]:
    """The attention's weights by the names that they have in a block."""
    weights = dict(module.named_parameters())
    q, gate = weights["q_proj.weight"], None
    if len(q) == 2 * DIM:  # by head, the rows of q and then those of the gate
        q, gate = (part.flatten(0, 1) for part in q.unflatten(0, (HEADS, 2, WIDTH)).unbind(1))
    found = {"qkv.weight": torch.cat([q, weights["k_proj.weight"], weights["v_proj.weight"]])}
    found |= {"out.weight": weights["o_proj.weight"], "gate.weight": gate, "sink": weights.get("sinks")}
    for norm in ("q_norm", "k_norm"):
        if f"{norm}.weight" in weights:
            found[f"{norm}.weight"] = weights[f"{norm}.weight"] + plus_one
    wanted = block.state_dict().keys()
    return {name: value for name, value in found.items() if value is not None and name in wanted}
