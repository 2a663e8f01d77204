"""The listing of encodings (scripts/encodings.py) and the catalogue that it reads (model/catalogue.py).

python -m pytest tests/test_encodings_script.py
"""

import json

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from conf.schema import CONF
from model.catalogue import encoding_config, encoding_names
from model.encodings.none import NoPE
from scripts.encodings import describe, main, paper


@pytest.fixture
def no_hydra():
    """Hydra as it is in a process that didn't use it yet."""
    GlobalHydra.instance().clear()
    yield
    GlobalHydra.instance().clear()


def test_the_listing_has_a_row_for_every_file(capsys):
    main(["--json"])
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == encoding_names()
    assert all(row["class"] for row in rows)


def test_a_row_says_what_an_encoding_is():
    assert describe("learned") == {
        "name": "learned",
        "family": "added to the embeddings",
        "class": "Learned",
        "inner": [],
        "parameters": 128 * 128,
        "max_length": 128,
        "relative": False,
        "hooks": ["embed"],
        "paper": "https://arxiv.org/abs/1810.04805",
    }
    assert describe("t5")["parameters"] == 4 * 32
    assert describe("none")["hooks"] == []
    assert describe("rope_fox")["inner"] == ["RoPE", "FoX"]
    assert describe("rope_fox")["hooks"] == ["rotate", "score_mod"]


def test_a_link_is_taken_without_the_full_stop_that_follows():
    class Ours(NoPE):
        """From https://arxiv.org/abs/1234.56789. And then https://example.org."""

    class Variant(Ours):
        """Another."""

    assert paper(Ours) == paper(Variant) == "https://arxiv.org/abs/1234.56789"


def test_the_table_is_printed_for_people(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    main([])
    out = capsys.readouterr().out
    assert "arxiv.org/abs/2104.09864" in out
    assert all(name in out for name in ("rope", "alibi", "16,384"))


def test_a_config_is_read_inside_a_running_hydra_job(no_hydra):
    with initialize_config_dir(str(CONF), job_name="outer", version_base="1.3"):
        job = GlobalHydra.instance().hydra
        assert encoding_config("rope", ["encoding.base=7"])["base"] == 7
        assert GlobalHydra.instance().hydra is job
        assert compose(overrides=["+encoding=rope"]).encoding.base == 10_000


def test_reading_a_config_leaves_no_hydra_behind(no_hydra):
    encoding_config("rope", ["encoding.base=8"])
    assert not GlobalHydra.instance().is_initialized()


def test_each_config_is_the_callers_own():
    encoding_config("rope")["base"] = 1.0
    assert encoding_config("rope")["base"] == 10_000.0


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="encoding='rop': there is no such option; did you mean rope"):
        encoding_config("rop")


def test_an_override_of_no_setting_is_refused():
    with pytest.raises(ValueError, match=r"encoding\.bass: there is no such setting; did you mean encoding\.base"):
        encoding_config("rope", ["encoding.bass=3"])
