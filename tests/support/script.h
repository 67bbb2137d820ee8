/*
 * tests/support/script.h - random event scripts for the engines: the same seed gives the same
 * script.
 *
 * A script is a list of steps in order of arrival, for several users of one bot, with texts from a
 * small multilingual vocabulary that changes topic, emotions, memories and accesses. Print the seed
 * when a test fails; SCRIPT_SEED in the environment replaces it (script_seed()).
 */
#pragma once

#include "core/event.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum script_feature {
    SCRIPT_MEMORIES = 1 << 0,   /* creates, accesses and pins; some accesses before their memory */
    SCRIPT_EDITS = 1 << 1,      /* updates, some without the text, some moved in time */
    SCRIPT_DELETES = 1 << 2,    /* of messages and memories, some of ids never seen */
    SCRIPT_DUPLICATES = 1 << 3, /* the newest change of an id once more */
    SCRIPT_DISORDER = 1 << 4,   /* up to ten minutes late, a few hours or weeks late */
    SCRIPT_FUTURE = 1 << 5,     /* a few messages and accesses up to two hours ahead of T */
    SCRIPT_INBOX = 1 << 6,      /* some ids come from the inbox, some from both sources */
    SCRIPT_TRAITS = 1 << 7,     /* bot messages name traits */
    SCRIPT_EMBEDDINGS = 1 << 8, /* most messages carry one, sometimes of another model or size */
    SCRIPT_OUTREACH = 1 << 9,   /* attempts, replies and opt-outs */
    SCRIPT_METRICS = 1 << 10,   /* points and characters of the bot, with and without a user */
    SCRIPT_PROFILING = 1 << 11, /* with SCRIPT_OUTREACH: some of the words are on profiles. What one
                                 * of them takes out does not come back: order matters */
    SCRIPT_ALL = (1 << 12) - 1,
};

struct script_options {
    uint64_t seed;
    unsigned features; /* of enum script_feature; 0 = only new messages in order of time */
    size_t n_steps;
    size_t n_users;
    int64_t start_us;
    int64_t span_us; /* about this much time between the first and the last step */
};

struct script_step {
    struct event e; /* strings live as long as the script */
    enum source source;
    uint64_t ver;
    int64_t as_of_us; /* T when it arrives: newest time of the steps so far, without future ones */
};

struct script;

/* Aborts when memory runs out: only tests use this. */
struct script *script_new(const struct script_options *options);
void script_free(struct script *s);
size_t script_count(const struct script *s);
const struct script_step *script_at(const struct script *s, size_t index);
int64_t script_end_us(const struct script *s); /* T after the last step */
/*
 * Another order of arrival in which changes of one id keep their order, and so do all events of a
 * memory that is deleted somewhere. as_of_us follows the new order: lateness may differ unless the
 * script spans less than the window.
 */
void script_shuffle(struct script *s, uint64_t seed);

/* SCRIPT_SEED from the environment, else `otherwise`. */
uint64_t script_seed(uint64_t otherwise);

/* How many rounds of n to run: all of them, or an eighth where a sanitizer makes each dear. */
uint64_t script_rounds(uint64_t n);

/* splitmix64: the generator behind the scripts, for choices of the tests themselves. */
uint64_t script_random(uint64_t *state);
uint32_t script_below(uint64_t *state, uint32_t n);
