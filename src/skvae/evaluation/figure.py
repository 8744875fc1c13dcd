"""The quality report as a matplotlib figure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skvae.evaluation.report import QualityReport

_DRAWN = 40


def draw(report: QualityReport) -> Any:
    """Column shapes as bars, pair trends as a map: a matplotlib Figure, which no global state knows of."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("plot() needs matplotlib: pip install scikit-vae[plot]") from None
    columns = sorted(report.columns, key=lambda column: column.error)[-_DRAWN:]
    names = [column.name for column in columns]
    figure = Figure(figsize=(12, max(4.0, 0.28 * len(names))), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.barh(names, [100 * column.error for column in columns], color="#4477aa", label="synthetic")
    if report.n_holdout is not None:
        held = [100 * (column.holdout_error or 0.0) for column in columns]
        left.plot(held, range(len(names)), "|", color="#cc3311", markersize=10, label="held out")
        left.legend(loc="lower right")
    left.set_xlabel("distance of distributions, %")
    left.set_title(f"Column shapes: {100 * report.shape_error:.2f} %")
    order = [column.name for column in report.columns][:_DRAWN]
    image = right.imshow(100 * report.pair_matrix()[:_DRAWN, :_DRAWN], cmap="Reds", vmin=0)
    right.set_xticks(range(len(order)), order, rotation=90)
    right.set_yticks(range(len(order)), order)
    right.set_title(f"Pair trends: {100 * report.trend_error:.2f} %")
    figure.colorbar(image, ax=right, label="distance, %")
    return figure
