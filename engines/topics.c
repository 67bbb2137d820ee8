#include "engines/topics.h"

#include <stdlib.h>
#include <string.h>

struct token {
    label_ref ref;
    uint32_t weight;
    struct str text;
};

static int compare_refs(const void *a, const void *b)
{
    label_ref x = ((const struct token *)a)->ref, y = ((const struct token *)b)->ref;
    return (x > y) - (x < y);
}

/* True when a is to be shown before b: heavier, then by its bytes. */
static bool token_before(const struct token *a, const struct token *b)
{
    if (a->weight != b->weight)
        return a->weight > b->weight;
    size_t n = a->text.len < b->text.len ? a->text.len : b->text.len;
    int order = memcmp(a->text.ptr, b->text.ptr, n);
    return order < 0 || (order == 0 && a->text.len < b->text.len);
}

/* The three heaviest tokens of a cluster, user messages counting twice; returns how many. */
static size_t top_tokens(const struct key_log *log, const struct topics *t, size_t cluster,
                         struct token *scratch, struct token top[3])
{
    size_t n = 0, n_top = 0;
    for (size_t i = 0; i < t->n; i++) {
        if (t->cluster[i] != cluster)
            continue;
        for (size_t j = t->starts[i]; j < t->starts[i] + t->segments[i]->n; j++) {
            const struct msg_rec *m = &log->messages[j];
            for (size_t l = 0; l < RECORD_LABELS && m->labels[l]; l++)
                scratch[n++] =
                    (struct token){.ref = m->labels[l], .weight = m->flags & MSG_BOT ? 1 : 2};
        }
    }
    qsort(scratch, n, sizeof(*scratch), compare_refs);
    for (size_t i = 0; i < n;) {
        struct token token = scratch[i++];
        for (; i < n && scratch[i].ref == token.ref; i++)
            token.weight += scratch[i].weight;
        token.text = key_log_label(log, token.ref);
        size_t at = n_top;
        while (at > 0 && token_before(&token, &top[at - 1]))
            at--;
        if (at == 3)
            continue;
        n_top += n_top < 3;
        memmove(&top[at + 1], &top[at], (n_top - at - 1) * sizeof(*top));
        top[at] = token;
    }
    return n_top;
}

static enum status label_topic(const struct key_log *log, const struct topics *t, size_t cluster,
                               struct cp_topic *topic)
{
    size_t room = 0;
    for (size_t i = 0; i < t->n; i++)
        if (t->cluster[i] == cluster)
            room += (size_t)t->segments[i]->n * RECORD_LABELS;
    struct token *scratch = calloc(room, sizeof(*scratch));
    if (!scratch)
        return STATUS_NOMEM;
    struct token top[3];
    size_t n = top_tokens(log, t, cluster, scratch, top);
    free(scratch);
    char text[3 * (RECORD_LABEL_BYTES + 1)];
    size_t len = 0;
    for (size_t i = 0; i < n; i++) {
        if (i > 0)
            text[len++] = ' ';
        memcpy(&text[len], top[i].text.ptr, top[i].text.len);
        len += top[i].text.len;
    }
    struct str label = str_cut((struct str){text, len}, sizeof(topic->label));
    memcpy(topic->label, label.ptr, label.len);
    topic->label_len = label.len;
    return STATUS_OK;
}

/*
 * Clusters in order of their mean valence in direction `sign`; equal ones by size, then by age
 * (the number of a cluster says nothing: it may have been given away).
 */
static size_t rank_topics(const struct cp_topic *sums, const size_t *born, int sign,
                          size_t ret[CP_TOPICS_TOP])
{
    size_t n = 0;
    for (size_t c = 0; c < SEGMENT_CLUSTERS_MAX; c++) {
        if (sums[c].n < CP_TOPIC_MIN || sums[c].valence_sum * sign <= 0)
            continue;
        size_t at = n;
        for (; at > 0; at--) {
            const struct cp_topic *other = &sums[ret[at - 1]];
            int order = sign * cp_valence_compare(&sums[c], other);
            if (order == 0)
                order = (sums[c].n > other->n) - (sums[c].n < other->n);
            if (order == 0)
                order = born[c] < born[ret[at - 1]] ? 1 : -1;
            if (order < 0)
                break;
        }
        if (at == CP_TOPICS_TOP)
            continue;
        n += n < CP_TOPICS_TOP;
        memmove(&ret[at + 1], &ret[at], (n - at - 1) * sizeof(*ret));
        ret[at] = c;
    }
    return n;
}

enum status topics_rank(const struct key_log *log, struct topics *t, struct cp_counts *out)
{
    struct cp_topic sums[SEGMENT_CLUSTERS_MAX];
    size_t born[SEGMENT_CLUSTERS_MAX] = {0};
    size_t positive[CP_TOPICS_TOP], negative[CP_TOPICS_TOP];
    segment_cluster(t->segments, t->n, t->cluster);
    memset(sums, 0, sizeof(sums));
    for (size_t i = t->n; i-- > 0;) {
        if (t->cluster[i] == SEGMENT_OTHER)
            continue;
        born[t->cluster[i]] = i;
        sums[t->cluster[i]].n += t->segments[i]->n_valence;
        sums[t->cluster[i]].valence_sum += t->segments[i]->valence_sum;
    }
    out->n_positive = rank_topics(sums, born, 1, positive);
    out->n_negative = rank_topics(sums, born, -1, negative);
    enum status st = STATUS_OK;
    for (size_t i = 0; i < out->n_positive && st == STATUS_OK; i++) {
        out->positive[i] = sums[positive[i]];
        st = label_topic(log, t, positive[i], &out->positive[i]);
    }
    for (size_t i = 0; i < out->n_negative && st == STATUS_OK; i++) {
        out->negative[i] = sums[negative[i]];
        st = label_topic(log, t, negative[i], &out->negative[i]);
    }
    return st;
}
