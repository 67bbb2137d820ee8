/*
 * Goal: a disk that fails at any operation costs nothing that was committed and never leaves a mix.
 * Method: run an action with the 1st, 2nd, 3rd, ... operation failing until it passes without
 * meeting the fault; after each, open what is on disk and compare it with what was there before the
 * action and with what a clean run of it leaves.
 */
#include "state/store.h"

#include "tests/fault/faultvfs.h"
#include "tests/state/store_support.h"

#include <setjmp.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct faultvfs_plan plans[] = {
    {.ops = FAULTVFS_WRITE, .code = SQLITE_IOERR_WRITE},
    {.ops = FAULTVFS_WRITE, .code = SQLITE_FULL, .torn = true},
    {.ops = FAULTVFS_WRITE, .code = SQLITE_FULL, .torn = true, .sticky = true},
    {.ops = FAULTVFS_SYNC, .code = SQLITE_IOERR_FSYNC},
    {.ops = FAULTVFS_SYNC, .code = SQLITE_IOERR_FSYNC, .sticky = true},
    {.ops = FAULTVFS_OPEN | FAULTVFS_DELETE, .code = SQLITE_CANTOPEN},
    {.ops = FAULTVFS_ANY, .code = SQLITE_IOERR, .torn = true, .sticky = true},
};
#define N_PLANS        (sizeof(plans) / sizeof(plans[0]))
#define OPERATIONS_MAX 20000 /* far more than any action here needs */

static enum status try_open(const char *dir, uint32_t workers, struct store **stores,
                            struct error *err)
{
    struct store_identity identity = test_identity;
    bool fresh = false;
    return store_set_open(dir, workers, 1, &identity, &fresh, stores, err);
}

/* Two pages (one large enough for many database pages), two blocks, positions, a letter. */
static void commit_first(struct store *s)
{
    struct buf text;
    buf_init(&text, SIZE_MAX);
    assert_int_equal(buf_reserve(&text, 1 << 20), STATUS_OK);
    must_append(s, "first", 3);
    struct store_page pages[] = {build_page(&text, 1, 1, 2, 100),
                                 build_page(&text, 2, 2, 3, 60000)};
    struct store_dead_letter letter = {
        .at_us = 1, .where = STR("here"), .reason = STR("first"), .bytes = STR("x")};
    struct store_commit c = {.entries = STR(""),
                             .covered = 10,
                             .as_of_us = 10,
                             .pages = pages,
                             .n_pages = 2,
                             .dead_letters = &letter,
                             .n_dead_letters = 1};
    assert_int_equal(store_commit(s, &c, NULL), STATUS_OK);
    must_append(s, "second", 200);
    buf_deinit(&text);
}

/* Changes every part of the state at once. */
static enum status commit_second(struct store *s, struct error *err)
{
    struct buf text;
    struct buf entries;
    buf_init(&text, SIZE_MAX);
    buf_init(&entries, SIZE_MAX);
    assert_int_equal(buf_reserve(&text, 1 << 20), STATUS_OK);
    build_entries(&entries, "third", 2000);
    struct store_page pages[] = {build_page(&text, 1, 1, 150, 50000),
                                 build_page(&text, 3, 3, 160, 50)};
    struct store_applied applied[SOURCE_COUNT][LIMIT_PARTITIONS] = {0};
    applied[SOURCE_POSTGRES][1] = (struct store_applied){{77, 1}, 5};
    struct store_dead_letter letter = {
        .at_us = 2, .where = STR("here"), .reason = STR("second"), .bytes = STR("y")};
    struct store_commit c = {
        .entries = {entries.data, entries.len},
        .n_entries = 2000,
        .fold_below = 3,
        .next_key_id = 50,
        .covered = 20,
        .as_of_us = 20,
        .applied = (const struct store_applied(*)[LIMIT_PARTITIONS])applied,
        .pages = pages,
        .n_pages = 2,
        .dead_letters = &letter,
        .n_dead_letters = 1,
    };
    enum status st = store_commit(s, &c, err);
    buf_deinit(&text);
    buf_deinit(&entries);
    return st;
}

static char *dump_text(const char *dir)
{
    struct store *s = NULL;
    struct buf out;
    must_open(dir, 1, 1, &s);
    buf_init(&out, SIZE_MAX);
    dump_store(s, dir, &out);
    assert_int_equal(buf_put_u8(&out, 0), STATUS_OK);
    store_close(s);
    return out.data;
}

/* What one action leaves on disk without a fault. */
static char *dump_after(void (*prepare)(const char *dir), void (*action)(const char *dir))
{
    struct scratch scratch;
    scratch_make(&scratch);
    prepare(scratch.state);
    if (action)
        action(scratch.state);
    char *text = dump_text(scratch.state);
    scratch_remove(&scratch);
    return text;
}

static void prepare_first(const char *dir)
{
    struct store *s = NULL;
    must_open(dir, 1, 1, &s);
    commit_first(s);
    store_close(s);
}

static void action_second(const char *dir)
{
    struct store *s = NULL;
    must_open(dir, 1, 1, &s);
    assert_int_equal(commit_second(s, NULL), STATUS_OK);
    store_close(s);
}

/* One commit with the n-th operation failing; whether the fault happened. */
static bool commit_with_fault(const struct faultvfs_plan *plan, const char *before,
                              const char *after)
{
    struct scratch scratch;
    struct store *s = NULL;
    struct error err = {0};
    scratch_make(&scratch);
    must_open(scratch.state, 1, 1, &s);
    commit_first(s);
    faultvfs_arm(plan);
    enum status st = commit_second(s, &err);
    bool happened = faultvfs_disarm();
    if (st) {
        assert_int_equal(st, STATUS_IO);
        assert_non_null(strstr(err.text, "worker-0.db"));
        /* The disk is well again, but what it holds is unknown: no more writes. */
        assert_int_equal(commit_second(s, &err), STATUS_IO);
        assert_non_null(strstr(err.text, "takes no more writes"));
    }
    store_close(s);
    char *now = dump_text(scratch.state);
    if (st == STATUS_OK || strcmp(now, before) != 0)
        assert_string_equal(now, after);
    free(now);
    scratch_remove(&scratch);
    return happened;
}

static void test_a_failing_commit_leaves_the_state_before_or_after_it(void **state)
{
    (void)state;
    char *before = dump_after(prepare_first, NULL);
    char *after = dump_after(prepare_first, action_second);
    assert_string_not_equal(before, after);
    for (size_t i = 0; i < N_PLANS; i++) {
        struct faultvfs_plan plan = plans[i];
        for (plan.n = 1; commit_with_fault(&plan, before, after); plan.n++)
            assert_true(plan.n < OPERATIONS_MAX);
        /* A commit writes and syncs: plans of those kinds must have had something to fail. */
        assert_true(plan.n > 1 || !(plan.ops & (FAULTVFS_WRITE | FAULTVFS_SYNC)));
    }
    free(before);
    free(after);
}

static void die_after_commits(const char *dir)
{
    struct store *s = NULL;
    must_open(dir, 1, 1, &s);
    commit_first(s);
    assert_int_equal(commit_second(s, NULL), STATUS_OK);
}

/* Leaves a WAL that the next open must recover. */
static void prepare_crashed(const char *dir)
{
    assert_false(run_child(NULL, die_after_commits, dir));
}

/* Opening and closing with the n-th operation failing never changes what the state says. */
static bool open_with_fault(const struct faultvfs_plan *plan, void (*prepare)(const char *dir),
                            const char *expected)
{
    struct scratch scratch;
    struct store *s = NULL;
    scratch_make(&scratch);
    prepare(scratch.state);
    faultvfs_arm(plan);
    enum status st = try_open(scratch.state, 1, &s, NULL);
    if (st == STATUS_OK)
        store_close(s);
    bool happened = faultvfs_disarm();
    assert_true(st == STATUS_OK || st == STATUS_IO || st == STATUS_CORRUPT);
    char *now = dump_text(scratch.state);
    assert_string_equal(now, expected);
    free(now);
    scratch_remove(&scratch);
    return happened;
}

static void open_with_all_faults(void (*prepare)(const char *dir))
{
    char *expected = dump_after(prepare, NULL);
    for (size_t i = 0; i < N_PLANS; i++) {
        struct faultvfs_plan plan = plans[i];
        for (plan.n = 1; open_with_fault(&plan, prepare, expected); plan.n++)
            assert_true(plan.n < OPERATIONS_MAX);
        assert_true(plan.n > 1);
    }
    free(expected);
}

static void test_opening_and_closing_on_a_failing_disk_loses_nothing(void **state)
{
    (void)state;
    open_with_all_faults(prepare_first);
}

static void test_recovering_on_a_failing_disk_loses_nothing(void **state)
{
    (void)state;
    open_with_all_faults(prepare_crashed);
}

static void prepare_nothing(const char *dir)
{
    (void)dir;
}

static void test_a_first_start_on_a_failing_disk_can_be_repeated(void **state)
{
    (void)state;
    open_with_all_faults(prepare_nothing);
}

/* Enough commits of so many bytes for a checkpoint to fall among them. */
#define COMMITS      24
#define COMMIT_BYTES 400000

/* How many of them succeeded. */
static uint64_t commit_until_failure(struct store *s)
{
    static char bytes[COMMIT_BYTES];
    for (uint64_t n = 0; n < COMMITS; n++) {
        struct buf entries;
        buf_init(&entries, SIZE_MAX);
        assert_int_equal(buf_put_bytes(&entries, (struct str){bytes, sizeof(bytes)}), STATUS_OK);
        struct store_commit c = {.entries = {entries.data, entries.len}, .n_entries = 1};
        enum status st = store_commit(s, &c, NULL);
        buf_deinit(&entries);
        if (st)
            return n;
    }
    return COMMITS;
}

static enum status count_entry(void *ctx, uint64_t jseq, struct str entry, struct error *err)
{
    (void)err;
    assert_int_equal(entry.len, COMMIT_BYTES);
    *(uint64_t *)ctx = jseq;
    return STATUS_OK;
}

static bool checkpoint_with_fault(const struct faultvfs_plan *plan)
{
    struct scratch scratch;
    struct store *s = NULL;
    scratch_make(&scratch);
    must_open(scratch.state, 1, 1, &s);
    faultvfs_arm(plan);
    uint64_t sure = commit_until_failure(s);
    bool happened = faultvfs_disarm();
    assert_true(happened == (sure < COMMITS));
    store_close(s);
    must_open(scratch.state, 1, 1, &s);
    uint64_t found = 0;
    assert_int_equal(store_replay(s, count_entry, &found, NULL), STATUS_OK);
    assert_true(found == sure || found == sure + 1);
    store_close(s);
    scratch_remove(&scratch);
    return happened;
}

static void test_a_failed_sync_in_a_checkpoint_stops_the_store_and_loses_nothing(void **state)
{
    (void)state;
    /* Besides one per commit there must be the two of a checkpoint. */
    struct faultvfs_plan plan = {.ops = FAULTVFS_SYNC, .code = SQLITE_IOERR_FSYNC};
    for (plan.n = 1; checkpoint_with_fault(&plan); plan.n++)
        assert_true(plan.n < OPERATIONS_MAX);
    assert_true(plan.n - 1 >= COMMITS + 2);
}

static uint64_t count_entries(struct store *s)
{
    uint64_t found = 0;
    assert_int_equal(store_replay(s, count_entry, &found, NULL), STATUS_OK);
    return found;
}

/* Opens, counts, commits once more and ends without writing anything else, as when killed. */
static uint64_t restart_and_die(const char *dir)
{
    static const struct faultvfs_plan dead = {
        .ops = FAULTVFS_ANY, .n = 1, .code = SQLITE_IOERR, .sticky = true};
    struct store *s = NULL;
    must_open(dir, 1, 1, &s);
    uint64_t found = count_entries(s);
    static char bytes[COMMIT_BYTES];
    struct buf entries;
    buf_init(&entries, SIZE_MAX);
    assert_int_equal(buf_put_bytes(&entries, (struct str){bytes, sizeof(bytes)}), STATUS_OK);
    struct store_commit c = {.entries = {entries.data, entries.len}, .n_entries = 1};
    assert_int_equal(store_commit(s, &c, NULL), STATUS_OK);
    buf_deinit(&entries);
    faultvfs_arm(&dead);
    store_close(s);
    faultvfs_disarm();
    return found;
}

/* Commits with a fault, then either loses power at once, or first goes on with a new process over
 * what the kernel's cache pretends to hold. Every answered commit must still be there. */
static bool power_cut_with_fault(const struct faultvfs_plan *plan, bool restart)
{
    struct scratch scratch;
    struct store *s = NULL;
    scratch_make(&scratch);
    faultvfs_power_on();
    must_open(scratch.state, 1, 1, &s);
    faultvfs_arm(plan);
    uint64_t sure = commit_until_failure(s);
    store_close(s);
    bool happened = faultvfs_disarm();
    if (restart) {
        uint64_t found = restart_and_die(scratch.state);
        assert_true(found == sure || found == sure + 1);
        sure = found + 1;
    }
    faultvfs_power_cut();
    must_open(scratch.state, 1, 1, &s);
    uint64_t found = count_entries(s);
    assert_true(found == sure || (!restart && found == sure + 1));
    store_close(s);
    scratch_remove(&scratch);
    return happened;
}

static void test_a_power_cut_after_any_failure_loses_no_answered_commit(void **state)
{
    (void)state;
    static const struct faultvfs_plan cuts[] = {
        {.ops = FAULTVFS_SYNC, .code = SQLITE_IOERR_FSYNC},
        {.ops = FAULTVFS_SYNC, .code = SQLITE_IOERR_FSYNC, .sticky = true},
        {.ops = FAULTVFS_WRITE, .code = SQLITE_FULL, .sticky = true, .torn = true},
    };
    for (size_t i = 0; i < sizeof(cuts) / sizeof(cuts[0]); i++) {
        struct faultvfs_plan plan = cuts[i];
        /* Writes are many and alike: a prime step still meets every kind of them. */
        int step = plan.ops == FAULTVFS_SYNC ? 1 : 397;
        for (plan.n = 1; power_cut_with_fault(&plan, plan.n / step % 2 == 0); plan.n += step)
            assert_true(plan.n < OPERATIONS_MAX);
        for (plan.n = 1; power_cut_with_fault(&plan, plan.n / step % 2 == 1); plan.n += step)
            assert_true(plan.n < OPERATIONS_MAX);
        assert_true(plan.n > 1);
    }
}

static void prepare_spread(const char *dir)
{
    struct store *s[2];
    must_open(dir, 2, 1, s);
    for (uint32_t w = 0; w < 2; w++) {
        struct buf text;
        buf_init(&text, SIZE_MAX);
        assert_int_equal(buf_reserve(&text, 1 << 16), STATUS_OK);
        must_append(s[w], "x", 1);
        struct store_page pages[10];
        for (uint32_t i = 0; i < 10; i++)
            pages[i] = build_page(&text, i + 1, i * 2 + w, 1, 2000);
        struct store_commit c = {
            .entries = STR(""), .fold_below = 1, .pages = pages, .n_pages = 10};
        assert_int_equal(store_commit(s[w], &c, NULL), STATUS_OK);
        buf_deinit(&text);
    }
    close_stores(s, 2);
}

static char *spread_text(const char *dir, uint32_t workers)
{
    struct store *s[LIMIT_WORKERS];
    struct buf out;
    must_open(dir, workers, 1, s);
    buf_init(&out, SIZE_MAX);
    dump_spread(s, workers, &out);
    assert_int_equal(buf_put_u8(&out, 0), STATUS_OK);
    close_stores(s, workers);
    return out.data;
}

static bool respread_with_fault(const struct faultvfs_plan *plan)
{
    struct scratch scratch;
    scratch_make(&scratch);
    prepare_spread(scratch.state);
    char *before = spread_text(scratch.state, 2);
    faultvfs_arm(plan);
    enum status st = store_set_respread(scratch.state, 3, NULL);
    bool happened = faultvfs_disarm();
    assert_true(happened || st == STATUS_OK);
    assert_int_equal(store_set_workers(scratch.state), st ? 2 : 3);
    char *now = spread_text(scratch.state, st ? 2 : 3);
    assert_string_equal(now, before);
    free(now);
    free(before);
    scratch_remove(&scratch);
    return happened;
}

static void test_a_respread_on_a_failing_disk_keeps_the_old_set_or_makes_the_new(void **state)
{
    (void)state;
    /* Some hundred operations, and each costs a whole state: one plan of a kind has to do. */
    for (size_t i = 1; i < N_PLANS; i += 2) {
        struct faultvfs_plan plan = plans[i];
        for (plan.n = 1; respread_with_fault(&plan); plan.n++)
            assert_true(plan.n < OPERATIONS_MAX);
        assert_true(plan.n > 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_failing_commit_leaves_the_state_before_or_after_it),
        cmocka_unit_test(test_opening_and_closing_on_a_failing_disk_loses_nothing),
        cmocka_unit_test(test_recovering_on_a_failing_disk_loses_nothing),
        cmocka_unit_test(test_a_first_start_on_a_failing_disk_can_be_repeated),
        cmocka_unit_test(test_a_failed_sync_in_a_checkpoint_stops_the_store_and_loses_nothing),
        cmocka_unit_test(test_a_power_cut_after_any_failure_loses_no_answered_commit),
        cmocka_unit_test(test_a_respread_on_a_failing_disk_keeps_the_old_set_or_makes_the_new),
    };
    faultvfs_install();
    return cmocka_run_group_tests_name("fault/store", tests, NULL, NULL);
}
