/*
 * server/cmd_verify.c - are the cache rows what the source tables say they must be?
 *
 * Source rows and cache rows are read in one snapshot when they share a database. Every mapped row
 * becomes an event and goes to the oracle, the second, naive implementation of the engines. Each
 * cache row is then computed again at its own as_of and compared column by column; every key that
 * should have a row must have one. While messages keep coming, a row may lag behind the snapshot by
 * what its triggers allow: --wait tries again, with a new snapshot, until each row of the keys that
 * there were at first has agreed once, or the time is up.
 *
 * What a bot has learned from all its users by each day (engines/epoch.h) is an input like the
 * source rows. It is read from the state directory, beside the running process.
 *
 * What came by HTTP or was pulled is in no table: rows of keys that the state says have had such
 * events are compared, but a difference is no more than inexact.
 *
 * A table does not say when its rows were written. Each event is taken to have arrived at its own
 * time, so an access that was written more than 30 days late counts here and not in the pipeline.
 */
#include "core/clock.h"
#include "core/hash.h"
#include "core/pg.h"
#include "engines/engine.h"
#include "engines/kernels.h"
#include "engines/oracle/oracle.h"
#include "ingest/table_scan.h"
#include "server/hash_set.h"
#include "server/output.h"
#include "server/row_compare.h"
#include "state/store.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <string.h>

#define FETCH_ROWS        500
#define DIFFERENCES_SHOWN 200

/* What one attempt leaves to the next. */
struct verify_history {
    bool later;           /* this is not the first attempt */
    struct hash_set keys; /* of the first attempt, with table number 0: those that are looked at */
    struct hash_set agreed; /* rows, by table */
    struct hash_set agree;  /* the same of the attempt under way */
};

struct bot_epochs {
    char *name;
    struct epoch_list list; /* all there are */
};

struct verify {
    struct cli *cli;
    int64_t sample; /* rows per table; 0 = all */
    int64_t seed;   /* of the order in which a sample is taken */
    struct table_scan *source;
    uint64_t unusable;
    char reason[sizeof(((struct error *)0)->text)]; /* of the first unusable row */
    PGconn *sink; /* the source's connection when both are one database */
    bool own_sink;
    struct oracle *oracle;
    struct bot_epochs *bots; /* by name */
    size_t n_bots;
    int32_t opened; /* the newest day with all its epochs; 0 = none */
    uint64_t too_old;
    uint64_t n_events;
    int64_t newest_us; /* as_of of the newest row */
    bool has_counter;  /* a mapped table counts accesses: see is_inexact() */
    uint64_t equal, differ, missing, inexact;
    uint64_t inexact_inbox;     /* of them: the key has events that the tables do not have */
    struct hash_set from_inbox; /* keys that do, by table number 0 */
    struct verify_history *history;
    struct hash_set with_row; /* keys with a row, by table */
    struct hash_set sampled;  /* keys of the sample, by table number 0 */
    json_t *differences;
    const char *table; /* of the row being compared */
    struct str user, bot;
};

static void add_difference(struct verify *v, const char *column, const char *expected,
                           const char *got)
{
    if (json_array_size(v->differences) >= DIFFERENCES_SHOWN)
        return;
    json_array_append_new(v->differences, json_pack("{s:s, s:o, s:o, s:s, s:s?, s:s?}", "table",
                                                    v->table, "user_id", output_text(v->user),
                                                    "bot_name", output_text(v->bot), "column",
                                                    column, "expected", expected, "got", got));
}

static void on_difference(void *ctx, const char *column, const char *expected, const char *got)
{
    add_difference(ctx, column, expected, got);
}

static void on_inexact(void *ctx, const char *column, const char *expected, const char *got)
{
    (void)ctx;
    (void)column;
    (void)expected;
    (void)got;
}

static uint64_t key_hash(int table, struct str user, struct str bot)
{
    return hash64_mix(hash64(user) ^ hash64_mix(hash64(bot) + (uint64_t)table));
}

static void history_deinit(struct verify_history *h)
{
    hash_set_deinit(&h->keys);
    hash_set_deinit(&h->agreed);
    hash_set_deinit(&h->agree);
}

static enum status history_next(struct verify_history *h, struct error *err)
{
    enum status st = STATUS_OK;
    for (size_t i = 0; i < h->agree.n && st == STATUS_OK; i++)
        st = hash_set_add(&h->agreed, h->agree.items[i], err);
    h->agree.n = 0;
    h->later = true;
    return st;
}

/* An event up to 5 minutes ahead of T counts (ENGINES.md 1.3), so that is when it is let in: then
 * it is never late, never too far ahead, and a row older than the event does not see it. But not
 * before its own day: what a text is read as depends on what the bot had learned by the day it
 * came.
 */
#define ARRIVES_AHEAD_US (5 * US_PER_MINUTE)

static int64_t arrival_us(const struct event *e)
{
    int64_t midnight_us = kernel_day(e->at_us) * US_PER_DAY;
    int64_t ahead_us = e->at_us - ARRIVES_AHEAD_US;
    return ahead_us > midnight_us ? ahead_us : midnight_us;
}

/* Of a key of the sample: the user's, or the bot's own. */
static bool is_sampled(struct verify *v, const struct event *e)
{
    uint32_t scopes = engine_scopes(e);
    return (scopes & 1u << ENGINE_USER &&
            hash_set_has(&v->sampled, key_hash(0, e->user_id, e->bot_name))) ||
           (scopes & 1u << ENGINE_BOT &&
            hash_set_has(&v->sampled, key_hash(0, STR(""), e->bot_name)));
}

/* Why the first one cannot be used is told. */
static void count_unusable(struct verify *v, const struct event *e)
{
    struct str why = e->u.dead_letter.reason;
    if (v->unusable++ == 0)
        snprintf(v->reason, sizeof(v->reason), STR_FMT, STR_ARGS(why));
}

static enum status feed_one(struct verify *v, const struct event *e, struct error *err)
{
    if (e->type == EVENT_DEAD_LETTER)
        count_unusable(v, e);
    if (e->type == EVENT_DEAD_LETTER || (v->sample && !is_sampled(v, e)))
        return STATUS_OK;
    return oracle_add(v->oracle, e, SOURCE_POSTGRES, ++v->n_events, arrival_us(e), err);
}

static enum status feed_oracle(struct verify *v, struct error *err)
{
    const struct event *e = NULL;
    enum status st;
    do {
        st = table_scan_next(v->source, US_PER_SECOND, &e, err);
        if (st == STATUS_OK)
            st = feed_one(v, e, err);
    } while (st == STATUS_OK || st == STATUS_AGAIN);
    return st == STATUS_END ? STATUS_OK : st;
}

/* ---- epochs ---- */

static enum status add_bot(struct verify *v, struct str name, struct error *err)
{
    struct bot_epochs *bots = reallocarray(v->bots, v->n_bots + 1, sizeof(*bots));
    if (bots)
        v->bots = bots;
    char *copy = strndup(name.ptr, name.len);
    if (!bots || !copy) {
        free(copy);
        return error_set(err, STATUS_NOMEM, "could not allocate %zu bots", v->n_bots + 1);
    }
    v->bots[v->n_bots++] = (struct bot_epochs){.name = copy, .list = {.keeps_all = true}};
    return STATUS_OK;
}

/* Rows come by bot and day. */
static enum status add_epoch(void *ctx, const struct store_epoch *row, struct error *err)
{
    struct verify *v = ctx;
    if (v->n_bots == 0 || !str_equal(row->bot_name, str_from(v->bots[v->n_bots - 1].name))) {
        enum status st = add_bot(v, row->bot_name, err);
        if (st)
            return st;
    }
    struct epoch_list *l = &v->bots[v->n_bots - 1].list;
    struct epoch *e = malloc(sizeof(*e));
    if (!e)
        return error_set(err, STATUS_NOMEM, "could not allocate an epoch");
    e->day = row->day;
    struct reader r = reader_of(row->bytes.ptr, row->bytes.len);
    enum status st = epoch_cells_decode(&r, e->v, err);
    if (st) {
        free(e);
        return st;
    }
    return epoch_list_add(l, e) ? error_set(err, STATUS_NOMEM, "could not keep an epoch")
                                : STATUS_OK;
}

static enum status add_inbox_key(void *ctx, const struct store_key *key, struct error *err)
{
    struct verify *v = ctx;
    return hash_set_add(&v->from_inbox, key_hash(0, key->user_id, key->bot_name), err);
}

/* After the snapshot of the rows was taken, so that every epoch they were computed with is there.
 */
static enum status read_epochs(struct verify *v, struct error *err)
{
    const char *dir = v->cli->config->state_dir;
    struct error why = {0};
    enum status st = store_epochs_read(dir, &v->opened, add_epoch, v, &why);
    if (st)
        return error_set(
            err, st,
            "rows depend on what each bot has learned day by day, which is kept in the "
            "state, and %s \"%s\"%s%s: run verify where the state is",
            st == STATUS_END ? "there is none in" : "it could not be read from", dir,
            st == STATUS_END ? "" : ": ", st == STATUS_END ? "" : why.text);
    for (size_t i = 0; i < v->n_bots && !st; i++)
        st = oracle_set_epochs(v->oracle, str_from(v->bots[i].name), &v->bots[i].list);
    if (st)
        return error_set(err, st, "could not hand the epochs to the oracle");
    return store_inbox_keys_read(dir, add_inbox_key, v, err);
}

static bool is_from_inbox(struct verify *v)
{
    return hash_set_has(&v->from_inbox, key_hash(0, v->user, v->bot));
}

/* Rows of before the epochs that are kept cannot be computed any more. */
static bool is_too_old(const struct verify *v, int64_t as_of_us)
{
    return v->opened > 0 &&
           kernel_day(as_of_us) < v->opened - (EPOCH_STORED_DAYS - EPOCH_KEPT_DAYS);
}

/* What is done with each row of a result of declare_cursor(). */
typedef enum status row_fn(struct verify *v, enum table_id table, const PGresult *res, int tuple,
                           struct error *err);

static void take_key(struct verify *v, const PGresult *res, int tuple)
{
    v->user = (struct str){PQgetvalue(res, tuple, RR_USER_ID),
                           (size_t)PQgetlength(res, tuple, RR_USER_ID)};
    v->bot = (struct str){PQgetvalue(res, tuple, RR_BOT_NAME),
                          (size_t)PQgetlength(res, tuple, RR_BOT_NAME)};
}

static enum status collect_key(struct verify *v, enum table_id table, const PGresult *res,
                               int tuple, struct error *err)
{
    (void)table;
    take_key(v, res, tuple);
    return hash_set_add(&v->sampled, key_hash(0, v->user, v->bot), err);
}

/* A row that knows more than its tables: a counter tells how often a memory was read, but only the
 * last time; and what came by HTTP is in no table. */
static bool is_inexact(struct verify *v, enum table_id table)
{
    return is_from_inbox(v) ||
           (v->has_counter && (table == TABLE_MEMORY_HEALTH || table == TABLE_MEMORY_BEHAVIOR));
}

static void count_inexact(struct verify *v)
{
    v->inexact++;
    v->inexact_inbox += is_from_inbox(v);
}

/* Whether the key is looked at: all are by the first attempt, and nothing newer by later ones. */
static enum status in_scope(struct verify *v, bool *ret, struct error *err)
{
    struct verify_history *h = v->history;
    uint64_t hash = key_hash(0, v->user, v->bot);
    *ret = !h->later || hash_set_has(&h->keys, hash);
    return h->later ? STATUS_OK : hash_set_add(&h->keys, hash, err);
}

static enum status note_equal(struct verify *v, uint64_t hash, struct error *err)
{
    v->equal++;
    return hash_set_add(&v->history->agree, hash, err);
}

static enum status check_row(struct verify *v, enum table_id table, const PGresult *res, int tuple,
                             struct error *err)
{
    v->table = tables[table].name;
    take_key(v, res, tuple);
    uint64_t hash = key_hash(table, v->user, v->bot);
    bool wanted = false;
    enum status st = hash_set_add(&v->with_row, hash, err);
    if (st == STATUS_OK)
        st = in_scope(v, &wanted, err);
    if (st != STATUS_OK || !wanted)
        return st;
    if (hash_set_has(&v->history->agreed, hash)) {
        v->equal++;
        return STATUS_OK;
    }
    if (PQgetisnull(res, tuple, RR_AS_OF_US)) {
        add_difference(v, "as_of", "a time", NULL);
        v->differ++;
        return STATUS_OK;
    }
    int64_t as_of_us = strtoll(PQgetvalue(res, tuple, RR_AS_OF_US), NULL, 10);
    if (as_of_us > v->newest_us)
        v->newest_us = as_of_us;
    if (is_too_old(v, as_of_us)) {
        v->too_old++;
        return STATUS_OK;
    }
    struct row row;
    row_init(&row, &tables[table]);
    st = oracle_row(v->oracle, table, v->user, v->bot, as_of_us, &row, err);
    if (st == STATUS_END && is_from_inbox(v)) {
        count_inexact(v);
        st = STATUS_OK;
    } else if (st == STATUS_END) {
        add_difference(v, "(row)", "no row", "a row");
        v->differ++;
        st = STATUS_OK;
    } else if (st == STATUS_OK && is_inexact(v, table)) {
        if (row_compare(&row, res, tuple, on_inexact, v) > 0)
            count_inexact(v);
        else
            st = note_equal(v, hash, err);
    } else if (st == STATUS_OK) {
        if (row_compare(&row, res, tuple, on_difference, v) > 0)
            v->differ++;
        else
            st = note_equal(v, hash, err);
    }
    row_deinit(&row);
    return st;
}

static enum status declare_cursor(struct verify *v, enum table_id table, struct error *err)
{
    struct buf sql;
    buf_init(&sql, 8192);
    enum status st =
        buf_append_str(&sql, STR("DECLARE warmpath_rows NO SCROLL CURSOR FOR SELECT "));
    if (st == STATUS_OK)
        st = row_select_list(&tables[table], &sql);
    if (st == STATUS_OK)
        st = buf_printf(&sql, " FROM %s", tables[table].name);
    if (st == STATUS_OK && tables[table].by_window)
        st = buf_printf(&sql, " WHERE time_window_hours = %d", tables[table].window_hours);
    const char *user = tables[table].by_window ? "''" : "user_id";
    if (st == STATUS_OK)
        st = v->sample ? buf_printf(&sql,
                                    " ORDER BY md5(%s || ' ' || bot_name || ' %" PRId64
                                    "') LIMIT %" PRId64,
                                    user, v->seed, v->sample)
                       : buf_append_str(&sql, tables[table].by_window
                                                  ? STR(" ORDER BY bot_name")
                                                  : STR(" ORDER BY bot_name, user_id"));
    if (st == STATUS_OK)
        st = buf_append(&sql, "", 1);
    st = st == STATUS_OK ? pg_exec(v->sink, sql.data, "could not read the cache rows", err)
                         : error_set(err, st, "could not write the SELECT");
    buf_deinit(&sql);
    return st;
}

static enum status each_row(struct verify *v, enum table_id table, row_fn *fn, struct error *err)
{
    char fetch[48];
    snprintf(fetch, sizeof(fetch), "FETCH %d FROM warmpath_rows", FETCH_ROWS);
    enum status st = declare_cursor(v, table, err);
    int n = 1;
    while (st == STATUS_OK && n > 0) {
        CLEANUP(PQclearp) PGresult *res = NULL;
        st = pg_query(v->sink, fetch, 0, NULL, "could not read the cache rows", &res, err);
        n = st == STATUS_OK ? PQntuples(res) : 0;
        for (int i = 0; i < n && st == STATUS_OK; i++)
            st = fn(v, table, res, i, err);
    }
    if (st == STATUS_OK)
        st = pg_exec(v->sink, "CLOSE warmpath_rows", "could not read the cache rows", err);
    return st;
}

/* T of the newest row, or the server's clock when there is none. */
static enum status find_newest(struct verify *v, struct error *err)
{
    if (v->newest_us != INT64_MIN)
        return STATUS_OK;
    CLEANUP(PQclearp) PGresult *res = NULL;
    enum status st = pg_query(v->sink, "SELECT (extract(epoch FROM now()) * 1000000)::bigint", 0,
                              NULL, "could not ask for the time", &res, err);
    if (st == STATUS_OK)
        v->newest_us = strtoll(PQgetvalue(res, 0, 0), NULL, 10);
    return st;
}

/* Keys that have events but no row. */
static enum status check_missing(struct verify *v, struct error *err)
{
    enum status st = find_newest(v, err);
    for (size_t k = 0; st == STATUS_OK && k < oracle_key_count(v->oracle); k++) {
        bool wanted = false;
        oracle_key_at(v->oracle, k, &v->user, &v->bot);
        st = in_scope(v, &wanted, err);
        for (int t = 0; wanted && t < TABLE_COUNT && st == STATUS_OK; t++) {
            if (hash_set_has(&v->with_row, key_hash(t, v->user, v->bot)))
                continue;
            struct row row;
            row_init(&row, &tables[t]);
            st = oracle_row(v->oracle, (enum table_id)t, v->user, v->bot, v->newest_us, &row, err);
            row_deinit(&row);
            if (st == STATUS_END) {
                st = STATUS_OK;
                continue;
            }
            if (st != STATUS_OK)
                return st;
            if (is_from_inbox(v)) { /* it may have brought the deletion */
                count_inexact(v);
                continue;
            }
            v->table = tables[t].name;
            v->missing++;
            add_difference(v, "(row)", "a row", "no row");
        }
    }
    return st;
}

static enum status open_sink(struct verify *v, struct error *err)
{
    const struct config *c = v->cli->config;
    if (strcmp(c->sink_conninfo, c->source_conninfo) == 0) {
        v->sink = table_scan_connection(v->source);
        return STATUS_OK;
    }
    v->own_sink = true;
    struct pg_options options = {.conninfo = c->sink_conninfo,
                                 .application_name = "warmpath verify",
                                 .setup = "SET extra_float_digits = 3; SET statement_timeout = 0; "
                                          "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"};
    return pg_open(&options, &v->sink, err);
}

static void verify_deinit(struct verify *v)
{
    if (v->own_sink)
        PQfinish(v->sink);
    table_scan_close(v->source);
    oracle_free(v->oracle);
    hash_set_deinit(&v->with_row);
    hash_set_deinit(&v->sampled);
    hash_set_deinit(&v->from_inbox);
    json_decref(v->differences);
    for (size_t i = 0; i < v->n_bots; i++) {
        epoch_list_deinit(&v->bots[i].list);
        free(v->bots[i].name);
    }
    free(v->bots);
}

/* What the initial snapshot left out is not in the state, so it must not be counted here. */
static enum status open_source(struct verify *v, struct error *err)
{
    const struct config *c = v->cli->config;
    struct store_identity id = {0};
    lsn_t covered;
    bool known = store_identity_read(c->state_dir, &id, &covered, NULL) == STATUS_OK;
    if (known && id.loading)
        return error_set(err, STATUS_REFUSED,
                         "the initial snapshot is still being read: there are no rows yet");
    struct table_scan_config sc = {
        .conninfo = c->source_conninfo,
        .application_name = "warmpath verify",
        .publication = c->publication,
        .mappings = &c->mappings,
        .since_us = known && id.since_us ? id.since_us : INT64_MIN,
        .jobs = 1,
    };
    return table_scan_open(&sc, &v->source, err);
}

/* Everything once. The caller deinitialises v in any case. */
static enum status verify_once(struct verify *v, struct error *err)
{
    const struct config *c = v->cli->config;
    v->newest_us = INT64_MIN;
    v->differences = json_array();
    for (size_t i = 0; i < c->mappings.n; i++)
        v->has_counter |= c->mappings.tables[i].counter[0] != '\0';
    enum status st = oracle_new(&v->oracle, err);
    if (st == STATUS_OK)
        st = open_source(v, err);
    if (st == STATUS_OK)
        st = open_sink(v, err);
    if (st == STATUS_OK)
        st = read_epochs(v, err);
    for (int t = 0; t < TABLE_COUNT && v->sample && st == STATUS_OK; t++)
        st = each_row(v, (enum table_id)t, collect_key, err);
    if (st == STATUS_OK)
        st = feed_oracle(v, err);
    for (int t = 0; t < TABLE_COUNT && st == STATUS_OK; t++)
        st = each_row(v, (enum table_id)t, check_row, err);
    if (st == STATUS_OK && !v->sample)
        st = check_missing(v, err);
    return st;
}

static void print_text(struct cli *cli, const struct verify *v)
{
    size_t i;
    json_t *d;
    json_array_foreach(v->differences, i, d)
    {
        const char *expected = json_string_value(json_object_get(d, "expected"));
        const char *got = json_string_value(json_object_get(d, "got"));
        fprintf(cli->out, "%s user=\"%s\" bot=\"%s\" %s: expected %s, got %s\n",
                json_string_value(json_object_get(d, "table")),
                json_string_value(json_object_get(d, "user_id")),
                json_string_value(json_object_get(d, "bot_name")),
                json_string_value(json_object_get(d, "column")), expected ? expected : "NULL",
                got ? got : "NULL");
    }
    if (json_array_size(v->differences) >= DIFFERENCES_SHOWN)
        fprintf(cli->out, "(only the first %d differences are listed)\n", DIFFERENCES_SHOWN);
    if (v->unusable)
        fprintf(cli->out, "%" PRIu64 " source rows cannot be used, the first because %s\n",
                v->unusable, v->reason);
    if (v->too_old)
        fprintf(cli->out, "%" PRIu64 " rows were not compared: they are more than %d days old\n",
                v->too_old, EPOCH_STORED_DAYS - EPOCH_KEPT_DAYS);
    if (v->inexact > v->inexact_inbox)
        fprintf(cli->out,
                "%" PRIu64 " rows about memories cannot be compared: a counter tells only the last "
                "time it grew\n",
                v->inexact - v->inexact_inbox);
    if (v->inexact_inbox)
        fprintf(cli->out,
                "%" PRIu64 " rows cannot be compared: they show events that came by HTTP or were "
                "pulled, which the tables do not have\n",
                v->inexact_inbox);
    fprintf(cli->out,
            "%" PRIu64 " rows equal, %" PRIu64 " differ, %" PRIu64 " missing (from %" PRIu64
            " events)\n",
            v->equal, v->differ, v->missing, v->n_events);
}

static int print_result(struct cli *cli, struct verify *v)
{
    int code = v->differ || v->missing ? CLI_FAILED : CLI_OK;
    if (!cli_has(cli, "json")) {
        print_text(cli, v);
        return code;
    }
    json_t *root = json_pack(
        "{s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:O}", "ok", code == CLI_OK, "equal",
        (json_int_t)v->equal, "differ", (json_int_t)v->differ, "missing", (json_int_t)v->missing,
        "inexact", (json_int_t)v->inexact, "inexact_inbox", (json_int_t)v->inexact_inbox, "too_old",
        (json_int_t)v->too_old, "events", (json_int_t)v->n_events, "unusable_source_rows",
        (json_int_t)v->unusable, "differences", v->differences);
    return output_json(cli, root, code);
}

static int parse_sample(struct cli *cli, int64_t *ret)
{
    const char *given = cli_value(cli, "sample");
    *ret = 0;
    if (!given)
        return CLI_OK;
    if (cli_has(cli, "all"))
        return cli_fail(cli, CLI_USAGE, "--all and --sample exclude each other");
    char *end = NULL;
    errno = 0;
    *ret = strtoll(given, &end, 10);
    if (errno || end == given || *end || *ret < 1)
        return cli_fail(cli, CLI_USAGE, "--sample \"%s\" is not a number above 0", given);
    return CLI_OK;
}

int cmd_verify(struct cli *cli)
{
    int64_t sample, wait_us = 0;
    struct error err;
    int code = parse_sample(cli, &sample);
    if (code != CLI_OK)
        return code;
    const char *wait = cli_value(cli, "wait");
    if (wait && config_duration_parse(str_from(wait), &wait_us, &err) != STATUS_OK)
        return cli_fail(cli, CLI_USAGE, "--wait %s", err.text);
    int64_t deadline_us = clock_mono_us(&clock_real) + wait_us;
    int64_t seed = clock_wall_us(&clock_real);
    CLEANUP(history_deinit) struct verify_history history = {0};
    for (;;) {
        struct verify v = {.cli = cli, .sample = sample, .seed = seed, .history = &history};
        enum status st = verify_once(&v, &err);
        bool agree = st == STATUS_OK && v.differ == 0 && v.missing == 0;
        bool last = agree || clock_mono_us(&clock_real) >= deadline_us;
        if (!last && st == STATUS_OK)
            st = history_next(&history, &err);
        if (last || st == STATUS_NOMEM)
            code =
                st == STATUS_OK ? print_result(cli, &v) : cli_fail(cli, CLI_FAILED, "%s", err.text);
        verify_deinit(&v);
        if (last || st == STATUS_NOMEM)
            return code;
        poll(NULL, 0, 200);
    }
}
