#include "tests/state/store_support.h"

#include "core/hash.h"
#include "state/fault.h"

#include <assert.h>
#include <ftw.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

const struct store_identity test_identity = {
    .pipeline = "test",
    .system_identifier = "7301234567890123456",
    .slot = "warmpath_test",
    .slot_birth = 0x100000028,
    .timeline = 3,
    .loading = true,
    .since_us = INT64_C(1700000000000000),
    .partitions = 64,
};

void scratch_make(struct scratch *s)
{
    /* In memory where possible: failures come from shims, so a disk would only add waiting. */
    const char *base = getenv("TMPDIR");
    if (!base || strlen(base) > 64)
        base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(s->dir, sizeof(s->dir), "%s/warmpath-store-XXXXXX", base);
    assert_non_null(mkdtemp(s->dir));
    snprintf(s->state, sizeof(s->state), "%s/state", s->dir);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

void scratch_remove(struct scratch *s)
{
    assert_int_equal(nftw(s->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}

void must_open(const char *dir, uint32_t workers, uint64_t epoch, struct store **stores)
{
    struct store_identity identity = test_identity;
    bool fresh = false;
    struct error err = {0};
    if (store_set_open(dir, workers, epoch, &identity, &fresh, stores, &err))
        fail_msg("%s", err.text);
}

void close_stores(struct store **stores, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        store_close(TAKE(stores[i]));
}

void build_entries(struct buf *out, const char *tag, uint64_t n)
{
    for (uint64_t i = 1; i <= n; i++) {
        char entry[64];
        int len = snprintf(entry, sizeof(entry), "%s-%llu", tag, (unsigned long long)i);
        assert_int_equal(buf_put_bytes(out, (struct str){entry, (size_t)len}), STATUS_OK);
    }
}

void must_append(struct store *s, const char *tag, uint64_t n)
{
    struct buf entries;
    buf_init(&entries, SIZE_MAX);
    build_entries(&entries, tag, n);
    struct store_commit c = {.entries = {entries.data, entries.len}, .n_entries = n};
    struct error err = {0};
    if (store_commit(s, &c, &err))
        fail_msg("%s", err.text);
    buf_deinit(&entries);
}

struct store_page build_page(struct buf *out, uint64_t key_id, uint32_t partition, uint64_t jseq,
                             size_t size)
{
    /* Room first: the page borrows from out, which must not move. */
    assert_int_equal(buf_reserve(out, size + 64), STATUS_OK);
    struct store_page p = {
        .key_id = key_id, .partition = partition, .jseq = jseq, .due_us = INT64_MAX};
    char *at = out->data + out->len;
    p.user_id = (struct str){at, (size_t)snprintf(at, 32, "user-%u", partition)};
    at += p.user_id.len;
    p.bot_name = (struct str){at, (size_t)snprintf(at, 32, "bot-%llu", (unsigned long long)key_id)};
    at += p.bot_name.len;
    for (size_t i = 0; i < size; i++)
        at[i] = (char)(key_id * 31 + jseq * 7 + i);
    p.bytes = (struct str){at, size};
    out->len += p.user_id.len + p.bot_name.len + size;
    return p;
}

static enum status dump_entry(void *ctx, uint64_t jseq, struct str entry, struct error *err)
{
    (void)err;
    return buf_printf(ctx, "entry %llu " STR_FMT "\n", (unsigned long long)jseq, STR_ARGS(entry));
}

static enum status dump_page(void *ctx, const struct store_page *p, struct error *err)
{
    (void)err;
    return buf_printf(ctx, "page %llu %u %llu %lld " STR_FMT " " STR_FMT " %zu %llx\n",
                      (unsigned long long)p->key_id, p->partition, (unsigned long long)p->jseq,
                      (long long)p->due_us, STR_ARGS(p->user_id), STR_ARGS(p->bot_name),
                      p->bytes.len, (unsigned long long)hash64(p->bytes));
}

static enum status dump_letter(void *ctx, const struct store_dead_letter *d, struct error *err)
{
    (void)err;
    return buf_printf(ctx, "letter %d %llu %llu %lld " STR_FMT " " STR_FMT " %zu\n", (int)d->source,
                      (unsigned long long)d->pos.lsn, (unsigned long long)d->pos.seq,
                      (long long)d->at_us, STR_ARGS(d->where), STR_ARGS(d->reason), d->bytes.len);
}

static void dump_applied(const struct store *s, uint32_t p, struct buf *out)
{
    for (int src = 0; src < SOURCE_COUNT; src++) {
        const struct store_applied *a = store_applied(s, (enum source)src, p);
        if (a->pseq)
            assert_int_equal(buf_printf(out, "applied %d %u %llu %llu %llu\n", src, p,
                                        (unsigned long long)a->pos.lsn,
                                        (unsigned long long)a->pos.seq,
                                        (unsigned long long)a->pseq),
                             STATUS_OK);
    }
}

void dump_store(struct store *s, const char *dir, struct buf *out)
{
    struct error err = {0};
    assert_int_equal(buf_printf(out, "covered %llu,%llu as_of %lld jseq %llu next %llu bytes %zu\n",
                                (unsigned long long)store_covered(s),
                                (unsigned long long)store_covered_inbox(s),
                                (long long)store_as_of(s), (unsigned long long)store_jseq(s),
                                (unsigned long long)store_next_key_id(s), store_journal_bytes(s)),
                     STATUS_OK);
    enum status st = store_replay(s, dump_entry, out, &err);
    if (!st)
        st = store_each_page(s, dump_page, out, &err);
    if (!st)
        st = store_dead_letters_read(dir, dump_letter, out, &err);
    if (st)
        fail_msg("%s", err.text);
    for (uint32_t p = 0; p < LIMIT_PARTITIONS; p++)
        dump_applied(s, p, out);
}

struct lines {
    char *at[4096];
    size_t n;
};

static enum status collect_page(void *ctx, const struct store_page *p, struct error *err)
{
    (void)err;
    struct lines *all = ctx;
    assert_true(all->n < sizeof(all->at) / sizeof(all->at[0]));
    assert_true(asprintf(&all->at[all->n++], STR_FMT " " STR_FMT " %u %llu %lld %llx\n",
                         STR_ARGS(p->user_id), STR_ARGS(p->bot_name), p->partition,
                         (unsigned long long)p->jseq, (long long)p->due_us,
                         (unsigned long long)hash64(p->bytes)) > 0);
    return STATUS_OK;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

void dump_spread(struct store **stores, uint32_t n, struct buf *out)
{
    assert(n >= 1);
    struct error err = {0};
    struct lines all = {.n = 0};
    for (uint32_t i = 0; i < n; i++)
        if (store_each_page(stores[i], collect_page, &all, &err))
            fail_msg("%s", err.text);
    qsort(all.at, all.n, sizeof(all.at[0]), by_text);
    for (size_t i = 0; i < all.n; i++) {
        assert_int_equal(buf_append_str(out, str_from(all.at[i])), STATUS_OK);
        free(all.at[i]);
    }
    for (uint32_t p = 0; p < LIMIT_PARTITIONS; p++)
        dump_applied(stores[p % n], p, out);
}

bool run_child(const char *spec, void (*fn)(const char *dir), const char *dir)
{
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        if (fault_arm(spec, NULL))
            _exit(99);
        fn(dir);
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
        return true;
    assert_int_equal(status, 0);
    return false;
}

void must_be_killed(const char *spec, void (*fn)(const char *dir), const char *dir)
{
    assert_true(run_child(spec, fn, dir));
}
