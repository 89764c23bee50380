"""The label maps that come with the project: old results compare only if their order stays."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from openvclip.data.lists.labels import LabelSpace
from openvclip.data.lists.protocols import PROTOCOLS, draw_halves
from openvclip.data.prepare.names import class_key, is_listable, is_video, ucf101_class_name

# Digest of the names in their order, and some of them.
SHIPPED = {
    "label_db/k400-index2cls.json": (
        "3c9ba1c604ab056b3e985ce4ad89cab159de87cbb7dab2ee7844472c58334d94",
        {0: "abseiling", 208: "passing American football (in game)", 399: "zumba"},
    ),
    "zs_label_db/ucf101-index2cls.json": (
        "5af948da61c27f9331e761902495ccce24a50837230d963ed4812733308ea136",
        {0: "Apply Eye Makeup", 34: "Hammering", 35: "Hammer Throw", 100: "Yoyo"},
    ),
    "zs_label_db/hmdb-index2cls.json": (
        "f1cf2c51d4e05e7666297849c24e06ba3e939c55cb9c4377949b91ac860213d0",
        {0: "brush hair", 5: "climb", 6: "climb stairs", 50: "wave"},
    ),
    "zs_label_db/k600_union/k600-openset-index2cls.json": (
        "f19aa6bbc5f8bf00e3c81602c52a3eafd3bc4436922202bea18e242cc1e47e48",
        {0: "acting in play"},
    ),
    "zs_label_db/k600_split1/k600-openset-index2cls.json": (
        "17f97ad17081a2cd443ead0de4ce91205dd39a5bb3991877efcd3d0cbcfac99f",
        {0: "acting in play", 1: "adjusting glasses"},
    ),
    "zs_label_db/k600_split2/k600-openset-index2cls.json": (
        "8df73df829d9d310f5d3ff5d372cc3538f1b86111b098a170b0da3bb86835846",
        {0: "acting in play", 3: "backflip (human)"},
    ),
    "zs_label_db/k600_split3/k600-openset-index2cls.json": (
        "8bad3bb423f5ea8f014eedfbf3f1283eed64db2cfaec804de474b4d7e85d9725",
        {0: "adjusting glasses", 2: "archaeological excavation"},
    ),
    "zs_label_db/ssv2-index2cls.json": (
        "e8c0dd74d8f999fc99865b5e62466f82358d3006114f540e67f396926e9d7021",
        {0: "Approaching something with your camera", 3: "Bending something until it breaks"},
    ),
}


def test_every_protocol_has_its_label_map() -> None:
    # Those of the halves are drawn.
    wanted = {p.label_map for p in PROTOCOLS.values() if p.kind != "half"}
    assert wanted == set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_classes_and_their_order(repo: Path, name: str) -> None:
    digest, some = SHIPPED[name]
    space = LabelSpace.from_json(repo / name)
    assert space.digest() == digest
    assert {label: space.names[label] for label in some} == some
    classes = {p.classes for p in PROTOCOLS.values() if p.label_map == name}
    assert classes == {len(space)}
    lines = (repo / name).read_text("utf-8").splitlines()
    assert len(lines) == len(space) + 2 and lines[1].startswith(' "0": ')


def test_kinetics600_is_made_of_three_draws_of_classes_new_to_kinetics400(repo: Path) -> None:
    union, k400, *draws = (
        LabelSpace.from_json(repo / PROTOCOLS[name].label_map).names
        for name in ("k600_union", "kinetics400", "k600_split1", "k600_split2", "k600_split3")
    )
    assert list(union) == sorted({name for draw in draws for name in draw})
    assert not set(union) & set(k400)
    assert all(list(draw) == sorted(draw) for draw in draws)


@pytest.mark.parametrize(("classes", "take"), [(101, 50), (51, 25)])
def test_halves_are_the_published_draws(classes: int, take: int) -> None:
    state = random.getstate()
    random.seed(2023)
    expected = []
    for _ in range(10):
        order = list(range(classes))
        random.shuffle(order)
        expected.append(sorted(order[:take]))
    random.setstate(state)
    assert draw_halves(classes, take) == expected
    assert len({tuple(half) for half in expected}) == 10


@pytest.mark.parametrize(
    ("classes", "take", "first"),
    [(101, 50, [0, 1, 5, 10, 11, 13]), (51, 25, [0, 3, 5, 8, 9, 10])],
)
def test_first_draw_begins_as_recorded(classes: int, take: int, first: list[int]) -> None:
    assert draw_halves(classes, take)[0][:6] == first


def test_ucf101_folders_name_all_its_classes(repo: Path) -> None:
    names = json.loads((repo / "zs_label_db/ucf101-index2cls.json").read_text("utf-8")).values()
    folders = ["YoYo" if name == "Yoyo" else name.replace(" ", "") for name in names]
    assert [ucf101_class_name(folder) for folder in folders] == list(names)


@pytest.mark.parametrize(
    ("name", "video"),
    [("a.mp4", True), ("a.b.AVI", True), ("a.Webm", True), ("._a.avi", False), (".mp4", False),
     ("a.txt", False), ("avi", False), ("a.avi.part", False)],
)
def test_videos_are_told_by_extension(name: str, video: bool) -> None:
    assert is_video(name) is video


@pytest.mark.parametrize(
    ("path", "fits"),
    [("a b/[c], d!.avi", True), ("ü/\u00a0x.avi", True), ("a\nb.avi", False), ("a\rb.avi", False),
     (" a.avi", False), ("\ufeffa.avi", False), ("a\udce4.avi", False), ("a\u2028b.avi", True)],
)
def test_paths_that_a_list_can_hold(path: str, fits: bool) -> None:
    assert is_listable(path) is fits


def test_class_names_match_without_case_underscores_and_unicode_form() -> None:
    keys = {class_key(name) for name in ("Café_au  lait", "cafe\u0301 AU lait", "CAFÉ au_lait")}
    assert len(keys) == 1
    assert class_key("massaging person\u2019s head") == "massaging person's head"
    assert class_key("climb") != class_key("climb_stairs")
