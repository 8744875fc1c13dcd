"""Targets on the command line: which columns they are, which estimator predicts them, what its answers are called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import typer

from skvae.data import source
from skvae.data.columns import Kind
from skvae.data.identifiers import new_identifiers
from skvae.shell import pairs

if TYPE_CHECKING:
    from skvae import VAE, VAEClassifier, VAERegressor

TASKS = ("regression", "classification")

# A column of whole numbers with more values than this is a quantity, else its values are classes.
_MAX_CLASSES = 20


class Targets:
    """Target columns as an estimator takes them: an array with a name, or with several."""

    def __init__(self, values: np.ndarray, names: Sequence[str]) -> None:
        self._values = values
        if values.ndim == 1:
            self.name = names[0]
        else:
            self.columns = list(names)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self._values, dtype=dtype)

    def __len__(self) -> int:
        return len(self._values)


def taken(rows: pa.Table, names: Sequence[str], task: str | None) -> tuple[pa.Table, Targets, str]:
    """The rows without their targets, the targets, and the task, which is read off them where it is not given."""
    columns = [rows.column(name) for name in names]
    rest = rows.drop_columns(list(names))
    if not rest.column_names:
        raise ValueError(f"the table has no columns beside {_listed(names)}; a prediction needs some")
    for name, column in zip(names, columns, strict=True):
        if column.null_count == len(column):
            raise ValueError(f"column '{name}' has no entry at all, so that there is nothing to learn of it")
    if task is None:
        task = "regression" if len(names) > 1 or _is_quantity(columns[0]) else "classification"
    if task == "regression":
        numbers = [_numbers(name, column) for name, column in zip(names, columns, strict=True)]
        return rest, Targets(numbers[0] if len(names) == 1 else np.stack(numbers, axis=1), names), task
    if len(names) > 1:
        raise typer.BadParameter(
            f"{_listed(names)}: there can be one class per row; fit a model for each", param_hint="--target"
        )
    return rest, Targets(_labels(names[0], columns[0]), names), task


def _is_numeric(column: pa.ChunkedArray) -> bool:
    kind = column.type
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _is_quantity(column: pa.ChunkedArray) -> bool:
    if not _is_numeric(column):
        return False
    values = np.unique(column.drop_null().cast(pa.float64()).to_numpy())
    return len(values) > _MAX_CLASSES or bool((values != np.round(values)).any())


def _numbers(name: str, column: pa.ChunkedArray) -> np.ndarray:
    """Numbers, NaN where missing."""
    if not (_is_numeric(column) or pa.types.is_boolean(column.type)):
        row = int(np.argmax(column.is_valid().to_numpy()))
        raise ValueError(
            f"column '{name}' holds {column[row].as_py()!r} (row {row}), and a regression needs numbers: mark what "
            "is none missing, or use --task classification"
        )
    return np.asarray(column.cast(pa.float64()).to_numpy(), dtype=np.float64)


def _labels(name: str, column: pa.ChunkedArray) -> np.ndarray:
    """Labels as they are in the file, None (NaN) where missing."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = pc.cast(column, kind.value_type)
        kind = kind.value_type
    if pa.types.is_decimal(kind):
        column, kind = pc.cast(column, pa.float64()), pa.float64()
    if pa.types.is_floating(kind) or (pa.types.is_integer(kind) and not column.null_count):
        return column.to_numpy()
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or _is_text(kind):
        return np.array(column.to_pylist(), dtype=None if _is_text(kind) and not column.null_count else object)
    raise ValueError(f"column '{name}' holds entries of type {kind}, which are no classes; convert it to text")


def _is_text(kind: Any) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def estimator_for(task: str) -> VAERegressor | VAEClassifier:
    from skvae import VAEClassifier, VAERegressor

    # In a file a missing label is an empty entry, and -1 a class like any other.
    return VAERegressor() if task == "regression" else VAEClassifier(unlabelled=None)


def names_of(model: Any) -> list[str]:
    """The targets of a fitted model; none of a VAE."""
    return [column.name for column in model._columns] if hasattr(model, "estimators_") else []


def is_classifier(model: Any) -> bool:
    return hasattr(model, "classes_")


def facts(model: Any) -> dict[str, Any]:
    """What a fitted model predicts, and how."""
    of_kind: dict[str, Any]
    if is_classifier(model):
        of_kind = {"classes": model.classes_.tolist(), "temperature": model.temperature_}
    else:
        of_kind = {"likelihood": repr(model.target_likelihood_)}
    return {
        "names": names_of(model),
        "structure": model.structure_,
        "target_weight": model.target_weight_,
        "n_estimators": len(model.estimators_),
    } | of_kind


def of_rows(fitted: Any) -> VAE:
    """The VAE of the rows: of an estimator with targets, the one in it."""
    return getattr(fitted, "vae_", fitted)


def _wanted(model: Any, texts: Sequence[str] | None) -> Any:
    """The targets that rows are to be drawn for, from NAME=VALUE texts; None for no text."""
    if not texts:
        return None
    names = names_of(model)
    given: dict[str, str] = {}
    for text in texts:
        # Labels may have an = in them, as names may.
        name = next((name for name in names if text.startswith(f"{name}=")), None)
        given |= dict(pairs([text], "--target")) if name is None else {name: text.removeprefix(f"{name}=")}
    for name in given:
        if name not in names:
            raise typer.BadParameter(f"the model's target is {_listed(names)}, not '{name}'", param_hint="--target")
    if missing := [name for name in names if name not in given]:
        raise typer.BadParameter(f"the model has a target '{missing[0]}' too; give its value", param_hint="--target")
    if is_classifier(model):
        text = given[names[0]]
        as_written = pa.array(model.classes_).cast(pa.string()).to_pylist()
        labels = {str(label): label for label in model.classes_} | dict(zip(as_written, model.classes_, strict=True))
        if text not in labels:
            known = ", ".join(labels)
            raise typer.BadParameter(
                f"{text!r} is no class of '{names[0]}'; known are {known}", param_hint="--target"
            )
        return labels[text]
    try:
        values = [float(given[name]) for name in names]
    except ValueError as error:
        raise typer.BadParameter(f"{error}; expected a number", param_hint="--target") from None
    return values[0] if len(values) == 1 else np.array([values])


def drawn(
    fitted: Any,
    n_samples: int,
    batch_size: int,
    decode: str,
    target: Sequence[str] | None,
    conditions: Mapping[str, Any] | None,
    seed: int | None,
) -> Iterator[Any]:
    """New rows, so many at a time, with their targets if the model has some."""
    vae, names = of_rows(fitted), names_of(fitted)
    if not names:
        if target:
            raise typer.BadParameter("the model has no target", param_hint="--target")
        return vae.sample_batches(
            n_samples, batch_size=batch_size, conditions=conditions, decode=decode, random_state=seed
        )
    if conditions:
        raise typer.BadParameter(
            "rows of a model with a target are drawn for --target alone; fit one without a target, of which the "
            "target is a column like the others",
            param_hint="--where",
        )
    y_wanted = _wanted(fitted, target)
    if y_wanted is not None and decode != "draw":
        raise typer.BadParameter("means are those of all rows; leave --decode on draw", param_hint="--target")
    from skvae.training.randomness import seeds_of_batches

    schema = vae.schema_

    def draw(first: int, random_state: Any) -> pa.Table:
        size = min(batch_size, n_samples - first)
        if decode == "draw":
            X, y = fitted.sample(size, y=y_wanted, random_state=random_state)
        else:
            X = vae.sample(size, decode=decode, random_state=random_state)
            y = fitted.predict(X)
        table = source.as_arrow(X, [column.name for column in schema.columns])
        for k, column in enumerate(schema.columns if first else ()):
            if column.kind == Kind.IDENTIFIER:  # they run on
                table = table.set_column(k, column.name, new_identifiers(column, first, size))
        return with_columns(table, dict(zip(names, y.reshape(size, -1).T, strict=True)))

    firsts = range(0, max(n_samples, 1), batch_size)
    return (draw(first, state) for first, state in zip(firsts, seeds_of_batches(seed), strict=False))


def with_columns(rows: pa.Table, added: Mapping[str, Any]) -> pa.Table:
    """The table with columns added, none of which it may have already."""
    for name, values in added.items():
        if name in rows.column_names:
            raise ValueError(f"the table has a column '{name}' already; rename it")
        rows = rows.append_column(name, pa.array(values))
    return rows


def predictions(
    model: Any, rows: pa.Table, *, std: bool, interval: float | None, quantiles: Sequence[float], proba: bool
) -> dict[str, np.ndarray]:
    """The columns that a prediction adds, by name."""
    names = names_of(model)
    if is_classifier(model):
        asked = {"--std": std, "--interval": interval is not None, "--quantile": bool(quantiles)}
        for option, given in asked.items():
            if given:
                raise typer.BadParameter("the model predicts classes; ask for --proba", param_hint=option)
        probabilities = model.predict_proba(rows)
        added = {f"{names[0]}_predicted": model.classes_[probabilities.argmax(1)]}
        if proba:
            added |= {f"p_{label}": p for label, p in zip(model.classes_, probabilities.T, strict=True)}
        return added
    if proba:
        raise typer.BadParameter(
            "the model predicts numbers; ask for --std, --interval or --quantile", param_hint="--proba"
        )
    n, found = len(rows), model.predict_distribution(rows)
    answers = {"predicted": found.mean()}
    if std:
        answers["std"] = found.std()
    if interval is not None:
        bounds = model.predict_interval(rows, interval)
        answers |= {"low": bounds[..., 0], "high": bounds[..., 1]}
    if quantiles:
        values = found.quantile(list(quantiles))
        answers |= {f"q{q:g}": values[..., k] for k, q in enumerate(quantiles)}
    return {
        f"{name}_{what}": answer.reshape(n, -1)[:, j]
        for j, name in enumerate(names)
        for what, answer in answers.items()
    }


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
