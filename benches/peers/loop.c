/* What a hand-written program would do: prepared statements over the same tables with the same rows, in C.
 *
 *   loop SOURCE TARGET COMMIT
 *
 * SOURCE is a store that `cargo bench --bench store -- --section full --folder ...` left. Its tables and indexes are made
 * anew in TARGET, its rows read into memory, and then, measured, inserted one by one by prepared statements, a commit every
 * COMMIT customers, WAL and synchronous=FULL as the store has it. Nothing is parsed, matched or looked up. */
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

static const char *TABLES[] = {"crm_customer", "crm_contact_point", "crm_external_ref"};
enum { COUNT = 3 };

struct rows {
  int columns;
  long count, room;
  sqlite3_value **values;
};

static void ok(sqlite3 *db, int code) {
  if (code != SQLITE_OK && code != SQLITE_DONE && code != SQLITE_ROW) {
    fprintf(stderr, "%s\n", sqlite3_errmsg(db));
    exit(1);
  }
}

static double seconds(struct timeval t) { return t.tv_sec + t.tv_usec / 1e6; }

static double cpu(void) {
  struct rusage used;
  getrusage(RUSAGE_SELF, &used);
  return seconds(used.ru_utime) + seconds(used.ru_stime);
}

static double wall(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec + now.tv_nsec / 1e9;
}

static void run(sqlite3 *db, const char *sql) { ok(db, sqlite3_exec(db, sql, 0, 0, 0)); }

int main(int argc, char **argv) {
  if (argc != 4) {
    fprintf(stderr, "loop SOURCE TARGET COMMIT\n");
    return 2;
  }
  long commit = atol(argv[3]);
  sqlite3 *source, *db;
  ok(0, sqlite3_open_v2(argv[1], &source, SQLITE_OPEN_READWRITE, 0));
  ok(0, sqlite3_open(argv[2], &db));
  run(db, "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA cache_size=-65536; PRAGMA wal_autocheckpoint=16384");
  struct rows all[COUNT];
  sqlite3_stmt *insert[COUNT];
  for (int t = 0; t < COUNT; t++) {
    char sql[4096];
    sqlite3_stmt *read;
    snprintf(sql, sizeof sql, "SELECT sql FROM sqlite_schema WHERE tbl_name = '%s' AND sql IS NOT NULL ORDER BY type DESC", TABLES[t]);
    ok(source, sqlite3_prepare_v2(source, sql, -1, &read, 0));
    while (sqlite3_step(read) == SQLITE_ROW) run(db, (const char *)sqlite3_column_text(read, 0));
    sqlite3_finalize(read);
    snprintf(sql, sizeof sql, "SELECT * FROM %s ORDER BY tenant, id", TABLES[t]);
    ok(source, sqlite3_prepare_v2(source, sql, -1, &read, 0));
    struct rows *rows = &all[t];
    memset(rows, 0, sizeof *rows);
    rows->columns = sqlite3_column_count(read);
    while (sqlite3_step(read) == SQLITE_ROW) {
      if (rows->count == rows->room) {
        rows->room = rows->room ? rows->room * 2 : 1024;
        rows->values = realloc(rows->values, rows->room * rows->columns * sizeof *rows->values);
      }
      for (int c = 0; c < rows->columns; c++)
        rows->values[rows->count * rows->columns + c] = sqlite3_value_dup(sqlite3_column_value(read, c));
      rows->count++;
    }
    sqlite3_finalize(read);
    int at = snprintf(sql, sizeof sql, "INSERT INTO %s VALUES (?", TABLES[t]);
    for (int c = 1; c < rows->columns; c++) at += snprintf(sql + at, sizeof sql - at, ", ?");
    snprintf(sql + at, sizeof sql - at, ")");
    ok(db, sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, &insert[t], 0));
  }
  long customers = all[0].count, done[COUNT] = {0};
  double began = wall(), used = cpu();
  for (long n = 0; n < customers; n++) {
    if (n % commit == 0) run(db, "BEGIN IMMEDIATE");
    for (int t = 0; t < COUNT; t++) {
      /* The rows of this customer: tables grow evenly. */
      long to = all[t].count * (n + 1) / customers;
      for (; done[t] < to; done[t]++) {
        for (int c = 0; c < all[t].columns; c++)
          ok(db, sqlite3_bind_value(insert[t], c + 1, all[t].values[done[t] * all[t].columns + c]));
        ok(db, sqlite3_step(insert[t]));
        ok(db, sqlite3_reset(insert[t]));
      }
    }
    if ((n + 1) % commit == 0 || n + 1 == customers) run(db, "COMMIT");
  }
  began = wall() - began;
  used = cpu() - used;
  printf("%-44s %9ld %9.2f %10.0f %9.2f %12.2f\n", "C: prepared statements, full customers", customers, began, customers / began, used,
         used * 1e6 / customers);
  sqlite3_close(db);
  return 0;
}
