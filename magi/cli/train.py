"""`magi train`: a model from videos."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from magi.checkpoint import compare_configs, newest_valid
from magi.cli.arguments import Common, CommonOptions, TokenizerOptions, WithTokenizer, parse, split_name
from magi.cli.runs import check_data, execute, resolve
from magi.distributed import Device, Distributed
from magi.experiments.autoencoder import train_autoencoder
from magi.experiments.data import identity
from magi.experiments.presets import PRESETS, own_tokenizer
from magi.experiments.video import OWN, VideoRun, check_fit, train_video, watch
from magi.tokenizers.store import load_tokenizer
from magi.training.state import WITHOUT_EFFECT


@dataclass(frozen=True)
class TrainArguments:
    """Train a model and write it, ready to use, to RUN/release.

    $ magi train tiny --data path/to/videos --out runs/mine
    $ magi train world64 --out runs/world
    $ magi train --config runs/mine/config.yaml --train.seed 1 --out runs/again
    $ torchrun --nproc_per_node 8 -m magi train xl --data path/to/videos --out runs/xl

    PRESET is tiny, small, base, large, xl, world64, or an experiment of the paper: ucf101-sd14, ucf101-cosmos,
    k600-omni. --data FOLDER, or --data world, says what to train on. Settings
    files (--config FILE ..., any part of the config.yaml that a run writes) overrule the preset, and flags overrule
    both: magi train PRESET --help shows what the preset sets. Ctrl-C saves; the same command resumes.
    """

    out: Path
    """The run's folder: checkpoints, metrics.jsonl, config.yaml and at the end the release."""
    run: Annotated[VideoRun, tyro.conf.FlagConversionOff, tyro.conf.arg(name="")]
    device: Device = "auto"
    """auto is CUDA, else Apple's GPU, else the CPU."""
    check: bool = False
    """Only look whether data, tokenizer and model fit, and train nothing."""
    common: TokenizerOptions = field(default_factory=WithTokenizer)


@dataclass(frozen=True)
class SmokeArguments:
    """Walk through an experiment of the paper in miniature: index, encode, train, sample, in a minute on a CPU.

    $ magi train ucf101-sd14 --smoke --out runs/smoke

    Videos, lists and an untrained tokenizer are made in the real formats, and every command is shown as it is run.
    """

    out: Path
    """A folder that is new or empty."""
    common: CommonOptions = field(default_factory=Common)


def main(words: Sequence[str]) -> int:
    """Run the verb."""
    if "--smoke" in words:
        return smoke(words)
    arguments = resolve(TrainArguments, words, verb="train", presets=PRESETS, fallback=VideoRun())
    check_data(arguments.run.data)
    check_fit_of(arguments.run)
    if arguments.run.tokenizer == OWN:
        check_own_tokenizer(arguments.run, arguments.out / "tokenizer")
    if arguments.check:
        print("data, tokenizer and model fit")
        return 0
    return execute(arguments, lambda distributed: train(arguments, distributed), verb="train", words=words)


def smoke(words: Sequence[str]) -> int:
    """`magi train EXPERIMENT --smoke --out FOLDER`, which takes nothing else."""
    name, words = split_name([word for word in words if word != "--smoke"])
    arguments = parse(SmokeArguments, words, usage="train EXPERIMENT --smoke")
    from magi.cli.smoke import walk  # which runs this verb, too

    return walk(name, arguments.out)


def check_fit_of(run: VideoRun) -> None:
    """Refuse sizes that do not fit, before an hour is spent on a tokenizer."""
    check_fit(run, own_tokenizer(run).build() if run.tokenizer == OWN else load_tokenizer(run.tokenizer))


def check_own_tokenizer(run: VideoRun, folder: Path) -> None:
    """Refuse to go on with an autoencoder of `folder` that these settings would not have made.

    Raises:
        ValueError: naming every setting that decides its weights and differs.
    """
    checkpoint = newest_valid(folder) if (folder / "release").exists() else None
    if checkpoint is None:  # none yet, or the user deleted what says how it was made
        return
    saved = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    own = own_tokenizer(run)
    now = json.loads(json.dumps({**asdict(own), **identity(own.data.source())}))  # tuples become lists
    free = tuple(".".join(path) + end for path in WITHOUT_EFFECT for end in ".:")
    differences = [line for line in compare_configs(saved, now) if not line.startswith(free)]
    if differences:
        raise ValueError(
            f"{folder / 'release'} was trained with other settings: {'; '.join(differences)}. Train into another "
            f"folder, or keep it with --tokenizer {folder / 'release'}"
        )


def train(arguments: TrainArguments, distributed: Distributed) -> Path:
    """Train the tokenizer, if it is to be the run's own, then the model."""
    run, tokenizer = arguments.run, arguments.out / "tokenizer"
    if run.tokenizer == OWN:
        if not (tokenizer / "release").exists():
            own = own_tokenizer(run)
            distributed.print_once(
                f"first the autoencoder that the model will work in, {own.train.total_samples:,} clips: {tokenizer}\n"
                "(for fewer: --own-tokenizer-samples)"
            )
            train_autoencoder(own, run_dir=tokenizer, distributed=distributed)
        distributed.barrier()  # the first process writes the release, all read it
        run = replace(run, tokenizer=str(tokenizer / "release"), own_tokenizer_samples=None)
    evaluate = watch(run, arguments.out, distributed)
    return train_video(run, run_dir=arguments.out, distributed=distributed, evaluate=evaluate)
