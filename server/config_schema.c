#include "server/config_schema.h"

#include "core/clock.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#define MEMBER(type, member) offsetof(type, member), sizeof(((type *)0)->member)
#define ROOT(member)         SCOPE_ROOT, MEMBER(struct config, member)
#define TABLE(member)        SCOPE_TABLE, MEMBER(struct mapping, member)
#define FIELD(member)        SCOPE_FIELD, MEMBER(struct mapping_source, member)
#define TRIGGER(member)      SCOPE_TRIGGER, MEMBER(struct trigger_policy, member)

#define YEAR_US (365 * US_PER_DAY)

static const struct config_choice on_slot_lost_choices[] = {
    {"stop", ON_SLOT_LOST_STOP}, {"rebuild", ON_SLOT_LOST_REBUILD}, {NULL, 0}};
static const struct config_choice snapshot_choices[] = {
    {"initial", SNAPSHOT_INITIAL}, {"never", SNAPSHOT_NEVER}, {NULL, 0}};
static const struct config_choice level_choices[] = {
    {"error", LOG_ERROR}, {"warn", LOG_WARN}, {"info", LOG_INFO}, {"debug", LOG_DEBUG}, {NULL, 0}};
static const struct config_choice event_choices[] = {{"message", EVENT_MESSAGE},
                                                     {"memory", EVENT_MEMORY},
                                                     {"metric", EVENT_METRIC},
                                                     {"outreach", EVENT_OUTREACH},
                                                     {"character", EVENT_CHARACTER},
                                                     {"privacy", EVENT_PRIVACY},
                                                     {NULL, 0}};
static const struct config_choice on_truncate_choices[] = {{"dead_letter", TRUNCATE_DEAD_LETTER},
                                                           {"ignore", TRUNCATE_IGNORE},
                                                           {"rebuild", TRUNCATE_REBUILD},
                                                           {"stop", TRUNCATE_STOP},
                                                           {NULL, 0}};
static const struct config_choice unit_choices[] = {{"timestamp", TIME_TIMESTAMP},
                                                    {"naive_utc", TIME_NAIVE_UTC},
                                                    {"epoch_s", TIME_EPOCH_S},
                                                    {"epoch_ms", TIME_EPOCH_MS},
                                                    {"epoch_us", TIME_EPOCH_US},
                                                    {"epoch_ns", TIME_EPOCH_NS},
                                                    {NULL, 0}};

/* The same members for all bots and for one. */
#define TRIGGER_ROWS(prefix)                                                                         \
    {prefix ".count", CONFIG_INT,                                                                    \
     TRIGGER(count),  .min = 0,                                                                      \
     .max = 1000000,  .help = "refresh after this many new events; 0 = never for this reason"},      \
        {prefix ".max_age",   CONFIG_DURATION,                                                       \
         TRIGGER(max_age_us), .min = 0,                                                              \
         .max = YEAR_US,      .help = "refresh this long after the first event not yet shown"},      \
        {prefix ".idle",   CONFIG_DURATION,                                                          \
         TRIGGER(idle_us), .min = 0,                                                                 \
         .max = YEAR_US,   .help = "refresh when the conversation has been quiet for this long"},    \
        {prefix ".min_interval",   CONFIG_DURATION,                                                  \
         TRIGGER(min_interval_us), .min = 0,                                                         \
         .max = YEAR_US,           .help = "never refresh for count or idle more often than this"},  \
        {prefix ".refresh",   CONFIG_DURATION,                                                       \
         TRIGGER(refresh_us), .min = 0,                                                              \
         .max = YEAR_US,      .help = "renew the row of a warm key at this age, before it expires"}, \
        {prefix ".refresh_jitter",                                                                   \
         CONFIG_DURATION,                                                                            \
         TRIGGER(refresh_jitter_us),                                                                 \
         .min = 0,                                                                                   \
         .max = YEAR_US,                                                                             \
         .help = "spread renewals by up to this much"},                                              \
    {                                                                                                \
        prefix ".warm", CONFIG_DURATION, TRIGGER(warm_us),                                           \
            .min = 0, .max = YEAR_US,                                                                \
            .help = "a key is warm, and its row kept alive, this long after its last event"          \
    }

const struct config_row config_rows[] = {
    {"pipeline", CONFIG_STRING, ROOT(pipeline), "default", .name = true,
     .help = "name of this pipeline's lease, epoch and progress rows; one process runs it"},

    {"source.conninfo", CONFIG_STRING, ROOT(source_conninfo), .env = "DATABASE_URL", .secret = true,
     .help = "connection string or URI of the database with the application's tables; "
             "passwords are better left to PGPASSFILE or ${file:PATH}"},
    {"source.slot", CONFIG_STRING, ROOT(slot), "warmpath", .name = true,
     .help = "logical replication slot"},
    {"source.publication", CONFIG_STRING, ROOT(publication), "warmpath", .name = true,
     .help = "publication of the mapped tables"},
    {"source.create", CONFIG_BOOL, ROOT(create), "true",
     .help = "create the publication and the slot when they are missing"},
    {"source.on_slot_lost", CONFIG_ENUM, ROOT(on_slot_lost), "stop",
     .choices = on_slot_lost_choices,
     .help = "what to do when the slot is lost, or no longer fits the state"},
    {"source.silence", CONFIG_DURATION, ROOT(source_silence_us), "60s", .min = US_PER_SECOND / 10,
     .max = US_PER_HOUR,
     .help =
         "ask a server that has sent nothing for this long for a sign of life, and connect anew "
         "when none comes within half of it"},
    {"source.heartbeat", CONFIG_DURATION, ROOT(heartbeat_us), "0s", .min = 0, .max = YEAR_US,
     .help = "send a tiny logical message through the slot so often, and show in `status` how long "
             "it takes to become durable; 0s = never"},
    {"source.failover", CONFIG_BOOL, ROOT(failover), "true",
     .help = "make the slot so that standbys keep it, for a failover (PostgreSQL 17 or later)"},
    {"source.snapshot", CONFIG_ENUM, ROOT(snapshot), "initial", .choices = snapshot_choices,
     .help = "whether the first start reads the rows that are there already"},
    {"source.snapshot_window", CONFIG_DURATION, ROOT(snapshot_window_us), "30d",
     .min = US_PER_MINUTE, .max = 100 * YEAR_US,
     .help = "how old messages and metrics may be to be read by the snapshot; everything else is "
             "read whole"},
    {"source.snapshot_jobs", CONFIG_INT, ROOT(snapshot_jobs), "2", .min = 1, .max = 8,
     .help = "connections that read one large table during the snapshot"},

    {"source.tables[].relation", CONFIG_RELATION, TABLE(table),
     .help = "table to read, schema.table"},
    {"source.tables[].event", CONFIG_ENUM, TABLE(type), .choices = event_choices,
     .help = "what a row of the table is"},
    {"source.tables[].on_truncate", CONFIG_ENUM, TABLE(on_truncate), "dead_letter",
     .choices = on_truncate_choices,
     .help = "what a TRUNCATE does, which does not say which rows went: be kept as a dead letter, "
             "nothing, read the tables again, or stop reading until this setting is changed"},
    {"source.tables[].soft_delete", CONFIG_STRING, TABLE(soft_delete),
     .help = "a row whose value in this column is not NULL, false or 0 counts as deleted"},
    {"source.tables[].only_if", CONFIG_STRING, TABLE(only_if),
     .help = "a row counts only while its value in this column is not NULL, false or 0"},
    {"source.tables[].counter", CONFIG_STRING, TABLE(counter),
     .help = "memory accesses: each step by which this column grows is one, at most 64 at once"},
    {"source.tables[].fields.*", CONFIG_STRING, FIELD(column),
     .help = "short form: the column that holds this field. A list: the first of its elements that "
             "has a value"},
    {"source.tables[].fields.*.column", CONFIG_STRING, FIELD(column),
     .help = "the column that holds this field"},
    {"source.tables[].fields.*.path", CONFIG_STRING, FIELD(path),
     .help = "member names, joined by dots, inside the JSON value of the column"},
    {"source.tables[].fields.*.const", CONFIG_STRING, FIELD(constant),
     .help = "the same text for every row, instead of a column"},
    {"source.tables[].fields.*.template", CONFIG_STRING, FIELD(template),
     .help = "text with the names of columns in braces, as in \"{id}:u\"; `{{` is a brace"},
    {"source.tables[].fields.*.unit", CONFIG_ENUM, FIELD(time_unit), "timestamp",
     .choices = unit_choices, .help = "how `at` is stored"},
    {"source.tables[].fields.*.zone", CONFIG_STRING, FIELD(zone),
     .help = "zone of an `at` without one: `UTC` or an offset like `+02:00`"},
    {"source.tables[].fields.*.plus", CONFIG_DURATION, FIELD(plus_us), "0s", .min = 0,
     .max = US_PER_DAY, .help = "added to `at`"},
    {"source.tables[].fields.*.map.*", CONFIG_MAP, FIELD(enum_map),
     .help = "value in the column: meaning; \"\" ignores the row. A value not listed is kept as a "
             "dead letter"},
    {"source.tables[].fields.*.ignore", CONFIG_MAP, FIELD(enum_map),
     .help = "value, or list of values, whose rows are ignored"},
    {"source.tables[].fields.*.default", CONFIG_STRING, FIELD(default_to),
     .help = "what values that the map does not list mean; \"\" ignores the row"},

    {"sink.conninfo", CONFIG_STRING, ROOT(sink_conninfo), .secret = true,
     .help = "database with the cache tables; the source's when not given"},
    {"sink.ttl", CONFIG_DURATION, ROOT(ttl_us), "5m", .min = US_PER_SECOND, .max = YEAR_US,
     .help = "expires_at = computed_at + ttl"},
    {"sink.silence", CONFIG_DURATION, ROOT(sink_silence_us), "60s", .min = US_PER_SECOND / 10,
     .max = US_PER_HOUR, .help = "connect anew when a transaction gets no answer for this long"},

    {"state.dir", CONFIG_STRING, ROOT(state_dir), "./var/state",
     .help = "directory of the durable state, used by one process"},
    {"state.memory", CONFIG_SIZE, ROOT(memory_bytes), "160MiB", .min = 1 << 20,
     .max = INT64_C(1) << 44,
     .help = "memory for the keys of all workers; the least recently used are paged out"},
    {"state.workers", CONFIG_INT, ROOT(workers_wanted), "0", .min = 0, .max = LIMIT_WORKERS,
     .help = "partition workers; 0 = one per processor core"},

    {"link.url", CONFIG_STRING, ROOT(link_url), "inproc",
     .help = "links between reader and workers: inproc, ipc, or tcp://HOST:PORT"},

    TRIGGER_ROWS("triggers.*"),
    TRIGGER_ROWS("triggers_by_bot.*.*"),

    {"catch_up_lag", CONFIG_DURATION, ROOT(catch_up_lag_us), "5s", .min = 0, .max = US_PER_DAY,
     .help = "when further behind than this, rows are refreshed by max_age only"},
    {"log.level", CONFIG_ENUM, ROOT(log_level), "info", .choices = level_choices,
     .help = "least important record to log"},
    {.path = NULL},
};
const size_t config_row_count = sizeof(config_rows) / sizeof(config_rows[0]) - 1;

const struct config_row *config_row_find(struct str pattern)
{
    for (const struct config_row *r = config_rows; r->path; r++)
        if (str_equal(str_from(r->path), pattern))
            return r;
    return NULL;
}

bool config_row_below(const char *pattern)
{
    size_t len = strlen(pattern);
    for (const struct config_row *r = config_rows; r->path; r++)
        if (strncmp(r->path, pattern, len) == 0 &&
            (r->path[len] == '\0' || r->path[len] == '.' || r->path[len] == '['))
            return true;
    return false;
}

const char *config_type_name(enum config_type type)
{
    switch (type) {
    case CONFIG_STRING:
        return "text";
    case CONFIG_BOOL:
        return "true or false";
    case CONFIG_INT:
        return "whole number";
    case CONFIG_DURATION:
        return "duration";
    case CONFIG_SIZE:
        return "size";
    case CONFIG_ENUM:
        return "one of";
    case CONFIG_RELATION:
        return "table name";
    case CONFIG_MAP:
        return "text";
    }
    return "";
}

void config_env_name(const char *path, char *out, size_t size)
{
    int n = snprintf(out, size, "WARMPATH_%s", path);
    for (int i = 0; i < n && (size_t)i + 1 < size; i++)
        out[i] = (char)(out[i] == '.' ? '_' : toupper((unsigned char)out[i]));
}

struct unit {
    const char *name;
    int64_t factor;
};

/* Largest first: printing takes the first that divides. */
static const struct unit duration_units[] = {
    {"d", US_PER_DAY}, {"h", US_PER_HOUR}, {"m", US_PER_MINUTE}, {"s", US_PER_SECOND}, {"ms", 1000},
    {"us", 1},         {NULL, 0}};
static const struct unit size_units[] = {{"GiB", INT64_C(1) << 30},
                                         {"MiB", INT64_C(1) << 20},
                                         {"KiB", INT64_C(1) << 10},
                                         {"B", 1},
                                         {NULL, 0}};

static enum status parse_digits(struct str text, size_t *at, int64_t *ret)
{
    int64_t v = 0;
    size_t start = *at;
    for (; *at < text.len && isdigit((unsigned char)text.ptr[*at]); (*at)++)
        if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, text.ptr[*at] - '0', &v))
            return STATUS_LIMIT;
    *ret = v;
    return *at > start ? STATUS_OK : STATUS_INVALID;
}

/* "1m30s": numbers with units, largest unit first is not demanded. */
static enum status parse_with_units(struct str text, const struct unit *units, const char *example,
                                    int64_t *ret, struct error *err)
{
    int64_t total = 0;
    size_t at = 0;
    do {
        int64_t n;
        if (parse_digits(text, &at, &n) != STATUS_OK)
            return error_set(err, STATUS_INVALID,
                             "\"" STR_FMT "\" is not a number with a unit, as in %s",
                             STR_ARGS(text), example);
        size_t start = at;
        while (at < text.len && isalpha((unsigned char)text.ptr[at]))
            at++;
        struct str name = {text.ptr + start, at - start};
        const struct unit *u = units;
        while (u->name && !str_equal(str_from(u->name), name))
            u++;
        if (!u->name)
            return error_set(err, STATUS_INVALID, "\"" STR_FMT "\" %s, as in %s", STR_ARGS(text),
                             name.len ? "has an unknown unit" : "needs a unit", example);
        if (__builtin_mul_overflow(n, u->factor, &n) || __builtin_add_overflow(total, n, &total))
            return error_set(err, STATUS_INVALID, "\"" STR_FMT "\" is too large", STR_ARGS(text));
    } while (at < text.len);
    *ret = total;
    return STATUS_OK;
}

enum status config_duration_parse(struct str text, int64_t *ret_us, struct error *err)
{
    return parse_with_units(text, duration_units, "200ms, 5s, 10m, 1h30m, 7d", ret_us, err);
}

static enum status parse_bool(struct str text, int64_t *ret, struct error *err)
{
    static const struct config_choice words[] = {{"true", 1}, {"yes", 1}, {"on", 1}, {"false", 0},
                                                 {"no", 0},   {"off", 0}, {NULL, 0}};
    for (const struct config_choice *w = words; w->name; w++)
        if (str_equal(str_from(w->name), text)) {
            *ret = w->value;
            return STATUS_OK;
        }
    return error_set(err, STATUS_INVALID, "\"" STR_FMT "\" is neither true nor false",
                     STR_ARGS(text));
}

static enum status parse_choice(const struct config_row *row, struct str text, int64_t *ret,
                                struct error *err)
{
    char names[160] = "";
    size_t n = 0;
    for (const struct config_choice *c = row->choices; c->name; c++) {
        if (str_equal(str_from(c->name), text)) {
            *ret = c->value;
            return STATUS_OK;
        }
        n += (size_t)snprintf(names + n, sizeof(names) - n, "%s%s", n ? ", " : "", c->name);
    }
    return error_set(err, STATUS_INVALID, "\"" STR_FMT "\" is not one of %s", STR_ARGS(text),
                     names);
}

static enum status check_string(const struct config_row *row, struct str text, struct error *err)
{
    if (!str_is_text(text))
        return error_set(err, STATUS_INVALID, "is not valid UTF-8 text");
    if (!row->name)
        return STATUS_OK;
    if (text.len == 0)
        return error_set(err, STATUS_INVALID, "must not be empty");
    for (size_t i = 0; i < text.len; i++) {
        unsigned char c = (unsigned char)text.ptr[i];
        if (!islower(c) && !isdigit(c) && c != '_')
            return error_set(err, STATUS_INVALID,
                             "\"" STR_FMT "\" may only hold lower case letters, digits and _",
                             STR_ARGS(text));
    }
    return STATUS_OK;
}

static enum status parse_number(const struct config_row *row, struct str text, int64_t *ret,
                                struct error *err)
{
    if (row->type == CONFIG_DURATION)
        return config_duration_parse(text, ret, err);
    if (row->type == CONFIG_SIZE)
        return parse_with_units(text, size_units, "64KiB, 128MiB, 2GiB", ret, err);
    size_t at = 0;
    if (parse_digits(text, &at, ret) != STATUS_OK || at != text.len)
        return error_set(err, STATUS_INVALID, "\"" STR_FMT "\" is not a whole number",
                         STR_ARGS(text));
    return STATUS_OK;
}

static enum status parse_in_range(const struct config_row *row, struct str text, int64_t *ret,
                                  struct error *err)
{
    int64_t v = 0;
    enum status st = parse_number(row, text, &v, err);
    if (st != STATUS_OK)
        return st;
    if (v >= row->min && v <= row->max) {
        *ret = v;
        return STATUS_OK;
    }
    char text_of[2][32];
    for (int i = 0; i < 2; i++) {
        struct buf b;
        buf_init(&b, sizeof(text_of[i]));
        if (config_number_print(row->type, i ? row->max : row->min, &b) != STATUS_OK)
            buf_reset(&b);
        snprintf(text_of[i], sizeof(text_of[i]), "%.*s", (int)b.len, b.data ? b.data : "");
        buf_deinit(&b);
    }
    return error_set(err, STATUS_INVALID, "\"" STR_FMT "\" is not between %s and %s",
                     STR_ARGS(text), text_of[0], text_of[1]);
}

enum status config_value_parse(const struct config_row *row, struct str text, int64_t *ret,
                               struct error *err)
{
    switch (row->type) {
    case CONFIG_BOOL:
        return parse_bool(text, ret, err);
    case CONFIG_ENUM:
        return parse_choice(row, text, ret, err);
    case CONFIG_INT:
    case CONFIG_DURATION:
    case CONFIG_SIZE:
        return parse_in_range(row, text, ret, err);
    case CONFIG_STRING:
    case CONFIG_RELATION:
    case CONFIG_MAP:
        break;
    }
    return check_string(row, text, err);
}

enum status config_value_store(const struct config_row *row, void *base, struct str text,
                               int64_t number, struct error *err)
{
    char *at = (char *)base + row->offset;
    if (row->type == CONFIG_STRING) {
        if (text.len >= row->size)
            return error_set(err, STATUS_LIMIT, "is longer than %zu bytes", row->size - 1);
        memcpy(at, text.ptr, text.len);
        at[text.len] = '\0';
        return STATUS_OK;
    }
    if (row->type == CONFIG_BOOL) {
        bool v = number != 0;
        memcpy(at, &v, sizeof(v));
    } else if (row->size == sizeof(int64_t)) {
        memcpy(at, &number, sizeof(number));
    } else {
        int32_t v = (int32_t)number;
        memcpy(at, &v, sizeof(v));
    }
    return STATUS_OK;
}

enum status config_number_print(enum config_type type, int64_t v, struct buf *out)
{
    if (type == CONFIG_DURATION || type == CONFIG_SIZE) {
        const struct unit *u = type == CONFIG_DURATION ? duration_units : size_units;
        if (v == 0)
            return buf_append_str(out, type == CONFIG_DURATION ? STR("0s") : STR("0B"));
        while (v % u->factor != 0)
            u++;
        return buf_printf(out, "%lld%s", (long long)(v / u->factor), u->name);
    }
    return buf_printf(out, "%lld", (long long)v);
}

enum status config_string_print(struct str s, struct buf *out)
{
    enum status st = buf_append_str(out, STR("\""));
    for (size_t i = 0; i < s.len && st == STATUS_OK; i++) {
        unsigned char c = (unsigned char)s.ptr[i];
        if (c == '"' || c == '\\')
            st = buf_printf(out, "\\%c", c);
        else if (c == '$')
            st = buf_append_str(out, STR("$$"));
        else if (c < 0x20 || c == 0x7f)
            st = buf_printf(out, "\\x%02X", c);
        else
            st = buf_append(out, s.ptr + i, 1);
    }
    return st == STATUS_OK ? buf_append_str(out, STR("\"")) : st;
}

enum status config_value_print(const struct config_row *row, const void *base, struct buf *out)
{
    const char *at = (const char *)base + row->offset;
    if (row->type == CONFIG_STRING)
        return config_string_print(str_from(at), out);
    if (row->type == CONFIG_BOOL) {
        bool v;
        memcpy(&v, at, sizeof(v));
        return buf_append_str(out, v ? STR("true") : STR("false"));
    }
    int64_t number;
    if (row->size == sizeof(number)) {
        memcpy(&number, at, sizeof(number));
    } else {
        int32_t v;
        memcpy(&v, at, sizeof(v));
        number = v;
    }
    if (row->type != CONFIG_ENUM)
        return config_number_print(row->type, number, out);
    for (const struct config_choice *c = row->choices; c->name; c++)
        if (c->value == number)
            return buf_printf(out, "%s", c->name);
    return STATUS_INVALID;
}
