from __future__ import annotations

import json
import logging

import pytest
import torch

from openvclip.clip.tokenizer import tokenize
from openvclip.models import text as prompts
from openvclip.models.backbone import CLIP
from openvclip.models.text import TEMPLATES, cache_key, class_embeddings, embed_tokens
from openvclip.utils.errors import CheckpointError, DataError


@pytest.fixture(scope="module")
def clip(tiny_clip_state) -> CLIP:
    return CLIP.from_state_dict(tiny_clip_state)


@pytest.fixture(scope="module")
def names(golden) -> list[str]:
    return list(json.loads((golden / "classmap5.json").read_text()).values())


@pytest.fixture(scope="module")
def recorded(golden) -> dict[str, torch.Tensor]:
    return torch.load(golden / "classifier5.pt", weights_only=True)


def test_templates_are_the_published_ones(golden):
    published = json.loads((golden / "tokens.json").read_text(encoding="utf-8"))["templates"]
    assert list(TEMPLATES) == published


def test_recorded_classifier(clip, names, recorded):
    result = class_embeddings(clip, names)
    torch.testing.assert_close(result, recorded["classifier"], atol=1e-5, rtol=0)


def test_recorded_text_features(clip, names, recorded):
    tokens = tokenize([t.format(name) for t in TEMPLATES for name in names])
    expected = recorded["tokens"]
    assert torch.equal(tokens.view(28, 5, 77)[..., : expected.shape[2]], expected.long())
    features = clip.encode_text(tokens).view(28, 5, -1)
    torch.testing.assert_close(features, recorded["encode_text"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("batch_size", [1, 7])
def test_batches_do_not_matter(clip, names, recorded, batch_size):
    result = class_embeddings(clip, names, batch_size=batch_size)
    torch.testing.assert_close(result, recorded["classifier"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("processes", [2, 3, 9])
def test_shares_of_the_texts_add_up_to_the_same_floats(clip, processes):
    tokens = tokenize([f"a photo of {'a ' * (i % 7)}dog {i}." for i in range(23)])
    rows, whole = embed_tokens(clip, tokens, batch_size=4)
    assert sorted(rows.tolist()) == list(range(23))
    found = torch.zeros(23, clip.embed_dim)
    seen = []
    for number in range(processes):
        part, features = embed_tokens(clip, tokens, 4, share=(number, processes))
        found[part] = features
        seen += part.tolist()
    assert sorted(seen) == list(range(23))  # 9 processes: three have no batch
    assert torch.equal(found[rows], whole)
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(23))


def test_short_sentences_run_over_few_columns(clip, monkeypatch):
    lengths = []
    encode = clip.transformer.forward
    monkeypatch.setattr(
        clip.transformer, "forward", lambda x: lengths.append(x.shape[1]) or encode(x))
    class_embeddings(clip, ["a", "a b c d e f"], templates=["{}"], batch_size=1)
    assert lengths == [3, 8]


def test_no_names_and_long_names(clip):
    with pytest.raises(DataError, match="0 class names"):
        class_embeddings(clip, [])
    with pytest.raises(DataError, match="context of 77.*word word"):
        class_embeddings(clip, ["word " * 80])


def test_cache_is_read_and_damage_is_repaired(clip, names, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, logger="openvclip")
    first = class_embeddings(clip, names, cache_dir=tmp_path / "cache")
    (path,) = (tmp_path / "cache").iterdir()  # no temporary file is left

    computed = []
    compute = prompts._compute
    monkeypatch.setattr(prompts, "_compute", lambda *a: computed.append(1) or compute(*a))
    assert torch.equal(class_embeddings(clip, names, cache_dir=tmp_path / "cache"), first)
    assert not computed and f"read embeddings of 5 classes from {path}" in caplog.text

    good = path.read_bytes()
    wrong_shape = tmp_path / "wrong.pt"
    torch.save({"embeddings": torch.zeros(4, 64)}, wrong_shape)
    not_finite = tmp_path / "nan.pt"
    torch.save({"embeddings": first.clone().index_fill_(0, torch.tensor([2]), torch.nan)},
               not_finite)
    for damaged in (good[:100], b"", wrong_shape.read_bytes(), not_finite.read_bytes()):
        computed.clear()
        caplog.clear()
        path.write_bytes(damaged)
        assert torch.equal(class_embeddings(clip, names, cache_dir=tmp_path / "cache"), first)
        assert computed and "is damaged" in caplog.text
        assert path.read_bytes() == good


def test_embeddings_that_are_not_finite_are_an_error_and_not_kept(tiny_clip_state, names, tmp_path):
    weight = torch.full_like(tiny_clip_state["ln_final.weight"], 3e38)
    clip = CLIP.from_state_dict({**tiny_clip_state, "ln_final.weight": weight})
    with pytest.raises(CheckpointError, match="embedding of a sentence is NaN or infinity"):
        class_embeddings(clip, names, cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_folder_that_cannot_be_written(clip, names, tmp_path, caplog):
    (tmp_path / "file").touch()
    result = class_embeddings(clip, names, cache_dir=tmp_path / "file")
    assert result.shape == (5, 64) and "were not cached" in caplog.text


def test_key_depends_on_everything_that_counts(tiny_clip_state):
    clip = CLIP.from_state_dict(tiny_clip_state)
    base = cache_key(clip, ["a", "b"], TEMPLATES, 77)
    assert cache_key(clip, ["a", "b"], TEMPLATES, 77) == base
    others = {cache_key(clip, ["b", "a"], TEMPLATES, 77), cache_key(clip, ["ab"], TEMPLATES, 77),
              cache_key(clip, ["a", "b"], TEMPLATES[:1], 77),
              cache_key(clip, ["a", "b"], TEMPLATES, 32)}
    with torch.no_grad():
        clip.visual.proj.add_(1)  # the image tower does not count
        clip.logit_scale.add_(1)
        assert cache_key(clip, ["a", "b"], TEMPLATES, 77) == base
        clip.ln_final.bias[0] += 1e-3
    others.add(cache_key(clip, ["a", "b"], TEMPLATES, 77))
    assert len(others) == 5 and base not in others
