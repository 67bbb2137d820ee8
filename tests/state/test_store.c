/*
 * Goal: what a store was told to commit is what it holds after any way of closing, no commit of an
 * older holder gets in, and damage is found. Method: real files, two handles, flipped bytes.
 */
#include "state/store.h"

#include "tests/state/store_support.h"

#include <setjmp.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/counters.h"

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
    scratch_remove(*state);
    free(*state);
    return 0;
}

static const char *dir_of(void **state)
{
    return ((struct scratch *)*state)->state;
}

static void assert_dump(struct store *s, const char *dir, const char *expected)
{
    struct buf dump;
    buf_init(&dump, SIZE_MAX);
    dump_store(s, dir, &dump);
    assert_int_equal(buf_put_u8(&dump, 0), STATUS_OK);
    assert_string_equal(dump.data, expected);
    buf_deinit(&dump);
}

/* Runs SQL on worker 0's file behind the store's back. */
static void meddle(const char *dir, const char *sql)
{
    char path[160];
    snprintf(path, sizeof(path), "%s/set-000001/worker-0.db", dir);
    sqlite3 *db = NULL;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    char *message = NULL;
    if (sqlite3_exec(db, sql, NULL, NULL, &message) != SQLITE_OK)
        fail_msg("%s: %s", sql, message);
    sqlite3_close(db);
}

static void commit_everything(struct store *s)
{
    struct buf text;
    struct buf entries;
    buf_init(&text, SIZE_MAX);
    buf_init(&entries, SIZE_MAX);
    assert_int_equal(buf_reserve(&text, 4096), STATUS_OK);
    build_entries(&entries, "all", 2);
    struct store_page pages[] = {build_page(&text, 3, 5, 1, 10), build_page(&text, 7, 6, 2, 2000)};
    pages[1].due_us = 1234567;
    struct store_applied applied[SOURCE_COUNT][LIMIT_PARTITIONS] = {0};
    applied[SOURCE_POSTGRES][5] = (struct store_applied){{UINT64_MAX - 1, 258}, 11};
    applied[SOURCE_INBOX][63] = (struct store_applied){{42, 0}, 1};
    struct store_dead_letter letter = {.source = SOURCE_INBOX,
                                       .pos = {9, 1},
                                       .at_us = 77,
                                       .where = STR("inbox"),
                                       .reason = STR("not JSON"),
                                       .bytes = {"a\0b", 3}};
    struct store_commit c = {
        .entries = {entries.data, entries.len},
        .n_entries = 2,
        .next_key_id = 20,
        .as_of_us = 1000,
        .covered = UINT64_C(0xF000000000000001),
        .covered_inbox = 41,
        .applied = (const struct store_applied(*)[LIMIT_PARTITIONS])applied,
        .pages = pages,
        .n_pages = 2,
        .dead_letters = &letter,
        .n_dead_letters = 1,
    };
    struct error err = {0};
    if (store_commit(s, &c, &err))
        fail_msg("%s", err.text);
    buf_deinit(&text);
    buf_deinit(&entries);
}

#define EVERYTHING                                                         \
    "covered 17293822569102704641,41 as_of 1000 jseq 2 next 20 bytes 12\n" \
    "entry 1 all-1\n"                                                      \
    "entry 2 all-2\n"                                                      \
    "page 3 5 1 9223372036854775807 user-5 bot-3 10 f312d1c461c66714\n"    \
    "page 7 6 2 1234567 user-6 bot-7 2000 45fbe5d9998ef0d\n"               \
    "letter 1 9 1 77 inbox not JSON 3\n"                                   \
    "applied 0 5 18446744073709551614 258 11\n"                            \
    "applied 1 63 42 0 1\n"

static void test_a_commit_survives_a_reopen_in_every_part(void **state)
{
    struct store *s = NULL;
    must_open(dir_of(state), 1, 1, &s);
    commit_everything(s);
    assert_dump(s, dir_of(state), EVERYTHING);
    assert_int_equal(store_newest_inbox(s), 42); /* not covered yet, but in the state */
    store_close(s);
    must_open(dir_of(state), 1, 2, &s);
    assert_dump(s, dir_of(state), EVERYTHING);
    assert_int_equal(store_newest_inbox(s), 42);
    store_close(s);
}

/* The child ends without closing, as after kill -9. */
static void commit_and_die(const char *dir)
{
    struct store *s = NULL;
    must_open(dir, 1, 1, &s);
    commit_everything(s);
    must_append(s, "lost", 1);
}

static void test_a_killed_process_leaves_its_commits_but_not_the_one_under_way(void **state)
{
    must_be_killed("store_before_commit:2:abort", commit_and_die, dir_of(state));
    struct store *s = NULL;
    must_open(dir_of(state), 1, 2, &s);
    assert_dump(s, dir_of(state), EVERYTHING);
    store_close(s);
}

static void test_a_commit_counts_when_the_process_dies_right_after_it(void **state)
{
    must_be_killed("store_after_commit:1:abort", commit_and_die, dir_of(state));
    struct store *s = NULL;
    must_open(dir_of(state), 1, 2, &s);
    assert_dump(s, dir_of(state), EVERYTHING);
    store_close(s);
}

static void test_a_new_store_is_empty_and_gives_ids_from_one(void **state)
{
    struct store *s = NULL;
    must_open(dir_of(state), 1, 1, &s);
    assert_dump(s, dir_of(state), "covered 0,0 as_of 0 jseq 0 next 1 bytes 0\n");
    uint64_t id = 0;
    struct store_page page;
    assert_int_equal(store_find_key(s, STR("u"), STR("b"), &id, NULL), STATUS_END);
    assert_int_equal(store_load_page(s, 1, &page, NULL), STATUS_END);
    store_close(s);
}

static void test_a_key_is_found_and_its_page_outlives_other_calls_on_statements(void **state)
{
    struct store *s = NULL;
    must_open(dir_of(state), 1, 1, &s);
    commit_everything(s);
    uint64_t id = 0;
    assert_int_equal(store_find_key(s, STR("user-6"), STR("bot-7"), &id, NULL), STATUS_OK);
    assert_int_equal(id, 7);
    assert_int_equal(store_find_key(s, STR("user-6"), STR("bot-3"), &id, NULL), STATUS_END);
    struct store_page page;
    assert_int_equal(store_load_page(s, 7, &page, NULL), STATUS_OK);
    assert_int_equal(page.bytes.len, 2000);
    assert_true(str_equal(page.bot_name, STR("bot-7")));
    assert_int_equal((unsigned char)page.bytes.ptr[1999], (7 * 31 + 2 * 7 + 1999) & 0xFF);
    store_close(s);
}

static enum status collect_due(void *ctx, uint64_t key_id, int64_t due_us, struct error *err)
{
    (void)err;
    return buf_printf(ctx, "%llu@%lld ", (unsigned long long)key_id, (long long)due_us);
}

static void test_due_times_come_soonest_first_and_go_when_a_page_has_none(void **state)
{
    struct store *s = NULL;
    must_open(dir_of(state), 1, 1, &s);
    struct buf text;
    buf_init(&text, SIZE_MAX);
    assert_int_equal(buf_reserve(&text, 1024), STATUS_OK);
    struct store_page p[3];
    for (uint32_t i = 0; i < 3; i++) {
        p[i] = build_page(&text, i + 1, i, 0, 4);
        p[i].due_us = 30 - 10 * (int64_t)i;
    }
    struct store_commit c = {.entries = STR(""), .pages = p, .n_pages = 3};
    assert_int_equal(store_commit(s, &c, NULL), STATUS_OK);
    p[1].due_us = INT64_MAX;
    c = (struct store_commit){.entries = STR(""), .pages = &p[1], .n_pages = 1};
    assert_int_equal(store_commit(s, &c, NULL), STATUS_OK);

    buf_reset(&text);
    assert_int_equal(store_each_due(s, collect_due, &text, NULL), STATUS_OK);
    assert_true(str_equal((struct str){text.data, text.len}, STR("3@10 1@30 ")));
    buf_deinit(&text);
    store_close(s);
}

static void fold(struct store *s, uint64_t below)
{
    struct store_commit c = {.entries = STR(""), .fold_below = below};
    struct error err = {0};
    if (store_commit(s, &c, &err))
        fail_msg("%s", err.text);
}

static void test_folded_blocks_are_replayed_no_more_and_their_bytes_are_not_counted(void **state)
{
    struct store *s = NULL;
    must_open(dir_of(state), 1, 1, &s);
    must_append(s, "a", 2); /* 1, 2: 2 * (1 + 3) bytes */
    must_append(s, "b", 3); /* 3, 4, 5 */
    must_append(s, "c", 1); /* 6 */
    assert_int_equal(store_journal_bytes(s), 24);
    fold(s, 4); /* block b holds 5 still */
    assert_int_equal(store_journal_bytes(s), 16);
    for (int reopened = 0; reopened < 2; reopened++) {
        assert_dump(s, dir_of(state),
                    "covered 0,0 as_of 0 jseq 6 next 1 bytes 16\n"
                    "entry 3 b-1\nentry 4 b-2\nentry 5 b-3\nentry 6 c-1\n");
        store_close(s);
        must_open(dir_of(state), 1, 1, &s);
    }
    fold(s, 5);
    assert_int_equal(store_journal_bytes(s), 4);
    fold(s, 3); /* never goes back */
    assert_dump(s, dir_of(state), "covered 0,0 as_of 0 jseq 6 next 1 bytes 4\nentry 6 c-1\n");
    fold(s, UINT64_MAX);
    must_append(s, "d", 1);
    assert_dump(s, dir_of(state), "covered 0,0 as_of 0 jseq 7 next 1 bytes 4\nentry 7 d-1\n");
    store_close(s);
}

static void test_a_block_that_is_folded_at_once_never_enters_the_journal(void **state)
{
    struct store *s = NULL;
    must_open(dir_of(state), 1, 1, &s);
    struct store_commit c = {.entries = STR("\1x"), .n_entries = 1, .fold_below = UINT64_MAX};
    assert_int_equal(store_commit(s, &c, NULL), STATUS_OK);
    assert_int_equal(store_journal_bytes(s), 0);
    must_append(s, "a", 1);
    assert_dump(s, dir_of(state), "covered 0,0 as_of 0 jseq 2 next 1 bytes 4\nentry 2 a-1\n");
    store_close(s);
}

static int64_t count_rows(const char *dir, const char *table)
{
    char path[160];
    char sql[64];
    snprintf(path, sizeof(path), "%s/set-000001/worker-0.db", dir);
    snprintf(sql, sizeof(sql), "SELECT count(*) FROM %s", table);
    sqlite3 *db = NULL;
    sqlite3_stmt *st = NULL;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &st, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(st), SQLITE_ROW);
    int64_t n = sqlite3_column_int64(st, 0);
    sqlite3_finalize(st);
    sqlite3_close(db);
    return n;
}

static void test_a_large_folded_journal_is_deleted_over_several_commits(void **state)
{
    struct store *s = NULL;
    must_open(dir_of(state), 1, 1, &s);
    for (int i = 0; i < 150; i++)
        must_append(s, "x", 1);
    fold(s, 150);
    assert_int_equal(store_journal_bytes(s), 0);
    int64_t left = count_rows(dir_of(state), "journal");
    assert_in_range(left, 1, 149);
    assert_dump(s, dir_of(state), "covered 0,0 as_of 0 jseq 150 next 1 bytes 0\n");
    store_close(s);
    must_open(dir_of(state), 1, 1, &s);
    must_append(s, "y", 1);
    must_append(s, "y", 1);
    assert_int_equal(count_rows(dir_of(state), "journal"), 2);
    store_close(s);
}

static void test_marks_only_grow(void **state)
{
    struct store *s = NULL;
    must_open(dir_of(state), 1, 1, &s);
    struct store_commit c = {
        .entries = STR(""), .covered = 100, .covered_inbox = 30, .as_of_us = 50, .next_key_id = 9};
    assert_int_equal(store_commit(s, &c, NULL), STATUS_OK);
    c = (struct store_commit){.entries = STR(""), .covered = 99, .covered_inbox = 29};
    assert_int_equal(store_commit(s, &c, NULL), STATUS_OK);
    assert_dump(s, dir_of(state), "covered 100,30 as_of 50 jseq 0 next 9 bytes 0\n");
    store_close(s);
}

static enum status take_first_and_last(void *ctx, const struct store_dead_letter *d,
                                       struct error *err)
{
    (void)err;
    int64_t *at = ctx;
    if (at[2] == 0)
        at[0] = d->at_us;
    at[1] = d->at_us;
    at[2]++;
    assert_true(d->bytes.len <= LIMIT_DEAD_LETTER_BYTES);
    return STATUS_OK;
}

static void test_dead_letters_are_bounded_and_the_oldest_go(void **state)
{
    struct store *s = NULL;
    must_open(dir_of(state), 1, 1, &s);
    char *huge = calloc(1, LIMIT_DEAD_LETTER_BYTES + 1);
    struct store_dead_letter *d = calloc(LIMIT_DEAD_LETTERS + 5, sizeof(*d));
    for (int i = 0; i < LIMIT_DEAD_LETTERS + 5; i++)
        d[i] = (struct store_dead_letter){
            .at_us = i + 1, .where = STR("w"), .reason = STR("r"), .bytes = STR("x")};
    d[LIMIT_DEAD_LETTERS + 4].bytes = (struct str){huge, LIMIT_DEAD_LETTER_BYTES + 1};
    struct store_commit c = {
        .entries = STR(""), .dead_letters = d, .n_dead_letters = LIMIT_DEAD_LETTERS};
    assert_int_equal(store_commit(s, &c, NULL), STATUS_OK);
    c.dead_letters = d + LIMIT_DEAD_LETTERS;
    c.n_dead_letters = 5;
    assert_int_equal(store_commit(s, &c, NULL), STATUS_OK);
    assert_int_equal(store_dead_letters(s).n, LIMIT_DEAD_LETTERS);

    /* Read beside the open store: newest first, the first five are gone. */
    int64_t at[3] = {0};
    assert_int_equal(store_dead_letters_read(dir_of(state), take_first_and_last, at, NULL),
                     STATUS_OK);
    assert_int_equal(at[0], LIMIT_DEAD_LETTERS + 5);
    assert_int_equal(at[1], 6);
    assert_int_equal(at[2], LIMIT_DEAD_LETTERS);
    store_close(s);
    must_open(dir_of(state), 1, 1, &s);
    assert_int_equal(store_dead_letters(s).n, LIMIT_DEAD_LETTERS);
    store_close(s);
    free(d);
    free(huge);
}

struct letters_seen {
    struct store_dead_letter first[100]; /* the newest, without their texts */
    uint64_t n, bytes;
    int64_t oldest_us;
};

static enum status note_letter(void *ctx, const struct store_dead_letter *d, struct error *err)
{
    (void)err;
    struct letters_seen *s = ctx;
    if (s->n < 100) {
        s->first[s->n] = *d;
        s->first[s->n].where = s->first[s->n].reason = s->first[s->n].bytes = STR_NULL;
    }
    s->n++;
    s->bytes += d->where.len + d->reason.len + d->bytes.len;
    s->oldest_us = d->at_us;
    return STATUS_OK;
}

static struct letters_seen read_letters(const char *dir)
{
    struct letters_seen seen = {.n = 0};
    assert_int_equal(store_dead_letters_read(dir, note_letter, &seen, NULL), STATUS_OK);
    return seen;
}

static void put_letters(struct store *s, int n, int64_t from_us, struct str bytes)
{
    struct store_dead_letter *d = calloc((size_t)n, sizeof(*d));
    for (int i = 0; i < n; i++)
        d[i] = (struct store_dead_letter){
            .at_us = from_us + i, .where = STR("w\xC3\xA9"), .reason = STR("r"), .bytes = bytes};
    struct store_commit c = {.entries = STR(""), .dead_letters = d, .n_dead_letters = (size_t)n};
    assert_int_equal(store_commit(s, &c, NULL), STATUS_OK);
    free(d);
}

static void test_dead_letters_are_bounded_by_bytes_too(void **state)
{
    struct store *s = NULL;
    must_open(dir_of(state), 1, 1, &s);
    char *huge = calloc(1, LIMIT_DEAD_LETTER_BYTES);
    const uint64_t each = LIMIT_DEAD_LETTER_BYTES + 4;
    const int fit = (int)(LIMIT_DEAD_LETTERS_BYTES / each);
    uint64_t dropped = COUNTER_GET(dead_letters_dropped);
    put_letters(s, 3000, 1, (struct str){huge, LIMIT_DEAD_LETTER_BYTES});
    assert_int_equal(store_dead_letters(s).n, 3000);
    put_letters(s, fit - 2999, 3001, (struct str){huge, LIMIT_DEAD_LETTER_BYTES});
    assert_int_equal(store_dead_letters(s).n, fit);
    assert_int_equal(COUNTER_GET(dead_letters_dropped), dropped + 1);
    struct letters_seen seen = read_letters(dir_of(state));
    assert_int_equal(seen.n, fit);
    assert_int_equal(seen.bytes, store_dead_letters(s).bytes);
    assert_true(seen.bytes <= LIMIT_DEAD_LETTERS_BYTES);
    assert_int_equal(seen.oldest_us, 2);
    store_close(s);
    must_open(dir_of(state), 1, 1, &s);
    assert_int_equal(store_dead_letters(s).n, fit);
    assert_int_equal(store_dead_letters(s).bytes, seen.bytes);
    store_close(s);
    free(huge);
}

/* As `dlq drop` does beside `run`: what the open store remembers of the table must follow, or it
 * would make room where there is enough. */
static void test_letters_are_taken_out_beside_the_open_store(void **state)
{
    struct store *s = NULL;
    uint64_t removed = 0;
    must_open(dir_of(state), 1, 1, &s);
    put_letters(s, LIMIT_DEAD_LETTERS, 1, STR("x"));
    struct letters_seen seen = read_letters(dir_of(state));
    assert_int_equal(store_dead_letters_remove(dir_of(state), seen.first, 100, &removed, NULL),
                     STATUS_OK);
    assert_int_equal(removed, 100);
    assert_int_equal(store_dead_letters(s).n, LIMIT_DEAD_LETTERS - 100);
    assert_int_equal(store_dead_letters_remove(dir_of(state), seen.first, 100, &removed, NULL),
                     STATUS_OK);
    assert_int_equal(removed, 0);

    /* The next commit of the store is not fenced, and trims nothing. */
    seen = read_letters(dir_of(state));
    assert_int_equal(store_dead_letters_remove(dir_of(state), seen.first, 1, &removed, NULL),
                     STATUS_OK);
    put_letters(s, 50, LIMIT_DEAD_LETTERS + 1, STR("x"));
    seen = read_letters(dir_of(state));
    assert_int_equal(seen.n, LIMIT_DEAD_LETTERS - 51);
    assert_int_equal(seen.oldest_us, 1);

    /* A row that is another letter by now stays. */
    seen.first[0].at_us++;
    assert_int_equal(store_dead_letters_remove(dir_of(state), seen.first, 1, &removed, NULL),
                     STATUS_OK);
    assert_int_equal(removed, 0);
    store_close(s);
}

static void test_a_newer_instance_takes_over_and_the_older_cannot_commit(void **state)
{
    struct store *old = NULL;
    struct store *new = NULL;
    must_open(dir_of(state), 1, 4, &old);
    must_append(old, "a", 1);
    must_open(dir_of(state), 1, 5, &new);

    struct store_commit c = {.entries = STR("\1x"), .n_entries = 1, .covered = 9};
    struct error err = {0};
    assert_int_equal(store_commit(old, &c, &err), STATUS_FENCED);
    assert_int_equal(store_commit(old, &c, &err), STATUS_FENCED);
    assert_int_equal(store_identity_write(old, &test_identity, &err), STATUS_FENCED);
    /* Nor is what it reads from now on damage. */
    assert_int_equal(store_explain(old, STATUS_CORRUPT, &err), STATUS_FENCED);
    assert_int_equal(store_explain(new, STATUS_CORRUPT, &err), STATUS_CORRUPT);
    store_close(old);
    assert_dump(new, dir_of(state), "covered 0,0 as_of 0 jseq 1 next 1 bytes 4\nentry 1 a-1\n");
    must_append(new, "b", 1);
    store_close(new);

    struct store_identity identity;
    bool fresh = false;
    assert_int_equal(store_set_open(dir_of(state), 1, 4, &identity, &fresh, &old, &err),
                     STATUS_REFUSED);
    assert_non_null(strstr(err.text, "newer instance"));
}

static enum status open_again(const char *dir, struct error *err)
{
    struct store_identity identity;
    bool fresh = false;
    struct store *s = NULL;
    enum status st = store_set_open(dir, 1, 1, &identity, &fresh, &s, err);
    store_close(s);
    return st;
}

static enum status ignore_entry(void *ctx, uint64_t jseq, struct str entry, struct error *err)
{
    (void)ctx;
    (void)jseq;
    (void)entry;
    (void)err;
    return STATUS_OK;
}

/* Three blocks of one entry each, then damage; replay must say CORRUPT and why. */
static void assert_damage_found(void **state, const char *sql, const char *why)
{
    struct store *s = NULL;
    must_open(dir_of(state), 1, 1, &s);
    for (int i = 0; i < 3; i++)
        must_append(s, "a", 1);
    store_close(s);
    meddle(dir_of(state), sql);
    must_open(dir_of(state), 1, 1, &s);
    struct error err = {0};
    assert_int_equal(store_replay(s, ignore_entry, NULL, &err), STATUS_CORRUPT);
    if (!strstr(err.text, why))
        fail_msg("%s", err.text);
    store_close(s);
}

static void test_a_flipped_byte_in_a_block_is_found(void **state)
{
    assert_damage_found(
        state, "UPDATE journal SET entries = CAST(x'03612d32' AS BLOB) WHERE first_jseq = 2",
        "fails its checksum");
}

static void test_a_block_in_the_place_of_another_is_found(void **state)
{
    assert_damage_found(state,
                        "UPDATE journal SET hash = (SELECT hash FROM journal WHERE first_jseq = 1)"
                        " WHERE first_jseq = 2",
                        "fails its checksum");
}

static void test_a_missing_first_block_is_found(void **state)
{
    assert_damage_found(state, "DELETE FROM journal WHERE first_jseq = 1", "entry 1 is missing");
}

static void test_a_missing_block_in_the_middle_is_found(void **state)
{
    assert_damage_found(state, "DELETE FROM journal WHERE first_jseq = 2", "entry 2 is missing");
}

static void test_a_missing_last_block_is_found(void **state)
{
    assert_damage_found(state, "DELETE FROM journal WHERE first_jseq = 3", "ends at entry 2");
}

static void test_a_changed_page_is_found(void **state)
{
    static const char *const changes[] = {
        "UPDATE page SET bytes = zeroblob(10) WHERE key_id = 3",
        "UPDATE page SET user_id = 'user-9' WHERE key_id = 3",
        "UPDATE page SET due_us = 5 WHERE key_id = 3",
        "UPDATE page SET jseq = 2 WHERE key_id = 3",
    };
    for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
        struct scratch scratch;
        scratch_make(&scratch);
        struct store *s = NULL;
        must_open(scratch.state, 1, 1, &s);
        commit_everything(s);
        struct store_page page;
        assert_int_equal(store_load_page(s, 3, &page, NULL), STATUS_OK);
        store_close(s);
        meddle(scratch.state, changes[i]);
        must_open(scratch.state, 1, 1, &s);
        assert_int_equal(store_load_page(s, 3, &page, NULL), STATUS_CORRUPT);
        assert_int_equal(store_load_page(s, 7, &page, NULL), STATUS_OK);
        store_close(s);
        scratch_remove(&scratch);
    }
    (void)state;
}

static void commit_much_and_die(const char *dir)
{
    struct store *s = NULL;
    must_open(dir, 1, 1, &s);
    for (int i = 0; i < 200; i++)
        must_append(s, "filler", 20);
}

/* Turns the pages of table journal in the file into noise: those behind the empty tables. */
static void damage_file(const char *dir)
{
    char path[160];
    snprintf(path, sizeof(path), "%s/set-000001/worker-0.db", dir);
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    long size = ftell(f);
    assert_true(size > 22 * 4096L);
    for (long at = 20 * 4096L; at < size; at += 4096) {
        assert_int_equal(fseek(f, at, SEEK_SET), 0);
        assert_int_equal(fwrite("\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF", 1, 8, f), 8);
    }
    fclose(f);
}

static void test_a_damaged_file_is_refused_after_an_unclean_end(void **state)
{
    must_be_killed("store_before_commit:200:abort", commit_much_and_die, dir_of(state));
    meddle(dir_of(state), "PRAGMA wal_checkpoint(TRUNCATE)");
    damage_file(dir_of(state));
    struct error err = {0};
    assert_int_equal(open_again(dir_of(state), &err), STATUS_CORRUPT);
    assert_non_null(strstr(err.text, "damaged"));
}

static void test_a_file_of_a_newer_version_is_refused_untouched(void **state)
{
    struct store *s = NULL;
    must_open(dir_of(state), 1, 1, &s);
    store_close(s);
    meddle(dir_of(state), "PRAGMA user_version=99");
    struct error err = {0};
    assert_int_equal(open_again(dir_of(state), &err), STATUS_REFUSED);
    assert_non_null(strstr(err.text, "newer version"));
    meddle(dir_of(state), "PRAGMA user_version=5");
    assert_int_equal(open_again(dir_of(state), &err), STATUS_OK);
}

/* What is in the rows of a walk, one line each. */
static enum status list_part(void *ctx, const struct store_part *p, struct error *err)
{
    (void)err;
    return buf_printf(ctx, STR_FMT "@%llu=" STR_FMT ";", STR_ARGS(p->bot_name),
                      (unsigned long long)p->jseq, STR_ARGS(p->bytes));
}

static enum status list_epoch(void *ctx, const struct store_epoch *e, struct error *err)
{
    (void)err;
    return buf_printf(ctx, STR_FMT "@%d=" STR_FMT ";", STR_ARGS(e->bot_name), (int)e->day,
                      STR_ARGS(e->bytes));
}

static enum status first_epoch(void *ctx, const struct store_epoch *e, struct error *err)
{
    enum status st = list_epoch(ctx, e, err);
    return st ? st : STATUS_END;
}

/* Compares what a walk wrote, and empties it for the next one. */
static void assert_listed(struct buf *out, const char *expected)
{
    assert_int_equal(buf_put_u8(out, 0), STATUS_OK);
    assert_string_equal(out->data, expected);
    buf_reset(out);
}

static void must_commit(struct store *s, const struct store_commit *c)
{
    struct error err = {0};
    if (store_commit(s, c, &err))
        fail_msg("%s", err.text);
}

static void test_what_is_learned_becomes_the_part_of_the_day_that_closes(void **state)
{
    struct store *s = NULL;
    struct buf out;
    buf_init(&out, 4096);
    must_open(dir_of(state), 1, 1, &s);
    must_append(s, "x", 9);
    struct store_part parts[] = {{STR("b"), 4, STR("one")}, {STR("a"), 5, STR("two")}};
    must_commit(s, &(struct store_commit){.entries = STR(""), .parts = parts, .n_parts = 2});
    parts[0] = (struct store_part){STR("b"), 7, STR("three")}; /* in place of what was there */
    must_commit(s, &(struct store_commit){.entries = STR(""), .parts = parts, .n_parts = 1});
    assert_int_equal(store_bot_parts(s, STR("b"), list_part, &out, NULL), STATUS_OK);
    assert_listed(&out, "b@7=three;");
    must_commit(s, &(struct store_commit){.entries = STR(""), .close_day = 100});
    assert_int_equal(store_bot_parts(s, STR("b"), list_part, &out, NULL), STATUS_OK);
    assert_int_equal(store_day_parts(s, 100, list_part, &out, NULL), STATUS_OK);
    assert_listed(&out, "a@5=two;b@7=three;");
    store_close(s);
    must_open(dir_of(state), 1, 2, &s);
    assert_int_equal(store_day(s)->closed, 100);
    assert_int_equal(store_day(s)->opened, 0);
    assert_int_equal(store_day(s)->closed_jseq, 9);
    /* A day that was closed stays as it is, and goes when a later one closes. */
    must_commit(s, &(struct store_commit){.entries = STR(""), .close_day = 100, .open_day = 100});
    assert_int_equal(store_day_parts(s, 100, list_part, &out, NULL), STATUS_OK);
    assert_listed(&out, "a@5=two;b@7=three;");
    must_commit(s, &(struct store_commit){.entries = STR(""), .close_day = 101});
    assert_int_equal(store_day_parts(s, 100, list_part, &out, NULL), STATUS_OK);
    assert_int_equal(store_day_parts(s, 101, list_part, &out, NULL), STATUS_OK);
    assert_listed(&out, "");
    store_close(s);
    buf_deinit(&out);
}

static void test_an_epoch_is_written_once_and_leaves_when_it_is_old(void **state)
{
    struct store *s = NULL;
    struct buf out;
    buf_init(&out, 4096);
    must_open(dir_of(state), 1, 1, &s);
    struct store_epoch e[] = {{STR("a"), 10, 0, STR("ten")},
                              {STR("a"), 12, 0, STR("twelve")},
                              {STR("b"), 12, 0, STR("other")},
                              {STR("a"), 12, 0, STR("again")},
                              {STR("a"), 15, 13, STR("fifteen")}};
    must_commit(
        s, &(struct store_commit){.entries = STR(""), .epochs = e, .n_epochs = 4, .close_day = 12});
    int32_t opened = -1;
    assert_int_equal(store_epochs_read(dir_of(state), &opened, list_epoch, &out, NULL), STATUS_OK);
    assert_int_equal(opened, 0); /* not opened: not yet to be used */
    assert_listed(&out, "");
    must_commit(s, &(struct store_commit){.entries = STR(""), .open_day = 12});
    assert_int_equal(store_epochs_read(dir_of(state), &opened, list_epoch, &out, NULL), STATUS_OK);
    assert_int_equal(opened, 12);
    assert_listed(&out, "a@10=ten;a@12=twelve;b@12=other;");
    assert_int_equal(store_bot_epochs(s, STR("a"), 11, first_epoch, &out, NULL), STATUS_OK);
    assert_listed(&out, "a@10=ten;");
    /* Day 12 holds until 15 and is needed for day 13; day 10 is not, and b is another bot. */
    must_commit(s, &(struct store_commit){.entries = STR(""), .epochs = &e[4], .n_epochs = 1});
    assert_int_equal(store_bot_epochs(s, STR("a"), 99, list_epoch, &out, NULL), STATUS_OK);
    assert_int_equal(store_bot_epochs(s, STR("b"), 99, list_epoch, &out, NULL), STATUS_OK);
    assert_listed(&out, "a@15=fifteen;a@12=twelve;b@12=other;");
    store_close(s);
    meddle(dir_of(state), "UPDATE epoch SET day = 14 WHERE day = 15");
    must_open(dir_of(state), 1, 2, &s);
    struct error err = {0};
    assert_int_equal(store_bot_epochs(s, STR("a"), 99, list_epoch, &out, &err), STATUS_CORRUPT);
    assert_non_null(strstr(err.text, "fails its checksum"));
    store_close(s);
    buf_deinit(&out);
}

/* Takes from the state what the later formats brought. */
static void make_first_format(const char *dir)
{
    meddle(dir, "DROP TABLE erasure; DROP TABLE erasure_key; DROP TABLE epoch_day; DROP TABLE "
                "epoch; DROP TABLE epoch_part;"
                "ALTER TABLE meta DROP COLUMN timeline; ALTER TABLE meta DROP COLUMN loading; "
                "ALTER TABLE meta DROP COLUMN since_us; "
                "ALTER TABLE meta DROP COLUMN covered_inbox; DROP TABLE inbox_key;"
                "PRAGMA user_version=1");
}

/* The format before the inbox: what it holds stays, and nothing of the inbox is known. */
static void test_a_file_from_before_the_inbox_is_taken_over(void **state)
{
    struct store *s = NULL;
    must_open(dir_of(state), 1, 1, &s);
    must_append(s, "x", 1);
    store_close(s);
    meddle(dir_of(state), "ALTER TABLE meta DROP COLUMN covered_inbox; DROP TABLE inbox_key; "
                          "DROP TABLE erasure; DROP TABLE erasure_key; "
                          "PRAGMA user_version=3");
    struct store_identity identity = {0};
    lsn_t covered = 0;
    assert_int_equal(store_identity_read(dir_of(state), &identity, &covered, NULL), STATUS_OK);
    must_open(dir_of(state), 1, 2, &s);
    assert_dump(s, dir_of(state), "covered 0,0 as_of 0 jseq 1 next 1 bytes 4\nentry 1 x-1\n");
    store_close(s);
}

static void test_a_file_of_the_first_format_is_used_if_it_holds_no_records(void **state)
{
    struct store *s = NULL;
    must_open(dir_of(state), 1, 1, &s);
    store_close(s);
    make_first_format(dir_of(state));
    int32_t opened = -1;
    assert_int_equal(store_epochs_read(dir_of(state), &opened, list_epoch, NULL, NULL), STATUS_OK);
    assert_int_equal(opened, 0);
    must_open(dir_of(state), 1, 2, &s);
    assert_int_equal(store_day(s)->opened, 0);
    must_append(s, "x", 1);
    store_close(s);
    make_first_format(dir_of(state));
    struct error err = {0};
    assert_int_equal(open_again(dir_of(state), &err), STATUS_REFUSED);
    assert_non_null(strstr(err.text, "begin anew with an empty state directory"));
}

static void test_two_ids_for_one_key_are_refused(void **state)
{
    struct store *s = NULL;
    must_open(dir_of(state), 1, 1, &s);
    commit_everything(s);
    struct store_page page;
    assert_int_equal(store_load_page(s, 3, &page, NULL), STATUS_OK);
    page.key_id = 4;
    struct store_commit c = {.entries = STR(""), .pages = &page, .n_pages = 1};
    assert_int_equal(store_commit(s, &c, NULL), STATUS_CORRUPT);
    store_close(s);
    must_open(dir_of(state), 1, 1, &s);
    assert_dump(s, dir_of(state), EVERYTHING);
    store_close(s);
}

static enum status load_in_replay(void *ctx, uint64_t jseq, struct str entry, struct error *err)
{
    struct store_page page;
    if (jseq == 2)
        return error_set(err, STATUS_LIMIT, "enough");
    assert_int_equal(store_load_page(ctx, 7, &page, err), STATUS_OK);
    assert_true(str_equal(entry, STR("all-1")));
    return STATUS_OK;
}

static void test_a_callback_of_replay_may_load_pages_and_its_failure_is_returned(void **state)
{
    struct store *s = NULL;
    must_open(dir_of(state), 1, 1, &s);
    commit_everything(s);
    struct error err = {0};
    assert_int_equal(store_replay(s, load_in_replay, s, &err), STATUS_LIMIT);
    assert_string_equal(err.text, "enough");
    must_append(s, "b", 1); /* the walk left nothing open */
    store_close(s);
}

static void test_a_store_in_memory_works_without_a_file(void **state)
{
    (void)state;
    struct store *s[2] = {0};
    must_open(":memory:", 2, 0, s);
    assert_int_equal(store_set_workers(":memory:"), 0);
    must_append(s[0], "a", 1);
    assert_int_equal(store_jseq(s[0]), 1);
    assert_int_equal(store_jseq(s[1]), 0);
    close_stores(s, 2);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_commit_survives_a_reopen_in_every_part),
        TEST(test_a_killed_process_leaves_its_commits_but_not_the_one_under_way),
        TEST(test_a_commit_counts_when_the_process_dies_right_after_it),
        TEST(test_a_new_store_is_empty_and_gives_ids_from_one),
        TEST(test_a_key_is_found_and_its_page_outlives_other_calls_on_statements),
        TEST(test_due_times_come_soonest_first_and_go_when_a_page_has_none),
        TEST(test_folded_blocks_are_replayed_no_more_and_their_bytes_are_not_counted),
        TEST(test_a_block_that_is_folded_at_once_never_enters_the_journal),
        TEST(test_a_large_folded_journal_is_deleted_over_several_commits),
        TEST(test_marks_only_grow),
        TEST(test_dead_letters_are_bounded_and_the_oldest_go),
        TEST(test_dead_letters_are_bounded_by_bytes_too),
        TEST(test_letters_are_taken_out_beside_the_open_store),
        TEST(test_a_newer_instance_takes_over_and_the_older_cannot_commit),
        TEST(test_a_flipped_byte_in_a_block_is_found),
        TEST(test_a_block_in_the_place_of_another_is_found),
        TEST(test_a_missing_first_block_is_found),
        TEST(test_a_missing_block_in_the_middle_is_found),
        TEST(test_a_missing_last_block_is_found),
        TEST(test_a_changed_page_is_found),
        TEST(test_a_damaged_file_is_refused_after_an_unclean_end),
        TEST(test_a_file_of_a_newer_version_is_refused_untouched),
        TEST(test_what_is_learned_becomes_the_part_of_the_day_that_closes),
        TEST(test_an_epoch_is_written_once_and_leaves_when_it_is_old),
        TEST(test_a_file_from_before_the_inbox_is_taken_over),
        TEST(test_a_file_of_the_first_format_is_used_if_it_holds_no_records),
        TEST(test_two_ids_for_one_key_are_refused),
        TEST(test_a_callback_of_replay_may_load_pages_and_its_failure_is_returned),
        TEST(test_a_store_in_memory_works_without_a_file),
    };
    return cmocka_run_group_tests_name("state/store", tests, NULL, NULL);
}
