"""Text of one's own: what is read is what the user gave, whatever its format, its name and what lies beside it.

python -m pytest tests/test_text.py
"""

import csv
import gzip
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.corpus import SPLITS, build_corpus
from tests.texts import BYTE, data_of, prepared


def rows(prefix, count=4):
    return [f"{prefix} row {i} {prefix * 20}" for i in range(count)]


def write_jsonl(path, texts, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text, **columns}) + "\n" for text in texts), encoding="utf-8")
    return path


def write_parquet(path, texts, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": pa.array(texts, pa.string()), **columns}), path)
    return path


def write_csv(path, texts):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["id", "text"], *enumerate(texts)])
    return path


def write_text(path, texts):
    (text,) = texts
    path.write_bytes(text.encode())
    return path


def compressed(write):
    def write_gz(path, texts):
        plain = write(path.with_suffix(""), texts)
        path.write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
        return path

    return write_gz


def read(path, **settings):
    """The texts of a path; parts of a text that was cut are joined again."""
    return read_with_remarks(path, **settings)[0]


def read_with_remarks(path, **settings):
    corpus = build_corpus("text", {"path": str(path), **settings})
    documents = [document for split in SPLITS for document in corpus.documents(split)]
    joined = {}
    for document in documents:
        name = document.name.partition(" [")[0]
        joined[name] = joined.get(name, "") + document.text
    return [joined[name] for name in sorted(joined)], " ".join(corpus.remarks())


# ------------------------------------------------------------------------------------------------- names and patterns


@pytest.mark.parametrize("write", [write_jsonl, write_parquet], ids=["jsonl", "parquet"])
@pytest.mark.parametrize("name", ["part[12]", "part?", "part*", "a::b", "ü=1 'q'", "file:x", "{1,2}", "%41"])
def test_a_file_is_read_by_its_name_and_not_as_a_pattern(tmp_path, write, name):
    suffix = ".jsonl" if write is write_jsonl else ".parquet"
    for other in ("part1", "part2", "A", "1"):
        write(tmp_path / f"{other}{suffix}", rows("other"))
    write(tmp_path / f"{name}{suffix}", rows("own"))
    assert read(tmp_path / f"{name}{suffix}") == rows("own")
    assert sorted(read(tmp_path)) == sorted([*rows("own"), *rows("other") * 4])


def test_a_folder_is_read_by_its_name_and_not_as_a_pattern(tmp_path):
    for folder in ("shard[0-1]", "shard0", "shard1"):
        write_jsonl(tmp_path / folder / "rows.jsonl", rows(folder))
    assert read(tmp_path / "shard[0-1]") == rows("shard[0-1]")


@pytest.mark.parametrize("key", ["path", "validation_path", "test_path"])
def test_the_home_is_expanded_in_every_path(tmp_path, monkeypatch, key):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_jsonl(tmp_path / "rows.jsonl", rows("own"))
    paths = dict.fromkeys(("path", "validation_path", "test_path"), str(tmp_path / "rows.jsonl"))
    corpus = build_corpus("text", paths | {key: "~/rows.jsonl"})
    assert [[d.text for d in corpus.documents(split)] for split in SPLITS] == [rows("own")] * 3


def test_an_unknown_home_is_a_path_that_does_not_exist():
    with pytest.raises(ValueError, match=r"~nobody-at-all/x does not exist"):
        read("~nobody-at-all/x")


# -------------------------------------------------------------------------------------------------------------- links


def test_linked_folders_are_read_once_and_links_to_nothing_are_named(tmp_path):
    corpus = tmp_path / "corpus"
    write_jsonl(corpus / "own.jsonl", rows("own"))
    write_jsonl(tmp_path / "elsewhere" / "deep" / "linked.jsonl", rows("linked"))
    os.symlink("../elsewhere", corpus / "sub")
    os.symlink("../elsewhere", corpus / "sub_again")
    os.symlink(corpus, tmp_path / "elsewhere" / "back")
    os.symlink("/nonexistent", corpus / "dangling.txt")
    os.symlink("itself", corpus / "itself")
    texts, remarks = read_with_remarks(corpus)
    assert sorted(texts) == sorted([*rows("own"), *rows("linked")])
    assert "being a link to nothing: dangling.txt, itself" in remarks


# --------------------------------------------------------------------------------------------------------------- rows


@pytest.mark.parametrize("value", ['{"a": 1}', '[1, "two", null]', "1" * 5000, "NaN", '"a word"', "true"])
def test_what_other_columns_hold_does_not_matter(tmp_path, value):
    path = write_jsonl(tmp_path / "rows.jsonl", rows("own"), labels=None)
    path.write_text(path.read_text() + f'{{"text": "last", "labels": {value}, "more": 1}}\n')
    assert sorted(read(path)) == sorted([*rows("own"), "last"])


def test_a_map_beside_the_text_does_not_matter(tmp_path):
    headers = pa.array([[("k", "v")]] * 4, pa.map_(pa.string(), pa.string()))
    write_parquet(tmp_path / "rows.parquet", rows("own"), headers=headers)
    assert read(tmp_path / "rows.parquet") == rows("own")


@pytest.mark.parametrize("column", ["a.b", "a b", "ü"])
def test_a_column_is_read_by_its_name(tmp_path, column):
    pq.write_table(pa.table({column: rows("own"), "a": [{"b": "other"}] * 4}), tmp_path / "rows.parquet")
    assert read(tmp_path / "rows.parquet", column=column) == rows("own")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({column: text}) + "\n" for text in rows("own")))
    assert read(tmp_path / "rows.jsonl", column=column) == rows("own")


def test_empty_shards_are_left_out_and_counted(tmp_path):
    write_jsonl(tmp_path / "part-0.jsonl", rows("own"))
    write_parquet(tmp_path / "part-1.parquet", rows("more"))
    write_parquet(tmp_path / "part-2.parquet", [])
    (tmp_path / "part-3.jsonl").write_text("")
    texts, remarks = read_with_remarks(tmp_path)
    assert sorted(texts) == sorted([*rows("own"), *rows("more")])
    assert "2 files without a row, left out: part-2.parquet, part-3.jsonl" in remarks


def test_an_empty_file_alone_holds_no_text(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="holds no text"):
        prepared(data_of(tmp_path / "empty.jsonl"), BYTE, context=8, batch_size=2, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize(
    "shape",
    [
        lambda lines: "[" + ",\n".join(lines) + "]\n",
        lambda lines: "\n\n".join(lines) + "\n \n",
        lambda lines: "\r\n".join(lines),
        lambda lines: "\ufeff" + "\n".join(lines),
        lambda lines: "\ufeff [" + ",".join(lines) + "]",
    ],
    ids=["array", "blank lines", "crlf", "byte order mark", "array with a mark"],
)
def test_rows_of_json_may_be_written_in_several_ways(tmp_path, shape):
    texts = [text + "\u2028\x85" for text in rows("own")]
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    (tmp_path / "rows.jsonl").write_bytes(shape(lines).encode())
    assert read(tmp_path / "rows.jsonl") == texts


def test_a_date_is_words(tmp_path):
    dates = [f"2024-01-{day:02}" for day in range(1, 13)]
    assert sorted(read(write_jsonl(tmp_path / "rows.jsonl", dates))) == dates


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"text": null}', r"line 5.*holds null instead of text.*leave it out"),
        ('{"text": 12}', r"line 5.*holds a number instead"),
        ('{"text": ["a"]}', r"line 5.*holds a list instead"),
        ('{"id": 12}', r"line 5.*no column 'text' but 'id': set data.column"),
        ('["text"]', r"line 5.*is no object"),
        ('{"text": "the file was cut he', r"line 5.*is no JSON.*cut off"),
        ('{"text": "a\\u0000b"}', r"line 5.*NUL at character 1"),
        ('{"text": "a\\ud800b"}', r"line 5.*lone surrogate at character 1.*repair"),
    ],
)
def test_a_row_without_text_is_refused_with_its_line(tmp_path, line, problem):
    path = write_jsonl(tmp_path / "rows.jsonl", rows("own"))
    path.write_text(path.read_text() + line)
    with pytest.raises(ValueError, match=rf"rows\.jsonl, {problem}"):
        read(path)


def test_bytes_that_are_no_text_are_named_by_line_and_byte(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(b'{"text": "ok"}\n{"text": "caf\xe9"}\n')
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 2, is not UTF-8 at byte 28"):
        read(tmp_path / "rows.jsonl")


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"text": ["a", None]}, "row 1: column 'text' holds null"),
        ({"text": [1, 2]}, "row 0: column 'text' holds int"),
        ({"body": ["a"]}, "no column 'text' but 'body'"),
        ({"text": ["a\0b"]}, "row 0: .*NUL"),
    ],
)
def test_a_row_of_parquet_without_text_is_refused(tmp_path, table, problem):
    pq.write_table(pa.table(table), tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match=rf"rows\.parquet.*{problem}"):
        read(tmp_path / "rows.parquet")


def test_a_file_that_is_no_parquet_is_named(tmp_path):
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 but cut")
    with pytest.raises(ValueError, match=r"rows\.parquet cannot be read as parquet"):
        read(tmp_path / "rows.parquet")


def test_commas_that_are_not_quoted_do_not_cut_a_text(tmp_path):
    (tmp_path / "rows.csv").write_text("id,text\n1,one\n2,one, two\n")
    with pytest.raises(ValueError, match=r"rows\.csv, .*line 3: has more values.*quote"):
        read(tmp_path / "rows.csv", suffixes=[".csv"])


# ------------------------------------------------------------------------------------------- one text, in every format

FORMATS = {
    ".txt": write_text,
    ".rst": write_text,
    ".txt.gz": compressed(write_text),
    ".jsonl": write_jsonl,
    ".jsonl.gz": compressed(write_jsonl),
    ".csv": write_csv,
    ".csv.gz": compressed(write_csv),
    ".parquet": write_parquet,
}


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_text_is_the_same_in_every_format(tmp_path, suffix):
    text = 'one\r\n"two"\r\rthree,\n\nnaïve \u2028 🦜\tend'
    path = FORMATS[suffix](tmp_path / f"rows{suffix}", ["\ufeff" + text])
    assert read(path, suffixes=[suffix]) == ['one\n"two"\n\nthree,\n\nnaïve \u2028 🦜\tend']


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_nul_is_refused_in_every_format(tmp_path, suffix):
    path = FORMATS[suffix](tmp_path / f"rows{suffix}", ["one\0two"])
    with pytest.raises(ValueError, match=r"rows\..*NUL at character 3.*remove it"):
        read(path, suffixes=[suffix])


def test_a_long_text_fits_a_csv(tmp_path):
    assert read(write_csv(tmp_path / "rows.csv", ["a" * 200_000]), suffixes=[".csv"]) == ["a" * 200_000]


# ----------------------------------------------------------------------------------------------------------- suffixes


def test_the_files_that_are_read_are_chosen_by_suffix_and_the_others_are_named(tmp_path):
    for name in ("a.rst", "b.TXT", "c.py"):
        (tmp_path / name).write_text(name)
    texts, remarks = read_with_remarks(tmp_path)
    assert texts == ["b.TXT"]
    assert "2 files ending in none of .txt, .md, .jsonl or .parquet, not read" in remarks
    assert "(see data.suffixes): a.rst, c.py" in remarks
    assert read(tmp_path, suffixes=[".rst", ".py"]) == ["a.rst", "c.py"]


def test_a_file_of_another_suffix_is_refused_with_the_setting(tmp_path):
    (tmp_path / "a.tex").write_text("text")
    with pytest.raises(ValueError, match=r"a\.tex holds no \.txt.* file: set data\.suffixes"):
        read(tmp_path / "a.tex")


@pytest.mark.parametrize("suffixes", [[], ["txt"], ["."], [3]])
def test_suffixes_that_are_none_are_refused(tmp_path, suffixes):
    with pytest.raises(ValueError, match=r"data\.suffixes="):
        read(tmp_path, suffixes=suffixes)


def test_a_home_that_cannot_be_written_to_does_not_matter(program, tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", rows("own", 20))
    code = f"from data.corpus import build_corpus; c = build_corpus('text', {{'path': {str(tmp_path)!r}}});"
    run = program("-c", code + "print(len(list(c.documents('train'))))", command=(), runs=tmp_path, HOME="/proc/none")
    assert (run.returncode, run.stdout.strip()) == (0, "18"), run.stderr
