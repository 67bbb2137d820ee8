/*
 * Conversation patterns (ENGINES.md E6): style, depth, emotional engagement, best reply length.
 *
 * A key with few messages keeps no counters at all: they are cheaper to count at emission than to
 * hold for the many keys that never come back. From COUNTED_MIN messages on there are
 *   - sums and histograms over single messages and over neighbours, changed in both directions by
 *     add() with sign 1 or -1 (neighbours are read from the log, which holds the record both right
 *     after insert() and right before retract());
 *   - the daily medians of message length, voided by a change and computed again at emission.
 * Sessions and segments are the key's (dialogue.h); what a session says is summed up at emission.
 * Losing the counters is always allowed: the next emission or insert counts anew from the log.
 */
#include "core/cleanup.h"
#include "engines/conversation_patterns_row.h"
#include "engines/dialogue.h"
#include "engines/engine.h"
#include "engines/topics.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define COUNTED_MIN   16
#define MARKS_STEP    4  /* one mark of so many teaches the epoch, and counts as many */
#define REPLIES_MAX   64 /* bot messages in a row that one message decides */
#define HOURS_OF_WEEK 168

/* The window touches at most 32 calendar days: 720 h, the hour it started in, 5 minutes ahead. */
#define DAYS 32
struct day {
    int32_t day;
    uint16_t n;
    uint16_t median;
    bool valid;
};

struct counters {
    uint32_t n_user;
    uint32_t n_text;
    int64_t words_sum;
    int64_t words_sum2;
    int64_t chars_sum;
    int64_t valence_sum;
    int64_t valence_sum2;
    uint32_t n_emotion;
    uint32_t flags[CP_FLAGS];
    uint16_t marks[RECORD_MARKS];
    struct cp_speech user, bot;
    struct hist words;
    struct hist chars;
    struct hist latency_s;
    uint16_t how[HOURS_OF_WEEK];
    uint16_t emotions[256];
    uint16_t length_n[CP_LENGTHS]; /* all bot messages, undecided ones included */
    uint16_t length_k[CP_LENGTHS]; /* with a reply in time */
    struct day days[DAYS];
};

_Static_assert(sizeof(struct counters) <= 4096, "ENGINES.md A4: sums of at most 4 KB a key");

struct state {
    struct counters *counters; /* NULL: count from the log */
};

static bool is_bot(const struct msg_rec *m)
{
    return m->flags & MSG_BOT;
}

static void change16(uint16_t *count, int sign)
{
    assert(sign > 0 || *count > 0);
    *count = (uint16_t)(*count + sign);
}

static void change32(uint32_t *count, int sign)
{
    assert(sign > 0 || *count > 0);
    *count += (uint32_t)sign;
}

static void add_flags(struct counters *c, const struct msg_rec *m, int sign)
{
    uint32_t carried = cp_flags_of(m);
    for (size_t i = 0; i < CP_FLAGS; i++)
        if (carried >> i & 1)
            change32(&c->flags[i], sign);
}

static void add_speech(struct cp_speech *s, const struct msg_rec *m, int sign)
{
    if (!(m->flags & MSG_COMMON))
        return;
    change32(&s->n, sign);
    s->words += (uint32_t)(sign * m->words);
    for (size_t i = 0; i < RECORD_COMMON; i++)
        s->common[i] += (uint32_t)sign * msg_common(m, i);
}

/* Everything that one user message adds by itself. */
static void add_user(struct counters *c, const struct msg_rec *m, int sign)
{
    change32(&c->n_user, sign);
    if (m->chars)
        change32(&c->n_text, sign);
    int64_t words = m->words;
    c->words_sum += sign * words;
    c->words_sum2 += sign * words * words;
    c->chars_sum += sign * (int64_t)m->chars;
    hist_change(&c->words, m->words, sign);
    hist_change(&c->chars, m->chars, sign);
    add_flags(c, m, sign);
    for (size_t byte = 0; byte < sizeof(m->marks); byte++)
        for (unsigned bits = m->marks[byte]; bits; bits &= bits - 1)
            change16(&c->marks[byte * 8 + (unsigned)__builtin_ctz(bits)], sign);
    change16(&c->how[kernel_hour_of_week(m->t_us)], sign);
    c->days[(uint32_t)kernel_day(m->t_us) % DAYS].valid = false;
    if (m->flags & MSG_HAS_EMOTION) {
        change32(&c->n_emotion, sign);
        change16(&c->emotions[m->emotion], sign);
        c->valence_sum += m->valence * (int64_t)sign;
        c->valence_sum2 += (int64_t)m->valence * m->valence * sign;
    }
}

/* A user message right after a bot message is an answer to it, unless a new run begins. */
static void add_latency(struct counters *c, const struct msg_rec *before,
                        const struct msg_rec *after, int sign)
{
    int64_t gap = after->t_us - before->t_us;
    if (!is_bot(before) || is_bot(after) || gap >= RECORD_SESSION_GAP_US)
        return;
    hist_change(&c->latency_s, (uint32_t)(gap / US_PER_SECOND), sign);
}

/* Time of the first user message behind `index`, at most CP_OUTCOME_US after it; else INT64_MAX. */
static int64_t next_user_us(const struct key_log *log, size_t index)
{
    int64_t last = log->messages[index].t_us + CP_OUTCOME_US;
    for (size_t i = index + 1; i < log->n_messages && log->messages[i].t_us <= last; i++)
        if (!is_bot(&log->messages[i]))
            return log->messages[i].t_us;
    return INT64_MAX;
}

/* A bot message brings its own outcome; a user message answers the bot messages right before it. */
static void add_outcomes(struct counters *c, const struct key_log *log, size_t index, int sign)
{
    const struct msg_rec *m = &log->messages[index];
    if (is_bot(m)) {
        size_t b = cp_length_bucket(m->words);
        change16(&c->length_n[b], sign);
        if (next_user_us(log, index) != INT64_MAX)
            change16(&c->length_k[b], sign);
        return;
    }
    size_t i = index;
    if (i == 0 || !is_bot(&log->messages[i - 1]))
        return;
    int64_t next = next_user_us(log, index);
    while (i > 0 && is_bot(&log->messages[i - 1])) {
        const struct msg_rec *bot = &log->messages[--i];
        if (m->t_us - bot->t_us > CP_OUTCOME_US)
            break;
        /* With or without m, a later user message in time is a reply as well. */
        if (next == INT64_MAX || next - bot->t_us > CP_OUTCOME_US)
            change16(&c->length_k[cp_length_bucket(bot->words)], sign);
    }
}

/* The sums over single messages and neighbours; record `index` is in the log, in either direction.
 */
static void add(struct counters *c, const struct key_log *log, size_t index, int sign)
{
    const struct msg_rec *m = &log->messages[index];
    const struct msg_rec *before = index > 0 ? m - 1 : NULL;
    const struct msg_rec *after = index + 1 < log->n_messages ? m + 1 : NULL;
    if (before && after)
        add_latency(c, before, after, -sign);
    if (before)
        add_latency(c, before, m, sign);
    if (after)
        add_latency(c, m, after, sign);
    add_outcomes(c, log, index, sign);
    add_speech(is_bot(m) ? &c->bot : &c->user, m, sign);
    if (!is_bot(m))
        add_user(c, m, sign);
}

/* NULL when there is no memory. */
static struct counters *count_log(const struct key_log *log)
{
    struct counters *c = calloc(1, sizeof(*c));
    struct key_log prefix = *log;
    for (size_t i = 0; c && i < log->n_messages; i++) {
        prefix.n_messages = i + 1;
        add(c, &prefix, i, 1);
    }
    return c;
}

static enum status cp_insert(void *state, const struct key_log *log, enum record_kind kind,
                             size_t index, struct error *err)
{
    struct state *s = state;
    assert(kind == RECORD_MESSAGE);
    assert(index < log->n_messages);
    if (!s->counters) {
        if (log->n_messages < COUNTED_MIN)
            return STATUS_OK;
        s->counters = count_log(log);
        if (s->counters)
            return STATUS_OK;
        return error_set(err, STATUS_NOMEM, "could not allocate conversation counters");
    }
    add(s->counters, log, index, 1);
    return STATUS_OK;
}

static void cp_retract(void *state, const struct key_log *log, enum record_kind kind, size_t index)
{
    struct state *s = state;
    assert(kind == RECORD_MESSAGE);
    assert(index < log->n_messages);
    if (!s->counters)
        return;
    if (log->n_messages > COUNTED_MIN / 2)
        add(s->counters, log, index, -1);
    else
        free(TAKE(s->counters));
}

/* Valence of neighbouring emotional user messages of a session, as pairs and as recoveries. */
static void sum_emotions(const struct msg_rec *records, size_t n, struct cp_counts *out)
{
    const struct msg_rec *last = NULL;
    for (size_t i = 0; i < n; i++) {
        const struct msg_rec *m = &records[i];
        if (is_bot(m) || !(m->flags & MSG_HAS_EMOTION))
            continue;
        if (last) {
            pair_add(&out->lag1, last->valence, m->valence);
            out->negatives += last->valence < 0;
            out->recoveries += last->valence < 0 && m->valence > 0;
        }
        last = m;
    }
}

static void sum_session(const struct dialogue_session *s, const struct key_log *log,
                        struct cp_counts *out)
{
    const struct msg_rec *records = &log->messages[s->first];
    if (!s->continues) {
        out->runs++;
        out->runs_by_user += !is_bot(&records[0]);
    }
    size_t bots = 0;
    while (bots < s->n && is_bot(&records[bots]))
        bots++;
    out->n_sessions += bots < s->n;
    for (size_t i = 0; i < s->n_segments; i++) {
        if (s->segments[i].n_user == 0)
            continue;
        out->n_segments++;
        hist_change(&out->turns, s->segments[i].n_user, 1);
        out->n_deep += s->segments[i].n_user >= CP_DEEP_TURNS;
    }
    if (out->n_emotion > 0)
        sum_emotions(records, s->n, out);
}

/* The newest segments, oldest first, as clustering wants them. */
static void collect_topics(const struct dialogue_session *sessions, size_t n, size_t n_segments,
                           struct topics *t)
{
    size_t skip = n_segments > SEGMENT_CLUSTERED_MAX ? n_segments - SEGMENT_CLUSTERED_MAX : 0;
    size_t seen = 0;
    t->n = 0;
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < sessions[i].n_segments; j++) {
            if (sessions[i].segments[j].n_user == 0 || seen++ < skip)
                continue;
            t->segments[t->n] = &sessions[i].segments[j];
            t->starts[t->n++] = sessions[i].first + sessions[i].segments[j].first;
        }
    }
}

static enum status take_sessions(const struct key_log *log, struct cp_counts *out,
                                 struct error *err)
{
    const struct dialogue_session *sessions;
    size_t n;
    enum status st = dialogue_sessions(log, &sessions, &n, err);
    if (st != STATUS_OK)
        return st;
    for (size_t i = 0; i < n; i++)
        sum_session(&sessions[i], log, out);
    if (out->n_emotion < CP_TOPIC_MIN)
        return STATUS_OK;
    struct topics t;
    collect_topics(sessions, n, out->n_segments, &t);
    if (topics_rank(log, &t, out) != STATUS_OK)
        return error_set(err, STATUS_NOMEM, "could not allocate topic labels");
    return STATUS_OK;
}

static void measure_day(const struct key_log *log, int32_t day, struct day *d)
{
    struct hist words = {0};
    int64_t end = (int64_t)(day + 1) * US_PER_DAY;
    *d = (struct day){.day = day, .valid = true};
    for (size_t i = key_log_message_at(log, end - US_PER_DAY);
         i < log->n_messages && log->messages[i].t_us < end; i++) {
        if (is_bot(&log->messages[i]))
            continue;
        d->n++;
        hist_change(&words, log->messages[i].words, 1);
    }
    d->median = (uint16_t)hist_quantile(&words, 50);
}

static enum cp_drift drift(struct counters *c, const struct key_log *log)
{
    double medians[DAYS];
    size_t n = 0;
    int32_t last = kernel_day(log->messages[log->n_messages - 1].t_us);
    int32_t day = kernel_day(log->messages[0].t_us);
    assert(last - day < DAYS);
    for (; day <= last; day++) {
        struct day *d = &c->days[(uint32_t)day % DAYS];
        if (!d->valid || d->day != day)
            measure_day(log, day, d);
        if (d->n >= CP_DRIFT_DAY_MIN)
            medians[n++] = d->median;
    }
    return cp_drift_of(medians, n);
}

/* Index of the largest count, the first one of equals, or n when all are 0; then set to 0. */
static size_t take_largest(uint16_t *counts, size_t n, uint32_t *ret_count)
{
    size_t best = n;
    for (size_t i = 0; i < n; i++)
        if (counts[i] && (best == n || counts[i] > counts[best]))
            best = i;
    if (best < n) {
        *ret_count = counts[best];
        counts[best] = 0;
    }
    return best;
}

static void take_tops(const struct counters *c, struct cp_counts *out)
{
    uint16_t how[HOURS_OF_WEEK], emotions[256];
    memcpy(how, c->how, sizeof(how));
    memcpy(emotions, c->emotions, sizeof(emotions));
    uint32_t count;
    for (size_t i; out->n_how < CP_HOW_TOP &&
                   (i = take_largest(how, HOURS_OF_WEEK, &count)) < HOURS_OF_WEEK;) {
        out->how[out->n_how].how = (uint32_t)i;
        out->how[out->n_how++].count = count;
    }
    for (size_t i;
         out->n_dominant < CP_EMOTIONS_TOP && (i = take_largest(emotions, 256, &count)) < 256;) {
        out->dominant[out->n_dominant].emotion = (uint8_t)i;
        out->dominant[out->n_dominant++].count = count;
    }
}

/* Bot messages of the last 30 minutes without a reply are not counted yet. */
static void take_outcomes(const struct counters *c, const struct key_log *log,
                          struct cp_counts *out)
{
    for (size_t i = 0; i < CP_LENGTHS; i++) {
        out->length_n[i] = c->length_n[i];
        out->length_k[i] = c->length_k[i];
    }
    int64_t reply_us = INT64_MAX;
    for (size_t i = log->n_messages; i-- > 0;) {
        const struct msg_rec *m = &log->messages[i];
        int64_t decided_us = m->t_us + CP_OUTCOME_US;
        if (decided_us <= log->as_of_us)
            return;
        if (!is_bot(m)) {
            reply_us = m->t_us;
        } else if (reply_us > decided_us) {
            out->length_n[cp_length_bucket(m->words)]--;
            out->next_outcome_us =
                decided_us < out->next_outcome_us ? decided_us : out->next_outcome_us;
        }
    }
}

static void take_sums(const struct counters *c, struct cp_counts *out)
{
    out->n = c->n_user;
    out->n_text = c->n_text;
    out->words_sum = c->words_sum;
    out->words_sum2 = c->words_sum2;
    out->chars_sum = c->chars_sum;
    out->words = c->words;
    out->chars = c->chars;
    out->latency_s = c->latency_s;
    memcpy(out->flags, c->flags, sizeof(out->flags));
    for (size_t i = 0; i < RECORD_MARKS; i++)
        out->marks[i] = c->marks[i];
    out->user = c->user;
    out->bot = c->bot;
    out->n_emotion = c->n_emotion;
    out->valence_sum = c->valence_sum;
    out->valence_sum2 = c->valence_sum2;
}

static enum status take(struct counters *c, const struct key_log *log, struct cp_counts *out,
                        struct error *err)
{
    take_sums(c, out);
    take_tops(c, out);
    take_outcomes(c, log, out);
    if (log->n_messages == 0)
        return STATUS_OK;
    out->drift = drift(c, log);
    out->next_expiry_us = cp_expiry_us(log->messages[0].t_us);
    int64_t close_us = log->messages[log->n_messages - 1].t_us + RECORD_SESSION_GAP_US;
    if (close_us > log->as_of_us)
        out->session_close_us = close_us;
    return take_sessions(log, out, err);
}

static enum status cp_emit(void *state, const struct key_log *log, struct row *row,
                           struct error *err)
{
    struct state *s = state;
    struct counters *c = s->counters ? s->counters : count_log(log);
    if (!c)
        return error_set(err, STATUS_NOMEM, "could not allocate conversation counters");
    struct cp_counts counts = {.as_of_us = log->as_of_us,
                               .truncated = log->truncated,
                               .epoch = epoch_at(log->epochs, kernel_day(log->as_of_us)),
                               .next_expiry_us = INT64_MAX,
                               .session_close_us = INT64_MAX,
                               .next_outcome_us = INT64_MAX};
    enum status st = take(c, log, &counts, err);
    if (c != s->counters)
        free(c);
    return st == STATUS_OK ? cp_write(&counts, row, err) : st;
}

/*
 * Whether bot messages are answered within 30 minutes, each decided once: by the first message that
 * comes later than that, or by the user's before. Only the newest message of a key decides, and it
 * decides the bot messages right before it that the message before it did not. What a user never
 * comes back to stays undecided until the bot speaks again.
 */
static void learn_replies(const struct key_log *log, size_t index, struct epoch_delta *delta)
{
    const struct msg_rec *m = &log->messages[index];
    if (index + 1 < log->n_messages || index == 0)
        return;
    int64_t before_us = log->messages[index - 1].t_us;
    uint16_t decided = 0, replied = 0;
    for (size_t i = index; i-- > 0 && index - i <= REPLIES_MAX;) {
        const struct msg_rec *b = &log->messages[i];
        if (!is_bot(b) || before_us - b->t_us > CP_OUTCOME_US)
            break;
        bool in_time = m->t_us - b->t_us <= CP_OUTCOME_US;
        if (is_bot(m) && in_time)
            continue;
        decided++;
        replied = (uint16_t)(replied + in_time);
    }
    epoch_learn(delta, EPOCH_REPLIES_DECIDED, decided);
    epoch_learn(delta, EPOCH_REPLIES, replied);
}

/* The bot's users as a whole: what a single one is compared with. */
static void cp_learn(void *state, const struct key_log *log, enum record_kind kind, size_t index,
                     struct epoch_delta *delta)
{
    const struct msg_rec *m = &log->messages[index];
    (void)state;
    assert(kind == RECORD_MESSAGE);
    learn_replies(log, index, delta);
    if (is_bot(m))
        return;
    epoch_learn(delta, EPOCH_HOW + kernel_hour_of_week(m->t_us), 1);
    if (m->chars == 0)
        return;
    epoch_learn(delta, EPOCH_USER_MESSAGES, 1);
    epoch_learn(delta, EPOCH_WORDS + (unsigned)hist_bucket(m->words), 1);
    for (unsigned i = 0; i < CP_FLAGS; i++)
        if (cp_flags_of(m) >> i & 1)
            epoch_learn(delta, EPOCH_STYLE_FLAGS + i, 1);
    /* Of the marks a quarter, chosen by the message: they must share the delta with others. */
    for (unsigned i = (unsigned)(m->id % MARKS_STEP); i < RECORD_MARKS; i += MARKS_STEP)
        if (msg_has_mark(m, i))
            epoch_learn(delta, EPOCH_MARKS + i, MARKS_STEP);
}

static enum status cp_init(void *state, struct error *err)
{
    (void)state;
    (void)err;
    return STATUS_OK;
}

static void cp_fini(void *state)
{
    struct state *s = state;
    free(TAKE(s->counters));
}

/* Five user messages make a row due; replies are shown with them, or when it has been quiet. */
static uint32_t cp_weight(const struct key_log *log, enum record_kind kind, size_t index)
{
    (void)kind;
    return log->messages[index].flags & MSG_BOT ? 0 : 1;
}

/* What a deleted message said must not be shown any longer than it takes to write a row. */
static bool cp_urgent(const void *state, const struct key_log *log, enum record_kind kind,
                      size_t index, bool removed)
{
    (void)state;
    (void)log;
    (void)kind;
    (void)index;
    return removed;
}

static size_t cp_heap_bytes(const void *state)
{
    return ((const struct state *)state)->counters ? sizeof(struct counters) : 0;
}

extern const struct engine_ops engine_conversation_patterns;
const struct engine_ops engine_conversation_patterns = {
    .name = "conversation_patterns",
    .profiles = true,
    .version = 2,
    .table = TABLE_CONVERSATION_PATTERNS,
    .kinds = 1u << RECORD_MESSAGE,
    .row_kinds = 1u << RECORD_MESSAGE,
    .trigger = {.count = 5,
                .max_age_us = 30 * US_PER_SECOND,
                .idle_us = 2 * US_PER_SECOND,
                .min_interval_us = US_PER_SECOND,
                .refresh_us = 210 * US_PER_SECOND,
                .refresh_jitter_us = 30 * US_PER_SECOND,
                .warm_us = 30 * US_PER_MINUTE,
                .recent_us = US_PER_DAY},
    .state_size = sizeof(struct state),
    .init = cp_init,
    .fini = cp_fini,
    .insert = cp_insert,
    .retract = cp_retract,
    .weight = cp_weight,
    .urgent = cp_urgent,
    .emit = cp_emit,
    .learn = cp_learn,
    .heap_bytes = cp_heap_bytes,
};
