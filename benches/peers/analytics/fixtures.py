#!/usr/bin/env python3
"""Writes what scikit-learn answers on data sets it ships or makes, for crm-analytics/tests/it/model_sklearn.rs.

    python3 -m venv venv && venv/bin/pip install scikit-learn==1.9.1
    venv/bin/python benches/peers/analytics/fixtures.py [NAME...]      # writes crm-analytics/tests/fixtures/*.json

Each file holds the rows, the targets and the answers. Columns are standardised (divided by n) where it says so.
"""

import json
import os
import pathlib
import sys
import warnings

# Threads that wait for each other take longer than one on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from sklearn import cluster, datasets, decomposition, ensemble, linear_model, metrics, mixture, tree
from sklearn.isotonic import IsotonicRegression

warnings.filterwarnings("ignore")
OUT = pathlib.Path(__file__).resolve().parents[3] / "crm-analytics" / "tests" / "fixtures"


def plain(value):
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return value.item()
    return value


def upright(components):
    """The largest entry of each direction is positive."""
    return [row * np.sign(row[np.argmax(np.abs(row))]) for row in components]


def groups(z):
    found = {}
    for k in (2, 3, 4, 5):
        model = cluster.KMeans(k, n_init=100, tol=0, max_iter=1000, random_state=0).fit(z)
        found[str(k)] = {
            "inertia": model.inertia_,
            "silhouette": metrics.silhouette_score(z, model.labels_),
            "calinski_harabasz": metrics.calinski_harabasz_score(z, model.labels_),
            "davies_bouldin": metrics.davies_bouldin_score(z, model.labels_),
            "labels": model.labels_,
        }
    radius = float(np.quantile(np.sort(metrics.pairwise_distances(z), axis=1)[:, 5], 0.7))
    dense = cluster.DBSCAN(eps=radius, min_samples=5).fit(z)
    core = np.zeros(len(z), bool)
    core[dense.core_sample_indices_] = True
    linkages = {
        name: cluster.AgglomerativeClustering(3, linkage=name).fit(z).labels_
        for name in ("ward", "complete", "average", "single")
    }
    mixtures = {}
    if z.shape[1] <= 13:
        model = mixture.GaussianMixture(3, n_init=20, tol=1e-9, max_iter=5000, random_state=0).fit(z)
        mixtures = {"log_likelihood": model.score(z) * len(z), "bic": model.bic(z)}
    return {
        "kmeans": found,
        "dbscan": {"radius": radius, "cores": core, "labels": dense.labels_},
        "linkages": linkages,
        "mixture": mixtures,
    }


def directions(x):
    model = decomposition.PCA(svd_solver="full").fit(x)
    kept = min(4, x.shape[1])
    return {
        "variances": model.explained_variance_[:kept],
        "ratios": model.explained_variance_ratio_[:kept],
        "components": upright(model.components_[:kept]),
    }


def held_out(make, x, y):
    """Five folds, a row's number modulo 5, without shuffling; the answers for all rows."""
    fold = np.arange(len(y)) % 5
    answers = None
    for at in range(5):
        model = make().fit(x[fold != at], y[fold != at])
        said = model.predict_proba(x[fold == at]) if hasattr(model, "predict_proba") else model.predict(x[fold == at])
        if answers is None:
            answers = np.zeros((len(y),) + said.shape[1:])
        answers[fold == at] = said
    return answers


def classes(x, z, y):
    model = linear_model.LogisticRegression(C=1.0, solver="lbfgs", tol=1e-12, max_iter=3000).fit(z, y)
    p = model.predict_proba(z)
    weights = 1.0 + (np.arange(len(y)) % 3)
    weighted = linear_model.LogisticRegression(C=1.0, solver="lbfgs", tol=1e-12, max_iter=3000)
    weighted.fit(z, y, sample_weight=weights)
    raw = linear_model.LogisticRegression(C=0.5, solver="newton-cholesky", tol=1e-12, max_iter=1000).fit(x, y)
    found = {
        "logistic": {
            "intercepts": model.intercept_,
            "coefficients": model.coef_,
            "log_loss": metrics.log_loss(y, p),
            "weighted": weighted.coef_,
            "raw_log_loss": metrics.log_loss(y, raw.predict_proba(x)),
        },
    }
    if len(set(y)) == 2:
        score = p[:, 1]
        steps = IsotonicRegression(out_of_bounds="clip").fit(score, y)
        false_positive, true_positive, _ = metrics.roc_curve(y, score)
        found["scores"] = {
            "auc": metrics.roc_auc_score(y, score),
            "average_precision": metrics.average_precision_score(y, score),
            "brier": metrics.brier_score_loss(y, score),
            "ks": max(true_positive - false_positive),
            "rounded_auc": metrics.roc_auc_score(y, np.round(score, 1)),
            "rounded_average_precision": metrics.average_precision_score(y, np.round(score, 1)),
            "isotonic_at": np.linspace(-0.1, 1.1, 25),
            "isotonic": steps.predict(np.linspace(-0.1, 1.1, 25)),
        }
    trees = {}
    for criterion in ("gini", "entropy"):
        for depth in (1, 2, 3, None):
            made = [
                tree.DecisionTreeClassifier(max_depth=depth, criterion=criterion, random_state=seed).fit(x, y)
                for seed in range(20)
            ]
            root = made[0].tree_
            trees[f"{criterion} {depth or 'full'}"] = {
                "accuracy": [min(m.score(x, y) for m in made), max(m.score(x, y) for m in made)],
                "leaves": [min(m.get_n_leaves() for m in made), max(m.get_n_leaves() for m in made)],
                "depth": [min(m.get_depth() for m in made), max(m.get_depth() for m in made)],
                "log_loss": [
                    min(metrics.log_loss(y, m.predict_proba(x)) for m in made),
                    max(metrics.log_loss(y, m.predict_proba(x)) for m in made),
                ],
                "root_impurity": root.impurity[0],
            }
    pruned = [
        tree.DecisionTreeClassifier(ccp_alpha=0.01, random_state=seed).fit(x, y).get_n_leaves() for seed in range(20)
    ]
    found["trees"] = trees
    found["pruned_leaves"] = [min(pruned), max(pruned)]
    for name, make in {
        "tree": lambda: tree.DecisionTreeClassifier(max_depth=3, random_state=0),
        "forest": lambda: ensemble.RandomForestClassifier(200, random_state=0),
        "boosting": lambda: ensemble.HistGradientBoostingClassifier(random_state=0, early_stopping=False),
        "logistic": lambda: linear_model.LogisticRegression(C=1.0, tol=1e-8, max_iter=10000),
    }.items():
        said = held_out(make, z, y)
        found[f"held out {name}"] = {
            "accuracy": np.mean(np.argmax(said, axis=1) == y),
            "log_loss": metrics.log_loss(y, said),
        }
    return found


def numbers(x, z, y):
    plain_model = linear_model.LinearRegression().fit(x, y)
    ridge = linear_model.Ridge(alpha=2.0, solver="cholesky").fit(z, y)
    found = {
        "linear": {"intercept": plain_model.intercept_, "coefficients": plain_model.coef_},
        "ridge": {"intercept": ridge.intercept_, "coefficients": ridge.coef_},
        "trees": {},
    }
    for depth in (1, 2, 3):
        made = tree.DecisionTreeRegressor(max_depth=depth, random_state=0).fit(x, y)
        found["trees"][str(depth)] = {"r2": made.score(x, y), "leaves": made.get_n_leaves()}
    for name, make in {
        "forest": lambda: ensemble.RandomForestRegressor(200, max_features=1 / 3, random_state=0),
        "boosting": lambda: ensemble.HistGradientBoostingRegressor(random_state=0, early_stopping=False),
        "linear": lambda: linear_model.LinearRegression(),
    }.items():
        found[f"held out {name}"] = {"r2": metrics.r2_score(y, held_out(make, z, y))}
    return found


SHIPPED = ("iris", "wine", "breast_cancer", "digits", "diabetes", "linnerud")
MADE = {
    "blobs": lambda: datasets.make_blobs(400, 3, centers=5, cluster_std=1.6, random_state=1),
    "moons": lambda: datasets.make_moons(300, noise=0.22, random_state=2),
    "classification": lambda: datasets.make_classification(
        400, 10, n_informative=5, n_redundant=2, n_classes=3, weights=(0.6, 0.3), flip_y=0.05, random_state=3
    ),
    "friedman": lambda: datasets.make_friedman1(300, 7, noise=1.0, random_state=4),
}
NUMBERS = ("diabetes", "linnerud", "friedman")


def rows_of(name):
    if name in MADE:
        x, y = MADE[name]()
        # Short enough to be kept, and the same numbers for both sides.
        return np.round(x, 5), np.round(y, 5) if name in NUMBERS else y
    data = getattr(datasets, f"load_{name}")()
    if name == "linnerud":
        return data.data, data.target[:, 0]
    return (data.data[:400], data.target[:400]) if name == "digits" else (data.data, data.target)


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[1:] or (*SHIPPED, *MADE):
        x, y = rows_of(name)
        deviation = x.std(axis=0)
        z = (x - x.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)
        answers = {"groups": groups(z), "directions": directions(x), "standardised": directions(z)}
        answers["numbers" if name in NUMBERS else "classes"] = (numbers if name in NUMBERS else classes)(x, z, y)
        with open(OUT / f"{name}.json", "w") as file:
            json.dump({"rows": plain(x), "target": plain(y), "answers": plain(answers)}, file, separators=(",", ":"))
            file.write("\n")


main()
