/* tests/core/event_equal.h - deep comparison of two events, with NaN equal to NaN. */
#pragma once

#include "core/event.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

/* "No value" and the empty string differ, except where the public form cannot tell them apart. */
static bool same_str(struct str a, struct str b)
{
    return str_equal(a, b) && (a.ptr == NULL) == (b.ptr == NULL);
}

static bool same_number(double a, double b)
{
    return a == b || (isnan(a) && isnan(b));
}

static bool same_traits(const struct event_trait *a, const struct event_trait *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!same_str(a[i].name, b[i].name) || !same_number(a[i].weight, b[i].weight))
            return false;
    return true;
}

static bool same_message(const struct event_message *a, const struct event_message *b)
{
    return a->role == b->role && a->op == b->op && same_str(a->content, b->content) &&
           same_str(a->emotion, b->emotion) &&
           same_number(a->emotion_confidence, b->emotion_confidence) &&
           same_str(a->embedding_model, b->embedding_model) &&
           a->embedding_dims == b->embedding_dims && !a->embedding == !b->embedding &&
           (!a->embedding ||
            memcmp(a->embedding, b->embedding, a->embedding_dims * sizeof(float)) == 0) &&
           a->n_traits == b->n_traits &&
           same_traits(a->traits, b->traits,
                       a->n_traits < LIMIT_TRAITS ? a->n_traits : LIMIT_TRAITS) &&
           same_str(a->channel_id, b->channel_id);
}

static bool same_memory(const struct event_memory *a, const struct event_memory *b)
{
    return a->op == b->op && same_str(a->memory_id, b->memory_id) &&
           same_number(a->score, b->score) && a->grade == b->grade && a->outcome == b->outcome &&
           same_number(a->importance, b->importance) && same_str(a->memory_type, b->memory_type) &&
           same_str(a->content, b->content);
}

static bool same_metric(const struct event_metric *a, const struct event_metric *b)
{
    if (!same_str(a->measurement, b->measurement) || a->n_fields != b->n_fields ||
        a->n_tags != b->n_tags)
        return false;
    for (size_t i = 0; i < a->n_fields; i++)
        if (!same_str(a->fields[i].name, b->fields[i].name) ||
            !same_number(a->fields[i].value, b->fields[i].value))
            return false;
    for (size_t i = 0; i < a->n_tags; i++)
        if (!same_str(a->tags[i].key, b->tags[i].key) ||
            !same_str(a->tags[i].value, b->tags[i].value))
            return false;
    return true;
}

static bool same_body(const struct event *a, const struct event *b)
{
    switch (a->type) {
    case EVENT_MESSAGE:
        return same_message(&a->u.message, &b->u.message);
    case EVENT_MESSAGE_DELETED:
        return true;
    case EVENT_MEMORY:
        return same_memory(&a->u.memory, &b->u.memory);
    case EVENT_METRIC:
        return same_metric(&a->u.metric, &b->u.metric);
    case EVENT_OUTREACH:
        return a->u.outreach.op == b->u.outreach.op &&
               same_str(a->u.outreach.topic, b->u.outreach.topic);
    case EVENT_CHARACTER:
        return a->u.character.version == b->u.character.version &&
               a->u.character.n_traits == b->u.character.n_traits &&
               same_traits(a->u.character.traits, b->u.character.traits, a->u.character.n_traits);
    case EVENT_PRIVACY:
        return a->u.privacy.op == b->u.privacy.op &&
               same_str(a->u.privacy.scope, b->u.privacy.scope);
    case EVENT_DEAD_LETTER:
        return same_str(a->u.dead_letter.where, b->u.dead_letter.where) &&
               same_str(a->u.dead_letter.reason, b->u.dead_letter.reason) &&
               same_str(a->u.dead_letter.bytes, b->u.dead_letter.bytes);
    case EVENT_REQUEST:
        return a->u.request.op == b->u.request.op &&
               same_str(a->u.request.reason, b->u.request.reason);
    }
    return false;
}

static bool same_event(const struct event *a, const struct event *b)
{
    return a->type == b->type && same_str(a->id, b->id) && str_equal(a->user_id, b->user_id) &&
           str_equal(a->bot_name, b->bot_name) && a->at_us == b->at_us && same_body(a, b);
}
