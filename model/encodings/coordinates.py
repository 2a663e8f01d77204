"""Coordinates of a token beside its place in the stream: which line it stands in, and where in that line.

Shared by the encodings with several axes. All are causal: a token's coordinates look at the tokens up to it alone,
and a separator belongs to the line it ends. "Line" stands for any unit that separators end (a line, a sentence).
"""

import torch
from torch import Tensor

from model.encodings import Shape

AXES = ("token", "line", "token_in_line")  # the columns of `line_coordinates`


def separator_ids(shape: Shape, unit: str) -> tuple[int, ...]:
    """Ids of the tokens that end a `unit` ("line" or "sentence"). Raises ValueError where the text has none."""
    if not (ids := tuple(shape.separators.get(unit, ()))):
        known = ", ".join(name for name, ids in shape.separators.items() if ids) or "none"
        raise ValueError(
            f"encoding.unit={unit!r}: no token is known to end a {unit} (known: {known}); choose another unit, or a "
            "tokenizer that keeps such tokens by themselves"
        )
    return ids


def line_coordinates(tokens_BT: Tensor, separators: Tensor) -> Tensor:
    """The coordinates AXES of each token, all counted from 0: (B, T, 3), integers; separators: ids, on the same device.

    token: place in the stream, 0..T−1. line: separators before it. token_in_line: tokens since its line began.
    "a b . c ." with "." as the separator, id 9:

    >>> line_coordinates(torch.tensor([[1, 2, 9, 3, 9, 4]]), torch.tensor([9]))[0].T.tolist()
    [[0, 1, 2, 3, 4, 5], [0, 0, 0, 1, 1, 2], [0, 1, 2, 0, 1, 0]]
    """
    ends_BT = torch.isin(tokens_BT, separators)
    token_BT = torch.arange(tokens_BT.shape[-1], device=tokens_BT.device).expand_as(tokens_BT)
    begins_BT = torch.cat([torch.zeros_like(ends_BT[:, :1]), ends_BT[:, :-1]], dim=-1)  # the token before it ended one
    start_BT = (token_BT * begins_BT).cummax(dim=-1).values
    return torch.stack([token_BT, begins_BT.cumsum(dim=-1), token_BT - start_BT], dim=-1)
