#include "engines/dialogue.h"

#include "engines/sessions.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* What is kept of one session. */
struct result {
    size_t n_segments;
    struct segment segments[];
};

struct dialogue {
    bool started; /* sessions cover the log */
    struct sessions sessions;
    struct dialogue_session *view; /* as last asked for */
    size_t cap_view;
    size_t result_bytes;
};

enum status dialogue_new(struct dialogue **ret)
{
    *ret = calloc(1, sizeof(**ret));
    return *ret ? STATUS_OK : STATUS_NOMEM;
}

void dialogue_void(struct dialogue *d)
{
    sessions_deinit(&d->sessions);
    d->started = false;
}

void dialogue_free(struct dialogue *d)
{
    if (!d)
        return;
    dialogue_void(d);
    free(d->view);
    free(d);
}

void dialogue_insert(struct dialogue *d, const struct key_log *log, size_t index)
{
    if (d->started && sessions_insert(&d->sessions, log, index))
        dialogue_void(d);
}

void dialogue_retract(struct dialogue *d, const struct key_log *log, size_t index)
{
    if (d->started && sessions_retract(&d->sessions, log, index))
        dialogue_void(d);
}

static enum status start(struct dialogue *d, const struct key_log *log)
{
    struct key_log prefix = *log;
    for (size_t i = 0; i < log->n_messages; i++) {
        prefix.n_messages = i + 1;
        if (sessions_insert(&d->sessions, &prefix, i)) {
            dialogue_void(d);
            return STATUS_NOMEM;
        }
    }
    d->started = true;
    return STATUS_OK;
}

/* NULL when there is no memory. */
static struct result *evaluate(const struct key_log *log, size_t first, size_t n)
{
    struct segment segments[RECORD_SESSION_MAX];
    size_t n_segments = segment_session(&log->messages[first], n, segments);
    struct result *r = malloc(sizeof(*r) + n_segments * sizeof(*segments));
    if (!r)
        return NULL;
    r->n_segments = n_segments;
    memcpy(r->segments, segments, n_segments * sizeof(*segments));
    return r;
}

static enum status view_room(struct dialogue *d)
{
    if (d->sessions.n <= d->cap_view)
        return STATUS_OK;
    size_t cap = d->sessions.n + d->sessions.n / 2 + 2;
    struct dialogue_session *view = realloc(d->view, cap * sizeof(*view));
    if (!view)
        return STATUS_NOMEM;
    d->view = view;
    d->cap_view = cap;
    return STATUS_OK;
}

enum status dialogue_sessions(const struct key_log *log, const struct dialogue_session **ret,
                              size_t *ret_n, struct error *err)
{
    struct dialogue *d = log->dialogue;
    assert(d);
    if ((!d->started && start(d, log)) || view_room(d))
        return error_set(err, STATUS_NOMEM, "could not allocate sessions");
    assert(d->sessions.n_messages == log->n_messages);
    size_t first = 0;
    d->result_bytes = 0;
    for (size_t i = 0; i < d->sessions.n; i++) {
        struct session *s = &d->sessions.at[i];
        if (!s->cache)
            s->cache = evaluate(log, first, s->n);
        if (!s->cache)
            return error_set(err, STATUS_NOMEM, "could not allocate the topics of a session");
        const struct result *r = s->cache;
        d->view[i] =
            (struct dialogue_session){first, s->n, s->continues, r->segments, r->n_segments};
        d->result_bytes += sizeof(*r) + r->n_segments * sizeof(r->segments[0]);
        first += s->n;
    }
    *ret = d->view;
    *ret_n = d->sessions.n;
    return STATUS_OK;
}

size_t dialogue_bytes(const struct dialogue *d)
{
    if (!d)
        return 0;
    return sizeof(*d) + d->sessions.cap * sizeof(*d->sessions.at) + d->cap_view * sizeof(*d->view) +
           d->result_bytes;
}
