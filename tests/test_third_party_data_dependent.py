"""CoPE, FoX, Cable, DAPE, stick-breaking and combinations against x-transformers and torch.distributions, at settings
at which one encoding is another, and where a combination is refused.

python -m pytest tests/test_third_party_data_dependent.py
"""

import pytest
import torch

from model.attention import attention
from model.catalogue import encoding_config
from model.encodings import Shape, build_encoding
from model.encodings.combined import uses
from model.encodings.cope import interpolate, reverse_cumsum
from tests.laws import Content, perturb

T = 37
SEPARATORS = {"line": (3,), "sentence": (4,)}
SHAPE = Shape(dim=24, num_heads=3, num_layers=2, context=32, separators=SEPARATORS)
ROWS = torch.arange(T)
VISIBLE = ROWS[:, None] >= ROWS


def build(name, *overrides):
    return build_encoding(encoding_config(name, overrides), SHAPE).double().eval()


def attend(encoding, layer=1):
    content = Content.random(SHAPE, T)
    positions = encoding.positions(content.tokens)
    return attention(content.q, content.k, content.v, encoding, positions, content.x, layer, executor="dense")


def products(content):
    return content.q @ content.k.mT * SHAPE.head_dim**-0.5


def weights(encoding, scores_BHTT, content, layer=1):
    scores_BHTT = encoding.rescore(scores_BHTT, VISIBLE, ROWS, content.q, content.k, ROWS, content.x, layer)
    return encoding.weigh(scores_BHTT, VISIBLE, ROWS, layer)


# ----------------------------------------------------------------------------------------------------- other libraries


def test_cope_equals_x_transformers():
    other = pytest.importorskip("x_transformers.x_transformers").CoPE(SHAPE.head_dim, heads=3, max_pos=16).double()
    ours, content = perturb(build("cope")), Content.random(SHAPE, T)
    assert ours.p_max == 16
    with torch.no_grad():
        other.pos_emb.copy_(ours.table_LPK[1])
        hidden = products(content).masked_fill(~VISIBLE, float("-inf"))
        wanted = (hidden + other(content.q, hidden)).softmax(-1)
    torch.testing.assert_close(weights(ours, products(content), content), wanted, rtol=0, atol=1e-12)


def test_fox_equals_the_data_dependent_alibi_of_x_transformers():
    other = pytest.importorskip("x_transformers.x_transformers").DataDependentAlibi(SHAPE.dim, heads=3).double()
    ours, content = perturb(build("fox")), Content.random(SHAPE, T, batch=2)
    linear = other.to_forget_gates[0]
    b, h = torch.arange(2)[:, None, None, None], torch.arange(3)[:, None, None]
    with torch.no_grad():
        linear.weight.copy_(ours.weight_LHD[1])
        linear.bias.copy_(ours.bias_LH[1])
        mod = ours.score_mod(content.q, content.k, ROWS, content.x, 1)
        added = mod(torch.zeros(2, 3, T, T, dtype=torch.float64), b, h, ROWS[:, None], ROWS)
        torch.testing.assert_close(added.tril(), other(content.x).tril(), rtol=0, atol=1e-12)


def test_stick_breaking_equals_the_stick_of_torch_distributions():
    content = Content.random(SHAPE, T)
    scores, ours = products(content), weights(build("stick_breaking"), products(content), content)
    for i in (1, 2, 17, T - 1):
        nearest_first = scores[:, :, i, :i].flip(-1)
        uniform = torch.arange(i, 0, -1, dtype=torch.float64).log()  # torch's transform takes this off its input
        wanted = torch.distributions.StickBreakingTransform()(nearest_first + uniform)
        torch.testing.assert_close(ours[:, :, i, :i].flip(-1), wanted[..., :-1], rtol=1e-6, atol=1e-12)
        kept = weights(build("stick_breaking", "encoding.remainder=self"), scores, content)
        torch.testing.assert_close(kept[:, :, i, i], wanted[..., -1], rtol=1e-6, atol=1e-12)


# --------------------------------------------------------------------------------------------------- one is another


def test_cable_is_fox_with_the_signs_of_its_gate_turned():
    fox, cable = perturb(build("fox")), build("cable")
    cable.load_state_dict({name: -value for name, value in fox.state_dict().items()})
    torch.testing.assert_close(attend(cable), attend(fox), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["fox", "cable"])
def test_a_sum_of_gates_far_from_the_start_is_as_exact_as_near_it(name):
    far, near = 65_536, 400
    encoding, x_BTD = perturb(build(name)).float(), torch.randn(1, far, SHAPE.dim)
    b, h, i, j = (
        torch.zeros(1, 1, 1, 1).long(),
        torch.arange(3)[:, None, None],
        torch.tensor([far - 1]),
        torch.arange(far),
    )
    with torch.no_grad():
        added = encoding.score_mod(None, None, torch.arange(far), x_BTD, 1)(torch.zeros(()), b, h, i[:, None], j)
        z_BTH = x_BTD.double() @ encoding.weight_LHD[1].double().T + encoding.bias_LH[1].double()
        sums_BHT = encoding.log_gates(z_BTH).transpose(1, 2).flip(-1).cumsum(-1).flip(-1)
    wanted = torch.cat([sums_BHT[..., 1:], torch.zeros(1, 3, 1)], dim=-1)[:, :, None]
    assert wanted.min() < -10_000
    torch.testing.assert_close(added.double()[..., -near:], wanted[..., -near:], rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(added.double(), wanted, rtol=1e-6, atol=1e-5)  # what float32 holds of 10,000 nats


def test_dape_whose_network_is_silent_is_its_bias():
    dape = build("dape", "encoding@encoding.inner=t5")
    assert not torch.allclose(attend(dape), attend(dape.inner))
    torch.nn.init.zeros_(dape.down[1].weight)
    torch.testing.assert_close(attend(dape), attend(dape.inner), rtol=0, atol=1e-12)


def test_dape_in_pieces_is_dape_at_once(monkeypatch):
    dape, found = perturb(build("dape")), []
    for pairs in (T * T, 5 * T + 3, 1):  # all rows; five at a time, and two at the end; one by one
        monkeypatch.setattr("model.encodings.dape.PAIRS", pairs)
        out = attend(dape)
        gradients = torch.autograd.grad(out.square().sum(), [dape.up[1].weight, dape.down[1].weight])
        found.append((out, *gradients))
    for other in found[1:]:
        for piece, whole in zip(other, found[0], strict=True):
            torch.testing.assert_close(piece, whole, rtol=1e-12, atol=1e-12)


def test_cope_starts_without_positions():
    torch.testing.assert_close(attend(build("cope")), attend(build("none")), rtol=0, atol=1e-12)


def test_a_row_of_stick_breaking_sums_to_one_where_the_rest_goes_to_the_token_itself():
    content = Content.random(SHAPE, T)
    dropped, kept = (
        weights(build("stick_breaking", f"encoding.remainder={where}"), 9 * products(content), content).sum(-1)
        for where in ("dropped", "self")
    )
    assert (dropped[..., 0] == 0).all()
    assert (dropped <= 1 + 1e-12).all()
    torch.testing.assert_close(kept, torch.ones_like(kept), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [1e3, 1e4])
def test_stick_breaking_stays_finite_on_large_scores(size):
    scores = torch.linspace(-size, size, T * T).reshape(1, 1, T, T).requires_grad_()
    out = build("stick_breaking").weigh(scores, VISIBLE, ROWS, layer=0)
    out.square().sum().backward()
    assert torch.isfinite(out).all()
    assert torch.isfinite(scores.grad).all()


def test_the_gradients_of_the_counts_are_those_of_finite_differences():
    x = torch.rand(2, 3, 5, dtype=torch.float64, requires_grad=True)
    whole = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, whole: interpolate(whole, reverse_cumsum(x)), (x, whole))


def test_cope_counts_no_further_than_its_context():
    assert build_encoding(encoding_config("cope"), Shape(32, 1, 1, 1024)).p_max == 64  # the paper's
    assert build_encoding(encoding_config("cope"), Shape(32, 1, 1, 64)).p_max == 32


# --------------------------------------------------------------------------------------------------- combinations


@pytest.mark.parametrize("name", ["rope", "sinusoidal", "shaw", "cope", "stick_breaking", "transformer_xl", "xpos"])
def test_a_part_beside_none_is_that_part(name):
    whole = build("combined", f"encoding@encoding.parts.first={name}", "encoding@encoding.parts.second=none")
    perturb(whole)
    torch.testing.assert_close(attend(whole), attend(whole.parts["first"]), rtol=0, atol=0)


def test_the_order_of_two_biases_does_not_matter():
    one = build("combined", "encoding@encoding.parts.first=t5")
    other = build("combined", "encoding@encoding.parts.second=t5", "encoding@encoding.parts.first=alibi")
    other.parts["second"].load_state_dict(one.parts["first"].state_dict())
    torch.testing.assert_close(attend(one), attend(other), rtol=0, atol=1e-12)
    assert one.distance_bias


def test_three_parts_are_given_on_the_command_line():
    whole = build("combined", "+encoding@encoding.parts.third=sinusoidal", "encoding.parts.first.base=500")
    assert [type(part).__name__ for part in whole.parts.values()] == ["RoPE", "ALiBi", "Sinusoidal"]
    assert whole.parts["first"].base == 500
    assert [uses(whole, hook) for hook in ("positions", "embed", "rotate", "score_mod")] == [False, True, True, True]


def test_a_combination_ends_where_the_first_of_its_tables_ends():
    whole = build("combined", "encoding@encoding.parts.first=learned")
    assert whole.max_length == SHAPE.context
    with pytest.raises(ValueError, match="Learned is not defined beyond 32 tokens"):
        whole.check_length(33)


def test_two_rotations_make_no_claim_to_be_relative():
    assert not build("combined", "encoding@encoding.parts.second=transformer_xl").relative


@pytest.mark.parametrize(
    "first, second, reason",
    [
        ("rope", "rope", "the same encoding twice"),
        ("cope", "path", "only one part can change whole rows"),
        ("randomized", "rope_hierarchical", "only one part can set the positions"),
        ("randomized", "learned", "a table ends"),
        ("transformer_xl", "rope", "can't rotate q and k that the part before has widened"),
        ("rope_hierarchical", "alibi", "several coordinates a token"),
    ],
)
def test_parts_that_cannot_be_right_together_are_refused(first, second, reason):
    with pytest.raises(ValueError, match=reason):
        build("combined", f"encoding@encoding.parts.first={first}", f"encoding@encoding.parts.second={second}")


@pytest.mark.parametrize("overrides", [["encoding.parts.second=null"], ["~encoding@encoding.parts.second"]])
def test_a_combination_of_one_is_refused(overrides):
    with pytest.raises(ValueError, match=r"encoding\.parts"):
        build("combined", *overrides)


@pytest.mark.parametrize("inner", ["none", "rope", "stick_breaking", "dape", "window"])
def test_dape_refuses_an_inner_encoding_without_a_bias(inner):
    with pytest.raises(ValueError, match=r"encoding\.inner="):
        build("dape", f"encoding@encoding.inner={inner}")


@pytest.mark.parametrize(
    "name, setting",
    [("cope", "p_max=1"), ("cope", "p_max=33"), ("dape", "width=0"), ("stick_breaking", "remainder=lost")],
)
def test_bad_settings_are_refused_by_name(name, setting):
    with pytest.raises(ValueError, match=rf"encoding\.{setting.split('=')[0]}="):
        build(name, f"encoding.{setting}")
