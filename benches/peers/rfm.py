#!/usr/bin/env python3
"""RFM of many orders: `aggregate` of the store beside the same GROUP BY typed into the database's own client.

    rfm.py --url URL [--orders N] [--customers N] [--server PID] PROGRAM

Makes the orders of benches/store/rfm.rs with the database's own means (through `apply` it takes longer), has the store
group them, then the client. URL is postgres:, mysql: or sqlite:PATH; PROGRAM is the compiled benches/store.rs.
"""

import argparse
import os
import resource
import sqlite3
import subprocess
import time
import urllib.parse

COLUMNS = "tenant, id, version, customer_id, at, total_minor"
# The formula of an order by its number, as SQL.
AT = "(1700000000 + n * 7919 % 31536000) * 1000000"
TOTAL = "100 + n * 104729 % 50000"
# Rows of one statement: a size no server minds.
STEP = 500_000


class Database:
    def __init__(self, url, orders, customers):
        self.orders, self.customers, self.environment = orders, customers, dict(os.environ)
        self.file = url[7:] if url.startswith("sqlite:") else None
        if self.file:
            self.client, self.key = ["sqlite3", "-batch", self.file], "hex(customer_id)"
            return
        parts = urllib.parse.urlsplit(url)
        host, port, database = parts.hostname, str(parts.port), parts.path.strip("/")
        user, password = urllib.parse.unquote(parts.username), urllib.parse.unquote(parts.password or "")
        self.postgres = url.startswith("postgres")
        if self.postgres:
            self.client = ["psql", "--no-psqlrc", "-q", "-t", "-A", "-v", "ON_ERROR_STOP=1", "-h", host, "-p", port, "-U", user, "-d", database]
            self.key, self.environment["PGPASSWORD"] = "customer_id", password
        else:
            self.client = ["mariadb", "--no-defaults", "--protocol=tcp", f"--host={host}", f"--port={port}", f"--user={user}",
                           "--skip-column-names", "--batch", "--quick", database]
            self.key, self.environment["MYSQL_PWD"] = "customer_id", password

    def ask(self, sql):
        return subprocess.run(self.client, input=sql.encode(), stdout=subprocess.PIPE, env=self.environment, check=True).stdout.decode()

    def fill(self):
        if self.file:
            return self.fill_file()
        who = f"n * 48271 % {self.customers}"
        for start in range(0, self.orders, STEP):
            last = min(self.orders, start + STEP) - 1
            if self.postgres:
                identity = "('01900000-0000-7000-{}-' || lpad(to_hex({}), 12, '0'))::uuid"
                numbers = f"(SELECT generate_series({start}::bigint, {last}) AS n) numbers"
            else:
                identity = "UNHEX(CONCAT('0190000000007000{}', LPAD(HEX({}), 12, '0')))"
                numbers = f"(SELECT CAST(seq AS SIGNED) AS n FROM seq_{start}_to_{last}) numbers"
            self.ask(f"INSERT INTO bench_order ({COLUMNS}) SELECT 'rfm', {identity.format('c000', 'n')}, 1,"
                     f" {identity.format('8000', who)}, {AT}, {TOTAL} FROM {numbers};")
        self.ask("ANALYZE bench_order;" if self.postgres else "ANALYZE TABLE bench_order;")

    def fill_file(self):
        orders, customers = bytes.fromhex("0190000000007000c000"), bytes.fromhex("01900000000070008000")
        rows = ((orders + n.to_bytes(6, "big"), customers + (n * 48271 % self.customers).to_bytes(6, "big"),
                 (1700000000 + n * 7919 % 31536000) * 1000000, 100 + n * 104729 % 50000) for n in range(self.orders))
        db = sqlite3.connect(self.file)
        db.executemany(f"INSERT INTO bench_order ({COLUMNS}) VALUES ('rfm', ?, 1, ?, ?, ?)", rows)
        db.commit()
        db.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--orders", type=int, default=10_000_000)
    parser.add_argument("--customers", type=int, default=100_000)
    parser.add_argument("--server", type=int)
    parser.add_argument("program")
    arguments = parser.parse_args()
    store = [arguments.program, "--store", arguments.url]
    subprocess.run([*store, "--section", "tables"], check=True)
    database = Database(arguments.url, arguments.orders, arguments.customers)
    there = database.ask("SELECT count(*) FROM bench_order WHERE tenant = 'rfm';").strip()
    if there == "0":
        start = time.perf_counter()
        database.fill()
        print(f"{arguments.orders} orders made in {time.perf_counter() - start:.0f} s", flush=True)
    server = ["--server", str(arguments.server)] if arguments.server else []
    store += ["--section", "rfm", "--orders", str(arguments.orders), "--customers", str(arguments.customers)]
    subprocess.run([*store, *server], check=True)
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    answer = database.ask(f"SELECT {database.key}, max(at), count(*), sum(total_minor) FROM bench_order WHERE tenant = 'rfm'"
                          " GROUP BY customer_id ORDER BY customer_id;")
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert answer.count("\n") == min(arguments.orders, arguments.customers)
    count = arguments.orders
    print(f"{database.client[0] + ': the same, typed by hand':<44} {count:>9} {wall:>9.2f} {count / wall:>10.0f} {used:>9.2f} {used * 1e6 / count:>12.2f}")


main()
