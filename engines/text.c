#include "engines/text.h"

#include "core/hash.h"
#include "engines/unicode.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#define FNV_BASIS      UINT64_C(0xcbf29ce484222325)
#define FNV_PRIME      UINT64_C(0x100000001b3)
#define SLOTS_MAX      (2 * TEXT_TOKENS)
#define TRIGRAM_BUFFER 512
#define WINDOW_MASK    ((UINT64_C(1) << 63) - 1)

struct token {
    uint64_t hash;
    uint32_t start; /* bytes of the content it came from */
    uint32_t end;
    uint32_t count;
    uint32_t idf; /* x 1000; set when the text is read */
};

/* Everything one pass needs, on the stack; only what is marked is cleared beforehand. */
struct scan {
    const uint8_t *begin;
    const uint8_t *at;
    const uint8_t *end;
    uint32_t chars;
    uint32_t words;
    uint16_t flags;
    bool started;        /* a token has been seen: MSG_UPPER_START is decided */
    uint32_t last_cp;    /* last one that is neither blank nor ignored */
    const uint8_t *word; /* start of the open word, NULL = none */
    uint64_t word_hash;
    const uint8_t *dense; /* start of the last character of an open run without word spaces */
    uint32_t dense_cp;
    bool dense_paired; /* the run has given a pair already */
    uint32_t n_tokens;
    uint64_t last_hash; /* of the newest token */
    uint32_t slot_mask;
    uint64_t window; /* the last three code points */
    uint32_t window_seen;
    uint32_t stride_mask; /* trigrams taken: those whose number has none of these bits */
    uint32_t n_trigrams;
    const uint8_t *punct_end; /* end of the last run of punctuation */
    uint64_t punct_hash;
    uint8_t marks[RECORD_MARKS / 8];
    struct token tokens[TEXT_TOKENS];
    uint16_t slots[SLOTS_MAX]; /* token number + 1, cleared up to slot_mask */
    uint8_t trigrams[TRIGRAM_BUFFER];
};

/* Class and folded form of an ASCII byte, packed for one load in the inner loop. */
enum { A_OTHER, A_SPACE, A_LETTER };

static inline unsigned ascii_class(uint8_t c)
{
    uint8_t low = c | 0x20;
    if ((low >= 'a' && low <= 'z') || (c >= '0' && c <= '9'))
        return A_LETTER;
    return c == ' ' || (c >= '\t' && c <= '\r') ? A_SPACE : A_OTHER;
}

static inline uint8_t ascii_fold(uint8_t c)
{
    return c >= 'A' && c <= 'Z' ? c | 0x20 : c;
}

static uint64_t hash_code_point(uint64_t hash, uint32_t cp)
{
    uint8_t bytes[4];
    size_t n = unicode_encode(cp, bytes);
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ bytes[i]) * FNV_PRIME;
    return hash;
}

static void token_add(struct scan *s, uint64_t fnv, const uint8_t *start, const uint8_t *end)
{
    uint64_t hash = hash64_mix(fnv);
    hash = hash ? hash : 1;
    s->last_hash = hash;
    uint32_t slot = (uint32_t)(hash >> 20) & s->slot_mask;
    for (; s->slots[slot]; slot = (slot + 1) & s->slot_mask) {
        struct token *t = &s->tokens[s->slots[slot] - 1];
        if (t->hash == hash) {
            t->count++;
            return;
        }
    }
    if (s->n_tokens == TEXT_TOKENS)
        return;
    s->tokens[s->n_tokens++] = (struct token){
        .hash = hash,
        .start = (uint32_t)(start - s->begin),
        .end = (uint32_t)(end - s->begin),
        .count = 1,
    };
    s->slots[slot] = (uint16_t)s->n_tokens;
}

static inline void trigram_add(struct scan *s, uint32_t cp)
{
    s->window = (s->window << 21 | cp) & WINDOW_MASK;
    uint32_t number = s->window_seen++ - 2; /* the first two code points complete none */
    if (s->window_seen < 3 || (number & s->stride_mask))
        return;
    s->trigrams[s->n_trigrams++] = (uint8_t)(s->window * UINT64_C(0x9E3779B97F4A7C15) >> 57);
    if (s->n_trigrams == TRIGRAM_BUFFER) {
        /* Too many: every second one stays, and from now on only every second one is taken. */
        for (uint32_t i = 0; i < TRIGRAM_BUFFER / 2; i++)
            s->trigrams[i] = s->trigrams[(size_t)2 * i];
        s->n_trigrams = TRIGRAM_BUFFER / 2;
        s->stride_mask = s->stride_mask << 1 | 1;
    }
}

static inline void blank_add(struct scan *s)
{
    if ((s->window & 0x1FFFFF) != ' ')
        trigram_add(s, ' ');
}

static inline void word_end(struct scan *s)
{
    if (!s->word)
        return;
    token_add(s, s->word_hash, s->word, s->at);
    s->words++;
    s->word = NULL;
}

static void dense_end(struct scan *s)
{
    if (!s->dense)
        return;
    if (!s->dense_paired) {
        token_add(s, hash_code_point(FNV_BASIS, s->dense_cp), s->dense, s->at);
        s->words++;
    }
    s->dense = NULL;
}

static inline void run_end(struct scan *s)
{
    word_end(s);
    dense_end(s);
}

/* The prefix, with something behind it. */
static bool has_prefix(const struct scan *s, const char *prefix, size_t len)
{
    if ((size_t)(s->end - s->at) <= len || s->at[len] <= ' ')
        return false;
    for (size_t i = 0; i < len; i++)
        if (ascii_fold(s->at[i]) != (uint8_t)prefix[i])
            return false;
    return true;
}

/* At a possible word start: skips a link and says so. */
static bool skip_link(struct scan *s)
{
    if (!has_prefix(s, "http://", 7) && !has_prefix(s, "https://", 8) && !has_prefix(s, "www.", 4))
        return false;
    while (s->at<s->end && * s->at> ' ' && *s->at < 0x7F && *s->at != '<' && *s->at != '>' &&
           *s->at != '"') {
        s->at++;
        s->chars++;
    }
    s->flags |= MSG_LINK;
    s->last_cp = 'a'; /* whatever ends a link is no punctuation of the sentence */
    s->started = true;
    blank_add(s);
    return true;
}

/* At an @ that no word precedes: skips the name behind it and says so. */
static bool skip_mention(struct scan *s)
{
    const uint8_t *p = s->at + 1;
    uint32_t skipped = 1;
    while (p < s->end) {
        uint32_t cp = 0;
        size_t n = unicode_decode(p, s->end, &cp);
        bool joint = (cp == '.' || cp == '-') && p + 1 < s->end && p[1] < 0x80 &&
                     ascii_class(p[1]) == A_LETTER;
        if (cp != '_' && !joint && (cp == 0xFFFD || unicode_class(cp) != UNICODE_LETTER))
            break;
        p += n;
        skipped++;
    }
    if (skipped == 1)
        return false;
    s->at = p;
    s->chars += skipped;
    s->last_cp = 'a';
    blank_add(s);
    return true;
}

static void letter_add(struct scan *s, uint32_t cp, uint32_t folded)
{
    if (!s->word) {
        dense_end(s);
        s->word = s->at;
        s->word_hash = FNV_BASIS;
        if (!s->started && folded != cp && cp != 0x3C2 && cp != 0x17F)
            s->flags |= MSG_UPPER_START;
        s->started = true;
    }
    s->word_hash = hash_code_point(s->word_hash, folded);
}

static void dense_add(struct scan *s, uint32_t cp, size_t n)
{
    word_end(s);
    if (s->dense) {
        uint64_t hash = hash_code_point(hash_code_point(FNV_BASIS, s->dense_cp), cp);
        token_add(s, hash, s->dense, s->at + n);
        s->words++;
    }
    s->dense_paired = s->dense != NULL;
    s->dense = s->at;
    s->dense_cp = cp;
    s->started = true;
}

static void mark_add(struct scan *s, uint32_t mark)
{
    s->marks[mark / 8] |= (uint8_t)(1u << (mark % 8));
}

static void punct_end(struct scan *s)
{
    if (s->punct_end)
        mark_add(s, RECORD_MARK_TRIGRAMS + RECORD_MARK_WORDS +
                        (uint32_t)(hash64_mix(s->punct_hash) % RECORD_MARK_PUNCT));
}

/* n: bytes of the character at s->at. */
static void symbol_add(struct scan *s, uint32_t cp, size_t n)
{
    run_end(s);
    if (s->punct_end != s->at) {
        punct_end(s);
        s->punct_hash = FNV_BASIS;
    }
    s->punct_hash = hash_code_point(s->punct_hash, cp);
    s->punct_end = s->at + n;
    if (cp == '?' || cp == 0xFF1F || cp == 0x61F || cp == 0x55E || cp == 0x1367 ||
        (cp >= 0x2047 && cp <= 0x2049))
        s->flags |= MSG_QUESTION;
    if (cp == '!' || cp == 0xFF01 || cp == 0x203C || cp == 0x55C || cp == 0x2048 || cp == 0x2049)
        s->flags |= MSG_EXCLAIM;
    trigram_add(s, cp);
}

/* One code point beyond ASCII. */
static void wide_add(struct scan *s)
{
    uint32_t cp = 0;
    size_t n = unicode_decode(s->at, s->end, &cp);
    enum unicode_class class = cp == 0xFFFD ? UNICODE_IGNORE : unicode_class(cp);
    s->chars++;
    if (class != UNICODE_IGNORE && class != UNICODE_SPACE)
        s->last_cp = cp;
    switch (class) {
    case UNICODE_LETTER: {
        uint32_t folded = unicode_fold(cp);
        letter_add(s, cp, folded);
        trigram_add(s, folded);
        break;
    }
    case UNICODE_DENSE:
        dense_add(s, cp, n);
        trigram_add(s, cp);
        break;
    case UNICODE_EMOJI:
        run_end(s);
        token_add(s, hash_code_point(FNV_BASIS, cp), s->at, s->at + n);
        s->flags |= MSG_EMOJI;
        trigram_add(s, cp);
        break;
    case UNICODE_SPACE:
        run_end(s);
        blank_add(s);
        break;
    case UNICODE_OTHER:
        symbol_add(s, cp, n);
        break;
    case UNICODE_IGNORE:
        break;
    }
    s->at += n;
}

/* One ASCII byte: what most text is made of, so nothing here is shared with wide_add(). */
static inline void ascii_add(struct scan *s, uint8_t c)
{
    unsigned class = ascii_class(c);
    if (class == A_LETTER) {
        uint8_t folded = ascii_fold(c);
        if (!s->word) {
            dense_end(s);
            if ((folded == 'h' || folded == 'w') && skip_link(s))
                return;
            s->word = s->at;
            s->word_hash = FNV_BASIS;
            if (!s->started && folded != c)
                s->flags |= MSG_UPPER_START;
            s->started = true;
        }
        s->word_hash = (s->word_hash ^ folded) * FNV_PRIME;
        s->last_cp = c;
        trigram_add(s, folded);
    } else if (class == A_SPACE) {
        run_end(s);
        blank_add(s);
    } else {
        if (c == '@' && !s->word) {
            dense_end(s);
            if (skip_mention(s))
                return;
        }
        s->last_cp = c;
        symbol_add(s, c, 1);
    }
    s->at++;
    s->chars++;
}

static bool is_end_punct(uint32_t cp)
{
    static const uint32_t marks[] = {'.',    '!',    '?',    0x2026, 0x3002, 0xFF01, 0xFF1F,
                                     0xFF0E, 0xFF61, 0x61F,  0x6D4,  0x964,  0x965,  0x55C,
                                     0x55E,  0x589,  0x1362, 0x1367, 0x104A, 0x104B, 0x17D4,
                                     0x17D5, 0x203C, 0x203D, 0x2047, 0x2048, 0x2049, 0x37E};
    for (size_t i = 0; i < sizeof(marks) / sizeof(marks[0]); i++)
        if (marks[i] == cp)
            return true;
    return false;
}

/* round(16 (1 + ln tf) idf); the middle factor goes through thousandths as well, see epoch.h. */
static int32_t token_weight(const struct token *t)
{
    uint64_t tf = 1000;
    if (t->count > 1)
        tf = (uint64_t)floor(1000.0 * (1.0 + log((double)t->count)) + 0.5);
    return (int32_t)((16 * tf * t->idf + 500000) / 1000000);
}

/* Keeps the RECORD_VECTOR entries of the largest absolute weight; keys are distinct. */
static uint32_t vector_cut(const uint32_t *keys, size_t n)
{
    uint32_t limit = 0;
    if (n <= RECORD_VECTOR)
        return limit;
    for (uint32_t bit = UINT32_C(1) << 31; bit; bit >>= 1) {
        size_t above = 0;
        for (size_t i = 0; i < n; i++)
            above += keys[i] >= (limit | bit);
        if (above >= RECORD_VECTOR)
            limit |= bit;
    }
    return limit;
}

static void build_vector(const struct scan *s, struct text_features *ret)
{
    int32_t sums[VECTOR_DIMS] = {0};
    uint64_t used[VECTOR_DIMS / 64] = {0};
    for (uint32_t i = 0; i < s->n_tokens; i++) {
        const struct token *t = &s->tokens[i];
        uint8_t bucket = (uint8_t)t->hash;
        int32_t weight = token_weight(t);
        sums[bucket] += t->hash >> 63 ? -weight : weight;
        used[bucket / 64] |= UINT64_C(1) << (bucket % 64);
    }
    uint8_t buckets[VECTOR_DIMS];
    uint32_t keys[VECTOR_DIMS];
    size_t n = 0;
    for (size_t word = 0; word < VECTOR_DIMS / 64; word++)
        for (uint64_t bits = used[word]; bits; bits &= bits - 1) {
            uint8_t bucket = (uint8_t)(word * 64 + (unsigned)__builtin_ctzll(bits));
            uint32_t size = (uint32_t)(sums[bucket] < 0 ? -sums[bucket] : sums[bucket]);
            if (size == 0)
                continue;
            buckets[n] = bucket;
            keys[n++] = size << 8 | (255u - bucket);
        }
    uint32_t limit = vector_cut(keys, n);
    for (size_t i = 0; i < n; i++) {
        if (keys[i] < limit)
            continue;
        int32_t w = sums[buckets[i]];
        w = w > 127 ? 127 : w < -127 ? -127 : w;
        ret->vector[ret->n_vector++] = (struct vector_entry){buckets[i], (int8_t)w};
        ret->norm2 += (uint32_t)(w * w);
    }
}

static void build_label(const struct scan *s, const struct token *t, size_t slot,
                        struct text_features *ret)
{
    const uint8_t *end = s->begin + t->end;
    uint8_t len = 0;
    for (const uint8_t *p = s->begin + t->start; p < end;) {
        uint32_t cp = 0;
        uint8_t bytes[4];
        if (*p < 0x80) { /* a token holds no control characters: nothing to ignore */
            if (len == RECORD_LABEL_BYTES)
                break;
            ret->label[slot][len++] = (char)ascii_fold(*p++);
            continue;
        }
        p += unicode_decode(p, s->end, &cp);
        if (cp == 0xFFFD || unicode_class(cp) == UNICODE_IGNORE)
            continue;
        size_t n = unicode_encode(unicode_fold(cp), bytes);
        if (len + n > RECORD_LABEL_BYTES)
            break;
        memcpy(ret->label[slot] + len, bytes, n);
        len = (uint8_t)(len + n);
    }
    ret->label_len[slot] = len;
}

static uint64_t tf_idf(const struct token *t)
{
    return (uint64_t)t->count * t->idf;
}

static void build_labels(const struct scan *s, struct text_features *ret)
{
    const struct token *best[RECORD_LABELS];
    size_t n = 0;
    for (uint32_t i = 0; i < s->n_tokens; i++) {
        const struct token *t = &s->tokens[i];
        if (n == RECORD_LABELS && tf_idf(best[n - 1]) >= tf_idf(t))
            continue;
        size_t at = n < RECORD_LABELS ? n++ : n - 1;
        for (; at > 0 && tf_idf(best[at - 1]) < tf_idf(t); at--)
            best[at] = best[at - 1];
        best[at] = t;
    }
    for (size_t i = 0; i < n; i++)
        build_label(s, best[i], i, ret);
    ret->n_labels = (uint8_t)n;
}

static void build_marks(struct scan *s, struct text_features *ret)
{
    uint32_t n = s->n_trigrams < TEXT_MARK_TRIGRAMS ? s->n_trigrams : TEXT_MARK_TRIGRAMS;
    for (uint32_t i = 0; i < n; i++)
        mark_add(s, s->trigrams[(uint64_t)i * s->n_trigrams / n]);
    for (uint32_t i = 0; i < s->n_tokens && i < TEXT_MARK_TOKENS; i++)
        mark_add(s, RECORD_MARK_TRIGRAMS + (uint32_t)(s->tokens[i].hash >> 12) % RECORD_MARK_WORDS);
    memcpy(ret->marks, s->marks, sizeof(ret->marks));
}

static void build_common(const struct scan *s, const struct epoch *epoch, struct text_features *ret)
{
    uint32_t counts[RECORD_COMMON] = {0};
    for (uint32_t i = 0; i < s->n_tokens; i++) {
        uint32_t bucket = (uint32_t)(s->tokens[i].hash % EPOCH_DF_BUCKETS);
        if (epoch->frequent[bucket / 64] >> (bucket % 64) & 1)
            counts[bucket % RECORD_COMMON] += s->tokens[i].count;
    }
    ret->flags |= MSG_COMMON;
    for (size_t i = 0; i < RECORD_COMMON; i++) {
        uint64_t n = counts[i] < RECORD_COMMON_MAX ? counts[i] : RECORD_COMMON_MAX;
        ret->common |= n << (4 * i);
    }
}

static void scan_start(struct scan *s, struct str content)
{
    memset(s, 0, offsetof(struct scan, tokens));
    s->begin = (const uint8_t *)content.ptr;
    s->at = s->begin;
    s->end = s->begin + content.len;
    /* A token takes at least two bytes of text; twice the room keeps probes short. */
    uint32_t slots = 32;
    while (slots < content.len && slots < SLOTS_MAX)
        slots *= 2;
    s->slot_mask = slots - 1;
    memset(s->slots, 0, slots * sizeof(s->slots[0]));
    trigram_add(s, ' ');
}

/* Weighs the tokens; returns how many of them tell what the text is about. */
static uint32_t weigh_tokens(struct scan *s, const struct epoch *epoch)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n_tokens; i++) {
        struct token *t = &s->tokens[i];
        t->idf = epoch_idf_milli(epoch, t->hash);
        n += t->idf >= 1000;
    }
    return n;
}

static void build_df(const struct scan *s, struct text_features *ret)
{
    uint64_t seen[EPOCH_DF_BUCKETS / 64] = {0};
    for (uint32_t i = 0; i < s->n_tokens && ret->n_df < TEXT_DF; i++) {
        uint16_t bucket = (uint16_t)(s->tokens[i].hash % EPOCH_DF_BUCKETS);
        uint64_t bit = UINT64_C(1) << (bucket % 64);
        if (!(seen[bucket / 64] & bit))
            ret->df[ret->n_df++] = bucket;
        seen[bucket / 64] |= bit;
    }
}

void text_extract(struct str content, const struct epoch *epoch, struct text_features *ret)
{
    memset(ret, 0, sizeof(*ret));
    struct str cut = str_cut(content, LIMIT_CONTENT_BYTES);
    if (cut.len == 0)
        return;
    struct scan s;
    scan_start(&s, cut);
    while (s.at < s.end) {
        uint8_t c = *s.at;
        if (c < 0x80)
            ascii_add(&s, c);
        else
            wide_add(&s);
    }
    run_end(&s);
    blank_add(&s);
    if (is_end_punct(s.last_cp))
        s.flags |= MSG_END_PUNCT;
    if (weigh_tokens(&s, epoch) >= TEXT_INFORMATIVE_TOKENS + (epoch == NULL))
        s.flags |= MSG_INFORMATIVE;
    if (cut.len < content.len)
        s.flags |= MSG_CUT;
    ret->flags = s.flags;
    punct_end(&s);
    ret->words = (uint16_t)(s.words < UINT16_MAX ? s.words : UINT16_MAX);
    ret->chars = (uint16_t)(s.chars < UINT16_MAX ? s.chars : UINT16_MAX);
    if (s.words > 0) {
        ret->edge[0] = (uint8_t)(s.tokens[0].hash >> 56);
        ret->edge[1] = (uint8_t)(s.last_hash >> 56);
    }
    build_vector(&s, ret);
    build_labels(&s, ret);
    build_marks(&s, ret);
    build_df(&s, ret);
    if (epoch && epoch->n_frequent)
        build_common(&s, epoch, ret);
}

/* GoEmotions in its published order, then what only the 11-label set has. */
static const struct {
    const char *name;
    int valence;
} emotions[] = {
    {"admiration", 1},     {"amusement", 1},
    {"anger", -1},         {"annoyance", -1},
    {"approval", 1},       {"caring", 1},
    {"confusion", 0},      {"curiosity", 0},
    {"desire", 1},         {"disappointment", -1},
    {"disapproval", -1},   {"disgust", -1},
    {"embarrassment", -1}, {"excitement", 1},
    {"fear", -1},          {"gratitude", 1},
    {"grief", -1},         {"joy", 1},
    {"love", 1},           {"nervousness", -1},
    {"optimism", 1},       {"pride", 1},
    {"realization", 0},    {"relief", 1},
    {"remorse", -1},       {"sadness", -1},
    {"surprise", 0},       {"neutral", 0},
    {"anticipation", 0},   {"pessimism", -1},
    {"trust", 1},
};
#define N_EMOTIONS ((int)(sizeof(emotions) / sizeof(emotions[0])))

int text_emotion_find(struct str label)
{
    for (int id = 0; id < N_EMOTIONS; id++) {
        const char *name = emotions[id].name;
        size_t i = 0;
        while (i < label.len && name[i] && ascii_fold((uint8_t)label.ptr[i]) == (uint8_t)name[i])
            i++;
        if (i == label.len && !name[i])
            return id;
    }
    return -1;
}

const char *text_emotion_name(int id)
{
    return id >= 0 && id < N_EMOTIONS ? emotions[id].name : NULL;
}

int text_emotion_valence(int id)
{
    assert(id >= 0 && id < N_EMOTIONS);
    return emotions[id].valence;
}

int text_emotion_count(void)
{
    return N_EMOTIONS;
}

int8_t text_valence(int id, uint8_t confidence)
{
    return (int8_t)(text_emotion_valence(id) * (confidence * 127 + 127) / 255);
}
