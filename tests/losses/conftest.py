import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def draw():
    """Random tensors of given shapes, from a generator of the test's own."""
    generator = torch.Generator().manual_seed(0)

    def _draw(*shape, dtype=torch.float32):
        return torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype)

    return _draw
