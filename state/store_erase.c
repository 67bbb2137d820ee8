/*
 * Users that are forgotten: what leaves the file with one commit, and what is kept to know it by.
 *
 * Everything of one request goes in one transaction, with the position of the event that asked for
 * it, so that a crash leaves all of it or nothing. secure_delete overwrites what a page held; what
 * the WAL still holds of it goes when store_scrub() has moved it into the file.
 *
 * The journal is not emptied for that: entries that must go are blanked where they stand, so that
 * the numbers of all others stay as they are, and only blocks that hold any are written.
 */
#include "state/store_internal.h"

#include <assert.h>
#include <ctype.h>
#include <sodium.h>
#include <string.h>

_Static_assert(STORE_DIGEST_BYTES == crypto_shorthash_siphashx24_BYTES &&
                   STORE_DIGEST_BYTES == crypto_shorthash_siphashx24_KEYBYTES,
               "digests and their key are those of SipHash-2-4-128");

/* ---- digests ---- */

void store_digest(const struct store *s, struct str user_id, struct str bot_name,
                  unsigned char out[STORE_DIGEST_BYTES])
{
    /* Ids are at most LIMIT_ID_BYTES and hold no NUL. */
    unsigned char text[2 * LIMIT_ID_BYTES + 1];
    assert(user_id.len <= LIMIT_ID_BYTES && bot_name.len <= LIMIT_ID_BYTES);
    size_t n = 0;
    if (user_id.len)
        memcpy(text, user_id.ptr, user_id.len);
    n += user_id.len;
    text[n++] = 0;
    if (bot_name.len)
        memcpy(text + n, bot_name.ptr, bot_name.len);
    n += bot_name.len;
    crypto_shorthash_siphashx24(out, text, n, s->erasure_key);
}

enum status store_erasure_key_load(struct store *s, struct error *err)
{
    sqlite3_stmt *q = NULL;
    enum status st = STATUS_OK;
    int rc = sqlite3_prepare_v2(s->db, "SELECT key FROM erasure_key WHERE id = 1", -1, &q, NULL);
    rc = rc == SQLITE_OK ? sqlite3_step(q) : rc;
    struct str key = rc == SQLITE_ROW ? db_column_str(q, 0) : STR_NULL;
    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        st = store_error(s, "read", err);
    else if (key.len != sizeof(s->erasure_key))
        st = error_set(err, STATUS_CORRUPT, "\"%s\" has no usable row in its table erasure_key",
                       s->path);
    else
        memcpy(s->erasure_key, key.ptr, key.len);
    sqlite3_finalize(q);
    return st;
}

static enum status put_key(struct store *s, const unsigned char key[STORE_DIGEST_BYTES],
                           struct error *err)
{
    sqlite3_stmt *q = NULL;
    int rc =
        sqlite3_prepare_v2(s->db, "UPDATE erasure_key SET key = ?1 WHERE id = 1", -1, &q, NULL);
    if (rc == SQLITE_OK) {
        db_bind_blob(q, 1, (struct str){(const char *)key, STORE_DIGEST_BYTES});
        rc = sqlite3_step(q);
    }
    enum status st = rc == SQLITE_DONE ? STATUS_OK : store_error(s, "write to", err);
    sqlite3_finalize(q);
    if (!st)
        memcpy(s->erasure_key, key, STORE_DIGEST_BYTES);
    return st;
}

enum status store_erasure_key_share(struct store *const *stores, uint32_t n, struct error *err)
{
    enum status st = STATUS_OK;
    for (uint32_t i = 1; i < n && !st; i++)
        if (memcmp(stores[i]->erasure_key, stores[0]->erasure_key, STORE_DIGEST_BYTES) != 0)
            st = put_key(stores[i], stores[0]->erasure_key, err);
    return st;
}

/* ---- what names a user ---- */

/* Bytes that an id may be a part of, rather than an id of its own. */
static bool in_word(unsigned char c)
{
    return isalnum(c) || c == '_';
}

static bool has_word(struct str in, struct str id)
{
    const char *end = in.ptr + in.len;
    for (const char *at = in.ptr; at; at++) {
        at = memmem(at, (size_t)(end - at), id.ptr, id.len);
        if (!at)
            return false;
        bool left =
            at > in.ptr && in_word((unsigned char)at[-1]) && in_word((unsigned char)*id.ptr);
        const char *next = at + id.len;
        bool right =
            next < end && in_word((unsigned char)*next) && in_word((unsigned char)next[-1]);
        /* The byte before a long string of msgpack may look like a letter. */
        if ((!left && !right) || id.len >= 32)
            return true;
    }
    return false;
}

static int hex4(const char *at)
{
    int v = 0;
    for (int i = 0; i < 4; i++) {
        if (!isxdigit((unsigned char)at[i]))
            return -1;
        int c = tolower((unsigned char)at[i]);
        v = v * 16 + (isdigit(c) ? c - '0' : c - 'a' + 10);
    }
    return v;
}

static size_t put_utf8(char *out, uint32_t c)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    static const uint8_t heads[] = {0, 0, 0xC0, 0xE0, 0xF0};
    for (size_t i = n; i-- > 1; c >>= 6)
        out[i] = (char)(0x80 | (c & 0x3F));
    out[0] = (char)(heads[n] | c);
    return n;
}

/* Escapes of JSON strings are resolved, wherever they stand; never longer than the bytes. */
static size_t unescape(struct str in, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < in.len; i++) {
        if (in.ptr[i] != '\\' || i + 1 == in.len) {
            out[n++] = in.ptr[i];
            continue;
        }
        int high = in.ptr[i + 1] == 'u' && i + 6 <= in.len ? hex4(in.ptr + i + 2) : -1;
        if (high < 0) {
            out[n++] = in.ptr[++i];
            continue;
        }
        i += 5;
        uint32_t c = (uint32_t)high;
        bool pair =
            c >> 10 == 0x36 && i + 7 <= in.len && in.ptr[i + 1] == '\\' && in.ptr[i + 2] == 'u';
        int low = pair ? hex4(in.ptr + i + 3) : -1;
        if (low >> 10 == 0x37) {
            c = 0x10000 + ((c & 0x3FF) << 10) + ((uint32_t)low & 0x3FF);
            i += 6;
        }
        n += put_utf8(out + n, c);
    }
    return n;
}

bool store_mentions(struct str bytes, struct str id)
{
    if (id.len == 0 || bytes.len < id.len)
        return false;
    if (has_word(bytes, id))
        return true;
    if (!memchr(bytes.ptr, '\\', bytes.len))
        return false;
    char *plain = malloc(bytes.len);
    /* Without memory it counts as named: what is about somebody else can be sent again. */
    bool found = !plain || has_word((struct str){plain, unescape(bytes, plain)}, id);
    free(plain);
    return found;
}

/* ---- what leaves the file ---- */

struct id_list {
    int64_t *at;
    size_t n, cap;
};

static void id_list_free(struct id_list *l)
{
    free(l->at);
}

static enum status id_list_add(struct id_list *l, int64_t id, struct error *err)
{
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 64;
        int64_t *at = reallocarray(l->at, cap, sizeof(*at));
        if (!at)
            return error_set(err, STATUS_NOMEM, "could not keep %zu rows to erase", cap);
        l->at = at;
        l->cap = cap;
    }
    l->at[l->n++] = id;
    return STATUS_OK;
}

static enum status drop_pages(struct store *s, const struct store_erasing *e, struct error *err)
{
    static const enum store_statement drops[] = {SQL_DROP_PAGES, SQL_DROP_INBOX_KEYS};
    enum status st = STATUS_OK;
    for (size_t i = 0; i < 2 && e->of_home && !st; i++) {
        sqlite3_stmt *q = s->sql[drops[i]];
        db_bind_text(q, 1, e->user_id);
        db_bind_text(q, 2, e->bot_name);
        st = store_run(s, drops[i], "erase pages of", err);
        sqlite3_clear_bindings(q);
        e->erasure->counts.pages += (uint64_t)sqlite3_changes(s->db);
    }
    return st;
}

/* The entries in bytes, which are the block's own copy. */
static uint64_t blank_entries(const struct store_erasing *e, struct buf *bytes)
{
    struct reader r = reader_of(bytes->data, bytes->len);
    uint64_t n = 0;
    while (reader_left(&r) && !r.bad) {
        struct str entry = reader_blob(&r);
        if (!r.bad && e->blank(e->ctx, bytes->data + (entry.ptr - bytes->data), entry.len))
            n++;
    }
    return n;
}

static enum status clean_block(struct store *s, const struct store_erasing *e, int64_t first,
                               struct buf *copy, struct error *err)
{
    sqlite3_stmt *q = s->sql[SQL_JOURNAL_BLOCK];
    sqlite3_bind_int64(q, 1, first);
    buf_reset(copy);
    if (sqlite3_step(q) != SQLITE_ROW) {
        enum status failed = store_error(s, "read", err);
        sqlite3_reset(q);
        return failed;
    }
    uint64_t last = db_column_u64(q, 0);
    enum status st = buf_append_str(copy, db_column_str(q, 1));
    sqlite3_reset(q);
    if (st)
        return error_set(err, st, "could not allocate a journal block");
    uint64_t n = blank_entries(e, copy);
    if (n == 0)
        return STATUS_OK;
    e->erasure->counts.entries += n;
    struct str entries = {copy->data, copy->len};
    q = s->sql[SQL_REWRITE_BLOCK];
    sqlite3_bind_int64(q, 1, first);
    db_bind_blob(q, 2, entries);
    db_bind_u64(q, 3, db_checksum((uint64_t)first, last, entries));
    return store_run(s, SQL_REWRITE_BLOCK, "erase journal entries of", err);
}

/* Blocks that are folded go at once; of the others what is the user's. */
static enum status clean_journal(struct store *s, const struct store_erasing *e, uint64_t folded,
                                 struct error *err)
{
    CLEANUP(id_list_free) struct id_list blocks = {0};
    CLEANUP(buf_deinit) struct buf copy;
    buf_init(&copy, SIZE_MAX / 2);
    db_bind_u64(s->sql[SQL_DROP_FOLDED], 1, folded);
    enum status st = store_run(s, SQL_DROP_FOLDED, "trim the journal of", err);
    sqlite3_stmt *q = s->sql[SQL_JOURNAL_BLOCKS];
    int rc = SQLITE_DONE;
    while (!st && (rc = sqlite3_step(q)) == SQLITE_ROW)
        st = id_list_add(&blocks, sqlite3_column_int64(q, 0), err);
    if (!st && rc != SQLITE_DONE)
        st = store_error(s, "read", err);
    sqlite3_reset(q);
    for (size_t i = 0; i < blocks.n && !st; i++)
        st = clean_block(s, e, blocks.at[i], &copy, err);
    return st;
}

/* With whatever bot: an input that could not be used seldom says that in a way we can read. */
static bool letter_is_of(const struct store_erasing *e, sqlite3_stmt *q)
{
    bool found = false;
    for (int i = 1; i <= 3; i++)
        found |= store_mentions(db_column_str(q, i), e->user_id);
    return found;
}

static enum status drop_letters(struct store *s, const struct store_erasing *e, struct error *err)
{
    CLEANUP(id_list_free) struct id_list gone = {0};
    sqlite3_stmt *q = s->sql[SQL_LETTERS];
    enum status st = STATUS_OK;
    int rc = SQLITE_DONE;
    while (!st && (rc = sqlite3_step(q)) == SQLITE_ROW)
        if (letter_is_of(e, q))
            st = id_list_add(&gone, sqlite3_column_int64(q, 0), err);
    if (!st && rc != SQLITE_DONE)
        st = store_error(s, "read", err);
    sqlite3_reset(q);
    for (size_t i = 0; i < gone.n && !st; i++) {
        sqlite3_bind_int64(s->sql[SQL_DROP_LETTER], 1, gone.at[i]);
        st = store_run(s, SQL_DROP_LETTER, "erase dead letters of", err);
    }
    e->erasure->counts.dead_letters = gone.n;
    s->letters_version = 0; /* to be counted anew */
    return st;
}

/* ---- rows of table erasure ---- */

static enum status put_erasure(struct store *s, const struct store_erasure *e, struct error *err)
{
    const struct erasure_counts *n = &e->counts;
    const uint64_t counts[] = {n->keys,         n->pages,    n->entries,
                               n->dead_letters, n->messages, n->metric_days};
    sqlite3_stmt *q = s->sql[SQL_PUT_ERASURE];
    db_bind_blob(q, 1, (struct str){(const char *)e->digest, STORE_DIGEST_BYTES});
    sqlite3_bind_int64(q, 2, e->token_us);
    sqlite3_bind_int64(q, 3, e->erased_us);
    sqlite3_bind_int64(q, 4, (int)e->step);
    db_bind_u64(q, 5, e->row_version);
    db_bind_u64(q, 6, e->receipt);
    bool named = e->step == ERASURE_STATE;
    db_bind_text(q, 7, named ? e->user_id : STR(""));
    db_bind_text(q, 8, named ? e->bot_name : STR(""));
    for (int i = 0; i < 6; i++)
        db_bind_u64(q, 9 + i, counts[i]);
    sqlite3_bind_int(q, 15, e->native);
    enum status st = store_run(s, SQL_PUT_ERASURE, "write to", err);
    sqlite3_clear_bindings(q);
    return st;
}

static enum status column_erasure(const struct store *s, sqlite3_stmt *q, struct store_erasure *ret,
                                  struct error *err)
{
    *ret = (struct store_erasure){
        .id = db_column_u64(q, 0),
        .native = sqlite3_column_int(q, 15) != 0,
        .token_us = sqlite3_column_int64(q, 2),
        .erased_us = sqlite3_column_int64(q, 3),
        .step = (enum erasure_step)sqlite3_column_int(q, 4),
        .row_version = db_column_u64(q, 5),
        .receipt = db_column_u64(q, 6),
        .user_id = db_column_str(q, 7),
        .bot_name = db_column_str(q, 8),
        .counts = {db_column_u64(q, 9), db_column_u64(q, 10), db_column_u64(q, 11),
                   db_column_u64(q, 12), db_column_u64(q, 13), db_column_u64(q, 14)},
    };
    struct str digest = db_column_str(q, 1);
    if (digest.len != STORE_DIGEST_BYTES || ret->step < ERASURE_STATE || ret->step > ERASURE_DONE ||
        (ret->step == ERASURE_STATE) != (ret->user_id.len > 0))
        return error_set(err, STATUS_CORRUPT, "\"%s\" has an impossible row in table erasure",
                         s->path);
    memcpy(ret->digest, digest.ptr, STORE_DIGEST_BYTES);
    return STATUS_OK;
}

enum status store_each_erasure(struct store *s,
                               enum status (*fn)(void *ctx, const struct store_erasure *e,
                                                 struct error *err),
                               void *ctx, struct error *err)
{
    sqlite3_stmt *q = s->sql[SQL_EACH_ERASURE];
    enum status st = STATUS_OK;
    int rc = SQLITE_DONE;
    while (!st && (rc = sqlite3_step(q)) == SQLITE_ROW) {
        struct store_erasure e;
        st = column_erasure(s, q, &e, err);
        if (!st)
            st = fn(ctx, &e, err);
    }
    if (!st && rc != SQLITE_DONE)
        st = store_error(s, "read", err);
    sqlite3_reset(q);
    return st;
}

static enum status erase(struct store *s, const struct store_erasing *e, uint64_t folded,
                         struct error *err)
{
    e->erasure->counts.pages = 0;
    e->erasure->counts.entries = 0;
    enum status st = drop_pages(s, e, err);
    st = st ? st : clean_journal(s, e, folded, err);
    st = st ? st : drop_letters(s, e, err);
    if (st)
        return st;
    sqlite3_bind_int64(s->sql[SQL_TRIM_ERASURES], 1, e->erasure->erased_us - ERASURE_KEEP_US);
    st = store_run(s, SQL_TRIM_ERASURES, "trim erasures of", err);
    st = st ? st : put_erasure(s, e->erasure, err);
    e->erasure->id = (uint64_t)sqlite3_last_insert_rowid(s->db);
    return st;
}

enum status store_write_erasures(struct store *s, const struct store_commit *c, uint64_t folded,
                                 struct error *err)
{
    enum status st = c->erase ? erase(s, c->erase, folded, err) : STATUS_OK;
    for (size_t i = 0; i < c->n_erasures && !st; i++) {
        sqlite3_stmt *q = s->sql[SQL_STEP_ERASURE];
        db_bind_u64(q, 1, c->erasures[i].id);
        sqlite3_bind_int(q, 2, (int)c->erasures[i].step);
        db_bind_u64(q, 3, c->erasures[i].receipt);
        st = store_run(s, SQL_STEP_ERASURE, "write to", err);
    }
    return st;
}

enum status store_scrub(struct store *s, struct error *err)
{
    if (!s->durable)
        return STATUS_OK;
    if (s->broken)
        return error_set(err, STATUS_IO, "\"%s\" takes no more writes", s->path);
    sqlite3_busy_timeout(s->db, 0); /* whoever reads may take long */
    int rc = sqlite3_wal_checkpoint_v2(s->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
    sqlite3_busy_timeout(s->db, STORE_BUSY_TIMEOUT_MS);
    if (rc == SQLITE_BUSY)
        return STATUS_AGAIN;
    if (rc == SQLITE_OK)
        return STATUS_OK;
    s->broken = STATUS_IO;
    return store_error(s, "checkpoint", err);
}

/* ---- another number of workers, or a state begun anew ---- */

static enum status copy_erasure(void *ctx, const struct store_erasure *e, struct error *err)
{
    struct store_erasure copy = *e;
    copy.native = false;
    return put_erasure(ctx, &copy, err);
}

enum status store_copy_erasures(struct store *from, struct store *to, struct error *err)
{
    enum status st = put_key(to, from->erasure_key, err);
    return st ? st : store_each_erasure(from, copy_erasure, to, err);
}
