/*
 * The naive twin of engines/context_switch.c: segments are numbers on messages (places.h), topics
 * the numbers of their first segments (topics.h); everything else is looked up message by message.
 */
#include "engines/context_switch_row.h"
#include "engines/oracle/places.h"
#include "engines/oracle/topics.h"

#include "core/clock.h"

#include <stdlib.h>
#include <string.h>

struct world {
    const struct oracle_view *view;
    struct oracle_place *places;
    struct oracle_topic *topics;
    size_t n;
    struct cs_counts *out;
};

static const struct msg_rec *record(const struct world *w, size_t i)
{
    return &w->view->messages[i]->u.message;
}

static bool opens(const struct world *w, size_t i)
{
    return i == 0 || w->places[i].segment != w->places[i - 1].segment;
}

/* One past the last message of the segment that begins at i. */
static size_t end_of(const struct world *w, size_t i)
{
    size_t end = i + 1;
    while (end < w->n && !opens(w, end))
        end++;
    return end;
}

static bool closes_session(const struct world *w, size_t last)
{
    return last + 1 == w->n || w->places[last + 1].session != w->places[last].session;
}

/* How many topics began before the one that message i is in; CS_OTHER for none. */
static uint8_t topic_of(const struct world *w, size_t i)
{
    size_t topic = w->topics[i].topic, number = 0;
    if (topic == ORACLE_NO_TOPIC)
        return CS_OTHER;
    for (size_t k = 0; k < i && w->places[k].segment < topic; k++)
        number += opens(w, k) && w->topics[k].topic == w->places[k].segment;
    return (uint8_t)number;
}

static void look_at_messages(const struct world *w)
{
    struct cs_counts *out = w->out;
    for (size_t i = 0; i < w->n; i++) {
        bool user = !(record(w, i)->flags & MSG_BOT);
        out->embedded = out->embedded || w->view->messages[i]->embedding.model;
        out->n_user += user;
        out->n_text += user && record(w, i)->chars > 0;
        out->emotional = out->emotional || (user && record(w, i)->flags & MSG_HAS_EMOTION);
    }
    int64_t first_us = w->view->messages[0]->t_us, last_us = w->view->messages[w->n - 1]->t_us;
    int64_t leaves_us = first_us + RECORD_WINDOW_US;
    out->next_expiry_us =
        leaves_us - ((leaves_us % US_PER_HOUR) + US_PER_HOUR) % US_PER_HOUR + US_PER_HOUR;
    out->session_open = w->view->as_of_us - last_us < RECORD_SESSION_GAP_US;
    if (out->session_open)
        out->session_close_us = last_us + RECORD_SESSION_GAP_US;
}

static void look_at_segment(const struct world *w, size_t first)
{
    struct cs_counts *out = w->out;
    size_t end = end_of(w, first);
    struct cs_segment s = {.topic = topic_of(w, first),
                           .ends_session = closes_session(w, end - 1),
                           .messages = (uint32_t)(end - first),
                           .start_us = w->view->messages[first]->t_us,
                           .end_us = w->view->messages[end - 1]->t_us};
    s.until_us = s.ends_session ? s.end_us : w->view->messages[end]->t_us;
    size_t later = 0;
    for (size_t i = first; i < end; i++) {
        const struct msg_rec *m = record(w, i);
        if (m->flags & MSG_BOT || !(m->flags & MSG_HAS_EMOTION))
            continue;
        s.n_valence++;
        s.valence_sum += m->valence;
    }
    cs_segment(out, &s);
    for (size_t i = end; i < w->n; i++)
        later += opens(w, i);
    if (later < CS_RECENT_MAX) {
        out->recent[later] = s;
        out->n_recent++;
    }
    if (s.topic != CS_OTHER && w->topics[first].topic == w->places[first].segment) {
        memcpy(out->labels[s.topic].text, w->topics[first].label, w->topics[first].label_len);
        out->labels[s.topic].len = w->topics[first].label_len;
    }
    if (first == 0)
        return;
    uint8_t before = topic_of(w, first - 1);
    if (s.topic == CS_OTHER || before == CS_OTHER)
        return;
    if (w->places[first].session == w->places[first - 1].session) {
        out->edges[before][s.topic] += before != s.topic;
    } else if (w->places[first].run != w->places[first - 1].run) {
        out->returns++;
        out->moved += before != s.topic;
    }
}

static void look_at_sessions(const struct world *w)
{
    for (size_t i = 0; i < w->n; i++) {
        if (!closes_session(w, i))
            continue;
        size_t first = i - w->places[i].position;
        int64_t us = w->view->messages[i]->t_us - w->view->messages[first]->t_us;
        w->out->active_us += us > US_PER_MINUTE ? us : US_PER_MINUTE;
    }
}

static enum status emit(const struct oracle_view *view, struct row *row, struct error *err)
{
    struct cs_counts out = {.as_of_us = view->as_of_us,
                            .truncated = view->truncated,
                            .next_expiry_us = INT64_MAX,
                            .session_close_us = INT64_MAX};
    struct world w = {.view = view, .n = view->n_messages, .out = &out};
    w.places = calloc(w.n + 1, sizeof(*w.places));
    w.topics = calloc(w.n + 1, sizeof(*w.topics));
    enum status st = w.places && w.topics ? oracle_topics(view, w.topics) : STATUS_NOMEM;
    if (!st && w.n > 0) {
        oracle_places(view, w.places);
        look_at_messages(&w);
        look_at_sessions(&w);
        for (size_t i = 0; i < w.n; i++)
            if (opens(&w, i))
                look_at_segment(&w, i);
    }
    free(w.places);
    free(w.topics);
    return st ? error_set(err, st, "could not recount topics") : cs_write(&out, row, err);
}

extern const struct oracle_ops oracle_context_switch;
const struct oracle_ops oracle_context_switch = {.engine = "context_switch", .emit = emit};
