"""ALiBi with slopes that are learned from the paper's own on."""

import torch
from torch import nn

from model.encodings import Shape, at_least_float32
from model.encodings.alibi import ALiBi


class LearnedALiBi(ALiBi):
    """score = q·k/√d − m_h · e^(s_h) · (i − j), s_h learned and zero at the start: then it is ALiBi.

    The variant of Press et al. 2022 (https://arxiv.org/abs/2108.12409, section 3), who found that learned slopes did
    not extrapolate as well. They do not give its form; learning the logarithm keeps slopes positive. Shared by the
    layers, as the fixed slopes are. exponent: see ALiBi.
    """

    lr_scale = 10.0  # so that a short run can change a slope by more than a factor of 2

    def __init__(self, shape: Shape, exponent: float = 8.0):
        super().__init__(shape, exponent)
        self.log_factor_H = nn.Parameter(torch.zeros(shape.num_heads))

    def slopes(self):
        return self.slopes_H * at_least_float32(self.log_factor_H).exp()
