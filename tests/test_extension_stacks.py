"""What a second stage asks of extensions: an extension on top of one that was trained with, and views that train.

python -m pytest tests/test_extension_stacks.py
"""

import copy
import functools
import math

import numpy as np
import pytest
import torch

from model.attention import EXECUTORS, attention
from model.catalogue import encoding_names, extension_names
from model.encodings import PositionEncoding, Shape, build_encoding
from model.encodings.none import NoPE
from model.extensions import Extension
from tests.extended import HEADS, L, encoding_of, extension_of, tuned
from tests.laws import VOCABULARY, Content, random_tokens, rig_model
from tests.references import softmax_rows
from tests.references.extensions import base_frequencies, rope_score

# At L = 16 the fastest pair makes 2.5 turns: llama3's 4 are not reached, and it says so.
pytestmark = pytest.mark.filterwarnings(r"ignore:extension\.(high|beta_fast|group)=")

N, M = 2 * L, 4 * L  # a stage's length, and one beyond it
KINDS = [
    "rope",
    "rope_learned",
    "rope_placement",
    "alibi",
    "learned",
    "sinusoidal",
    "none",
    "logn",
    "t5",
    "combined",
    "gpt_oss",
]
A_FEW = ["rope", "alibi", "learned", "none", "logn", "combined", "gpt_oss"]
REST = sorted({*encoding_names()} - {*A_FEW})


@functools.cache
def trained_with(method: str, name: str) -> PositionEncoding | None:
    """The view that a stage of N tokens was trained with, or None where the method doesn't fit the encoding."""
    extension, encoding = extension_of(method), encoding_of(name)
    if extension.fits(encoding):
        return None
    if encoding.max_length and encoding.max_length < N and method not in {"drop", "table_interpolation"}:
        return None
    return tuned(extension, encoding, L, N).apply(encoding, L, N)


def logits_of(encoding: PositionEncoding, length: int) -> torch.Tensor:
    with torch.no_grad():
        return rig_model(encoding)(random_tokens(2, length))


# ------------------------------------------------------------------------------------------------------------ all pairs


@pytest.mark.parametrize("first", extension_names())
@pytest.mark.parametrize(
    "names", [A_FEW, pytest.param(REST, marks=pytest.mark.slow)], ids=["a few encodings", "the rest"]
)
def test_every_extension_on_top_of_every_other_runs_or_says_why_not(first, names):
    tried = 0
    for name in names:
        if (view := trained_with(first, name)) is None:
            continue
        before = logits_of(view, L)
        for second in extension_names():
            extension, case = extension_of(second), f"{second} on {first} on {name}"
            if reason := extension.fits(view):
                assert len(reason.split()) >= 4, case
                with pytest.raises(ValueError, match="does not apply"):
                    extension.apply(view, N, M)
                continue
            longest = view.max_length
            if longest is not None and longest < M and second not in {"drop", "table_interpolation"}:
                with pytest.raises(ValueError, match="not defined beyond"):
                    logits_of(tuned(extension, view, N, M).apply(view, N, M), M)
                continue
            stacked = tuned(extension, view, N, M).apply(view, N, M)
            assert torch.isfinite(logits_of(stacked, M)).all(), case
            tried += 1
        assert torch.equal(logits_of(view, L), before), f"{first} on {name} is changed by what is applied to it"
    assert tried or first == "alibi_interpolation" or names is REST


def same_as(left: PositionEncoding, right: PositionEncoding, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(logits_of(left, M), logits_of(right, M), rtol=0, atol=tolerance)


def stack(name: str, *steps: tuple[Extension | str, int, int]) -> PositionEncoding:
    encoding = encoding_of(name)
    for extension, train_length, eval_length in steps:
        extension = extension_of(extension) if isinstance(extension, str) else extension
        encoding = extension.apply(encoding, train_length, eval_length)
    return encoding


@pytest.mark.parametrize(
    ("method", "name"),
    [("pi", "rope"), ("ntk", "rope"), ("abf", "rope"), ("ntk", "rope_learned"), ("pi", "polar"), ("ntk_mixed", "logn"),
     ("alibi_interpolation", "alibi"), ("alibi_interpolation", "alibi_learned"), ("table_interpolation", "learned"),
     ("table_interpolation", "sinusoidal"), ("drop", "rope")],
)  # fmt: skip
def test_in_two_steps_it_is_what_it_is_in_one(method, name):
    if method == "drop":
        assert "no position encoding to drop" in extension_of(method).fits(stack(name, (method, L, N)))
        return
    same_as(stack(name, (method, L, N), (method, N, M)), stack(name, (method, L, M)))


def test_dynamic_ntk_multiplies_the_factors_of_its_steps():
    found = stack("rope", ("dynamic_ntk", L, N), ("dynamic_ntk", N, M)).frequencies(0)
    base, K = encoding_of("rope").base, encoding_of("rope").shape.head_dim
    factor = (2 * N / L - 1) * (2 * M / N - 1)
    wanted = torch.tensor(base_frequencies(None, K, base * factor ** (K / (K - 2))), dtype=torch.float64)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)


def output_of(encoding: PositionEncoding, length: int) -> tuple[np.ndarray, list[np.ndarray]]:
    content = Content.random(encoding.shape, length, batch=1)
    positions = encoding.positions(content.tokens)
    with torch.no_grad():
        out = attention(*content[2:], encoding, positions, content.x, 0, executor="dense")[0]
    return out.numpy(), [t[0].numpy() for t in content[2:]]


@pytest.mark.parametrize("again", ["pi", "longrope", "logit_scale", "logn", "rerope", "window"])
def test_what_stands_on_a_stage_with_yarn_is_its_frequencies_its_temperature_and_then_the_other(again):
    """By hand, from the formulas: YaRN's ramp of 16 to 32 tokens, cos and sin × 0.1 ln 2 + 1, then the other method."""
    trained, K = encoding_of("rope", head_dim=16), 16
    yarn = extension_of("yarn", beta_fast=2.0, beta_slow=0.2)
    view = yarn.apply(trained, L, N)
    corr = lambda turns: K * math.log(L / (turns * 2 * math.pi)) / (2 * math.log(10_000))  # noqa: E731
    low, high = max(math.floor(corr(2.0)), 0), min(math.ceil(corr(0.2)), K - 1)
    thetas = []
    for p in range(K // 2):
        ramp = min(max((p - low) / (high - low), 0), 1)
        theta = 10_000 ** (-2 * p / K)
        thetas.append(theta / 2 * ramp + theta * (1 - ramp))
    square, factors = (0.1 * math.log(2) + 1) ** 2, [1.0, 1.1, 1.2, 1.3, 1.5, 1.7, 1.9, 2.4]
    settings = {"longrope": {"factors": factors}, "logit_scale": {"a": 0.3}, "window": {"window": 12, "sinks": 3}}
    stacked = extension_of(again, **settings.get(again, {})).apply(view, N, M)
    found, (q, k, v) = output_of(stacked, M)

    def score(h, i, j):
        apart, scale, used = i - j, square, thetas
        if again == "pi":
            used = [theta / 2 for theta in thetas]
        elif again == "longrope":
            used = [theta / factor for theta, factor in zip(thetas, factors, strict=True)]
            scale *= 1 + math.log(2) / math.log(N)
        elif again == "logit_scale":
            scale *= 1 + 0.3 * math.log(2)
        elif again == "logn":
            scale *= max(1.0, math.log(i + 1) / math.log(N))
        elif again == "rerope":
            apart = min(apart, N // 2)
        elif again == "window":
            if apart >= 12 and j >= 3:
                return -math.inf
            apart = apart if apart < 12 else min(i, 12 + 3 - 1) - j
        return scale * rope_score(q[h, i], k[h, j], used, apart)

    np.testing.assert_allclose(found, softmax_rows(score, HEADS, M, v), rtol=0, atol=1e-9)


@pytest.mark.parametrize("first", ["logn", "logit_scale"])
@pytest.mark.parametrize("second", ["rerope", "self_extend", "window", "pi", "yarn_paper", "logit_scale"])
def test_a_scale_of_the_queries_and_another_method_act_alike_in_either_order(first, second):
    scale = extension_of(first, **({"a": 0.4} if first == "logit_scale" else {}))
    other = extension_of(second, **({"a": 0.2} if second == "logit_scale" else {}))
    if second == "window":
        other = extension_of(second, window=8, sinks=2)
    for name in ("rope", "rope_layerwise", "rope_partial_head"):
        below = other.apply(scale.apply(encoding_of(name), L, N), L, M)
        if second == "window" and first == "logn":
            assert "sees no more" in scale.fits(other.apply(encoding_of(name), L, M))
            continue
        same_as(below, scale.apply(other.apply(encoding_of(name), L, M), L, N))


def test_two_longropes_have_their_own_divisors_and_multiply_their_temperatures():
    pairs = encoding_of("rope").shape.head_dim // 2
    first, second = ([1 + share * k for k in range(pairs)] for share in (0.1, 0.3))
    steps = [(extension_of("longrope", factors=f), *lengths) for f, lengths in ((first, (L, N)), (second, (N, M)))]
    stacked = stack("rope", *steps)
    wanted = [
        theta / a / b for theta, a, b in zip(encoding_of("rope").frequencies(0).tolist(), first, second, strict=True)
    ]
    torch.testing.assert_close(stacked.frequencies(0), torch.tensor(wanted, dtype=torch.float64))
    temperature = math.sqrt(1 + math.log(2) / math.log(L)) * math.sqrt(1 + math.log(2) / math.log(N))
    assert stacked.attention_factor == pytest.approx(temperature)
    assert not [name for name in stacked.state_dict() if "factors" in name]


def test_distances_in_two_ranges_are_not_stretched_again():
    for method in ("rerope", "leaky_rerope", "self_extend", "window"):
        view = stack("rope", (method, L, N))
        for other in ("pi", "yarn", "rerope", "self_extend"):
            assert extension_of(other).fits(view), f"{other} on {method}"


def test_a_new_base_is_counted_from_the_one_before():
    view = stack("rope", (extension_of("abf", base=50_000), L, L))
    K = view.shape.head_dim
    torch.testing.assert_close(view.frequencies(0).tolist(), base_frequencies(None, K, 50_000.0))
    again = extension_of("abf", base=500_000).apply(view, L, N)
    torch.testing.assert_close(again.frequencies(0).tolist(), base_frequencies(None, K, 500_000.0))
    with pytest.raises(ValueError, match=r"extension\.base=20000: must be at least the encoding's base, 50000"):
        extension_of("abf", base=20_000).apply(view, L, N)
    assert "several bases" in extension_of("abf", base=500_000).fits(encoding_of("rope_layerwise"))
    assert extension_of("abf", base=500_000).fits(encoding_of("rope_nope")) is None
    xiong = Shape(dim=256, num_heads=2, num_layers=1, context=4096)
    from_4k = build_encoding({"_target_": "model.encodings.rope.RoPE"}, xiong)
    assert extension_of("abf").apply(from_4k, 4096, 32_768).base == pytest.approx(500_000)


def test_what_is_dropped_is_nope_with_nothing_of_the_encoding_left():
    for name in ("rope_learned", "learned", "window", "combined", "fire", "randomized"):
        dropped = stack(name, ("drop", L, L))
        assert type(dropped) is NoPE and not dropped.state_dict() and dropped.max_length is None
        same_as(dropped, encoding_of("none"))


# ------------------------------------------------------------------------------------------------- a view that trains

OTHERS = sorted({*encoding_names()} - {*KINDS})
of_encodings = pytest.mark.parametrize(
    "names", [KINDS, pytest.param(OTHERS, marks=pytest.mark.slow)], ids=["an encoding of each kind", "the others"]
)


def stage_of(method: str, name: str, context: int = L):
    """A model of float64 with the view in it, in training; None where the method doesn't fit."""
    if (view := trained_with(method, name)) is None:
        return None
    return rig_model(copy.deepcopy(view)).train()


def gradients(owner, tokens_BT) -> dict[str, torch.Tensor]:
    logits = owner(tokens_BT[:, :-1])
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens_BT[:, 1:].flatten()).backward()
    found = {name: p.grad for name, p in owner.named_parameters() if p.grad is not None}
    owner.zero_grad()
    return found


@of_encodings
@pytest.mark.parametrize("method", extension_names())
def test_a_view_in_a_model_trains_all_that_trains_without_it(method, names):
    tokens_BT = random_tokens(2, L + 1)
    for name in names:
        if (owner := stage_of(method, name)) is None:
            continue
        assert extension_of(method).trains() is None
        plain = gradients(rig_model(copy.deepcopy(encoding_of(name))).train(), tokens_BT)
        found = gradients(owner, tokens_BT)
        of_encoding = {key for key in plain if key.startswith("encoding.")}
        assert found.keys() == (plain.keys() - of_encoding if method == "drop" else plain.keys()), (method, name)
        for key, gradient in found.items():
            assert torch.isfinite(gradient).all(), (method, name, key)
            assert gradient.any() or not plain[key].any(), f"{method} on {name}: no gradient reaches {key}"


def test_an_interpolated_table_trains_the_two_rows_next_to_a_token_in_their_shares():
    view = copy.deepcopy(trained_with("table_interpolation", "learned")).train()
    x, weight = torch.zeros(1, N, view.shape.dim, dtype=torch.float64), torch.randn(N, view.shape.dim).double()
    (gradient,) = torch.autograd.grad((view.embed(x, torch.arange(N))[0] * weight).sum(), view.table)
    shares = np.zeros((N, L))
    for i in range(N):
        place = i * (L - 1) / (N - 1)
        shares[i, min(int(place), L - 2)] += min(int(place), L - 2) + 1 - place
        shares[i, min(int(place), L - 2) + 1] += place - min(int(place), L - 2)
    np.testing.assert_allclose(gradient.numpy(), shares.T @ weight.numpy(), atol=1e-12)


@of_encodings
@pytest.mark.parametrize("method", extension_names())
def test_no_row_of_a_view_in_training_sees_what_comes_after(method, names):
    tokens_BT = random_tokens(2, N)
    for name in names:
        if (owner := stage_of(method, name)) is None:
            continue
        changed = tokens_BT.clone()
        changed[:, L:] = (changed[:, L:] + 7) % VOCABULARY
        states = [copy.deepcopy(owner) for _ in range(2)]  # two that are about to draw the same
        with torch.no_grad():
            before, after = (state(given) for state, given in zip(states, (tokens_BT, changed), strict=True))
        torch.testing.assert_close(after[:, :L], before[:, :L], rtol=0, atol=1e-9, msg=f"{method} on {name}")


@of_encodings
@pytest.mark.parametrize("method", extension_names())
def test_the_keys_of_a_view_are_the_encoding_s_and_its_state_loads_into_a_new_one(method, names):
    for name in names:
        if (owner := stage_of(method, name)) is None:
            continue
        more = {"position_draws"} if method in {"pose", "random_positions"} else set()
        kept = set() if method == "drop" else encoding_of(name).state_dict().keys()
        keys = {key.rpartition(".")[2] if "draws" in key else key for key in owner.encoding.state_dict()}
        assert keys == kept | more, (method, name)  # of layers that differ, a part counts its draws
        tokens_BT = random_tokens(2, L)
        with torch.no_grad():
            owner(tokens_BT)
            for parameter in owner.parameters():
                parameter.mul_(1.1)
        again = stage_of(method, name)
        again.load_state_dict(owner.state_dict())
        with torch.no_grad():
            assert torch.equal(again(tokens_BT), owner(tokens_BT)), f"{method} on {name}: in training"
            assert torch.equal(again.eval()(tokens_BT), owner.eval()(tokens_BT)), f"{method} on {name}: in evaluation"


@of_encodings
@pytest.mark.parametrize("method", extension_names())
def test_a_view_survives_being_copied_cast_and_turned_to_training_and_back(method, names):
    tokens_BT = random_tokens(2, L)
    for name in names:
        if (owner := stage_of(method, name)) is None:
            continue
        with torch.no_grad():
            plain = owner.eval()(tokens_BT)
            twin = copy.deepcopy(owner.train())
            assert all(part.training for part in twin.modules())
            assert torch.equal(twin.eval()(tokens_BT), plain)
            assert torch.equal(twin.to(torch.float32).double().float().double()(tokens_BT), twin(tokens_BT))
            torch.testing.assert_close(twin(tokens_BT), plain, rtol=0, atol=1e-3 * plain.abs().max().item())
            low = copy.deepcopy(owner).bfloat16()(tokens_BT)
            assert low.dtype == torch.bfloat16 and torch.isfinite(low).all(), (method, name)
            constants = dict(owner.encoding.named_buffers())
            for key, value in copy.deepcopy(owner).bfloat16().encoding.named_buffers():
                if key not in owner.encoding.state_dict():
                    assert value.dtype == constants[key].dtype and torch.equal(value, constants[key])
            away = copy.deepcopy(owner).to("meta")
            assert {t.device.type for t in [*away.parameters(), *away.buffers()]} == {"meta"}


@of_encodings
@pytest.mark.parametrize("method", extension_names())
def test_every_executor_that_takes_a_view_gives_what_dense_gives(method, names):
    content = Content.random(encoding_of("rope").shape, N, batch=2)
    for name in names:
        if (view := trained_with(method, name)) is None:
            continue
        positions, ran = view.positions(content.tokens), set()
        with torch.no_grad():
            for layer in range(view.shape.num_layers):
                args = (*content[2:], view, positions, content.x, layer)
                dense = attention(*args, executor="dense")
                for executor in set(EXECUTORS) - {"dense", "flex"}:
                    try:
                        found = attention(*args, executor=executor)
                    except ValueError as error:
                        assert "can't be used" in str(error)
                        continue
                    ran.add(executor)
                    torch.testing.assert_close(found, dense, rtol=0, atol=1e-6, msg=f"{executor}: {method} on {name}")
        fused = name in {"rope", "none", "sinusoidal"} and not view.rescores and method != "window"
        assert {"blocked", "fused"} <= ran if fused else "blocked" in ran


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted({*extension_names()} - {"none"}))
def test_a_view_compiles_without_a_break(method):
    name = next(name for name in ("rope", "alibi", "learned", "gpt_oss") if trained_with(method, name) is not None)
    owner, tokens_BT = stage_of(method, name), random_tokens(2, L)
    twin = copy.deepcopy(owner)
    torch._dynamo.reset()
    compiled = torch.compile(twin, backend="eager", fullgraph=True)
    for _ in range(2):  # the second draws anew
        torch.testing.assert_close(compiled(tokens_BT), owner(tokens_BT))


@of_encodings
@pytest.mark.parametrize("method", extension_names())
def test_a_view_is_capturable_but_where_it_draws(method, names):
    for name in names:
        if (owner := stage_of(method, name)) is not None:
            plain = rig_model(encoding_of(name)).capturable
            assert owner.capturable == ((plain or method == "drop") and method not in {"pose", "random_positions"})


@pytest.mark.parametrize("name", extension_names())
def test_the_settings_of_a_tuned_extension_build_it_again(name):
    extension = extension_of(name)
    target = next((e for e in KINDS if extension.fits(encoding_of(e)) is None), None)
    chosen = tuned(extension, encoding_of(target), L, M)
    again = extension_of(name, **chosen.settings())
    assert again.settings() == chosen.settings() and not again.needs_tuning
    if name != "none" and encoding_of(target).max_length is None:
        same_as(again.apply(encoding_of(target), L, M), chosen.apply(encoding_of(target), L, M), 0)
