/*
 * clients/c/warmpath_read.h - one read of Warmpath's strategic cache from C or C++, with libpq
 * alone.
 *
 * A header without a library: include it and link with -lpq. POSIX (poll, clock_gettime).
 *
 *     PGconn *conn = PQconnectdb(...);             a connection for these reads and nothing else
 *     warmpath_prepare(conn, 5000);                once per connection, not on the hot path
 *     struct warmpath_bundle b;
 *     if (warmpath_read(conn, user, bot, 168, 5, &b) != WARMPATH_OK)
 *         ...                                      b says why (problem); everything in it is
 * missing if (!isnan(b.conversation.predicted_switch_likelihood))
 *         ...
 *     warmpath_clear(&b);
 *
 * What is not known is NAN or NULL: a column that is NULL, and also one that the freshness of its
 * row forbids to use. A stale row keeps only what moves slowly; one that is expired, invalid or
 * missing keeps nothing. So whatever is there may be used.
 *
 * Nothing here waits longer than its timeout. A read that was not answered in time leaves its
 * statement on the connection; the next one takes what comes of it first, within its own timeout.
 * Give the role a statement_timeout, so that the server gives up as well, or call warmpath_cancel()
 * where waiting does no harm. One connection belongs to one thread at a time.
 */
#ifndef WARMPATH_READ_H
#define WARMPATH_READ_H

#include <errno.h>
#include <libpq-fe.h>
#include <math.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum warmpath_status {
    WARMPATH_OK,
    WARMPATH_LATE, /* no answer within the timeout */
    WARMPATH_ERROR,
};

enum warmpath_freshness {
    WARMPATH_MISSING, /* no row, or nothing could be read */
    WARMPATH_FRESH,
    WARMPATH_CURRENT,
    WARMPATH_STALE,
    WARMPATH_EXPIRED,
    WARMPATH_INVALID,
};

/* Of each row, whatever its freshness. */
struct warmpath_row {
    enum warmpath_freshness freshness;
    double confidence;  /* 0..1 */
    double row_version; /* a count, exact below 2^53 */
    double computed_at; /* times: seconds since 1970, UTC */
    double expires_at;
};

/* Numbers are NAN and texts NULL where nothing is known; texts named *_json hold JSON. They live
 * until warmpath_clear(). */
struct warmpath_bundle {
    struct {
        struct warmpath_row row;
        double avg_memory_age_hours, topic_relevance_drift;
        const char *retrieval_frequency_trend; /* increasing, stable, declining */
        const char *memory_snapshot_json, *forgetting_risk_memories_json;
    } memory_health;
    struct {
        struct warmpath_row row;
        const char *dominant_traits_json, *user_response_patterns_json;
        const char *adaptation_suggestions_json, *trait_evolution_history_json;
    } personality;
    struct {
        struct warmpath_row row;
        double avg_topic_duration_minutes, context_switch_frequency, predicted_switch_likelihood;
        const char *recent_topics_json, *topic_transition_graph_json, *communication_style_json;
        const char *preferred_depth_json, *emotional_engagement_json, *optimal_response_length_json;
    } conversation;
    struct {
        struct warmpath_row row;
        double recall_simulation_score;
        const char *forgetting_curve_params_json, *high_retention_memories_json;
        const char *low_retention_memories_json, *consolidation_json;
    } memory_behavior;
    struct {
        struct warmpath_row row;
        double optimal_timing_hours, receptivity_score, last_engagement_gap_hours;
        double proactive_success_rate, next_contact_at, last_user_message_at;
        const char *suggested_topics_json, *opportunities_json;
    } engagement;
    struct {
        struct warmpath_row row;
        double engagement_score_avg, satisfaction_score_avg, coherence_score_avg;
        double personality_consistency_index;
        const char *quality_trend; /* improving, stable, declining */
        const char *recent_anomalies_json;
    } performance;
    char problem[256]; /* "" after WARMPATH_OK */
    PGresult *result;  /* private */
};

/* ---- private: the columns ---- */

enum warmpath_kind_ { WARMPATH_FRESHNESS_, WARMPATH_NUMBER_, WARMPATH_TIME_, WARMPATH_TEXT_ };

struct warmpath_column_ {
    const char *row, *name; /* (row).name in strategic_bundle(); name NULL: its freshness, row_f */
    enum warmpath_kind_ kind;
    unsigned char use; /* 0 always, 1 when fresh or current, 2 when stale as well */
    size_t offset;
};

#define WARMPATH_AT_(field) offsetof(struct warmpath_bundle, field)
#define WARMPATH_META_(prefix, part)                                                      \
    {prefix, NULL, WARMPATH_FRESHNESS_, 0, WARMPATH_AT_(part.row.freshness)},             \
        {prefix, "confidence", WARMPATH_NUMBER_, 0, WARMPATH_AT_(part.row.confidence)},   \
        {prefix, "row_version", WARMPATH_NUMBER_, 0, WARMPATH_AT_(part.row.row_version)}, \
        {prefix, "computed_at", WARMPATH_TIME_, 0, WARMPATH_AT_(part.row.computed_at)},   \
    {                                                                                     \
        prefix, "expires_at", WARMPATH_TIME_, 0, WARMPATH_AT_(part.row.expires_at)        \
    }
#define WARMPATH_VALUE_(prefix, part, name, kind, use)    \
    {                                                     \
        prefix, #name, kind, use, WARMPATH_AT_(part.name) \
    }
#define WARMPATH_JSON_(prefix, part, name, use)                            \
    {                                                                      \
        prefix, #name, WARMPATH_TEXT_, use, WARMPATH_AT_(part.name##_json) \
    }

static const struct warmpath_column_ warmpath_columns_[] = {
    WARMPATH_META_("mh", memory_health),
    WARMPATH_VALUE_("mh", memory_health, avg_memory_age_hours, WARMPATH_NUMBER_, 1),
    WARMPATH_VALUE_("mh", memory_health, topic_relevance_drift, WARMPATH_NUMBER_, 1),
    WARMPATH_VALUE_("mh", memory_health, retrieval_frequency_trend, WARMPATH_TEXT_, 1),
    WARMPATH_JSON_("mh", memory_health, memory_snapshot, 1),
    WARMPATH_JSON_("mh", memory_health, forgetting_risk_memories, 1),
    WARMPATH_META_("pp", personality),
    WARMPATH_JSON_("pp", personality, dominant_traits, 2),
    WARMPATH_JSON_("pp", personality, user_response_patterns, 2),
    WARMPATH_JSON_("pp", personality, adaptation_suggestions, 2),
    WARMPATH_JSON_("pp", personality, trait_evolution_history, 2),
    WARMPATH_META_("cp", conversation),
    WARMPATH_VALUE_("cp", conversation, avg_topic_duration_minutes, WARMPATH_NUMBER_, 1),
    WARMPATH_VALUE_("cp", conversation, context_switch_frequency, WARMPATH_NUMBER_, 1),
    WARMPATH_VALUE_("cp", conversation, predicted_switch_likelihood, WARMPATH_NUMBER_, 1),
    WARMPATH_JSON_("cp", conversation, recent_topics, 1),
    WARMPATH_JSON_("cp", conversation, topic_transition_graph, 1),
    WARMPATH_JSON_("cp", conversation, communication_style, 2),
    WARMPATH_JSON_("cp", conversation, preferred_depth, 1),
    WARMPATH_JSON_("cp", conversation, emotional_engagement, 1),
    WARMPATH_JSON_("cp", conversation, optimal_response_length, 2),
    WARMPATH_META_("mb", memory_behavior),
    WARMPATH_VALUE_("mb", memory_behavior, recall_simulation_score, WARMPATH_NUMBER_, 1),
    WARMPATH_JSON_("mb", memory_behavior, forgetting_curve_params, 1),
    WARMPATH_JSON_("mb", memory_behavior, high_retention_memories, 1),
    WARMPATH_JSON_("mb", memory_behavior, low_retention_memories, 1),
    WARMPATH_JSON_("mb", memory_behavior, consolidation, 1),
    WARMPATH_META_("eo", engagement),
    WARMPATH_VALUE_("eo", engagement, optimal_timing_hours, WARMPATH_NUMBER_, 1),
    WARMPATH_VALUE_("eo", engagement, receptivity_score, WARMPATH_NUMBER_, 1),
    WARMPATH_VALUE_("eo", engagement, last_engagement_gap_hours, WARMPATH_NUMBER_, 1),
    WARMPATH_VALUE_("eo", engagement, proactive_success_rate, WARMPATH_NUMBER_, 1),
    WARMPATH_VALUE_("eo", engagement, next_contact_at, WARMPATH_TIME_, 1),
    WARMPATH_VALUE_("eo", engagement, last_user_message_at, WARMPATH_TIME_, 1),
    WARMPATH_JSON_("eo", engagement, suggested_topics, 1),
    WARMPATH_JSON_("eo", engagement, opportunities, 1),
    WARMPATH_META_("pf", performance),
    WARMPATH_VALUE_("pf", performance, engagement_score_avg, WARMPATH_NUMBER_, 2),
    WARMPATH_VALUE_("pf", performance, satisfaction_score_avg, WARMPATH_NUMBER_, 2),
    WARMPATH_VALUE_("pf", performance, coherence_score_avg, WARMPATH_NUMBER_, 2),
    WARMPATH_VALUE_("pf", performance, personality_consistency_index, WARMPATH_NUMBER_, 2),
    WARMPATH_VALUE_("pf", performance, quality_trend, WARMPATH_TEXT_, 1),
    WARMPATH_JSON_("pf", performance, recent_anomalies, 1),
};
enum { WARMPATH_COLUMNS_ = sizeof(warmpath_columns_) / sizeof(warmpath_columns_[0]) };

/* ---- private: waiting ---- */

static inline int64_t warmpath_now_ms_(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* false when the time is up or the socket is broken. */
static inline bool warmpath_wait_(PGconn *conn, short events, int64_t deadline_ms)
{
    for (;;) {
        int64_t left = deadline_ms - warmpath_now_ms_();
        struct pollfd fd = {PQsocket(conn), events, 0};
        int n = poll(&fd, 1, left > 0 ? (int)left : 0);
        if (n > 0)
            return true;
        if (n == 0 || errno != EINTR)
            return false;
    }
}

/* Sends what is buffered and waits until a result can be taken without blocking. */
static inline enum warmpath_status warmpath_await_(PGconn *conn, int64_t deadline_ms)
{
    int unsent;
    while ((unsent = PQflush(conn)) != 0 || PQisBusy(conn)) {
        if (unsent < 0)
            return WARMPATH_ERROR;
        if (!warmpath_wait_(conn, (short)(unsent ? POLLIN | POLLOUT : POLLIN), deadline_ms))
            return WARMPATH_LATE;
        if (!PQconsumeInput(conn))
            return WARMPATH_ERROR;
    }
    return WARMPATH_OK;
}

/* Everything that the statement under way answers; the last result goes to *ret, which may be NULL.
 */
static inline enum warmpath_status warmpath_finish_(PGconn *conn, int64_t deadline_ms,
                                                    PGresult **ret)
{
    PGresult *last = NULL;
    for (;;) {
        enum warmpath_status st = warmpath_await_(conn, deadline_ms);
        if (st != WARMPATH_OK) {
            PQclear(last);
            return st;
        }
        PGresult *res = PQgetResult(conn);
        if (!res)
            break;
        PQclear(last);
        last = res;
    }
    if (ret)
        *ret = last;
    else
        PQclear(last);
    return WARMPATH_OK;
}

/* Gives the connection back to us: an answer that came too late is taken and thrown away. */
static inline enum warmpath_status warmpath_settle_(PGconn *conn, int64_t deadline_ms)
{
    if (PQstatus(conn) != CONNECTION_OK)
        return WARMPATH_ERROR;
    PQsetnonblocking(conn, 1);
    return PQtransactionStatus(conn) == PQTRANS_ACTIVE ? warmpath_finish_(conn, deadline_ms, NULL)
                                                       : WARMPATH_OK;
}

/* ---- private: one row ---- */

static inline double warmpath_double_(const char *big_endian)
{
    uint64_t bits = 0;
    for (int i = 0; i < 8; i++)
        bits = bits << 8 | (unsigned char)big_endian[i];
    double value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

static inline enum warmpath_freshness warmpath_freshness_(const char *word)
{
    static const char *const words[] = {"missing", "fresh", "current", "stale", "expired"};
    for (int i = 0; i < 5; i++)
        if (strcmp(word, words[i]) == 0)
            return (enum warmpath_freshness)i;
    return WARMPATH_INVALID; /* a word that is not known here is no reason to trust the row */
}

static inline bool warmpath_may_use_(const struct warmpath_column_ *c, enum warmpath_freshness f)
{
    return c->use == 0 || f == WARMPATH_FRESH || f == WARMPATH_CURRENT ||
           (f == WARMPATH_STALE && c->use == 2);
}

/* Nothing known, without a result. */
static inline void warmpath_nothing_(struct warmpath_bundle *out)
{
    memset(out, 0, sizeof(*out));
    for (int i = 0; i < WARMPATH_COLUMNS_; i++) {
        const struct warmpath_column_ *c = &warmpath_columns_[i];
        double nothing = NAN;
        if (c->kind == WARMPATH_NUMBER_ || c->kind == WARMPATH_TIME_)
            memcpy((char *)out + c->offset, &nothing, sizeof(nothing));
    }
}

static inline void warmpath_fill_(struct warmpath_bundle *out)
{
    enum warmpath_freshness freshness = WARMPATH_MISSING;
    for (int i = 0; i < WARMPATH_COLUMNS_; i++) {
        const struct warmpath_column_ *c = &warmpath_columns_[i];
        char *field = (char *)out + c->offset;
        if (PQgetisnull(out->result, 0, i))
            continue;
        const char *value = PQgetvalue(out->result, 0, i);
        if (c->kind == WARMPATH_FRESHNESS_) {
            freshness = warmpath_freshness_(value);
            memcpy(field, &freshness, sizeof(freshness));
        } else if (!warmpath_may_use_(c, freshness)) {
            continue;
        } else if (c->kind == WARMPATH_TEXT_) {
            memcpy(field, &value, sizeof(value));
        } else if (PQgetlength(out->result, 0, i) == 8) {
            double number = warmpath_double_(value);
            memcpy(field, &number, sizeof(number));
        }
    }
}

static inline enum warmpath_status warmpath_fail_(struct warmpath_bundle *out,
                                                  enum warmpath_status st, const char *why)
{
    snprintf(out->problem, sizeof(out->problem), "%s", why);
    size_t n = strlen(out->problem);
    while (n > 0 && out->problem[n - 1] == '\n')
        out->problem[--n] = '\0';
    return st;
}

/* ---- public ---- */

/* Prepares the statement. Anything but WARMPATH_OK: PQerrorMessage() says why. Once per connection,
 * and again after PQreset(). */
static inline enum warmpath_status warmpath_prepare(PGconn *conn, int timeout_ms)
{
    int64_t deadline = warmpath_now_ms_() + timeout_ms;
    char sql[8192];
    size_t n = 0;
    for (int i = 0; i < WARMPATH_COLUMNS_; i++) {
        const struct warmpath_column_ *c = &warmpath_columns_[i];
        const char *comma = i ? ", " : "SELECT ";
        int len;
        if (c->kind == WARMPATH_FRESHNESS_)
            len = snprintf(sql + n, sizeof(sql) - n, "%s%s_f", comma, c->row);
        else if (c->kind == WARMPATH_TIME_)
            len = snprintf(sql + n, sizeof(sql) - n, "%sdate_part('epoch', (%s).%s)", comma, c->row,
                           c->name);
        else
            len = snprintf(sql + n, sizeof(sql) - n, "%s(%s).%s::%s", comma, c->row, c->name,
                           c->kind == WARMPATH_TEXT_ ? "text" : "float8");
        n += (size_t)len; /* the columns above fill half of it */
    }
    snprintf(sql + n, sizeof(sql) - n, " FROM strategic_bundle($1::text, $2::text, $3::int)");
    enum warmpath_status st = warmpath_settle_(conn, deadline);
    PGresult *res = NULL;
    if (st == WARMPATH_OK && !PQsendPrepare(conn, "warmpath_read", sql, 3, NULL))
        st = WARMPATH_ERROR;
    if (st == WARMPATH_OK)
        st = warmpath_finish_(conn, deadline, &res);
    if (st == WARMPATH_OK && PQresultStatus(res) != PGRES_COMMAND_OK)
        st = WARMPATH_ERROR;
    PQclear(res);
    return st;
}

/* One round trip, within timeout_ms. window: 24, 168 or 720 hours, of the performance row. Whatever
 * it returns, *out is filled, and warmpath_clear() is owed. */
static inline enum warmpath_status warmpath_read(PGconn *conn, const char *user_id,
                                                 const char *bot_name, int window, int timeout_ms,
                                                 struct warmpath_bundle *out)
{
    int64_t deadline = warmpath_now_ms_() + timeout_ms;
    warmpath_nothing_(out);
    enum warmpath_status st = warmpath_settle_(conn, deadline);
    if (st == WARMPATH_LATE)
        return warmpath_fail_(out, st, "the answer to an earlier read is still awaited");
    if (st != WARMPATH_OK)
        return warmpath_fail_(out, st, PQerrorMessage(conn));
    /* Inside a transaction now() is when that began: a row could look fresher than it is. */
    if (PQtransactionStatus(conn) != PQTRANS_IDLE)
        return warmpath_fail_(out, WARMPATH_ERROR, "the connection is inside a transaction");
    char hours[12];
    snprintf(hours, sizeof(hours), "%d", window);
    const char *const values[] = {user_id, bot_name, hours};
    if (!PQsendQueryPrepared(conn, "warmpath_read", 3, values, NULL, NULL, 1))
        return warmpath_fail_(out, WARMPATH_ERROR, PQerrorMessage(conn));
    st = warmpath_finish_(conn, deadline, &out->result);
    if (st == WARMPATH_LATE)
        return warmpath_fail_(out, st, "no answer within the timeout");
    if (st != WARMPATH_OK)
        return warmpath_fail_(out, st, PQerrorMessage(conn));
    if (PQresultStatus(out->result) != PGRES_TUPLES_OK || PQntuples(out->result) != 1 ||
        PQnfields(out->result) != WARMPATH_COLUMNS_)
        return warmpath_fail_(out, WARMPATH_ERROR, PQresultErrorMessage(out->result));
    warmpath_fill_(out);
    return WARMPATH_OK;
}

/* Frees what the texts point to. A cleared bundle may be cleared again. */
static inline void warmpath_clear(struct warmpath_bundle *b)
{
    PQclear(b->result);
    warmpath_nothing_(b);
}

/* Asks the server to stop the statement of a read that was late. Makes a connection of its own and
 * waits for it: not on the hot path. */
static inline bool warmpath_cancel(PGconn *conn)
{
    char error[256];
    PGcancel *cancel = PQgetCancel(conn);
    bool ok = cancel && PQcancel(cancel, error, sizeof(error));
    PQfreeCancel(cancel);
    return ok;
}

static inline const char *warmpath_freshness_name(enum warmpath_freshness f)
{
    static const char *const names[] = {"missing", "fresh",   "current",
                                        "stale",   "expired", "invalid"};
    return (unsigned)f < 6 ? names[f] : "invalid";
}

#undef WARMPATH_AT_
#undef WARMPATH_META_
#undef WARMPATH_VALUE_
#undef WARMPATH_JSON_
#endif
