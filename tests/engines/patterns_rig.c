#include "tests/engines/patterns_rig.h"

#include <math.h>
#include <setjmp.h> /* cmocka needs these four */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

void rig_start(struct rig *r)
{
    struct error err;
    *r = (struct rig){.name = STR("user"), .bot = STR("bot"), .now_us = START_US};
    if (key_new(r->name, r->bot, &r->key, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    if (oracle_new(&r->oracle, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    row_init(&r->row, &tables[TABLE_CONVERSATION_PATTERNS]);
    key_set_epochs(r->key, &r->epochs);
    assert_int_equal(oracle_set_epochs(r->oracle, r->bot, &r->epochs), STATUS_OK);
}

struct epoch *rig_epoch_new(void)
{
    struct epoch *e = calloc(1, sizeof(*e));
    assert_non_null(e);
    e->day = kernel_day(START_US) - 1;
    return e;
}

void rig_stop(struct rig *r)
{
    key_free(r->key);
    oracle_free(r->oracle);
    row_deinit(&r->row);
    epoch_list_deinit(&r->epochs);
}

static void rig_post(struct rig *r, struct event *e)
{
    struct error err;
    struct feature f;
    struct key_change change;
    e->user_id = r->name;
    e->bot_name = r->bot;
    r->ver++;
    feature_extract(e, SOURCE_POSTGRES, r->ver, &r->epochs, &f);
    if (key_apply(r->key, &f, r->now_us, &change, &err) != STATUS_OK)
        fail_msg("seed %llu: %s", (unsigned long long)r->seed, err.text);
    epoch_sums_add(&r->lessons, &change.delta);
    if (oracle_add(r->oracle, e, SOURCE_POSTGRES, r->ver, r->now_us, &err) != STATUS_OK)
        fail_msg("seed %llu: %s", (unsigned long long)r->seed, err.text);
}

void rig_say(struct rig *r, const struct said *s)
{
    char id[32];
    int n = snprintf(id, sizeof(id), "m%u", s->id);
    struct event e = {.type = EVENT_MESSAGE, .id = {id, (size_t)n}, .at_us = s->t_us};
    e.u.message.role = s->role;
    e.u.message.op = s->op ? s->op : MESSAGE_INSERT;
    e.u.message.content = str_from(s->text);
    e.u.message.emotion = str_from(s->emotion);
    e.u.message.emotion_confidence = s->emotion ? s->confidence : (double)NAN;
    rig_post(r, &e);
}

void rig_take_back(struct rig *r, unsigned message, int64_t t_us)
{
    char id[32];
    int n = snprintf(id, sizeof(id), "m%u", message);
    struct event e = {.type = EVENT_MESSAGE_DELETED, .id = {id, (size_t)n}, .at_us = t_us};
    rig_post(r, &e);
}

void rig_user(struct rig *r, int64_t t_us, unsigned id, const char *text)
{
    rig_say(r, &(struct said){.role = ROLE_USER, .t_us = t_us, .id = id, .text = text});
}

void rig_bot(struct rig *r, int64_t t_us, unsigned id, const char *text)
{
    rig_say(r, &(struct said){.role = ROLE_BOT, .t_us = t_us, .id = id, .text = text});
}

void rig_words(char out[RIG_TEXT_MAX], unsigned n, const char *end)
{
    size_t len = 0;
    out[0] = '\0';
    for (unsigned i = 0; i < n; i++)
        len += (size_t)snprintf(out + len, RIG_TEXT_MAX - len, i ? " w%u" : "w%u", i % 100);
    assert_true(len + strlen(end) < RIG_TEXT_MAX);
    snprintf(out + len, RIG_TEXT_MAX - len, "%s", end);
}

static void reset_row(struct row *row)
{
    row_deinit(row);
    row_init(row, &tables[TABLE_CONVERSATION_PATTERNS]);
}

void rig_emit(struct rig *r)
{
    struct error err;
    reset_row(&r->row);
    if (key_emit(r->key, TABLE_CONVERSATION_PATTERNS, r->now_us, &r->row, &err) != STATUS_OK)
        fail_msg("seed %llu: %s", (unsigned long long)r->seed, err.text);
}

void rig_assert_column(struct rig *r, size_t column, const char *want)
{
    struct str got = row_value(&r->row, column);
    if (!str_equal(got, str_from(want)))
        fail_msg("got " STR_FMT "\nwant %s", STR_ARGS(got), want ? want : "NULL");
}

void rig_assert_has(struct str text, const char *part)
{
    if (!text.ptr || !memmem(text.ptr, text.len, part, strlen(part)))
        fail_msg("no %s in " STR_FMT, part, STR_ARGS(text));
}
