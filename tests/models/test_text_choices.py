"""Template sets by name and by file, class descriptions, and what results record of them."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from openvclip.clip.tokenizer import tokenize
from openvclip.config import load_cfg
from openvclip.config.validate import TEMPLATE_SETS
from openvclip.models import text_choices
from openvclip.models.backbone import CLIP
from openvclip.models.text import TEMPLATES, cache_key, class_embeddings, class_texts
from openvclip.models.text_choices import build_text_choice, load_descriptions, load_templates
from openvclip.report.summary.published import PUBLISHED_PROMPTS_SHA256
from openvclip.utils.errors import ConfigError, DataError

NAMES = ["archery", "long jump", "yo yo"]


@pytest.fixture(scope="module")
def clip(tiny_clip_state) -> CLIP:
    return CLIP.from_state_dict(tiny_clip_state)


@pytest.fixture
def write(tmp_path):
    """Write descriptions and give the file."""
    def start(content) -> str:
        path = tmp_path / "texts.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return start


def test_every_set_has_the_number_of_templates_that_its_name_says():
    counts = {name: len(load_templates(name)) for name in TEMPLATE_SETS}
    assert counts == {
        "openvclip28": 28, "openai_imagenet80": 80, "action16": 16, "name_only": 1,
        "froster29": 29}
    for name in TEMPLATE_SETS:
        assert all(template.count("{}") == 1 for template in load_templates(name))
        assert len(set(load_templates(name))) == counts[name]


def test_sets_hold_the_published_sentences():
    assert load_templates("openvclip28") is TEMPLATES
    assert load_templates("name_only") == ("{}",)
    imagenet, action = load_templates("openai_imagenet80"), load_templates("action16")
    assert imagenet[0] == "a bad photo of a {}." and imagenet[-1] == "a tattoo of the {}."
    assert "a origami {}." in imagenet, "as published"
    assert action[0] == "a photo of action {}" and "Can you recognize the action of {}?" in action


def test_open_clips_templates_are_read_and_not_executed(tmp_path, monkeypatch):
    path = tmp_path / "prompts.py"
    monkeypatch.setattr(text_choices, "find_in_open_clip", lambda *_: path)
    path.write_text("raise SystemExit\nOPENAI_IMAGENET_TEMPLATES = (\n"
                    "    lambda c: f'a {c}.',\n    lambda c: f'{c}',\n)\n")
    assert load_templates("openai_imagenet80") == ("a {}.", "{}")
    path.write_text("OPENAI_IMAGENET_TEMPLATES = make()\n")
    with pytest.raises(DataError, match="has no OPENAI_IMAGENET_TEMPLATES that can be read"):
        load_templates("openai_imagenet80")


def test_imagenets_templates_need_neither_open_clip_nor_torchvision(repo):
    code = ("import sys; from openvclip.models.text_choices import load_templates; "
            "load_templates('openai_imagenet80'); "
            "sys.exit(bool({'open_clip', 'torchvision'} & set(sys.modules)))")
    assert subprocess.run([sys.executable, "-c", code], cwd=repo).returncode == 0


def test_a_file_of_templates(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("\ufeffa clip of {}.\n\n  {}, seen from afar \n", encoding="utf-8")
    assert load_templates(str(path)) == ("a clip of {}.", "{}, seen from afar")


@pytest.mark.parametrize("text, said", [
    ("a clip\n", "line 1: 'a clip' is not a template"),
    ("{}\n{} and {}\n", "line 2"),
    ("{0}\n", "line 1"),
    ("{} {x}\n", "line 1"),
    ("\n \n", "has no templates"),
    (b"\xff\xfe{}", "cannot read"),
])
def test_templates_that_cannot_be_used_are_named(tmp_path, text, said):
    path = tmp_path / "mine.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=said):
        load_templates(str(path))


def test_names_that_are_neither_set_nor_file_are_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="MODEL.TEXT_TEMPLATES is 'action61'.*nearest: action16"):
        load_cfg(None, ["MODEL.TEXT_TEMPLATES", "action61"])
    with pytest.raises(ConfigError, match="./openvclip80.txt.*neither a file nor one of open"):
        load_templates("./openvclip80.txt")
    with pytest.raises(ConfigError, match="TEXT_TEMPLATES.*CLASS_DESCRIPTIONS 'a.json'"):
        load_cfg(None, ["MODEL.TEXT_TEMPLATES", "action16", "MODEL.CLASS_DESCRIPTIONS", "a.json"])


def test_descriptions_are_used_as_they_are_and_averaged(clip, write):
    content = {"yo yo": "A toy goes up & down.", "archery": ["{} bow", "an arrow", "aim"],
               "long jump": ["a leap"]}
    choice = load_descriptions(write(content), NAMES)
    texts = class_texts(NAMES, choice.templates, choice.descriptions)
    assert texts == [["{} bow", "an arrow", "aim"], ["a leap"], ["A toy goes up & down."]]
    result = class_embeddings(clip, NAMES, descriptions=choice.descriptions)
    with torch.no_grad():
        for row, own in zip(result, texts, strict=True):
            features = F.normalize(clip.encode_text(tokenize(own)), dim=-1)
            torch.testing.assert_close(row, F.normalize(features.mean(0), dim=0),
                                       atol=1e-6, rtol=0)


def test_long_descriptions_are_cut_and_counted(clip, caplog):
    caplog.set_level(logging.WARNING, logger="openvclip")
    long = "word " * 100
    result = class_embeddings(clip, ["a", "b"], descriptions={"a": [long, "short"], "b": [long]})
    assert "2 of 3 texts have more than 77 tokens and were cut off there" in caplog.text
    assert result.isfinite().all()
    cut, whole = tokenize([long], truncate=True)[0], tokenize(["word " * 75])[0]
    assert torch.equal(cut, whole), "start, 75 tokens, end"
    with pytest.raises(DataError, match="context of 77"):
        tokenize([long])


@pytest.mark.parametrize("content, said", [
    ({"archery": "a", "long jump": "b", "yoyo": "c"},
     r"'yoyo' is not a class of .*nearest: 'yo yo' \(1 such names\)"),
    ({"archery": "a", "yo yo": "c"}, r"'long jump' has no description \(1 of 3"),
    ({"archery": "a", "long jump": [], "yo yo": "c"}, "class 'long jump'.*neither a text nor"),
    ({"archery": "a", "long jump": {"x": "y"}, "yo yo": "c"}, "neither a text nor a list"),
    ({"archery": ["a", " "], "long jump": "b", "yo yo": "c"}, "class 'archery': ' ' is not a text"),
    ({"archery": ["a", 3], "long jump": "b", "yo yo": "c"}, "'3' is not a text"),
    ('{"archery": "a", "archery": "b"}', "'archery' appears twice"),
    ('{"archery": "\\ud800"}', "UTF-8"),
    ('["a"]', "is not an object"),
    ('{"archery": ', "is not JSON"),
    ("[" * 100_000, "is not JSON"),
])
def test_descriptions_that_cannot_be_used_are_named(write, content, said):
    with pytest.raises(DataError, match=said):
        load_descriptions(write(content), NAMES)


def test_missing_file_of_descriptions():
    with pytest.raises(DataError, match="cannot read MODEL.CLASS_DESCRIPTIONS /nowhere.json"):
        load_descriptions("/nowhere.json", NAMES)


def test_what_is_recorded(write, tmp_path):
    default = build_text_choice(load_cfg(None, []), NAMES).facts()
    assert default == {"name": "openvclip28", "count": 28, "sha256": PUBLISHED_PROMPTS_SHA256}
    cfg = load_cfg(None, ["MODEL.TEXT_TEMPLATES", "name_only"])
    other = build_text_choice(cfg, NAMES).facts()
    assert (other["name"], other["count"]) == ("name_only", 1)
    path = write({"archery": ["a", "b"], "long jump": "c", "yo yo": "d"})
    cfg = load_cfg(None, ["MODEL.CLASS_DESCRIPTIONS", path])
    first = build_text_choice(cfg, NAMES).facts()
    assert (first["name"], first["count"]) == ("descriptions", 4)
    assert first["descriptions"]["file"] == path
    write({"archery": ["a", "b"], "long jump": "c", "yo yo": "e"})
    second = build_text_choice(cfg, NAMES).facts()
    digests = {facts["sha256"] for facts in (default, other, first, second)}
    assert len(digests) == 4, "other texts, another digest"
    assert first["descriptions"]["sha256"] != second["descriptions"]["sha256"]


def test_descriptions_have_cache_keys_of_their_own(clip):
    keys = {cache_key(clip, ["a"], TEMPLATES, 77), cache_key(clip, ["a"], ("{}",), 77)}
    for texts in (["x"], ["x", "y"], ["y"]):
        keys.add(cache_key(clip, ["a"], (), 77, {"a": texts}))
    assert len(keys) == 5
    assert cache_key(clip, ["a"], (), 77, {"a": ["x"], "b": ["y"]}) in keys, "b is not asked for"
