"""The networks that ship: as good as their files and records say; none is damaged or another's."""

from math import sqrt

import pytest
from build_weights import LIMIT, first_images, page, quality

from kdlib import KdlibError, RunConfig, pretrained, shipped
from study import sealed
from study.cli import RECORDS

NAMES = shipped.pretrained_names()
FILES = [shipped.FOLDER / f"{name}.safetensors" for name in NAMES]


@pytest.mark.parametrize("name", [name for name in NAMES if "images" in shipped.card(name)])
def test_a_network_is_as_good_as_its_card_and_near_its_record(name):
    facts, network = shipped.card(name), pretrained(name)
    found = quality(network, first_images(RunConfig(**facts["config"])), facts["metric"])
    assert found == pytest.approx(facts["result_shipped"], abs=0.001) and not network.training
    share = facts["result"]
    assert abs(found - share) <= 4 * sqrt(share * (1 - share) / facts["images"])
    if facts["run"] in sealed.run_ids(RECORDS):
        record = sealed.entry_of(RECORDS / facts["run"])["record"]
        configs = [RunConfig(**one["config"]) for one in (record, facts)]  # by today's names
        assert configs[0] == configs[1] and record["results"][facts["metric"]] == share


def test_the_page_is_what_the_files_say_and_they_are_small():
    assert NAMES and (shipped.FOLDER / "README.md").read_text("utf-8") == page()
    assert sum(path.stat().st_size for path in FILES) <= LIMIT


def test_a_damaged_a_wrong_and_an_unknown_file_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    content, other = FILES[0].read_bytes(), FILES[1].read_bytes()
    turned = bytes([*content[:-9], content[-9] ^ 1, *content[-8:]])
    for name, given in (("bit", turned), ("short", content[:-9]), ("other", other)):
        (tmp_path / f"{name}.safetensors").write_bytes(given)
    with pytest.raises(KdlibError, match=r"checksum differs\). Put the shipped file back"):
        pretrained("bit")
    with pytest.raises(KdlibError, match="cannot be read as safetensors"):
        pretrained("short")
    with pytest.raises(KdlibError, match=f"is of network {NAMES[1]}; this needs network other"):
        pretrained("other")
    with pytest.raises(KdlibError, match="Unknown pretrained network 'teacher'.*: bit, other"):
        pretrained("teacher")
