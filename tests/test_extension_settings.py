"""The settings of length extensions: what is refused by name, what warns, what tuning finds.

python -m pytest tests/test_extension_settings.py
"""

import math

import pytest
import torch
from omegaconf import OmegaConf

from eval.measure.extended import chosen_extension, extension_configs
from eval.record.identity import settings_of
from model.catalogue import extension_config
from model.extensions import build_extension
from model.extensions.llama3 import Llama3
from model.extensions.logit_scale import LogitScale
from model.extensions.longrope import LongRoPE
from model.extensions.row_scale import SWANScale
from model.extensions.self_extend import SelfExtend
from model.extensions.yarn import YaRN
from tests.extended import DISTANCE_METHODS, FREQUENCY_METHODS, L, encoding_of, extension_of

# At L = 16 the fastest pair makes 2.5 turns: llama3's 4 are not reached, and it says so.
pytestmark = pytest.mark.filterwarnings(r"ignore:extension\.high=4")


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("dynamic_ntk", {"alpha": 0.5}),
        ("ntk_mixed", {"power": 0.0}),
        ("yarn", {"beta_slow": 0.0}),
        ("yarn", {"beta_fast": 1.0}),
        ("yarn", {"temperature": -0.1}),
        ("llama3", {"factor": 0.5}),
        ("llama3", {"low": 4.0}),
        ("longrope", {"trials": 2}),
        ("longrope", {"factors": [1.0, 0.0]}),
        ("rerope", {"window": 0}),
        ("leaky_rerope", {"slowdown": 0.9}),
        ("self_extend", {"group": 0}),
        ("window", {"sinks": -1}),
        ("window", {"window": 0}),
        ("abf", {"base": 0.5}),
        ("logit_scale", {"a": -0.1}),
        ("pose", {"length": 1}),
        ("pose", {"length": 2**25}),
        ("pose", {"inner": {"yarn": 1}}),
        ("random_positions", {"at_test": "even"}),
    ],
)
def test_settings_that_can_not_be_are_refused_by_name(method, settings):
    (name,) = settings
    with pytest.raises(ValueError, match=rf"extension\.({name}|beta_slow)="):
        extension_of(method, **settings)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("rerope", {"window": L}),
        ("window", {"window": L}),
        ("window", {"sinks": L}),
        ("longrope", {}),
        ("longrope", {"factors": [1.0, 2.0]}),
        ("abf", {"base": 100.0}),
        ("pose", {"inner": {"_target_": "model.extensions.window.Window"}}),
        ("random_positions", {"inner": {"_target_": "model.extensions.drop.Drop"}}),
    ],
)
def test_settings_that_do_not_suit_the_model_are_refused_when_applied(method, settings):
    with pytest.raises(ValueError, match=rf"extension\.{next(iter(settings), 'factors')}"):
        extension_of(method, **settings).apply(encoding_of("rope"), L, 4 * L)


def test_a_logit_scale_is_fitted_first_or_given():
    with pytest.raises(ValueError, match=r"extension\.a=null: fit it on a calibration split"):
        extension_of("logit_scale").apply(encoding_of("none"), L, 4 * L)


@pytest.mark.parametrize("method", ["pose", "random_positions"])
def test_the_length_that_a_stage_draws_from_is_given_and_above_its_context(method):
    with pytest.raises(ValueError, match=r"extension\.length=null: give the length"):
        extension_of(method).final_length(L)
    with pytest.raises(ValueError, match=rf"extension\.length={L}: must be above the context {L}"):
        extension_of(method, length=L).final_length(L)
    assert extension_of(method, length=4 * L).final_length(L) == 4 * L and extension_of("yarn").final_length(L) == L


def test_a_mistake_in_the_extension_inside_is_named_where_it_stands():
    inner = {"_target_": "model.extensions.yarn.YaRN", "temperature": -1.0}
    with pytest.raises(ValueError, match=r"^extension\.inner\.temperature=-1"):
        extension_of("pose", inner=inner)


def test_unknown_settings_and_classes_are_refused():
    with pytest.raises(ValueError, match=r"extension\.factor: PI has no such setting"):
        extension_of("pi", factor=4)
    with pytest.raises(ValueError, match=r"extension\._target_"):
        build_extension({"_target_": "model.encodings.rope.RoPE"})
    with pytest.raises(ValueError, match="did you mean yarn"):
        extension_config("yran")


def test_a_file_of_an_extension_that_lacks_its_class_is_named(monkeypatch):
    config = {key: value for key, value in extension_config("yarn").items() if key != "_target_"}
    monkeypatch.setattr("model.catalogue.composed", lambda *asked: OmegaConf.create({"extension": config}))
    monkeypatch.setattr("model.catalogue.composed_each", lambda group, names: dict.fromkeys(names, config))
    with pytest.raises(ValueError, match=r"^conf/extension/yarn\.yaml: lacks _target_"):
        extension_configs(settings_of("eval.extensions=[yarn]").eval)
    with pytest.raises(ValueError, match=r"^conf/extension/yarn\.yaml: lacks _target_"):
        chosen_extension(config)


def test_an_extension_without_a_name_is_refused():
    config = {key: value for key, value in extension_config("yarn").items() if key != "name"}
    with pytest.raises(ValueError, match=r"^extension\.name: needs a value"):
        chosen_extension(config)


def test_settings_that_a_small_training_length_can_not_reach_warn():
    encoding = encoding_of("rope", head_dim=32, context=128)
    with pytest.warns(UserWarning, match=r"beta_fast=32: the fastest pair makes 20\.4 turns in 128 tokens"):
        YaRN(beta_fast=32).apply(encoding, 128, 512)
    with pytest.warns(UserWarning, match=r"extension\.high=40"):
        Llama3(high=40).apply(encoding, 128, 512)
    with pytest.warns(UserWarning, match=r"group=2: distances reach 287, beyond the longest of training, 127"):
        SelfExtend(group=2).apply(encoding, 128, 512)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("train_length", [64, 128, 512])
def test_the_defaults_scale_with_the_training_length_and_do_not_warn(train_length):
    encoding = encoding_of("rope", head_dim=32, context=train_length)
    for method in FREQUENCY_METHODS - {"longrope"} | DISTANCE_METHODS | {"window"}:
        extension_of(method).apply(encoding, train_length, 4 * train_length)
    for method in ("yarn", "yarn_paper", "llama3"):
        frequencies = extension_of(method).apply(encoding, train_length, 4 * train_length).frequencies(0)
        ratio = encoding.frequencies(0) / frequencies
        assert ratio[0] == 1 and ratio[-1] == pytest.approx(4), f"{method}: fastest kept, slowest divided"
        assert ((ratio > 1.01) & (ratio < 3.99)).any(), f"{method}: a passage between"


@pytest.mark.parametrize("method", ["yarn", "yarn_paper"])
def test_yarn_tuned_finds_the_better_temperature_and_ramp_and_says_so(method):
    encoding, tried = encoding_of("rope", head_dim=32, context=128), []
    target = extension_of(method, beta_fast=10.0, beta_slow=2.0, temperature=0.2).apply(encoding, 128, 512)

    def loss(extended):
        tried.append(extended)
        off = (extended.frequencies(0) / target.frequencies(0)).log().square().sum()
        return float(off + (extended.attention_factor - target.attention_factor) ** 2)

    extension = extension_of(method, tune=True)
    tuned = extension.tune(loss, encoding, 128, 512)
    assert tuned.temperature == 0.2 and tuned.beta_slow == 2.0 and len(tried) <= 13
    assert loss(tuned.apply(encoding, 128, 512)) < loss(extension.apply(encoding, 128, 512))
    assert "temperature=0.2" in tuned.describe() and "calibration split" in tuned.describe()
    assert extension.needs_tuning and not tuned.needs_tuning and extension.describe() == "beta_slow=1, temperature=0.1"
    assert extension_of(method).tune(loss, encoding, 128, 512).describe() == extension_of(method).describe()


@pytest.mark.parametrize("best", [0.0, 0.103, 0.412, 0.83])
def test_the_logit_scale_that_is_fitted_is_the_best_of_its_grid_and_says_so(best):
    tried = []

    def loss(extended):
        beta = extended.query_scales[0](torch.ones(1))
        tried.append((beta - 1) / torch.tensor(4.0).log().item())
        return (tried[-1] - best) ** 2

    extension = extension_of("logit_scale")
    tuned = extension.tune(loss, encoding_of("none"), L, 4 * L)
    assert tuned.a == pytest.approx(best, abs=0.025) and 0.0 in tried and len(tried) <= 11
    assert "calibration split" in tuned.describe() and not tuned.needs_tuning and extension.needs_tuning
    assert extension.tune(loss, encoding_of("none"), L, L) is extension


def test_longrope_s_search_never_ends_worse_than_it_starts_and_repeats_itself():
    encoding = encoding_of("rope", head_dim=32, context=128)
    best = torch.linspace(1, 3, 16, dtype=torch.float64) ** 1.2
    starts = []

    def loss(extended):
        starts.append(float((encoding.frequencies(0) / extended.frequencies(0) - best).square().mean()))
        return starts[-1]

    tuned = LongRoPE(trials=40).tune(loss, encoding, 128, 512)
    assert loss(tuned.apply(encoding, 128, 512)) == min(starts) < 0.8 * min(starts[:3])
    assert tuned.factors == LongRoPE(trials=40).tune(loss, encoding, 128, 512).factors
    assert list(tuned.factors) == sorted(tuned.factors) and tuned.factors[0] >= 1 and tuned.factors[-1] <= 5
    assert "calibration split" in tuned.describe() and not tuned.needs_tuning
    assert LongRoPE(trials=40).tune(loss, encoding, 128, 128).needs_tuning  # nothing to search at s = 1


@pytest.mark.parametrize(
    ("scale", "distance", "found"),
    [(LogitScale, lambda a: abs(a - 0.33), 0.325), (SWANScale, lambda a: abs(math.log((a or 1e-9) / 77)), 64 * 2**0.5)],
)
def test_a_scale_is_searched_on_both_sides_of_the_best_so_far(scale, distance, found):
    """0.4, then 0.3, 0.35 and 0.325; of 64 tokens 2 lengths, then 1 and the root of 2."""
    asked = []

    class Shown(scale):
        def apply(self, *_):
            asked.append(self.a)
            return self.a

    chosen = Shown().tune(distance, None, 64, 256)
    assert chosen.a == pytest.approx(found) and len(asked) == len(set(asked)) <= 11
    assert f"from {len(asked)} settings" in chosen.note
