/*
 * tests/server/test_load_window.c - every event comes back once, key by key, in its key's order,
 * and no window reaches over midnight.
 */
#include "server/load_window.h"

#include "core/clock.h"

#include <setjmp.h> /* cmocka needs these three */
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NOON (INT64_C(20000) * US_PER_DAY + 12 * US_PER_HOUR)

static struct event message(const char *user, char id[16], int n, int64_t at_us)
{
    snprintf(id, 16, "%d", n);
    return (struct event){
        .type = EVENT_MESSAGE,
        .id = str_from(id),
        .user_id = str_from(user),
        .bot_name = STR("elena"),
        .at_us = at_us,
        .u.message = {.role = ROLE_USER,
                      .op = MESSAGE_INSERT,
                      .content = STR("hello"),
                      .emotion_confidence = NAN},
    };
}

static void put(struct load_window *w, const char *user, int n, int64_t at_us)
{
    char id[16];
    struct event e = message(user, id, n, at_us);
    assert_int_equal(STATUS_OK, load_window_put(w, &e, NULL));
}

static void test_a_key_comes_in_one_piece_and_in_order(void **state)
{
    (void)state;
    static const char *const users[] = {"ada", "bob", "cyd"};
    struct load_window w;
    assert_int_equal(STATUS_OK, load_window_init(&w, NULL));
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 300; i++)
            put(&w, users[i % 3], i, NOON + i);
        struct event e;
        char last[16] = "";
        int pieces = 0, before = -1, n = 0;
        while (load_window_take(&w, &e, NULL) == STATUS_OK) {
            char user[16], id[16];
            snprintf(user, sizeof(user), STR_FMT, STR_ARGS(e.user_id));
            snprintf(id, sizeof(id), STR_FMT, STR_ARGS(e.id));
            int number = (int)strtol(id, NULL, 10);
            if (strcmp(user, last) != 0) {
                pieces++;
                before = -1;
            }
            assert_string_equal(users[number % 3], user);
            assert_true(number > before);
            assert_true(e.at_us == NOON + number);
            before = number;
            memcpy(last, user, sizeof(last));
            n++;
        }
        assert_int_equal(300, n);
        assert_int_equal(3, pieces);
    }
    load_window_deinit(&w);
}

static void test_midnight_ends_a_window(void **state)
{
    (void)state;
    struct load_window w;
    char id[16];
    assert_int_equal(STATUS_OK, load_window_init(&w, NULL));
    put(&w, "ada", 1, NOON);
    put(&w, "ada", 2, NOON + 12 * US_PER_HOUR - 1);
    struct event next_day = message("ada", id, 3, NOON + 12 * US_PER_HOUR);
    assert_int_equal(STATUS_AGAIN, load_window_put(&w, &next_day, NULL));
    struct event e;
    assert_int_equal(STATUS_OK, load_window_take(&w, &e, NULL));
    assert_int_equal(STATUS_OK, load_window_take(&w, &e, NULL));
    assert_int_equal(STATUS_END, load_window_take(&w, &e, NULL));
    assert_int_equal(STATUS_OK, load_window_put(&w, &next_day, NULL));
    load_window_deinit(&w);
}

/* Its memory is bounded: by bytes when events are large, by their number when they are small. */
static void test_it_is_full_at_its_bounds(void **state)
{
    (void)state;
    struct load_window w;
    assert_int_equal(STATUS_OK, load_window_init(&w, NULL));
    static char text[1 << 20];
    memset(text, 'x', sizeof(text));
    char id[16];
    struct event large = message("ada", id, 1, NOON);
    large.u.message.content = (struct str){text, sizeof(text)};
    int n = 0;
    while (load_window_put(&w, &large, NULL) == STATUS_OK)
        n++;
    assert_in_range(n, 15, 17);
    struct event e;
    while (load_window_take(&w, &e, NULL) == STATUS_OK)
        n--;
    assert_int_equal(0, n);
    struct event small = message("ada", id, 1, NOON);
    while (load_window_put(&w, &small, NULL) == STATUS_OK)
        n++;
    assert_int_equal(100000, n);
    load_window_deinit(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_key_comes_in_one_piece_and_in_order),
        cmocka_unit_test(test_midnight_ends_a_window),
        cmocka_unit_test(test_it_is_full_at_its_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
