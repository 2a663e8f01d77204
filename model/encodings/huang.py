"""Huang's relative positions: Shaw's vectors, read by the key as well."""

from model.encodings import ScoreMod
from model.encodings.relative import distance, look_up
from model.encodings.shaw import Shaw


class Huang(Shaw):
    """score = (q_i · k_j + q_i · a[D] + k_j · a[D]) / √d, D = min(i − j, max_distance), one table a for both terms.

    Huang, Liang, Xu, Xiang 2020, "Improve Transformer Models with Better Relative Position Embeddings",
    https://arxiv.org/abs/2009.13658, method 4 (BERT's "relative_key_query" in transformers). The rest as in Shaw.
    """

    def score_mod(self, q_BHTK, k_BHTK, positions, x_BTD, layer) -> ScoreMod:
        by_query_BHTN, by_key_BHTN = self.read(q_BHTK, layer), self.read(k_BHTK, layer)

        def mod(score, b, h, i, j):
            row = distance(positions, b, i, j).long().clamp_max(self.max_distance)
            return score + look_up(by_query_BHTN, b, h, i, row) + look_up(by_key_BHTN, b, h, j, row)

        return mod
