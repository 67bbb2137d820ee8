#include "server/qdrant_internal.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "core/log.h"
#include "core/metrics.h"

#define GONE_BATCH    200
#define RETRY_AFTER_S 3600 /* a server may ask for so long at most */

/* ---- points to events ---- */

static const char *kind_of(const struct event *e)
{
    return e->type == EVENT_MEMORY            ? "memory"
           : e->type == EVENT_MESSAGE         ? "message"
           : e->type == EVENT_MESSAGE_DELETED ? "message_deleted"
                                              : "dead_letter";
}

static enum status add_change(struct qdrant_pull *p, struct str id, struct str known)
{
    enum status st = buf_put_bytes(&p->changes, id);
    return st ? st : buf_put_bytes(&p->changes, known);
}

static enum status add_events(struct qdrant_pull *p, struct error *err)
{
    for (size_t i = 0; i < p->found.n; i++) {
        const struct event *e = &p->found.events[i];
        buf_reset(&p->scratch);
        enum status st = event_encode(e, &p->scratch, err);
        if (!st && buf_put_bytes(&p->events, (struct str){p->scratch.data, p->scratch.len}))
            st = error_set(err, STATUS_NOMEM, "could not allocate the events of a point");
        if (st)
            return st;
        p->n_events++;
        metric_add(METRIC_EVENTS_RECEIVED, p->cfg->name, kind_of(e), 1);
    }
    metric_add(METRIC_EVENTS_IGNORED, p->cfg->name, NULL, p->found.ignored);
    return STATUS_OK;
}

static enum status take_point(struct qdrant_pull *p, const struct qdrant_point *point,
                              struct error *err)
{
    struct qdrant_known was;
    struct str bytes = STR_NULL, id = str_from(point->id);
    enum status found = points_find(p->points, id, &bytes, err);
    if (found && found != STATUS_END)
        return found;
    enum status st = found ? STATUS_OK : qdrant_known_decode(bytes, &was, err);
    event_arena_reset(p->arena);
    st = st ? st
            : qdrant_point_events(&p->rules, point, found ? NULL : &was, p->arena, &p->scratch,
                                  &p->found, err);
    if (st || !p->found.changed)
        return st;
    st = add_events(p, err);
    if (st)
        return st;
    buf_reset(&p->scratch);
    st = qdrant_known_encode(&p->found.known, &p->scratch);
    st = st ? st : add_change(p, id, (struct str){p->scratch.data, p->scratch.len});
    return st ? error_set(err, st, "could not allocate what is remembered of a point") : STATUS_OK;
}

static enum status take_page(struct qdrant_pull *p, const struct qdrant_page *page,
                             struct error *err)
{
    p->rules.now_us = clock_wall_us(p->clock);
    for (size_t i = 0; i < page->n; i++) {
        struct qdrant_point point;
        enum status st = qdrant_page_point(page, i, &point, err);
        st = st ? st : take_point(p, &point, err);
        if (!st && p->events.len >= QDRANT_DELIVERY_BYTES)
            st = qdrant_deliver(p, err);
        if (st)
            return st;
    }
    return STATUS_OK;
}

/* ---- requests ---- */

/* What to do about an answer that is no page. */
static enum status refused(struct qdrant_pull *p, const struct http_client_reply *r, bool ordered,
                           struct error *err)
{
    char said[200];
    (void)http_client_excerpt(r->body, p->cfg->api_key, said, sizeof(said));
    p->status = r->status;
    p->away = r->status == 429 || r->status >= 500;
    metric_add(METRIC_PULL_REQUESTS, p->cfg->name,
               r->status == 429   ? "throttled"
               : r->status >= 500 ? "failed"
                                  : "refused",
               1);
    p->retry_after_s = r->retry_after_s < RETRY_AFTER_S ? r->retry_after_s : RETRY_AFTER_S;
    if (p->away)
        return error_set(err, STATUS_AGAIN, "%s: status %u: %s", p->url, r->status, said);
    if (ordered && qdrant_is_index_missing(r->status, r->body))
        return error_set(err, STATUS_INVALID,
                         "%s: there is no index to order by: create one for the field "
                         "\"" QDRANT_TIME_KEY "\" (type float or integer), or set "
                         "qdrant[].mode to scroll: %s",
                         p->url, said);
    const char *fix = "see what the server says";
    if (r->status == 401 || r->status == 403)
        fix = "qdrant[].api_key must be a key that may read the collection";
    else if (r->status == 404)
        fix = "there is no such collection: check qdrant[].collection and qdrant[].url";
    else if (r->status >= 300 && r->status < 400)
        fix = "redirects are not followed: set qdrant[].url to where it points";
    return error_set(err, STATUS_REFUSED, "%s: status %u: %s: %s", p->url, r->status, fix, said);
}

static enum status fetch(struct qdrant_pull *p, const struct qdrant_walk *w,
                         struct qdrant_page *ret, struct error *err)
{
    buf_reset(&p->request);
    if (qdrant_walk_request(w, &p->request))
        return error_set(err, STATUS_NOMEM, "could not allocate a request");
    struct http_client_call call = {
        .url = p->url,
        .headers = {*p->cfg->api_key ? p->api_key : NULL},
        .post = true,
        .body = {p->request.data, p->request.len},
    };
    struct http_client_reply reply;
    enum status st = http_client_call(p->client, &call, &reply, err);
    p->away = st == STATUS_IO;
    p->retry_after_s = p->status = 0;
    if (st && st != STATUS_END)
        metric_add(METRIC_PULL_REQUESTS, p->cfg->name, "failed", 1);
    if (st)
        return st;
    if (reply.status != 200)
        return refused(p, &reply, w->reading == QDRANT_READ_ORDERED, err);
    st = qdrant_page_read(reply.body, ret, err);
    metric_add(METRIC_PULL_REQUESTS, p->cfg->name, st ? "failed" : "ok", 1);
    return st;
}

/* The cursor only goes on, and never beyond the time at which the reading began: a writer whose
 * clock is ahead must not hide what the others write. */
static void advance(struct qdrant_pull *p, double to, int64_t started_us)
{
    double us = to * (double)US_PER_SECOND;
    int64_t at_us = us >= (double)started_us ? started_us : (int64_t)us;
    if (isnan(to) || us < (double)TIME_MIN_US)
        at_us = p->has_at ? p->at_us : started_us;
    if (!p->has_at || at_us > p->at_us)
        p->at_us = at_us;
}

/* One page: read, turned into events. OK: there is more; END: that was all. */
static enum status read_page(struct qdrant_pull *p, struct qdrant_walk *w, bool *ret_end,
                             struct error *err)
{
    struct qdrant_page page = {0};
    enum status st = fetch(p, w, &page, err);
    if (!st) {
        st = qdrant_walk_page(w, &page, err);
        *ret_end = st == STATUS_END;
        if (!st || st == STATUS_END)
            st = take_page(p, &page, err);
    }
    qdrant_page_deinit(&page);
    if (st)
        qdrant_forget_batch(p);
    return st;
}

/* ---- readings ---- */

/* What is new, as often as the interval says. */
static enum status poll_pages(struct qdrant_pull *p, struct qdrant_walk *w, struct error *err)
{
    int64_t started_us = clock_wall_us(p->clock);
    for (bool end = false; !end;) {
        enum status st = read_page(p, w, &end, err);
        if (st)
            return st;
        int64_t was_us = p->at_us;
        /* Pages by id are in no order of time: what they reach counts when all have been read. */
        if (w->reading == QDRANT_READ_ORDERED)
            advance(p, isfinite(w->at) ? w->at : NAN, started_us);
        else if (end)
            advance(p, w->newest, started_us);
        if (p->changes.len > 0 || p->at_us != was_us)
            st = qdrant_deliver(p, err);
        if (st)
            return st;
    }
    return STATUS_OK;
}

static enum status poll_reading(struct qdrant_pull *p, enum qdrant_reading reading,
                                struct error *err)
{
    struct qdrant_walk w;
    double since = (double)(p->at_us - p->cfg->overlap_us) / (double)US_PER_SECOND;
    qdrant_walk_init(&w, reading, since, (uint32_t)p->cfg->page, 0);
    enum status st = poll_pages(p, &w, err);
    qdrant_walk_deinit(&w);
    return st;
}

static enum status poll(struct qdrant_pull *p, struct error *err)
{
    enum status st = STATUS_INVALID;
    if (p->ordered)
        st = poll_reading(p, QDRANT_READ_ORDERED, err);
    if (st == STATUS_INVALID && p->cfg->mode != QDRANT_ORDER_BY) {
        if (p->ordered && !p->told_unordered)
            log_write(LOG_INFO, "qdrant", "reading by id from now on source=\"%s\" reason=\"%s\"",
                      p->cfg->name, err->text);
        p->told_unordered |= p->ordered;
        p->ordered = false;
        st = poll_reading(p, QDRANT_READ_SINCE, err);
    }
    if (!st)
        p->next_poll_us = clock_mono_us(p->clock) + p->cfg->interval_us;
    return st;
}

static enum status sweep_start(struct qdrant_pull *p, struct error *err)
{
    qdrant_walk_deinit(&p->sweep);
    qdrant_walk_init(&p->sweep, QDRANT_READ_ALL, -INFINITY, (uint32_t)p->cfg->page, 0);
    p->sweep_started_us = clock_wall_us(p->clock);
    enum status st = points_sweep_begin(p->points, err);
    p->sweeping = st == STATUS_OK;
    return st;
}

/* All pages came. */
static enum status sweep_finish(struct qdrant_pull *p, struct error *err)
{
    uint64_t total = 0, missing = 0;
    p->sweeping = false;
    if (!p->has_at) {
        advance(p, p->sweep.newest, p->sweep_started_us);
        p->has_at = true;
        enum status st = qdrant_deliver(p, err);
        if (st) {
            p->has_at = false;
            return st;
        }
    }
    enum status st = points_sweep_end(p->points, clock_wall_us(p->clock), &total, &missing, err);
    if (st)
        return st;
    p->removing = true;
    p->ordered = p->cfg->mode != QDRANT_SCROLL; /* there may be an index by now */
    p->next_sweep_us = clock_mono_us(p->clock) + p->cfg->sweep_us;
    log_write(missing * 2 > total && missing > 1 ? LOG_WARN : LOG_DEBUG, "qdrant",
              "all points have been read source=\"%s\" points=%" PRIu64 " missing=%" PRIu64
              " (what the next sweep does not bring either is deleted)",
              p->cfg->name, total, missing);
    return STATUS_OK;
}

static enum status sweep_page(struct qdrant_pull *p, struct error *err)
{
    bool end = false;
    enum status st = p->sweeping ? STATUS_OK : sweep_start(p, err);
    st = st ? st : read_page(p, &p->sweep, &end, err);
    if (!st && p->changes.len > 0)
        st = qdrant_deliver(p, err);
    /* While the server is only away, the sweep waits for it. Anything else, such as a page that
     * came but was not stored, begins it anew. */
    if (st && !p->away)
        p->sweeping = false;
    if (st || !end)
        return st;
    return sweep_finish(p, err);
}

/* ---- deletions ---- */

struct gone {
    struct qdrant_pull *p;
    struct buf ids, again; /* to be removed; to be sent again should they come back before that */
    uint32_t n;
};

static enum status take_gone(void *ctx, struct str id, struct str bytes, struct error *err)
{
    struct gone *g = ctx;
    struct qdrant_pull *p = g->p;
    struct qdrant_known was;
    enum status st = qdrant_known_decode(bytes, &was, err);
    if (st)
        return st;
    g->n++;
    qdrant_gone_events(&p->rules, id, &was, &p->found);
    st = add_events(p, err);
    if (st)
        return st;
    was.hash = 0;
    was.accesses = 0;
    buf_reset(&p->scratch);
    st = qdrant_known_encode(&was, &p->scratch);
    st = st ? st : buf_put_bytes(&g->again, id);
    st = st ? st : buf_put_bytes(&g->again, (struct str){p->scratch.data, p->scratch.len});
    st = st ? st : buf_put_bytes(&g->ids, id);
    st = st ? st : buf_put_bytes(&g->ids, STR(""));
    return st ? error_set(err, st, "could not allocate deletions") : STATUS_OK;
}

static enum status note_changes(struct qdrant_pull *p, const struct buf *changes, struct error *err)
{
    buf_reset(&p->changes);
    if (buf_append(&p->changes, changes->data, changes->len))
        return error_set(err, STATUS_NOMEM, "could not allocate deletions");
    return STATUS_OK;
}

/* The points lose their hash before the deletions are submitted: if a crash follows and one comes
 * back just as it was, it is sent again. */
static enum status remove_batch(struct qdrant_pull *p, struct gone *g, struct error *err)
{
    enum status st = points_gone(p->points, GONE_BATCH, take_gone, g, err);
    if (!st && g->n > 0)
        st = note_changes(p, &g->again, err);
    if (!st && g->n > 0)
        st = qdrant_remember(p, err);
    if (!st && g->n > 0)
        st = note_changes(p, &g->ids, err);
    if (!st && g->n > 0)
        st = qdrant_deliver(p, err);
    if (!st && g->n < GONE_BATCH)
        p->removing = false;
    return st;
}

static enum status remove_gone(struct qdrant_pull *p, struct error *err)
{
    struct gone g = {.p = p};
    p->rules.now_us = clock_wall_us(p->clock);
    buf_init(&g.ids, QDRANT_EVENTS_BYTES);
    buf_init(&g.again, QDRANT_EVENTS_BYTES);
    qdrant_forget_batch(p);
    enum status st = remove_batch(p, &g, err);
    qdrant_forget_batch(p);
    buf_deinit(&g.ids);
    buf_deinit(&g.again);
    return st;
}

/* ---- what is due ---- */

enum status qdrant_read_step(struct qdrant_pull *p, struct error *err)
{
    p->away = false;
    p->retry_after_s = p->status = 0;
    if (p->removing)
        return remove_gone(p, err);
    if (p->has_at && clock_mono_us(p->clock) >= p->next_poll_us)
        return poll(p, err);
    return sweep_page(p, err);
}
