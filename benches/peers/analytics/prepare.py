#!/usr/bin/env python3
"""What pandas and scikit-learn make of a small frame: the fixture of `crm-analytics/tests/it/prepare_peers.rs`.

    python3 -m venv venv && venv/bin/pip install pandas scikit-learn
    venv/bin/python benches/peers/analytics/prepare.py crm-analytics/tests/fixtures/prepare.json

The frame is made from a seed: missing values, letters beyond ASCII, a constant column, categories seen once.
"""

import json
import sys

import numpy as np
import pandas as pd
import sklearn
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import (
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    RobustScaler,
    StandardScaler,
    TargetEncoder,
)

random = np.random.default_rng(20261123)
rows = 211
frame = pd.DataFrame(
    {
        "plan": random.choice(["free", "pro", "größer", "once?"], rows, p=[0.5, 0.3, 0.17, 0.03]),
        "city": random.choice(["Perth", "Tallinn", "Łódź"], rows),
        "age": np.round(random.normal(40, 12, rows), 3),
        "spend": np.round(random.lognormal(3, 2, rows), 4),
        "visits": random.integers(0, 30, rows).astype(float),
        "constant": np.full(rows, 7.25),
        "order": np.arange(rows)[::-1].astype(float),
    }
)
for column, share in [("plan", 0.08), ("age", 0.15), ("spend", 0.1), ("visits", 0.2)]:
    frame.loc[random.random(rows) < share, column] = None
outcome = (random.random(rows) < 0.35).astype(int)
numbers = ["age", "spend", "visits"]


def values(of):
    of = np.asarray(of, dtype=float)
    return [[None if np.isnan(v) else v for v in row] for row in of] if of.ndim == 2 else [None if np.isnan(v) else v for v in of]


def imputed(strategy):
    return values(SimpleImputer(strategy=strategy).fit_transform(frame[numbers]))


filled = frame.copy()
filled[numbers] = SimpleImputer(strategy="mean").fit_transform(frame[numbers])
text = frame[["plan"]].fillna("none")
quantiles = frame["spend"].quantile([0.05, 0.95])
q1, q3 = frame["spend"].quantile([0.25, 0.75])
fences = (q1 - 1.5 * (q3 - q1), q3 + 1.5 * (q3 - q1))
seed = frame[["plan", "age", "spend"]].copy()
seed[["age", "spend"]] = seed[["age", "spend"]].fillna(0)
seed = pd.get_dummies(seed, columns=["plan"], dtype=int)
target = TargetEncoder(smooth=5.0, target_type="binary").fit(text, outcome)
one_hot = OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit(text)
ordinal = OrdinalEncoder(
    categories=[["free", "pro", "größer"]], handle_unknown="use_encoded_value", unknown_value=-1
).fit(text[text["plan"].isin(["free", "pro", "größer"])])
ask = pd.DataFrame({"plan": ["free", "pro", "größer", "once?", "none", "never seen"]})

out = {
    "pandas": pd.__version__,
    "sklearn": sklearn.__version__,
    "frame": {name: [None if pd.isna(v) else v for v in frame[name]] for name in frame},
    "outcome": outcome.tolist(),
    "imputed": {name: imputed(name) for name in ["mean", "median", "most_frequent"]},
    "group_median": values(frame["age"].fillna(frame.groupby("city")["age"].transform("median"))),
    "forward": values(frame.sort_values("order").groupby("city")["visits"].ffill().sort_index()),
    "clip": values(frame["spend"].clip(quantiles[0.05], quantiles[0.95])),
    "iqr": values(frame["spend"].clip(*fences)),
    "log1p": values(np.log1p(frame["spend"])),
    # Of a population; ours is of a sample: the ratio is sqrt(n / (n - 1)).
    "standard": values(StandardScaler().fit_transform(filled[numbers + ["constant"]])),
    "robust": values(RobustScaler().fit_transform(filled[numbers])),
    "minmax": values(MinMaxScaler().fit_transform(filled[numbers])),
    "seed_columns": list(seed.columns),
    "seed": values(seed),
    "ask": ask["plan"].tolist(),
    "one_hot_columns": one_hot.categories_[0].tolist(),
    "one_hot": values(one_hot.transform(ask)),
    "ordinal": values(ordinal.transform(ask)[:, 0]),
    "target": values(target.transform(ask)[:, 0]),
}
with open(sys.argv[1], "w", encoding="utf-8") as file:
    json.dump(out, file, ensure_ascii=False, separators=(",", ":"))
    file.write("\n")
