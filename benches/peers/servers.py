#!/usr/bin/env python3
"""A database's own tools at the rows that benches/store.rs stored there: psql, COPY, pgbench; mariadb, LOAD DATA.

    servers.py --url postgres://user:password@host:port/database --tenant NAME [--server PID] [--commit ROWS]

The table of the peer is made like the store's own (same columns, same indexes), and gets the very rows that the store
has, so many a commit as the store had. The time is that of the client program and, with --server, of the database's
processes. One line a measurement, as benches/store.rs prints it. Every measurement checks its own answers.
"""

import argparse
import os
import resource
import subprocess
import tempfile
import time
import urllib.parse

TICK = os.sysconf("SC_CLK_TCK")


def cpu():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def server_cpu(root):
    """The processor time of a process and of all it started, those that ended too."""
    parents, times = {}, {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = open(f"/proc/{name}/stat").read().rsplit(") ", 1)[1].split()
            except OSError:
                continue
            parents[int(name)], times[int(name)] = int(fields[1]), sum(map(int, fields[11:15]))

    def under(pid):
        while pid != root and pid > 1:
            pid = parents.get(pid, 0)
        return pid == root

    return sum(used for pid, used in times.items() if under(pid)) / TICK


class Peer:
    def __init__(self, arguments):
        self.arguments = arguments
        url = urllib.parse.urlsplit(arguments.url)
        self.host, self.port, self.database = url.hostname, str(url.port), url.path.strip("/")
        self.user, self.password = urllib.parse.unquote(url.username), urllib.parse.unquote(url.password or "")

    def timed(self, what, count, work):
        pid = self.arguments.server
        wall, before, theirs = time.perf_counter(), cpu(), server_cpu(pid) if pid else 0
        answer = work()
        wall, used = time.perf_counter() - wall, cpu() - before
        server = f" {(server_cpu(pid) - theirs) * 1e6 / count:>12.2f}" if pid else ""
        print(f"{what:<44} {count:>9} {wall:>9.2f} {count / wall:>10.0f} {used:>9.2f} {used * 1e6 / count:>12.2f}{server}", flush=True)
        return answer

    def run(self, command, text=None, out=subprocess.PIPE, file=None):
        done = subprocess.run(command, input=text, stdin=file, stdout=out, env=self.environment, check=True)
        return done.stdout.decode() if done.stdout else ""


class Postgres(Peer):
    name = "PostgreSQL"

    def __init__(self, arguments):
        super().__init__(arguments)
        self.environment = dict(os.environ, PGPASSWORD=self.password)
        self.place = ["-h", self.host, "-p", self.port, "-U", self.user]
        self.psql = ["psql", "--no-psqlrc", "-q", "-t", "-A", "-v", "ON_ERROR_STOP=1", *self.place, "-d", self.database]

    def ask(self, sql):
        return self.run([*self.psql, "-c", sql]).strip()

    def pgbench(self, sql, callers, each, folder):
        path = os.path.join(folder, "script.sql")
        with open(path, "w") as script:
            script.write(sql)
        self.run(["pgbench", *self.place, "-n", "-M", "prepared", "-c", str(callers), "-j", "1", "-t", str(each), "-f", path, self.database])

    def measure(self, folder):
        tenant, commit = self.arguments.tenant, self.arguments.commit
        rows = int(self.ask(f"SELECT count(*) FROM bench_person WHERE tenant = '{tenant}'"))
        assert rows, "no rows: run benches/store.rs with the same --tenant first"
        self.ask("DROP TABLE IF EXISTS peer; CREATE TABLE peer (LIKE bench_person INCLUDING ALL)")
        whole, script = os.path.join(folder, "rows"), os.path.join(folder, "copy.sql")
        with open(whole, "wb") as out:
            self.run([*self.psql, "-c", f"COPY (SELECT * FROM bench_person WHERE tenant = '{tenant}' ORDER BY id) TO STDOUT"], out=out)
        with open(whole, "rb") as lines, open(script, "wb") as out:
            for n, line in enumerate(lines):
                if n % commit == 0:
                    out.write(b"\\.\n" * (n > 0) + b"COPY peer FROM STDIN;\n")
                out.write(line)
            out.write(b"\\.\n")
        self.timed("COPY FROM STDIN, UNIQUE e-mail and one index", rows, lambda: self.run([*self.psql, "-f", script]))
        assert int(self.ask("SELECT count(*) FROM peer")) == rows
        # pgbench asks with a prepared statement, and reads keys it chooses itself from a table of numbers.
        self.ask("DROP TABLE IF EXISTS peer_key; CREATE TABLE peer_key (n int PRIMARY KEY, id uuid NOT NULL, email text NOT NULL);"
                 " INSERT INTO peer_key SELECT row_number() OVER (ORDER BY id), id, email FROM peer; ANALYZE peer; ANALYZE peer_key")
        keys = [line.split("|") for line in self.ask("SELECT id, email FROM peer_key ORDER BY (n::bigint * 7919) % 999983 LIMIT 20000").split("\n")]

        def one_by_one(condition):
            text = "".join(f"SELECT * FROM peer WHERE tenant = '{tenant}' AND {condition(*key)};\n" for key in keys)
            assert self.run(self.psql, text.encode()).count("\n") == len(keys)

        self.timed("psql: get by id, one by one", len(keys), lambda: one_by_one(lambda i, _: f"id = '{i}'"))
        self.timed("psql: look-up by e-mail", len(keys), lambda: one_by_one(lambda _, e: f"email = '{e}'"))
        update = f"\\set n random(1, {rows})\nUPDATE peer SET name = 'Eva Kask', version = version + 1 WHERE tenant = '{tenant}' AND id = (SELECT id FROM peer_key WHERE n = :n);\n"
        for callers, each in ((1, 1_000), (64, 2_000)):
            self.timed(f"pgbench: update with commit, {callers} caller(s)", callers * each, lambda: self.pgbench(update, callers, each, folder))
        self.ask("DROP TABLE peer; DROP TABLE peer_key")
        wide = int(self.ask(f"SELECT count(*) FROM bench_profile WHERE tenant = '{tenant}'"))
        if wide:
            columns = "id, given_name, family_name, city, country, plan, visits, orders, spent, active, created_at, seen_at"
            with open(os.devnull, "wb") as out:
                command = [*self.psql, "-c", f"COPY (SELECT {columns} FROM bench_profile WHERE tenant = '{tenant}') TO STDOUT"]
                self.timed("COPY TO STDOUT, 12 columns, thrown away", wide, lambda: self.run(command, out=out))


class MariaDb(Peer):
    name = "MariaDB"

    def __init__(self, arguments):
        super().__init__(arguments)
        self.environment = dict(os.environ, MYSQL_PWD=self.password)
        self.client = ["mariadb", "--no-defaults", "--protocol=tcp", f"--host={self.host}", f"--port={self.port}", f"--user={self.user}",
                       "--skip-column-names", "--batch", "--quick", "--local-infile=1", "--default-character-set=utf8mb4", self.database]

    def ask(self, sql):
        return self.run([*self.client, "-e", sql]).strip()

    def measure(self, folder):
        tenant, commit = self.arguments.tenant, self.arguments.commit
        rows = int(self.ask(f"SELECT count(*) FROM bench_person WHERE tenant = '{tenant}'"))
        assert rows, "no rows: run benches/store.rs with the same --tenant first"
        self.ask("DROP TABLE IF EXISTS peer; CREATE TABLE peer LIKE bench_person")
        columns = self.ask("SELECT GROUP_CONCAT(COLUMN_NAME ORDER BY ORDINAL_POSITION) FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 'bench_person'").split(",")
        listed = ", ".join(columns)
        # Ids are bytes; they go through the file as digits and are put together again, as one does with this tool.
        shown = ", ".join("HEX(id)" if name == "id" else name for name in columns)
        taken = ", ".join("@id" if name == "id" else name for name in columns)
        whole = os.path.join(folder, "rows")
        with open(whole, "wb") as out:
            self.run([*self.client, "-e", f"SELECT {shown} FROM bench_person WHERE tenant = '{tenant}' ORDER BY id"], out=out)
        script, part = [], None
        with open(whole, "rb") as lines:
            for n, line in enumerate(lines):
                if n % commit == 0:
                    if part:
                        part.close()
                    path = f"{whole}.{n // commit}"
                    part = open(path, "wb")
                    script.append(f"LOAD DATA LOCAL INFILE '{path}' INTO TABLE peer CHARACTER SET utf8mb4 ({taken}) SET id = UNHEX(@id);\n")
                part.write(line)
        part.close()
        self.timed("LOAD DATA LOCAL, UNIQUE e-mail and one index", rows, lambda: self.run(self.client, "".join(script).encode()))
        assert int(self.ask("SELECT count(*) FROM peer")) == rows
        keys = [line.split("\t") for line in self.ask("SELECT HEX(id), email FROM peer ORDER BY CRC32(email) LIMIT 20000").split("\n")]

        def one_by_one(condition):
            text = "".join(f"SELECT {shown} FROM peer WHERE tenant = '{tenant}' AND {condition(*key)};\n" for key in keys)
            assert self.run(self.client, text.encode()).count("\n") == len(keys)

        self.timed("mariadb: get by id, one by one", len(keys), lambda: one_by_one(lambda i, _: f"id = x'{i}'"))
        self.timed("mariadb: look-up by e-mail", len(keys), lambda: one_by_one(lambda _, e: f"email = '{e}'"))
        text = "".join(f"UPDATE peer SET name = 'Eva Kask', version = version + 1 WHERE tenant = '{tenant}' AND id = x'{i}';\n" for i, _ in keys[:1000])
        self.timed("mariadb: update with commit, 1 caller(s)", 1000, lambda: self.run(self.client, text.encode()))
        self.ask("DROP TABLE peer")
        wide = int(self.ask(f"SELECT count(*) FROM bench_profile WHERE tenant = '{tenant}'"))
        if wide:
            columns = "HEX(id), given_name, family_name, city, country, plan, visits, orders, spent, active, created_at, seen_at"
            with open(os.devnull, "wb") as out:
                command = [*self.client, "-e", f"SELECT {columns} FROM bench_profile WHERE tenant = '{tenant}'"]
                self.timed("mariadb: SELECT, 12 columns, thrown away", wide, lambda: self.run(command, out=out))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--tenant", required=True)
    parser.add_argument("--server", type=int)
    parser.add_argument("--commit", type=int, default=10_000)
    parser.add_argument("--folder")
    arguments = parser.parse_args()
    scheme = arguments.url.split(":", 1)[0]
    kind = {"postgres": Postgres, "postgresql": Postgres, "mysql": MariaDb, "mariadb": MariaDb}.get(scheme)
    if kind is None:
        parser.error(f"no tools for {scheme}:")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        kind(arguments).measure(folder)


main()
