"""Pixel measures against closed forms, and the evaluation's promise that a model sees the context and nothing else."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from magi.data.world import World, WorldConfig
from magi.evaluation import pixel
from magi.evaluation.by_clip import CEILING, HELD, MODEL, score_clips
from magi.evaluation.pixel import HIGHEST_PSNR, psnr, ssim
from magi.evaluation.run import continuations, evaluate, score_long, score_pixels, score_world, through_tokenizer
from magi.evaluation.world import EVALUATION_WORLD, FROZEN, WorldTest, describe, is_frozen, score_positions, world_test
from magi.model.config import MagiConfig
from magi.model.head import HeadConfig
from magi.sampling.config import SampleConfig
from magi.sampling.release import Release
from magi.tokenizers.pixel import PixelTokenizer
from tests.toys import trained_looking

CONTEXT, FRAMES = 3, 2
FAST = SampleConfig(mask_steps=2, head_steps=2)
BODIES = ("position error", "share found", "velocity error", "bounce F1", "count correct")
BOUNCES = ("bounce F1, model", "bounce F1, tokenizer")  # undefined in a frame without any


@pytest.fixture(scope="module")
def release() -> Release:
    """A model of pixels with random weights: what it makes is noise that depends on all it sees."""
    config = MagiConfig(
        latent_channels=192, latent_height=4, latent_width=4, num_frames=5, depth=1, width=16, mlp_width=16, heads=2,
        head=HeadConfig(width=16, depth=1), max_interval=3,
    )  # fmt: skip
    model = trained_looking(config, dtype=torch.float32).requires_grad_(False)
    return Release(model, PixelTokenizer(8), FAST)


@pytest.fixture(scope="module")
def test_clips() -> WorldTest:
    world = World(WorldConfig(size=32, num_frames=CONTEXT + FRAMES, seed=3))
    states = world.simulate(range(3), interval=1)
    return WorldTest(world.render(states), states)


def random_video(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def ssim_by_hand(one: Tensor, two: Tensor) -> float:
    """Wang et al. (2004), Eq. 13, window by window; a window that reaches over the border sees the picture mirrored."""
    x = np.arange(11) - 5
    weight = np.exp(-(x[:, None] ** 2 + x[None] ** 2) / (2 * 1.5**2))
    weight /= weight.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for channel in range(3):
        a, b = (np.pad(picture[channel].numpy().astype(np.float64), 5, mode="reflect") for picture in (one, two))
        for row in range(one.shape[1]):
            for column in range(one.shape[2]):
                p, q = (y[row : row + 11, column : column + 11] for y in (a, b))
                mean_p, mean_q = (weight * p).sum(), (weight * q).sum()
                var_p, var_q = (weight * p * p).sum() - mean_p**2, (weight * q * q).sum() - mean_q**2
                cov = (weight * p * q).sum() - mean_p * mean_q
                luminance = (2 * mean_p * mean_q + c1) / (mean_p**2 + mean_q**2 + c1)
                values.append(luminance * (2 * cov + c2) / (var_p + var_q + c2))
    return float(np.mean(values))


@pytest.mark.parametrize("difference", [1, 10, 255])
def test_psnr_of_a_constant_error(difference: int) -> None:
    """An error of d in every value has PSNR 20 log10(255 / d), whatever the shape around it."""
    truth = torch.zeros(2, 3, 3, 4, 5, dtype=torch.uint8)
    expected = torch.full((2, 3), 20 * math.log10(255 / difference), dtype=torch.float64)
    torch.testing.assert_close(psnr(truth + difference, truth), expected)


def test_equal_frames_have_the_highest_scores() -> None:
    """Infinite dB would make every mean infinite, hence the cap; SSIM is 1 by definition."""
    video = random_video(1, 2, 3, 16, 16)
    assert psnr(video, video).tolist() == [[HIGHEST_PSNR] * 2]
    torch.testing.assert_close(ssim(video, video), torch.ones(1, 2, dtype=torch.float64))


def test_ssim_is_that_of_its_paper() -> None:
    """Against Eq. 13 written out: contrast, brightness and structure of the two pictures differ."""
    truth = random_video(3, 13, 12, seed=1)
    video = (truth.float() * 0.6 + 50 + random_video(3, 13, 12, seed=2) / 8).to(torch.uint8)
    assert float(ssim(video, truth)) == pytest.approx(ssim_by_hand(video, truth), abs=1e-5)


def test_measures_refuse_what_they_would_misread() -> None:
    """Floats in [-1, 1] or channels last would give a number, only a meaningless one."""
    video = random_video(1, 3, 16, 16)
    with pytest.raises(ValueError, match="expected uint8"):
        psnr(video.float(), video.float())
    with pytest.raises(ValueError, match="expected uint8"):
        psnr(video.permute(0, 2, 3, 1), video.permute(0, 2, 3, 1))
    with pytest.raises(ValueError, match="its truth"):
        psnr(video, video[..., :8])
    with pytest.raises(ValueError, match="windows of 11 pixels"):
        ssim(video[..., :8], video[..., :8])


def test_a_model_sees_the_context_and_nothing_else(release: Release, test_clips: WorldTest) -> None:
    """Frames after the context may be replaced by anything: what is generated stays the same, bit for bit."""
    other = test_clips.video.clone()
    other[:, CONTEXT:] = random_video(*other[:, CONTEXT:].shape)
    clips = (test_clips.video, other)
    made, again = (continuations(release, video, context=CONTEXT, interval=1, seeds=range(3)) for video in clips)
    assert torch.equal(made, again)


def test_the_context_is_seen(release: Release, test_clips: WorldTest) -> None:
    """The counterpart: with another context the same seeds give other frames, so the test above can fail."""
    other = test_clips.video.clone()
    other[:, 0] = 255 - other[:, 0]
    clips = (test_clips.video, other)
    made, again = (continuations(release, video, context=CONTEXT, interval=1, seeds=range(3)) for video in clips)
    assert not torch.equal(made, again)


def test_scores_do_not_depend_on_the_batch_size(release: Release, test_clips: WorldTest) -> None:
    """A clip is continued with its own seed, so batches are a matter of memory; pixels agree to rounding."""
    batches = [
        continuations(release, test_clips.video, context=CONTEXT, interval=2, seeds=[5, 6, 7], batch_size=size).int()
        for size in (1, 2, 3)
    ]
    assert all((batches[0] - batch).abs().max() <= 1 for batch in batches)


def test_baselines_and_ceiling(release: Release) -> None:
    """Where nothing moves the held frame is perfect; a tokenizer without loss has the highest score there is."""
    video = random_video(2, 1, 3, 32, 32).repeat(1, CONTEXT + FRAMES, 1, 1, 1)
    noise, reconstructed = random_video(2, FRAMES, 3, 32, 32, seed=9), through_tokenizer(release, video)
    scores = score_pixels([noise], video, reconstructed=reconstructed)
    assert scores["PSNR, copy last"].tolist() == [HIGHEST_PSNR] * FRAMES
    assert scores["PSNR, tokenizer"].tolist() == [HIGHEST_PSNR] * FRAMES
    assert scores["SSIM, copy last"].tolist() == pytest.approx([1.0] * FRAMES)
    assert (scores["PSNR, model"] < 12).all()  # two independent noises are about 7.7 dB apart


def test_copy_last_holds_the_last_given_frame() -> None:
    """Frame i of the clip is all i, so the held frame is wrong by 1, 2, ...: known PSNR, and no later frame is used."""
    ramp = torch.arange(5, dtype=torch.uint8).view(1, 5, 1, 1, 1).expand(1, 5, 3, 12, 12).contiguous()
    scores = score_pixels([ramp[:, 3:]], ramp, reconstructed=ramp)
    assert scores["PSNR, copy last"].tolist() == pytest.approx([20 * math.log10(255), 20 * math.log10(255 / 2)])


def test_copy_last_goes_through_the_tokenizer() -> None:
    """Like the model's frames: a tokenizer that adds 3 makes frame 2 of the ramp a 5, wrong by 2 and 1; and the
    demo's table says the same as this one's."""
    ramp = torch.arange(5, dtype=torch.uint8).view(1, 5, 1, 1, 1).expand(1, 5, 3, 64, 64).contiguous()
    scores = score_pixels([ramp[:, 3:]], ramp, reconstructed=ramp + 3)
    assert scores["PSNR, copy last"].tolist() == pytest.approx([20 * math.log10(255 / 2), 20 * math.log10(255)])
    states = World(WorldConfig(num_frames=5)).simulate([0])
    shown = score_clips(ramp[:, 3:], WorldTest(ramp, states), reconstructed=ramp + 3, context=3)
    for name, who in (("model", MODEL), ("copy last", HELD), ("tokenizer", CEILING)):
        assert torch.equal(shown.psnr[who].mean(0), scores[f"PSNR, {name}"])


def test_scores_of_the_truth_and_of_nothing() -> None:
    """The truth scores as well as the reader of positions can see, and black frames as badly as can be."""
    test = world_test(1, clips=3)
    truth = test.video[:, 5:]
    perfect = score_clips(truth, test, reconstructed=test.video, context=5)
    assert perfect.error[MODEL].shape == (3, 16)
    assert float(perfect.error[MODEL].max()) < 0.6 and float(perfect.right[MODEL].mean()) > 0.9
    assert torch.equal(perfect.error[MODEL], perfect.error[CEILING]) and float(perfect.psnr[MODEL].min()) == 100
    assert float(perfect.error[HELD][:, -1].mean()) > float(perfect.error[HELD][:, 0].mean()) > 1
    nothing = score_clips(torch.zeros_like(truth), test, reconstructed=test.video, context=5)
    assert float(nothing.error[MODEL].min()) > float(perfect.error[HELD].mean()) and not nothing.right[MODEL].any()


def test_the_truth_scores_well_in_the_world(test_clips: WorldTest) -> None:
    """Were the true frames generated, bodies would be found where they are, to a fraction of a pixel."""
    scores = score_world([test_clips.video[:, CONTEXT:]], test_clips, context=CONTEXT, reconstructed=test_clips.video)
    assert (scores["position error, model"] < 0.5).all()
    assert torch.equal(scores["position error, model"], scores["position error, tokenizer"])
    assert (scores["position error, copy last"] > scores["position error, model"]).all()
    assert torch.equal(scores["position error where found, model"], scores["position error, model"])
    assert (scores["share found, model"] == 1).all() and (scores["velocity error, model"] < 0.5).all()
    for rule in ("copy last", "constant velocity"):
        assert (scores[f"velocity error, {rule}"] > scores["velocity error, model"]).all()


def test_bounces_of_the_truth_are_seen_at_the_frame_they_happen() -> None:
    """The truth's own frames reach 0.9 over the horizon; the same video held still bounces nowhere and has 0."""
    test = world_test(1, clips=16)
    truth = test.video[:, 5:]
    assert float(score_positions(truth, test)["bounce F1"].nanmean()) > 0.9
    still = truth[:, :1].expand_as(truth)
    assert float(score_positions(still, test)["bounce F1"][2:].nanmean()) < 0.1


def test_psnr_is_the_same_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole numbers add up exactly: chunks of one frame or of all give the same bits, whatever the leading shape."""
    video, truth = random_video(2, 5, 3, 8, 9, seed=1), random_video(2, 5, 3, 8, 9, seed=2)
    whole = psnr(video, truth)
    monkeypatch.setattr(pixel, "VALUES_PER_CHUNK", 1)
    assert torch.equal(psnr(video, truth), whole) and whole.shape == (2, 5)
    assert torch.equal(psnr(video[1, 3], truth[1, 3]), whole[1, 3])


def test_the_frozen_test_is_the_frozen_test() -> None:
    """Simulated and drawn anew, the clips have the hashes of the results file, which are those that the code knows;
    one clip fewer is another test."""
    written = json.loads((Path(__file__).parents[1] / "results" / "world64-test.json").read_text())
    assert written["world"] == repr(EVALUATION_WORLD)
    tests = {interval: world_test(interval) for interval in FROZEN}
    assert written["tests"] == [describe(test) for test in tests.values()]
    assert {test["interval"]: test["sha256"] for test in written["tests"]} == FROZEN
    fewer = WorldTest(tests[1].video[:-1], tests[1].states)
    assert is_frozen(tests[2]) and not is_frozen(fewer)


def test_everything_at_once(release: Release, test_clips: WorldTest) -> None:
    """Each score has one number per generated frame; bodies are graded in the world and only there. Noise shows none,
    so there what is measured on found bodies is undefined, and all else finite."""
    done: list[int] = []
    scores = evaluate(release, test_clips, context=CONTEXT, interval=1, batch_size=2, note=done.append).by_frame
    assert done == [2, 3]
    assert all(values.shape == (FRAMES,) for values in scores.values())
    undefined = {name for name, values in scores.items() if not values.isfinite().all()}
    assert undefined <= {"position error where found, model", "velocity error, model", *BOUNCES}
    pixels_only = evaluate(release, test_clips.video, context=CONTEXT, interval=1).by_frame
    assert scores.keys() - pixels_only.keys() == {name for name in scores if name.startswith(BODIES)}
    for name, values in pixels_only.items():
        torch.testing.assert_close(values, scores[name], atol=0.1, rtol=0)


def test_one_sample_and_the_best_of_three_are_told_apart(release: Release, test_clips: WorldTest) -> None:
    """Sample k of clip i has seed k B + i. By hand: a single sample is the mean over three runs with seeds from 0, 3
    and 6; the best is chosen by the clip's mean over frames, the lowest where low is good. No score of the model is
    left without saying which it is, where the two differ; what needs no sample is what it was."""
    done: list[int] = []
    measures = {"PSNR": psnr, "LPIPS": lambda one, two: -psnr(one, two)}  # as any distance: lower is better
    together = evaluate(
        release, test_clips, context=CONTEXT, interval=1, samples=3, measures=measures, note=done.append
    ).by_frame
    assert done == [3, 6, 9]
    values = torch.stack(
        [
            psnr(
                continuations(release, test_clips.video, context=CONTEXT, interval=1, seeds=range(seed, seed + 3)),
                test_clips.video[:, CONTEXT:],
            )
            for seed in (0, 3, 6)
        ]
    )  # (K, B, F)
    best = torch.stack([max(values[:, clip], key=lambda frames: float(frames.mean())) for clip in range(3)])
    torch.testing.assert_close(together["PSNR, model, single sample"], values.mean((0, 1)))
    torch.testing.assert_close(together["PSNR, model, best of 3"], best.mean(0))
    torch.testing.assert_close(together["LPIPS, model, best of 3"], -best.mean(0))
    assert float(best.mean()) > float(values.mean())
    apart = [evaluate(release, test_clips, context=CONTEXT, interval=1, seed=seed).by_frame for seed in (0, 3, 6)]
    mean = torch.stack([scores["position error, model"] for scores in apart]).mean(0)
    torch.testing.assert_close(together["position error, model, single sample"], mean)
    assert float(together["position error, model, best of 3"].mean()) <= float(mean.mean())
    assert not {"PSNR, model", "LPIPS, model", "position error, model"} & together.keys()
    assert torch.equal(together["PSNR, copy last"], apart[0]["PSNR, copy last"])


def test_bodies_of_two_samples(test_clips: WorldTest) -> None:
    """The truth and a black video: together they show half the bodies, and the best of them is the truth."""
    truth = test_clips.video[:, CONTEXT:]
    both = score_world([torch.zeros_like(truth), truth], test_clips, context=CONTEXT, reconstructed=test_clips.video)
    assert both["share found, model"].tolist() == both["count correct, model"].tolist() == [0.5] * FRAMES
    assert torch.equal(both["position error, model, best of 2"], both["position error, tokenizer"])
    assert (both["position error, model, single sample"] > 5).all()


def test_windows_are_of_generated_frames_and_of_the_same_scenes() -> None:
    """Were the truth generated, its windows would be right, and so would those of a tokenizer that loses nothing, even
    if bodies had been ten times as fast in the given frames; of a video that stands still from the second window on,
    the second one tells it. Of two samples the mean is told."""
    test, context = world_test(1, clips=4, config=replace(EVALUATION_WORLD, num_frames=21)), 5
    truth = test.video[:, context:]
    found = score_long([truth], test, context=context, size=8, reconstructed=test.video)
    assert all(values.shape == (2,) for values in found.values())
    velocity = test.states.velocity.clone()
    velocity[:, :context] *= 10
    other = replace(test, states=replace(test.states, velocity=velocity))
    again = score_long([truth], other, context=context, size=8, reconstructed=test.video)
    assert all(torch.equal(values, found[name]) for name, values in again.items())
    assert (found["share found, model"] == 1).all() and (found["speed ratio, model"] - 1).abs().max() < 0.08
    assert all(torch.equal(values, found[name.replace("model", "tokenizer")]) for name, values in found.items())
    still = truth.clone()
    still[:, 8:] = truth[:, 7:8]
    both = score_long([truth, still], test, context=context, size=8, reconstructed=test.video)
    moved = [float(value) for value in found["speed ratio, model"]]
    assert float(both["speed ratio, model"][1]) == pytest.approx(moved[1] / 2)
    # a bounce at the border of the windows is not seen by one who stands still after it
    assert float(both["speed ratio, model"][0]) == pytest.approx(moved[0], abs=0.02)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"samples": 0}, "samples is 0; each clip needs at least 1"),
        ({"context": 1}, "context is 1 frame; give at least 2"),
        ({"window": 3}, r"windows of 3 frames in 2 generated ones; give 2\.\.2"),
        ({"window": 2, "world": False}, "bodies whose truth is known; take the procedural world"),
        ({"measures": {"SSIM": lambda one, two: ssim(one[..., :8], two[..., :8])}}, "windows of 11 pixels"),
    ],
)
def test_what_cannot_be_measured_is_told_before_the_work(
    release: Release, test_clips: WorldTest, asked: dict[str, Any], told: str
) -> None:
    """Hours of sampling would be lost: nothing has been continued when it is refused."""
    done: list[int] = []
    clips = test_clips if asked.pop("world", True) else test_clips.video
    with pytest.raises(ValueError, match=told):
        evaluate(release, clips, **{"context": CONTEXT, "interval": 1, "note": done.append, **asked})
    assert not done


@pytest.mark.parametrize("context", [0, CONTEXT + FRAMES])
def test_a_context_must_leave_something_to_predict(release: Release, test_clips: WorldTest, context: int) -> None:
    """Both ends are refused, with both numbers."""
    with pytest.raises(ValueError, match=f"context is {context} of {CONTEXT + FRAMES} frames"):
        continuations(release, test_clips.video, context=context, interval=1, seeds=range(3))
