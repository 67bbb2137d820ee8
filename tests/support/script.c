#include "tests/support/script.h"

#include "core/clock.h"
#include "core/hash.h"

#include <assert.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BOT        "elena"
#define TOPICS     8
#define WORDS      8
#define TEXT_BYTES 512

static const char *const vocabulary[TOPICS][WORDS] = {
    {"dog", "leg", "vet", "limp", "walk", "Bruno", "puppy", "leash"},
    {"rust", "borrow", "checker", "loop", "compile", "lifetime", "trait", "async"},
    {"Kuchen", "backen", "Ofen", "Zucker", "Äpfel", "süß", "Rezept", "Mehl"},
    {"поезд", "вокзал", "Москва", "билет", "дорога", "чай", "окно", "ночь"},
    {"猫がかわいい", "東京タワー", "散歩", "ラーメン", "雨の日", "桜", "電車", "図書館"},
    {"سفر", "بحر", "شمس", "كتاب", "قهوة", "صديق", "مدينة", "ليل"},
    {"θάλασσα", "Ήλιος", "νησί", "καράβι", "ταβέρνα", "φίλος", "κύμα", "αέρας"},
    {"สวัสดี", "อาหาร", "ตลาด", "ဟင်း", "ព្រៃ", "ลาว", "ร้อน", "น้ำ"},
};
static const char *const fillers[] = {"the", "and", "I", "you", "is", "ok", "so", "ja", "да"};
static const char *const extras[] = {
    "🎉", "😀👍", "https://example.org/a?b=c", "@anna", "42", "e\xCC\x81t\xC3\xA9", "\xFF\xFE", "!!!"};
static const char *const endings[] = {"", "", ".", "?", "!", "。", "？", "…"};
static const char *const emotions[] = {"joy",  "sadness", "anger", "fear",     "neutral",
                                       "love", "trust",   "Joy",   "surprise", "perplexed"};
static const char *const traits[] = {"warm",
                                     "Warm",
                                     "dry \"wit\"",
                                     "спокойная",
                                     "思いやり",
                                     "صبور",
                                     "chatty",
                                     "a name of more than thirty-two bytes",
                                     "a name of more than thirty-two b-",
                                     "süß"};
#define COUNT(a) ((uint32_t)(sizeof(a) / sizeof((a)[0])))

/* One message or memory as the script last left it. */
struct item {
    size_t step; /* newest change */
    size_t user;
    enum source source;
    bool deleted;
};

struct items {
    struct item *all;
    size_t n;
    size_t cap;
};

struct script {
    struct script_options options;
    uint64_t random;
    uint64_t ver;
    int64_t now_us;
    size_t user;
    size_t *topics; /* by user */
    struct script_step *steps;
    uint64_t *groups; /* by step: steps of one group never change their order */
    size_t n;
    struct items messages;
    struct items memories;
    struct items outreach;
    struct items metrics;
    char **strings;
    size_t n_strings;
    size_t cap_strings;
};

uint64_t script_random(uint64_t *state)
{
    *state += UINT64_C(0x9E3779B97F4A7C15);
    uint64_t x = *state;
    x = (x ^ x >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    x = (x ^ x >> 27) * UINT64_C(0x94D049BB133111EB);
    return x ^ x >> 31;
}

uint32_t script_below(uint64_t *state, uint32_t n)
{
    assert(n > 0);
    return (uint32_t)((script_random(state) >> 32) * n >> 32);
}

uint64_t script_seed(uint64_t otherwise)
{
    const char *text = getenv("SCRIPT_SEED");
    return text ? strtoull(text, NULL, 0) : otherwise;
}

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#endif

uint64_t script_rounds(uint64_t n)
{
#ifdef SANITIZED
    return (n + 7) / 8;
#else
    return n;
#endif
}

static void *checked(void *p)
{
    if (!p)
        abort();
    return p;
}

static uint32_t below(struct script *s, uint32_t n)
{
    return script_below(&s->random, n);
}

static bool chance(struct script *s, uint32_t percent)
{
    return below(s, 100) < percent;
}

static bool wants(const struct script *s, enum script_feature feature)
{
    return s->options.features & feature;
}

static struct str keep(struct script *s, struct str text)
{
    if (s->n_strings == s->cap_strings) {
        s->cap_strings = s->cap_strings ? s->cap_strings * 2 : 256;
        s->strings = checked(realloc(s->strings, s->cap_strings * sizeof(*s->strings)));
    }
    char *copy = checked(malloc(text.len + 1));
    if (text.len)
        memcpy(copy, text.ptr, text.len);
    copy[text.len] = 0;
    s->strings[s->n_strings++] = copy;
    return (struct str){copy, text.len};
}

static struct str PRINTF_LIKE(2, 3) keep_format(struct script *s, const char *fmt, ...)
{
    char text[64];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    assert(n >= 0 && (size_t)n < sizeof(text));
    return keep(s, (struct str){text, (size_t)n});
}

static void say(char *text, size_t *len, const char *word)
{
    size_t n = strlen(word);
    if (*len + n + 1 >= TEXT_BYTES)
        return;
    if (*len)
        text[(*len)++] = ' ';
    memcpy(text + *len, word, n);
    *len += n;
}

static struct str make_text(struct script *s, size_t user)
{
    char text[TEXT_BYTES + 8]; /* and the ending */
    size_t len = 0;
    if (chance(s, 15))
        s->topics[user] = below(s, TOPICS);
    if (chance(s, 2))
        return keep(s, STR(""));
    uint32_t words = 1 + below(s, chance(s, 5) ? 60 : 12);
    for (uint32_t i = 0; i < words; i++)
        say(text, &len,
            chance(s, 25) ? fillers[below(s, COUNT(fillers))]
                          : vocabulary[s->topics[user]][below(s, WORDS)]);
    if (chance(s, 20))
        say(text, &len, extras[below(s, COUNT(extras))]);
    const char *end = endings[below(s, COUNT(endings))];
    memcpy(text + len, end, strlen(end));
    len += strlen(end);
    return keep(s, (struct str){text, len});
}

static struct script_step *add_step(struct script *s, enum event_type type, struct str id,
                                    size_t user, uint64_t group)
{
    struct script_step *step = &s->steps[s->n];
    *step = (struct script_step){.ver = ++s->ver, .source = SOURCE_POSTGRES};
    step->e.type = type;
    step->e.id = id;
    step->e.user_id = keep_format(s, "user-%zu", user);
    step->e.bot_name = keep(s, STR(BOT));
    step->e.at_us = s->now_us;
    s->groups[s->n++] = group;
    return step;
}

static struct item *add_item(struct items *items, size_t step, size_t user, enum source source)
{
    if (items->n == items->cap) {
        items->cap = items->cap ? items->cap * 2 : 64;
        items->all = checked(realloc(items->all, items->cap * sizeof(*items->all)));
    }
    items->all[items->n] = (struct item){step, user, source, false};
    return &items->all[items->n++];
}

/* Mostly a recent one, as edits and deletions are. */
static struct item *pick_item(struct script *s, struct items *items)
{
    uint32_t back = chance(s, 70) && items->n > 20 ? 20 : (uint32_t)items->n;
    return &items->all[items->n - 1 - below(s, back)];
}

/* Up to six of a few names and of many rare ones; the first LIMIT_TRAITS are written. */
static void name_traits(struct script *s, struct event_message *m)
{
    m->n_traits = below(s, 7);
    for (uint32_t i = 0; i < m->n_traits && i < LIMIT_TRAITS; i++) {
        struct event_trait *t = &m->traits[i];
        t->name = chance(s, 15) ? keep_format(s, "trait %u", below(s, 60))
                                : keep(s, str_from(traits[below(s, COUNT(traits))]));
        t->weight = chance(s, 60) ? 1 : (below(s, 1301) - 150.0) / 1000.0;
    }
}

/* Around the direction of the user's topic; now and then of another model, or of another size. */
static void embed(struct script *s, struct event_message *m, size_t user)
{
    uint32_t dims = chance(s, 5) ? 1 + below(s, 200) : 64;
    struct str bytes = keep(s, (struct str){(char[200 * sizeof(float)]){0}, dims * sizeof(float)});
    float *x = (float *)(void *)s->strings[s->n_strings - 1];
    for (uint32_t i = 0; i < dims; i++)
        x[i] = (float)below(s, 200) - 100 + (i % TOPICS == s->topics[user] ? 150 : 0);
    (void)bytes;
    m->embedding = x;
    m->embedding_dims = dims;
    m->embedding_model = keep(s, chance(s, 95) ? STR("model-a") : STR("model-b"));
}

static void fill_message(struct script *s, struct event_message *m, size_t user)
{
    m->op = MESSAGE_INSERT;
    m->role = chance(s, 45) ? ROLE_BOT : ROLE_USER;
    m->content = make_text(s, user);
    m->emotion_confidence = NAN;
    if (wants(s, SCRIPT_EMBEDDINGS) && chance(s, 75))
        embed(s, m, user);
    /* Some bots name none but for a few messages, which leave again. */
    if (m->role == ROLE_BOT && wants(s, SCRIPT_TRAITS) && chance(s, user % 3 == 2 ? 2 : 75))
        name_traits(s, m);
    if (chance(s, 70)) {
        m->emotion = keep(s, str_from(emotions[below(s, COUNT(emotions))]));
        if (chance(s, 90))
            m->emotion_confidence = below(s, 1001) / 1000.0;
    }
}

/* Late, early or on time: moves only the event, not the clock of the script. */
static void displace(struct script *s, struct script_step *step)
{
    if (wants(s, SCRIPT_DISORDER) && chance(s, 30)) {
        int64_t by_us = below(s, 600) * US_PER_SECOND;
        if (chance(s, 10))
            by_us = below(s, 48) * US_PER_HOUR;
        if (chance(s, 3))
            by_us = below(s, 40) * US_PER_DAY;
        step->e.at_us -= by_us;
    } else if (wants(s, SCRIPT_FUTURE) && chance(s, 3)) {
        step->e.at_us += below(s, 7200) * US_PER_SECOND;
    }
}

static enum source pick_source(struct script *s)
{
    return wants(s, SCRIPT_INBOX) && chance(s, 25) ? SOURCE_INBOX : SOURCE_POSTGRES;
}

static void new_message(struct script *s)
{
    struct str id = keep_format(s, "msg-%zu", s->messages.n);
    struct script_step *step = add_step(s, EVENT_MESSAGE, id, s->user, hash64(id));
    step->source = pick_source(s);
    fill_message(s, &step->e.u.message, s->user);
    displace(s, step);
    add_item(&s->messages, s->n - 1, s->user, step->source);
}

/* The whole new state of a message, from the source that wrote it or from the other one. */
static void edit_message(struct script *s)
{
    struct item *item = pick_item(s, &s->messages);
    const struct event old = s->steps[item->step].e;
    struct script_step *step = add_step(s, EVENT_MESSAGE, old.id, item->user, hash64(old.id));
    step->source = item->source;
    if (wants(s, SCRIPT_INBOX) && chance(s, 20))
        step->source = item->source == SOURCE_INBOX ? SOURCE_POSTGRES : SOURCE_INBOX;
    fill_message(s, &step->e.u.message, item->user);
    step->e.u.message.op = MESSAGE_UPDATE;
    if (chance(s, 25))
        step->e.u.message.content = STR_NULL;
    step->e.at_us = old.at_us;
    if (chance(s, 15))
        step->e.at_us -= below(s, 7200) * US_PER_SECOND;
    if (step->source == item->source)
        item->step = s->n - 1;
}

static void delete_message(struct script *s)
{
    if (chance(s, 10)) {
        struct str unknown = keep_format(s, "gone-%zu", s->n);
        add_step(s, EVENT_MESSAGE_DELETED, unknown, s->user, hash64(unknown));
        return;
    }
    struct item *item = pick_item(s, &s->messages);
    struct str id = s->steps[item->step].e.id;
    struct script_step *step = add_step(s, EVENT_MESSAGE_DELETED, id, item->user, hash64(id));
    step->source = item->source;
    item->deleted = true;
    item->step = s->n - 1;
}

static void duplicate_of(struct script *s, size_t from)
{
    s->steps[s->n] = s->steps[from];
    s->groups[s->n] = s->groups[from];
    s->n++;
}

static void duplicate_step(struct script *s)
{
    duplicate_of(s, chance(s, 40) ? s->n - 1 : pick_item(s, &s->messages)->step);
}

/* ---- memories ---- */

static uint64_t memory_group(const struct script *s, struct str memory_id, struct str event_id)
{
    return hash64(wants(s, SCRIPT_DELETES) ? memory_id : event_id);
}

static struct script_step *memory_step(struct script *s, enum memory_op op, struct str memory_id,
                                       size_t user)
{
    struct str id = keep_format(s, "mev-%zu", s->n);
    uint64_t group = op == MEMORY_CREATE ? hash64(memory_id) : memory_group(s, memory_id, id);
    struct script_step *step = add_step(s, EVENT_MEMORY, id, user, group);
    struct event_memory *m = &step->e.u.memory;
    m->op = op;
    m->memory_id = memory_id;
    m->score = NAN;
    m->importance = NAN;
    return step;
}

static void create_memory(struct script *s)
{
    struct str memory_id = keep_format(s, "mem-%zu", s->memories.n);
    if (chance(s, 20)) {
        /* The access that arrives before its memory does. */
        memory_step(s, MEMORY_ACCESS, memory_id, s->user)->e.at_us += US_PER_SECOND;
    }
    struct script_step *step = memory_step(s, MEMORY_CREATE, memory_id, s->user);
    step->source = pick_source(s);
    displace(s, step);
    if (step->e.at_us > s->now_us)
        step->e.at_us = s->now_us; /* a memory from the future is nobody's case */
    struct event_memory *m = &step->e.u.memory;
    if (chance(s, 60))
        m->importance = below(s, 1001) / 1000.0;
    if (chance(s, 80))
        m->content = make_text(s, s->user);
    m->memory_type = keep(s, chance(s, 50) ? STR("conversation") : STR("fact"));
    add_item(&s->memories, s->n - 1, s->user, step->source);
}

/* The same memory with another text: how it is retained does not change. */
static void recreate_memory(struct script *s)
{
    struct item *item = pick_item(s, &s->memories);
    const struct event old = s->steps[item->step].e;
    struct script_step *step = memory_step(s, MEMORY_CREATE, old.u.memory.memory_id, item->user);
    step->source = item->source;
    step->e.at_us = old.at_us;
    step->e.u.memory.importance = old.u.memory.importance;
    step->e.u.memory.memory_type = old.u.memory.memory_type;
    step->e.u.memory.content = make_text(s, item->user);
    item->deleted = false;
    item->step = s->n - 1;
}

static void access_memory(struct script *s)
{
    const struct item *item = pick_item(s, &s->memories);
    const struct event *created = &s->steps[item->step].e;
    struct script_step *step =
        memory_step(s, MEMORY_ACCESS, created->u.memory.memory_id, item->user);
    struct event_memory *m = &step->e.u.memory;
    if (chance(s, 20))
        m->grade = (int)(1 + below(s, 4));
    else if (chance(s, 20))
        m->outcome = chance(s, 70) ? OUTCOME_HIT : OUTCOME_MISS;
    if (chance(s, 40))
        m->score = below(s, 1001) / 1000.0;
    displace(s, step);
}

static void memory_event(struct script *s)
{
    uint32_t dice = below(s, 100);
    if (s->memories.n < 3 || dice < 15) {
        create_memory(s);
        return;
    }
    if (dice < 20 && wants(s, SCRIPT_EDITS)) {
        recreate_memory(s);
        return;
    }
    struct item *item = pick_item(s, &s->memories);
    struct str memory_id = s->steps[item->step].e.u.memory.memory_id;
    if (dice < 25) {
        memory_step(s, MEMORY_PIN, memory_id, item->user)->source = item->source;
    } else if (dice < 30 && wants(s, SCRIPT_DELETES)) {
        memory_step(s, MEMORY_DELETE, memory_id, item->user)->source = item->source;
        item->deleted = true;
    } else {
        access_memory(s);
    }
}

/* ---- outreach ---- */

static struct script_step *outreach_step(struct script *s, enum outreach_op op, struct str id,
                                         size_t user)
{
    struct script_step *step = add_step(s, EVENT_OUTREACH, id, user, hash64(id));
    step->e.u.outreach.op = op;
    return step;
}

static void send_outreach(struct script *s)
{
    struct str id = keep_format(s, "out-%zu", s->outreach.n);
    struct script_step *step = outreach_step(s, OUTREACH_SENT, id, s->user);
    step->source = pick_source(s);
    displace(s, step);
    add_item(&s->outreach, s->n - 1, s->user, step->source);
}

/* Under the id of its attempt or under one of its own, up to two days later. */
static void answer_outreach(struct script *s)
{
    const struct item *item = pick_item(s, &s->outreach);
    const struct event sent = s->steps[item->step].e;
    struct str id = chance(s, 70) ? sent.id : keep_format(s, "reply-%zu", s->n);
    struct script_step *step = outreach_step(s, OUTREACH_REPLIED, id, item->user);
    int64_t at_us = sent.at_us + below(s, 48 * 3600) * US_PER_SECOND;
    step->e.at_us = at_us < s->now_us ? at_us : s->now_us;
}

/* The attempt was made at another time than it said first. */
static void move_outreach(struct script *s)
{
    struct item *item = pick_item(s, &s->outreach);
    const struct event sent = s->steps[item->step].e;
    struct script_step *step = outreach_step(s, OUTREACH_SENT, sent.id, item->user);
    step->source = item->source;
    step->e.at_us = sent.at_us - below(s, 7200) * US_PER_SECOND;
    item->step = s->n - 1;
}

/* A wish, mostly about proactive messages, sometimes about everything or something else. */
static void change_privacy(struct script *s)
{
    struct str id = keep_format(s, "privacy-%zu", s->n);
    if (chance(s, 20)) {
        outreach_step(s, OUTREACH_OPTED_OUT, id, s->user);
        return;
    }
    struct script_step *step = add_step(s, EVENT_PRIVACY, id, s->user, hash64(id));
    step->e.u.privacy.op = chance(s, 40) ? PRIVACY_OPTOUT : PRIVACY_OPTIN;
    bool both = chance(s, 50);
    step->e.u.privacy.scope = keep(s, chance(s, 70)                 ? STR("proactive")
                                      : !wants(s, SCRIPT_PROFILING) ? STR("of no engine")
                                      : both                        ? STR("")
                                                                    : STR("profiling"));
    displace(s, step);
}

static void outreach_event(struct script *s)
{
    uint32_t dice = below(s, 100);
    if (s->outreach.n < 2 || dice < 55)
        send_outreach(s);
    else if (dice < 75)
        answer_outreach(s);
    else if (dice < 80 && wants(s, SCRIPT_EDITS))
        move_outreach(s);
    else if (dice < 90)
        change_privacy(s);
    else if (wants(s, SCRIPT_DUPLICATES))
        duplicate_of(s, pick_item(s, &s->outreach)->step);
    else
        send_outreach(s);
}

/* ---- metrics ---- */

static double any_score(struct script *s)
{
    return chance(s, 1) ? 1.5 : below(s, 1001) / 1000.0;
}

static void add_field(struct event_metric *m, const char *name, double value)
{
    m->fields[m->n_fields].name = str_from(name);
    m->fields[m->n_fields++].value = value;
}

static void fill_quality(struct script *s, struct event_metric *m)
{
    static const char *const scores[] = {"engagement_score",    "satisfaction_score",
                                         "coherence_score",     "natural_flow_score",
                                         "emotional_resonance", "topic_relevance"};
    m->measurement = STR("conversation_quality");
    for (size_t i = 0; i < COUNT(scores); i++)
        if (chance(s, 60))
            add_field(m, scores[i], any_score(s));
    if (m->n_fields == 0)
        add_field(m, scores[0], any_score(s));
}

static void fill_metric(struct script *s, struct event_metric *m)
{
    uint32_t dice = below(s, 100);
    if (dice < 40) {
        fill_quality(s, m);
    } else if (dice < 50) {
        m->measurement = STR("character_consistency_v2");
        add_field(m, "value", any_score(s));
    } else if (dice < 70) {
        m->measurement = STR("response_time_v2");
        add_field(m, "value", below(s, 90000) / 10.0);
        add_field(m, "llm_time_ms", below(s, 50000) / 10.0);
    } else if (dice < 90) {
        m->measurement = STR("nab");
        add_field(m, "value", (below(s, 2000001) - 1000000.0) * (chance(s, 5) ? 1e6 : 0.01));
    } else {
        m->measurement = STR("weather"); /* nobody knows it */
        add_field(m, "value", 21);
    }
    m->n_tags = 1;
    m->tags[0].key = STR("bot");
    m->tags[0].value = STR(BOT);
}

static void new_metric(struct script *s)
{
    struct str id = keep_format(s, "pt-%zu", s->n);
    struct script_step *step = add_step(s, EVENT_METRIC, id, s->user, hash64(id));
    struct event_metric *m = &step->e.u.metric;
    fill_metric(s, m);
    uint32_t dice = below(s, 100);
    if (dice < 30) {
        m->tags[m->n_tags].key = STR("user_id");
        m->tags[m->n_tags++].value = step->e.user_id;
    }
    if (dice < 60)
        step->e.user_id = keep(s, STR(""));
    displace(s, step);
    add_item(&s->metrics, s->n - 1, s->user, SOURCE_POSTGRES);
}

/* The same point again, with other values: it replaces the first. */
static void overwrite_metric(struct script *s)
{
    struct item *item = pick_item(s, &s->metrics);
    const struct event old = s->steps[item->step].e;
    struct script_step *step =
        add_step(s, EVENT_METRIC, keep_format(s, "pt-%zu", s->n), s->user, s->groups[item->step]);
    step->e = old;
    for (size_t i = 0; i < old.u.metric.n_fields; i++)
        if (chance(s, 50))
            step->e.u.metric.fields[i].value = any_score(s);
    item->step = s->n - 1;
}

static void define_character(struct script *s)
{
    static const char *const names[] = {"warm", "dry", "curious", "brief", "never seen"};
    struct script_step *step = add_step(s, EVENT_CHARACTER, keep_format(s, "ch-%zu", s->n), s->user,
                                        hash64(STR("character")));
    step->e.user_id = keep(s, STR(""));
    struct event_character *c = &step->e.u.character;
    c->version = (int64_t)s->n;
    for (size_t i = 0; i < COUNT(names); i++) {
        if (chance(s, 40))
            continue;
        c->traits[c->n_traits].name = str_from(names[i]);
        c->traits[c->n_traits++].weight = below(s, 11) / 10.0;
    }
}

static void metric_event(struct script *s)
{
    if (chance(s, 3))
        define_character(s);
    else if (s->metrics.n > 3 && chance(s, 10))
        overwrite_metric(s);
    else
        new_metric(s);
}

/* ---- the script ---- */

/* Conversations of seconds to minutes, with pauses that make up the span. */
static void pass_time(struct script *s)
{
    int64_t pause_us = 10 * s->options.span_us / (int64_t)s->options.n_steps;
    s->now_us += 1 + below(s, 90) * US_PER_SECOND + below(s, 1000000);
    if (chance(s, 10)) {
        s->now_us += (int64_t)(below(s, 1000) * (uint64_t)(2 * pause_us) / 1000);
        s->user = below(s, (uint32_t)s->options.n_users);
    }
}

static void add_something(struct script *s)
{
    uint32_t dice = below(s, 100);
    if (s->messages.n > 3 && dice < 8 && wants(s, SCRIPT_EDITS))
        edit_message(s);
    else if (s->messages.n > 3 && dice >= 8 && dice < 14 && wants(s, SCRIPT_DELETES))
        delete_message(s);
    else if (s->messages.n > 3 && dice >= 14 && dice < 20 && wants(s, SCRIPT_DUPLICATES))
        duplicate_step(s);
    else if (dice >= 90 && wants(s, SCRIPT_OUTREACH))
        outreach_event(s);
    else if (dice >= 20 && dice < 50 && wants(s, SCRIPT_MEMORIES))
        memory_event(s);
    else if (dice >= 50 && dice < 62 && wants(s, SCRIPT_METRICS))
        metric_event(s);
    else
        new_message(s);
}

/* T moves with the newest time seen; a step that is ahead of the script's clock does not move it.
 */
static void set_as_of(struct script *s, size_t from, int64_t limit_us)
{
    int64_t t_us = from ? s->steps[from - 1].as_of_us : s->options.start_us;
    for (size_t i = from; i < s->n; i++) {
        if (s->steps[i].e.at_us > t_us && s->steps[i].e.at_us <= limit_us)
            t_us = s->steps[i].e.at_us;
        s->steps[i].as_of_us = t_us;
    }
}

struct script *script_new(const struct script_options *options)
{
    assert(options->n_steps > 0 && options->n_users > 0);
    struct script *s = checked(calloc(1, sizeof(*s)));
    s->options = *options;
    s->random = options->seed;
    s->now_us = options->start_us;
    s->topics = checked(calloc(options->n_users, sizeof(*s->topics)));
    /* A step may come with a companion. */
    s->steps = checked(calloc(options->n_steps + 2, sizeof(*s->steps)));
    s->groups = checked(calloc(options->n_steps + 2, sizeof(*s->groups)));
    while (s->n < options->n_steps) {
        size_t first = s->n;
        pass_time(s);
        add_something(s);
        set_as_of(s, first, s->now_us);
    }
    return s;
}

void script_free(struct script *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < s->n_strings; i++)
        free(s->strings[i]);
    free(s->strings);
    free(s->messages.all);
    free(s->memories.all);
    free(s->outreach.all);
    free(s->metrics.all);
    free(s->topics);
    free(s->steps);
    free(s->groups);
    free(s);
}

size_t script_count(const struct script *s)
{
    return s->n;
}

const struct script_step *script_at(const struct script *s, size_t index)
{
    assert(index < s->n);
    return &s->steps[index];
}

int64_t script_end_us(const struct script *s)
{
    return s->now_us;
}

void script_shuffle(struct script *s, uint64_t seed)
{
    size_t *order = checked(calloc(s->n, sizeof(*order)));
    bool *used = checked(calloc(s->n, sizeof(*used)));
    struct script_step *steps = checked(calloc(s->n + 2, sizeof(*steps)));
    uint64_t *groups = checked(calloc(s->n + 2, sizeof(*groups)));
    for (size_t i = 0; i < s->n; i++)
        order[i] = i;
    for (size_t i = s->n; i > 1; i--) {
        size_t j = script_below(&seed, (uint32_t)i);
        size_t swap = order[i - 1];
        order[i - 1] = order[j];
        order[j] = swap;
    }
    /* Each place goes to the first step left of the group that the dice gave the place to. */
    for (size_t i = 0; i < s->n; i++) {
        size_t from = 0;
        while (used[from] || s->groups[from] != s->groups[order[i]])
            from++;
        used[from] = true;
        steps[i] = s->steps[from];
        groups[i] = s->groups[from];
    }
    free(order);
    free(used);
    free(s->steps);
    free(s->groups);
    s->steps = steps;
    s->groups = groups;
    set_as_of(s, 0, s->now_us);
}
