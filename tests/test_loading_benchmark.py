"""A tiny run of the loading benchmark measures both ways and finds the same pixels."""

import json
import os

from benchmarks.loading import main


def test_it_writes_what_it_measured_and_leaves_the_cache_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_CACHE", "somewhere")
    main(["--images", "4", "--epochs", "1", "--to", str(tmp_path / "loading.json")])
    record = json.loads((tmp_path / "loading.json").read_text())
    assert [row["size"] for row in record["photographs"]] == ["500 x 400", "340 x 256"]
    for row in record["photographs"]:
        assert row["same_pixels"] is True
        assert min(*row["decoded"].values(), *row["cached"].values(), row["making"]) > 0
    assert {"machine", "cores", "commit", "versions"} <= set(record["provenance"])
    assert os.environ["KDLIB_CACHE"] == "somewhere"
