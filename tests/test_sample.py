"""`python -m scripts.sample`, and what it stands on: a run's folder is all that writing takes; the text is the model's.

python -m pytest tests/test_sample.py
"""

import itertools
import math
import re
import shutil

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from conf.typed import plain
from data.inputs import UNREADABLE, input_hash
from data.module import TaskDataModule, data_module
from data.recipe import build_recipe
from eval.record.files import write_json
from eval.record.folder import RunFolder
from eval.record.identity import settings_of
from eval.record.sample import Choice, chooser, drawn, go_on
from eval.record.trained import load
from model.build import build_transformer
from model.training.checkpoint import SCHEMA, AtomicCheckpointIO
from scripts.sample import beside, main
from tests.synthetic import facts

CONTEXT = 16
SMALL = ["model=nano", "tokenizer=byte", "logger=none", "training.tokens=2048", f"context={CONTEXT}"]
LONG = Choice(tokens=40, seed=3)


def make_run(path, *arguments, data=("data=text", "data.path=nowhere")) -> RunFolder:
    """A run of random weights, as if it had been trained on a text that is gone."""
    settings = settings_of(*SMALL, *data, *arguments)
    folder, module = RunFolder(path / settings.run_id), data_module(settings)
    tokenizer = None if isinstance(module, TaskDataModule) else build_recipe(settings.tokenizer).build([])
    folder.path.mkdir(parents=True)
    if tokenizer:
        tokenizer.save(folder.path / "made.json")
        module.know(folder.path / "made.json")
    model = build_transformer(settings, module.vocab_size, module.separators)
    weights = {f"transformer.{name}": weight for name, weight in model.state_dict().items()}
    last = folder.checkpoints / f"step-{settings.steps:09d}.ckpt"
    AtomicCheckpointIO().save_checkpoint({"state_dict": weights, "trainshort_schema": SCHEMA}, last)
    write_json(folder.path / "config.json", plain(settings))
    files = input_hash(settings.data, settings.tokenizer)
    known = {} if files == UNREADABLE else {"identity": {"files": files}, "corpus_hash": module.corpus_hash}
    folder.update(**facts(plain(settings), settings.seed) | {"tokenizer_hash": module.tokenizer_hash} | known)
    folder.set_status("finished")
    folder.keep_tokenizer(tokenizer)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A sweep of three encodings, and the run of a task beside it."""
    path = tmp_path_factory.mktemp("sample")
    sweep = {name: make_run(path / "sweep", f"encoding={name}") for name in ("rope", "learned", "randomized")}
    task = make_run(path, "tokenizer=none", data=("data=copy", "data.symbols=8"))
    return {"sweep": path / "sweep", "task": task, **sweep}


@pytest.fixture
def trained(runs):
    return load(runs["rope"].path)


def text(found):
    return found.prompt + found.text + found.beyond


# ------------------------------------------------------------------------------------------------------ what is written


@pytest.mark.parametrize("name", ["rope", "randomized"])
def test_greedy_text_is_that_of_whole_passes_from_the_prompt_on_past_the_training_context(runs, name):
    trained = load(runs[name].path)
    assert trained.model.double().encoding.prefix_consistent == (name == "rope")
    tokens_1T, text_ids = trained.encode("To be"), torch.tensor(trained.tokenizer.text_ids)
    while tokens_1T.shape[1] < 6 + LONG.tokens:
        best = text_ids[trained.model(tokens_1T)[0, -1, text_ids].argmax()]
        tokens_1T = torch.cat([tokens_1T, best[None, None]], dim=1)
    found = go_on(trained, "To be", Choice(tokens=LONG.tokens, temperature=0))
    assert text(found) == trained.decode(tokens_1T[0]) and found.stopped is None
    assert tokens_1T.shape[1] > 2 * CONTEXT and found.prompt == "To be"


def test_the_same_seed_writes_the_same_and_another_seed_another_text(trained):
    found = go_on(trained, "To be", LONG)
    assert found == go_on(trained, "To be", LONG) != go_on(trained, "To be", Choice(tokens=40, seed=4))
    likeliest = go_on(trained, "To be", Choice(tokens=40, temperature=0))
    assert go_on(trained, "To be", Choice(tokens=40, top_k=1, seed=4)) == likeliest != found


def test_what_lies_beyond_the_training_context_is_told_apart_also_within_a_character(trained, monkeypatch):
    written = [*"é".encode() * 20]
    monkeypatch.setattr("eval.record.sample.drawn", lambda *arguments: itertools.cycle(written))
    for prompt in ("", "a", "ab", "a prompt that is longer than the context"):
        found = go_on(trained, prompt, Choice(tokens=40))
        assert text(found) == prompt + 20 * "é" and found.prompt == prompt
        within = max(0, CONTEXT - 1 - len(prompt))  # the token that opens the document comes first
        assert found.text == within // 2 * "é"


def test_a_text_ends_with_the_reason_where_the_encoding_is_not_defined_further(runs):
    trained = load(runs["learned"].path)
    found = go_on(trained, "To be", LONG)
    assert "not defined beyond 16 tokens (asked for 17)" in found.stopped
    tokens = drawn(trained.model, trained.encode("To be"), lambda logits_V: 65)
    for _ in range(CONTEXT - 5):  # after the last token of the table, one still comes
        assert next(tokens) == 65
    with pytest.raises(ValueError, match="asked for 17"):
        next(tokens)
    with pytest.raises(ValueError, match="not defined beyond 16 tokens"):
        go_on(trained, "a prompt that is longer than the table")


def test_a_text_ends_with_the_reason_where_the_model_breaks_down(trained):
    with torch.no_grad():
        trained.model.norm.weight.fill_(math.nan)
    assert go_on(trained, "To be", LONG).stopped == "the model's logits are not finite at this length"


# ------------------------------------------------------------------------------------------------------------- choosing


def shares(choice, logits_V, text_V, draws=1500):
    choose = chooser(choice, text_V)
    return np.bincount([choose(logits_V) for _ in range(draws)], minlength=len(logits_V))


@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, None), (0.5, None), (2.0, 3), (0.8, 99)])
def test_tokens_come_as_often_as_the_tempered_softmax_says(temperature, top_k):
    logits_V, text_V = torch.tensor([9.0, 1.0, 0.5, 0.2, -1.0]), torch.tensor([False, True, True, True, True])
    found = shares(Choice(temperature=temperature, top_k=top_k), logits_V, text_V)
    kept = logits_V[1:][: top_k or 4].double()
    expected = (torch.softmax(kept / temperature, 0) * found.sum()).numpy()
    assert found[0] == 0 and not found[1 + len(kept) :].any()
    assert chisquare(found[1 : 1 + len(kept)], expected).pvalue > 1e-4


@pytest.mark.parametrize("temperature", [0, 1e-320, 0.8, 1e300])
def test_no_temperature_lets_anything_but_text_come(temperature):
    logits_V, text_V = torch.tensor([1e30, 2.0, 1.0]), torch.tensor([False, True, True])
    found = shares(Choice(temperature=temperature), logits_V, text_V, draws=50)
    assert found[0] == 0 and (found[1] == 50) == (temperature < 0.8)


def test_what_stands_for_text_is_neither_the_separator_nor_special_nor_unknown(trained):
    assert trained.tokenizer.text_ids == [*range(256)]
    char = build_recipe({"name": "char"}).build([type("D", (), {"text": "abc"})])
    assert [char.decode([token]) for token in char.text_ids] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tokens": 0}, "tokens=0: must be at least 1"),
        ({"temperature": -1.0}, "temperature=-1.0: must be 0"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"temperature": math.inf}, "temperature=inf"),
        ({"top_k": 0}, "top_k=0: must be at least 1"),
        ({"seed": -1}, "seed=-1: must lie in"),
        ({"seed": 2**63}, "seed=9223372036854775808"),
    ],
)
def test_a_choice_that_cannot_be_is_refused_by_its_name(given, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        Choice(**given)


# -------------------------------------------------------------------------------------------------- the run's tokenizer


def test_the_folder_alone_is_enough_to_read_and_write_and_the_data_are_asked_for_when_they_are_used(runs, tmp_path):
    folder = RunFolder(shutil.copytree(runs["rope"].path, tmp_path / "run"))
    trained = load(folder.path)
    assert trained.decode(trained.encode("a café")[0]) == "a café"
    with pytest.raises(ValueError, match=r"trained on files that are not here.*data\.path=nowhere"):
        trained.data  # noqa: B018
    (folder.path / "tokenizer.json").unlink()  # as in a run of an earlier version
    with pytest.raises(ValueError, match=r"trained on files that are not here.*data\.path=nowhere"):
        load(folder.path)


def test_a_run_without_a_tokenizer_takes_that_of_its_data(texts, tmp_path):
    data = ("data=text", f"data.path={texts}", f"cache_dir={tmp_path / 'cache'}")
    folder = make_run(tmp_path, data=data)
    (folder.path / "tokenizer.json").unlink()
    trained = load(folder.path, cache_dir=str(tmp_path / "cache"))
    assert trained.decode(trained.encode("To be")[0]) == "To be" and trained.data.streams


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff"])
def test_a_tokenizer_that_is_not_the_runs_is_not_used(runs, tmp_path, content):
    folder = RunFolder(shutil.copytree(runs["rope"].path, tmp_path / "run"))
    (folder.path / "tokenizer.json").write_bytes(content)
    assert "tokenizer.json" in [fault.path.name for fault in folder.faults()]
    with pytest.raises(ValueError, match=r"tokenizer\.json is damaged .*give the run's own command again"):
        load(folder.path)


# ---------------------------------------------------------------------------------------------------------- the command


def test_runs_write_one_after_the_other_each_under_its_name(runs, capsys):
    names = [runs[name].name for name in ("rope", "learned")]
    asked = ["prompt=To be", "tokens=24", "seed=1"]
    main([f"run={runs['rope'].path},{runs['learned'].path}", *asked])
    first, _, second = capsys.readouterr().out.partition("\n\n==")
    for name, said in zip(names, (first, second), strict=True):
        assert f"{name}, trained at 16 tokens\nTo be" in said
    assert "\n-- beyond 16 tokens\n" in first and "-- ended: " not in first
    assert re.search(r"\n-- ended: \w+ is not defined beyond 16 tokens", second)
    main([f"run={runs['rope'].path}", *asked])
    assert capsys.readouterr().out.rstrip("\n") == first.rstrip("\n")


def test_a_sweep_stands_for_its_runs(runs, capsys):
    main([f"run={runs['sweep']}", "tokens=4", "temperature=0", "top_k=5"])
    out = capsys.readouterr().out
    assert all(f"== {runs[name].name}, " in out for name in ("rope", "learned", "randomized"))


def test_a_run_that_cannot_write_is_named_and_the_others_write(runs, capsys):
    with pytest.raises(ValueError, match=f"1 of 2 runs wrote nothing: {runs['task'].name}"):
        main([f"run={runs['task'].path},{runs['rope'].path}", "tokens=4"])
    said = capsys.readouterr()
    assert f"{runs['task'].name}: data=copy is a task: it has no tokenizer" in said.err
    assert runs["rope"].name in said.out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "usage: python -m scripts.sample run=DIR"),
        (["run="], "usage"),
        (["run={run}", "length=3"], "usage"),
        (["{run}"], "usage"),
        (["run={run}", "run={run}"], "run= is given twice"),
        (["run=nowhere"], "nowhere is not the folder of a run or a sweep"),
        (["run={run}", "tokens=many"], "tokens=many: must be a number"),
        (["run={run}", "tokens=1.5"], r"tokens=1\.5: must be a number"),
        (["run={run}", "temperature=-1"], "temperature=-1.0: must be 0"),
        (["run={run}", "prompt=\udcff"], "the text: the text holds a lone surrogate"),
        (["run={task}"], "data=copy is a task"),
    ],
)
def test_a_mistake_is_answered_in_a_sentence(runs, given, message):
    with pytest.raises(ValueError, match=message):
        main([each.format(run=runs["rope"].path, task=runs["task"].path) for each in given])


def test_texts_stand_in_columns_where_there_is_room():
    texts = ["== one\n" + "word " * 20 + "\n\nend", "== two\nshort"]
    assert beside(texts, 74) == "\n\n".join(texts) == beside(texts, 0)
    lines = beside(texts, 80).splitlines()
    assert max(map(len, lines)) <= 80 and lines[0].split() == ["==", "one", "|", "==", "two"]
    left, right = zip(*(line.split("|") for line in lines), strict=True)
    assert " ".join(left).split() == texts[0].split() and " ".join(right).split() == texts[1].split()
    assert beside(texts[:1], 200) == texts[0]
