"""Networks come back from finished runs as they were, and from no other."""

import pytest
import torch
from training import tiny

from kdlib.data import load_data
from kdlib.errors import KdlibError
from kdlib.evaluate import attention_on, predicted, trained_network
from kdlib.train import fit


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    config = tiny(method="student", epochs=1)
    return config, root, fit([config], root, progress=False, device="cpu")[0]


def test_a_network_scores_again_what_its_record_says(run):
    config, root, record = run
    data = load_data("scenes", "test", size=32, image_size=32)
    network = trained_network(config, root, len(data.classes))
    right = (predicted(network, data) == data.labels).double().mean().item()
    assert right == pytest.approx(record["results"]["top1"])


def test_attention_has_a_map_a_stage_of_every_image(run):
    config, root, _ = run
    data = load_data("scenes", "test", size=32, image_size=32).first(5)
    maps = attention_on(trained_network(config, root, len(data.classes)), data)
    assert all(stage.shape[0] == 5 and stage.ndim == 3 for stage in maps)
    assert not any(stage.requires_grad for stage in maps)
    assert torch.isfinite(maps[-1]).all()


def test_an_unfinished_run_has_no_network(tmp_path):
    with pytest.raises(KdlibError, match="no finished run"):
        trained_network(tiny(method="student"), tmp_path, 16)
