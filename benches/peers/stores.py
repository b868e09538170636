#!/usr/bin/env python3
"""What the store's users would write instead: SQLAlchemy (ORM and Core) and Python's sqlite3.

    python3 stores.py [--rows N] [--commit ROWS] [--peer orm,core,sqlite3] [--folder PATH]

Same rows as benches/store.rs, same durability (WAL, synchronous=FULL), the same number of rows a commit. One line a
measurement, as benches/store.rs prints it. Every measurement checks its own answers.
"""

import argparse
import os
import resource
import sqlite3
import tempfile
import time

MASK = (1 << 64) - 1
CITIES = ["Oslo", "Tallinn", "Porto", "Lyon", "Graz", "Turku", "Gdynia", "Split"]


def mixed(n):
    n = ((n ^ (n >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    n = ((n ^ (n >> 27)) * 0x94D049BB133111EB) & MASK
    return n ^ (n >> 31)


def email(n):
    return f"{mixed(n) >> 40:06x}.{n}@example{n % 97}.com"


def uuid(n):
    return ((0x019000000000 + n) << 80 | 0x70008000000000000000 | mixed(n) >> 4).to_bytes(16, "big")


def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def timed(what, count, work):
    wall, before = time.perf_counter(), cpu()
    answer = work()
    wall, used = time.perf_counter() - wall, cpu() - before
    print(f"{what:<44} {count:>9} {wall:>9.2f} {count / wall:>10.0f} {used:>9.2f} {used * 1e6 / count:>12.2f}", flush=True)
    return answer


class Rows:
    def __init__(self, rows, commit):
        self.rows, self.commit = rows, commit
        # Not part of what is measured: the Rust side makes its records within the measurement.
        self.all = [(n + 1, f"Ana Kask {n}", email(n), CITIES[n % 8]) for n in range(rows)]

    def batches(self):
        for start in range(0, self.rows, self.commit):
            yield self.all[start:start + self.commit]

    def some(self, count):
        return [mixed(n) % self.rows for n in range(count)]


def plain(rows, folder):
    file = os.path.join(folder, "sqlite3.db")
    db = sqlite3.connect(file, isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    db.execute("PRAGMA cache_size=-65536")
    db.execute("CREATE TABLE person (id INTEGER PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL UNIQUE, city TEXT NOT NULL)")
    db.execute("CREATE INDEX person_city ON person (city)")

    def insert():
        for batch in rows.batches():
            db.execute("BEGIN")
            db.executemany("INSERT INTO person VALUES (?, ?, ?, ?)", batch)
            db.execute("COMMIT")

    timed("sqlite3: executemany", rows.rows, insert)
    own = [("bench", uuid(n), 1, *row[1:]) for n, row in enumerate(rows.all)]
    db.execute(
        "CREATE TABLE own (tenant TEXT NOT NULL, id BLOB NOT NULL, version INTEGER NOT NULL, name TEXT NOT NULL, "
        "email TEXT NOT NULL, city TEXT NOT NULL, PRIMARY KEY (tenant, id)) STRICT, WITHOUT ROWID"
    )
    db.execute("CREATE UNIQUE INDEX own_email ON own (tenant, email)")
    db.execute("CREATE INDEX own_city ON own (tenant, city)")

    def insert_own():
        for start in range(0, rows.rows, rows.commit):
            db.execute("BEGIN")
            db.executemany("INSERT INTO own VALUES (?, ?, ?, ?, ?, ?)", own[start:start + rows.commit])
            db.execute("COMMIT")

    timed("sqlite3: the store's table, executemany", rows.rows, insert_own)
    assert db.execute("SELECT count(*) FROM own").fetchone()[0] == rows.rows
    del own
    assert db.execute("SELECT count(*) FROM person").fetchone()[0] == rows.rows

    def get():
        for n in rows.some(20_000):
            assert db.execute("SELECT * FROM person WHERE id = ?", (n + 1,)).fetchone()[0] == n + 1

    timed("sqlite3: get by id, one by one", 20_000, get)

    def lookup():
        for n in rows.some(20_000):
            assert db.execute("SELECT * FROM person WHERE email = ?", (email(n),)).fetchone()[0] == n + 1

    timed("sqlite3: look-up by e-mail", 20_000, lookup)
    pages = min(4_000, rows.rows // 50)

    def page():
        last, seen = ("", 0), 0
        for _ in range(pages):
            found = db.execute("SELECT * FROM person WHERE (city, id) > (?, ?) ORDER BY city, id LIMIT 50", last).fetchall()
            last, seen = (found[-1][3], found[-1][0]), seen + len(found)
        assert seen == pages * 50

    timed("sqlite3: page of 50, ordered by an index", pages, page)

    def update():
        for n in rows.some(1_000):
            db.execute("BEGIN IMMEDIATE")
            db.execute("UPDATE person SET name = ?, email = ?, city = ? WHERE id = ?", (f"Eva Kask {n}", email(n), CITIES[n % 8], n + 1))
            db.execute("COMMIT")

    timed("sqlite3: update with commit", 1_000, update)
    db.close()


def alchemy(rows, folder, orm):
    import sqlalchemy as sa
    from sqlalchemy import orm as so

    name = "ORM" if orm else "Core"
    engine = sa.create_engine("sqlite:///" + os.path.join(folder, f"{name}.db"))

    @sa.event.listens_for(engine, "connect")
    def settings(connection, _record):
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA cache_size=-65536")

    base = so.declarative_base()

    class Person(base):
        __tablename__ = "person"
        id = sa.Column(sa.Integer, primary_key=True)
        name = sa.Column(sa.String, nullable=False)
        email = sa.Column(sa.String, nullable=False, unique=True)
        city = sa.Column(sa.String, nullable=False, index=True)

    base.metadata.create_all(engine)
    table = Person.__table__

    def insert():
        for batch in rows.batches():
            if orm:
                with so.Session(engine) as session:
                    session.add_all([Person(id=i, name=n, email=e, city=c) for i, n, e, c in batch])
                    session.commit()
            else:
                with engine.begin() as connection:
                    connection.execute(table.insert(), [dict(id=i, name=n, email=e, city=c) for i, n, e, c in batch])

    timed(f"SQLAlchemy {name}: insert", rows.rows, insert)

    def one(condition):
        if orm:
            with so.Session(engine) as session:
                return session.execute(sa.select(Person).where(condition)).scalar_one().id
        with engine.connect() as connection:
            return connection.execute(sa.select(table).where(condition)).one().id

    def get():
        for n in rows.some(5_000):
            assert one(table.c.id == n + 1) == n + 1

    timed(f"SQLAlchemy {name}: get by id, one by one", 5_000, get)

    def lookup():
        for n in rows.some(5_000):
            assert one(table.c.email == email(n)) == n + 1

    timed(f"SQLAlchemy {name}: look-up by e-mail", 5_000, lookup)
    pages = min(1_000, rows.rows // 50)

    def page():
        last, seen = ("", 0), 0
        for _ in range(pages):
            after = sa.tuple_(table.c.city, table.c.id) > sa.tuple_(*map(sa.literal, last))
            question = sa.select(Person if orm else table).where(after).order_by(table.c.city, table.c.id).limit(50)
            if orm:
                with so.Session(engine) as session:
                    found = [(row.id, row.city) for row in session.execute(question).scalars()]
            else:
                with engine.connect() as connection:
                    found = [(row.id, row.city) for row in connection.execute(question)]
            last, seen = (found[-1][1], found[-1][0]), seen + len(found)
        assert seen == pages * 50

    timed(f"SQLAlchemy {name}: page of 50, by an index", pages, page)

    def update():
        for n in rows.some(1_000):
            if orm:
                with so.Session(engine) as session:
                    session.get(Person, n + 1).name = f"Eva Kask {n}"
                    session.commit()
            else:
                with engine.begin() as connection:
                    values = dict(name=f"Eva Kask {n}", email=email(n), city=CITIES[n % 8])
                    connection.execute(table.update().where(table.c.id == n + 1).values(**values))

    timed(f"SQLAlchemy {name}: update with commit", 1_000, update)
    engine.dispose()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--commit", type=int, default=10_000)
    parser.add_argument("--peer", default="sqlite3,core,orm")
    parser.add_argument("--folder")
    arguments = parser.parse_args()
    rows = Rows(arguments.rows, arguments.commit)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for peer in arguments.peer.split(","):
            if peer == "sqlite3":
                plain(rows, folder)
            elif peer in ("core", "orm"):
                alchemy(rows, folder, peer == "orm")
            else:
                parser.error(f"no such peer: {peer}")


main()
