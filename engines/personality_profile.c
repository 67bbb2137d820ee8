/*
 * Personality profile (ENGINES.md E3): which traits the bot shows, and how the user answers them.
 *
 * What is counted, and what decides a bot message, is said in personality_profile_row.h. An outcome
 * depends on the user messages on either side of a bot message and on the run between them, so a
 * record that enters or leaves changes the outcomes of the bot messages of its span: those between
 * the user messages around it. They are taken out as they were and put in as they are; the log
 * holds the record both right after insert() and right before retract(), and the span is read with
 * it or without it.
 *
 * The first emission of a key with enough messages to make it worth while counts the log and keeps
 * the counters; a smaller key is counted at each emission. Undecided messages are counted as
 * unanswered between emissions, and left out during one. Counters go stale, and the next emission
 * counts anew, when they were made for other rules: the first trait is named or the last one
 * leaves, or the user's p10 or p90 of words has moved. A key with more than PP_TRAITS_MAX names is
 * counted at each emission, since any message may bring a name back.
 */
#include "engines/personality_profile_row.h"

#include "core/cleanup.h"
#include "engines/engine.h"
#include "engines/text.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* Counting fewer messages takes less time than writing the row. */
#define COUNTED_MIN 64

#define CLASSES_MAX (PP_SURFACE > LIMIT_TRAITS ? PP_SURFACE : LIMIT_TRAITS)

/* What a trait is told by: the arena's number of its name, or enum pp_surface. */
typedef uint16_t trait_id;

struct slot {
    trait_id id;
    struct pp_sums sums;
};

struct rules {
    bool surface;
    /* hist_bucket() of words: below brief, above elaborate. */
    uint16_t brief;
    uint16_t elaborate;
};

enum sums_state {
    SUMS_ALL,    /* every name has a slot */
    SUMS_NEWEST, /* only the newest names have one: right until the log changes */
    SUMS_VOID,   /* there were too many names for all to have one, or no memory */
};

struct counters {
    struct hist user_words;
    uint32_t n_named; /* bot messages that name a trait */
    struct rules rules;
    enum sums_state sums;
    struct pp_totals all;
    uint32_t n_slots;
    uint32_t cap_slots;
    struct slot *slots;
};

struct state {
    struct counters *counters; /* NULL: count at the next emission */
};

/* Bot messages of one run without a user message among them, and the user messages around them. */
struct span {
    size_t first;
    size_t end;
    const struct msg_rec *before; /* NULL: the run begins with the span */
    const struct msg_rec *after;  /* NULL: the run ends with it */
};

#define NO_INDEX SIZE_MAX

static bool is_bot(const struct msg_rec *m)
{
    return m->flags & MSG_BOT;
}

static bool is_apart(const struct msg_rec *a, const struct msg_rec *b)
{
    return b->t_us - a->t_us >= RECORD_SESSION_GAP_US;
}

static void void_sums(struct counters *c)
{
    free(TAKE(c->slots));
    c->n_slots = c->cap_slots = 0;
    c->sums = SUMS_VOID;
}

static void counters_free(struct counters *c)
{
    if (!c)
        return;
    free(c->slots);
    free(c);
}

/* ---- traits of a message ---- */

static size_t surface_classes(const struct rules *rules, const struct msg_rec *m, trait_id *ids)
{
    size_t n = 0;
    size_t words = hist_bucket(m->words);
    if (m->flags & MSG_QUESTION)
        ids[n++] = PP_INQUISITIVE;
    if (m->flags & (MSG_EMOJI | MSG_EXCLAIM))
        ids[n++] = PP_EXPRESSIVE;
    if (words > rules->elaborate)
        ids[n++] = PP_ELABORATE;
    if (m->chars && words < rules->brief)
        ids[n++] = PP_BRIEF;
    if (m->flags & MSG_HAS_EMOTION && m->valence > 0)
        ids[n++] = PP_WARM;
    if (m->flags & MSG_HAS_EMOTION && m->valence < 0)
        ids[n++] = PP_SUBDUED;
    return n;
}

static size_t classes_of(const struct rules *rules, const struct msg_rec *m, trait_id *ids,
                         uint8_t *weights)
{
    if (!rules->surface) {
        size_t n = msg_trait_count(m);
        for (size_t i = 0; i < n; i++) {
            ids[i] = m->traits.name[i];
            weights[i] = m->traits.weight[i];
        }
        return n;
    }
    memset(weights, RECORD_TRAIT_WEIGHT, CLASSES_MAX);
    return surface_classes(rules, m, ids);
}

/* NULL for a name beyond those counted, and when there is no room: the sums are void then. */
static struct pp_sums *sums_of(struct counters *c, trait_id id)
{
    for (uint32_t i = 0; i < c->n_slots; i++)
        if (c->slots[i].id == id)
            return &c->slots[i].sums;
    if (c->sums == SUMS_NEWEST)
        return NULL;
    if (c->n_slots == c->cap_slots) {
        uint32_t cap = c->cap_slots ? c->cap_slots * 2 : 4;
        struct slot *grown =
            cap <= PP_TRAITS_MAX ? reallocarray(c->slots, cap, sizeof(*grown)) : NULL;
        if (!grown) {
            void_sums(c);
            return NULL;
        }
        c->slots = grown;
        c->cap_slots = cap;
    }
    struct slot *s = &c->slots[c->n_slots++];
    *s = (struct slot){.id = id};
    return &s->sums;
}

/* Names that nothing shows any longer make room for others. */
static void drop_empty(struct counters *c)
{
    for (uint32_t i = c->n_slots; i-- > 0;)
        if (c->slots[i].sums.n == 0)
            c->slots[i] = c->slots[--c->n_slots];
}

/* ---- outcomes ---- */

struct outcome {
    const struct msg_rec *reply; /* NULL: none */
    bool positive;
};

static bool has_emotion(const struct msg_rec *m)
{
    return m && m->flags & MSG_HAS_EMOTION;
}

/* before, after: the user messages on either side in the run, or NULL. */
static struct outcome outcome_of(const struct msg_rec *bot, const struct msg_rec *before,
                                 const struct msg_rec *after)
{
    struct outcome o = {0};
    if (!after || after->t_us - bot->t_us > PP_OUTCOME_US)
        return o;
    o.reply = after;
    o.positive = !has_emotion(after) || after->valence >= 0 ||
                 (has_emotion(before) && after->valence > before->valence);
    return o;
}

static void change16(uint16_t *count, int by)
{
    assert(by >= 0 || *count >= -by);
    *count = (uint16_t)(*count + by);
}

static void change32(uint32_t *count, int64_t by)
{
    assert(by >= 0 || *count >= -by);
    *count = (uint32_t)(*count + by);
}

static void add_to_trait(struct pp_sums *s, size_t day, uint8_t weight, const struct outcome *o,
                         const struct msg_rec *bot, int sign)
{
    change16(&s->n, sign);
    change32(&s->weight, (int64_t)sign * weight);
    change32(&s->day_weight[day], (int64_t)sign * weight);
    if (!o->reply)
        return;
    change16(&s->k_reply, sign);
    change16(&s->k_pos, sign * o->positive);
    change32(&s->words, (int64_t)sign * o->reply->words);
    hist_change(&s->latency_s, (uint32_t)((o->reply->t_us - bot->t_us) / US_PER_SECOND), sign);
    if (has_emotion(o->reply)) {
        change16(&s->n_emotion, sign);
        change16(&s->emotions[o->reply->emotion], sign);
    }
}

static void add_to_totals(struct pp_totals *all, size_t day, const struct outcome *o, int sign)
{
    change32(&all->n, sign);
    change16(&all->day_n[day], sign);
    change32(&all->k_reply, o->reply ? sign : 0);
    change32(&all->k_pos, o->positive ? sign : 0);
    change32(&all->n_emotion, has_emotion(o->reply) ? sign : 0);
}

/* Counts one bot message in (sign 1) or out (-1), with the user messages on either side of it. */
static void add_bot(struct counters *c, const struct msg_rec *bot, const struct msg_rec *before,
                    const struct msg_rec *after, int sign)
{
    if (c->sums == SUMS_VOID)
        return;
    trait_id ids[CLASSES_MAX];
    uint8_t weights[CLASSES_MAX];
    size_t n = classes_of(&c->rules, bot, ids, weights);
    size_t day = (uint32_t)kernel_day(bot->t_us) % PP_DAYS;
    struct outcome o = outcome_of(bot, before, after);
    add_to_totals(&c->all, day, &o, sign);
    change32(&c->all.n_covered, (c->rules.surface ? bot->chars > 0 : n > 0) ? sign : 0);
    for (size_t i = 0; i < n; i++) {
        change32(&c->all.weight, (int64_t)sign * weights[i]);
        change32(&c->all.day_weight[day], (int64_t)sign * weights[i]);
        change16(&c->all.day_shown[day], sign);
        struct pp_sums *s = sums_of(c, ids[i]);
        if (s)
            add_to_trait(s, day, weights[i], &o, bot, sign);
        else if (c->sums == SUMS_NEWEST)
            change32(&c->all.n_other, sign);
        else
            return;
    }
}

/* ---- spans ---- */

/* Around message `index`, which belongs to the span whatever its role. */
static struct span span_around(const struct key_log *log, size_t index)
{
    const struct msg_rec *m = log->messages;
    struct span s = {.first = index, .end = index + 1};
    while (s.first > 0 && !is_apart(&m[s.first - 1], &m[s.first])) {
        if (!is_bot(&m[s.first - 1])) {
            s.before = &m[s.first - 1];
            break;
        }
        s.first--;
    }
    while (s.end < log->n_messages && !is_apart(&m[s.end - 1], &m[s.end])) {
        if (!is_bot(&m[s.end])) {
            s.after = &m[s.end];
            break;
        }
        s.end++;
    }
    return s;
}

/* Counts the bot messages of a span as if message `skip` were not there: a run that it held
 * together ends where it was. */
static void add_span(struct counters *c, const struct key_log *log, const struct span *s,
                     size_t skip, int sign)
{
    const struct msg_rec *before = s->before;
    const struct msg_rec *last = s->before;
    for (size_t i = s->first; i < s->end; i++) {
        const struct msg_rec *m = &log->messages[i];
        if (i == skip)
            continue;
        if (last && is_apart(last, m))
            before = NULL;
        last = m;
        add_bot(c, m, before, s->after, sign);
    }
}

/* A user message ends the span before it and begins the one behind it. */
static void change_user(struct counters *c, const struct key_log *log, size_t index, int sign)
{
    const struct msg_rec *m = &log->messages[index];
    struct span whole = span_around(log, index);
    struct span left = {whole.first, index, whole.before, m};
    struct span right = {index + 1, whole.end, m, whole.after};
    hist_change(&c->user_words, m->words, sign);
    if (sign > 0)
        add_span(c, log, &whole, index, -1);
    add_span(c, log, &left, NO_INDEX, sign);
    add_span(c, log, &right, NO_INDEX, sign);
    if (sign < 0)
        add_span(c, log, &whole, index, 1);
}

/* A bot message only counts itself, unless it holds together what would be two runs. */
static void change_bot(struct counters *c, const struct key_log *log, size_t index, int sign)
{
    const struct msg_rec *m = &log->messages[index];
    change32(&c->n_named, msg_trait_count(m) > 0 ? sign : 0);
    if (index + 1 == log->n_messages) {
        add_bot(c, m, NULL, NULL, sign); /* nothing has answered it yet: the common case */
        return;
    }
    struct span s = span_around(log, index);
    bool bridges = index > 0 && is_apart(m - 1, m + 1);
    if (!bridges) {
        add_bot(c, m, s.before, s.after, sign);
        return;
    }
    if (sign > 0)
        add_span(c, log, &s, index, -1);
    add_span(c, log, &s, NO_INDEX, sign);
    if (sign < 0)
        add_span(c, log, &s, index, 1);
}

static void change(struct counters *c, const struct key_log *log, size_t index, int sign)
{
    if (is_bot(&log->messages[index]))
        change_bot(c, log, index, sign);
    else
        change_user(c, log, index, sign);
    drop_empty(c);
}

/* ---- counting a log ---- */

static struct rules rules_of(const struct counters *c)
{
    struct rules r = {.surface = c->n_named == 0, .brief = 0, .elaborate = UINT16_MAX};
    if (hist_total(&c->user_words) >= PP_WORDS_MIN && r.surface) {
        r.brief = (uint16_t)hist_bucket(hist_quantile(&c->user_words, 10));
        r.elaborate = (uint16_t)hist_bucket(hist_quantile(&c->user_words, 90));
    }
    return r;
}

static bool is_current(const struct counters *c)
{
    struct rules r = rules_of(c);
    return r.surface == c->rules.surface && r.brief == c->rules.brief &&
           r.elaborate == c->rules.elaborate;
}

/* Gives the newest names their slots. */
static void choose_names(struct counters *c, const struct key_log *log)
{
    for (size_t i = log->n_messages; i-- > 0;) {
        const struct msg_rec *m = &log->messages[i];
        size_t n = msg_trait_count(m);
        for (size_t k = 0; k < n; k++) {
            if (c->n_slots == PP_TRAITS_MAX)
                c->sums = SUMS_NEWEST;
            if (!sums_of(c, m->traits.name[k]))
                return; /* one too many, or no memory */
            c->sums = SUMS_ALL;
        }
    }
}

/* NULL when there is no memory. */
static struct counters *count_log(const struct key_log *log)
{
    struct counters *c = calloc(1, sizeof(*c));
    if (!c)
        return NULL;
    for (size_t i = 0; i < log->n_messages; i++) {
        const struct msg_rec *m = &log->messages[i];
        if (is_bot(m))
            c->n_named += msg_trait_count(m) > 0;
        else
            hist_change(&c->user_words, m->words, 1);
    }
    c->rules = rules_of(c);
    if (!c->rules.surface)
        choose_names(c, log);
    for (size_t i = 0; i < log->n_messages && c->sums != SUMS_VOID; i++) {
        if (!is_bot(&log->messages[i]))
            continue;
        struct span s = span_around(log, i);
        add_span(c, log, &s, NO_INDEX, 1);
        i = s.end - 1;
    }
    if (c->sums != SUMS_VOID)
        return c;
    counters_free(c);
    return NULL;
}

/* Undecided bot messages go out (sign -1) or come back in; returns how many there are. */
static uint32_t change_pending(struct counters *c, const struct key_log *log, int sign,
                               int64_t *next_outcome_us)
{
    uint32_t n = 0;
    int64_t reply_us = INT64_MAX;
    for (size_t i = log->n_messages; i-- > 0;) {
        const struct msg_rec *m = &log->messages[i];
        int64_t decided_us = m->t_us + PP_OUTCOME_US;
        if (decided_us <= log->as_of_us)
            break;
        if (!is_bot(m)) {
            reply_us = m->t_us;
        } else if (reply_us > decided_us) {
            add_bot(c, m, NULL, NULL, sign);
            *next_outcome_us = decided_us;
            n++;
        }
    }
    return n;
}

static void fill(const struct counters *c, const struct key_log *log, struct pp_counts *out)
{
    out->surface = c->rules.surface;
    out->all = c->all;
    for (uint32_t i = 0; i < c->n_slots; i++) {
        struct pp_trait *t = &out->traits[out->n_traits++];
        t->name =
            c->rules.surface ? pp_surface_name(c->slots[i].id) : key_log_label(log, c->slots[i].id);
        t->sums = &c->slots[i].sums;
    }
}

/* ---- the engine ---- */

static enum status pp_init(void *state, struct error *err)
{
    (void)state;
    (void)err;
    assert(text_emotion_count() <= PP_EMOTIONS);
    return STATUS_OK;
}

static void pp_fini(void *state)
{
    struct state *s = state;
    counters_free(TAKE(s->counters));
}

static enum status pp_insert(void *state, const struct key_log *log, enum record_kind kind,
                             size_t index, struct error *err)
{
    struct state *s = state;
    (void)err;
    assert(kind == RECORD_MESSAGE);
    assert(index < log->n_messages);
    if (s->counters)
        change(s->counters, log, index, 1);
    if (s->counters && s->counters->sums == SUMS_VOID)
        counters_free(TAKE(s->counters));
    return STATUS_OK;
}

static void pp_retract(void *state, const struct key_log *log, enum record_kind kind, size_t index)
{
    struct state *s = state;
    assert(kind == RECORD_MESSAGE);
    assert(index < log->n_messages);
    if (!s->counters)
        return;
    change(s->counters, log, index, -1);
    if (s->counters->sums == SUMS_VOID || log->n_messages <= COUNTED_MIN / 2)
        counters_free(TAKE(s->counters));
}

static enum status pp_emit(void *state, const struct key_log *log, struct row *row,
                           struct error *err)
{
    struct state *s = state;
    if (s->counters && !is_current(s->counters))
        counters_free(TAKE(s->counters));
    struct counters *c = s->counters ? s->counters : count_log(log);
    if (!c)
        return error_set(err, STATUS_NOMEM, "could not allocate personality counters");
    struct pp_counts counts = {.as_of_us = log->as_of_us,
                               .truncated = log->truncated,
                               .oldest_us = log->n_messages ? log->messages[0].t_us : INT64_MAX,
                               .next_outcome_us = INT64_MAX};
    counts.n_pending = change_pending(c, log, -1, &counts.next_outcome_us);
    fill(c, log, &counts);
    enum status st = pp_write(&counts, row, err);
    change_pending(c, log, 1, &counts.next_outcome_us);
    if (!s->counters && log->n_messages >= COUNTED_MIN && c->sums == SUMS_ALL)
        s->counters = c;
    else if (!s->counters)
        counters_free(c);
    return st;
}

/* Ten outcomes make a row due: a user message decides the bot messages that it answers. */
static uint32_t pp_weight(const struct key_log *log, enum record_kind kind, size_t index)
{
    (void)kind;
    const struct msg_rec *m = &log->messages[index];
    uint32_t n = 0;
    if (is_bot(m))
        return 0;
    while (index > 0 && is_bot(&log->messages[index - 1]) &&
           m->t_us - log->messages[index - 1].t_us <= PP_OUTCOME_US) {
        index--;
        n++;
    }
    return n;
}

/* What a deleted message said must not be shown any longer than it takes to write a row. */
static bool pp_urgent(const void *state, const struct key_log *log, enum record_kind kind,
                      size_t index, bool removed)
{
    (void)state;
    (void)log;
    (void)kind;
    (void)index;
    return removed;
}

static size_t pp_heap_bytes(const void *state)
{
    const struct counters *c = ((const struct state *)state)->counters;
    return c ? sizeof(*c) + c->cap_slots * sizeof(*c->slots) : 0;
}

extern const struct engine_ops engine_personality_profile;
const struct engine_ops engine_personality_profile = {
    .name = "personality_profile",
    .profiles = true,
    .version = 1,
    .table = TABLE_PERSONALITY_PROFILES,
    .kinds = 1u << RECORD_MESSAGE,
    .row_kinds = 1u << RECORD_MESSAGE,
    .trigger = {.count = 10,
                .max_age_us = 120 * US_PER_SECOND,
                .idle_us = 2 * US_PER_SECOND,
                .min_interval_us = US_PER_SECOND,
                .refresh_us = 210 * US_PER_SECOND,
                .refresh_jitter_us = 30 * US_PER_SECOND,
                .warm_us = 30 * US_PER_MINUTE,
                .recent_us = US_PER_DAY},
    .state_size = sizeof(struct state),
    .init = pp_init,
    .fini = pp_fini,
    .insert = pp_insert,
    .retract = pp_retract,
    .weight = pp_weight,
    .urgent = pp_urgent,
    .emit = pp_emit,
    .heap_bytes = pp_heap_bytes,
};
