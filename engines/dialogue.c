#include "engines/dialogue.h"

#include "engines/epoch.h"
#include "engines/sessions.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define WALK_KEPT_MIN 16 /* messages; a shorter session is walked again in no time */

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
    /* The walk over the newest session, as far as somebody asked; NULL: not begun. */
    struct segmenter *walk;
};

enum status dialogue_new(struct dialogue **ret)
{
    *ret = calloc(1, sizeof(**ret));
    return *ret ? STATUS_OK : STATUS_NOMEM;
}

static void walk_void(struct dialogue *d)
{
    free(d->walk);
    d->walk = NULL;
}

void dialogue_void(struct dialogue *d)
{
    sessions_deinit(&d->sessions);
    walk_void(d);
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

/* First message of the newest run: a change before it leaves the newest session as it is. */
static size_t newest_run(const struct sessions *s)
{
    size_t i = s->n, first = s->n_messages;
    do
        first -= s->at[--i].n;
    while (i > 0 && s->at[i].continues);
    return first;
}

void dialogue_insert(struct dialogue *d, const struct key_log *log, size_t index)
{
    if (!d->started)
        return;
    size_t n = d->sessions.n;
    bool append = index == d->sessions.n_messages;
    bool inside = !append && index >= newest_run(&d->sessions);
    if (sessions_insert(&d->sessions, log, index))
        dialogue_void(d);
    else if (inside || (append && d->sessions.n > n))
        walk_void(d);
}

void dialogue_retract(struct dialogue *d, const struct key_log *log, size_t index)
{
    if (!d->started)
        return;
    if (index >= newest_run(&d->sessions))
        walk_void(d);
    if (sessions_retract(&d->sessions, log, index))
        dialogue_void(d);
}

static enum status start(struct dialogue *d, const struct key_log *log, struct error *err)
{
    struct key_log prefix = *log;
    for (size_t i = 0; !d->started && i < log->n_messages; i++) {
        prefix.n_messages = i + 1;
        if (sessions_insert(&d->sessions, &prefix, i)) {
            dialogue_void(d);
            return error_set(err, STATUS_NOMEM, "could not allocate sessions");
        }
    }
    d->started = true;
    assert(d->sessions.n_messages == log->n_messages);
    return STATUS_OK;
}

/* Brings the walk over the messages [first, end) up to its end. */
static void walk_on(struct segmenter *walk, const struct key_log *log, size_t first, size_t end)
{
    while (first + walk->n < end)
        segmenter_add(walk, log, first);
}

static void walk_begin(struct segmenter *walk, const struct key_log *log, size_t first)
{
    int32_t day = kernel_day(log->messages[first].t_us);
    segmenter_start(walk, switch_threshold(epoch_switch_scores(log->epochs, day)));
}

/* The walk over the newest session, up to date; NULL when there is no memory. */
static const struct segmenter *newest(struct dialogue *d, const struct key_log *log)
{
    size_t first = log->n_messages - d->sessions.at[d->sessions.n - 1].n;
    if (!d->walk) {
        d->walk = malloc(sizeof(*d->walk));
        if (!d->walk)
            return NULL;
        walk_begin(d->walk, log, first);
    }
    assert(first + d->walk->n <= log->n_messages);
    walk_on(d->walk, log, first, log->n_messages);
    return d->walk;
}

/* NULL when there is no memory. */
static struct result *evaluate(struct dialogue *d, const struct key_log *log, size_t first,
                               size_t n)
{
    struct segmenter closed;
    const struct segmenter *walk = &closed;
    if (first + n == log->n_messages) {
        walk = newest(d, log);
        if (!walk)
            return NULL;
    } else {
        walk_begin(&closed, log, first);
        walk_on(&closed, log, first, first + n);
    }
    struct result *r = malloc(sizeof(*r) + walk->n_starts * sizeof(r->segments[0]));
    if (!r)
        return NULL;
    r->n_segments = walk->n_starts;
    segmenter_segments(walk, log, first, r->segments);
    if (n < WALK_KEPT_MIN && walk == d->walk)
        walk_void(d);
    return r;
}

static enum status view_room(struct dialogue *d, struct error *err)
{
    if (d->sessions.n <= d->cap_view)
        return STATUS_OK;
    size_t cap = d->sessions.n + d->sessions.n / 2 + 2;
    struct dialogue_session *view = realloc(d->view, cap * sizeof(*view));
    if (!view)
        return error_set(err, STATUS_NOMEM, "could not allocate sessions");
    d->view = view;
    d->cap_view = cap;
    return STATUS_OK;
}

enum status dialogue_sessions(const struct key_log *log, const struct dialogue_session **ret,
                              size_t *ret_n, struct error *err)
{
    struct dialogue *d = log->dialogue;
    assert(d);
    enum status st = start(d, log, err);
    st = st ? st : view_room(d, err);
    if (st)
        return st;
    size_t first = 0;
    d->result_bytes = 0;
    for (size_t i = 0; i < d->sessions.n; i++) {
        struct session *s = &d->sessions.at[i];
        if (!s->cache)
            s->cache = evaluate(d, log, first, s->n);
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

enum status dialogue_switch(const struct key_log *log, size_t index, struct dialogue_switch *ret,
                            struct error *err)
{
    struct dialogue *d = log->dialogue;
    assert(d);
    assert(index < log->n_messages);
    enum status st = start(d, log, err);
    if (st)
        return st;
    struct segmenter prefix;
    const struct segmenter *walk = &prefix;
    if (index + 1 == log->n_messages) {
        walk = newest(d, log);
        if (!walk)
            return error_set(err, STATUS_NOMEM, "could not allocate the topics of a session");
    } else {
        size_t first;
        sessions_find(&d->sessions, index, &first);
        walk_begin(&prefix, log, first);
        walk_on(&prefix, log, first, index + 1);
    }
    *ret = (struct dialogue_switch){.opens = walk->opened,
                                    .by_embedding = walk->by_embedding,
                                    .p = walk->p[walk->n - 1],
                                    .position = walk->n - 1u};
    return STATUS_OK;
}

enum status dialogue_switch_final(const struct key_log *log, size_t index,
                                  struct dialogue_switch *ret, struct error *err)
{
    struct dialogue *d = log->dialogue;
    enum status st = dialogue_switch(log, index, ret, err);
    if (st)
        return st;
    struct segmenter walk;
    size_t first;
    const struct session *s = &d->sessions.at[sessions_find(&d->sessions, index, &first)];
    walk_begin(&walk, log, first);
    walk_on(&walk, log, first, first + s->n);
    ret->opens = false;
    for (size_t i = 1; i < walk.n_starts; i++)
        ret->opens = ret->opens || first + walk.starts[i] == index;
    return STATUS_OK;
}

void dialogue_learn(const struct key_log *log, size_t block, struct epoch_delta *delta)
{
    struct dialogue *d = log->dialogue;
    struct error err;
    assert(d);
    if (start(d, log, &err))
        return;
    size_t n = d->sessions.at[d->sessions.n - 1].n;
    if (n % block)
        return;
    struct segmenter anew;
    const struct segmenter *walk = &anew;
    if (d->walk) {
        walk = newest(d, log);
    } else {
        walk_begin(&anew, log, log->n_messages - n);
        walk_on(&anew, log, log->n_messages - n, log->n_messages);
    }
    for (size_t i = n > block ? n - block : 1; i < n; i++)
        epoch_learn(delta, switch_cell(walk->p[i], walk->embedded[i]), 1);
}

size_t dialogue_bytes(const struct dialogue *d)
{
    if (!d)
        return 0;
    return sizeof(*d) + d->sessions.cap * sizeof(*d->sessions.at) + d->cap_view * sizeof(*d->view) +
           d->result_bytes + (d->walk ? sizeof(*d->walk) : 0);
}
