"""Settings held against the signature of the class that takes them.

python -m pytest tests/test_signature.py
"""

import math
from collections.abc import Mapping, Sequence

import pytest

from conf.signature import check_types, parameters, whole


class Sample:
    def __init__(
        self,
        whole: int,
        number: float,
        word: str,
        flag: bool,
        many: list[float],
        perhaps: int | None = None,
        either: str | bool | None = None,
        layered: Sequence[float | None] | None = None,
        named: Mapping[str, str] | None = None,
        anything=None,
        of_its_own: "Sample | None" = None,
    ):
        pass


RIGHT = {
    "whole": [0, -3, 2**63 - 1, -(2**63)],
    "number": [0, 0.5, -1e300],
    "word": ["", "abc", "3"],
    "flag": [True, False],
    "many": [[], [1.0], [1, -0.5]],
    "perhaps": [None, 3],
    "either": ["a", True, None],
    "layered": [None, [], [None, 3], (1.5,)],
    "named": [None, {}, {"a": "b"}],
    "anything": [None, 3, "a", [], {}, math.nan],
    "of_its_own": [None, 3, "a", {}],
    "unknown": [None, 3, "a"],  # whoever makes the object refuses it
}
WRONG = {
    "whole": ([1.0, True, "1", None, [1], {}], "a whole number"),
    "number": ([math.nan, math.inf, -math.inf, True, "0.5", None, [0.5]], "a finite number"),
    "word": ([3, None, True, ["a"]], "a word"),
    "flag": ([0, 1, "true", None], "true or false"),
    "many": ([None, 0.5, "a", {}, ["a"], [None], [[1.0]], [math.nan], [True]], "a list (each a finite number)"),
    "perhaps": ([1.5, "3", False], "a whole number or null"),
    "either": ([3, 0.5, []], "a word or true or false or null"),
    "layered": ([3, [True], "a"], "a list (each a finite number or null) or null"),
    "named": ([3, [], "a"], "a group of settings (each a word) or null"),
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in RIGHT.items() for value in values])
def test_a_value_of_the_kind_that_a_class_asks_for_is_taken(key, value):
    check_types(Sample, {key: value}, "sample")


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, (values, _) in WRONG.items() for value in values])
def test_a_value_of_another_kind_is_refused_by_its_name(key, value):
    with pytest.raises(ValueError) as error:
        check_types(Sample, {"anything": 1, key: value}, "sample")
    assert str(error.value) == f"sample.{key}={value!r}: must be {WRONG[key][1]}"


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 10**30])
def test_a_whole_number_that_no_tensor_holds_is_refused(value):
    with pytest.raises(ValueError, match=rf"^sample\.whole={value}: must be a whole number of at most 64 bits$"):
        check_types(Sample, {"whole": value}, "sample")


def test_a_value_within_a_group_is_refused_by_its_full_name():
    for value in (1, None, [], True):
        with pytest.raises(ValueError) as error:
            check_types(Sample, {"named": {"a": "b", "c": value}}, "sample")
        assert str(error.value) == f"sample.named.c={value!r}: must be a word"


def test_a_whole_number_may_be_written_as_a_float():
    given = {"whole": 1e3, "perhaps": 2.0, "number": 1e3, "anything": 1e3, "unknown": 1.0}
    taken = whole(Sample, given)
    assert taken == given and [type(value) for value in taken.values()] == [int, int, float, float, float]
    check_types(Sample, taken, "sample")
    assert whole(Sample, {"whole": 1.5, "perhaps": math.inf}) == {"whole": 1.5, "perhaps": math.inf}


def test_a_whole_number_that_no_tensor_holds_is_a_float_where_a_class_takes_one():
    given = {"number": 2**63, "whole": 2**63, "anything": 2**63}
    taken = whole(Sample, given)
    assert taken == given and [type(value) for value in taken.values()] == [float, int, int]
    check_types(Sample, whole(Sample, {"number": 10**300}), "sample")
    with pytest.raises(ValueError, match=r"^sample\.number=10*: must be a finite number$"):
        check_types(Sample, whole(Sample, {"number": 10**400}), "sample")


def test_parameters_are_the_arguments_that_a_class_takes():
    found = parameters(Sample)
    assert list(found) == [*WRONG, "anything", "of_its_own"]
    assert found["whole"].default is found["whole"].empty and found["perhaps"].default is None
