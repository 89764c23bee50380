"""Labels that a person typed."""

from __future__ import annotations

import json

import pytest

from openvclip.clip.tokenizer import tokenize
from openvclip.data.lists.labels import read_label_file, split_labels
from openvclip.models.text import TEMPLATES
from openvclip.predict.label_set import check_labels, read_labels
from openvclip.utils.errors import ConfigError, DataError


@pytest.mark.parametrize("labels, said", [
    ([], "no labels"),
    ("archery", "one text"),
    (["archery", " "], "label 2 of 2 is empty"),
    (["red bar", "archery", "Red  BAR "], "labels 1 and 3 are the same"),
    (["archery", 7], "label 2 is a int"),
    (["archery", "jump " * 80], "label 2 is too long: 'jump jump .*89 tokens.* 77"),
])
def test_labels_that_make_no_classifier_are_refused_in_one_line(labels, said):
    with pytest.raises(DataError, match=said) as error:
        check_labels(labels, where="--labels")
    assert "\n" not in str(error.value) and str(error.value).startswith("--labels")


def test_the_longest_label_that_passes_fits_every_sentence():
    words = 1
    while True:
        try:
            check_labels(["jump " * (words + 1)])
        except DataError:
            break
        words += 1
    longest = [template.format(("jump " * words).strip()) for template in TEMPLATES]
    assert (tokenize(longest).argmax(dim=1) + 1).max() == 77


def test_good_labels_come_back_stripped():
    assert check_labels([" archery", "naïve 弓道 "]) == ("archery", "naïve 弓道")


def test_labels_of_options_and_files(tmp_path):
    assert split_labels(["a, b c", "d,"]) == ["a", "b c", "d", ""]
    lines = tmp_path / "labels.txt"
    lines.write_text("\ufeffarchery\n\n  arm wrestling, twice \r\n", encoding="utf-8")
    assert read_label_file(lines) == ["archery", "arm wrestling, twice"]
    names = tmp_path / "x-index2cls.json"
    names.write_text(json.dumps({"1": "b", "0": "a"}))
    assert read_label_file(names) == ["a", "b"]
    with pytest.raises(DataError, match="nowhere.txt: No such file"):
        read_label_file(tmp_path / "nowhere.txt")
    lines.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not a UTF-8 text"):
        read_label_file(lines)


def test_labels_come_from_an_option_or_a_file(tmp_path):
    (tmp_path / "names.txt").write_text("one\ntwo, three\n")
    assert read_labels(None, tmp_path / "names.txt") == ("one", "two, three")
    assert read_labels(["a dog, b", "c"], None) == ("a dog", "b", "c")
    for texts, file in ((None, None), (["a, b"], tmp_path / "names.txt")):
        with pytest.raises(ConfigError, match="either with --labels .* or with --label-file"):
            read_labels(texts, file)
    with pytest.raises(DataError, match="--labels: label 2 of 3 is empty"):
        read_labels(["a,,b"], None)
