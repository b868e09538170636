#!/usr/bin/env python3
"""pandas (vectorised) and Polars (one lazy query) on the columns that `benches/analytics.rs --section clean` left.

    cargo bench --features analytics --bench analytics -- --folder FOLDER --section clean
    python3 -m venv venv && venv/bin/pip install pandas polars pyarrow
    venv/bin/python benches/peers/analytics/clean.py FOLDER

Processor time is that of the whole process with all its threads; reading the columns does not count. Each line ends with
the sums of the cleaned columns, which must be those of the bench.
"""

import pathlib
import resource
import sys
import time

import numpy as np
import pandas as pd
import polars as pl

folder = pathlib.Path(sys.argv[1])
TEXTS, NUMBERS = ["email", "name", "plan", "city"], ["age", "spend", "visits"]
print("pandas", pd.__version__, "polars", pl.__version__)


def lines(name):
    return (folder / f"clean-{name}.txt").read_text(encoding="utf-8").split("\n")[:-1]


def memory(line):
    with open("/proc/self/status") as file:
        return next(int(one.split()[1]) / 1024 for one in file if one.startswith(line))


def measured(name, run, found):
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before, begun = memory("VmRSS"), time.perf_counter()
    spent = time.process_time()
    answer = run()
    spent, took = time.process_time() - spent, time.perf_counter() - begun
    peak = memory("VmHWM") - before
    print(f"{name}\t{spent:.2f} CPU s\t{took:.3f} s\t{peak:.0f} MiB more at the peak\t{found(answer)}", flush=True)


def with_pandas(frame):
    f = frame.copy()
    f["email"] = f["email"].str.strip().str.lower()
    f["name"] = f["name"].str.strip()
    plan = f["plan"].str.lower().fillna("none")
    counts = plan.value_counts()
    f["plan"] = plan.where(plan.map(counts) >= 5000, "other")
    f["age"] = f["age"].fillna(f["age"].median())
    f["visits"] = f["visits"].fillna(0)
    f["spend"] = f["spend"].fillna(f.groupby("city")["spend"].transform("median"))
    q1, q3 = f["spend"].quantile([0.25, 0.75])
    f["spend"] = f["spend"].clip(q1 - 1.5 * (q3 - q1), q3 + 1.5 * (q3 - q1))
    low, high = f["visits"].quantile([0.01, 0.99])
    f["visits"] = np.log1p(f["visits"].clip(low, high))
    for name in NUMBERS:
        f[name] = (f[name] - f[name].mean()) / f[name].std()
    return pd.get_dummies(f, columns=["plan", "city"])


def with_polars(frame):
    plan = pl.col("plan").str.to_lowercase().fill_null("none")
    f = frame.lazy().with_columns(
        pl.col("email").str.strip_chars().str.to_lowercase(),
        pl.col("name").str.strip_chars(),
        plan,
        pl.col("age").fill_null(pl.col("age").median()),
        pl.col("visits").fill_null(0),
        pl.col("spend").fill_null(pl.col("spend").median().over("city")),
    )
    spend, visits = pl.col("spend"), pl.col("visits")
    q1, q3 = (spend.quantile(q, "linear") for q in (0.25, 0.75))
    f = f.with_columns(
        pl.when(pl.len().over("plan") >= 5000).then(pl.col("plan")).otherwise(pl.lit("other")).alias("plan"),
        spend.clip(q1 - 1.5 * (q3 - q1), q3 + 1.5 * (q3 - q1)),
        visits.clip(visits.quantile(0.01, "linear"), visits.quantile(0.99, "linear")).log1p(),
    )
    f = f.with_columns([(pl.col(c) - pl.col(c).mean()) / pl.col(c).std() for c in NUMBERS]).collect()
    return f.to_dummies(["plan", "city"])


def sums_pandas(f):
    numbers = f.select_dtypes(["number", "bool"])
    return " ".join(f"{name}={numbers[name].abs().sum():.3f}" for name in numbers)


def sums_polars(f):
    numbers = f.select(pl.col(pl.Float64), pl.col(pl.UInt8), pl.col(pl.Boolean))
    return " ".join(f"{name}={numbers[name].cast(pl.Float64).abs().sum():.3f}" for name in numbers.columns)


def seed_pandas(f):
    f = f.copy()
    f[NUMBERS] = f[NUMBERS].fillna(0)
    return pd.get_dummies(f, columns=["plan"])


def seed_polars(f):
    return f.with_columns(pl.col(NUMBERS).fill_null(0)).to_dummies(["plan"], drop_nulls=True)


columns = {name: [line or None for line in lines(name)] for name in TEXTS}
numbers = {name: np.array([float(line) if line else np.nan for line in lines(name)]) for name in NUMBERS}
which = sys.argv[2] if len(sys.argv) > 2 else "both"
if which in ("both", "pandas"):
    frame = pd.DataFrame({**{k: pd.Series(v, dtype="str") for k, v in columns.items()}, **numbers})
    measured("pandas: clean", lambda: with_pandas(frame), sums_pandas)
    measured("pandas: fillna(0) and get_dummies", lambda: seed_pandas(frame), sums_pandas)
    by = lambda: frame.assign(email=frame["email"].str.strip().str.lower()).drop_duplicates("email")
    measured("pandas: deduplicate by e-mail", by, lambda f: f"{len(f)} rows left")
    del frame
if which in ("both", "polars"):
    frame = pl.DataFrame({**columns, **numbers}).with_columns(pl.col(NUMBERS).fill_nan(None))
    measured("Polars: clean", lambda: with_polars(frame), sums_polars)
    measured("Polars: fillna(0) and get_dummies", lambda: seed_polars(frame), sums_polars)
    by = lambda: frame.with_columns(pl.col("email").str.strip_chars().str.to_lowercase()).unique("email", keep="first", maintain_order=True)
    measured("Polars: deduplicate by e-mail", by, lambda f: f"{len(f)} rows left")
