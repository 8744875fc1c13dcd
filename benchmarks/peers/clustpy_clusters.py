"""Cluster rows by one of ClustPy's deep methods, as its defaults have it; runs in the peer's environment.

Arguments: a JSON description; rows scaled to [0, 1] are read from a file, and labels written to another. Prints
JSON, the seconds that took.
"""

import json
import sys
import time
from unittest.mock import MagicMock

import numpy as np
import torch

# ClustPy imports it for images alone, and torchvision's wheels need a torch with CUDA.
for name in ("torchvision", "torchvision.models", "torchvision.models._api"):
    sys.modules[name] = MagicMock()

from clustpy.deep import DEC, VaDE  # noqa: E402

task = json.loads(sys.argv[1])
torch.set_num_threads(task["threads"])
X = np.load(task["rows"]).astype(np.float32)
model = {"VaDE": VaDE, "DEC": DEC}[task["method"]](
    n_clusters=task["n_clusters"],
    random_state=task["seed"],
    device=torch.device("cpu"),
)
start = time.perf_counter()
np.save(task["labels"], model.fit_predict(X))
print(json.dumps({"seconds": time.perf_counter() - start}))
