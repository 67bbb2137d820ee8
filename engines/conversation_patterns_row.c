#include "engines/conversation_patterns_row.h"

#include "core/cleanup.h"
#include "core/clock.h"
#include "core/jsonw.h"
#include "engines/record.h"
#include "engines/tables.h"
#include "engines/text.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

#define CONFIDENCE_N0  50.0
#define VALENCE_ONE    127.0
#define STYLE_MIN      10
#define DEPTH_MIN      5
#define EMOTION_MIN    10
#define LENGTH_MIN     8
#define VERBOSITY_MIN  100 /* user messages of the bot before its quartiles count */
#define DRIFT_DAYS_MIN 5
#define VALID_US       (6 * US_PER_HOUR)

uint32_t cp_flags_of(const struct msg_rec *m)
{
    static const uint16_t bits[CP_FLAGS] = {[CP_FLAG_QUESTION] = MSG_QUESTION,
                                            [CP_FLAG_EXCLAIM] = MSG_EXCLAIM,
                                            [CP_FLAG_EMOJI] = MSG_EMOJI,
                                            [CP_FLAG_LINK] = MSG_LINK,
                                            [CP_FLAG_UPPER_START] = MSG_UPPER_START,
                                            [CP_FLAG_END_PUNCT] = MSG_END_PUNCT};
    uint32_t carried = 0;
    for (size_t i = 0; i < CP_FLAGS; i++)
        carried |= (uint32_t)((m->flags & bits[i]) != 0) << i;
    return carried;
}

size_t cp_length_bucket(uint32_t words)
{
    size_t b = 0;
    for (uint32_t upper = 8; words > upper && b + 1 < CP_LENGTHS; upper *= 2)
        b++;
    return b;
}

static uint32_t length_lower(size_t bucket)
{
    return bucket == 0 ? 0 : (UINT32_C(8) << (bucket - 1)) + 1;
}

int64_t cp_expiry_us(int64_t t_us)
{
    return time_floor_us(t_us + RECORD_WINDOW_US, US_PER_HOUR) + US_PER_HOUR;
}

enum cp_drift cp_drift_of(const double *medians, size_t n)
{
    if (n < DRIFT_DAYS_MIN)
        return CP_DRIFT_NONE;
    double z = kernel_trend(medians, n).z;
    return z >= TREND_Z ? CP_DRIFT_RISING : z <= -TREND_Z ? CP_DRIFT_FALLING : CP_DRIFT_FLAT;
}

int cp_valence_compare(const struct cp_topic *a, const struct cp_topic *b)
{
    int64_t x = (int64_t)a->valence_sum * b->n, y = (int64_t)b->valence_sum * a->n;
    return (x > y) - (x < y);
}

static double share(uint64_t k, uint64_t n)
{
    return n ? (double)k / (double)n : 0.0;
}

/* ---- what is compared with the bot's other users ---- */

/* Share of the bot's user messages, as far as the epoch knows: without one the prior, and with a
 * young one in between, as if EPOCH_PRIOR messages had said so before. */
#define EPOCH_PRIOR (20.0 * EPOCH_SCALE)
#define RATE_PRIOR  0.25

static double epoch_share(const struct epoch *e, unsigned first, unsigned last)
{
    double k = 0;
    for (unsigned cell = first; e && cell <= last; cell++)
        k += e->v[cell];
    double n = e ? e->v[EPOCH_USER_MESSAGES] : 0;
    return fmin(1.0, (k + EPOCH_PRIOR * RATE_PRIOR) / (n + EPOCH_PRIOR));
}

#define WORDS_PRIOR 15.0

static double epoch_words_mean(const struct epoch *e)
{
    double n = EPOCH_PRIOR, sum = EPOCH_PRIOR * WORDS_PRIOR;
    for (unsigned b = 0; e && b < HIST_BUCKETS; b++) {
        n += e->v[EPOCH_WORDS + b];
        sum += (double)e->v[EPOCH_WORDS + b] * hist_value(b);
    }
    return sum / n;
}

/* Nearest rank, as hist_quantile(). */
static uint32_t epoch_words_quantile(const struct epoch *e, unsigned percent)
{
    uint64_t n = 0, seen = 0;
    for (unsigned b = 0; b < HIST_BUCKETS; b++)
        n += e->v[EPOCH_WORDS + b];
    unsigned b = 0;
    for (; b + 1 < HIST_BUCKETS; b++) {
        seen += e->v[EPOCH_WORDS + b];
        if (seen * 100 >= n * percent)
            break;
    }
    return hist_value(b);
}

/*
 * The fingerprint (ENGINES.md A4): 24 style values and a value for each mark, one signed byte each.
 * 0 is what is usual: among the bot's users as far as its epoch knows, else by the priors.
 *
 * Rates are differences of square roots, which spreads the small ones that tell people apart. A
 * mark is the logarithm of how much more often it occurs than expected; MARK_PRIOR pseudo-counts on
 * both sides keep rare marks from shouting, which also scales them by how much is known.
 */
#define STYLE_BYTES       24
#define MARK_PRIOR        8.0
#define FINGERPRINT_BYTES (STYLE_BYTES + RECORD_MARKS)

static int8_t to_byte(double v)
{
    return (int8_t)fmax(-127.0, fmin(127.0, rint(v)));
}

static int8_t rate_byte(double rate, double usual)
{
    return to_byte(254.0 * (sqrt(rate) - sqrt(usual)));
}

static double entropy_bits(const struct cp_counts *c)
{
    return kernel_entropy_bits(c->marks, RECORD_MARK_TRIGRAMS);
}

static size_t style_bytes(const struct cp_counts *c, int8_t *out)
{
    static const uint16_t words_at[] = {1, 2, 4, 7, 12, 20, 35};
    static const uint16_t chars_at[] = {3, 8, 20, 40, 80, 160};
    const struct epoch *e = c->epoch;
    size_t n = 0;
    for (unsigned i = 0; i < CP_FLAGS; i++)
        out[n++] = rate_byte(share(c->flags[i], c->n),
                             epoch_share(e, EPOCH_STYLE_FLAGS + i, EPOCH_STYLE_FLAGS + i));
    for (size_t i = 0; i < sizeof(words_at) / sizeof(words_at[0]); i++)
        out[n++] = rate_byte(
            share(hist_at_most(&c->words, words_at[i]), c->n),
            epoch_share(e, EPOCH_WORDS, EPOCH_WORDS + (unsigned)hist_bucket(words_at[i])));
    for (size_t i = 0; i < sizeof(chars_at) / sizeof(chars_at[0]); i++)
        out[n++] = rate_byte(share(hist_at_most(&c->chars, chars_at[i]), c->n), RATE_PRIOR);
    double words = kernel_mean(c->n, c->words_sum), chars = kernel_mean(c->n, c->chars_sum);
    double sd = sqrt(kernel_variance(c->n, c->words_sum, c->words_sum2));
    out[n++] = to_byte(24.0 * log2((1.0 + words) / (1.0 + epoch_words_mean(e))));
    out[n++] = to_byte(20.0 * log2(1.0 + chars) - 112.0);
    out[n++] = to_byte(words > 0.0 ? 24.0 * (chars / words) - 127.0 : -127.0);
    out[n++] = to_byte(words > 0.0 ? 64.0 * (sd / words) - 127.0 : -127.0);
    out[n++] = to_byte(64.0 * entropy_bits(c) - 384.0);
    return n;
}

static void fingerprint(const struct cp_counts *c, int8_t out[FINGERPRINT_BYTES])
{
    size_t n = style_bytes(c, out);
    assert(n == STYLE_BYTES);
    const uint32_t *usual = c->epoch ? &c->epoch->v[EPOCH_MARKS] : NULL;
    double total = 0, all = EPOCH_PRIOR * RECORD_MARKS;
    for (size_t i = 0; i < RECORD_MARKS; i++) {
        total += c->marks[i];
        all += usual ? usual[i] : 0;
    }
    for (size_t i = 0; i < RECORD_MARKS; i++) {
        double expected = total * ((usual ? usual[i] : 0) + EPOCH_PRIOR) / all;
        out[n++] = to_byte(64.0 * log2((c->marks[i] + MARK_PRIOR) / (expected + MARK_PRIOR)));
    }
}

/*
 * How alike user and bot use the bot's most frequent words: language style matching, the mean over
 * the classes that either uses of 1 - |a - b| / (a + b + 0.0001), a and b being shares of all
 * words.
 */
static bool style_match(const struct cp_counts *c, double *ret)
{
    const struct cp_speech *u = &c->user, *b = &c->bot;
    if (u->n < STYLE_MIN || b->n < STYLE_MIN || u->words == 0 || b->words == 0)
        return false;
    double sum = 0;
    unsigned classes = 0;
    for (size_t i = 0; i < RECORD_COMMON; i++) {
        if (u->common[i] + b->common[i] == 0)
            continue;
        double p = share(u->common[i], u->words), q = share(b->common[i], b->words);
        sum += 1.0 - fabs(p - q) / (p + q + 0.0001);
        classes++;
    }
    *ret = classes ? sum / classes : 0.0;
    return classes > 0;
}

static void write_base64(struct jsonw *w, const int8_t bytes[FINGERPRINT_BYTES])
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char text[(FINGERPRINT_BYTES + 2) / 3 * 4];
    size_t n = 0;
    for (size_t i = 0; i < FINGERPRINT_BYTES; i += 3) {
        size_t have = FINGERPRINT_BYTES - i < 3 ? FINGERPRINT_BYTES - i : 3;
        uint32_t group = 0;
        for (size_t j = 0; j < 3; j++)
            group = group << 8 | (j < have ? (uint8_t)bytes[i + j] : 0);
        for (size_t j = 0; j < 4; j++) {
            text[n] = '=';
            if (j <= have)
                text[n] = digits[group >> (18 - 6 * j) & 63];
            n++;
        }
    }
    jsonw_string(w, (struct str){text, n});
}

static void write_rate(struct jsonw *w, const char *key, uint64_t k, uint64_t n)
{
    jsonw_key(w, key);
    if (n)
        jsonw_number(w, share(k, n));
    else
        jsonw_null(w);
}

static void write_quantile(struct jsonw *w, const char *key, const struct hist *h, unsigned percent)
{
    jsonw_key(w, key);
    jsonw_int(w, hist_quantile(h, percent));
}

/* The user's median message among the bot's quartiles; before there are enough of them, the mean
 * among absolute lengths. */
static struct str verbosity(const struct cp_counts *c)
{
    static const char *const names[] = {"brief", "moderate", "elaborate", "extensive"};
    static const unsigned absolute[] = {10, 30, 60};
    const struct epoch *e = c->epoch;
    bool relative = e && e->v[EPOCH_USER_MESSAGES] >= VERBOSITY_MIN * EPOCH_SCALE;
    uint32_t median = hist_quantile(&c->words, 50);
    size_t at = 0;
    while (at < 3 && (relative ? median >= epoch_words_quantile(e, 25 * ((unsigned)at + 1))
                               : c->words_sum >= (int64_t)absolute[at] * c->n))
        at++;
    return str_from(names[at]);
}

static void write_drift(struct jsonw *w, enum cp_drift drift)
{
    static const char *const names[] = {
        [CP_DRIFT_RISING] = "rising", [CP_DRIFT_FLAT] = "flat", [CP_DRIFT_FALLING] = "falling"};
    jsonw_key(w, "drift");
    jsonw_object_begin(w);
    jsonw_key(w, "words_p50");
    if (drift == CP_DRIFT_NONE)
        jsonw_null(w);
    else
        jsonw_string(w, str_from(names[drift]));
    jsonw_object_end(w);
}

static void write_how_top(struct jsonw *w, const struct cp_counts *c)
{
    jsonw_key(w, "how_top");
    jsonw_array_begin(w);
    for (size_t i = 0; i < c->n_how; i++) {
        jsonw_object_begin(w);
        jsonw_key(w, "how");
        jsonw_int(w, c->how[i].how);
        write_rate(w, "share", c->how[i].count, c->n);
        jsonw_object_end(w);
    }
    jsonw_array_end(w);
}

static void write_latency(struct jsonw *w, const struct hist *h)
{
    jsonw_key(w, "reply_latency_s");
    if (hist_total(h) == 0) {
        jsonw_null(w);
        return;
    }
    jsonw_object_begin(w);
    write_quantile(w, "p50", h, 50);
    write_quantile(w, "p90", h, 90);
    jsonw_object_end(w);
}

static void write_style(struct jsonw *w, const struct cp_counts *c)
{
    int8_t print[FINGERPRINT_BYTES];
    fingerprint(c, print);
    jsonw_object_begin(w);
    write_quantile(w, "chars_p50", &c->chars, 50);
    write_drift(w, c->drift);
    write_rate(w, "emoji_rate", c->flags[CP_FLAG_EMOJI], c->n);
    write_rate(w, "end_punct_rate", c->flags[CP_FLAG_END_PUNCT], c->n);
    jsonw_key(w, "entropy_bits");
    jsonw_number(w, entropy_bits(c));
    write_rate(w, "exclaim_rate", c->flags[CP_FLAG_EXCLAIM], c->n);
    jsonw_key(w, "fingerprint");
    write_base64(w, print);
    write_how_top(w, c);
    write_rate(w, "link_rate", c->flags[CP_FLAG_LINK], c->n);
    jsonw_key(w, "n");
    jsonw_int(w, c->n);
    write_rate(w, "question_rate", c->flags[CP_FLAG_QUESTION], c->n);
    write_latency(w, &c->latency_s);
    jsonw_key(w, "style_match");
    double match;
    if (style_match(c, &match))
        jsonw_number(w, match);
    else
        jsonw_null(w);
    write_rate(w, "upper_start_rate", c->flags[CP_FLAG_UPPER_START], c->n);
    write_rate(w, "user_initiated_share", c->runs_by_user, c->runs);
    jsonw_key(w, "verbosity");
    jsonw_string(w, verbosity(c));
    jsonw_key(w, "words");
    jsonw_object_begin(w);
    jsonw_key(w, "mean");
    jsonw_number(w, kernel_mean(c->n, c->words_sum));
    write_quantile(w, "p10", &c->words, 10);
    write_quantile(w, "p50", &c->words, 50);
    write_quantile(w, "p90", &c->words, 90);
    jsonw_object_end(w);
    jsonw_object_end(w);
}

static void write_depth(struct jsonw *w, const struct cp_counts *c)
{
    uint32_t p75 = hist_quantile(&c->turns, 75);
    jsonw_object_begin(w);
    jsonw_key(w, "class");
    jsonw_string(w, p75 < 4 ? STR("shallow") : p75 < 9 ? STR("moderate") : STR("deep"));
    write_rate(w, "deep_share", c->n_deep, c->n_segments);
    jsonw_key(w, "n_segments");
    jsonw_int(w, c->n_segments);
    jsonw_key(w, "session_turns_mean");
    jsonw_number(w, kernel_mean(c->n_sessions, c->n));
    jsonw_key(w, "turns_per_topic");
    jsonw_object_begin(w);
    write_quantile(w, "p50", &c->turns, 50);
    jsonw_key(w, "p75");
    jsonw_int(w, p75);
    jsonw_object_end(w);
    jsonw_object_end(w);
}

static void write_topics(struct jsonw *w, const char *key, const struct cp_topic *topics, size_t n)
{
    jsonw_key(w, key);
    jsonw_array_begin(w);
    for (size_t i = 0; i < n; i++) {
        const struct cp_topic *t = &topics[i];
        jsonw_object_begin(w);
        jsonw_key(w, "n");
        jsonw_int(w, t->n);
        jsonw_key(w, "topic");
        jsonw_string(w, (struct str){t->label, t->label_len});
        jsonw_key(w, "valence");
        jsonw_number(w, kernel_mean(t->n, t->valence_sum) / VALENCE_ONE);
        jsonw_object_end(w);
    }
    jsonw_array_end(w);
}

static void write_emotion(struct jsonw *w, const struct cp_counts *c)
{
    jsonw_object_begin(w);
    write_rate(w, "coverage", c->n_emotion, c->n);
    jsonw_key(w, "dominant");
    jsonw_array_begin(w);
    for (size_t i = 0; i < c->n_dominant; i++) {
        jsonw_object_begin(w);
        jsonw_key(w, "emotion");
        jsonw_string(w, str_from(text_emotion_name(c->dominant[i].emotion)));
        write_rate(w, "share", c->dominant[i].count, c->n_emotion);
        jsonw_object_end(w);
    }
    jsonw_array_end(w);
    write_rate(w, "recovery_rate", c->recoveries, c->negatives);
    write_topics(w, "topics_negative", c->negative, c->n_negative);
    write_topics(w, "topics_positive", c->positive, c->n_positive);
    jsonw_key(w, "valence");
    jsonw_object_begin(w);
    jsonw_key(w, "lag1");
    double lag1;
    if (kernel_correlation(&c->lag1, &lag1))
        jsonw_number(w, lag1);
    else
        jsonw_null(w);
    jsonw_key(w, "mean");
    jsonw_number(w, kernel_mean(c->n_emotion, c->valence_sum) / VALENCE_ONE);
    jsonw_key(w, "sd");
    jsonw_number(w, sqrt(kernel_variance(c->n_emotion, c->valence_sum, c->valence_sum2)) /
                        VALENCE_ONE);
    jsonw_object_end(w);
    jsonw_object_end(w);
}

/* The bucket with the highest lower bound among those with enough outcomes, or CP_LENGTHS. */
static size_t best_length(const struct cp_counts *c)
{
    size_t best = CP_LENGTHS;
    double best_low = 0.0;
    for (size_t i = 0; i < CP_LENGTHS; i++) {
        if (c->length_n[i] < LENGTH_MIN)
            continue;
        double low = kernel_wilson_low(c->length_k[i], c->length_n[i]);
        if (best == CP_LENGTHS || low > best_low) {
            best = i;
            best_low = low;
        }
    }
    return best;
}

static void write_length(struct jsonw *w, const struct cp_counts *c, size_t best, double base)
{
    jsonw_object_begin(w);
    jsonw_key(w, "base");
    jsonw_number(w, base);
    jsonw_key(w, "buckets");
    jsonw_array_begin(w);
    for (size_t i = 0; i < CP_LENGTHS; i++) {
        if (c->length_n[i] == 0)
            continue;
        jsonw_array_begin(w);
        jsonw_int(w, length_lower(i));
        jsonw_int(w, c->length_n[i]);
        jsonw_int(w, c->length_k[i]);
        jsonw_array_end(w);
    }
    jsonw_array_end(w);
    jsonw_key(w, "expected");
    jsonw_number(w, kernel_posterior(c->length_k[best], c->length_n[best], base));
    jsonw_key(w, "n");
    jsonw_int(w, c->length_n[best]);
    jsonw_key(w, "range");
    jsonw_array_begin(w);
    jsonw_int(w, length_lower(best));
    if (best + 1 < CP_LENGTHS)
        jsonw_int(w, length_lower(best + 1) - 1);
    else
        jsonw_null(w);
    jsonw_array_end(w);
    jsonw_key(w, "unit");
    jsonw_string(w, STR("words"));
    jsonw_object_end(w);
}

static enum status set_json(struct row *row, size_t column, struct jsonw *w)
{
    enum status st = jsonw_status(w);
    return st == STATUS_OK ? row_set_json(row, column, (struct str){w->out->data, w->out->len})
                           : st;
}

static enum status write_length_column(const struct cp_counts *c, struct jsonw *w, struct row *row)
{
    uint32_t n = 0, k = 0, most = 0;
    for (size_t i = 0; i < CP_LENGTHS; i++) {
        n += c->length_n[i];
        k += c->length_k[i];
        most = c->length_n[i] > most ? c->length_n[i] : most;
    }
    size_t best = best_length(c);
    if (best == CP_LENGTHS)
        return row_set_null(row, CP_OPTIMAL_RESPONSE_LENGTH, "insufficient_data: have %u, need %d",
                            most, LENGTH_MIN);
    double base = share(k, n);
    if (kernel_posterior(c->length_k[best], c->length_n[best], base) <= base)
        return row_set_null(row, CP_OPTIMAL_RESPONSE_LENGTH, "no_difference: no length beats %.3f",
                            base);
    write_length(w, c, best, base);
    enum status st = set_json(row, CP_OPTIMAL_RESPONSE_LENGTH, w);
    if (st != STATUS_OK)
        return st;
    /* Replies may depend on what longer messages are about: a hint to test, not an effect. */
    return row_add_detail(row, "correlational", STR("[\"optimal_response_length\"]"));
}

static enum status write_emotion_column(const struct cp_counts *c, struct jsonw *w, struct row *row)
{
    if (c->n_emotion == 0)
        return row_set_null(row, CP_EMOTIONAL_ENGAGEMENT, "no_signal: no message has an emotion");
    if (c->n_emotion < EMOTION_MIN)
        return row_set_null(row, CP_EMOTIONAL_ENGAGEMENT, "insufficient_data: have %u, need %d",
                            c->n_emotion, EMOTION_MIN);
    if ((uint64_t)c->n_emotion * 5 < c->n)
        return row_set_null(row, CP_EMOTIONAL_ENGAGEMENT,
                            "low_coverage: %u of %u messages have an emotion, need 1 of 5",
                            c->n_emotion, c->n);
    write_emotion(w, c);
    return set_json(row, CP_EMOTIONAL_ENGAGEMENT, w);
}

static enum status write_style_column(const struct cp_counts *c, struct jsonw *w, struct row *row)
{
    if (c->n < STYLE_MIN)
        return row_set_null(row, CP_COMMUNICATION_STYLE, "insufficient_data: have %u, need %d",
                            c->n, STYLE_MIN);
    write_style(w, c);
    return set_json(row, CP_COMMUNICATION_STYLE, w);
}

static enum status write_depth_column(const struct cp_counts *c, struct jsonw *w, struct row *row)
{
    if (c->n_segments < DEPTH_MIN)
        return row_set_null(row, CP_PREFERRED_DEPTH, "insufficient_data: have %u, need %d",
                            c->n_segments, DEPTH_MIN);
    write_depth(w, c);
    return set_json(row, CP_PREFERRED_DEPTH, w);
}

static int64_t valid_until(const struct cp_counts *c)
{
    int64_t until = c->as_of_us + VALID_US;
    int64_t midnight = (int64_t)(kernel_day(c->as_of_us) + 1) * US_PER_DAY; /* the next epoch */
    const int64_t moments[] = {c->next_expiry_us, c->session_close_us, c->next_outcome_us,
                               midnight};
    for (size_t i = 0; i < sizeof(moments) / sizeof(moments[0]); i++)
        until = moments[i] < until ? moments[i] : until;
    return until;
}

enum status cp_write(const struct cp_counts *c, struct row *row, struct error *err)
{
    static enum status (*const columns[])(const struct cp_counts *, struct jsonw *,
                                          struct row *) = {
        write_style_column, write_depth_column, write_emotion_column, write_length_column};
    CLEANUP(buf_deinit) struct buf json;
    buf_init(&json, LIMIT_JSON_BYTES);
    for (size_t i = 0; i < sizeof(columns) / sizeof(columns[0]); i++) {
        struct jsonw w;
        buf_reset(&json);
        jsonw_init(&w, &json);
        enum status st = columns[i](c, &w, row);
        if (st != STATUS_OK)
            return error_set(err, st, "could not write conversation patterns: %s", status_name(st));
    }
    uint32_t flags = ROW_NO_TZ;
    if (c->n_emotion == 0)
        flags |= ROW_NO_EMOTION;
    if (c->truncated)
        flags |= ROW_TRUNCATED;
    row_rate(row, flags, kernel_confidence(c->n, CONFIDENCE_N0, c->n_text, c->n), valid_until(c));
    return STATUS_OK;
}
