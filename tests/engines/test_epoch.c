/*
 * tests/engines/test_epoch.c - what is learned per bot: how it decays, adds up, survives its bytes,
 * and what is read from it.
 *
 * Expected numbers are worked out by hand from epoch.h: epoch = decay(before) + 16 * sums, with
 * decay(v) = v - ceil(v / 30).
 */
#include "engines/epoch.h"

#include "tests/support/script.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct epoch *epoch_new(int32_t day)
{
    struct epoch *e = calloc(1, sizeof(*e));
    assert_non_null(e);
    e->day = day;
    return e;
}

static struct epoch *closed(const struct epoch *before, const struct epoch_sums *sums, int32_t day)
{
    struct epoch *e = NULL;
    assert_int_equal(epoch_close(before, sums, day, &e), STATUS_OK);
    assert_int_equal(e->day, day);
    return e;
}

/* ---- sums and days ---- */

static void test_days_decay_by_a_thirtieth_rounded_up(void **state)
{
    (void)state;
    static const struct {
        uint32_t before, taught, after;
    } cases[] = {
        {0, 0, 0},       {1, 0, 0},   {29, 0, 28}, {30, 0, 29}, {31, 0, 29},
        {60, 0, 58},     {61, 0, 58}, {0, 3, 48},  {48, 2, 78}, /* 48 - 2 + 32 */
        {480, 1, 480},                                          /* one a day: what it settles at */
        {4800, 0, 4640},                                        /* 4800 - 160 */
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct epoch *before = epoch_new(100);
        struct epoch_sums sums = {{0}};
        before->v[EPOCH_GAPS] = cases[i].before;
        sums.v[EPOCH_GAPS] = cases[i].taught;
        struct epoch *after = closed(before, &sums, 101);
        assert_int_equal(after->v[EPOCH_GAPS], cases[i].after);
        assert_int_equal(after->v[EPOCH_GAPS + 1], 0);
        free(before);
        free(after);
    }
    struct epoch_sums sums = {{[EPOCH_MESSAGES] = 5}};
    struct epoch *first = closed(NULL, &sums, 7);
    assert_int_equal(first->v[EPOCH_MESSAGES], 80);
    free(first);
}

/* 16 * 30 = 480 remain of one a day; after it ends, everything is forgotten in the end. */
static void test_what_is_not_repeated_is_forgotten(void **state)
{
    (void)state;
    struct epoch_sums none = {{0}};
    struct epoch *e = epoch_new(0);
    e->v[EPOCH_MESSAGES] = 480;
    int32_t day = 0;
    uint32_t after_30_days = 0;
    while (e->v[EPOCH_MESSAGES]) {
        struct epoch *next = closed(e, &none, ++day);
        assert_true(next->v[EPOCH_MESSAGES] < e->v[EPOCH_MESSAGES]);
        free(e);
        e = next;
        if (day == 30)
            after_30_days = e->v[EPOCH_MESSAGES];
    }
    assert_in_range(after_30_days, 160, 180); /* 480 (29/30)^30 = 173.6 without rounding */
    assert_in_range(day, 60, 120);
    free(e);
}

static void test_cells_saturate(void **state)
{
    (void)state;
    struct epoch_sums a = {{[EPOCH_MESSAGES] = UINT32_MAX - 1}}, b = a;
    struct epoch_delta d = {0};
    epoch_learn(&d, EPOCH_MESSAGES, UINT16_MAX);
    epoch_sums_add(&a, &d);
    assert_true(a.v[EPOCH_MESSAGES] == UINT32_MAX);
    epoch_sums_merge(&b, &a);
    assert_true(b.v[EPOCH_MESSAGES] == UINT32_MAX);
    struct epoch *full = closed(NULL, &b, 1);
    assert_true(full->v[EPOCH_MESSAGES] == UINT32_MAX);
    struct epoch *next = closed(full, &b, 2);
    assert_true(next->v[EPOCH_MESSAGES] == UINT32_MAX);
    free(full);
    free(next);
}

static void test_a_full_delta_drops_the_rest(void **state)
{
    (void)state;
    struct epoch_delta d = {0};
    epoch_learn(&d, EPOCH_CELLS, 1); /* no such cell */
    epoch_learn(&d, EPOCH_DF, 0);
    assert_int_equal(d.n, 0);
    for (unsigned i = 0; i < EPOCH_DELTA_MAX + 10; i++)
        epoch_learn(&d, EPOCH_DF + i, 1);
    assert_int_equal(d.n, EPOCH_DELTA_MAX);
    struct epoch_sums s = {{0}};
    assert_true(epoch_sums_empty(&s));
    epoch_sums_add(&s, &d);
    assert_false(epoch_sums_empty(&s));
    assert_int_equal(s.v[EPOCH_DF + EPOCH_DELTA_MAX - 1], 1);
    assert_int_equal(s.v[EPOCH_DF + EPOCH_DELTA_MAX], 0);
}

/* Which partition learns what, and in which order their sums are added, is all the same. */
static void test_partitions_add_up_in_any_order(void **state)
{
    (void)state;
    enum { PARTITIONS = 5 };
    uint64_t random = script_seed(11);
    struct epoch_sums one = {{0}};
    static struct epoch_sums parts[PARTITIONS];
    memset(parts, 0, sizeof(parts));
    for (int event = 0; event < 500; event++) {
        struct epoch_delta d = {0};
        for (uint32_t n = script_below(&random, EPOCH_DELTA_MAX); n > 0; n--)
            epoch_learn(&d, script_below(&random, EPOCH_CELLS),
                        (uint16_t)script_below(&random, UINT16_MAX));
        epoch_sums_add(&one, &d);
        epoch_sums_add(&parts[script_below(&random, PARTITIONS)], &d);
    }
    for (int round = 0; round < 10; round++) {
        struct epoch_sums all = {{0}};
        size_t first = script_below(&random, PARTITIONS), step = 1 + script_below(&random, 4);
        for (size_t i = 0; i < PARTITIONS; i++)
            epoch_sums_merge(&all, &parts[(first + i * step) % PARTITIONS]);
        assert_memory_equal(&all, &one, sizeof(one));
    }
}

/* ---- the list ---- */

static void test_the_list_is_sorted_and_never_rewritten(void **state)
{
    (void)state;
    static const int32_t days[] = {20, 10, 15, 10, 30, 20};
    struct epoch_list l = {0};
    assert_null(epoch_at(NULL, 10));
    assert_null(epoch_at(&l, 10));
    for (size_t i = 0; i < sizeof(days) / sizeof(days[0]); i++) {
        struct epoch *e = epoch_new(days[i]);
        e->v[EPOCH_MESSAGES] = (uint32_t)i + 1;
        assert_int_equal(epoch_list_add(&l, e), STATUS_OK);
    }
    assert_int_equal(l.n, 4);
    assert_int_equal(l.generation, 4); /* the two repetitions changed nothing */
    for (size_t i = 1; i < l.n; i++)
        assert_true(l.at[i - 1].day < l.at[i].day);
    assert_null(epoch_at(&l, 9));
    assert_int_equal(epoch_at(&l, 10)->v[EPOCH_MESSAGES], 2);
    assert_int_equal(epoch_at(&l, 14)->day, 10);
    assert_int_equal(epoch_at(&l, 20)->v[EPOCH_MESSAGES], 1);
    assert_int_equal(epoch_at(&l, 1000)->day, 30);
    epoch_list_deinit(&l);
    assert_int_equal(l.n, 0);
}

/* The window reaches back 31 days at most, and the epoch before its first day must stay. */
static void test_the_list_drops_what_no_record_can_ask_for(void **state)
{
    (void)state;
    struct epoch_list l = {0};
    for (int32_t day = 1; day <= 200; day++) {
        assert_int_equal(epoch_list_add(&l, epoch_new(day)), STATUS_OK);
        assert_true(l.n <= 33);
        int32_t oldest = day > 31 ? day - 31 : 1;
        assert_int_equal(epoch_at(&l, oldest)->day, oldest);
    }
    epoch_list_deinit(&l);
    /* A bot that rested: the only epoch before the window is the one its records use. */
    assert_int_equal(epoch_list_add(&l, epoch_new(5)), STATUS_OK);
    assert_int_equal(epoch_list_add(&l, epoch_new(90)), STATUS_OK);
    assert_int_equal(l.n, 2);
    assert_int_equal(epoch_at(&l, 89)->day, 5);
    epoch_list_deinit(&l);
}

static void assert_same(const struct epoch *a, const struct epoch *b)
{
    assert_int_equal(a->day, b->day);
    assert_memory_equal(a->v, b->v, sizeof(a->v));
    assert_int_equal(a->n_frequent, EPOCH_FREQUENT);
    assert_int_equal(b->n_frequent, EPOCH_FREQUENT);
    assert_memory_equal(a->frequent, b->frequent, sizeof(a->frequent));
}

/* Days in an order that packs the oldest dense one, and others as they come. */
static void test_old_epochs_are_packed_and_read_as_they_were(void **state)
{
    (void)state;
    enum { DAYS = 30 };
    static struct epoch_list copies[DAYS]; /* each dense: the only one of its list */
    struct epoch_list l = {0};
    uint64_t random = script_seed(12);
    for (int32_t i = 0; i < DAYS; i++) {
        int32_t day = (7 * i) % DAYS;
        struct epoch *e = epoch_new(day);
        struct epoch *copy = epoch_new(day);
        for (uint32_t n = 0; n < 600; n++)
            e->v[script_below(&random, EPOCH_CELLS)] = script_below(&random, UINT32_MAX);
        e->v[EPOCH_MESSAGES] = EPOCH_FREQUENT_MESSAGES * EPOCH_SCALE;
        memcpy(copy->v, e->v, sizeof(e->v));
        assert_int_equal(epoch_list_add(&l, e), STATUS_OK);
        assert_int_equal(epoch_list_add(&copies[day], copy), STATUS_OK);
        for (size_t at = 0; at < l.n; at++)
            assert_true(at + EPOCH_DENSE < l.n ? !l.at[at].dense : !l.at[at].packed);
    }
    /* 2 dense ones, 2 slots, and 28 packed ones of about 600 cells, 6.1 bytes each. */
    assert_in_range(epoch_list_bytes(&l), 4 * sizeof(struct epoch) + 28 * (600 + 3000),
                    4 * sizeof(struct epoch) + 28 * (600 + 4200));
    for (int round = 0; round < 200; round++) {
        int32_t a = (int32_t)script_below(&random, DAYS);
        int32_t b = (int32_t)script_below(&random, DAYS);
        const struct epoch *first = epoch_at(&l, a);
        const struct epoch *second = epoch_at(&l, b);
        assert_same(first, epoch_at(&copies[a], a));
        assert_same(second, epoch_at(&copies[b], b));
        assert_memory_equal(epoch_switch_scores(&l, a), first->v + EPOCH_SWITCH_TEXT,
                            2 * EPOCH_SCORES * sizeof(uint32_t));
    }
    assert_null(epoch_switch_scores(&l, -1));
    epoch_list_deinit(&l);
    for (size_t i = 0; i < DAYS; i++)
        epoch_list_deinit(&copies[i]);
}

/* Rows of any age are computed again from all epochs there are. */
static void test_a_list_may_keep_all(void **state)
{
    (void)state;
    struct epoch_list l = {.keeps_all = true};
    for (int32_t day = 1; day <= 62; day++)
        assert_int_equal(epoch_list_add(&l, epoch_new(day)), STATUS_OK);
    assert_int_equal(epoch_at(&l, 1)->day, 1);
    epoch_list_deinit(&l);
}

/* ---- words ---- */

static void test_idf_is_the_logarithm_in_thousandths(void **state)
{
    (void)state;
    struct epoch *e = epoch_new(1);
    e->v[EPOCH_MESSAGES] = 99 * EPOCH_SCALE;
    e->v[EPOCH_DF + 1] = 9 * EPOCH_SCALE;
    e->v[EPOCH_DF + 2] = 99 * EPOCH_SCALE;
    e->v[EPOCH_DF + 3] = 200 * EPOCH_SCALE;
    e->v[EPOCH_DF + 4] = EPOCH_SCALE / 2; /* decayed below one message */
    assert_int_equal(epoch_idf_milli(NULL, 1), 1000);
    assert_int_equal(epoch_idf_milli(e, 0), 4605); /* ln 100 = 4.60517 */
    assert_int_equal(epoch_idf_milli(e, 1), 2303); /* ln 10 = 2.302585 */
    assert_int_equal(epoch_idf_milli(e, 2), 0);
    assert_int_equal(epoch_idf_milli(e, 3), 0);    /* several words in one bucket */
    assert_int_equal(epoch_idf_milli(e, 4), 4200); /* ln (100 / 1.5) = 4.199705 */
    assert_int_equal(epoch_idf_milli(e, 1 + EPOCH_DF_BUCKETS), 2303);
    free(e);
}

static bool is_frequent(const struct epoch *e, uint32_t bucket)
{
    return e->frequent[bucket / 64] >> (bucket % 64) & 1;
}

static void test_the_most_frequent_words_are_ranked(void **state)
{
    (void)state;
    struct epoch_list l = {0};
    for (int32_t day = 1; day <= 2; day++) {
        struct epoch *e = epoch_new(day);
        e->v[EPOCH_MESSAGES] = (day == 1 ? 99 : 100) * EPOCH_SCALE;
        for (uint32_t b = 0; b < 40; b++)
            e->v[EPOCH_DF + 100 * b] = b < 20 ? 50 + b : 10; /* twenty of one rank */
        assert_int_equal(epoch_list_add(&l, e), STATUS_OK);
    }
    assert_int_equal(l.at[0].dense->n_frequent, 0); /* 99 messages are too few */
    const struct epoch *e = l.at[1].dense;
    assert_int_equal(e->n_frequent, EPOCH_FREQUENT);
    size_t n = 0;
    for (uint32_t b = 0; b < EPOCH_DF_BUCKETS; b++)
        n += is_frequent(e, b);
    assert_int_equal(n, EPOCH_FREQUENT);
    for (uint32_t b = 0; b < 40; b++)
        assert_int_equal(is_frequent(e, 100 * b), b < EPOCH_FREQUENT);
    epoch_list_deinit(&l);
}

/* ---- bytes ---- */

static void encode(const uint32_t *v, struct buf *out)
{
    buf_reset(out);
    assert_int_equal(epoch_cells_encode(v, out), STATUS_OK);
}

static enum status decode(const void *bytes, size_t len, uint32_t *v)
{
    struct reader r = reader_of(bytes, len);
    enum status st = epoch_cells_decode(&r, v, NULL);
    if (!st)
        assert_int_equal(reader_left(&r), 0);
    return st;
}

static void test_cells_survive_their_bytes(void **state)
{
    (void)state;
    static uint32_t v[EPOCH_CELLS], back[EPOCH_CELLS];
    uint64_t random = script_seed(3);
    struct buf b;
    buf_init(&b, 1 << 20);
    for (uint32_t round = 0; round < 40; round++) {
        uint32_t one_of = 1 + round * round; /* from every cell to next to none */
        for (size_t i = 0; i < EPOCH_CELLS; i++)
            v[i] = script_below(&random, one_of) ? 0 : (uint32_t)script_random(&random);
        v[0] = round % 2 ? UINT32_MAX : 0;
        v[EPOCH_CELLS - 1] = round % 3;
        encode(v, &b);
        memset(back, 0xAA, sizeof(back));
        assert_int_equal(decode(b.data, b.len, back), STATUS_OK);
        assert_memory_equal(back, v, sizeof(v));
        for (size_t len = 0; round > 30 && len < b.len; len++) {
            struct reader r = reader_of(b.data, len);
            assert_int_equal(epoch_cells_decode(&r, back, NULL), STATUS_CORRUPT);
        }
    }
    memset(v, 0, sizeof(v));
    encode(v, &b);
    assert_int_equal(b.len, 2); /* a format and a zero */
    buf_deinit(&b);
}

/* EPOCH_CELLS as a varint takes two bytes. */
_Static_assert(EPOCH_CELLS > 128 && EPOCH_CELLS < 16384, "see test_foreign_bytes_are_corrupt");

static void test_foreign_bytes_are_corrupt(void **state)
{
    (void)state;
    static uint32_t v[EPOCH_CELLS];
    const uint8_t end_low = (EPOCH_CELLS & 0x7F) | 0x80, end_high = EPOCH_CELLS >> 7;
    const struct {
        size_t len;
        uint8_t bytes[16];
    } cases[] = {
        {2, {EPOCH_FORMAT + 1, 0}},
        {4, {EPOCH_FORMAT, 1, 0, 0}},                       /* a cell of nothing */
        {6, {EPOCH_FORMAT, 2, 3, 1, 0, 1}},                 /* the same cell twice */
        {5, {EPOCH_FORMAT, 1, end_low, end_high, 1}},       /* behind the last cell */
        {7, {EPOCH_FORMAT, 2, 1, 1, end_low, end_high, 1}}, /* the same, by steps */
        {8, {EPOCH_FORMAT, 1, 3, 0x80, 0x80, 0x80, 0x80, 16}} /* 2^32 */,
        {13, {EPOCH_FORMAT, 1, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1, 1}}, /* 2^64 - 1 */
        {4, {EPOCH_FORMAT, end_low + 1, end_high, 0}}, /* more cells than there are */
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_int_equal(decode(cases[i].bytes, cases[i].len, v), STATUS_CORRUPT);
    const uint8_t fine[] = {EPOCH_FORMAT, 2, 3, 1, 1, 200, 1};
    assert_int_equal(decode(fine, sizeof(fine), v), STATUS_OK);
    assert_int_equal(v[3], 1);
    assert_int_equal(v[4], 200);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_days_decay_by_a_thirtieth_rounded_up),
        cmocka_unit_test(test_what_is_not_repeated_is_forgotten),
        cmocka_unit_test(test_cells_saturate),
        cmocka_unit_test(test_a_full_delta_drops_the_rest),
        cmocka_unit_test(test_partitions_add_up_in_any_order),
        cmocka_unit_test(test_the_list_is_sorted_and_never_rewritten),
        cmocka_unit_test(test_the_list_drops_what_no_record_can_ask_for),
        cmocka_unit_test(test_old_epochs_are_packed_and_read_as_they_were),
        cmocka_unit_test(test_a_list_may_keep_all),
        cmocka_unit_test(test_idf_is_the_logarithm_in_thousandths),
        cmocka_unit_test(test_the_most_frequent_words_are_ranked),
        cmocka_unit_test(test_cells_survive_their_bytes),
        cmocka_unit_test(test_foreign_bytes_are_corrupt),
    };
    return cmocka_run_group_tests_name("engines/epoch", tests, NULL, NULL);
}
