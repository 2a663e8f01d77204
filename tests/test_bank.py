"""The bank: the standard setting, its file, and what is put beside it.

python -m pytest tests/test_bank.py
"""

import pytest
from omegaconf import OmegaConf

from conf.schema import CONF
from conf.typed import digest, plain
from eval.compare.runs import flatten
from eval.record.identity import NOT_IDENTITY, settings_of

MACHINE = ("trainer.name", "trainer.accelerator", "trainer.threads")


def test_the_standard_setting_states_all_that_its_numbers_depend_on():
    stated = flatten(OmegaConf.to_container(OmegaConf.load(CONF / "experiment" / "standard.yaml")))
    settings = flatten(plain(settings_of("experiment=standard")))
    free = (*NOT_IDENTITY, "encoding", "seed", "defaults", *MACHINE)
    needed = {key for key in settings if not {key, key.split(".")[0]} & {*free}}
    assert needed - {"eval.extension_settings"} <= stated.keys()
