"""Files made to do harm: nothing in them is run, and each is refused in one line that names it."""

from __future__ import annotations

import json
import os
import pickle
import zipfile

import pytest
import torch

from openvclip.checkpoints import files as ckpt
from openvclip.checkpoints.averaging import average_checkpoints
from openvclip.checkpoints.loading import load_original_clip
from openvclip.clip.archive import read_archive
from openvclip.clip.weights import load_clip, load_state_dict_file
from openvclip.data.lists.labels import LabelSpace, read_list
from openvclip.models.backbone import CLIP, CLIPConfig
from openvclip.models.text import cache_key, class_embeddings
from openvclip.report.summary.subsets import _load_scores
from openvclip.utils.errors import CheckpointError, DataError, OpenVCLIPError

CONFIG = CLIPConfig(embed_dim=16, image_size=16, patch_size=8, vision_width=32, vision_layers=1,
                    text_width=32, text_layers=1, vocab_size=49408)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return dict(CLIP(CONFIG).state_dict())


class Payload:
    """Unpickling this would write a file."""

    def __init__(self, marker) -> None:
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


class Scripted(torch.nn.Module):
    """A TorchScript module whose loading, by torch.jit.load, writes a file."""

    def __init__(self, marker: str) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(2))
        self.marker: str = marker

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, str, bool]:
        return self.w, self.marker, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, str, bool]) -> None:
        self.w = state[0]
        self.marker = state[1]
        self.training = state[2]
        torch.save(state[0], state[1])


def write_zip(path, content, **options):
    torch.save(content, path, **options)


def write_archive_pickle(path, content):
    """A zip that looks like TorchScript's, with a pickle of our own in it."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(content, protocol=2))
        archive.writestr("archive/constants.pkl", pickle.dumps((), protocol=2))


# Where the payload hides -> how the file is written.
HOSTILE = {
    "value": lambda path, payload, state: write_zip(path, {"model_state": state, "x": payload}),
    "weights": lambda path, payload, state: write_zip(
        path, {"model_state": {**state, "x": payload}}),
    "alone": lambda path, payload, state: write_zip(path, payload),
    "key": lambda path, payload, state: write_zip(path, {"model_state": state, (payload,): 1}),
    "legacy": lambda path, payload, state: write_zip(
        path, {"model_state": state, "x": payload}, _use_new_zipfile_serialization=False),
    "bare_pickle": lambda path, payload, state: path.write_bytes(pickle.dumps(payload)),
    "old_pickle": lambda path, payload, state: path.write_bytes(pickle.dumps(payload, protocol=0)),
    "archive": lambda path, payload, state: write_archive_pickle(path, payload),
}


def average(path):
    (path.parent / "checkpoints").mkdir(exist_ok=True)
    name = path.parent / "checkpoints" / "checkpoint_epoch_00001.pyth"
    name.write_bytes(path.read_bytes())
    try:
        average_checkpoints(path.parent, start=1, end=1, output=path.with_name("mean.pyth"))
    except CheckpointError as error:
        raise CheckpointError(str(error).replace(str(name), str(path))) from error


def derive(path):
    _load_scores(path, {"top1": 0.0}, torch.zeros(1), torch.ones(1).bool(), 3)


READERS = {
    "load_clip": load_clip, "load_original_clip": load_original_clip,
    "load_state_dict_file": load_state_dict_file, "load_file": ckpt.load_file,
    "weight_average": average, "predictions": derive,
}


@pytest.mark.parametrize("suffix", [".pyth", ".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("reader", READERS)
def test_a_payload_is_never_run(reader, kind, suffix, state, tmp_path):
    marker, path = tmp_path / "ran", tmp_path / f"evil{suffix}"
    HOSTILE[kind](path, Payload(marker), state)
    marker.unlink(missing_ok=True)
    with pytest.raises(OpenVCLIPError) as caught:
        READERS[reader](path)
    assert not marker.exists()
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_the_payload_would_run(tmp_path):
    """What the test above relies on."""
    pickle.loads(pickle.dumps(Payload(tmp_path / "ran"))).close()
    assert (tmp_path / "ran").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_not_run(tmp_path):
    marker, path = tmp_path / "ran", tmp_path / "evil.pt"
    torch.jit.script(Scripted(str(marker))).save(str(path))
    torch.jit.load(str(path))
    assert marker.exists()
    marker.unlink()
    for reader in (load_clip, load_state_dict_file):
        with pytest.raises(CheckpointError, match="evil.pt"):
            reader(path)
    assert not marker.exists()


@pytest.mark.parametrize("damage", ["circle", "cut", "shape"])
def test_archives_that_lie_about_their_contents(damage, tmp_path, shared):
    path = tmp_path / "odd.pt"
    with zipfile.ZipFile(shared / "golden" / "tiny_clip_jit_fp16.pt") as source, (
            zipfile.ZipFile(path, "w")) as archive:
        for name in source.namelist():
            data = source.read(name)
            if damage == "cut" and "/data/" in name:
                data = data[:len(data) // 4 * 2]
            if damage == "shape" and name.endswith("data.pkl"):
                data = data.replace(b"K\x40", b"K\x7f")
            if damage == "circle" and name.endswith("data.pkl"):
                # c__torch__ X, (), NEWOBJ, memo 0, {"me": itself}, BUILD
                data = b"\x80\x02c__torch__\nX\n)\x81q\x00}X\x02\x00\x00\x00meh\x00sb."
            archive.writestr(name, data)
    with pytest.raises(CheckpointError, match="odd.pt") as caught:
        load_clip(path)
    assert "\n" not in str(caught.value)


def test_archives_read_as_torch_reads_them(shared):
    path = shared / "golden" / "tiny_clip_jit_fp16.pt"
    ours, theirs = read_archive(path), torch.jit.load(path).state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[n], t) and ours[n].dtype == t.dtype for n, t in theirs.items())


def test_resuming_and_the_text_cache_run_nothing(state, tmp_path, caplog):
    marker = tmp_path / "ran"
    folder = tmp_path / "checkpoints"
    ckpt.save_file(folder / "checkpoint_epoch_00001.pyth", {"epoch": 0, "model_state": state})
    last = folder / "checkpoint_epoch_00002.pyth"
    torch.save({"epoch": 1, "model_state": state, "x": Payload(marker)}, last)
    path, _ = ckpt.load_last_checkpoint(tmp_path)
    assert path.name == "checkpoint_epoch_00001.pyth" and last.name in caplog.text

    clip = CLIP.from_state_dict(state)
    names, templates = ["a", "b"], ["{}."]
    wanted = class_embeddings(clip, names, templates)
    cached = tmp_path / f"classes_{cache_key(clip, names, templates, 77)[:32]}.pt"
    for content in (Payload(marker), {"embeddings": Payload(marker)},
                    {"embeddings": wanted.double()}, {"embeddings": wanted.to_sparse()},
                    {"embeddings": wanted * torch.nan}, [1, 2]):
        torch.save(content, cached)
        marker.unlink(missing_ok=True)
        caplog.clear()
        found = class_embeddings(clip, names, templates, cache_dir=tmp_path)
        assert torch.equal(found, wanted) and cached.name in caplog.text
        assert not marker.exists()


def odd_tensors():
    plain = torch.zeros(16, 32)
    return {
        "int64": plain.long(), "uint8": plain.byte(), "bool": plain.bool(),
        "complex64": plain.to(torch.complex64), "float8_e4m3fn": plain.to(torch.float8_e4m3fn),
        "sparse_coo": plain.to_sparse(), "sparse_csr": plain.to_sparse_csr(),
        "quantised": torch.quantize_per_tensor(plain, 0.1, 0, torch.qint8),
        "less data than its shape": torch.zeros(1).expand(1 << 20, 1 << 20),
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", odd_tensors())
def test_tensors_that_are_no_weights_are_named(kind, state, tmp_path):
    path = tmp_path / "odd.pyth"
    torch.save({"model_state": {**state, "visual.proj": odd_tensors()[kind]}}, path)
    for reader in (load_clip, load_state_dict_file, average):
        with pytest.raises(CheckpointError) as caught:
            reader(path)
        text = str(caught.value)
        assert "odd.pyth" in text and "\n" not in text
        # A few kinds torch itself refuses to read; what it reads is named.
        assert ("visual.proj" in text and kind in text) or "cannot be read" in text or (
            "cannot read" in text) or "Python objects" in text


def test_float64_is_read_and_entries_that_are_no_tensors_are_named(state, tmp_path, caplog):
    path = tmp_path / "odd.pyth"
    torch.save({"model_state": {**{n: t.double() for n, t in state.items()},
                                "visual.extra": [1, 2], 7: torch.zeros(1)}}, path)
    loaded = load_clip(path)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())
    assert "odd.pyth, model_state: 2 entries are not tensors" in caplog.text
    assert "visual.extra, 7" in caplog.text
    torch.save({"model_state": {**state, "visual.proj": 1.0}}, path)
    with pytest.raises(CheckpointError, match="odd.pyth.*visual.proj"):
        load_clip(path)
    torch.save({"model_state": [1, 2]}, path)
    for reader in (load_clip, average):
        with pytest.raises(CheckpointError, match="odd.pyth"):
            reader(path)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_values_that_are_not_finite_are_named(value, state, tmp_path, caplog):
    path = tmp_path / "nan.pyth"
    broken = {name: tensor.clone() for name, tensor in state.items()}
    broken["visual.proj"][3, 3] = value
    torch.save({"model_state": broken}, path)
    load_state_dict_file(path)
    assert "nan.pyth holds NaN or infinity in 1 tensors: visual.proj" in caplog.text
    with pytest.raises(CheckpointError, match="nan.pyth holds NaN or infinity.*visual.proj"):
        load_clip(path)


def test_names_cannot_forge_lines_of_the_log(state, tmp_path):
    path = tmp_path / "names.pyth"
    odd = "x\n[11/23 13:00:00][INFO] all is well" + "y" * 5000
    torch.save({"model_state": {**state, odd: torch.zeros(2).long()}}, path)
    with pytest.raises(CheckpointError, match="names.pyth") as caught:
        load_state_dict_file(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def listed(tmp_path, path: str, prefix: str = ""):
    (tmp_path / "test.csv").write_text(f"good.mp4,0\n{path},0\n")
    return read_list(tmp_path / "test.csv", separator=",", prefix=prefix, num_classes=1)


@pytest.mark.parametrize(("path", "prefix", "inside"), [
    ("a/b.mp4", "/videos", True),
    ("a/../b.mp4", "/videos", True),
    ("/videos/b.mp4", "/videos", True),
    ("/videos/b.mp4", "/videos/", True),
    ("/any/b.mp4", "/", True),
    ("../b.mp4", "/videos", False),
    ("a/../../b.mp4", "/videos", False),
    ("/etc/passwd", "/videos", False),
    ("/videos/../etc/passwd", "/videos", False),
    ("/videos2/b.mp4", "/videos", False),
    ("..", "/videos", False),
    ("../videos2/b.mp4", "videos", False),
])
def test_rows_are_taken_only_where_the_prefix_allows(tmp_path, path, prefix, inside):
    if inside:
        assert listed(tmp_path, path, prefix).paths[1] == os.path.join(prefix, path)
    else:
        with pytest.raises(DataError) as caught:
            listed(tmp_path, path, prefix)
        text = str(caught.value)
        assert "test.csv, line 2" in text and "DATA.PATH_PREFIX" in text and repr(path) in text
        assert "relative to the prefix" in text and "\n" not in text
    # With no prefix paths are the user's own.
    assert listed(tmp_path, path).paths[1] == path


def test_lists_that_are_no_text(tmp_path):
    with pytest.raises(DataError, match="test.csv, line 2.*zero byte"):
        listed(tmp_path, "a\0b.mp4")
    (tmp_path / "test.csv").write_bytes(b"\xff\xfe\x00a.mp4,0\n")
    with pytest.raises(DataError, match="cannot read the list .*test.csv"):
        read_list(tmp_path / "test.csv", separator=",", num_classes=1)


@pytest.mark.parametrize("content", [
    b"", b" \n", b"null", b"7", b'"a"', b"[]", b'["a", "b"]', b"{}", b"{", b'{"0": "a"',
    b'{"0": 1}', b'{"0": null}', b'{"0": ["a"]}', b'{"0": {"name": "a"}}', b'{"0": ""}',
    b'{"0": "a", "0": "b"}', b'{"0": "a", "00": "b"}', b'{"0": "a", "2": "b"}', b'{"1": "a"}',
    b'{"a": "0"}', b'{"-1": "a"}', b'{"0.0": "a"}', b'{" 0": "a"}', b'{"\xc2\xb2": "a"}',
    b'{"0": "\\ud800"}', b'{"0": "caf\xe9"}', b"\xff\xfe{\x00}\x00", b"\x80\x02}q\x00.",
    b"[" * 100_000, b'{"0":' * 100_000, b'{"' + b"1" * 10_000 + b'": "a"}', b'{"0": NaN}',
    b'{"0": ' + b"9" * 10_000 + b"}", b'{"x' + b"y" * 10_000 + b'": "a"}',
])
def test_label_maps_of_the_wrong_form_get_one_line(tmp_path, content):
    path = tmp_path / "index2cls.json"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        LabelSpace.from_json(path)
    text = str(caught.value)
    assert str(path) in text and "\n" not in text and len(text) < 600


def test_a_label_map_that_is_right_is_read(tmp_path):
    names = {"1": "b", "0": "café 中"}
    (tmp_path / "map.json").write_text(json.dumps(names))
    assert LabelSpace.from_json(tmp_path / "map.json").names == ("café 中", "b")
