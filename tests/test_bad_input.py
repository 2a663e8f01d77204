"""Whatever is typed for a setting is what the settings hold, or is refused in a sentence that names the setting.

python -m pytest tests/test_bad_input.py                 a sample
python -m pytest tests/test_bad_input.py -m slow         every setting, every value
"""

import random
import resource
import time
from types import SimpleNamespace

import pytest

from eval.measure.extended import as_chosen, check_extensions, extension_configs
from eval.record.identity import settings_of
from eval.record.jobs import check_place
from model.build import check_model
from model.catalogue import encoding_config
from model.encodings import Shape, build_encoding
from tests.bad_input import VALUES, ask, compositions, same, settings

LONGEST = 10  # seconds of the processor for an answer
REFUSALS = (ValueError, MemoryError)  # said in their sentence, exit code 1: eval.record.jobs
COMPOSITIONS = list(compositions().items())


def faults(chosen):
    """What is wrong with the answers to these, a line each."""
    found = []
    for base, key, value in chosen:
        said, start = None, time.process_time()
        try:
            typed, held = ask(base, key, value)
            if not same(typed, held):
                said = f"held as {held!r}"
        except Exception as error:
            sentence = str(error)
            if type(error) not in REFUSALS or len(sentence.splitlines()) != 1 or key.lstrip("+") not in sentence:
                said = f"{type(error).__name__}: {sentence}"
        if (took := time.process_time() - start) > LONGEST:
            said = f"took {took:.0f} s"
        if said:
            found.append(f"{' '.join(base)} {key}={value[:40]!r}: {said[:300]}")
    return found


def test_what_is_typed_is_what_is_held_or_is_refused_in_a_sentence_that_names_it():
    draw, chosen = random.Random(0), []
    for base, group in [*COMPOSITIONS[:3], *draw.sample(COMPOSITIONS[3:], 9)]:
        cases = [(base, key, value) for key in settings(base, group) for value in VALUES]
        chosen += draw.sample(cases, min(len(cases), 10))
    assert faults(chosen) == []


@pytest.mark.parametrize(
    "setting",
    ["model.dim=1e9", "model.num_layers=1e9", "model.mlp_ratio=1e9", "context=1e9", "training.batch_size=1e9"],
)
def test_a_model_beyond_all_memory_is_refused_by_its_sizes(setting):
    key = setting.partition("=")[0]
    with pytest.raises(ValueError, match=rf"{key}=1000000000(\.0)?[,:] .* memory that is free here"):
        check_model(settings_of("model=nano", "model.num_heads=1", setting))


def test_a_deep_model_is_checked_by_one_of_its_blocks():
    start = time.process_time()
    check_model(settings_of("model=nano", "model.dim=8", "model.num_heads=1", "model.num_layers=20000"))
    assert time.process_time() - start < LONGEST


def test_an_encoding_beyond_all_memory_is_refused_by_its_settings_and_others_are_not_held_back():
    limits = resource.getrlimit(resource.RLIMIT_AS)
    for setting in ("encoding.length=10000000000", "encoding.length=1000000000000000000"):
        with pytest.raises(MemoryError, match=rf"{setting}: lower what sets its size"):
            check_model(settings_of("model=nano", "encoding=learned", setting))
    assert resource.getrlimit(resource.RLIMIT_AS) == limits


def test_a_file_where_a_folder_should_be_is_named_before_anything_is_made(tmp_path):
    (tmp_path / "file").write_text("")
    for setting in (f"runs={tmp_path}/file", f"runs={tmp_path}/file/runs", f"cache_dir={tmp_path}/file"):
        with pytest.raises(ValueError, match=rf"^{setting}: {tmp_path}/file is no folder"):
            check_place(settings_of(setting))
    for setting in ("sweep=file", "run_id=file"):
        with pytest.raises(ValueError, match=rf"^{setting}: {tmp_path}/file is no folder"):
            check_place(settings_of(f"runs={tmp_path}", setting))


@pytest.mark.parametrize("setting", ["num_workers=1000000000", "trainer.threads=1000000000"])
def test_no_more_processes_are_started_than_a_machine_has_a_use_for(setting):
    with pytest.raises(ValueError, match=rf"^{setting}: this machine's "):
        check_place(settings_of(setting))


def test_settings_of_extensions_that_do_not_suit_the_model_are_refused_before_any_row_is_scored():
    encoding = build_encoding(encoding_config("rope"), Shape(dim=32, num_heads=2, num_layers=2, context=32))
    asked = settings_of("eval.extensions=[rerope]", "+eval.extension_settings.rerope.window=32").eval
    model = SimpleNamespace(encoding=encoding, trained_length=32)
    with pytest.raises(ValueError, match=r"^eval\.extension_settings\.rerope\.window=32: must be below"):
        check_extensions(asked, model, 256)
    with pytest.raises(ValueError, match=r"^extension\.window=32: must be below"), as_chosen({"name": "rerope"}):
        check_extensions(asked, model, 256)
    check_extensions(settings_of("eval.extensions=[all]").eval, model, 256)


def test_settings_of_an_extension_that_is_not_scored_are_refused_too():
    asked = settings_of("+eval.extension_settings.yarn.tune=banana").eval
    with pytest.raises(ValueError, match=r"^eval\.extension_settings\.yarn\.tune='banana': must be true or false"):
        extension_configs(asked)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("base", "group"), COMPOSITIONS, ids=lambda part: part if isinstance(part, str) else part[-1])
def test_every_value_of_every_setting_is_held_as_typed_or_refused_by_its_name(base, group):
    assert faults((base, key, value) for key in settings(base, group) for value in VALUES) == []
