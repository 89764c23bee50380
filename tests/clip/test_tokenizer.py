from __future__ import annotations

import html
import json
import random
import subprocess
import sys

import ftfy
import pytest
import regex
import torch

from openvclip.clip import tokenizer
from openvclip.clip.tokenizer import clean_text, count_tokens, tokenize
from openvclip.utils.errors import DataError


@pytest.fixture(scope="module")
def recorded(golden):
    return json.loads((golden / "tokens.json").read_text(encoding="utf-8"))["items"]


def test_recorded_strings(recorded):
    fitting = [item for item in recorded if "ids" in item]
    assert len(fitting) == 206
    tokens = tokenize([item["text"] for item in fitting])
    for row, item in zip(tokens, fitting, strict=True):
        ids = item["ids"]
        assert row.tolist() == ids + [0] * (77 - len(ids)), item["text"]


def test_too_long_strings_are_refused_with_text_and_length(recorded):
    refused = [item for item in recorded if "ids" not in item]
    assert len(refused) == 2
    for item in refused:
        with pytest.raises(DataError, match=item["text"][:40]) as caught:
            tokenize(["fine", item["text"]])
        assert "context of 77" in str(caught.value)
    with pytest.raises(DataError, match="text of 78 tokens"):
        tokenize(["word " * 76])


def test_longer_texts_are_cut_like_openais():
    tokens = tokenize(["word " * 75, "word " * 76, "short"], truncate=True)
    assert torch.equal(tokens[1], tokens[0])
    assert tokens[0, -1] == 49407 and tokens[0, 1:76].unique().numel() == 1
    assert [count_tokens(text) for text in ("", "brush hair", "word " * 76)] == [2, 4, 78]


def test_shape_type_and_context_length():
    tokens = tokenize(["a", "brush hair"], context_length=6)
    assert tokens.shape == (2, 6) and tokens.dtype == torch.int64
    assert tokens[0].tolist() == [49406, 320, 49407, 0, 0, 0]
    assert torch.equal(tokenize("a", 6), tokens[:1])
    with pytest.raises(DataError, match="context of 3"):
        tokenize(["brush hair"], context_length=3)


def test_missing_vocabulary_says_what_to_install(monkeypatch):
    monkeypatch.setattr(tokenizer.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install open_clip_torch"):
        tokenizer.Tokenizer()


def test_tokenizing_imports_neither_open_clip_nor_torchvision():
    code = (
        "import sys; from openvclip.clip.tokenizer import tokenize; tokenize(['a']);"
        "print([m for m in ('open_clip', 'torchvision') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


def test_plain_text_is_cleaned_by_the_short_way_as_by_the_long_one():
    rng = random.Random(0)
    quotes = "\u2018\u2019\u201c\u201d"
    characters = [chr(code) for code in range(32, 127)] + [" ", *quotes] * 4 + ["\t", "\n", "\x7f"]
    for _ in range(3000):
        text = "".join(rng.choices(characters, k=rng.randint(0, 30)))
        long_way = html.unescape(html.unescape(ftfy.fix_text(text)))
        assert clean_text(text) == regex.sub(r"\s+", " ", long_way).strip().lower(), text


def test_counted_tokens_are_those_of_the_encoder(recorded):
    for item in recorded:
        count = count_tokens(item["text"])
        assert count == len(item["ids"]) if "ids" in item else count > 77, item["text"]
