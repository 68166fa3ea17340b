"""What `magi report` reads and the page it makes: studies in files, evaluations and training runs, and nothing more."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import asdict, replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from magi import cli
from magi.cli.evaluate_protocol import Order, record_of
from magi.distributed import Distributed
from magi.evaluation.detectors.choosing import Chosen
from magi.evaluation.detectors.world import WorldDetector, WorldNetwork, WorldNetworkConfig
from magi.evaluation.distance import compare
from magi.evaluation.features import Features
from magi.evaluation.frechet import Moments
from magi.evaluation.protocols import WORLD
from magi.report import page as html
from magi.report.figures import INKS
from magi.report.films import animated_webp, write_film
from magi.report.plots import COLOURS, SERIES, drawing, looks, plot, tick
from magi.report.results import POINTS, read_results
from magi.report.studies import Curves, Film, Series, Study, Table, Verdict, read_study, write_study
from magi.report.study_page import study_page
from magi.sampling.config import SampleConfig
from magi.training.log import MetricsLog

# studies in files


def example(**changed: Any) -> Study:
    """A study with something of everything; its numbers are made up."""
    frames = [1.0, 2.0, 3.0]
    study = Study(
        name="forcing", title="CTF against MTF", question="Which is better?", claim="CTF is better (Fig. 4).",
        verdict="held", answer="The ratio is 0.7123 (0.66 to 0.76).",
        protocol={"clips": 2048, "sampling": {"solver": "euler", "window": None}, "seeds": [0, 1], "odd": {}},
        tables=[Table("Distances", ("", "world-FVD"), [("CTF", "31.27"), ("MTF", "43.98")])],
        curves=[Curves("Error", "frame", "px", [
            Series("CTF", frames, [0.5, 1.0, 2.0], [0.4, 0.9, 1.8], [0.6, 1.1, 2.2]),
            Series("MTF", frames, [0.5, 2.0, 4.0]),
        ], log="y")],
        films=[Film("as it went", "films/a.mp4")], notes=["Nothing else."], command="magi reproduce", machine="a CPU",
    )  # fmt: skip
    return replace(study, **changed)


def test_a_study_comes_back_from_its_file(tmp_path: Path) -> None:
    """What is written is what is read, lists for lists of any kind, and nothing else stays in the folder."""
    study = example()
    write_study(tmp_path / "new" / "a.json", study)
    assert json.dumps(asdict(read_study(tmp_path / "new" / "a.json"))) == json.dumps(asdict(study))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.json"]


def test_a_study_that_cannot_be_read_back_is_not_written(tmp_path: Path) -> None:
    """The old file stays as it was, whatever is wrong with the new one."""
    path = tmp_path / "a.json"
    write_study(path, example())
    before = path.read_bytes()
    for wrong, field in [
        (example(protocol={"ratio": float("nan")}), "protocol.ratio"),
        (example(protocol={"a": [{"b": torch.zeros(1)}]}), r"protocol.a\[0\].b"),
        (
            example(curves=[Curves("", "x", "y", [Series("a", [1.0], [float("inf")])])]),
            r"curves\[0\].series\[0\].y\[0\]",
        ),
        (example(tables=[Table("", ["a"], [[3]])]), r"tables\[0\].rows\[0\]\[0\] must be text, got 3"),  # type: ignore[list-item]
    ]:
        with pytest.raises(ValueError, match=f"{path}: {field}"):
            write_study(path, wrong)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_tables_and_curves_must_be_whole() -> None:
    """A missing cell would move numbers under other names; a logarithm of zero would silently vanish."""
    with pytest.raises(ValueError, match="1 cells"):
        Table("", ["a", "b"], [["1"]])
    with pytest.raises(ValueError, match="low and high"):
        Series("a", [1.0], [1.0], low=[0.5])
    with pytest.raises(ValueError, match="y of 'a' has 2 numbers"):
        Series("a", [1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="logarithmic"):
        Curves("", "x", "y", [Series("a", [0.0], [1.0])], log="xy")
    Curves("", "x", "y", [Series("a", [0.0], [1.0])], log="y")


def test_what_is_wrong_with_a_file_is_told_in_one_line(tmp_path: Path) -> None:
    """The file is named, and the field, what is there and what belongs there."""
    path = tmp_path / "a.json"
    write_study(path, example())
    good = json.loads(path.read_text())

    def wrong(**changed: Any) -> str:
        return json.dumps(good | changed)

    absent = {name: value for name, value in good.items() if name != "answer"}
    for content, told in [
        (path.read_text()[:200], "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("\ud800".encode("utf-8", "surrogatepass"), "not JSON"),
        ("[1, 2]", "no result"),
        ('{"kind": "a plan"}', "no result"),
        (wrong(version=2), "version 2"),
        (wrong(verdict="perhaps"), "verdict must be 'held' or 'did not hold' .* got 'perhaps'"),
        (wrong(verdict=["held"]), "verdict must be"),
        (wrong(colour="red"), "colour is unknown"),
        (json.dumps(absent), "answer is absent"),
        (wrong(notes="one"), "notes must be a list, got 'one'"),
        (wrong(curves=[{**good["curves"][0], "series": [{"name": "a", "x": [1], "y": ["1"]}]}]),
         r"curves\[0\].series\[0\].y\[0\] must be a finite number, got '1'"),
        (wrong(curves=[{**good["curves"][0], "series": [{"name": "a", "x": [1, 2], "y": [1]}]}]),
         r"curves\[0\].series\[0\]: y of 'a' has 1 numbers"),
        ('{"magi": "0.1.0", "model": "m", "data": "d", "scores": {"PSNR, model": [1, "2"]}}', "PSNR, model"),
        ('{"magi": "0.1.0", "model": "m", "data": "d", "scores": {}}', "scores must be an object"),
    ]:  # fmt: skip
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(ValueError, match=told) as error:
            read_results(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value), told


# the page of studies


def page_of(folder: Path, *studies: Study) -> str:
    """The page of studies, as `magi report` makes it of a folder."""
    for number, study in enumerate(studies, start=1):
        write_study(folder / f"{number}.json", study)
    return study_page([read_results(folder)])


def text_of(page: str) -> str:
    """What a reader reads."""
    return " ".join(unescape(re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL)).split())


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """The film of the example."""
    frames = np.zeros((3, 32, 48, 3), dtype=np.uint8)
    (tmp_path / "films").mkdir()
    write_film(tmp_path / "films" / "a", frames, fps=4)
    return tmp_path / "films" / "a.mp4"


def test_the_page_tells_all_that_is_in_the_file(tmp_path: Path, film: Path) -> None:
    """Every text and number of a study, and its film byte by byte."""
    page = page_of(tmp_path, example())
    read = text_of(page)
    for said in (
        "CTF against MTF", "Which is better?", "CTF is better (Fig. 4).", "held", "The ratio is 0.7123 (0.66 to 0.76).",
        "clips 2048", "sampling.solver euler", "sampling.window none", "seeds 0, 1", "odd none", "CTF 31.27",
        "MTF 43.98", "Distances", "Error", "px", "as it went", "Nothing else.", "magi reproduce", "a CPU",
    ):  # fmt: skip
        assert said in read, said
    (video,) = re.findall(r"<video ([^>]*)>", page)
    assert {"autoplay", "loop", "muted", "playsinline", "controls", 'width="48"', 'height="32"'} <= set(video.split())
    assert base64.b64encode(film.read_bytes()).decode() in page
    assert read.index("The ratio is 0.7123") < read.index("CTF 31.27"), "the answer comes before the evidence"


def test_verdicts_are_words_of_their_own_colour(tmp_path: Path) -> None:
    """Each verdict is written out in the summary and in its section, in a colour that no other has."""
    verdicts = get_args(Verdict)
    page = page_of(tmp_path, *(example(verdict=verdict, films=(), curves=()) for verdict in verdicts))
    chips = re.findall(r'<span class="chip (\w+)">([^<]*)</span>', page)
    assert [word for _, word in chips] == [*verdicts, *verdicts]
    assert len({kind for kind, _ in chips}) == len(verdicts) and len(set(chips)) == len(verdicts)
    assert "3 claims examined" in text_of(page), "what is only measured is no claim"
    anchors = re.findall(r'<section id="([^"]*)">', page)
    assert len(set(anchors)) == 4 and {f"#{anchor}" for anchor in anchors} == set(
        re.findall(r'<a href="(#[^"]*)"', page)
    )


def test_nothing_in_a_file_becomes_markup_or_loads(tmp_path: Path) -> None:
    """Names out of a hostile file are shown as they are, in text, attributes, tables, plots and keys."""
    nasty = "<script src='https://x.y/z.js'>\"$\\g<1>$ --> ]]>"
    with pytest.warns(UserWarning, match="film"):
        page = page_of(tmp_path, example(
            name=nasty, title=nasty, question=nasty, claim=nasty, answer=nasty, protocol={nasty: {nasty: [nasty]}},
            tables=[Table(nasty, ["", nasty], [[nasty, nasty]])],
            curves=[Curves(nasty, nasty, nasty, [Series(nasty, [1.0, 2.0], [1.0, 2.0])])],
            films=[Film(nasty, nasty)], notes=[nasty], command=nasty, machine=nasty, date=nasty,
        ))  # fmt: skip
    assert "<script" not in page and page.count("&lt;script") > 15
    loads = Loads()
    loads.feed(page)
    assert loads.tags & {"svg", "table", "details"} and not loads.tags & {"script", "iframe", "object", "embed", "base"}
    assert all(address.startswith(("data:", "#")) for address in loads.addresses)
    assert nasty in loads.labels, "the plot's label is what the file says"
    assert "url(http" not in page and "@import" not in page
    assert "default-src 'none'" in page


class Loads(HTMLParser):
    """What a browser would make of a page: its elements, the addresses in them, and labels."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.labels: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        named = dict(attrs)
        assert not any(name.startswith("on") for name in named), named
        self.addresses += [
            named[name] or "" for name in ("src", "href", "xlink:href", "action", "data") if name in named
        ]
        self.labels |= {part for part in (named.get("aria-label") or "").split(": ") if part}


def test_a_film_that_is_not_there_is_told_and_not_fatal(tmp_path: Path, film: Path) -> None:
    """The page stands without it, and says which file is missing; so does a warning."""
    study = example(curves=(), films=[Film("lost", "films/none.mp4"), Film("kept", "films/a.mp4")])
    with pytest.warns(UserWarning, match=r"films/none\.mp4: the film cannot be read: No such file"):
        page = page_of(tmp_path, study)
    assert "films/none.mp4: the film cannot be read" in text_of(page) and page.count("<video") == 1


def test_only_films_beside_the_results_are_shown(tmp_path: Path) -> None:
    """A results file of somebody else must not carry other files of this machine into a page that is passed on."""
    (tmp_path / "inner").mkdir()
    (tmp_path / "secret.txt").write_text("hunter2 and more")
    (tmp_path / "inner" / "b.webp").write_bytes(b"RIFF1234hunter2")
    (tmp_path / "inner" / "c.mp4").write_bytes(b"1234ftyphunter2")
    (tmp_path / "inner" / "d.txt").write_bytes(b"hunter2 and more")
    for file, told in [
        ("../secret.txt", "must lie beside"), (str(tmp_path / "secret.txt"), "must lie beside"),
        ("b.webp", "no picture"), ("c.mp4", "c.mp4"), ("d.txt", "MP4, WebP or GIF"), (".", "cannot be read"),
    ]:  # fmt: skip
        with pytest.warns(UserWarning, match=told):
            page = page_of(tmp_path / "inner", example(curves=(), films=[Film("", file)]))
        assert base64.b64encode(b"hunter2")[:8].decode() not in page and "data:video" not in page


def test_pictures_that_move_are_films(tmp_path: Path) -> None:
    """WebP and GIF play by themselves as pictures."""
    frames = np.zeros((2, 10, 20, 3), dtype=np.uint8)
    frames[1] = 255
    (tmp_path / "a.webp").write_bytes(animated_webp(frames, fps=4))
    page = page_of(tmp_path, example(curves=(), films=[Film("as it went", "a.webp")]))
    assert re.search(r'<img src="data:image/webp;base64,[^"]*" alt="as it went" width="20" height="10"', page)


# plots


def test_lines_are_told_apart_without_colour() -> None:
    """No two of 36 names share dashes and mark, and of the first six no two share any of colour, dashes and mark; a
    name keeps its look in every plot."""
    found = looks(f"line {index}" for index in range(COLOURS**2))
    assert len({(look.dashes, look.marker) for look in found.values()}) == COLOURS**2
    first = list(found.values())[:COLOURS]
    for kind in ("colour", "dashes", "marker"):
        assert len({getattr(look, kind) for look in first}) == COLOURS
    assert looks(["a", "b", "a", "c"]) == looks(["a", "b", "c"])
    style = (Path(html.__file__).parent / "style.css").read_text()
    assert all(style.count(f"--{name}:") == 2 for name in SERIES), "one for light, one for dark"


def test_plots_show_bands_and_name_their_lines() -> None:
    """A band is one more shape, in the line's colour; each line stands in the key, with its dashes; nothing loads."""
    line = Series("with band", [1.0, 2.0], [1.0, 2.0], [0.5, 1.5], [1.5, 2.5])
    other = Series("without", [1.0, 2.0], [3.0, 4.0])
    look = looks([line.name, other.name])
    bare = drawing(Curves("c", "x", "y", [replace(line, low=None, high=None), other]), look)
    banded = drawing(Curves("c", "x", "y", [line, other]), look)
    assert banded.count("opacity: 0.16") == 1 and "opacity: 0.16" not in bare
    assert "http" not in banded and not any(ink in banded for ink in (*INKS.values(), *SERIES.values()))
    shown = plot(Curves("the caption", "x", "y", [line, other]), look)
    assert text_of(shown).endswith("with band without the caption")
    assert shown.count("stroke-dasharray=") == 1 and "stroke-dasharray:" in shown, "the second, in key and plot"


def test_logarithmic_axes_are_logarithmic() -> None:
    """Powers of ten are equally far apart on them, and not on others."""
    curves = Curves("c", "x", "y", [Series("a", [1.0, 10.0, 100.0], [1.0, 10.0, 100.0])], log="y")
    for chosen, even in ((curves, True), (replace(curves, log=""), False)):
        (path,) = re.findall(r'<path d="(M[^"]*)"[^>]*stroke: var\(--series-1\)', drawing(chosen, looks(["a"])))[:1]
        heights = [float(y) for _, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", path)]
        assert len(heights) == 3
        assert (abs((heights[0] - heights[1]) - (heights[1] - heights[2])) < 0.01) == even


def test_numbers_at_axes_are_short() -> None:
    """What a float really is, nobody wants to read."""
    assert [tick(value) for value in (0, 0.1 + 0.2, 1500, 2e-6, 3e9)] == ["0", "0.3", "1,500", "2e-06", "3e+09"]


# where results come from


def test_a_record_of_evaluate_is_reported() -> None:
    """The committed scores of the shipped model: digits at the horizons, a plot for each metric, and the protocol."""
    path = Path(__file__).parents[1] / "results" / "world64-interval1.json"
    record = json.loads(path.read_text())
    (kept,) = read_results(path).studies
    assert [len(curves.series) for curves in kept.study.curves] == [3, 3, 4, 2]
    for name, values in record["scores"].items():
        (row,) = [row for row in kept.study.tables[0].rows if row[0] == name]
        assert row[1:] == [f"{values[frame - 1]:.3f}" for frame in (1, 4, 8, 11, 16)] + [f"{np.mean(values):.3f}"]
    read = text_of(study_page([read_results(path)]))
    assert record["test"]["sha256"] in read and "sample.solver euler" in read and "position error, px" in read
    assert "position error 0.365 at frame +1, 13.3 at frame +16" in read


def test_scores_without_value_leave_gaps(tmp_path: Path) -> None:
    """The PSNR of equal frames is infinite: so says the table, and the plot has no such point. Where there was nothing
    to measure the file has null, the table an empty cell, and the mean is of the others."""
    scores = {"PSNR, model": [30.0, float("inf")], "found, model": [None, 2.0], "PSNR, copy last": [20.0, 19.0]}
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"magi": "0.1.0", "model": "m", "data": "d", "scores": scores}))
    (kept,) = read_results(path).studies
    assert kept.study.tables[0].rows[0][2] == "inf" and list(kept.study.curves[0].series[0].x) == [1.0]
    assert list(kept.study.tables[0].rows[1][1:]) == ["", "2.000", "2.000"]
    assert "2 values are not finite" in text_of(study_page([read_results(path)]))


def distances(path: Path, *, runs: int, frames: bool = True) -> dict[str, Any]:
    """A record as `magi evaluate --protocol world` writes it, of features that are drawn."""
    protocol = replace(WORLD, real_count=16, generated_count=16, frames=6)
    detector = WorldDetector(WorldNetwork(WorldNetworkConfig(width=1, dim=3, depth=1)), torch.eye(3))

    def drawn(seed: int) -> Features:
        values = torch.randn(7, 16, 3, generator=torch.Generator().manual_seed(seed))
        return Features(values[0], tuple(map(Moments.of, values[1:])) if frames else ())

    found = [compare(protocol, drawn(0), drawn(1 + run), detector=detector) for run in range(runs)]
    order = Order(
        "world64", path, "world", None, None, None, None, 8, path, None, SampleConfig(), "cpu",
    )  # fmt: skip
    chosen = Chosen(detector, None)
    record = record_of(order, Distributed(), protocol, chosen=chosen, measured=found, seconds=1.0)
    path.write_text(json.dumps(record))
    return record


def test_a_distance_is_reported(tmp_path: Path) -> None:
    """What the command writes: a row for each run with its interval, bias, kernel distance and counts, the mean over
    runs with Student's interval by hand (t of 2 degrees of freedom is 4.3027), the curve of each run, and the card."""
    record = distances(tmp_path / "distance.json", runs=3)
    (kept,) = read_results(tmp_path / "distance.json").studies
    study, values = kept.study, np.array([run["distance"] for run in record["runs"]])
    assert study.title == "world64 under protocol world" and study.verdict == "measured"
    (table,) = study.tables
    for row, run in zip(table.rows, record["runs"], strict=False):
        assert row[1] == f"{run['distance']:.3f}" and row[2] == "{:.3f} to {:.3f}".format(*run["interval_95"])
        assert row[3:] == [
            f"{run['finite_sample_bias']:.3f}", f"{run['kernel_distance']:.4g}", "16", "16",
        ]  # fmt: skip
    half = 4.302653 * values.std(ddof=1) / 3**0.5
    assert table.rows[3][:2] == ["mean over runs", f"{values.mean():.3f}"]
    assert table.rows[3][2] == f"{values.mean() - half:.3f} to {values.mean() + half:.3f} over 3 runs"
    (curves,) = study.curves
    assert [list(line.y) for line in curves.series] == [run["by_frame"]["distance"] for run in record["runs"]]
    assert list(curves.series[0].x) == [1, 2, 3, 4, 5, 6]
    assert study.protocol["fingerprint"] == record["protocol"]["fingerprint"] and study.protocol["model"] == "world64"
    assert any("independent sets of this size" in note for note in study.notes)
    assert "mean over runs" in study_page([read_results(tmp_path)])
    distances(tmp_path / "distance.json", runs=1, frames=False)
    alone = read_results(tmp_path / "distance.json").studies[0].study
    assert not alone.curves and len(alone.tables[0].rows) == 1 and "over clips, 95 %" in alone.answer
    write_study(tmp_path / "kept.json", study)


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("distance", None, r"runs\[0\].distance must be a finite number, got None"),
        ("interval_95", [1], r"runs\[0\].interval_95 must be two finite numbers, got \[1\]"),
        ("by_frame", [], r"runs\[0\].by_frame must be an object, got \[\]"),
    ],
)
def test_a_distance_that_is_none_is_told(tmp_path: Path, field: str, value: object, told: str) -> None:
    """The file and the field, and what is there."""
    record = distances(tmp_path / "distance.json", runs=1)
    record["runs"][0][field] = value
    (tmp_path / "distance.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=f"distance.json: {told}"):
        read_results(tmp_path / "distance.json")


def test_a_training_run_is_reported(tmp_path: Path) -> None:
    """What the log says, first and last; a line torn by a kill is left out and told, a broken one is an error."""
    with MetricsLog(tmp_path) as log:
        for step in range(1, 2 * POINTS + 2):
            log.write({"samples": 8 * step, "step": step, "loss": 1 / step, "lr": 0.1, "grad_norm": 2.0})
            if step % 100 == 0:
                log.write({"samples": 8 * step, "fixed loss": 2 / step})
    (tmp_path / "config.yaml").write_text("model: {width: 128}")
    (kept,) = read_results(tmp_path).studies
    (curves,) = kept.study.curves
    assert [line.name for line in curves.series] == ["loss", "fixed loss"]
    assert len(curves.series[0].x) <= POINTS and curves.series[0].x[-1] == 8 * (2 * POINTS + 1)
    assert curves.series[0].y[0] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    read = text_of(study_page([read_results(tmp_path)]))
    assert f"loss 1 at first, {1 / (2 * POINTS + 1):.4g} after 3,208 samples" in read and "model.width 128" in read
    path = tmp_path / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"samples": 33')
    assert "torn" in text_of(study_page([read_results(tmp_path)]))
    for broken, line in (('{"samples": 33\n' + whole, 1), (whole + '{"samples": 33\n', whole.count("\n") + 1)):
        path.write_text(broken)
        with pytest.raises(ValueError, match=f"line {line} is not JSON"):
            read_results(tmp_path)
    path.write_text("")
    with pytest.raises(ValueError, match="no entries yet"):
        read_results(tmp_path)


def test_a_folder_is_read_in_order_and_says_what_it_left_out(tmp_path: Path) -> None:
    """10 comes after 9; JSON that is no result is named on the page; hidden files are nobody's; broken ones, errors."""
    for number in (10, 9):
        write_study(tmp_path / f"{number}.json", example(title=f"Study {number}", films=(), curves=()))
    write_study(tmp_path / "gpu" / "1.json", example(title="Study below", films=(), curves=()))
    write_study(tmp_path / ".old" / "1.json", example(title="Study hidden", films=()))
    (tmp_path / "plan.json").write_text('{"sha256": "0"}')
    results = read_results(tmp_path)
    assert [kept.study.title for kept in results.studies] == ["Study 9", "Study 10", "Study below"]
    assert list(results.left_out) == ["plan.json"] and "left out plan.json" in text_of(study_page([results]))
    (tmp_path / "gpu" / "2.json").write_text('{"kind"')
    with pytest.raises(ValueError, match=r"2\.json is not JSON"):
        read_results(tmp_path)


def test_several_runs_are_parts_of_one_page(tmp_path: Path) -> None:
    """Studies of one name do not collide, and each is found under the name of its run."""
    for name in ("cpu", "gpu"):
        write_study(tmp_path / name / "a.json", example(answer=f"of the {name}", films=(), curves=()))
    page = study_page([read_results(tmp_path / name) for name in ("cpu", "gpu")])
    anchors = re.findall(r'<section id="([^"]*)">', page)
    assert len(anchors) == len(set(anchors)) == 2
    _, cpu, gpu = re.split(r'<div class="run">', page)
    assert "of the cpu" in cpu and "of the gpu" in gpu and "of the gpu" not in cpu


def test_the_verb_writes_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line says where; an old page is replaced; what cannot be done is one line, and leaves the old page alone."""
    write_study(tmp_path / "results" / "a.json", example(films=()))
    out = tmp_path / "new" / "page.html"
    for _ in range(2):
        assert cli.main(["report", str(tmp_path / "results"), "--out", str(out)]) == 0
        assert capsys.readouterr().out.startswith(f"{out}: 1 study, ")
    before = out.read_bytes()
    assert b"0.7123" in before and len(list(out.parent.iterdir())) == 1
    (tmp_path / "empty").mkdir()
    for words, told in [
        ([], "at least one RUN"), ([str(tmp_path / "none")], "none does not exist"),
        ([str(tmp_path / "empty")], "empty has no results"), ([str(out)], "page.html is not JSON"),
    ]:  # fmt: skip
        assert cli.main(["report", *words, "--out", str(out)]) == cli.MISUSE
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("magi report: ") and told in line
    assert cli.main(["report", str(tmp_path / "results"), "--out", str(tmp_path / "a.json")]) == cli.MISUSE
    assert "must end in .html" in capsys.readouterr().err
    assert out.read_bytes() == before
    with pytest.raises(ValueError, match="no study to report"):
        study_page([])
    with pytest.raises(SystemExit):
        cli.main(["report", "--help"])
    assert "$ magi report " in capsys.readouterr().out
