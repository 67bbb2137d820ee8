#include "server/redis_sql.h"

#include "core/limits.h"
#include "engines/tables.h"

#include <string.h>

/* Seconds, as a number: what any language compares with its own clock. */
#define SECONDS(column) "extract(epoch FROM " column ")"

const char redis_sql_processor[] = "SELECT json_build_object('v', 1, 'heartbeat', " SECONDS(
    "min(heartbeat)") ","
                      " 'caught_up_to', json_object_agg(shard, " SECONDS(
                          "caught_up_to") " ORDER BY shard))::text"
                                          " FROM strategic_processor HAVING count(*) > 0";

/* Transactions that began earlier may be committed later. */
const char redis_sql_characters[] =
    "SELECT bot_name, character_changed_at FROM strategic_bot_epoch"
    " WHERE character_changed_at > $1::timestamptz - interval '10 s' ORDER BY 2";

static bool is_last_of_its_table(size_t table)
{
    return table + 1 == TABLE_COUNT || strcmp(tables[table].name, tables[table + 1].name) != 0;
}

/* "strategic_memory_health": memory_health */
static const char *member_of(const struct table_def *t)
{
    return t->name + strlen("strategic_");
}

/* One row as JSON; alias is that of the table. */
static enum status put_row(struct buf *out, const struct table_def *t, const char *alias)
{
    static const char *const times[] = {"computed_at", "expires_at", "valid_until", "as_of"};
    static const char *const plain[] = {"row_version", "confidence", "state_flags"};
    enum status st = buf_printf(out, "json_build_object(");
    for (size_t i = 0; i < sizeof(times) / sizeof(times[0]) && !st; i++)
        st = buf_printf(out, "'%s', " SECONDS("%s.%s") ", ", times[i], alias, times[i]);
    for (size_t i = 0; i < sizeof(plain) / sizeof(plain[0]) && !st; i++)
        st = buf_printf(out, "'%s', %s.%s, ", plain[i], alias, plain[i]);
    if (!st)
        st = buf_printf(out, "'row', json_build_object(");
    for (size_t i = 0; i < t->n_columns && !st; i++)
        st = buf_printf(out, "'%s', %s.%s, ", t->columns[i].name, alias, t->columns[i].name);
    return st ? st : buf_printf(out, "'details', %s.details))", alias);
}

/* For each table of users: format, in which %zu is its number. */
static enum status put_each(struct buf *out, const char *before, const char *after)
{
    enum status st = STATUS_OK;
    bool first = true;
    for (size_t i = 0; i < TABLE_COUNT && !st; i++) {
        if (tables[i].by_window)
            continue;
        st = buf_printf(out, "%s%st%zu%s", first ? "" : " OR ", before, i, after);
        first = false;
    }
    return st;
}

static enum status put_components(struct buf *out)
{
    enum status st = STATUS_OK;
    for (size_t i = 0; i < TABLE_COUNT && !st; i++) {
        char alias[16];
        if (tables[i].by_window)
            continue;
        snprintf(alias, sizeof(alias), "t%zu", i);
        st = buf_printf(out, ", '%s', CASE WHEN %s.user_id IS NOT NULL THEN ",
                        member_of(&tables[i]), alias);
        if (!st)
            st = put_row(out, &tables[i], alias);
        if (!st)
            st = buf_printf(out, " END");
    }
    return st;
}

enum status redis_sql_users(struct buf *out)
{
    enum status st = buf_printf(out, "SELECT k.user_id, k.bot_name, CASE WHEN (");
    if (!st)
        st = put_each(out, "", ".invalidated_at IS NOT NULL");
    if (!st)
        st = buf_printf(out, ") IS NOT TRUE AND (");
    if (!st)
        st = put_each(out, "", ".expires_at > now()");
    if (!st)
        st = buf_printf(out, ") THEN json_build_object('v', 1, 'user_id', k.user_id,"
                             " 'bot_name', k.bot_name, 'shard', a.shard");
    if (!st)
        st = put_components(out);
    if (!st)
        st = buf_printf(out, ")::text END FROM unnest($1::text[], $2::text[])"
                             " AS k (user_id, bot_name)"
                             " LEFT JOIN strategic_key_activity a"
                             " ON a.user_id = k.user_id AND a.bot_name = k.bot_name");
    for (size_t i = 0; i < TABLE_COUNT && !st; i++)
        if (!tables[i].by_window)
            st = buf_printf(out,
                            " LEFT JOIN %s t%zu"
                            " ON t%zu.user_id = k.user_id AND t%zu.bot_name = k.bot_name",
                            tables[i].name, i, i, i);
    return st ? st : buf_append(out, "", 1);
}

enum status redis_sql_bots(struct buf *out)
{
    const struct table_def *t = &tables[TABLE_PERFORMANCE_168H];
    enum status st =
        buf_printf(out,
                   "SELECT NULL, k.bot_name, json_build_object('v', 1, 'bot_name', k.bot_name,"
                   " 'character_changed_at', " SECONDS(
                       "e.character_changed_at") ", '%s',"
                                                 " (SELECT json_object_agg(f.time_window_hours, ",
                   member_of(t));
    if (!st)
        st = put_row(out, t, "f");
    if (!st)
        st = buf_printf(out,
                        " ORDER BY f.time_window_hours) FROM %s f"
                        " WHERE f.bot_name = k.bot_name AND f.invalidated_at IS NULL))::text"
                        " FROM unnest($1::text[]) AS k (bot_name)"
                        " LEFT JOIN strategic_bot_epoch e ON e.bot_name = k.bot_name",
                        t->name);
    return st ? st : buf_append(out, "", 1);
}

enum status redis_sql_live(struct buf *out)
{
    enum status st = buf_printf(out, "DECLARE live NO SCROLL CURSOR WITH HOLD FOR ");
    bool first = true;
    for (size_t i = 0; i < TABLE_COUNT && !st; i++) {
        if (!is_last_of_its_table(i))
            continue;
        st = buf_printf(out, "%sSELECT %s, bot_name FROM %s WHERE expires_at > now()",
                        first ? "" : " UNION ", tables[i].by_window ? "NULL::text" : "user_id",
                        tables[i].name);
        first = false;
    }
    return st ? st : buf_append(out, "", 1);
}
