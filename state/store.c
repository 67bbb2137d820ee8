/*
 * One open store. A commit costs one journal row, one row of meta and what has changed besides; the
 * UPDATE of meta doubles as the fencing check: it finds its row only while the epoch is ours.
 */
#include "state/store_internal.h"

#include "state/fault.h"

#include <assert.h>
#include <string.h>

/* Deleting a block of 50 kB frees a dozen pages; this many a commit keeps ahead of what one commit
 * adds without making any commit wait for 64 MB at once. */
#define DELETE_BLOCKS "64"

/* Often enough for the WAL to stay small, seldom enough to write hot pages once: 8 MB. */
#define CHECKPOINT_PAGES 2048

/* length() of a blob reads no more than its header. */
#define DEAD_SIZE "length(CAST(place AS BLOB)) + length(CAST(reason AS BLOB)) + length(bytes)"

const char *const store_sql[SQL_COUNT] = {
    [SQL_BEGIN] = "BEGIN IMMEDIATE",
    [SQL_COMMIT] = "COMMIT",
    [SQL_ROLLBACK] = "ROLLBACK",
    [SQL_UPDATE_META] = "UPDATE meta SET covered = ?2, as_of_us = ?3, jseq = ?4, folded = ?5,"
                        " next_key_id = ?6, covered_inbox = ?7 WHERE id = 1 AND epoch = ?1",
    [SQL_UPDATE_IDENTITY] =
        "UPDATE meta SET pipeline = ?2, system_identifier = ?3, slot = ?4,"
        " slot_birth = ?5, partitions = ?6, timeline = max(timeline, ?7), loading = ?8,"
        " since_us = ?9"
        " WHERE id = 1 AND epoch = ?1",
    [SQL_MARK_CLEAN] = "UPDATE meta SET clean = 1 WHERE id = 1 AND epoch = ?1",
    [SQL_INSERT_JOURNAL] = "INSERT INTO journal (first_jseq, last_jseq, bytes, hash, entries)"
                           " VALUES (?1, ?2, ?3, ?4, ?5)",
    /* Of blocks that were not folded up to ?1, but are up to ?2. Blocks do not overlap: only the
     * last one that starts at or below ?1 can reach beyond it. */
    [SQL_FOLDED_BYTES] =
        "SELECT coalesce(sum(bytes), 0) FROM journal WHERE first_jseq >="
        " coalesce((SELECT max(first_jseq) FROM journal WHERE first_jseq <= ?1), 0)"
        " AND first_jseq <= ?2 AND last_jseq > ?1 AND last_jseq <= ?2",
    [SQL_DELETE_JOURNAL] = "DELETE FROM journal WHERE first_jseq IN (SELECT first_jseq FROM journal"
                           " WHERE first_jseq <= ?1 AND last_jseq <= ?1"
                           " ORDER BY first_jseq LIMIT " DELETE_BLOCKS ")",
    [SQL_REPLAY] = "SELECT first_jseq, last_jseq, hash, entries FROM journal WHERE last_jseq > ?1"
                   " ORDER BY first_jseq",
    [SQL_UPSERT_APPLIED] = "INSERT INTO applied (source, partition, lsn, seq, pseq)"
                           " VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (source, partition)"
                           " DO UPDATE SET lsn = ?3, seq = ?4, pseq = ?5",
    [SQL_UPSERT_PAGE] =
        "INSERT INTO page (key_id, partition, jseq, due_us, hash, user_id, bot_name, bytes)"
        " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (key_id) DO UPDATE SET partition = "
        "?2,"
        " jseq = ?3, due_us = ?4, hash = ?5, user_id = ?6, bot_name = ?7, bytes = ?8",
    [SQL_FIND_KEY] = "SELECT key_id FROM page WHERE user_id = ?1 AND bot_name = ?2",
    [SQL_USER_KEYS] = "SELECT key_id FROM page WHERE user_id = ?1",
    [SQL_LOAD_PAGE] = "SELECT key_id, partition, jseq, due_us, hash, user_id, bot_name, bytes"
                      " FROM page WHERE key_id = ?1",
    [SQL_EACH_PAGE] = "SELECT key_id, partition, jseq, due_us, hash, user_id, bot_name, bytes"
                      " FROM page ORDER BY key_id",
    [SQL_EACH_DUE] = "SELECT key_id, due_us FROM page WHERE due_us IS NOT NULL ORDER BY due_us",
    [SQL_INSERT_DEAD] = "INSERT INTO dead_letter (source, lsn, seq, at_us, place, reason, bytes)"
                        " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    [SQL_EACH_DEAD] = "SELECT source, lsn, seq, at_us, place, reason, bytes FROM dead_letter"
                      " ORDER BY id",
    [SQL_OLDEST_DEAD] = "SELECT id, " DEAD_SIZE " FROM dead_letter ORDER BY id",
    [SQL_COUNT_DEAD] = "SELECT count(*), coalesce(sum(" DEAD_SIZE "), 0) FROM dead_letter",
    [SQL_TRIM_DEAD] = "DELETE FROM dead_letter WHERE id <= ?1",
    [SQL_DATA_VERSION] = "PRAGMA data_version",
    [SQL_UPDATE_DAY] = "UPDATE epoch_day SET opened = ?1, closed = ?2, closed_jseq = ?3"
                       " WHERE id = 1",
    [SQL_INSERT_EPOCH] = "INSERT INTO epoch (bot_name, day, hash, bytes) VALUES (?1, ?2, ?3, ?4)"
                         " ON CONFLICT (bot_name, day) DO NOTHING",
    [SQL_TRIM_EPOCHS] = "DELETE FROM epoch WHERE bot_name = ?1 AND day <"
                        " (SELECT max(day) FROM epoch WHERE bot_name = ?1 AND day <= ?2)",
    [SQL_BOT_EPOCHS] = "SELECT bot_name, day, hash, bytes FROM epoch"
                       " WHERE bot_name = ?1 AND day <= ?2 ORDER BY day DESC",
    [SQL_EACH_EPOCH] = "SELECT bot_name, day, hash, bytes FROM epoch ORDER BY bot_name, day",
    [SQL_INSERT_PART] = "INSERT INTO epoch_part (day, bot_name, jseq, hash, bytes)"
                        " VALUES (?1, ?2, ?3, ?4, ?5)",
    [SQL_DELETE_PARTS] = "DELETE FROM epoch_part WHERE day = 0 AND bot_name = ?1",
    [SQL_CLOSE_PARTS] = "UPDATE epoch_part SET day = ?1 WHERE day = 0",
    [SQL_TRIM_PARTS] = "DELETE FROM epoch_part WHERE day > 0 AND day < ?1",
    [SQL_BOT_PARTS] = "SELECT bot_name, jseq, hash, bytes FROM epoch_part"
                      " WHERE day = 0 AND bot_name = ?1",
    [SQL_DAY_PARTS] = "SELECT bot_name, jseq, hash, bytes FROM epoch_part WHERE day = ?1"
                      " ORDER BY bot_name",
    [SQL_PUT_INBOX_KEY] = "INSERT INTO inbox_key (user_id, bot_name) VALUES (?1, ?2)"
                          " ON CONFLICT DO NOTHING",
    [SQL_EACH_INBOX_KEY] = "SELECT user_id, bot_name FROM inbox_key",
    [SQL_PUT_ERASURE] = "INSERT INTO erasure (digest, token_us, erased_us, step, row_version,"
                        " receipt, user_id, bot_name, keys, pages, entries, dead_letters, messages,"
                        " metric_days, native) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10,"
                        " ?11, ?12, ?13, ?14, ?15)",
    [SQL_STEP_ERASURE] = "UPDATE erasure SET step = ?2, receipt = ?3, user_id = '', bot_name = ''"
                         " WHERE id = ?1",
    [SQL_TRIM_ERASURES] = "DELETE FROM erasure WHERE step = 3 AND erased_us < ?1",
    [SQL_EACH_ERASURE] = "SELECT id, digest, token_us, erased_us, step, row_version, receipt,"
                         " user_id, bot_name, keys, pages, entries, dead_letters, messages,"
                         " metric_days, native FROM erasure ORDER BY id",
    [SQL_DROP_PAGES] = "DELETE FROM page WHERE user_id = ?1 AND (?2 = '' OR bot_name = ?2)",
    [SQL_DROP_INBOX_KEYS] =
        "DELETE FROM inbox_key WHERE user_id = ?1 AND (?2 = '' OR bot_name = ?2)",
    [SQL_DROP_FOLDED] = "DELETE FROM journal WHERE last_jseq <= ?1",
    [SQL_JOURNAL_BLOCKS] = "SELECT first_jseq FROM journal ORDER BY first_jseq",
    [SQL_JOURNAL_BLOCK] = "SELECT last_jseq, entries FROM journal WHERE first_jseq = ?1",
    [SQL_REWRITE_BLOCK] = "UPDATE journal SET entries = ?2, hash = ?3 WHERE first_jseq = ?1",
    [SQL_LETTERS] = "SELECT id, place, reason, bytes FROM dead_letter ORDER BY id",
    [SQL_DROP_LETTER] = "DELETE FROM dead_letter WHERE id = ?1",
    [SQL_EACH_PART] = "SELECT bot_name, jseq, hash, bytes, day FROM epoch_part ORDER BY id",
};

/* ---- helpers shared with the other files ---- */

enum status store_error(struct store *s, const char *what, struct error *err)
{
    return db_error(s->db, s->path, what, err);
}

enum status store_run(struct store *s, enum store_statement which, const char *what,
                      struct error *err)
{
    return db_run(s->db, s->path, s->sql[which], what, err);
}

/* ---- what was durable at open ---- */

const struct store_applied *store_applied(const struct store *s, enum source src,
                                          uint32_t partition)
{
    assert(src < SOURCE_COUNT && partition < LIMIT_PARTITIONS);
    return &s->applied[src][partition];
}

lsn_t store_covered(const struct store *s)
{
    return s->meta.covered;
}

uint64_t store_covered_inbox(const struct store *s)
{
    return s->meta.covered_inbox;
}

uint64_t store_newest_inbox(const struct store *s)
{
    uint64_t newest = s->meta.covered_inbox;
    for (uint32_t p = 0; p < LIMIT_PARTITIONS; p++)
        if (s->applied[SOURCE_INBOX][p].pos.lsn > newest)
            newest = s->applied[SOURCE_INBOX][p].pos.lsn;
    return newest;
}

int64_t store_as_of(const struct store *s)
{
    return s->meta.as_of_us;
}

uint64_t store_jseq(const struct store *s)
{
    return s->meta.jseq;
}

uint64_t store_next_key_id(const struct store *s)
{
    return s->meta.next_key_id;
}

size_t store_journal_bytes(const struct store *s)
{
    return s->journal_bytes;
}

typedef enum status entry_fn(void *ctx, uint64_t jseq, struct str entry, struct error *err);

/* Hands on the entries of one block that are to hold first..last. */
static enum status replay_block(struct store *s, uint64_t first, uint64_t last, struct str entries,
                                entry_fn *fn, void *ctx, struct error *err)
{
    struct reader r = reader_of(entries.ptr, entries.len);
    for (uint64_t jseq = first; jseq <= last; jseq++) {
        struct str entry = reader_blob(&r);
        if (r.bad)
            return error_set(err, STATUS_CORRUPT,
                             "\"%s\": journal block %llu ends before its last entry", s->path,
                             (unsigned long long)first);
        enum status st = fn(ctx, jseq, entry, err);
        if (st)
            return st;
    }
    if (reader_left(&r))
        return error_set(err, STATUS_CORRUPT, "\"%s\": journal block %llu has bytes left over",
                         s->path, (unsigned long long)first);
    return STATUS_OK;
}

enum status store_replay(struct store *s, entry_fn *fn, void *ctx, struct error *err)
{
    sqlite3_stmt *q = s->sql[SQL_REPLAY];
    db_bind_u64(q, 1, s->meta.folded);
    uint64_t done = s->meta.folded;
    enum status st = STATUS_OK;
    int rc = SQLITE_DONE;
    while (!st && (rc = sqlite3_step(q)) == SQLITE_ROW) {
        uint64_t first = db_column_u64(q, 0);
        uint64_t last = db_column_u64(q, 1);
        struct str entries = db_column_str(q, 3);
        /* The first block may begin with folded entries; after it there must be no hole. */
        bool follows = done == s->meta.folded ? first <= done + 1 : first == done + 1;
        if (!follows || last < first)
            st = error_set(err, STATUS_CORRUPT,
                           "\"%s\": journal entry %llu is missing, the next block starts at %llu",
                           s->path, (unsigned long long)done + 1, (unsigned long long)first);
        else if (db_checksum(first, last, entries) != db_column_u64(q, 2))
            st = error_set(err, STATUS_CORRUPT, "\"%s\": journal block %llu fails its checksum",
                           s->path, (unsigned long long)first);
        else
            st = replay_block(s, first, last, entries, fn, ctx, err);
        done = last;
    }
    if (!st && rc != SQLITE_DONE)
        st = store_error(s, "read", err);
    sqlite3_reset(q);
    if (!st && done != s->meta.jseq)
        st = error_set(err, STATUS_CORRUPT,
                       "\"%s\": the journal ends at entry %llu, but %llu were written", s->path,
                       (unsigned long long)done, (unsigned long long)s->meta.jseq);
    return st;
}

enum status store_each_due(struct store *s,
                           enum status (*fn)(void *ctx, uint64_t key_id, int64_t due_us,
                                             struct error *err),
                           void *ctx, struct error *err)
{
    sqlite3_stmt *q = s->sql[SQL_EACH_DUE];
    enum status st = STATUS_OK;
    int rc = SQLITE_DONE;
    while (!st && (rc = sqlite3_step(q)) == SQLITE_ROW)
        st = fn(ctx, db_column_u64(q, 0), sqlite3_column_int64(q, 1), err);
    if (!st && rc != SQLITE_DONE)
        st = store_error(s, "read", err);
    sqlite3_reset(q);
    return st;
}

/* ---- keys ---- */

enum status store_find_key(struct store *s, struct str user_id, struct str bot_name,
                           uint64_t *ret_key_id, struct error *err)
{
    sqlite3_stmt *q = s->sql[SQL_FIND_KEY];
    db_bind_text(q, 1, user_id);
    db_bind_text(q, 2, bot_name);
    int rc = sqlite3_step(q);
    enum status st = STATUS_END;
    if (rc == SQLITE_ROW) {
        *ret_key_id = db_column_u64(q, 0);
        st = STATUS_OK;
    } else if (rc != SQLITE_DONE) {
        st = store_error(s, "read", err);
    }
    sqlite3_reset(q);
    sqlite3_clear_bindings(q);
    return st;
}

enum status store_user_keys(struct store *s, struct str user_id,
                            enum status (*fn)(void *ctx, uint64_t key_id, struct error *err),
                            void *ctx, struct error *err)
{
    sqlite3_stmt *q = s->sql[SQL_USER_KEYS];
    enum status st = STATUS_OK;
    int rc = SQLITE_DONE;
    db_bind_text(q, 1, user_id);
    while (!st && (rc = sqlite3_step(q)) == SQLITE_ROW)
        st = fn(ctx, db_column_u64(q, 0), err);
    if (!st && rc != SQLITE_DONE)
        st = store_error(s, "read", err);
    sqlite3_reset(q);
    sqlite3_clear_bindings(q);
    return st;
}

static uint64_t page_checksum(const struct store_page *p)
{
    uint64_t user = db_checksum(p->key_id, p->partition, p->user_id);
    uint64_t bot = db_checksum(p->jseq, (uint64_t)p->due_us, p->bot_name);
    return db_checksum(user, bot, p->bytes);
}

/* The page of the statement's row, its strings borrowed from there. */
static enum status read_page(struct store *s, sqlite3_stmt *q, struct store_page *ret,
                             struct error *err)
{
    *ret = (struct store_page){
        .key_id = db_column_u64(q, 0),
        .partition = (uint32_t)sqlite3_column_int64(q, 1),
        .jseq = db_column_u64(q, 2),
        .due_us = sqlite3_column_type(q, 3) == SQLITE_NULL ? INT64_MAX : sqlite3_column_int64(q, 3),
        .user_id = db_column_str(q, 5),
        .bot_name = db_column_str(q, 6),
        .bytes = db_column_str(q, 7),
    };
    if (page_checksum(ret) != db_column_u64(q, 4))
        return error_set(err, STATUS_CORRUPT, "\"%s\": the page of key %llu fails its checksum",
                         s->path, (unsigned long long)ret->key_id);
    if (ret->partition >= LIMIT_PARTITIONS || ret->jseq > s->meta.jseq)
        return error_set(err, STATUS_CORRUPT,
                         "\"%s\": the page of key %llu has partition %u and entry %llu", s->path,
                         (unsigned long long)ret->key_id, ret->partition,
                         (unsigned long long)ret->jseq);
    return STATUS_OK;
}

/* Moves the page's strings into s->page, so that the statement need not stay open. */
static enum status own_page(struct store *s, struct store_page *p, struct error *err)
{
    struct str *parts[] = {&p->user_id, &p->bot_name, &p->bytes};
    buf_reset(&s->page);
    if (buf_reserve(&s->page, 1 + p->user_id.len + p->bot_name.len + p->bytes.len))
        return error_set(err, STATUS_NOMEM, "could not allocate the page of key %llu",
                         (unsigned long long)p->key_id);
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        char *at = s->page.data + s->page.len;
        memcpy(at, parts[i]->ptr, parts[i]->len);
        s->page.len += parts[i]->len;
        parts[i]->ptr = at;
    }
    return STATUS_OK;
}

enum status store_load_page(struct store *s, uint64_t key_id, struct store_page *ret,
                            struct error *err)
{
    sqlite3_stmt *q = s->sql[SQL_LOAD_PAGE];
    db_bind_u64(q, 1, key_id);
    struct store_page page;
    int rc = sqlite3_step(q);
    enum status st = STATUS_END;
    if (rc == SQLITE_ROW) {
        st = read_page(s, q, &page, err);
        if (!st)
            st = own_page(s, &page, err);
    } else if (rc != SQLITE_DONE) {
        st = store_error(s, "read", err);
    }
    sqlite3_reset(q);
    if (!st)
        *ret = page;
    return st;
}

enum status store_each_page(struct store *s,
                            enum status (*fn)(void *ctx, const struct store_page *page,
                                              struct error *err),
                            void *ctx, struct error *err)
{
    sqlite3_stmt *q = s->sql[SQL_EACH_PAGE];
    enum status st = STATUS_OK;
    int rc = SQLITE_DONE;
    while (!st && (rc = sqlite3_step(q)) == SQLITE_ROW) {
        struct store_page page;
        st = read_page(s, q, &page, err);
        if (!st)
            st = fn(ctx, &page, err);
    }
    if (!st && rc != SQLITE_DONE)
        st = store_error(s, "read", err);
    sqlite3_reset(q);
    return st;
}

/* ---- the group commit ---- */

enum status store_put_page(struct store *s, const struct store_page *page, struct error *err)
{
    sqlite3_stmt *q = s->sql[SQL_UPSERT_PAGE];
    db_bind_u64(q, 1, page->key_id);
    sqlite3_bind_int64(q, 2, page->partition);
    db_bind_u64(q, 3, page->jseq);
    if (page->due_us != INT64_MAX)
        sqlite3_bind_int64(q, 4, page->due_us);
    db_bind_u64(q, 5, page_checksum(page));
    db_bind_text(q, 6, page->user_id);
    db_bind_text(q, 7, page->bot_name);
    db_bind_blob(q, 8, page->bytes);
    return store_run(s, SQL_UPSERT_PAGE, "write a key page to", err);
}

enum status store_put_inbox_key(struct store *s, const struct store_key *key, struct error *err)
{
    db_bind_text(s->sql[SQL_PUT_INBOX_KEY], 1, key->user_id);
    db_bind_text(s->sql[SQL_PUT_INBOX_KEY], 2, key->bot_name);
    return store_run(s, SQL_PUT_INBOX_KEY, "write a key to", err);
}

struct store_key store_column_key(sqlite3_stmt *st)
{
    return (struct store_key){db_column_str(st, 0), db_column_str(st, 1)};
}

static bool entries_match(struct str entries, uint64_t n)
{
    struct reader r = reader_of(entries.ptr, entries.len);
    while (n-- && !r.bad)
        reader_blob(&r);
    return !r.bad && reader_left(&r) == 0;
}

static enum status fenced(const struct store *s, struct error *err)
{
    return error_set(err, STATUS_FENCED,
                     "\"%s\" has been taken over by a newer instance (ours is epoch %llu)", s->path,
                     (unsigned long long)s->meta.epoch);
}

enum status store_explain(struct store *s, enum status st, struct error *err)
{
    sqlite3_stmt *q = NULL;
    bool taken = false;
    if (sqlite3_prepare_v2(s->db, "SELECT epoch FROM meta", -1, &q, NULL) == SQLITE_OK &&
        sqlite3_step(q) == SQLITE_ROW)
        taken = db_column_u64(q, 0) > s->meta.epoch;
    sqlite3_finalize(q);
    return taken ? fenced(s, err) : st;
}

static uint64_t max_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* What meta will say after the commit. */
static struct store_meta meta_after(const struct store *s, const struct store_commit *c)
{
    struct store_meta m = s->meta;
    m.jseq += c->n_entries;
    m.folded = max_u64(m.folded, c->fold_below < m.jseq ? c->fold_below : m.jseq);
    m.covered = max_u64(m.covered, c->covered);
    m.covered_inbox = max_u64(m.covered_inbox, c->covered_inbox);
    m.as_of_us = c->as_of_us > m.as_of_us ? c->as_of_us : m.as_of_us;
    m.next_key_id = max_u64(m.next_key_id, c->next_key_id);
    for (size_t i = 0; i < c->n_pages; i++)
        m.next_key_id = max_u64(m.next_key_id, c->pages[i].key_id + 1);
    return m;
}

static enum status write_meta(struct store *s, const struct store_meta *m, struct error *err)
{
    sqlite3_stmt *q = s->sql[SQL_UPDATE_META];
    db_bind_u64(q, 1, m->epoch);
    db_bind_u64(q, 2, m->covered);
    sqlite3_bind_int64(q, 3, m->as_of_us);
    db_bind_u64(q, 4, m->jseq);
    db_bind_u64(q, 5, m->folded);
    db_bind_u64(q, 6, m->next_key_id);
    db_bind_u64(q, 7, m->covered_inbox);
    enum status st = store_run(s, SQL_UPDATE_META, "write to", err);
    if (!st && sqlite3_changes(s->db) != 1)
        st = fenced(s, err);
    return st;
}

/* Appends the block, and drops what is folded; *bytes follows the size of the unfolded journal. */
static enum status write_journal(struct store *s, const struct store_commit *c,
                                 const struct store_meta *after, uint64_t *bytes, struct error *err)
{
    enum status st = STATUS_OK;
    if (c->n_entries > 0 && after->jseq > after->folded) {
        uint64_t first = s->meta.jseq + 1;
        sqlite3_stmt *q = s->sql[SQL_INSERT_JOURNAL];
        db_bind_u64(q, 1, first);
        db_bind_u64(q, 2, after->jseq);
        db_bind_u64(q, 3, c->entries.len);
        db_bind_u64(q, 4, db_checksum(first, after->jseq, c->entries));
        db_bind_blob(q, 5, c->entries);
        st = store_run(s, SQL_INSERT_JOURNAL, "append to the journal of", err);
        *bytes += c->entries.len;
    }
    if (st || after->folded == 0)
        return st;
    if (after->folded > s->meta.folded) {
        sqlite3_stmt *q = s->sql[SQL_FOLDED_BYTES];
        db_bind_u64(q, 1, s->meta.folded);
        db_bind_u64(q, 2, after->folded);
        if (sqlite3_step(q) == SQLITE_ROW)
            *bytes -= db_column_u64(q, 0);
        else
            st = store_error(s, "read", err);
        sqlite3_reset(q);
    }
    db_bind_u64(s->sql[SQL_DELETE_JOURNAL], 1, after->folded);
    return st ? st : store_run(s, SQL_DELETE_JOURNAL, "trim the journal of", err);
}

static bool applied_equal(const struct store_applied *a, const struct store_applied *b)
{
    return a->pseq == b->pseq && position_compare(a->pos, b->pos) == 0;
}

static enum status write_applied(struct store *s, const struct store_commit *c, struct error *err)
{
    sqlite3_stmt *q = s->sql[SQL_UPSERT_APPLIED];
    for (int src = 0; c->applied && src < SOURCE_COUNT; src++) {
        for (int p = 0; p < LIMIT_PARTITIONS; p++) {
            const struct store_applied *a = &c->applied[src][p];
            if (applied_equal(a, &s->applied[src][p]))
                continue;
            sqlite3_bind_int(q, 1, src);
            sqlite3_bind_int(q, 2, p);
            db_bind_u64(q, 3, a->pos.lsn);
            db_bind_u64(q, 4, a->pos.seq);
            db_bind_u64(q, 5, a->pseq);
            enum status st = store_run(s, SQL_UPSERT_APPLIED, "write positions to", err);
            if (st)
                return st;
        }
    }
    return STATUS_OK;
}

static enum status write_letters(struct store *s, const struct store_commit *c,
                                 struct store_letters *letters, struct error *err)
{
    if (c->n_dead_letters == 0)
        return STATUS_OK;
    enum status st = store_letters_count(s, err);
    *letters = s->letters;
    for (size_t i = 0; !st && i < c->n_dead_letters; i++)
        st = store_put_dead_letter(s, &c->dead_letters[i], letters, err);
    return st ? st : store_trim_dead_letters(s, letters, err);
}

/* The body of the transaction. */
static enum status write_all(struct store *s, const struct store_commit *c,
                             const struct store_meta *after, struct store_day *day, uint64_t *bytes,
                             struct store_letters *letters, struct error *err)
{
    enum status st = write_meta(s, after, err);
    if (!st)
        st = write_journal(s, c, after, bytes, err);
    if (!st)
        st = write_letters(s, c, letters, err);
    /* Entries and letters of this very commit may have to go; its pages are of a later key. */
    if (!st)
        st = store_write_erasures(s, c, after->folded, err);
    for (size_t i = 0; !st && i < c->n_pages; i++) {
        assert(c->pages[i].jseq <= after->jseq);
        st = store_put_page(s, &c->pages[i], err);
    }
    if (!st)
        st = write_applied(s, c, err);
    for (size_t i = 0; !st && i < c->n_inbox_keys; i++)
        st = store_put_inbox_key(s, &c->inbox_keys[i], err);
    return st ? st : store_write_epochs(s, c, after->jseq, day, err);
}

enum status store_begin(struct store *s, struct error *err)
{
    if (s->broken == STATUS_FENCED)
        return fenced(s, err);
    if (s->broken)
        return error_set(err, STATUS_IO,
                         "\"%s\" takes no more writes: an earlier one failed, and what is on disk "
                         "is unknown until the state is opened again",
                         s->path);
    enum status st = store_run(s, SQL_BEGIN, "lock", err);
    if (st && (sqlite3_errcode(s->db) & 0xFF) != SQLITE_BUSY)
        s->broken = STATUS_IO;
    return st;
}

/* After a failed sync of either file nothing is tried again on this handle: which pages the kernel
 * has dropped is unknown. The WAL stays as it is, and the next open starts from it. */
static enum status checkpoint(struct store *s, struct error *err)
{
    if (s->wal_pages < CHECKPOINT_PAGES)
        return STATUS_OK;
    /* PASSIVE waits for nobody; BUSY: a reader holds some pages back until the next time. */
    int rc = sqlite3_wal_checkpoint_v2(s->db, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
    if (rc != SQLITE_OK && rc != SQLITE_BUSY)
        return store_error(s, "checkpoint", err);
    return STATUS_OK;
}

enum status store_end(struct store *s, enum status st, struct error *err)
{
    if (!st)
        st = store_run(s, SQL_COMMIT, "commit to", err);
    if (!st)
        st = checkpoint(s, err);
    if (!st)
        return STATUS_OK;
    s->broken = st == STATUS_FENCED ? STATUS_FENCED : STATUS_IO;
    /* SQLite may have rolled back by itself; then this fails, which changes nothing. */
    if (!sqlite3_get_autocommit(s->db))
        (void)!store_run(s, SQL_ROLLBACK, "roll back", NULL);
    return st;
}

enum status store_commit(struct store *s, const struct store_commit *c, struct error *err)
{
    assert(entries_match(c->entries, c->n_entries));
    enum status st = store_begin(s, err);
    if (st)
        return st;
    struct store_meta after = meta_after(s, c);
    uint64_t bytes = s->journal_bytes;
    struct store_letters letters = s->letters;
    struct store_day day = s->day;
    st = write_all(s, c, &after, &day, &bytes, &letters, err);
    if (!st && FAULT_POINT("store_before_commit"))
        st = error_set(err, STATUS_IO, "could not commit to \"%s\": injected fault", s->path);
    st = store_end(s, st, err);
    if (!st && FAULT_POINT("store_after_commit")) {
        /* As when the answer of the disk is lost: committed, but nobody knows. */
        s->broken = STATUS_IO;
        st = error_set(err, STATUS_IO, "could not commit to \"%s\": injected fault", s->path);
    }
    if (st)
        return st;
    s->meta = after;
    s->day = day;
    s->journal_bytes = bytes;
    s->letters = letters;
    if (c->applied)
        memcpy(s->applied, c->applied, sizeof(s->applied));
    return STATUS_OK;
}

enum status store_identity_write(struct store *s, const struct store_identity *identity,
                                 struct error *err)
{
    enum status st = store_begin(s, err);
    if (st)
        return st;
    sqlite3_stmt *q = s->sql[SQL_UPDATE_IDENTITY];
    db_bind_u64(q, 1, s->meta.epoch);
    db_bind_text(q, 2, str_from(identity->pipeline));
    db_bind_text(q, 3, str_from(identity->system_identifier));
    db_bind_text(q, 4, str_from(identity->slot));
    db_bind_u64(q, 5, identity->slot_birth);
    sqlite3_bind_int64(q, 6, identity->partitions);
    sqlite3_bind_int64(q, 7, identity->timeline);
    sqlite3_bind_int64(q, 8, identity->loading);
    sqlite3_bind_int64(q, 9, identity->since_us);
    st = store_run(s, SQL_UPDATE_IDENTITY, "write to", err);
    if (!st && sqlite3_changes(s->db) != 1)
        st = fenced(s, err);
    st = store_end(s, st, err);
    if (!st)
        s->meta.identity = *identity;
    return st;
}

static enum status mark_clean(struct store *s, struct error *err)
{
    if (s->broken)
        return error_set(err, STATUS_IO, "\"%s\" was closed after a failed write", s->path);
    db_bind_u64(s->sql[SQL_MARK_CLEAN], 1, s->meta.epoch);
    enum status st = store_run(s, SQL_MARK_CLEAN, "close", err);
    return !st && sqlite3_changes(s->db) != 1 ? fenced(s, err) : st;
}

/* Marks the file clean and moves the WAL into it. After any failure nothing more is touched, above
 * all not by sqlite3_close(), which would try the checkpoint again and drop the WAL: recovery at
 * the next open decides. */
static enum status settle(struct store *s, struct error *err)
{
    enum status st = mark_clean(s, err);
    if (!st &&
        sqlite3_wal_checkpoint_v2(s->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL) != SQLITE_OK)
        st = store_error(s, "checkpoint", err);
    if (st)
        sqlite3_db_config(s->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    return st;
}

enum status store_close_checked(struct store *s, struct error *err)
{
    enum status st = s->db && s->durable ? settle(s, err) : STATUS_OK;
    for (size_t i = 0; i < SQL_COUNT; i++)
        sqlite3_finalize(s->sql[i]);
    sqlite3_close(s->db);
    buf_deinit(&s->page);
    free(s->path);
    free(s);
    return st;
}

void store_close(struct store *s)
{
    /* A failure here is like a crash just before: the next open checks the file. */
    if (s)
        (void)!store_close_checked(s, NULL);
}
