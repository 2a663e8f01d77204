"""What goes wrong ends in one clear sentence, or in a right result: never in a traceback or a wrong number.

python -m pytest tests/test_faults.py            # 200 malformed settings and texts among them
python -m pytest tests/test_faults.py -m slow    # a line of 100 MB
"""

import math
import shutil
import subprocess
import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from conf.mistakes import one_sentence
from conf.schema import Settings
from conf.typed import plain, typed
from data.module import build_data
from eval.measure.measurement import Measurement
from eval.measure.protocols import plan
from eval.measure.scoring import Scorer
from eval.record.files import read_json, write_json
from eval.record.folder import RunFolder
from eval.record.identity import settings_of
from eval.record.jobs import MISTAKES
from eval.record.tracking import Tracker, track_run
from model.build import check_model
from model.training.checkpoint import AtomicCheckpointIO, checkpoint_step, load_weights, newest
from model.training.language_model import DivergedError, LanguageModel, build_language_model
from model.training.meter import Meter
from model.training.trainer import build_trainer
from tests.small import CONTEXT, small_model, small_stream
from tests.synthetic import make_run
from train import train

SMOKE = ["experiment=smoke", "training.tokens=2048", "eval.windows=12", "eval.targets=8"]
PLAIN = ["model=nano", "eval=smoke", "logger=none", "data=text", "tokenizer=byte", "context=8"]
PLAIN += ["eval.lengths=[1,2]", "eval.windows=4", "eval.targets=4"]


def first_step(run: Settings) -> float:
    """Everything of a run up to the loss of its first batch."""
    check_model(run)
    data = build_data(run)
    Measurement(run.eval, data, run.context)
    model = build_language_model(run, data.vocab_size, data.separators)
    build_trainer(run, RunFolder(run.runs).path, Meter(run))
    losses, predicted = model.token_losses(next(iter(data.train_dataloader())))
    return float(losses.detach().sum() / predicted.sum())


# Values that users type where others are meant, and the settings that take them.
VALUES = ["0", "1", "-1", "2", "3", "7", "100", "1e-3", "0.5", "1.5", "-0.5", "1e30", ".inf", ".nan", "null", "true"]
VALUES += ["abc", "''", "[]", "[1]", "[0]", "[-1]", "[1,2]", "[abc]", "[null]", "{a:1}", "1e400", "'3'"]
KEYS = ["seed", "context", "trainer.devices", "trainer.num_nodes", "trainer.precision", "trainer.accelerator"]
KEYS += [
    "trainer.strategy",
    "trainer.threads",
    "tokenizer.vocab_size",
    "data.cross_documents",
    "data.validation_windows",
]
KEYS += [f"model.{key}" for key in ("dim", "num_heads", "num_layers", "dropout")]
KEYS += [
    f"training.{key}"
    for key in (
        *("tokens", "batch_size", "accumulate", "lr", "min_lr", "warmup", "schedule", "weight_decay", "betas", "clip"),
        *("encoding_lr", "log_every", "validate_every", "checkpoint_every"),
    )
]
KEYS += [
    f"eval.{key}"
    for key in (
        *("lengths", "protocols", "split", "targets", "windows", "tokens", "stride", "cross_documents", "batch_tokens"),
        *("precision", "extensions", "controls", "probes"),
    )
]
KEYS += ["encoding.base", "encoding.fraction", "encoding._target_", "encoding.name"]


def changed_by(run: Settings, changes: dict[str, str]) -> Settings:
    """Settings with values typed for some of them, as YAML reads them; quicker than to compose them again."""
    given = OmegaConf.from_dotlist([f"{key}={value}" for key, value in changes.items()])
    return typed(Settings, OmegaConf.to_container(OmegaConf.merge(plain(run), given), resolve=True))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A text of 30 documents of random words."""
    folder = tmp_path_factory.mktemp("corpus")
    chance = np.random.default_rng(0)
    for number in range(30):
        words = chance.choice(["to", "be", "or", "not", "that", "is", "the", "question"], 2000)
        (folder / f"{number}.txt").write_text(" ".join(words))
    return folder


@pytest.fixture
def usual(composed, corpus) -> Settings:
    return composed("experiment=smoke", "data=text", f"data.path={corpus}")


@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES), min_size=1, max_size=2))
def test_malformed_settings_end_in_a_clear_error_or_a_finite_loss(usual, changed):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loss = first_step(changed_by(usual, changed))
    except MISTAKES as error:
        assert len(one_sentence(error)) > 10
    else:
        assert math.isfinite(loss)


def test_settings_and_texts_that_are_not_malformed_give_a_finite_loss(composed, corpus, usual):
    assert math.isfinite(first_step(usual))
    assert math.isfinite(first_step(composed(*PLAIN, f"data.path={corpus}")))


TEXTS = {
    "no text": b"",
    "blanks": b" \n\n\t ",
    "one word": b"".join(b"a %d\n" % n for n in range(2000)),
    "one token": b"a",
    "a NUL byte": b"abc\0def" * 300,
    "invalid UTF-8": b"caf\xe9 " * 500,
    "half a character": "é".encode()[:1],
    "a byte order mark": b"\xef\xbb\xbf" + b"to be or not to be\n" * 300,
    "old line ends": b"to be\r\nor not\rto be\n" * 300,
    "no line end": b"x y " * 4000,
    "four bytes a character": "\U0001f600\U0001f3ad ".encode() * 600,
    "combining marks": "e\u0301\u200d\u202e".encode() * 800,
    "separators in the text": b"<|endoftext|> [SEP] </s> <s>" * 300,
}


@pytest.mark.parametrize("name", TEXTS)
def test_an_odd_text_ends_in_a_clear_error_or_a_finite_loss(composed, tmp_path, name):
    (tmp_path / "odd.txt").write_bytes(TEXTS[name])
    try:
        assert math.isfinite(first_step(composed(*PLAIN, f"data.path={tmp_path}/odd.txt")))
    except MISTAKES as error:
        assert len(one_sentence(error)) > 10
        assert name != "one word"  # which is a text


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.binary(max_size=400) | st.text(max_size=400).map(lambda t: t.encode("utf-8", "replace")), max_size=5)
)
def test_random_files_end_in_a_clear_error_or_a_finite_loss(usual, tmp_path, files):
    folder = tmp_path / "texts"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for number, content in enumerate(files):
        (folder / f"{number}.txt").write_bytes(content)
    try:
        assert math.isfinite(first_step(changed_by(usual, {"data.path": str(folder)})))
    except MISTAKES as error:
        assert len(one_sentence(error)) > 10


@pytest.mark.slow
def test_a_line_of_100_megabytes_is_read(composed, tmp_path):
    words = np.random.default_rng(0).choice([b"to", b"be", b"or", b"not"], 1 << 20)
    (tmp_path / "line.txt").write_bytes((b" ".join(words) * 30)[:100_000_000])
    run = composed(*PLAIN, f"data.path={tmp_path}/line.txt")
    assert math.isfinite(first_step(run))
    streams = build_data(run).streams.values()
    assert sum(int(stream.token_bytes.sum(dtype=np.int64)) for stream in streams) == 100_000_000


def losses_that_break_at(step):
    whole = LanguageModel.token_losses

    def breaking(self, batch):
        losses, predicted = whole(self, batch)
        return (losses * float("nan") if self.training and self.global_step >= step else losses), predicted

    return breaking


def test_a_loss_that_is_nan_from_the_start_is_laid_to_the_encoding_and_not_to_the_learning_rate(composed, monkeypatch):
    monkeypatch.setattr(LanguageModel, "token_losses", losses_that_break_at(0))
    with pytest.raises(DivergedError, match=r"not finite at step 0: .*the encoding RoPE") as error:
        train(composed(*SMOKE))
    assert "training." not in str(error.value)


def test_a_loss_that_becomes_nan_ends_the_run_with_its_step(composed, monkeypatch):

    monkeypatch.setattr(LanguageModel, "token_losses", losses_that_break_at(1))
    run = composed(*SMOKE, "training.checkpoint_every=1")
    with pytest.raises(DivergedError, match=r"not finite at step 1: lower training\.lr"):
        train(run)
    folder = RunFolder.of(run)
    assert folder.status["state"] == "failed"
    assert newest(folder.checkpoints) is None  # a broken model is not saved


def gradient_that_breaks_at(step):
    """One that is not finite, of a loss that is."""
    whole = LanguageModel.on_before_optimizer_step

    def breaking(self, optimizer):
        whole(self, optimizer)
        if self.global_step == step:
            next(self.parameters()).grad.fill_(math.nan)

    return breaking


@pytest.mark.parametrize("step", [40, 58])
def test_weights_that_are_not_finite_are_never_saved_and_the_step_before_is_named(composed, monkeypatch, step):
    monkeypatch.setattr(LanguageModel, "on_before_optimizer_step", gradient_that_breaks_at(step))
    run = composed("experiment=smoke", "training.checkpoint_every=0.02", "training.log_every=1000")
    with pytest.raises(DivergedError, match=f"not finite after step {step + 1}, .* checkpoint of step {step} .*lower"):
        train(run)
    folder = RunFolder.of(run)
    assert checkpoint_step(newest(folder.checkpoints)) == step and folder.status["diverged"]
    assert all(weight.isfinite().all() for weight in load_weights(newest(folder.checkpoints)).values())


def test_a_validation_that_is_not_finite_is_recorded_as_no_number(composed, monkeypatch):
    def broken(self, batch, index):
        self.validation_sum += math.nan
        self.validation_tokens += 1

    monkeypatch.setattr(LanguageModel, "validation_step", broken)
    run = composed(*SMOKE)
    train(run)
    folder = RunFolder.of(run)
    assert folder.finished and folder.results["training"]["val_loss"] is None and folder.faults() == []


def test_settings_that_no_longer_can_be_read_are_a_fault_where_they_are_no_part_of_the_runs_name(tmp_path):
    run = make_run(tmp_path, "rope")
    write_json(run.path / "config.json", {**run.config, "logger": 5})
    (fault,) = run.faults()
    assert fault.path.name == "config.json" and "logger" in str(fault)


def no_primitive(*args, **kwargs):
    raise RuntimeError("could not create a primitive")


def test_memory_that_runs_out_while_the_model_is_built_names_its_sizes(composed, monkeypatch):
    monkeypatch.setattr("model.build.build_encoding", cannot_allocate)
    with pytest.raises(MemoryError, match=r"with context=32, .*encoding\.base=10000"):
        check_model(composed(*SMOKE))


def test_memory_that_runs_out_inside_onednn_is_said_to_have_run_out(composed, monkeypatch):
    monkeypatch.setattr(LanguageModel, "token_losses", no_primitive)
    with pytest.raises(MemoryError, match=r"raise training\.accumulate"):
        train(composed(*SMOKE))


def test_an_error_is_said_even_where_what_was_begun_cannot_be_cleared_away(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("os.replace", refuse)
    monkeypatch.setattr("pathlib.Path.unlink", refuse)
    with pytest.raises(OSError, match=r"a\.json could not be written: Read-only file system"):
        write_json(tmp_path / "a.json", {})


def test_what_ended_a_run_is_said_even_where_it_cannot_be_recorded(composed, tmp_path, monkeypatch):
    folder, run = RunFolder(tmp_path), composed(*SMOKE)

    def refuse(state, **more):
        raise OSError("the disk is read-only")

    warns, raises = pytest.warns(UserWarning, match="is not recorded"), pytest.raises(ValueError, match="the first")
    with warns, raises, folder.recording(run, "all"):
        monkeypatch.setattr(folder, "set_status", refuse)
        raise ValueError("the first")


def cannot_allocate(*args, **kwargs):
    raise RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: you tried to ...")


def test_out_of_memory_in_training_names_batch_and_context(composed, monkeypatch):
    monkeypatch.setattr(LanguageModel, "token_losses", cannot_allocate)
    with pytest.raises(MemoryError, match=r"batch_size=32.*context=32.*raise training\.accumulate"):
        train(composed(*SMOKE))


def test_another_error_in_training_is_not_called_out_of_memory(composed, monkeypatch):
    def fail(self, batch):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(LanguageModel, "token_losses", fail)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        train(composed(*SMOKE))


@pytest.mark.parametrize("error", [cannot_allocate, torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_evaluation_out_of_memory_halves_its_batch_and_ends_with_the_same_losses(monkeypatch, error):
    model, stream = small_model("rope"), small_stream(30, 40)
    evaluation = settings_of(f"eval.batch_tokens={8 * CONTEXT}", "eval.tokens=null").eval
    windows = plan("non_overlapping", stream, CONTEXT, [CONTEXT], evaluation)
    asked, scored = stream.tokens[: 6 * (CONTEXT + 1)].reshape(6, -1).astype(np.int64), np.arange(CONTEXT + 1) > 5

    def losses(scorer):
        yield scorer.score([windows])[0]
        yield from scorer.answers(asked, scored)

    expected = list(losses(Scorer(model, stream, evaluation.batch_tokens)))
    for name in ("_batch", "_answers"):
        own = getattr(Scorer, name)

        def small_memory(self, batch, own=own, **others):
            if len(batch) > 2:
                error() if callable(error) else (_ for _ in ()).throw(error)
            return own(self, batch, **others)

        monkeypatch.setattr(Scorer, name, small_memory)
    for place, wanted in enumerate(expected):
        scorer = Scorer(model, stream, evaluation.batch_tokens)
        with pytest.warns(UserWarning, match="halved"):
            found = list(losses(scorer))[place]
        assert scorer.batch_tokens <= 2 * CONTEXT
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


class BrokenRun:
    """A W&B run that dies after a few points."""

    def __init__(self, points: int):
        self.points, self.summary = points, {}

    def log(self, values, step=None):
        self.points -= 1
        if self.points < 0:
            raise ConnectionError("the service is gone")


def test_wandb_dying_in_mid_run_is_reported_once_and_left_alone():
    tracker = Tracker(BrokenRun(2))
    point = {"step": 1, "tokens": 1, "loss": 1.0}
    tracker.log_point(point)
    tracker.log_point(point)
    with pytest.warns(UserWarning, match="W&B failed.*the run goes on"):
        tracker.log_point(point)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tracker.log_point(point)
        tracker.summarise({"loss": 1.0})


def test_wandb_that_cannot_start_does_not_stop_a_run(composed, monkeypatch):
    import wandb

    def refuse(*args, **kwargs):
        raise wandb.errors.CommError("no answer")

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(wandb, "init", refuse)
    run = composed(*SMOKE, "logger=auto")
    with pytest.warns(UserWarning, match="could not start.*the run goes on"), track_run(run) as tracker:
        tracker.log_point({"step": 1, "tokens": 1, "loss": 1.0})


@pytest.fixture
def full_disk(tmp_path):
    """A folder on a file system of 256 kB."""
    folder = tmp_path / "full"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("a file system can't be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_ends_the_run_in_one_sentence_and_keeps_what_was_written(composed, full_disk):
    run = composed(*SMOKE, f"runs={full_disk}")
    with pytest.raises(OSError, match=r"could not be written.*make room"):
        train(run)
    folder = RunFolder.of(run)
    assert folder.path.parent == full_disk and folder.settings.seed == 0
    assert newest(folder.checkpoints) is None
    assert not list(folder.checkpoints.glob("*.partial"))


def test_a_file_is_whole_or_as_it_was_where_the_disk_is_full(full_disk):
    write_json(full_disk / "a.json", {"whole": 1})
    with pytest.raises(OSError, match=r"a\.json could not be written.*unchanged"):
        write_json(full_disk / "a.json", {"long": "x" * 300_000})
    assert read_json(full_disk / "a.json") == {"whole": 1}
    with pytest.raises(OSError, match=r"step-1\.ckpt could not be written"):
        AtomicCheckpointIO().save_checkpoint({"weights": torch.zeros(100_000)}, full_disk / "step-1.ckpt")
    assert sorted(path.name for path in full_disk.iterdir()) == ["a.json"]


def test_a_folder_that_cannot_be_written_ends_in_one_sentence(composed, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"can't be written.*set runs to another folder"):
        train(composed(*SMOKE, f"runs={tmp_path}/file/runs"))
