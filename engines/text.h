/*
 * engines/text.h - from the text of a message to integer features, in one pass, for any language.
 *
 * ENGINES.md section 2. Nothing here can fail: bytes that are not UTF-8 read as U+FFFD. What comes
 * out is durable (records keep it), so every change of a rule is a change of engine versions.
 *
 * Tokens: runs of letters, marks and digits, case-folded; scripts written without word spaces (Han,
 * Kana, Thai, Lao, Khmer, Myanmar) give overlapping pairs of characters, a lone one itself; an
 * emoji is a token of its own; a link gives only MSG_LINK; @mentions are dropped. The first
 * TEXT_TOKENS distinct tokens are tracked; a token's hash is hash64() of its folded UTF-8.
 *
 * A token's idf comes from the bot's document frequencies (epoch.h), in thousandths; without an
 * epoch all tokens have 1. A message is informative from TEXT_INFORMATIVE_TOKENS distinct tokens
 * with an idf of at least 1 on, without an epoch from one more.
 *
 * Vector (mode L): bucket = hash & 255, sign = hash >> 63, weight = round(16 (1 + ln tf) idf); the
 * RECORD_VECTOR largest sums are kept (ties: the smaller bucket), sorted by bucket.
 *
 * Marks: a bit for each of
 * - the character trigrams of the folded text between two blanks, runs of blanks (and links,
 *   mentions) read as one: the top 7 bits of (c1 << 42 | c2 << 21 | c3) * 0x9E3779B97F4A7C15;
 * - the tokens: 6 bits of the hash;
 * - the runs of characters that are neither letters, digits nor blanks: hash64() mod 40.
 * So that long messages do not have them all, evenly spaced TEXT_MARK_TRIGRAMS trigrams and the
 * first TEXT_MARK_TOKENS distinct tokens count.
 *
 * Common words: those in the buckets of epoch.frequent, counted by class = bucket mod 16.
 */
#pragma once

#include "engines/epoch.h"
#include "engines/record.h"
#include "engines/vector.h"

#define TEXT_TOKENS             512
#define TEXT_DF                 64
#define TEXT_MARK_TRIGRAMS      96
#define TEXT_MARK_TOKENS        48
#define TEXT_INFORMATIVE_TOKENS 3

struct text_features {
    uint16_t flags; /* of enum msg_flag, those that the text decides */
    uint16_t words; /* tokens other than emoji, saturating */
    uint16_t chars; /* code points, saturating */
    uint8_t n_labels;
    uint8_t n_vector;
    uint8_t edge[RECORD_EDGES];
    uint8_t label_len[RECORD_LABELS];
    char label[RECORD_LABELS]
              [RECORD_LABEL_BYTES]; /* highest tf idf first, ties by first occurrence */
    uint32_t norm2;
    struct vector_entry vector[RECORD_VECTOR];
    uint64_t common;
    uint8_t marks[RECORD_MARKS / 8];
    /* What the message teaches the document frequencies: buckets of its first distinct tokens. */
    uint8_t n_df;
    uint16_t df[TEXT_DF];
};

/* epoch: the one that holds for the day of the message, or NULL. */
void text_extract(struct str content, const struct epoch *epoch, struct text_features *ret);

/*
 * Emotions: the labels of the 28-label GoEmotions and the 11-label RoBERTa sets share one list of
 * ids, which records keep: append only. Unknown labels give -1 and count as no emotion.
 */
int text_emotion_find(struct str label);
const char *text_emotion_name(int id); /* NULL for an id out of range */
int text_emotion_valence(int id);      /* -1, 0 or +1 */
int text_emotion_count(void);
/* What a record keeps: the label's sign, sized by the confidence (0..255), -127..127. */
int8_t text_valence(int id, uint8_t confidence);
