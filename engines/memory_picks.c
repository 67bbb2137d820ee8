#include "engines/memory_picks.h"

#include "core/clock.h"

#include <assert.h>
#include <string.h>

static int compare_names(const struct mem_rec *a, const struct mem_rec *b)
{
    size_t shorter = a->name_len < b->name_len ? a->name_len : b->name_len;
    int order = memcmp(a->name, b->name, shorter);
    if (order == 0)
        order = (a->name_len > b->name_len) - (a->name_len < b->name_len);
    /* Long ids are cut for display; the hash tells them apart. */
    return order ? order : (a->id > b->id) - (a->id < b->id);
}

void memory_picks_offer(struct memory_picks *list, const struct key_log *log, struct memory_pick p)
{
    const struct mem_rec *m = &log->memories[p.index];
    size_t at = list->n;
    while (at > 0) {
        const struct memory_pick *before = &list->items[at - 1];
        if (before->rank < p.rank ||
            (before->rank == p.rank && compare_names(&log->memories[before->index], m) < 0))
            break;
        at--;
    }
    if (at == list->max)
        return;
    size_t last = list->n < list->max ? list->n++ : list->max - 1;
    memmove(&list->items[at + 1], &list->items[at], (last - at) * sizeof(p));
    list->items[at] = p;
}

int64_t memory_picks_change_us(const struct memory_picks *list, const struct key_log *log,
                               const struct retention *retention, double by)
{
    int64_t first_us = INT64_MAX;
    for (size_t i = 0; i < list->n; i++) {
        const struct memory_pick *p = &list->items[i];
        if (log->memories[p->index].pinned || p->r <= by)
            continue;
        const struct fsrs_state *fsrs = &retention->at[p->index].fsrs;
        int64_t idle_us = log->as_of_us > fsrs->last_us ? log->as_of_us - fsrs->last_us : 0;
        double days = fsrs_days_until(fsrs, p->r - by) - (double)idle_us / (double)US_PER_DAY;
        int64_t at_us = INT64_MAX;
        if (days < 1)
            at_us = log->as_of_us + (int64_t)(days * (double)US_PER_DAY);
        first_us = at_us < first_us ? at_us : first_us;
    }
    return first_us;
}

struct str memory_topic(const struct key_log *log, const struct mem_rec *m,
                        char text[MEMORY_TOPIC_BYTES])
{
    size_t len = 0;

    for (size_t i = 0; i < sizeof(m->labels) / sizeof(m->labels[0]); i++) {
        struct str label = key_log_label(log, m->labels[i]);
        if (label.len == 0)
            continue;
        assert(label.len <= RECORD_LABEL_BYTES);
        if (len > 0)
            text[len++] = ' ';
        memcpy(text + len, label.ptr, label.len);
        len += label.len;
    }
    return str_cut((struct str){text, len}, LIMIT_LABEL_BYTES);
}
