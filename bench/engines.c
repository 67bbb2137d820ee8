/*
 * bench/engines.c - what the engines cost, by the number of messages in the window: microseconds
 * per event for each engine and for the whole key, microseconds per emission of each row right
 * after an event, bytes per key at rest and in memory. `./dev bench engines` runs it.
 *
 * The key is a chat in eight topics of which every message has an emotion, every fourth comes with
 * a memory or an access; a bot's key gets as many metric points as the other one messages. Per
 * event: the last quarter of the log is inserted into a fresh engine that holds the first three
 * quarters.
 */
#include "core/clock.h"
#include "engines/engine.h"
#include "engines/key.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define START_US (INT64_C(1767225600) * US_PER_SECOND)
#define ROUNDS   5

static const size_t sizes[] = {10, 100, 1000, 2000};
#define SIZES (sizeof(sizes) / sizeof(sizes[0]))

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void must(enum status st, const struct error *err)
{
    if (st) {
        fprintf(stderr, "engines: %s\n", err->text);
        exit(1);
    }
}

/* ---- events ---- */

struct chat {
    struct key *key;
    bool bot;
    uint64_t random;
    uint64_t n; /* events so far */
    int64_t t_us;
};

static uint32_t below(struct chat *c, uint32_t n)
{
    c->random = c->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)((c->random >> 33) % n);
}

static void say(struct chat *c, char *text, size_t size)
{
    static const char *const syllables[] = {"ka", "lo", "mi", "ter", "su", "ran", "vo", "del"};
    uint32_t topic = (uint32_t)(c->n / 12 % 8);
    size_t len = 0;
    for (uint32_t i = 0; i < 18; i++)
        len += (size_t)snprintf(text + len, size - len, "%s%s%s ",
                                syllables[i % 3 ? topic : below(c, 8)], syllables[below(c, 8)],
                                i % 4 ? "n" : "");
    snprintf(text + len, size - len, "%s", c->n % 5 ? "." : "?");
}

/* The next event of the chat; its strings live in the buffers. */
static void next_event(struct chat *c, struct event *e, char id[32], char text[512])
{
    c->n++;
    c->t_us += (c->n % 30 ? 40 : 3 * 3600) * US_PER_SECOND;
    snprintf(id, 32, "event-%" PRIu64, c->n);
    *e = (struct event){.id = str_from(id), .bot_name = STR("elena"), .at_us = c->t_us};
    if (c->bot) {
        e->type = EVENT_METRIC;
        e->u.metric.measurement = STR("conversation_quality");
        e->u.metric.n_fields = 1;
        e->u.metric.fields[0].name = STR("engagement_score");
        e->u.metric.fields[0].value = 0.5 + below(c, 400) / 1000.0;
        return;
    }
    e->user_id = STR("anna");
    if (c->n % 4 == 0) {
        e->type = EVENT_MEMORY;
        e->u.memory.op = c->n % 16 == 0 ? MEMORY_CREATE : MEMORY_ACCESS;
        snprintf(text, 512, "memory-%" PRIu64,
                 c->n % 16 == 0 ? c->n : 16 * (1 + below(c, (uint32_t)(c->n / 16 + 1))));
        e->u.memory.memory_id = str_from(text);
        e->u.memory.score = 0.5;
        e->u.memory.importance = 0.7;
        return;
    }
    say(c, text, 512);
    e->type = EVENT_MESSAGE;
    e->u.message.role = c->n % 2 ? ROLE_USER : ROLE_BOT;
    e->u.message.op = MESSAGE_INSERT;
    e->u.message.content = str_from(text);
    e->u.message.emotion = c->n % 3 ? STR("joy") : STR("sadness");
    e->u.message.emotion_confidence = 0.9;
}

/* Returns the time that key_apply() took, without the text features. */
static double apply_next(struct chat *c, double *features_us)
{
    struct event e;
    struct feature f;
    struct key_change change;
    struct error err = {0};
    char id[32], text[512];
    next_event(c, &e, id, text);
    double begin = now_us();
    feature_extract(&e, SOURCE_POSTGRES, c->n, NULL, &f);
    double extracted = now_us();
    must(key_apply(c->key, &f, c->t_us, &change, &err), &err);
    double end = now_us();
    if (features_us)
        *features_us += extracted - begin;
    return end - extracted;
}

static struct chat chat_of(bool bot, size_t size)
{
    struct chat c = {.bot = bot, .random = 1, .t_us = START_US};
    struct error err = {0};
    must(key_new(bot ? STR_NULL : STR("anna"), STR("elena"), &c.key, &err), &err);
    while (bot ? c.n < size : key_log(c.key)->n_messages < size)
        apply_next(&c, NULL);
    return c;
}

/* ---- measuring ---- */

static double smaller(double a, double b)
{
    return a < b ? a : b;
}

static size_t records_of(const struct key_log *log, enum record_kind kind)
{
    switch (kind) {
    case RECORD_MESSAGE:
        return log->n_messages;
    case RECORD_MEMORY:
        return log->n_memories;
    case RECORD_ACCESS:
        return log->n_accesses;
    case RECORD_OUTREACH:
    case RECORD_PRIVACY:
    case RECORD_METRIC:
    case RECORD_KINDS:
        break;
    }
    return 0;
}

/* One engine alone: the log goes in record by record, and the last quarter is timed. */
static double engine_event_us(const struct engine_ops *ops, const struct key_log *log)
{
    struct error err = {0};
    struct key_log prefix = *log;
    prefix.n_messages = prefix.n_memories = prefix.n_accesses = 0;
    size_t n = 0;
    double spent = 0;
    void *state = calloc(1, ops->state_size ? ops->state_size : 1);
    if (!state)
        exit(1);
    if (ops->init)
        must(ops->init(state, &err), &err);
    static const enum record_kind order[] = {RECORD_MEMORY, RECORD_MESSAGE, RECORD_ACCESS};
    for (size_t k = 0; k < sizeof(order) / sizeof(order[0]); k++) {
        size_t total = records_of(log, order[k]);
        for (size_t i = 0; i < total; i++) {
            size_t *count = order[k] == RECORD_MEMORY    ? &prefix.n_memories
                            : order[k] == RECORD_MESSAGE ? &prefix.n_messages
                                                         : &prefix.n_accesses;
            *count = i + 1;
            if (!ops->insert || !(ops->kinds & 1u << order[k]))
                continue;
            double begin = now_us();
            must(ops->insert(state, &prefix, order[k], i, &err), &err);
            if (i >= total - (total + 3) / 4) {
                spent += now_us() - begin;
                n++;
            }
        }
    }
    if (ops->fini)
        ops->fini(state);
    free(state);
    return n ? spent / (double)n : 0;
}

struct result {
    double features_us, event_us, engine_us[ENGINE_MAX], emit_us[TABLE_COUNT];
    size_t bytes_at_rest, bytes_in_memory;
};

static void measure_once(bool bot, size_t size, struct result *r)
{
    struct chat c = chat_of(bot, size);
    struct error err = {0};
    struct buf page;
    buf_init(&page, LIMIT_KEY_BYTES);
    must(key_encode(c.key, &page), &err);
    r->bytes_at_rest = page.len;
    r->bytes_in_memory = key_bytes(c.key);
    buf_deinit(&page);
    for (size_t i = 0; engine_at(i); i++)
        if (engine_at(i)->scope == (bot ? ENGINE_BOT : ENGINE_USER) && !bot)
            r->engine_us[i] =
                smaller(r->engine_us[i], engine_event_us(engine_at(i), key_log(c.key)));

    enum { EVENTS = 32 };
    double spent = 0, features = 0;
    double emit[TABLE_COUNT] = {0};
    for (int i = 0; i < EVENTS; i++) {
        spent += apply_next(&c, &features);
        for (enum table_id t = 0; t < TABLE_COUNT; t++) {
            if (!key_has_row(c.key, t))
                continue;
            struct row row;
            row_init(&row, &tables[t]);
            double begin = now_us();
            must(key_emit(c.key, t, c.t_us, &row, &err), &err);
            emit[t] += now_us() - begin;
            row_deinit(&row);
        }
    }
    r->event_us = smaller(r->event_us, spent / EVENTS);
    r->features_us = smaller(r->features_us, features / EVENTS);
    for (enum table_id t = 0; t < TABLE_COUNT; t++)
        r->emit_us[t] = smaller(r->emit_us[t], emit[t] / EVENTS);
    key_free(c.key);
}

static struct result measure(bool bot, size_t size)
{
    struct result r = {.features_us = 1e9, .event_us = 1e9};
    for (size_t i = 0; i < ENGINE_MAX; i++)
        r.engine_us[i] = 1e9;
    for (size_t t = 0; t < TABLE_COUNT; t++)
        r.emit_us[t] = 1e9;
    for (int i = 0; i < ROUNDS; i++)
        measure_once(bot, size, &r);
    return r;
}

/* ---- the report ---- */

static void print_sizes(const char *what)
{
    printf("%-44s", what);
    for (size_t i = 0; i < SIZES; i++)
        printf("%10zu", sizes[i]);
    printf("\n");
}

static void report(bool bot)
{
    struct result r[SIZES];
    for (size_t i = 0; i < SIZES; i++)
        r[i] = measure(bot, sizes[i]);
    print_sizes(bot ? "a bot's key: metric points" : "a user's key: messages in the window");
    printf("%-44s", "  text features, us per event");
    for (size_t i = 0; i < SIZES; i++)
        printf("%10.2f", r[i].features_us);
    printf("\n%-44s", "  all engines and the log, us per event");
    for (size_t i = 0; i < SIZES; i++)
        printf("%10.2f", r[i].event_us);
    printf("\n");
    for (size_t e = 0; engine_at(e) && !bot; e++) {
        if (engine_at(e)->scope != ENGINE_USER)
            continue;
        printf("    %-40s", engine_at(e)->name);
        for (size_t i = 0; i < SIZES; i++)
            printf("%10.2f", r[i].engine_us[e]);
        printf("\n");
    }
    printf("  us per row, right after an event\n");
    for (enum table_id t = 0; t < TABLE_COUNT; t++) {
        if (r[SIZES - 1].emit_us[t] == 0 || tables[t].by_window != bot)
            continue;
        char name[64];
        snprintf(name, sizeof(name), bot ? "%s %d h" : "%s", tables[t].name,
                 tables[t].window_hours);
        printf("    %-40s", name);
        for (size_t i = 0; i < SIZES; i++)
            printf("%10.1f", r[i].emit_us[t]);
        printf("\n");
    }
    printf("%-44s", "  bytes at rest (the page)");
    for (size_t i = 0; i < SIZES; i++)
        printf("%10zu", r[i].bytes_at_rest);
    printf("\n%-44s", "  bytes in memory");
    for (size_t i = 0; i < SIZES; i++)
        printf("%10zu", r[i].bytes_in_memory);
    printf("\n");
}

int main(void)
{
    report(false);
    for (size_t i = 0; engine_at(i); i++) {
        if (engine_at(i)->scope != ENGINE_BOT)
            continue;
        report(true);
        break;
    }
    return 0;
}
