"""Where Hydra looks for encodings of one's own: in the folder of `conf.own`, whose NAME.yaml is encoding=NAME there.

Hydra looks for plugins in a package of this name, and imports what lies there at every start: light.
"""

from __future__ import annotations

from pathlib import Path

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.search_path_plugin import SearchPathPlugin

from conf.own import check_own, names_in, own_folder

GROUP = "encoding"


class OwnEncodings(SearchPathPlugin):
    """Adds the folder in use to what a command is composed of, after conf. Raises ValueError where it can't be."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if folder := own_folder():
            check_own()
            search_path.append("own encodings", f"{OwnSource.scheme()}://{folder}")


class OwnSource(FileConfigSource):
    """A folder as the group `encoding`, and nothing else."""

    @staticmethod
    def scheme() -> str:
        return "encodings"

    def available(self) -> bool:
        return super().is_group("")

    def is_group(self, config_path: str) -> bool:
        return config_path.strip("/") in ("", GROUP)

    def is_config(self, config_path: str) -> bool:
        group, _, name = config_path.strip("/").rpartition("/")
        return group == GROUP and super().is_config(name)

    def load_config(self, config_path: str):
        return super().load_config(config_path.rpartition("/")[2])

    def list(self, config_path: str, results_filter):
        if config_path.strip("/") != GROUP:
            return [] if results_filter == ObjectType.CONFIG else [GROUP]
        return [] if results_filter == ObjectType.GROUP else names_in(Path(self.path))
