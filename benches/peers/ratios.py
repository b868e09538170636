#!/usr/bin/env python3
"""Prints how much more processor time a peer takes than the store for the same thing: ratios.py OURS PEERS"""

import sys

# What is compared with what: a part of our line, a part of the peer's.
PAIRS = [
    ("insert, UNIQUE e-mail", "ORM: insert"),
    ("insert, UNIQUE e-mail", "Core: insert"),
    ("insert, UNIQUE e-mail", "sqlite3: executemany"),
    ("insert, UNIQUE e-mail", "sqlite3: the store's table"),
    ("get by id, one by one", "ORM: get by id"),
    ("get by id, one by one", "Core: get by id"),
    ("get by id, one by one", "sqlite3: get by id"),
    ("get by id, 500 at once", "sqlite3: get by id"),
    ("look-up by e-mail", "ORM: look-up"),
    ("look-up by e-mail", "sqlite3: look-up"),
    ("page of 50", "ORM: page of 50"),
    ("page of 50", "sqlite3: page of 50"),
    ("update with commit, 1 caller", "ORM: update"),
    ("update with commit, 1 caller", "sqlite3: update"),
    ("update with commit, 64 caller", "sqlite3: update"),
    ("import of full customers", "C: prepared statements"),
    ("import without a journal", "C: prepared statements"),
]


def read(path):
    found = {}
    for line in open(path):
        name, fields = line[:44].strip(), line[44:].split()
        if len(fields) == 5 and fields[0].isdigit():
            found[name] = float(fields[4])
    return found


ours, peers = read(sys.argv[1]), read(sys.argv[2])
print(f"\n{'store':<42} {'us':>9}   {'peer':<42} {'us':>9}  {'peer / store':>12}")
for mine, theirs in PAIRS:
    for name, cost in ours.items():
        for peer, other in peers.items():
            if mine in name and theirs in peer and cost > 0:
                print(f"{name:<42} {cost:>9.2f}   {peer:<42} {other:>9.2f}  {other / cost:>12.2f}")
