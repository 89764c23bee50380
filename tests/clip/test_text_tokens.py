"""Tokenizers of other towers than OpenAI's, from files that the test writes."""

from __future__ import annotations

import pytest
import torch

from openvclip.clip.text_tokens import ClipTokenizer, load_tokenizer
from openvclip.utils.errors import CheckpointError, DataError

SIGLIP = {"hf_tokenizer_name": "timm/a-tower", "context_length": 8,
          "tokenizer_kwargs": {"clean": "canonicalize"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tokenizer of words, saved as Hugging Face's library saves one."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = {w: i for i, w in enumerate(["<pad>", "</s>", "<unk>", "a", "photo", "of", "dogs"])}
    own = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    own.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)])
    path = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(tokenizer_object=own, pad_token="<pad>", eos_token="</s>",
                            unk_token="<unk>", padding_side="right").save_pretrained(path)
    return path


def test_texts_become_what_the_folders_tokenizer_says(folder):
    tokenizer = load_tokenizer(SIGLIP, folder)
    tokens = tokenizer.tokenize(["A photo of DOGS!", "a cat"], 8)
    assert tokens.dtype == torch.int64
    assert tokens.tolist() == [[3, 4, 5, 6, 1, 0, 0, 0], [3, 2, 1, 0, 0, 0, 0, 0]]
    assert tokenizer.count("A photo of DOGS!") == 5
    assert tokenizer.tokenize([], 8).shape == (0, 8)


def test_a_text_that_is_too_long_is_refused_or_cut_off(folder):
    tokenizer = load_tokenizer(SIGLIP, folder)
    with pytest.raises(DataError, match=r"text of 9 tokens does not fit into the context of 8"):
        tokenizer.tokenize(["a photo of dogs a photo of dogs"], 8)
    assert tokenizer.tokenize(["a photo of dogs a photo of dogs"], 8, truncate=True).tolist() == [
        [3, 4, 5, 6, 3, 4, 5, 1]]


def test_open_clips_own_class_token_counts(folder):
    tokenizer = load_tokenizer({**SIGLIP, "tokenizer_mode": "clips"}, folder)
    assert tokenizer.count("a photo") == 5


def test_towers_without_a_name_of_one_have_clips():
    assert isinstance(load_tokenizer({"context_length": 32}), ClipTokenizer)


def test_missing_files_are_said_in_one_line(tmp_path):
    with pytest.raises(CheckpointError, match=r"the tokenizer of these towers in .*put") as error:
        load_tokenizer(SIGLIP, tmp_path)
    assert "\n" not in str(error.value)
