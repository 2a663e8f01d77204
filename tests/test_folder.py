"""A run's folder keeps what is measured, in the place of what was there, and never beside what it can't stand by.

python -m pytest tests/test_folder.py
"""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from eval.measure.measurement import Measurement
from eval.measure.rows import Measured, row_key
from eval.record.folder import ReadOnce, RunFolder
from tests.small import CONTEXT, SETTINGS, small_stream


def row(extension="none", targets="one", **more):
    place = {"protocol": "fixed_targets", "extension": extension, "context_length": 8, "length_ratio": 1.0}
    figures = {"status": "ok", "nats": 1.0, "perplexity": 2.7, "bits_per_byte": None, "tokens": 3}
    return {**place, "split": "test", "precision": "32", "targets_id": targets, **figures, **more}


def task(length):
    place = {"task": "copy", "extension": "none", "length": length, "context_length": length, "length_ratio": 1.0}
    return {**place, "split": "test", "status": "undefined", "reason": "too long"}


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return RunFolder(tmp_path)


def test_a_row_takes_the_place_of_the_one_of_its_key(folder):
    folder.add(Measured(rows=[row(nats=1.0), row("pi", nats=2.0)]))
    folder.add(Measured(rows=[row(nats=3.0)]))
    assert {each["extension"]: each["nats"] for each in folder.results["rows"]} == {"none": 3.0, "pi": 2.0}


def test_the_evaluation_that_was_shown_is_kept_while_another_is(folder):
    probes = {"probes": {"bias": [{"n": 1}]}, "probe_settings": {"bias": {"windows": 2}}}
    folder.turn_to("one")
    folder.add(Measured(rows=[row(), row("pi")], **probes))
    shown = folder.results
    folder.turn_to("two")
    assert folder.results["rows"] == [] and folder.results["probes"] == {}
    folder.add(Measured(rows=[row(targets="two")]))
    assert folder.shown_as("one")["rows"] == shown["rows"] and folder.shown_as("two") == folder.results
    folder.turn_to("one")
    assert {**folder.results, "others": {}} == shown


def test_a_folder_that_is_read_once_stays_what_it_was(folder):
    folder.turn_to("one")
    folder.add(Measured(rows=[row()], losses={row_key(row()): np.zeros(3, np.float32)}))
    before = ReadOnce(folder.path)
    first, losses = before.results, before.losses
    folder.add(Measured(rows=[row("pi")], losses={row_key(row("pi")): np.ones(3, np.float32)}))
    assert before.results is first != folder.results
    assert before.losses is losses and losses.keys() < folder.losses.keys()
    assert ReadOnce(folder.path).results == folder.results


def test_rows_of_an_earlier_version_do_not_stand_beside_new_ones(folder):
    folder.add(Measured(rows=[row()]))
    folder.turn_to("one")
    assert folder.results["rows"] == [] and folder.results["others"][""]["rows"] == [row()]


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_number_that_is_not_finite_is_written_as_none(folder, value):
    folder.update(machine={"loss": value, "all": [value, 1.0]})
    assert folder.results["machine"] == {"loss": None, "all": [None, 1.0]}


def test_losses_probes_and_tasks_are_added_to_those_that_are_there(folder):
    rows = [row(), row("pi")]
    keys = [row_key(each) for each in rows]
    for number, key in enumerate(keys):
        name = f"probe {number}"
        more = {"probes": {name: [{}]}, "probe_settings": {name: {"n": number}}, "tasks": [task(9 - number)]}
        folder.add(Measured(rows=[rows[number]], losses={key: np.full(3, number, np.float32)}, **more))
    assert {key: losses.tolist() for key, losses in folder.losses.items()} == {keys[0]: [0] * 3, keys[1]: [1] * 3}
    results = folder.results
    assert results["probes"] == {"probe 0": [{}], "probe 1": [{}]}
    assert results["probe_settings"] == {"probe 0": {"n": 0}, "probe 1": {"n": 1}}
    assert [task["length"] for task in results["tasks"]] == [8, 9]


def test_probes_alone_are_held_against_the_documents_before_training():
    settings = replace(SETTINGS, protocols=[], probes=["bias"], lengths=[1, 100])
    stream = small_stream(40, 60)
    data = SimpleNamespace(streams={"train": stream, "validation": stream, "test": stream}, task=None)
    with pytest.raises(ValueError, match="no held-out document is longer than 59 tokens"):
        Measurement(settings, data, CONTEXT)
