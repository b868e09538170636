#!/usr/bin/env python3
"""Makes the site of the crawl benchmark: site.py FOLDER [PAGES]. Every page can be reached from 0.html."""
import pathlib
import random
import sys

folder, pages = pathlib.Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 20_000
folder.mkdir(parents=True, exist_ok=True)
rng = random.Random(20_000)
CITIES = ["Oslo", "Tartu", "Lyon", "Porto", "Graz", "Ghent", "Turku", "Bari", "Cork", "Brno"]
WORDS = "record vinyl coffee garden bicycle window station harbour letter market evening paper mountain river".split()
for n in range(pages):
    # A tree, so that everything is reached, and links to anywhere.
    links = [m for m in (2 * n + 1, 2 * n + 2) if m < pages]
    links += [rng.randrange(pages) for _ in range(10 - len(links))]
    text = "".join(f"<p>{' '.join(rng.choices(WORDS, k=30))}.</p>\n" for _ in range(8))
    (folder / f"{n}.html").write_text(f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Customer {n}</title>
<link rel="stylesheet" href="/style.css"><script>var page = {n};</script></head>
<body><header><nav><ul><li>Home</li><li>Shop</li></ul></nav></header>
<main><div class="customer"><h2>Person {n} Example</h2>
<table><tr><td>Mail</td><td><a class="mail" href="mailto:p{n}@example.com">p{n}@example.com</a></td></tr>
<tr><td>Phone</td><td><span class="phone">+1 650-{n // 10000 + 253}-{n % 10000:04}</span></td></tr>
<tr><td>City</td><td><span class="city">{CITIES[n % 10]}</span></td></tr>
<tr><td>Id</td><td><span class="id">C{n}</span></td></tr>
<tr><td>Plan</td><td><span class="plan">{"gold" if n % 3 else "basic"}</span></td></tr></table></div>
<section>{text}</section>
<ul class="links">{"".join(f'<li><a href="/{m}.html">Customer {m}</a></li>' for m in links)}</ul></main>
<footer><p>&copy; Example</p></footer></body></html>
""")
