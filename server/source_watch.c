#include "server/source_watch.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/log.h"
#include "core/pg.h"
#include "ingest/heartbeat.h"

#define LOOK_US    (5 * US_PER_SECOND)
#define REPEAT_US  (10 * US_PER_MINUTE)
#define ANSWER_US  (10 * US_PER_SECOND)
#define PATH_BYTES (CONFIG_PATH_BYTES + 32)

/* What is known of one mapped table. */
struct published {
    uint32_t entry; /* pg_publication_rel; 0 = not by a row of its own, or not known */
    bool missing;
};

struct source_watch {
    const struct config *cfg;
    pthread_t thread;
    int wake[2]; /* closed for writing: stop */
    atomic_bool stop;
    PGconn *conn;
    char look_trouble[256]; /* logged last, "" = none */
    char beat_trouble[256];
    uint32_t publication;
    struct published tables[MAPPING_TABLES_MAX];
    struct log_limit slot_limit;
    pthread_mutex_t lock; /* guards what follows */
    struct source_slot slot;
};

static const struct source_slot no_slot = {-1, -1, -1};

static void state_path(const char *dir, const char *name, char out[PATH_BYTES])
{
    snprintf(out, PATH_BYTES, "%s/%s", dir, name);
}

/* ---- the lag ---- */

void source_lag_write(const char *state_dir, int64_t lag_us, int64_t at_us)
{
    char path[PATH_BYTES], fresh[PATH_BYTES];
    state_path(state_dir, "lag", path);
    state_path(state_dir, "lag.new", fresh);
    FILE *f = fopen(fresh, "we");
    if (!f)
        return;
    bool ok = fprintf(f, "%" PRId64 " %" PRId64 "\n", lag_us, at_us) > 0;
    ok &= fclose(f) == 0;
    if (!ok || rename(fresh, path) != 0)
        log_write(LOG_DEBUG, "source", "could not write the lag error=\"%s\"", strerror(errno));
}

bool source_lag_read(const char *state_dir, int64_t *ret_lag_us, int64_t *ret_at_us)
{
    char path[PATH_BYTES], line[64] = "";
    state_path(state_dir, "lag", path);
    FILE *f = fopen(path, "re");
    if (!f)
        return false;
    bool ok = fgets(line, sizeof(line), f) != NULL;
    fclose(f);
    return ok && sscanf(line, "%" SCNd64 " %" SCNd64, ret_lag_us, ret_at_us) == 2;
}

/* ---- the publication ---- */

void source_watch_forget(const char *state_dir)
{
    char path[PATH_BYTES];
    state_path(state_dir, "publication", path);
    (void)unlink(path);
}

static const struct mapping *table_at(const struct source_watch *w, size_t i)
{
    return &w->cfg->mappings.tables[i];
}

/* First the publication's OID, then a line "ENTRY SCHEMA.TABLE" each. */
static void read_known(struct source_watch *w)
{
    char path[PATH_BYTES], line[256], name[160];
    state_path(w->cfg->state_dir, "publication", path);
    FILE *f = fopen(path, "re");
    if (!f)
        return;
    if (fgets(line, sizeof(line), f))
        w->publication = (uint32_t)strtoul(line, NULL, 10);
    while (fgets(line, sizeof(line), f)) {
        char *rest = NULL;
        uint32_t entry = (uint32_t)strtoul(line, &rest, 10);
        line[strcspn(line, "\n")] = '\0';
        for (size_t i = 0; i < w->cfg->mappings.n; i++) {
            snprintf(name, sizeof(name), " %s.%s", table_at(w, i)->schema, table_at(w, i)->table);
            if (strcmp(rest, name) == 0)
                w->tables[i].entry = entry;
        }
    }
    fclose(f);
}

static void write_known(const struct source_watch *w)
{
    char path[PATH_BYTES], fresh[PATH_BYTES];
    state_path(w->cfg->state_dir, "publication", path);
    state_path(w->cfg->state_dir, "publication.new", fresh);
    FILE *f = fopen(fresh, "we");
    if (!f)
        return;
    bool ok = fprintf(f, "%" PRIu32 "\n", w->publication) > 0;
    for (size_t i = 0; i < w->cfg->mappings.n; i++)
        ok &= fprintf(f, "%" PRIu32 " %s.%s\n", w->tables[i].entry, table_at(w, i)->schema,
                      table_at(w, i)->table) > 0;
    ok &= fclose(f) == 0;
    if (!ok || rename(fresh, path) != 0)
        log_write(LOG_WARN, "source", "could not remember the publication error=\"%s\"",
                  strerror(errno));
}

/* entry: UINT32_MAX = the table is not published. */
static void settle_table(struct source_watch *w, size_t i, uint32_t entry, bool same_publication)
{
    struct published *t = &w->tables[i];
    const struct mapping *m = table_at(w, i);
    if (entry == UINT32_MAX) {
        if (!t->missing)
            log_write(LOG_ERROR, "source",
                      "a mapped table is not published: its changes are lost from now on "
                      "table=\"%s.%s\" publication=\"%s\" fix=\"ALTER PUBLICATION ... ADD TABLE, "
                      "then warmpath rebuild --all\"",
                      m->schema, m->table, w->cfg->publication);
        t->missing = true;
        return; /* the old entry is what the new one will be compared with */
    }
    if (same_publication && t->entry && entry && t->entry != entry)
        log_write(LOG_ERROR, "source",
                  "a mapped table was taken out of the publication and added again: what was "
                  "changed meanwhile is not counted table=\"%s.%s\" publication=\"%s\" "
                  "fix=\"warmpath rebuild --all\"",
                  m->schema, m->table, w->cfg->publication);
    t->missing = false;
    t->entry = entry;
}

static const char publication_sql[] =
    "SELECT p.oid, t.schemaname, t.tablename, coalesce(r.oid, 0::oid)"
    " FROM pg_catalog.pg_publication p"
    " LEFT JOIN pg_catalog.pg_publication_tables t ON t.pubname = p.pubname"
    " LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = t.schemaname"
    " LEFT JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename"
    " LEFT JOIN pg_catalog.pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid = c.oid"
    " WHERE p.pubname = ";

static uint32_t find_entry(const PGresult *res, const struct mapping *m)
{
    for (int row = 0; row < PQntuples(res); row++)
        if (strcmp(PQgetvalue(res, row, 1), m->schema) == 0 &&
            strcmp(PQgetvalue(res, row, 2), m->table) == 0)
            return (uint32_t)strtoul(PQgetvalue(res, row, 3), NULL, 10);
    return UINT32_MAX;
}

static enum status ask(struct source_watch *w, const char *sql, PGresult **ret, struct error *err)
{
    const struct pg_wait wait = {.clock = &clock_real, .wake_fd = w->wake[0], .wake_stops = true};
    CLEANUP(PQclearp) PGresult *res = NULL;
    enum status st = pg_command_all(w->conn, sql, ANSWER_US, &wait, &res, err);
    if (st) {
        PQfinish(TAKE(w->conn)); /* its answer may still come */
        return st;
    }
    if (!pg_succeeded(res))
        return pg_source_error(err, w->conn, res, "the source refuses");
    *ret = TAKE(res);
    return STATUS_OK;
}

/* sql, and a name as a literal at its end. */
static enum status query_about(struct buf *out, const char *sql, const char *name,
                               struct error *err)
{
    buf_init(out, 4096);
    enum status st = buf_append_str(out, str_from(sql));
    if (!st)
        st = pg_quote_literal(out, name);
    if (!st)
        st = buf_append(out, "", 1);
    return st ? error_set(err, st, "could not write a query") : STATUS_OK;
}

static enum status look_at_publication(struct source_watch *w, struct error *err)
{
    CLEANUP(buf_deinit) struct buf sql;
    CLEANUP(PQclearp) PGresult *res = NULL;
    enum status st = query_about(&sql, publication_sql, w->cfg->publication, err);
    if (!st)
        st = ask(w, sql.data, &res, err);
    if (st || PQntuples(res) == 0)
        return st; /* no publication: the slot will say so */
    uint32_t oid = (uint32_t)strtoul(PQgetvalue(res, 0, 0), NULL, 10);
    bool same = oid == w->publication;
    w->publication = oid;
    for (size_t i = 0; i < w->cfg->mappings.n; i++)
        settle_table(w, i, find_entry(res, table_at(w, i)), same);
    write_known(w);
    return STATUS_OK;
}

/* ---- the slot ---- */

static const char slot_sql[] =
    "SELECT s.wal_status, e.lsn - s.confirmed_flush_lsn, e.lsn - s.restart_lsn, s.safe_wal_size"
    " FROM pg_catalog.pg_replication_slots s,"
    " (SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()"
    " ELSE pg_catalog.pg_current_wal_insert_lsn() END AS lsn) e"
    " WHERE s.slot_name = ";

static int64_t bytes_of(const PGresult *res, int column)
{
    if (PQgetisnull(res, 0, column))
        return -1;
    int64_t bytes = strtoll(PQgetvalue(res, 0, column), NULL, 10);
    return bytes < 0 ? 0 : bytes;
}

static void set_slot(struct source_watch *w, struct source_slot slot)
{
    pthread_mutex_lock(&w->lock);
    w->slot = slot;
    pthread_mutex_unlock(&w->lock);
}

struct source_slot source_watch_slot(struct source_watch *w)
{
    pthread_mutex_lock(&w->lock);
    struct source_slot slot = w->slot;
    pthread_mutex_unlock(&w->lock);
    return slot;
}

static enum status look_at_slot(struct source_watch *w, struct error *err)
{
    CLEANUP(buf_deinit) struct buf sql;
    CLEANUP(PQclearp) PGresult *res = NULL;
    enum status st = query_about(&sql, slot_sql, w->cfg->slot, err);
    if (!st)
        st = ask(w, sql.data, &res, err);
    if (st || PQntuples(res) == 0)
        return st;
    set_slot(w, (struct source_slot){bytes_of(res, 1), bytes_of(res, 2), bytes_of(res, 3)});
    if (strcmp(PQgetvalue(res, 0, 0), "unreserved") != 0)
        return STATUS_OK;
    if (log_limit_pass(&w->slot_limit, clock_mono_us(&clock_real), REPEAT_US) >= 0)
        log_write(LOG_WARN, "source",
                  "the slot is about to be lost: the server will remove WAL it needs at its next "
                  "checkpoint slot=\"%s\" fix=\"raise max_slot_wal_keep_size now\"",
                  w->cfg->slot);
    return STATUS_OK;
}

/* ---- the thread ---- */

static enum status connect_source(struct source_watch *w, struct error *err)
{
    const struct pg_wait wait = {.clock = &clock_real, .wake_fd = w->wake[0], .wake_stops = true};
    const struct pg_options o = {.conninfo = w->cfg->source_conninfo,
                                 .application_name = "warmpath watch",
                                 .mode = PG_SOURCE,
                                 .setup = "SET statement_timeout = '10s'",
                                 .wait = &wait};
    if (w->conn && PQstatus(w->conn) == CONNECTION_OK)
        return STATUS_OK;
    PQfinish(TAKE(w->conn));
    return pg_open(&o, &w->conn, err);
}

static enum status beat(struct source_watch *w, struct error *err)
{
    CLEANUP(buf_deinit) struct buf sql;
    CLEANUP(PQclearp) PGresult *res = NULL;
    buf_init(&sql, 512);
    enum status st = connect_source(w, err);
    if (st)
        return st;
    if (heartbeat_sql(w->cfg->pipeline, clock_wall_us(&clock_real), &sql))
        return error_set(err, STATUS_LIMIT, "could not write a heartbeat");
    return ask(w, sql.data, &res, err);
}

/* What is not seen now is not known: a figure of before would look like one of now. */
static enum status look(struct source_watch *w, struct error *err)
{
    enum status st = connect_source(w, err);
    if (!st)
        st = look_at_publication(w, err);
    if (!st)
        st = look_at_slot(w, err);
    if (st)
        set_slot(w, no_slot);
    return st;
}

/* The same trouble once, until it is over or another. */
static void report(const struct source_watch *w, char trouble[256], const char *what,
                   enum status st, const struct error *err)
{
    if (st && strncmp(trouble, err->text, 255) != 0 && !atomic_load(&w->stop))
        log_write(LOG_WARN, "source", "%s, going on without error=\"%s\"", what, err->text);
    snprintf(trouble, 256, "%.255s", st ? err->text : "");
}

static void *watch_main(void *arg)
{
    struct source_watch *w = arg;
    const struct pg_wait wait = {.clock = &clock_real, .wake_fd = w->wake[0], .wake_stops = true};
    int64_t beat_us = w->cfg->heartbeat_us;
    int64_t next_look = clock_mono_us(&clock_real);
    int64_t next_beat = beat_us > 0 ? next_look : INT64_MAX;
    read_known(w);
    while (!atomic_load(&w->stop)) {
        struct pg_ready ready;
        struct error err = {0};
        int64_t now = clock_mono_us(&clock_real);
        if (now >= next_beat) {
            report(w, w->beat_trouble, "could not send a heartbeat", beat(w, &err), &err);
            next_beat = now + beat_us;
        }
        if (now >= next_look) {
            report(w, w->look_trouble, "could not look at the source", look(w, &err), &err);
            next_look = now + LOOK_US;
        }
        int64_t next = next_beat < next_look ? next_beat : next_look;
        if (pg_poll(-1, false, false, next - clock_mono_us(&clock_real), &wait, &ready, NULL))
            break;
    }
    return NULL;
}

static void watch_free(struct source_watch *w)
{
    PQfinish(w->conn);
    close(w->wake[0]);
    close(w->wake[1]);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

enum status source_watch_start(const struct config *cfg, struct source_watch **ret,
                               struct error *err)
{
    struct source_watch *w = calloc(1, sizeof(*w));
    if (!w)
        return error_set(err, STATUS_NOMEM, "could not allocate the watch over the source");
    w->cfg = cfg;
    w->slot = no_slot;
    if (cfg->heartbeat_us == 0) {
        char path[PATH_BYTES]; /* of a time when there were any */
        state_path(cfg->state_dir, "lag", path);
        (void)unlink(path);
    }
    if (pipe2(w->wake, O_NONBLOCK | O_CLOEXEC) != 0) {
        free(w);
        return error_set(err, STATUS_IO, "could not open a pipe: %s", strerror(errno));
    }
    pthread_mutex_init(&w->lock, NULL);
    int rc = pthread_create(&w->thread, NULL, watch_main, w);
    if (rc) {
        watch_free(w);
        return error_set(err, STATUS_NOMEM, "could not start a thread (error %d)", rc);
    }
    *ret = w;
    return STATUS_OK;
}

void source_watch_stop(struct source_watch *w)
{
    if (!w)
        return;
    atomic_store(&w->stop, true);
    ssize_t ignored = write(w->wake[1], "w", 1);
    (void)ignored;
    pthread_join(w->thread, NULL);
    watch_free(w);
}
