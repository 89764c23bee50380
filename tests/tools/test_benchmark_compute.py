"""``tools/benchmark.py model|step|text|average``: both ways agree, and the reports are whole."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

import benchmark
from benchmarks import apart, average, rates, step, straightforward_compute, targets
from benchmarks.compute import VIEW, Case, build_clip, build_model, check_agreement

from openvclip.interpolation import draw_ratio
from openvclip.models.text import TEMPLATES
from openvclip.utils.errors import DataError

TINY = Case(arch="tiny", frames=3)


@pytest.fixture
def run(tmp_path, capsys):
    """Run the tool in this process; return its JSON and the lines that it shows."""

    def call(*arguments):
        output = tmp_path / "out.json"
        code = benchmark.main([arguments[0], "--arch", "tiny", "--repeats", "1", "--threads", "1",
                               "--output", str(output), *arguments[1:]])
        lines = [line for line in capsys.readouterr().out.splitlines() if "[INFO]" not in line]
        assert code == 0, lines
        assert max(map(len, lines)) <= 120
        return json.loads(output.read_text()), lines

    return call


@pytest.fixture
def in_this_process(monkeypatch):
    """Run here what would start a process of its own each; return what was asked for."""
    asked = []

    def run_here(function, *, threads, **arguments):
        asked.append((function.__name__, arguments))
        result = function(**json.loads(json.dumps(arguments)))
        return {**json.loads(json.dumps(result)), "peak_bytes": 2**30 * len(asked)}

    for module in (average, step):
        monkeypatch.setattr(module, "run_apart", run_here)
    return asked


def test_class_texts(run):
    """Every variant computes; sentences are counted as a step encodes them."""
    result, lines = run("class-texts", "--classes", "5", "--dtype", "fp32", "--frames", "2",
                        "--samples", "2", "--chunk", "4")
    sentences = {row["variant"]: row["sentences"] for row in result["rows"]}
    assert sentences == {"frozen": 0, "2 a step": 10, "4 prompts": 5, "all templates": 140}
    assert [row["name"] for row in result["ratios"]] == [
        "2 a step / frozen", "4 prompts / frozen", "all templates / frozen"]
    assert all(0 < row["cpu_ms"] for row in result["rows"])
    assert any("5 classes, chunks of 4 sentences" in line for line in lines)


def check_machine(result):
    machine = result["machine"]
    assert {"date", "cpu", "cores", "torch", "load_average", "load_average_after"} <= machine.keys()
    assert (machine["device"], machine["threads"]) == ("cpu", 1)


def test_model_times_both_views_in_each_precision(run):
    result, lines = run("model", "--device", "cpu", "--frames", "2", "--clips", "2")
    check_machine(result)
    assert [(row["variant"], row["dtype"]) for row in result["rows"]] == [
        (variant, dtype) for dtype in ("fp32", "bf16")
        for variant in ("no view", "view", "view, straightforward")
    ]
    for row in result["rows"]:
        assert len(row["runs_ms"]) == 1
        assert row["clips_per_s"] == pytest.approx(2e3 / row["median_ms"])
    ms = {(row["variant"], row["dtype"]): row["median_ms"] for row in result["rows"]}
    first = result["ratios"][0]
    assert first["value"] == pytest.approx(ms["view", "fp32"] / ms["no view", "fp32"])
    assert (first["target"], first["met"]) == (1.12, first["value"] <= 1.12)
    assert 0 < result["agreement"]["fp32"]["max_difference"] < 1e-4
    assert any(line.startswith("view / no view") and "<= 1.2" in line for line in lines)


def test_step_times_compares_and_weighs_each_variant(run, in_this_process):
    result, lines = run("step", "--device", "cpu", "--frames", "2", "--dtype", "fp32")
    check_machine(result)
    variants = ["plain", "interpolated", "interpolated, straightforward"]
    assert [row["variant"] for row in result["rows"]] == variants
    assert 0 < result["agreement"]["fp32"]["max_difference"] < 1e-4
    assert [row["variant"] for row in result["memory"]] == variants
    assert [given["variant"] for _, given in in_this_process] == variants
    assert [row["peak_gib"] for row in result["memory"]] == [1, 2, 3]
    trained = sum(p.numel() for n, p in build_clip(TINY).named_parameters()
                  if n.startswith("visual.") or n == "logit_scale")
    for row in result["memory"]:
        assert row["trained_gib"] * 2**28 == trained
    found = {ratio["name"]: ratio["value"] for ratio in result["ratios"]}
    assert list(found) == ["interpolated / plain", "straightforward / interpolated",
                           "copies of the trainable parameters above plain",
                           "GiB below straightforward"]
    assert found["copies of the trainable parameters above plain"] == pytest.approx(2**28 / trained)
    assert found["GiB below straightforward"] == 1
    assert any(line.startswith("straightforward / interpolated") and ">= 1.08" in line
               for line in lines)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")
def test_step_measures_other_ways_of_the_plain_step(run, in_this_process):
    result, _ = run("step", "--device", "cpu", "--frames", "2", "--dtype", "fp32", "--clips", "2",
                    "--with", "compile", "checkpoint", "accumulate")
    ways = ["plain, compiled", "plain, checkpointed", "plain, in 2 parts"]
    for rows in (result["rows"], result["memory"]):
        assert [row["variant"] for row in rows][3:] == ways
    names = [ratio["name"] for ratio in result["ratios"]]
    assert [name for name in names if name.startswith("plain, ")] == [f"{w} / plain" for w in ways]


@pytest.mark.parametrize("way", ["checkpointed", "in 2 parts"])
def test_other_ways_give_the_gradients_of_the_plain_step(way):
    stepper = step.Stepper(dataclasses.replace(TINY, clips=2))
    plain = stepper.copy_gradients(stepper.gradients(step.PLAIN))
    other = stepper.copy_gradients(stepper.gradients(f"{step.PLAIN}, {way}"))
    assert step.relative_difference(other, plain) < 1e-4


def test_step_compares_precisions_of_the_same_variant(run):
    result, _ = run("step", "--device", "cpu", "--frames", "2", "--no-memory")
    assert result["memory"] == []
    ms = {(row["variant"], row["dtype"]): row["median_ms"] for row in result["rows"]}
    found = {ratio["name"]: ratio for ratio in result["ratios"]}["plain: fp32 / bf16"]
    assert found["value"] == pytest.approx(ms["plain", "fp32"] / ms["plain", "bf16"])
    assert found["target"] == 2.3


def test_text_computes_every_nth_class_and_says_so(run):
    result, lines = run("text", "--device", "cpu", "--classes", "9", "--fraction", "4")
    check_machine(result)
    assert [row["variant"] for row in result["rows"]] == [
        "computed", "computed, straightforward", "read from the cache",
    ]
    assert result["settings"]["classes_computed"] == 3
    assert {row["sentences"] for row in result["rows"]} == {3 * 28}
    assert result["agreement"]["fp32"]["max_difference"] < 1e-5
    assert "only one in 4 of 9 classes was computed (--fraction)" in lines


def test_average_measures_both_ways_and_leaves_nothing_behind(
    run, in_this_process, tmp_path, monkeypatch
):
    monkeypatch.setattr(average, "TWENTY", 4)
    folder = tmp_path / "here"
    folder.mkdir()
    result, _ = run("average", "--count", "2", "--twenty", "--folder", str(folder))
    check_machine(result)
    assert [(row["variant"], row["count"]) for row in result["rows"]] == [
        ("streamed", 2), ("loaded and stacked", 2), ("streamed", 4),
    ]
    size = sum(p.numel() for p in build_clip(TINY).parameters()) * 4 / 2**30
    assert result["settings"]["checkpoint_gib"] == pytest.approx(size)
    # The first of each way is not counted: it brings the files into memory.
    assert [given["way"] for _, given in in_this_process] == [
        "streamed", "loaded and stacked", "streamed", "loaded and stacked", "streamed",
    ]
    assert [row["peak_gib"] for row in result["rows"]] == [3, 4, 5]
    assert result["agreement"]["fp32"]["max_difference"] < 1e-6
    assert [ratio["target"] for ratio in result["ratios"]] == [1.6, 3.0, 1.05]
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("arguments, says", [
    (["text", "--classes", "401"], "k400-index2cls.json has 400 names"),
    (["model", "--device", "cuda"], "torch sees no GPU here"),
    (["average", "--folder", "FULL"], "name another --folder"),
])
def test_what_cannot_be_measured_is_named(arguments, says, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("", (), {"free": 1000})())
    arguments = [str(tmp_path) if word == "FULL" else word for word in arguments]
    assert benchmark.main([*arguments, "--arch", "tiny"]) == 2
    assert says in capsys.readouterr().out


@pytest.mark.parametrize("frames", [1, 2, 4])
def test_the_straightforward_view_is_the_library_s(frames):
    case = Case(arch="tiny", frames=frames, clips=2)
    ours = build_model(case, VIEW)
    block = partial(straightforward_compute.ManualViewBlock, num_frames=frames)
    other = build_model(case, block=block, like=ours)
    video, _ = case.batch()
    torch.testing.assert_close(other(video), ours(video), atol=1e-5, rtol=0)
    without = build_model(case, like=ours)
    assert (without(video) - ours(video)).abs().max() > 1e-4


def test_models_that_share_weights_share_their_gradients():
    ours = build_model(TINY, VIEW)
    other = build_model(TINY, like=ours)
    video, _ = TINY.batch()
    other(video).sum().backward()
    assert ours.model.visual.proj.grad is other.model.visual.proj.grad is not None
    assert not any(p.requires_grad for p in other.model.text_parameters().values())


def test_the_straightforward_step_adds_two_gradients_and_restores_the_weights():
    stepper = step.Stepper(TINY)
    before = {name: p.detach().clone() for name, p in stepper.model.named_parameters()}
    plain = stepper.copy_gradients(stepper.gradients(step.PLAIN))
    both = stepper.gradients(step.STRAIGHT)
    total = stepper.copy_gradients(both)
    assert all(torch.equal(p, before[name]) for name, p in stepper.model.named_parameters())
    # At the mixture itself a plain step has what was added, times the loss's weight.
    ratio = draw_ratio(step.RECIPE["low"], step.RECIPE["high"], seed=0, step=0)
    with torch.no_grad():
        for name, p in stepper.model.named_parameters():
            p.lerp_(both.clip[name], ratio)
    mixed = stepper.copy_gradients(stepper.gradients(step.PLAIN))
    for name, gradient in total.items():
        expected = plain[name] + step.RECIPE["loss_ratio"] * mixed[name]
        torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-3)


def test_a_step_changes_what_trains_and_nothing_else():
    stepper = step.Stepper(TINY)
    before = {name: p.detach().clone() for name, p in stepper.model.named_parameters()}
    stepper.run(stepper.gradients(step.INTERPOLATED), *TINY.batch())
    changed = {name for name, p in stepper.model.named_parameters()
               if not torch.equal(p, before[name])}
    assert changed == set(stepper.trained)


def test_the_straightforward_classifier_computes_all_positions(monkeypatch):
    clip = build_clip(TINY)
    seen = []
    attend = straightforward_compute.attend_masked
    monkeypatch.setattr(straightforward_compute, "attend_masked",
                        lambda attn, x, mask: seen.append(x.shape[:2]) or attend(attn, x, mask))
    straightforward_compute.classify_text(clip, ["one", "two"], TEMPLATES)
    assert seen == [(77, 28)] * 4  # two classes in a tower of two blocks


@pytest.mark.parametrize("difference", [0.2, float("nan"), float("inf")])
def test_results_that_disagree_stop_the_benchmark(difference):
    with pytest.raises(DataError, match="one of them computes something else"):
        check_agreement("this", difference, 0.1)
    assert check_agreement("this", 0.1, 0.1)["max_difference"] == 0.1


def test_gradients_of_other_tensors_do_not_agree():
    one = {"a": torch.tensor([1.0, 4.0])}
    assert step.relative_difference(one, {"a": torch.tensor([1.0, 5.0])}) == pytest.approx(0.2)
    assert step.relative_difference(one, {"b": one["a"]}) == float("inf")


def test_a_process_of_its_own_does_not_inherit_the_peak_of_this_one():
    ballast = torch.ones(2**27)  # half a GiB
    found = apart.run_apart(step.steps_apart, threads=1, case=dataclasses.asdict(TINY),
                            variant=step.PLAIN)
    assert len(ballast) * 4 > found["peak_bytes"] > found["trained_bytes"] * 4


def test_a_process_that_fails_is_an_error(capfd):
    with pytest.raises(RuntimeError, match="exit status 1"):
        apart.run_apart(step.steps_apart, threads=1, case={"arch": "none"}, variant=step.PLAIN)
    assert "KeyError: 'none'" in capfd.readouterr().err


def test_operations_are_counted_forward_and_backward_with_attention():
    q = torch.randn(1, 2, 8, 16, requires_grad=True)

    def attend():
        torch.nn.functional.scaled_dot_product_attention(q, q, q).sum().backward()

    one_product = 2 * 2 * 8 * 8 * 16
    assert rates.count_flops(attend) == 6 * one_product  # two, and twice that backward


def test_the_interpolated_step_has_twice_the_operations_of_the_plain_one():
    stepper = step.Stepper(TINY)
    plain, interpolated = (
        rates.count_flops(lambda v=variant: stepper.copy_gradients(stepper.gradients(v)))
        for variant in (step.PLAIN, step.INTERPOLATED)
    )
    assert interpolated == 2 * plain > 0


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
])
def test_rates_double_the_batch_until_memory_is_out(error):
    tried = []

    def prepare(clips):
        tried.append(clips)
        if clips > 16:
            raise error
        return lambda: None

    stepper = step.Stepper(TINY)
    rows = rates.measure_rates(TINY, prepare, stepper.gradients(step.PLAIN), 1, matmul_size=64)
    assert tried == [1, 8, 16, 32]
    assert [(row["clips"], row["largest"]) for row in rows] == [(1, False), (8, False), (16, True)]
    for row in rows:
        assert row["share"] == pytest.approx(row["tflops"] / row["matmul_tflops"])
        assert row["clips_per_s"] == pytest.approx(row["clips"] / row["median_ms"] * 1e3)
    assert rows[2]["tflops"] * rows[2]["median_ms"] == pytest.approx(
        16 * rows[0]["tflops"] * rows[0]["median_ms"])


def test_rates_do_not_take_another_failure_for_the_memory_s_end():
    def prepare(clips):
        raise RuntimeError("illegal access")

    gradients = step.Stepper(TINY).gradients(step.PLAIN)
    with pytest.raises(RuntimeError, match="illegal access"):
        rates.measure_rates(TINY, prepare, gradients, 1, matmul_size=64)


@pytest.mark.parametrize("judge, value, met", [
    (targets.judge_most, 2.03, True), (targets.judge_most, 2.04, False),
    (targets.judge_least, 2.03, True), (targets.judge_least, 2.02, False),
])
def test_figures_say_whether_their_target_is_met(judge, value, met):
    assert judge("x", value, 2.03, dtype="bf16")["met"] is met
    assert judge("x", value, None)["met"] is None
