/*
 * Which deliveries are known.
 *
 * Digests are all over the place: written straight to the table of all ids, every one of them would
 * dirty a page of its own, and a commit would write 4 kB for an id of 16 bytes. So those of one
 * commit are appended as one row of table fresh, and held in memory beside it. When enough have
 * come they are moved to table seen in the order of their digests, so that neighbours share a page:
 * a slice with every commit, like everything that is not urgent. A crash in between leaves some in
 * both tables, which says the same. The rows of fresh go when all of them are in seen.
 *
 * Ids that are due to go are found by walking over table seen, again and again, in order:
 * neighbours leave their page together, and no second index has to be kept.
 */
#include "state/inbox_internal.h"

#include <sodium.h>
#include <string.h>

#define FRESH_IDS  65536 /* moved to table seen when so many have come */
#define MOVE_IDS   256   /* with every commit, and twice as many as come */
#define DROP_ROWS  1024  /* of table fresh, with every commit */
#define FIRST_SIZE 1024
/* "Last seen" is written again when it is out by a sixty-fourth of what ids are kept. */
#define SEEN_STEP 64

/* ---- sets in memory: open addressing, at most half full ---- */

static size_t slot_of(const struct inbox_id_set *s, const unsigned char *digest)
{
    uint64_t hash = 0;
    memcpy(&hash, digest, sizeof(hash)); /* SipHash: any part of it is as good as the whole */
    size_t i = (size_t)hash & (s->size - 1);
    while (s->at[i].used && memcmp(s->at[i].digest, digest, INBOX_DIGEST_SIZE) != 0)
        i = (i + 1) & (s->size - 1);
    return i;
}

static const struct inbox_id *find(const struct inbox_id_set *s, const unsigned char *digest)
{
    const struct inbox_id *id = s->size ? &s->at[slot_of(s, digest)] : NULL;
    return id && id->used ? id : NULL;
}

static bool grow(struct inbox_id_set *s)
{
    struct inbox_id_set bigger = {.size = s->size ? 2 * s->size : FIRST_SIZE, .n = s->n};
    bigger.at = calloc(bigger.size, sizeof(*bigger.at));
    if (!bigger.at)
        return false;
    for (size_t i = 0; i < s->size; i++)
        if (s->at[i].used)
            bigger.at[slot_of(&bigger, s->at[i].digest)] = s->at[i];
    free(s->at);
    *s = bigger;
    return true;
}

static enum status add(struct inbox_id_set *s, const unsigned char *digest, int64_t seen_us,
                       struct error *err)
{
    if (2 * (s->n + 1) > s->size && !grow(s))
        return error_set(err, STATUS_NOMEM, "could not allocate %zu ids of deliveries", s->n + 1);
    struct inbox_id *id = &s->at[slot_of(s, digest)];
    s->n += !id->used;
    *id = (struct inbox_id){.seen_us = seen_us, .used = true};
    memcpy(id->digest, digest, INBOX_DIGEST_SIZE);
    return STATUS_OK;
}

static void clear(struct inbox_id_set *s)
{
    free(s->at);
    *s = (struct inbox_id_set){0};
}

void inbox_ids_init(struct inbox_ids *ids)
{
    *ids = (struct inbox_ids){0};
    buf_init(&ids->batch, SIZE_MAX);
    randombytes_buf(ids->hand, sizeof(ids->hand)); /* so that short runs get everywhere */
}

void inbox_ids_clear(struct inbox_ids *ids)
{
    clear(&ids->young);
    clear(&ids->old);
    free(ids->sorted);
    ids->sorted = NULL;
    ids->n_sorted = ids->moved = 0;
    ids->row = ids->old_row = ids->dropped = ids->drop = 0;
    buf_reset(&ids->batch);
}

void inbox_ids_deinit(struct inbox_ids *ids)
{
    inbox_ids_clear(ids);
    buf_deinit(&ids->batch);
}

/* ---- table fresh ---- */

static enum status load_row(struct inbox_file *f, sqlite3_stmt *q, struct error *err)
{
    struct str digests = db_column_str(q, 2);
    int64_t seen_us = sqlite3_column_int64(q, 1);
    if (digests.len % INBOX_DIGEST_SIZE)
        return error_set(err, STATUS_CORRUPT, "\"%s\" has an impossible row in table fresh",
                         f->path);
    enum status st = STATUS_OK;
    for (size_t i = 0; !st && i < digests.len; i += INBOX_DIGEST_SIZE)
        st = add(&f->ids.young, (const unsigned char *)digests.ptr + i, seen_us, err);
    return st;
}

enum status inbox_ids_load(struct inbox_file *f, const struct inbox_meta *m, struct error *err)
{
    struct inbox_ids *ids = &f->ids;
    if (ids->row == m->fresh)
        return STATUS_OK;
    sqlite3_stmt *q = f->sql[INBOX_FRESH];
    db_bind_u64(q, 1, ids->row);
    enum status st = STATUS_OK;
    int rc = SQLITE_DONE;
    while (!st && (rc = sqlite3_step(q)) == SQLITE_ROW)
        st = load_row(f, q, err);
    if (!st && rc != SQLITE_DONE)
        st = db_error(f->db, f->path, "read ids from", err);
    sqlite3_reset(q);
    if (!st)
        ids->row = m->fresh;
    return st;
}

static enum status write_batch(struct inbox_file *f, struct inbox_meta *m, int64_t now_us,
                               struct error *err)
{
    struct inbox_ids *ids = &f->ids;
    if (ids->batch.len == 0)
        return STATUS_OK;
    sqlite3_stmt *q = f->sql[INBOX_INSERT_FRESH];
    db_bind_u64(q, 1, m->fresh + 1);
    sqlite3_bind_int64(q, 2, now_us);
    db_bind_blob(q, 3, (struct str){ids->batch.data, ids->batch.len});
    enum status st = db_run(f->db, f->path, q, "write ids to", err);
    if (!st)
        ids->row = ++m->fresh;
    return st;
}

/* Rows whose ids have all been moved. */
static enum status drop_rows(struct inbox_file *f, struct error *err)
{
    struct inbox_ids *ids = &f->ids;
    if (ids->dropped >= ids->drop)
        return STATUS_OK;
    uint64_t left = ids->drop - ids->dropped;
    ids->dropped += left < DROP_ROWS ? left : DROP_ROWS;
    db_bind_u64(f->sql[INBOX_DROP_FRESH], 1, ids->dropped);
    return db_run(f->db, f->path, f->sql[INBOX_DROP_FRESH], "drop ids of", err);
}

/* ---- from memory to table seen ---- */

static int by_digest(const void *a, const void *b)
{
    return memcmp(((const struct inbox_id *)a)->digest, ((const struct inbox_id *)b)->digest,
                  INBOX_DIGEST_SIZE);
}

/* What is young becomes old, and is sorted. */
static enum status begin_move(struct inbox_file *f, const struct inbox_meta *m, struct error *err)
{
    struct inbox_ids *ids = &f->ids;
    ids->sorted = malloc(ids->young.n * sizeof(*ids->sorted));
    if (!ids->sorted)
        return error_set(err, STATUS_NOMEM, "could not allocate %zu ids of deliveries",
                         ids->young.n);
    ids->n_sorted = ids->moved = 0;
    for (size_t i = 0; i < ids->young.size; i++)
        if (ids->young.at[i].used)
            ids->sorted[ids->n_sorted++] = ids->young.at[i];
    qsort(ids->sorted, ids->n_sorted, sizeof(*ids->sorted), by_digest);
    ids->old = ids->young;
    ids->old_row = m->fresh;
    ids->young = (struct inbox_id_set){0};
    return STATUS_OK;
}

static void end_move(struct inbox_ids *ids)
{
    clear(&ids->old);
    free(ids->sorted);
    ids->sorted = NULL;
    ids->n_sorted = ids->moved = 0;
    ids->drop = ids->old_row;
}

static enum status move_one(struct inbox_file *f, struct inbox_meta *m, const struct inbox_id *id,
                            struct error *err)
{
    enum inbox_statement steps[] = {INBOX_SEE_NEW, INBOX_SEE_AGAIN};
    enum status st = STATUS_OK;
    bool done = false;
    for (int i = 0; !st && !done && i < 2; i++) {
        sqlite3_stmt *q = f->sql[steps[i]];
        sqlite3_bind_blob(q, 1, id->digest, INBOX_DIGEST_SIZE, SQLITE_STATIC);
        sqlite3_bind_int64(q, 2, id->seen_us);
        st = db_run(f->db, f->path, q, "write an id to", err);
        done = !st && sqlite3_changes(f->db) > 0;
        m->ids += i == 0 && done;
    }
    return st;
}

static enum status move(struct inbox_file *f, struct inbox_meta *m, struct error *err)
{
    struct inbox_ids *ids = &f->ids;
    enum status st = STATUS_OK;
    if (!ids->sorted && ids->young.n >= FRESH_IDS)
        st = begin_move(f, m, err);
    if (st || !ids->sorted)
        return st;
    size_t n = MOVE_IDS + 2 * (ids->batch.len / INBOX_DIGEST_SIZE);
    for (; !st && n > 0 && ids->moved < ids->n_sorted; n--)
        st = move_one(f, m, &ids->sorted[ids->moved++], err);
    if (!st && ids->moved == ids->n_sorted)
        end_move(ids);
    return st;
}

enum status inbox_ids_write(struct inbox_file *f, struct inbox_meta *m, int64_t now_us,
                            struct error *err)
{
    enum status st = write_batch(f, m, now_us, err);
    if (!st)
        st = move(f, m, err);
    if (!st)
        st = drop_rows(f, err);
    buf_reset(&f->ids.batch);
    return st;
}

/* ---- one id ---- */

/* When it was last seen; false: never, or nobody knows any more. */
static enum status last_seen(struct inbox_file *f, const unsigned char *digest, bool *ret_found,
                             int64_t *ret_us, struct error *err)
{
    const struct inbox_id *id = find(&f->ids.young, digest);
    id = id ? id : find(&f->ids.old, digest);
    *ret_found = id != NULL;
    if (id) {
        *ret_us = id->seen_us;
        return STATUS_OK;
    }
    sqlite3_stmt *q = f->sql[INBOX_SEEN];
    sqlite3_bind_blob(q, 1, digest, INBOX_DIGEST_SIZE, SQLITE_STATIC);
    int rc = sqlite3_step(q);
    enum status st = STATUS_OK;
    if (rc == SQLITE_ROW) {
        *ret_found = true;
        *ret_us = sqlite3_column_int64(q, 0);
    } else if (rc != SQLITE_DONE) {
        st = db_error(f->db, f->path, "read an id from", err);
    }
    sqlite3_reset(q);
    sqlite3_clear_bindings(q);
    return st;
}

enum status inbox_ids_see(struct inbox_file *f, struct str id, int64_t now_us, bool *ret_known,
                          struct error *err)
{
    unsigned char digest[INBOX_DIGEST_SIZE];
    crypto_shorthash_siphashx24(digest, (const unsigned char *)id.ptr, id.len, f->key);
    bool found = false;
    int64_t seen_us = 0;
    enum status st = last_seen(f, digest, &found, &seen_us, err);
    if (st)
        return st;
    int64_t age_us = now_us - seen_us;
    *ret_known = found && age_us < f->keep_ids_us;
    if (*ret_known && age_us <= f->keep_ids_us / SEEN_STEP)
        return STATUS_OK;
    st = add(&f->ids.young, digest, now_us, err);
    if (!st && buf_append(&f->ids.batch, digest, sizeof(digest)))
        st = error_set(err, STATUS_NOMEM, "could not allocate the ids of a commit");
    return st;
}

/* ---- ids that are due to go ---- */

/* Looks at the next ids of table seen, and takes down those that are due. */
static enum status look(struct inbox_file *f, int64_t now_us,
                        unsigned char old[INBOX_LOOK_IDS][INBOX_DIGEST_SIZE], uint32_t *ret_n,
                        struct error *err)
{
    unsigned char *hand = f->ids.hand;
    sqlite3_stmt *q = f->sql[INBOX_NEXT_IDS];
    sqlite3_bind_blob(q, 1, hand, INBOX_DIGEST_SIZE, SQLITE_TRANSIENT);
    int rc = SQLITE_ROW;
    *ret_n = 0;
    for (uint32_t looked = 0; looked < INBOX_LOOK_IDS && (rc = sqlite3_step(q)) == SQLITE_ROW;
         looked++) {
        struct str digest = db_column_str(q, 0);
        if (digest.len != INBOX_DIGEST_SIZE)
            continue;
        memcpy(hand, digest.ptr, INBOX_DIGEST_SIZE);
        if (now_us - sqlite3_column_int64(q, 1) >= f->keep_ids_us)
            memcpy(old[(*ret_n)++], digest.ptr, INBOX_DIGEST_SIZE);
    }
    enum status st = STATUS_OK;
    if (rc == SQLITE_DONE)
        memset(hand, 0, INBOX_DIGEST_SIZE); /* the end: from the start the next time */
    else if (rc != SQLITE_ROW)
        st = db_error(f->db, f->path, "read ids from", err);
    sqlite3_reset(q);
    sqlite3_clear_bindings(q);
    return st;
}

enum status inbox_ids_forget(struct inbox_file *f, struct inbox_meta *m, int64_t now_us,
                             struct error *err)
{
    unsigned char old[INBOX_LOOK_IDS][INBOX_DIGEST_SIZE];
    uint32_t n = 0;
    enum status st = look(f, now_us, old, &n, err);
    for (uint32_t i = 0; !st && i < n; i++) {
        sqlite3_stmt *q = f->sql[INBOX_FORGET];
        sqlite3_bind_blob(q, 1, old[i], INBOX_DIGEST_SIZE, SQLITE_STATIC);
        st = db_run(f->db, f->path, q, "drop an id of", err);
        m->ids -= m->ids > 0;
    }
    return st;
}
