"""What a run reads from disk, as one hash: it changes with the content, and with nothing else.

python -m pytest tests/test_inputs.py
"""

import json
import subprocess
import sys

import pytest

from conf.schema import ROOT
from data.inputs import UNREADABLE, input_hash
from tests.texts import BPE, BYTE, data_of

HUB = {"source": "hub", "path": "nobody/nothing"}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def changed_by(change, data, tokenizer=BYTE):
    before = input_hash(data, tokenizer)
    assert before == input_hash(data, tokenizer)
    change()
    return input_hash(data, tokenizer) != before


@pytest.mark.parametrize("name", ["00.txt", "new.txt", "sub/new.md"])
def test_a_changed_or_added_text_changes_it(texts, name):
    assert changed_by(lambda: write(texts / name, "other"), data_of(texts))


def test_a_renamed_file_changes_it(texts):
    assert changed_by(lambda: (texts / "00.txt").rename(texts / "x.txt"), data_of(texts))


@pytest.mark.parametrize("name", ["stray.png", ".hidden.txt", "../elsewhere.txt"])
def test_a_file_that_is_not_read_does_not_change_it(texts, name):
    assert not changed_by(lambda: write(texts / name, "other"), data_of(texts))


def test_where_a_folder_lies_does_not_change_it(texts, tmp_path):
    before = input_hash(data_of(texts), BYTE)
    texts.rename(tmp_path / "moved")
    assert input_hash(data_of(tmp_path / "moved"), BYTE) == before


@pytest.mark.parametrize("split", ["validation", "test"])
def test_held_out_texts_change_it(texts, tmp_path, split):
    paths = {f"{name}_path": str(write(tmp_path / f"{name}.txt", name)) for name in ("validation", "test")}
    assert changed_by(lambda: write(tmp_path / f"{split}.txt", "other"), data_of(texts, **paths))


def test_a_column_or_other_suffixes_change_it(texts):
    (texts / "notes.rst").write_text("read or not")
    hashes = {
        input_hash(data_of(texts, **more), BYTE) for more in ({}, {"column": "body"}, {"suffixes": [".txt", ".rst"]})
    }
    assert len(hashes) == 3


def test_a_folder_that_stands_in_for_the_hub_changes_it(tmp_path):
    rows = write(tmp_path / "set" / "train.jsonl", json.dumps({"text": "a"}))
    assert changed_by(lambda: write(rows, json.dumps({"text": "b"})), {"source": "hub", "path": str(tmp_path / "set")})


def test_modules_change_it(tmp_path):
    module = write(tmp_path / "lib" / "m.py", "x = 1\n")
    data = {"source": "python_source", "folder": str(tmp_path / "lib")}
    assert changed_by(lambda: write(module, "x = 2\n"), data)


@pytest.mark.parametrize("data", [HUB, {"source": "shakespeare"}], ids=["hub", "shakespeare"])
def test_a_tokenizers_file_changes_it(tmp_path, data):
    file = write(tmp_path / "tokenizer.json", "{}")
    assert changed_by(lambda: write(file, "{ }"), data, {"name": "pretrained", "path": str(file)})


def test_it_is_empty_where_the_settings_say_all():
    assert input_hash(HUB, BPE) == ""
    assert input_hash({"source": "copy", "name": "copy", "examples": 4}, {"name": "none"}) == ""
    assert input_hash(HUB, {"name": "pretrained", "path": "gpt2"}) == ""


@pytest.mark.parametrize(
    ("data", "tokenizer"),
    [
        ({"source": "text", "path": "/no/such/path"}, BYTE),
        ({"source": "text", "path": "???"}, BYTE),
        ({"source": "nowhere"}, BYTE),
        ({}, BYTE),
        ({"source": "text", "path": 3}, BYTE),
        ({"source": "shakespeare", "color": "red"}, BYTE),
        ({"source": "shakespeare"}, {"name": "words"}),
        ({"source": "shakespeare"}, {}),
    ],
)
def test_what_cannot_be_read_is_no_error_here(data, tokenizer):
    assert input_hash(data, tokenizer) == UNREADABLE


def test_it_is_light():
    heavy = "numpy pyarrow datasets tokenizers torch pandas"
    code = (
        "import sys; from data.inputs import input_hash; import data.sources.hub, data.sources.text;"
        "print(input_hash({'source': 'shakespeare'}, {'name': 'bpe', 'vocab_size': 300}));"
        f"print([name for name in {heavy.split()} if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert len(out.split()[0]) == 64 and out.split()[1] == "[]"
