#!/usr/bin/env python3
"""matplotlib on the points that `benches/analytics.rs --section plot` left.

    cargo bench --features plot --bench analytics -- --folder FOLDER --section plot
    python3 -m venv venv && venv/bin/pip install matplotlib
    venv/bin/python benches/peers/analytics/plot.py FOLDER

Processor time is that of the whole process; a small picture is drawn before, so that fonts and imports do not count.
"""

import pathlib
import sys
import time

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

folder = pathlib.Path(sys.argv[1])
print("matplotlib", matplotlib.__version__)


def picture(draw, path):
    figure, axes = plt.subplots(figsize=(16, 12), dpi=100)
    draw(axes)
    axes.set_title("Customers")
    axes.set_xlabel("direction 1")
    axes.set_ylabel("direction 2")
    figure.savefig(path)
    plt.close(figure)


def step(name, draw, path):
    begun, spent = time.perf_counter(), time.process_time()
    picture(draw, path)
    spent, took = time.process_time() - spent, time.perf_counter() - begun
    print(f"{name}\t{spent:.4f} CPU s\t{took:.3f} s\t{path.stat().st_size} bytes", flush=True)


picture(lambda axes: axes.plot([0, 1], [0, 1]), folder / "warm.png")
for path in sorted(folder.glob("points-*.f64"), key=lambda p: p.stat().st_size):
    x, y, group = np.fromfile(path).reshape(-1, 3).T
    count = len(x)

    def scatter(axes):
        axes.scatter(x, y, c=group, s=6, alpha=0.5, cmap="tab10")

    def dots(axes):
        for i in range(5):
            of = group == i
            axes.plot(x[of], y[of], ".", markersize=3, alpha=0.5)

    step(f"scatter of {count} points", scatter, folder / f"scatter-{count}.png")
    step(f"plot('.') of {count} points", dots, folder / f"dots-{count}.png")
    if count <= 200_000:
        step(f"scatter of {count} points, SVG", scatter, folder / f"scatter-{count}.svg")
    step(f"hexbin of {count} points", lambda axes: axes.hexbin(x, y, gridsize=64, bins="log"), folder / f"hexbin-{count}.png")
