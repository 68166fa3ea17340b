"""The planted bugs. Each replaces a few lines of the real code in this process and names the tests that must turn
red."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from pytest import MonkeyPatch
from torch import Tensor

from magi import graphs
from magi.distributed import Distributed
from magi.model import draws, embeddings, forcing, head_kernel, hoisted, transformer
from magi.model.cache import KVCache
from magi.model.embeddings import StreamEmbedding
from magi.model.magi import Finished, Magi
from magi.sampling import past
from magi.sampling.graphs import GraphedMagi, Lent
from magi.sampling.noise import SampleNoise
from magi.seeds import generator
from magi.training import loop, optim
from magi.training.ema import Ema
from magi.training.gradients import TreeSum
from magi.training.log import MetricsLog
from magi.training.state import TrainingState
from tests.mutants.mutant import Mutant, Plant
from tests.mutants.of_data import DATA_MUTANTS
from tests.mutants.of_evaluation import EVALUATION_MUTANTS
from tests.mutants.of_saving import SAVING_MUTANTS
from tests.mutants.of_tokenizers import TOKENIZER_MUTANTS

# --- who sees whom ---


class StreamFrame(NamedTuple):
    """A row or column of the temporal mask."""

    masked: bool
    copy: int
    time: int


def ctf_cells(rule: Callable[[bool, StreamFrame, StreamFrame], bool]) -> Plant:
    """Decide every cell of the CTF mask anew from its right value, its row and its column."""
    right = forcing.ctf_mask

    def wrong(frames: int, copies: int = 1) -> Tensor:
        names = [StreamFrame(False, 0, t) for t in range(frames - 1)]
        names += [StreamFrame(True, m, t) for m in range(copies) for t in range(frames)]
        cells = right(frames, copies).tolist()
        return torch.tensor([[rule(cells[i][j], a, b) for j, b in enumerate(names)] for i, a in enumerate(names)])

    return lambda patch: patch.setattr(forcing, "ctf_mask", wrong)


def mtf_sees(mask: Callable[[int], Tensor]) -> Plant:
    """Replace the MTF mask."""
    return lambda patch: patch.setattr(forcing, "mtf_mask", mask)


def unmasked_input(patch: MonkeyPatch) -> None:
    """The mask token is never put in."""
    embed = StreamEmbedding.forward
    patch.setattr(
        StreamEmbedding,
        "forward",
        lambda self, tokens, masked, *rest: embed(self, tokens, torch.zeros_like(masked), *rest),
    )


def swapped_axes(patch: MonkeyPatch) -> None:
    """The row's channels tell the column and the other way round."""
    right = embeddings.sinusoid_2d
    patch.setattr(
        embeddings, "sinusoid_2d", lambda rows, columns, width: right(rows, columns, width).roll(width // 2, dims=-1)
    )


# --- noise and masks of training ---


def ctf_layout(change: Callable[[forcing.Streams, draws.TrainingDraws], forcing.Streams]) -> Plant:
    """Change what the CTF layout returns."""
    right = forcing.ctf_streams
    return lambda patch: patch.setitem(
        forcing.LAYOUTS, "ctf", lambda tokens, drawn: change(right(tokens, drawn), drawn)
    )


def noisy_masked_stream(streams: forcing.Streams, drawn: draws.TrainingDraws) -> forcing.Streams:
    """The drawn noise is added to the visible tokens of the masked frames too."""
    observed, masked = streams.tokens[:, : -streams.predicted], streams.tokens[:, -streams.predicted :]
    noise = (drawn.sigma[..., None, None] * drawn.noise).repeat(1, streams.predicted // drawn.sigma.shape[1], 1, 1)
    return replace(streams, tokens=torch.cat([observed, masked + noise], dim=1))


def always_noisy(patch: MonkeyPatch) -> None:
    """The clean id is never trained."""
    draw = draws.draw_sigma
    patch.setattr(draws, "draw_sigma", lambda config, rng: draw(replace(config, clean_probability=1e-9), rng))


def full_signal(patch: MonkeyPatch) -> None:
    """Noise is added to the whole signal whatever the mix."""
    patch.setattr(draws, "signal_scale", lambda _config, sigma: np.ones_like(sigma))


def first_frame_alone(patch: MonkeyPatch) -> None:
    """Places in a frame are taken for places in the clip."""
    patch.setattr(
        draws,
        "first_of_each",
        lambda orders, counts: np.concatenate([row[:count] for row, count in zip(orders, counts, strict=True)]),
    )


def one_order_for_all_frames(patch: MonkeyPatch) -> None:
    """Every frame of a clip has the same tokens hidden."""
    draw = draws.random_orders
    patch.setattr(draws, "random_orders", lambda rng, frames, tokens: np.repeat(draw(rng, 1, tokens), frames, axis=0))


def draws_of_the_batch(patch: MonkeyPatch) -> None:
    """Samples are told apart by their place in the batch."""
    made: dict[str, int] = {}

    def by_place(seed: int, purpose: str, *_position: int) -> np.random.Generator:
        made[purpose] = made.get(purpose, -1) + 1
        return generator(seed, purpose, made[purpose])

    patch.setattr(draws, "generator", by_place)


# --- cache and rollout ---


def commit_skipped(patch: MonkeyPatch) -> None:
    """Finished frames keep the keys and values of their last masked pass."""
    predict = Magi.predict

    def wrong(self: Magi, cache: KVCache, *frame: Tensor, finished: Finished | None = None, **rest: Any) -> Tensor:
        if finished is not None and cache.frames:
            cache.advance(finished.tokens.shape[1])
            finished = None
        return predict(self, cache, *frame, finished=finished, **rest)

    patch.setattr(Magi, "predict", wrong)


def commit_with(change: Callable[[Finished], Finished]) -> Plant:
    """Commit finished frames as something else."""
    embed = Magi._embed_finished
    return lambda patch: patch.setattr(
        Magi, "_embed_finished", lambda self, finished, interval: embed(self, change(finished), interval)
    )


def cache_forgets_the_oldest(patch: MonkeyPatch) -> None:
    """Views of the cache begin one frame late."""
    extend = KVCache.extend

    def wrong(self: KVCache, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        found = extend(self, layer, keys, values)
        return tuple(x[:, :, 1:] for x in found) if self.frames and keys.shape[2] == 1 else found  # type: ignore[return-value]

    patch.setattr(KVCache, "extend", wrong)


def fork_shares_memory(patch: MonkeyPatch) -> None:
    """Two futures write into one store."""

    def wrong(self: KVCache) -> KVCache:
        twin = KVCache.__new__(KVCache)
        twin.__dict__.update(self.__dict__)
        return twin

    patch.setattr(KVCache, "fork", wrong)


def sample_noise(method: str, wrong: Callable[..., Tensor]) -> Plant:
    """Replace a method of the sampler's noise; the right one is handed to the wrong one."""
    right = getattr(SampleNoise, method)
    return lambda patch: patch.setattr(
        SampleNoise, method, lambda self, *position, **rest: wrong(right, self, *position, **rest)
    )


def noise_of_the_first_seed(right: Callable[..., Tensor], self: SampleNoise, *position: Any, **rest: Any) -> Tensor:
    """One generator for the whole batch."""
    first = replace_seeds(self, self.seeds[:1] * len(self.seeds))
    drawn = right(first, *position, **rest)
    return drawn.roll(1, dims=0) if len(self.seeds) > 1 else drawn


def replace_seeds(noise: SampleNoise, seeds: list[int]) -> SampleNoise:
    """The same source for other seeds."""
    twin = SampleNoise.__new__(SampleNoise)
    twin.__dict__.update(noise.__dict__, seeds=seeds)
    return twin


def window_forgets_too_much(patch: MonkeyPatch) -> None:
    """A moved window begins one frame late, if that leaves it any."""
    start = past.window_start
    patch.setattr(
        past, "window_start", lambda frame, window: min(start(frame, window) + (start(frame, window) > 0), frame - 1)
    )


def with_graph_keys(change: Callable[[tuple[Any, ...]], tuple[Any, ...]]) -> Callable[..., Tensor]:
    """Passes whose graphs are found by other keys."""
    predict = GraphedMagi.predict

    def wrong(self: GraphedMagi, *frame: Any, **rest: Any) -> Tensor:
        recorder = self.recorder
        self.recorder = lambda key, *call, **kept: recorder(change(key), *call, **kept)
        try:
            return predict(self, *frame, **rest)
        finally:
            self.recorder = recorder

    return wrong


# --- training ---


def sum_as_they_come(self: TreeSum, values: Any) -> None:
    """One running sum."""
    total = [a + b for a, b in zip(self.branches[0][1], values, strict=True)] if self.branches else list(values)
    self.branches = [(1, total)]


def data_from_zero(patch: MonkeyPatch) -> None:
    """A resumed run meets its first clips again."""
    train = loop.train
    patch.setattr(loop, "train", lambda model, batches, **rest: train(model, lambda _start: batches(0), **rest))


def after_load(change: Callable[[TrainingState], None]) -> Plant:
    """Spoil what a resumed run has loaded."""
    load = TrainingState.load

    def wrong(self: TrainingState, *arguments: Any) -> None:
        load(self, *arguments)
        change(self)

    return lambda patch: patch.setattr(TrainingState, "load", wrong)


def log_never_cut(patch: MonkeyPatch) -> None:
    """Lines written after the checkpoint stay and are written again."""
    init = MetricsLog.__init__
    patch.setattr(
        MetricsLog,
        "__init__",
        lambda self, run_dir, _keep_bytes, **rest: init(self, run_dir, 1 << 40, **rest),
    )


def decay_everything(patch: MonkeyPatch) -> None:
    """One group for all parameters."""
    patch.setattr(
        optim,
        "build_optimizer",
        lambda model, config: torch.optim.AdamW(
            model.parameters(), lr=config.lr, betas=config.betas, weight_decay=config.weight_decay
        ),
    )


def places_of_the_first_video(patch: MonkeyPatch) -> None:
    """The last block looks into the past of the batch's first video, whichever it is about."""
    beside = KVCache.beside
    patch.setattr(
        KVCache,
        "beside",
        lambda self, layer, keys, values, places: beside(self, layer, keys, values, places[:1].expand_as(places)),
    )


def packed_once(patch: MonkeyPatch) -> None:
    """The compiled head keeps the weights that it was first given."""
    packed = head_kernel.packed
    first: dict[type, Any] = {}
    patch.setattr(hoisted, "packed", lambda layers: first.setdefault(type(layers), packed(layers)))


EMBEDDINGS, FORCING, MASKING, CACHE, SAMPLING, TRAINING, RESUME = (
    f"tests/test_{name}.py::"
    for name in ("embeddings", "forcing", "masking", "cache", "sampling", "training", "resume")
)


CTF_MATRIX = FORCING + "test_ctf_streams_depend_on_the_past_alone[ctf-token-3]"
MTF_MATRIX = FORCING + "test_mtf_frames_depend_on_masked_frames_up_to_themselves[mtf-token]"
HIDDEN = FORCING + "test_hidden_values_never_reach_the_prediction[ctf-token-1]"
FUTURE = FORCING + "test_the_future_and_the_answer_do_not_change_a_bit[ctf-token-1]"
REFERENCE = SAMPLING + "test_rollout_is_the_reference"
CACHED = CACHE + "test_cached_conditions_are_those_of_training[token]"
FOLDED = CACHE + "test_prediction_after_a_commit_needs_no_cache[ctf]"
PARTS = "tests/test_parts.py::"
ELASTIC = PARTS + "test_a_tree_is_the_same_on_any_number_of_processes"
GRAPHS = "tests/test_sampling_graphs.py::"
CRASH = RESUME + "test_a_crash_changes_nothing[[20, 16, 28]]"

MUTANTS = [
    Mutant(
        "a masked frame sees its own observation",
        ctf_cells(lambda ok, row, column: ok or (row.masked and not column.masked and column.time == row.time)),
        (CTF_MATRIX, HIDDEN, FUTURE, CACHED),
    ),
    Mutant(
        "a masked frame sees later observations",
        ctf_cells(lambda ok, row, column: ok or (row.masked and not column.masked and column.time > row.time)),
        (CTF_MATRIX, FUTURE, CACHED),
    ),
    Mutant(
        "an observation sees later observations",
        ctf_cells(lambda ok, row, column: ok or not (row.masked or column.masked)),
        (CTF_MATRIX, FUTURE, CACHED),
    ),
    Mutant(
        "a masked frame sees earlier masked frames",
        ctf_cells(lambda ok, row, column: ok or (row.masked and column.masked and column.time < row.time)),
        (CTF_MATRIX, CACHED),
    ),
    Mutant(
        "masked copies see each other",
        ctf_cells(lambda ok, row, column: ok or (row.masked and column.masked and column.time == row.time)),
        (CTF_MATRIX, FORCING + "test_copies_share_an_observation_pass_and_nothing_else"),
    ),
    Mutant(
        "an observation sees masked frames",
        ctf_cells(lambda ok, row, column: ok or (not row.masked and column.masked)),
        (CTF_MATRIX, CACHED),
    ),
    Mutant(
        "no history",
        ctf_cells(lambda ok, row, column: ok and row.time == column.time),
        (CTF_MATRIX, CACHED, TRAINING + "test_ctf_learns_to_look_at_the_past"),
    ),
    Mutant("MTF sees the future", mtf_sees(lambda t: torch.ones(t, t, dtype=torch.bool)), (MTF_MATRIX,)),
    Mutant("MTF sees no history", mtf_sees(lambda t: torch.eye(t, dtype=torch.bool)), (MTF_MATRIX,)),
    Mutant("rows and columns are swapped", swapped_axes, (EMBEDDINGS + "test_grid_embeds_row_then_column",)),
    Mutant("the mask token is not put in", unmasked_input, (HIDDEN, FUTURE)),
    Mutant(
        "noise on the masked stream",
        ctf_layout(noisy_masked_stream),
        (FORCING + "test_noise_falls_on_observations_only", CACHED),
    ),
    Mutant(
        "the noise level is not told",
        ctf_layout(lambda streams, _: replace(streams, noise_level=torch.zeros_like(streams.noise_level))),
        (FORCING + "test_noise_falls_on_observations_only", CACHED),
    ),
    Mutant("no clip is clean", always_noisy, (FORCING + "test_noise_levels_are_drawn_as_configured[clip]",)),
    Mutant("noise that preserves no variance", full_signal, (FORCING + "test_noise_may_preserve_the_variance",)),
    Mutant(
        "all masks fall on the first frame",
        first_frame_alone,
        (MASKING + "test_masks_differ_between_copies_and_frames", MASKING + "test_each_frame_may_have_its_own_ratio"),
    ),
    Mutant(
        "one order for all frames", one_order_for_all_frames, (MASKING + "test_masks_differ_between_copies_and_frames",)
    ),
    Mutant(
        "draws depend on the place in the batch",
        draws_of_the_batch,
        (MASKING + "test_draws_are_a_function_of_seed_step_and_sample[ctf]",),
    ),
    Mutant("commit skipped: keys from the masked pass", commit_skipped, (REFERENCE + "[extrapolated-f64]", FOLDED)),
    Mutant(
        "a finished frame sees the one under construction",
        lambda patch: patch.setattr(transformer, "causal_mask", lambda new, past, device: None),
        (REFERENCE + "[extrapolated-f64]", FOLDED),
    ),
    Mutant(
        "committed one position late",
        commit_with(lambda finished: finished._replace(time=finished.time + 1)),
        (REFERENCE + "[extrapolated-f64]", CACHED),
    ),
    Mutant(
        "committed without its noise level",
        commit_with(lambda finished: finished._replace(noise_level=0)),
        (REFERENCE + "[observation noise-f64]", CACHED),
    ),
    Mutant(
        "committed with the masked frames' table",
        lambda patch: patch.setitem(forcing.COMMITTED_KIND, "ctf", forcing.MASKED),
        (CACHED, FORCING + "test_inference_uses_only_what_training_taught[ctf-token-1]"),
    ),
    Mutant(
        "the last block looks elsewhere in the past",
        places_of_the_first_video,
        (REFERENCE + "[paper's ddpm-f64]", CACHE + "test_only_chosen_tokens_need_the_last_block[2-token]"),
    ),
    Mutant(
        "the compiled head keeps old weights",
        packed_once,
        ("tests/test_head_kernel.py::test_changed_weights_are_packed_again",),
    ),
    Mutant("the cache begins one frame late", cache_forgets_the_oldest, (REFERENCE + "[extrapolated-f64]", CACHED)),
    Mutant("forks share memory", fork_shares_memory, (CACHE + "test_rewind_and_fork_continue_alike",)),
    Mutant(
        "sampling reuses one order for all frames",
        sample_noise("order", lambda right, self, _frame: right(self, 0)),
        (SAMPLING + "test_noise_is_keyed_by_seed_frame_and_step",),
    ),
    Mutant(
        "head noise repeats at every mask step",
        sample_noise("head", lambda right, self, frame, _step, **rest: right(self, frame, 0, **rest)),
        (SAMPLING + "test_noise_is_keyed_by_seed_frame_and_step",),
    ),
    Mutant(
        "orders belong to the batch, not the video",
        sample_noise("order", noise_of_the_first_seed),
        (SAMPLING + "test_a_batch_is_a_set[window]", REFERENCE + "[flow-f64]"),
    ),
    Mutant("a moved window forgets a frame too many", window_forgets_too_much, (REFERENCE + "[window-f64]",)),
    Mutant(
        "long videos are not interpolated",
        lambda patch: patch.setattr(
            past, "temporal_positions", lambda frames, _trained, _mode: torch.arange(frames, dtype=torch.float64)
        ),
        (REFERENCE + "[interpolated-f64]",),
    ),
    Mutant(
        "a replay reads the inputs of the recording",
        lambda patch: patch.setattr(graphs, "fill", lambda kept, given: None),
        (GRAPHS + "test_graphs_change_no_video[{}]",),
    ),
    Mutant(
        "a graph does not know the times of its frames",
        lambda patch: patch.setattr(
            GraphedMagi, "predict", with_graph_keys(lambda key: tuple(part for part in key if type(part) is not tuple))
        ),
        (GRAPHS + "test_other_rollouts_do_not_take_each_others_graphs",),
    ),
    Mutant(
        "memory is lent to two rollouts at once",
        lambda patch: patch.setattr(Lent, "lend", lambda self: copy.copy(self.empty)),
        (GRAPHS + "test_rollouts_side_by_side_have_their_own_memory",),
    ),
    Mutant(
        "parts are summed as they come",
        lambda patch: patch.setattr(TreeSum, "add", sum_as_they_come),
        (PARTS + "test_a_tree_sums_neighbours_first", ELASTIC + "[(4,)]"),
    ),
    Mutant(
        "processes sum in no fixed order",
        lambda patch: patch.setattr(Distributed, "tree_sum", lambda self, value: self.all_reduce_mean(value)),
        (ELASTIC + "[(4,)]", ELASTIC + "[(1, 2, 1)]"),
    ),
    Mutant(
        "the average never moves",
        lambda patch: patch.setattr(Ema, "update", lambda self, model, *, samples, batch: None),
        (TRAINING + "test_the_loop_averages_every_step", TRAINING + "test_average_moves_half_way_in_a_half_life[8]"),
    ),
    Mutant(
        "the average starts anew on resume",
        after_load(lambda state: state.ema.model.load_state_dict(state.model.state_dict())),
        (CRASH,),
    ),
    Mutant("Adam's moments are lost on resume", after_load(lambda state: state.optimizer.state.clear()), (CRASH,)),
    Mutant("data from the beginning on resume", data_from_zero, (CRASH,)),
    Mutant("steps count from zero on resume", after_load(lambda state: setattr(state, "step", 0)), (CRASH,)),
    Mutant("the log is not cut on resume", log_never_cut, (CRASH,)),
    Mutant(
        "non-finite steps are made",
        lambda patch: patch.setattr(loop, "refuse_non_finite", lambda *_: None),
        (TRAINING + "test_a_non_finite_step_is_not_made[nan]",),
    ),
    Mutant("weight decay on everything", decay_everything, (TRAINING + "test_decay_groups_are_mars",)),
    *DATA_MUTANTS,
    *TOKENIZER_MUTANTS,
    *EVALUATION_MUTANTS,
    *SAVING_MUTANTS,
]
