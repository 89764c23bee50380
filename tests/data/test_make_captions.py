"""``tools/make_captions.py``: which frames are seen, going on after a stop, tiny random models."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch

from openvclip.clip.tokenizer import count_tokens
from openvclip.data.captions import captioners
from openvclip.data.captions.captioners import (
    Summariser,
    clean_answer,
    load_captioner,
    load_summariser,
    pick_device,
)
from openvclip.data.captions.generate import caption_videos, list_videos, spread_frames
from openvclip.data.captions.index import CaptionFile
from openvclip.data.captions.prepare import prepare_captions
from openvclip.utils.errors import ConfigError, DataError
from openvclip.utils.torchvision_ops import import_torchvision
from tests.integration.conftest_captioners import WORDS, write_tiny_models
from tests.integration.conftest_integration import COLOURS, write_clip

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """A folder of two clips and a file that is none."""
    folder = tmp_path_factory.mktemp("videos")
    write_clip(folder / "run/a b.mp4", COLOURS[0], seed=1)
    write_clip(folder / "run/c.mp4", COLOURS[1], seed=5)
    (folder / "bad.mp4").write_bytes(b"no video")
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A folder with the tiny random models blip, blip2 and gpt2, as transformers saves them."""
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("transformers is not installed")
    import_torchvision()
    root = tmp_path_factory.mktemp("models")
    write_tiny_models(root)
    return root


@pytest.fixture
def tool(repo):
    """The tool's module."""
    spec = importlib.util.spec_from_file_location("make_captions", repo / "tools/make_captions.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_the_middle_of_each_part_is_seen(videos):
    with av.open(str(videos / "run/c.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    for count, middles in ((1, [10]), (4, [2, 7, 12, 17])):
        seen = spread_frames(str(videos / "run/c.mp4"), count)
        assert seen.shape == (count, 40, 40, 3)
        found = [min(range(20), key=lambda i: np.abs(frames[i].astype(int) - image).sum())
                 for image in seen]
        assert np.abs(np.array(found) - middles).max() <= 1, found
    assert len(spread_frames(str(videos / "run/c.mp4"), 50)) == 50


def test_videos_come_from_a_folder_or_a_list(videos, tmp_path):
    assert list_videos(videos) == {name: str(videos / name)
                                   for name in ("bad.mp4", "run/a b.mp4", "run/c.mp4")}
    source = tmp_path / "list.csv"
    source.write_text("run/a b.mp4 0\nrun/c.mp4 1\nrun/a b.mp4 2\n")
    assert list_videos(source, prefix="/data", separator=" ") == {
        "run/a b.mp4": "/data/run/a b.mp4", "run/c.mp4": "/data/run/c.mp4"}
    with pytest.raises(ConfigError, match="--prefix /data is for lists"):
        list_videos(videos, prefix="/data")
    with pytest.raises(ConfigError, match="--separator is empty"):
        list_videos(source, separator="")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no videos"):
        list_videos(tmp_path / "empty")
    with pytest.raises(DataError, match="cannot read the list"):
        list_videos(tmp_path / "none.csv")


def shade(frames: np.ndarray) -> list[str]:
    return [f"a frame of {image.shape[0]} lines" for image in frames]


def test_a_stopped_run_goes_on(videos, tmp_path, captured_log):
    output = tmp_path / "new/captions.jsonl"
    options = {"frames": 2, "describe": shade, "summarise": " then ".join, "made_by": "shade"}
    counts = caption_videos(list_videos(videos), output, **options)
    assert counts == {"known": 0, "done": 2, "failed": 1}
    whole = output.read_text()
    assert lines_of(output)[0] == {
        "video": "run/a b.mp4", "caption": "a frame of 40 lines then a frame of 40 lines",
        "frames": ["a frame of 40 lines"] * 2, "made_by": "shade",
    }
    output.write_text(whole[:-20])
    assert caption_videos(list_videos(videos), output, **options) == {
        "known": 1, "done": 1, "failed": 1}
    assert output.read_text() == whole
    assert caption_videos(list_videos(videos), output, **options) == {
        "known": 2, "done": 0, "failed": 1}
    with pytest.raises(ConfigError, match="line 1: made by 'shade', now it would be 'other'"):
        caption_videos(list_videos(videos), output, **{**options, "made_by": "other"})
    output.write_text(whole + "{}\n")
    with pytest.raises(ConfigError, match="line 3: not a line of this tool"):
        caption_videos(list_videos(videos), output, **options)


def test_what_was_written_before_a_stop_is_kept(videos, tmp_path):
    calls = []

    def stop(frames):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return shade(frames)

    output = tmp_path / "captions.jsonl"
    with pytest.raises(KeyboardInterrupt):
        caption_videos(list_videos(videos), output, frames=1, describe=stop)
    assert [line["video"] for line in lines_of(output)] == ["run/a b.mp4"]


def test_bad_videos_are_named_and_left_out(videos, tmp_path, caplog):
    output = tmp_path / "captions.jsonl"
    bad = {f"{i}.mp4": str(videos / f"none{i}.mp4") for i in range(25)}
    good = {"c.mp4": str(videos / "run/c.mp4")}
    counts = caption_videos({**bad, **good}, output, frames=1, describe=shade)
    assert counts["failed"] == 25 and counts["done"] == 1
    warnings = {record.message for record in caplog.records if record.levelname == "WARNING"}
    assert len(warnings) == 21 and "none19.mp4: cannot be opened" in caplog.text
    assert lines_of(output)[0]["caption"] == ["a frame of 40 lines"]
    for options in ({"describe": lambda frames: [""]},
                    {"describe": shade, "summarise": lambda captions: ""}):
        caplog.clear()
        with pytest.raises(DataError, match="none of 1 videos got a caption"):
            caption_videos(good, tmp_path / "none.jsonl", frames=1, **options)
        assert "wrote nothing" in caplog.text
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write the captions"):
        caption_videos(good, tmp_path / "file/c.jsonl", frames=1, describe=shade)


@pytest.mark.parametrize(("answer", "sentence"), [
    ("A man runs.", "A man runs."),
    ('\n "A man runs."\n\nI hope this helps!', "A man runs."),
    ("Sure! Here is the sentence:\n\n**A man runs.**", "A man runs."),
    ("Sure, here it is: \u201cA man runs.\u201d", "A man runs."),
    ("Result: a man runs.", "Result: a man runs."),
    ("\n\n", ""), ("Sure:", ""),
])
def test_what_chat_models_put_around_an_answer_is_taken_off(answer, sentence):
    assert clean_answer(answer) == sentence


def test_tiny_models_caption_videos_end_to_end(videos, models, tmp_path, tool, capsys):
    output = tmp_path / "captions.jsonl"
    arguments = ["--videos", str(videos), "--output", str(output), "--device", "cpu",
                 "--captioner", str(models / "blip"), "--summariser", str(models / "gpt2")]
    assert tool.main(arguments) == 0
    text = capsys.readouterr().out
    assert f"{output}: 2 videos captioned, 0 known from before, 1 failed" in text
    assert "left out: " in text and "ETA" in text
    first, second = lines_of(output)
    assert first["video"] == "run/a b.mp4" and set(first["caption"].split()) <= set(WORDS)
    assert len(first["frames"]) == 3 and first["frames"] != second["frames"]
    assert first["made_by"] == f"{models / 'blip'}, 3 frames, {models / 'gpt2'}"
    assert tool.main(arguments) == 0
    assert "0 videos captioned, 2 known from before, 1 failed" in capsys.readouterr().out
    prepare_captions([output], tmp_path / "captions.sqlite", count_tokens=count_tokens)
    assert CaptionFile(tmp_path / "captions.sqlite").get("x/a_b.avi") == [first["caption"]]


@pytest.mark.parametrize("name", ["blip", "blip2"])
def test_frames_are_captioned_in_order_and_without_the_prompt(models, name):
    frames = np.random.default_rng(0).integers(0, 256, (4, 50, 60, 3), np.uint8)
    plain = load_captioner(str(models / name), CPU)
    captions = plain.describe(frames)
    assert len(captions) == 4 and len(set(captions)) > 1
    assert plain.describe(frames[::-1]) == captions[::-1]
    assert plain.describe(frames) == captions
    prompted = load_captioner(str(models / name), CPU, "A man")
    assert not any(text.startswith("a man") for text in prompted.describe(frames))
    assert prompted._without_prompt("a man runs") == "runs"


def test_a_chat_template_is_used(models):
    summariser = load_summariser(str(models / "gpt2"), CPU)
    assert summariser.summarise(["a man runs"]) != summariser.summarise(["a dog sings on grass"])
    summariser.tokenizer.chat_template = (
        "[CLS]{% for m in messages %}the {{ m['content'] }}{% endfor %}")
    inputs = summariser._inputs("a man runs")
    words = summariser.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])
    assert [word for word in words if word not in ("[CLS]", "[SEP]")] == ["the", "a", "man", "runs"]
    assert set(summariser.summarise(["a man runs"]).split()) <= set(WORDS)


def test_the_language_model_gets_all_captions_in_order():
    seen = []

    class Tokenizer:
        chat_template, pad_token_id, eos_token_id = None, None, 7

        def __call__(self, text, return_tensors):
            seen.append(text)
            return Inputs(input_ids=torch.tensor([[1, 2]]), attention_mask=torch.ones(1, 2))

        def decode(self, tokens, skip_special_tokens):
            return f'"{tokens.tolist()}"'

    class Inputs(dict):
        def to(self, device):
            return self

    def generate(input_ids, pad_token_id, **_):
        assert pad_token_id == 7
        return torch.cat([input_ids, torch.tensor([[5, 6]])], 1)

    model = SimpleNamespace(device=CPU, generate=generate)
    assert Summariser(Tokenizer(), model).summarise(["first", "second"]) == "[5, 6]"
    assert "\n1. first\n2. second\n" in seen[0]


def test_models_that_cannot_be_loaded_are_named(models, tmp_path):
    for name in ("none", "./none/model", "/none", "a/b/c"):
        with pytest.raises(ConfigError, match=f"--captioner {name} is not a folder"):
            load_captioner(name, CPU)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="--captioner .* cannot be loaded: .*give a folder") as e:
        load_captioner(str(tmp_path), CPU)
    assert "\n" not in str(e.value)
    with pytest.raises(ConfigError, match="--summariser"):
        load_summariser(str(models / "blip"), CPU)


def test_only_hub_names_may_be_downloaded(tmp_path):
    asked = []
    kind = SimpleNamespace(from_pretrained=lambda name, **options: asked.append((name, options)))
    captioners._loader("owner/model-1.5b", "--captioner")(kind)
    captioners._loader(str(tmp_path), "--captioner")(kind)
    assert [options["local_files_only"] for _, options in asked] == [False, True]
    assert not any(options["trust_remote_code"] for _, options in asked)


def test_without_transformers_a_line_says_what_to_install(
    videos, tmp_path, tool, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, "transformers", None)
    arguments = ["--videos", str(videos), "--output", str(tmp_path / "c.jsonl"), "--captioner",
                 str(tmp_path)]
    assert tool.main(arguments) == 2
    assert "pip install openvclip[captions]" in capsys.readouterr().out.splitlines()[-1]
    assert not (tmp_path / "c.jsonl").exists()


def test_impossible_options_are_refused(videos, tmp_path, tool, capsys):
    arguments = ["--videos", str(videos), "--output", str(tmp_path / "c"), "--captioner", "x"]
    assert tool.main([*arguments, "--frames", "0"]) == 2
    assert "--frames is 0; it must be at least 1" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="--device nowhere cannot be used"):
        pick_device("nowhere")
    assert pick_device("cpu") == CPU
