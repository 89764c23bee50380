"""The log: statistics for people on the terminal, for programs in the file; progress lines."""

from __future__ import annotations

import json
import logging

import pytest

from openvclip.utils.logging import (
    Progress,
    format_seconds,
    get_logger,
    log_json_stats,
    setup_logging,
)


@pytest.fixture
def fresh_log():
    yield
    logger = logging.getLogger("openvclip")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()


def test_terminal_reads_well_and_the_file_is_pyslowfasts(tmp_path, capsys, fresh_log):
    setup_logging(tmp_path)
    log_json_stats({"_type": "train_iter", "epoch": "1/22", "loss": 1.23456789}, tmp_path)
    get_logger().info("plain")
    terminal, file = capsys.readouterr().out, (tmp_path / "stdout.log").read_text()
    assert "train_iter: epoch 1/22, loss 1.235" in terminal and "json_stats" not in terminal
    line = next(x for x in file.splitlines() if "json_stats: " in x)
    wanted = {"_type": "train_iter", "epoch": "1/22", "loss": 1.23457}
    assert json.loads(line.split("json_stats: ")[1]) == {
        **wanted, "_type": "train_iter_", "gpu_mem": "0.00G"}
    assert json.loads((tmp_path / "json_stats.jsonl").read_text()) == wanted
    assert "train_iter: epoch" not in file
    assert terminal.count("plain") == file.count("plain") == 1


def test_other_ranks_only_warn(tmp_path, capsys, fresh_log):
    setup_logging(tmp_path, rank=3)
    get_logger().info("silent")
    get_logger().warning("heard")
    out = capsys.readouterr().out
    assert "silent" not in out and "[rank 3] heard" in out
    assert not (tmp_path / "stdout.log").exists()


def test_one_of_several_runs_side_by_side_leaves_the_terminal_to_one_logger(
    tmp_path, capsys, fresh_log
):
    setup_logging(tmp_path, terminal="openvclip.mine")
    get_logger("mine").info("done in 3 s")
    get_logger("theirs").info("a step")
    get_logger("theirs").warning("careful")
    terminal, file = capsys.readouterr().out, (tmp_path / "stdout.log").read_text()
    assert "done in 3 s" in terminal and "careful" in terminal and "a step" not in terminal
    assert all(text in file for text in ("done in 3 s", "careful", "a step"))


def test_progress_says_rate_and_time_left(caplog):
    caplog.set_level(logging.INFO, logger="openvclip")
    progress = Progress(4, "testing", "videos", period=0.0)
    progress.update(2, note="loss 0.5")
    assert "testing: 2/4 videos" in caplog.text and "ETA" in caplog.text
    assert "loss 0.5" in caplog.text


def test_progress_is_quiet_between_periods_but_not_at_the_end(caplog):
    caplog.set_level(logging.INFO, logger="openvclip")
    progress = Progress(100, "testing", "videos", period=1e9)
    for _ in range(100):
        progress.update()
    assert caplog.text.count("testing:") == 1 and "100/100" in caplog.text


def test_durations():
    assert [format_seconds(x) for x in (0, 59.6, 3725)] == ["0:00", "1:00", "1:02:05"]
