"""``tools/benchmark.py methods`` and ``against``: what a method costs, what an off one costs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

import benchmark
from benchmarks import against, methods
from benchmarks.compute import Case
from benchmarks.configured import ConfiguredStep, write_world
from benchmarks.method_table import METHODS, PLAIN
from benchmarks.rates import count_flops

ROOT = Path(__file__).resolve().parents[2]
TINY = Case(arch="tiny", frames=2, clips=2)
SMALL = ("--arch", "tiny", "--frames", "2", "--clips", "2", "--threads", "1", "--device", "cpu")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    write_world(TINY, folder, classes=5)
    return folder


@pytest.fixture
def run(tmp_path, capsys):
    """Run the tool in this process; return its JSON and the lines that it shows."""

    def call(*arguments):
        output = tmp_path / "out.json"
        code = benchmark.main([*arguments, *SMALL, "--output", str(output)])
        lines = [line for line in capsys.readouterr().out.splitlines() if "[INFO]" not in line]
        assert code == 0, lines
        assert max(map(len, lines)) <= 120
        return json.loads(output.read_text()), lines

    return call


def test_methods_are_compared_with_a_plain_step_of_their_own(run, monkeypatch):
    peaks = iter([2**30, 3 * 2**29])
    asked = []

    def run_here(function, *, threads, **arguments):
        asked.append(arguments["options"])
        return {"peak_bytes": next(peaks), "cuda_peak_bytes": 0}

    monkeypatch.setattr(methods, "run_apart", run_here)
    result, lines = run("methods", "--methods", "distillation", "--repeats", "3", "--classes", "5")
    plain, own = result["rows"]
    assert (plain["variant"], own["variant"]) == ("plain", "distillation")
    assert asked == [{}, dict(METHODS["distillation"].options)]
    assert len(own["runs_ms"]) == len(own["plain_runs_ms"]) == 3
    ratios = sorted(a / b for a, b in zip(own["runs_ms"], own["plain_runs_ms"], strict=True))
    assert own["over_plain"] == ratios[1]
    found = {ratio["name"]: ratio for ratio in result["ratios"]}
    assert found["distillation / plain"]["target"] == 1.4
    assert 1.2 < found["distillation / plain, floor"]["value"] < 1.4  # one forward more
    assert found["distillation: GiB above plain"]["value"] == 0.5
    assert any(line.startswith("distillation ") for line in lines)


@pytest.mark.parametrize("name", METHODS)
def test_each_method_is_on_and_trains(world, name):
    configured = ConfiguredStep(TINY, world, METHODS[name].options)
    before = {key: p.detach().clone() for key, p in configured.model.named_parameters()}
    for _ in range(2):
        configured.iterate()
    names = {objective.name for objective in configured.step.objectives}
    assert len(names) == (1 if name == PLAIN else 2)
    moved = {key for key, p in configured.model.named_parameters()
             if not torch.equal(p, before[key])}
    assert len(moved) >= 4  # two matrices in each of two blocks, at least
    assert configured.trained == sum(
        p.numel() for p in configured.model.parameters() if p.requires_grad)


def test_operations_of_the_methods_are_as_the_maths_says(world):
    flops = {name: count_flops(ConfiguredStep(TINY, world, METHODS[name].options).compute_gradients)
             for name in ("plain", "interpolated", "ewc", "ema", "froster")}
    assert 1.2 * flops["plain"] < flops["froster"]
    assert flops["interpolated"] == pytest.approx(2 * flops["plain"], rel=1e-6)
    assert flops["ewc"] == flops["ema"] == flops["plain"] > 0


def test_two_checkouts_take_their_steps_in_turn(run, monkeypatch):
    monkeypatch.setattr(against, "STEPS", ("interpolated",))
    result, lines = run("against", str(ROOT), "--repeats", "2", "--no-memory")
    assert [row["variant"] for row in result["rows"]] == [
        "interpolated, here", "interpolated, there"]
    assert all(len(row["runs_ms"]) == 2 for row in result["rows"])
    figures = [ratio["name"] for ratio in result["ratios"] if ratio["target"] == 1.01]
    assert figures == ["interpolated: here / there"]
    assert any(line.startswith("interpolated: here / there") for line in lines)


def test_another_loss_or_no_checkout_is_said(run, tmp_path, monkeypatch, capsys):
    assert benchmark.main(["against", str(tmp_path), *SMALL]) == 2
    assert "has no openvclip/__init__.py" in capsys.readouterr().out

    class Worker:
        def __init__(self, case, folder, step, checkout):
            self.about = {"package": str(checkout / "openvclip" / "__init__.py")}
            self.loss = 1.0 + (checkout != ROOT)

        def ask(self, line="step"):
            return {"ms": 1.0, "loss": self.loss}

        def close(self):
            pass

    monkeypatch.setattr(against, "Worker", Worker)
    (tmp_path / "openvclip").mkdir()
    (tmp_path / "openvclip" / "__init__.py").write_text("")
    assert benchmark.main(["against", str(tmp_path), *SMALL]) == 2
    assert "plain: the loss is 1.0 here and 2.0 in" in capsys.readouterr().out
