"""A training step as CUDA graphs, gradients included.

A graph is recorded for every shape of the inputs that comes up: how many tokens are hidden is drawn for each step, so
there are about as many shapes as tokens in a frame. Knows neither the model nor the optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from torch import Tensor, nn

from magi.graphs import Inputs, Recorder, check_device

Outputs = tuple[dict[str, Tensor], Tensor]  # parts of the loss, norm of the gradient
Compute = Callable[[Iterable[Inputs]], Outputs]  # from the inputs of a step's parts

MOST = 512  # graphs


class GraphedStep:
    """Computes what `compute` does by replaying its kernels.

    What it returns, and the gradients it leaves at the parameters, are overwritten by the next call.
    """

    def __init__(self, compute: Compute, parameters: Sequence[nn.Parameter]) -> None:
        """Wrap a step.

        Args:
            compute: from inputs to outputs, leaving gradients at the parameters; it waits for the device nowhere and
                copies nothing to it.
            parameters: whose gradients these are.

        Raises:
            ValueError: the parameters are not on a CUDA device.
        """
        for parameter in parameters:
            check_device(parameter.device)
        self.compute = compute
        self.parameters = parameters
        self.recorder = Recorder(most=MOST)

    def __call__(self, parts: Iterable[Inputs]) -> Outputs:
        """Outputs of a step of one part; the gradients are at the parameters."""
        (inputs,) = parts
        outputs, gradients = self.recorder("step", self._with_gradients, inputs)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient  # of the recording that was replayed
        return outputs

    def _with_gradients(self, inputs: Inputs) -> tuple[Outputs, list[Tensor | None]]:
        return self.compute([inputs]), [parameter.grad for parameter in self.parameters]
