"""Metrics of clusters and of latents that scikit-learn lacks.

Silhouette, adjusted Rand index, normalised mutual information and trustworthiness are scikit-learn's:
`sklearn.metrics.silhouette_score`, `adjusted_rand_score`, `normalized_mutual_info_score` and
`sklearn.manifold.trustworthiness`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.manifold import trustworthiness
from sklearn.metrics import accuracy_score
from sklearn.metrics.cluster import contingency_matrix
from sklearn.neighbors import KNeighborsClassifier
from sklearn.utils.validation import check_consistent_length


def clustering_accuracy(y_true: Any, y_pred: Any) -> float:
    """Share of rows that are in the cluster of their class, clusters and classes being matched one to one.

    The matching is the best there is (the Hungarian method). Of more clusters than classes, some are matched to none.

    Parameters
    ----------
    y_true : array [n]
        Classes; for judging clusters only, never for making or selecting them.
    y_pred : array [n]
        Clusters, of any names.

    Raises
    ------
    ValueError
        If the two differ in length.

    References
    ----------
    Y. Yang, D. Xu, F. Nie, S. Yan & Y. Zhuang (2010), Image clustering using local discriminant models and global
    integration, equation 22.

    Examples
    --------
    >>> clustering_accuracy(["a", "a", "b", "b"], [1, 1, 0, 1])
    0.75
    """
    check_consistent_length(y_true, y_pred)
    counts = contingency_matrix(y_true, y_pred)
    rows, columns = linear_sum_assignment(-counts)
    return float(counts[rows, columns].sum() / counts.sum())


def continuity(X: Any, latents: Any, *, n_neighbors: int = 5) -> float:
    """How far rows that are neighbours in the data are still neighbours in the latents; in [0, 1], 1 is best.

    1 − 2/(n k (2n − 3k − 1)) Σ_i Σ_j max(0, r(i, j) − k), over the k nearest neighbours j of row i in the data, with
    r(i, j) their rank in the latents: trustworthiness with the two spaces exchanged.

    Parameters
    ----------
    X : array [n, C]
    latents : array [n, D]
    n_neighbors : int
        k, below n/2.

    References
    ----------
    J. Venna & S. Kaski (2001), Neighborhood preservation in nonlinear projection methods.
    """
    return float(trustworthiness(np.asarray(latents), np.asarray(X), n_neighbors=n_neighbors))


def knn_accuracy(latents: Any, y: Any, test_latents: Any, test_y: Any, *, n_neighbors: int = 5) -> float:
    """Share of test rows whose class is that of most of their nearest neighbours among the training rows.

    Parameters
    ----------
    latents : array [n, D]
    y : array [n]
    test_latents : array [m, D]
    test_y : array [m]
    n_neighbors : int
    """
    model = KNeighborsClassifier(n_neighbors).fit(latents, y)
    return float(accuracy_score(test_y, model.predict(test_latents)))
