"""Every file of the folder: values and gradients are those of the released programs."""

import pytest
from golden import losses, papers  # noqa: F401 - which enter their functions
from golden.cases import FILES, FOLDER, examine


def test_there_are_files():
    assert FILES, f"{FOLDER} holds no *.npz"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_values_and_gradients_are_the_released_ones(path):
    row = examine(path)
    print(row)
    assert not row.faults, row
