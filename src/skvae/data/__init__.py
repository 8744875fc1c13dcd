"""Tables in, tensors out, and back."""

from skvae.data.batch import Batch
from skvae.data.columns import Column, Kind
from skvae.data.schema import Schema

__all__ = ["Batch", "Column", "Kind", "Schema"]
