"""Whatever is typed for a setting is what the settings hold, or is refused in a sentence that names the setting.

python -m pytest tests/test_bad_input.py                 a sample
python -m pytest tests/test_bad_input.py -m slow         every setting, every value
"""

import random

import pytest

from tests.bad_input import VALUES, ask, compositions, same, settings

COMPOSITIONS = list(compositions().items())


def faults(chosen):
    """What is wrong with the answers to these, a line each."""
    found = []
    for base, key, value in chosen:
        said = None
        try:
            typed, held = ask(base, key, value)
            if not same(typed, held):
                said = f"held as {held!r}"
        except Exception as error:
            sentence = str(error)
            if type(error) is not ValueError or len(sentence.splitlines()) != 1 or key.lstrip("+") not in sentence:
                said = f"{type(error).__name__}: {sentence}"
        if said:
            found.append(f"{' '.join(base)} {key}={value[:40]!r}: {said[:300]}")
    return found


def test_what_is_typed_is_what_is_held_or_is_refused_in_a_sentence_that_names_it():
    draw, chosen = random.Random(0), []
    for base, group in [*COMPOSITIONS[:3], *draw.sample(COMPOSITIONS[3:], 9)]:
        cases = [(base, key, value) for key in settings(base, group) for value in VALUES]
        chosen += draw.sample(cases, min(len(cases), 10))
    assert faults(chosen) == []


@pytest.mark.slow
@pytest.mark.parametrize(("base", "group"), COMPOSITIONS, ids=lambda part: part if isinstance(part, str) else part[-1])
def test_every_value_of_every_setting_is_held_as_typed_or_refused_by_its_name(base, group):
    assert faults((base, key, value) for key in settings(base, group) for value in VALUES) == []
