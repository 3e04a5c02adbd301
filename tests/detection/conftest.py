"""Data sets of photographs with objects, written once; caches that no other test has seen."""

import pytest
from data_files import write_coco, write_voc_detection

WRITERS = {"voc": write_voc_detection, "coco": write_coco}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """A folder for caches, the same for all tests of a process; no data root."""
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.delenv("KDLIB_DATA", raising=False)


@pytest.fixture(scope="session", params=WRITERS)
def photographs(request, tmp_path_factory):
    """A data set's name and its root, which tests must not change."""
    return request.param, WRITERS[request.param](tmp_path_factory.mktemp(request.param))
