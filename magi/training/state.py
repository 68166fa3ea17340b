"""What a training run is at one moment: weights, their average, the optimizer's moments, and the position.

There is nothing else to save: learning rate, data order, masks and noise are functions of the position and the seed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from magi import checkpoint
from magi.checkpoint import CheckpointError
from magi.training.ema import Ema
from magi.training.sharding import held, like, rows_of, whole

MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what AdamW keeps of a parameter


@dataclass
class TrainingState:
    """A run's whole state; `samples` and `step` are its only clock."""

    model: nn.Module
    ema: Ema
    optimizer: torch.optim.Optimizer
    samples: int = 0
    step: int = 0
    log_bytes: int = 0  # length of metrics.jsonl when saved; what was written after that is cut on resume

    @property
    def position(self) -> dict[str, int]:
        """The counters."""
        return {"samples": self.samples, "step": self.step, "log_bytes": self.log_bytes}

    @property
    def is_sharded(self) -> bool:
        """Whether processes hold rows of the parameters."""
        return any(isinstance(parameter, DTensor) for parameter in self.model.parameters())

    def parts(self, processes: int) -> int:
        """By how many processes a checkpoint is written: by one if each of them has everything."""
        return processes if self.is_sharded else 1

    def own_part(self, rank: int, processes: int) -> dict[str, dict[str, Tensor]]:
        """What this process is to write: copies, on the CPU, of whole tensors by file stem and name. Where parameters
        are cut all processes must ask at the same time, and each gets about as many bytes."""
        states = {"model": self.model.state_dict(), "ema": self.ema.model.state_dict(), "optimizer": self._moments()}
        parts = self.parts(processes)
        taken = [0] * parts  # bytes of each process
        own: dict[str, dict[str, Tensor]] = {}
        for stem, state in states.items():
            kept: dict[str, Tensor] = {}
            for name, tensor in state.items():
                if parts > 1:
                    tensor = whole(tensor)
                owner = taken.index(min(taken))
                taken[owner] += tensor.nbytes
                if owner == rank:
                    kept[name] = tensor.detach().to("cpu", copy=True)
            if rank < parts:
                own[checkpoint.part_stem(stem, rank, parts) if parts > 1 else stem] = kept
        return own

    def load(self, directory: Path, config: Mapping[str, Any]) -> None:
        """Become the state saved in `directory`.

        Raises:
            CheckpointError: it was saved under another configuration (every differing field is listed), or is not a
                state of this model. Nothing is loaded then.
        """
        saved = _as_of_now(json.loads((directory / "config.json").read_text()))
        position = json.loads((directory / "state.json").read_text())
        may_change = _without_effect(saved, config, position["samples"])
        differences = checkpoint.compare_configs(_without(saved, may_change), _without(config, may_change))
        if differences:
            raise CheckpointError(
                f"{directory}: trained under another configuration: {'; '.join(differences)}. Nothing was loaded. "
                "Resume with the saved one, or train into another folder"
            )
        parameters = dict(self.model.named_parameters())
        own = {f"{key}.{name}": rows_of(p) for name, p in parameters.items() for key in ("exp_avg", "exp_avg_sq")}
        model = loaded(directory, "model", self.model.state_dict())
        ema = loaded(directory, "ema", self.ema.model.state_dict())
        moments = checkpoint.load_tensors(directory, "optimizer", None, rows=own)
        self._check_moments(moments)
        self.model.load_state_dict(model)
        self.ema.model.load_state_dict(ema)
        self._set_moments(moments)
        self.samples, self.step, self.log_bytes = position["samples"], position["step"], position["log_bytes"]

    def _moments(self) -> dict[str, Tensor]:
        """The optimizer's state by parameter name; empty before the first step."""
        return {
            f"{key}.{name}": value
            for name, parameter in self.model.named_parameters()
            for key, value in self.optimizer.state.get(parameter, {}).items()
        }

    def _check_moments(self, moments: Mapping[str, Tensor]) -> None:
        if not moments:
            return  # saved before the first step
        for name, parameter in self.model.named_parameters():
            for key in MOMENTS:
                expected = torch.Size([]) if key == "step" else held(parameter).shape
                if f"{key}.{name}" not in moments or moments[f"{key}.{name}"].shape != expected:
                    raise CheckpointError(
                        f"optimizer.safetensors: {key}.{name} is missing or not of shape {tuple(expected)}"
                    )

    def _set_moments(self, moments: Mapping[str, Tensor]) -> None:
        for name, parameter in self.model.named_parameters() if moments else ():
            found = {key: moments[f"{key}.{name}"] for key in MOMENTS}
            # Adam's step counter stays on the CPU, as torch keeps it, unless one kernel does all
            counted = parameter.device if self.optimizer.defaults["fused"] else torch.device("cpu")
            self.optimizer.state[parameter] = {
                k: v.to(counted) if k == "step" else like(v, parameter) for k, v in found.items()
            }


def loaded(directory: Path, stem: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a checkpoint in place of those of a state, cut as these are; no other rows are read."""
    rows = {name: rows_of(tensor) for name, tensor in state.items()}
    found = checkpoint.load_tensors(directory, stem, state, rows=rows)
    return {name: like(found[name], tensor) for name, tensor in state.items()}


WITHOUT_EFFECT = (
    *(("train", n) for n in ("checkpoint_every", "keep_checkpoints", "log_every", "evaluate_every")),
    *(("train", n) for n in ("workers", "tensorboard", "cuda_graphs", "sharding")),
    ("sample",),
    ("watch_clips",),
    ("own_tokenizer_samples",),  # the tokenizer itself is compared
    *(("data", "folder", n) for n in ("cache_mb", "bad_files", "max_bad_fraction", "isolate")),
    *(("data", "folder", n) for n in ("path", "index", "annotations")),
    ("data", "latents", "path"),
)
"""Paths of settings that decide no weight, beyond its rounding: periods and processes, what is looked at, when to give
up on a folder; and where videos or latents lie, since what they are is recorded too."""


LATER: dict[str, Any] = {"parts": None, "reduction": "fast", "deterministic": False}
"""Settings of `train` that runs of earlier versions do not have, with what these did."""


def _as_of_now(saved: Mapping[str, Any]) -> dict[str, Any]:
    """A saved configuration with the settings that came later."""
    train = saved.get("train")
    return {**saved, "train": {**LATER, **train}} if isinstance(train, Mapping) else dict(saved)


def _without_effect(saved: Mapping[str, Any], now: Mapping[str, Any], samples: int) -> list[tuple[str, ...]]:
    """Settings that may change between stop and resume, because the weights so far do not depend on them.

    The length of the run matters only where the learning rate looks at it: not before its fall began, nor would have
    begun in a run of the new length.
    """
    optim = saved.get("train", {}).get("optim", {})
    shorter = min(run.get("train", {}).get("total_samples", 0) for run in (saved, now))
    if optim.get("decay") != "cosine" and samples <= shorter - optim.get("decay_samples", 0):
        return [*WITHOUT_EFFECT, ("train", "total_samples")]
    return [*WITHOUT_EFFECT]


def _without(config: Mapping[str, Any], paths: Iterable[tuple[str, ...]]) -> dict[str, Any]:
    """A plain copy of a run's configuration without these settings."""
    plain: dict[str, Any] = json.loads(json.dumps(config))
    for *parents, name in paths:
        part: dict[str, Any] = plain
        for parent in parents:
            part = part.get(parent) or {}
        part.pop(name, None)
    return plain
