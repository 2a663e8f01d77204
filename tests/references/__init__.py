"""References: every encoding again, from its paper's formula alone, in float64 numpy and loops over (i, j).

Each module here holds `REFERENCES`, a dict from the name of a yaml in conf/encoding to a `Reference`. A reference takes
learned parameter values and settings off the encoding object and nothing else: slopes, buckets, angles and ramps are
computed again from the formula, never by the encoding's code. tests/test_references.py holds each encoding to its own.

Shapes in names: T tokens, H heads, K head width, D model width; one sequence, no batch axis.
"""

import importlib
import math
import pkgutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scripts.command import rewritten


def identity(encoding, x_TD: np.ndarray, tokens_T: np.ndarray) -> np.ndarray:
    """The embeddings as they are."""
    return x_TD


def softmax_rows(score: Callable[[int, int, int], float], H: int, T: int, v_HTK: np.ndarray) -> np.ndarray:
    """Causal attention: out[h, i] = Σ_{j ≤ i} softmax_j(score(h, i, j)) · v[h, j]; score is called for j ≤ i alone."""
    out_HTK = np.zeros((H, T, v_HTK.shape[-1]))
    for h in range(H):
        for i in range(T):
            scores = [float(score(h, i, j)) for j in range(i + 1)]
            highest = max(scores)
            weights = [math.exp(s - highest) for s in scores]
            total = math.fsum(weights)
            for j, weight in enumerate(weights):
                out_HTK[h, i] += weight / total * v_HTK[h, j]
    return out_HTK


def plain_output(encoding, q_HTK, k_HTK, v_HTK, x_TD, tokens_T, layer: int) -> np.ndarray:
    """Scores are q_i · k_j / √K and nothing else."""
    H, T, K = q_HTK.shape
    return softmax_rows(lambda h, i, j: q_HTK[h, i] @ k_HTK[h, j] / math.sqrt(K), H, T, v_HTK)


@dataclass(frozen=True)
class Reference:
    """What an encoding has to compute, and where that was taken from.

    source: the paper's equation, or the third-party code, that the reference was written from.
    output: (encoding, q_HTK, k_HTK, v_HTK, x_TD, tokens_T, layer) -> each head's output, (H, T, K).
    embed: (encoding, x_TD, tokens_T) -> the embeddings before the first block, (T, D).
    tolerance: largest error allowed, relative to the output's size; above 1e-9 only where a table is float32 by intent.
    """

    source: str
    output: Callable = plain_output
    embed: Callable = identity
    tolerance: float = 1e-9


README = Path(__file__).parent.parent / "README.md"


def all_references() -> dict[str, Reference]:
    """The references of every module in this folder, by the name of the encoding. Raises ValueError for a name that
    two modules have."""
    found: dict[str, Reference] = {}
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name):
        if module.name == "__main__":
            continue
        references = importlib.import_module(f"{__name__}.{module.name}").REFERENCES
        if twice := found.keys() & references.keys():
            raise ValueError(f"tests/references/{module.name}.py: another module has {', '.join(sorted(twice))} too")
        found |= references
    return found


def how_to_add(name: str) -> str:
    """What to do about an encoding that has no reference."""
    return (
        f"conf/encoding/{name}.yaml has no reference, a second implementation from the paper's formula alone: write "
        f"tests/references/{name}.py with a function output(encoding, q_HTK, k_HTK, v_HTK, x_TD, tokens_T, layer), a "
        "float64 loop over (i, j) as those beside it, and with\n\n"
        f'    REFERENCES = {{"{name}": Reference(source="Author et al. 2025, equation 1", output=output)}}\n\n'
        "(of an encoding that is added to the embeddings, embed= in place of output=; of a bias, "
        "output=bias_output(bias) of tests/references/bias.py)"
    )


def readme_with_table(readme: str, names: Collection[str] | None = None) -> str:
    """The README's text, its table of references rewritten from the references themselves: all, or of these alone."""
    chosen = {name: each for name, each in sorted(all_references().items()) if names is None or name in names}
    rows = [f"| `{name}` | {reference.source} |" for name, reference in chosen.items()]
    return rewritten(readme, "references", "\n".join(["| encoding | reference, written from |", "|---|---|", *rows]))
