/*
 * The naive twin of engines/personality_profile.c: runs as numbers on messages, outcomes by looking
 * at every pair of messages, each trait counted by a loop over all messages of its own.
 * Shares only the formulas that turn counts into a row (personality_profile_row.h, kernels.h).
 */
#include "core/cleanup.h"
#include "engines/oracle/view.h"
#include "engines/personality_profile_row.h"

#include <stdlib.h>
#include <string.h>

#define NONE SIZE_MAX

struct note {
    const struct feature *f;
    const struct msg_rec *m;
    bool user;
    size_t run;
    bool decided; /* bot messages */
    size_t reply; /* index of the user message that answers it, or NONE */
    bool positive;
};

struct world {
    const struct oracle_view *view;
    struct note *notes;
    size_t n;
    bool surface;
    bool has_lengths; /* the user has said enough to know what is long */
    uint32_t p10;
    uint32_t p90;
    struct str *names; /* all that are shown, newest first */
    size_t n_names;
    struct pp_sums *sums; /* of the first PP_TRAITS_MAX names */
    struct pp_counts *out;
};

static bool emotional(const struct note *note)
{
    return note->m->flags & MSG_HAS_EMOTION;
}

/* ---- outcomes ---- */

static void number_runs(struct world *w)
{
    for (size_t i = 1; i < w->n; i++) {
        bool joins = w->notes[i].m->t_us - w->notes[i - 1].m->t_us < 60 * US_PER_MINUTE;
        w->notes[i].run = w->notes[i - 1].run + !joins;
    }
}

/* Index of the last user message of the run before message i, or NONE. */
static size_t user_before(const struct world *w, size_t i)
{
    size_t found = NONE;
    for (size_t j = 0; j < i; j++)
        if (w->notes[j].user && w->notes[j].run == w->notes[i].run)
            found = j;
    return found;
}

static bool is_positive(const struct world *w, size_t bot, size_t reply)
{
    const struct note *r = &w->notes[reply];
    if (!emotional(r) || r->m->valence >= 0)
        return true;
    size_t before = user_before(w, bot);
    return before != NONE && emotional(&w->notes[before]) &&
           r->m->valence > w->notes[before].m->valence;
}

static void decide(struct world *w)
{
    for (size_t i = 0; i < w->n; i++) {
        struct note *bot = &w->notes[i];
        int64_t end_us = bot->m->t_us + 30 * US_PER_MINUTE;
        bot->reply = NONE;
        if (bot->user)
            continue;
        for (size_t j = w->n; j-- > i + 1;)
            if (w->notes[j].user && w->notes[j].m->t_us <= end_us)
                bot->reply = j;
        bot->decided = bot->reply != NONE || w->view->as_of_us >= end_us;
        bot->positive = bot->reply != NONE && is_positive(w, i, bot->reply);
        w->out->n_pending += !bot->decided;
        if (!bot->decided && end_us < w->out->next_outcome_us)
            w->out->next_outcome_us = end_us;
    }
}

/* ---- traits ---- */

static int compare_words(const void *a, const void *b)
{
    uint16_t x = *(const uint16_t *)a, y = *(const uint16_t *)b;
    return (x > y) - (x < y);
}

static enum status measure_user(struct world *w)
{
    uint16_t *words = calloc(w->n + 1, sizeof(*words));
    size_t n = 0;
    if (!words)
        return STATUS_NOMEM;
    for (size_t i = 0; i < w->n; i++)
        if (w->notes[i].user)
            words[n++] = w->notes[i].m->words;
    qsort(words, n, sizeof(*words), compare_words);
    w->has_lengths = n >= 10;
    if (w->has_lengths) {
        w->p10 = hist_value(hist_bucket(words[(n * 10 + 99) / 100 - 1]));
        w->p90 = hist_value(hist_bucket(words[(n * 90 + 99) / 100 - 1]));
    }
    free(words);
    return STATUS_OK;
}

static bool shows_surface(const struct world *w, const struct note *bot, enum pp_surface trait)
{
    uint32_t words = hist_value(hist_bucket(bot->m->words));
    switch (trait) {
    case PP_INQUISITIVE:
        return bot->m->flags & MSG_QUESTION;
    case PP_EXPRESSIVE:
        return bot->m->flags & MSG_EMOJI || bot->m->flags & MSG_EXCLAIM;
    case PP_ELABORATE:
        return w->has_lengths && words > w->p90;
    case PP_BRIEF:
        return w->has_lengths && words < w->p10 && bot->m->chars > 0;
    case PP_WARM:
        return emotional(bot) && bot->m->valence > 0;
    case PP_SUBDUED:
        return emotional(bot) && bot->m->valence < 0;
    case PP_SURFACE:
        break;
    }
    return false;
}

/* With what weight a bot message shows the trait; 0 = not at all. */
static uint32_t weight_of(const struct world *w, const struct note *bot, struct str trait)
{
    for (size_t i = 0; !w->surface && i < bot->f->n_traits; i++)
        if (str_equal(bot->f->traits[i], trait))
            return bot->m->traits.weight[i];
    for (enum pp_surface s = 0; w->surface && s < PP_SURFACE; s++)
        if (str_equal(pp_surface_name(s), trait) && shows_surface(w, bot, s))
            return RECORD_TRAIT_WEIGHT;
    return 0;
}

static bool is_listed(const struct world *w, struct str name)
{
    for (size_t i = 0; i < w->n_names; i++)
        if (str_equal(w->names[i], name))
            return true;
    return false;
}

static enum status collect_names(struct world *w)
{
    size_t most = PP_SURFACE;
    for (size_t i = 0; i < w->n; i++)
        most += w->notes[i].user ? 0 : w->notes[i].f->n_traits;
    w->surface = most == PP_SURFACE;
    w->names = calloc(most, sizeof(*w->names));
    if (!w->names)
        return STATUS_NOMEM;
    for (enum pp_surface s = 0; w->surface && s < PP_SURFACE; s++)
        w->names[w->n_names++] = pp_surface_name(s);
    for (size_t i = w->n; i-- > 0;) {
        const struct feature *f = w->notes[i].f;
        for (size_t k = 0; !w->notes[i].user && k < f->n_traits; k++)
            if (!is_listed(w, f->traits[k]))
                w->names[w->n_names++] = f->traits[k];
    }
    return STATUS_OK;
}

/* ---- sums ---- */

static size_t day_of(const struct note *note)
{
    int64_t day = note->m->t_us / US_PER_DAY;
    if (note->m->t_us % US_PER_DAY < 0)
        day--;
    return (size_t)(((day % PP_DAYS) + PP_DAYS) % PP_DAYS);
}

static void count_trait(const struct world *w, struct str name, struct pp_sums *sums)
{
    for (size_t i = 0; i < w->n; i++) {
        const struct note *bot = &w->notes[i];
        uint32_t weight = bot->user || !bot->decided ? 0 : weight_of(w, bot, name);
        if (weight == 0)
            continue;
        sums->n++;
        sums->weight += weight;
        sums->day_weight[day_of(bot)] += weight;
        sums->k_pos = (uint16_t)(sums->k_pos + bot->positive);
        if (bot->reply == NONE)
            continue;
        const struct note *reply = &w->notes[bot->reply];
        sums->k_reply++;
        sums->words += reply->m->words;
        sums->latency_s
            .count[hist_bucket((uint32_t)((reply->m->t_us - bot->m->t_us) / US_PER_SECOND))]++;
        sums->n_emotion = (uint16_t)(sums->n_emotion + emotional(reply));
        if (emotional(reply))
            sums->emotions[reply->m->emotion]++;
    }
}

static void count_shown(const struct world *w, const struct note *bot)
{
    struct pp_totals *all = &w->out->all;
    size_t shown = 0;
    for (size_t k = 0; k < w->n_names; k++) {
        uint32_t weight = weight_of(w, bot, w->names[k]);
        shown += weight > 0;
        all->weight += weight;
        all->day_weight[day_of(bot)] += weight;
        all->n_other += k >= PP_TRAITS_MAX && weight > 0;
    }
    all->day_shown[day_of(bot)] = (uint16_t)(all->day_shown[day_of(bot)] + shown);
    all->n_covered += w->surface ? bot->m->chars > 0 : shown > 0;
}

static void count_all(const struct world *w)
{
    struct pp_totals *all = &w->out->all;
    for (size_t i = 0; i < w->n; i++) {
        const struct note *bot = &w->notes[i];
        if (bot->user || !bot->decided)
            continue;
        all->n++;
        all->day_n[day_of(bot)]++;
        all->k_reply += bot->reply != NONE;
        all->k_pos += bot->positive;
        all->n_emotion += bot->reply != NONE && emotional(&w->notes[bot->reply]);
        count_shown(w, bot);
    }
}

static enum status fill(struct world *w)
{
    struct pp_counts *out = w->out;
    number_runs(w);
    decide(w);
    enum status st = measure_user(w);
    st = st ? st : collect_names(w);
    w->sums = calloc(PP_TRAITS_MAX, sizeof(*w->sums));
    if (st || !w->sums)
        return STATUS_NOMEM;
    count_all(w);
    out->surface = w->surface;
    for (size_t i = 0; i < w->n_names && i < PP_TRAITS_MAX; i++) {
        count_trait(w, w->names[i], &w->sums[i]);
        out->traits[out->n_traits++] = (struct pp_trait){w->names[i], &w->sums[i]};
    }
    return STATUS_OK;
}

static enum status emit(const struct oracle_view *view, struct row *row, struct error *err)
{
    struct pp_counts out = {.as_of_us = view->as_of_us,
                            .truncated = view->truncated,
                            .oldest_us = view->n_messages ? view->messages[0]->t_us : INT64_MAX,
                            .next_outcome_us = INT64_MAX};
    struct world w = {.view = view, .n = view->n_messages, .out = &out};
    w.notes = calloc(w.n + 1, sizeof(*w.notes));
    if (!w.notes)
        return error_set(err, STATUS_NOMEM, "could not allocate the oracle's messages");
    for (size_t i = 0; i < w.n; i++) {
        w.notes[i].f = view->messages[i];
        w.notes[i].m = &view->messages[i]->u.message;
        w.notes[i].user = !(w.notes[i].m->flags & MSG_BOT);
    }
    enum status st = fill(&w);
    st = st ? error_set(err, st, "could not recount a personality profile")
            : pp_write(&out, row, err);
    free(w.notes);
    free(w.names);
    free(w.sums);
    return st;
}

extern const struct oracle_ops oracle_personality_profile;
const struct oracle_ops oracle_personality_profile = {
    .engine = "personality_profile",
    .emit = emit,
};
