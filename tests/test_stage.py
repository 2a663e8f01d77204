"""A second stage starts from its parent bit for bit, takes over what it isn't given, and refuses what can't follow.

python -m pytest tests/test_stage.py
"""

import shutil
from dataclasses import replace

import pytest
import torch

from conf.schema import StageSettings, fewest_layers
from conf.typed import plain
from eval.measure.extended import extended_encoding
from eval.measure.scoring import Scorer
from eval.record.folder import RunFolder
from eval.record.identity import run_hash, settings_of
from eval.record.inherit import given_keys
from eval.record.trained import load
from model.build import build_transformer, check_model
from model.catalogue import encoding_config, encoding_names
from model.extensions import build_extension, extension_config, extension_names
from model.training.checkpoint import checkpoint_path, checkpoints
from tests.test_resume import Killed, assert_same, stop_at
from train import train

CONTEXT, LONGER, VOCABULARY = 32, 96, 300
SEPARATORS = {"line": (0,), "sentence": (1,)}
SMALL = [
    "experiment=smoke",
    "encoding=rope",
    "model.dropout=0.1",
    "training.tokens=20480",
    "training.keep=[0.5]",
    "training.validate_every=0.5",
    "eval.windows=12",
    "eval.targets=8",
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def parent(composed, runs) -> RunFolder:
    """A finished run, trained once, of 20 steps, with the checkpoint after the tenth kept."""
    settings = composed(*SMALL, f"runs={runs}")
    train(settings)
    return RunFolder.of(settings)


def stage_of(context: int, **changed) -> StageSettings:
    """What stands in config.json for a stage on a run of so much context."""
    return replace(StageSettings("0" * 64, "parent", 1, 1, 100, 1, 1, [context], context), **changed)


def first_and_second(encoding: str, context: int, extension: str | None = None):
    """The settings of a first run, and of a stage on it."""
    layers = f"model.num_layers={max(2, fewest_layers(encoding_config(encoding)))}"
    first = settings_of(
        f"encoding={encoding}", "model=nano", layers, f"context={CONTEXT}", "logger=none", "eval.lengths=[1]"
    )
    second = replace(
        first, context=context, stage=stage_of(CONTEXT), extension=extension and extension_config(extension)
    )
    return first, second


def logits(model, tokens_BT: torch.Tensor, **how) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(tokens_BT, **how)


# ------------------------------------------------------------------------------------------------ where it starts


@pytest.mark.parametrize("encoding", encoding_names())
def test_without_a_step_it_is_the_parent_bit_for_bit_at_every_length(encoding):
    first, second = first_and_second(encoding, LONGER)
    parent = build_transformer(first, VOCABULARY, SEPARATORS)
    for weight in parent.encoding.parameters():
        weight.data += 0.01
    try:
        check_model(second)
    except ValueError as error:  # a table that ends
        assert f"context={LONGER}" in str(error) and parent.encoding.max_length < LONGER
        second = replace(second, context=CONTEXT)
    stage = build_transformer(second, VOCABULARY, SEPARATORS, parent.state_dict())
    for length in (7, CONTEXT, CONTEXT + 1, LONGER, 2 * LONGER):
        tokens_BT = torch.randint(VOCABULARY, (2, length))
        if parent.encoding.max_length is None or length <= parent.encoding.max_length:
            assert torch.equal(logits(stage, tokens_BT), logits(parent, tokens_BT))


@pytest.mark.parametrize("name", [name for name in extension_names() if name != "none"])
def test_without_a_step_it_is_the_parent_under_its_extension_at_test_time(name):
    """Fixed to the stage's length: shorter texts too are read under the factor that is trained with."""
    for encoding in ("rope", "alibi", "learned", "none"):
        first, second = first_and_second(encoding, LONGER, name)
        if "length" in second.extension:
            second = replace(second, context=CONTEXT, extension={**second.extension, "length": LONGER})
        parent = build_transformer(first, VOCABULARY, SEPARATORS)
        extension = build_extension(second.extension)
        if extension.needs_tuning:
            continue
        try:
            check_model(second)
        except ValueError as error:
            assert "can't be trained with here" in str(error) or "not defined beyond" in str(error)
            continue
        stage = build_transformer(second, VOCABULARY, SEPARATORS, parent.state_dict())
        assert stage.trained_length == second.trained_length
        view = extension.apply(parent.encoding, CONTEXT, second.trained_length)
        for length in (7, LONGER):
            try:
                view.check_length(length)
            except ValueError:
                continue  # a table that ends
            tokens_BT = torch.randint(VOCABULARY, (2, length))
            assert torch.equal(logits(stage, tokens_BT), logits(parent, tokens_BT, encoding=view.eval()))


def test_weights_of_another_model_are_refused():
    _, second = first_and_second("rope", LONGER)
    for other in ("model.num_layers=1", "encoding=t5"):
        weights = build_transformer(settings_of(other, "model=nano"), VOCABULARY, SEPARATORS).state_dict()
        with pytest.raises(ValueError, match="its weights don't fit this model"):
            build_transformer(second, VOCABULARY, SEPARATORS, weights)


# ------------------------------------------------------------------------------------------------ how it goes on


def test_the_rest_of_a_run_as_a_stage_ends_as_the_run_does_bit_for_bit(composed, runs, parent):
    """Schedule and optimizer taken over, from the middle: the same windows, random numbers, rates and averages."""
    follow = ["training.schedule_from=parent", "training.optimizer_from=parent"]
    settings = composed(f"init={parent.path}", "init_at=0.5", *follow, f"runs={runs}")
    assert (settings.steps, settings.training.tokens) == (10, 10240)
    train(settings)
    stage = RunFolder.of(settings)
    ours, theirs = (torch.load(checkpoints(run.checkpoints)[0], weights_only=True) for run in (stage, parent))
    for part in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(ours[part], theirs[part], rtol=0, atol=0)
    assert stage.results["rows"][0]["nats"] == parent.results["rows"][0]["nats"]
    ends = [run.curve.dropna(subset="loss").iloc[-1] for run in (stage, parent)]
    assert ends[0]["tokens"] == ends[1]["tokens"] == 20480 and ends[0]["lr"] == ends[1]["lr"]


@pytest.mark.slow
def test_the_rest_of_a_run_in_two_stages_ends_as_the_run_does_bit_for_bit(composed, runs, parent):
    follow = ["training.schedule_from=parent", "training.optimizer_from=parent", f"runs={runs}"]
    middle = composed(f"init={parent.path}", "init_at=0.5", "training.tokens=5120", *follow)
    train(middle)
    last = composed(f"init={RunFolder.of(middle).path}", *follow)
    assert (last.stage.steps, last.steps) == (15, 5)
    train(last)
    ours, theirs = (
        torch.load(checkpoints(run.checkpoints)[0], weights_only=True) for run in (RunFolder.of(last), parent)
    )
    for part in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(ours[part], theirs[part], rtol=0, atol=0)


def test_a_stage_at_a_longer_context_under_an_extension(composed, runs, parent):
    settings = composed(f"init={parent.path}", "context=128", "extension=yarn", "training.tokens=5120", f"runs={runs}")
    old = parent.settings
    assert settings.training.batch_size * settings.context == old.training.batch_size * old.context
    for group in ("data", "tokenizer", "model", "encoding", "seed", "eval"):
        assert getattr(settings, group) == getattr(old, group)
    assert settings.training.lr == pytest.approx(old.training.lr * old.training.min_lr)
    assert settings.stage.parent == parent.results["config_hash"] and settings.stage.tokens == 20480
    assert settings.run_id.startswith("rope-yarn-s0-")
    train(settings)
    folder = RunFolder.of(settings)
    both = [{(row["protocol"], row["context_length"]): row for row in run.results["rows"]} for run in (folder, parent)]
    assert both[0].keys() == both[1].keys()
    assert all(both[0][place]["targets_id"] == both[1][place]["targets_id"] for place in both[0])
    # It is whole by itself: the parent may go, and it is loaded as it was scored.
    shutil.copytree(folder.path, runs / "alone" / folder.name)
    model = load(runs / "alone" / folder.name, cache_dir=settings.cache_dir).model
    assert model.trained_length == 128 and model.shape.context == 32
    tokens_BT = torch.randint(VOCABULARY, (1, 40))
    first = build_transformer(old, model.embedding.num_embeddings, SEPARATORS)
    first.load_state_dict(model.state_dict())
    view = build_extension(extension_config("yarn")).apply(first.encoding, 32, 128)
    assert torch.equal(logits(model, tokens_BT), logits(first, tokens_BT, encoding=view))


def test_at_test_time_a_stage_is_stretched_from_the_length_that_it_was_trained_for(composed, runs, parent):
    given = ["context=128", "extension=yarn", "training.tokens=5120", f"runs={runs}"]
    settings = composed(f"init={parent.path}", *given)
    train(settings)
    trained = load(RunFolder.of(settings).path, cache_dir=settings.cache_dir)
    stream = trained.data.streams["validation"]
    scorer = Scorer(trained.model, stream, settings.eval.batch_tokens)
    own, longer = (
        extended_encoding(scorer, stream, extension_config("pi"), length, settings.eval)[0] for length in (128, 256)
    )
    assert own is trained.model.encoding
    torch.testing.assert_close(longer.frequencies(0), own.frequencies(0) / 2)


@pytest.mark.slow
def test_a_stage_on_a_stage(composed, runs, parent):
    second = composed(f"init={parent.path}", "context=64", "extension=pi", "training.tokens=2048", f"runs={runs}")
    train(second)
    third = composed(f"init={RunFolder.of(second).path}", "context=128", "training.tokens=2048", f"runs={runs}")
    assert third.extension is None and third.first_context == 32 and third.stage.contexts == [32, 64]
    assert [each["lengths"] for each in third.stage.extended] == [[32, 64]] and third.stage.tokens == 20480 + 2048
    train(third)
    trained = load(RunFolder.of(third).path, cache_dir=third.cache_dir).model
    assert trained.trained_length == 128
    plain_rope = build_transformer(parent.settings, VOCABULARY, SEPARATORS).encoding
    torch.testing.assert_close(trained.encoding.frequencies(0), plain_rope.frequencies(0) / 2)


def test_a_stage_that_breaks_off_ends_as_one_never_stopped(composed, runs, parent, monkeypatch):
    """Under drawn positions, whose draws are kept, in the midst of the parent's schedule and averages."""
    given = ["init_at=0.5", "extension=random_positions", "extension.length=128", "training.schedule_from=parent"]
    folders = []
    for place in ("whole", "broken"):
        settings = composed(f"init={parent.path}", *given, f"runs={runs / place}", "training.checkpoint_every=0.3")
        if place == "broken":
            with monkeypatch.context() as patch, pytest.raises(Killed):
                stop_at(patch, 7)
                train(settings)
        train(settings)
        folders.append(RunFolder.of(settings))
    assert_same(*reversed(folders))


@pytest.mark.slow
def test_an_extension_that_chooses_for_itself_does_so_once(composed, runs, parent, capsys):
    asked = [f"init={parent.path}", "context=64", "extension=longrope", "extension.trials=3", "training.tokens=2048"]
    settings = composed(*asked, f"runs={runs}")
    train(settings)
    assert "extension=longrope with factors=" in capsys.readouterr().out
    folder = RunFolder.of(settings)
    factors = folder.settings.stage.extension["factors"]
    assert len(factors) == settings.model.dim // settings.model.num_heads // 2
    assert folder.settings.run_id == settings.run_id == folder.name
    model = load(folder.path, cache_dir=settings.cache_dir).model
    assert model.encoding.factors_P.tolist() == factors


def test_kept_checkpoints_stay_and_name_nothing(parent, runs):
    assert checkpoint_path(parent.checkpoints, 10).exists() and len(checkpoints(parent.checkpoints)) == 3
    other = [each for each in SMALL if not each.startswith("training.keep")]
    assert run_hash(plain(settings_of(*other))) == run_hash(plain(settings_of(*SMALL)))


# ------------------------------------------------------------------------------------------------ what it is called


def test_what_an_argument_sets():
    given = ["experiment=smoke", "+training.lr=1", "encoding@encoding.inner=t5", "hydra.verbose=true", "extension=yarn"]
    keys = given_keys(given)
    assert {"model", "eval", "logger", "context", "training.tokens", "training.lr", "encoding.inner"} <= {*keys}
    assert "hydra.verbose" not in keys and "experiment" not in keys


def test_a_name_says_parent_and_share_and_nothing_of_where_the_parent_lies(composed, runs, parent):
    moved = runs / "moved" / parent.name
    shutil.copytree(parent.path, moved)
    given = ["context=64", "training.tokens=2048", f"runs={runs}"]
    here, there, half = (
        composed(f"init={path}", *given, *more)
        for path, *more in ((parent.path,), (moved,), (parent.path, "init_at=0.5"))
    )
    assert here.run_id == there.run_id != half.run_id
    rate = f"training.lr={here.training.lr}"  # so that nothing but the parent's step differs
    whole, half = (composed(f"init={parent.path}", *given, rate, f"init_at={at}").run_id for at in (1, 0.5))
    assert here.run_id == whole != half


# ------------------------------------------------------------------------------------------------ what can't follow

REFUSED = [
    ("context=16", "context=16: is below that of the parent, 32"),
    ("context=48", "1024 tokens, which are no whole number of windows of 48"),
    ("extension=yarn", "there is nothing to extend at context=32"),
    ("context=64 extension=alibi_interpolation", "extension=alibi_interpolation can't be trained with here"),
    ("extension=pose", r"extension.length=null"),
    ("extension=pose extension.length=32", r"extension.length=32: must be above the context 32"),
    ("init_at=0.25", "has no checkpoint after step 5"),
    ("init_at=0", "init_at=0"),
    ("training.schedule_from=parent", "the schedule of .* has come to its end"),
    ("training.schedule_from=mine", "training.schedule_from=mine: must be parent, or null"),
    ("tokenizer.vocab_size=400", "was trained on other data than this tokenizer"),
    ("data.max_tokens=30000", "was trained on other data than data=shakespeare"),
    ("model.num_layers=1", "its weights don't fit this model"),
    ("stage={tokens:3}", "stage: is found, not set"),
]


@pytest.mark.parametrize("given, problem", REFUSED)
def test_what_can_not_follow_is_refused_before_training(composed, runs, parent, given, problem):
    tokens = [] if "schedule_from" in given else ["training.tokens=2048"]  # which goes on as the parent's would have
    with pytest.raises(ValueError, match=problem):
        train(composed(f"init={parent.path}", *tokens, *given.split(), f"runs={runs}"))


@pytest.mark.parametrize(
    "given, problem",
    [
        ("init=nowhere", "init=nowhere: there is no run in such a folder"),
        ("extension=yarn", "extension=yarn: is for a second stage.*eval.extensions=\\[yarn\\]"),
        ("init_at=0.5", "init_at=0.5: is for a second stage"),
        ("training.optimizer_from=parent", "training.optimizer_from=parent: is for a second stage"),
        ("arm=yarn", "arm=yarn: is an arm of experiment=extend: give that too"),
        ("experiment=extend arm=parent tuning={lr:[1e-3],seed:0}", "tuning={...}: can't be chosen by trials"),
    ],
)
def test_a_stage_needs_a_parent(given, problem):
    with pytest.raises(ValueError, match=problem):
        settings_of(*given.split())


def test_a_parent_that_is_not_finished_or_another_by_now_is_refused(composed, runs, parent):
    copied = RunFolder(runs / "damaged" / parent.name)
    shutil.copytree(parent.path, copied.path)
    newest = checkpoints(copied.checkpoints)[0]
    newest.write_bytes(newest.read_bytes()[:-1])
    with pytest.raises(ValueError, match="has no checkpoint after step 20"):
        train(composed(f"init={copied.path}", "training.tokens=1024", f"runs={runs}"))
    copied.update(training=None)
    with pytest.raises(ValueError, match="has not been trained to its end"):
        composed(f"init={copied.path}", f"runs={runs}")


# ------------------------------------------------------------------------------------------------ which text is read

TEXTS = ["model=nano", "context=16", "data=text", "tokenizer=char", "training.tokens=512", "training.batch_size=8"]
TEXTS += ["eval.lengths=[1]", "eval.protocols=[non_overlapping]", "eval.probes=[]", "logger=none"]


@pytest.fixture
def uneven(tmp_path) -> str:
    """Texts of 40 and of 400 letters in turn."""
    (tmp_path / "uneven").mkdir()
    for number in range(24):
        words = [f"{chr(97 + number)}{chr(97 + place % 26)}" for place in range(200 if number % 2 else 20)]
        (tmp_path / "uneven" / f"{number:02}.txt").write_text("".join(words))
    return f"data.path={tmp_path / 'uneven'}"


@pytest.mark.slow
def test_a_longer_context_never_changes_the_text_in_silence(composed, tmp_path, uneven, capsys):
    first = composed(*TEXTS, uneven)
    train(first)
    longer = [f"init={RunFolder.of(first).path}", "context=64"]
    capsys.readouterr()
    train(composed(*longer))
    assert "warning: of the training text a longer context reads less: " in capsys.readouterr().out
    alike = composed(*TEXTS, uneven, "data.min_tokens=64")
    train(alike)
    train(composed(f"init={RunFolder.of(alike).path}", "context=64"))
    assert "warning" not in capsys.readouterr().out


@pytest.mark.parametrize("arm", ["parent", "ceiling"])
def test_arms_that_would_read_other_text_are_refused_before_training(composed, uneven, arm):
    settings = composed(*TEXTS, uneven, "experiment=extend", f"arm={arm}", "eval.extensions=[none]")
    with pytest.raises(ValueError, match=r"extend\.stretch=4: of the training text a longer context reads less"):
        train(settings)


@pytest.mark.slow
def test_an_arm_trains_the_parent_that_it_lacks_and_shares_it(program, uneven, tmp_path):
    asked = [*TEXTS, "experiment=extend", uneven, "data.min_tokens=64", "eval.extensions=[none]", "sweep=arms"]
    done = program("-m", *asked, "arm=longer,ceiling,parent,same", "seed=3", runs=tmp_path)
    assert done.returncode == 0, done.stderr
    runs = {run.name: run for run in RunFolder.all_in(tmp_path / "arms")}
    assert len(runs) == 4 and all(run.finished for run in runs.values())
    stages = [run.settings for run in runs.values() if run.settings.stage]
    (first,) = {settings.stage.run for settings in stages}
    assert {settings.context for settings in stages} == {16, 64} and runs[first].settings.context == 16
    (ceiling,) = (run.settings for run in runs.values() if not run.settings.stage and run.name != first)
    assert (ceiling.context, ceiling.training.batch_size, ceiling.training.tokens) == (64, 2, 563)
    assert ceiling.eval.context_lengths(64) == stages[0].eval.context_lengths(16) == [16]
    again = program("-m", *asked, "arm=longer,ceiling,parent,same", "seed=3", runs=tmp_path)
    assert again.stdout.count("is finished already") == 4
