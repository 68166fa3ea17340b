"""The detectors that ship: whole, told apart by name, blind to the batch, and in the right order on known damage."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from magi import checkpoint
from magi.data.world import World, WorldConfig
from magi.evaluation.detectors.protocol import Detector
from magi.evaluation.detectors.world import (
    NAME,
    SIZE,
    WEIGHTS,
    WorldNetwork,
    WorldNetworkConfig,
    load,
    load_frames,
    prepare,
    save,
)
from magi.experiments import degradations as damage
from magi.experiments.world_lessons import ALIKE, PLACES, SPEED_UNIT, answers, lesson
from magi.pretrained import SHELF, names

CLIPS = 64
FOLDER = SHELF / NAME
WEAK_AND_STRONG = {
    "blur": (1.5, 3),
    "noise": (48, 96),
    "frozen frames": (8, 15),
    "shuffled frames": (4, 16),
    "too fast": (1.5, 2.5),
    "too slow": (0.6, 0.2),
    "vanished body": (8, 16),
    "teleport": (16, 32),
}


@pytest.fixture(scope="module", params=[load, load_frames])
def detector(request: pytest.FixtureRequest) -> Detector:
    loaded: Detector = request.param()
    return loaded


def clips(count: int = 6, *, num_frames: int = 8, size: int = 64) -> Tensor:
    return World(WorldConfig(size=size, num_frames=num_frames, seed=7)).clips(range(count)).video


# What ships


def test_it_is_whole_and_small() -> None:
    """Every byte is that of the manifest, and the weights are at most 2 MiB."""
    checkpoint.verify(FOLDER)
    assert (FOLDER / f"{WEIGHTS}.safetensors").stat().st_size <= 2 * 2**20


def test_the_card_names_these_weights(detector: Detector) -> None:
    """A number published with a fingerprint can be traced to the card, whose hashes are those of what is loaded."""
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert f"| fingerprint, {detector.name} | `{detector.fingerprint}` |" in card


def test_one_byte_of_damage_is_found(tmp_path: Path) -> None:
    """Weights that were changed on the disk are refused, not measured with."""
    network = WorldNetwork(WorldNetworkConfig(width=4, dim=4, depth=1))
    save(tmp_path / "d", network, clips=clips(4), card="# {fingerprint}\n", recipe={})
    load(tmp_path / "d")
    path = tmp_path / "d" / f"{WEIGHTS}.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(checkpoint.CheckpointError, match="SHA-256"):
        load(tmp_path / "d")


def test_no_distance_is_called_fvd_or_fid(detector: Detector) -> None:
    """A published FVD is of I3D: ours always has its own name in front."""
    assert detector.name in ("world-FVD", "world-FID")
    for path in (FOLDER / "README.md", Path(damage.__file__), Path(prepare.__code__.co_filename)):
        alone = re.findall(r"(?<!world-)\b(?:FVD|FID)\b", path.read_text(encoding="utf-8"))
        assert not alone, f"{path.name} says {alone}"


def test_fingerprints_tell_weights_and_distances_apart(tmp_path: Path) -> None:
    """Other weights, or the same ones for another distance, have another fingerprint; a copy has the same."""
    torch.manual_seed(0)
    networks = [WorldNetwork(WorldNetworkConfig(width=4, dim=4, depth=1)) for _ in range(2)]
    prints = []
    for index, network in enumerate(networks):
        made = save(tmp_path / str(index), network, clips=clips(4), card="", recipe={})
        prints += [detector.fingerprint for detector in made]
        assert load(tmp_path / str(index)).fingerprint == made[0].fingerprint
        assert load_frames(tmp_path / str(index)).fingerprint == made[1].fingerprint
    assert len(set(prints)) == 4


def test_it_is_no_model_to_sample_from() -> None:
    """The shelf's list of models, which commands offer, does not name it."""
    assert NAME not in names()


# Features


def test_a_clips_features_do_not_depend_on_the_batch(detector: Detector) -> None:
    """Alone, in another order or beyond the size of a chunk, a clip has the same features, to float32 rounding."""
    video = clips(20)
    together = detector.features(video)
    assert together.shape == (20, detector.dim) and together.dtype == torch.float32
    alone = torch.cat([detector.features(clip[None]) for clip in video])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(detector.features(video[order]), together[order], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("num_frames", [4, 5, 17])
def test_any_number_of_frames_will_do(detector: Detector, num_frames: int) -> None:
    """Predictions of 5 frames and windows of any length have features."""
    assert detector.frames is None
    assert detector.features(clips(2, num_frames=num_frames)).isfinite().all()


def test_only_the_detector_of_clips_sees_motion() -> None:
    """Frames in another order are the same frames: the mean over single frames keeps still, the other does not."""
    video = clips(4)
    mixed = video[:, [3, 0, 6, 1, 7, 4, 2, 5]]
    still, moving = load_frames(), load()
    torch.testing.assert_close(still.features(mixed), still.features(video), rtol=1e-4, atol=1e-4)
    assert (moving.features(mixed) - moving.features(video)).abs().max() > 0.1


def test_pictures_are_brought_to_one_size_by_areas() -> None:
    """A picture twice as large is the mean of its 2 x 2 pixels; one half as large has each pixel four times."""
    video = torch.randint(0, 256, (1, 4, 3, 2 * SIZE, 2 * SIZE), dtype=torch.uint8)
    mean = video.float().unflatten(-1, (SIZE, 2)).unflatten(-3, (SIZE, 2)).mean((-1, -3))
    torch.testing.assert_close(prepare(video), mean / 127.5 - 1)
    small = video[..., : SIZE // 2, : SIZE // 2]
    twice = small.repeat_interleave(2, -1).repeat_interleave(2, -2)
    torch.testing.assert_close(prepare(small), prepare(twice))


def test_what_is_no_clip_is_refused() -> None:
    """Floats, grey pictures and clips too short to move are named with what is expected."""
    for bad in (clips(1).float(), clips(1)[:, :, :1], clips(1)[0]):
        with pytest.raises(ValueError, match=r"expected uint8 \(B, T, 3, H, W\)"):
            load().features(bad)
    with pytest.raises(ValueError, match="3 frames; this detector needs at least 4"):
        load().features(clips(1, num_frames=3))


def test_it_is_cheap() -> None:
    """A clip of 16 frames costs less than half a GFLOP, counted and not timed: a core does over a hundred a second."""
    detector, video = load(), clips(1, num_frames=16)
    with FlopCounterMode(display=False) as counter:
        detector.features(video)
    assert 0.1e9 < counter.get_total_flops() < 0.5e9


# What it is taught


def test_answers_are_the_truth() -> None:
    """At the place of every body stand its colour, its offset and its way to the next frame where it flies free."""
    truth = lesson(range(ALIKE), seed=3, num_frames=5)
    asked, states = answers(truth), truth.states
    assert torch.equal(asked.count + 1, states.present.sum(1))
    assert torch.equal(asked.colors.sum(1).long(), states.present.sum(1))
    cell = SIZE / PLACES
    for clip, frame, body in states.present[:, None].expand(-1, 4, -1).nonzero().tolist():
        x, y = states.position[clip, frame, body].tolist()
        at = (clip, frame, int(y // cell), int(x // cell))
        assert asked.occupied[at] and asked.color[at] == states.color[clip, body]
        back = (asked.offset[at] + 0.5 + torch.tensor([x // cell, y // cell])) * cell
        torch.testing.assert_close(back, torch.tensor([x, y]), atol=1e-3, rtol=0)
        if truth.gravity[clip] == 0 and states.bounces[clip, frame + 1, body] == 0:
            there = torch.tensor([x, y]) + SPEED_UNIT * asked.velocity[at]
            torch.testing.assert_close(there, states.position[clip, frame + 1, body].float(), atol=1e-3, rtol=0)


# Known damage


@pytest.fixture(scope="module")
def reference() -> Tensor:
    (features,) = damage.collect(
        [(load(), slice(None))], replace(damage.CLEAN, seed=damage.REFERENCE_SEED), CLIPS, lambda clean: clean.video
    )
    return features


@pytest.fixture(scope="module")
def clean() -> damage.Scenes:
    return damage.scenes(damage.CLEAN, range(CLIPS))


@pytest.fixture(scope="module")
def floor(clean: damage.Scenes, reference: Tensor) -> float:
    return damage.distance(load().features(clean.video), reference, resamples=0).value


@pytest.mark.parametrize("name", WEAK_AND_STRONG)
def test_more_damage_is_farther(name: str, clean: damage.Scenes, reference: Tensor, floor: float) -> None:
    """Clean < weak < strong, against an independent clean set."""
    (kind,) = [kind for kind in damage.DEGRADATIONS if kind.name == name]
    shown = (kind.damage(clean, strength) for strength in WEAK_AND_STRONG[name])
    weak, strong = (damage.distance(load().features(video), reference, resamples=0).value for video in shown)
    assert floor < weak < strong, f"{name}: {floor:.3g}, {weak:.3g}, {strong:.3g}"


def test_damage_is_what_it_says() -> None:
    """Frozen, shuffled and vanished change the frames they should and no others."""
    part = damage.scenes(damage.CLEAN, range(3))
    frozen = damage.freeze(part, 4)
    assert torch.equal(frozen[:, :12], part.video[:, :12]) and (frozen[:, 12:] == frozen[:, 11:12]).all()
    moved = (damage.shuffle(part, 4) != part.video).flatten(2).any(-1).sum(1)
    assert moved.tolist() == [4, 4, 4]
    gone = (damage.vanish(part, 4) != part.video).flatten(2).any(-1)
    assert gone.sum(1).tolist() == [4, 4, 4] and gone[:, 12:].all()
    torch.testing.assert_close(damage.teleport(part, 0), part.video, atol=1, rtol=0)
    assert torch.equal(damage.change_interval(part, damage.INTERVAL), part.video)
    assert torch.equal(damage.change_speed(part, 1), part.video)
