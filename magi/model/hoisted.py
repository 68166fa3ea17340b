"""The head's network for sampling: everything that does not depend on the state is computed outside the loop.

`HoistedNetwork` computes what ``DiffusionHead.forward`` does, with torch alone; `CompiledNetwork` is its twin that
makes one call of compiled code of it.

Shapes: R rows (tokens), C channels of a token, W width of the head, O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from magi.model.head_kernel import HeadKernel, packed
from magi.model.head_layers import NORM_EPS, HeadLayers

MODULATED_ROWS = 640  # steps x rows modulated by one GEMM: enough to be efficient, few enough to stay in cache


class HoistedNetwork:
    """The network for fixed rows and a fixed grid of times, called at grid points that never decrease.

    Shift, scale and gate depend on time and condition but not on the state, so they are computed for many grid points
    by one GEMM per layer, and the 1 of ``1 + scale`` is in the bias of that GEMM. What is left per call is 6 operations
    a block, and 4 around them. Parameters are bound once: finding them in the modules would take a tenth of a small
    head's time.

    Args:
        cond: (R, W) embedded conditions.
        times: (grid, W) embedded times.
        layers: of the head.
    """

    def __init__(self, cond: Tensor, times: Tensor, layers: HeadLayers) -> None:
        self.cond, self.times, self.dtype = cond, times, cond.dtype
        self.chunk = max(1, min(len(times), MODULATED_ROWS // max(1, len(cond))))
        self.start = -self.chunk
        self.modulations: list[tuple[tuple[Tensor, ...], ...]] = []  # [grid point in chunk][layer] = shift, scale, gate
        input_proj, blocks, output = layers
        modulations = [*(block.modulation for block in blocks), output.modulation]
        self.modulators = [_with_one(modulation) for modulation in modulations]
        self.input = input_proj.weight, input_proj.bias
        self.blocks = [
            (block.norm.weight, block.norm.bias, block.expand.weight, block.expand.bias, *block.project.parameters())
            for block in blocks
        ]
        self.output = output.linear.weight, output.linear.bias

    def __call__(self, i: int, x: Tensor) -> Tensor:
        """(R, C) -> (R, O) at grid point i."""
        if i >= self.start + self.chunk:
            self._modulate(i)
        return self._evaluate(i - self.start, x)

    def _evaluate(self, point: int, x: Tensor) -> Tensor:
        """The network at a grid point of the chunk."""
        *modulations, (shift, scale) = self.modulations[point]
        width = shift.shape[-1:]
        x = F.linear(x.to(shift.dtype), *self.input)
        for block, (block_shift, block_scale, gate) in zip(self.blocks, modulations, strict=True):
            norm_weight, norm_bias, expand, expand_bias, project, project_bias = block
            hidden = torch.addcmul(block_shift, F.layer_norm(x, width, norm_weight, norm_bias, NORM_EPS), block_scale)
            hidden = F.silu(F.linear(hidden, expand, expand_bias), inplace=True)
            x = torch.addcmul(x, gate, F.linear(hidden, project, project_bias))
        return F.linear(torch.addcmul(shift, F.layer_norm(x, width, eps=NORM_EPS), scale), *self.output)

    def _modulate(self, start: int) -> None:
        """Compute the modulations of the chunk of grid points that begins at ``start``."""
        y = F.silu(self.times[start : start + self.chunk, None] + self.cond)  # (chunk, R, W)
        self._use([F.linear(y, weight, bias) for weight, bias in self.modulators])
        self.start = start

    def _use(self, modulated: Sequence[Tensor]) -> None:
        """Modulations of the chunk's points: of each block (chunk, R, 3 W), shift, 1 + scale and gate; of the output
        (chunk, R, 2 W)."""
        width = self.cond.shape[-1]
        layers = [
            zip(*(part.unbind(0) for part in layer.split(width, dim=-1)), strict=True)  # (chunk, R, W) each
            for layer in modulated
        ]
        self.modulations = list(zip(*layers, strict=True))


class CompiledNetwork(HoistedNetwork):
    """The same as one call of compiled code.

    Raises:
        ValueError: there is none for the head's type or device, or no compiler.
    """

    def __init__(self, cond: Tensor, times: Tensor, layers: HeadLayers) -> None:
        super().__init__(cond, times, layers)
        self.kernel = HeadKernel(packed(layers), rows=len(cond))

    def _use(self, modulated: Sequence[Tensor]) -> None:
        self.kernel.modulate(modulated)

    def _evaluate(self, point: int, x: Tensor) -> Tensor:
        return self.kernel(point, x)

    def ddpm_loop(self, x: Tensor, *, factors: Tensor, growth: list[float], added: Tensor) -> Tensor:
        """`diffusion.ddpm_loop` over this network, from x (R, C) to (R, C), a chunk of grid points at a time."""
        x, factor = x.clone(memory_format=torch.contiguous_format), torch.tensor(growth, dtype=self.dtype)
        for start in range(0, len(factor), self.chunk):
            self._modulate(start)
            steps = slice(start, start + self.chunk)
            self.kernel.ddpm(0, x, factors=factors[steps], growth=factor[steps], added=added[steps])
        return x


def _with_one(modulation: nn.Linear) -> tuple[Tensor, Tensor]:
    """Weight and bias of a modulation, with 1 added to the scale it produces."""
    bias = modulation.bias.clone()
    bias[modulation.in_features : 2 * modulation.in_features] += 1
    return modulation.weight, bias
