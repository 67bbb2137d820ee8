#include "ingest/qdrant_walk.h"

#include <assert.h>
#include <math.h>
#include <string.h>
#include <strings.h>

void qdrant_walk_init(struct qdrant_walk *w, enum qdrant_reading reading, double since,
                      uint32_t limit, size_t seen_max)
{
    assert(limit > 0);
    *w = (struct qdrant_walk){
        .reading = reading,
        .since = since,
        .limit = limit,
        .seen_max = seen_max ? seen_max : QDRANT_SEEN_MAX,
        .newest = NAN,
        .at = since,
    };
    /* A page may pass the bound before it is looked at. */
    buf_init(&w->seen, (w->seen_max + limit + 1) * QDRANT_ID_BYTES);
}

void qdrant_walk_deinit(struct qdrant_walk *w)
{
    buf_deinit(&w->seen);
}

/* ---- requests ---- */

static enum status put_id(struct buf *out, const char *id)
{
    bool number = id[strspn(id, "0123456789")] == '\0';
    return number ? buf_printf(out, "%s", id) : buf_printf(out, "\"%s\"", id);
}

static enum status put_range(struct buf *out, const char *low, double value, bool only)
{
    enum status st = buf_printf(
        out, ",\"filter\":{\"must\":[{\"key\":\"" QDRANT_TIME_KEY "\",\"range\":{\"%s\":%.17g", low,
        value);
    if (!st && only)
        st = buf_printf(out, ",\"lte\":%.17g", value);
    return st ? st : buf_append_str(out, STR("}}]}"));
}

static enum status put_seen(const struct qdrant_walk *w, struct buf *out)
{
    enum status st = buf_append_str(out, STR(",\"filter\":{\"must_not\":[{\"has_id\":["));
    for (size_t i = 0; i < w->seen.len && !st; i += QDRANT_ID_BYTES) {
        st = i > 0 ? buf_append_str(out, STR(",")) : STATUS_OK;
        st = st ? st : put_id(out, w->seen.data + i);
    }
    return st ? st : buf_append_str(out, STR("]}]}"));
}

static enum status put_order(const struct qdrant_walk *w, struct buf *out)
{
    enum status st = buf_append_str(
        out, STR(",\"order_by\":{\"key\":\"" QDRANT_TIME_KEY "\",\"direction\":\"asc\""));
    if (!st && isfinite(w->at))
        st = buf_printf(out, ",\"start_from\":%.17g", w->at);
    st = st ? st : buf_append_str(out, STR("}"));
    if (!st && w->behind)
        st = put_range(out, "gt", w->at, false);
    else if (!st && w->seen.len > 0)
        st = put_seen(w, out);
    return st;
}

enum status qdrant_walk_request(const struct qdrant_walk *w, struct buf *out)
{
    enum status st =
        buf_printf(out, "{\"limit\":%u,\"with_payload\":true,\"with_vector\":false", w->limit);
    if (!st && w->reading == QDRANT_READ_ORDERED && !w->exact)
        st = put_order(w, out);
    else if (!st && w->reading == QDRANT_READ_ORDERED)
        st = put_range(out, "gte", w->at, true);
    else if (!st && w->reading == QDRANT_READ_SINCE && isfinite(w->since))
        st = put_range(out, "gte", w->since, false);
    if (!st && w->offset[0]) {
        st = buf_append_str(out, STR(",\"offset\":"));
        st = st ? st : put_id(out, w->offset);
    }
    return st ? st : buf_append_str(out, STR("}"));
}

/* ---- answers ---- */

static enum status page_by_id(struct qdrant_walk *w, const struct qdrant_page *page,
                              struct error *err)
{
    if (page->next[0] && strcmp(page->next, w->offset) == 0)
        return error_set(err, STATUS_PROTOCOL,
                         "next_page_offset is the offset that was asked for: the pages would never "
                         "end");
    memcpy(w->offset, page->next, sizeof(w->offset));
    return w->offset[0] ? STATUS_OK : STATUS_END;
}

static enum status not_in_order(struct error *err)
{
    return error_set(err, STATUS_INVALID,
                     "the answer is not ordered by " QDRANT_TIME_KEY
                     ": the server may be older than 1.8, or points have several values");
}

static bool is_seen(const struct qdrant_walk *w, const char *id)
{
    for (size_t i = 0; i < w->seen.len; i += QDRANT_ID_BYTES)
        if (strcmp(w->seen.data + i, id) == 0)
            return true;
    return false;
}

/* One point of an ordered page. */
static enum status pass_point(struct qdrant_walk *w, const struct qdrant_point *point,
                              struct error *err)
{
    if (!point->has_order || point->order < w->at)
        return not_in_order(err);
    if (point->order > w->at) {
        w->at = point->order;
        w->behind = false;
        buf_reset(&w->seen);
    }
    if (!is_seen(w, point->id) && buf_append(&w->seen, point->id, sizeof(point->id)))
        return error_set(err, STATUS_NOMEM, "could not allocate the ids of a page");
    return STATUS_OK;
}

static enum status page_in_order(struct qdrant_walk *w, const struct qdrant_page *page,
                                 struct error *err)
{
    double was = w->at;
    size_t seen = w->seen.len;
    if (page->next[0])
        return not_in_order(err);
    for (size_t i = 0; i < page->n; i++) {
        struct qdrant_point point;
        enum status st = qdrant_page_point(page, i, &point, err);
        st = st ? st : pass_point(w, &point, err);
        if (st)
            return st;
    }
    if (page->n < w->limit)
        return STATUS_END;
    if (w->at <= was && w->seen.len <= seen)
        return not_in_order(err); /* it only repeated what was to be left out */
    if (w->seen.len / QDRANT_ID_BYTES > w->seen_max) {
        w->exact = true;
        w->offset[0] = '\0';
    }
    return STATUS_OK;
}

enum status qdrant_walk_page(struct qdrant_walk *w, const struct qdrant_page *page,
                             struct error *err)
{
    for (size_t i = 0; i < page->n; i++) {
        struct qdrant_point point;
        enum status st = qdrant_page_point(page, i, &point, err);
        if (st)
            return st;
        if (point.has_order && !(point.order <= w->newest))
            w->newest = point.order;
    }
    if (w->reading == QDRANT_READ_ORDERED && !w->exact)
        return page_in_order(w, page, err);
    enum status st = page_by_id(w, page, err);
    if (st != STATUS_END || w->reading != QDRANT_READ_ORDERED)
        return st;
    w->exact = false;
    w->behind = true;
    buf_reset(&w->seen);
    return STATUS_OK;
}

/* Some 400 or 422 that speaks of an index; the words have changed between versions. */
bool qdrant_is_index_missing(unsigned status, struct str body)
{
    static const char word[] = "index";
    if (status != 400 && status != 422)
        return false;
    for (size_t i = 0; i + sizeof(word) - 1 <= body.len; i++)
        if (strncasecmp(body.ptr + i, word, sizeof(word) - 1) == 0)
            return true;
    return false;
}
