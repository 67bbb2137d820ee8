#include "ingest/mapping.h"

#include "ingest/value.h"

#include <assert.h>
#include <string.h>

static const char *const field_names[MAPPING_FIELD_COUNT] = {
    [FIELD_ID] = "id",
    [FIELD_USER_ID] = "user_id",
    [FIELD_BOT_NAME] = "bot_name",
    [FIELD_AT] = "at",
    [FIELD_ROLE] = "role",
    [FIELD_CONTENT] = "content",
    [FIELD_EMOTION] = "emotion",
    [FIELD_EMOTION_CONFIDENCE] = "emotion_confidence",
    [FIELD_EMBEDDING] = "embedding",
    [FIELD_EMBEDDING_MODEL] = "embedding_model",
    [FIELD_TRAITS] = "traits",
    [FIELD_CHANNEL_ID] = "channel_id",
    [FIELD_OP] = "op",
    [FIELD_MEMORY_ID] = "memory_id",
    [FIELD_SCORE] = "score",
    [FIELD_GRADE] = "grade",
    [FIELD_OUTCOME] = "outcome",
    [FIELD_IMPORTANCE] = "importance",
    [FIELD_MEMORY_TYPE] = "memory_type",
    [FIELD_MEASUREMENT] = "measurement",
    [FIELD_FIELD] = "field",
    [FIELD_VALUE] = "value",
    [FIELD_FIELDS] = "fields",
    [FIELD_TAGS] = "tags",
    [FIELD_TOPIC] = "topic",
    [FIELD_VERSION] = "version",
    [FIELD_SCOPE] = "scope",
};

const char *mapping_field_name(enum mapping_field f)
{
    assert(f < MAPPING_FIELD_COUNT);
    return field_names[f];
}

enum mapping_field mapping_field_find(const char *name)
{
    for (int f = 0; f < MAPPING_FIELD_COUNT; f++)
        if (strcmp(field_names[f], name) == 0)
            return (enum mapping_field)f;
    return MAPPING_FIELD_COUNT;
}

#define BIT(f)     (1u << (f))
#define KEY_FIELDS (BIT(FIELD_ID) | BIT(FIELD_USER_ID) | BIT(FIELD_BOT_NAME) | BIT(FIELD_AT))

/* What a type of event cannot do without, and what else it has. */
static const struct {
    enum event_type type;
    uint32_t needed;
    uint32_t optional;
} field_rules[] = {
    {EVENT_MESSAGE, KEY_FIELDS | BIT(FIELD_ROLE) | BIT(FIELD_CONTENT),
     BIT(FIELD_EMOTION) | BIT(FIELD_EMOTION_CONFIDENCE) | BIT(FIELD_EMBEDDING) |
         BIT(FIELD_EMBEDDING_MODEL) | BIT(FIELD_TRAITS) | BIT(FIELD_CHANNEL_ID)},
    {EVENT_MEMORY, KEY_FIELDS | BIT(FIELD_OP) | BIT(FIELD_MEMORY_ID),
     BIT(FIELD_SCORE) | BIT(FIELD_GRADE) | BIT(FIELD_OUTCOME) | BIT(FIELD_IMPORTANCE) |
         BIT(FIELD_MEMORY_TYPE) | BIT(FIELD_CONTENT)},
    {EVENT_METRIC, BIT(FIELD_ID) | BIT(FIELD_BOT_NAME) | BIT(FIELD_AT) | BIT(FIELD_MEASUREMENT),
     BIT(FIELD_USER_ID) | BIT(FIELD_FIELD) | BIT(FIELD_VALUE) | BIT(FIELD_FIELDS) |
         BIT(FIELD_TAGS)},
    {EVENT_OUTREACH, KEY_FIELDS | BIT(FIELD_OP), BIT(FIELD_TOPIC)},
    {EVENT_CHARACTER, BIT(FIELD_ID) | BIT(FIELD_BOT_NAME) | BIT(FIELD_AT) | BIT(FIELD_TRAITS),
     BIT(FIELD_VERSION)},
    {EVENT_PRIVACY, BIT(FIELD_ID) | BIT(FIELD_USER_ID) | BIT(FIELD_AT) | BIT(FIELD_OP),
     BIT(FIELD_BOT_NAME) | BIT(FIELD_SCOPE)},
};

/* Fields whose values are words of ours; NULL for free text. */
static const char *const *field_words(enum event_type type, enum mapping_field f)
{
    static const char *const roles[] = {"user", "bot", NULL};
    static const char *const memory_ops[] = {"create", "access", "delete", "pin", NULL};
    static const char *const outreach_ops[] = {"sent", "replied", "opted_out", NULL};
    static const char *const privacy_ops[] = {"erase", "optout", "optin", NULL};
    static const char *const outcomes[] = {"hit", "miss", NULL};
    if (f == FIELD_ROLE)
        return roles;
    if (f == FIELD_OP)
        return type == EVENT_OUTREACH  ? outreach_ops
               : type == EVENT_PRIVACY ? privacy_ops
                                       : memory_ops;
    return f == FIELD_OUTCOME ? outcomes : NULL;
}

static bool word_known(const struct mapping *m, enum mapping_field f, const char *word)
{
    const char *const *words = field_words(m->type, f);
    if (!words)
        return true;
    while (*words && strcmp(*words, word) != 0)
        words++;
    return *words != NULL;
}

static enum status field_error(const struct mapping *m, enum mapping_field f, struct error *err,
                               const char *what, const char *value)
{
    return error_set(err, STATUS_INVALID, "mapping of table \"%s.%s\", field \"%s\": %s%s%s%s",
                     m->schema, m->table, field_names[f], what, *value ? " \"" : "", value,
                     *value ? "\"" : "");
}

static enum status check_constant(const struct mapping *m, enum mapping_field f, struct error *err)
{
    const char *constant = m->fields[f].constant;
    char bot[LIMIT_ID_BYTES];
    if (f == FIELD_ID || f == FIELD_AT || f == FIELD_CONTENT || f == FIELD_MEMORY_ID)
        return field_error(m, f, err, "needs a column: a constant would make all rows one", "");
    if (f == FIELD_EMBEDDING || f == FIELD_TRAITS || f == FIELD_VALUE || f == FIELD_FIELDS ||
        f == FIELD_TAGS)
        return field_error(m, f, err, "needs a column", "");
    if (m->fields[f].n_enum > 0 || m->fields[f].has_default)
        return field_error(m, f, err, "an enum map of a constant has no use", "");
    if (f == FIELD_BOT_NAME && event_bot_name(str_from(constant), bot) == 0)
        return field_error(m, f, err, "no letters or digits in the constant", constant);
    if (!word_known(m, f, constant))
        return field_error(m, f, err, "unknown constant", constant);
    return STATUS_OK;
}

static enum status check_enum(const struct mapping *m, enum mapping_field f, struct error *err)
{
    const struct mapping_source *s = &m->fields[f];
    if (s->n_enum > MAPPING_ENUM_MAX)
        return field_error(m, f, err, "too many values in the enum map", "");
    for (size_t i = 0; i < s->n_enum; i++) {
        if (*s->enum_map[i].to && !word_known(m, f, s->enum_map[i].to))
            return field_error(m, f, err, "the enum map leads to the unknown value",
                               s->enum_map[i].to);
        for (size_t k = 0; k < i; k++)
            if (strcmp(s->enum_map[i].from, s->enum_map[k].from) == 0)
                return field_error(m, f, err, "the enum map lists twice", s->enum_map[i].from);
    }
    if (s->has_default && *s->default_to && !word_known(m, f, s->default_to))
        return field_error(m, f, err, "the enum map's default is the unknown value", s->default_to);
    return STATUS_OK;
}

static enum status check_source(const struct mapping *m, enum mapping_field f, struct error *err)
{
    const struct mapping_source *s = &m->fields[f];
    size_t path_len = strlen(s->path);
    if (!*s->column && !*s->constant)
        return field_error(m, f, err, "neither a column nor a constant is given", "");
    if (*s->column && *s->constant)
        return field_error(m, f, err, "both a column and a constant are given", "");
    if (path_len > 0 && !*s->column)
        return field_error(m, f, err, "a path needs a column", "");
    if (path_len > 0 &&
        (s->path[0] == '.' || s->path[path_len - 1] == '.' || strstr(s->path, "..")))
        return field_error(m, f, err, "empty member name in path", s->path);
    if (!*s->column)
        return check_constant(m, f, err);
    return check_enum(m, f, err);
}

enum status mapping_check(const struct mapping *m, struct error *err)
{
    if (!*m->schema || !*m->table)
        return error_set(err, STATUS_INVALID, "a mapping without a schema or table name");
    size_t rule = 0;
    while (rule < sizeof(field_rules) / sizeof(field_rules[0]) && field_rules[rule].type != m->type)
        rule++;
    if (rule == sizeof(field_rules) / sizeof(field_rules[0]))
        return error_set(err, STATUS_INVALID,
                         "mapping of table \"%s.%s\": events of this type cannot be mapped",
                         m->schema, m->table);

    for (int i = 0; i < MAPPING_FIELD_COUNT; i++) {
        enum mapping_field f = (enum mapping_field)i;
        if (!m->fields[f].set) {
            if (field_rules[rule].needed & BIT(f))
                return field_error(m, f, err, "is missing", "");
            continue;
        }
        if (!((field_rules[rule].needed | field_rules[rule].optional) & BIT(f)))
            return field_error(m, f, err, "events of this type do not have it", "");
        enum status st = check_source(m, f, err);
        if (st)
            return st;
    }
    if (m->fields[FIELD_FIELD].set != m->fields[FIELD_VALUE].set)
        return field_error(m, m->fields[FIELD_FIELD].set ? FIELD_VALUE : FIELD_FIELD, err,
                           "is missing: field and value name and hold one number", "");
    if (m->type == EVENT_METRIC && !m->fields[FIELD_VALUE].set && !m->fields[FIELD_FIELDS].set)
        return field_error(m, FIELD_FIELDS, err, "is missing, and so are field and value", "");
    return STATUS_OK;
}

bool mapping_is_log(const struct mapping *m)
{
    if (m->type == EVENT_MEMORY)
        return strcmp(m->fields[FIELD_OP].constant, "create") != 0;
    return m->type != EVENT_MESSAGE;
}

const struct mapping *mapping_find(const struct mapping_set *set, struct str schema,
                                   struct str table)
{
    for (size_t i = 0; i < set->n; i++)
        if (str_equal(str_from(set->tables[i].schema), schema) &&
            str_equal(str_from(set->tables[i].table), table))
            return &set->tables[i];
    return NULL;
}

size_t mapping_columns(const struct mapping *m, const char *out[MAPPING_FIELD_COUNT])
{
    size_t n = 0;
    for (int f = 0; f < MAPPING_FIELD_COUNT; f++) {
        const char *column = m->fields[f].column;
        if (!m->fields[f].set || !*column)
            continue;
        size_t i = 0;
        while (i < n && strcmp(out[i], column) != 0)
            i++;
        if (i == n)
            out[n++] = column;
    }
    return n;
}

enum status mapping_bind(const struct mapping *m, const struct relation *rel,
                         struct mapping_binding *ret, struct error *err)
{
    struct mapping_binding b = {.mapping = m};
    for (int f = 0; f < MAPPING_FIELD_COUNT; f++) {
        const struct mapping_source *s = &m->fields[f];
        b.column_index[f] = -1;
        if (!s->set || !*s->column)
            continue;
        for (uint16_t i = 0; i < rel->n_columns && b.column_index[f] < 0; i++)
            if (strcmp(rel->columns[i].name, s->column) == 0)
                b.column_index[f] = i;
        if (b.column_index[f] < 0)
            return error_set(err, STATUS_INVALID,
                             "table \"%s.%s\" sends no column \"%s\", which the mapping needs for "
                             "field \"%s\": it was dropped, renamed or left out of the "
                             "publication's column list",
                             rel->schema, rel->name, s->column, field_names[f]);
    }
    *ret = b;
    return STATUS_OK;
}
