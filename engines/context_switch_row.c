#include "engines/context_switch_row.h"

#include "core/cleanup.h"
#include "core/clock.h"
#include "core/jsonw.h"
#include "engines/kernels.h"
#include "engines/tables.h"

#define CONFIDENCE_N0 30.0
#define TIMED_MIN     2
#define ACTIVE_MIN_US (15 * US_PER_MINUTE)
#define TRIALS_MIN    5
#define PRIOR_TRIALS  4.0
#define VALID_US      (6 * US_PER_HOUR)
#define VALENCE_ONE   127.0

size_t cs_bin(uint32_t messages)
{
    static const uint32_t upper[CS_BINS] = {1, 2, 3, 4, 6, 9, 14, UINT32_MAX};
    size_t bin = 0;
    while (messages > upper[bin])
        bin++;
    return bin;
}

void cs_segment(struct cs_counts *c, const struct cs_segment *s)
{
    uint32_t trials = s->messages - (s->ends_session ? 1 : 0);
    for (uint32_t i = 1; i <= trials; i++)
        c->trials[cs_bin(i)]++;
    c->hits[cs_bin(s->messages)] += !s->ends_session;
    c->switches += !s->ends_session;
    bool timed = !s->ends_session || s->messages >= 2;
    if (timed) {
        c->n_timed++;
        c->timed_us += s->until_us - s->start_us;
    }
    c->node_n[s->topic]++;
    c->node_us[s->topic] += timed ? s->until_us - s->start_us : 0;
}

static struct str label_of(const struct cs_counts *c, size_t topic)
{
    return topic == CS_OTHER ? STR("other")
                             : (struct str){c->labels[topic].text, c->labels[topic].len};
}

static enum status set_json(struct row *row, size_t column, struct jsonw *w)
{
    enum status st = jsonw_status(w);
    return st ? st : row_set_json(row, column, (struct str){w->out->data, w->out->len});
}

static enum status write_recent(const struct cs_counts *c, struct jsonw *w, struct row *row)
{
    jsonw_array_begin(w);
    for (size_t i = 0; i < c->n_recent; i++) {
        const struct cs_segment *s = &c->recent[i];
        jsonw_object_begin(w);
        jsonw_key(w, "end_time");
        jsonw_time(w, s->end_us);
        jsonw_key(w, "messages");
        jsonw_int(w, s->messages);
        jsonw_key(w, "open");
        jsonw_bool(w, c->session_open && i == 0);
        jsonw_key(w, "start_time");
        jsonw_time(w, s->start_us);
        jsonw_key(w, "topic");
        jsonw_string(w, label_of(c, s->topic));
        jsonw_key(w, "topic_id");
        jsonw_int(w, s->topic);
        jsonw_key(w, "valence");
        if (s->n_valence)
            jsonw_number(w, kernel_mean(s->n_valence, s->valence_sum) / VALENCE_ONE);
        else
            jsonw_null(w);
        jsonw_object_end(w);
    }
    jsonw_array_end(w);
    return set_json(row, CP_RECENT_TOPICS, w);
}

static enum status write_duration(const struct cs_counts *c, struct row *row)
{
    if (c->n_timed < TIMED_MIN)
        return row_set_null(row, CP_AVG_TOPIC_DURATION_MINUTES,
                            "insufficient_data: have %u, need %d", c->n_timed, TIMED_MIN);
    row_set_float(row, CP_AVG_TOPIC_DURATION_MINUTES,
                  kernel_mean(c->n_timed, c->timed_us) / (double)US_PER_MINUTE);
    return STATUS_OK;
}

static enum status write_frequency(const struct cs_counts *c, struct row *row)
{
    if (c->active_us < ACTIVE_MIN_US)
        return row_set_null(
            row, CP_CONTEXT_SWITCH_FREQUENCY, "insufficient_data: have %d minutes, need %d",
            (int)(c->active_us / US_PER_MINUTE), (int)(ACTIVE_MIN_US / US_PER_MINUTE));
    row_set_float(row, CP_CONTEXT_SWITCH_FREQUENCY,
                  c->switches / ((double)c->active_us / (double)US_PER_HOUR));
    return STATUS_OK;
}

/* K2 in discrete time: (s_k + 4 h0) / (n_k + 4), h0 = (s + 1) / (n + 2). */
static enum status write_likelihood(const struct cs_counts *c, struct row *row)
{
    uint32_t n = 0, s = 0;
    for (size_t i = 0; i < CS_BINS; i++) {
        n += c->trials[i];
        s += c->hits[i];
    }
    if (!c->session_open) {
        n = c->returns;
        s = c->moved;
    }
    if (n < TRIALS_MIN)
        return row_set_null(row, CP_PREDICTED_SWITCH_LIKELIHOOD,
                            "insufficient_data: have %u, need %d", n, TRIALS_MIN);
    double p = s / (double)n;
    if (c->session_open) {
        size_t bin = cs_bin(c->recent[0].messages);
        double h0 = (s + 1.0) / (n + 2.0);
        p = (c->hits[bin] + PRIOR_TRIALS * h0) / (c->trials[bin] + PRIOR_TRIALS);
    }
    row_set_float(row, CP_PREDICTED_SWITCH_LIKELIHOOD, p);
    return STATUS_OK;
}

/* The topics to show: most segments first, then the lower number. */
static size_t pick_nodes(const struct cs_counts *c, size_t ret[CS_NODES_MAX])
{
    size_t n = 0;
    for (size_t t = 0; t < CS_OTHER; t++) {
        if (c->node_n[t] == 0)
            continue;
        size_t at = n;
        while (at > 0 && c->node_n[ret[at - 1]] < c->node_n[t])
            at--;
        if (at == CS_NODES_MAX)
            continue;
        n += n < CS_NODES_MAX;
        for (size_t i = n - 1; i > at; i--)
            ret[i] = ret[i - 1];
        ret[at] = t;
    }
    return n;
}

struct edge {
    uint8_t from;
    uint8_t to;
    uint32_t n;
};

/* Most frequent first, then by topics. */
static size_t pick_edges(const struct cs_counts *c, const size_t *nodes, size_t n_nodes,
                         struct edge ret[CS_EDGES_MAX])
{
    size_t n = 0;
    bool shown[CS_TOPICS] = {false};
    for (size_t i = 0; i < n_nodes; i++)
        shown[nodes[i]] = true;
    for (size_t e = 0; e < (size_t)CS_OTHER * CS_OTHER; e++) {
        size_t from = e / CS_OTHER, to = e % CS_OTHER;
        uint32_t count = shown[from] && shown[to] ? c->edges[from][to] : 0;
        size_t at = n;
        while (count > 0 && at > 0 && ret[at - 1].n < count)
            at--;
        if (count == 0 || at == CS_EDGES_MAX)
            continue;
        n += n < CS_EDGES_MAX;
        for (size_t i = n - 1; i > at; i--)
            ret[i] = ret[i - 1];
        ret[at] = (struct edge){(uint8_t)from, (uint8_t)to, count};
    }
    return n;
}

/* (n + 1/2) / (all that leave + K/2), over K topics. */
static double edge_probability(const struct cs_counts *c, const struct edge *e)
{
    uint32_t leaving = 0, topics = 0;
    for (size_t t = 0; t < CS_OTHER; t++) {
        leaving += c->edges[e->from][t];
        topics += c->node_n[t] > 0;
    }
    return (e->n + 0.5) / (leaving + 0.5 * topics);
}

static void write_nodes(const struct cs_counts *c, const size_t *nodes, size_t n, struct jsonw *w)
{
    jsonw_key(w, "nodes");
    jsonw_array_begin(w);
    for (size_t i = 0; i < n; i++) {
        jsonw_object_begin(w);
        jsonw_key(w, "id");
        jsonw_int(w, (int64_t)nodes[i]);
        jsonw_key(w, "label");
        jsonw_string(w, label_of(c, nodes[i]));
        jsonw_key(w, "minutes");
        jsonw_number(w, (double)c->node_us[nodes[i]] / (double)US_PER_MINUTE);
        jsonw_key(w, "n");
        jsonw_int(w, c->node_n[nodes[i]]);
        jsonw_object_end(w);
    }
    jsonw_array_end(w);
}

static enum status write_graph(const struct cs_counts *c, struct jsonw *w, struct row *row)
{
    size_t nodes[CS_NODES_MAX];
    struct edge edges[CS_EDGES_MAX];
    size_t n_nodes = pick_nodes(c, nodes);
    if (n_nodes == 0)
        return row_set_null(row, CP_TOPIC_TRANSITION_GRAPH,
                            "insufficient_data: have 0 topics, need 1");
    size_t n_edges = pick_edges(c, nodes, n_nodes, edges);
    jsonw_object_begin(w);
    jsonw_key(w, "edges");
    jsonw_array_begin(w);
    for (size_t i = 0; i < n_edges; i++) {
        jsonw_object_begin(w);
        jsonw_key(w, "from");
        jsonw_int(w, edges[i].from);
        jsonw_key(w, "n");
        jsonw_int(w, edges[i].n);
        jsonw_key(w, "p");
        jsonw_number(w, edge_probability(c, &edges[i]));
        jsonw_key(w, "to");
        jsonw_int(w, edges[i].to);
        jsonw_object_end(w);
    }
    jsonw_array_end(w);
    write_nodes(c, nodes, n_nodes, w);
    jsonw_object_end(w);
    return set_json(row, CP_TOPIC_TRANSITION_GRAPH, w);
}

enum status cs_write(const struct cs_counts *c, struct row *row, struct error *err)
{
    static enum status (*const documents[])(const struct cs_counts *, struct jsonw *,
                                            struct row *) = {write_recent, write_graph};
    static enum status (*const numbers[])(const struct cs_counts *, struct row *) = {
        write_duration, write_frequency, write_likelihood};
    CLEANUP(buf_deinit) struct buf json;
    buf_init(&json, LIMIT_JSON_BYTES);
    enum status st = STATUS_OK;
    for (size_t i = 0; i < sizeof(documents) / sizeof(documents[0]) && !st; i++) {
        struct jsonw w;
        buf_reset(&json);
        jsonw_init(&w, &json);
        st = documents[i](c, &w, row);
    }
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]) && !st; i++)
        st = numbers[i](c, row);
    if (st)
        return error_set(err, st, "could not write context switches: %s", status_name(st));
    int64_t until = c->as_of_us + VALID_US;
    until = c->next_expiry_us < until ? c->next_expiry_us : until;
    until = c->session_close_us < until ? c->session_close_us : until;
    uint32_t flags = ROW_NO_TZ;
    flags |= c->embedded ? 0 : ROW_LEXICAL;
    flags |= c->emotional ? 0 : ROW_NO_EMOTION;
    flags |= c->truncated ? ROW_TRUNCATED : 0;
    row_rate(row, flags, kernel_confidence(c->n_user, CONFIDENCE_N0, c->n_text, c->n_user), until);
    return STATUS_OK;
}
