"""The comparison of methods: a tiny one from the world to the picture, cut off in the middle."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from statistics import stdev

import pytest

from openvclip.config import load_cfg
from openvclip.demo import bench as demo_bench
from openvclip.demo import bench_table, costs
from openvclip.demo.bench import Job, list_jobs
from openvclip.demo.bench_table import average, format_rows, read_off
from openvclip.demo.dataset import DatasetSize
from openvclip.demo.methods import METHODS, RATIOS, SEEDS, Bench
from openvclip.demo.pretrain import PretrainOptions
from openvclip.launch import comparison
from openvclip.report.tradeoffs import Tradeoff, draw_tradeoffs, mean_and_spread
from openvclip.utils.errors import ConfigError, DataError

CONFIGS = Path(__file__).resolve().parents[2] / "configs/Synthetic/methods"
SMALL = DatasetSize(1, 1, 1, 1, 1, 1)
OPTIONS = PretrainOptions(steps=2, batch_size=8)


def tiny(root: Path, **changes) -> Bench:
    opts = ("SOLVER.MAX_EPOCH", "2", "SOLVER.WARMUP_EPOCHS", "0.0")
    bench = Bench(root, CONFIGS, methods=("plain", "distill"), seeds=(1,), ratios=(0.0, 0.5),
                  opts=opts)
    return replace(bench, **changes)


def compare(bench: Bench, lanes: int = 1) -> str:
    return comparison.compare(bench, seed=0, size=SMALL, options=OPTIONS, lanes=lanes)


def call_here(function, args, processes):
    """Instead of starting processes."""
    for number in range(processes):
        function(number, *args)


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def compared(tmp_path_factory) -> tuple[Bench, str, list[str]]:
    """A comparison that was killed after the first epoch of its second run, then run again."""
    bench = tiny(tmp_path_factory.mktemp("bench"))
    build, trained = demo_bench.build_trainer, []

    def note(cfg):
        trainer = build(cfg)
        trained.append(f"{Path(cfg.OUTPUT_DIR).name} from {trainer.start_epoch}")
        return trainer

    def break_off(cfg):
        trainer = note(cfg)
        save = trainer.save

        def save_and_die(epoch):
            save(epoch)
            if "distill" not in cfg.OUTPUT_DIR:
                raise Killed

        trainer.save = save_and_die
        return trainer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "spawn", call_here)
        patch.setattr(costs, "ROUNDS", 1)
        patch.setattr(costs, "STEPS", 1)
        patch.setattr(demo_bench, "build_trainer", break_off)
        with pytest.raises(Killed):
            compare(bench)
        patch.setattr(demo_bench, "build_trainer", note)
        text = compare(bench)
    return bench, text, trained


def test_a_comparison_that_was_cut_off_goes_on_where_it_was(compared):
    _, _, trained = compared
    assert trained == ["distill from 0", "plain from 0", "plain from 1"]


def test_a_finished_comparison_is_only_reported_again(compared, monkeypatch):
    bench, text, _ = compared
    monkeypatch.setattr(comparison, "spawn", call_here)
    for name in ("build_trainer", "build_runners"):
        monkeypatch.setattr(demo_bench, name, None)
    assert compare(bench) == text


def test_table_numbers_and_picture_are_left(compared):
    bench, text, _ = compared
    assert (bench.root / "table.md").read_text() == text + "\n"
    for title in ("CLIP", "fine-tuned + patching", METHODS["distill"].title):
        assert f"| {title} " in text
    content = json.loads((bench.root / "results.json").read_text())
    with (bench.root / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 5 * 3  # methods, lists, ratios with CLIP's
    for row in rows:
        sweep = content["sweeps"][row["method"]][row["list"]][0]
        assert float(row["top1"]) == pytest.approx(sweep[str(float(row["patching_ratio"]))],
                                                   abs=1e-4)
    picture = (bench.root / "tradeoffs.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 20_000


def test_the_costs_are_counted(compared):
    bench, _, _ = compared
    costs = json.loads((bench.root / "costs.json").read_text())["methods"]
    assert all(row["seconds_per_step"] > 0 for row in costs.values())
    # The raw model: the image tower of CLIP, in fp32, at least.
    assert costs["distill"]["peak_bytes"] - costs["plain"]["peak_bytes"] > 2**20


def test_a_changed_setting_is_noticed_by_name(compared, monkeypatch):
    bench, _, _ = compared
    monkeypatch.setattr(comparison, "spawn", call_here)
    for changed, said in (
        (replace(bench, opts=(*bench.opts, "SOLVER.BASE_LR", "1e-3")), "SOLVER.BASE_LR 0.0018"),
        (replace(bench, ratios=(0.0,)), "ratios"),
        (replace(bench, averaged=1), "averaged"),
    ):
        with pytest.raises(DataError, match=said):
            compare(changed)
    (bench.root / "clip.pt").write_bytes((bench.root / "clip.pt").read_bytes() + b"\0")
    with pytest.raises(DataError, match="made with clip "):
        compare(bench)


def test_all_methods_have_a_config_that_differs_from_plain_in_the_method_only():
    plain = load_cfg(str(CONFIGS / "plain.yaml"), [])
    for name in METHODS:
        cfg = load_cfg(str(CONFIGS / f"{name}.yaml"), [])
        for section in ("DATA", "DATA_LOADER", "AUG", "MIXUP"):
            assert cfg[section] == plain[section], name
        if name != "lora":  # as in its paper
            assert cfg.SOLVER.BASE_LR == plain.SOLVER.BASE_LR
        for key in ("MAX_EPOCH", "WARMUP_EPOCHS", "OPTIMIZING_METHOD", "CLIP_GRAD_L2NORM"):
            assert cfg.SOLVER[key] == plain.SOLVER[key], name
        assert cfg.TRAIN.BATCH_SIZE == plain.TRAIN.BATCH_SIZE
        assert (cfg == plain) == (name == "plain")


def test_the_longest_runs_of_a_seed_come_first_and_clip_last():
    jobs = list_jobs(Bench(Path("x"), CONFIGS))
    assert jobs[-1] == Job("clip") and len(jobs) == len(METHODS) * len(SEEDS) + 1
    costs = [METHODS[job.method].cost for job in jobs[:len(METHODS)]]
    assert costs == sorted(costs, reverse=True) and {job.seed for job in jobs[:3]} == {SEEDS[0]}
    assert 0 not in SEEDS and 1.0 not in RATIOS


@pytest.mark.parametrize("wrong, said", [
    ({"methods": ("plain", "ewcc")}, "no method 'ewcc'"), ({"methods": ("distill",)}, "add plain"),
    ({"seeds": ()}, "seeds"), ({"seeds": (1, 1)}, "each once"), ({"ratios": (0.5, 1.0)}, "ratios"),
])
def test_impossible_comparisons_are_refused(wrong, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        tiny(tmp_path, **wrong)


def test_means_spreads_and_the_reading_between_two_ratios():
    assert mean_and_spread([1.0, 2.0, 6.0]) == (3.0, stdev([1.0, 2.0, 6.0]))
    assert mean_and_spread([5.0]) == (5.0, 0.0)
    assert average([{0.0: 1.0, 0.5: 4.0}, {0.0: 3.0, 0.5: 8.0}]) == {0.0: 2.0, 0.5: 6.0}
    kept = {0.0: 40.0, 0.5: 60.0, 0.8: 90.0, 1.0: 100.0}
    up = {0.0: 80.0, 0.5: 70.0, 0.8: 40.0, 1.0: 20.0}
    assert read_off(kept, up, 75.0) == pytest.approx(55.0)
    assert read_off(kept, up, 60.0) == pytest.approx(70.0)
    assert read_off(kept, up, 10.0) == 80.0
    # Above the level, below it again, then above: the last rise counts.
    assert read_off({**kept, 0.0: 99.0}, up, 75.0) == pytest.approx(55.0)


def test_rows_are_aligned_markdown():
    lines = format_rows([["", "a"], ["longer", "1 ± 2"]]).splitlines()
    assert len({len(line) for line in lines}) == 1 and set(lines[1]) == set("|-:")


def test_the_ratio_is_chosen_without_a_look_at_the_tests(compared, monkeypatch):
    bench, _, _ = compared
    measured, clip = bench_table.read_sweeps(bench)
    before = bench_table.collect(bench)
    for sweeps in measured.values():
        for name in ("trained", "unseen", "knew"):
            sweeps[name] = [{r: 100.0 * r for r in sweep} for sweep in sweeps[name]]
    monkeypatch.setattr(bench_table, "read_sweeps", lambda _: (measured, clip))
    after = bench_table.collect(bench)
    for name in bench.methods:
        assert after["methods"][name]["ratio"] == before["methods"][name]["ratio"]
        assert after["methods"][name]["unpatched"] != before["methods"][name]["unpatched"]


def test_every_method_is_drawn_with_a_look_of_its_own():
    many = {name: Tradeoff({0.0: [1.0, 2.0], 1.0: [4.0, 5.0]}, [{0.0: [9.0, 8.0], 1.0: [1.0, 1.0]}],
                           chosen=0.0) for name in map(str, range(len(METHODS)))}
    figure = draw_tradeoffs(many, across="kept", up=["learned"], point=("CLIP", 5.0, [0.0]))
    lines = [line for line in figure.axes[0].get_lines() if line.get_label() in many]
    looks = {(line.get_linestyle(), line.get_marker()) for line in lines}
    assert len(looks) == len(many), "they differ without their colours"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [*many, "CLIP"]
