#include "ingest/rebuild_chunk.h"

#include "core/hash.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* In this order among the items of a key. */
enum item_class { ITEM_KEY, ITEM_ROW, ITEM_RECORDED };

struct item {
    uint64_t key;    /* hash of its names, so that most comparisons need no strings */
    int64_t at_us;   /* ITEM_ROW: source time */
    size_t order;    /* of arrival */
    size_t at;       /* in bytes: user_id and bot_name as blobs, then the event */
    size_t len;      /* of the event, 0 for ITEM_KEY */
    uint64_t metric; /* hash of the id of a metric, else 0 */
    enum item_class class;
    bool dropped;
};

struct name {
    uint64_t hash;
    size_t at, len;
};

struct rebuild_chunk {
    bool bots;
    struct str only_bot;
    struct buf names_text;
    struct name *names;
    size_t n_names, cap_names;
    struct buf bytes;
    struct item *items;
    size_t n, cap;
    size_t items_max;
    uint64_t rows;
    uint64_t keys;
    bool has_snapshot;
    uint32_t xmax;     /* this and later ones are not seen ... */
    uint32_t *running; /* ... nor are these, sorted */
    size_t n_running;
};

/* What an item costs beside its bytes, so that many small rows are bounded too. */
#define ITEM_BYTES sizeof(struct item)

enum status rebuild_chunk_new(const struct rebuild_chunk_config *cfg, struct rebuild_chunk **ret,
                              struct error *err)
{
    struct rebuild_chunk *c = calloc(1, sizeof(*c));
    if (!c)
        return error_set(err, STATUS_NOMEM, "could not allocate a chunk of rows");
    c->bots = cfg->bots;
    c->only_bot = cfg->only_bot;
    c->items_max = cfg->bytes_max / ITEM_BYTES / 2;
    buf_init(&c->names_text, cfg->bytes_max);
    buf_init(&c->bytes, cfg->bytes_max);
    *ret = c;
    return STATUS_OK;
}

void rebuild_chunk_free(struct rebuild_chunk *c)
{
    if (!c)
        return;
    buf_deinit(&c->names_text);
    buf_deinit(&c->bytes);
    free(c->names);
    free(c->running);
    free(c->items);
    free(c);
}

static struct str name_of(const struct rebuild_chunk *c, const struct name *n)
{
    return (struct str){c->names_text.data + n->at, n->len};
}

static bool has_name(const struct rebuild_chunk *c, struct str name)
{
    uint64_t hash = hash64(name);
    for (size_t i = 0; i < c->n_names; i++)
        if (c->names[i].hash == hash && str_equal(name_of(c, &c->names[i]), name))
            return true;
    return false;
}

enum status rebuild_chunk_name(struct rebuild_chunk *c, struct str name)
{
    assert(c->n == 0 && name.len > 0);
    if (has_name(c, name))
        return STATUS_OK;
    if (c->n_names == c->cap_names) {
        size_t cap = c->cap_names ? c->cap_names * 2 : 16;
        struct name *grown = reallocarray(c->names, cap, sizeof(*grown));
        if (!grown)
            return STATUS_NOMEM;
        c->names = grown;
        c->cap_names = cap;
    }
    c->names[c->n_names] = (struct name){hash64(name), c->names_text.len, name.len};
    enum status st = buf_append_str(&c->names_text, name);
    if (!st)
        c->n_names++;
    return st;
}

/* A bot's own key is made of its metrics and characters, and of its messages; an edit or a deletion
 * may be of one. */
static bool is_of_bot(const struct event *e)
{
    if (e->type == EVENT_MESSAGE)
        return e->u.message.role == ROLE_BOT || e->u.message.op == MESSAGE_UPDATE;
    return e->type == EVENT_METRIC || e->type == EVENT_CHARACTER ||
           e->type == EVENT_MESSAGE_DELETED;
}

bool rebuild_chunk_wants(const struct rebuild_chunk *c, const struct event *e)
{
    if (e->type == EVENT_DEAD_LETTER || e->bot_name.len == 0)
        return false;
    if (c->bots)
        return is_of_bot(e) && has_name(c, e->bot_name);
    if (e->type == EVENT_METRIC || e->type == EVENT_CHARACTER || e->user_id.len == 0)
        return false;
    if (c->only_bot.ptr && !str_equal(c->only_bot, e->bot_name))
        return false;
    return has_name(c, e->user_id);
}

static enum status reserve_item(struct rebuild_chunk *c)
{
    if (c->n < c->cap)
        return STATUS_OK;
    if (c->n >= c->items_max)
        return STATUS_LIMIT;
    size_t cap = c->cap ? c->cap * 2 : 64;
    struct item *grown = reallocarray(c->items, cap, sizeof(*grown));
    if (!grown)
        return STATUS_NOMEM;
    c->items = grown;
    c->cap = cap;
    return STATUS_OK;
}

static enum status add(struct rebuild_chunk *c, enum item_class class, struct str user_id,
                       struct str bot_name, const struct event *e)
{
    enum status st = reserve_item(c);
    if (st)
        return st;
    struct str user = c->bots ? STR("") : user_id;
    struct item i = {
        .key = hash64_mix(hash64(user) + hash64_mix(hash64(bot_name))),
        .at_us = e ? e->at_us : 0,
        .order = c->n,
        .at = c->bytes.len,
        .metric = e && e->type == EVENT_METRIC ? hash64(e->id) : 0,
        .class = class,
    };
    st = buf_put_bytes(&c->bytes, user);
    st = st ? st : buf_put_bytes(&c->bytes, bot_name);
    size_t start = c->bytes.len;
    if (e)
        st = st ? st : event_encode(e, &c->bytes, NULL);
    if (st) {
        c->bytes.len = i.at;
        return st;
    }
    i.len = c->bytes.len - start;
    c->items[c->n++] = i;
    return STATUS_OK;
}

static int compare_xids(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a;
    uint32_t y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

enum status rebuild_chunk_snapshot(struct rebuild_chunk *c, const char *text, struct error *err)
{
    /* "xmin:xmax:running,running" */
    const char *xmax = strchr(text, ':');
    const char *at = xmax ? strchr(xmax + 1, ':') : NULL;
    if (!at)
        return error_set(err, STATUS_INVALID, "\"%.60s\" is no snapshot", text);
    size_t n = 0;
    for (const char *p = at; *p; p++)
        n += *p == ',';
    free(c->running);
    c->n_running = 0;
    c->running = calloc(n + 1, sizeof(*c->running));
    if (!c->running)
        return error_set(err, STATUS_NOMEM, "could not keep a snapshot");
    c->xmax = (uint32_t)strtoull(xmax + 1, NULL, 10);
    while (at[1]) {
        char *end = NULL;
        c->running[c->n_running++] = (uint32_t)strtoull(at + 1, &end, 10);
        if (*end != ',' || c->n_running > n)
            break;
        at = end;
    }
    qsort(c->running, c->n_running, sizeof(*c->running), compare_xids);
    c->has_snapshot = true;
    return STATUS_OK;
}

bool rebuild_chunk_sees(const struct rebuild_chunk *c, uint32_t xid)
{
    if (!c->has_snapshot)
        return true;
    if ((int32_t)(xid - c->xmax) >= 0)
        return false;
    return c->n_running == 0 || !bsearch(&xid, c->running, c->n_running, sizeof(xid), compare_xids);
}

enum status rebuild_chunk_key(struct rebuild_chunk *c, struct str user_id, struct str bot_name)
{
    return add(c, ITEM_KEY, user_id, bot_name, NULL);
}

enum status rebuild_chunk_row(struct rebuild_chunk *c, const struct event *e)
{
    if (!rebuild_chunk_wants(c, e))
        return STATUS_OK;
    c->rows++;
    return add(c, ITEM_ROW, e->user_id, e->bot_name, e);
}

enum status rebuild_chunk_recorded(struct rebuild_chunk *c, const struct event *e)
{
    return rebuild_chunk_wants(c, e) ? add(c, ITEM_RECORDED, e->user_id, e->bot_name, e)
                                     : STATUS_OK;
}

enum status rebuild_chunk_merge(struct rebuild_chunk *c, struct rebuild_chunk *from)
{
    size_t base = c->bytes.len;
    enum status st = buf_append(&c->bytes, from->bytes.data, from->bytes.len);
    for (size_t i = 0; i < from->n && !st; i++) {
        st = reserve_item(c);
        if (st)
            break;
        struct item moved = from->items[i];
        moved.at += base;
        moved.order = c->n;
        c->items[c->n++] = moved;
    }
    buf_reset(&from->bytes);
    from->n = 0;
    return st;
}

uint64_t rebuild_chunk_rows(const struct rebuild_chunk *c)
{
    return c->rows;
}

uint64_t rebuild_chunk_keys(const struct rebuild_chunk *c)
{
    return c->keys;
}

struct item_text {
    struct str user_id, bot_name, event;
};

static struct item_text text_of(const struct rebuild_chunk *c, const struct item *i)
{
    struct reader r = reader_of(c->bytes.data + i->at, c->bytes.len - i->at);
    struct item_text t = {.user_id = reader_blob(&r), .bot_name = reader_blob(&r)};
    if (i->len)
        t.event = reader_bytes(&r, i->len);
    assert(!r.bad);
    return t;
}

static int compare_str(struct str a, struct str b)
{
    size_t n = a.len < b.len ? a.len : b.len;
    int d = n ? memcmp(a.ptr, b.ptr, n) : 0;
    return d ? d : (a.len > b.len) - (a.len < b.len);
}

static int compare_keys(const struct rebuild_chunk *c, const struct item *a, const struct item *b)
{
    if (a->key != b->key)
        return a->key < b->key ? -1 : 1;
    struct item_text x = text_of(c, a);
    struct item_text y = text_of(c, b);
    int d = compare_str(x.user_id, y.user_id);
    return d ? d : compare_str(x.bot_name, y.bot_name);
}

static int compare_items(const void *a, const void *b, void *ctx)
{
    const struct item *x = a;
    const struct item *y = b;
    int d = compare_keys(ctx, x, y);
    if (d)
        return d;
    if (x->class != y->class)
        return x->class < y->class ? -1 : 1;
    if (x->at_us != y->at_us && x->class == ITEM_ROW)
        return x->at_us < y->at_us ? -1 : 1;
    return (x->order > y->order) - (x->order < y->order);
}

/* Points of metrics are only known again for a while (engines/metrics.h): one that the stream has
 * brought must not come as a row as well. Anything else that comes twice replaces itself. */
static void drop_recorded_metrics(struct item *items, size_t n)
{
    for (size_t r = n; r-- > 0 && items[r].class == ITEM_RECORDED;)
        for (size_t i = 0; i < n && items[r].metric && items[i].class != ITEM_RECORDED; i++)
            items[i].dropped |= items[i].metric == items[r].metric;
}

void rebuild_chunk_sort(struct rebuild_chunk *c)
{
    if (c->n > 1)
        qsort_r(c->items, c->n, sizeof(*c->items), compare_items, c);
    c->keys = 0;
    for (size_t from = 0, to; from < c->n; from = to) {
        for (to = from + 1; to < c->n && !compare_keys(c, &c->items[from], &c->items[to]);)
            to++;
        c->keys++;
        drop_recorded_metrics(c->items + from, to - from);
    }
}

bool rebuild_chunk_at(const struct rebuild_chunk *c, size_t index, struct rebuild_item *ret)
{
    if (index >= c->n)
        return false;
    const struct item *i = &c->items[index];
    struct item_text t = text_of(c, i);
    *ret = (struct rebuild_item){
        .user_id = t.user_id,
        .bot_name = t.bot_name,
        .first = index == 0 || compare_keys(c, i - 1, i) != 0,
        .last = index + 1 == c->n || compare_keys(c, i, i + 1) != 0,
        .event = i->dropped ? STR_NULL : t.event,
    };
    return true;
}
