"""The corpora: what each source reads, how it is split, what is refused by name. No network.

python -m pytest tests/test_corpus.py
"""

import json
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from conf.schema import CONF, CorpusSettings, MixSettings, TaskSettings, is_mix, modules
from conf.signature import parameters
from data.corpus import SPLITS, Document, build_corpus, source_class
from data.module import TextDataModule
from data.reading import read_text
from data.recipe import build_recipe
from data.sources.hub import join_articles
from data.task import Task
from tests.texts import BYTE, data_of, prepared


def test_the_plays_are_split_by_whole_plays_and_carry_no_markup():
    corpus = build_corpus("shakespeare", {})
    names = {split: {document.name for document in corpus.documents(split)} for split in SPLITS}
    assert [len(names[split]) for split in SPLITS] == [30, 4, 4]
    assert len(set.union(*names.values())) == 38
    (tempest,) = (document.text for document in corpus.documents("test") if document.name == "the-tempest")
    assert not set(tempest) & set("*_#\\\r") and "PROSPERO:\n" in tempest and "[Enter TRINCULO]" in tempest
    assert corpus.fingerprint() == build_corpus("shakespeare", {}).fingerprint()


def test_python_source_leaves_out_tests_and_is_split_by_path(tmp_path):
    for i in range(60):
        (tmp_path / f"m{i}.py").write_text(f"x = {i}\n")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "hidden.py").write_text("y = 1\n")
    (tmp_path / "latin.py").write_bytes(b"# \xe9\n")
    corpus = build_corpus("python_source", {"folder": str(tmp_path)})
    before = {split: {d.name for d in corpus.documents(split)} for split in SPLITS}
    assert sum(map(len, before.values())) == 60
    (tmp_path / "another.py").write_text("z = 2\n")
    corpus = build_corpus("python_source", {"folder": str(tmp_path)})
    assert all(before[split] <= {d.name for d in corpus.documents(split)} for split in SPLITS)


def test_rows_of_jsonl_and_parquet_are_documents_and_stray_files_are_named(tmp_path):
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": f"row {i}"}) + "\n" for i in range(5)))
    pyarrow.parquet.write_table(pyarrow.table({"text": [f"column {i}" for i in range(5)]}), tmp_path / "b.parquet")
    (tmp_path / "c.md").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    corpus = build_corpus("text", {"path": str(tmp_path)})
    texts = {document.text for split in SPLITS for document in corpus.documents(split)}
    assert texts == {f"row {i}" for i in range(5)} | {f"column {i}" for i in range(5)} | {"one\ntwo\n"}
    assert [remark.count("picture.png") for remark in corpus.remarks()] == [1]


def test_held_out_paths_of_ones_own_are_used_as_they_are(texts, tmp_path):
    for name in ("v.txt", "t.txt"):
        (tmp_path / name).write_text(name)
    paths = {"path": str(texts), "validation_path": str(tmp_path / "v.txt"), "test_path": str(tmp_path / "t.txt")}
    corpus = build_corpus("text", paths)
    assert [[d.text for d in corpus.documents(s)] for s in ("validation", "test")] == [["v.txt"], ["t.txt"]]
    assert len(list(corpus.documents("train"))) == 40


def test_rows_of_wikitext_are_joined_to_articles():
    lines = ["", " = Crow = \n", " A bird . \n", " = = Food = = \n", " = 3 = \n", " A number . \n"]
    articles = list(join_articles(Document(str(i), line) for i, line in enumerate(lines)))
    assert [article.name for article in articles] == ["0", "Crow", "3"]
    assert articles[1].text == "".join(lines[1:4])


@pytest.mark.parametrize("name", ["hub", "wikitext2", "wikitext103", "tinystories", "pg19"])
def test_every_hub_file_reads_its_splits_without_code_from_the_hub(name, monkeypatch):
    asked = []

    def load_dataset(path, config, **options):
        asked.append((path, config, options))
        return [{"text": " = A = \n"}, {"text": " word . \n"}, {"text": " = B = \n"}, {"text": " word . \n"}]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    settings = yaml.safe_load((CONF / "data" / f"{name}.yaml").read_text())
    module = TextDataModule(
        settings.get("data", settings) | ({"path": "o/n"} if name == "hub" else {}),
        BYTE,
        context=8,
        batch_size=2,
    )
    corpus = module._corpus
    counts = [len(list(corpus.documents(split))) for split in SPLITS]
    assert counts == [2, 2, 2] if name.startswith("wikitext") else [4, 4, 4]
    assert len(asked) == 3 and all("trust_remote_code" not in options for _, _, options in asked)


def test_a_hub_that_does_not_answer_is_one_error_that_says_what_to_do(monkeypatch):
    def load_dataset(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    with pytest.raises(ValueError, match=r"roneneldan/TinyStories.*no route.*HF_HUB_OFFLINE"):
        next(build_corpus("hub", {"path": "roneneldan/TinyStories"}).documents("train"))


@pytest.mark.parametrize("text", ["a\0b", "a\ud800b"], ids=["NUL", "surrogate"])
def test_a_row_of_the_hub_that_is_no_text_is_refused(monkeypatch, text):
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: [{"text": "fine"}, {"text": text}])
    with pytest.raises(ValueError, match=r"o/n.*row 1: the text holds a.* at character 1"):
        list(build_corpus("hub", {"path": "o/n"}).documents("train"))


@pytest.mark.parametrize("name", ["set[1]", "set?", "a*", "a::b"])
def test_a_local_folder_that_the_hubs_reader_takes_for_a_pattern_is_refused(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match=r"data\.path=.*pattern.*use data=text"):
        build_corpus("hub", {"path": str(tmp_path / name)})


def test_a_hub_folder_in_the_home_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.txt").write_text("text")
    assert build_corpus("hub", {"path": "~/set"}).files() == {"train.txt": tmp_path / "set" / "train.txt"}


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"a\0b", "NUL at character 1"), (b"ok \xff", "not UTF-8 at byte 3"), (b"\xff\xfea\0", "not UTF-8 at byte 0")],
)
def test_a_file_that_is_no_text_is_named(tmp_path, content, problem):
    (tmp_path / "bad.txt").write_bytes(content)
    with pytest.raises(ValueError, match=rf"bad\.txt.*{problem}"):
        read_text(tmp_path / "bad.txt")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"source": "nowhere"}, "nowhere.*shakespeare"),
        ({"pth": 1}, "pth"),
        ({"path": None}, "path"),
        ({"path": "/no/such/path"}, "does not exist"),
        ({"test_path": "x"}, "give both"),
        ({"max_tokens": 0}, "max_tokens=0"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(texts, tmp_path, change, problem):
    with pytest.raises(ValueError, match=problem):
        prepared(data_of(texts) | change, BYTE, context=8, batch_size=2, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize(
    ("content", "problem"),
    [("", "holds no text"), ("   \n", "holds no text"), ("x", "single token")],
)
def test_a_corpus_without_anything_to_predict_is_refused(tmp_path, content, problem):
    path = str(tmp_path / "a.txt")
    Path(path).write_text(content)
    data = data_of(path, validation_path=path, test_path=path)
    with pytest.raises(ValueError, match=problem):
        prepared(data, BYTE, context=1, batch_size=1, cache_dir=tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*/"))


@pytest.mark.parametrize(
    ("build", "settings", "problem"),
    [
        (partial(build_corpus, "hub"), {"path": None}, "data.path: needs a value"),
        (partial(build_corpus, "text"), {"path": "a", "pat": 1}, "data.pat: there is no such setting; the settings of"),
        (build_recipe, {"name": "bpe", "vocab_size": None}, "tokenizer.vocab_size: needs a value; the settings of"),
        (build_recipe, {"name": "byte", "size": 1}, "tokenizer.size: there is no such setting; the settings of"),
    ],
)
def test_a_setting_that_a_class_lacks_or_needs_is_named_in_full(build, settings, problem):
    with pytest.raises(ValueError, match=f"^{problem}"):
        build(settings)


@pytest.mark.parametrize("path", ["x" * 5000, "a/" * 3000, "a\0b", "\ud800"], ids=["name", "path", "NUL", "no UTF-8"])
@pytest.mark.parametrize(
    ("build", "key"),
    [
        (partial(build_corpus, "hub"), "data.path"),
        (partial(build_corpus, "text"), "data.path"),
        (partial(build_corpus, "python_source"), "data.folder"),
        (lambda settings: build_recipe({"name": "pretrained"} | settings), "tokenizer.path"),
    ],
    ids=["hub", "text", "python_source", "pretrained"],
)
def test_what_no_system_takes_as_a_path_is_refused_before_anything_is_read(build, key, path):
    with pytest.raises(ValueError, match=rf"^{key}='.{{1,99}}can't be the path of a file or folder"):
        build({key.partition(".")[2]: path})


def test_a_whole_number_of_a_tokenizer_may_be_written_as_a_float():
    assert repr(build_recipe({"name": "bpe", "vocab_size": 8e3}).vocab_size) == "8000"


def test_a_source_without_a_class_is_said_to_lack_it(monkeypatch):
    monkeypatch.delattr("data.sources.reverse.Source")
    with pytest.raises(ValueError, match=r"data/sources/reverse\.py has no Source"):
        build_corpus("reverse", {})


def test_an_error_without_a_message_is_said_by_its_kind(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("a")

    def fail(self):
        raise OSError

    monkeypatch.setattr("data.reading.opened", lambda file: nullcontext(SimpleNamespace(read=partial(fail, None))))
    with pytest.raises(ValueError, match=r"a\.txt cannot be read: OSError$"):
        read_text(tmp_path / "a.txt")


def test_every_data_file_bears_its_name_and_only_known_keys():
    for path in (CONF / "data").glob("*.yaml"):
        settings = yaml.safe_load(path.read_text())
        data = settings.get("data", settings)  # a task's file also sets the tokenizer and what is scored
        if is_mix(data):
            assert data.keys() == MixSettings.__dataclass_fields__.keys() and data["name"] == path.stem
            continue
        assert data["name"] == path.stem and data["source"] in modules("data/sources")
        source = source_class(data["source"])
        common = TaskSettings if issubclass(source, Task) else CorpusSettings
        assert data.keys() <= {*common.__dataclass_fields__, *parameters(source)}
