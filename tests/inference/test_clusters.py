"""The words in which clusters are described."""

import numpy as np
import pandas as pd

from skvae.data.schema import Schema
from skvae.data.table import read_table
from skvae.inference.clusters import ClusterReport, describe_clusters


def test_dates_are_described_as_dates():
    days = pd.to_datetime(["2020-01-01", "2020-01-03", "2024-05-01", "2024-05-03"])
    table = read_table(pd.DataFrame({"day": days, "weight": [1.5, 2.5, 3.25, 4.0]}))
    schema = Schema.infer(table)
    report = describe_clusters(schema.modelled, schema.encode(table), np.array([0, 0, 1, 1]), 2)
    assert "day: mean 2020-01-02, of all rows 2022-03-03 (-1.00 sd)" in str(report)
    assert "weight: mean 2, of all rows 2.812" in str(report)
    assert str(ClusterReport.from_dict(report.to_dict())) == str(report)


def test_a_level_of_a_single_row_sets_no_cluster_apart():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"name": [f"n{i}" for i in range(60)], "kind": ["a", "b"] * 30, "weight": rng.normal(size=60)}
    )
    labels = np.arange(60) % 2
    table = read_table(frame)
    schema = Schema.infer(table, {"name": "categorical"})
    report = describe_clusters(schema.modelled, schema.encode(table), labels, 2)
    for traits in report.traits:
        strengths = {trait.column: trait.strength for trait in traits}
        assert abs(strengths["kind"]) == 1.0
        assert strengths["name"] == 0.0
