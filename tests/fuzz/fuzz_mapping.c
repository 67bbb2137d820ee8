/*
 * tests/fuzz/fuzz_mapping.c - any mapping that passes its check, on any rows: no crash, every event
 * keeps the promises of core/event.h, and the events of one row have ids of their own.
 *
 * The input is a mapping, then rows: each byte picks the next choice. Seeds:
 * tests/fuzz/corpus/mapping/.
 */
#include "ingest/mapping.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define COLUMNS 6
static const char *const names[COLUMNS] = {"a", "b", "c", "d", "e", "f"};
static const char *const templates[] = {"{a}", "{a}:{b}", "{{{c}}}", "{d} {e} {f} {a}", "{", "x"};
static const char *const paths[] = {"", "", "k", "k.l"};
static const char *const words[] = {"user", "bot", "create", "access", "sent", "erase", "elena"};

static const uint8_t *at, *end;
static struct event_arena *arena;

static void require(bool fact)
{
    if (!fact)
        abort();
}

static size_t pick(size_t n)
{
    return at < end ? *at++ % n : 0;
}

#define PICK(list) (list)[pick(sizeof(list) / sizeof((list)[0]))]

static void make_source(struct mapping_source *s)
{
    static const char *const zones[] = {"", "", "UTC", "+02:00", "-0330"};
    s->set = true;
    switch (pick(4)) {
    case 0:
        snprintf(s->template, sizeof(s->template), "%s", PICK(templates));
        break;
    case 1:
        snprintf(s->constant, sizeof(s->constant), "%s", PICK(words));
        return;
    default:
        snprintf(s->column, sizeof(s->column), "%s", PICK(names));
        snprintf(s->path, sizeof(s->path), "%s", PICK(paths));
    }
    for (size_t n = pick(8); n > 5; n--) {
        snprintf(s->enum_map[s->n_enum].from, sizeof(s->enum_map[0].from), "%zu", n);
        if (pick(2))
            snprintf(s->enum_map[s->n_enum].to, sizeof(s->enum_map[0].to), "%s", PICK(words));
        s->n_enum++;
    }
    s->time_unit = (enum time_unit)pick(TIME_EPOCH_NS + 1);
    snprintf(s->zone, sizeof(s->zone), "%s", PICK(zones));
    s->plus_us = (int64_t)pick(3);
}

/* Units and zones are for times only: a mapping with them elsewhere would hardly ever pass. */
static void make_field(struct mapping *m, enum mapping_field f)
{
    struct mapping_source *s = &m->fields[f];
    make_source(s);
    while (pick(4) == 3 && m->n_more < MAPPING_ALTERNATIVES_MAX) {
        struct mapping_source *next = &m->more[m->n_more];
        make_source(next);
        next->time_unit = s->time_unit;
        s->next = (uint8_t)++m->n_more;
        s = next;
    }
    for (s = &m->fields[f]; s && f != FIELD_AT; s = s->next ? &m->more[s->next - 1] : NULL) {
        s->time_unit = TIME_TIMESTAMP;
        s->zone[0] = '\0';
        s->plus_us = 0;
    }
}

/* What each type needs, and some of what it may have; as the fields' order is of no importance, a
 * needed one that is not made anew is a plain column or a constant that fits. */
static const struct {
    enum event_type type;
    enum mapping_field fields[10];
    size_t n_needed, n;
    const char *op;
} kinds[] = {
    {EVENT_MESSAGE,
     {FIELD_ID, FIELD_AT, FIELD_CONTENT, FIELD_USER_ID, FIELD_BOT_NAME, FIELD_ROLE, FIELD_EMOTION,
      FIELD_TRAITS, FIELD_EMBEDDING, FIELD_CHANNEL_ID},
     6,
     10,
     "user"},
    {EVENT_MEMORY,
     {FIELD_ID, FIELD_AT, FIELD_MEMORY_ID, FIELD_USER_ID, FIELD_BOT_NAME, FIELD_OP,
      FIELD_IMPORTANCE, FIELD_MEMORY_TYPE, FIELD_CONTENT},
     6,
     9,
     "create"},
    {EVENT_METRIC,
     {FIELD_ID, FIELD_AT, FIELD_FIELDS, FIELD_BOT_NAME, FIELD_MEASUREMENT, FIELD_TAGS},
     5,
     6,
     ""},
    {EVENT_OUTREACH,
     {FIELD_ID, FIELD_AT, FIELD_USER_ID, FIELD_BOT_NAME, FIELD_OP, FIELD_TOPIC},
     5,
     6,
     "sent"},
    {EVENT_CHARACTER, {FIELD_ID, FIELD_AT, FIELD_TRAITS, FIELD_BOT_NAME, FIELD_VERSION}, 4, 5, ""},
    {EVENT_PRIVACY,
     {FIELD_ID, FIELD_AT, FIELD_USER_ID, FIELD_OP, FIELD_SCOPE, FIELD_BOT_NAME},
     4,
     6,
     "erase"},
};

static void make_mapping(struct mapping *m)
{
    size_t kind = pick(sizeof(kinds) / sizeof(kinds[0]));
    memset(m, 0, sizeof(*m));
    snprintf(m->schema, sizeof(m->schema), "s");
    snprintf(m->table, sizeof(m->table), "t");
    m->type = kinds[kind].type;
    if (pick(3) == 1)
        snprintf(m->soft_delete, sizeof(m->soft_delete), "%s", PICK(names));
    if (pick(3) == 1)
        snprintf(m->only_if, sizeof(m->only_if), "%s", PICK(names));
    if (pick(3) == 1 && m->type == EVENT_MEMORY)
        snprintf(m->counter, sizeof(m->counter), "%s", PICK(names));
    for (size_t i = 0; i < kinds[kind].n; i++) {
        enum mapping_field f = kinds[kind].fields[i];
        struct mapping_source *s = &m->fields[f];
        if (pick(3) == 1) {
            make_field(m, f);
        } else if (i < kinds[kind].n_needed) {
            s->set = true;
            if (f == FIELD_OP || f == FIELD_ROLE)
                snprintf(s->constant, sizeof(s->constant), "%s", kinds[kind].op);
            else
                snprintf(s->column, sizeof(s->column), "%s", PICK(names));
        }
    }
    if (*m->counter)
        m->fields[FIELD_OP] = (struct mapping_source){.set = true, .constant = "access"};
}

static struct tuple make_row(struct value values[COLUMNS])
{
    static const char *const texts[] = {"7",
                                        "6",
                                        "user",
                                        "2026-01-05 14:00:00+00",
                                        "{\"k\":{\"l\":\"x\"},\"m\":1}",
                                        "{\"k\":3}",
                                        "[1,2]",
                                        "0.5",
                                        "",
                                        "f",
                                        "2026-01-05 14:00:00",
                                        "bot",
                                        "1e18",
                                        "\xFF",
                                        "9223372036854775807"};
    for (int i = 0; i < COLUMNS; i++) {
        size_t kind = pick(8);
        values[i] = (struct value){VALUE_NULL, STR_NULL};
        if (kind == 1)
            values[i].kind = VALUE_UNCHANGED;
        if (kind > 1)
            values[i] = (struct value){VALUE_TEXT, str_from(PICK(texts))};
    }
    return (struct tuple){COLUMNS, values};
}

static void apply(const struct mapping_binding *b)
{
    static struct event events[MAPPING_EVENTS_MAX];
    struct value values[2][COLUMNS];
    struct tuple before = make_row(values[0]);
    struct tuple after = make_row(values[1]);
    enum row_change change = (enum row_change)pick(3);
    bool has_old = change == CHANGE_DELETE || (change == CHANGE_UPDATE && pick(2));
    size_t n = 0;
    event_arena_reset(arena);
    if (mapping_apply(b, change, has_old ? &before : NULL, change == CHANGE_DELETE ? NULL : &after,
                      arena, events, &n, NULL))
        return;
    require(n <= (*b->mapping->counter ? MAPPING_COUNTER_EVENTS : 2));
    require(change != CHANGE_INSERT || n <= 1 || *b->mapping->counter);
    for (size_t i = 0; i < n; i++) {
        /* The caller knows when a memory was deleted. */
        if (events[i].type == EVENT_MEMORY && events[i].u.memory.op == MEMORY_DELETE)
            events[i].at_us = 1;
        require(event_check(&events[i], NULL) == STATUS_OK);
        for (size_t k = 0; k < i && *b->mapping->counter; k++)
            require(!str_equal(events[i].id, events[k].id));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct mapping m;
    struct relation_column columns[COLUMNS] = {{.name = ""}};
    struct relation rel = {.schema = "s", .name = "t", .columns = columns};
    struct mapping_binding b;
    if (!arena)
        require(event_arena_new(&arena, NULL) == STATUS_OK);
    at = data;
    end = data + size;
    make_mapping(&m);
    if (mapping_check(&m, NULL))
        return 0;
    rel.n_columns = (uint16_t)(pick(8) ? COLUMNS : COLUMNS - 1);
    bool full = pick(2);
    for (int i = 0; i < COLUMNS; i++) {
        snprintf(columns[i].name, sizeof(columns[i].name), "%s", names[i]);
        columns[i].identity = full || pick(2);
    }
    if (mapping_bind(&m, &rel, &b, NULL))
        return 0;
    while (at < end)
        apply(&b);
    return 0;
}
