"""RoPE over several coordinates of a token: place in the stream, line, place in the line."""

from collections.abc import Sequence

import torch

from model.encodings import Shape
from model.encodings.coordinates import AXES, line_coordinates, separator_ids
from model.encodings.rope import RoPE, check_base, rope_frequencies


class RoPEAxial(RoPE):
    """The pairs are divided among A axes: pair k of axis a turns by p_a · θ_k, p_a the token's coordinate on that axis.

    Axial RoPE is the form used for images (rows and columns; Heo et al. 2024, https://arxiv.org/abs/2403.13298) and
    video (M-RoPE, Wang et al. 2024, https://arxiv.org/abs/2409.12191); here it is for text, with the coordinates of
    `line_coordinates`. Each axis has consecutive pairs, as many as the others (the first ones one more where that can't
    be), with all of RoPE's speeds: θ_k = base^(−k/P_a), k = 0 .. P_a − 1. M-RoPE shares out one range of speeds.
    Scores depend on differences of coordinates, and so on the separators between i and j: not `relative`.

    axes: some of token, line, token_in_line; [token] alone is RoPE. unit: what separators end, "line" or "sentence".
    Raises ValueError for other axes, more axes than pairs, or a text without separators of that unit.

    >>> shape = Shape(dim=10, num_heads=1, num_layers=1, context=16, separators={"line": (9,)})
    >>> RoPEAxial(shape, axes=["line", "token_in_line"], base=100).frequencies(0)[3:].tolist()
    [1.0, 0.1]
    """

    relative = False

    def __init__(self, shape: Shape, axes: Sequence[str] = AXES, unit: str = "line", base: float = 10_000.0):
        super().__init__(shape, base)
        pairs = shape.head_dim // 2
        if not axes or not set(axes) <= set(AXES) or len(set(axes)) < len(axes):
            raise ValueError(f"encoding.axes={list(axes)}: must be some of {', '.join(AXES)}, each once")
        if len(axes) > pairs:
            raise ValueError(f"encoding.axes={list(axes)}: {len(axes)} axes, but a head has only {pairs} pairs")
        self.axes, self.unit = list(axes), unit
        self.share_out([pairs // len(axes) + (a < pairs % len(axes)) for a in range(len(axes))], [base] * len(axes))

    def share_out(self, pairs: Sequence[int], bases: Sequence[float]) -> None:
        """Gives each of self.axes so many pairs, with the speeds of its own base."""
        self.constant("separators", torch.tensor(separator_ids(self.shape, self.unit)))
        self.pairs, self.bases = list(pairs), list(bases)
        columns = torch.tensor([AXES.index(axis) for axis in self.axes])
        self.constant("column_P", columns.repeat_interleave(torch.tensor(self.pairs)))
        by_axis = [rope_frequencies(2 * n, base) for n, base in zip(self.pairs, self.bases, strict=True)]
        self.constant("theta", torch.cat(by_axis))

    def positions(self, tokens_BT):
        return line_coordinates(tokens_BT, self.separators)

    def angles(self, positions, layer):
        return (positions[..., self.column_P].double() * self.frequencies(layer))[:, None]


class RoPEHierarchical(RoPEAxial):
    """Two levels: some pairs turn with the token's place in the stream, the others with the index of its sentence.

    After HiRoPE (Zhang et al. 2024, "HiRoPE: Length Extrapolation for Code Models Using Hierarchical Position",
    https://arxiv.org/abs/2403.19115), which deals with functions in code. Departures: HiRoPE is put on a trained model,
    gives the higher level the slow pairs of one range of speeds, and keeps RoPE within a window; here the model is
    trained with it, and each level has its own range (a short context has few sentences, and their index would hardly
    turn RoPE's slow pairs).

    token_share: share of the pairs that turn with the token; 1 is RoPE. unit: "sentence" or "line".
    base, unit_base: of the two levels. Raises ValueError for a share outside (0, 1], a level that gets no pair, a base
    below 1, or a text without separators of that unit.
    """

    def __init__(
        self,
        shape: Shape,
        unit: str = "sentence",
        token_share: float = 0.5,
        base: float = 10_000.0,
        unit_base: float = 100.0,
    ):
        super().__init__(shape, ("token",), unit, base)
        pairs = shape.head_dim // 2
        tokens = round(token_share * pairs)
        if not 0 < token_share <= 1 or tokens == 0 or (tokens == pairs and token_share < 1):
            raise ValueError(
                f"encoding.token_share={token_share}: must lie in (0, 1] and leave each level some of a head's "
                f"{pairs} pairs"
            )
        self.axes, self.token_share, self.unit_base = ["token", "line"], token_share, check_base(unit_base, "unit_base")
        self.share_out([tokens, pairs - tokens], [base, unit_base])
