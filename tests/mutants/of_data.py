"""Planted bugs of what reads, lists and keeps videos."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from pytest import MonkeyPatch
from torch import Tensor
from torch.utils.data import DataLoader as torch_loader

from magi import checkpoint
from magi.cli import runs
from magi.data import folder, latents, loader
from magi.data.datasets import index, listing
from magi.data.datasets.journal import Journal
from magi.data.latents import LatentSource
from magi.data.order import ClipShape, candidates, draws_of
from magi.experiments import encode, video
from magi.video import child, damage, seeking
from tests.mutants.mutant import Mutant


def mirrored_latents(patch: MonkeyPatch) -> None:
    """Mirror the latents of a video instead of encoding its mirror image."""
    right = encode._latents

    def wrong(*given: Any) -> Iterator[tuple[str, Tensor]]:
        tensors = dict(right(*given))
        for key, values in tensors.items():
            yield key, tensors[key.removeprefix("mirrored/")].flip(-1) if key.startswith("mirrored/") else values

    patch.setattr(encode, "_latents", wrong)


def first_drawn_clip_alone(patch: MonkeyPatch) -> None:
    """Take clip 0 of a video in every epoch."""
    right = LatentSource._drawn
    patch.setattr(LatentSource, "_drawn", lambda self, number, _turn: right(self, number, 0))


def noise_of_the_place_in_the_batch(patch: MonkeyPatch) -> None:
    """Key the noise of sampled latents by where a clip is in its batch."""
    right = video.sampled
    wrong = lambda posterior, samples, *, seed: right(posterior, range(len(samples)), seed=seed)  # noqa: E731
    patch.setattr(video, "sampled", wrong)


def run_believes_everything(patch: MonkeyPatch) -> None:
    """Whatever the decoder gives is numbered from the key frame on."""

    def run(decoder: Any, packets: Any, start: int, last: int) -> Any:
        pictures = seeking._pictures(decoder, packets.packets[start:])
        return zip(range(int(packets.place_of[start]), last + 1), pictures, strict=False)

    patch.setattr(seeking, "_run", run)


def bad_ones_never_forgotten(patch: MonkeyPatch) -> None:
    """Count the bad videos of a cache whether or not the source still has them."""
    right = encode._BadOnes.note

    def wrong(self: encode._BadOnes, entries: Any, records: Any) -> None:
        self._wanted |= {(entry.name, entry.num_bytes) for entry in entries}
        right(self, entries, records)

    patch.setattr(encode._BadOnes, "note", wrong)


LATENTS, ENCODE, INDEX, SEEKING, ISOLATED = (
    f"tests/test_{name}.py::" for name in ("latents", "encode", "index", "seeking", "isolated")
)

DATA_MUTANTS = [
    Mutant(
        "cached clips are never mirrored",
        lambda patch: patch.setattr(latents, "draws_of", lambda seed, at: replace(draws_of(seed, at), flip=1.0)),
        (LATENTS + "test_latents_are_those_of_the_folders_clips[clamp-True]",),
    ),
    Mutant(
        "the mirror image of latents stands for those of the mirror image",
        mirrored_latents,
        (LATENTS + "test_latents_are_those_of_the_folders_clips[clamp-True]",),
    ),
    Mutant(
        "an epoch of the cache has its own order",
        lambda patch: patch.setattr(latents, "candidates", lambda seed, at, count: candidates(seed + 1, at, count)),
        (
            LATENTS + "test_latents_are_those_of_the_folders_clips[clamp-True]",
            LATENTS + "test_order_is_the_folders_for_any_workers_ranks_and_start[0]",
        ),
    ),
    Mutant("every epoch takes the same drawn clip", first_drawn_clip_alone, (LATENTS + "test_drawn_clips_take_turns",)),
    Mutant(
        "latents are stored unseen",
        lambda patch: patch.setattr(encode, "ingest", lambda values, *, dtype, **_: values.to(dtype)),
        (ENCODE + "test_latents_that_would_ruin_a_training_are_refused[nan]",),
    ),
    Mutant(
        "sampled latents belong to the batch",
        noise_of_the_place_in_the_batch,
        (ENCODE + "test_sampled_latents_are_drawn_by_position",),
    ),
    Mutant(
        "a shard is written in place",
        lambda patch: patch.setattr(checkpoint, "TEMPORARY", ""),
        (ENCODE + "test_a_kill_anywhere_leaves_a_cache_that_can_be_finished",),
    ),
    Mutant(
        "an index is believed of data that have changed",
        lambda patch: patch.setattr(index, "_changes", lambda *_args, **_rest: iter(())),
        (INDEX + "test_a_tree_that_changed_is_noticed",),
    ),
    Mutant(
        "a stopped index starts anew",
        lambda patch: patch.setattr(Journal, "_read", lambda _self, _work: 0),
        (INDEX + "test_a_killed_build_goes_on_where_it_was[3]", INDEX + "test_a_killed_count_goes_on_where_it_was"),
    ),
    Mutant(
        "intervals that do not fit are drawn too",
        lambda patch: patch.setattr(ClipShape, "largest", lambda self, _frames: self.max_interval),
        (INDEX + "test_intervals_come_as_often_as_expected[clamp]", INDEX + "test_expected_shares_are_exact"),
    ),
    Mutant(
        "every frame marked as a key frame is started from",
        lambda patch: patch.setattr(seeking, "_idr_test", lambda _: lambda packet: True),
        (SEEKING + "test_the_same_times_and_pixels_as_decoding_from_the_start[h264-refresh.mp4]",),
    ),
    Mutant(
        "frames are taken for those expected",
        run_believes_everything,
        (SEEKING + "test_stamps_that_lie_are_found_out", SEEKING + "test_damage_found_while_decoding"),
    ),
    Mutant(
        "checksums of packets are not looked at",
        lambda patch: patch.setattr(damage, "is_whole", lambda _: True),
        (SEEKING + "test_checksums_of_ffv1_are_checked",),
    ),
    Mutant(
        "a decoder that hangs outlives its parent",
        lambda patch: patch.setattr(child.signal, "setitimer", lambda *_: None),
        (ISOLATED + "test_it_does_not_outlive_a_parent_that_was_killed[busy]",),
    ),
    Mutant(
        "excluding bad videos does not help a cache",
        bad_ones_never_forgotten,
        (ENCODE + "test_videos_that_the_source_has_no_more_do_not_stop_the_work",),
    ),
    Mutant(
        "an isolated source decodes in its own process",
        lambda patch: patch.setattr(folder, "IsolatedReader", lambda: SimpleNamespace(open=folder.open_video)),
        ("tests/test_folder.py::test_an_isolated_source_opens_no_video_itself",),
    ),
    Mutant(
        "an index may name any file",
        lambda patch: patch.setattr(listing, "below", lambda root, name: root / str(name)),
        ("tests/test_index.py::test_an_index_names_nothing_outside_of_its_folder[climbs]",),
    ),
    Mutant(
        "latents are looked at for what is finite alone",
        lambda patch: patch.setattr(latents, "unsound", lambda values, _moment: ~values.isfinite()),
        (
            "tests/test_latents.py::test_huge_latents_are_refused_when_read[1e+20]",
            "tests/test_latents.py::test_wrong_latents_are_refused_when_read[negative deviation]",
        ),
    ),
    Mutant(
        "a worker that hangs is waited for without end",
        lambda patch: patch.setattr(loader, "DataLoader", lambda *a, **k: torch_loader(*a, **{**k, "timeout": 0})),
        ("tests/test_loader.py::test_a_worker_that_hangs_is_given_up[1]",),
    ),
    Mutant(
        "a process that told its error still holds its model",
        lambda patch: patch.setattr(runs, "letting_go", nullcontext),
        ("tests/test_faults.py::test_an_error_holds_no_model_when_the_group_is_left",),
    ),
]
