"""Registries: lazy entries, refusals that name what there is."""

from __future__ import annotations

import sys

import pytest

from openvclip.utils.errors import ConfigError
from openvclip.utils.registry import Registry


def make() -> Registry:
    return Registry("TEST.SHAPE", {"round": "colorsys:rgb_to_hls", "square": "no_such_module:x"})


def test_an_entry_is_imported_when_asked_for():
    sys.modules.pop("colorsys", None)
    registry = make()
    assert registry.names() == ("round", "square") and "colorsys" not in sys.modules
    assert registry.get("round") is sys.modules["colorsys"].rgb_to_hls


def test_a_wrong_name_is_refused_by_the_nearest_and_all_others():
    with pytest.raises(ConfigError, match="TEST.SHAPE 'squar' is unknown; use one of 'round', "
                                          "'square'; nearest: square"):
        make().get("squar")


def test_an_entry_registers_itself_once():
    registry = make()

    @registry.register("flat")
    class Flat:
        pass

    assert registry.register("flat")(Flat) is registry.get("flat") is Flat and "flat" in registry
    with pytest.raises(ConfigError, match="'flat' is registered by .*Flat and by .*make"):
        registry.register("flat")(make)
    with pytest.raises(ConfigError, match="'round' is registered by colorsys:rgb_to_hls"):
        registry.register("round")(Flat)
