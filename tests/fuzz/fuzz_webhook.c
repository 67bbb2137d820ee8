/*
 * tests/fuzz/fuzz_webhook.c - a body of any bytes to every preset and form: no crash, every event
 * keeps the promises of core/event.h, the counts add up, an id is text, what Slack is echoed is no
 * markup, and the same body gives the same events again.
 *
 * The first three bytes choose preset, form and headers; the rest is the body. Seeds:
 * tests/fuzz/corpus/webhook/.
 */
#include "core/event.h"
#include "ingest/webhook.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct mapping_set tables;
static struct webhook *webhooks[2][WEBHOOK_JSON + 1];
static struct event_arena *arena;

static void require(bool holds)
{
    if (!holds)
        abort();
}

static struct mapping_source *from(struct mapping *m, enum mapping_field f, const char *column,
                                   const char *path)
{
    struct mapping_source *s = &m->fields[f];
    s->set = true;
    snprintf(s->column, sizeof(s->column), "%s", column);
    snprintf(s->path, sizeof(s->path), "%s", path);
    return s;
}

static struct mapping *add(const char *name, enum event_type type, enum time_unit unit)
{
    struct mapping *m = &tables.tables[tables.n++];
    m->type = type;
    snprintf(m->schema, sizeof(m->schema), "public");
    snprintf(m->table, sizeof(m->table), "%s", name);
    from(m, FIELD_ID, "id", "");
    from(m, FIELD_USER_ID, "user", unit == TIME_TIMESTAMP ? "" : "id");
    from(m, FIELD_BOT_NAME, "@body.bot", "");
    from(m, FIELD_AT, unit == TIME_TIMESTAMP ? "@at" : "ts", "")->time_unit = unit;
    return m;
}

static void make_tables(void)
{
    struct mapping *m = add("messages", EVENT_MESSAGE, TIME_TIMESTAMP);
    from(m, FIELD_CONTENT, "text", "");
    struct mapping_source *role = from(m, FIELD_ROLE, "role", "");
    snprintf(role->enum_map[0].from, 64, "human");
    snprintf(role->enum_map[0].to, 32, "user");
    role->n_enum = 1;
    role->has_default = true;
    from(m, FIELD_EMBEDDING, "vector", "");
    from(m, FIELD_TRAITS, "traits", "");
    from(m, FIELD_EMOTION, "meta", "mood.label");
    snprintf(m->soft_delete, sizeof(m->soft_delete), "gone");
    m = add("messages", EVENT_MEMORY, TIME_EPOCH_S);
    from(m, FIELD_MEMORY_ID, "id", "");
    struct mapping_source *op = from(m, FIELD_OP, "", "");
    snprintf(op->constant, sizeof(op->constant), "access");
    snprintf(m->counter, sizeof(m->counter), "n");
    m = add("metrics", EVENT_METRIC, TIME_EPOCH_MS);
    from(m, FIELD_MEASUREMENT, "name", "");
    from(m, FIELD_FIELDS, "fields", "");
    from(m, FIELD_TAGS, "tags", "");
    snprintf(m->only_if, sizeof(m->only_if), "name");
}

static void begin(void)
{
    make_tables();
    require(event_arena_new(&arena, NULL) == STATUS_OK);
    for (size_t i = 0; i < tables.n; i++)
        require(mapping_check(&tables.tables[i], NULL) == STATUS_OK);
    for (int paths = 0; paths < 2; paths++)
        for (int p = WEBHOOK_WARMPATH; p <= WEBHOOK_JSON; p++) {
            struct webhook_config cfg = {.name = "fuzz",
                                         .preset = (enum webhook_preset)p,
                                         .each = paths ? "data.rows" : "",
                                         .delivery_id = paths ? "key" : "",
                                         .tables = &tables};
            require(webhook_new(&cfg, &webhooks[paths][p], NULL) == STATUS_OK);
        }
}

static void check_events(const struct webhook_result *r)
{
    struct reader in = reader_of(r->events.data, r->events.len);
    uint32_t n = 0, n_dead = 0, by_type = 0;
    for (; reader_left(&in) > 0; n++) {
        struct event e;
        event_arena_reset(arena);
        struct str bytes = reader_blob(&in);
        require(!in.bad && event_decode(bytes, arena, &e, NULL) == STATUS_OK);
        require(event_check(&e, NULL) == STATUS_OK);
        n_dead += e.type == EVENT_DEAD_LETTER;
    }
    for (int t = 0; t < WEBHOOK_EVENT_TYPES; t++)
        by_type += r->by_type[t];
    require(n == r->n_events && n == by_type && n_dead == r->n_dead);
    require(r->n_usable <= n - n_dead);
}

static void check_texts(const struct webhook_result *r)
{
    require(memchr(r->id, '\0', sizeof(r->id)) && str_is_text(str_from(r->id)));
    require(memchr(r->challenge, '\0', sizeof(r->challenge)));
    for (const char *c = r->challenge; *c; c++)
        require(strchr("<>&\"'\r\n ", *c) == NULL && (unsigned char)*c < 0x80);
    require((r->reply == WEBHOOK_REPLY_CHALLENGE) == (r->challenge[0] != '\0'));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!arena)
        begin();
    if (size < 3)
        return 0;
    struct webhook_delivery in = {.form = (enum webhook_form)(data[1] % 3 + WEBHOOK_FORM_JSON),
                                  .body = {(const char *)data + 3, size - 3},
                                  .received_us = 1767621600000000};
    if (data[2] & 1)
        in.id = STR("from-header");
    if (data[2] & 2)
        in.event = STR("messages");
    const struct webhook *w = webhooks[data[2] >> 2 & 1][data[0] % WEBHOOK_JSON + 1];
    struct webhook_result r[2];
    for (int i = 0; i < 2; i++) {
        webhook_result_init(&r[i]);
        require(webhook_decode(w, &in, &r[i], NULL) == STATUS_OK);
        check_events(&r[i]);
        check_texts(&r[i]);
    }
    require(r[0].events.len == r[1].events.len && strcmp(r[0].id, r[1].id) == 0);
    require(r[0].events.len == 0 ||
            memcmp(r[0].events.data, r[1].events.data, r[0].events.len) == 0);
    webhook_result_deinit(&r[0]);
    webhook_result_deinit(&r[1]);
    return 0;
}
