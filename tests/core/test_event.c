/* tests/core/test_event.c - random events survive both forms; what is malformed is refused. */
#include "core/event.h"

#include "core/clock.h"
#include "tests/core/event_equal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>
#include <msgpack.h>

static struct event_arena *arena;
static struct event_arena *made; /* holds what random events point to */
static struct error err;
static struct buf out;
static uint64_t seed;

/* xorshift64* */
static uint64_t draw(void)
{
    seed ^= seed >> 12;
    seed ^= seed << 25;
    seed ^= seed >> 27;
    return seed * UINT64_C(2685821657736338717);
}

static uint64_t below(uint64_t n)
{
    return (draw() >> 11) % n;
}

/* Text of min..max pieces, some of which need escapes or several bytes. */
static struct str random_text(size_t min, size_t max)
{
    static const char *const pieces[] = {"a",
                                         "Z",
                                         "0",
                                         " ",
                                         "\"",
                                         "\\",
                                         "\n",
                                         "\x01",
                                         "\xC3\xA9",
                                         "\xE2\x82\xAC",
                                         "\xF0\x9F\x98\x80",
                                         "/",
                                         "\x7F"};
    size_t n = min + below(max - min + 1);
    char *text = event_arena_alloc(made, n * 4 + 1);
    assert_non_null(text);
    size_t len = 0;
    for (size_t i = 0; i < n; i++) {
        const char *piece = pieces[below(sizeof(pieces) / sizeof(pieces[0]))];
        memcpy(text + len, piece, strlen(piece));
        len += strlen(piece);
    }
    return (struct str){text, len};
}

static struct str random_optional(void)
{
    return below(3) ? random_text(0, 20) : STR_NULL;
}

static double random_share(void)
{
    return below(3) ? (double)below(1u << 20) / (1u << 20) : NAN;
}

static double random_finite(void)
{
    double v = NAN;
    while (!isfinite(v)) {
        uint64_t bits = draw();
        memcpy(&v, &bits, sizeof(v));
    }
    return v == 0 ? 0 : v;
}

/* Distinct names in ascending order, so that printing them sorted keeps their order. */
static struct str random_name(size_t i)
{
    char *text = event_arena_alloc(made, 16);
    assert_non_null(text);
    int n = snprintf(text, 16, "n%02zu-%d", i, (int)below(100));
    return (struct str){text, (size_t)n};
}

static struct event_message random_message(void)
{
    struct event_message m = {
        .role = below(2) ? ROLE_USER : ROLE_BOT,
        .op = below(2) ? MESSAGE_INSERT : MESSAGE_UPDATE,
        .content = random_text(0, 300),
        .emotion = random_optional(),
        .emotion_confidence = random_share(),
        .embedding_model = random_optional(),
        .channel_id = random_optional(),
        .n_traits = (uint32_t)below(7),
    };
    if (m.op == MESSAGE_UPDATE && below(2))
        m.content = STR_NULL;
    if (below(2)) {
        m.embedding_dims = (uint32_t)(1 + below(70));
        float *values = event_arena_alloc(made, m.embedding_dims * sizeof(float));
        assert_non_null(values);
        for (uint32_t i = 0; i < m.embedding_dims; i++)
            values[i] = (float)((double)below(1u << 30) / (1u << 29) - 1);
        m.embedding = values;
    }
    for (uint32_t i = 0; i < m.n_traits && i < LIMIT_TRAITS; i++)
        m.traits[i] = (struct event_trait){random_text(1, 9), random_finite()};
    return m;
}

static void random_metric(struct event_metric *m)
{
    m->measurement = random_text(1, 20);
    m->n_fields = (uint32_t)below(33);
    m->n_tags = (uint32_t)below(17);
    for (uint32_t i = 0; i < m->n_fields; i++)
        m->fields[i] = (struct event_field){random_name(i), random_finite()};
    for (uint32_t i = 0; i < m->n_tags; i++) {
        m->tags[i].key = random_name(i);
        m->tags[i].value = random_text(0, 9);
    }
}

static void random_event(struct event *e)
{
    e->type = (enum event_type)(1 + below(EVENT_TYPE_LAST));
    e->id = random_text(1, 40);
    e->user_id = random_text(1, 40);
    e->bot_name = below(2) ? STR("elena") : STR("bot_2");
    e->at_us = TIME_MIN_US + (int64_t)below((uint64_t)(TIME_MAX_US - TIME_MIN_US));
    switch (e->type) {
    case EVENT_MESSAGE:
        e->u.message = random_message();
        break;
    case EVENT_MESSAGE_DELETED:
        break;
    case EVENT_MEMORY:
        e->u.memory = (struct event_memory){
            .op = (enum memory_op)(1 + below(4)),
            .memory_id = random_text(1, 40),
            .score = random_share(),
            .grade = (int)below(5),
            .outcome = (enum memory_outcome)below(3),
            .importance = random_share(),
            .memory_type = random_optional(),
            .content = random_optional(),
        };
        break;
    case EVENT_METRIC:
        random_metric(&e->u.metric);
        if (below(2))
            e->user_id = STR("");
        break;
    case EVENT_OUTREACH:
        e->u.outreach =
            (struct event_outreach){(enum outreach_op)(1 + below(3)), random_optional()};
        break;
    case EVENT_CHARACTER:
        e->u.character.version = (int64_t)draw();
        e->u.character.n_traits = (uint32_t)below(33);
        for (uint32_t i = 0; i < e->u.character.n_traits; i++)
            e->u.character.traits[i] = (struct event_trait){random_name(i), random_finite()};
        break;
    case EVENT_PRIVACY:
        e->u.privacy = (struct event_privacy){(enum privacy_op)(1 + below(3)), random_optional()};
        break;
    case EVENT_DEAD_LETTER:
        e->u.dead_letter = (struct event_dead_letter){
            .where = random_text(1, 9),
            .reason = random_text(1, 40),
            .bytes = below(2) ? random_optional() : STR("\xFF\x00\xFE"),
        };
        break;
    case EVENT_REQUEST:
        e->u.request = (struct event_request){(enum request_op)(1 + below(3)), random_optional()};
        if (below(2))
            e->bot_name = STR("");
        break;
    }
}

static struct str written(void)
{
    return (struct str){out.data, out.len};
}

static void encode(const struct event *e)
{
    buf_reset(&out);
    if (event_encode(e, &out, &err))
        fail_msg("%s", err.text);
}

/* What we write is msgpack to msgpack-c's own unpacker too: one array, nothing behind it. */
static void check_msgpack(void)
{
    msgpack_unpacked got;
    size_t used = 0;
    msgpack_unpacked_init(&got);
    assert_int_equal(msgpack_unpack_next(&got, out.data, out.len, &used), MSGPACK_UNPACK_SUCCESS);
    assert_int_equal(got.data.type, MSGPACK_OBJECT_ARRAY);
    assert_int_equal(used, out.len);
    msgpack_unpacked_destroy(&got);
}

/* Any event, through msgpack and through JSON, is the event again. */
static void test_random_events_survive_both_forms(void **state)
{
    (void)state;
    const char *given = getenv("SEED");
    uint64_t first = given ? strtoull(given, NULL, 10) : (uint64_t)clock_wall_us(&clock_real);
    print_message("SEED=%llu\n", (unsigned long long)first);
    seed = first | 1;
    for (int i = 0; i < 5000; i++) {
        struct event e;
        struct event back;
        event_arena_reset(made);
        random_event(&e);
        if (event_check(&e, &err))
            fail_msg("event %d: %s", i, err.text);

        encode(&e);
        check_msgpack();
        event_arena_reset(arena);
        if (event_decode(written(), arena, &back, &err))
            fail_msg("event %d: %s", i, err.text);
        if (!same_event(&e, &back))
            fail_msg("event %d of type %d changed in msgpack", i, (int)e.type);

        buf_reset(&out);
        if (event_to_json(&e, &out, &err))
            fail_msg("event %d: %s", i, err.text);
        event_arena_reset(arena);
        if (event_from_json(written(), arena, &back, &err))
            fail_msg("event %d: %s: %.*s", i, err.text, (int)out.len, out.data);
        if (!same_event(&e, &back))
            fail_msg("event %d changed: %.*s", i, (int)out.len, out.data);
    }
}

static void small_event(struct event *e)
{
    *e = (struct event){.type = EVENT_MESSAGE,
                        .id = STR("i"),
                        .user_id = STR("u"),
                        .bot_name = STR("b"),
                        .at_us = 1,
                        .u.message = {.role = ROLE_USER,
                                      .op = MESSAGE_INSERT,
                                      .content = STR("hi"),
                                      .emotion_confidence = NAN,
                                      .n_traits = 1,
                                      .traits = {{STR("t"), 0.5}}}};
}

/* The form that is in flight between versions, byte for byte. */
static void test_the_bytes_of_msgpack_are_fixed(void **state)
{
    (void)state;
    static const uint8_t expected[] = {
        0x9F, 0x01, 0xA1, 'i',  0xA1, 'u',  0xA1, 'b',  0x01, 0x01, 0x01,
        0xA2, 'h',  'i',  0xC0, 0xC0, 0xC0, 0xC0, 0x01, 0x92, 0xA1, 't',
        0xCB, 0x3F, 0xE0, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xC0,
    };
    struct event e;
    small_event(&e);
    encode(&e);
    assert_int_equal(out.len, sizeof(expected));
    assert_memory_equal(out.data, expected, sizeof(expected));
}

/* A cut or lengthened event is refused wherever it is cut, and so is anything else it may become
 * when one byte changes; what is still accepted has valid enums. */
static void test_damaged_bytes_are_refused_or_stay_in_range(void **state)
{
    (void)state;
    struct event e;
    struct event back;
    small_event(&e);
    encode(&e);
    for (size_t n = 0; n < out.len; n++) {
        event_arena_reset(arena);
        char *part = malloc(n + 1); /* its own block, so that sanitizers see a read behind it */
        assert_non_null(part);
        memcpy(part, out.data, n);
        assert_int_equal(event_decode((struct str){part, n}, arena, &back, &err), STATUS_PROTOCOL);
        free(part);
    }
    assert_int_equal(buf_append(&out, "\xC0", 1), STATUS_OK);
    assert_int_equal(event_decode(written(), arena, &back, &err), STATUS_PROTOCOL);
    out.len--;
    for (size_t i = 0; i < out.len * 256; i++) {
        char saved = out.data[i / 256];
        out.data[i / 256] = (char)(i % 256);
        event_arena_reset(arena);
        if (!event_decode(written(), arena, &back, &err)) {
            assert_in_range(back.type, EVENT_MESSAGE, EVENT_TYPE_LAST);
            if (back.type == EVENT_MESSAGE) {
                assert_in_range(back.u.message.role, ROLE_USER, ROLE_BOT);
                assert_in_range(back.u.message.op, MESSAGE_INSERT, MESSAGE_UPDATE);
            }
        }
        out.data[i / 256] = saved;
    }
}

/* An array that declares more elements than there are bytes must not be allocated. */
static void test_a_lying_length_is_refused_before_it_allocates(void **state)
{
    (void)state;
    const struct str lies[] = {
        STR("\xDD\xFF\xFF\xFF\xFF"),
        STR("\xDF\x7F\xFF\xFF\xFF"),
        STR("\x9F\xDD\x10\x00\x00\x00"),
        STR("\xDB\xFF\xFF\xFF\xFF"),
        STR("\xC9\xFF\xFF\xFF\xFF\x01"),
        STR("\xC1"),
        STR(""),
    };
    for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
        struct event back;
        assert_int_equal(event_decode(lies[i], arena, &back, &err), STATUS_PROTOCOL);
    }
}

static int append_bytes(void *data, const char *bytes, size_t len)
{
    return buf_append(data, bytes, len) ? -1 : 0;
}

/* A newer writer may append elements. */
static void test_unknown_trailing_elements_are_ignored(void **state)
{
    (void)state;
    static const char zeros[300];
    struct event back;
    msgpack_packer pk;
    buf_reset(&out);
    msgpack_packer_init(&pk, &out, append_bytes);
    msgpack_pack_array(&pk, 15);
    msgpack_pack_int(&pk, EVENT_MESSAGE_DELETED);
    for (int i = 0; i < 3; i++) {
        msgpack_pack_str(&pk, 1);
        msgpack_pack_str_body(&pk, "x", 1);
    }
    msgpack_pack_int64(&pk, -5);
    msgpack_pack_map(&pk, 1); /* one of each shape, nested where it can be */
    msgpack_pack_str(&pk, 300);
    msgpack_pack_str_body(&pk, zeros, 300);
    msgpack_pack_array(&pk, 20);
    for (int i = 0; i < 20; i++)
        msgpack_pack_float(&pk, 0.5F);
    msgpack_pack_true(&pk);
    msgpack_pack_nil(&pk);
    msgpack_pack_uint64(&pk, UINT64_MAX);
    msgpack_pack_int64(&pk, INT64_MIN);
    msgpack_pack_double(&pk, 0.5);
    msgpack_pack_bin(&pk, 300);
    msgpack_pack_bin_body(&pk, zeros, 300);
    msgpack_pack_ext(&pk, 16, 1);
    msgpack_pack_ext_body(&pk, zeros, 16);
    msgpack_pack_ext(&pk, 300, 1);
    msgpack_pack_ext_body(&pk, zeros, 300);
    msgpack_pack_int(&pk, -200);
    assert_int_equal(event_decode(written(), arena, &back, &err), STATUS_OK);
    assert_int_equal(back.type, EVENT_MESSAGE_DELETED);
    assert_true(back.at_us == -5);
    check_msgpack();
}

/* The borders of msgpack's integer formats. */
static void test_integers_of_every_width_are_read(void **state)
{
    (void)state;
    static const int64_t values[] = {
        0,         127,      128, 255,  256,  65535,  65536,  UINT32_MAX, INT64_C(4294967296),
        -1,        -32,      -33, -128, -129, -32768, -32769, INT32_MIN,  INT64_C(-2147483649),
        INT64_MAX, INT64_MIN};
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        struct event e;
        struct event back;
        small_event(&e);
        e.type = EVENT_CHARACTER;
        e.u.character = (struct event_character){.version = values[i]};
        encode(&e);
        assert_int_equal(event_decode(written(), arena, &back, &err), STATUS_OK);
        assert_true(back.u.character.version == values[i]);
    }
}

static void test_an_event_that_does_not_fit_leaves_the_buffer_alone(void **state)
{
    (void)state;
    struct event e;
    small_event(&e);
    struct buf small;
    buf_init(&small, 20);
    assert_int_equal(buf_append(&small, "abc", 3), STATUS_OK);
    assert_int_equal(event_encode(&e, &small, &err), STATUS_LIMIT);
    assert_int_equal(event_to_json(&e, &small, &err), STATUS_LIMIT);
    assert_int_equal(small.len, 3);
    buf_deinit(&small);
}

static void check_refused(const struct event *e, const char *start)
{
    assert_int_equal(event_check(e, &err), STATUS_INVALID);
    if (strncmp(err.text, start, strlen(start)) != 0)
        fail_msg("\"%s\" does not start with \"%s\"", err.text, start);
}

#define REFUSED(start, change)    \
    do {                          \
        struct event e;           \
        small_event(&e);          \
        change;                   \
        check_refused(&e, start); \
    } while (0)

static void test_the_check_names_what_is_wrong(void **state)
{
    (void)state;
    static char long_id[LIMIT_ID_BYTES + 1];
    memset(long_id, 'x', sizeof(long_id));
    static const float infinite[] = {1, INFINITY};
    struct event good;
    small_event(&good);
    assert_int_equal(event_check(&good, &err), STATUS_OK);
    good.id = (struct str){long_id, LIMIT_ID_BYTES};
    assert_int_equal(event_check(&good, &err), STATUS_OK);

    REFUSED("id: missing", e.id = STR(""));
    REFUSED("id: 513 bytes", e.id = ((struct str){long_id, sizeof(long_id)}));
    REFUSED("id: byte 1 is not valid", e.id = STR("a\0b"));
    REFUSED("user_id: missing", e.user_id = STR_NULL);
    REFUSED("user_id: byte 0", e.user_id = STR("\xFF"));
    REFUSED("bot_name: missing", e.bot_name = STR_NULL);
    REFUSED("bot_name: not a normal name", e.bot_name = STR("Elena"));
    REFUSED("at: ", e.at_us = INT64_MAX);
    REFUSED("at: ", e.at_us = INT64_MIN);
    REFUSED("role: ", e.u.message.role = 3);
    REFUSED("op: ", e.u.message.op = 0);
    REFUSED("content: missing", e.u.message.content = STR_NULL);
    REFUSED("content: byte 2", e.u.message.content = STR("ab\xC3"));
    REFUSED("content: ", e.u.message.content.len = LIMIT_TEXT_BYTES + 1);
    REFUSED("emotion_confidence: ", e.u.message.emotion_confidence = 1.5);
    REFUSED("traits.t: ", e.u.message.traits[0].weight = NAN);
    REFUSED("embedding[1]: ", (e.u.message.embedding = infinite, e.u.message.embedding_dims = 2));
    REFUSED("embedding: ", e.u.message.embedding_dims = 2);
    REFUSED("type: ", e.type = 99);
    REFUSED("fields.a: named twice",
            (e.type = EVENT_METRIC,
             e.u.metric = (struct event_metric){.measurement = STR("m"),
                                                .n_fields = 2,
                                                .fields = {{STR("a"), 1}, {STR("a"), 2}}}));
    REFUSED("memory_id: ",
            (e.type = EVENT_MEMORY, e.u.memory = (struct event_memory){
                                        .op = MEMORY_CREATE, .score = NAN, .importance = NAN}));
    REFUSED("score: -0.1",
            (e.type = EVENT_MEMORY,
             e.u.memory = (struct event_memory){
                 .op = MEMORY_CREATE, .memory_id = STR("m"), .score = -0.1, .importance = NAN}));
}

static void check_bot(const char *raw, const char *expected)
{
    char name[LIMIT_ID_BYTES];
    size_t n = event_bot_name(str_from(raw), name);
    if (n != strlen(expected) || memcmp(name, expected, n) != 0)
        fail_msg("\"%s\" became \"%.*s\", not \"%s\"", raw, (int)n, name, expected);
}

static void test_bot_names_become_normal(void **state)
{
    (void)state;
    check_bot("elena", "elena");
    check_bot("  Elena Rodriguez ", "elena_rodriguez");
    check_bot("a - b", "a_b");
    check_bot("A__b--c", "a_b_c");
    check_bot("-_x_-", "x");
    check_bot("Dr. No!", "dr_no");
    check_bot("a\xC2\xA0"
              "b\xE3\x80\x80"
              "c",
              "a_b_c");
    check_bot("Zo\xC3\xAB", "zo");
    check_bot("\xC3\xAB", "");
    check_bot("...", "");
    check_bot("", "");
    check_bot("a\xE3", "a");
    char raw[LIMIT_ID_BYTES * 2];
    char name[LIMIT_ID_BYTES];
    memset(raw, 'a', sizeof(raw));
    raw[LIMIT_ID_BYTES - 1] = '-';
    size_t n = event_bot_name((struct str){raw, sizeof(raw)}, name);
    assert_in_range(n, 1, LIMIT_ID_BYTES);
    char again[LIMIT_ID_BYTES];
    assert_int_equal(event_bot_name((struct str){name, n}, again), n);
    assert_memory_equal(name, again, n);
}

/* Allocations are aligned, distinct, large ones too, and bounded. */
static void test_the_arena_hands_out_separate_memory(void **state)
{
    (void)state;
    event_arena_reset(made);
    char *parts[40];
    for (size_t i = 0; i < 40; i++) {
        size_t size = i * 997 + 1;
        parts[i] = event_arena_alloc(made, size);
        assert_non_null(parts[i]);
        assert_int_equal((uintptr_t)parts[i] % _Alignof(max_align_t), 0);
        memset(parts[i], (int)i, size);
    }
    for (size_t i = 0; i < 40; i++)
        for (size_t k = 0; k < i * 997 + 1; k++)
            assert_int_equal(parts[i][k], i);
    assert_null(event_arena_alloc(made, SIZE_MAX));
    assert_null(event_arena_alloc(made, (size_t)LIMIT_EVENT_BYTES * 4));
    event_arena_reset(made);
    assert_non_null(event_arena_alloc(made, (size_t)LIMIT_EVENT_BYTES * 4));
}

static int setup(void **state)
{
    (void)state;
    buf_init(&out, 1 << 24);
    return event_arena_new(&arena, &err) || event_arena_new(&made, &err);
}

static int teardown(void **state)
{
    (void)state;
    event_arena_free(arena);
    event_arena_free(made);
    buf_deinit(&out);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_events_survive_both_forms),
        cmocka_unit_test(test_the_bytes_of_msgpack_are_fixed),
        cmocka_unit_test(test_damaged_bytes_are_refused_or_stay_in_range),
        cmocka_unit_test(test_a_lying_length_is_refused_before_it_allocates),
        cmocka_unit_test(test_unknown_trailing_elements_are_ignored),
        cmocka_unit_test(test_integers_of_every_width_are_read),
        cmocka_unit_test(test_an_event_that_does_not_fit_leaves_the_buffer_alone),
        cmocka_unit_test(test_the_check_names_what_is_wrong),
        cmocka_unit_test(test_bot_names_become_normal),
        cmocka_unit_test(test_the_arena_hands_out_separate_memory),
    };
    return cmocka_run_group_tests_name("core/event", tests, setup, teardown);
}
