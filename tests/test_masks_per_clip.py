"""Masked copies of a clip compared at equal FLOPs: what is equal is equal, and the comparison runs to its end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from magi.experiments.masks_per_clip import ERROR, LOSS, Arm, Examination, Setting, differences, measure, study
from magi.model.plan import training_flops
from magi.report.studies import read_study, write_study
from magi.tokenizers.store import load_tokenizer
from tests.toys import trained_looking

DEFAULT = Setting()
ONE, TWO = Arm(1, 4), Arm(2, 4)
SMALL = replace(
    DEFAULT,
    model=replace(DEFAULT.model, depth=1, width=32, mlp_width=64, head=replace(DEFAULT.model.head, width=16)),
    arms=(ONE, TWO), seeds=(0, 1), points=2, flops=8e8, held=4, continued=2,
    sample=replace(DEFAULT.sample, mask_steps=2, head_steps=2),
)  # fmt: skip


@pytest.mark.parametrize("setting", [DEFAULT, SMALL], ids=["default", "small"])
def test_arms_are_examined_at_equal_flops(setting: Setting) -> None:
    """Each arm reaches each point within half of its own steps of the FLOPs asked for; its learning rate rises in the
    same share of them."""
    for arm in setting.arms:
        clip = training_flops(replace(setting.model, masks_per_clip=arm.copies)).total
        training = setting.training(arm, 0)
        for point in range(1, setting.points + 1):
            spent = point * training.evaluate_every * clip
            asked = setting.flops * point / setting.points
            assert abs(spent - asked) <= point * arm.batch * clip / 2
        assert training.total_samples == setting.points * training.evaluate_every
        assert abs(training.optim.warmup_samples - setting.warmup * training.total_samples) <= 0.5


def test_a_step_costs_more_with_as_many_clips_and_less_with_as_many_copies() -> None:
    """What the two ways to spend the savings are; and rounding to whole steps moves no result."""
    base, *others = DEFAULT.arms
    for arm in others:
        fewer = DEFAULT.steps_per_point(arm) < DEFAULT.steps_per_point(base)
        assert fewer == (arm.batch == base.batch)
        assert arm.batch == base.batch or arm.copies * arm.batch == base.copies * base.batch
    for arm in DEFAULT.arms:
        spent = DEFAULT.points * DEFAULT.steps_per_point(arm) * DEFAULT.step_flops(arm)
        assert spent == pytest.approx(DEFAULT.flops, rel=0.01)


def test_it_runs_resumes_and_keeps_its_numbers(tmp_path: Path) -> None:
    """All arms and seeds reach all points; a second call makes nothing anew; the record is one `magi report` reads."""
    told: list[str] = []
    points, still = measure(SMALL, tmp_path / "work", note=told.append)
    assert [(p.seed, p.arm) for p in points[:: SMALL.points]] == [(0, ONE), (0, TWO), (1, ONE), (1, TWO)]
    assert len(points) == len(told) == 8 and still > 0
    for point in points:
        assert point.flops == pytest.approx(
            point.clips * training_flops(replace(SMALL.model, masks_per_clip=point.arm.copies)).total
        )
    assert measure(SMALL, tmp_path / "work", note=told.append) == (points, still)
    record = study(SMALL, points, still, command="here")
    write_study(tmp_path / "study.json", record)
    found = read_study(tmp_path / "study.json")
    assert len(found.tables[-1].rows) == 8 and [len(c.series) for c in found.curves] == [2, 2]
    mean, interval = differences(points, TWO, LOSS, base=ONE)[-1]
    at_end = {(p.arm, p.seed): p.scores[LOSS] for p in points}  # the last of each arm
    each = [at_end[TWO, seed] - at_end[ONE, seed] for seed in SMALL.seeds]
    assert mean == pytest.approx(sum(each) / 2) and interval is not None and interval.low < mean < interval.high
    assert f"{mean:+.4f}" in found.answer


def test_all_arms_are_asked_the_same() -> None:
    """The same weights score the same whatever number of copies they are trained with, and other weights otherwise."""
    tokenizer = load_tokenizer(SMALL.tokenizer)
    examine = Examination(SMALL, tokenizer)
    one, two = (trained_looking(SMALL.model_of(arm), seed=arm.copies, dtype=torch.float32) for arm in (ONE, TWO))
    before = examine(two)
    two.load_state_dict(one.state_dict())
    assert examine(one) == examine(two)
    assert examine(two)[LOSS] != before[LOSS] and set(before) == {LOSS, ERROR}
