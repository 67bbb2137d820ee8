#include "ingest/mapping.h"

#include "ingest/template.h"
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

static bool is_structured(enum mapping_field f)
{
    return f == FIELD_EMBEDDING || f == FIELD_TRAITS || f == FIELD_VALUE || f == FIELD_FIELDS ||
           f == FIELD_TAGS;
}

static enum status check_constant(const struct mapping *m, enum mapping_field f,
                                  const struct mapping_source *s, struct error *err)
{
    char bot[LIMIT_ID_BYTES];
    if (f == FIELD_ID || f == FIELD_AT || f == FIELD_CONTENT || f == FIELD_MEMORY_ID)
        return field_error(m, f, err, "needs a column: a constant would make all rows one", "");
    if (is_structured(f))
        return field_error(m, f, err, "needs a column", "");
    if (s->n_enum > 0 || s->has_default)
        return field_error(m, f, err, "an enum map of a constant has no use", "");
    if (s->next)
        return field_error(m, f, err, "what follows a constant is never used", "");
    if (f == FIELD_BOT_NAME && event_bot_name(str_from(s->constant), bot) == 0)
        return field_error(m, f, err, "no letters or digits in the constant", s->constant);
    if (!word_known(m, f, s->constant))
        return field_error(m, f, err, "unknown constant", s->constant);
    return STATUS_OK;
}

static enum status check_template(const struct mapping *m, enum mapping_field f,
                                  const struct mapping_source *s, struct error *err)
{
    const char *at = s->template;
    struct template_part part;
    enum template_step step = TEMPLATE_END;
    size_t n = 0;
    while ((step = template_next(&at, &part)) == TEMPLATE_PART) {
        n += part.is_column;
        if (part.is_column && part.text.len >= MAPPING_NAME_BYTES)
            return field_error(m, f, err, "a name in the template is too long", s->template);
    }
    if (step == TEMPLATE_MALFORMED)
        return field_error(m, f, err,
                           "a template is text with {column} in it, {{ and }} are braces, not",
                           s->template);
    if (n == 0 || n > MAPPING_TEMPLATE_COLUMNS)
        return field_error(m, f, err, "a template names 1 to 4 columns, unlike", s->template);
    if (is_structured(f))
        return field_error(m, f, err, "needs a column, not a template", "");
    return STATUS_OK;
}

static enum status check_enum(const struct mapping *m, enum mapping_field f,
                              const struct mapping_source *s, struct error *err)
{
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

static enum status check_time(const struct mapping *m, enum mapping_field f,
                              const struct mapping_source *s, struct error *err)
{
    int32_t zone_s = 0;
    if (f != FIELD_AT && (s->time_unit != TIME_TIMESTAMP || *s->zone || s->plus_us))
        return field_error(m, f, err, "unit, zone and plus are for times", "");
    if (*s->zone && s->time_unit != TIME_TIMESTAMP)
        return field_error(m, f, err, "a zone goes with the unit timestamp", "");
    if (*s->zone && !value_zone(str_from(s->zone), &zone_s))
        return field_error(m, f, err,
                           "the zone is neither UTC nor an offset like +02:00:", s->zone);
    if (s != &m->fields[f] && (s->time_unit != m->fields[f].time_unit))
        return field_error(m, f, err, "all its sources need the same unit", "");
    return STATUS_OK;
}

static enum status check_source(const struct mapping *m, enum mapping_field f,
                                const struct mapping_source *s, struct error *err)
{
    size_t path_len = strlen(s->path);
    int n = !!*s->column + !!*s->constant + !!*s->template;
    if (n == 0)
        return field_error(m, f, err, "neither a column nor a constant is given", "");
    if (n > 1)
        return field_error(m, f, err, "takes one of column, template and constant, not both", "");
    if (path_len > 0 && !*s->column)
        return field_error(m, f, err, "a path needs a column", "");
    if (path_len > 0 &&
        (s->path[0] == '.' || s->path[path_len - 1] == '.' || strstr(s->path, "..")))
        return field_error(m, f, err, "empty member name in path", s->path);
    enum status st = check_time(m, f, s, err);
    if (st)
        return st;
    if (*s->constant)
        return check_constant(m, f, s, err);
    if (*s->template)
        st = check_template(m, f, s, err);
    return st ? st : check_enum(m, f, s, err);
}

static enum status check_counter(const struct mapping *m, struct error *err)
{
    if (!*m->counter)
        return STATUS_OK;
    if (m->type != EVENT_MEMORY || strcmp(m->fields[FIELD_OP].constant, "access") != 0)
        return error_set(err, STATUS_INVALID,
                         "mapping of table \"%s.%s\": a counter counts accesses: event memory with "
                         "op {const: access}",
                         m->schema, m->table);
    return STATUS_OK;
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
        for (const struct mapping_source *s = &m->fields[f]; s; s = mapping_source_next(m, s)) {
            enum status st = check_source(m, f, s, err);
            if (st)
                return st;
        }
    }
    if (m->fields[FIELD_FIELD].set != m->fields[FIELD_VALUE].set)
        return field_error(m, m->fields[FIELD_FIELD].set ? FIELD_VALUE : FIELD_FIELD, err,
                           "is missing: field and value name and hold one number", "");
    if (m->type == EVENT_METRIC && !m->fields[FIELD_VALUE].set && !m->fields[FIELD_FIELDS].set)
        return field_error(m, FIELD_FIELDS, err, "is missing, and so are field and value", "");
    return check_counter(m, err);
}

/* Whether the two say the same of a field, as far as a first source tells. */
static bool same_source(const struct mapping *a, const struct mapping *b, enum mapping_field f)
{
    const struct mapping_source *x = &a->fields[f];
    const struct mapping_source *y = &b->fields[f];
    return strcmp(x->column, y->column) == 0 && strcmp(x->path, y->path) == 0 &&
           strcmp(x->template, y->template) == 0 && strcmp(x->constant, y->constant) == 0;
}

enum status mapping_check_others(const struct mapping_set *set, const struct mapping *m,
                                 struct error *err)
{
    const struct str schema = str_from(m->schema);
    const struct str table = str_from(m->table);
    size_t n_counters = 0;
    for (const struct mapping *other = mapping_next(set, schema, table, NULL); other;
         other = mapping_next(set, schema, table, other)) {
        n_counters += *other->counter != '\0';
        if (other == m || other->type != m->type || strcmp(other->counter, m->counter) != 0 ||
            strcmp(other->only_if, m->only_if) != 0 || !same_source(other, m, FIELD_ID) ||
            !same_source(other, m, FIELD_OP))
            continue;
        return error_set(
            err, STATUS_INVALID,
            "table \"%s.%s\" is mapped twice to the same events: give each a different "
            "id, as in {template: \"{id}:u\"}",
            m->schema, m->table);
    }
    if (n_counters > MAPPING_COUNTERS_MAX)
        return error_set(err, STATUS_INVALID, "table \"%s.%s\" has more than %d counters",
                         m->schema, m->table, MAPPING_COUNTERS_MAX);
    return STATUS_OK;
}

bool mapping_is_log(const struct mapping *m)
{
    if (m->type == EVENT_MEMORY)
        return strcmp(m->fields[FIELD_OP].constant, "create") != 0;
    return m->type != EVENT_MESSAGE;
}

const struct mapping *mapping_next(const struct mapping_set *set, struct str schema,
                                   struct str table, const struct mapping *after)
{
    for (size_t i = after ? (size_t)(after - set->tables) + 1 : 0; i < set->n; i++)
        if (str_equal(str_from(set->tables[i].schema), schema) &&
            str_equal(str_from(set->tables[i].table), table))
            return &set->tables[i];
    return NULL;
}

const struct mapping *mapping_find(const struct mapping_set *set, struct str schema,
                                   struct str table)
{
    return mapping_next(set, schema, table, NULL);
}
