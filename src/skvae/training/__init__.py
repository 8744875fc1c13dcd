"""One visible training loop and what it needs."""

from skvae.training.history import History
from skvae.training.loop import Callback, Plan, fit
from skvae.training.randomness import Noise

__all__ = ["Callback", "History", "Noise", "Plan", "fit"]
