"""Layers that differ: what is refused, what each part keeps for itself, how windows are computed, and extensions.

python -m pytest tests/test_layers.py
"""

import copy
import functools
import math
from dataclasses import replace

import pytest
import torch

from conf.schema import fewest_layers
from eval.compare.comparison import read_comparison
from eval.compare.sight import left_out, receptive_field
from eval.compare.tables import cost_table
from model.attention import _causal, _causal_blocks, record_executors
from model.catalogue import encoding_config, encoding_names, extension_config
from model.encodings import PositionEncoding, Shape, build_encoding
from model.encodings.layers import Layers
from model.extensions import build_extension, view
from tests import laws
from tests.synthetic import make_run

SHAPE = laws.SHAPE
FOUR = replace(SHAPE, num_layers=4)
PRESETS = ["swan", "rnope_swa", "irope", "gemma3", "gemma4", "gpt_oss", "smollm3"]


def layers(*overrides: str, shape: Shape = FOUR, name: str = "layers", seed: int = 0) -> Layers:
    return build_encoding(encoding_config(name, overrides), shape, seed).double().eval()


def part(name: str, count: int, *overrides: str, seed: int = 0) -> PositionEncoding:
    """A part by itself, for so many layers."""
    return build_encoding(encoding_config(name, overrides), replace(SHAPE, num_layers=count), seed).double().eval()


# ------------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    "overrides, said",
    [
        (["encoding.pattern=[]"], "encoding.pattern=[]: names no layer"),
        (["encoding.pattern=[local,globe]"], "encoding.pattern=[local,globe]: globe is none of its parts"),
        (["encoding.pattern=[local]"], "encoding.pattern=[local]: no layer is global"),
        (["encoding.pattern=[local,local,local,local,global]"], "model.num_layers=4: has not as many layers as"),
        (["encoding.windows.local=0"], "encoding.windows.local=0: must lie in 1 .. 32"),
        (["encoding.windows.local=-3"], "encoding.windows.local=-3: must lie in 1 .. 32"),
        (["encoding.windows.local=33"], "encoding.windows.local=33: must lie in 1 .. 32"),
        (["encoding.windows.local=L/33"], "encoding.windows.local=L/33: is 0 tokens"),
        (["encoding.windows.local=8/L"], "encoding.windows.local=8/L: must lie in 1 .. 32"),
        (["encoding.windows.local=2.5"], "encoding.windows.local=2.5: must be"),
        (["+encoding.windows.other=4"], "encoding.windows.other=4: the parts are local, global"),
        (["encoding@encoding.parts.local=cope"], "encoding.windows.local=L/4: CoPE computes its weights"),
        (["encoding@encoding.parts.local=nothing_known"], "encoding='nothing_known'"),
        (["encoding.parts.local._target_=model.encodings.x.Y"], "encoding.parts.local._target_='model.encodings.x.Y'"),
        (["encoding.parts.local.base=0"], "encoding.parts.local.base=0"),
        (["encoding.parts.local=3"], "encoding.parts.local=3: must be an encoding"),
        (["encoding@encoding.parts.local=gpt_oss"], "encoding.parts.local=Layers: differs by layer"),
        (["encoding@encoding.parts.local=chunked", "encoding.parts.local.chunk=0"], "encoding.parts.local.chunk=0"),
    ],
)
def test_what_can_not_be_is_refused_in_a_sentence_that_names_it(overrides, said):
    with pytest.raises(ValueError) as error:
        layers(*overrides)
    assert str(error.value).startswith(said)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_on_a_model_with_too_few_layers_says_how_many_it_has(name):
    config = encoding_config(name)
    for fewer in range(1, fewest_layers(config)):
        with pytest.raises(
            ValueError, match=f"^model.num_layers={fewer}: .* give model.num_layers={len(config['pattern'])}"
        ):
            build_encoding(config, replace(SHAPE, num_layers=fewer))


@pytest.mark.parametrize("outer", ["logn", "window", "randomized", "chunked"])
def test_layers_stand_outermost(outer):
    config = {**encoding_config(outer), "inner": encoding_config("swan")}
    with pytest.raises(ValueError, match=r"^encoding\.inner=Layers: differs by layer"):
        build_encoding(config, FOUR)


def test_a_part_that_is_built_for_other_layers_is_refused():
    with pytest.raises(ValueError, match=r"^encoding\.parts\.a: is built for"):
        Layers(FOUR, {"a": part("rope", 4), "b": part("rope", 2)}, ["a", "b"])


# --------------------------------------------------------------------------------------------- each part for itself


def test_the_pattern_is_repeated_and_may_end_unfinished():
    encoding = layers(shape=replace(SHAPE, num_layers=8), name="gemma3")
    assert [encoding.at(layer).sees for layer in range(8)] == [4, 4, 4, 4, 4, None, 4, 4]
    assert [place for _, place in encoding.places] == [0, 1, 2, 3, 4, 0, 5, 6]


def everywhere(*overrides: str) -> Layers:
    return layers("encoding.windows=null", *overrides)


@pytest.mark.parametrize("name", sorted({*encoding_names()} - {"layers", *PRESETS}))
def test_a_layer_is_what_its_part_is_by_itself(name):
    """Beside any other, in an own layer: outputs and embeddings; and it has no parameters for layers not its own."""
    encoding = laws.perturb(everywhere(f"encoding@encoding.parts.local={name}", "encoding@encoding.parts.global=rope"))
    alone = part(name, 2)
    shapes = {key: value.shape for key, value in alone.state_dict().items()}
    assert shapes == {key: value.shape for key, value in encoding.parts["local"].state_dict().items()}
    alone.load_state_dict(encoding.parts["local"].state_dict())
    content = laws.Content.random(SHAPE, laws.length_for(alone))
    with torch.no_grad():
        for layer, own in ((0, 0), (2, 1)):
            wanted = laws.attend(alone, content, own)
            laws.assert_same(laws.attend(encoding, content, layer), wanted, f"{name} in layer {layer}")
        given = encoding.positions(content.tokens), alone.positions(content.tokens)
        embedded = [e.embed(content.x, p) for e, p in zip((encoding, alone), given, strict=True)]
        laws.assert_same(*embedded, f"what {name} adds to the embeddings")
        laws.assert_same(
            laws.attend(encoding, content, 1), laws.attend(part("rope", 2), content), f"rope beside {name}"
        )


def test_parts_with_coordinates_of_their_own_stand_side_by_side():
    names = {"local": "rope_axial", "global": "rope_hierarchical"}
    encoding = everywhere(*(f"encoding@encoding.parts.{key}={name}" for key, name in names.items()))
    content = laws.Content.random(SHAPE, laws.LENGTH)
    for layer, name in enumerate(names.values()):
        alone = part(name, 2)
        laws.assert_same(laws.attend(encoding, content, layer), laws.attend(alone, content), name)


@pytest.mark.parametrize("broken", ["another part's layers", "the model's layers", "another part's positions"])
def test_and_the_faults_that_it_is_to_find_are_found(broken, monkeypatch):
    if broken == "another part's positions":
        monkeypatch.setattr(Layers, "_own", lambda self, name, positions: positions[..., 0] if self.axes else positions)
        name = "rope_axial"
    else:
        places = Layers.__init__

        @functools.wraps(places)
        def init(self, *args, **kwargs):
            places(self, *args, **kwargs)
            shift = broken == "another part's layers"
            self.places = [
                (self.places[(layer + 1) % 4][0], own) if shift else (name, 0)
                for layer, (name, own) in enumerate(self.places)
            ]

        monkeypatch.setattr(Layers, "__init__", init)
        name = "fire" if broken == "the model's layers" else "alibi"
    with pytest.raises((AssertionError, RuntimeError)):
        test_a_layer_is_what_its_part_is_by_itself(name)
        if broken == "the model's layers":
            test_a_layer_is_what_its_part_is_by_itself("shaw")


# ------------------------------------------------------------------------------------------------------------- windows


@pytest.mark.parametrize("name", sorted({*encoding_names()} - {"layers", *PRESETS}))
def test_a_window_around_any_part_is_left_out_and_is_the_window_that_there_is(name):
    overrides = [f"encoding@encoding.parts.local={name}", "encoding.windows.local=7"]
    if part(name, 2).rescores:
        with pytest.raises(ValueError, match="computes its weights from whole rows"):
            layers(*overrides)
        return
    if name == "logn":  # a window of 7 shows no row more than 32 keys
        return
    encoding = laws.perturb(layers(*overrides))
    alone = (
        build_encoding(
            {**encoding_config("window"), "window": 7, "inner": encoding_config(name)}, replace(SHAPE, num_layers=2)
        )
        .double()
        .eval()
    )
    alone.inner.load_state_dict(encoding.parts["local"].inner.state_dict())
    content = laws.Content.random(SHAPE, laws.length_for(alone))
    laws.check_band(lambda *_, **__: copy.deepcopy(encoding))
    for layer, own in ((0, 0), (2, 1)):
        laws.assert_same(laws.attend(encoding, content, layer), laws.attend(alone, content, own), name)


@pytest.mark.parametrize("broken", ["one key too many", "one key too few", "the first rows"])
def test_a_window_that_is_not_what_it_claims_is_found(broken):
    def build(shape, seed=0):
        encoding = layers("encoding.windows.local=7")
        local = encoding.parts["local"]
        if broken == "the first rows":
            local.score_mod = lambda *_: lambda score, b, h, i, j: score.masked_fill((i - j >= 7) & (i > 9), -math.inf)
        else:
            local.band += 1 if broken == "one key too few" else -1
            local.distance_bias = broken != "one key too few" and local.distance_bias
        return encoding

    if broken == "one key too few":  # a wider band than the window only costs time
        laws.check_band(build)
        return
    with pytest.raises(AssertionError):
        laws.check_band(build)


def test_each_layer_has_the_executor_that_suits_it():
    content = laws.Content.random(SHAPE, 300)
    given = lambda encoding: (*content[2:], encoding, encoding.positions(content.tokens), content.x)  # noqa: E731
    encoding, used = layers("encoding@encoding.parts.global=alibi"), []
    for layer in (0, 1):
        with torch.no_grad(), record_executors() as executors:
            laws.attention(*given(encoding), layer)
        used.append(executors)
    assert used == [{"dense"}, {"hankel"}]  # the window's rows, and ALiBi's table


def test_work_and_memory_of_a_window_grow_with_the_length_alone():
    def largest(length: int) -> int:
        shape = Shape(dim=32, num_heads=2, num_layers=2, context=64)
        encoding = build_encoding(encoding_config("layers", ["encoding.windows.local=8"]), shape)
        content = laws.Content.random(shape, length, batch=1).to(torch.float32)
        sizes = []

        class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
            def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
                out = operation(*args, **(kwargs or {}))
                if isinstance(out, torch.Tensor):
                    sizes.append(out.numel())
                return out

        with torch.no_grad(), Sizes():
            laws.attend(encoding, content)
        return max(sizes)

    assert largest(2048) <= 2.1 * largest(1024) < 1024 * 1024


@pytest.mark.parametrize("length", [128, 384, 1280])
@pytest.mark.parametrize("near", [1, 2, 100, 127, 128, 129, 130, 255, 256, 257, 258, 384, 385, 1000, 2000])
def test_flex_attentions_blocks_are_those_that_torch_makes_of_all_pairs(near, length):
    from torch.nn.attention.flex_attention import create_block_mask

    ours = _causal_blocks(length, torch.device("cpu"), near)
    torchs = create_block_mask(_causal(near), None, None, length, length, device="cpu")
    assert torch.equal(ours.to_dense(), torchs.to_dense())
    for count, which in (("kv_num_blocks", "kv_indices"), ("full_kv_num_blocks", "full_kv_indices")):
        assert torch.equal(getattr(ours, count), getattr(torchs, count)), count
        for row, n in enumerate(getattr(ours, count)[0, 0].tolist()):
            found = (set(getattr(mask, which)[0, 0, row, :n].tolist()) for mask in (ours, torchs))
            assert len(set(map(frozenset, found))) == 1


def test_flex_attention_of_layers_equals_dense():
    encoding = layers()
    for length in (37, 256):
        content = laws.Content.random(SHAPE, length, batch=1)
        for layer in (0, 1):
            with torch.no_grad():
                out, exact = (laws.attend(encoding, content, layer, executor) for executor in ("flex", "dense"))
            laws.assert_same(out, exact, f"flex and dense at {length}", 1e-7)


def test_a_view_that_changes_hooks_has_the_claims_that_hold_in_all_layers():
    class Mixin:
        pass

    encoding = layers("encoding@encoding.parts.global=cope")
    assert encoding.at(0).band == 8 and not encoding.at(0).rescores
    changed = view(encoding, Mixin)
    assert changed.at(0) is changed and changed.rescores and changed.band is None


# ---------------------------------------------------------------------------------------------------------- extensions


def extension(name: str, **settings):
    return build_extension({**extension_config(name), **settings})


def which_change(before: Layers, after: Layers) -> list[bool]:
    """Of each layer, whether its attention changes."""
    content = laws.Content.random(before.shape, 60)
    return [
        not torch.equal(*(laws.attend(encoding, content, layer) for encoding in (before, after)))
        for layer in range(before.shape.num_layers)
    ]


@pytest.mark.parametrize(
    "preset, name, changed",
    [
        ("gemma3", "pi", [False] * 5 + [True]),
        ("gemma4", "pi", [False] * 5 + [True]),
        ("gpt_oss", "yarn", [False, True]),
        ("gpt_oss", "rerope", [False, True]),
        ("gpt_oss", "drop", [False, True]),
        ("smollm3", "pi", [True, True, True, False]),
        ("swan", "logit_scale", [True, False, False, False]),
        ("swan", "swan_scale", [True, False, False, False]),
        ("rnope_swa", "llama4_scale", [False, False, False, True]),
        ("irope", "logit_scale", [False, False, False, True]),
    ],
)
def test_an_extension_acts_on_global_layers_alone(preset, name, changed):
    encoding = layers(name=preset, shape=replace(SHAPE, num_layers=len(changed)))
    settings = {"a": 0.3} if name.endswith("scale") else {}
    extended = extension(name, **settings).apply(encoding, SHAPE.context, 2 * SHAPE.context)
    assert which_change(encoding, extended) == changed
    assert type(extended) is Layers and extended.relative == all(p.relative for p in extended.parts.values())


@pytest.mark.parametrize("preset", ["gemma3", "swan", "irope"])
def test_the_switch_lets_it_act_on_all_and_windows_stay(preset):
    count = fewest_layers(encoding_config(preset))
    encoding = layers(name=preset, shape=replace(SHAPE, num_layers=count))
    inner = {"_target_": "model.extensions.pi.PI"}
    extended = extension("layers", inner=inner).apply(encoding, SHAPE.context, 2 * SHAPE.context)
    turns = [any(hasattr(p, "theta") for p in encoding.at(layer).modules()) for layer in range(count)]
    assert which_change(encoding, extended) == turns
    for layer in range(count):
        assert (extended.at(layer).sees, extended.at(layer).band) == (encoding.at(layer).sees, encoding.at(layer).band)
    laws.check_band(lambda *_, **__: extended)
    alone = extension("layers", inner=inner, layers="global").fits(encoding)
    assert (alone is None) == (preset == "gemma3")


def test_an_extension_says_of_which_layers_it_does_not_fit():
    swan = layers(name="swan")
    assert extension("yarn").fits(swan) == (
        "of the layers that it would act on, global: NoPE has no rotation frequencies"
    )
    local = layers("encoding.pattern=[local]", "~encoding.parts.global")
    assert "its window alone in all layers" in extension("yarn").fits(local)
    assert "are alike" in extension("layers").fits(part("rope", 2))
    with pytest.raises(ValueError, match=r"extension\.layers=most: must be all or global"):
        extension("layers", layers="most")


@pytest.mark.parametrize(
    "name, best", [("logit_scale", 0.4), ("llama4_scale", 0.4), ("swan_scale", 8.0 * SHAPE.context)]
)
def test_the_scale_of_the_global_layers_is_fitted_by_a_loss_on_the_whole_model(name, best):
    swan, given = layers(name="swan"), []

    def loss(encoding):
        given.append(encoding)
        (scale,) = encoding.at(0).query_scales
        assert not hasattr(encoding.at(1), "query_scales")
        return abs(scale.keywords.get("a", (scale.keywords.get("value", 1) - 1) / math.log(2)) - best)

    fitted = extension(name).tune(loss, swan, SHAPE.context, 2 * SHAPE.context)
    assert fitted.a == pytest.approx(best) and all(isinstance(encoding, Layers) for encoding in given)
    assert "chosen on the calibration split" in fitted.describe()


# ---------------------------------------------------------------------------------------------------------- the report


@pytest.mark.parametrize("sees", [[4, None], [3, 1, 7], [5, 5, 5, None]])
@pytest.mark.parametrize("length", [1, 4, 9])
def test_what_windows_leave_out_is_counted_pair_by_pair(sees, length):
    pairs = [(i, j, keys) for keys in sees for i in range(length) for j in range(i + 1)]
    hidden = sum(keys is not None and i - j >= keys for i, j, keys in pairs)
    assert left_out(sees, length) == pytest.approx(hidden / len(pairs))


@pytest.mark.parametrize("kind", [None, "kv", "canon"])
@pytest.mark.parametrize("windows", [[3, 5], [4, 4, 4], [1, 6]])
def test_the_receptive_field_is_what_reaches_a_row_through_all_layers(windows, kind):
    shifts = {None: 0, "kv": 1, "canon": 3}[kind]
    field = receptive_field(windows, shifts)
    length = field + 6
    shape = Shape(dim=16, num_heads=2, num_layers=len(windows), context=max(8, length))
    parts = {f"w{n}": PositionEncoding(replace(shape, num_layers=1)) for n in range(len(windows))}
    encoding = Layers(shape, parts, list(parts), {f"w{n}": window for n, window in enumerate(windows)}).double()
    with laws.blocks_with(token_shift=kind):
        model = laws.rig_model(encoding).eval()
    assert model.sees == windows and model.shifts == shifts
    tokens = torch.randint(laws.VOCABULARY, (1, length), generator=torch.Generator().manual_seed(0))
    reaches = []
    with torch.no_grad():
        last = model(tokens)[0, -1]
        for back in range(length):
            changed = tokens.clone()
            changed[0, -1 - back] = (tokens[0, -1 - back] + 1) % laws.VOCABULARY
            reaches.append(not torch.equal(model(changed)[0, -1], last))
    assert reaches == [back < field for back in range(length)]


def test_the_table_of_costs_shows_windows_where_there_are_any(tmp_path):
    make_run(tmp_path, "rope", results={"sees": [None] * 4})
    make_run(tmp_path, "old")
    assert "receptive field" not in str(cost_table(read_comparison(tmp_path)).columns)
    make_run(tmp_path, "swan", results={"sees": [None, 8, 8, 8]})
    make_run(tmp_path, "local", results={"sees": [8, 8]})
    make_run(tmp_path, "shifted", results={"sees": [8, 8], "shifts": 3})
    table = cost_table(read_comparison(tmp_path))
    shown = {column.title: dict(zip(table.labels, column.texts, strict=True)) for column in table.columns}
    field, out = shown["receptive field"], shown["scores left out"]
    assert field["swan"] == "22 of 32 through 3 of 4 layers, all through the others" and field["local"] == "15 of 32"
    assert field["shifted"] == "21 of 32" and out["shifted"] == out["local"]
    assert out["local"] == f"{left_out([8], 32):.0%} at 32, {left_out([8], 256):.0%} at 256"
    assert field["rope"] == field["old"] == "–"
