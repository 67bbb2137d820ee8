/*
 * tests/engines/test_key.c - the rules of key.h one by one: who overrules whom, what is late, what
 * leaves and how, bounds, and the page. Random scripts over all rules are in tests/contract.
 */
#include "engines/key.h"

#include "core/clock.h"
#include "core/hash.h"
#include "engines/fsrs.h"
#include "engines/klog.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define T0 (INT64_C(1767225600) * US_PER_SECOND) /* 2026-01-01 00:00, a full hour */

/* A key and the clock and LSN of the events that tests give it. */
struct fixture {
    struct key *key;
    struct key_change change;
    int64_t t_us;
    uint64_t ver;
    enum source source;
};

static int setup(void **state)
{
    struct fixture *x = calloc(1, sizeof(*x));
    assert_non_null(x);
    x->t_us = T0;
    assert_int_equal(key_new(STR("anna"), STR("elena"), &x->key, NULL), STATUS_OK);
    *state = x;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *x = *state;
    key_free(x->key);
    free(x);
    return 0;
}

/* Applies e at T = the fixture's clock. */
static enum status apply(struct fixture *x, const struct event *e)
{
    struct feature f;
    feature_extract(e, x->source, ++x->ver, NULL, &f);
    return key_apply(x->key, &f, x->t_us, &x->change, NULL);
}

static struct event event_of(enum event_type type, const char *id, int64_t at_us)
{
    return (struct event){.type = type,
                          .id = str_from(id),
                          .user_id = STR("anna"),
                          .bot_name = STR("elena"),
                          .at_us = at_us};
}

static enum status write_message(struct fixture *x, const char *id, int64_t at_us,
                                 const char *content)
{
    struct event e = event_of(EVENT_MESSAGE, id, at_us);
    e.u.message.role = ROLE_USER;
    e.u.message.op = MESSAGE_INSERT;
    e.u.message.content = str_from(content);
    e.u.message.emotion_confidence = NAN;
    return apply(x, &e);
}

static enum status delete_message(struct fixture *x, const char *id)
{
    struct event e = event_of(EVENT_MESSAGE_DELETED, id, x->t_us);
    return apply(x, &e);
}

static enum status remember(struct fixture *x, enum memory_op op, const char *memory,
                            const char *id, int64_t at_us)
{
    struct event e = event_of(EVENT_MEMORY, id, at_us);
    e.u.memory.op = op;
    e.u.memory.memory_id = str_from(memory);
    e.u.memory.memory_type = STR("fact");
    e.u.memory.score = NAN;
    e.u.memory.importance = NAN;
    if (op == MEMORY_CREATE)
        e.u.memory.content = STR("dog leg vet");
    return apply(x, &e);
}

static const struct msg_rec *find(const struct fixture *x, const char *id)
{
    return klog_find_message(x->key, hash64(str_from(id)));
}

static const struct mem_rec *find_memory(const struct fixture *x, const char *id)
{
    return key_log_memory(key_log(x->key), hash64(str_from(id)));
}

static struct buf page_of(const struct key *k)
{
    struct buf b;
    buf_init(&b, LIMIT_KEY_BYTES);
    assert_int_equal(key_encode(k, &b), STATUS_OK);
    return b;
}

/* Pages are canonical: the copy's page is the same, byte for byte. */
static void assert_rereads(const struct key *k)
{
    struct buf page = page_of(k);
    struct key *copy = NULL;
    assert_int_equal(key_decode((struct str){page.data, page.len}, &copy, NULL), STATUS_OK);
    struct buf again = page_of(copy);
    assert_int_equal(again.len, page.len);
    assert_memory_equal(again.data, page.data, page.len);
    assert_int_equal(key_log(copy)->n_messages, key_log(k)->n_messages);
    assert_int_equal(key_log(copy)->n_outreach, key_log(k)->n_outreach);
    assert_int_equal(key_log(copy)->truncated, key_log(k)->truncated);
    assert_true(key_log(copy)->first_seen_us == key_log(k)->first_seen_us);
    key_free(copy);
    buf_deinit(&page);
    buf_deinit(&again);
}

static void test_records_are_sorted_by_time_then_id(void **state)
{
    struct fixture *x = *state;
    static const int64_t order[] = {5, 1, 9, 3, 3, 7, 0, 3};
    for (size_t i = 0; i < 8; i++) {
        char id[8];
        snprintf(id, sizeof(id), "m%zu", i);
        assert_int_equal(write_message(x, id, T0 - order[i], "hi"), STATUS_OK);
    }
    const struct key_log *log = key_log(x->key);
    assert_int_equal(log->n_messages, 8);
    for (size_t i = 1; i < 8; i++) {
        const struct msg_rec *a = &log->messages[i - 1], *b = &log->messages[i];
        assert_true(a->t_us < b->t_us || (a->t_us == b->t_us && a->id < b->id));
    }
    assert_int_equal(key_log_message_at(log, T0 - 3), 3);
    assert_int_equal(key_log_message_at(log, T0 + 1), 8);
}

static void test_an_edit_replaces_text_and_time(void **state)
{
    struct fixture *x = *state;
    assert_int_equal(write_message(x, "a", T0 - 50, "dog leg"), STATUS_OK);
    assert_int_equal(write_message(x, "b", T0 - 40, "cat"), STATUS_OK);
    assert_int_equal(write_message(x, "a", T0 - 30, "rust borrow checker"), STATUS_OK);
    assert_true(x->change.applied);
    assert_int_equal(x->change.weight[TABLE_CONVERSATION_PATTERNS], 1);
    const struct key_log *log = key_log(x->key);
    assert_int_equal(log->n_messages, 2);
    assert_true(log->messages[1].id == hash64(STR("a")));
    assert_true(str_equal(key_log_label(log, log->messages[1].labels[0]), STR("rust")));
    assert_int_equal(x->key->arena.n_used, 4); /* dog and leg are gone */
}

static void test_an_edit_without_text_keeps_the_text(void **state)
{
    struct fixture *x = *state;
    assert_int_equal(write_message(x, "a", T0 - 50, "Dog leg vet limp?"), STATUS_OK);
    struct msg_rec before = *find(x, "a");
    struct event e = event_of(EVENT_MESSAGE, "a", T0 - 20);
    e.u.message.role = ROLE_USER;
    e.u.message.op = MESSAGE_UPDATE;
    e.u.message.emotion = STR("joy");
    e.u.message.emotion_confidence = 1;
    assert_int_equal(apply(x, &e), STATUS_OK);
    const struct msg_rec *after = find(x, "a");
    assert_int_equal(after->flags, before.flags | MSG_HAS_EMOTION);
    assert_int_equal(after->words, before.words);
    assert_int_equal(after->norm2, before.norm2);
    assert_memory_equal(after->labels, before.labels, sizeof(before.labels));
    assert_memory_equal(after->vector, before.vector, sizeof(before.vector));
    assert_memory_equal(after->marks, before.marks, sizeof(before.marks));
    assert_int_equal(after->valence, 127);
    assert_true(after->t_us == T0 - 20);
    e.id = STR("unknown");
    assert_int_equal(apply(x, &e), STATUS_OK);
    assert_false(x->change.applied);
    assert_null(find(x, "unknown"));
}

static enum status show_traits(struct fixture *x, const char *id, int64_t at_us, struct str content,
                               const char *one, const char *two)
{
    struct event e = event_of(EVENT_MESSAGE, id, at_us);
    e.u.message.role = ROLE_BOT;
    e.u.message.op = content.ptr ? MESSAGE_INSERT : MESSAGE_UPDATE;
    e.u.message.content = content;
    e.u.message.emotion_confidence = NAN;
    e.u.message.n_traits = two ? 2 : 1;
    e.u.message.traits[0] = (struct event_trait){str_from(one), 0.5};
    e.u.message.traits[1] = (struct event_trait){str_from(two), 1};
    return apply(x, &e);
}

static void test_an_edit_without_text_replaces_the_traits(void **state)
{
    struct fixture *x = *state;
    assert_int_equal(show_traits(x, "a", T0 - 50, STR("dog leg"), "warm", "dog"), STATUS_OK);
    assert_int_equal(x->key->arena.n_used, 3); /* the label dog is the trait dog */
    assert_int_equal(
        show_traits(x, "a", T0 - 50, STR_NULL, "dry wit of thirty-two bytes, yes", NULL),
        STATUS_OK);
    const struct msg_rec *m = find(x, "a");
    const struct key_log *log = key_log(x->key);
    assert_int_equal(msg_trait_count(m), 1);
    assert_true(
        str_equal(key_log_label(log, m->traits.name[0]), STR("dry wit of thirty-two bytes, yes")));
    assert_int_equal(m->traits.weight[0], RECORD_TRAIT_WEIGHT / 2);
    assert_true(str_equal(key_log_label(log, m->labels[0]), STR("dog")));
    assert_int_equal(x->key->arena.n_used, 3); /* dog, leg, and the trait: warm is gone */
    assert_rereads(x->key);
    assert_int_equal(delete_message(x, "a"), STATUS_OK);
    assert_int_equal(x->key->arena.n_used, 0);
}

static size_t marks_of(const struct msg_rec *m)
{
    size_t n = 0;
    for (size_t i = 0; i < RECORD_MARKS; i++)
        n += msg_has_mark(m, i);
    return n;
}

/* Text and traits of a message belong to its role: one does not become the other's. */
static void test_a_change_of_role_leaves_no_traits_and_no_marks(void **state)
{
    struct fixture *x = *state;
    assert_int_equal(write_message(x, "a", T0 - 50, "dog leg vet"), STATUS_OK);
    assert_true(marks_of(find(x, "a")) > 3);
    assert_int_equal(show_traits(x, "a", T0 - 50, STR_NULL, "warm", NULL), STATUS_OK);
    assert_int_equal(marks_of(find(x, "a")), 0);
    assert_int_equal(msg_trait_count(find(x, "a")), 1);
    assert_rereads(x->key);
    struct event e = event_of(EVENT_MESSAGE, "a", T0 - 50);
    e.u.message.role = ROLE_USER;
    e.u.message.op = MESSAGE_UPDATE;
    e.u.message.emotion_confidence = NAN;
    e.u.message.n_traits = 1;
    e.u.message.traits[0] = (struct event_trait){STR("warm"), 1};
    assert_int_equal(apply(x, &e), STATUS_OK);
    assert_int_equal(marks_of(find(x, "a")), 0);
    assert_int_equal(msg_trait_count(find(x, "a")), 0);
    assert_int_equal(x->key->arena.n_used, 3); /* the user's message has words, no traits */
    assert_rereads(x->key);
}

static void test_labels_are_shared_and_wiped_with_their_last_message(void **state)
{
    struct fixture *x = *state;
    assert_int_equal(write_message(x, "a", T0 - 50, "secretword dog"), STATUS_OK);
    assert_int_equal(write_message(x, "b", T0 - 40, "dog"), STATUS_OK);
    assert_int_equal(x->key->arena.n_used, 2);
    label_ref dog = find(x, "b")->labels[0];
    assert_int_equal(find(x, "a")->labels[1], dog);
    assert_int_equal(delete_message(x, "a"), STATUS_OK);
    assert_int_equal(x->key->arena.n_used, 1);
    assert_true(str_equal(key_log_label(key_log(x->key), dog), STR("dog")));
    assert_null(memmem(x->key->arena.text, x->key->arena.text_cap, "secretword", 10));
    assert_true(str_equal(key_log_label(key_log(x->key), 0), STR_NULL));
}

/* Many labels come and go: references stay right while slots, chains and text are used again. */
static void test_labels_survive_heavy_turnover(void **state)
{
    struct fixture *x = *state;
    for (int i = 0; i < 3000; i++) {
        char id[16], text[64];
        snprintf(id, sizeof(id), "m%d", i % 100);
        snprintf(text, sizeof(text), "word%d other%d third%d", i, i / 2, i % 7);
        assert_int_equal(write_message(x, id, T0 - i % 100, text), STATUS_OK);
    }
    const struct key_log *log = key_log(x->key);
    for (int i = 2900; i < 3000; i++) {
        char id[16], word[16];
        snprintf(id, sizeof(id), "m%d", i % 100);
        snprintf(word, sizeof(word), "word%d", i);
        assert_true(str_equal(key_log_label(log, find(x, id)->labels[0]), str_from(word)));
    }
    assert_int_equal(x->key->arena.n_used, 100 + 50 + 7);
    assert_true(arena_bytes(&x->key->arena) < 16384);
    assert_rereads(x->key);
}

static void test_the_other_source_cannot_undo_a_deletion(void **state)
{
    struct fixture *x = *state;
    assert_int_equal(write_message(x, "a", T0, "hi"), STATUS_OK);
    assert_int_equal(delete_message(x, "a"), STATUS_OK);
    assert_true(x->change.touched[TABLE_CONVERSATION_PATTERNS]);
    assert_null(find(x, "a"));
    x->source = SOURCE_INBOX;
    assert_int_equal(write_message(x, "a", T0, "hi"), STATUS_OK);
    assert_false(x->change.applied);
    assert_null(find(x, "a"));
    x->source = SOURCE_POSTGRES;
    assert_int_equal(write_message(x, "a", T0, "hi again"), STATUS_OK); /* inserted once more */
    assert_non_null(find(x, "a"));
    assert_null(klog_find_mark(x->key, MARK_MESSAGE, hash64(STR("a"))));
}

static void test_a_deletion_may_come_before_the_other_sources_message(void **state)
{
    struct fixture *x = *state;
    assert_int_equal(delete_message(x, "a"), STATUS_OK);
    assert_true(x->change.applied); /* the tombstone is state */
    assert_false(x->change.touched[TABLE_CONVERSATION_PATTERNS]);
    x->source = SOURCE_INBOX;
    assert_int_equal(write_message(x, "a", T0, "hi"), STATUS_OK);
    assert_null(find(x, "a"));
}

static void test_postgres_wins_over_the_inbox_in_either_order(void **state)
{
    struct fixture *x = *state;
    x->source = SOURCE_INBOX;
    assert_int_equal(write_message(x, "a", T0, "from the inbox"), STATUS_OK);
    assert_int_equal(write_message(x, "a", T0, "inbox edits its own"), STATUS_OK);
    assert_true(x->change.applied);
    x->source = SOURCE_POSTGRES;
    assert_int_equal(write_message(x, "a", T0, "one"), STATUS_OK);
    assert_int_equal(find(x, "a")->source, SOURCE_POSTGRES);
    x->source = SOURCE_INBOX;
    assert_int_equal(write_message(x, "a", T0, "from the inbox"), STATUS_OK);
    assert_false(x->change.applied);
    assert_int_equal(find(x, "a")->words, 1);
    assert_int_equal(delete_message(x, "a"), STATUS_OK); /* deleting is nobody's second copy */
    assert_null(find(x, "a"));
}

/* floor_hour(T) - 30 d is the oldest time inside. */
static void test_late_is_before_the_hour_horizon(void **state)
{
    struct fixture *x = *state;
    x->t_us = T0 + 59 * US_PER_MINUTE;
    assert_int_equal(write_message(x, "in", T0 - 30 * US_PER_DAY, "hi"), STATUS_OK);
    assert_true(x->change.applied && !x->change.late);
    assert_int_equal(write_message(x, "out", T0 - 30 * US_PER_DAY - 1, "hi"), STATUS_OK);
    assert_true(!x->change.applied && x->change.late);
    assert_int_equal(key_log(x->key)->n_messages, 1);
    assert_int_equal(key_advance(x->key, T0 + US_PER_HOUR, NULL), STATUS_OK);
    assert_int_equal(key_log(x->key)->n_messages, 0);
    assert_true(key_log(x->key)->first_seen_us == T0 - 30 * US_PER_DAY);
    assert_false(key_has_row(x->key, TABLE_CONVERSATION_PATTERNS));
    assert_rereads(x->key);
}

static void test_an_edit_may_move_a_message_out_of_the_window(void **state)
{
    struct fixture *x = *state;
    assert_int_equal(write_message(x, "a", T0, "hi"), STATUS_OK);
    assert_int_equal(write_message(x, "a", T0 - 31 * US_PER_DAY, "hi"), STATUS_OK);
    assert_true(x->change.applied && x->change.late);
    assert_true(x->change.touched[TABLE_CONVERSATION_PATTERNS]);
    assert_int_equal(key_log(x->key)->n_messages, 0);
    assert_int_equal(x->key->arena.n_used, 0);
}

static void test_time_never_goes_back(void **state)
{
    struct fixture *x = *state;
    assert_int_equal(key_advance(x->key, T0, NULL), STATUS_OK);
    assert_int_equal(key_advance(x->key, T0 - US_PER_DAY, NULL), STATUS_OK);
    assert_true(key_log(x->key)->as_of_us == T0);
}

static void test_future_records_wait_until_their_time(void **state)
{
    struct fixture *x = *state;
    assert_int_equal(write_message(x, "now", T0, "hi"), STATUS_OK);
    assert_int_equal(write_message(x, "soon", T0 + 5 * US_PER_MINUTE, "hi"), STATUS_OK);
    assert_int_equal(key_log(x->key)->n_messages, 2);
    assert_int_equal(write_message(x, "later", T0 + 5 * US_PER_MINUTE + 1, "hi"), STATUS_OK);
    assert_true(x->change.applied);
    assert_false(x->change.touched[TABLE_CONVERSATION_PATTERNS]);
    assert_int_equal(key_log(x->key)->n_messages, 2);
    assert_rereads(x->key);
    assert_int_equal(key_advance(x->key, T0 + 1, NULL), STATUS_OK);
    assert_int_equal(key_log(x->key)->n_messages, 3);
    x->t_us = T0 + 1;
    assert_int_equal(delete_message(x, "later"), STATUS_OK);
    assert_int_equal(key_log(x->key)->n_messages, 2);
}

static void test_the_far_future_is_refused(void **state)
{
    struct fixture *x = *state;
    int64_t far_us = T0 + LIMIT_FUTURE_US;
    assert_int_equal(key_advance(x->key, T0, NULL), STATUS_OK);
    struct buf before = page_of(x->key);
    assert_int_equal(write_message(x, "a", far_us + 1, "hi"), STATUS_INVALID);
    assert_int_equal(remember(x, MEMORY_ACCESS, "m", "a", far_us + 1), STATUS_INVALID);
    assert_int_equal(remember(x, MEMORY_CREATE, "m", "b", far_us + 1), STATUS_INVALID);
    struct buf after = page_of(x->key);
    assert_int_equal(after.len, before.len);
    assert_memory_equal(after.data, before.data, before.len);
    buf_deinit(&before);
    buf_deinit(&after);
    assert_int_equal(write_message(x, "a", far_us, "hi"), STATUS_OK);
}

static void test_the_number_of_future_records_is_bounded(void **state)
{
    struct fixture *x = *state;
    char id[16];
    for (int i = 0; i < LIMIT_FUTURE_RECORDS; i++) {
        snprintf(id, sizeof(id), "f%d", i);
        assert_int_equal(write_message(x, id, T0 + US_PER_DAY, "hi"), STATUS_OK);
    }
    assert_int_equal(write_message(x, "one more", T0 + US_PER_DAY, "hi"), STATUS_INVALID);
    assert_int_equal(write_message(x, "f0", T0 + 2 * US_PER_DAY, "edited"), STATUS_OK);
    assert_int_equal(write_message(x, "now", T0, "hi"), STATUS_OK);
    assert_int_equal(write_message(x, "now", T0 + US_PER_DAY, "hi"), STATUS_INVALID);
    assert_non_null(find(x, "now"));
}

static void test_the_newest_messages_stay_when_there_are_too_many(void **state)
{
    struct fixture *x = *state;
    char id[16];
    x->t_us = T0 + US_PER_DAY;
    for (int i = 0; i < LIMIT_MESSAGES + 100; i++) {
        snprintf(id, sizeof(id), "m%d", i);
        assert_int_equal(write_message(x, id, T0 + i * US_PER_SECOND, "hi there"), STATUS_OK);
        assert_int_equal(key_log(x->key)->truncated, i >= LIMIT_MESSAGES);
    }
    const struct key_log *log = key_log(x->key);
    assert_int_equal(log->n_messages, LIMIT_MESSAGES);
    assert_true(log->messages[0].t_us == T0 + 100 * US_PER_SECOND);
    assert_true(log->first_seen_us == T0);
    assert_null(find(x, "m99"));
    assert_non_null(find(x, "m100"));
    assert_int_equal(write_message(x, "m99", T0 + 99 * US_PER_SECOND, "hi"), STATUS_OK);
    assert_false(x->change.applied);
    assert_rereads(x->key);
    /* A hole that only the source could fill is said in the row. */
    struct row row;
    assert_int_equal(delete_message(x, "m500"), STATUS_OK);
    row_init(&row, &tables[TABLE_CONVERSATION_PATTERNS]);
    assert_int_equal(key_emit(x->key, TABLE_CONVERSATION_PATTERNS, 0, &row, NULL), STATUS_OK);
    assert_int_equal(row.event_count, LIMIT_MESSAGES - 1);
    assert_true(row.state_flags & ROW_TRUNCATED);
    assert_true(row.state_flags & ROW_REBUILD);
    row_deinit(&row);
    /* Once the window has passed what was cut, nothing is missing any more. */
    int64_t t_us = T0 + 30 * US_PER_DAY + US_PER_HOUR;
    assert_int_equal(key_advance(x->key, t_us, NULL), STATUS_OK);
    assert_false(log->truncated);
}

static void test_accesses_leave_into_their_memory(void **state)
{
    struct fixture *x = *state;
    assert_int_equal(remember(x, MEMORY_CREATE, "m", "c", T0 - 10 * US_PER_DAY), STATUS_OK);
    struct mem_rec created = *find_memory(x, "m");
    assert_int_equal(remember(x, MEMORY_ACCESS, "m", "a2", T0 - 2 * US_PER_DAY), STATUS_OK);
    struct access_rec second = key_log(x->key)->accesses[0];
    assert_int_equal(remember(x, MEMORY_ACCESS, "m", "a1", T0 - 5 * US_PER_DAY), STATUS_OK);
    struct access_rec first = key_log(x->key)->accesses[0];
    assert_true(first.t_us == T0 - 5 * US_PER_DAY);
    assert_int_equal(find_memory(x, "m")->base.reps, 0);
    assert_int_equal(key_advance(x->key, T0 + 40 * US_PER_DAY, NULL), STATUS_OK);
    assert_int_equal(key_log(x->key)->n_accesses, 0);
    struct fsrs_state expected = {0};
    fsrs_fold(&expected, &created, &first);
    fsrs_fold(&expected, &created, &second);
    assert_int_equal(find_memory(x, "m")->base.reps, 2);
    assert_memory_equal(&find_memory(x, "m")->base, &expected, sizeof(expected));
    assert_rereads(x->key);
    x->t_us = T0 + 40 * US_PER_DAY;
    assert_int_equal(remember(x, MEMORY_ACCESS, "m", "a3", T0), STATUS_OK);
    assert_true(x->change.late && !x->change.applied);
}

static void test_the_oldest_accesses_leave_when_there_are_too_many(void **state)
{
    struct fixture *x = *state;
    char id[16];
    x->t_us = T0 + US_PER_DAY;
    assert_int_equal(remember(x, MEMORY_CREATE, "m", "c", T0), STATUS_OK);
    for (int i = 0; i < LIMIT_ACCESSES + 10; i++) {
        snprintf(id, sizeof(id), "a%d", i);
        assert_int_equal(remember(x, MEMORY_ACCESS, "m", id, T0 + i * US_PER_SECOND), STATUS_OK);
    }
    assert_int_equal(key_log(x->key)->n_accesses, LIMIT_ACCESSES);
    assert_int_equal(find_memory(x, "m")->base.reps, 10);
    assert_true(key_log(x->key)->truncated);
    assert_int_equal(remember(x, MEMORY_ACCESS, "m", "old", T0 + US_PER_SECOND), STATUS_OK);
    assert_true(x->change.late && !x->change.applied); /* folding it now would be out of order */
    assert_rereads(x->key);
}

static void test_an_access_seen_twice_counts_once(void **state)
{
    struct fixture *x = *state;
    assert_int_equal(remember(x, MEMORY_CREATE, "m", "c", T0), STATUS_OK);
    for (int i = 0; i < 60; i++) { /* beyond the size that is searched without an index */
        char id[8];
        snprintf(id, sizeof(id), "a%d", i);
        assert_int_equal(remember(x, MEMORY_ACCESS, "m", id, T0 + i), STATUS_OK);
    }
    assert_int_equal(remember(x, MEMORY_ACCESS, "m", "a7", T0 + 7), STATUS_OK);
    assert_int_equal(remember(x, MEMORY_ACCESS, "m", "a8", T0 + 99), STATUS_OK);
    assert_int_equal(key_log(x->key)->n_accesses, 60);
    assert_true(key_log(x->key)->accesses[59].id == hash64(STR("a8")));
}

/* Pins and accesses may come before the memory that they are about. */
static void test_a_memory_finds_what_came_before_it(void **state)
{
    struct fixture *x = *state;
    assert_int_equal(remember(x, MEMORY_PIN, "m", "p", T0), STATUS_OK);
    assert_int_equal(remember(x, MEMORY_ACCESS, "m", "a", T0), STATUS_OK);
    assert_int_equal(key_log(x->key)->n_accesses, 1);
    assert_false(key_has_row(x->key, TABLE_MEMORY_HEALTH));
    assert_rereads(x->key);
    assert_int_equal(remember(x, MEMORY_CREATE, "m", "c", T0 - 5), STATUS_OK);
    assert_true(find_memory(x, "m")->pinned);
    assert_int_equal(x->key->n_marks, 0);
    struct row row;
    row_init(&row, &tables[TABLE_MEMORY_HEALTH]);
    assert_int_equal(key_emit(x->key, TABLE_MEMORY_HEALTH, 0, &row, NULL), STATUS_OK);
    assert_int_equal(row.event_count, 2);
    row_deinit(&row);
}

static void test_a_memory_created_again_keeps_pin_and_accesses(void **state)
{
    struct fixture *x = *state;
    assert_int_equal(remember(x, MEMORY_CREATE, "m", "c", T0 - 5), STATUS_OK);
    assert_int_equal(remember(x, MEMORY_PIN, "m", "p", T0), STATUS_OK);
    assert_true(x->change.urgent[TABLE_MEMORY_HEALTH]);
    assert_int_equal(remember(x, MEMORY_ACCESS, "m", "a", T0), STATUS_OK);
    assert_int_equal(remember(x, MEMORY_CREATE, "m", "c2", T0 - 9), STATUS_OK);
    assert_int_equal(key_log(x->key)->n_memories, 1);
    assert_true(find_memory(x, "m")->pinned);
    assert_true(find_memory(x, "m")->created_us == T0 - 9);
    assert_int_equal(key_log(x->key)->n_accesses, 1);
    assert_int_equal(x->key->arena.n_used, 3);
}

static void test_a_deleted_memory_takes_its_accesses_with_it(void **state)
{
    struct fixture *x = *state;
    assert_int_equal(remember(x, MEMORY_CREATE, "m", "c", T0 - 5), STATUS_OK);
    assert_int_equal(remember(x, MEMORY_CREATE, "other", "d", T0 - 5), STATUS_OK);
    assert_int_equal(remember(x, MEMORY_ACCESS, "m", "a", T0 - 3), STATUS_OK);
    assert_int_equal(remember(x, MEMORY_ACCESS, "other", "b", T0 - 2), STATUS_OK);
    assert_int_equal(remember(x, MEMORY_ACCESS, "m", "e", T0 + US_PER_DAY), STATUS_OK);
    assert_int_equal(remember(x, MEMORY_DELETE, "m", "x", T0), STATUS_OK);
    assert_true(x->change.applied && x->change.urgent[TABLE_MEMORY_HEALTH]);
    assert_null(find_memory(x, "m"));
    assert_int_equal(key_log(x->key)->n_accesses, 1);
    assert_int_equal(x->key->accesses_all, 1);
    x->source = SOURCE_INBOX;
    assert_int_equal(remember(x, MEMORY_CREATE, "m", "c", T0 - 5), STATUS_OK);
    assert_null(find_memory(x, "m"));
    assert_rereads(x->key);
}

static void test_the_least_touched_memory_is_forgotten(void **state)
{
    struct fixture *x = *state;
    char id[16], event[24];
    x->t_us = T0 + US_PER_DAY;
    for (int i = 0; i < LIMIT_MEMORIES; i++) {
        snprintf(id, sizeof(id), "m%d", i);
        snprintf(event, sizeof(event), "c%d", i);
        assert_int_equal(remember(x, MEMORY_CREATE, id, event, T0 + i * US_PER_SECOND), STATUS_OK);
    }
    /* The oldest has been used since; the second oldest has not. */
    assert_int_equal(remember(x, MEMORY_ACCESS, "m0", "a0", T0 + US_PER_HOUR), STATUS_OK);
    assert_int_equal(remember(x, MEMORY_CREATE, "new", "c", T0 + US_PER_DAY), STATUS_OK);
    const struct key_log *log = key_log(x->key);
    assert_int_equal(log->n_memories, LIMIT_MEMORIES);
    assert_non_null(find_memory(x, "m0"));
    assert_null(find_memory(x, "m1"));
    assert_int_equal(log->forgotten_n, 1);
    assert_int_equal(log->forgotten_created_s, T0 / US_PER_SECOND + 1);
    assert_rereads(x->key);
}

static void test_the_oldest_tombstone_goes_when_there_are_too_many(void **state)
{
    struct fixture *x = *state;
    char id[16];
    for (int i = 0; i < LIMIT_TOMBSTONES + 1; i++) {
        snprintf(id, sizeof(id), "m%d", i);
        assert_int_equal(delete_message(x, id), STATUS_OK);
    }
    assert_int_equal(x->key->n_marks, LIMIT_TOMBSTONES);
    assert_null(klog_find_mark(x->key, MARK_MESSAGE, hash64(STR("m0"))));
    assert_non_null(klog_find_mark(x->key, MARK_MESSAGE, hash64(STR("m1"))));
    assert_rereads(x->key);
    assert_int_equal(key_advance(x->key, T0 + 31 * US_PER_DAY, NULL), STATUS_OK);
    assert_int_equal(x->key->n_marks, 0);
}

static void test_ids_are_found_whatever_the_size(void **state)
{
    struct fixture *x = *state;
    char id[16];
    for (int i = 0; i < 500; i++) {
        snprintf(id, sizeof(id), "m%d", i);
        assert_int_equal(write_message(x, id, T0 - (i * 7919) % 500, "hi"), STATUS_OK);
    }
    for (int i = 0; i < 500; i += 3) {
        snprintf(id, sizeof(id), "m%d", i);
        assert_int_equal(delete_message(x, id), STATUS_OK);
    }
    for (int i = 0; i < 500; i++) {
        snprintf(id, sizeof(id), "m%d", i);
        const struct msg_rec *m = find(x, id);
        assert_int_equal(m != NULL, i % 3 != 0);
        if (m)
            assert_true(m->id == hash64(str_from(id)) && m->t_us == T0 - (i * 7919) % 500);
    }
}

/* A key without memories has no state of the engine that ages them; its first memory makes one
 * that knows the messages before it. */
static void test_small_keys_stay_small(void **state)
{
    struct fixture *x = *state;
    char id[8];
    for (int i = 0; i < 5; i++) {
        snprintf(id, sizeof(id), "m%d", i);
        assert_int_equal(write_message(x, id, T0 + i, "one two three four five six seven"),
                         STATUS_OK);
    }
    size_t before = key_bytes(x->key);
    assert_true(before < 2048);
    assert_int_equal(remember(x, MEMORY_CREATE, "m", "c", T0), STATUS_OK);
    assert_true(key_bytes(x->key) >= before + engine_find("memory_aging")->state_size);
}

/* Every single damaged byte is caught by the checksum; damage below it by the checks of values. */
static void test_damaged_pages_are_refused(void **state)
{
    struct fixture *x = *state;
    assert_int_equal(write_message(x, "a", T0 - 5, "dog leg vet 東京"), STATUS_OK);
    assert_int_equal(write_message(x, "b", T0 - 3, "dog again"), STATUS_OK);
    assert_int_equal(remember(x, MEMORY_CREATE, "m", "c", T0 - 5), STATUS_OK);
    assert_int_equal(remember(x, MEMORY_ACCESS, "m", "a", T0), STATUS_OK);
    assert_int_equal(delete_message(x, "z"), STATUS_OK);
    struct buf page = page_of(x->key);
    struct key *k = NULL;
    for (size_t len = 0; len < page.len; len++)
        assert_int_equal(key_decode((struct str){page.data, len}, &k, NULL), STATUS_CORRUPT);
    size_t refused = 0;
    for (size_t at = 0; at + 8 < page.len; at++)
        for (unsigned bit = 0; bit < 8; bit++) {
            struct str bytes = {page.data, page.len};
            page.data[at] = (char)(page.data[at] ^ (1 << bit));
            assert_int_equal(key_decode(bytes, &k, NULL), STATUS_CORRUPT);
            uint64_t sum = hash64((struct str){page.data, page.len - 8}), good = 0;
            memcpy(&good, page.data + page.len - 8, 8);
            memcpy(page.data + page.len - 8, &sum, 8);
            enum status st = key_decode(bytes, &k, NULL);
            assert_true(st == STATUS_OK || st == STATUS_CORRUPT);
            refused += st == STATUS_CORRUPT;
            if (st == STATUS_OK) {
                struct buf again = page_of(k);
                buf_deinit(&again);
                key_free(k);
            }
            memcpy(page.data + page.len - 8, &good, 8);
            page.data[at] = (char)(page.data[at] ^ (1 << bit));
        }
    assert_true(refused > 100);
    buf_deinit(&page);
}

static void test_unfilled_columns_say_so(void **state)
{
    struct fixture *x = *state;
    assert_int_equal(write_message(x, "a", T0 - 5, "dog"), STATUS_OK);
    struct row row;
    row_init(&row, &tables[TABLE_CONVERSATION_PATTERNS]);
    assert_int_equal(key_emit(x->key, TABLE_CONVERSATION_PATTERNS, 0, &row, NULL), STATUS_OK);
    struct str details = row_details(&row);
    static const char reason[] = "\"avg_topic_duration_minutes\":\"insufficient_data";
    assert_non_null(memmem(details.ptr, details.len, reason, sizeof(reason) - 1));
    assert_true(row.engine_version >= 1);
    assert_true(row.as_of_us == T0);
    row_deinit(&row);
}

static enum status reach_out(struct fixture *x, enum outreach_op op, const char *id, int64_t at_us)
{
    struct event e = event_of(EVENT_OUTREACH, id, at_us);
    e.u.outreach.op = op;
    return apply(x, &e);
}

static enum status wish(struct fixture *x, enum privacy_op op, const char *scope, int64_t at_us)
{
    struct event e = event_of(EVENT_PRIVACY, "wish", at_us);
    e.u.privacy.op = op;
    e.u.privacy.scope = str_from(scope);
    return apply(x, &e);
}

static void test_an_attempt_seen_twice_counts_once(void **state)
{
    struct fixture *x = *state;
    const struct key_log *log = key_log(x->key);
    reach_out(x, OUTREACH_SENT, "o1", T0 - US_PER_HOUR);
    reach_out(x, OUTREACH_SENT, "o1", T0 - US_PER_HOUR);
    reach_out(x, OUTREACH_REPLIED, "o1", T0 - US_PER_HOUR / 2);
    assert_int_equal(log->n_outreach, 2);
    reach_out(x, OUTREACH_SENT, "o1", T0 - US_PER_HOUR / 4);
    assert_int_equal(log->n_outreach, 2);
    assert_int_equal(log->outreach[0].op, OUTREACH_REPLIED);
    assert_true(log->outreach[1].t_us == T0 - US_PER_HOUR / 4);
    assert_rereads(x->key);
}

/* Attempts stay 90 days, messages 30: what answered one is remembered when it leaves. */
static void test_an_attempt_remembers_its_answer_for_90_days(void **state)
{
    struct fixture *x = *state;
    const struct key_log *log = key_log(x->key);
    reach_out(x, OUTREACH_SENT, "answered", T0 - 50 * US_PER_HOUR);
    write_message(x, "m1", T0 - 26 * US_PER_HOUR, "here i am");
    reach_out(x, OUTREACH_SENT, "alone", T0 - US_PER_HOUR);
    write_message(x, "m2", T0 - US_PER_HOUR, "before you asked");
    x->t_us = T0 + 40 * 24 * US_PER_HOUR;
    assert_int_equal(reach_out(x, OUTREACH_SENT, "answered", T0 - 50 * US_PER_HOUR), STATUS_OK);
    assert_true(x->change.late && !x->change.applied);
    assert_int_equal(log->n_messages, 0);
    assert_int_equal(log->n_outreach, 2);
    assert_true(log->outreach[0].replied);
    assert_false(log->outreach[1].replied);
    assert_rereads(x->key);
    assert_int_equal(key_advance(x->key, T0 + 91 * 24 * US_PER_HOUR, NULL), STATUS_OK);
    assert_int_equal(log->n_outreach, 0);
}

static void test_the_newest_attempts_stay_when_there_are_too_many(void **state)
{
    struct fixture *x = *state;
    const struct key_log *log = key_log(x->key);
    for (int i = 0; i < RECORD_OUTREACH_MAX + 10; i++) {
        char id[16];
        snprintf(id, sizeof(id), "o%d", i);
        reach_out(x, OUTREACH_SENT, id, T0 - US_PER_HOUR + i);
    }
    assert_int_equal(log->n_outreach, RECORD_OUTREACH_MAX);
    assert_true(log->outreach[0].t_us == T0 - US_PER_HOUR + 10);
    assert_rereads(x->key);
}

/* Whatever the order of arrival: the newest word by its own time. */
static void test_the_newest_wish_counts(void **state)
{
    struct fixture *x = *state;
    const struct consent *c = &key_log(x->key)->consents[CONSENT_PROACTIVE];
    assert_false(c->given);
    wish(x, PRIVACY_OPTOUT, "profiling", T0);
    assert_false(c->given);
    wish(x, PRIVACY_OPTOUT, "", T0 - 100 * 24 * US_PER_HOUR);
    assert_true(c->opted_out);
    wish(x, PRIVACY_OPTIN, "proactive", T0 - US_PER_HOUR);
    wish(x, PRIVACY_OPTOUT, "proactive", T0 - 2 * US_PER_HOUR);
    assert_false(c->opted_out);
    assert_rereads(x->key);
    reach_out(x, OUTREACH_OPTED_OUT, "o1", T0);
    assert_true(c->opted_out);
    assert_int_equal(key_log(x->key)->n_outreach, 0);
    wish(x, PRIVACY_ERASE, "", T0);
    assert_true(c->opted_out);
    wish(x, PRIVACY_OPTIN, "", T0); /* of the same time, but at a later position */
    assert_false(c->opted_out);
    assert_rereads(x->key);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

/* ENGINES.md section 6: which rows may show what an event takes back. */
static void assert_withdrawn(const struct key_change *c, uint32_t tables_of)
{
    for (size_t t = 0; t < TABLE_COUNT; t++)
        assert_int_equal(c->withdrawn[t], tables_of >> t & 1);
}

#define OF_MESSAGES                                                         \
    (1u << TABLE_PERSONALITY_PROFILES | 1u << TABLE_CONVERSATION_PATTERNS | \
     1u << TABLE_ENGAGEMENT_OPPORTUNITIES)
#define OF_MEMORIES \
    (1u << TABLE_MEMORY_HEALTH | 1u << TABLE_MEMORY_BEHAVIOR | 1u << TABLE_ENGAGEMENT_OPPORTUNITIES)

static void test_what_an_event_takes_back_is_withdrawn_from_the_rows_it_is_in(void **state)
{
    struct fixture *x = *state;
    assert_int_equal(write_message(x, "m1", T0, "my dog limps on one leg"), STATUS_OK);
    assert_withdrawn(&x->change, 0);
    assert_int_equal(remember(x, MEMORY_CREATE, "M1", "c1", T0), STATUS_OK);
    assert_int_equal(remember(x, MEMORY_ACCESS, "M1", "a1", T0), STATUS_OK);
    assert_int_equal(remember(x, MEMORY_PIN, "M1", "p1", T0), STATUS_OK);
    assert_withdrawn(&x->change, 0);

    /* The same text again, and an emotion that was found out later, take nothing back. */
    assert_int_equal(write_message(x, "m1", T0, "my dog limps on one leg"), STATUS_OK);
    assert_withdrawn(&x->change, 0);
    struct event e = event_of(EVENT_MESSAGE, "m1", T0);
    e.u.message.op = MESSAGE_UPDATE;
    e.u.message.emotion = STR("joy");
    e.u.message.emotion_confidence = 0.9;
    assert_int_equal(apply(x, &e), STATUS_OK);
    assert_withdrawn(&x->change, 0);
    e.u.message.emotion = STR("sadness");
    assert_int_equal(apply(x, &e), STATUS_OK);
    assert_withdrawn(&x->change, OF_MESSAGES);

    assert_int_equal(write_message(x, "m1", T0, "never mind"), STATUS_OK);
    assert_withdrawn(&x->change, OF_MESSAGES);
    assert_int_equal(delete_message(x, "m1"), STATUS_OK);
    assert_withdrawn(&x->change, OF_MESSAGES);
    assert_int_equal(delete_message(x, "m1"), STATUS_OK);
    assert_withdrawn(&x->change, 0);

    assert_int_equal(write_message(x, "m2", T0, "a cat this time"), STATUS_OK);
    assert_int_equal(remember(x, MEMORY_DELETE, "M1", "d1", T0), STATUS_OK);
    assert_withdrawn(&x->change, OF_MEMORIES);
}

static bool in_page(const struct key *k, const char *text)
{
    struct buf page = page_of(k);
    bool found = memmem(page.data, page.len, text, strlen(text)) != NULL;
    buf_deinit(&page);
    return found;
}

static enum status bot_says(struct fixture *x, const char *id, int64_t at_us)
{
    struct event e = event_of(EVENT_MESSAGE, id, at_us);
    e.u.message.role = ROLE_BOT;
    e.u.message.op = MESSAGE_INSERT;
    e.u.message.content = STR("hello there");
    e.u.message.emotion_confidence = NAN;
    e.u.message.n_traits = 1;
    e.u.message.traits[0] = (struct event_trait){STR("sarcastic"), 1};
    return apply(x, &e);
}

static bool has_marks(const struct msg_rec *m)
{
    static const uint8_t none[sizeof(m->marks)];
    return memcmp(m->marks, none, sizeof(none)) != 0;
}

static void assert_reason(struct fixture *x, const char *column, const char *reason)
{
    char expected[200];
    snprintf(expected, sizeof(expected), "\"%s\":\"%s\"", column, reason);
    struct row row;
    row_init(&row, &tables[TABLE_CONVERSATION_PATTERNS]);
    assert_int_equal(key_emit(x->key, TABLE_CONVERSATION_PATTERNS, x->t_us, &row, NULL), STATUS_OK);
    struct str details = row_details(&row);
    assert_non_null(memmem(details.ptr, details.len, expected, strlen(expected)));
    row_deinit(&row);
}

/* No row, no columns, and nothing of a profile in memory or in the page, until the opt-in: then it
 * begins with what is said from there on. */
static void test_a_refused_profile_leaves_nothing_behind(void **state)
{
    struct fixture *x = *state;
    assert_int_equal(write_message(x, "m1", T0 - 3, "my dog limps on one leg, doesn't it?"),
                     STATUS_OK);
    assert_int_equal(bot_says(x, "b1", T0 - 2), STATUS_OK);
    assert_true(key_has_row(x->key, TABLE_PERSONALITY_PROFILES));
    assert_true(in_page(x->key, "sarcastic"));
    assert_true(has_marks(find(x, "m1")));

    wish(x, PRIVACY_OPTOUT, "profiling", T0);
    assert_withdrawn(&x->change,
                     1u << TABLE_PERSONALITY_PROFILES | 1u << TABLE_CONVERSATION_PATTERNS);
    assert_false(key_has_row(x->key, TABLE_PERSONALITY_PROFILES));
    assert_true(key_has_row(x->key, TABLE_CONVERSATION_PATTERNS));
    assert_true(key_has_row(x->key, TABLE_ENGAGEMENT_OPPORTUNITIES));
    assert_reason(x, "communication_style", "opted_out");
    assert_int_equal(bot_says(x, "b2", T0 - 1), STATUS_OK);
    assert_int_equal(write_message(x, "m2", T0, "and the cat won't eat, will it?"), STATUS_OK);
    assert_false(in_page(x->key, "sarcastic"));
    assert_false(has_marks(find(x, "m1")) || has_marks(find(x, "m2")));
    assert_rereads(x->key);

    /* What is said again does not bring it back; the same wish again is no news. */
    wish(x, PRIVACY_OPTOUT, "profiling", T0 + 1);
    assert_withdrawn(&x->change, 0);

    wish(x, PRIVACY_OPTIN, "profiling", T0 + 2);
    assert_true(key_has_row(x->key, TABLE_PERSONALITY_PROFILES));
    assert_int_equal(bot_says(x, "b3", T0 + 3), STATUS_OK);
    assert_true(in_page(x->key, "sarcastic"));
    assert_false(has_marks(find(x, "m2")));
    assert_rereads(x->key);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_records_are_sorted_by_time_then_id),
        TEST(test_an_edit_replaces_text_and_time),
        TEST(test_an_edit_without_text_keeps_the_text),
        TEST(test_an_edit_without_text_replaces_the_traits),
        TEST(test_a_change_of_role_leaves_no_traits_and_no_marks),
        TEST(test_labels_are_shared_and_wiped_with_their_last_message),
        TEST(test_labels_survive_heavy_turnover),
        TEST(test_the_other_source_cannot_undo_a_deletion),
        TEST(test_a_deletion_may_come_before_the_other_sources_message),
        TEST(test_postgres_wins_over_the_inbox_in_either_order),
        TEST(test_late_is_before_the_hour_horizon),
        TEST(test_an_edit_may_move_a_message_out_of_the_window),
        TEST(test_time_never_goes_back),
        TEST(test_future_records_wait_until_their_time),
        TEST(test_the_far_future_is_refused),
        TEST(test_the_number_of_future_records_is_bounded),
        TEST(test_the_newest_messages_stay_when_there_are_too_many),
        TEST(test_accesses_leave_into_their_memory),
        TEST(test_the_oldest_accesses_leave_when_there_are_too_many),
        TEST(test_an_access_seen_twice_counts_once),
        TEST(test_a_memory_finds_what_came_before_it),
        TEST(test_a_memory_created_again_keeps_pin_and_accesses),
        TEST(test_a_deleted_memory_takes_its_accesses_with_it),
        TEST(test_the_least_touched_memory_is_forgotten),
        TEST(test_the_oldest_tombstone_goes_when_there_are_too_many),
        TEST(test_ids_are_found_whatever_the_size),
        TEST(test_small_keys_stay_small),
        TEST(test_damaged_pages_are_refused),
        TEST(test_unfilled_columns_say_so),
        TEST(test_an_attempt_seen_twice_counts_once),
        TEST(test_an_attempt_remembers_its_answer_for_90_days),
        TEST(test_the_newest_attempts_stay_when_there_are_too_many),
        TEST(test_the_newest_wish_counts),
        TEST(test_a_refused_profile_leaves_nothing_behind),
        TEST(test_what_an_event_takes_back_is_withdrawn_from_the_rows_it_is_in),
    };
    return cmocka_run_group_tests_name("engines/key", tests, NULL, NULL);
}
