"""`magi checkpoint export`: a release from a run that has not ended."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tyro
import yaml

from magi import checkpoint
from magi.checkpoint import CheckpointError
from magi.cli.arguments import TokenizerOptions, WithTokenizer, parse
from magi.experiments.video import OWN
from magi.model.config import MagiConfig
from magi.model.magi import Magi
from magi.sampling.config import SampleConfig
from magi.sampling.release import Release, save_release
from magi.tokenizers.protocol import Tokenizer
from magi.tokenizers.store import fingerprint, load_tokenizer


@dataclass(frozen=True)
class ExportArguments:
    """Make a release of the averaged weights of a checkpoint, to look at a model that is still trained.

    $ magi checkpoint export runs/mine --out runs/mine-so-far
    $ magi checkpoint export runs/mine/step-00012000 --out twelve --tokenizer tokenizers/sd14

    Of a run the newest checkpoint that is whole is taken. Its tokenizer is the one that the run's config.yaml names.
    """

    path: tyro.conf.Positional[Path]
    """A checkpoint of a model, or the folder of a run."""
    out: Path
    """A folder that does not exist yet."""
    tokenizer: str | None = None
    """Where the run's tokenizer is now, if it was moved."""
    common: TokenizerOptions = field(default_factory=WithTokenizer)


def main(words: Sequence[str]) -> int:
    """Run the verb."""
    arguments = parse(ExportArguments, words, usage="checkpoint export")
    directory = chosen(arguments.path)
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    position = json.loads((directory / "state.json").read_text(encoding="utf-8"))
    if "model" not in config or "tokenizer" not in config:
        raise ValueError(f"{directory} is a checkpoint of something else than a model; export takes magi train's")
    tokenizer = tokenizer_of(directory.parent, arguments.tokenizer, fingerprint_of_run=config["tokenizer"])
    model = Magi.blank(checkpoint.read_config(MagiConfig, config["model"]))
    model.fill(checkpoint.load_tensors(directory, "ema", model.state_dict()))
    release = Release(model.eval(), tokenizer, checkpoint.read_config(SampleConfig, config["sample"]))
    card = f"# MAGI model\n\nThe averaged weights of a training after {position['samples']:,} clips, which went on.\n"
    save_release(arguments.out, release, card=card, run={"samples": position["samples"]})
    print(f"{arguments.out}: {directory.name}, {position['samples']:,} samples")
    return 0


def chosen(path: Path) -> Path:
    """The checkpoint that a user means, whole.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    if checkpoint.STEP_NAME.fullmatch(path.resolve().name):
        checkpoint.verify(path)
        return path
    newest = checkpoint.newest_valid(path)
    if newest is None:
        raise ValueError(f"{path} holds no checkpoints (step-XXXXXXXX); give one, or the folder of a run")
    return newest


def tokenizer_of(run: Path, name: str | None, *, fingerprint_of_run: str) -> Tokenizer:
    """The run's tokenizer, from where its settings say it is, or from where the user says.

    Raises:
        ValueError: it is not there, or is another one.
    """
    if name is None:
        settings = run / "config.yaml"
        if not settings.is_file():
            raise ValueError(f"{settings} is missing, which names the tokenizer; give --tokenizer")
        name = str(yaml.safe_load(settings.read_text(encoding="utf-8"))["tokenizer"])
        name = str(run / "tokenizer" / "release") if name == OWN else name
    tokenizer = load_tokenizer(name)
    if fingerprint(tokenizer) != fingerprint_of_run:
        raise CheckpointError(
            f"tokenizer {name} is not the one the run was trained with: fingerprint {fingerprint(tokenizer)[:12]}, "
            f"expected {fingerprint_of_run[:12]}; give --tokenizer"
        )
    return tokenizer
