"""A mix of a text and a task: which windows are whose, what names it, what is scored, what it refuses.

python -m pytest tests/test_mix.py
"""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from conf.typed import plain
from data.module import MixDataModule, TaskDataModule, TextDataModule, build_data, data_module
from data.sources import copy
from eval.record.identity import identity, settings_of
from eval.record.sample import samples
from eval.record.trained import load
from model.training.language_model import build_language_model
from tests.texts import write_texts

OF_TASK = ["symbols=8", "examples=12"]


@pytest.fixture
def command(texts, tmp_path):
    """The arguments of a small mix of the texts and copying."""
    of_task = [f"+data.changed.task.{given}" for given in OF_TASK]
    small = ["model=nano", "context=32", "training.batch_size=16", f"cache_dir={tmp_path / 'cache'}"]
    mixed = ["data=mix", "data.text=text", f"+data.changed.text.path={texts}", "data.task=copy", "tokenizer=byte"]
    return [*mixed, *of_task, *small]


@pytest.fixture
def mix(command) -> MixDataModule:
    return build_data(settings_of(*command))


@pytest.fixture
def alone(texts, tmp_path) -> tuple[TextDataModule, TaskDataModule]:
    """The text and the task, each by itself."""
    shared = ["context=32", f"cache_dir={tmp_path / 'cache'}"]
    text = settings_of("data=text", f"data.path={texts}", "tokenizer=byte", *shared)
    return build_data(text), build_data(settings_of("data=copy", *(f"data.{given}" for given in OF_TASK), *shared))


def test_a_window_is_that_of_the_text_or_that_of_the_task_alone(mix, alone):
    text, task = (data.train_windows() for data in alone)
    windows, first = mix.train_windows(), alone[0].vocab_size
    examples = 0
    for n in range(400):
        window, own = windows[n], task[n]
        of_task = torch.where(own < 0, own - first, own + first)
        is_text, is_task = torch.equal(window, text[n]), torch.equal(window, of_task)
        assert is_text != is_task
        examples += is_task
        if is_task:
            read = torch.where(window < 0, ~window, window)
            assert read.min() >= first and read.max() < mix.vocab_size
            assert torch.equal(read - first, torch.where(own < 0, ~own, own)) and torch.equal(window < 0, own < 0)
    assert binomtest(examples, 400, mix.mix.share).pvalue > 1e-3


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_so_many_windows_are_examples_as_the_share_says(command, share):
    windows = build_data(settings_of(*command, f"data.share={share}")).train_windows()
    assert binomtest(sum(map(windows.is_example, range(3000))), 3000, share).pvalue > 1e-3


def test_a_window_depends_on_the_seed_and_its_number_alone(command, mix):
    again, other = (build_data(settings_of(*command, f"seed={seed}")) for seed in (0, 1))
    one, two = mix.train_windows(), again.train_windows()
    together = one.__getitems__(range(40))
    for n in reversed(range(40)):
        assert torch.equal(two[n], together[n])
    chosen = [[data.train_windows().is_example(n) for n in range(200)] for data in (mix, other)]
    assert chosen[0] != chosen[1]


def test_a_resumed_run_goes_on_with_the_next_window(mix):
    batches = [batch for _, batch in zip(range(4), mix.train_dataloader(), strict=False)]
    mix.start_sample = 3 * 16
    assert torch.equal(next(iter(mix.train_dataloader())), batches[3])
    assert any((batch[:, 1:] < 0).any() and (batch[:, 1:] >= 0).all(dim=1).any() for batch in batches)  # both at once


def test_what_is_held_out_is_text(mix, alone):
    text, task = alone
    for split in ("train", "validation", "test"):
        np.testing.assert_array_equal(mix.streams[split].tokens, text.streams[split].tokens)
    own, other = (torch.cat(list(data.val_dataloader())) for data in (mix, text))
    assert torch.equal(own, other) and own.min() >= 0
    np.testing.assert_array_equal(mix.examples("test", 9), text.vocab_size + task.examples("test", 9))
    assert mix.vocab_size == text.vocab_size + task.vocab_size
    assert (mix.name, mix.task_name, mix.longest) == ("mix", "copy", task.longest) == ("mix", task.task_name, 15)
    assert text.task_name is None


def test_the_loss_is_the_mean_over_text_and_answers(command, mix):
    settings = settings_of(*command)
    module = build_language_model(settings, mix.vocab_size, mix.separators)
    batch = next(iter(mix.train_dataloader()))
    tokens, predicted = torch.where(batch < 0, ~batch, batch), batch[:, 1:] >= 0
    logits = torch.log_softmax(module.transformer(tokens[:, :-1]), -1)
    by_hand = -logits.gather(-1, tokens[:, 1:, None])[..., 0][predicted].mean()
    torch.testing.assert_close(module.training_step(batch, 0), by_hand)


class Answering(torch.nn.Module):
    """In a transformer's place: says the task's last symbol to everything."""

    def __init__(self, vocab_size):
        super().__init__()
        self.embedding = torch.nn.Embedding(vocab_size, 1)
        self.encoding = SimpleNamespace(prefix_consistent=False)

    def forward(self, tokens_BT, past):
        return torch.arange(len(self.embedding.weight)).expand(*tokens_BT.shape, -1)


def test_a_sample_of_text_leaves_out_what_is_no_text(mix):
    said = samples(Answering(mix.vocab_size), mix, 32)
    assert said and all(each["prompt"] and each["text"] == "" for each in said)


def test_both_parts_are_in_its_hashes(command, mix, texts):
    for changed in (["data.task=reverse"], ["+data.changed.task.symbols=9"]):
        other = build_data(settings_of(*[given for given in command if "symbols" not in given], *changed))
        assert other.corpus_hash != mix.corpus_hash and other.tokenizer_hash != mix.tokenizer_hash
    (texts / "00.txt").write_text("something else " * 40)
    other = build_data(settings_of(*command))
    assert other.corpus_hash != mix.corpus_hash and other.tokenizer_hash == mix.tokenizer_hash


def test_a_run_is_named_by_both_parts_and_by_the_share(command, texts, tmp_path):
    def named(*changed):
        return identity(plain(settings_of(*command, *changed)))

    before = named()
    assert named() == before and named("data.share=0.25") == before
    assert named("data.share=0.3")["settings"] != before["settings"]
    for changed in (["+data.changed.task.validation_windows=3"], ["+data.changed.text.max_tokens=1000"]):
        assert named(*changed)["settings"] != before["settings"]
    assert named("data.task=flip_flop", "~data.changed.task.symbols")["source"] != before["source"]
    alone = settings_of("data=copy", "data.symbols=8", "data.examples=12")
    assert named()["source"] == identity(plain(alone))["source"]
    (texts / "00.txt").write_text("something else")
    assert named()["files"] != before["files"] and named()["settings"] == before["settings"]


def test_what_is_changed_to_what_it_was_names_no_other_run():
    assert settings_of("data=mix", "+data.changed.task.pairs=3").run_id == settings_of("data=mix").run_id
    assert settings_of("data=mix", "+data.changed.task.pairs=2").run_id != settings_of("data=mix").run_id


def test_what_it_is_made_of_stands_in_its_settings_in_full():
    settings = settings_of("data=mix", "data.task=copy", "+data.changed.task.symbols=8").data["settings"]
    assert settings["task"] == settings_of("data=copy", "data.symbols=8").data
    assert settings["text"] == settings_of("data=shakespeare").data


def test_a_tasks_source_is_read_as_it_is_for_a_task_alone(monkeypatch):
    monkeypatch.setattr("conf.source._code", lambda path: path.name)
    with_copy, with_sort = (identity(plain(settings_of("data=mix", f"data.task={name}"))) for name in ("copy", "sort"))
    assert with_copy["source"] != with_sort["source"] and copy.Source.__module__ == "data.sources.copy"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("data.share=0", r"^data\.share=0\.0: a share of the training windows, must lie in \(0, 1\)"),
        ("data.share=1", r"^data\.share=1\.0: a share"),
        ("data.share=nan", r"^data\.share=nan"),
        ("data.share=half", r"^data\.share='half'"),
        ("data.task=juggling", r"^data\.task=juggling: must be one of addition, .*copy"),
        ("data.task=shakespeare", r"^data\.task=shakespeare: must be one of addition"),
        ("data.text=copy", r"^data\.text=copy: must be one of .*shakespeare"),
        ("data.text=mix", r"^data\.text=mix: must be one of"),
        ("data.text=text", r"^data\.changed\.text\.path: needs a value: \+data\.changed\.text\.path=VALUE"),
        ("+data.changed.task.pairs=0", r"^data\.changed\.task\.pairs=0: at least 1"),
        ("+data.changed.task.pears=3", r"^data\.changed\.task\.pears: there is no such setting; .*pairs"),
        ("+data.changed.task.examples=0", r"^data\.changed\.task\.examples=0: must be at least 1"),
        ("+data.changed.text.max_tokens=1", r"^data\.changed\.text\.max_tokens=1: leaves nothing"),
        ("data.changed=3", r"^data\.changed=3: must be settings of the text and of the task"),
        ("+data.changed.tusk={pairs: 3}", r"^data\.changed=.*tusk.*: must be settings of the text and of the task"),
        ("+data.pairs=3", r"^data\.pairs: there is no such setting of a mix; .*\+data\.changed\.task\.pairs=VALUE"),
        ("data.settings={text:{name:pg19},task:{}}", r"^data\.text=shakespeare: data\.settings are those of another"),
        ("data.settings=3", r"^data\.settings=3: comes of the settings beside it"),
        ("context=8", "^context=8: the shortest example takes 14 tokens"),
        ("training.context_schedule.kind=warmup", "kind=warmup: would take the examples of data=mix apart"),
        ("tokenizer.name=none", "^tokenizer.name='none' is unknown"),
    ],
)
def test_what_cannot_be_mixed_is_refused_by_its_setting(given, message):
    with pytest.raises(ValueError, match=message):
        data_module(settings_of("data=mix", given))


def test_what_the_text_cannot_be_read_by_is_refused_by_its_setting(command):
    data = build_data(settings_of(*command, "+data.changed.text.min_tokens=999999"))
    for read in (data.train_windows, data.describe, data.val_dataloader):
        with pytest.raises(ValueError, match=r"^data\.changed\.text\.min_tokens=999999: no document"):
            read()


@pytest.fixture(scope="module")
def trained(program, tmp_path_factory):
    """The folder of a mix that was trained for a few steps, and its command."""
    folder = tmp_path_factory.mktemp("mix")
    arguments = ["experiment=smoke", "data=mix", "data.text=text", f"+data.changed.text.path={folder / 'texts'}"]
    arguments += ["data.task=copy", "+data.changed.task.examples=8", "tokenizer=byte", "training.tokens=4096"]
    arguments += ["eval.lengths=[1,2]", "eval.probes=[]"]
    write_texts(folder / "texts")
    done = program(*arguments, runs=folder / "runs")
    assert done.returncode == 0, done.stderr
    return next((folder / "runs").glob("rope-s0-*")), arguments, done.stdout


def test_a_mix_is_scored_for_its_text_and_asked_its_task(trained):
    folder, _, said = trained
    assert "25 % of the training windows are examples of copy, at lengths 1 to 15" in said
    results = json.loads((folder / "results.json").read_text())
    assert [(row["length"], row["examples"], row["status"]) for row in results["tasks"]] == [
        (15, 8, "ok"),
        (30, 8, "ok"),
    ]
    rows = [row for row in results["rows"] if "control" not in row and row["status"] == "ok"]
    assert {row["context_length"] for row in rows} == {32, 64} and all(row["bits_per_byte"] > 0 for row in rows)


def test_a_trained_mix_is_loaded_with_its_tokenizer(trained):
    found = load(trained[0])
    assert isinstance(found.data, MixDataModule)
    assert found.decode(found.encode("The sun")[0]) == "The sun"
    assert found.model(found.encode("The sun")).shape[-1] == found.data.vocab_size


@pytest.mark.slow
def test_a_stage_goes_on_with_a_mix_at_a_longer_context(trained, program):
    folder, arguments, _ = trained
    stage = [f"init={folder}", "context=64", "extension=pi", "training.tokens=2048"]
    done = program(*stage, runs=folder.parent)
    assert done.returncode == 0, done.stderr
    own = json.loads((next(folder.parent.glob("rope-pi-*")) / "results.json").read_text())
    assert own["corpus_hash"] == json.loads((folder / "results.json").read_text())["corpus_hash"]
    other = program(*stage, "data=mix", "data.task=reverse", *arguments[2:4], runs=folder.parent)
    assert other.returncode == 1 and "was trained on other data than data=mix (corpus_hash)" in other.stderr
