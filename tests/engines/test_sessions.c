/*
 * Goal: sessions kept record by record equal sessions cut from the whole log.
 * Method: random inserts and removals, compared after each step with one naive pass; a cache may
 * only survive where neither the session's messages nor its place in the run changed.
 */
#include "core/clock.h"
#include "engines/sessions.h"

#include <setjmp.h> /* cmocka needs these three */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MESSAGES_MAX 700

struct world {
    struct msg_rec messages[MESSAGES_MAX];
    struct key_log log;
    struct sessions sessions;
};

/* What a cache remembers: the ids of the messages that it was computed from. */
struct memo {
    size_t n;
    uint64_t ids[RECORD_SESSION_MAX];
};

static uint64_t next(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

static void check(struct world *w, uint64_t seed)
{
    size_t first = 0, in_run = 0;
    for (size_t s = 0; s < w->sessions.n; s++) {
        struct session *session = &w->sessions.at[s];
        struct memo now = {.n = session->n};
        if (session->n == 0 || session->n > RECORD_SESSION_MAX)
            fail_msg("seed %llu: %u messages in a session", (unsigned long long)seed, session->n);
        for (size_t i = first; i < first + session->n; i++) {
            bool new_run =
                i == 0 || w->messages[i].t_us - w->messages[i - 1].t_us >= RECORD_SESSION_GAP_US;
            in_run = new_run ? 0 : in_run + 1;
            bool starts = new_run || in_run % RECORD_SESSION_MAX == 0;
            if (starts != (i == first) || (i == first && session->continues == new_run))
                fail_msg("seed %llu: message %zu", (unsigned long long)seed, i);
            now.ids[i - first] = w->messages[i].id;
        }
        if (session->cache) {
            assert_memory_equal(session->cache, &now, sizeof(now));
        } else {
            session->cache = malloc(sizeof(now));
            memcpy(session->cache, &now, sizeof(now));
        }
        first += session->n;
    }
    assert_int_equal(first, w->log.n_messages);
    assert_int_equal(w->sessions.n_messages, w->log.n_messages);
}

static void insert_message(struct world *w, int64_t t_us, uint64_t id)
{
    size_t n = w->log.n_messages, at = n;
    while (at > 0 && w->messages[at - 1].t_us > t_us)
        at--;
    memmove(&w->messages[at + 1], &w->messages[at], (n - at) * sizeof(w->messages[0]));
    w->messages[at] = (struct msg_rec){.t_us = t_us, .id = id};
    w->log.n_messages++;
    assert_int_equal(sessions_insert(&w->sessions, &w->log, at), STATUS_OK);
}

static void remove_message(struct world *w, size_t at)
{
    assert_int_equal(sessions_retract(&w->sessions, &w->log, at), STATUS_OK);
    w->log.n_messages--;
    memmove(&w->messages[at], &w->messages[at + 1],
            (w->log.n_messages - at) * sizeof(w->messages[0]));
}

static struct world *world_new(void)
{
    struct world *w = calloc(1, sizeof(*w));
    assert_non_null(w);
    w->log.messages = w->messages;
    return w;
}

static void world_free(struct world *w)
{
    sessions_deinit(&w->sessions);
    free(w);
}

/* spread_us: how far apart messages lie; small ones give runs that are split at 128. */
static void run_script(uint64_t seed, int64_t spread_us, size_t steps)
{
    uint64_t random = seed * 2654435761u + 1;
    struct world *w = world_new();
    for (size_t i = 0; i < steps; i++) {
        uint64_t kind = next(&random) % 10;
        if (w->log.n_messages > 0 && (kind < 3 || w->log.n_messages == MESSAGES_MAX)) {
            remove_message(w, kind == 0 ? 0 : next(&random) % w->log.n_messages);
        } else {
            int64_t t =
                kind < 7 ? (int64_t)i * spread_us : (int64_t)(next(&random) % (i + 1)) * spread_us;
            insert_message(w, t + (int64_t)(next(&random) % 100), i + 1);
        }
        check(w, seed);
    }
    while (w->log.n_messages > 0) {
        remove_message(w, 0);
        check(w, seed);
    }
    assert_int_equal(w->sessions.n, 0);
    world_free(w);
}

static void test_random_changes_give_the_sessions_of_the_whole_log(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        run_script(seed, 20 * US_PER_MINUTE, 60);
        run_script(seed, 50 * US_PER_MINUTE, 60);
    }
    for (uint64_t seed = 1; seed <= 4; seed++)
        run_script(seed, US_PER_SECOND, 600);
}

static void test_a_gap_of_exactly_an_hour_ends_a_session(void **state)
{
    (void)state;
    struct world *w = world_new();
    insert_message(w, 0, 1);
    insert_message(w, US_PER_HOUR - 1, 2);
    assert_int_equal(w->sessions.n, 1);
    insert_message(w, 2 * US_PER_HOUR - 1, 3);
    assert_int_equal(w->sessions.n, 2);
    insert_message(w, US_PER_HOUR + 5, 4);
    assert_int_equal(w->sessions.n, 1);
    world_free(w);
}

static void test_the_129th_message_continues_in_a_session_of_its_own(void **state)
{
    (void)state;
    struct world *w = world_new();
    for (uint64_t i = 0; i < 129; i++)
        insert_message(w, (int64_t)i * US_PER_SECOND, i + 1);
    assert_int_equal(w->sessions.n, 2);
    assert_true(w->sessions.at[1].continues);
    remove_message(w, 3);
    assert_int_equal(w->sessions.n, 1);
    size_t first;
    assert_int_equal(sessions_find(&w->sessions, 127, &first), 0);
    assert_int_equal(first, 0);
    world_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_changes_give_the_sessions_of_the_whole_log),
        cmocka_unit_test(test_a_gap_of_exactly_an_hour_ends_a_session),
        cmocka_unit_test(test_the_129th_message_continues_in_a_session_of_its_own),
    };
    return cmocka_run_group_tests_name("engines/sessions", tests, NULL, NULL);
}
