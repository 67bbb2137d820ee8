#include "tests/contract/world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

void world_free(struct world *w)
{
    for (size_t i = 0; i < w->n; i++)
        key_free(w->keys[i]);
    w->n = 0;
    test_epochs_deinit(&w->learned);
}

static const struct epoch_list *epochs_of(const struct world *w)
{
    return w->learns ? &w->learned.list : w->epochs;
}

struct key *world_key(struct world *w, struct str user_id, struct str bot_name)
{
    for (size_t i = 0; i < w->n; i++) {
        const struct key_log *log = key_log(w->keys[i]);
        if (str_equal(log->user_id, user_id) && str_equal(log->bot_name, bot_name))
            return w->keys[i];
    }
    assert_true(w->n < WORLD_KEYS_MAX);
    assert_int_equal(key_new(user_id, bot_name, &w->keys[w->n], NULL), STATUS_OK);
    if (epochs_of(w))
        key_set_epochs(w->keys[w->n], epochs_of(w));
    return w->keys[w->n++];
}

struct key *world_key_about(struct world *w, const struct event *e)
{
    bool user = engine_scopes(e) & 1u << ENGINE_USER;
    return world_key(w, user ? e->user_id : STR(""), e->bot_name);
}

void world_apply(struct world *w, const struct event *e, enum source source, uint64_t ver,
                 int64_t as_of_us)
{
    uint32_t scopes = feature_ignored(e) ? 0 : engine_scopes(e);
    if (w->learns)
        test_epochs_reach(&w->learned, as_of_us);
    for (enum engine_scope scope = ENGINE_USER; scope <= ENGINE_BOT; scope++) {
        struct feature f;
        struct key_change change;
        if (!(scopes & 1u << scope))
            continue;
        struct key *k = world_key(w, scope == ENGINE_BOT ? STR("") : e->user_id, e->bot_name);
        feature_extract(e, source, ver, key_log(k)->epochs, &f);
        if (scope == ENGINE_BOT)
            feature_for_bot(&f, e->user_id);
        enum status st = key_apply(k, &f, as_of_us, &change, NULL);
        /* A point out of range is refused; everything else must be taken. */
        assert_true(st == STATUS_OK || (st == STATUS_INVALID && e->type == EVENT_METRIC));
        if (w->learns)
            test_epochs_learn(&w->learned, &change);
    }
}

void world_step(struct world *w, const struct script_step *step)
{
    world_apply(w, &step->e, step->source, step->ver, step->as_of_us);
}

char *world_row(struct key *k, enum table_id table, int64_t as_of_us)
{
    assert_int_equal(key_advance(k, as_of_us, NULL), STATUS_OK);
    if (!key_has_row(k, table))
        return strdup("");
    struct row row;
    struct buf text;
    row_init(&row, &tables[table]);
    buf_init(&text, 1 << 20);
    assert_int_equal(key_emit(k, table, as_of_us, &row, NULL), STATUS_OK);
    assert_int_equal(row_to_json(&row, &text), STATUS_OK);
    char *line = strndup(text.data, text.len);
    buf_deinit(&text);
    row_deinit(&row);
    assert_non_null(line);
    return line;
}

void world_assert_same_rows(struct world *a, struct world *b, int64_t as_of_us, uint32_t but,
                            uint64_t seed)
{
    for (size_t i = 0; i < a->n; i++) {
        const struct key_log *log = key_log(a->keys[i]);
        struct key *other = world_key(b, log->user_id, log->bot_name);
        for (enum table_id t = 0; t < TABLE_COUNT; t++) {
            if (but & 1u << t)
                continue;
            char *x = world_row(a->keys[i], t, as_of_us);
            char *y = world_row(other, t, as_of_us);
            if (strcmp(x, y) != 0) {
                fprintf(stderr, "seed %llu\n  %s\n  %s\n", (unsigned long long)seed, x, y);
                fail();
            }
            free(x);
            free(y);
        }
    }
}
