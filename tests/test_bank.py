"""The bank: the standard setting, its file, what is taken into it, and one's own beside it.

python -m pytest tests/test_bank.py
"""

import base64
import hashlib
import io
import json
import re
import shutil
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from conf.schema import CONF, ROOT, Settings
from conf.source import source_hash
from conf.typed import digest, typed
from eval.compare import bank as banks
from eval.compare import bank_file
from eval.compare.bank import add, beside, entry_of, gaps, open_bank, stated
from eval.compare.bank_file import BankError, read_bank, write_bank
from eval.compare.comparison import read_comparison
from eval.compare.literature import check
from eval.compare.readme import PICTURE, bank_of
from eval.compare.runs import flatten, read_runs
from eval.compare.which import WHICH
from eval.record.identity import identity, settings_of
from eval.record.jobs import SWEEP_FAILED
from scripts import bank as script
from tests.synthetic import CONFIG, CONTEXT, LENGTHS, make_run

SETTINGS = typed(Settings, CONFIG)
ENCODINGS = {name: {**CONFIG["encoding"], "name": name} for name in ("alibi", "none", "rope", "t5")}
LOSSES = {"alibi": 5.0, "none": 5.6, "rope": 5.3, "t5": 5.0}
V1 = "6d66afb7"
WRITE = "python -m scripts.bank write"


def test_the_standard_setting_states_all_that_its_numbers_depend_on():
    own = flatten(OmegaConf.to_container(OmegaConf.load(CONF / "experiment" / "standard.yaml")))
    needed = stated(settings_of("experiment=standard"))
    assert needed and needed.keys() <= own.keys()


def test_version_1_of_the_standard_setting_is_what_it_was():
    """Whoever changes it makes another version: VERSION in eval/compare/bank.py, and here. A setting that is new stands
    in it with the value that leaves its numbers as they were, and V1 goes with that."""
    assert (banks.VERSION, digest(stated(settings_of("experiment=standard")))[:8]) == (1, V1)


def test_the_catalogue_is_what_the_standard_setting_composes():
    assert banks.catalogue()["window"] == settings_of("experiment=standard", "encoding=window").encoding


@pytest.mark.slow
def test_all_that_fit_the_standard_models_layers_are_asked_for_at_once():
    names = banks.catalogue()
    assert {"rope", "swan", "layers"} <= names.keys() and {"gemma3", "gemma4"}.isdisjoint(names)
    (command,) = script._sweeps([(name, 0) for name in names])
    assert "encoding=glob(*,exclude=[gemma3,gemma4])" in command
    found = settings_of(*command[1:2], "encoding=swan").encoding
    assert found == names["swan"]


def make_small(patch):
    """The standard setting and the catalogue are those of the synthetic runs."""
    patch.setattr(banks, "standard", lambda: SETTINGS)
    patch.setattr(banks, "evaluation_key", lambda: SETTINGS.eval.targets_key(CONTEXT))
    patch.setattr(banks, "catalogue", lambda: ENCODINGS)
    patch.setattr(banks, "_extensions", lambda: frozenset({("none", None, None), ("pi", None, None)}))


@pytest.fixture
def small(monkeypatch):
    make_small(monkeypatch)


def make(sweep, encoding, seed=0, loss=None, *, results=None, config=None, **more):
    """A finished run of the standard setting."""
    loss = LOSSES.get(encoding, 5.0) if loss is None else loss
    facts = {"evaluation": banks.evaluation_key(), "weights_hash": f"{sweep}-{encoding}-{seed}"}
    run = make_run(sweep, encoding, seed, lambda length: loss, config=config, **{"floor": True, **more})
    run.update(**facts | {"identity": identity(run.config)} | (results or {}))
    return run


def gathered(*runs, contents=None, replacing=False):
    contents = open_bank(Path("nowhere")) if contents is None else contents
    words = []
    for run in runs:
        contents, word = add(contents, *entry_of(run), replacing)
        words.append(word)
    return contents, words


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a bank's file, of four encodings with two seeds, and the sweep that it was gathered from."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        runs = [make(folder / "standard", name, seed) for name in ENCODINGS for seed in (0, 1)]
        write_bank(folder / "bank.parquet", gathered(*runs)[0])
    return folder


@pytest.fixture
def full(small, made, tmp_path):
    """A copy of the bank's file, beside the sweep."""
    (tmp_path / "standard").symlink_to(made / "standard")
    return Path(shutil.copy(made / "bank.parquet", tmp_path / "bank.parquet"))


def test_windows_of_the_bank_have_the_keys_of_the_folders(full, tmp_path):
    columns = ["key", "protocol", "context_length", "nats"]
    ours, theirs = (
        {
            (run.label, run.seed): run.windows[run.windows["control"].isna()][columns].reset_index(drop=True)
            for run in runs
        }
        for runs in (banks.bank_runs(open_bank(full), full), read_runs(tmp_path / "standard"))
    )
    assert ours.keys() == theirs.keys() and len(ours) == 8
    for name, found in ours.items():
        assert found["key"].nunique() > 2
        found["key"] = found["key"].str.removeprefix(f"{banks.evaluation_key()}/")  # which synthetic folders leave out
        pd.testing.assert_frame_equal(found, theirs[name], check_dtype=False)


def test_a_bank_comes_to_what_its_runs_folders_do(full, tmp_path):
    bank = banks.bank_comparison(open_bank(full), full)
    folders = read_comparison(tmp_path / "standard")
    assert len(bank.summary) == len(folders.summary) == 34  # with the floors
    for name in ("summary", "differences"):
        ours, theirs = (getattr(each, name).query("control.isna()") for each in (bank, folders))
        assert len(ours) and len(ours) == len(theirs)
        pd.testing.assert_frame_equal(ours, theirs, check_dtype=False)
    pd.testing.assert_frame_equal(check(bank), check(folders), check_dtype=False)
    assert len(check(bank))


def test_anyones_pandas_reads_the_windows(full, tmp_path):
    frame = pd.read_parquet(full)
    assert frame.columns.tolist() == bank_file.COLUMNS
    run = read_comparison(tmp_path / "standard").runs[-1]
    at = "encoding == @run.encoding and seed == @run.seed and length == 256 and protocol == 'fixed_targets'"
    (row,) = (row for row in run.results["rows"] if (row["protocol"], row["context_length"]) == ("fixed_targets", 256))
    here = frame.query(at)
    assert here["nats"].sum() / here["tokens"].sum() == pytest.approx(row["nats"])


def test_a_bank_that_is_written_again_is_the_same_to_the_byte(full):
    before = full.read_bytes()
    write_bank(full, read_bank(full))
    assert full.read_bytes() == before


def test_the_whole_bank_stays_at_a_few_megabytes(small, tmp_path):
    """By the bytes of one run's windows and record, for 150 runs of 1632 windows each."""
    runs = [make(tmp_path, "rope", seed, floor=False, windows=160) for seed in (0, 1)]
    sizes = []
    for count in (1, 2):
        write_bank(tmp_path / "bank", gathered(*runs[:count])[0])
        sizes.append((tmp_path / "bank").stat().st_size)
    assert sizes[1] - sizes[0] < 160 * 8 * 16 + 6000  # bytes a window, and of the record


WRONG = {
    "training": ({"config": {"training__tokens": 70_000}}, "training.tokens is 70000, not 60000"),
    "model": ({"config": {"model__dim": 64}}, "model.dim is 64, not"),
    "precision": ({"config": {"trainer__precision": "bf16-mixed"}}, "trainer.precision is bf16-mixed, not auto"),
    "scored otherwise": (
        {"config": {"eval__windows": 7}, "results": {"evaluation": "other"}},
        "eval.windows is 7, not 24",
    ),
    "a row is missing": ({"lengths": LENGTHS[:3]}, "no row of fixed_targets at 256 tokens"),
    "a protocol is missing": ({"protocols": ["fixed_targets"]}, "no row of non_overlapping"),
    "not finished": ({"state": "interrupted"}, "is not finished (interrupted)"),
    "a variant": ({"config": {"encoding__base": 5.0}}, "encoding.base is 5.0, not 10000.0"),
    "an encoding of one's own": ({"encoding": "homemade"}, "conf/encoding has no homemade"),
    "another source": ({"results": {"identity": {"source": "0" * 64}}}, "another source of rope"),
    "another text": ({"results": {"corpus_hash": "0" * 64}}, "its corpus_hash is not the bank's"),
    "other targets": ({"targets_id": "11111111"}, "scored on other tokens"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_run_of_another_setting_is_refused_with_what_differs(full, tmp_path, capsys, what):
    changed, said = WRONG[what]
    make(tmp_path / "more", **{"encoding": "rope", "seed": 5} | changed)
    before = full.read_bytes()
    assert script.main(["gather", str(tmp_path / "more"), f"bank={full}"]) == SWEEP_FAILED
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert full.read_bytes() == before


def test_gathering_adds_and_keeps_what_is_there(full, tmp_path, capsys):
    make(tmp_path / "more", "rope", 2)
    make(tmp_path / "more", "rope", 0, 9.9, results={"machine": {"device": "another", "processor": ""}})
    before = {(entry.name, entry.seed): entry for entry in read_bank(full).entries}
    gather = ["gather", str(tmp_path / "more"), f"bank={full}"]
    assert script.main(gather) == 0
    said = capsys.readouterr().out
    assert "added" in said and "made on a processor" in said and "this one on another, torch" in said
    after = {(entry.name, entry.seed): entry for entry in read_bank(full).entries}
    assert after.keys() - before.keys() == {("rope", 2)}
    for key, entry in before.items():
        assert after[key].results == entry.results
        pd.testing.assert_frame_equal(after[key].windows, entry.windows)
    content = full.read_bytes()
    assert script.main(gather) == 0 and full.read_bytes() == content
    assert script.main([*gather, "replace=true"]) == 0
    (new,) = (entry for entry in read_bank(full).entries if (entry.name, entry.seed) == ("rope", 0))
    assert new.results["rows"][0]["nats"] > 9


def test_rows_that_were_scored_later_are_added_to_their_run(small, tmp_path):
    run = make(tmp_path / "a", "rope")
    first, _ = gathered(run)
    again = make(tmp_path / "b", "rope", extensions={"pi": -0.2}, results={"weights_hash": f"{tmp_path / 'a'}-rope-0"})
    both, words = gathered(again, again, contents=first)
    assert words == ["extended", "there already"]
    write_bank(tmp_path / "bank", both)
    (entry,) = read_bank(tmp_path / "bank").entries
    assert {row["extension"] for row in entry.results["rows"]} == {"none", "pi"}
    assert not gaps(both, [0], ["rope"]).unscored and gaps(first, [0], ["rope"]).unscored == [("rope", 0)]
    summary = banks.bank_comparison(both, tmp_path / "bank").summary
    assert set(summary.query("extension == 'pi'")["gain_verdict"].dropna())


def test_rows_that_were_scored_again_take_the_place_of_the_old(small, tmp_path):
    old, new = (
        make(tmp_path / name, "rope", extensions={"pi": gain}, results={"weights_hash": "one"})
        for name, gain in (("old", -0.2), ("new", -0.3))
    )
    (kept,) = gathered(old, new)[0].entries
    (wanted,) = gathered(new)[0].entries
    by_place = ["protocol", "extension", "context_length"]
    for figures in (lambda each: pd.DataFrame(each.results["rows"]), lambda each: each.windows):
        sums = [figures(each).groupby(by_place)["nats"].sum() for each in (kept, wanted)]
        pd.testing.assert_series_equal(*sums)


def test_a_changed_encoding_is_stale_said_to_be_and_renewed(full, tmp_path, capsys, monkeypatch):
    changed = {**ENCODINGS, "alibi": {**ENCODINGS["alibi"], "base": 7.0}}
    monkeypatch.setattr(banks, "catalogue", lambda: changed)
    asked = [f"bank={full}", "seeds=0,1"]
    assert script.main(asked) == 0
    said = capsys.readouterr().out
    assert "6 of 8 runs" in said and "stale: alibi, its settings have changed (base)" in said
    assert "encoding=alibi seed=0,1 sweep=standard" in said and "missing with seed 1: alibi" in said
    monkeypatch.setattr(
        banks, "source_hash", lambda config: "0" * 64 if config["name"] == "t5" else source_hash(config)
    )
    assert script.main(asked) == 0
    assert "stale: t5, its source has changed" in capsys.readouterr().out
    monkeypatch.undo()


def test_a_renewed_run_takes_the_place_of_the_stale_one(full, tmp_path, monkeypatch):
    monkeypatch.setattr(banks, "catalogue", lambda: {**ENCODINGS, "alibi": {**ENCODINGS["alibi"], "base": 7.0}})
    run = make(tmp_path / "new", "alibi", 1, config={"encoding__base": 7.0})
    contents, words = gathered(run, contents=read_bank(full))
    assert words == ["renewed"] and len(contents.entries) == 8
    assert gaps(contents, [0, 1]).missing == [("alibi", 0)]


def test_without_arguments_it_says_what_is_missing_and_how_to_fill_it(full, small, tmp_path, capsys):
    assert script.main([f"bank={tmp_path / 'none.parquet'}"]) == 0
    said = capsys.readouterr().out
    assert "0 of 20 runs" in said and "missing with seed 2: all" in said
    assert "python train.py -m experiment=standard encoding=alibi,none,rope,t5 seed=0,1,2,3,4 sweep=standard\n" in said
    script.main([f"bank={full}", "encodings=alibi,t5", "seeds=1"])
    said = capsys.readouterr().out
    assert "2 of 2 runs" in said and "nothing is missing" in said


@pytest.mark.parametrize("arguments", [["gather"], ["write", "x"], ["nonsense"], ["gather", "a", "b"], ["x=1"]])
def test_a_command_that_cannot_be_is_answered_with_the_usage(arguments):
    with pytest.raises(ValueError, match=r"usage: python -m scripts.bank"):
        script.main(arguments)


def test_an_encoding_that_is_not_there_is_named(small, tmp_path):
    with pytest.raises(ValueError, match="encodings=ropes"):
        script.main([f"bank={tmp_path / 'bank'}", "encodings=ropes"])


@pytest.mark.slow
def test_filling_trains_what_is_missing_by_the_ordinary_sweep_and_gathers_it(full, tmp_path, monkeypatch):
    asked = []

    def train(command, **options):
        """What train.py would leave."""
        asked.append(command[2:])
        given = dict(each.split("=", 1) for each in command[2:] if "=" in each)
        extended = {"extensions": {"pi": -0.1}} if "eval.extensions" in given else {}
        for name in given["encoding"].split(","):
            for seed in map(int, given["seed"].split(",")):
                facts = {"weights_hash": f"weights-{name}-{seed}"}
                for old in (tmp_path / "runs" / "standard").glob(f"{name}-s{seed}-*"):
                    old.rename(tmp_path / f"old-{old.name}")
                make(tmp_path / "runs" / "standard", name, seed, results=facts, **extended)
        return type("Done", (), {"returncode": 0})

    monkeypatch.setattr(script.subprocess, "run", train)
    fill = ["fill", f"bank={full}", "encodings=rope,t5", "seeds=0,2", f"runs={tmp_path / 'runs'}", "logger=none"]
    assert script.main(fill) == SWEEP_FAILED
    more = [f"runs={tmp_path / 'runs'}", "logger=none"]
    standard = ["-m", "experiment=standard"]
    assert asked[0] == [*standard, "encoding=rope,t5", "seed=2", "sweep=standard", *more]
    assert asked[1] == [*standard, "encoding=rope", "seed=0,2", "sweep=standard", "eval.extensions=[all]", *more]
    assert not gaps(read_bank(full), [2], ["rope", "t5"]).missing
    assert gaps(read_bank(full), [0, 2], ["rope"]).unscored == [("rope", 0)]  # the bank's own is of another machine
    assert script.main([*fill, "encodings=alibi", "seeds=2"]) == 0 and len(asked) == 3
    assert script.main([*fill, "encodings=alibi", "seeds=2"]) == 0 and len(asked) == 3


def test_filling_ends_with_the_code_of_a_command_that_was_refused(full, monkeypatch):
    monkeypatch.setattr(script.subprocess, "run", lambda *_, **__: type("Done", (), {"returncode": 1}))
    assert script.main(["fill", f"bank={full}", "seeds=2", "context=nonsense"]) == 1


# --- the file is read without trust ---


def test_a_cut_file_and_one_with_a_changed_byte_are_refused_in_a_sentence(full):
    whole, random = full.read_bytes(), np.random.default_rng(0)
    damaged = [whole[: len(whole) // 2], b"", b"PAR1" * 10, whole[:-9] + whole[-8:]]
    for place in random.integers(4, len(whole), 60):
        damaged.append(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
    for content in damaged:
        full.write_bytes(content)
        with pytest.raises(BankError, match="is damaged") as refused:
            read_bank(full)
        assert "\n" not in str(refused.value)


def test_pages_have_checksums_of_their_own(full):
    content = bytearray(full.read_bytes())
    content[len(content) // 3] ^= 0x55
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    full.write_bytes(bank_file.signed(bytes(content[: footer - 32] + content[footer:])))
    with pytest.raises(BankError, match="CRC"):
        read_bank(full)


def rewritten(path, change=lambda table: table, records=lambda records: records, **options):
    """The file with a changed table or changed records, as anyone could make it."""
    packed = pq.read_metadata(path).metadata[bank_file.METADATA]
    found = records(json.loads(zlib.decompress(base64.b64decode(packed))))
    packed = found if isinstance(found, bytes) else base64.b64encode(zlib.compress(json.dumps(found).encode()))
    table = change(pq.read_table(path))
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, table.schema, **{"compression": "none", "store_schema": False} | options) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({"trainshort": packed.decode()})
    path.write_bytes(bank_file.signed(buffer.getvalue()))


def set_column(name, values):
    return lambda table: table.set_column(table.schema.get_field_index(name), name, values(table[name]))


FORGED = {
    "nothing": (lambda table: table, None, {}),
    "a wrong type": (
        set_column("nats", lambda nats: nats.cast(pa.float32())),
        "column nats: float, should be double",
        {},
    ),
    "words for numbers": (set_column("seed", lambda seed: seed.cast(pa.string())), "column seed: ", {}),
    "a missing column": (lambda table: table.drop_columns(["block"]), "column block: missing, should be int32", {}),
    "one too many": (
        lambda table: table.append_column("more", table["seed"]),
        "column more: int64, should be missing",
        {},
    ),
    "missing values": (
        set_column("tokens", lambda tokens: pa.array([None, *tokens.to_pylist()[1:]], pa.int32())),
        "values are missing",
        {},
    ),
    "losses without end": (
        set_column("nats", lambda nats: pa.array([float("inf"), *nats.to_pylist()[1:]])),
        "not finite",
        {},
    ),
    "other losses": (
        set_column("nats", lambda nats: pa.array([nats[0].as_py() + 9, *nats.to_pylist()[1:]])),
        "its figures are not those of its windows",
        {},
    ),
    "a run without a record": (
        set_column("seed", lambda seed: pa.array([9, *seed.to_pylist()[1:]], pa.int64())),
        "figures are not those of its windows",
        {},
    ),
    "a missing window": (lambda table: table.slice(1), "figures are not those of its windows", {}),
    "compressed pages": (lambda table: table, "pages are compressed", {"compression": "zstd"}),
}


@pytest.mark.parametrize("what", FORGED)
def test_a_table_of_another_make_is_refused_by_what_is_wrong(full, what):
    change, said, options = FORGED[what]
    rewritten(full, change, **options)
    if said is None:
        assert len(read_bank(full).entries) == 8
        return
    with pytest.raises(BankError, match=said):
        read_bank(full)


def without(records, name):
    return {key: value for key, value in records.items() if key != name}


def changed_run(records, **changes):
    return {**records, "runs": [{**records["runs"][0], **changes}, *records["runs"][1:]]}


RECORDS = {
    "no runs": (lambda records: without(records, "runs"), "runs: Field required"),
    "a word for a seed": (lambda records: changed_run(records, seed="0"), r"runs.0.seed: "),
    "another's results": (lambda records: changed_run(records, seed=7), "another's"),
    "a run twice": (lambda records: {**records, "runs": records["runs"][:1] * 2}, "there twice"),
    "a run less": (lambda records: {**records, "runs": records["runs"][1:]}, "windows of a run without a record"),
    "another format": (lambda records: {**records, "format": 2}, "its format is 2"),
    "no JSON": (lambda records: base64.b64encode(zlib.compress(b"{")), "is damaged"),
    "no base64": (lambda records: b"\x00", "is damaged"),
    "cut": (lambda records: base64.b64encode(zlib.compress(b"{}" * 99)[:-5]), "are cut"),
    "a bomb": (lambda records: base64.b64encode(zlib.compress(b" " * (bank_file.LONG + 1))), "would unpack to more"),
    "nested": (lambda records: {**records, "more": json.loads("[" * 200 + "]" * 200)}, "nested more than"),
}


@pytest.mark.parametrize("what", RECORDS)
def test_records_of_another_make_are_refused_by_what_is_wrong(full, what):
    change, said = RECORDS[what]
    rewritten(full, records=change)
    with pytest.raises(BankError, match=said):
        read_bank(full)


def test_a_bank_of_another_version_or_setting_is_refused(full):
    rewritten(full, records=lambda records: {**records, "version": 2})
    with pytest.raises(BankError, match="is of version 2 of the standard setting, this program's is 1"):
        open_bank(full)
    settings = stated(banks.standard()) | {"training.lr": 0.5}
    rewritten(full, records=lambda records: {**records, "version": 1, "settings": settings})
    with pytest.raises(BankError, match=r"training.lr is 0.5, not 0.003"):
        open_bank(full)


def test_another_parquet_file_is_no_bank(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(BankError, match="it is no bank"):
        read_bank(path)
    path.write_bytes(bank_file.signed(path.read_bytes()))
    with pytest.raises(BankError, match="its metadata lack the runs' records"):
        read_bank(path)


# --- one's own beside it ---


def test_ones_own_run_is_held_against_the_whole_bank_in_a_sentence_a_length(full, tmp_path, capsys):
    for seed in (0, 1):
        make(tmp_path / "mine", "mine", seed, 5.3)
    assert script.main(["compare", str(tmp_path / "mine"), f"bank={full}"]) == 0
    said = capsys.readouterr().out
    verdicts = "mine (197.32) is better than none; not separable from t5 and rope; worse than alibi."
    assert all(f"At {length} ({length // CONTEXT}x), {verdicts}" in said for length in LENGTHS)
    report = (tmp_path / "mine" / "bank" / "report.md").read_text()
    assert "mine" in report and "alibi" in report and "better than none" in report
    assert (tmp_path / "mine" / "bank" / "report.html").exists()


def test_its_verdicts_are_paired_and_corrected_for_the_whole_bank(full, tmp_path):
    for seed in (0, 1):
        make(tmp_path / "sweep", "mine", seed, 5.3)
    found = beside(open_bank(full), full, tmp_path / "sweep")
    together = tmp_path / "together"
    together.mkdir()
    for folder in [*(tmp_path / "standard").iterdir(), *(tmp_path / "sweep").glob("mine-*")]:
        (together / folder.name).symlink_to(folder)
    wanted = read_comparison(together, reference="mine")
    columns = ["protocol", "context_length", "label", "difference_nats", "p_holm", "verdict"]
    ours, theirs = (
        each.differences.query("reference == 'mine'")[columns].astype({"label": object}) for each in (found, wanted)
    )
    assert len(ours) == 5 * len(LENGTHS) * 2
    pd.testing.assert_frame_equal(*(each.sort_values(columns[:3], ignore_index=True) for each in (ours, theirs)))


def test_a_variant_is_named_by_what_differs_and_one_without_a_seed_in_common_is_said_to_be(full, tmp_path):
    make(tmp_path / "mine", "rope", 0, 4.0, config={"encoding__base": 7.0})
    make(tmp_path / "mine", "far", 8, 4.0)
    said = " ".join(beside(open_bank(full), full, tmp_path / "mine").remarks)
    assert "At 256 (8x), rope (base=7.0) (55.27) is better than alibi, t5, rope and none" in said
    assert "far (" in said and "without a seed in common with" in said


def test_a_check_run_says_how_far_the_machine_is(full, tmp_path):
    elsewhere = {"machine": {"device": "a GPU"}, "versions": {"torch": "9.9"}}
    make(tmp_path / "mine", "mine", 0, results=elsewhere)
    alone = " ".join(beside(open_bank(full), full, tmp_path / "mine").remarks)
    assert "Made on a GPU, torch 9.9; the bank's on a processor, torch 2.13.0 (8 runs)" in alone
    assert "a check run in the sweep shows: encoding=rope seed=0" in alone
    make(tmp_path / "mine", "rope", 0, LOSSES["rope"] + np.log(1.1), results=elsewhere)
    found = beside(open_bank(full), full, tmp_path / "mine")
    (check,) = (each for each in found.remarks if each.startswith("Check run rope, seed 0"))
    assert "+10.0\xa0%" in check and "the bank's 2 seeds span" in check
    assert found.encodings == sorted([*ENCODINGS, "mine"])  # it is no rival


def test_a_check_run_of_the_same_weights_and_a_machine_like_the_banks(full, tmp_path):
    run = next((tmp_path / "standard").glob("rope-s0-*"))
    found = beside(open_bank(full), full, run)
    assert found.remarks == ["Check run rope, seed 0: the weights are the bank's to the last bit."]


def test_a_run_of_ones_own_that_diverged_takes_its_label_out_and_no_other(full, tmp_path):
    make(tmp_path / "mine", "mine", 0)
    for name in ("mine", "rope"):
        run = make(tmp_path / "mine", name, 1)
        run.set_status("failed", error="the loss is not finite", diverged=True)
    found = beside(open_bank(full), full, tmp_path / "mine")
    assert {*found.summary["label"]} == {*ENCODINGS, "unigram"}
    assert sorted(run.label for run in found.left_out) == ["mine", "rope (here)"]
    assert "mine has no figure" in found.remarks[0]


def test_runs_of_another_setting_and_an_empty_bank_are_refused(full, small, tmp_path):
    make(tmp_path / "mine", "mine", 0, config={"training__tokens": 70_000})
    with pytest.raises(ValueError, match=r"training.tokens is 70000, not 60000"):
        script.main(["compare", str(tmp_path / "mine"), f"bank={full}"])
    with pytest.raises(ValueError, match="holds no run yet"):
        script.main(["compare", str(tmp_path / "mine"), f"bank={tmp_path / 'none.parquet'}"])


def test_the_page_ranks_by_groups_that_cannot_be_told_apart(full, tmp_path, capsys):
    out, page, readme = (tmp_path / name for name in ("standard.md", "page.html", "README.md"))
    which = tmp_path / WHICH
    which.parent.mkdir()
    for each in (readme, which):
        each.write_text("above\n<!-- bank: begin -->\nold\n<!-- bank: end -->\nbelow\n")
    assert script.main(["write", f"bank={full}", f"out={out}", f"page={page}", f"readme={readme}"]) == 0
    text = which.read_text()
    assert "\nold\n" not in text and f"sha256 {hashlib.sha256(full.read_bytes()).hexdigest()}" in text
    above, *shown, below = readme.read_text().splitlines()
    assert (above, below) == ("above", "below") and "old" not in shown
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in shown if line.startswith("| ")]
    families = {"alibi": "biases by distance", "t5": "biases by distance", "rope": "rotations", "none": "none"}
    assert {row[0]: row[1] for row in cells[2:]} == families and [row[0] for row in cells[4:]] == ["rope", "none"]
    assert [row[-1] for row in cells[4:]] == ["the reference", "worse"] and "better" in {row[-1] for row in cells[2:4]}
    assert any(line.startswith("At 8x") for line in shown), "the verdict, and no remark"
    hashes = {bank_of((tmp_path / PICTURE).read_bytes()), re.search("sha256 ([0-9a-f]{64})", "\n".join(shown))[1]}
    assert hashes == {hashlib.sha256(full.read_bytes()).hexdigest()}
    text = out.read_text()
    at = text.partition(f"## At {8 * CONTEXT} (8x)")[2].partition("## ")[0]
    groups = [line.split("|")[1:3] for line in at.splitlines() if line.startswith("| ") and "---" not in line][1:]
    names = [{name.split()[0] for name in encodings.split(",")} for _, encodings in groups]
    assert names == [{"alibi", "t5"}, {"rope"}, {"none"}]
    assert "12 of 20 runs are not in the bank yet" in text and "Cost beside quality" in text
    assert "a processor, torch 2.13.0" in text
    orderings = text.partition("## Published orderings")[2].partition("## ")[0]
    counts = check(banks.bank_comparison(open_bank(full), full))["verdict"].value_counts()
    assert f"{counts['agree']} agree, " in orderings and f"{counts['not separable']} not separable" in orderings
    assert orderings.count("| agree |") == counts["agree"] and "| not separable |" not in orderings
    assert page.stat().st_size > 1e6


def test_a_bank_that_cannot_be_written_leaves_the_old_one(full, monkeypatch):
    before, contents = full.read_bytes(), read_bank(full)
    monkeypatch.setattr("eval.record.files.os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match="what stood there before is unchanged"):
        write_bank(full, replace(contents, entries=contents.entries[:1]))
    assert full.read_bytes() == before and not [*full.parent.glob("*.partial")]


def test_a_folder_that_is_none_of_a_run_is_said_to_be(full, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no run"):
        script.main(["gather", str(tmp_path / "empty"), f"bank={full}"])


def test_what_is_committed_is_a_bank_of_this_version():
    assert open_bank(banks.BANK).entries


def test_the_readme_and_its_picture_are_of_the_bank_that_is_committed():
    digest = hashlib.sha256(banks.BANK.read_bytes()).hexdigest()
    for page in ("README.md", WHICH):
        assert f"sha256 {digest} -->" in (ROOT / page).read_text(), f"{page} is stale: {WRITE}"
    assert bank_of((ROOT / PICTURE).read_bytes()) == digest, f"{PICTURE} is stale: {WRITE}"


@pytest.mark.slow
def test_the_readme_and_the_page_are_what_the_bank_says(tmp_path):
    readme = Path(shutil.copy(ROOT / "README.md", tmp_path))
    (tmp_path / WHICH).parent.mkdir()
    shutil.copy(ROOT / WHICH, tmp_path / WHICH)
    out = tmp_path / "standard.md"
    assert script.main(["write", f"out={out}", f"page={tmp_path / 'page.html'}", f"readme={readme}"]) == 0
    for page in ("README.md", WHICH):
        assert (tmp_path / page).read_text() == (ROOT / page).read_text()
    assert out.read_text() == (ROOT / "docs" / "results" / "standard.md").read_text()
