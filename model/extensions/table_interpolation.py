"""Interpolated tables: position embeddings read between their rows, so that a longer text spans the trained range."""

from torch import Tensor

from model.encodings import at_least_float32
from model.encodings.learned import Learned
from model.encodings.sinusoidal import Sinusoidal
from model.extensions import Extension, view, with_plain_positions


class Squeezed:
    """Mixin of a view on a formula of the position, which has values between its rows: positions × `step`."""

    step = 1.0

    def embed(self, x_BTD, positions):
        return super().embed(x_BTD, positions.double() * self.step)


class SqueezedTable(Squeezed):
    """Mixin of a view on a learned table: the two rows next to a position, weighted by how near they are."""

    def embed(self, x_BTD, positions):
        return x_BTD + self.between_rows(positions.double() * self.step).to(x_BTD.dtype)

    def between_rows(self, places: Tensor) -> Tensor:
        lower = places.long()  # never past the last row but by rounding
        upper = (lower + 1).clamp_max(len(self.table) - 1)
        table = at_least_float32(self.table)
        weight = (places - lower)[..., None].to(table.dtype)
        return table[lower] * (1 - weight) + table[upper] * weight


class TableInterpolation(Extension):
    """Token i of N gets the embedding of position i·(L − 1)/(N − 1): the first and last rows of training stay ends.

    Linear interpolation between the rows, as for the tables of vision transformers at another resolution (Dosovitskiy
    et al. 2020, https://arxiv.org/abs/2010.11929, section 3.2; there in two dimensions). A plain i·L/N would run past
    row L − 1, which nothing was trained on, for the last tokens. Sinusoids are computed at the position between.

    It fits learned tables and sinusoids whose positions are the tokens' own. Rows of a table beyond L are not used.
    In a stage the same L rows are trained as before, and nothing else: a token's gradient goes to the two rows next to
    its place, in the shares in which it has read them. The view is defined up to N tokens, i·(L − 1)/(N − 1) at any
    length; for more, the method is applied to it again.
    """

    def fits(self, encoding):
        if (reason := super().fits(encoding)) is None and not with_plain_positions(encoding):
            return f"the coordinates of {type(encoding).__name__} are not the tokens' own 0..T−1"
        return reason

    def fits_part(self, part):
        name = type(part).__name__
        if isinstance(part, Learned):
            known = type(part).embed in (Learned.embed, SqueezedTable.embed)
            return None if known else f"{name} reads its table in its own way"
        return None if isinstance(part, Sinusoidal) else f"{name} adds no table of positions to the embeddings"

    def extend_part(self, part, train_length, eval_length):
        step = getattr(part, "step", 1.0) * (train_length - 1) / (eval_length - 1)
        if isinstance(part, Learned):
            return view(part, SqueezedTable, step=step, max_length=eval_length)
        return view(part, Squeezed, step=step)
