/* tests/engines/patterns_rig.h - one key beside the oracle, fed with messages by hand, and its row
 * of conversation patterns. Every call fails the test when something does. */
#pragma once

#include "core/clock.h"
#include "engines/conversation_patterns_row.h"
#include "engines/key.h"
#include "engines/oracle/oracle.h"

/* A Monday, 00:00 UTC. */
#define START_US (INT64_C(1767571200) * US_PER_SECOND)

#define RIG_TEXT_MAX 4000

struct rig {
    struct str name;
    struct str bot;
    struct key *key;
    struct oracle *oracle;
    int64_t now_us;
    uint64_t ver;
    uint64_t seed;
    struct row row; /* the last one emitted */
    struct epoch_list epochs;
    struct epoch_sums lessons; /* all that was taught */
};

void rig_start(struct rig *r);
void rig_stop(struct rig *r);
/* An epoch from the day before START_US on, for epoch_list_add(); the caller fills it. */
struct epoch *rig_epoch_new(void);

struct said {
    enum message_role role;
    enum message_op op;
    int64_t t_us;
    unsigned id;
    const char *text;
    const char *emotion;
    double confidence;
};

void rig_say(struct rig *r, const struct said *s);
void rig_user(struct rig *r, int64_t t_us, unsigned id, const char *text);
void rig_bot(struct rig *r, int64_t t_us, unsigned id, const char *text);
void rig_take_back(struct rig *r, unsigned message, int64_t t_us);
/* n words, and then end. */
void rig_words(char out[RIG_TEXT_MAX], unsigned n, const char *end);

/* The row at r->now_us, into r->row. */
void rig_emit(struct rig *r);
void rig_assert_column(struct rig *r, size_t column, const char *want);
void rig_assert_has(struct str text, const char *part);
