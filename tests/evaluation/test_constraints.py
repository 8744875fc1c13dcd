"""Rules that hold in every row, and columns that identify rows."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest

from skvae import VAE, load
from skvae.data.identifiers import identifiers
from skvae.data.schema import Schema
from skvae.data.table import read_table
from skvae.evaluation import find_constraints, quality_report
from skvae.evaluation.constraints import constraint_rates
from skvae.evaluation.tables import read_tables

RNG = np.random.default_rng(0)
N = 400
A, B, C = RNG.exponential(100, size=(3, N))
DAYS = pd.Timestamp("2020-01-01") + pd.to_timedelta(RNG.integers(0, 300, N), unit="D")


def holes(values, share=0.1):
    return np.where(np.random.default_rng(1).random(len(values)) < share, np.nan, values)


SUMS = {
    "numbers": ({"a": A, "b": B, "t": A + B}, ["t = a + b"]),
    "three parts": ({"t": A + B + C, "a": A, "b": B, "c": C}, ["t = a + b + c"]),
    "sums of sums": ({"a": A, "b": B, "c": C, "ab": A + B, "t": A + B + C}, ["ab = a + b", "t = a + b + c"]),
    "a difference": ({"gross": A + B, "tax": A, "net": B, "other": C}, ["gross = tax + net"]),
    "whole numbers": ({"a": A // 1, "b": B // 1, "t": A // 1 + B // 1}, ["t = a + b"]),
    "rounded": ({"a": A.round(2), "b": B.round(2), "t": (A + B).round(2)}, ["t = a + b"]),
    "holes": ({"a": holes(A), "b": B, "t": A + B}, ["t = a + b"]),
    "another column": ({"a": A, "b": B, "t": A + B, "x": RNG.normal(size=N), "k": ["u", "v"] * 200}, ["t = a + b"]),
    "one row off": ({"a": A, "b": B, "t": A + B + 50 * (np.arange(N) == 7)}, []),
    "nearly": ({"a": A, "b": B, "t": A + B + RNG.normal(size=N)}, []),
    "other weights": ({"a": A, "b": B, "t": 2 * A + B}, []),
    "a mean": ({"a": A, "b": B, "t": (A + B) / 2}, []),
    "whole numbers that are off by one": ({"a": A // 1, "b": B // 1, "t": (A + B) // 1}, []),
    "unrelated": ({"a": A, "b": B, "c": C}, []),
    "few rows": ({"a": A[:49], "b": B[:49], "t": A[:49] + B[:49]}, []),
}


@pytest.mark.parametrize("case", SUMS)
def test_sums(case):
    columns, expected = SUMS[case]
    rules = find_constraints(pd.DataFrame(columns))
    found = [str(rule) for rule in rules if rule.relation == "="]
    assert [rule.replace("net + tax", "tax + net") for rule in found] == expected


ORDERS = {
    "numbers": ({"low": A, "high": A + B}, ["low ≤ high"]),
    "equal at times": ({"low": A // 1, "high": np.maximum(A // 1, B // 1)}, ["low ≤ high"]),
    "dates": ({"start": DAYS, "end": DAYS + pd.to_timedelta(RNG.integers(0, 300, N), unit="D")}, ["start ≤ end"]),
    "a chain": ({"a": A, "c": A + B + 1, "b": A + B}, ["a ≤ b", "b ≤ c"]),
    "holes": ({"low": holes(A), "high": A + B}, ["low ≤ high"]),
    "one row off": ({"low": A + 900 * (np.arange(N) == 399), "high": A + B}, []),
    "no wonder": ({"age": A / A.max(), "income": 10 + B}, []),
    "unrelated": ({"a": A, "b": B}, []),
}


@pytest.mark.parametrize("case", ORDERS)
def test_orders(case):
    columns, expected = ORDERS[case]
    assert [str(rule) for rule in find_constraints(pd.DataFrame(columns))] == expected


def test_equal_columns_are_said_once():
    assert [str(rule) for rule in find_constraints(pd.DataFrame({"a": A, "b": A}))] == ["a ≤ b"]


def test_how_often_rules_are_violated():
    real = pd.DataFrame({"a": A, "b": B, "t": A + B})
    other = real.copy()
    other.loc[:39, "t"] += 1  # of 400
    other.loc[40:79, "a"] = None
    tables = read_tables(real, other)
    rates = {rate.constraint: rate for rate in constraint_rates(tables.constraints, tables.synthetic)}
    assert (rates["t = a + b"].violated, rates["t = a + b"].n_rows) == (pytest.approx(40 / 360), 360)
    assert rates["a ≤ t"].violated == 0.0
    assert rates["t = a + b"].n_violating == 40
    assert all(rate.violated == 0 for rate in constraint_rates(tables.constraints, tables.real))
    shown = str(quality_report(real, other))
    assert "how many synthetic rows do:\n  t = a + b: 40 of 360" in shown
    assert "a ≤ t:" not in shown
    assert "how many" not in str(quality_report(real, real))


@pytest.mark.parametrize("case", SUMS)
def test_a_fit_finds_the_same(case):
    frame = pd.DataFrame(SUMS[case][0])
    schema = Schema.infer(read_table(frame))
    assert list(schema.constraints) == find_constraints(frame)
    again = Schema.from_json(schema.to_json())
    assert again.constraints == schema.constraints
    assert repr(again) == repr(schema)
    assert ("no row violates:" in repr(schema)) == bool(schema.constraints)
    for rule in schema.constraints[:8]:
        assert str(rule) in repr(schema)


def test_rules_are_those_of_all_rows_however_many():
    """Most candidates are refuted by some of the rows; the last word has the whole table."""
    rng = np.random.default_rng(2)
    a, b = rng.exponential(100, size=(2, 30_000))
    columns = {"a": a, "b": b, "t": a + b, "off": a + b, "low": a, "high": a + b}
    odd = np.arange(30_000) == 12_345
    columns["off"] = columns["off"] + 50 * odd
    columns["low"] = np.where(odd, columns["high"] + 1, columns["low"])
    rules = {str(rule) for rule in find_constraints(pd.DataFrame(columns))}
    assert "t = a + b" in rules
    assert "a ≤ high" in rules or "a ≤ t" in rules
    assert not any("off" in rule and "=" in rule for rule in rules)
    assert "low ≤ high" not in rules


def test_rules_take_no_time():
    rng = np.random.default_rng(3)
    frame = pd.DataFrame(rng.normal(size=(2000, 150)))
    start = time.process_time()
    assert find_constraints(frame) == []
    assert time.process_time() - start < 2.0


def test_large_numbers_and_identifiers():
    large = np.random.default_rng(4).normal(size=(300, 4)) * 1e300
    large[:, 3] = large[:, 0] + large[:, 1]
    assert [str(rule) for rule in find_constraints(large)] == ["x3 = x0 + x1"]
    frame = pd.DataFrame({"id": np.arange(1000, 1000 + N), "after": np.arange(1000, 1000 + N) + A})
    assert [str(rule) for rule in Schema.infer(read_table(frame)).constraints] == ["id ≤ after"]
    assert find_constraints(frame) == []


def test_they_are_offered_and_not_imposed(tmp_path):
    frame = pd.DataFrame({"low": A, "high": A + B, "t": 2 * A + B})
    vae = VAE(hidden_sizes=(4,), max_epochs=1, likelihood="gaussian", random_state=0).fit(frame)
    assert [str(rule) for rule in vae.schema_.constraints] == ["t = low + high", "low ≤ high", "high ≤ t"]
    vae.save(tmp_path / "m")
    assert load(tmp_path / "m").schema_.constraints == vae.schema_.constraints
    new = vae.sample(300, random_state=0)
    assert (new.low > new.high).any()


IDENTIFIERS = {
    "text": ([f"u{i}" for i in range(60)], "identifier"),
    "text with holes": ([None, *(f"u{i}" for i in range(60))], "identifier"),
    "consecutive numbers": (np.arange(1000, 1060), "identifier"),
    "shuffled numbers with holes": (np.append(np.random.default_rng(0).permutation(90), np.nan), "identifier"),
    "sentences": ([f"a customer wrote {i} things" for i in range(60)], "free text"),
    "sentences, some twice": ([f"a customer wrote {i % 40} things" for i in range(60)], "free text"),
    "levels": (["a", "b", "c"] * 20, None),
    "names, some twice": ([f"u{i % 59}" for i in range(60)], None),
    "few rows": ([f"u{i}" for i in range(49)], None),
    "amounts": (np.random.default_rng(0).choice(10**6, 60, replace=False), None),
    "measurements": (np.random.default_rng(0).normal(size=60), None),
    "dates": (pd.date_range("2020", periods=60), None),
    "categories": (pd.Categorical([f"u{i}" for i in range(60)]), None),
}


@pytest.mark.parametrize("case", IDENTIFIERS)
def test_identifiers(case):
    values, expected = IDENTIFIERS[case]
    found = identifiers(read_table(pd.DataFrame({"c": values})))
    assert [finding.what for finding in found] == ([expected] if expected else [])


@pytest.mark.parametrize("name", ["id", "user_id", "userId", "ID", "account no", "uuid"])
def test_a_name_gives_numbers_with_gaps_away(name):
    values = np.random.default_rng(0).choice(10**6, 60, replace=False)
    table = read_table(pd.DataFrame({name: values, "paid": values + 1}))
    assert [finding.name for finding in identifiers(table)] == [name]
    assert identifiers(table, {name: "integer"}) == []


def test_a_finding_says_what_was_seen():
    table = read_table(pd.DataFrame({"id": [f"u{i}" for i in range(60)]}))
    assert str(identifiers(table)[0]) == (
        "column 'id' looks like an identifier: all of its 60 entries are distinct, such as \"u0\""
    )
