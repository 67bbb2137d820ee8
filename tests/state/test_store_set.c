/*
 * Goal: a directory always holds one whole set, whatever the number of workers and wherever the
 * process dies; what is not ours to overwrite is refused. Method: real directories, children killed
 * at each fault point.
 */
#include "state/store.h"

#include "state/fault.h"
#include "tests/state/store_support.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static int setup(void **state)
{
    struct scratch *s = malloc(sizeof(*s));
    assert_non_null(s);
    scratch_make(s);
    *state = s;
    return 0;
}

static int teardown(void **state)
{
    assert_int_equal(fault_arm(NULL, NULL), STATUS_OK);
    scratch_remove(*state);
    free(*state);
    return 0;
}

static const char *dir_of(void **state)
{
    return ((struct scratch *)*state)->state;
}

static bool has(const char *dir, const char *name)
{
    char path[160];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    return access(path, F_OK) == 0;
}

static void write_current(const char *dir, const char *text)
{
    char path[160];
    snprintf(path, sizeof(path), "%s/CURRENT", dir);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static enum status try_open(const char *dir, uint32_t workers, struct store_identity *identity,
                            bool *fresh, struct error *err)
{
    struct store *s[LIMIT_WORKERS];
    enum status st = store_set_open(dir, workers, 1, identity, fresh, s, err);
    if (!st)
        close_stores(s, workers);
    return st;
}

/* `workers` files with 64 pages, key ids that collide between files, everything folded. */
static void make_state(const char *dir, uint32_t workers)
{
    struct store *s[LIMIT_WORKERS];
    must_open(dir, workers, 3, s);
    for (uint32_t w = 0; w < workers; w++) {
        struct buf text;
        buf_init(&text, SIZE_MAX);
        assert_int_equal(buf_reserve(&text, 1 << 20), STATUS_OK);
        struct store_page pages[LIMIT_PARTITIONS];
        struct store_applied applied[SOURCE_COUNT][LIMIT_PARTITIONS] = {0};
        size_t n = 0;
        for (uint32_t p = w; p < LIMIT_PARTITIONS; p += workers) {
            pages[n] = build_page(&text, n + 1, p, workers - w, 300 + p);
            pages[n].due_us = p % 3 ? (int64_t)p * 1000 : INT64_MAX;
            applied[SOURCE_POSTGRES][p] = (struct store_applied){{p + 100, p}, p + 1};
            n++;
        }
        must_append(s[w], "x", workers - w);
        struct store_dead_letter letter = {
            .at_us = w + 1, .where = STR("here"), .reason = STR("why"), .bytes = STR("x")};
        char user[16];
        snprintf(user, sizeof(user), "user-%u", w);
        struct store_key keys[] = {{str_from(user), STR("elena")}, {STR(""), STR("elena")}};
        struct store_commit c = {
            .entries = STR(""),
            .inbox_keys = keys,
            .n_inbox_keys = 2,
            .fold_below = UINT64_MAX,
            .as_of_us = 1000 + workers - w,
            .covered = 2000 + w,
            .covered_inbox = 70 + w,
            .applied = (const struct store_applied(*)[LIMIT_PARTITIONS])applied,
            .pages = pages,
            .n_pages = n,
            .dead_letters = &letter,
            .n_dead_letters = 1,
        };
        struct error err = {0};
        if (store_commit(s[w], &c, &err))
            fail_msg("%s", err.text);
        buf_deinit(&text);
    }
    close_stores(s, workers);
}

static char *spread_text(const char *dir, uint32_t workers)
{
    struct store *s[LIMIT_WORKERS];
    struct buf out;
    must_open(dir, workers, 9, s);
    buf_init(&out, SIZE_MAX);
    dump_spread(s, workers, &out);
    assert_int_equal(buf_put_u8(&out, 0), STATUS_OK);
    close_stores(s, workers);
    return out.data;
}

static void test_a_fresh_directory_is_private_and_takes_the_identity_given(void **state)
{
    const char *dir = dir_of(state);
    assert_int_equal(store_set_workers(dir), 0);
    struct store_identity identity = test_identity;
    lsn_t covered = 1;
    bool fresh = false;
    assert_int_equal(store_identity_read(dir, &identity, &covered, NULL), STATUS_END);
    assert_int_equal(try_open(dir, 3, &identity, &fresh, NULL), STATUS_OK);
    assert_true(fresh);
    struct stat st;
    assert_int_equal(stat(dir, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    assert_int_equal(store_set_workers(dir), 3);

    struct store_identity back = {.partitions = 1};
    assert_int_equal(try_open(dir, 3, &back, &fresh, NULL), STATUS_OK);
    assert_false(fresh);
    assert_string_equal(back.pipeline, test_identity.pipeline);
    assert_string_equal(back.system_identifier, test_identity.system_identifier);
    assert_string_equal(back.slot, test_identity.slot);
    assert_int_equal(back.slot_birth, test_identity.slot_birth);
    assert_int_equal(back.timeline, test_identity.timeline);
    assert_true(back.loading);
    assert_int_equal(back.since_us, test_identity.since_us);
    assert_int_equal(back.partitions, 64);
}

static void test_identity_and_least_covered_are_read_beside_a_running_process(void **state)
{
    const char *dir = dir_of(state);
    make_state(dir, 3);
    struct store *s[3];
    must_open(dir, 3, 4, s);
    struct store_identity changed = test_identity;
    snprintf(changed.slot, sizeof(changed.slot), "other");
    for (int i = 0; i < 3; i++)
        assert_int_equal(store_identity_write(s[i], &changed, NULL), STATUS_OK);

    struct store_identity back;
    lsn_t covered = 0;
    struct error err = {0};
    if (store_identity_read(dir, &back, &covered, &err))
        fail_msg("%s", err.text);
    assert_string_equal(back.slot, "other");
    assert_int_equal(covered, 2000);
    must_append(s[1], "still writing", 1);
    close_stores(s, 3);
    /* And when nobody runs. */
    assert_int_equal(store_identity_read(dir, &back, &covered, NULL), STATUS_OK);
}

static void test_the_timeline_is_written_beside_running_workers_and_never_goes_back(void **state)
{
    const char *dir = dir_of(state);
    make_state(dir, 2);
    struct store *s[2];
    must_open(dir, 2, 4, s);
    must_append(s[0], "before", 1);
    struct error err = {0};
    if (store_set_timeline(dir, 4, 3, &err))
        fail_msg("%s", err.text);
    must_append(s[0], "after", 1); /* the worker's own connection goes on */
    struct store_identity back;
    lsn_t covered = 0;
    assert_int_equal(store_identity_read(dir, &back, &covered, NULL), STATUS_OK);
    assert_int_equal(back.timeline, 3);
    /* A worker writes its identity again as it knew it. */
    struct store_identity older = back;
    older.timeline = 1;
    assert_int_equal(store_identity_write(s[0], &older, NULL), STATUS_OK);
    assert_int_equal(store_set_timeline(dir, 3, 9, NULL), STATUS_FENCED);
    close_stores(s, 2);
    assert_int_equal(store_identity_read(dir, &back, &covered, NULL), STATUS_OK);
    assert_int_equal(back.timeline, 3);
}

static void test_an_identity_half_written_reads_as_the_old_one(void **state)
{
    struct store *s[2];
    must_open(dir_of(state), 2, 1, s);
    struct store_identity changed = test_identity;
    snprintf(changed.slot, sizeof(changed.slot), "other");
    assert_int_equal(store_identity_write(s[0], &changed, NULL), STATUS_OK);
    close_stores(s, 2);
    struct store_identity back;
    bool fresh = false;
    assert_int_equal(try_open(dir_of(state), 2, &back, &fresh, NULL), STATUS_OK);
    assert_string_equal(back.slot, test_identity.slot);
}

static void test_another_number_of_workers_is_refused_with_what_to_do(void **state)
{
    make_state(dir_of(state), 2);
    struct store_identity identity;
    bool fresh = false;
    struct error err = {0};
    assert_int_equal(try_open(dir_of(state), 4, &identity, &fresh, &err), STATUS_REFUSED);
    assert_non_null(strstr(err.text, "spread over 2 workers, not 4"));
    assert_non_null(strstr(err.text, "re-spread"));
}

/* user-0, user-1 and the bot's own; the same one may come from several files. */
static enum status count_inbox_key(void *ctx, const struct store_key *key, struct error *err)
{
    (void)err;
    int *n = ctx;
    assert_true(str_equal(key->bot_name, STR("elena")));
    assert_true(key->user_id.len == 0 || str_equal(key->user_id, STR("user-0")) ||
                str_equal(key->user_id, STR("user-1")));
    n[key->user_id.len == 0 ? 2 : key->user_id.ptr[5] - '0']++;
    return STATUS_OK;
}

static void test_respread_keeps_every_page_and_position_for_any_number_of_workers(void **state)
{
    static const uint32_t workers[] = {3, 1, 64, 2, 5};
    const char *dir = dir_of(state);
    make_state(dir, 2);
    char *before = spread_text(dir, 2);
    for (size_t i = 0; i < sizeof(workers) / sizeof(workers[0]); i++) {
        struct error err = {0};
        if (store_set_respread(dir, workers[i], &err))
            fail_msg("%s", err.text);
        assert_int_equal(store_set_workers(dir), workers[i]);
        char *after = spread_text(dir, workers[i]);
        assert_string_equal(after, before);
        free(after);
    }
    free(before);
    struct store_identity back;
    lsn_t covered = 0;
    assert_int_equal(store_identity_read(dir, &back, &covered, NULL), STATUS_OK);
    assert_int_equal(covered, 2000); /* the least of 2000 and 2001 */
    assert_string_equal(back.slot, test_identity.slot);
    struct store *s[LIMIT_WORKERS];
    must_open(dir, 5, 9, s);
    for (uint32_t w = 0; w < 5; w++)
        assert_int_equal(store_covered_inbox(s[w]), 70); /* likewise */
    int keys[3] = {0};
    assert_int_equal(store_inbox_keys_read(dir, count_inbox_key, keys, NULL), STATUS_OK);
    assert_true(keys[0] > 0 && keys[1] > 0 && keys[2] > 0);
    close_stores(s, 5);
}

static enum status count_letter(void *ctx, const struct store_dead_letter *d, struct error *err)
{
    (void)err;
    int64_t *at = ctx;
    assert_true(d->at_us < at[0]); /* newest first */
    at[0] = d->at_us;
    at[1]++;
    return STATUS_OK;
}

static void test_respread_gives_usable_stores(void **state)
{
    const char *dir = dir_of(state);
    make_state(dir, 4);
    assert_int_equal(store_set_respread(dir, 2, NULL), STATUS_OK);
    assert_false(has(dir, "set-000001"));
    struct store *s[2];
    must_open(dir, 2, 9, s);
    assert_int_equal(store_as_of(s[0]), 1004); /* the greatest */
    assert_int_equal(store_next_key_id(s[0]), 33);
    assert_int_equal(store_next_key_id(s[1]), 33);
    /* Entries must come after those that pages of any old file contain. */
    assert_int_equal(store_jseq(s[1]), 4);
    must_append(s[1], "next", 1);
    assert_int_equal(store_jseq(s[1]), 5);
    assert_int_equal(store_dead_letters(s[0]).n + store_dead_letters(s[1]).n, 4);
    int64_t seen[2] = {INT64_MAX, 0};
    assert_int_equal(store_dead_letters_read(dir, count_letter, seen, NULL), STATUS_OK);
    assert_int_equal(seen[1], 4);
    close_stores(s, 2);
}

static void test_respread_refuses_unfolded_entries(void **state)
{
    const char *dir = dir_of(state);
    make_state(dir, 2);
    struct store *s[2];
    must_open(dir, 2, 9, s);
    must_append(s[1], "unfolded", 1);
    close_stores(s, 2);
    struct error err = {0};
    assert_int_equal(store_set_respread(dir, 3, &err), STATUS_REFUSED);
    assert_non_null(strstr(err.text, "unfolded"));
    assert_int_equal(store_set_workers(dir), 2);
}

static void test_respread_keeps_fencing_out_older_instances(void **state)
{
    const char *dir = dir_of(state);
    make_state(dir, 2); /* epoch 3 */
    assert_int_equal(store_set_respread(dir, 3, NULL), STATUS_OK);
    struct store_identity identity;
    bool fresh = false;
    assert_int_equal(try_open(dir, 3, &identity, &fresh, NULL), STATUS_REFUSED); /* epoch 1 */
}

static void respread_to_three(const char *dir)
{
    struct error err = {0};
    if (store_set_respread(dir, 3, &err))
        _exit(98);
}

static void test_respread_killed_anywhere_leaves_one_whole_set(void **state)
{
    static const struct {
        const char *fault;
        uint32_t workers; /* of the set that then counts */
    } cases[] = {
        {"respread_copy:1:abort", 2},       {"respread_copy:40:abort", 2},
        {"store_before_commit:1:abort", 2}, {"store_after_commit:1:abort", 2},
        {"store_before_commit:3:abort", 2}, {"set_before_rename:1:abort", 2},
        {"set_after_rename:1:abort", 3},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct scratch scratch;
        scratch_make(&scratch);
        make_state(scratch.state, 2);
        char *before = spread_text(scratch.state, 2);
        must_be_killed(cases[i].fault, respread_to_three, scratch.state);
        assert_int_equal(store_set_workers(scratch.state), cases[i].workers);
        char *after = spread_text(scratch.state, cases[i].workers);
        assert_string_equal(after, before);
        free(after);
        /* Opening has tidied up, and the work can be done again. */
        assert_true(has(scratch.state, "set-000001") == (cases[i].workers == 2));
        assert_true(has(scratch.state, "set-000002") == (cases[i].workers == 3));
        assert_int_equal(store_set_respread(scratch.state, 3, NULL), STATUS_OK);
        after = spread_text(scratch.state, 3);
        assert_string_equal(after, before);
        free(after);
        free(before);
        scratch_remove(&scratch);
    }
}

static void test_respread_that_fails_leaves_the_old_set_in_use(void **state)
{
    static const char *const faults[] = {"respread_copy:9:fail", "store_before_commit:2:fail",
                                         "set_before_rename:1:fail"};
    const char *dir = dir_of(state);
    make_state(dir, 2);
    char *before = spread_text(dir, 2);
    for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++) {
        assert_int_equal(fault_arm(faults[i], NULL), STATUS_OK);
        assert_int_equal(store_set_respread(dir, 3, NULL), STATUS_IO);
        char *after = spread_text(dir, 2);
        assert_string_equal(after, before);
        free(after);
    }
    assert_int_equal(store_set_respread(dir, 3, NULL), STATUS_OK);
    free(before);
}

static void open_fresh(const char *dir)
{
    struct store_identity identity = test_identity;
    bool fresh = false;
    if (try_open(dir, 2, &identity, &fresh, NULL))
        _exit(98);
}

static void test_a_first_start_killed_half_way_starts_afresh(void **state)
{
    const char *dir = dir_of(state);
    must_be_killed("set_before_rename:1:abort", open_fresh, dir);
    assert_int_equal(store_set_workers(dir), 0);
    struct store_identity identity = test_identity;
    bool fresh = false;
    assert_int_equal(try_open(dir, 3, &identity, &fresh, NULL), STATUS_OK);
    assert_true(fresh);
    assert_int_equal(store_set_workers(dir), 3);
}

static void test_a_lost_current_is_refused_when_a_set_holds_work(void **state)
{
    const char *dir = dir_of(state);
    make_state(dir, 2);
    char path[160];
    snprintf(path, sizeof(path), "%s/CURRENT", dir);
    assert_int_equal(unlink(path), 0);
    struct store_identity identity = test_identity;
    bool fresh = false;
    struct error err = {0};
    assert_int_equal(try_open(dir, 2, &identity, &fresh, &err), STATUS_REFUSED);
    assert_non_null(strstr(err.text, "set-000001"));
    assert_true(has(dir, "set-000001/worker-0.db"));
}

static void test_a_current_that_names_nothing_usable_is_corrupt(void **state)
{
    const char *dir = dir_of(state);
    make_state(dir, 1);
    struct store_identity identity = test_identity;
    bool fresh = false;
    static const char *const texts[] = {"", "set-000009\n", "../../etc\n", "set-00000x\n",
                                        "set-0000001\n"};
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        write_current(dir, texts[i]);
        assert_int_equal(store_set_workers(dir), 1);
        assert_int_equal(try_open(dir, 1, &identity, &fresh, NULL), STATUS_CORRUPT);
    }
    write_current(dir, "set-000001\n");
    struct store *s = NULL;
    must_open(dir, 1, 9, &s);
    store_close(s);
}

static void test_files_of_different_sets_do_not_mix(void **state)
{
    const char *dir = dir_of(state);
    make_state(dir, 3);
    char from[160];
    char to[160];
    snprintf(from, sizeof(from), "%s/set-000001/worker-0.db", dir);
    snprintf(to, sizeof(to), "%s/set-000001/worker-1.db", dir);
    assert_int_equal(rename(from, to), 0);
    snprintf(to, sizeof(to), "%s/set-000001/worker-2.db", dir);
    assert_int_equal(rename(to, from), 0);
    struct store_identity identity;
    bool fresh = false;
    struct store *s[2];
    struct error err = {0};
    assert_int_equal(store_set_open(dir, 2, 9, &identity, &fresh, s, &err), STATUS_CORRUPT);
    assert_non_null(strstr(err.text, "file 2 of a set of 3"));
}

/* A state of two workers that covers something, and is closed again. */
static void make_worked_state(const char *dir)
{
    struct store_identity identity = test_identity;
    struct store *s[2];
    bool fresh = false;
    assert_int_equal(store_set_open(dir, 2, 9, &identity, &fresh, s, NULL), STATUS_OK);
    for (int i = 0; i < 2; i++) {
        struct store_commit c = {.covered = 500, .as_of_us = 77};
        assert_int_equal(store_commit(s[i], &c, NULL), STATUS_OK);
        store_close(s[i]);
    }
}

static void test_beginning_anew_leaves_nothing_of_the_old_state(void **state)
{
    const char *dir = dir_of(state);
    make_worked_state(dir);
    struct store_identity identity = {.pipeline = "main", .slot = "s", .loading = true};
    struct store *s[3];
    /* Another number of workers needs no spreading: there is nothing to spread. */
    assert_int_equal(store_set_renew(dir, 3, 10, &identity, s, NULL), STATUS_OK);
    assert_int_equal(store_covered(s[0]), 0);
    for (int i = 0; i < 3; i++)
        store_close(s[i]);
    assert_false(has(dir, "set-000001"));
    struct store_identity back;
    lsn_t covered = 1;
    assert_int_equal(store_identity_read(dir, &back, &covered, NULL), STATUS_OK);
    assert_int_equal(covered, 0);
    assert_true(back.loading);
    assert_string_equal(back.slot, "s");
}

static void test_beginning_anew_killed_anywhere_leaves_one_whole_set(void **state)
{
    static const char *const points[] = {"set_before_rename:1:abort", "set_after_rename:1:abort"};
    const char *dir = dir_of(state);
    make_worked_state(dir);
    for (size_t i = 0; i < 2; i++) {
        pid_t child = fork();
        if (child == 0) {
            struct store_identity identity = {.pipeline = "main", .loading = true};
            struct store *s[2];
            if (fault_arm(points[i], NULL) == STATUS_OK)
                (void)!store_set_renew(dir, 2, 10, &identity, s, NULL);
            _exit(1);
        }
        int how = 0;
        assert_int_equal(waitpid(child, &how, 0), child);
        assert_true(WIFSIGNALED(how));
        struct store_identity back = {0};
        lsn_t covered = 0;
        assert_int_equal(store_identity_read(dir, &back, &covered, NULL), STATUS_OK);
        /* The old one is whole before the rename, the new one after it. */
        assert_int_equal(covered, i == 0 ? 500 : 0);
    }
}

static void test_a_loaded_set_is_marked_beside_its_workers(void **state)
{
    const char *dir = dir_of(state);
    struct store_identity identity = test_identity;
    struct store *s[2];
    bool fresh = false;
    assert_true(identity.loading);
    assert_int_equal(store_set_open(dir, 2, 9, &identity, &fresh, s, NULL), STATUS_OK);
    assert_int_equal(store_set_loaded(dir, 8, NULL), STATUS_FENCED);
    struct store_identity back;
    lsn_t covered = 0;
    assert_int_equal(store_identity_read(dir, &back, &covered, NULL), STATUS_OK);
    assert_true(back.loading);
    assert_int_equal(store_set_loaded(dir, 9, NULL), STATUS_OK);
    /* The workers go on with their handles, and do not undo it. */
    for (int i = 0; i < 2; i++) {
        struct store_commit c = {.covered = 500};
        assert_int_equal(store_commit(s[i], &c, NULL), STATUS_OK);
        store_close(s[i]);
    }
    assert_int_equal(store_identity_read(dir, &back, &covered, NULL), STATUS_OK);
    assert_false(back.loading);
    assert_int_equal(covered, 500);
}

static void test_a_marking_cut_short_is_still_loading(void **state)
{
    const char *dir = dir_of(state);
    make_worked_state(dir);
    assert_int_equal(fault_arm("load_marking:1:fail", NULL), STATUS_OK);
    assert_int_equal(store_set_loaded(dir, 9, NULL), STATUS_IO);
    struct store_identity back;
    struct store *s[2];
    bool fresh = true;
    assert_int_equal(store_set_open(dir, 2, 9, &back, &fresh, s, NULL), STATUS_OK);
    assert_true(back.loading);
    store_close(s[0]);
    store_close(s[1]);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_fresh_directory_is_private_and_takes_the_identity_given),
        TEST(test_identity_and_least_covered_are_read_beside_a_running_process),
        TEST(test_the_timeline_is_written_beside_running_workers_and_never_goes_back),
        TEST(test_an_identity_half_written_reads_as_the_old_one),
        TEST(test_another_number_of_workers_is_refused_with_what_to_do),
        TEST(test_respread_keeps_every_page_and_position_for_any_number_of_workers),
        TEST(test_respread_gives_usable_stores),
        TEST(test_respread_refuses_unfolded_entries),
        TEST(test_respread_keeps_fencing_out_older_instances),
        TEST(test_respread_killed_anywhere_leaves_one_whole_set),
        TEST(test_respread_that_fails_leaves_the_old_set_in_use),
        TEST(test_a_first_start_killed_half_way_starts_afresh),
        TEST(test_a_lost_current_is_refused_when_a_set_holds_work),
        TEST(test_a_current_that_names_nothing_usable_is_corrupt),
        TEST(test_files_of_different_sets_do_not_mix),
        TEST(test_beginning_anew_leaves_nothing_of_the_old_state),
        TEST(test_beginning_anew_killed_anywhere_leaves_one_whole_set),
        TEST(test_a_loaded_set_is_marked_beside_its_workers),
        TEST(test_a_marking_cut_short_is_still_loading),
    };
    return cmocka_run_group_tests_name("state/store_set", tests, NULL, NULL);
}
