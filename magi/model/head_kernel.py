"""The head's network as one call of compiled code instead of thirty of torch's: for a CPU.

The code is `head_kernel.c`, which says how it works; here it is compiled, given the weights and called. It is compiled
when it is first needed, by the C compiler of the machine (`CC`, or cc) for its own processor, in under a second, and
nothing of it is kept: no file can be stale or made for another machine.

Shapes: R rows, C token channels, W width, O outputs.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import subprocess
from collections.abc import Sequence
from ctypes import POINTER, Structure, c_double, c_long, c_void_p
from functools import cache
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from magi.model.head_layers import NORM_EPS, HeadLayers, OutputLayer, ResidualBlock

TYPES = {torch.float32: ("float", "expf"), torch.float64: ("double", "exp")}
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd", "-shared", "-fPIC")
PANEL_BYTES = 4 * 32  # outputs computed together: four vectors of 32 bytes, as in the code


class _Linear(Structure):
    _fields_ = (("weight", c_void_p), ("bias", c_void_p))


class _Block(Structure):
    _fields_ = (("norm_weight", c_void_p), ("norm_bias", c_void_p), ("expand", _Linear), ("project", _Linear))


class _Network(Structure):
    _fields_ = (
        ("rows", c_long), ("channels", c_long), ("width", c_long), ("outputs", c_long), ("depth", c_long),
        ("eps", c_double), ("input", _Linear), ("output", _Linear), ("blocks", POINTER(_Block)),
        ("modulations", POINTER(c_void_p)), ("state", c_void_p), ("hidden", c_void_p), ("inner", c_void_p),
        ("result", c_void_p),
    )  # fmt: skip


@cache
def compiled(dtype: torch.dtype, device: torch.device) -> Any:
    """The compiled functions ``evaluate`` and ``ddpm``.

    Raises:
        ValueError: not the CPU, another type than float32 and float64, no C compiler, or one that fails.
    """
    if device.type != "cpu" or dtype not in TYPES:
        raise ValueError(f"the compiled head is float32 or float64 on the CPU, this one is {dtype} on {device}")
    compiler, (real, exp) = os.environ.get("CC", "cc"), TYPES[dtype]
    with TemporaryDirectory() as folder:
        code, library = Path(folder) / "head.c", Path(folder) / "head.so"
        code.write_bytes((files("magi.model") / "head_kernel.c").read_bytes())
        command = [
            *shlex.split(compiler),
            *FLAGS,
            f"-DREAL={real}",
            f"-DEXP={exp}",
            str(code),
            "-o",
            str(library),
            "-lm",
        ]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603, the user's compiler
        except FileNotFoundError:
            raise ValueError(
                f"the compiled head needs a C compiler, and there is no {compiler!r}; install one or set CC"
            ) from None
        except subprocess.CalledProcessError as error:
            first = next((line for line in error.stderr.splitlines() if "error" in line), "no message")
            raise ValueError(f"{compiler!r} cannot compile the head: {first}; set CC to another compiler") from None
        code_of = ctypes.CDLL(str(library))
    code_of.evaluate.argtypes = (c_void_p, c_long, c_void_p)
    code_of.ddpm.argtypes = (c_void_p, c_long, c_long, *(c_void_p,) * 4, c_long)
    code_of.evaluate.restype = code_of.ddpm.restype = None
    return code_of


def available(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether there is compiled code for such a head on this machine."""
    try:
        compiled(dtype, device)
    except ValueError:
        return False
    return True


class PackedHead:
    """A head's weights as the code reads them.

    Args:
        layers: of the head.
    """

    def __init__(self, layers: HeadLayers) -> None:
        input_proj, blocks, linear = layers.input_proj, layers.blocks, layers.output.linear
        self.code = compiled(linear.weight.dtype, linear.weight.device)
        self.dtype, self.panel = linear.weight.dtype, PANEL_BYTES // linear.weight.dtype.itemsize
        self.channels, self.width, self.outputs = input_proj.in_features, linear.in_features, linear.out_features
        self.depth = len(blocks)
        self._kept: list[Tensor] = []  # what is pointed to
        self.input, self.output = self._linear(input_proj), self._linear(linear)
        self.blocks = (_Block * len(blocks))(*map(self._block, blocks))

    def padded(self, size: int) -> int:
        """A number of outputs, rounded up to whole panels."""
        return -(-size // self.panel) * self.panel

    def _block(self, block: ResidualBlock) -> _Block:
        norm = (self._at(part.detach().clone()) for part in (block.norm.weight, block.norm.bias))
        return _Block(*norm, self._linear(block.expand), self._linear(block.project))

    def _linear(self, layer: nn.Linear) -> _Linear:
        """Weights as panels (panels, inputs, outputs of a panel), filled up with zeros."""
        missing = self.padded(layer.out_features) - layer.out_features
        weight = F.pad(layer.weight.detach(), (0, 0, 0, missing)).view(-1, self.panel, layer.in_features)
        return _Linear(
            self._at(weight.transpose(1, 2).contiguous()), self._at(F.pad(layer.bias.detach(), (0, missing)))
        )

    def _at(self, tensor: Tensor) -> int:
        self._kept.append(tensor)
        return tensor.data_ptr()


_PACKED: WeakKeyDictionary[OutputLayer, tuple[tuple[tuple[int, int], ...], PackedHead]] = WeakKeyDictionary()


def packed(layers: HeadLayers) -> PackedHead:
    """A head packed, which takes as long as ten steps: done again only once its weights have changed."""
    weights = [weight for part in (layers.input_proj, *layers.blocks, layers.output) for weight in part.parameters()]
    if any(weight.is_inference() for weight in weights):  # they do not tell when they are changed
        return PackedHead(layers)
    state = tuple((weight.data_ptr(), weight._version) for weight in weights)
    if layers.output not in _PACKED or _PACKED[layers.output][0] != state:
        _PACKED[layers.output] = state, PackedHead(layers)
    return _PACKED[layers.output][1]


class HeadKernel:
    """A packed head with room for so many rows."""

    def __init__(self, head: PackedHead, *, rows: int) -> None:
        self.head, self.shape = head, (rows, head.channels)
        wide, out = head.padded(head.width), head.padded(head.outputs)
        self.scratch = torch.empty(3, rows, wide, dtype=head.dtype)
        self.result = torch.empty(rows, out, dtype=head.dtype)
        self.pointers = (c_void_p * (head.depth + 1))()
        self.network = _Network(
            rows, head.channels, head.width, head.outputs, head.depth, NORM_EPS, head.input, head.output, head.blocks,
            self.pointers, *(part.data_ptr() for part in self.scratch), self.result.data_ptr(),
        )  # fmt: skip
        self.address = ctypes.addressof(self.network)
        self.modulations: Sequence[Tensor] = ()

    def modulate(self, modulations: Sequence[Tensor]) -> None:
        """Use these: of each block (grid, R, 3 W), shift, 1 + scale and gate; of the output (grid, R, 2 W)."""
        self.modulations = [part.contiguous() for part in modulations]  # kept, for they are pointed to
        for layer, part in enumerate(self.modulations):
            assert part.dtype == self.head.dtype and part.shape[1] == self.shape[0]
            self.pointers[layer] = part.data_ptr()

    def __call__(self, point: int, x: Tensor) -> Tensor:
        """(R, C) to (R, O) at a grid point of the modulations."""
        x = x.to(self.head.dtype).contiguous()
        assert x.shape == self.shape and 0 <= point < len(self.modulations[0])
        self.head.code.evaluate(self.address, point, x.data_ptr())
        return self.result[:, : self.head.outputs].clone()

    def ddpm(self, point: int, x: Tensor, *, factors: Tensor, growth: Tensor, added: Tensor) -> None:
        """Take steps of `diffusion.ddpm_loop` from a grid point of the modulations on, and change x (R, C) in place.

        Args:
            point: the first.
            x: state.
            factors: (count, 2 C) as there.
            growth: (count,) as there.
            added: (count, R, C), or one less if the last step adds none.
        """
        count = len(growth)
        assert point + count <= len(self.modulations[0]) and x.shape == self.shape == added.shape[1:]
        assert all(part.is_contiguous() and part.dtype == self.head.dtype for part in (x, factors, growth, added))
        self.head.code.ddpm(
            self.address, point, count, x.data_ptr(), factors.data_ptr(), growth.data_ptr(), added.data_ptr(),
            len(added) < count,
        )  # fmt: skip
