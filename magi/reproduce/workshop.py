"""Where trainings lie and how one is made or taken up again: by name, once, whatever asks for it.

FOLDER/clips/                  latents of what is trained on
FOLDER/runs/NAME/              checkpoints, metrics.jsonl, release; grows again if deleted, never needed to draw
RESULTS/plan.json              what will be run, before anything is
RESULTS/tuning.json            what the tuning chose, with all that it tried
RESULTS/runs/NAME.json         what is known of a finished run: its configuration and its losses
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from magi import checkpoint
from magi.data.clips import BEYOND
from magi.distributed import Distributed
from magi.experiments.encoded_once import EncodedOnce
from magi.experiments.video import VideoRun, preparation_of, train_video
from magi.model.config import Forcing
from magi.reproduce.runs import Recipe, training, tuning
from magi.reproduce.scale import Scale
from magi.sampling.release import Release, load
from magi.tokenizers.store import load_tokenizer

BATCHES_PER_CHUNK = 8
HELD_OUT = 64  # clips at most that no run trains on, for the loss that the tuning compares
FORCINGS: tuple[Forcing, ...] = ("ctf", "mtf")


@dataclass(frozen=True)
class Workshop:
    """The folders of a reproduction, and what it runs on."""

    scale: Scale
    folder: Path
    """Large and replaceable."""
    results: Path
    """Small and to be kept."""
    distributed: Distributed
    graphs: bool = False
    """Train in CUDA graphs; they change no number."""

    def trained(self, recipe: Recipe) -> Release:
        """The model of a recipe, trained now unless it has been."""
        rate = self.tuned(recipe.forcing)["learning_rate"]
        return self.train(recipe.name, training(self.scale, recipe, learning_rate=rate))

    def tuned(self, forcing: Forcing) -> Mapping[str, Any]:
        """What the tuning chose for a paradigm; both had the same choices and the same number of clips.

        The learning rate is the one with the lowest loss of the averaged model on held-out clips.
        """
        path = self.results / "tuning.json"
        if not path.is_file():
            write_json(path, {name: self._tune(name) for name in FORCINGS})
        chosen: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))[forcing]
        return chosen

    def tunings(self) -> dict[str, VideoRun]:
        """The short trainings that learning rates are chosen by, by the names they are kept under."""
        return {
            tuning_name(forcing, rate): tuning(self.scale, forcing, learning_rate=rate)
            for forcing in FORCINGS
            for rate in self.scale.learning_rates
        }

    def _tune(self, forcing: Forcing) -> dict[str, Any]:
        losses: dict[float, float] = {}
        for rate in self.scale.learning_rates:
            name = tuning_name(forcing, rate)
            self.train(name, self.tunings()[name])
            losses[rate] = json.loads((self.results / "runs" / f"{name}.json").read_text())["held-out loss"]
        return {"learning_rate": min(losses, key=losses.__getitem__), "held-out loss by learning rate": losses}

    def train(self, name: str, run: VideoRun) -> Release:
        """The model of any run, trained under a name unless it has been."""
        run_dir = self.folder / "runs" / name
        release = run_dir / "release"
        known = self.results / "runs" / f"{name}.json"
        if self.has(name):
            self._check(known, run)
        else:
            self.distributed.print_once(f"\n{name}: {run.train.total_samples:,} clips")
            start = time.perf_counter()
            run = replace(run, train=replace(run.train, cuda_graphs=self.graphs))
            source = self.clips(run) if run.data.kind == "world" else None
            train_video(run, run_dir=run_dir, distributed=self.distributed, source=source)
            seconds = time.perf_counter() - start
            self._record(known, run, load(release, device=self.distributed.device), run_dir, seconds)
        return load(release, device=self.distributed.device)

    def _check(self, known: Path, run: VideoRun) -> None:
        """Refuse a model that was trained as another run.

        Raises:
            ValueError: naming what differs.
        """
        found, asked = json.loads(known.read_text(encoding="utf-8"))["run"], self._described(run)
        for told in (found, asked):
            told["train"].pop("cuda_graphs", None)  # changes no number
        if differences := checkpoint.compare_configs(found, asked):
            raise ValueError(
                f"{known} is of another run than this program's: {'; '.join(differences[:5])}. Give another --results "
                "and --out, or go on with the version of this program that made it"
            )

    def _described(self, run: VideoRun) -> dict[str, Any]:
        """A run as plain data, without the names of this machine's folders."""
        described: dict[str, Any] = json.loads(json.dumps(asdict(run)).replace(str(self.folder), "FOLDER"))
        return described

    def has(self, name: str) -> bool:
        """Whether a run is trained and known."""
        return (self.folder / "runs" / name / "release").exists() and (self.results / "runs" / f"{name}.json").is_file()

    def fingerprint(self, name: str) -> str:
        """SHA-256 of the manifest of a trained model, and so of its weights and its tokenizer's."""
        manifest = self.folder / "runs" / name / "release" / checkpoint.MANIFEST
        return hashlib.sha256(manifest.read_bytes()).hexdigest()

    def has_tuned(self, name: str) -> bool:
        """Whether a tuning run is trained, or no longer needed because the choice was made."""
        return self.has(name) or (self.results / "tuning.json").is_file()

    def clips(self, run: VideoRun) -> EncodedOnce:
        """The clips that a run is trained on, which it shares with the others of its seed."""
        tokenizer, device = load_tokenizer(run.tokenizer), self.distributed.device
        if isinstance(tokenizer, nn.Module):
            tokenizer.to(device)
        size = BATCHES_PER_CHUNK * self.scale.batch
        return EncodedOnce(self.folder / "clips", run.data.world, tokenizer, size=size, device=device)

    def _record(self, path: Path, run: VideoRun, release: Release, run_dir: Path, seconds: float) -> None:
        lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        write_json(
            path,
            {
                "run": self._described(run),
                "parameters": sum(weight.numel() for weight in release.model.parameters()),
                # of a folder what lies beyond are other clips of the same videos, which hold nothing out
                "held-out loss": held_out_loss(run, release) if run.data.kind == "world" else None,
                "losses": [[entry["samples"], entry["loss"]] for entry in map(json.loads, lines) if "loss" in entry],
                "seconds since it was last resumed": round(seconds, 1),
                "machine": machine(self.distributed.device),
                "date": today(),
            },
        )


def tuning_name(forcing: Forcing, rate: float) -> str:
    """Under which a short training is kept."""
    return f"tuning-{forcing}-lr{rate:g}"


@torch.no_grad()
def held_out_loss(run: VideoRun, release: Release) -> float:
    """The loss on clips that no run trains on, at fixed draws; comparable within one paradigm only."""
    device = release.model.head_position.device
    prepare, source = preparation_of(run, release.tokenizer, device), run.data.training_source()
    losses = [
        float(release.model(*prepare(source.clips(range(first, first + 8)), index))["loss"])
        for index, first in enumerate(range(BEYOND, BEYOND + min(HELD_OUT, run.train.total_samples), 8))
    ]
    return sum(losses) / len(losses)


def write_json(path: Path, record: Any) -> None:
    """Write a results file whole or not at all."""
    checkpoint.write_whole(path, json.dumps(record, indent=1) + "\n")


def machine(device: torch.device) -> str:
    """What ran: the accelerator, or the CPU and its threads."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    return f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s), torch {torch.__version__}"


def today() -> str:
    """The date as results name it."""
    return time.strftime("%Y-%m-%d")
