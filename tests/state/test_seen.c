/*
 * tests/state/test_seen.c - what was noted is known until it is forgotten, also by the next
 * process; another value of the same thing is not; a file that cannot be read is replaced.
 */
#include "state/seen.h"

#include "tests/state/store_support.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char path[512];

static int setup(void **state)
{
    struct scratch *s = malloc(sizeof(*s));
    assert_non_null(s);
    scratch_make(s);
    assert_int_equal(mkdir(s->state, 0700), 0);
    snprintf(path, sizeof(path), "%s/seen.db", s->state);
    *state = s;
    return 0;
}

static int teardown(void **state)
{
    scratch_remove(*state);
    free(*state);
    return 0;
}

static struct seen *open_it(bool want_lost)
{
    struct seen *s = NULL;
    struct error err = {0};
    bool lost = !want_lost;
    if (seen_open(path, &s, &lost, &err))
        fail_msg("%s", err.text);
    assert_int_equal(lost, want_lost);
    return s;
}

static bool has(struct seen *s, uint64_t id, uint64_t value)
{
    bool found = false;
    assert_int_equal(seen_has(s, &(struct seen_mark){id, value, 0}, &found, NULL), STATUS_OK);
    return found;
}

static void test_what_was_noted_is_known_to_the_next_process(void **state)
{
    (void)state;
    const struct seen_mark marks[] = {
        {UINT64_MAX, 7, 100}, {1, UINT64_MAX, 200}, {2, 5, 200}, {2, 6, 200}};
    struct seen *s = open_it(false);
    assert_false(has(s, 1, UINT64_MAX));
    assert_int_equal(seen_add(s, marks, 4, NULL), STATUS_OK);
    seen_close(s);
    s = open_it(false);
    assert_true(has(s, UINT64_MAX, 7));
    assert_true(has(s, 1, UINT64_MAX));
    assert_false(has(s, 1, 0));
    assert_false(has(s, 2, 5));
    assert_true(has(s, 2, 6));
    seen_close(s);
}

static void test_what_is_old_is_forgotten(void **state)
{
    (void)state;
    const struct seen_mark marks[] = {{1, 1, -5}, {2, 2, 99}, {3, 3, 100}};
    struct seen *s = open_it(false);
    assert_int_equal(seen_add(s, marks, 3, NULL), STATUS_OK);
    assert_int_equal(seen_forget(s, 100, NULL), STATUS_OK);
    assert_false(has(s, 1, 1));
    assert_false(has(s, 2, 2));
    assert_true(has(s, 3, 3));
    seen_close(s);
}

static void test_a_file_that_cannot_be_read_is_replaced(void **state)
{
    (void)state;
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    for (int i = 0; i < 1000; i++)
        fputs("this is no database", f);
    fclose(f);
    struct seen *s = open_it(true);
    assert_false(has(s, 1, 1));
    assert_int_equal(seen_add(s, &(struct seen_mark){1, 1, 1}, 1, NULL), STATUS_OK);
    seen_close(s);
    s = open_it(false);
    assert_true(has(s, 1, 1));
    seen_close(s);
}

/* A process may end at any moment after seen_note(): the next one reads the journal, a part of
 * which may have been set aside already. */
static void test_notes_are_known_once_they_are_kept_or_to_the_next_process(void **state)
{
    (void)state;
    char notes[600], old[600];
    snprintf(notes, sizeof(notes), "%s-notes", path);
    snprintf(old, sizeof(old), "%s-notes-old", path);
    struct seen *s = open_it(false);
    assert_true(seen_note(s, (struct seen_mark[]){{1, 1, 1}, {2, 2, 2}}, 2));
    assert_true(has(s, 1, 1));
    assert_int_equal(seen_keep(s, NULL), STATUS_OK);
    assert_true(has(s, 1, 1));
    assert_true(has(s, 2, 2));
    assert_true(seen_note(s, &(struct seen_mark){3, 3, 3}, 1));
    seen_close(s);
    assert_int_equal(rename(notes, old), 0);
    FILE *f = fopen(notes, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(&(struct seen_mark){4, 4, 4}, sizeof(struct seen_mark), 1, f), 1);
    assert_int_equal(fwrite("torn", 1, 4, f), 4);
    fclose(f);
    s = open_it(false);
    for (uint64_t i = 1; i <= 4; i++)
        assert_true(has(s, i, i));
    assert_true(seen_note(s, &(struct seen_mark){5, 5, 5}, 1));
    assert_int_equal(seen_keep(s, NULL), STATUS_OK);
    assert_true(has(s, 5, 5));
    assert_int_equal(access(old, F_OK), -1);
    seen_close(s);
}

static void test_the_newest_notes_are_known_at_once_and_the_others_from_the_file(void **state)
{
    (void)state;
    struct seen *s = open_it(false);
    for (uint64_t i = 1; i <= 3 * SEEN_RECENT; i++)
        assert_true(seen_note(s, &(struct seen_mark){i, i, (int64_t)i}, 1));
    const uint64_t newest = 3 * SEEN_RECENT;
    assert_true(seen_recently(s, &(struct seen_mark){newest, newest, 0}));
    assert_true(seen_recently(s, &(struct seen_mark){2 * SEEN_RECENT + 1, 2 * SEEN_RECENT + 1, 0}));
    assert_false(seen_recently(s, &(struct seen_mark){1, 1, 0}));
    assert_false(has(s, 1, 1));
    assert_int_equal(seen_keep(s, NULL), STATUS_OK);
    assert_true(has(s, 1, 1));
    /* The last value is what counts, wherever it is. */
    assert_true(seen_note(s, &(struct seen_mark){newest, 7, 0}, 1));
    assert_false(has(s, newest, newest));
    assert_true(has(s, newest, 7));
    assert_false(seen_recently(s, &(struct seen_mark){newest, newest, 0}));
    seen_close(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_what_was_noted_is_known_to_the_next_process, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_what_is_old_is_forgotten, setup, teardown),
        cmocka_unit_test_setup_teardown(
            test_notes_are_known_once_they_are_kept_or_to_the_next_process, setup, teardown),
        cmocka_unit_test_setup_teardown(
            test_the_newest_notes_are_known_at_once_and_the_others_from_the_file, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_file_that_cannot_be_read_is_replaced, setup,
                                        teardown),
    };
    return cmocka_run_group_tests_name("state/seen", tests, NULL, NULL);
}
