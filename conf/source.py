"""The source of a class that a config names, as a hash: what it computes is part of what its numbers depend on.

Docstrings, comments and layout are none of it. Light: files are read, nothing in them is imported.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from conf.own import is_own, module_file

SLOTS = ("model.encodings", "model.extensions")  # a class outside of them may be derived from one inside


def source_hash(*configs: Mapping[str, Any] | str) -> str:
    """SHA-256, hexadecimal, of the modules that `_target_` names anywhere in these configs, or that stand here by
    name, and of those beside them that they import; a module that isn't found counts by its name."""
    digest = hashlib.sha256()
    found: dict[str, Path | None] = {}
    for config in configs:
        for name in [config] if isinstance(config, str) else sorted(_targets(config)):
            _collect(name, found)
    for name, path in sorted(found.items()):
        digest.update(f"{name} {_code(path) if path else ''}\n".encode())
    return digest.hexdigest()


def _targets(config: Any) -> Iterator[str]:
    """The modules of all classes named in nested settings."""
    if isinstance(config, Mapping):
        if isinstance(target := config.get("_target_"), str):
            yield target.rpartition(".")[0]
        config = config.values()
    if not isinstance(config, str) and hasattr(config, "__iter__"):
        for value in config:
            yield from _targets(value)


def _collect(name: str, found: dict[str, Path | None]) -> None:
    """The module and, as they import one another, its neighbours: other files of its folder, and of the slots. The
    slots themselves, and packages in general, are what modules share and no part of one. Of a module in a folder of
    one's own (`conf.own`) all files of that folder are neighbours, packages too."""
    if name in found:
        return
    path = found[name] = module_file(name)
    if path is None:
        return
    own = is_own(path)
    near = SLOTS if own else (name.rpartition(".")[0], *SLOTS)
    for imported in _imports(path, name):
        beside = imported.rpartition(".")[0] in near
        other = module_file(imported) if beside or own else None
        if is_own(other) or (beside and other and other.name != "__init__.py"):
            _collect(imported, found)


@functools.cache  # as `_tree`
def _imports(path: Path, name: str) -> set[str]:
    """The modules that a file may import: `from a import b` names a and a.b."""
    names: set[str] = set()
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = f"{name}.__init__" if path.name == "__init__.py" else name
                base = ".".join([*package.split(".")[: -node.level], *([base] if base else [])])
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return names


@functools.cache  # a process computes by what it has imported, whatever becomes of the file meanwhile
def _tree(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes())
    except SyntaxError:  # said by whoever imports it
        return ast.Module(body=[], type_ignores=[])


@functools.cache
def _code(path: Path) -> str:
    return _plain(_tree(path))


def _plain(node: Any) -> str:
    """A syntax tree without docstrings and places, and without empty fields, by which Python's versions differ."""
    if isinstance(node, ast.AST):
        fields = dict(ast.iter_fields(node))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False):
            fields["body"] = fields["body"][1:]
        shown = [f"{name}={_plain(value)}" for name, value in fields.items() if value not in (None, [])]
        return f"{type(node).__name__}({', '.join(shown)})"
    return f"[{', '.join(map(_plain, node))}]" if isinstance(node, list) else repr(node)
