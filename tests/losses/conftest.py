import pytest
import torch


@pytest.fixture
def draw():
    """Random tensors of given shapes in 0..1, from a generator of the test's own."""
    generator = torch.Generator().manual_seed(0)

    def _draw(*shape, dtype=torch.float32):
        return torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype)

    return _draw
