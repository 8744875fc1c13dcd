"""Fit ctgan's TVAE to a table and draw rows from it, as a peer for benchmarks/tables.py.

python ctgan_fit.py '{"train": path, "out": path, "discrete": [names], "rows": n, "seed": s, "epochs": 300}'

Tables are csv or parquet files without missing entries; `discrete` names the columns of levels. Prints JSON, the
seconds that fitting and drawing took: {"seconds": …, "fit_seconds": …}.

ctgan is under the Business Source Licence 1.1. It runs in an environment of its own (see data.py), and is no
dependency of the package.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from ctgan import TVAE

task = json.loads(sys.argv[1])
path = Path(task["train"])
frame = pd.read_parquet(path) if path.suffix in (".parquet", ".pq") else pd.read_csv(path)
holes = frame.columns[frame.isna().any()]
if len(holes):
    raise ValueError(f"column '{holes[0]}' of {path} has missing entries, which TVAE cannot take; fill them first")
np.random.seed(task["seed"])  # noqa: NPY002 the peer draws from the global stream
torch.manual_seed(task["seed"])
start = time.perf_counter()
model = TVAE(epochs=task.get("epochs", 300), enable_gpu=False)
model.fit(frame, task["discrete"])
fitted = time.perf_counter()
rows = model.sample(task["rows"])
end = time.perf_counter()
out = Path(task["out"])
if out.suffix in (".parquet", ".pq"):
    rows.to_parquet(out, index=False)
else:
    rows.to_csv(out, index=False)
print(json.dumps({"seconds": end - start, "fit_seconds": fitted - start}))
