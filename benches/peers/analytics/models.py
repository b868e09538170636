#!/usr/bin/env python3
"""scikit-learn (and its Intel extension, and faiss, where installed) on the rows that benches/analytics.rs left.

    cargo bench --features analytics --bench analytics -- --folder FOLDER
    python3 -m venv venv && venv/bin/pip install scikit-learn
    venv/bin/python benches/peers/analytics/models.py FOLDER [PART]     # only steps with PART in their name

Processor time is that of the whole process, all threads.
"""

import pathlib
import sys
import time

import numpy as np
from sklearn import cluster, decomposition, ensemble, linear_model, metrics, tree

folder = pathlib.Path(sys.argv[1])
x = np.fromfile(folder / "rows.f64").reshape(-1, 8)
y = np.fromfile(folder / "leaves.u8", dtype=np.uint8)
only = sys.argv[2] if len(sys.argv) > 2 else ""


def step(name, run, found):
    if only not in name:
        return None
    begun, spent = time.perf_counter(), time.process_time()
    answer = run()
    spent, took = time.process_time() - spent, time.perf_counter() - begun
    print(f"{name}\t{spent:.4f} CPU s\t{took:.3f} s\t{found(answer)}", flush=True)
    return answer


for k, starts in ((8, 10), (8, 1), (3, 10)):
    model = step(
        f"k-means k={k} starts={starts}",
        lambda: cluster.KMeans(k, n_init=starts, random_state=1).fit(x),
        lambda m: f"inertia {m.inertia_:.1f}, {m.n_iter_} rounds",
    )
    if model and (k, starts) == (8, 10):
        step("k-means predict", lambda: model.predict(x), lambda labels: f"{len(labels)} rows")
        spent = time.process_time()
        for row in x[:1000]:
            model.predict(row.reshape(1, -1))
        print(f"k-means one row\t{(time.process_time() - spent) * 1000:.1f} us")
try:
    from sklearnex.cluster import KMeans as Intel

    step(
        "k-means k=8 starts=10 (sklearnex)",
        lambda: Intel(8, n_init=10, random_state=1).fit(x),
        lambda m: f"inertia {m.inertia_:.1f}",
    )
except ImportError:
    print("SKIPPED: scikit-learn-intelex is not installed", file=sys.stderr)
try:
    import faiss

    def run():
        model = faiss.Kmeans(8, 8, nredo=10, niter=25, seed=1, max_points_per_centroid=len(x))
        model.train(x.astype(np.float32))
        return model

    step("k-means k=8 starts=10 (faiss)", run, lambda m: f"inertia {m.obj[-1]:.1f}")
except ImportError:
    print("SKIPPED: faiss is not installed", file=sys.stderr)

# Three times, as a short step tells more about the machine than a long one.
for _ in range(3):
    plane = step("PCA(2) fit", lambda: decomposition.PCA(2).fit(x), lambda m: f"shares {m.explained_variance_ratio_}")
try:
    from sklearnex.decomposition import PCA as IntelPca

    for _ in range(3):
        step("PCA(2) fit (sklearnex)", lambda: IntelPca(2).fit(x), lambda m: f"shares {m.explained_variance_ratio_}")
except ImportError:
    print("SKIPPED: scikit-learn-intelex is not installed", file=sys.stderr)
plane and step("PCA(2) transform", lambda: plane.transform(x), lambda points: f"{len(points)} rows")

learned = len(x) * 4 // 5
train, test, seen, unseen = x[:learned], x[learned:], y[:learned], y[learned:]


def judge(model):
    return f"accuracy {model.score(test, unseen):.5f}, log loss {metrics.log_loss(unseen, model.predict_proba(test)):.5f}"


for name, model in {
    "tree depth 6": tree.DecisionTreeClassifier(max_depth=6, random_state=0),
    "logistic": linear_model.LogisticRegression(),
    "boosting 100 rounds": ensemble.HistGradientBoostingClassifier(early_stopping=False, random_state=0),
    "forest of 10, depth 8": ensemble.RandomForestClassifier(10, max_depth=8, random_state=0),
}.items():
    fitted = step(name, lambda: model.fit(train, seen), judge)
    if fitted is None:
        continue
    spent = time.process_time()
    for row in test[:200]:
        fitted.predict_proba(row.reshape(1, -1))
    print(f"{name.split()[0]} one row\t{(time.process_time() - spent) * 5000:.1f} us")
