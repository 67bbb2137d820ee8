/*
 * tests/engines/test_text.c - text becomes the same features in every script, whatever the bytes.
 *
 * Tokens are checked through labels (folded, by first occurrence) and through vectors, which are
 * compared with entries computed here from hash64().
 */
#include "engines/text.h"

#include "core/hash.h"
#include "engines/unicode.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct text_features extract(const char *text)
{
    struct text_features f;
    text_extract(str_from(text), NULL, &f);
    return f;
}

/* The labels, joined by '|'. */
static void assert_labels(const char *text, const char *expected)
{
    struct text_features f = extract(text);
    char joined[256];
    size_t len = 0;
    for (size_t i = 0; i < f.n_labels; i++) {
        if (i)
            joined[len++] = '|';
        memcpy(joined + len, f.label[i], f.label_len[i]);
        len += f.label_len[i];
    }
    joined[len] = 0;
    assert_string_equal(joined, expected);
}

static void assert_flag(const char *text, uint16_t flag, bool expected)
{
    if (!!(extract(text).flags & flag) != expected)
        fail_msg("flag %u of \"%s\" is not %d", flag, text, expected);
}

static void test_words_are_folded_runs_of_letters_marks_and_digits(void **state)
{
    (void)state;
    assert_labels("Hello, WORLD 42 don't", "hello|world|42|don|t");
    assert_labels("ÄPFEL Straße İzmir ĐÀ", "äpfel|straße|izmir|đà");
    assert_labels("ПОЕЗД Ёлка ΑΘΗΝΑΣ ΠΡΟΣ ΗΔΥΣ", "поезд|ёлка|αθηνασ|προσ|ηδυσ");
    assert_labels("σοφος ΣΟΦΟΣ", "σοφοσ"); /* final and capital sigma meet */
    assert_labels("ՀԱՅ Հայ", "հայ");
    assert_labels("e\xCC\x81t\xC3\xA9", "e\xCC\x81t\xC3\xA9"); /* a mark stays in its word */
    assert_labels("नमस्ते दुनिया।", "नमस्ते|दुनिया");
    assert_labels("سلام، كيف", "سلام|كيف");
    assert_labels("a\u200Db می\u200Cروم", "ab|میروم"); /* joiners are not there */
}

static void test_scripts_without_word_spaces_give_pairs(void **state)
{
    (void)state;
    assert_labels("東京塔", "東京|京塔");
    assert_labels("猫", "猫");
    assert_labels("猫 犬です", "猫|犬で|です");
    assert_labels("カラオケ", "カラ|ラオ|オケ");
    assert_labels("ตลาด", "ตล|ลา|าด");
    assert_labels("ລາວ ျမန ខ្មែ", "ລາ|າວ|ျမ|မန|ខ្|្ម"); /* six labels at most */
    assert_labels("iPhone買う", "iphone|買う");
    assert_labels("서울 날씨", "서울|날씨"); /* Hangul has spaces */
    assert_int_equal(extract("東京塔 hi").words, 3);
}

static void test_links_and_mentions_give_no_tokens(void **state)
{
    (void)state;
    assert_labels("see https://example.org/a?b=c#d now", "see|now");
    assert_labels("WWW.example.org HTTP://x", "");
    assert_labels("www. http:// httpd", "www|http|httpd");
    assert_labels("見てhttps://x.jp/a面白い", "見て|面白|白い");
    assert_labels("hi @anna_b.c-d, and @田中", "hi|and|田中");
    assert_labels("mail me@example.org @", "mail|me|example|org");
    assert_flag("see https://example.org/a?b=c#d", MSG_LINK, true);
    assert_flag("see https://example.org/a?b=c#d", MSG_QUESTION, false);
    assert_flag("http is a protocol", MSG_LINK, false);
}

static void test_emoji_are_tokens_and_no_words(void **state)
{
    (void)state;
    assert_labels("yes 🎉👍🏽 ❤️", "yes|🎉|👍|❤");
    assert_int_equal(extract("yes 🎉👍🏽 ❤️").words, 1);
    assert_flag("yes 🎉", MSG_EMOJI, true);
    assert_flag("yes :)", MSG_EMOJI, false);
    assert_flag("5 © 2 → 3", MSG_EMOJI, false);
}

static void test_flags_of_the_sentence(void **state)
{
    (void)state;
    static const char *const questions[] = {"a?", "何？", "كيف؟", "ինչ՞", "a ⁉ b"};
    for (size_t i = 0; i < sizeof(questions) / sizeof(questions[0]); i++)
        assert_flag(questions[i], MSG_QUESTION, true);
    assert_flag("ναι; a;", MSG_QUESTION, false);
    assert_flag("a!", MSG_EXCLAIM, true);
    assert_flag("いい！", MSG_EXCLAIM, true);
    assert_flag("a.", MSG_EXCLAIM, false);
    assert_flag("Hello there", MSG_UPPER_START, true);
    assert_flag("\"Über\"", MSG_UPPER_START, true);
    assert_flag("Привет", MSG_UPPER_START, true);
    assert_flag("hello There", MSG_UPPER_START, false);
    assert_flag("1 Hello", MSG_UPPER_START, false);
    assert_flag("東京 Hello", MSG_UPPER_START, false);
    assert_flag("done.  ", MSG_END_PUNCT, true);
    assert_flag("終わり。", MSG_END_PUNCT, true);
    assert_flag("ठीक है।", MSG_END_PUNCT, true);
    assert_flag("wait… ok", MSG_END_PUNCT, false);
    assert_flag("one two three", MSG_INFORMATIVE, false);
    assert_flag("one two three four", MSG_INFORMATIVE, true);
    assert_flag("ha ha ha ha ha", MSG_INFORMATIVE, false); /* one token, five times */
}

static void test_sizes_count_code_points_and_saturate(void **state)
{
    (void)state;
    assert_int_equal(extract("aé東🎉").chars, 4);
    assert_int_equal(extract("").chars, 0);
    assert_int_equal(extract("a b  c").words, 3);
    size_t n = 200000;
    char *many = malloc(n);
    assert_non_null(many);
    for (size_t i = 0; i < n; i++)
        many[i] = i % 2 ? ' ' : 'x';
    struct text_features f;
    text_extract((struct str){many, n}, NULL, &f);
    assert_int_equal(f.chars, UINT16_MAX);
    assert_int_equal(f.words, UINT16_MAX);
    assert_int_equal(f.vector[0].weight > 0 ? f.vector[0].weight : -f.vector[0].weight, 127);
    free(many);
}

static struct vector_entry entry_of(const char *token, int weight)
{
    uint64_t h = hash64(str_from(token));
    return (struct vector_entry){(uint8_t)h, (int8_t)(h >> 63 ? -weight : weight)};
}

/* Weight 16 (1 + ln tf): tf 1 -> 16, 2 -> 27, 3 -> 34. */
static void test_the_vector_is_signed_feature_hashing(void **state)
{
    (void)state;
    static const struct {
        const char *token;
        int weight;
    } expected[] = {{"dog", 34}, {"leg", 27}, {"vet", 16}, {"東京", 16}, {"ёж", 16}};
    struct text_features f = extract("Dog leg vet dog LEG dog 東京 Ёж");
    int32_t sums[VECTOR_DIMS] = {0};
    uint32_t norm2 = 0;
    for (size_t i = 0; i < 5; i++) {
        struct vector_entry e = entry_of(expected[i].token, expected[i].weight);
        vector_add(sums, &e, 1, 1);
    }
    for (size_t i = 0; i < f.n_vector; i++) {
        assert_int_equal(sums[f.vector[i].bucket], f.vector[i].weight);
        assert_true(i == 0 || f.vector[i].bucket > f.vector[i - 1].bucket);
        norm2 += (uint32_t)(f.vector[i].weight * f.vector[i].weight);
    }
    assert_int_equal(f.norm2, norm2);
    assert_true(vector_norm2(sums) == norm2);
}

/* Of more than 32 buckets the largest weights stay, and of equal ones the smaller buckets. */
static void test_the_vector_keeps_the_largest_weights(void **state)
{
    (void)state;
    char text[2048] = {0};
    size_t len = 0;
    int32_t sums[VECTOR_DIMS] = {0};
    for (int i = 0; i < 60; i++) {
        char token[16];
        int repeats = i % 7 == 0 ? 3 : 1;
        snprintf(token, sizeof(token), "w%dx", i);
        for (int k = 0; k < repeats; k++)
            len += (size_t)snprintf(text + len, sizeof(text) - len, "%s ", token);
        struct vector_entry e = entry_of(token, repeats == 3 ? 34 : 16);
        vector_add(sums, &e, 1, 1);
    }
    struct text_features f = extract(text);
    assert_int_equal(f.n_vector, RECORD_VECTOR);
    int kept[VECTOR_DIMS] = {0};
    for (size_t i = 0; i < f.n_vector; i++) {
        assert_int_equal(f.vector[i].weight, sums[f.vector[i].bucket]);
        kept[f.vector[i].bucket] = 1;
    }
    for (int a = 0; a < VECTOR_DIMS; a++)
        for (int b = 0; b < VECTOR_DIMS; b++) {
            if (!kept[a] || kept[b])
                continue;
            assert_true(abs(sums[a]) >= abs(sums[b]));
            assert_true(abs(sums[a]) > abs(sums[b]) || a < b);
        }
}

/* M11: the order of the words of a message is not in its vector. */
static void test_token_order_does_not_change_the_vector(void **state)
{
    (void)state;
    struct text_features a = extract("dog leg 東京 vet поезд 🎉 dog");
    struct text_features b = extract("поезд dog vet 🎉 dog 東京 leg");
    assert_int_equal(a.n_vector, b.n_vector);
    assert_memory_equal(a.vector, b.vector, a.n_vector * sizeof(a.vector[0]));
    assert_int_equal(a.norm2, b.norm2);
}

static void test_labels_prefer_frequent_then_early_tokens(void **state)
{
    (void)state;
    assert_labels("a b c d e f g g h f g", "g|f|a|b|c|d");
    assert_labels("abcdefghijklmnopqrstuvwxyz0123456789", "abcdefghijklmnopqrstuvwx");
    /* 24 bytes would cut the ninth character of three bytes; eight fit exactly. */
    assert_labels("가나다라마바사아자차", "가나다라마바사아");
    assert_labels("aééééééééééééé", "aééééééééééé");
}

/* 99 messages: df 99, 36, 35 and 9 give ln (100 / (df + 1)) = 0, .994, 1.022 and 2.303; a word that
 * was never seen 4.605. */
static struct epoch *epoch_with(const char *all, const char *common, const char *known,
                                const char *rare)
{
    struct epoch *e = calloc(1, sizeof(*e));
    assert_non_null(e);
    e->v[EPOCH_MESSAGES] = 99 * EPOCH_SCALE;
    e->v[EPOCH_DF + hash64(str_from(all)) % EPOCH_DF_BUCKETS] = 99 * EPOCH_SCALE;
    e->v[EPOCH_DF + hash64(str_from(common)) % EPOCH_DF_BUCKETS] = 36 * EPOCH_SCALE;
    e->v[EPOCH_DF + hash64(str_from(known)) % EPOCH_DF_BUCKETS] = 35 * EPOCH_SCALE;
    e->v[EPOCH_DF + hash64(str_from(rare)) % EPOCH_DF_BUCKETS] = 9 * EPOCH_SCALE;
    return e;
}

static void test_words_weigh_by_their_idf(void **state)
{
    (void)state;
    struct epoch *e = epoch_with("the", "dog", "leg", "vet");
    struct text_features f;
    text_extract(STR("the dog the leg dog vet zebra"), e, &f);
    /* tf idf: zebra 4.605, vet 2.303, dog 2 * .994, leg 1.022, the 2 * 0 */
    static const char *const labels[] = {"zebra", "vet", "dog", "leg", "the"};
    assert_int_equal(f.n_labels, 5);
    for (size_t i = 0; i < 5; i++)
        assert_true(str_equal((struct str){f.label[i], f.label_len[i]}, str_from(labels[i])));
    /* round(16 (1 + ln tf) idf), with tf 2: 1.693 */
    static const struct {
        const char *token;
        int weight;
    } expected[] = {{"zebra", 74}, {"vet", 37}, {"dog", 27}, {"leg", 16}};
    int32_t sums[VECTOR_DIMS] = {0};
    for (size_t i = 0; i < 4; i++) {
        struct vector_entry entry = entry_of(expected[i].token, expected[i].weight);
        vector_add(sums, &entry, 1, 1);
    }
    assert_int_equal(f.n_vector, 4); /* a word of every message says nothing */
    for (size_t i = 0; i < f.n_vector; i++)
        assert_int_equal(sums[f.vector[i].bucket], f.vector[i].weight);
    free(e);
}

static void test_informative_is_three_words_that_tell(void **state)
{
    (void)state;
    struct epoch *e = epoch_with("the", "dog", "leg", "vet");
    static const struct {
        const char *text;
        bool informative;
    } cases[] = {{"leg vet zebra", true},    {"leg vet", false},
                 {"dog leg vet", false}, /* the dog is in more than 36.8 % of the messages */
                 {"the dog leg vet", false}, {"leg leg leg vet", false},
                 {"the dog leg vet x", true}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct text_features f;
        text_extract(str_from(cases[i].text), e, &f);
        assert_int_equal((f.flags & MSG_INFORMATIVE) != 0, cases[i].informative);
        assert_false(f.flags & MSG_COMMON); /* an epoch outside a list has no frequent words */
        assert_true(f.common == 0);
    }
    free(e);
}

static void test_frequent_words_are_counted_by_class(void **state)
{
    (void)state;
    struct epoch_list l = {0};
    struct epoch *e = epoch_with("the", "dog", "leg", "vet");
    e->v[EPOCH_MESSAGES] = EPOCH_FREQUENT_MESSAGES * EPOCH_SCALE;
    assert_int_equal(epoch_list_add(&l, e), STATUS_OK);
    struct text_features f;
    text_extract(STR("the the dog cat the"), l.at[0].dense, &f);
    uint64_t the = hash64(STR("the")) % RECORD_COMMON, dog = hash64(STR("dog")) % RECORD_COMMON;
    assert_true(the != dog);
    assert_true(f.flags & MSG_COMMON);
    assert_true(f.common == (UINT64_C(3) << 4 * the | UINT64_C(1) << 4 * dog));
    text_extract(STR("the the the the the the the the the the the the the the the the the"),
                 l.at[0].dense, &f);
    assert_true(f.common == UINT64_C(15) << 4 * the);
    text_extract(STR("nothing of them"), l.at[0].dense, &f);
    assert_true(f.flags & MSG_COMMON && f.common == 0);
    epoch_list_deinit(&l);
}

/* Each bucket once, of the first 64 distinct words. */
static void test_what_a_text_teaches_is_bounded(void **state)
{
    (void)state;
    struct text_features f = extract("dog leg dog LEG");
    assert_int_equal(f.n_df, 2);
    assert_int_equal(f.df[0], hash64(STR("dog")) % EPOCH_DF_BUCKETS);
    assert_int_equal(f.df[1], hash64(STR("leg")) % EPOCH_DF_BUCKETS);
    char text[4096];
    size_t len = 0;
    for (unsigned i = 0; i < 300; i++)
        len += (size_t)snprintf(text + len, sizeof(text) - len, "w%u ", i);
    f = extract(text);
    assert_int_equal(f.n_df, TEXT_DF);
    for (size_t i = 0; i < f.n_df; i++)
        for (size_t k = 0; k < i; k++)
            assert_true(f.df[i] != f.df[k]);
    assert_int_equal(extract(" ?! ").n_df, 0);
}

static uint8_t trigram(uint32_t a, uint32_t b, uint32_t c)
{
    uint64_t window = (uint64_t)a << 42 | (uint64_t)b << 21 | c;
    return (uint8_t)(window * UINT64_C(0x9E3779B97F4A7C15) >> 57);
}

static uint8_t word_mark(const char *token)
{
    return (uint8_t)(RECORD_MARK_TRIGRAMS + (hash64(str_from(token)) >> 12) % RECORD_MARK_WORDS);
}

static uint8_t punct_mark(const char *run)
{
    return (uint8_t)(RECORD_MARK_TRIGRAMS + RECORD_MARK_WORDS +
                     hash64(str_from(run)) % RECORD_MARK_PUNCT);
}

static void assert_marks(const char *text, const uint8_t *expected, size_t n)
{
    struct text_features f = extract(text);
    uint8_t marks[RECORD_MARKS / 8] = {0};
    for (size_t i = 0; i < n; i++)
        marks[expected[i] / 8] |= (uint8_t)(1u << (expected[i] % 8));
    assert_memory_equal(f.marks, marks, sizeof(marks));
}

static void test_marks_are_trigrams_words_and_punctuation(void **state)
{
    (void)state;
    const uint8_t words[] = {trigram(' ', 'a', 'b'),    trigram('a', 'b', ' '),
                             trigram('b', ' ', 0x6771), trigram(' ', 0x6771, ' '),
                             word_mark("ab"),           word_mark("東")};
    assert_marks("  Ab \t 東", words, sizeof(words));
    assert_marks("", words, 0);
    assert_marks(" \n ", words, 0);
    /* Runs end at a blank or a letter; what is inside one is not looked at one by one. */
    const uint8_t runs[] = {trigram(' ', 'a', '.'), trigram('a', '.', '.'), trigram('.', '.', 'b'),
                            trigram('.', 'b', ' '), trigram('b', ' ', ':'), trigram(' ', ':', ')'),
                            trigram(':', ')', ' '), word_mark("a"),         word_mark("b"),
                            punct_mark(".."),       punct_mark(":)")};
    assert_marks("a..b :)", runs, sizeof(runs));
    struct text_features linked = extract("ab https://x.org/y cd");
    struct text_features plain = extract("ab cd");
    assert_memory_equal(linked.marks, plain.marks, sizeof(plain.marks));
}

/* A long text still differs from another one: not every mark is set. */
static void test_marks_of_long_texts_are_a_sample(void **state)
{
    (void)state;
    char text[30000];
    size_t len = 0;
    for (unsigned i = 0; len + 16 < sizeof(text); i++)
        len += (size_t)snprintf(text + len, sizeof(text) - len, "%x ", i * 2654435761u);
    struct text_features f = extract(text);
    size_t trigrams = 0, words = 0;
    for (size_t i = 0; i < RECORD_MARK_TRIGRAMS; i++)
        trigrams += f.marks[i / 8] >> (i % 8) & 1;
    for (size_t i = RECORD_MARK_TRIGRAMS; i < RECORD_MARK_TRIGRAMS + RECORD_MARK_WORDS; i++)
        words += f.marks[i / 8] >> (i % 8) & 1;
    /* 96 balls into 128 boxes fill 67.7 on average, 48 into 64 as well half as many. */
    assert_in_range(trigrams, 55, 80);
    assert_in_range(words, 25, 42);
}

/* M12: any bytes give features inside their bounds, twice the same. */
static void test_any_bytes_are_text(void **state)
{
    (void)state;
    uint64_t x = 88172645463325252u;
    for (int round = 0; round < 3000; round++) {
        unsigned char bytes[400];
        size_t len = round % sizeof(bytes);
        for (size_t i = 0; i < len; i++) {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            /* Half of them leads and continuations, so that sequences nearly succeed. */
            bytes[i] = (unsigned char)(x & 1 ? 0x80 | (x >> 8) : x >> 8);
        }
        struct text_features a, b;
        text_extract((struct str){(const char *)bytes, len}, NULL, &a);
        text_extract((struct str){(const char *)bytes, len}, NULL, &b);
        assert_memory_equal(&a, &b, sizeof(a));
        assert_true(a.n_vector <= RECORD_VECTOR && a.n_labels <= RECORD_LABELS);
        for (size_t i = 0; i < a.n_labels; i++)
            assert_true(str_is_text((struct str){a.label[i], a.label_len[i]}));
    }
    assert_labels("a\xFF"
                  "b \xC3",
                  "ab"); /* a malformed byte is nothing, not a word break */
}

static void test_a_megabyte_is_cut_and_flagged(void **state)
{
    (void)state;
    size_t n = LIMIT_CONTENT_BYTES + 10;
    char *big = malloc(n);
    assert_non_null(big);
    for (size_t i = 0; i < n; i++)
        big[i] = (char)(i % 5 == 4 ? ' ' : 'a' + (i * 7919 >> 4) % 26);
    struct text_features f;
    text_extract((struct str){big, n}, NULL, &f);
    assert_true(f.flags & MSG_CUT);
    assert_int_equal(f.n_labels, RECORD_LABELS);
    text_extract((struct str){big, LIMIT_CONTENT_BYTES}, NULL, &f);
    assert_false(f.flags & MSG_CUT);
    free(big);
}

static void test_folding_is_idempotent_and_utf8_round_trips(void **state)
{
    (void)state;
    for (uint32_t cp = 0; cp < 0x110000; cp++) {
        if (cp >= 0xD800 && cp < 0xE000)
            continue;
        uint32_t folded = unicode_fold(cp);
        if (unicode_fold(folded) != folded)
            fail_msg("U+%04X folds twice", cp);
        if (unicode_class(cp) == UNICODE_LETTER && unicode_class(folded) != UNICODE_LETTER)
            fail_msg("U+%04X folds out of the letters", cp);
        uint8_t bytes[4];
        uint32_t back = 0;
        size_t len = unicode_encode(cp, bytes);
        assert_int_equal(unicode_decode(bytes, bytes + len, &back), len);
        assert_int_equal(back, cp);
    }
}

static void test_emotions_have_stable_ids_and_signs(void **state)
{
    (void)state;
    assert_int_equal(text_emotion_count(), 31);
    assert_int_equal(text_emotion_find(STR("admiration")), 0);
    assert_int_equal(text_emotion_find(STR("Joy")), 17);
    assert_int_equal(text_emotion_find(STR("neutral")), 27);
    assert_int_equal(text_emotion_find(STR("trust")), 30);
    assert_int_equal(text_emotion_find(STR("joyful")), -1);
    assert_int_equal(text_emotion_find(STR("jo")), -1);
    assert_int_equal(text_emotion_find(STR("")), -1);
    for (int id = 0; id < text_emotion_count(); id++)
        assert_int_equal(text_emotion_find(str_from(text_emotion_name(id))), id);
    assert_null(text_emotion_name(31));
    assert_int_equal(text_emotion_valence(text_emotion_find(STR("pessimism"))), -1);
    assert_int_equal(text_emotion_valence(text_emotion_find(STR("surprise"))), 0);
    assert_int_equal(text_valence(text_emotion_find(STR("joy")), 255), 127);
    assert_int_equal(text_valence(text_emotion_find(STR("fear")), 255), -127);
    assert_int_equal(text_valence(text_emotion_find(STR("joy")), 128), 64);
    assert_int_equal(text_valence(text_emotion_find(STR("joy")), 0), 0);
}

/* Golden by hand: a = (3, 4) and b = (4, 3) have cosine 24/25. */
static void test_cosines_are_exact(void **state)
{
    (void)state;
    struct vector_entry a[] = {{1, 3}, {9, 4}}, b[] = {{1, 4}, {9, 3}}, c[] = {{2, 5}};
    int64_t dot = vector_dot_sparse(a, 2, b, 2);
    assert_int_equal(dot, 24);
    assert_int_equal(vector_dot_sparse(a, 2, c, 1), 0);
    assert_int_equal(vector_norm2_sparse(a, 2), 25);
    assert_true(cosine(dot, 25, 25) == 0.96);
    assert_false(cosine_below(dot, 25, 25, 24, 25)); /* equal is not below */
    assert_true(cosine_below(dot, 25, 25, 9601, 10000));
    assert_false(cosine_below(dot, 25, 25, 9599, 10000));
    assert_true(cosine_below(-24, 25, 25, 1, 10000));
    assert_true(cosine_below(0, 0, 25, 1, 10));
    int32_t sum[VECTOR_DIMS] = {0};
    vector_add(sum, a, 2, 1);
    vector_add(sum, b, 2, 1);
    assert_int_equal(vector_dot(sum, a, 2), 49);
    assert_true(vector_norm2(sum) == 98);
    vector_add(sum, a, 2, -1);
    assert_int_equal(vector_dot_dense(sum, sum), 25);
    assert_int_equal(cosine_compare(24, 25, 23, 25), 1);
    assert_int_equal(cosine_compare(24, 25, 48, 100), 0);
    assert_int_equal(cosine_compare(-24, 25, -23, 25), -1);
    assert_int_equal(cosine_compare(1, 100, 0, 0), 1);
    assert_true(cosine(5, 0, 25) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_words_are_folded_runs_of_letters_marks_and_digits),
        cmocka_unit_test(test_scripts_without_word_spaces_give_pairs),
        cmocka_unit_test(test_links_and_mentions_give_no_tokens),
        cmocka_unit_test(test_emoji_are_tokens_and_no_words),
        cmocka_unit_test(test_flags_of_the_sentence),
        cmocka_unit_test(test_sizes_count_code_points_and_saturate),
        cmocka_unit_test(test_the_vector_is_signed_feature_hashing),
        cmocka_unit_test(test_the_vector_keeps_the_largest_weights),
        cmocka_unit_test(test_token_order_does_not_change_the_vector),
        cmocka_unit_test(test_labels_prefer_frequent_then_early_tokens),
        cmocka_unit_test(test_words_weigh_by_their_idf),
        cmocka_unit_test(test_informative_is_three_words_that_tell),
        cmocka_unit_test(test_frequent_words_are_counted_by_class),
        cmocka_unit_test(test_what_a_text_teaches_is_bounded),
        cmocka_unit_test(test_marks_are_trigrams_words_and_punctuation),
        cmocka_unit_test(test_marks_of_long_texts_are_a_sample),
        cmocka_unit_test(test_any_bytes_are_text),
        cmocka_unit_test(test_a_megabyte_is_cut_and_flagged),
        cmocka_unit_test(test_folding_is_idempotent_and_utf8_round_trips),
        cmocka_unit_test(test_emotions_have_stable_ids_and_signs),
        cmocka_unit_test(test_cosines_are_exact),
    };
    return cmocka_run_group_tests_name("engines/text", tests, NULL, NULL);
}
