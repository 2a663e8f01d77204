"""The configuration that `python train.py` with some arguments has, as plain dicts and as settings."""

from __future__ import annotations

from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from conf.schema import CONF, Settings, typed
from eval.record.identity import register_names


def composed(*overrides: str) -> dict[str, Any]:
    """Resolved, as plain dicts."""
    register_names()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_container(compose("train", overrides=list(overrides)), resolve=True)


def settings(*overrides: str) -> Settings:
    return typed(Settings, composed(*overrides))
