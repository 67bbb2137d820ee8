#include "state/sink_sql.h"

#include <assert.h>

struct sql_column {
    const char *name;
    const char *type;
};

static const struct sql_column user_key[2] = {{"user_id", "text"}, {"bot_name", "text"}};
static const struct sql_column window_key[2] = {{"bot_name", "text"}, {"time_window_hours", "int"}};

/* In the order in which fill_common() writes them. */
static const struct sql_column common[] = {
    {"as_of", "timestamptz"},  {"source_lsn", "pg_lsn"},       {"row_version", "bigint"},
    {"event_count", "bigint"}, {"engine_version", "int"},      {"confidence", "real"},
    {"state_flags", "int"},    {"valid_until", "timestamptz"}, {"details", "jsonb"},
};
#define N_COMMON (sizeof(common) / sizeof(common[0]))
_Static_assert(2 + ROW_COLUMNS_MAX + N_COMMON + 2 == SINK_PARAMS_MAX, "the count in the header");

/* In the order in which sink_sql_fill_touch() writes them, after the key. */
static const struct sql_column touched[SINK_TOUCH_ARRAYS - 2] = {
    {"as_of", "timestamptz"}, {"valid_until", "timestamptz"}, {"row_version", "bigint"}};

/* The stored row t is older than the one in source. */
#define GUARD(source)                         \
    "(t.row_version < " source ".row_version" \
    " OR (t.row_version = " source ".row_version AND t.as_of < " source ".as_of))"

const char sink_sql_fence[] = "SELECT strategic_fence($1, $2::bigint)";

const char sink_sql_activity[] =
    "INSERT INTO strategic_key_activity AS a (user_id, bot_name, shard, first_seen, opted_out)"
    " SELECT DISTINCT ON (user_id, bot_name) user_id, bot_name, shard, now(), opted_out"
    " FROM unnest($1::text[], $2::text[], $3::smallint[], $4::bool[], $5::bigint[])"
    " AS n (user_id, bot_name, shard, opted_out, row_version)"
    " ORDER BY user_id, bot_name, row_version DESC"
    " ON CONFLICT (user_id, bot_name) DO UPDATE SET opted_out = EXCLUDED.opted_out"
    " WHERE a.opted_out <> EXCLUDED.opted_out";

/* Saying the same again, however late, is no change; an older definition does not replace a newer
 * one. */
const char sink_sql_character[] =
    "INSERT INTO strategic_bot_epoch AS b"
    " (bot_name, character_changed_at, defined_at, character_version, definition)"
    " SELECT DISTINCT ON (bot_name) bot_name, now(), defined_at, version, definition"
    " FROM unnest($1::text[], $2::timestamptz[], $3::bigint[], $4::bigint[])"
    " AS n (bot_name, defined_at, version, definition)"
    " WHERE definition IS NOT NULL ORDER BY bot_name, defined_at DESC, version DESC"
    " ON CONFLICT (bot_name) DO UPDATE SET character_changed_at = EXCLUDED.character_changed_at,"
    " defined_at = EXCLUDED.defined_at, character_version = EXCLUDED.character_version,"
    " definition = EXCLUDED.definition"
    " WHERE b.definition IS DISTINCT FROM EXCLUDED.definition"
    " AND (b.defined_at IS NULL OR b.defined_at <= EXCLUDED.defined_at)";

const char sink_sql_outdated[] =
    "UPDATE strategic_character_performance AS t"
    " SET computed_at = b.character_changed_at - interval '1 microsecond'"
    " FROM unnest($1::text[], $2::timestamptz[], $3::bigint[])"
    " AS n (bot_name, defined_at, row_version)"
    " JOIN strategic_bot_epoch AS b ON b.bot_name = n.bot_name"
    " WHERE t.bot_name = n.bot_name AND t.row_version = n.row_version"
    " AND b.defined_at > n.defined_at AND t.computed_at >= b.character_changed_at";

const char sink_sql_bury[] = "SELECT strategic_bury($1::text[], $2::text[],"
                             " $3::bigint[], $4::bigint[])";

const char sink_sql_processor[] =
    "INSERT INTO strategic_processor (shard, heartbeat, caught_up_to)"
    " SELECT shard, now(), caught_up_to"
    " FROM unnest($1::smallint[], $2::timestamptz[]) AS n (shard, caught_up_to)"
    " ON CONFLICT (shard) DO UPDATE SET heartbeat = EXCLUDED.heartbeat,"
    " caught_up_to = EXCLUDED.caught_up_to";

const char sink_sql_progress[] =
    "INSERT INTO strategic_progress AS p (pipeline, epoch, slot, slot_birth, covered_lsn,"
    " row_version, events_applied, updated_at)"
    " VALUES ($1, $2::bigint, $3, $4::pg_lsn, $5::pg_lsn, $6::bigint, $7::bigint, now())"
    " ON CONFLICT (pipeline) DO UPDATE SET epoch = EXCLUDED.epoch,"
    " slot = coalesce(EXCLUDED.slot, p.slot),"
    " slot_birth = coalesce(EXCLUDED.slot_birth, p.slot_birth),"
    " covered_lsn = coalesce(EXCLUDED.covered_lsn, p.covered_lsn),"
    " row_version = greatest(EXCLUDED.row_version, p.row_version),"
    " events_applied = coalesce(EXCLUDED.events_applied, p.events_applied),"
    " updated_at = EXCLUDED.updated_at";

const char sink_sql_notify[] =
    "SELECT pg_notify('strategic_cache', payload) FROM unnest($1::text[]) AS n (payload)";

const char sink_sql_sweep[] = "SELECT strategic_sweep(make_interval(secs => $1::float8), $2::int)";

static const struct sql_column *key_of(const struct table_def *t)
{
    return t->by_window ? window_key : user_key;
}

static const char *type_name(enum column_type type)
{
    switch (type) {
    case COLUMN_FLOAT:
        return "float8";
    case COLUMN_TEXT:
        return "text";
    case COLUMN_JSON:
        return "jsonb";
    case COLUMN_TIME:
        break;
    }
    return "timestamptz";
}

/* Every array parameter of the upsert, in order. */
static struct sql_column upsert_column(const struct table_def *t, size_t i)
{
    if (i < 2)
        return key_of(t)[i];
    i -= 2;
    if (i < t->n_columns)
        return (struct sql_column){t->columns[i].name, type_name(t->columns[i].type)};
    return common[i - t->n_columns];
}

static size_t upsert_columns(const struct table_def *t)
{
    return 2 + t->n_columns + N_COMMON;
}

size_t sink_sql_upsert_arrays(const struct table_def *t)
{
    return upsert_columns(t) + 1;
}

/*
 * The stored row is valid, or was invalidated no later than cleared_at says. Asked of the row as it
 * is once it is locked: who has applied an invalidation may be here before the server shows it to
 * a statement's snapshot. And only of a row that is invalid, which is why it may cost something.
 */
static enum status put_cleared(const struct table_def *t, size_t cleared, struct buf *out)
{
    const struct sql_column *key = key_of(t);
    return buf_printf(out,
                      "(t.invalidated_at IS NULL OR t.invalidated_at <= (SELECT n.cleared_at FROM"
                      " unnest($1::%s[], $2::%s[], $%zu::timestamptz[]) AS n (%s, %s, cleared_at)"
                      " WHERE n.%s = t.%s AND n.%s = t.%s))",
                      key[0].type, key[1].type, cleared, key[0].name, key[1].name, key[0].name,
                      key[0].name, key[1].name, key[1].name);
}

/* Parameter number ttl, in seconds; greatest() ignores a row that says nothing of its validity. */
static enum status put_expiry(enum ttl_mode mode, size_t ttl, const char *valid_until,
                              struct buf *out)
{
    if (mode == TTL_VALIDITY)
        return buf_printf(out, "greatest(now() + make_interval(secs => $%zu::float8), %s)", ttl,
                          valid_until);
    return buf_printf(out, "now() + make_interval(secs => $%zu::float8)", ttl);
}

enum status sink_sql_upsert(const struct table_def *t, enum ttl_mode mode, struct buf *out)
{
    size_t n = upsert_columns(t);
    enum status st = buf_printf(out, "INSERT INTO %s AS t (", t->name);
    for (size_t i = 0; !st && i < n; i++)
        st = buf_printf(out, "%s, ", upsert_column(t, i).name);
    if (!st)
        st = buf_printf(out, "invalidated_at, computed_at, expires_at) SELECT ");
    for (size_t i = 0; !st && i < n; i++)
        st = buf_printf(out, "%s, ", upsert_column(t, i).name);
    if (!st)
        st = buf_printf(out, "NULL, now(), ");
    if (!st)
        st = put_expiry(mode, n + 2, "valid_until", out);
    if (!st)
        st = buf_printf(out, " FROM unnest(");
    for (size_t i = 0; !st && i < n; i++)
        st = buf_printf(out, "%s$%zu::%s[]", i ? ", " : "", i + 1, upsert_column(t, i).type);
    if (!st)
        st = buf_printf(out, ") AS n (");
    for (size_t i = 0; !st && i < n; i++)
        st = buf_printf(out, "%s%s", i ? ", " : "", upsert_column(t, i).name);
    if (!st)
        st = buf_printf(out, ") ON CONFLICT (%s, %s) DO UPDATE SET ", key_of(t)[0].name,
                        key_of(t)[1].name);
    for (size_t i = 2; !st && i < n; i++)
        st = buf_printf(out, "%s = EXCLUDED.%s, ", upsert_column(t, i).name,
                        upsert_column(t, i).name);
    if (!st)
        st = buf_printf(out, "invalidated_at = NULL, computed_at = EXCLUDED.computed_at,"
                             " expires_at = EXCLUDED.expires_at WHERE ");
    if (!st)
        st = put_cleared(t, n + 1, out);
    if (!st)
        st = buf_append_str(out, STR(" AND " GUARD("EXCLUDED")));
    return st;
}

enum status sink_sql_touch(const struct table_def *t, enum ttl_mode mode, struct buf *out)
{
    const struct sql_column *key = key_of(t);
    enum status st =
        buf_printf(out,
                   "WITH n AS (SELECT * FROM unnest($1::%s[], $2::%s[], $3::%s[],"
                   " $4::%s[], $5::%s[]) WITH ORDINALITY"
                   " AS n (%s, %s, %s, %s, %s, ord)), ",
                   key[0].type, key[1].type, touched[0].type, touched[1].type, touched[2].type,
                   key[0].name, key[1].name, touched[0].name, touched[1].name, touched[2].name);
    if (!st)
        st = buf_printf(out,
                        "moved AS (UPDATE %s AS t SET as_of = n.as_of,"
                        " valid_until = n.valid_until, row_version = n.row_version,"
                        " computed_at = now(), expires_at = ",
                        t->name);
    if (!st)
        st = put_expiry(mode, SINK_TOUCH_ARRAYS + 1, "n.valid_until", out);
    if (!st)
        st = buf_printf(out,
                        " FROM n WHERE t.%s = n.%s AND t.%s = n.%s"
                        " AND t.invalidated_at IS NULL AND ",
                        key[0].name, key[0].name, key[1].name, key[1].name);
    if (!st)
        st = buf_printf(out, GUARD("n") " RETURNING n.ord) ");
    /* The outer query sees the table as it was before the UPDATE: row_version is NULL only where
     * the join found nothing. */
    if (!st)
        st = buf_printf(out,
                        "SELECT n.ord, t.row_version IS NULL OR t.invalidated_at IS NOT NULL"
                        " FROM n LEFT JOIN %s AS t ON t.%s = n.%s AND t.%s = n.%s"
                        " WHERE n.ord NOT IN (SELECT ord FROM moved)",
                        t->name, key[0].name, key[0].name, key[1].name, key[1].name);
    return st;
}

enum status sink_sql_remove(const struct table_def *t, struct buf *out)
{
    const struct sql_column *key = key_of(t);
    enum status st = buf_printf(out,
                                "DELETE FROM %s AS t USING unnest($1::%s[], $2::%s[],"
                                " $3::timestamptz[], $4::bigint[])"
                                " AS n (%s, %s, as_of, row_version)"
                                " WHERE t.%s = n.%s AND t.%s = n.%s AND ",
                                t->name, key[0].type, key[1].type, key[0].name, key[1].name,
                                key[0].name, key[0].name, key[1].name, key[1].name);
    return st ? st : buf_printf(out, GUARD("n"));
}

static void add_key(const struct table_def *t, const struct row *r, struct pg_array *arrays)
{
    if (t->by_window) {
        pg_array_text(&arrays[0], row_bot(r));
        pg_array_plain(&arrays[1], "%d", r->window_hours);
        return;
    }
    pg_array_text(&arrays[0], row_user(r));
    pg_array_text(&arrays[1], row_bot(r));
}

static void add_value(const struct row *r, size_t column, struct pg_array *a)
{
    if (!r->values[column].set) {
        pg_array_null(a);
        return;
    }
    switch (r->table->columns[column].type) {
    case COLUMN_FLOAT:
        pg_array_double(a, r->values[column].number);
        return;
    case COLUMN_TIME:
        pg_array_time(a, (int64_t)r->values[column].number);
        return;
    case COLUMN_TEXT:
    case COLUMN_JSON:
        pg_array_text(a, row_value(r, column));
        return;
    }
}

static void add_valid_until(const struct row *r, struct pg_array *a)
{
    if (r->valid_until_us == 0)
        pg_array_null(a);
    else
        pg_array_time(a, r->valid_until_us);
}

static void add_common(const struct row *r, struct pg_array *a)
{
    pg_array_time(a++, r->as_of_us);
    if (r->source_lsn == LSN_INVALID)
        pg_array_null(a++);
    else
        pg_array_plain(a++, LSN_FMT, LSN_ARGS(r->source_lsn));
    pg_array_plain(a++, "%" PRIu64, r->row_version);
    pg_array_plain(a++, "%" PRId64, r->event_count);
    pg_array_plain(a++, "%" PRId32, r->engine_version);
    pg_array_double(a++, row_confidence(r));
    pg_array_plain(a++, "%" PRIu32, r->state_flags);
    add_valid_until(r, a++);
    pg_array_text(a, r->details_len ? row_details(r) : STR_NULL);
}

static enum status end_arrays(struct pg_array *arrays, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        enum status st = pg_array_end(&arrays[i]);
        if (st)
            return st;
    }
    return STATUS_OK;
}

enum status sink_sql_fill_upsert(const struct table_def *t, const struct row *const *rows,
                                 const int64_t *cleared_us, size_t n, struct pg_array *arrays)
{
    size_t n_arrays = sink_sql_upsert_arrays(t);
    for (size_t i = 0; i < n_arrays; i++)
        pg_array_begin(&arrays[i]);
    for (size_t i = 0; i < n; i++) {
        assert(rows[i]->table == t);
        add_key(t, rows[i], arrays);
        for (size_t c = 0; c < t->n_columns; c++)
            add_value(rows[i], c, &arrays[2 + c]);
        add_common(rows[i], &arrays[2 + t->n_columns]);
        if (cleared_us[i])
            pg_array_time(&arrays[n_arrays - 1], cleared_us[i]);
        else
            pg_array_null(&arrays[n_arrays - 1]);
    }
    return end_arrays(arrays, n_arrays);
}

enum status sink_sql_fill_touch(const struct table_def *t, const struct row *const *rows, size_t n,
                                struct pg_array *arrays)
{
    for (size_t i = 0; i < SINK_TOUCH_ARRAYS; i++)
        pg_array_begin(&arrays[i]);
    for (size_t i = 0; i < n; i++) {
        add_key(t, rows[i], arrays);
        pg_array_time(&arrays[2], rows[i]->as_of_us);
        add_valid_until(rows[i], &arrays[3]);
        pg_array_plain(&arrays[4], "%" PRIu64, rows[i]->row_version);
    }
    return end_arrays(arrays, SINK_TOUCH_ARRAYS);
}

enum status sink_sql_fill_remove(const struct table_def *t, const struct row *const *rows, size_t n,
                                 struct pg_array *arrays)
{
    for (size_t i = 0; i < SINK_REMOVE_ARRAYS; i++)
        pg_array_begin(&arrays[i]);
    for (size_t i = 0; i < n; i++) {
        add_key(t, rows[i], arrays);
        pg_array_time(&arrays[2], rows[i]->as_of_us);
        pg_array_plain(&arrays[3], "%" PRIu64, rows[i]->row_version);
    }
    return end_arrays(arrays, SINK_REMOVE_ARRAYS);
}
