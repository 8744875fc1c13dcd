import pytest
import torch

from skvae.training.engine import threads_for


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _one_thread():
    """What is so small is not worth a second thread, which may be kept waiting by others."""
    with threads_for(1):
        yield
