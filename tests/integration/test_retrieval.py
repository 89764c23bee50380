"""TEST.TASK retrieval as a user runs it, on one process and on several."""

from __future__ import annotations

import json
import os
import re
import shutil

import pytest
import torch
import torch.nn.functional as F
from conftest_integration import options
from test_many_processes import run_under_torchrun

from openvclip.clip.tokenizer import tokenize
from openvclip.config import load_cfg
from openvclip.data.loader import build_loader
from openvclip.evaluation.build import build_runner
from openvclip.models.build import build_model
from openvclip.utils.errors import CheckpointError

DAMAGED = 4
LONG = "a very " + "very " * 100 + "long sentence"


@pytest.fixture(scope="module")
def pairs(tiny, tmp_path_factory):
    """A list over the tiny dataset's test videos without endings, one damaged, 14 captions."""
    root = tmp_path_factory.mktemp("pairs")
    videos = sorted((tiny / "videos" / "test").rglob("*.mp4"))
    rows = []
    for i, path in enumerate(videos):
        os.link(path, root / f"video{i}.mp4")
        said = [f"a {path.parent.name} square, number {i}"]
        said += ["a square", LONG if i == 2 else f"take {i} of a square"] if i % 3 == 2 else []
        rows.append({"video": f"video{i}", "caption": said[0] if len(said) == 1 else said})
    (root / f"video{DAMAGED}.mp4").unlink()
    (root / f"video{DAMAGED}.mp4").write_bytes(b"damaged")
    (root / "pairs.json").write_text(json.dumps(rows))
    state = torch.load(tiny / "clip.pt", weights_only=True)
    rng = torch.Generator().manual_seed(1)
    for name, parts in (("tuned", ("visual.",)), ("both", ("visual.", "transformer."))):
        changed = {f"model.{k}": v + 0.02 * torch.randn(v.shape, generator=rng)
                   if k.startswith(parts) else v for k, v in state.items()}
        torch.save({"model_state": changed}, root / f"{name}.pyth")
    return root


def opts(tiny, pairs, out, weights="tuned", **changes) -> list[str]:
    """Options of a retrieval run, without label map, lists of classes or number of classes."""
    return options(tiny, out, **{
        "TEST__TASK": "retrieval", "TEST__RETRIEVAL_FILE": pairs / "pairs.json",
        "DATA__PATH_PREFIX": pairs, "DATA__INDEX_LABEL_MAPPING_FILE": "",
        "DATA__PATH_TO_DATA_DIR": "", "MODEL__NUM_CLASSES": 400, "TRAIN__ENABLE": False,
        "TEST__CUSTOM_LOAD": True, "TEST__CUSTOM_LOAD_FILE": pairs / f"{weights}.pyth",
        "TEST__PATCHING_RATIOS": "[0.0,0.5]", "TEST__SAVE_RESULTS_PATH": "found.pt", **changes,
    })


def read(out):
    results = json.loads((out / "results.json").read_text())
    return {**results, "seconds": 0, "config_sha256": ""}


def test_numbers_follow_from_the_saved_embeddings(tiny, pairs, tmp_path, empty_cfg, in_process,
                                                  capfd):
    in_process(empty_cfg, opts(tiny, pairs, tmp_path))
    results = read(tmp_path)
    assert results["task"] == "retrieval" and "label_set" not in results
    assert [entry["row"] for entry in results["failed"]] == [DAMAGED]
    facts = results["captions"]
    assert (facts["count"], facts["repeated"], facts["shared"], facts["truncated"]) == (15, 0, 1, 1)
    assert [row["patching_ratio"] for row in results["results"]] == [0.0, 0.5]
    for row in results["results"]:
        found = torch.load(tmp_path / f"found_ratio{row['patching_ratio']:.2f}.pt",
                           weights_only=True)
        done = found["complete"]
        assert done.tolist() == [i != DAMAGED for i in range(9)]
        torch.testing.assert_close(found["videos"][done].norm(dim=1), torch.ones(8))
        cosines = found["videos"] @ found["texts"].T
        cosines[~done] = -2
        own = cosines[found["owner"], torch.arange(15)]
        ranks = 1 + (cosines > own + 1e-6).sum(0).double()
        ranks[found["owner"] == DAMAGED] = 9
        assert row["t2v_mean_rank"] == pytest.approx(float(ranks.mean()))
        assert row["t2v_r5"] == pytest.approx(100 * float((ranks <= 5).double().mean()))
        worst = row["examples"]["text_to_video"][0]
        assert worst["rank"] == float(ranks[found["owner"] != DAMAGED].max())
        assert all(f"video{DAMAGED}." not in entry[key] for key in ("video", "first")
                   for entry in row["examples"]["text_to_video"])
    log = capfd.readouterr().out
    assert "1 of 9 videos could not be evaluated" in log and "T2V R@1" in log
    assert all(f"wrote {tmp_path}/found_ratio{r}.pt" in log for r in ("0.00", "0.50"))
    check_report(tmp_path, results)


def check_report(out, results):
    """The page has the numbers of the results, and pictures of all videos that it shows."""
    page = (out / "report.html").read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])
    assert data["best"] == max((0, 1), key=lambda i: (data["tested"][i]["mean_r1"], -i))
    for shown, row in zip(data["tested"], results["results"], strict=True):
        numbers = [key for key in row if key.startswith(("t2v_", "v2t_"))]
        assert len(numbers) == 12 and all(shown[key] == row[key] for key in numbers)
        assert sum(row["t2v_ranks"].values()) == 15 and sum(row["v2t_ranks"].values()) == 9
        assert row["v2t_ranks"]["failed"] == 1
        assert row["t2v_ranks"]["1"] == pytest.approx(15 * row["t2v_r1"] / 100)
    assert data["rows"] and {str(row) for row in data["rows"].values()} == set(data["pictures"])
    assert data["failed"]["count"] == 1 and DAMAGED not in data["rows"].values()


def test_embeddings_are_the_models_own(tiny, pairs, tmp_path, in_process, empty_cfg):
    """Against one forward pass a clip and a sentence, patched by hand."""
    in_process(empty_cfg, opts(tiny, pairs, tmp_path, weights="both"))
    cfg = load_cfg(None, opts(tiny, pairs, tmp_path, weights="both"))
    tester = build_runner(cfg, tmp_path).setup
    model = tester.model
    for ratio in (0.0, 0.5):
        found = torch.load(tmp_path / f"found_ratio{ratio:.2f}.pt", weights_only=True)
        with torch.no_grad(), tester.weights.at(ratio):
            for row in (0, 8):
                clips = tester.loader.dataset[row]["video"].finish()
                whole = F.normalize(model.pool_frames(clips).mean(dim=0), dim=-1)
                torch.testing.assert_close(found["videos"][row], whole, atol=1e-5, rtol=0)
            for place, text in enumerate(found["captions"]):
                one = model.model.encode_text(tokenize([text], truncate=True))[0]
                torch.testing.assert_close(found["texts"][place], F.normalize(one, dim=-1),
                                           atol=1e-5, rtol=0)
    assert not torch.equal(*(torch.load(tmp_path / f"found_ratio{r}.pt", weights_only=True)["texts"]
                             for r in ("0.00", "0.50")))


def test_the_same_floats_on_three_processes(tiny, pairs, tmp_path, empty_cfg, repo, in_process):
    alone, shared = tmp_path / "on1", tmp_path / "on3"
    in_process(empty_cfg, opts(tiny, pairs, alone, "both", TEST__BATCH_SIZE=12))
    done = run_under_torchrun(repo, empty_cfg, 3,
                              opts(tiny, pairs, shared, "both", TEST__BATCH_SIZE=12))
    assert done.returncode == 0, done.stdout + done.stderr
    assert read(shared) == read(alone)
    for ratio in ("0.00", "0.50"):
        name = f"found_ratio{ratio}.pt"
        assert (shared / name).read_bytes() == (alone / name).read_bytes()


def test_a_cut_off_test_goes_on(tiny, pairs, tmp_path, empty_cfg, in_process, monkeypatch):
    root, out = tmp_path / "pairs", tmp_path / "out"
    shutil.copytree(pairs, root)
    given = opts(tiny, root, out, TEST__RESUME=True)
    in_process(empty_cfg, given)
    wanted = read(out)
    assert not (out / "resume").exists()
    from openvclip.evaluation.tasks import retrieval

    def cut_off(*_):
        raise CheckpointError("cut off here")

    monkeypatch.setattr(retrieval, "compute_ranks", cut_off)
    in_process(empty_cfg, given, check=2)
    monkeypatch.undo()
    for path in root.glob("*.mp4"):  # whoever decodes one again fails
        path.write_bytes(b"gone")
    in_process(empty_cfg, given)
    assert read(out) == wanted


def test_clip_itself_and_numbers_of_views(tiny, pairs, tmp_path, empty_cfg, in_process):
    in_process(empty_cfg, opts(tiny, pairs, tmp_path, TEST__CUSTOM_LOAD=False,
                               TEST__CUSTOM_LOAD_FILE=None, TEST__PATCHING_RATIOS="[]",
                               TEST__NUM_TEMPORAL_CLIPS="[1,2]"))
    for views in (1, 2):
        results = read(tmp_path / f"views_{views}")
        assert results["views"] == views and results["checkpoint"] is None
        assert [row["patching_ratio"] for row in results["results"]] == [None]
        assert (tmp_path / f"views_{views}" / "found.pt").is_file()


def test_a_checkpoint_with_a_tuned_head_needs_no_classes(tiny, pairs, tmp_path):
    state = torch.load(pairs / "tuned.pyth", weights_only=True)["model_state"]
    torch.save({"model_state": {**state, "head": torch.eye(3, 32)}}, tmp_path / "head.pyth")
    cfg = load_cfg(None, opts(tiny, pairs, tmp_path, TUNE_HEAD=True,
                              TEST__CUSTOM_LOAD_FILE=tmp_path / "head.pyth"))
    model = build_runner(cfg, tmp_path).setup.model
    assert model.head is None and model.classifier.shape == (0, 32)
    assert torch.equal(model.state_dict()["model.visual.proj"], state["model.visual.proj"])
    cfg = load_cfg(None, options(tiny, tmp_path))
    with pytest.raises(CheckpointError, match="head"):  # with classes it is not dropped unseen
        from openvclip.checkpoints.loading import load_weights

        load_weights(build_model(cfg, ["a", "b", "c"]), tmp_path / "head.pyth")


def test_weights_that_overflow_are_refused(tiny, pairs, tmp_path, empty_cfg, in_process, capfd):
    state = torch.load(pairs / "tuned.pyth", weights_only=True)["model_state"]
    state["model.visual.ln_pre.weight"] = state["model.visual.ln_pre.weight"] * 1e38
    torch.save({"model_state": state}, tmp_path / "huge.pyth")
    in_process(empty_cfg, opts(tiny, pairs, tmp_path, TEST__PATCHING_RATIOS="[]",
                               TEST__CUSTOM_LOAD_FILE=tmp_path / "huge.pyth"), check=2)
    assert "NaN or infinity, although the weights are finite" in capfd.readouterr().out


def test_the_loader_reads_the_given_list(tiny, pairs, tmp_path):
    cfg = load_cfg(None, opts(tiny, pairs, tmp_path))
    from openvclip.data.lists.retrieval import build_retrieval_list

    videos = build_retrieval_list(cfg).as_videos()
    rows = [row for batch in build_loader(cfg, "test", videos=videos)
            for row in batch["index"].tolist()]
    assert sorted(rows) == sorted([i for i in range(9) if i != DAMAGED] * 2)
