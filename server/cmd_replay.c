/*
 * warmpath replay FILE - runs the engines on a file of events (JSON Lines, DESIGN.md section 2) on
 * a virtual clock: T is the newest event time so far. Needs no PostgreSQL. The output depends on
 * the events alone: not on duplicates, on the number of partitions, or on being stopped and
 * resumed; nor on their order of arrival within one UTC day of T. What a bot's users taught before
 * midnight is closed then, and an event that comes later teaches the day it comes
 * (engines/epoch.h).
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/clock.h"
#include "engines/kernels.h"
#include "pipeline/day_sums.h"
#include "pipeline/partition.h"
#include "pipeline/route.h"
#include "server/cli.h"

#define REPLAY_MEMORY_BYTES ((size_t)1 << 30)
#define REPLAY_ROOM         1024

/* One finished line of output, sorted by key and table at the end. */
struct output_line {
    char *user;
    char *bot;
    size_t table;
    char *json;
};

/* An event that had a line of the trace, for the lines with hindsight. */
struct traced {
    uint32_t partition;
    char *user;
    char *bot;
    char *id;
};

struct replay {
    struct cli *cli;
    bool emit_each;
    const struct engine_ops *engine; /* only the rows it fills, NULL = all */
    const struct engine_ops *trace;  /* lines instead of rows */
    bool trace_final;                /* at the end, not as they come */
    bool line_seen;                  /* the event under way has a line */
    struct traced *traced;
    size_t n_traced, cap_traced;
    uint32_t workers;
    struct store *stores[LIMIT_WORKERS];
    struct partition *partitions[LIMIT_WORKERS];
    struct store_applied applied[LIMIT_PARTITIONS];
    struct day_sums day; /* of the change of day under way */
    struct event_arena *arena;
    int64_t as_of_us;
    uint64_t line;
    uint64_t refused;
    uint64_t uncommitted;
    struct output_line *lines;
    size_t n_lines, cap_lines;
    struct sink_result *results; /* answers the pretended sink owes, for `--emit each` */
    size_t n_results, cap_results;
};

/* ---- the sink: standard output ---- */

static size_t port_room(void *ctx)
{
    const struct replay *r = ctx;
    return r->emit_each ? (size_t)REPLAY_ROOM * r->workers : 0;
}

static enum status print_row(struct replay *r, const struct row *row)
{
    struct buf text;
    buf_init(&text, (size_t)4 << 20);
    enum status st = row_to_json(row, &text);
    if (!st)
        fprintf(r->cli->out, "%.*s\n", (int)text.len, text.data);
    buf_deinit(&text);
    return st;
}

static enum status port_submit(void *ctx, struct sink_item *items, size_t n)
{
    struct replay *r = ctx;
    if (r->n_results + n > r->cap_results) {
        size_t cap = (r->n_results + n) * 2;
        struct sink_result *results = realloc(r->results, cap * sizeof(*results));
        if (!results)
            return STATUS_NOMEM;
        r->results = results;
        r->cap_results = cap;
    }
    for (size_t i = 0; i < n; i++) {
        struct sink_item *item = &items[i];
        bool wanted = !r->engine || engine_fills(r->engine, (enum table_id)item->table);
        enum status st = wanted && !item->remove ? print_row(r, &item->row) : STATUS_OK;
        if (st)
            return st;
        r->results[r->n_results++] = (struct sink_result){
            .key_id = item->key_id,
            .worker = item->worker,
            .table = item->table,
            .row_version = item->row.row_version,
            .payload_hash = item->payload_hash,
            .outcome = item->touch ? SINK_TOUCHED : SINK_WRITTEN,
        };
        row_deinit(&item->row);
    }
    return STATUS_OK;
}

static size_t port_poll(void *ctx, uint32_t worker, struct sink_result *out, size_t max)
{
    struct replay *r = ctx;
    size_t taken = 0;
    size_t kept = 0;
    for (size_t i = 0; i < r->n_results; i++) {
        if (r->results[i].worker == worker && taken < max)
            out[taken++] = r->results[i];
        else
            r->results[kept++] = r->results[i];
    }
    r->n_results = kept;
    return taken;
}

static void port_trace(void *ctx, struct str line)
{
    struct replay *r = ctx;
    r->line_seen = true;
    if (!r->trace_final)
        fprintf(r->cli->out, "%.*s\n", (int)line.len, line.ptr);
}

/* Without `--emit each` no trigger matters: every row is computed once, at the end. */
static struct trigger_policy port_policy(void *ctx, enum table_id table, struct str bot_name)
{
    const struct replay *r = ctx;
    (void)bot_name;
    struct trigger_policy policy = {.max_age_us = INT64_MAX / 4};
    for (size_t i = 0; r->emit_each && engine_at(i); i++)
        if (engine_fills(engine_at(i), table))
            policy = policy.warm_us ? trigger_either(&policy, &engine_at(i)->trigger)
                                    : engine_at(i)->trigger;
    return policy;
}

/* ---- all partitions ---- */

static int64_t virtual_now(const struct replay *r)
{
    return r->as_of_us > 0 ? r->as_of_us : 1;
}

static enum status each_partition(struct replay *r,
                                  enum status (*fn)(struct partition *p, int64_t now_us,
                                                    struct error *err),
                                  struct error *err)
{
    for (uint32_t i = 0; i < r->workers; i++) {
        enum status st = fn(r->partitions[i], virtual_now(r), err);
        if (st)
            return st;
    }
    return STATUS_OK;
}

/* ---- the change of day ---- */

static enum status add_part(void *ctx, const struct store_part *part, struct error *err)
{
    struct replay *r = ctx;
    return day_sums_add(&r->day, part->bot_name, part->bytes, err);
}

/* As the router does with its workers, but one after the other (pipeline/partition.h). Everything
 * is durable before the first one closes, so that no event of the old day can be read again after
 * it. */
static enum status change_day(struct replay *r, int32_t day, struct error *err)
{
    r->uncommitted = 0;
    enum status st = each_partition(r, partition_commit, err);
    for (uint32_t i = 0; i < r->workers && !st; i++) {
        st = partition_close_day(r->partitions[i], day, err);
        if (!st)
            st = partition_day_parts(r->partitions[i], day, add_part, r, err);
    }
    for (uint32_t i = 0; i < r->workers && !st; i++) {
        for (size_t b = 0; b < r->day.n && !st; b++)
            st = partition_learned(r->partitions[i], day, r->day.bots[b].name, r->day.bots[b].sums,
                                   err);
        if (!st)
            st = partition_open_day(r->partitions[i], day, err);
    }
    day_sums_deinit(&r->day);
    return st;
}

/* A run that was killed may have ended in the middle of one. */
static enum status finish_day(struct replay *r, struct error *err)
{
    int32_t opened[LIMIT_WORKERS];
    int32_t closed[LIMIT_WORKERS];
    for (uint32_t i = 0; i < r->workers; i++) {
        struct partition_view v = partition_view(r->partitions[i]);
        opened[i] = v.day.opened;
        closed[i] = v.day.closed;
    }
    int32_t day = day_unfinished(opened, closed, r->workers);
    return day ? change_day(r, day, err) : STATUS_OK;
}

/* T moves on to t_us. */
static enum status advance(struct replay *r, int64_t t_us, struct error *err)
{
    if (t_us <= r->as_of_us)
        return STATUS_OK;
    int32_t day = kernel_day(r->as_of_us);
    bool first = r->as_of_us == 0;
    if (!first && kernel_day(t_us) > day) {
        enum status st = change_day(r, day + 1, err);
        if (st)
            return st;
    }
    r->as_of_us = t_us;
    return STATUS_OK;
}

/* ---- opening ---- */

static enum status open_state(struct replay *r, const char *dir, struct error *err)
{
    struct store_identity identity = {.pipeline = "replay", .partitions = LIMIT_PARTITIONS};
    bool fresh = false;
    enum status st = store_set_open(dir, r->workers, 1, &identity, &fresh, r->stores, err);
    if (!st && strcmp(identity.pipeline, "replay") != 0)
        st = error_set(err, STATUS_REFUSED, "\"%s\" holds the state of the pipeline \"%s\"", dir,
                       identity.pipeline);
    for (uint32_t i = 0; i < r->workers && !st; i++) {
        int64_t t = store_as_of(r->stores[i]);
        if (t > r->as_of_us)
            r->as_of_us = t;
    }
    for (uint32_t i = 0; i < r->workers && !st; i++) {
        struct partition_config cfg = {
            .worker = i,
            .workers = r->workers,
            .store = r->stores[i],
            .sink = {port_room, port_submit, port_poll, r},
            .policy = port_policy,
            .policy_ctx = r,
            .memory_max = REPLAY_MEMORY_BYTES / r->workers,
            .catch_up_lag_us = INT64_MAX / 4,
            .epoch = 1,
            .trace = r->trace,
            .trace_line = port_trace,
            .trace_ctx = r,
        };
        st = partition_open(&cfg, r->as_of_us > 0 ? r->as_of_us : 1, &r->partitions[i], err);
    }
    for (uint32_t i = 0; i < LIMIT_PARTITIONS && !st; i++)
        r->applied[i] =
            partition_applied(r->partitions[route_worker(i, r->workers)], SOURCE_POSTGRES, i);
    return st ? st : finish_day(r, err);
}

static void replay_deinit(struct replay *r)
{
    for (uint32_t i = 0; i < r->workers; i++) {
        partition_close(r->partitions[i]);
        store_close(r->stores[i]);
    }
    event_arena_free(r->arena);
    day_sums_deinit(&r->day);
    for (size_t i = 0; i < r->n_lines; i++) {
        free(r->lines[i].user);
        free(r->lines[i].bot);
        free(r->lines[i].json);
    }
    for (size_t i = 0; i < r->n_traced; i++) {
        free(r->traced[i].user);
        free(r->traced[i].bot);
        free(r->traced[i].id);
    }
    free(r->traced);
    free(r->lines);
    free(r->results);
}

/* ---- events ---- */

static enum status keep_traced(struct replay *r, const struct event *e, uint32_t partition,
                               struct error *err)
{
    if (r->n_traced == r->cap_traced) {
        size_t cap = r->cap_traced ? r->cap_traced * 2 : 256;
        struct traced *traced = realloc(r->traced, cap * sizeof(*traced));
        if (!traced)
            return error_set(err, STATUS_NOMEM, "could not keep %zu ids", cap);
        r->traced = traced;
        r->cap_traced = cap;
    }
    struct traced *t = &r->traced[r->n_traced++];
    *t = (struct traced){
        .partition = partition,
        .user = strndup(e->user_id.ptr ? e->user_id.ptr : "", e->user_id.len),
        .bot = strndup(e->bot_name.ptr ? e->bot_name.ptr : "", e->bot_name.len),
        .id = strndup(e->id.ptr, e->id.len),
    };
    bool kept = t->user && t->bot && t->id;
    return kept ? STATUS_OK : error_set(err, STATUS_NOMEM, "could not keep an id");
}

static enum status apply_event(struct replay *r, const struct event *e, struct error *err)
{
    enum status st = advance(r, e->at_us, err);
    if (st)
        return st;
    struct route route = route_event(e);
    for (uint32_t i = 0; i < route.n; i++) {
        uint32_t p = route_at(&route, i);
        struct frame_event f = {
            .partition = p,
            .pseq = r->applied[p].pseq + 1,
            .pos = {r->line, 0},
            .commit_us = virtual_now(r),
            .as_of_us = r->as_of_us,
        };
        if (position_compare(f.pos, r->applied[p].pos) <= 0)
            continue; /* applied before the last run stopped */
        struct partition *owner = r->partitions[route_worker(p, r->workers)];
        r->line_seen = false;
        st = partition_apply(owner, &f, e, virtual_now(r), err);
        if (!st && r->trace_final && r->line_seen)
            st = keep_traced(r, e, p, err);
        if (st)
            return st;
        r->applied[p] = (struct store_applied){f.pos, f.pseq};
        r->uncommitted++;
    }
    if (r->emit_each) {
        st = each_partition(r, partition_tick, err);
        return st ? st : each_partition(r, partition_commit, err);
    }
    if (r->uncommitted < LIMIT_COMMIT_EVENTS)
        return STATUS_OK;
    r->uncommitted = 0;
    return each_partition(r, partition_commit, err);
}

static enum status replay_line(struct replay *r, const char *name, struct str line,
                               int64_t until_us, struct error *err)
{
    struct event e;
    struct error why = {0};
    event_arena_reset(r->arena);
    enum status st = event_from_json(line, r->arena, &e, &why);
    if (st == STATUS_NOMEM)
        return error_set(err, st, "%s", why.text);
    if (st) {
        fprintf(r->cli->err, "%s:%" PRIu64 ": %s\n", name, r->line, why.text);
        r->refused++;
        return STATUS_OK;
    }
    if (e.at_us > until_us)
        return STATUS_OK;
    return apply_event(r, &e, err);
}

/* stop_after: lines to read, 0 = all. */
static enum status replay_file(struct replay *r, FILE *in, const char *name, uint64_t stop_after,
                               int64_t until_us, struct error *err)
{
    char *line = NULL;
    size_t cap = 0;
    ssize_t len = 0;
    enum status st = STATUS_OK;
    while (!st && (stop_after == 0 || r->line < stop_after) &&
           (len = getline(&line, &cap, in)) >= 0) {
        r->line++;
        while (len > 0 && (line[len - 1] == '\n' || line[len - 1] == '\r'))
            len--;
        if (len > 0)
            st = replay_line(r, name, (struct str){line, (size_t)len}, until_us, err);
    }
    if (!st && ferror(in))
        st = error_set(err, STATUS_IO, "could not read \"%s\": %s", name, strerror(errno));
    free(line);
    return st;
}

/* ---- the final rows ---- */

static enum status keep_line(struct replay *r, const struct row *row, size_t table,
                             struct error *err)
{
    if (r->n_lines == r->cap_lines) {
        size_t cap = r->cap_lines ? r->cap_lines * 2 : 256;
        struct output_line *lines = realloc(r->lines, cap * sizeof(*lines));
        if (!lines)
            return error_set(err, STATUS_NOMEM, "could not keep %zu rows", cap);
        r->lines = lines;
        r->cap_lines = cap;
    }
    struct buf text;
    buf_init(&text, (size_t)4 << 20);
    enum status st = row_to_json(row, &text);
    struct output_line *l = &r->lines[r->n_lines];
    if (!st) {
        struct str user = row_user(row);
        struct str bot = row_bot(row);
        *l = (struct output_line){
            .user = strndup(user.ptr ? user.ptr : "", user.len),
            .bot = strndup(bot.ptr ? bot.ptr : "", bot.len),
            .table = table,
            .json = strndup(text.data, text.len),
        };
        r->n_lines++;
        if (!l->user || !l->bot || !l->json)
            st = STATUS_NOMEM;
    }
    buf_deinit(&text);
    return st ? error_set(err, st, "could not keep a row") : STATUS_OK;
}

static enum status final_rows(void *ctx, struct key *key, struct error *err)
{
    struct replay *r = ctx;
    for (size_t t = 0; t < TABLE_COUNT; t++) {
        if (r->engine && !engine_fills(r->engine, (enum table_id)t))
            continue;
        /* First, so that what has expired by T does not count as a reason for a row. */
        enum status st = key_advance(key, r->as_of_us, err);
        if (st)
            return st;
        if (!key_has_row(key, (enum table_id)t))
            continue;
        struct row row;
        row_init(&row, &tables[t]);
        st = key_emit(key, (enum table_id)t, r->as_of_us, &row, err);
        if (!st)
            st = keep_line(r, &row, t, err);
        row_deinit(&row);
        if (st)
            return st;
    }
    return STATUS_OK;
}

static int compare_lines(const void *a, const void *b)
{
    const struct output_line *x = a;
    const struct output_line *y = b;
    int c = strcmp(x->user, y->user);
    if (c == 0)
        c = strcmp(x->bot, y->bot);
    if (c != 0)
        return c;
    return x->table < y->table ? -1 : x->table > y->table;
}

static enum status print_final(struct replay *r, struct error *err)
{
    for (uint32_t i = 0; i < r->workers; i++) {
        enum status st = partition_each_key(r->partitions[i], final_rows, r, err);
        if (st)
            return st;
    }
    if (r->n_lines)
        qsort(r->lines, r->n_lines, sizeof(*r->lines), compare_lines);
    for (size_t i = 0; i < r->n_lines; i++)
        fprintf(r->cli->out, "%s\n", r->lines[i].json);
    return STATUS_OK;
}

/* ---- the trace with hindsight ---- */

static enum status print_traced(struct replay *r, struct error *err)
{
    struct buf line;
    buf_init(&line, (size_t)1 << 20);
    enum status st = STATUS_OK;
    for (size_t i = 0; i < r->n_traced && (!st || st == STATUS_END); i++) {
        const struct traced *t = &r->traced[i];
        struct partition *owner = r->partitions[route_worker(t->partition, r->workers)];
        buf_reset(&line);
        st = partition_trace_final(owner, t->partition, str_from(t->user), str_from(t->bot),
                                   str_from(t->id), &line, err);
        if (!st)
            fprintf(r->cli->out, "%.*s\n", (int)line.len, line.data);
    }
    buf_deinit(&line);
    return st == STATUS_END ? STATUS_OK : st;
}

/* ---- the command ---- */

/* A whole positive number, or 0. */
static uint64_t parse_number(const char *text, uint64_t max)
{
    char *end = NULL;
    errno = 0;
    unsigned long long v = text ? strtoull(text, &end, 10) : 0;
    if (!text || end == text || *end || errno || v > max || text[0] == '-')
        return 0;
    return v;
}

static int parse_options(struct replay *r, uint64_t *stop_after, int64_t *until_us)
{
    struct cli *cli = r->cli;
    const char *v = cli_value(cli, "emit");
    if (v && strcmp(v, "each") != 0 && strcmp(v, "final") != 0)
        return cli_fail(cli, CLI_USAGE, "--emit takes \"final\" or \"each\", not \"%s\"", v);
    r->emit_each = v && strcmp(v, "each") == 0;
    v = cli_value(cli, "engine");
    r->engine = v ? engine_find(v) : NULL;
    if (v && !r->engine)
        return cli_fail(cli, CLI_USAGE, "there is no engine \"%s\"", v);
    v = cli_value(cli, "trace");
    r->trace = v ? engine_find(v) : NULL;
    if (v && (!r->trace || r->trace->trace_phase == TRACE_NEVER))
        return cli_fail(cli, CLI_USAGE, "there is no engine \"%s\" with a trace", v);
    r->trace_final = cli_has(cli, "trace-final");
    if (r->trace_final && (!r->trace || !r->trace->trace_final))
        return cli_fail(cli, CLI_USAGE, "--trace-final needs --trace of an engine that has one");
    v = cli_value(cli, "partitions");
    if (v && !parse_number(v, LIMIT_WORKERS))
        return cli_fail(cli, CLI_USAGE, "--partitions takes a number from 1 to %d, not \"%s\"",
                        LIMIT_WORKERS, v);
    r->workers = v ? (uint32_t)parse_number(v, LIMIT_WORKERS) : 1;
    v = cli_value(cli, "stop-after");
    *stop_after = parse_number(v, UINT64_MAX);
    if (v && *stop_after == 0)
        return cli_fail(cli, CLI_USAGE, "--stop-after takes a number of lines, not \"%s\"", v);
    v = cli_value(cli, "until");
    if (v && time_parse(v, strlen(v), until_us) != 0)
        return cli_fail(cli, CLI_USAGE,
                        "--until takes a time with its zone, as in "
                        "2026-01-05T14:00:00Z, not \"%s\"",
                        v);
    return CLI_OK;
}

static enum status replay_all(struct replay *r, FILE *in, uint64_t stop_after, int64_t until_us,
                              struct error *err)
{
    const char *dir = cli_value(r->cli, "state");
    enum status st = event_arena_new(&r->arena, err);
    if (!st)
        st = open_state(r, dir ? dir : ":memory:", err);
    if (!st)
        st = replay_file(r, in, r->cli->args[0], stop_after, until_us, err);
    if (!st)
        st = each_partition(r, partition_commit, err);
    /* A run that was told to stop early is to be resumed: only the one that ends prints. */
    if (!st && r->emit_each)
        return each_partition(r, partition_fold_all, err);
    if (!st && r->trace_final)
        st = print_traced(r, err);
    if (!st && (stop_after > 0 || r->trace))
        return each_partition(r, partition_fold_all, err);
    return st ? st : print_final(r, err);
}

int cmd_replay(struct cli *cli)
{
    struct replay r = {.cli = cli, .workers = 1};
    uint64_t stop_after = 0;
    int64_t until_us = INT64_MAX;
    int code = parse_options(&r, &stop_after, &until_us);
    if (code)
        return code;
    const char *name = cli->args[0];
    FILE *in = strcmp(name, "-") == 0 ? stdin : fopen(name, "r");
    if (!in)
        return cli_fail(cli, CLI_FAILED, "could not open \"%s\": %s", name, strerror(errno));
    struct error err = {0};
    enum status st = replay_all(&r, in, stop_after, until_us, &err);
    if (in != stdin)
        fclose(in);
    uint64_t refused = r.refused;
    replay_deinit(&r);
    if (st)
        return cli_fail(cli, CLI_FAILED, "%s", err.text);
    if (refused)
        return cli_fail(cli, CLI_FAILED, "%" PRIu64 " lines could not be used, see above", refused);
    return CLI_OK;
}
