from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import time

import numpy as np
import pytest
import torch

from openvclip.config import load_cfg
from openvclip.data import loader as loader_module
from openvclip.data.collate import collate, collate_to_hand_over, receive
from openvclip.data.loader import (
    EvalSampler,
    TrainSampler,
    build_list,
    build_loader,
    explain_dead_worker,
)
from openvclip.data.video.resample import PackedClips
from openvclip.utils.errors import ConfigError, DataError

NAMES = ("bframes", "avi", "mkv", "odd", "short", "tenbit", "vfr")


@pytest.fixture(scope="module")
def lists(videos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lists")
    rows = [f"{videos[name].name} {number % 5}\n" for number, name in enumerate(NAMES)]
    for split in ("train", "val", "test"):
        (folder / f"{split}.csv").write_text("".join(rows))
    bad = "".join(rows[:2]) + f"{videos['garbage'].name} 1\n{videos['audio'].name} 2\n"
    for split in ("train", "val", "test"):
        (folder / f"bad_{split}.csv").write_text(bad)
    (folder / "test_openset.csv").write_text("".join(rows[:3]))
    return folder


def config(lists, videos, *opts):
    return load_cfg(None, [str(opt) for opt in (
        "DATA.PATH_TO_DATA_DIR", lists, "DATA.PATH_PREFIX", videos["bframes"].parent,
        "DATA.NUM_FRAMES", 4, "DATA.SAMPLING_RATE", 4, "DATA.TARGET_FPS", 25,
        "DATA.TRAIN_JITTER_SCALES", "[32,40]", "DATA.TRAIN_CROP_SIZE", 32,
        "DATA.TEST_CROP_SIZE", 32, "MODEL.NUM_CLASSES", 5, "TRAIN.BATCH_SIZE", 4,
        "TEST.NUM_ENSEMBLE_VIEWS", 3, "TEST.NUM_SPATIAL_CROPS", 1, "DATA_LOADER.NUM_WORKERS", 0,
        *opts,
    )])


def bad_lists(lists, tmp_path):
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}.csv").write_text((lists / f"bad_{split}.csv").read_text())
    return tmp_path


@pytest.mark.parametrize("split, opts, workers", [
    ("train", (), 2), ("train", (), 16), ("train", ("AUG.ENABLE", True, "AUG.NUM_SAMPLE", 2), 2),
    ("val", (), 2), ("test", (), 2), ("test", ("TEST.NUM_SPATIAL_CROPS", 3), 2),
])
def test_workers_change_nothing(lists, videos, split, opts, workers):
    alone = build_loader(config(lists, videos, *opts), split)
    helped = build_loader(config(lists, videos, *opts, "DATA_LOADER.NUM_WORKERS", workers), split)
    state = torch.get_rng_state()
    for epoch in (0, 3):
        alone.set_epoch(epoch)
        helped.set_epoch(epoch)
        batches = list(alone)
        assert len(batches) == len(alone)
        for one, other in zip(batches, helped, strict=True):
            assert one.keys() == other.keys()
            for key, value in one.items():
                same = torch.equal(value, other[key]) if key != "bad" else value == other[key]
                assert same, key
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.filterwarnings("error")
def test_more_workers_than_cores_are_said_once_in_our_words(lists, videos, monkeypatch, caplog):
    monkeypatch.setattr(loader_module, "count_cores", lambda: 2)
    loader_module.warn_of_too_many_workers.cache_clear()
    for workers, lines in ((2, 0), (4096, 1), (4096, 1)):  # No machine has so many.
        for split in ("train", "val"):
            build_loader(config(lists, videos, "DATA_LOADER.NUM_WORKERS", workers), split)
        assert [r.levelname for r in caplog.records].count("WARNING") == lines
    assert "DATA_LOADER.NUM_WORKERS is 4096, but this process may use 2 cores only" in caplog.text
    loader_module.warn_of_too_many_workers.cache_clear()
    build_loader(config(lists, videos, "DATA_LOADER.NUM_WORKERS", 4, "TRAIN.BATCH_SIZE", 2),
                 "train", rank=1, world_size=2)
    assert caplog.text.count("cores only") == 1, "not by every process"


def test_training_batches(lists, videos):
    loader = build_loader(config(lists, videos, "AUG.NUM_SAMPLE", 2), "train")
    (batch,) = list(loader)
    assert batch["video"].shape == (8, 3, 4, 32, 32)
    index = batch["index"]
    assert torch.equal(index[0::2], index[1::2]) and len(set(index.tolist())) == 4
    assert batch["label"].tolist() == [row % 5 for row in index.tolist()]
    assert batch["clip"].tolist() == [0, 1] * 4


def test_test_batches_hold_whole_videos(lists, videos):
    loader = build_loader(config(lists, videos, "TEST.BATCH_SIZE", 7), "test")
    batches = list(loader)
    assert [len(batch["video"]) for batch in batches] == [6, 6, 6, 3]
    assert torch.cat([batch["index"] for batch in batches]).tolist() == [
        row for row in range(7) for _ in range(3)
    ]
    assert batches[0]["clip"].tolist() == [0, 1, 2, 0, 1, 2]
    assert len(build_loader(config(lists, videos, "TEST.BATCH_SIZE", 1), "test")) == 7


def test_open_set_list(lists, videos):
    loader = build_loader(config(lists, videos, "TEST.OPENSET", True), "test")
    assert len(loader.dataset) == 3


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_lists_of_other_names(lists, videos, tmp_path, split):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "second.csv").write_text((lists / "test_openset.csv").read_text())
    key = f"{split.upper()}_FILE"
    for name in ("../more/second.csv", tmp_path / "more" / "second.csv"):
        cfg = config(lists, videos, key, name, "DATA.PATH_TO_DATA_DIR", tmp_path / "more")
        videos_of_list, _ = build_list(cfg, split)
        assert len(videos_of_list.paths) == 3
        assert videos_of_list.source.endswith("more/second.csv")
    with pytest.raises(DataError, match=f"second.csv does not exist .*{key}"):
        build_list(config(lists, videos, key, "second.csv"), split)


def test_processes_share_the_training_batches():
    def rows(rank, world):
        sampler = TrainSampler(50, 8, seed=3, rank=rank, world_size=world)
        sampler.set_epoch(2)
        assert len(sampler) == 6
        return list(sampler)

    whole = rows(0, 1)
    assert len({row for batch in whole for _, row in batch}) == 48
    assert {epoch for batch in whole for epoch, _ in batch} == {2}
    for world in (2, 4):
        shares = [rows(rank, world) for rank in range(world)]
        assert [sum(parts, []) for parts in zip(*shares, strict=True)] == whole


def test_training_order_changes_by_epoch_and_seed():
    def order(seed, epoch):
        sampler = TrainSampler(50, 50, seed=seed)
        sampler.set_epoch(epoch)
        return tuple(row for _, row in next(iter(sampler)))

    assert order(0, 1) == order(0, 1)
    assert len({order(0, 0), order(0, 1), order(1, 0), order(1, 1)}) == 4


def test_an_epoch_can_be_continued(lists, videos):
    loader = build_loader(config(lists, videos, "TRAIN.BATCH_SIZE", 2), "train")
    loader.set_epoch(1)
    whole = [batch["video"] for batch in loader]
    loader.set_epoch(1, start_iteration=2)
    (rest,) = [batch["video"] for batch in loader]
    assert len(loader) == 3
    assert torch.equal(rest, whole[2])


@pytest.mark.parametrize("rows", [1, 7, 12])
@pytest.mark.parametrize("world", [1, 2, 5])
def test_evaluation_visits_each_row_once(rows, world):
    seen = []
    for rank in range(world):
        sampler = EvalSampler(rows, 2, rank=rank, world_size=world)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        seen += [row for batch in batches for _, row in batch]
    assert sorted(seen) == list(range(rows))


def test_bad_videos_are_reported(lists, videos, tmp_path):
    folder = bad_lists(lists, tmp_path)
    (batch,) = list(build_loader(config(folder, videos), "val"))
    assert batch["index"].tolist() == [0, 1]
    assert [row for row, _ in batch["bad"]] == [2, 3]
    assert "garbage.mp4" in batch["bad"][0][1]
    first, second = list(build_loader(config(folder, videos, "TEST.BATCH_SIZE", 6), "test"))
    assert first["bad"] == [] and len(first["video"]) == 6
    assert second["video"].shape == (0, 3, 4, 32, 32)
    assert second["index"].shape == second["clip"].shape == second["label"].shape == (0,)
    assert [row for row, _ in second["bad"]] == [2, 3]
    (batch,) = list(build_loader(config(folder, videos), "train"))
    assert batch["video"].shape[0] == 4
    assert {row for row, _ in batch["bad"]} >= {2, 3}
    assert set(batch["index"].tolist()) <= {0, 1}


def test_several_labels(lists, videos, tmp_path):
    (tmp_path / "val.csv").write_text(f"{videos['avi'].name} 0;3\n{videos['odd'].name} 1\n")
    several = ("DATA.MULTI_LABEL", True, "MODEL.LOSS_FUNC", "bce_logit")
    (batch,) = list(build_loader(config(tmp_path, videos, *several), "val"))
    assert batch["label"].tolist() == [[1, 0, 0, 1, 0], [0, 1, 0, 0, 0]]


def test_fewer_rows_than_a_batch(lists, videos):
    with pytest.raises(DataError, match="7 rows.*TRAIN.BATCH_SIZE is 8"):
        build_loader(config(lists, videos, "TRAIN.BATCH_SIZE", 8), "train")


@pytest.mark.parametrize(("split", "key"), [("train", "TRAIN"), ("val", "TRAIN"), ("test", "TEST")])
def test_batches_that_processes_cannot_share(lists, videos, split, key):
    with pytest.raises(ConfigError, match=f"{key}.BATCH_SIZE is .* multiple of 3"):
        build_loader(config(lists, videos), split, rank=0, world_size=3)


def test_labels_are_checked_against_the_label_map(lists, videos, tmp_path):
    path = tmp_path / "index2cls.json"
    path.write_text('{"0": "a", "1": "b", "2": "c"}')
    with pytest.raises(DataError, match="train.csv, line 4: the label 3 is outside the map of 3"):
        build_loader(config(lists, videos, "DATA.INDEX_LABEL_MAPPING_FILE", path), "train")


def test_missing_folders(lists, videos, tmp_path):
    with pytest.raises(DataError, match="missing video folder"):
        build_loader(config(lists, videos, "DATA.PATH_PREFIX", tmp_path / "none"), "train")
    with pytest.raises(DataError, match="missing video folder: .*bframes.mp4"):
        build_loader(config(lists, videos, "DATA.PATH_PREFIX", tmp_path), "train")
    with pytest.raises(DataError, match="train.csv does not exist"):
        build_loader(config(tmp_path, videos), "train")


def test_the_old_backend_name_is_noted_once(lists, videos, caplog):
    loader_module.note_backend.cache_clear()
    with caplog.at_level("INFO", logger="openvclip"):
        build_loader(config(lists, videos), "val")
        build_loader(config(lists, videos), "test")
    lines = {id(r) for r in caplog.records if "decoded by PyAV" in r.getMessage()}
    assert len(lines) == 1


def test_pixels_travel_as_bytes_unless_they_are_erased(lists, videos):
    plain = build_loader(config(lists, videos), "train")
    item = plain.dataset[0]["video"]
    assert isinstance(item, PackedClips)
    assert all(part.pixels.dtype == np.uint8 for part in item.cuts)
    erased = build_loader(config(lists, videos, "AUG.ENABLE", True), "train")
    assert erased.dataset[0]["video"].dtype == torch.float32


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_second_evaluation_reads_the_cache(lists, videos, split, tmp_path, monkeypatch):
    opts = ("DATA.CACHE_DIR", tmp_path / "cache", "TEST.NUM_SPATIAL_CROPS", 3)
    plain = list(build_loader(config(lists, videos, *opts[2:]), split))
    first = list(build_loader(config(lists, videos, *opts), split))
    loader = build_loader(config(lists, videos, *opts), split)
    monkeypatch.setattr("openvclip.data.dataset.read_clips", None)
    second = list(loader)
    for one, two, three in zip(plain, first, second, strict=True):
        assert torch.equal(one["video"], two["video"]) and torch.equal(one["video"], three["video"])
        assert torch.equal(one["index"], three["index"])


def test_the_cache_tells_settings_apart_and_leaves_training_alone(lists, videos, tmp_path):
    opts = ("DATA.CACHE_DIR", tmp_path / "cache")
    list(build_loader(config(lists, videos, *opts), "test"))
    for change in (("DATA.SAMPLING_RATE", 3), ("TEST.NUM_ENSEMBLE_VIEWS", 1),
                   ("DATA.NUM_FRAMES", 3), ("DATA.TEST_CROP_SIZE", 30)):
        cached = list(build_loader(config(lists, videos, *opts, *change), "test"))
        plain = list(build_loader(config(lists, videos, *change), "test"))
        for one, two in zip(cached, plain, strict=True):
            assert torch.equal(one["video"], two["video"])
    assert build_loader(config(lists, videos, *opts), "train").dataset.cache is None
    random = build_loader(config(lists, videos, *opts, "DATA.VAL_RANDOM", True), "val")
    assert random.dataset.cache is None


def test_a_killed_worker_is_an_error(lists, videos):
    loader = build_loader(
        config(lists, videos, "DATA_LOADER.NUM_WORKERS", 1, "TRAIN.BATCH_SIZE", 1), "train"
    )
    batches = iter(loader)
    next(batches)
    (worker,) = multiprocessing.active_children()
    with pytest.raises(RuntimeError, match="DataLoader worker .*killed") as raised:
        os.kill(worker.pid, signal.SIGKILL)
        time.sleep(0.1)
        list(batches)
    assert "lower DATA_LOADER.NUM_WORKERS" in str(explain_dead_worker(raised.value))
    assert explain_dead_worker(RuntimeError("something else")) is None


def test_collate_keeps_clips_of_a_video_together():
    def item(row, video, bad=()):
        return {"video": video, "label": torch.tensor(row), "index": row,
                "clip": torch.arange(2), "bad": list(bad)}

    batch = collate(
        [item(5, torch.ones(2, 3, 1, 4, 4)), item(6, None, [(6, "broken")]),
         item(7, torch.zeros(2, 3, 1, 4, 4))],
        empty=(3, 1, 4, 4),
    )
    assert batch["index"].tolist() == batch["label"].tolist() == [5, 5, 7, 7]
    assert batch["clip"].tolist() == [0, 1, 0, 1]
    assert batch["video"].mean((1, 2, 3, 4)).tolist() == [1, 1, 0, 0]
    assert batch["bad"] == [(6, "broken")]


def test_a_batch_that_shared_memory_does_not_take_is_an_error(lists, videos, monkeypatch):
    start = loader_module._init_worker

    def limit(number: int) -> None:
        start(number)
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))

    monkeypatch.setattr(loader_module, "_init_worker", limit)
    loader = build_loader(config(lists, videos, "DATA_LOADER.NUM_WORKERS", 1), "train")
    # Fails instead of waiting for ever.
    loader._loader.timeout = 60
    with pytest.raises(DataError, match=r"not hand over a batch .*File too large.*ulimit -f") as e:
        list(loader)
    assert "\n" not in str(e.value)


def test_a_worker_reports_any_lack_of_shared_memory(monkeypatch):
    def share(tensor):
        raise RuntimeError("unable to allocate shared memory: No space left on device (28)\nmore")

    monkeypatch.setattr(torch.Tensor, "share_memory_", share)
    item = {"video": torch.zeros(1, 3, 1, 2, 2), "label": torch.tensor(0), "index": 0,
            "clip": torch.arange(1), "bad": []}
    batch = collate_to_hand_over([item], empty=(3, 1, 2, 2))
    with pytest.raises(DataError, match=r"No space left on device \(28\)\).*/dev/shm"):
        receive(batch)
