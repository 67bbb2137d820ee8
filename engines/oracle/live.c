#include "engines/oracle/live.h"

#include "core/clock.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define FUTURE_US          (5 * US_PER_MINUTE) /* ENGINES.md 1.3: quarantined beyond T + this */
#define FUTURE_RECORDS_MAX 256

enum status live_new(struct live **ret)
{
    struct live *l = calloc(1, sizeof(*l));
    if (!l)
        return STATUS_NOMEM;
    l->message_cut_us = INT64_MIN;
    l->access_cut_us = INT64_MIN;
    l->first_left_us = INT64_MAX;
    *ret = l;
    return STATUS_OK;
}

void live_free(struct live *l)
{
    if (!l)
        return;
    free(l->messages.items);
    free(l->memories.items);
    free(l->accesses.items);
    free(l->outreach.items);
    free(l->answers.items);
    points_deinit(&l->points);
    free(l->folded.items);
    free(l);
}

/* ---- arrays without order ---- */

static enum status array_put(struct live_array *a, size_t at, const struct live_item *item)
{
    if (a->n == a->cap) {
        size_t cap = a->cap ? a->cap * 2 : 16;
        struct live_item *grown = realloc(a->items, cap * sizeof(*grown));
        if (!grown)
            return STATUS_NOMEM;
        a->items = grown;
        a->cap = cap;
    }
    memmove(&a->items[at + 1], &a->items[at], (a->n - at) * sizeof(*item));
    a->items[at] = *item;
    a->n++;
    return STATUS_OK;
}

static void array_remove(struct live_array *a, size_t index)
{
    a->n--;
    memmove(&a->items[index], &a->items[index + 1], (a->n - index) * sizeof(*a->items));
}

/* Index of the item with this event id that has not left; n when there is none. */
static size_t find_event(const struct live_array *a, uint64_t id)
{
    size_t i = 0;
    while (i < a->n && (a->items[i].left || a->items[i].f.id != id))
        i++;
    return i;
}

static size_t find_memory(const struct live *l, uint64_t memory)
{
    size_t i = 0;
    while (i < l->memories.n && l->memories.items[i].f.u.memory.memory != memory)
        i++;
    return i;
}

static bool is_older(const struct feature *a, const struct feature *b)
{
    return a->t_us < b->t_us || (a->t_us == b->t_us && a->id < b->id);
}

/* Index of the oldest item that has not left; n when there is none. */
static size_t find_oldest(const struct live_array *a)
{
    size_t found = a->n;
    for (size_t i = 0; i < a->n; i++)
        if (!a->items[i].left && (found == a->n || is_older(&a->items[i].f, &a->items[found].f)))
            found = i;
    return found;
}

bool live_is_visible(const struct live *l, const struct feature *f)
{
    return f->t_us <= l->as_of_us + FUTURE_US;
}

static size_t count(const struct live *l, const struct live_array *a, bool visible)
{
    size_t n = 0;
    for (size_t i = 0; i < a->n; i++)
        n += !a->items[i].left && live_is_visible(l, &a->items[i].f) == visible;
    return n;
}

/* ---- marks ---- */

static size_t find_mark(const struct live *l, enum live_mark_kind kind, uint64_t id)
{
    size_t i = 0;
    while (i < l->n_marks && (l->marks[i].kind != kind || l->marks[i].id != id))
        i++;
    return i;
}

static void mark_remove(struct live *l, enum live_mark_kind kind, uint64_t id)
{
    size_t i = find_mark(l, kind, id);
    if (i < l->n_marks)
        l->marks[i] = l->marks[--l->n_marks];
}

/* The order in which marks go when there are too many. */
static bool goes_before(const struct live_mark *a, const struct live_mark *b)
{
    if (a->ver != b->ver)
        return a->ver < b->ver;
    return a->kind != b->kind ? a->kind < b->kind : a->id < b->id;
}

static void mark_add(struct live *l, struct live_mark mark)
{
    mark_remove(l, mark.kind, mark.id);
    if (l->n_marks == LIMIT_TOMBSTONES) {
        size_t first = 0;
        for (size_t i = 1; i < l->n_marks; i++)
            if (goes_before(&l->marks[i], &l->marks[first]))
                first = i;
        if (mark.ver < l->marks[first].ver)
            return;
        l->marks[first] = l->marks[--l->n_marks];
    }
    l->marks[l->n_marks++] = mark;
}

static bool deleted_by_other_source(const struct live *l, enum live_mark_kind kind, uint64_t id,
                                    const struct feature *f)
{
    size_t i = find_mark(l, kind, id);
    return i < l->n_marks && l->marks[i].source != f->source;
}

/* The inbox's copy of what PostgreSQL already wrote. */
static bool is_second_copy(const struct live_array *a, size_t index, const struct feature *f)
{
    return index < a->n && a->items[index].f.source == SOURCE_POSTGRES && f->source == SOURCE_INBOX;
}

/* ---- time and caps ---- */

static int64_t horizon_us(const struct live *l)
{
    return time_floor_us(l->as_of_us, US_PER_HOUR) - RECORD_WINDOW_US;
}

/* The access is folded for good: it goes behind those that left before it. */
static enum status access_leaves(struct live *l, size_t index)
{
    struct live_item item = l->accesses.items[index];
    size_t memory = find_memory(l, item.f.u.memory.memory);

    array_remove(&l->accesses, index);
    if (memory == l->memories.n)
        return STATUS_OK;
    struct live_item *m = &l->memories.items[memory];
    if (!m->has_origin) {
        m->origin = m->f;
        m->has_origin = true;
    }
    size_t place = 0;
    while (place < l->accesses.n && l->accesses.items[place].left)
        place++;
    item.left = true;
    return array_put(&l->accesses, place, &item);
}

/* A cut only matters while the horizon has not passed it. */
static void forget_cuts(struct live *l)
{
    if (l->message_cut_us < horizon_us(l))
        l->message_cut_us = INT64_MIN;
    if (l->access_cut_us < horizon_us(l))
        l->access_cut_us = INT64_MIN;
}

static enum status message_leaves(struct live *l, size_t index)
{
    struct live_item item = l->messages.items[index];
    array_remove(&l->messages, index);
    if (item.f.t_us < l->first_left_us)
        l->first_left_us = item.f.t_us;
    if (item.f.u.message.flags & MSG_BOT)
        return STATUS_OK;
    return array_put(&l->answers, l->answers.n, &item);
}

static enum status apply_caps(struct live *l)
{
    enum status st = STATUS_OK;
    while (!st && count(l, &l->messages, true) > LIMIT_MESSAGES) {
        size_t i = find_oldest(&l->messages);
        l->message_cut_us = l->messages.items[i].f.t_us;
        if (l->of_bot)
            st = array_put(&l->folded, l->folded.n, &l->messages.items[i]);
        st = st ? st : message_leaves(l, i);
    }
    while (!st && count(l, &l->accesses, true) > LIMIT_ACCESSES) {
        size_t i = find_oldest(&l->accesses);
        l->access_cut_us = l->accesses.items[i].f.t_us;
        st = access_leaves(l, i);
    }
    forget_cuts(l);
    return st;
}

enum status live_advance(struct live *l, int64_t as_of_us)
{
    if (as_of_us <= l->as_of_us)
        return STATUS_OK;
    l->as_of_us = as_of_us;
    enum status st = STATUS_OK;
    for (size_t i = l->messages.n; i-- > 0 && !st;)
        if (l->messages.items[i].f.t_us < horizon_us(l))
            st = message_leaves(l, i);
    for (size_t i = l->outreach.n; i-- > 0;)
        if (l->outreach.items[i].f.t_us < horizon_us(l) + RECORD_WINDOW_US - RECORD_OUTREACH_US)
            array_remove(&l->outreach, i);
    for (size_t i = l->n_marks; i-- > 0;)
        if (l->marks[i].kind == LIVE_MARK_MESSAGE && l->marks[i].t_us < horizon_us(l))
            l->marks[i] = l->marks[--l->n_marks];
    for (; !st;) {
        size_t i = find_oldest(&l->accesses);
        if (i == l->accesses.n || l->accesses.items[i].f.t_us >= horizon_us(l))
            return apply_caps(l);
        st = access_leaves(l, i);
    }
    return st;
}

/* ---- messages ---- */

static bool too_many_ahead(const struct live *l, const struct live_array *a,
                           const struct feature *f)
{
    return !live_is_visible(l, f) && count(l, a, false) >= FUTURE_RECORDS_MAX;
}

/* What an UPDATE without the text says, with the text that was there before. */
static struct feature with_text_of(const struct feature *old, const struct feature *f)
{
    const uint16_t told = MSG_BOT | MSG_HAS_EMOTION;
    struct feature merged = *old;

    merged.op = f->op;
    if (f->embedding.model)
        merged.embedding = f->embedding;
    merged.source = f->source;
    merged.ver = f->ver;
    merged.t_us = f->t_us;
    merged.u.message.t_us = f->t_us;
    merged.u.message.ver = f->ver;
    merged.u.message.source = f->source;
    merged.u.message.flags =
        (uint16_t)((old->u.message.flags & ~told) | (f->u.message.flags & told));
    merged.u.message.emotion = f->u.message.emotion;
    merged.u.message.emotion_confidence = f->u.message.emotion_confidence;
    merged.u.message.valence = f->u.message.valence;
    if ((old->u.message.flags | f->u.message.flags) & MSG_BOT) {
        memset(merged.u.message.marks, 0, sizeof(merged.u.message.marks));
    }
    merged.n_traits = f->n_traits;
    for (size_t i = 0; i < f->n_traits; i++) {
        merged.traits[i] = f->traits[i];
        merged.u.message.traits.weight[i] = f->u.message.traits.weight[i];
    }
    return merged;
}

/* Nothing of a profile is kept: it does not come back with a later consent. */
static void forget_profile(struct feature *f)
{
    f->n_traits = 0;
    msg_forget_profile(&f->u.message);
}

static enum status apply_message(struct live *l, const struct feature *f)
{
    size_t i = find_event(&l->messages, f->id);
    bool known = i < l->messages.n;
    bool late = f->t_us < horizon_us(l) || f->t_us <= l->message_cut_us;

    if (l->of_bot && !(f->u.message.flags & MSG_BOT)) {
        if (known)
            array_remove(&l->messages, i);
        return STATUS_OK;
    }
    if (deleted_by_other_source(l, LIVE_MARK_MESSAGE, f->id, f) ||
        is_second_copy(&l->messages, i, f))
        return STATUS_OK;
    if (!known && (late || f->content_unchanged || too_many_ahead(l, &l->messages, f)))
        return STATUS_OK;
    struct live_item item = {.f = *f};
    if (known) {
        if (f->content_unchanged)
            item.f = with_text_of(&l->messages.items[i].f, f);
        array_remove(&l->messages, i);
    }
    if (l->consents[CONSENT_PROFILING].opted_out)
        forget_profile(&item.f);
    mark_remove(l, LIVE_MARK_MESSAGE, f->id);
    return late ? STATUS_OK : array_put(&l->messages, l->messages.n, &item);
}

static void apply_message_deleted(struct live *l, const struct feature *f)
{
    size_t i = find_event(&l->messages, f->id);

    if (deleted_by_other_source(l, LIVE_MARK_MESSAGE, f->id, f))
        return;
    if (i < l->messages.n)
        array_remove(&l->messages, i);
    mark_add(l, (struct live_mark){LIVE_MARK_MESSAGE, f->id, f->ver, l->as_of_us, f->source});
}

/* ---- memories ---- */

static void remove_accesses_of(struct live *l, uint64_t memory)
{
    for (size_t i = l->accesses.n; i-- > 0;)
        if (l->accesses.items[i].f.u.memory.memory == memory)
            array_remove(&l->accesses, i);
}

static int64_t last_touch(const struct live *l, const struct live_item *m)
{
    int64_t last_us = m->f.t_us;
    /* What was folded is remembered from the creation it was folded from. */
    if (m->has_origin && m->origin.t_us > last_us)
        last_us = m->origin.t_us;
    for (size_t i = 0; i < l->accesses.n; i++) {
        const struct live_item *a = &l->accesses.items[i];
        if (a->f.u.memory.memory == m->f.u.memory.memory && live_is_visible(l, &a->f) &&
            a->f.t_us > last_us)
            last_us = a->f.t_us;
    }
    return last_us;
}

static void forget_one(struct live *l)
{
    size_t least = 0;
    int64_t least_us = INT64_MAX;
    for (size_t i = 0; i < l->memories.n; i++) {
        const struct live_item *m = &l->memories.items[i];
        int64_t touch_us = last_touch(l, m);
        if (touch_us < least_us ||
            (touch_us == least_us &&
             m->f.u.memory.memory < l->memories.items[least].f.u.memory.memory)) {
            least = i;
            least_us = touch_us;
        }
    }
    const struct feature gone = l->memories.items[least].f;
    l->forgotten_n++;
    l->forgotten_created_s += time_floor_us(gone.t_us, US_PER_SECOND) / US_PER_SECOND;
    remove_accesses_of(l, gone.u.memory.memory);
    array_remove(&l->memories, least);
}

static enum status apply_create(struct live *l, const struct feature *f)
{
    uint64_t id = f->u.memory.memory;
    size_t i = find_memory(l, id);

    if (deleted_by_other_source(l, LIVE_MARK_MEMORY, id, f) || is_second_copy(&l->memories, i, f))
        return STATUS_OK;
    struct live_item item = {.pinned = find_mark(l, LIVE_MARK_PIN, id) < l->n_marks};
    if (i < l->memories.n) {
        item = l->memories.items[i];
        array_remove(&l->memories, i);
    }
    item.f = *f;
    mark_remove(l, LIVE_MARK_MEMORY, id);
    mark_remove(l, LIVE_MARK_PIN, id);
    enum status st = array_put(&l->memories, l->memories.n, &item);
    if (!st && l->memories.n > LIMIT_MEMORIES)
        forget_one(l);
    return st;
}

static enum status apply_access(struct live *l, const struct feature *f)
{
    size_t i = find_event(&l->accesses, f->id);
    bool known = i < l->accesses.n;
    bool late = f->t_us < horizon_us(l) || f->t_us <= l->access_cut_us;

    if (is_second_copy(&l->accesses, i, f))
        return STATUS_OK;
    if (!known && (late || too_many_ahead(l, &l->accesses, f)))
        return STATUS_OK;
    if (known)
        array_remove(&l->accesses, i);
    struct live_item item = {.f = *f};
    return late ? STATUS_OK : array_put(&l->accesses, l->accesses.n, &item);
}

static void apply_memory_deleted(struct live *l, const struct feature *f)
{
    uint64_t id = f->u.memory.memory;
    size_t i = find_memory(l, id);

    if (deleted_by_other_source(l, LIVE_MARK_MEMORY, id, f))
        return;
    if (i < l->memories.n)
        array_remove(&l->memories, i);
    remove_accesses_of(l, id);
    mark_remove(l, LIVE_MARK_PIN, id);
    mark_add(l, (struct live_mark){LIVE_MARK_MEMORY, id, f->ver, l->as_of_us, f->source});
}

static void apply_pin(struct live *l, const struct feature *f)
{
    uint64_t id = f->u.memory.memory;
    size_t i = find_memory(l, id);

    if (deleted_by_other_source(l, LIVE_MARK_MEMORY, id, f))
        return;
    if (i < l->memories.n)
        l->memories.items[i].pinned = true;
    else
        mark_add(l, (struct live_mark){LIVE_MARK_PIN, id, f->ver, f->t_us, f->source});
}

static enum status apply_memory(struct live *l, const struct feature *f)
{
    if (f->op == MEMORY_CREATE)
        return apply_create(l, f);
    if (f->op == MEMORY_ACCESS)
        return apply_access(l, f);
    if (f->op == MEMORY_DELETE)
        apply_memory_deleted(l, f);
    else
        apply_pin(l, f);
    return STATUS_OK;
}

/* ---- outreach and consent ---- */

static void hear_consent(struct live *l, const struct feature *f, enum consent_scope scope,
                         bool opted_out)
{
    struct consent *c = &l->consents[scope];
    bool later = f->t_us > c->t_us ||
                 (f->t_us == c->t_us && (f->ver > c->ver || (f->ver == c->ver && opted_out)));
    if (c->given && !later)
        return;
    *c = (struct consent){true, opted_out, f->t_us, f->ver};
    for (size_t i = 0; scope == CONSENT_PROFILING && opted_out && i < l->messages.n; i++)
        forget_profile(&l->messages.items[i].f);
}

static enum status apply_outreach(struct live *l, const struct feature *f)
{
    if (f->op == OUTREACH_OPTED_OUT) {
        hear_consent(l, f, CONSENT_PROACTIVE, true);
        return STATUS_OK;
    }
    size_t i = 0;
    while (i < l->outreach.n &&
           (l->outreach.items[i].f.id != f->id || l->outreach.items[i].f.op != f->op))
        i++;
    if (is_second_copy(&l->outreach, i, f) || f->t_us < horizon_us(l) ||
        f->t_us <= l->message_cut_us)
        return STATUS_OK;
    if (i < l->outreach.n)
        array_remove(&l->outreach, i);
    struct live_item item = {.f = *f};
    enum status st = array_put(&l->outreach, l->outreach.n, &item);
    if (st || l->outreach.n <= RECORD_OUTREACH_MAX)
        return st;
    size_t oldest = 0;
    for (i = 1; i < l->outreach.n; i++) {
        const struct feature *a = &l->outreach.items[i].f;
        const struct feature *b = &l->outreach.items[oldest].f;
        if (is_older(a, b) || (a->t_us == b->t_us && a->id == b->id && a->op < b->op))
            oldest = i;
    }
    array_remove(&l->outreach, oldest);
    return STATUS_OK;
}

enum status live_apply(struct live *l, const struct feature *f, int64_t as_of_us)
{
    enum status st = live_advance(l, as_of_us);
    if (st)
        return st;
    bool removal =
        f->type == EVENT_MESSAGE_DELETED || (f->type == EVENT_MEMORY && f->op == MEMORY_DELETE);
    if (!removal && f->t_us > l->as_of_us + LIMIT_FUTURE_US)
        return STATUS_OK; /* a dead letter */
    if (f->type == EVENT_MESSAGE)
        st = apply_message(l, f);
    else if (f->type == EVENT_MESSAGE_DELETED)
        apply_message_deleted(l, f);
    else if (f->type == EVENT_OUTREACH)
        st = apply_outreach(l, f);
    else if (f->type == EVENT_METRIC || f->type == EVENT_CHARACTER)
        st = points_add(&l->points, f, l->as_of_us);
    else if (f->type == EVENT_MEMORY)
        st = apply_memory(l, f);
    else
        for (enum consent_scope s = 0; s < CONSENT_SCOPES && f->op != PRIVACY_ERASE; s++)
            if (f->u.privacy.scopes >> s & 1)
                hear_consent(l, f, s, f->op == PRIVACY_OPTOUT);
    return st ? st : apply_caps(l);
}
