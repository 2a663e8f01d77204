"""Shows what each encoding of conf/encoding does to position, before any training, in one page that opens offline.

    python -m scripts.explore                                # explorer.html
    python -m scripts.explore --run DIR [--out PAGE.html]    # with the curves that a run has learned

Every number in the page comes from the encodings themselves, through model/attention.py: sliders move over values that
are computed here. The layer that scores are taken from is a random one: tokens x ~ N(0, 1/width) are embedded and
normalised, q and k are projections of them by matrices of N(0, 1/D), and each head's are normalised to length √K.
explorer.html and explorer.js draw.

Shapes in names as in model/encodings; N draws, P pairs of a rotation, S rows and columns of a map.
"""

from __future__ import annotations

import argparse
import functools
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from conf.progress import Progress
from conf.schema import fewest_layers
from eval.compare.packed import asset, packed, plotly
from eval.compare.plots import COLOURS, SHADES, styles
from eval.record.files import write_atomic
from eval.record.folder import RunFolder
from eval.record.trained import last_weights
from model.attention import attention
from model.build import build_transformer
from model.catalogue import encoding_config, encoding_names
from model.encodings import PositionEncoding, Shape, build_encoding
from model.encodings.layers import Layers
from model.encodings.rope import RoPE
from model.encodings.rope_layerwise import RoPELayerwise
from model.encodings.sinusoidal import sinusoids
from model.extensions import view
from scripts.command import end_with
from scripts.encodings import SHAPE, describe, used, with_layers

BASES = (10, 100, 1_000, 10_000, 100_000, 500_000, 1_000_000)
WIDTHS = (4, 8, 16, 32, 64, 128)  # of the model
HEAD_WIDTHS = (4, 8, 16, 32, 64)
POSITIONS = 2 * SHAPE.context  # of the sinusoids and the turning pairs
STRETCH = 4  # curves go to so many training contexts
MAP_STRETCH, MAP_POINTS = 2, 52  # and maps, with so many rows and columns
DRAWS, MAP_DRAWS = 24, 8
LAYERS = 2  # of an untrained encoding: the shortest pattern over layers
BAND = (0.1, 0.9)  # quantiles over the draws
SEARCHES = {"same": "the same token everywhere, q = k", "independent": "tokens, q and k independent"}


class Pack:
    """Arrays of numbers as one compressed buffer of 16-bit steps between each array's least and greatest number: off by
    less than 1/130,000 of that range. What is not finite is a gap. Equal arrays are kept once."""

    GAP = 65535

    def __init__(self):
        self.buffer = bytearray()
        self.known: dict[bytes, dict[str, Any]] = {}

    def add(self, numbers: Tensor) -> dict[str, Any]:
        """Where the page finds the array: offset (in numbers), shape, value of 0 and of one step."""
        array = numbers.detach().double().numpy()
        finite = np.isfinite(array)
        low, high = (array[finite].min(), array[finite].max()) if finite.any() else (0.0, 0.0)
        step = (high - low) / (self.GAP - 1) or 1.0
        steps = np.where(finite, np.rint((np.where(finite, array, low) - low) / step), self.GAP).astype("<u2")
        key = steps.tobytes() + np.array([low, step, *array.shape]).tobytes()
        if key not in self.known:
            self.known[key] = {"at": len(self.buffer) // 2, "shape": list(array.shape), "low": low, "step": step}
            self.buffer += steps.tobytes()
        return self.known[key]

    def text(self) -> str:
        return packed(bytes(self.buffer))


# -------------------------------------------------------------------------------------------------------------- scores


class Seen:
    """Mixin of a view on any encoding: `see` is given the scores of attention before the softmax, (N, H, Q, T); of an
    encoding that makes weights out of whole rows, the logarithms of its weights."""

    def weigh(self, scores_NHQT, visible_QT, *rest):
        weights_NHQT = super().weigh(scores_NHQT, visible_QT, *rest)
        seen = weights_NHQT.log() if self.whole_rows else scores_NHQT
        self.see(seen.masked_fill(~visible_QT, float("-inf")))
        return weights_NHQT


@torch.no_grad()
def scores(encoding: PositionEncoding, length: int, layer: int, *, same: bool, draws: int, rows: int) -> Tensor:
    """Scores of the last `rows` rows of `length` tokens in a random layer, as attention sees them: (N, H, rows, T).

    same: one token everywhere, and q = k; else tokens, and the projections to q and k, are independent.
    """
    shape, D = encoding.shape, encoding.shape.dim
    encoding = encoding.double().eval()
    positions = encoding.positions(text_of_lines(shape, length).expand(draws, -1))
    x_NTD = encoding.embed(D**-0.5 * normal(0, draws, 1 if same else length, D).expand(-1, length, -1), positions)
    x_NTD = F.rms_norm(x_NTD, (D,))
    to_q_NDD = normal(1, draws, D, D) / D**0.5
    to_k_NDD = to_q_NDD if same else normal(2, draws, D, D) / D**0.5
    q, k = ((x_NTD @ to).unflatten(-1, (shape.num_heads, -1)).transpose(1, 2) for to in (to_q_NDD, to_k_NDD))
    q, k = (F.rms_norm(heads, (shape.head_dim,)) for heads in (q, k))
    seen: list[Tensor] = []
    watched = view(encoding, Seen, see=seen.append, whole_rows=encoding.rescores, rescores=True)
    attention(q, k, q, watched, positions, x_NTD, layer, queries=rows, executor="dense")
    return seen[0]


@functools.lru_cache(maxsize=8)  # drawing takes longer than attention, and all encodings get the same
def normal(seed: int, *sizes: int) -> Tensor:
    return torch.randn(sizes, generator=torch.Generator().manual_seed(seed)).double()


def text_of_lines(shape: Shape, length: int) -> Tensor:
    """Tokens (1, length) with a line's end at every 12th and a sentence's at every 30th, for encodings that look."""
    tokens = torch.zeros(1, length, dtype=torch.long)
    for unit, every in (("line", 12), ("sentence", 30)):
        if ids := shape.separators.get(unit):
            tokens[:, every - 1 :: every] = ids[0]
    return tokens


def reach(encoding: PositionEncoding, stretch: int) -> int:
    """`stretch` training contexts, or as far as the encoding is defined; tokens."""
    return min(stretch * encoding.shape.context, encoding.max_length or sys.maxsize)


def curves(encoding: PositionEncoding, layer: int, same: bool) -> Tensor:
    """The last row's scores by head and distance: mean over draws, and the band's ends, (H, 3, T)."""
    length = reach(encoding, STRETCH)
    (row_NHT,) = scores(encoding, length, layer, same=same, draws=DRAWS, rows=1).unbind(dim=2)
    row_NHT = row_NHT.flip(-1)
    ends = torch.quantile(row_NHT, torch.tensor(BAND, dtype=row_NHT.dtype), dim=0)
    return torch.stack([row_NHT.mean(dim=0), *ends], dim=1)


def map_positions(encoding: PositionEncoding) -> Tensor:
    """The positions that maps are given at, tokens."""
    length = reach(encoding, MAP_STRETCH)
    return torch.arange(0, length, max(1, -(-length // MAP_POINTS)))


def score_map(encoding: PositionEncoding, layer: int) -> Tensor:
    """Mean scores of query i and key j by head, the same token everywhere: (H, S, S)."""
    length, at = reach(encoding, MAP_STRETCH), map_positions(encoding)
    whole_NHTT = scores(encoding, length, layer, same=True, draws=MAP_DRAWS, rows=length)
    return whole_NHTT.mean(dim=0)[:, at][..., at]


@torch.no_grad()
def embedding_map(encoding: PositionEncoding) -> Tensor:
    """Cosines between what is added to the tokens at i and at j; where nothing is added to a token of zeros (a turn of
    the embeddings), between what becomes of one random token there: (1, S, S)."""
    length, at = reach(encoding, MAP_STRETCH), map_positions(encoding)
    positions = encoding.positions(text_of_lines(encoding.shape, length))
    token_1TD = torch.zeros(1, length, encoding.shape.dim, dtype=torch.float64)
    out_1TD = encoding.embed(token_1TD, positions)
    if not out_1TD.any():
        out_1TD = encoding.embed(normal(0, encoding.shape.dim) + token_1TD, positions)
    unit_1SD = F.normalize(out_1TD[:, at], dim=-1)
    return unit_1SD @ unit_1SD.mT


# ---------------------------------------------------------------------------------------------------------------- page


def explored(encoding: PositionEncoding, label: str, layers: int, pack: Pack) -> dict[str, Any]:
    """One state of an encoding (untrained, trained), as the page has it."""
    scoring = ("rotate", "rescore", "score_mod", "weigh")
    embeds = used(encoding, "embed") and not any(used(encoding, hook) for hook in scoring)
    maps = [embedding_map(encoding)] * layers if embeds else [score_map(encoding, layer) for layer in range(layers)]
    turns = any(isinstance(part, RoPE) for part in encoding.modules())
    return {
        "label": label,
        "context": encoding.shape.context,
        "heads": encoding.shape.num_heads,
        "layers": layers,
        "logarithms": encoding.rescores,
        "length": reach(encoding, STRETCH),
        "asked": STRETCH * encoding.shape.context,
        "curves": {
            name: [[pack.add(head) for head in curves(encoding, layer, name == "same")] for layer in range(layers)]
            for name in SEARCHES
        },
        "mapOf": "embeddings" if embeds else "scores",
        "mapAt": map_positions(encoding).tolist(),
        "maps": [[pack.add(head) for head in heads] for heads in maps],
        "pairs": [turning(*rotation(encoding, layer), pack) for layer in range(layers)] if turns else None,
    }


def rotation(encoding: PositionEncoding, layer: int) -> tuple[RoPE, int]:
    """The rotation of a layer, and which of the layers that it has this is; where layers differ and this one has none,
    one that stands still."""
    here, own = (encoding.at(layer), encoding.places[layer][1]) if isinstance(encoding, Layers) else (encoding, layer)
    still = RoPELayerwise(encoding.shape, bases=[RoPE(encoding.shape).base, None])
    return next(((part, own) for part in here.modules() if isinstance(part, RoPE)), (still, 1))


@torch.no_grad()
def turning(rotation: RoPE, layer: int, pack: Pack) -> list[dict[str, Any]]:
    """The pairs of a rotation, by head where heads differ: wavelengths (tokens a turn, None where it stands still), the
    cosine and sine of each position and pair (2, positions, P), and the mean cosine of each position."""
    tokens_1T = text_of_lines(rotation.shape, POSITIONS)
    cos, sin = rotation.cos_sin(rotation.positions(tokens_1T), layer, torch.float64)
    frequencies = rotation.frequencies(layer)
    cos, sin, frequencies = (t.reshape(-1, *t.shape[-2:]) for t in (cos, sin, torch.atleast_2d(frequencies)))
    frequencies = frequencies.reshape(-1, frequencies.shape[-1])
    return [
        {
            "wavelengths": [2 * torch.pi / float(theta) if theta else None for theta in frequencies_P],
            "turns": pack.add(torch.stack([cos_TP, sin_TP])),
            "mean": pack.add(cos_TP.mean(dim=-1)),
        }
        for cos_TP, sin_TP, frequencies_P in zip(cos, sin, frequencies, strict=True)
    ]


def states(name: str, run: RunFolder | None, pack: Pack) -> Iterator[dict[str, Any]]:
    """An encoding as it starts; where it starts with parameters of zero, with those drawn at random, so that its form
    is seen; and as the run left it, if the run is of this encoding."""
    config = encoding_config(name)
    encoding, layers = build_encoding(config, with_layers(SHAPE, config)), max(LAYERS, fewest_layers(config))
    yield explored(encoding, "before training", layers, pack)
    if draw_zeros(encoding):
        yield explored(encoding, "an example: its zeros drawn from N(0, 1)", layers, pack)
    if run is not None and run.settings.encoding["name"] == name:
        encoding, options = trained_encoding(run), ", ".join(run.settings.model.options.values())
        label = f"trained: {run.name}" + f" ({options})" * bool(options)
        yield explored(encoding, label, encoding.shape.num_layers, pack)


@torch.no_grad()
def draw_zeros(encoding: PositionEncoding) -> bool:
    """Draws parameters that are zero everywhere from N(0, 1), in place; whether there were any."""
    generator = torch.Generator().manual_seed(0)
    zeros = [parameter for parameter in encoding.parameters() if not parameter.any()]
    for parameter in zeros:
        parameter.normal_(generator=generator)
    return bool(zeros)


def trained_encoding(run: RunFolder) -> PositionEncoding:
    """The encoding of a run with the weights of its last checkpoint. Raises ValueError where it has none."""
    weights = last_weights(run)
    model = build_transformer(run.settings, len(weights["embedding.weight"]), SHAPE.separators)
    model.load_state_dict(weights)
    return model.encoding


def explain(name: str) -> dict[str, Any]:
    """What is known of an encoding beside its numbers: claims, settings, and what its class says of itself."""
    config = encoding_config(name)
    encoding = build_encoding(config, with_layers(SHAPE, config))
    return {
        **describe(name),
        "settings": {key: value for key, value in config.items() if key not in ("name", "_target_")},
        "definition": paragraphs(inspect.getdoc(type(encoding)) or ""),
        "table": used(encoding, "embed") and any(parameter.ndim > 1 for parameter in encoding.parameters()),
    }


def paragraphs(docstring: str) -> list[str]:
    """A docstring's paragraphs in lines of any length, list items in lines of their own; without its examples.

    >>> paragraphs("Two lines\\nof one.\\n\\n- an item\\n\\n>>> 1\\n1")
    ['Two lines of one.', '- an item']
    """
    blocks = [block for block in docstring.split("\n\n") if not block.startswith(">>>")]
    return [re.sub(r"\n(?!- )\s*", " ", block) for block in blocks]


def page(names: Sequence[str], run: RunFolder | None = None, report: Callable[[str], None] = lambda name: None) -> str:
    """The page with these encodings; `report` is told of each."""
    pack, positions, style = Pack(), torch.arange(POSITIONS), styles(names)
    encodings = []
    for name in names:
        report(name)
        look = {"colour": style[name].colour, "dash": style[name].dash}
        encodings.append({**explain(name), **look, "states": list(states(name, run, pack))})
    index = {
        "context": SHAPE.context,
        "shape": {"dim": SHAPE.dim, "heads": SHAPE.num_heads, "layers": SHAPE.num_layers},
        "draws": DRAWS,
        "band": BAND,
        "searches": SEARCHES,
        "bases": BASES,
        "widths": WIDTHS,
        "headWidths": HEAD_WIDTHS,
        "sinusoids": [[pack.add(sinusoids(positions, width, base).T) for width in WIDTHS] for base in BASES],
        "rotations": [
            [turning(RoPE(Shape(width, 1, 1, SHAPE.context), base), 0, pack)[0] for width in HEAD_WIDTHS]
            for base in BASES
        ],
        "colours": COLOURS,
        "shades": SHADES,
        "start": (run.settings.encoding["name"] if run else "rope"),
        "encodings": encodings,
    }
    here = Path(__file__).parent
    parts = {
        "css": asset("report.css"),
        "plotly": plotly(),
        "unpack": asset("unpack.js"),
        "explorer": (here / "explorer.js").read_text(encoding="utf-8"),
        "index": json.dumps(index, allow_nan=False, separators=(",", ":")).replace(
            "<", r"\u003c"
        ),  # no tag, no comment
        "numbers": pack.text(),
    }
    html = (here / "explorer.html").read_text(encoding="utf-8")
    return re.sub(rf"/\*({'|'.join(parts)})\*/", lambda mark: parts[mark[1]], html)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.explore", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--run", metavar="DIR", help="folder of a trained run, whose learned curves are added")
    parser.add_argument("--out", metavar="PAGE", default="explorer.html", help="where to write (explorer.html)")
    options = parser.parse_args(arguments)
    run = RunFolder(options.run) if options.run else None
    names = encoding_names()
    if run is not None and (own := run.settings.encoding["name"]) not in names:
        raise ValueError(f"--run {options.run}: conf/encoding has no {own}; one of your own needs encoding_path=FOLDER")
    out = Path(options.out)
    with Progress("drawing", [1] * len(names)) as progress:
        html = page(names, run, progress.step)
    write_atomic(out, html.encode())
    print(f"{out}: {len(names)} encodings, {len(html.encode()) / 2**20:.1f} MiB")
    return 0


if __name__ == "__main__":
    end_with(main)
