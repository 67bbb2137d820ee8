/*
 * engines/record.h - the bounded log of one key: small fixed feature records, sorted by time.
 *
 * Everything an engine emits is a pure function F(log, T) of these records (ENGINES.md 1.1): no
 * message text, integers only, so that arrival order, edits, deletes, expiry and restart are exact.
 * Scores and weights are quantised at ingest (x * 10^6 unless said otherwise); times are
 * microseconds since the Unix epoch.
 */
#pragma once

#include "core/buf.h"
#include "core/limits.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define RECORD_WINDOW_US      (INT64_C(30) * 24 * 3600 * 1000000) /* messages and accesses: 720 h */
#define RECORD_SESSION_GAP_US (INT64_C(3600) * 1000000)           /* a longer gap ends a session */
#define RECORD_SESSION_MAX    128 /* messages per session before a split */
#define RECORD_LABELS         6   /* label tokens kept of a message */
#define RECORD_LABEL_BYTES    24
#define RECORD_VECTOR         32 /* largest entries of the 256-d signed feature vector (mode L) */
#define RECORD_EDGES          2  /* hash bytes of the first and the last token */
/* How somebody writes, as a set of hashed features (text.h): trigrams, words, punctuation. */
#define RECORD_MARK_TRIGRAMS 128
#define RECORD_MARK_WORDS    64
#define RECORD_MARK_PUNCT    40
#define RECORD_MARKS         (RECORD_MARK_TRIGRAMS + RECORD_MARK_WORDS + RECORD_MARK_PUNCT)
#define RECORD_COMMON        16 /* classes of the bot's most frequent words */
#define RECORD_COMMON_MAX    15 /* counted of a class in one message */
#define RECORD_TRAIT_BYTES   32
#define RECORD_TRAIT_WEIGHT  200 /* a weight of 1; every hundredth is exact */
#define RECORD_OUTREACH_MAX  64  /* the newest attempts of a key ... */
#define RECORD_OUTREACH_US   (INT64_C(90) * 24 * 3600 * 1000000) /* ... of so long */
#define RECORD_REPLY_US      (INT64_C(24) * 3600 * 1000000)      /* an attempt waits so long */

/* One entry of a sparse feature vector; vectors are sorted by bucket, weights are never 0. */
struct vector_entry {
    uint8_t bucket;
    int8_t weight;
};

/* OUTREACH: attempts to start a conversation (user keys). METRIC: one point of a bot's metrics;
 * they are kept as sums per hour, so a metric has no index (bot keys). PRIVACY: the user's wish is
 * one field of the log: it is never inserted or retracted, but rows may depend on it. */
enum record_kind {
    RECORD_MESSAGE,
    RECORD_MEMORY,
    RECORD_ACCESS,
    RECORD_OUTREACH,
    RECORD_METRIC,
    RECORD_PRIVACY,
    RECORD_KINDS
};

enum msg_flag {
    MSG_QUESTION = 1 << 0,
    MSG_EXCLAIM = 1 << 1,
    MSG_EMOJI = 1 << 2,
    MSG_LINK = 1 << 3,
    MSG_UPPER_START = 1 << 4,
    MSG_END_PUNCT = 1 << 5,
    MSG_HAS_EMOTION = 1 << 6,
    MSG_INFORMATIVE = 1 << 7, /* enough content words to open or hold a topic */
    MSG_CUT = 1 << 8,         /* longer than LIMIT_CONTENT_BYTES: features of the first part */
    MSG_BOT = 1 << 9,         /* role bot; otherwise user */
    MSG_COMMON = 1 << 10,     /* the bot's most frequent words were known: common is counted */
};

/* An embedding as it is kept: the direction of a longer one (embedding.h). Cosines of different
 * models are undefined. */
#define RECORD_EMBEDDING 64
struct embedding {
    uint32_t model; /* hash of model name and size; 0 = none */
    int8_t v[RECORD_EMBEDDING];
};

/* Defined in epoch.h, dialogue.h, retention.h and metrics.h. */
struct epoch_list;
struct dialogue;
struct retention;
struct metrics;

/* Refers to a token in the key's refcounted arena; 0 = none. */
typedef uint16_t label_ref;

struct msg_rec {
    int64_t t_us;
    uint64_t id;  /* hash64 of the message id */
    uint64_t ver; /* position of the change that wrote it, see key.h */
    uint16_t flags;
    uint16_t words; /* saturating */
    uint16_t chars; /* code points, saturating */
    uint8_t source;
    uint8_t emotion;            /* label id (text.h), valid with MSG_HAS_EMOTION */
    uint8_t emotion_confidence; /* 0..255 = 0..1 */
    int8_t valence;             /* -127..127 = -1..1, sign from the label, size from confidence */
    uint8_t n_vector;           /* entries used in vector */
    label_ref labels[RECORD_LABELS];
    uint32_t norm2;             /* sum of squares of the vector weights */
    uint8_t edge[RECORD_EDGES]; /* top bytes of the hashes of the first and the last token */
    uint16_t embedding;         /* slot in log->embeddings, counted from 1; 0 = none */
    /* Words of the bot's most frequent ones (epoch.h), 4 bits for each class, saturating. */
    uint64_t common;
    struct vector_entry vector[RECORD_VECTOR];
    /* A message has one or the other, by MSG_BOT: nobody asks for the marks of a bot. */
    union {
        uint8_t marks[RECORD_MARKS / 8]; /* a bit for each mark that the text has */
        /* The traits that the source says a bot message shows, distinct. */
        struct {
            label_ref name[LIMIT_TRAITS]; /* 0 behind the last one */
            uint8_t weight[LIMIT_TRAITS]; /* 1..RECORD_TRAIT_WEIGHT */
        } traits;
    };
};

struct access_rec {
    int64_t t_us;
    uint64_t id;        /* hash64 of the event id */
    uint64_t memory;    /* hash64 of the memory id */
    uint32_t score;     /* x 10^6, UINT32_MAX = none */
    uint8_t grade;      /* 1..4 after ENGINES.md A2: grade, else outcome, else 3 */
    uint8_t has_signal; /* a grade or outcome was given: enough for a measured recall rate */
    uint8_t source;
};

/* What a bot did to start a conversation, or an answer to it that the application knows of. They
 * outlive the messages, so the only message that matters to one is noted before it leaves. */
struct outreach_rec {
    int64_t t_us;
    uint64_t id; /* hash64 of the event id: of the attempt; "replied" may carry one of its own */
    uint64_t ver;
    uint8_t op; /* OUTREACH_SENT or OUTREACH_REPLIED */
    uint8_t source;
    bool replied; /* SENT: a user message within RECORD_REPLY_US after it has left the log */
};

/* What a user may refuse: that the bot begins a conversation; that it keeps a profile of him (the
 * engines with engine_ops.profiles, and what only they need of a message). */
enum consent_scope { CONSENT_PROACTIVE, CONSENT_PROFILING, CONSENT_SCOPES };

/* Whether he does: the word of the newest event, by time, then position; of two at the same place
 * the opt-out counts. */
struct consent {
    bool given; /* somebody said something */
    bool opted_out;
    int64_t t_us;
    uint64_t ver;
};

/* What accesses that left the window add up to (ENGINES.md A2): a pure fold in time order. */
struct fsrs_state {
    double difficulty;
    double stability_days;
    int64_t last_us;
    uint32_t reps;
    uint32_t lapses;
    uint32_t spaced;
    uint32_t last_spaced; /* 1: the last access was a spaced one */
};

struct mem_rec {
    uint64_t id; /* hash64 of memory_id: the sort key of the memory array */
    int64_t created_us;
    uint64_t ver;
    uint32_t importance; /* x 10^6, UINT32_MAX = unknown */
    uint8_t pinned;
    uint8_t grade; /* grade of the creation event (1..4, 3 when not given) */
    uint8_t name_len;
    uint8_t type_len;
    char name[LIMIT_LABEL_BYTES]; /* memory_id, cut */
    char type[32];
    label_ref labels[3];
    uint8_t n_vector;
    uint8_t source;
    uint32_t norm2;
    struct vector_entry vector[RECORD_VECTOR];
    struct fsrs_state base; /* reps == 0: nothing folded yet */
};

/*
 * Borrowed by engines, owned by struct key. A key with an empty user_id is a bot's own: what is
 * kept per bot (metrics, character) and no user's. Arrays are sorted: messages and accesses by
 * (t_us, id), memories by id. Records with t_us > as_of + 5 min are "future": they sort last, are
 * not counted in n_messages / n_accesses and are not shown to engines until T catches up. Memories
 * are shown at once whatever their created_us. Accesses of unknown memories (deleted, forgotten, or
 * not created yet) stay in the log: engines skip those for which key_log_memory() is NULL.
 */
struct key_log {
    struct str user_id;
    struct str bot_name;
    int64_t as_of_us;      /* T of the last key_advance() */
    int64_t first_seen_us; /* oldest message ever kept, also when it has left; 0 = none */
    const struct msg_rec *messages;
    size_t n_messages;
    const struct embedding *embeddings; /* of messages, by slot - 1; NULL: no message has one */
    const struct access_rec *accesses;
    size_t n_accesses;
    const struct mem_rec *memories;
    size_t n_memories;
    const struct outreach_rec *outreach; /* by (t_us, id, op) */
    size_t n_outreach;
    struct consent consents[CONSENT_SCOPES];
    uint64_t forgotten_n; /* memories beyond the cap: count and sum of creation times (seconds) */
    int64_t forgotten_created_s;
    bool truncated;                  /* the newest LIMIT_* records of a longer window */
    const struct epoch_list *epochs; /* of the bot, see epoch.h; NULL: none was ever closed */
    struct dialogue *dialogue;       /* see dialogue.h; a cache, never part of the state */
    struct retention *retention;     /* see retention.h; likewise */
    const struct metrics *metrics;   /* bot keys: see metrics.h; NULL before the first point */
};

/* Takes out of a message what only a profile of the user needs, but for the names of traits, which
 * are the key's. */
static inline void msg_forget_profile(struct msg_rec *m)
{
    m->flags &= (uint16_t)~MSG_COMMON;
    m->common = 0;
    if (m->flags & MSG_BOT)
        memset(&m->traits, 0, sizeof(m->traits));
    else
        memset(m->marks, 0, sizeof(m->marks));
}

static inline bool msg_has_mark(const struct msg_rec *m, size_t mark)
{
    return !(m->flags & MSG_BOT) && m->marks[mark / 8] >> (mark % 8) & 1;
}

static inline uint32_t msg_common(const struct msg_rec *m, size_t class)
{
    return m->common >> (4 * class) & RECORD_COMMON_MAX;
}

/* How many traits a message shows; always 0 for the user's. */
static inline size_t msg_trait_count(const struct msg_rec *m)
{
    size_t n = 0;
    while (m->flags & MSG_BOT && n < LIMIT_TRAITS && m->traits.name[n])
        n++;
    return n;
}

/* Token behind a reference, at most RECORD_LABEL_BYTES (traits: RECORD_TRAIT_BYTES); STR_NULL for
 * 0. */
struct str key_log_label(const struct key_log *log, label_ref ref);
/* First record with t_us >= t. */
size_t key_log_message_at(const struct key_log *log, int64_t t_us);
size_t key_log_access_at(const struct key_log *log, int64_t t_us);
/* NULL when the memory is not (or no longer) known. */
const struct mem_rec *key_log_memory(const struct key_log *log, uint64_t id);
