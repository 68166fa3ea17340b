"""The paper in miniature: what is compared differs in nothing else, and what was planned is what is run."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from magi.cli import main
from magi.data.clips import Clips
from magi.distributed import Distributed
from magi.evaluation.uncertainty import Interval
from magi.experiments.video import posterior_of
from magi.model.config import MagiConfig
from magi.model.magi import Magi
from magi.report.studies import read_study
from magi.reproduce import plan
from magi.reproduce.answers import judge
from magi.reproduce.plan import CLAIMED
from magi.reproduce.reproduce import flops_ratio, registered_ratio, reproduce
from magi.reproduce.runs import Recipe, ablations, equal_flops, explanations, headline, training
from magi.reproduce.scale import CPU, SCALES, SMOKE, ScaleName
from magi.reproduce.steps import PARTS
from magi.reproduce.studies.quality import front, recommended
from magi.reproduce.workshop import Workshop


@pytest.fixture(scope="module")
def ratio() -> float:
    """FLOPs of CTF over MTF at the CPU scale."""
    return flops_ratio(CPU)


def weights(config: MagiConfig, seed: int) -> dict[str, torch.Tensor]:
    """As a training begins with them."""
    torch.manual_seed(seed)
    return Magi(config).state_dict()


@pytest.mark.parametrize(
    "recipe", [*headline(CPU), *ablations(CPU), *equal_flops(CPU, 1.5), *explanations(CPU)], ids=lambda r: r.name
)
def test_runs_of_a_seed_begin_alike_and_see_one_order(recipe: Recipe) -> None:
    """Same weights to the last bit, same seed of data, masks and noise: only what the name says differs."""
    run, base = training(SMOKE, recipe), training(SMOKE, Recipe(seed=recipe.seed))
    ours, theirs = weights(run.model, run.train.seed), weights(base.model, base.train.seed)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert run.data.world.seed == base.data.world.seed == recipe.seed
    allowed = {"forcing"} | (set() if recipe.noise else {"clean_probability"})
    allowed |= {"mtf_clean_prefix_probability"} if recipe.prefix else set()
    assert {key for key in asdict(run.model) if getattr(run.model, key) != getattr(base.model, key)} <= allowed
    assert replace(run.data.world, max_interval=base.data.world.max_interval) == base.data.world


def test_equal_flops_are_equal(ratio: float) -> None:
    """MTF's steps times their FLOPs are CTF's, to a step."""
    (longer, *_), equal = equal_flops(CPU, ratio), training(CPU, Recipe("ctf"))
    steps = training(CPU, longer).train.total_samples / equal.train.total_samples
    assert 1.3 < ratio < 2 and steps == pytest.approx(ratio, abs=CPU.batch / CPU.train_clips)


def test_without_noise_and_intervals_there_are_none() -> None:
    """`neither` never draws noise nor any interval but 1."""
    run = training(CPU, Recipe("ctf", interval=False, noise=False))
    assert run.model.clean_probability == 1 and run.data.world.max_interval == 1


def test_results_of_two_plans_do_not_mix(tmp_path: Path) -> None:
    """A folder of results keeps the first plan; another one is refused by what differs."""
    workshop = Workshop(SMOKE, tmp_path / "runs", tmp_path / "results", Distributed())
    digest = plan.register(workshop, "smoke", 1.5)
    assert plan.register(workshop, "smoke", 1.5) == digest
    with pytest.raises(ValueError, match=r"another plan than this program's: settings\.clips: saved 4, now 9"):
        plan.register(replace(workshop, scale=replace(SMOKE, clips=9)), "smoke", 1.5)


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_the_plan_that_was_registered_is_the_one_in_the_code(name: ScaleName, ratio: float) -> None:
    """The committed plan of a scale has the hash of what the code would run. It keeps the ratio of operations that was
    counted when it was registered, which later savings have moved by less than a percent."""
    results = Path(__file__).parents[1] / "results" / "reproduce" / name
    registered = registered_ratio(results)
    assert registered is not None and registered == pytest.approx(ratio, rel=0.01)
    found = json.loads((results / "plan.json").read_text())["sha256"]
    assert found == plan.fingerprint(plan.plan(name, SCALES[name], registered))


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        (Interval(0.6, CLAIMED, 0.95), "held"),
        (Interval(0.6, 0.9, 0.95), "undecided"),
        (Interval(0.8, 0.9, 0.95), "did not hold"),
        (None, "undecided"),
    ],
)
def test_the_headline_is_judged_by_the_registered_rule(interval: Interval | None, verdict: str) -> None:
    """By the whole interval, on the one side or the other of the paper's number."""
    assert judge(interval, CLAIMED) == verdict


def test_the_front_holds_what_nothing_beats() -> None:
    """Of four settings one is slower and worse than another; the recommended one is the fastest that is good enough."""
    seconds = {(1, 1): 1.0, (2, 1): 2.0, (1, 2): 3.0, (2, 2): 4.0}
    quality = {(1, 1): 9.0, (2, 1): 5.0, (1, 2): 6.0, (2, 2): 4.9}
    assert front(seconds, quality) == [(1, 1), (2, 1), (2, 2)]
    assert recommended(seconds, quality, (2, 2)) == (2, 1)


@pytest.mark.timeout(400)  # a minute on a machine that is not busy
def test_the_whole_of_it_runs_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The smoke scale by its command: an answer of every question on the world, each a file that a page can be made of.

    A second run finds everything there. (Recorded gameplay needs an engine, and is left to the command itself.)
    """
    parts = [part for part in PARTS if part != "footage"]
    words = ["reproduce", "--out", str(tmp_path / "runs"), "--results", str(tmp_path / "results"), "--device", "cpu"]
    assert main([*words, "--only", *parts]) == 0
    written = {path.name: path.read_bytes() for path in (tmp_path / "results").glob("??-*.json")}
    assert len(written) == len(parts)
    assert all(read_study(tmp_path / "results" / name).answer for name in written)
    capsys.readouterr()
    assert main([*words, "--only", *parts]) == 0
    assert capsys.readouterr().out.count("is there") == len(parts)
    assert main(["report", str(tmp_path / "results"), "--out", str(tmp_path / "page.html")]) == 0
    assert "CTF against MTF" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert not any(str(tmp_path).encode() in content for content in written.values()), "results name no machine's paths"


def test_what_is_answered_is_not_asked_again(tmp_path: Path) -> None:
    """Results outlive the models they are of: with every study there, nothing is drawn or trained."""
    results, runs = tmp_path / "results", tmp_path / "runs"
    results.mkdir()
    for number, part in enumerate(PARTS, 1):
        (results / f"{number:02d}-{part}.json").touch()
    reproduce("smoke", folder=runs, results=results, device="cpu")
    assert not runs.exists()


def test_clips_are_encoded_once(tmp_path: Path) -> None:
    """A batch across two chunks has the latents that its clips have when they are encoded alone, and a second reader
    finds the files of the first."""
    workshop = Workshop(SMOKE, tmp_path / "runs", tmp_path / "results", Distributed())
    run = training(SMOKE, Recipe("ctf"))
    source = workshop.clips(run)
    samples = range(source.size - 2, source.size + 2)
    found = source.clips(samples)
    alone = run.data.training_source().clips(samples)
    assert isinstance(alone, Clips)
    expected = posterior_of(alone, source.tokenizer, torch.device("cpu")).mean
    torch.testing.assert_close(found.mean, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(found.interval, alone.interval) and found.sample.tolist() == list(samples)
    kept = {path: path.stat().st_mtime_ns for path in source.folder.iterdir()}
    other = workshop.clips(training(SMOKE, Recipe("mtf")))
    assert torch.equal(other.clips(samples).mean, found.mean)
    assert {path: path.stat().st_mtime_ns for path in other.folder.iterdir()} == kept and len(kept) == 2


def test_clips_of_two_worlds_or_tokenizers_do_not_mix(tmp_path: Path) -> None:
    """Another seed, other intervals or another tokenizer are other files; noise and paradigm are not."""
    workshop = Workshop(SMOKE, tmp_path / "runs", tmp_path / "results", Distributed())
    first = workshop.clips(training(SMOKE, Recipe("ctf")))
    other = [training(SMOKE, Recipe("ctf", seed=1)), training(SMOKE, Recipe("ctf", interval=False))]
    other.append(replace(training(SMOKE, Recipe("ctf")), tokenizer="pixel:8"))
    assert len({first.folder, *(workshop.clips(run).folder for run in other)}) == 4
    assert workshop.clips(training(SMOKE, Recipe("mtf", noise=False))).folder == first.folder


def test_a_chunk_cut_short_is_made_again(tmp_path: Path) -> None:
    """What a crash leaves of a file is no error, and no clips."""
    source = Workshop(SMOKE, tmp_path / "runs", tmp_path / "results", Distributed()).clips(training(SMOKE, Recipe()))
    whole = source.chunk(0)["latents"]
    (path,) = source.folder.iterdir()
    path.write_bytes(path.read_bytes()[:1000])
    again = Workshop(SMOKE, tmp_path / "runs", tmp_path / "results", Distributed()).clips(training(SMOKE, Recipe()))
    assert torch.equal(again.chunk(0)["latents"], whole)


def test_a_model_of_another_run_is_refused(tmp_path: Path) -> None:
    """Its name is not enough: what it was trained with is compared with what is asked for."""
    workshop = Workshop(SMOKE, tmp_path / "runs", tmp_path / "results", Distributed())
    run = training(SMOKE, Recipe("mtf"))
    workshop.train("mine", run)
    workshop.train("mine", run)
    with pytest.raises(ValueError, match=r"mine\.json is of another run than this program's: .*lr"):
        workshop.train("mine", training(SMOKE, Recipe("mtf"), learning_rate=0.5))
