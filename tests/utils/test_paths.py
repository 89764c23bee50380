"""Files at addresses: served from this machine, fetched once, whole or not at all."""

from __future__ import annotations

import functools
import http.server
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from iopath.common.file_io import PathHandler

from openvclip.checkpoints.files import load_file, save_file
from openvclip.clip.weights import load_clip
from openvclip.config import load_cfg
from openvclip.data.captions.index import CaptionFile, write_captions
from openvclip.data.captions.sources import read_captions
from openvclip.data.lists.labels import LabelSpace, read_list
from openvclip.utils import files, paths
from openvclip.utils.errors import CheckpointError, ConfigError, DataError
from tests.integration.conftest_integration import write_tiny_clip


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):  # noqa: N802 - the server's own name
        self.server.asked.append(self.path)
        if "cut" in self.path:
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"x" * 10)
        elif "refused" in self.path:
            self.send_error(403)
        else:
            super().do_GET()


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder, served; ``site.url`` is its address and ``site.asked`` what was asked for."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.setenv("OPENVCLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    handler = functools.partial(_Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.asked, server.folder = [], folder
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def cached(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache").rglob("*")
                  if path.is_file() and path.suffix != ".lock")


def test_what_a_config_names_is_fetched_once_and_read(site, tmp_path):
    (site.folder / "map.json").write_text('{"0": "archery", "1": "bowling"}')
    (site.folder / "val.csv").write_text("a.mp4 1\n")
    (site.folder / "base.yaml").write_text("TRAIN: {BATCH_SIZE: 3}")
    (site.folder / "run.yaml").write_text(
        f"_BASE_: base.yaml\nDATA: {{PATH_TO_DATA_DIR: {site.url}}}")
    write_captions(site.folder / "captions.sqlite", {"a": ["a bow"]})
    write_tiny_clip(site.folder / "clip.pt")
    save_file(site.folder / "last.pyth", {"epoch": 4})
    torch.save({"a.mp4": "a bow"}, site.folder / "texts.pt")
    for _ in range(2):
        cfg = load_cfg(f"{site.url}/run.yaml", ["NUM_GPUS", "0"])
        assert (cfg.TRAIN.BATCH_SIZE, cfg.OUTPUT_DIR) == (3, "output/run")
        rows = read_list(Path(cfg.DATA.PATH_TO_DATA_DIR) / "val.csv", separator=" ",
                         num_classes=2)
        assert rows.labels.tolist() == [1]
        assert LabelSpace.from_json(f"{site.url}/map.json").names == ("archery", "bowling")
        assert CaptionFile(f"{site.url}/captions.sqlite").get("a.mp4") == ["a bow"]
        assert [entry.caption for entry in read_captions(f"{site.url}/texts.pt")] == ["a bow"]
        assert load_file(f"{site.url}/last.pyth") == {"epoch": 4}
        found, expected = load_clip(f"{site.url}/clip.pt"), load_clip(site.folder / "clip.pt")
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert sorted(site.asked) == [
        f"/{name}" for name in ("base.yaml", "captions.sqlite", "clip.pt", "last.pyth",
                                "map.json", "run.yaml", "texts.pt", "val.csv")]


def test_processes_that_ask_at_once_fetch_once(site, caplog):
    caplog.set_level("INFO", logger="openvclip")
    (site.folder / "file").write_bytes(bytes(5 << 20))
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(paths.local, [f"{site.url}/file"] * 4))
    assert len(found) == 1 and site.asked == ["/file"]
    assert f"downloading {site.url}/file" in caplog.text


def test_files_of_one_name_on_other_servers_or_folders_are_told_apart(site):
    for name in ("a", "b"):
        (site.folder / name).mkdir()
        (site.folder / name / "map.json").write_text(json.dumps({"0": name}))
    assert [LabelSpace.from_json(f"{site.url}/{name}/map.json").names for name in ("a", "b")] == [
        ("a",), ("b",)]


def test_nothing_is_kept_of_a_download_that_fails(site, tmp_path, monkeypatch):
    (site.folder / "large").write_bytes(bytes(2000))
    monkeypatch.setattr(paths, "MOST_BYTES", 1000)
    for name, reason in (("cut", "ended after 10 of 1,000 bytes"), ("refused", "HTTP 403"),
                         ("large", "more than 1,000 bytes")):
        address = f"{site.url}/{name}?token=secret"
        with pytest.raises(DataError, match=f"label map.*cannot be downloaded.*{reason}"):
            LabelSpace.from_json(address)
        with pytest.raises(CheckpointError, match=reason) as error:
            load_file(address)
        assert "secret" not in str(error.value)
    assert cached(tmp_path) == []


def test_what_is_not_there_is_said_as_of_local_files(site):
    with pytest.raises(ConfigError, match="none.yaml: no such config file"):
        load_cfg(f"{site.url}/none.yaml")
    with pytest.raises(DataError, match="the list .* does not exist"):
        read_list(f"{site.url}/val.csv", separator=" ", num_classes=2)
    with pytest.raises(CheckpointError, match="HTTP 404"):
        load_clip(f"{site.url}/clip.pt")
    assert not paths.is_file(f"{site.url}/clip.pt")


def test_what_is_fetched_is_bounded_like_local_files(site):
    (site.folder / "map.json").write_bytes(b" " * 5000)
    with pytest.raises(files.UnfitFileError, match="5,000 bytes; at most 1,000"):
        files.read_bytes(f"{site.url}/map.json", most=1000)


def test_a_handler_of_the_users_is_used_everywhere(tmp_path):
    class Bucket(PathHandler):
        def _get_supported_prefixes(self):
            return ["bucket://"]

        def _get_local_path(self, path, force=False, **kwargs):
            if path.endswith("broken"):
                raise RuntimeError("no credentials")
            return str(tmp_path / path.removeprefix("bucket://"))

    paths.register_handler(Bucket())
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/val.csv").write_text("a.mp4 1\n")
    rows = read_list(Path("bucket://lists") / "val.csv", separator=" ", num_classes=2)
    assert rows.paths == ["a.mp4"]
    with pytest.raises(DataError, match="cannot be fetched: no credentials"):
        LabelSpace.from_json("bucket://broken")


@pytest.mark.parametrize("path", ["s4://here/map.json", Path("s4://here/map.json")])
def test_an_address_that_nobody_handles_says_so(path):
    with pytest.raises(DataError, match="no handler for s4:// is registered"):
        LabelSpace.from_json(path)


def test_a_file_that_is_here_is_no_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "http:").mkdir()
    (tmp_path / "http:/map.json").write_text('{"0": "a"}')
    assert LabelSpace.from_json("http:/map.json").names == ("a",)
