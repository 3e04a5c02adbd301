"""Every test of the data makes its own cache and is told its data root."""

import pytest


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """A folder for caches that no other test has seen."""
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("KDLIB_DATA", raising=False)
    return tmp_path / "cache"
