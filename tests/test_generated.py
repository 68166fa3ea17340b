"""Claims about generated clips in a folder: resumed, shared out and never mixed; and about what is measured of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from magi import cli
from magi.checkpoint import CheckpointError
from magi.cli import evaluate_protocol
from magi.distributed import Distributed
from magi.evaluation.by_protocol import ProtocolRun, generate_clips, measure_clips, real_clips
from magi.evaluation.detectors.choosing import Chosen
from magi.evaluation.distance import Measured, bias_words, check_frames, compare
from magi.evaluation.features import Side, features_of
from magi.evaluation.frechet import Moments, frechet_distance
from magi.evaluation.generated import ClipFolder, begin, complete, identity, maker, release_fingerprint
from magi.evaluation.kernel import kernel_distance
from magi.evaluation.protocols import PROTOCOLS, WORLD, Protocol
from magi.evaluation.world import at_size, world_test
from magi.model.config import MagiConfig
from magi.model.head import HeadConfig
from magi.sampling.config import SampleConfig
from magi.sampling.release import Release, save_release
from magi.tokenizers.pixel import PixelTokenizer
from tests.toys import trained_looking

FAST = SampleConfig(mask_steps=2, head_steps=2)
IDENTITY = {"model": "m", "protocol": "p", "sample": {"mask_steps": 2}, "seed": 0}
TINY_WORLD = replace(WORLD, frames=4, context=2, fewest_frames=4, real_count=6, generated_count=6)


@pytest.fixture(scope="module")
def release() -> Release:
    """A model of 32-pixel frames with random weights."""
    config = MagiConfig(
        latent_channels=192, latent_height=4, latent_width=4, num_frames=5, depth=1, width=16, mlp_width=16, heads=2,
        head=HeadConfig(width=16, depth=1), max_interval=3,
    )  # fmt: skip
    return Release(trained_looking(config, dtype=torch.float32).requires_grad_(False), PixelTokenizer(8), FAST)


def numbered(numbers: range) -> Tensor:
    """Clips (B, 2, 3, 4, 4) whose every pixel is the clip's number."""
    return torch.tensor(list(numbers), dtype=torch.uint8).view(-1, 1, 1, 1, 1).expand(-1, 2, 3, 4, 4).contiguous()


def all_of(folder: ClipFolder) -> Tensor:
    return torch.cat([folder.read(shard) for shard in folder.shards])


@dataclass(frozen=True)
class Means:
    """A detector that anyone can compute: the mean of each colour, and how the first differs from the last frame."""

    name: str = "means"
    dim: int = 4
    fingerprint: str = "f" * 64
    frames: int | None = None

    def features(self, video: Tensor) -> Tensor:
        pixels = video.float()
        moved = (pixels[:, -1] - pixels[:, 0]).abs().mean(dim=(1, 2, 3))
        return torch.cat([pixels.mean(dim=(1, 3, 4)), moved[:, None]], dim=1)


def test_shards_cover_every_clip_once(tmp_path: Path) -> None:
    """150 clips in shards of 64 are 64, 64 and 22; read again in order they are clips 0 to 149."""
    folder = begin(tmp_path / "clips", IDENTITY, count=150)
    assert [len(folder.numbers(shard)) for shard in folder.shards] == [64, 64, 22]
    assert complete(folder, numbered) == [0, 1, 2]
    assert all_of(folder)[:, 0, 0, 0, 0].tolist() == list(range(150))


def test_a_killed_run_makes_only_what_is_missing(tmp_path: Path) -> None:
    """The maker dies within the second shard: the first one stays, half the second is nowhere, and a second run asks
    for no clip of the first. What a killed writer left under a temporary name is swept away."""
    folder = begin(tmp_path / "clips", IDENTITY, count=12, clips_per_shard=4)

    def dies(numbers: range) -> Tensor:
        if 6 in numbers:
            raise KeyboardInterrupt
        return numbered(numbers)

    with pytest.raises(KeyboardInterrupt):
        complete(folder, dies, batch_size=2)
    assert folder.missing() == [1, 2]
    (folder.root / ".tmp-shard-00001-abc").mkdir()
    asked: list[int] = []

    def counts(numbers: range) -> Tensor:
        asked.extend(numbers)
        return numbered(numbers)

    again = begin(tmp_path / "clips", IDENTITY, count=12, clips_per_shard=4)
    assert complete(again, counts, batch_size=2) == [1, 2]
    assert asked == list(range(4, 12))
    assert all_of(again)[:, 0, 0, 0, 0].tolist() == list(range(12))
    assert not list(folder.root.glob(".tmp-*"))
    assert complete(again, counts) == [] and len(asked) == 8


def test_the_number_of_processes_changes_no_byte(tmp_path: Path, release: Release) -> None:
    """Batches begin anew with each shard, so one process, three, or one that takes over from two that were stopped all
    write the same files; and shard s is of rank s % world size."""
    make = maker(release, seed=3, frames=2, interval=1, settings=FAST)
    folders = {}
    for name, ranks in (("one", 1), ("three", 3)):
        folder = folders[name] = begin(tmp_path / name, IDENTITY, count=10, clips_per_shard=3)
        done = [complete(folder, make, batch_size=2, rank=rank, world_size=ranks) for rank in range(ranks)]
        assert done == [[shard for shard in range(4) if shard % ranks == rank] for rank in range(ranks)]
    mixed = folders["mixed"] = begin(tmp_path / "mixed", IDENTITY, count=10, clips_per_shard=3)
    complete(mixed, make, batch_size=2, rank=1, world_size=2)
    complete(mixed, make, batch_size=2)
    files = [
        [(folder.path(shard) / "clips.safetensors").read_bytes() for shard in folder.shards]
        for folder in folders.values()
    ]
    assert files[0] == files[1] == files[2] and len(set(files[0])) == 4


def test_a_clip_depends_on_its_seed_alone(tmp_path: Path, release: Release) -> None:
    """Made each alone, clips are the same bits at every batch size; made together they agree but for a level of
    rounding; and clip 2 of seed 3 is clip 0 of seed 5."""
    alone = maker(release, seed=3, frames=2, interval=1, settings=replace(FAST, deterministic=True))
    together = maker(release, seed=3, frames=2, interval=1, settings=FAST)
    shifted = maker(release, seed=5, frames=2, interval=1, settings=replace(FAST, deterministic=True))
    one, two = (torch.cat([alone(range(0, 2)), alone(range(2, 4))]), alone(range(4)))
    assert torch.equal(one, two) and torch.equal(shifted(range(0, 1)), two[2:3])
    assert (together(range(4)).int() - two.int()).abs().max() <= 1
    assert not torch.equal(two[0], two[1])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model": "n"}, "model: saved 'm', now 'n'"),
        ({"sample": {"mask_steps": 3}}, "sample.mask_steps: saved 2, now 3"),
        ({"seed": 1}, "seed: saved 0, now 1"),
    ],
)
def test_clips_of_two_identities_never_mix(tmp_path: Path, changes: dict[str, object], told: str) -> None:
    """Another model, sampler or seed is refused with both values, and so is another count; nothing is overwritten."""
    complete(begin(tmp_path / "clips", IDENTITY, count=2), numbered)
    with pytest.raises(ValueError, match=told):
        begin(tmp_path / "clips", {**IDENTITY, **changes}, count=2)
    with pytest.raises(ValueError, match="count: saved 2, now 3"):
        begin(tmp_path / "clips", IDENTITY, count=3)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    with pytest.raises(ValueError, match="neither empty nor a folder of generated clips"):
        begin(tmp_path / "other", IDENTITY, count=2)


def test_the_identity_follows_weights_tokenizer_and_sampler(release: Release) -> None:
    """One weight changed by one bit is another model; what does not decide a clip is not asked."""
    told = identity(release, protocol="p", contexts="", seed=0, size=32, settings=FAST)
    before = told["model"]
    assert before == release_fingerprint(release) and len(before) == 64
    parameter = next(release.model.parameters())
    kept = parameter.clone()
    parameter.view(-1)[0] += torch.finfo(torch.float32).eps * parameter.view(-1)[0].abs().clamp(min=1)
    assert release_fingerprint(release) != before
    parameter.copy_(kept)
    assert release_fingerprint(release) == before
    assert release_fingerprint(replace(release, tokenizer=PixelTokenizer(4))) != before
    other = identity(release, protocol="p", contexts="", seed=0, size=32, settings=replace(FAST, temperature=0.9))
    assert {name for name in told if told[name] != other[name]} == {"sample"}


def test_a_damaged_shard_is_not_measured(tmp_path: Path) -> None:
    """One flipped bit of a pixel is found by the shard's SHA-256; a shard that was deleted is made again."""
    folder = begin(tmp_path / "clips", IDENTITY, count=2, clips_per_shard=1)
    complete(folder, numbered)
    file = folder.path(1) / "clips.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match="another SHA-256"):
        all_of(folder)
    shutil.rmtree(folder.path(1))
    assert complete(folder, numbered) == [1] and len(all_of(folder)) == 2


def tell(protocol: Protocol, real: Tensor, made: Tensor, *, parts: int = 2, detector: Means | None = None) -> Measured:
    clips, frames = detector or Means(), Means("frames")
    check_frames(protocol, clips)
    sides: tuple[tuple[Side, Tensor], ...] = (("real", real), ("generated", made))
    one, two = (
        features_of(video.split(parts), side, protocol=protocol, detector=clips, frame_detector=frames)
        for side, video in sides
    )
    return compare(protocol, one, two, detector=clips, frame_detector=frames)


def some_clips(seed: int, count: int = 6) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 4, 3, 8, 8), generator=rng, dtype=torch.uint8)


def test_measured_is_what_the_definition_says() -> None:
    """Distance, kernel and curve against the features taken of all clips at once, whatever the parts they come in; the
    curve's frame t is that of frames t alone, so that brightening one frame moves that point and no other."""
    real, made = some_clips(0), some_clips(1)
    one, two = Means().features(real).double(), Means().features(made).double()
    for parts in (1, 4, 6):
        found = tell(TINY_WORLD, real, made, parts=parts)
        assert found.distance == pytest.approx(frechet_distance(Moments.of(one), Moments.of(two), divisor="N"))
        assert found.kernel == pytest.approx(kernel_distance(one, two))
    brighter = real.clone()
    brighter[:, 2] = brighter[:, 2] // 2 + 120
    assert [value > 1e-6 for value in tell(TINY_WORLD, real, brighter).by_frame] == [False, False, True, False]
    assert tell(TINY_WORLD, real, real).distance == pytest.approx(0, abs=1e-6)


def test_the_interval_holds_the_distance_and_narrows() -> None:
    """Of two sets far apart the interval lies about the distance, and with 64 times the clips it is a fraction as
    wide; the same call gives the same interval."""
    widths = []
    for copies in (1, 64):
        protocol = replace(TINY_WORLD, real_count=8 * copies, generated_count=8 * copies)
        real, made = some_clips(0, 8 * copies) // 2, some_clips(1, 8 * copies) // 2 + 100
        found = tell(protocol, real, made, parts=64)
        assert found.interval[0] <= found.distance <= found.interval[1]
        assert found.interval == tell(protocol, real, made, parts=64).interval
        widths.append((found.interval[1] - found.interval[0]) / found.distance)
    assert widths[1] < widths[0] / 4


def test_other_counts_and_lengths_are_refused() -> None:
    """A distance depends on how many clips there are and how long, so neither may differ in silence."""
    real = some_clips(0)
    with pytest.raises(ValueError, match="compares 6 generated clips, got 5"):
        tell(TINY_WORLD, real, real[:5])
    with pytest.raises(ValueError, match=r"compares uint8 \(clips, 4, 3"):
        tell(TINY_WORLD, real, real[:, :3])
    with pytest.raises(ValueError, match=r"real clips are torch\.float32"):
        tell(TINY_WORLD, real.float(), real)
    with pytest.raises(ValueError, match="takes clips of 16 frames, protocol world has 4"):
        tell(TINY_WORLD, real, real, detector=Means(frames=16))


def test_features_that_are_not_finite_are_refused() -> None:
    """One clip that the detector cannot tell would make every statistic NaN; its detector is named instead."""

    class Broken(Means):
        def features(self, video: Tensor) -> Tensor:
            return super().features(video) / 0

    with pytest.raises(ValueError, match=r"means gives .* not finite"):
        tell(TINY_WORLD, some_clips(0), some_clips(1), detector=Broken())


def test_a_protocol_whole(tmp_path: Path, release: Release) -> None:
    """Real clips, generation and distance of the world, from nothing and again: the second time nothing is generated,
    the numbers are the same, and the detector has seen the given frames in front of the generated ones."""
    run = ProtocolRun(release, TINY_WORLD, tmp_path, 32, FAST, batch_size=4)
    truth = world_test(1, clips=6, config=replace(at_size(32), num_frames=4)).video
    done: list[tuple[str, int]] = []

    def once() -> Measured:
        real = real_clips(run, None, Distributed())
        folder = generate_clips(run, real, group=Distributed(), note=lambda what, clips: done.append((what, clips)))
        return measure_clips(run, real, folder, Means(), frame_detector=Means("frames"))

    first = once()
    assert done == [("generated", 4), ("generated", 6)]
    assert once().record() == first.record() and len(done) == 2
    assert first.by_frame[:2] == (0, 0) and min(first.by_frame[2:]) > 0
    (features,) = tmp_path.glob("features-real-*")
    assert json.loads((features / "features.json").read_text())["protocol"]["fingerprint"] == TINY_WORLD.fingerprint
    assert torch.equal(load_file(features / "features.safetensors")["clips"], Means().features(truth))


@dataclass(frozen=True)
class Counting(Means):
    """The same, noting what it is given."""

    seen: list[int] = field(default_factory=list)

    def features(self, video: Tensor) -> Tensor:
        self.seen.append(len(video))
        return super().features(video)


def test_features_are_taken_once(tmp_path: Path, release: Release) -> None:
    """Real clips are looked at once for all runs and generated ones once for each; compared again, no clip is looked
    at and every number is the same. Another detector takes its own; a flipped bit of what was kept is noticed."""
    detector = Counting()

    def measured(turn: int, detector: Means) -> Measured:
        run = ProtocolRun(release, TINY_WORLD, tmp_path, 32, FAST, turn=turn)
        real = real_clips(run, None, Distributed())
        folder = generate_clips(run, real, group=Distributed())
        return measure_clips(run, real, folder, detector, frame_detector=Means("frames"))

    first = [measured(turn, detector) for turn in range(2)]
    assert sum(detector.seen) == 3 * 6 and first[0].distance != first[1].distance
    assert [measured(turn, detector) for turn in range(2)] == first and sum(detector.seen) == 3 * 6
    other = Counting(fingerprint="e" * 64)
    measured(0, other)
    assert sum(other.seen) == 2 * 6
    for kept in tmp_path.glob("features-real-*/features.safetensors"):
        data = bytearray(kept.read_bytes())
        data[-1] ^= 1
        kept.write_bytes(data)
    with pytest.raises(CheckpointError, match="another SHA-256"):
        measured(0, detector)


def test_the_bias_says_what_it_is_of() -> None:
    """Sets that share contexts are not independent, so beside their distance the bias is said not to be theirs; where
    nothing is shared, nothing is said."""
    assert bias_words(TINY_WORLD) == tell(TINY_WORLD, some_clips(0), some_clips(1)).bias_is
    assert "independent sets of this size, 6 real and 6 generated" in bias_words(TINY_WORLD)
    assert "continue real ones" in bias_words(TINY_WORLD) and "continue" not in bias_words(PROTOCOLS["latte"])


def test_runs_share_no_seed(release: Release) -> None:
    """Clip i of run r has seed r N + i: were it r + i, all but a few clips of two runs would be the same."""
    firsts = [ProtocolRun(release, TINY_WORLD, Path(), 32, FAST, turn=turn).first_seed for turn in range(3)]
    assert firsts == [0, 6, 12]


@pytest.fixture
def own_measures(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The command with the detector of this file."""
    monkeypatch.setattr(evaluate_protocol, "choose", lambda name, device: Chosen(Means(), Means("frames")))
    yield


@pytest.mark.usefixtures("own_measures")
def test_the_command(tmp_path: Path, release: Release, capsys: pytest.CaptureFixture[str]) -> None:
    """`--protocol world` needs no folder; it prints the card and the fingerprint, which the JSON has too, under a name
    that says what was changed; the same command again generates nothing."""
    save_release(tmp_path / "model", release, card="")
    words = ["evaluate", str(tmp_path / "model"), "--protocol", "world", "--clips", "3", "--runs", "2"]
    words += ["--json", str(tmp_path / "scores.json"), "--device", "cpu"]
    assert cli.main(words) == 0, capsys.readouterr().err
    shown = capsys.readouterr().out
    protocol = WORLD.changed(clips=3, runs=2)
    record = json.loads((tmp_path / "scores.json").read_text())
    assert record["protocol"]["name"] == "world (changed: 3 clips, 2 runs)"
    assert record["protocol"]["fingerprint"] == protocol.fingerprint
    assert all(line in shown for line in protocol.card()) and "over runs" in shown
    assert shown.count("real clips through the detector\n") == 1 and shown.count("clips made\n") == 2
    assert bias_words(protocol) in shown and record["runs"][0]["finite_sample_bias_is"] == bias_words(protocol)
    assert record["detectors"]["clips"]["description"] in shown
    assert len(record["runs"]) == 2 and len(record["runs"][0]["by_frame"]["distance"]) == 21
    assert record["runs"][0]["distance"] != record["runs"][1]["distance"]
    kept = {path.name for path in (tmp_path / "scores.work").iterdir()}
    assert {"real.jsonl", "generated-0", "generated-3"} <= kept
    assert cli.main(words) == 0
    assert "clips made\n" not in (again_shown := capsys.readouterr().out) and "the detector\n" not in again_shown
    again = json.loads((tmp_path / "scores.json").read_text())
    assert again["runs"] == record["runs"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--protocol world", "give --json FILE"),
        ("--protocol world --data folder --json x.json", "leave out --data folder"),
        ("--protocol latte --json x.json", "protocol latte needs --data, the folder of ucf101"),
        ("--protocol world --frames 3 --json x.json", "--frames 3 is fixed by --protocol world"),
        ("--data world --work x", "--work has no effect without --protocol"),
    ],
)
@pytest.mark.usefixtures("own_measures")
def test_what_does_not_go_together_is_told(
    tmp_path: Path, release: Release, words: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line, before any work is done."""
    save_release(tmp_path / "model", release, card="")
    assert cli.main(["evaluate", str(tmp_path / "model"), *words.split()]) == cli.MISUSE
    assert told in capsys.readouterr().err
