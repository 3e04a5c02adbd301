"""The public names: one lazy list, documented and typed."""

import ast
import re
from pathlib import Path

import pytest

import kdlib

ROOT = Path(__file__).parents[1]


def test_every_name_is_there_documented_and_where_a_type_checker_finds_it():
    tree = ast.parse(Path(kdlib.__file__).read_text(encoding="utf-8"))
    (typed,) = (node for node in tree.body if isinstance(node, ast.If))
    places = {node.module: tuple(name.name for name in node.names) for node in typed.body}
    assert places == {f"kdlib.{place}": names for place, names in kdlib._PLACES.items()}
    assert sorted(name for names in places.values() for name in names) == sorted(kdlib.__all__)
    for name in kdlib.__all__:
        assert getattr(kdlib, name).__doc__ and name in dir(kdlib)
        assert re.search(rf"\b{name}\b", kdlib.__doc__), name
    assert (ROOT / "kdlib/py.typed").exists()
    with pytest.raises(AttributeError, match="no attribute 'dct_los'"):
        kdlib.dct_los  # noqa: B018
