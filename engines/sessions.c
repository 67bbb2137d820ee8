#include "engines/sessions.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define NO_INDEX SIZE_MAX

static void session_void(struct session *s)
{
    free(s->cache);
    s->cache = NULL;
}

void sessions_deinit(struct sessions *s)
{
    for (size_t i = 0; i < s->n; i++)
        session_void(&s->at[i]);
    free(s->at);
    memset(s, 0, sizeof(*s));
}

size_t sessions_find(const struct sessions *s, size_t index, size_t *ret_first)
{
    assert(index < s->n_messages);
    /* New messages land at the end and expiring ones lie at the start: look from the nearer side.
     */
    if (index < s->n_messages / 2) {
        size_t i = 0, first = 0;
        while (first + s->at[i].n <= index)
            first += s->at[i++].n;
        *ret_first = first;
        return i;
    }
    size_t i = s->n - 1, first = s->n_messages - s->at[i].n;
    while (first > index)
        first -= s->at[--i].n;
    *ret_first = first;
    return i;
}

/* Makes room for `n` sessions in place of `old` at position p; their contents are the caller's. */
static enum status replace(struct sessions *s, size_t p, size_t old, size_t n)
{
    size_t total = s->n - old + n;
    if (total > s->cap) {
        size_t cap = total + total / 2 + 2;
        struct session *at = realloc(s->at, cap * sizeof(*at));
        if (!at)
            return STATUS_NOMEM;
        s->at = at;
        s->cap = cap;
    }
    for (size_t i = p; i < p + old; i++)
        session_void(&s->at[i]);
    memmove(&s->at[p + n], &s->at[p + old], (s->n - p - old) * sizeof(*s->at));
    memset(&s->at[p], 0, n * sizeof(*s->at));
    s->n = total;
    return STATUS_OK;
}

static bool gap_ends(int64_t before_us, int64_t after_us)
{
    return after_us - before_us >= RECORD_SESSION_GAP_US;
}

/*
 * Cuts the messages [first, end) without `skip` into sessions; the first of them starts one. Writes
 * to ret unless it is NULL; returns how many there are.
 */
static size_t cut(const struct key_log *log, size_t first, size_t end, size_t skip,
                  struct session *ret)
{
    size_t n = 0;
    size_t in_session = 0;
    size_t prev = first ? first - 1 : NO_INDEX;
    for (size_t i = first; i < end; i++) {
        if (i == skip)
            continue;
        bool new_run =
            prev == NO_INDEX || gap_ends(log->messages[prev].t_us, log->messages[i].t_us);
        if (new_run || n == 0 || in_session == RECORD_SESSION_MAX) {
            in_session = 0;
            if (ret)
                ret[n].continues = !new_run;
            n++;
        }
        in_session++;
        if (ret)
            ret[n - 1].n = (uint32_t)in_session;
        prev = i;
    }
    return n;
}

/* Cuts sessions [p0, p1) anew; they cover the messages [first, end). */
static enum status reflow(struct sessions *s, const struct key_log *log, size_t p0, size_t p1,
                          size_t first, size_t end, size_t skip)
{
    size_t n = cut(log, first, end, skip, NULL);
    enum status st = replace(s, p0, p1 - p0, n);
    if (st != STATUS_OK)
        return st;
    cut(log, first, end, skip, &s->at[p0]);
    return STATUS_OK;
}

/* One past the last piece of the run that session p belongs to; adds the pieces' sizes to *end. */
static size_t run_end(const struct sessions *s, size_t p, size_t *end)
{
    *end += s->at[p++].n;
    while (p < s->n && s->at[p].continues)
        *end += s->at[p++].n;
    return p;
}

static enum status append(struct sessions *s, const struct key_log *log, size_t index)
{
    struct session *last = s->n ? &s->at[s->n - 1] : NULL;
    bool joins = last && !gap_ends(log->messages[index - 1].t_us, log->messages[index].t_us);
    if (joins && last->n < RECORD_SESSION_MAX) {
        session_void(last);
        last->n++;
        return STATUS_OK;
    }
    enum status st = replace(s, s->n, 0, 1);
    if (st != STATUS_OK)
        return st;
    s->at[s->n - 1].n = 1;
    s->at[s->n - 1].continues = joins;
    return STATUS_OK;
}

enum status sessions_insert(struct sessions *s, const struct key_log *log, size_t index)
{
    assert(log->n_messages == s->n_messages + 1);
    enum status st;
    if (index == s->n_messages) {
        st = append(s, log, index);
    } else {
        /* Positions here are those before the insertion, until `end` is moved by the new record. */
        size_t first = 0;
        size_t p0 = index ? sessions_find(s, index - 1, &first) : 0;
        size_t end = first;
        size_t p1 = run_end(s, p0, &end);
        /* Between two runs it may join the later one, or both. */
        if (index >= end && p1 < s->n)
            p1 = run_end(s, p1, &end);
        st = reflow(s, log, p0, p1, first, end + 1, NO_INDEX);
    }
    if (st == STATUS_OK)
        s->n_messages++;
    return st;
}

enum status sessions_retract(struct sessions *s, const struct key_log *log, size_t index)
{
    assert(log->n_messages == s->n_messages);
    size_t first;
    size_t p0 = sessions_find(s, index, &first);
    size_t end = first;
    size_t p1 = run_end(s, p0, &end);
    enum status st = STATUS_OK;
    bool at_edge = index == first || index + 1 == end;
    if (p1 == p0 + 1 && !s->at[p0].continues && at_edge) {
        /* Nothing is left to split: the common case of expiry. */
        session_void(&s->at[p0]);
        if (--s->at[p0].n == 0)
            st = replace(s, p0, 1, 0);
    } else {
        st = reflow(s, log, p0, p1, first, end, index);
    }
    if (st == STATUS_OK)
        s->n_messages--;
    return st;
}
