/*
 * server/cmd_status.c - where the pipeline stands, read from what is durable: PostgreSQL's lease,
 * progress and cache rows, the slot, the state directory. Works whether or not `run` is up, and
 * shows what it can when one of them cannot be reached.
 *
 * One JSON document is built; the text form is printed from it.
 */
#include "core/clock.h"
#include "core/pg.h"
#include "engines/tables.h"
#include "ingest/preflight.h"
#include "server/blocked.h"
#include "server/output.h"
#include "server/source_watch.h"
#include "state/store.h"

#include <inttypes.h>
#include <string.h>

/* A part that could not be read: {"error": ...}. */
static json_t *part_error(const struct error *err)
{
    return json_pack("{s:o}", "error", output_text(str_from(err->text)));
}

static json_t *field_text(const PGresult *res, int column)
{
    if (PQgetisnull(res, 0, column))
        return json_null();
    return output_text(
        (struct str){PQgetvalue(res, 0, column), (size_t)PQgetlength(res, 0, column)});
}

static json_t *field_int(const PGresult *res, int column)
{
    if (PQgetisnull(res, 0, column))
        return json_null();
    return json_integer(strtoll(PQgetvalue(res, 0, column), NULL, 10));
}

#define UTC_TEXT(expr) "to_char(" expr " AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
#define AGE_US(expr)   "(extract(epoch FROM clock_timestamp() - " expr ") * 1000000)::bigint"

static json_t *read_lease(PGconn *conn, const char *pipeline)
{
    struct error err;
    CLEANUP(PQclearp) PGresult *res = NULL;
    const char *params[] = {pipeline};
    if (pg_query(
            conn,
            "SELECT l.holder, (extract(epoch FROM l.until - clock_timestamp()) * 1000)::bigint, "
            "e.epoch FROM (VALUES ($1::text)) p(pipeline) "
            "LEFT JOIN strategic_lease l USING (pipeline) "
            "LEFT JOIN strategic_epoch e USING (pipeline)",
            1, params, "could not read the lease", &res, &err) != STATUS_OK)
        return part_error(&err);
    bool held = !PQgetisnull(res, 0, 1) && strtoll(PQgetvalue(res, 0, 1), NULL, 10) > 0;
    return json_pack("{s:b, s:o, s:o, s:o}", "held", held, "holder", field_text(res, 0),
                     "remaining_ms", field_int(res, 1), "epoch", field_int(res, 2));
}

static json_t *read_progress(PGconn *conn, const char *pipeline)
{
    struct error err;
    CLEANUP(PQclearp) PGresult *res = NULL;
    const char *params[] = {pipeline};
    if (pg_query(conn,
                 "SELECT covered_lsn, row_version, events_applied, " UTC_TEXT(
                     "updated_at") ", " AGE_US("updated_at") " FROM strategic_progress "
                                                             "WHERE pipeline = $1",
                 1, params, "could not read the progress", &res, &err) != STATUS_OK)
        return part_error(&err);
    if (PQntuples(res) == 0)
        return json_null();
    return json_pack("{s:o, s:o, s:o, s:o, s:o}", "covered_lsn", field_text(res, 0), "row_version",
                     field_int(res, 1), "events_applied", field_int(res, 2), "updated_at",
                     field_text(res, 3), "age_us", field_int(res, 4));
}

static json_t *read_table(PGconn *conn, const struct table_def *table)
{
    struct error err;
    CLEANUP(PQclearp) PGresult *res = NULL;
    char sql[512];
    snprintf(sql, sizeof(sql),
             "SELECT count(*), count(*) FILTER (WHERE expires_at > now()), " UTC_TEXT(
                 "max(computed_at)") ", " AGE_US("max(computed_at)") " FROM %s",
             table->name);
    if (pg_query(conn, sql, 0, NULL, "could not count the cache rows", &res, &err) != STATUS_OK)
        return part_error(&err);
    return json_pack("{s:o, s:o, s:o, s:o}", "rows", field_int(res, 0), "fresh", field_int(res, 1),
                     "newest_computed_at", field_text(res, 2), "newest_age_us", field_int(res, 3));
}

/* A table with a row per window has an id for each: it is one table all the same. */
static bool table_was_listed(int t)
{
    return t > 0 && strcmp(tables[t].name, tables[t - 1].name) == 0;
}

static void read_sink(const struct config *cfg, json_t *root)
{
    struct error err;
    CLEANUP(PQfinishp) PGconn *conn = NULL;
    struct pg_options options = {
        .conninfo = cfg->sink_conninfo, .application_name = "warmpath status", .timeout_ms = 5000};
    if (pg_open(&options, &conn, &err) != STATUS_OK) {
        json_object_set_new(root, "lease", part_error(&err));
        json_object_set_new(root, "progress", part_error(&err));
        json_object_set_new(root, "tables", part_error(&err));
        return;
    }
    json_object_set_new(root, "lease", read_lease(conn, cfg->pipeline));
    json_object_set_new(root, "progress", read_progress(conn, cfg->pipeline));
    json_t *list = json_object();
    for (int t = 0; t < TABLE_COUNT; t++)
        if (!table_was_listed(t))
            json_object_set_new(list, tables[t].name, read_table(conn, &tables[t]));
    json_object_set_new(root, "tables", list);
}

static json_t *lsn_json(lsn_t lsn)
{
    if (lsn == LSN_INVALID)
        return json_null();
    return json_sprintf(LSN_FMT, LSN_ARGS(lsn));
}

static json_t *bytes_json(int64_t bytes)
{
    return bytes < 0 ? json_null() : json_integer(bytes);
}

static json_t *pins_json(const struct slot_pins *pins)
{
    json_t *list = json_array();
    for (size_t i = 0; i < pins->n; i++)
        json_array_append_new(list, json_pack("{s:s, s:o, s:o, s:o}", "kind", pins->pins[i].kind,
                                              "what", output_text(str_from(pins->pins[i].what)),
                                              "age_us", bytes_json(pins->pins[i].age_us), "fix",
                                              output_text(str_from(pins->pins[i].fix))));
    return list;
}

/* The numbers of the slot that a limit or an alarm would look at. */
static void slot_numbers(const struct slot_info *slot, json_t *o)
{
    json_object_set_new(o, "confirmed_flush_lsn", lsn_json(slot->confirmed_flush));
    json_object_set_new(o, "restart_lsn", lsn_json(slot->restart_lsn));
    json_object_set_new(o, "lag_bytes", bytes_json(slot->lag_bytes));
    json_object_set_new(o, "pinned_bytes", bytes_json(slot->pinned_bytes));
    json_object_set_new(o, "retained_bytes", bytes_json(slot->retained_bytes));
    json_object_set_new(o, "safe_wal_bytes", bytes_json(slot->safe_wal_bytes));
    json_object_set_new(o, "max_slot_wal_keep_bytes", bytes_json(slot->keep_bytes_max));
    json_object_set_new(o, "wal_status", output_text(str_from(slot->wal_status)));
    json_object_set_new(o, "invalidation", output_text(str_from(slot->invalidation)));
    json_object_set_new(o, "conflicting", json_boolean(slot->conflicting));
    json_object_set_new(o, "inactive_us", bytes_json(slot->inactive_us));
    json_object_set_new(o, "idle_timeout_s",
                        slot->idle_timeout_s ? json_integer(slot->idle_timeout_s) : json_null());
    json_object_set_new(o, "failover", json_boolean(slot->failover));
    json_object_set_new(o, "synced", json_boolean(slot->synced));
    json_object_set_new(o, "two_phase_at", lsn_json(slot->two_phase_at));
}

static json_t *read_slot(const struct config *cfg)
{
    struct error err;
    struct slot_info slot;
    struct slot_pins pins = {0};
    char why[SLOT_LOSS_BYTES] = "";
    CLEANUP(PQfinishp) PGconn *conn = NULL;
    if (preflight_connect(cfg->source_conninfo, &conn, &err) != STATUS_OK ||
        preflight_slot_read(conn, cfg->slot, &slot, &err) != STATUS_OK)
        return part_error(&err);
    if (!slot.exists)
        return json_pack("{s:s, s:b}", "name", cfg->slot, "exists", 0);
    if (preflight_slot_pins(conn, &slot, &pins, &err) != STATUS_OK)
        return part_error(&err);
    bool lost = preflight_slot_lost(&slot, why);
    json_t *o = json_pack("{s:s, s:b, s:b, s:i, s:o, s:b, s:o, s:o}", "name", cfg->slot, "exists",
                          1, "active", slot.active, "active_pid", slot.active_pid, "holder",
                          output_text(str_from(slot.holder)), "lost", lost, "why",
                          output_text(str_from(why)), "pins", pins_json(&pins));
    slot_numbers(&slot, o);
    return o;
}

static enum status count_letter(void *ctx, const struct store_dead_letter *d, struct error *err)
{
    (void)d;
    (void)err;
    ++*(uint64_t *)ctx;
    return STATUS_OK;
}

static json_t *read_state(const struct config *cfg)
{
    struct error err;
    struct store_identity id;
    lsn_t covered;
    enum status st = store_identity_read(cfg->state_dir, &id, &covered, &err);
    if (st == STATUS_END)
        return json_pack("{s:s, s:b}", "dir", cfg->state_dir, "exists", 0);
    if (st != STATUS_OK)
        return part_error(&err);
    uint64_t letters = 0;
    st = store_dead_letters_read(cfg->state_dir, count_letter, &letters, &err);
    if (st != STATUS_OK && st != STATUS_END)
        return part_error(&err);
    return json_pack("{s:s, s:b, s:b, s:s, s:s, s:s, s:o, s:o, s:i, s:i, s:I}", "dir",
                     cfg->state_dir, "exists", 1, "loading", id.loading, "pipeline", id.pipeline,
                     "system_identifier", id.system_identifier, "slot", id.slot, "slot_birth_lsn",
                     lsn_json(id.slot_birth), "covered_lsn", lsn_json(covered), "partitions",
                     (int)id.partitions, "workers", (int)store_set_workers(cfg->state_dir),
                     "dead_letters", (json_int_t)letters);
}

/* What a reader that stands still waits for; null when none does. */
static json_t *read_blocked(const struct config *cfg)
{
    struct error why;
    int64_t since_us;
    if (!blocked_read(cfg->state_dir, &why, &since_us))
        return json_null();
    return json_pack("{s:o, s:o}", "since", output_time(since_us), "reason",
                     output_text(str_from(why.text)));
}

/* Null when there is none: source.heartbeat is off, or none has come back. */
static json_t *read_heartbeat(const struct config *cfg)
{
    int64_t lag_us = 0;
    int64_t at_us = 0;
    if (!source_lag_read(cfg->state_dir, &lag_us, &at_us))
        return json_null();
    return json_pack("{s:I, s:I}", "lag_us", (json_int_t)lag_us, "age_us",
                     (json_int_t)(clock_wall_us(&clock_real) - at_us));
}

/* ---- the text form ---- */

static const char *text_of(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "none";
}

static json_int_t int_of(const json_t *o, const char *key)
{
    return json_integer_value(json_object_get(o, key));
}

/* True when the part is readable; otherwise its error has been printed. */
static bool begin_part(FILE *out, const char *title, const json_t *part)
{
    const char *error = json_string_value(json_object_get(part, "error"));
    fprintf(out, "%-10s", title);
    if (error)
        fprintf(out, "not readable: %s\n", error);
    return !error;
}

static void print_slot(FILE *out, const json_t *slot)
{
    char lag[32], retained[32], pinned[32], safe[32];
    if (!begin_part(out, "slot", slot))
        return;
    if (!json_is_true(json_object_get(slot, "exists"))) {
        fprintf(out, "%s does not exist\n", text_of(slot, "name"));
        return;
    }
    output_bytes(int_of(slot, "lag_bytes"), lag);
    output_bytes(int_of(slot, "retained_bytes"), retained);
    output_bytes(int_of(slot, "pinned_bytes"), pinned);
    output_bytes(int_of(slot, "safe_wal_bytes"), safe);
    bool limited = json_is_integer(json_object_get(slot, "safe_wal_bytes"));
    fprintf(out, "%s %s, confirmed up to %s, %s behind\n", text_of(slot, "name"),
            json_is_true(json_object_get(slot, "active")) ? "active" : "not active",
            text_of(slot, "confirmed_flush_lsn"), lag);
    fprintf(out, "%-10s%s kept from %s on (%s before what is confirmed), %s, %s%s\n", "wal",
            retained, text_of(slot, "restart_lsn"), pinned, text_of(slot, "wal_status"),
            limited ? safe : "no limit", limited ? " more until the slot is lost" : "");
    if (json_is_true(json_object_get(slot, "lost")))
        fprintf(out, "%-10sthe slot is lost: %s\n", "", text_of(slot, "why"));
    size_t i;
    json_t *pin;
    json_array_foreach(json_object_get(slot, "pins"), i, pin)
        fprintf(out, "%-10skept for %s; %s\n", "", text_of(pin, "what"), text_of(pin, "fix"));
}

static void print_tables(FILE *out, const json_t *list)
{
    if (json_object_get(list, "error")) {
        begin_part(out, "tables", list);
        return;
    }
    for (int t = 0; t < TABLE_COUNT; t++) {
        const json_t *table = json_object_get(list, tables[t].name);
        char age[32];
        if (table_was_listed(t))
            continue;
        if (!begin_part(out, t ? "" : "tables", table))
            continue;
        output_age(int_of(table, "newest_age_us"), age);
        fprintf(out, "%-34s %" JSON_INTEGER_FORMAT " rows, %" JSON_INTEGER_FORMAT " fresh%s%s%s\n",
                tables[t].name, int_of(table, "rows"), int_of(table, "fresh"),
                int_of(table, "rows") ? ", newest " : "", int_of(table, "rows") ? age : "",
                int_of(table, "rows") ? " old" : "");
    }
}

static void print_text(FILE *out, const json_t *root)
{
    const json_t *lease = json_object_get(root, "lease");
    const json_t *progress = json_object_get(root, "progress");
    const json_t *state = json_object_get(root, "state");
    char age[32];
    fprintf(out, "%-10s%s\n", "pipeline", text_of(root, "pipeline"));
    if (begin_part(out, "lease", lease)) {
        if (json_is_true(json_object_get(lease, "held")))
            fprintf(out,
                    "held by %s, runs for %" JSON_INTEGER_FORMAT
                    " ms more, epoch %" JSON_INTEGER_FORMAT "\n",
                    text_of(lease, "holder"), int_of(lease, "remaining_ms"),
                    int_of(lease, "epoch"));
        else
            fprintf(out, "not held, epoch %" JSON_INTEGER_FORMAT "\n", int_of(lease, "epoch"));
    }
    const json_t *blocked = json_object_get(root, "blocked");
    if (json_is_object(blocked))
        fprintf(out, "%-10ssince %s: %s\n", "blocked", text_of(blocked, "since"),
                text_of(blocked, "reason"));
    print_slot(out, json_object_get(root, "slot"));
    const json_t *heartbeat = json_object_get(root, "heartbeat");
    if (!json_is_null(heartbeat)) {
        char lag[32];
        output_age(int_of(heartbeat, "lag_us"), lag);
        output_age(int_of(heartbeat, "age_us"), age);
        fprintf(out, "%-10sdurable here %s after it was sent, %s ago\n", "heartbeat", lag, age);
    }
    if (json_is_null(progress)) {
        fprintf(out, "%-10snone yet\n", "progress");
    } else if (begin_part(out, "progress", progress)) {
        output_age(int_of(progress, "age_us"), age);
        fprintf(out, "rows cover %s, %" JSON_INTEGER_FORMAT " events applied, written %s ago\n",
                text_of(progress, "covered_lsn"), int_of(progress, "events_applied"), age);
    }
    if (begin_part(out, "state", state)) {
        if (json_is_true(json_object_get(state, "exists")))
            fprintf(out,
                    "%s %s %s, %" JSON_INTEGER_FORMAT " workers, %" JSON_INTEGER_FORMAT
                    " dead letters\n",
                    text_of(state, "dir"),
                    json_is_true(json_object_get(state, "loading"))
                        ? "is loading the initial snapshot as of"
                        : "covers",
                    text_of(state, json_is_true(json_object_get(state, "loading"))
                                       ? "slot_birth_lsn"
                                       : "covered_lsn"),
                    int_of(state, "workers"), int_of(state, "dead_letters"));
        else
            fprintf(out, "%s is empty\n", text_of(state, "dir"));
    }
    print_tables(out, json_object_get(root, "tables"));
}

static bool has_error(const json_t *part)
{
    if (!json_is_object(part))
        return false;
    if (json_object_get(part, "error"))
        return true;
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)part, key, value)
    {
        (void)key;
        if (has_error(value))
            return true;
    }
    return false;
}

int cmd_status(struct cli *cli)
{
    const struct config *cfg = cli->config;
    json_t *root = json_object();
    if (!root)
        return cli_fail(cli, CLI_FAILED, "out of memory");
    json_object_set_new(root, "pipeline", json_string(cfg->pipeline));
    read_sink(cfg, root);
    json_object_set_new(root, "slot", read_slot(cfg));
    json_object_set_new(root, "heartbeat", read_heartbeat(cfg));
    json_object_set_new(root, "state", read_state(cfg));
    json_object_set_new(root, "blocked", read_blocked(cfg));
    int code = has_error(root) ? CLI_FAILED : CLI_OK;
    if (cli_has(cli, "json"))
        return output_json(cli, root, code);
    print_text(cli->out, root);
    json_decref(root);
    return code;
}
