#include "state/sink_writer.h"

#include "core/clock.h"
#include "state/fault.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A batch takes milliseconds; a server that is silent this long is treated as gone. */
#define APPLICATION_NAME     "warmpath sink"
#define SILENCE_US           (60 * US_PER_SECOND)
#define CONNECT_TIMEOUT_US   (10 * US_PER_SECOND)
#define LOCK_TIMEOUT_US      (5 * US_PER_SECOND)
#define STATEMENT_TIMEOUT_US (30 * US_PER_SECOND)
#define ARRAY_BYTES_MAX      (128u << 20)
/* A payload and the names of its tables, for every row of a transaction. */
#define ANNOUNCED_BYTES_MAX ((size_t)LIMIT_SINK_BATCH_ROWS * (LIMIT_NOTIFY_BYTES + 1024))

/* Which statement of the pipeline a result belongs to: decides what its failure means. */
enum step_kind {
    STEP_PLAIN,
    STEP_UPSERT,
    STEP_REMOVE,
    STEP_TOUCH,
    STEP_ACTIVITY,
    STEP_NOTIFY,
    STEP_SWEEP,
    STEP_CHARACTER,
};

struct step {
    enum step_kind kind;
    size_t table;
    size_t from, to; /* the nodes of the table */
    size_t sent;     /* rows in the statement */
};

/* BEGIN, fence, per table three, activity, characters, progress, heartbeats, notify, COMMIT; or
 * what connecting takes. */
#define STEPS_MAX (3 * LIMIT_TABLES + 20)

struct script {
    struct sink_writer *w;
    struct sink_node **nodes;
    struct sink_counts counts;
    struct step steps[STEPS_MAX];
    size_t n_steps;
    enum status st; /* of sending */
};

void sink_writer_init(struct sink_writer *w, const struct sink_config *cfg, int cancel_fd)
{
    *w = (struct sink_writer){.cfg = cfg};
    w->wait = (struct pg_wait){.clock = &clock_real, .wake_fd = cancel_fd, .wake_stops = true};
    for (size_t i = 0; i < SINK_PARAMS_MAX; i++)
        pg_array_init(&w->arrays[i], ARRAY_BYTES_MAX);
    buf_init(&w->text, ANNOUNCED_BYTES_MAX);
}

void sink_writer_deinit(struct sink_writer *w)
{
    sink_writer_disconnect(w);
    for (size_t i = 0; i < SINK_PARAMS_MAX; i++)
        pg_array_deinit(&w->arrays[i]);
    buf_deinit(&w->text);
}

void sink_writer_disconnect(struct sink_writer *w)
{
    if (w->conn && !w->former_pid)
        w->former_pid = PQbackendPID(w->conn);
    PQfinish(TAKE(w->conn));
}

/* ---- sending ---- */

static struct step *add_step(struct script *s, enum step_kind kind)
{
    assert(s->n_steps < STEPS_MAX);
    struct step *step = &s->steps[s->n_steps++];
    *step = (struct step){.kind = kind};
    return step;
}

static void note_sent(struct script *s, int sent)
{
    if (!s->st && !sent)
        s->st = STATUS_IO;
}

static void send_text(struct script *s, const char *sql)
{
    if (s->st)
        return;
    add_step(s, STEP_PLAIN);
    note_sent(s, PQsendQueryParams(s->w->conn, sql, 0, NULL, NULL, NULL, NULL, 0));
}

static struct step *send_prepared(struct script *s, enum step_kind kind, const char *name, int n,
                                  const char *const *params)
{
    struct step *step = add_step(s, kind);
    if (!s->st)
        note_sent(s, PQsendQueryPrepared(s->w->conn, name, n, params, NULL, NULL, 0));
    return step;
}

static struct step *send_arrays(struct script *s, enum step_kind kind, const char *name, size_t n,
                                const char *last)
{
    const char *params[SINK_PARAMS_MAX];
    assert(n < SINK_PARAMS_MAX);
    for (size_t i = 0; i < n; i++)
        params[i] = s->w->arrays[i].buf.data;
    params[n] = last;
    return send_prepared(s, kind, name, (int)(last ? n + 1 : n), params);
}

/* "upsert_0": the statement of one kind for one table. */
static void statement_name(char out[32], enum step_kind kind, size_t table)
{
    const char *what = kind == STEP_UPSERT ? "upsert" : kind == STEP_REMOVE ? "remove" : "touch";
    snprintf(out, 32, "%s_%zu", what, table);
}

static enum step_kind kind_of(const struct sink_item *item)
{
    return item->touch ? STEP_TOUCH : item->remove ? STEP_REMOVE : STEP_UPSERT;
}

/* The leaders of one kind among the nodes of a table, in key order. */
static size_t collect(struct script *s, const struct step *step, struct sink_node **out)
{
    size_t n = 0;
    for (size_t i = step->from; i < step->to; i++)
        if (s->nodes[i]->leader == s->nodes[i] && kind_of(&s->nodes[i]->item) == step->kind)
            out[n++] = s->nodes[i];
    return n;
}

static enum status fill(struct script *s, const struct step *step, struct sink_node *const *nodes,
                        size_t *ret_arrays)
{
    const struct table_def *t = &s->w->cfg->tables[step->table];
    const struct row *rows[LIMIT_SINK_BATCH_ROWS];
    int64_t cleared_us[LIMIT_SINK_BATCH_ROWS];
    for (size_t i = 0; i < step->sent; i++) {
        rows[i] = &nodes[i]->item.row;
        cleared_us[i] = nodes[i]->item.cleared_us;
    }
    if (step->kind == STEP_UPSERT) {
        *ret_arrays = sink_sql_upsert_arrays(t);
        return sink_sql_fill_upsert(t, rows, cleared_us, step->sent, s->w->arrays);
    }
    if (step->kind == STEP_REMOVE) {
        *ret_arrays = SINK_REMOVE_ARRAYS;
        return sink_sql_fill_remove(t, rows, step->sent, s->w->arrays);
    }
    *ret_arrays = SINK_TOUCH_ARRAYS;
    return sink_sql_fill_touch(t, rows, step->sent, s->w->arrays);
}

static void send_table(struct script *s, enum step_kind kind, size_t from, size_t to)
{
    struct step step = {.kind = kind, .table = s->nodes[from]->item.table, .from = from, .to = to};
    struct sink_node *leaders[LIMIT_SINK_BATCH_ROWS];
    step.sent = collect(s, &step, leaders);
    if (s->st || step.sent == 0)
        return;
    size_t n_arrays = 0;
    s->st = fill(s, &step, leaders, &n_arrays);
    if (s->st)
        return;
    char ttl_s[40];
    snprintf(ttl_s, sizeof(ttl_s), "%.6f", (double)s->w->cfg->ttl_us / (double)US_PER_SECOND);
    char name[32];
    statement_name(name, kind, step.table);
    *send_arrays(s, kind, name, n_arrays, kind == STEP_REMOVE ? NULL : ttl_s) = step;
}

static void send_tables(struct script *s, size_t n)
{
    for (size_t from = 0; from < n;) {
        size_t to = from + 1;
        while (to < n && s->nodes[to]->item.table == s->nodes[from]->item.table)
            to++;
        send_table(s, STEP_UPSERT, from, to);
        send_table(s, STEP_REMOVE, from, to);
        /* Last: a touch that is newer than a whole row of the same batch must find that row. */
        send_table(s, STEP_TOUCH, from, to);
        from = to;
    }
}

static void begin_arrays(struct script *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        pg_array_begin(&s->w->arrays[i]);
}

/* Sends what the arrays hold, if anything. */
static void end_arrays(struct script *s, enum step_kind kind, const char *name, size_t n)
{
    if (s->st || s->w->arrays[0].n == 0)
        return;
    for (size_t i = 0; i < n && !s->st; i++)
        s->st = pg_array_end(&s->w->arrays[i]);
    if (!s->st)
        send_arrays(s, kind, name, n, NULL);
}

static void send_activity(struct script *s, size_t n)
{
    struct pg_array *a = s->w->arrays;
    begin_arrays(s, 5);
    for (size_t i = 0; i < n; i++) {
        const struct sink_item *item = &s->nodes[i]->item;
        if (!(item->first || item->told) || s->w->cfg->tables[item->table].by_window)
            continue;
        pg_array_text(&a[0], row_user(&item->row));
        pg_array_text(&a[1], row_bot(&item->row));
        pg_array_plain(&a[2], "%" PRIu32, item->partition);
        pg_array_plain(&a[3], "%c", item->opted_out ? 't' : 'f');
        pg_array_plain(&a[4], "%" PRIu64, item->row.row_version);
    }
    end_arrays(s, STEP_ACTIVITY, "activity", 5);
}

/* After the rows: of those of a user who was forgotten meanwhile none may stay. */
static void send_bury(struct script *s, size_t n)
{
    struct pg_array *a = s->w->arrays;
    begin_arrays(s, 4);
    for (size_t i = 0; i < n; i++) {
        const struct sink_node *node = s->nodes[i];
        const struct sink_item *item = &node->item;
        if (node->leader != node || s->w->cfg->tables[item->table].by_window)
            continue;
        pg_array_text(&a[0], row_user(&item->row));
        pg_array_text(&a[1], row_bot(&item->row));
        pg_array_plain(&a[2], "%" PRId64, item->erased_us);
        pg_array_plain(&a[3], "%" PRIu64, item->row.row_version);
    }
    end_arrays(s, STEP_PLAIN, "bury", 4);
}

/* After the rows. Bots' own rows say what they know of their character, and those of users that
 * were computed because it changed. */
static void send_characters(struct script *s, size_t n)
{
    struct pg_array *a = s->w->arrays;
    begin_arrays(s, 4);
    for (size_t i = 0; i < n; i++) {
        const struct sink_item *item = &s->nodes[i]->item;
        const struct sink_character *c = &item->character;
        if (!c->defined_us)
            continue;
        pg_array_text(&a[0], row_bot(&item->row));
        pg_array_time(&a[1], c->defined_us);
        pg_array_plain(&a[2], "%" PRId64, c->version);
        pg_array_plain(&a[3], "%" PRId64, (int64_t)c->definition);
    }
    end_arrays(s, STEP_CHARACTER, "character", 4);
    begin_arrays(s, 3);
    for (size_t i = 0; i < n; i++) {
        const struct sink_item *item = &s->nodes[i]->item;
        if (!s->w->cfg->tables[item->table].by_window)
            continue;
        pg_array_text(&a[0], row_bot(&item->row));
        pg_array_time(&a[1], item->character.defined_us);
        pg_array_plain(&a[2], "%" PRIu64, item->row.row_version);
    }
    end_arrays(s, STEP_CHARACTER, "outdated", 3);
}

static void send_progress(struct script *s, size_t n, const struct sink_heartbeat *beat)
{
    if (s->st)
        return;
    const struct sink_config *cfg = s->w->cfg;
    uint64_t version = 0;
    for (size_t i = 0; i < n; i++)
        if (s->nodes[i]->item.row.row_version > version)
            version = s->nodes[i]->item.row.row_version;
    char epoch[24], birth[24], covered[24], newest[24], applied[24];
    snprintf(epoch, sizeof(epoch), "%" PRIu64, cfg->epoch);
    snprintf(birth, sizeof(birth), LSN_FMT, LSN_ARGS(cfg->slot_birth));
    snprintf(covered, sizeof(covered), LSN_FMT, LSN_ARGS(beat->covered_lsn));
    snprintf(newest, sizeof(newest), "%" PRIu64, version);
    snprintf(applied, sizeof(applied), "%" PRIu64, beat->events_applied);
    bool said = beat->covered_lsn != LSN_INVALID;
    const char *params[] = {cfg->pipeline,
                            epoch,
                            cfg->slot,
                            cfg->slot_birth == LSN_INVALID ? NULL : birth,
                            said ? covered : NULL,
                            newest,
                            said ? applied : NULL};
    send_prepared(s, STEP_PLAIN, "progress", 7, params);
    if (!beat->due)
        return;
    struct pg_array *a = s->w->arrays;
    pg_array_begin(&a[0]);
    pg_array_begin(&a[1]);
    for (int i = 0; i < LIMIT_PARTITIONS; i++) {
        pg_array_plain(&a[0], "%d", i);
        pg_array_time(&a[1], beat->caught_up_to_us[i]);
    }
    for (size_t i = 0; i < 2 && !s->st; i++)
        s->st = pg_array_end(&a[i]);
    if (!s->st)
        send_arrays(s, STEP_PLAIN, "processor", 2, NULL);
}

/* ---- notifications ---- */

static int compare_str(struct str a, struct str b)
{
    size_t n = a.len < b.len ? a.len : b.len;
    int order = n ? memcmp(a.ptr, b.ptr, n) : 0;
    if (order)
        return order;
    return a.len < b.len ? -1 : a.len > b.len;
}

static int compare_owner(const struct row *a, const struct row *b)
{
    int order = compare_str(row_user(a), row_user(b));
    return order ? order : compare_str(row_bot(a), row_bot(b));
}

static int by_owner(const void *x, const void *y)
{
    const struct sink_item *a = &(*(struct sink_node *const *)x)->item;
    const struct sink_item *b = &(*(struct sink_node *const *)y)->item;
    int order = compare_owner(&a->row, &b->row);
    return order ? order : (int)a->table - (int)b->table;
}

static size_t owner_end(struct sink_node *const *owners, size_t n, size_t from)
{
    size_t to = from + 1;
    while (to < n && compare_owner(&owners[from]->item.row, &owners[to]->item.row) == 0)
        to++;
    return to;
}

/* What is said about the items of one owner, which are in table order. Strings of the buffer are
 * offsets yet: it still moves. */
static enum status announce(struct sink_writer *w, struct sink_node *const *nodes, size_t n)
{
    const struct sink_item *newest = &nodes[0]->item;
    uint64_t version = 0;
    struct buf *out = &w->text;
    size_t start = out->len;
    enum status st = STATUS_OK;
    for (size_t i = 0; i < n; i++) {
        const struct sink_item *item = &nodes[i]->item;
        if (item->row.row_version > newest->row.row_version)
            newest = item;
        if (nodes[i]->announced > version)
            version = nodes[i]->announced;
        if (st || (i > 0 && item->table == nodes[i - 1]->item.table))
            continue;
        if (i > 0)
            st = buf_append_str(out, STR(","));
        if (!st)
            st = buf_append_str(out, str_from(w->cfg->tables[item->table].name));
    }
    struct announcement *a = &w->announcements[w->n_announcements++];
    *a = (struct announcement){
        .bot = row_bot(&newest->row),
        .user = w->cfg->tables[newest->table].by_window ? STR_NULL : row_user(&newest->row),
        .tables = {NULL, out->len - start},
        .reason = str_from(newest->reason),
        .row_version = version,
    };
    if (st || (st = buf_reserve(out, LIMIT_NOTIFY_BYTES)))
        return st;
    struct announcement whole = *a;
    whole.tables.ptr = out->data + start; /* stays: there is room */
    st = announcement_write(&whole, out);
    a->json.len = out->len - start - a->tables.len;
    return st;
}

/* The texts of each follow those of the one before. */
static void point_into_text(struct sink_writer *w)
{
    const char *at = w->text.data;
    for (size_t i = 0; i < w->n_announcements; i++) {
        struct announcement *a = &w->announcements[i];
        a->tables.ptr = at;
        a->json.ptr = at + a->tables.len;
        at = a->json.ptr + a->json.len;
    }
}

static void send_notify(struct script *s, size_t n)
{
    struct sink_writer *w = s->w;
    w->n_announcements = 0;
    buf_reset(&w->text);
    if (s->st || n == 0)
        return;
    struct sink_node *owners[LIMIT_SINK_BATCH_ROWS];
    memcpy(owners, s->nodes, n * sizeof(struct sink_node *));
    qsort(owners, n, sizeof(struct sink_node *), by_owner);
    for (size_t from = 0; from < n && !s->st;) {
        size_t to = owner_end(owners, n, from);
        s->st = announce(w, owners + from, to - from);
        from = to;
    }
    if (s->st)
        return;
    point_into_text(w);
    struct pg_array *a = &w->arrays[0];
    pg_array_begin(a);
    for (size_t i = 0; i < w->n_announcements; i++)
        pg_array_text(a, w->announcements[i].json);
    s->st = pg_array_end(a);
    if (!s->st)
        send_arrays(s, STEP_NOTIFY, "notify", 1, NULL);
}

/* ---- receiving ---- */

/* The answer names the touched rows that did not move, by their ordinal among those sent. */
static void count_touch(struct script *s, const struct step *step, const PGresult *res)
{
    struct sink_node *sent[LIMIT_SINK_BATCH_ROWS];
    size_t n = collect(s, step, sent);
    assert(n == step->sent);
    int rows = PQntuples(res);
    for (int i = 0; i < rows; i++) {
        uint64_t ordinal = strtoull(PQgetvalue(res, i, 0), NULL, 10);
        assert(ordinal >= 1 && ordinal <= n);
        if (*PQgetvalue(res, i, 1) == 't')
            sent[ordinal - 1]->outcome = SINK_MISSING;
        else
            s->counts.stale++;
    }
    s->counts.touched += n - (size_t)rows;
}

static void take_result(struct script *s, const struct step *step, PGresult *res)
{
    uint64_t changed = strtoull(PQcmdTuples(res), NULL, 10);
    if (step->kind == STEP_UPSERT) {
        s->counts.upserted += changed;
        s->counts.stale += step->sent - changed;
    } else if (step->kind == STEP_REMOVE) {
        s->counts.removed += changed;
    } else if (step->kind == STEP_TOUCH) {
        count_touch(s, step, res);
    } else if (step->kind == STEP_SWEEP && PQntuples(res) == 1) {
        s->counts.removed += strtoull(PQgetvalue(res, 0, 0), NULL, 10);
    }
}

static enum status failure(const struct script *s, const struct step *step, const PGresult *res,
                           struct error *err)
{
    char what[96];
    switch (step->kind) {
    case STEP_UPSERT:
    case STEP_REMOVE:
    case STEP_TOUCH:
        snprintf(what, sizeof(what), "could not write %s", s->w->cfg->tables[step->table].name);
        return pg_error(err, s->w->conn, res, what);
    case STEP_ACTIVITY:
        return pg_error(err, s->w->conn, res, "could not write strategic_key_activity");
    case STEP_CHARACTER:
        return pg_error(err, s->w->conn, res, "could not write strategic_bot_epoch");
    case STEP_SWEEP:
        return pg_error(err, s->w->conn, res, "could not delete dead rows");
    case STEP_NOTIFY:
    case STEP_PLAIN:
        break;
    }
    enum status st =
        pg_error(err, s->w->conn, res,
                 step->kind == STEP_NOTIFY ? "could not notify" : "could not write progress");
    if (st != STATUS_INVALID)
        return st;
    /* Not the fault of any row. A full notification queue drains; the rest is a wrong schema. */
    return error_set(err, step->kind == STEP_NOTIFY ? STATUS_IO : STATUS_REFUSED, "%s",
                     err ? err->text : "");
}

static int64_t min_us(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t silence_us(const struct sink_config *cfg)
{
    return cfg->silence_us > 0 ? cfg->silence_us : SILENCE_US;
}

/* Reads every result up to the synchronisation point; the first failure is the one that counts. */
static enum status receive(struct script *s, struct error *err)
{
    enum status first = STATUS_OK;
    size_t i = 0;
    bool separated = false;
    for (;;) {
        CLEANUP(PQclearp) PGresult *res = NULL;
        enum status st = pg_next_result(
            s->w->conn, clock_mono_us(&clock_real) + silence_us(s->w->cfg), &s->w->wait, &res, err);
        if (st)
            return st;
        ExecStatusType status = PQresultStatus(res); /* of NULL: fatal error */
        if (status == PGRES_PIPELINE_SYNC)
            return first;
        if (!first && res && i < s->n_steps) {
            if (status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK)
                take_result(s, &s->steps[i], res);
            else
                first = failure(s, &s->steps[i], res, err);
        }
        /* NULL separates the results of two statements; two in a row are the end of everything. */
        bool over = !res && separated;
        separated = !res;
        if (over || PQstatus(s->w->conn) == CONNECTION_BAD)
            return first ? first : pg_error(err, s->w->conn, NULL, "lost the connection");
        i += res != NULL;
    }
}

/* Sends the synchronisation point and reads all answers. Closes a connection that is no use. */
static enum status finish(struct script *s, struct error *err)
{
    if (s->st == STATUS_NOMEM || s->st == STATUS_LIMIT)
        error_set(err, s->st, "could not build a batch: %s", status_name(s->st));
    else if (s->st || !PQpipelineSync(s->w->conn))
        s->st = pg_error(err, s->w->conn, NULL, "could not send to the server");
    if (!s->st)
        s->st = receive(s, err);
    return s->st;
}

/* ---- connecting ---- */

static void send_prepare(struct script *s, const char *name, const char *sql)
{
    if (s->st)
        return;
    add_step(s, STEP_PLAIN);
    note_sent(s, PQsendPrepare(s->w->conn, name, sql, 0, NULL));
}

static void send_prepare_table(struct script *s, enum step_kind kind, size_t table)
{
    CLEANUP(buf_deinit) struct buf sql;
    buf_init(&sql, 64u << 10);
    const struct table_def *t = &s->w->cfg->tables[table];
    enum ttl_mode mode = s->w->cfg->ttl_mode;
    if (!s->st)
        s->st = kind == STEP_UPSERT   ? sink_sql_upsert(t, mode, &sql)
                : kind == STEP_REMOVE ? sink_sql_remove(t, &sql)
                                      : sink_sql_touch(t, mode, &sql);
    if (!s->st)
        s->st = buf_append(&sql, "", 1);
    char name[32];
    statement_name(name, kind, table);
    send_prepare(s, name, sql.data);
}

static void send_limit(struct script *s, const char *setting, int64_t us)
{
    char sql[96];
    snprintf(sql, sizeof(sql), "SET %s = %" PRId64, setting, us / 1000);
    send_text(s, sql);
}

/*
 * A network that has swallowed half of a transaction leaves its locks behind: a server that waits
 * for the rest of a pipeline knows no time-out for that, and rows and lease would wait for its TCP
 * keep-alive. Everybody may end processes of his own role.
 */
static enum status end_former(struct sink_writer *w, struct error *err)
{
    if (!w->former_pid)
        return STATUS_OK;
    char pid[16];
    snprintf(pid, sizeof(pid), "%d", w->former_pid);
    const char *params[] = {pid};
    CLEANUP(PQclearp) PGresult *res = NULL;
    enum status st = pg_query_within(
        w->conn,
        "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity"
        " WHERE pid = $1::int AND pid <> pg_catalog.pg_backend_pid() AND usename = current_user"
        " AND application_name = '" APPLICATION_NAME "'",
        1, params, silence_us(w->cfg), "could not end the former connection", &res, err);
    if (st == STATUS_IO)
        return st;
    w->former_pid = 0; /* ended, gone, or not to be ended by us: then it is left to the server */
    return STATUS_OK;
}

enum status sink_writer_connect(struct sink_writer *w, struct error *err)
{
    if (w->conn)
        return STATUS_OK;
    struct pg_options o = {
        .conninfo = w->cfg->conninfo,
        .application_name = APPLICATION_NAME,
        .timeout_ms = (int)(min_us(silence_us(w->cfg), CONNECT_TIMEOUT_US) / 1000),
        .wait = &w->wait,
    };
    enum status st = pg_open(&o, &w->conn, err);
    if (st)
        return st;
    st = end_former(w, err);
    if (st) {
        sink_writer_disconnect(w);
        return st;
    }
    struct script s = {.w = w};
    if (PQsetnonblocking(w->conn, 1) || !PQenterPipelineMode(w->conn))
        s.st = STATUS_IO;
    /* A row that is told to be written must survive a crash of the server. */
    send_text(&s, "SET synchronous_commit = on");
    /* The server gives up before we do, so that no statement of ours outlives its connection. And a
     * transaction is sent in one go: when the connection has died in the middle of one, its locks
     * would keep out the next connection until the server noticed. */
    int64_t silence = silence_us(w->cfg);
    send_limit(&s, "lock_timeout", min_us(silence / 2, LOCK_TIMEOUT_US));
    send_limit(&s, "idle_in_transaction_session_timeout", min_us(silence / 2, LOCK_TIMEOUT_US));
    send_limit(&s, "statement_timeout", min_us(silence / 2, STATEMENT_TIMEOUT_US));
    send_text(&s, "SET tcp_keepalives_idle = 30");
    send_text(&s, "SET tcp_keepalives_interval = 10");
    send_text(&s, "SET tcp_keepalives_count = 3");
    /* Every statement looks rows up by their key: planning again for each array gains nothing. */
    send_text(&s, "SET plan_cache_mode = force_generic_plan");
    send_prepare(&s, "begin", "BEGIN");
    send_prepare(&s, "commit", "COMMIT");
    send_prepare(&s, "fence", sink_sql_fence);
    send_prepare(&s, "activity", sink_sql_activity);
    send_prepare(&s, "bury", sink_sql_bury);
    send_prepare(&s, "character", sink_sql_character);
    send_prepare(&s, "outdated", sink_sql_outdated);
    send_prepare(&s, "processor", sink_sql_processor);
    send_prepare(&s, "progress", sink_sql_progress);
    send_prepare(&s, "notify", sink_sql_notify);
    for (size_t i = 0; i < w->cfg->n_tables; i++) {
        send_prepare_table(&s, STEP_UPSERT, i);
        send_prepare_table(&s, STEP_REMOVE, i);
        send_prepare_table(&s, STEP_TOUCH, i);
    }
    st = finish(&s, err);
    if (st)
        sink_writer_disconnect(w);
    return st;
}

/* ---- the transaction ---- */

static bool same_key(const struct sink_item *a, const struct sink_item *b)
{
    return a->table == b->table && a->row.window_hours == b->row.window_hours &&
           compare_owner(&a->row, &b->row) == 0;
}

static int by_key(const void *x, const void *y)
{
    const struct sink_item *a = &(*(struct sink_node *const *)x)->item;
    const struct sink_item *b = &(*(struct sink_node *const *)y)->item;
    if (a->table != b->table)
        return a->table < b->table ? -1 : 1;
    int order = compare_owner(&a->row, &b->row);
    if (order)
        return order;
    if (a->row.window_hours != b->row.window_hours)
        return a->row.window_hours < b->row.window_hours ? -1 : 1;
    /* Newest first; of equals the whole row. */
    if (a->row.row_version != b->row.row_version)
        return a->row.row_version > b->row.row_version ? -1 : 1;
    if (a->row.as_of_us != b->row.as_of_us)
        return a->row.as_of_us > b->row.as_of_us ? -1 : 1;
    return (int)a->touch - (int)b->touch;
}

size_t sink_writer_group_end(struct sink_node *const *nodes, size_t n, size_t from)
{
    size_t to = from + 1;
    while (to < n && same_key(&nodes[from]->item, &nodes[to]->item))
        to++;
    return to;
}

/* A batch may be written in several transactions, in an order that is not that of the versions. */
static void note_newest(struct sink_node *const *nodes, size_t n)
{
    struct sink_node *owners[LIMIT_SINK_BATCH_ROWS];
    memcpy(owners, nodes, n * sizeof(struct sink_node *));
    qsort(owners, n, sizeof(struct sink_node *), by_owner);
    for (size_t from = 0; from < n;) {
        size_t to = owner_end(owners, n, from);
        uint64_t newest = 0;
        for (size_t i = from; i < to; i++) {
            uint64_t own = owners[i]->item.row.row_version;
            uint64_t known = owners[i]->announced > own ? owners[i]->announced : own;
            newest = known > newest ? known : newest;
        }
        for (size_t i = from; i < to; i++)
            owners[i]->announced = newest;
        from = to;
    }
}

void sink_writer_arrange(struct sink_node **nodes, size_t n)
{
    note_newest(nodes, n);
    qsort(nodes, n, sizeof(struct sink_node *), by_key);
    for (size_t from = 0; from < n;) {
        size_t to = sink_writer_group_end(nodes, n, from);
        struct sink_node *whole = NULL, *touch = NULL;
        for (size_t i = from; i < to; i++) {
            if (!nodes[i]->item.touch)
                whole = whole ? whole : nodes[i];
            else if (!whole)
                touch = touch ? touch : nodes[i];
            /* A touch older than the whole row says nothing that the row does not. */
            nodes[i]->leader = nodes[i]->item.touch && !whole ? touch : whole;
        }
        from = to;
    }
}

static void settle(struct sink_node **nodes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct sink_node *node = nodes[i];
        if (node->leader != node)
            node->outcome = node->item.touch && !node->leader->item.touch ? SINK_TOUCHED
                                                                          : node->leader->outcome;
        node->done = true;
    }
}

/* After a failed transaction: makes the connection usable again, or closes it. */
static void recover(struct sink_writer *w, enum status why)
{
    /* Cancelled or fenced: nothing will be sent any more. */
    bool usable = why != STATUS_END && why != STATUS_FENCED && PQstatus(w->conn) == CONNECTION_OK &&
                  PQisBusy(w->conn) == 0;
    if (usable && PQtransactionStatus(w->conn) == PQTRANS_IDLE)
        return;
    if (usable && PQtransactionStatus(w->conn) == PQTRANS_INERROR) {
        struct script s = {.w = w};
        send_text(&s, "ROLLBACK");
        if (finish(&s, NULL) == STATUS_OK)
            return;
    }
    sink_writer_disconnect(w);
}

enum status sink_writer_run(struct sink_writer *w, struct sink_node **nodes, size_t n,
                            const struct sink_heartbeat *beat, struct sink_counts *ret_counts,
                            struct error *err)
{
    assert(n <= LIMIT_SINK_BATCH_ROWS);
    assert(w->conn);
    for (size_t i = 0; i < n; i++)
        nodes[i]->outcome = nodes[i]->item.touch ? SINK_TOUCHED : SINK_WRITTEN;
    char epoch[24];
    snprintf(epoch, sizeof(epoch), "%" PRIu64, w->cfg->epoch);
    const char *params[] = {w->cfg->pipeline, epoch};
    struct script s = {.w = w, .nodes = nodes};
    send_prepared(&s, STEP_PLAIN, "begin", 0, NULL);
    send_prepared(&s, STEP_PLAIN, "fence", 2, params);
    send_tables(&s, n);
    send_activity(&s, n);
    send_bury(&s, n);
    send_characters(&s, n);
    send_progress(&s, n, beat);
    send_notify(&s, n);
    /* The server works on the rows while COMMIT is still on its way. */
    if (!s.st && PQflush(w->conn) < 0)
        s.st = STATUS_IO;
    if (FAULT_POINT("sink_before_commit"))
        s.st = STATUS_IO;
    send_prepared(&s, STEP_PLAIN, "commit", 0, NULL);
    enum status st = finish(&s, err);
    if (!st && FAULT_POINT("sink_after_commit"))
        st = error_set(err, STATUS_IO, "the answer to COMMIT was lost");
    if (st) {
        recover(w, st);
        return st;
    }
    settle(nodes, n);
    *ret_counts = s.counts;
    return STATUS_OK;
}

enum status sink_writer_sweep(struct sink_writer *w, size_t *ret_rows, struct error *err)
{
    assert(w->conn);
    assert(w->cfg->keep_us > 0);
    char epoch[24], keep_s[40], rows[24];
    snprintf(epoch, sizeof(epoch), "%" PRIu64, w->cfg->epoch);
    snprintf(keep_s, sizeof(keep_s), "%.6f", (double)w->cfg->keep_us / (double)US_PER_SECOND);
    snprintf(rows, sizeof(rows), "%d", SWEEP_ROWS_MAX);
    const char *fence[] = {w->cfg->pipeline, epoch};
    const char *sweep[] = {keep_s, rows};
    struct script s = {.w = w};
    send_prepared(&s, STEP_PLAIN, "begin", 0, NULL);
    send_prepared(&s, STEP_PLAIN, "fence", 2, fence);
    /* Not prepared: a cache that lacks the function can still be written. */
    if (!s.st) {
        add_step(&s, STEP_SWEEP);
        note_sent(&s, PQsendQueryParams(w->conn, sink_sql_sweep, 2, NULL, sweep, NULL, NULL, 0));
    }
    send_prepared(&s, STEP_PLAIN, "commit", 0, NULL);
    enum status st = finish(&s, err);
    if (st) {
        recover(w, st);
        return st;
    }
    *ret_rows = s.counts.removed;
    return STATUS_OK;
}
