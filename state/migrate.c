#include "state/migrate.h"

#include "core/hash.h"
#include "core/pg.h"

#include <assert.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Session-level, so that it spans the transactions of all migrations; the number is arbitrary but
 * must never change: "wpmigrat" in ASCII. */
#define LOCK_KEY "8605510806091653492"

#define TABLE_SQL                                             \
    "CREATE TABLE IF NOT EXISTS %s (version INT PRIMARY KEY," \
    " name TEXT NOT NULL, checksum TEXT NOT NULL, applied_at TIMESTAMPTZ NOT NULL DEFAULT now())"

/* Made by tools/embed.py. */
extern const struct migration cache_migrations[], compat_migrations[];
extern const int n_cache_migrations, n_compat_migrations;

const struct migration_set migrate_cache = {
    .table = "strategic_migrations", .list = cache_migrations, .n = &n_cache_migrations};
const struct migration_set migrate_compat = {.table = "strategic_compat_migrations",
                                             .list = compat_migrations,
                                             .n = &n_compat_migrations,
                                             .on = &migrate_cache};

struct applied {
    int version;
    char name[64];
    char checksum[20];
    char at[32];
};

/* What the table of a set says, oldest first. */
struct history {
    struct applied *rows;
    int n;
};

static void history_deinit(struct history *h)
{
    free(h->rows);
    *h = (struct history){0};
}

static void checksum_of(const struct migration *m, char out[20])
{
    snprintf(out, 20, "%016" PRIx64, hash64(str_from(m->up)));
}

static const struct migration *find_migration(const struct migration_set *set, int version)
{
    assert(set->list);
    /* Versions are dense from 1: the build refuses a hole. */
    return version >= 1 && version <= *set->n ? &set->list[version - 1] : NULL;
}

static enum status open_connection(const char *conninfo, bool lock, PGconn **ret, struct error *err)
{
    struct pg_options o = {
        .conninfo = conninfo,
        .application_name = "warmpath migrate",
        .setup = "SET lock_timeout = '60s'; SET statement_timeout = 0",
    };
    CLEANUP(PQfinishp) PGconn *conn = NULL;
    enum status st = pg_open(&o, &conn, err);
    if (st)
        return st;
    if (lock)
        st = pg_exec(conn, "SELECT pg_advisory_lock(" LOCK_KEY ")",
                     "could not wait for another migration to end", err);
    if (st)
        return st;
    *ret = TAKE(conn);
    return STATUS_OK;
}

static enum status read_history(PGconn *conn, const struct migration_set *set, struct history *ret,
                                struct error *err)
{
    CLEANUP(PQclearp) PGresult *there = NULL;
    enum status st =
        pg_query(conn, "SELECT to_regclass(quote_ident(current_schema()) || '.' || $1) IS NOT NULL",
                 1, &set->table, "could not look for the migrations' table", &there, err);
    if (st)
        return st;
    if (*PQgetvalue(there, 0, 0) != 't') {
        *ret = (struct history){0};
        return STATUS_OK;
    }
    CLEANUP(PQclearp) PGresult *res = NULL;
    char sql[256];
    snprintf(sql, sizeof(sql),
             "SELECT version, name, checksum, to_char(applied_at AT TIME ZONE 'UTC',"
             " 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') FROM %s ORDER BY version",
             set->table);
    st = pg_query(conn, sql, 0, NULL, "could not read the migrations' table", &res, err);
    if (st)
        return st;
    int n = PQntuples(res);
    struct applied *rows = calloc((size_t)n + 1, sizeof(*rows));
    if (!rows)
        return error_set(err, STATUS_NOMEM, "could not allocate %d migrations", n);
    for (int i = 0; i < n; i++) {
        rows[i].version = (int)strtoll(PQgetvalue(res, i, 0), NULL, 10);
        snprintf(rows[i].name, sizeof(rows[i].name), "%s", PQgetvalue(res, i, 1));
        snprintf(rows[i].checksum, sizeof(rows[i].checksum), "%s", PQgetvalue(res, i, 2));
        snprintf(rows[i].at, sizeof(rows[i].at), "%s", PQgetvalue(res, i, 3));
    }
    *ret = (struct history){rows, n};
    return STATUS_OK;
}

/* What was applied must be what this program holds: otherwise neither going up nor down from here
 * means what it says. */
static enum status check_history(const struct migration_set *set, const struct history *h,
                                 struct error *err)
{
    for (int i = 0; i < h->n; i++) {
        const struct applied *a = &h->rows[i];
        const struct migration *m = find_migration(set, a->version);
        if (!m)
            return error_set(err, STATUS_REFUSED,
                             "the database has migration %04d_%s, which this program does not know:"
                             " it was made by a newer version; use that version",
                             a->version, a->name);
        char checksum[20];
        checksum_of(m, checksum);
        if (strcmp(checksum, a->checksum) != 0)
            return error_set(err, STATUS_REFUSED,
                             "migration %04d_%s was applied at %s with another text (checksum %s,"
                             " now %s): applied migrations must not change; use the version of the"
                             " program that applied it, or add a new migration",
                             a->version, a->name, a->at, a->checksum, checksum);
        if (a->version != i + 1)
            return error_set(err, STATUS_REFUSED, "migration %04d is applied, but %04d is not",
                             a->version, i + 1);
    }
    return STATUS_OK;
}

/* Connects, waits for its turn, and reads the history, which must be one to go on from. What is
 * opened is the caller's also on failure. */
static enum status open_to_change(const struct migration_set *set, const char *conninfo,
                                  PGconn **ret, struct history *ret_history, struct error *err)
{
    enum status st = open_connection(conninfo, true, ret, err);
    if (!st)
        st = read_history(*ret, set, ret_history, err);
    return st ? st : check_history(set, ret_history, err);
}

/* A set that stands on another needs all of it. */
static enum status check_base(PGconn *conn, const struct migration_set *set, struct error *err)
{
    if (!set->on)
        return STATUS_OK;
    CLEANUP(history_deinit) struct history h = {0};
    enum status st = read_history(conn, set->on, &h, err);
    if (!st && h.n < *set->on->n)
        st = error_set(err, STATUS_REFUSED,
                       "the cache tables are not up to date: `warmpath migrate up` comes first");
    return st;
}

/* And goes before anything below it. */
static enum status check_compat_gone(PGconn *conn, const struct migration_set *set,
                                     struct error *err)
{
    if (migrate_compat.on != set)
        return STATUS_OK;
    CLEANUP(history_deinit) struct history h = {0};
    enum status st = read_history(conn, &migrate_compat, &h, err);
    if (!st && h.n > 0)
        st = error_set(err, STATUS_REFUSED,
                       "the views of the compatibility pack read these tables:"
                       " `warmpath migrate compat down` comes first");
    return st;
}

/* Runs sql and note in one transaction. */
static enum status run_step(PGconn *conn, const char *sql, const char *note, const char *what,
                            struct error *err)
{
    enum status st = pg_exec(conn, "BEGIN", what, err);
    if (!st)
        st = pg_exec(conn, sql, what, err);
    if (!st)
        st = pg_exec(conn, note, what, err);
    if (!st)
        return pg_exec(conn, "COMMIT", what, err);
    /* The connection is closed right after a failure, but its advisory lock should go only once the
     * transaction is gone. */
    pg_rollback(conn);
    return st;
}

enum status migrate_up(const struct migration_set *set, const char *conninfo,
                       void (*fn)(void *ctx, const char *line), void *ctx, struct error *err)
{
    CLEANUP(PQfinishp) PGconn *conn = NULL;
    CLEANUP(history_deinit) struct history h = {0};
    enum status st = open_to_change(set, conninfo, &conn, &h, err);
    if (!st)
        st = check_base(conn, set, err);
    for (int i = h.n; !st && i < *set->n; i++) {
        const struct migration *m = &set->list[i];
        char checksum[20];
        checksum_of(m, checksum);
        char note[512];
        snprintf(note, sizeof(note),
                 TABLE_SQL "; INSERT INTO %s (version, name, checksum) VALUES (%d, '%s', '%s')",
                 set->table, set->table, m->version, m->name, checksum);
        char what[128];
        snprintf(what, sizeof(what), "could not apply migration %04d_%s", m->version, m->name);
        st = run_step(conn, m->up, note, what, err);
        if (!st) {
            char line[128];
            snprintf(line, sizeof(line), "applied %04d_%s", m->version, m->name);
            fn(ctx, line);
        }
    }
    return st;
}

enum status migrate_down(const struct migration_set *set, const char *conninfo, int steps,
                         void (*fn)(void *ctx, const char *line), void *ctx, struct error *err)
{
    assert(steps >= 0);
    CLEANUP(PQfinishp) PGconn *conn = NULL;
    CLEANUP(history_deinit) struct history h = {0};
    enum status st = open_to_change(set, conninfo, &conn, &h, err);
    if (!st)
        st = check_compat_gone(conn, set, err);
    int last = steps == 0 || steps > h.n ? 0 : h.n - steps;
    for (int i = h.n; !st && i > last; i--) {
        const struct migration *m = &set->list[i - 1];
        char note[128];
        if (i == 1)
            snprintf(note, sizeof(note), "DROP TABLE %s", set->table);
        else
            snprintf(note, sizeof(note), "DELETE FROM %s WHERE version = %d", set->table, i);
        char what[128];
        snprintf(what, sizeof(what), "could not revert migration %04d_%s", m->version, m->name);
        st = run_step(conn, m->down, note, what, err);
        if (!st) {
            char line[128];
            snprintf(line, sizeof(line), "reverted %04d_%s", m->version, m->name);
            fn(ctx, line);
        }
    }
    return st;
}

enum status migrate_status(const struct migration_set *set, const char *conninfo,
                           void (*fn)(void *ctx, const char *line), void *ctx, bool *ret_pending,
                           struct error *err)
{
    CLEANUP(PQfinishp) PGconn *conn = NULL;
    enum status st = open_connection(conninfo, false, &conn, err);
    if (st)
        return st;
    CLEANUP(history_deinit) struct history h = {0};
    st = read_history(conn, set, &h, err);
    if (st)
        return st;
    char line[192];
    for (int i = 0; i < h.n; i++) {
        const struct applied *a = &h.rows[i];
        const struct migration *m = find_migration(set, a->version);
        char checksum[20] = "";
        if (m)
            checksum_of(m, checksum);
        const char *note = !m                                   ? " (unknown to this program)"
                           : strcmp(checksum, a->checksum) != 0 ? " (its text has changed since)"
                                                                : "";
        snprintf(line, sizeof(line), "%04d %s applied %s%s", a->version, a->name, a->at, note);
        fn(ctx, line);
    }
    for (int i = h.n; i < *set->n; i++) {
        snprintf(line, sizeof(line), "%04d %s pending", set->list[i].version, set->list[i].name);
        fn(ctx, line);
    }
    *ret_pending = h.n < *set->n;
    return STATUS_OK;
}
