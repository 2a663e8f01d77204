"""A context that grows while a run trains: its width at each step, attention within blocks under every encoding,
windows cut into pieces, and that a run which is stopped on the way goes on bit for bit.

python -m pytest tests/test_context_schedule.py       # one encoding: -k "[rope]"
"""

import functools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from conf.schema import ContextSchedule
from eval.record.folder import RunFolder
from eval.record.identity import settings_of
from model.attention import attention
from model.catalogue import encoding_config, encoding_names
from model.encodings import PositionEncoding
from model.encodings.chunked import Chunked
from model.encodings.logn import QueryScale
from model.encodings.none import NoPE
from model.encodings.path import PaTH
from model.training.language_model import LanguageModel, pieces
from tests import laws
from tests.test_resume import SETTINGS, Killed, assert_same, stop_at
from train import train

WIDTHS = (5, 12, 31)  # of laws.SHAPE.context or fewer tokens, none of which divides them
config = functools.cache(encoding_config)


# ------------------------------------------------------------------------------------------------------------ the width


@pytest.mark.parametrize(
    ("start", "share", "context", "steps"), [(None, None, 128, 100), (10, 1.0, 51, 37), (2, 0.3, 32, 9)]
)
def test_the_context_grows_linearly_from_the_start_to_the_whole(start, share, context, steps):
    schedule = ContextSchedule("skyladder", start, share)
    first, until = start or context // 4, (share or 0.6) * steps
    widths = [schedule.width(step, steps, context) for step in range(steps + 1)]
    assert widths[0] == first and widths == sorted(widths)
    for step, width in enumerate(widths):
        line = first + (context - first) * step / until
        assert width == context if step >= until else width in range(int(line) - 7, int(line) + 1)
        assert width == context or (width - first) % 8 == 0


def test_without_a_kind_the_context_is_whole_at_every_step():
    assert {ContextSchedule().width(step, 9, 32) for step in range(9)} == {32}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["kind=slow"], "kind='slow': must be skyladder or warmup"),
        (["start=16"], "start=16: says nothing without a kind"),
        (["share=0.5"], "share=0.5: says nothing without a kind"),
        (["kind=warmup", "start=1"], "start=1: must be at least 2"),
        (["kind=warmup", "start=129"], "start=129: must be at most the context, 128 tokens"),
        (["kind=skyladder", "start=2.5"], "start=2.5: must be a whole number"),
        *(
            (["kind=skyladder", f"share={share}"], f"share={float(share)}: a share of the run")
            for share in (0, -1, 1.5)
        ),
        (["kind=skyladder", "data=copy"], "kind=skyladder: would take the examples of data=copy apart"),
    ],
)
def test_what_can_not_be_is_refused_by_its_name(given, says):
    prefix = "training.context_schedule."
    with pytest.raises(ValueError) as error:
        settings_of(*(each if each.startswith("data") else prefix + each for each in given))
    assert str(error.value).startswith(prefix + says) and len(str(error.value).splitlines()) == 1


# ----------------------------------------------------------------------------------------------------------- the blocks


def counted_in_blocks(encoding: PositionEncoding, width: int, length: int, layer: int) -> torch.Tensor:
    """By which factor a row's q differs where the keys that it sees are counted in its block, not from the start on:
    (T, 1) or (H, T, 1)."""
    factor = torch.ones(length, 1, dtype=torch.float64)
    for part in encoding.at(layer).modules():
        if isinstance(part, QueryScale):
            sees = float("inf") if part.sees is None else part.sees
            whole = torch.arange(1, length + 1, dtype=torch.float64)
            block = (whole - 1) % width + 1
            same = whole == block  # of which one is SSMax's 0
            whole, block = (n.clamp_max(sees).masked_fill(same, 2.0) for n in (whole, block))
            factor = factor * (part.scales(block, layer) / part.scales(whole, layer))[..., None]
    return factor


def masked(encoding: PositionEncoding, content: laws.Content, width: int, layer: int) -> torch.Tensor:
    """Attention on the whole sequence, its scores written out, all keys of other blocks masked: (B, H, T, K)."""
    positions = encoding.positions(content.tokens)
    B, H, T, K = content.q.shape
    rows = torch.arange(T)
    visible = (rows <= rows[:, None]) & (rows // width == rows[:, None] // width)
    q, k, v = encoding.rotate(content.q, content.k, content.v, positions, content.x, layer)
    q = q * counted_in_blocks(encoding, width, T, layer)
    scores = q @ k.mT * K**-0.5
    if encoding.rescores:
        scores = encoding.rescore(scores, visible, rows, q, k, positions, content.x, layer)
    if (mod := encoding.score_mod(q, k, positions, content.x, layer)) is not None:
        scores = mod(scores, *laws.index_tensors(B, H, T))
    scores = scores.masked_fill(~visible, float("-inf"))
    out = encoding.weigh(scores, visible, rows, layer) @ v
    return encoding.unrotate(out, positions, content.x, layer)


def in_blocks(encoding: PositionEncoding, content: laws.Content, width: int, layer: int) -> torch.Tensor:
    positions = encoding.positions(content.tokens)
    return attention(content.q, content.k, content.v, encoding, positions, content.x, layer, width=width)


def check_mask(build: laws.Build) -> None:
    """Within blocks, attention and its gradients are those of the whole sequence with the keys of other blocks masked:
    positions are the whole's. PaTH's convolution, which would look into the block before, looks at the token alone, and
    chunks, which are counted from a block's start, are as long as the text."""
    encoding = laws.rig(build)
    with torch.no_grad():
        for part in encoding.modules():
            if isinstance(part, PaTH):
                part.taps_LWD.requires_grad_(False)[:, :-1] = 0
            if isinstance(part, Chunked):
                part.chunk, part.band = laws.LENGTH, None
    T = laws.length_for(encoding)
    for layer in range(encoding.shape.num_layers):
        for width in WIDTHS:
            found = []
            for way in (masked, in_blocks):
                content = laws.Content.random(laws.SHAPE, T).map(lambda t: t.detach().requires_grad_())
                out = way(encoding, content, width, layer)
                given = [*content[1:], *(p for p in encoding.parameters() if p.requires_grad)]
                slopes = torch.autograd.grad(out.square().sum(), given, allow_unused=True)
                found.append((out, *slopes))
            for index, (theirs, ours) in enumerate(zip(*found, strict=True)):
                what = f"blocks of {width}, layer {layer}, {'gradient' if index else 'output'} {index}"
                zeros = next((torch.zeros_like(t) for t in (theirs, ours) if t is not None), None)
                if zeros is not None and zeros.numel():
                    laws.assert_same(*(zeros if t is None else t for t in (ours, theirs)), what, 1e-7)


def check_isolation(build: laws.Build) -> None:
    """Through a whole transformer, in training too, the tokens of other blocks never change a block's rows, and those
    of its own do."""
    encoding = laws.rig(build)
    T, width = laws.length_for(encoding), 12
    tokens = laws.random_tokens(laws.BATCH, T)
    placed = torch.isin(tokens, torch.tensor([3, 4, 5]))  # separators, by which positions are counted
    other = torch.where(placed, tokens, (tokens - 6 + 11) % (laws.VOCABULARY - 6) + 6)
    mixed = torch.cat([other[:, :width], tokens[:, width : 2 * width], other[:, 2 * width :]], dim=1)
    for training in (False, True):
        encoding.train(training)
        rows = []
        for given in (tokens, mixed, other):
            torch.manual_seed(3)
            whole = laws.rig_model(laws._twin(encoding))
            with torch.no_grad():
                rows.append(whole(given, width=width)[:, width : 2 * width])
        laws.assert_same(rows[1], rows[0], "a block sees what lies outside of it")
        laws.assert_differ(rows[2], rows[0], "a block does not see itself")


@pytest.mark.parametrize("name", encoding_names())
def test_blocks_are_a_mask_over_the_whole(name):
    check_mask(laws.of_config(config(name)))


@pytest.mark.parametrize("name", encoding_names())
def test_no_block_sees_another(name):
    check_isolation(laws.of_config(config(name)))


@pytest.mark.parametrize("name", ["rope", "alibi", "fire", "cope"])
def test_a_block_as_long_as_the_sequence_is_no_block_at_all(name):
    encoding = laws.rig(laws.of_config(config(name)))
    content = laws.Content.random(laws.SHAPE, laws.LENGTH)
    for width in (laws.LENGTH, laws.LENGTH + 9):
        assert torch.equal(in_blocks(encoding, content, width, 0), in_blocks(encoding, content, None, 0))


def test_decoding_knows_no_blocks():
    encoding, content = NoPE(laws.SHAPE), laws.Content.random(laws.SHAPE, 9)
    with pytest.raises(ValueError, match="width=4"):
        attention(content.q, content.k, content.v, encoding, torch.arange(9), content.x, 0, queries=2, width=4)


class BiasOfTheRow(NoPE):
    """By rows instead of positions: every block would begin anew."""

    def score_mod(self, q, k, positions, x, layer):
        return lambda score, b, h, i, j: score * (1 + i / 10)


class KeepsWhatItSaw(NoPE):
    """Of the block before."""

    kept = 0.0

    def rotate(self, q, k, v, positions, x, layer):
        before, self.kept = self.kept, v.mean(dim=2, keepdim=True)
        return q, k, v + before


@pytest.mark.parametrize(
    ("law", "broken", "says"),
    [(check_mask, BiasOfTheRow, "blocks of 5"), (check_isolation, KeepsWhatItSaw, "outside of it")],
)
def test_each_is_seen_to_fail_on_a_broken_encoding(law, broken, says):
    with pytest.raises(AssertionError, match=says):
        law(laws.of_class(broken))


# ----------------------------------------------------------------------------------------------------------- the pieces


@pytest.mark.parametrize(("length", "width"), [(12, 4), (13, 5), (7, 7), (8, 3), (5, 9)])
def test_every_target_stands_in_one_piece_after_what_lies_before_it_there(length, width):
    windows = torch.arange(3 * (length + 1)).view(3, length + 1)
    cut = pieces(windows, width)
    assert cut.shape == (3 * -(-length // width), width + 1)
    targets = cut[:, 1:][cut[:, 1:] >= 0]
    assert sorted(targets.tolist()) == sorted(windows[:, 1:].flatten().tolist())
    for piece in cut.tolist():
        real = [token for token in piece if token >= 0]
        assert real == list(range(real[0], real[0] + len(real))) and len(real) > 1


def language_model(name: str, kind: str, **training) -> LanguageModel:
    settings = settings_of(f"training.context_schedule.kind={kind}").training
    whole = laws.rig_model(laws.rig(laws.of_config(config(name))))
    return LanguageModel(whole, replace(settings, **training), 10)


@pytest.mark.parametrize("name", ["rope", "learned", "fox"])
def test_the_loss_of_pieces_is_the_mean_over_short_windows(name):
    module = language_model(name, "warmup")
    windows = laws.random_tokens(laws.BATCH, 33)
    found = module.growing_loss(windows, 12)
    sums = [
        F.cross_entropy(
            module.transformer(window[None, first:last]).flatten(0, 1), window[first + 1 : last + 1], reduction="sum"
        )
        for window in windows
        for first, last in ((0, 12), (12, 24), (24, 32))
    ]
    assert found.item() == pytest.approx(sum(s.item() for s in sums) / (laws.BATCH * 32), rel=1e-6)


def test_the_loss_within_blocks_has_as_many_targets_as_ever():
    module = language_model("alibi", "skyladder")
    windows = laws.random_tokens(laws.BATCH, 33)
    whole = module.mean_loss(windows).item()
    module.token_losses = None  # what is compiled: every width would be so anew
    logits = module.transformer(windows[:, :-1], width=12)
    expected = F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
    assert module.growing_loss(windows, 12).item() == pytest.approx(expected.item(), rel=1e-6)
    assert abs(expected.item() - whole) > 1e-3


# -------------------------------------------------------------------------------------------------------------- the run


GROWING = [
    *(each for each in SETTINGS if not each.startswith(("num_workers", "training.log_every", "training.tokens"))),
    "training.tokens=20480",
    "training.log_every=3",
    "eval.lengths=[1]",
    "eval.probes=[]",
    "training.context_schedule.share=0.7",
]


@pytest.mark.parametrize("kind", [pytest.param("skyladder", marks=pytest.mark.slow), "warmup"])
def test_a_run_that_is_stopped_while_its_context_grows_ends_as_one_never_stopped(composed, tmp_path, monkeypatch, kind):
    def run(folder) -> RunFolder:
        settings = composed(*GROWING, f"training.context_schedule.kind={kind}", f"runs={tmp_path / folder}")
        train(settings)
        return RunFolder.of(settings)

    expected = run("whole")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_at(patch, 9)
        run("stopped")
    found = run("stopped")
    assert_same(found, expected)
    curve = expected.curve
    points = curve[curve.loss.notna()]
    schedule = expected.settings.training.context_schedule
    steps, context = expected.settings.steps, expected.settings.context
    assert points.context.tolist() == [schedule.width(int(step) - 1, steps, context) for step in points.step]
    assert points.context.iloc[0] < points.context.iloc[-1] == context and curve[curve.loss.isna()].context.isna().all()
    assert (points.tokens == points.step * expected.settings.training.batch_size * context).all()


class Asked:
    """In the place of recorded steps: counts them."""

    def __init__(self, loss, module):
        self.loss, self.batches = loss, 0

    def __call__(self, batch):
        self.batches += torch.is_grad_enabled()
        return self.loss(batch)

    def backward(self, loss):
        loss.backward()


def test_steps_are_recorded_and_compiled_only_once_the_context_is_whole(composed, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        LanguageModel,
        "on_fit_start",
        lambda self: (asked.append(Asked(self.mean_loss, self)), setattr(self, "recorded", asked[-1])),
    )
    settings = composed(
        *GROWING, "training.accumulate=1", "training.context_schedule.kind=skyladder", f"runs={tmp_path}"
    )
    train(settings)
    schedule = settings.training.context_schedule
    whole = [
        step
        for step in range(settings.steps)
        if schedule.width(step, settings.steps, settings.context) == settings.context
    ]
    assert asked[0].batches == len(whole) < settings.steps


def test_the_announcement_says_how_the_context_grows_and_which_options_the_blocks_have(composed, tmp_path, capsys):
    given = ["training.tokens=2048", "model.sink=true", "model.output_gate=head"]
    given += ["training.context_schedule.kind=warmup", "training.context_schedule.start=16"]
    train(composed(*SETTINGS, *given, f"runs={tmp_path}"))
    said = capsys.readouterr().out
    assert ", sink, output_gate=head, " in said
    assert (
        "context 32 (warmup: windows cut into pieces of 16 tokens, which grow to it in 60 % of the steps); then" in said
    )
