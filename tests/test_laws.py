"""Every encoding of conf/encoding against the laws of tests/laws.py, found by glob: a new yaml is held to all of them.

python -m pytest tests/test_laws.py                          # one encoding: -k "[rope]"
python -m pytest tests/test_laws.py -k "[mine]" --encoding-path FOLDER    # one of your own, in a folder of your own
"""

import functools
import pickle

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.attention import flex_attention

from model.catalogue import encoding_config, encoding_names
from tests import laws

config = functools.cache(encoding_config)


@pytest.fixture(params=encoding_names())
def name(request) -> str:
    return request.param


@pytest.fixture
def build(name) -> laws.Build:
    return laws.of_config(config(name))


def test_the_future_cannot_change_the_past(build):
    laws.check_causality(build)


def test_the_first_rows_of_a_longer_sequence_are_those_of_the_shorter(build):
    laws.check_prefix_consistency(build)


def test_a_relative_encoding_does_not_notice_a_shift(build):
    laws.check_shift_invariance(build)


def test_a_distance_bias_depends_on_head_and_distance_alone(build):
    laws.check_distance_bias(build)


def test_a_separable_bias_is_a_difference_of_two(build):
    laws.check_separable_bias(build)


def test_dtype_and_shape_survive_and_bf16_is_close_to_float64(build):
    laws.check_dtype_and_shape(build)


def test_parameters_in_bf16_do_not_round_distances(build):
    laws.check_parameters_in_bf16(build)


def test_every_parameter_gets_a_gradient(build):
    laws.check_gradients(build)


def test_every_part_of_a_combination_reaches_the_output(build):
    laws.check_parts(build)


def test_saved_equals_loaded(build):
    laws.check_saved_equals_loaded(build)


def test_the_output_depends_on_nothing_that_came_before(build):
    laws.check_history(build)


def test_every_setting_changes_the_output(name, build):
    settings = {key: value for key, value in config(name).items() if key not in ("name", "_target_")}
    laws.check_two_settings(build, settings)


def test_position_reaches_the_output(build):
    laws.check_position_reaches_the_output(build)


def test_all_executors_agree(build):
    laws.check_executors(build)


def test_what_a_window_hides_is_left_out_and_changes_nothing(build):
    laws.check_band(build)


def test_a_forward_pass_stays_on_one_device(build):
    laws.check_one_device(build)


def test_constants_are_exact_whatever_the_encoding_is_cast_to_and_are_not_saved(build):
    laws.check_constants(build)


def test_a_pickled_encoding_keeps_its_constants(build):
    encoding = build(laws.SHAPE)
    again = dict(pickle.loads(pickle.dumps(encoding)).bfloat16().named_buffers())
    assert all(torch.equal(again[name], value) for name, value in encoding.named_buffers())


def test_decoding_token_by_token_equals_the_full_pass(build):
    laws.check_decoding(build)


def test_the_last_rows_alone_are_those_of_the_whole(build):
    laws.check_last_rows(build)


def test_lengths_beyond_the_definition_are_refused(build):
    laws.check_length_limit(build)


def test_no_two_positions_share_an_embedding(build):
    laws.check_distinct_embeddings(build)


def test_the_other_sequences_of_a_batch_do_not_matter(build):
    laws.check_batch_independence(build)


def test_the_backbone_starts_the_same_under_every_encoding(build):
    laws.check_pairing(build)


@pytest.mark.slow
def test_flex_attention_equals_dense(build):
    encoding = laws.rig(build)
    if encoding.rescores:
        pytest.skip("needs whole rows of scores")
    content = laws.Content.random(laws.SHAPE, laws.length_for(encoding))
    with torch.no_grad():
        out, exact = (laws.attend(encoding, content, executor=executor) for executor in ("flex", "dense"))
    laws.assert_same(out, exact, "flex and dense", 1e-7)


@pytest.mark.slow
def test_flex_attention_is_compiled_once_for_all_layers_and_lengths(build, monkeypatch):
    encoding = laws.rig(build)
    if encoding.rescores or encoding.max_length:
        pytest.skip("needs whole rows of scores, or has no other lengths")
    torch.compiler.reset()
    compiled = CompileCounterWithBackend("eager")
    monkeypatch.setattr(
        flex_attention, "flex_attention", torch.compile(flex_attention.flex_attention, backend=compiled, dynamic=True)
    )
    with torch.no_grad():
        for length in (800, 1100):  # 7 and 9 blocks: no number that is a size of something else, too
            content = laws.Content.random(laws.SHAPE, length)
            for layer in range(laws.SHAPE.num_layers):
                laws.attend(encoding, content, layer, executor="flex")
    assert compiled.frame_count == 1


def test_the_catalogue_is_the_folder():
    assert {"none", "rope", "alibi", "t5", "sinusoidal", "learned"} <= set(encoding_names())
