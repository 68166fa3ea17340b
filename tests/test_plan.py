"""The planner's arithmetic against counters and against the paper."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from magi.model import attention, plan
from magi.model.config import PRESETS, MagiConfig
from magi.model.draws import draw_counts, draw_training
from magi.model.head import HeadConfig, Solver
from magi.model.magi import Finished, Magi
from magi.model.masking import mask_ratio
from magi.sampling.config import SampleConfig
from magi.sampling.frame import sample_frame
from magi.sampling.noise import SampleNoise

SMALL = MagiConfig(
    latent_channels=3, latent_height=4, latent_width=6, num_frames=5, depth=2, width=24, mlp_width=40, heads=2,
    dropout=0.0, head=HeadConfig(width=20, depth=2, time_dim=6), head_repeats=3,
)  # fmt: skip
VARIANTS = {
    "ctf": SMALL,
    "two masked copies": replace(SMALL, masks_per_clip=2),
    "mtf": replace(SMALL, forcing="mtf"),
    "noise as channels": replace(SMALL, noise_embedding="channel"),
    "noise added": replace(SMALL, noise_embedding="add"),
    "extra projection": replace(SMALL, temporal_out_proj=True),
    "flow head": replace(SMALL, head=replace(SMALL.head, kind="flow")),
}


def counted(counter: FlopCounterMode, module: str) -> int:
    return sum(counter.get_flop_counts().get(module, {}).values())


@pytest.mark.parametrize("name", VARIANTS)
def test_forward_flops_are_those_of_the_counter(name: str) -> None:
    """Every matrix product of the loss is in the formula and no other: the counts are equal, not near."""
    config = VARIANTS[name]
    draws = draw_training(config, 0, step=3, samples=[7])
    latents = torch.randn(1, config.num_frames, config.latent_channels, config.latent_height, config.latent_width)
    with FlopCounterMode(display=False) as counter:
        Magi(config)(latents, torch.tensor([1]), draws)
    expected = plan.forward_flops(config, masked=draws.masked_tokens.shape[-1])
    assert counter.get_total_flops() == expected.total
    assert counted(counter, "Magi.transformer") + counted(counter, "Magi.embedding") == expected.transformer


def test_backward_costs_two_forwards() -> None:
    """Each product has two in the backward pass, save the few whose input needs no gradient: a little below 3 times."""
    config = replace(SMALL, width=48, mlp_width=192, head=HeadConfig(width=64, depth=3, time_dim=8))
    draws = draw_training(config, 0, step=3, samples=[7])
    latents = torch.randn(1, config.num_frames, config.latent_channels, config.latent_height, config.latent_width)
    model = Magi(config)
    with FlopCounterMode(display=False) as counter:
        model(latents, torch.tensor([1]), draws)["loss"].backward()
    ratio = counter.get_total_flops() / plan.forward_flops(config, masked=draws.masked_tokens.shape[-1]).total
    assert 2.8 < ratio <= 1 + plan.BACKWARD


@pytest.mark.parametrize("past", [0, 3])
def test_frame_flops_are_those_of_the_sampler(past: int) -> None:
    """The sampler is run under the counter: passes, cached attention and head calls on revealed tokens alone agree."""
    settings = SampleConfig(mask_steps=4, head_steps=7)
    model = Magi(SMALL).eval()
    cache = model.new_cache(1, past + 1)
    one = torch.tensor([1])
    tokens = torch.randn(1, max(past, 1), SMALL.tokens, SMALL.token_channels)
    if past:
        model.commit(cache, Finished(tokens, torch.arange(past)), interval=one)
    like = {"dtype": torch.float32, "device": torch.device("cpu")}
    noise = SampleNoise([0], tokens=SMALL.tokens, channels=SMALL.token_channels, source="cpu", **like)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        frame = sample_frame(
            model, partial(model.predict, cache, time=float(past), interval=one),
            order=noise.order(past), noise=partial(noise.head, past), settings=settings,
        )  # fmt: skip
        model.commit(cache, Finished(frame[:, None], torch.tensor([float(past)])), interval=one)
    assert counter.get_total_flops() == plan.frame_flops(SMALL, past=past, mask_steps=4, head_steps=7).total


def test_more_mask_steps_than_tokens_cost_no_more() -> None:
    """The sampler reveals at least one token per step, so steps beyond the tokens are not made."""
    counts = (SMALL.tokens, 64, 1000)
    assert len({plan.frame_flops(SMALL, past=2, mask_steps=count, head_steps=10) for count in counts}) == 1


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_flow_solvers_cost_what_they_run(solver: Solver) -> None:
    """Heun calls the head twice per step, but modulates it once for the end of a step and the beginning of the next."""
    flow = VARIANTS["flow head"]
    head = Magi(flow).head.eval()
    rows, steps = 5, 10
    with FlopCounterMode(display=False) as counter:
        head.sample(
            torch.randn(rows, flow.width), torch.randn(1, rows, flow.token_channels), num_steps=steps, solver=solver
        )
    costs = {
        s: plan.frame_flops(flow, past=1, mask_steps=1, head_steps=steps, solver=s).head for s in ("euler", "heun")
    }
    times = (steps + (solver == "heun")) * plan.time_flops(flow)
    assert (counter.get_total_flops() - times) / rows == (costs[solver] - times) / flow.tokens
    assert costs["euler"] < costs["heun"] < 2 * costs["euler"]


def test_mean_mask_ratio_is_that_of_the_draws() -> None:
    """The closed form against the mean of the quantile function over a fine grid, and the figure known of MAR."""
    uniform = (np.arange(2000) + 0.5) / 2000
    for minimum in (0.7, 0.4, 1.0):
        config = replace(SMALL, mask_ratio_min=minimum)
        drawn = np.mean([mask_ratio(u, minimum=minimum, deviation=config.mask_ratio_std) for u in uniform])
        assert plan.mean_mask_ratio(config) == pytest.approx(drawn, abs=1e-4)
    assert plan.mean_mask_ratio(MagiConfig()) == pytest.approx(0.867, abs=5e-4)


def test_mean_predicted_frames_are_those_of_the_draws() -> None:
    """What MTF shows complete is not predicted: the first frame, a drawn beginning of 1 to T - 1 frames, or both."""
    for first, prefix in ((False, 0.0), (True, 0.0), (False, 0.5), (True, 0.3)):
        config = replace(
            SMALL, num_frames=6, forcing="mtf", masks_per_clip=1,
            mtf_first_frame_clean=first, mtf_clean_prefix_probability=prefix,
        )  # fmt: skip
        drawn = [sum(count > 0 for count in draw_counts(config, 0, step=step)) for step in range(1500)]
        assert plan.mean_predicted_frames(config) == pytest.approx(np.mean(drawn), abs=4 * 1.7 / 1500**0.5)


def test_parameters_of_the_presets() -> None:
    """The paper's model is about 850 M by its own account, 808-822 M by its stated parts; the presets grow in order."""
    totals = {name: sum(plan.count_parameters(config).values()) for name, config in PRESETS.items()}
    assert 808e6 <= totals["xl"] <= 822e6
    assert list(totals.values()) == sorted(totals.values())
    assert totals["tiny"] == sum(p.numel() for p in Magi(PRESETS["tiny"]).parameters())


def test_cache_bytes_are_those_of_the_cache() -> None:
    """Against what a cache really takes."""
    assert plan.cache_bytes(SMALL) * 6 == Magi(SMALL).new_cache(1, 6).nbytes
    assert plan.cache_bytes(SMALL, bytes_per_value=2) * 6 == Magi(SMALL).bfloat16().new_cache(1, 6).nbytes


@pytest.mark.parametrize("checkpointed", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"masks_per_clip": 2}, {"head_repeats": 4}, {"head": HeadConfig(kind="flow", width=32)}, {"forcing": "mtf"}],
    ids=str,
)
def test_activation_bytes_are_what_autograd_saves(
    changes: dict[str, Any], checkpointed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two clips save one clip's bytes more than one does, whatever the weights take: counted by autograd's own hooks,
    with the attention kernel that accelerators use. The estimate may miss a tenth, not more. Of checkpointed blocks the
    forward pass keeps the inputs; what the backward pass computes again is the one whole block of the estimate."""
    config = MagiConfig(
        latent_height=8, latent_width=8, num_frames=4, depth=3, width=64, mlp_width=256, heads=2, dropout=0.0,
        head=HeadConfig(width=32, time_dim=64), head_repeats=1,
    )  # fmt: skip
    config = replace(config, **changes)
    monkeypatch.setattr(
        attention, "attend", lambda q, k, v, mask, dropout: F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    )
    step = min(range(200), key=lambda s: abs(draw_counts(config, 0, step=s)[0] / 16 - plan.mean_mask_ratio(config)))

    def saved(clips: int) -> int:
        held: dict[int, torch.UntypedStorage] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
            return tensor

        latents = torch.randn(clips, 4, 4, 8, 8)
        draws = draw_training(config, 0, step=step, samples=range(clips))
        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x), torch.autocast("cpu", torch.bfloat16):
            model = Magi(config)
            model.transformer.checkpointed = checkpointed
            model(latents, torch.ones(clips, dtype=torch.long), draws)
        return sum(storage.nbytes() for storage in held.values())

    recomputed = 0.0
    if checkpointed:  # a block whole, less what its input is counted for already
        deeper = replace(config, depth=config.depth + 1)
        recomputed = plan.activation_bytes(deeper) - plan.activation_bytes(config)
    expected = plan.activation_bytes(config, checkpointed=checkpointed) - recomputed
    assert expected == pytest.approx(saved(2) - saved(1), rel=0.1)


def test_training_bytes_are_those_of_a_run() -> None:
    """Weights, gradients, Adam's two moments and the average, counted after one step of the optimizer."""
    model = Magi(SMALL)
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    moments = [state[key] for state in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")]
    weights = list(model.parameters())
    gradients = [parameter.grad for parameter in weights if parameter.grad is not None]
    held = sum(tensor.nbytes for tensor in [*weights, *gradients, *moments, *weights])  # the average is one more copy
    assert sum(plan.training_bytes(sum(p.numel() for p in weights)).values()) == held
