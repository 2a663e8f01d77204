"""The explorer: its numbers are the encodings' own, and the page works in a browser, offline.

python -m pytest tests/test_explore.py
"""

import base64
import math
import zlib

import numpy as np
import pytest
import torch

from conf.typed import plain
from eval.record.files import write_json
from eval.record.identity import settings_of
from model.build import build_transformer
from model.catalogue import encoding_config, encoding_names
from model.encodings import Shape, build_encoding
from model.encodings.alibi import alibi_slopes
from model.encodings.rope import RoPE
from model.encodings.sinusoidal import sinusoids
from model.encodings.t5 import causal_buckets
from model.training.checkpoint import SCHEMA, AtomicCheckpointIO
from scripts import explore
from scripts.encodings import with_layers
from scripts.explore import Pack, curves, draw_zeros, embedding_map, explored, page, score_map, scores
from tests.browser import DESKTOP, PHONE, open_browser
from tests.synthetic import facts

SMALL = Shape(dim=32, num_heads=4, num_layers=2, context=16, separators={"line": (3,), "sentence": (4,)})


def small(name):
    return build_encoding(config := encoding_config(name), with_layers(SMALL, config))


def unpack(pack, where):
    """An array of a Pack, as explorer.js reads it."""
    numbers = np.frombuffer(zlib.decompress(base64.b64decode(pack.text())), "<u2")
    steps = numbers[where["at"] : where["at"] + math.prod(where["shape"])].reshape(where["shape"])
    return np.where(steps == Pack.GAP, np.nan, where["low"] + where["step"] * steps)


def test_packed_numbers_come_back_within_a_step_and_the_infinite_as_gaps():
    pack, numbers = Pack(), torch.randn(3, 7, dtype=torch.float64) * 100
    numbers[1, 2] = float("-inf")
    found = unpack(pack, pack.add(numbers))
    assert np.isnan(found[1, 2]) and np.isnan(found).sum() == 1
    finite = numbers.isfinite().numpy()
    spread = np.ptp(numbers.numpy()[finite])
    assert np.abs(found - numbers.numpy())[finite].max() <= spread / 130_000


def test_packed_constants_are_exact_and_equal_arrays_are_kept_once():
    pack = Pack()
    first = pack.add(torch.full((5,), -3.25))
    assert (unpack(pack, first) == -3.25).all()
    assert pack.add(torch.full((5,), -3.25)) == first and pack.add(torch.full((5,), 1.0)) != first


@pytest.mark.parametrize("same", [True, False])
def test_scores_are_those_of_a_loop_over_the_definition_of_alibi(same):
    with_bias, without = (
        scores(small(name), 24, 0, same=same, draws=3, rows=24)[:, :, -1] for name in ("alibi", "none")
    )
    distances = torch.arange(23, -1, -1)
    torch.testing.assert_close(with_bias - without, (-alibi_slopes(4)[:, None] * distances).expand(3, -1, -1))


def test_the_same_token_has_the_score_of_its_length_everywhere_without_positions():
    curve_H3T = curves(small("none"), 0, same=True)
    torch.testing.assert_close(curve_H3T, torch.full_like(curve_H3T, SMALL.head_dim**0.5))


def test_rope_is_most_alike_at_no_distance_and_decays_in_the_mean():
    mean_HT = curves(small("rope"), 0, same=True)[:, 0]
    assert (mean_HT[:, 0] >= mean_HT.max(dim=-1).values).all()
    assert (mean_HT[:, 32:].mean(dim=-1) < mean_HT[:, :8].mean(dim=-1)).all()


def test_an_example_of_t5_has_a_step_for_each_bucket():
    t5 = small("t5")
    assert draw_zeros(t5)
    mean_HT = curves(t5, 0, same=True)[:, 0]
    buckets_T = causal_buckets(torch.arange(mean_HT.shape[-1]), t5.num_buckets, t5.max_distance)
    steps = mean_HT.diff(dim=-1).abs() > 1e-9
    assert torch.equal(steps.any(dim=0), buckets_T.diff() != 0)


def test_maps_of_embeddings_are_cosines_of_what_is_added():
    encoding = small("sinusoidal")
    table_TD = sinusoids(explore.map_positions(encoding), SMALL.dim)
    expected = torch.nn.functional.cosine_similarity(table_TD[:, None], table_TD[None], dim=-1)
    torch.testing.assert_close(embedding_map(encoding)[0], expected)


def test_maps_show_no_future_and_no_window_beyond_its_edge():
    encoding = small("window")
    map_HSS, at_S = score_map(encoding, 0), explore.map_positions(encoding)
    distance_SS = at_S[:, None] - at_S
    assert torch.equal(map_HSS.isfinite(), ((distance_SS >= 0) & (distance_SS < encoding.window)).expand(4, -1, -1))


@pytest.mark.parametrize("name", encoding_names())
def test_every_encoding_is_explored_without_a_number_missing(name, monkeypatch):
    monkeypatch.setattr(explore, "DRAWS", 2)
    monkeypatch.setattr(explore, "MAP_DRAWS", 1)
    pack = Pack()
    found = explored(small(name), "before training", 2, pack)
    for layers in found["curves"].values():
        assert len(layers) == 2 and all(len(heads) == SMALL.num_heads for heads in layers)
        for where in (where for heads in layers for where in heads):
            assert where["shape"] == [3, found["length"]]
            assert np.isfinite(unpack(pack, where)[:, 1]).all(), "the score one token back"
    assert len(found["maps"]) == 2
    assert found["length"] <= found["asked"] == 4 * SMALL.context


def test_a_run_without_a_checkpoint_is_refused(tmp_path):
    write_json(tmp_path / "config.json", plain(settings_of("encoding=rope")))
    with pytest.raises(ValueError, match="has no checkpoint"):
        page(["rope"], explore.RunFolder(tmp_path))


def make_trained(path, settings):
    """A run's folder with a checkpoint of random weights, and its model."""
    model = build_transformer(settings, 16, SMALL.separators)
    torch.nn.init.normal_(model.encoding.table_HN)
    weights = {f"transformer.{name}": weight for name, weight in model.state_dict().items()}
    content = {"state_dict": weights, "trainshort_schema": SCHEMA}
    AtomicCheckpointIO().save_checkpoint(content, path / "checkpoints" / f"step-{settings.steps:09d}.ckpt")
    write_json(path / "config.json", plain(settings))
    write_json(path / "results.json", {"schema": 1, "rows": [], **facts(plain(settings), settings.seed)})
    return model


def test_a_trained_run_stands_beside_the_untrained_encoding_with_what_it_learned(composed, tmp_path):
    settings = composed("experiment=smoke", "encoding=t5", "seed=3", "model.qk_norm=true")
    model = make_trained(tmp_path, settings)
    pack = Pack()
    *_, found = explore.states("t5", explore.RunFolder(tmp_path), pack)
    assert found["label"] == f"trained: {tmp_path.name} (qk_norm)" and found["context"] == settings.context
    expected = curves(model.encoding, 0, same=True)
    learned = np.stack([unpack(pack, where) for where in found["curves"]["same"][0]])
    assert np.allclose(learned, expected, atol=1e-3)
    assert len(list(explore.states("rope", explore.RunFolder(tmp_path), pack))) == 1, "a run of another encoding"


@pytest.fixture(scope="module")
def explorer(tmp_path_factory):
    """The page with a few encodings."""
    path = tmp_path_factory.mktemp("explorer") / "explorer.html"
    path.write_text(page(["alibi", "learned", "rope", "sinusoidal", "stick_breaking", "t5"]))
    return path


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


def look(browser, explorer, size=DESKTOP, **chosen):
    """The page, opened afresh, with these choices made."""
    browser.open(explorer, size=size)
    browser.wait("return document.documentElement.dataset.ready")
    for name, value in chosen.items():
        choose(browser, f"#{name}", value)


def choose(browser, selector, value):
    browser.run(
        """const element = document.querySelector(arguments[0]); element.value = arguments[1];
        element.dispatchEvent(new Event(element.tagName === "SELECT" ? "change" : "input"));""",
        selector,
        value,
    )


def drawn(browser, plot, what="y", trace=-1):
    return browser.run(
        f"const trace = document.getElementById('{plot}').data.at({trace}).{what}; return trace && Array.from(trace);"
    )


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_page_opens_without_a_complaint_or_a_request_and_fits(browser, explorer, size):
    look(browser, explorer, size)
    for name in ("alibi", "learned", "sinusoidal", "stick_breaking", "t5"):
        choose(browser, "#encoding", name)
    assert browser.complaints() == []
    assert browser.run("return document.documentElement.scrollWidth") <= size[0]


def test_the_encoding_changes_the_curve_to_its_own_numbers(browser, explorer):
    look(browser, explorer, encoding="alibi", head="0")
    curve = np.array(drawn(browser, "curve"))
    assert np.allclose(curve - curve[0], -alibi_slopes(4)[0] * np.arange(4 * explore.SHAPE.context), atol=4e-3)
    choose(browser, "#encoding", "learned")
    assert len(drawn(browser, "curve")) == explore.SHAPE.context
    assert "not defined on more than 128 tokens" in browser.find("#scoresNote")[0].text


def test_the_state_the_tokens_and_the_head_change_the_curve(browser, explorer):
    look(browser, explorer, encoding="t5", head="1")
    for name, first in (("layer", []), ("head", ["all"])):  # counted as in results.json and in the report
        shown = browser.run(f"return [...document.getElementById('{name}').options].map((o) => [o.value, o.text])")
        assert shown == [[each, each] for each in [*first, *map(str, range(len(shown) - len(first)))]]
    seen = [drawn(browser, "curve")]
    for selector, value in (("#state", "0"), ("#search", "independent"), ("#head", "2")):
        choose(browser, selector, value)
        seen.append(drawn(browser, "curve"))
        assert seen[-1] != seen[-2], selector


def test_sliders_show_the_sinusoids_of_their_base_width_and_position(browser, explorer):
    look(browser, explorer)
    for name, value in (("base", 1), ("width", 1), ("position", 37)):
        choose(browser, f"[data-clock=sinusoids] [name={name}]", value)
    expected = sinusoids(torch.tensor([37]), explore.WIDTHS[1], explore.BASES[1])[0]
    assert np.allclose(drawn(browser, "code"), expected, atol=1e-4)
    said = [each.get_attribute("aria-valuetext") for each in browser.find("[data-clock=sinusoids] input")]
    assert said == ["100", "8", "37"], "what stands there, not its place in the list"
    assert {each.get_attribute("aria-live") for each in browser.find(".sliders output")} == {"off"}, "once is enough"


def test_hands_stand_at_the_angles_of_rope(browser, explorer):
    look(browser, explorer)
    for name, value in (("base", 3), ("width", 0), ("position", 5)):
        choose(browser, f"[data-clock=pairs] [name={name}]", value)
    rope = RoPE(Shape(explore.HEAD_WIDTHS[0], 1, 1, 16), explore.BASES[3])
    _, sin = rope.cos_sin(torch.tensor([5]), 0, torch.float64)
    tips = drawn(browser, "circles")[1::3]  # from the centre, to the tip, a gap
    assert np.allclose(tips, sin[0], atol=1e-4)


@pytest.mark.parametrize("clock", ["pairs", "sinusoids"])
def test_play_moves_the_position_on_and_pause_stops_it(browser, explorer, clock):
    look(browser, explorer)
    at = f"return Number(document.querySelector('[data-clock={clock}] [name=position]').value)"
    browser.click(f"[data-clock={clock}] .play")
    browser.wait(f"{at} > 3")
    browser.click(f"[data-clock={clock}] .play")
    stopped = browser.run(at)
    browser.run("return new Promise((done) => setTimeout(done, 300))")
    assert browser.run(at) == stopped
    assert browser.complaints() == []


@pytest.mark.parametrize("name", ["<!--<script>", "&lt;b>\"'", "numbers*", "</script><img src=x onerror=alert(1)>"])
def test_the_name_of_a_folder_is_text_and_nothing_else(browser, composed, tmp_path, name):
    run = tmp_path / name.replace("/", "")
    make_trained(run, composed("experiment=smoke", "encoding=t5"))
    (tmp_path / "explorer.html").write_text(page(["t5"], explore.RunFolder(run)))
    look(browser, tmp_path / "explorer.html", encoding="t5")
    shown = browser.run("return [...document.getElementById('state').options].map((option) => option.text)")
    assert shown[-1] == f"trained: {run.name}"
    assert browser.complaints() == []


def test_no_figure_of_the_explorer_offers_to_upload_it(browser, explorer):
    look(browser, explorer)
    offered = "return [...document.querySelectorAll('.plot')].map((plot) => plot._context?.showSendToCloud)"
    assert {*browser.run(offered)} == {False}


def curves_of(browser):
    curves = "document.getElementById('curve').data.filter((t) => t.hoverinfo !== 'skip')"
    return [tuple(each) for each in browser.run(f"return {curves}.map((t) => [t.meta, t.yaxis])")]


def test_encodings_are_laid_over_each_other_and_taken_away_again(browser, explorer):
    look(browser, explorer, encoding="alibi", head="0", add="rope")
    alone = drawn(browser, "curve")
    choose(browser, "#add", "stick_breaking")
    assert curves_of(browser) == [("alibi", "y"), ("rope", "y"), ("stick_breaking", "y2")], "weights are no scores"
    colours = browser.run(
        "return document.getElementById('curve').data.filter((t) => t.hoverinfo !== 'skip').map((t) => t.line.color)"
    )
    assert len({*colours}) == 3
    browser.click("#over .chip:last-child")
    assert curves_of(browser) == [("alibi", "y"), ("rope", "y")] and drawn(browser, "curve") == alone
    choose(browser, "#encoding", "rope")
    assert curves_of(browser) == [("rope", "y")], "no encoding lies over itself"
    assert browser.complaints() == []


@pytest.mark.slow
def test_what_lies_over_each_other_stands_in_the_address(browser, explorer):
    look(browser, explorer, encoding="t5", head="1", add="alibi")
    assert browser.run("return location.hash") == "#t5,alibi"
    browser.run("location.reload()")
    browser.wait("return document.documentElement.dataset.ready")
    assert {name for name, _ in curves_of(browser)} == {"t5", "alibi"}


@pytest.mark.slow
def test_the_explorer_is_dark_by_the_systems_setting_and_light_on_paper(browser, explorer):
    look(browser, explorer)
    ink = "return document.getElementById('curve').layout.font.color"
    light = browser.run(ink)
    browser.emulate(scheme="dark")
    browser.wait(f"{ink} !== '{light}'")
    with browser.on_paper():
        assert browser.run(ink) == light
        widths = "return [...document.querySelectorAll('.plot')].map((plot) => plot._fullLayout.width)"
        assert {*browser.run(widths)} == {680}
        assert browser.run("return document.querySelector('.sliders').offsetParent") is None
    assert browser.complaints() == []
