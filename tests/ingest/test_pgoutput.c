/*
 * tests/ingest/test_pgoutput.c - the decoder reads every kind of message and no byte too many.
 *
 * Method: well-formed messages built byte by byte; then every prefix of each, and each with one
 * byte more, must be refused, in buffers of exactly their size so that a sanitizer sees an
 * over-read.
 */
#include "ingest/pgoutput.h"
#include "tests/ingest/wire.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdlib.h>

#define TIME_US INT64_C(1767621600000000)

static struct pgoutput_decoder *decoder;
static struct buf wire;
static struct pgoutput_message m;
static struct error err;

static int setup(void **state)
{
    (void)state;
    buf_init(&wire, 1 << 24);
    return pgoutput_decoder_new(&decoder, NULL);
}

static int teardown(void **state)
{
    (void)state;
    pgoutput_decoder_free(decoder);
    buf_deinit(&wire);
    return 0;
}

static enum status decode(void)
{
    return pgoutput_decode(decoder, wire_str(&wire), &m, &err);
}

static void assert_text(struct value v, const char *text)
{
    assert_int_equal(v.kind, VALUE_TEXT);
    assert_int_equal(v.text.len, strlen(text));
    assert_memory_equal(v.text.ptr, text, v.text.len);
}

static void test_begin_and_commit_carry_lsns_and_unix_time(void **state)
{
    (void)state;
    buf_reset(&wire);
    wire_begin(&wire, 0x1600000123, TIME_US);
    assert_int_equal(decode(), STATUS_OK);
    assert_int_equal(m.kind, PGOUTPUT_BEGIN);
    assert_int_equal(m.u.begin.final_lsn, 0x1600000123);
    assert_int_equal(m.u.begin.commit_us, TIME_US);
    assert_int_equal(m.u.begin.xid, 4711);

    buf_reset(&wire);
    wire_commit(&wire, 0x1600000123, 0x1600000150, TIME_US);
    assert_int_equal(decode(), STATUS_OK);
    assert_int_equal(m.kind, PGOUTPUT_COMMIT);
    assert_int_equal(m.u.commit.commit_lsn, 0x1600000123);
    assert_int_equal(m.u.commit.end_lsn, 0x1600000150);
    assert_int_equal(m.u.commit.commit_us, TIME_US);
}

static void test_a_relation_lists_its_columns(void **state)
{
    (void)state;
    const char *const columns[] = {"*id", "content", NULL};
    buf_reset(&wire);
    wire_relation(&wire, 16385, "public", "chat", columns);
    assert_int_equal(decode(), STATUS_OK);
    assert_int_equal(m.kind, PGOUTPUT_RELATION);
    assert_int_equal(m.u.relation.id, 16385);
    assert_string_equal(m.u.relation.schema, "public");
    assert_string_equal(m.u.relation.name, "chat");
    assert_int_equal(m.u.relation.replica_identity, 'd');
    assert_int_equal(m.u.relation.n_columns, 2);
    assert_string_equal(m.u.relation.columns[0].name, "id");
    assert_true(m.u.relation.columns[0].identity);
    assert_string_equal(m.u.relation.columns[1].name, "content");
    assert_false(m.u.relation.columns[1].identity);
    assert_int_equal(m.u.relation.columns[1].type_oid, 25);
    assert_int_equal(m.u.relation.columns[1].type_modifier, -1);
}

static void test_an_empty_schema_name_means_pg_catalog(void **state)
{
    (void)state;
    const char *const columns[] = {NULL};
    buf_reset(&wire);
    wire_relation(&wire, 1, "", "t", columns);
    assert_int_equal(decode(), STATUS_OK);
    assert_string_equal(m.u.relation.schema, "pg_catalog");
}

static void test_rows_tell_null_unchanged_and_empty_apart(void **state)
{
    (void)state;
    const char *const values[] = {"a", NULL, "", wire_unchanged};
    buf_reset(&wire);
    wire_insert(&wire, 7, 4, values);
    assert_int_equal(decode(), STATUS_OK);
    assert_int_equal(m.kind, PGOUTPUT_INSERT);
    assert_int_equal(m.u.change.relation_id, 7);
    assert_int_equal(m.u.change.old_kind, 0);
    assert_int_equal(m.u.change.new_tuple.n, 4);
    assert_text(m.u.change.new_tuple.values[0], "a");
    assert_int_equal(m.u.change.new_tuple.values[1].kind, VALUE_NULL);
    assert_text(m.u.change.new_tuple.values[2], "");
    assert_int_equal(m.u.change.new_tuple.values[3].kind, VALUE_UNCHANGED);
}

static void test_an_update_keeps_old_and_new_row_apart(void **state)
{
    (void)state;
    const char *const before[] = {"1", "old"};
    const char *const after[] = {"2", "new"};
    const char kinds[] = {'K', 'O'};
    for (size_t i = 0; i < sizeof(kinds); i++) {
        buf_reset(&wire);
        wire_update(&wire, 7, kinds[i], 2, before, after);
        assert_int_equal(decode(), STATUS_OK);
        assert_int_equal(m.kind, PGOUTPUT_UPDATE);
        assert_int_equal(m.u.change.old_kind, kinds[i]);
        assert_text(m.u.change.old_tuple.values[0], "1");
        assert_text(m.u.change.new_tuple.values[0], "2");
        assert_text(m.u.change.new_tuple.values[1], "new");
    }
    buf_reset(&wire);
    wire_update(&wire, 7, 0, 2, NULL, after);
    assert_int_equal(decode(), STATUS_OK);
    assert_int_equal(m.u.change.old_kind, 0);
    assert_int_equal(m.u.change.old_tuple.n, 0);
}

static void test_a_delete_has_only_an_old_row(void **state)
{
    (void)state;
    const char *const before[] = {"1", NULL};
    buf_reset(&wire);
    wire_delete(&wire, 7, 'K', 2, before);
    assert_int_equal(decode(), STATUS_OK);
    assert_int_equal(m.kind, PGOUTPUT_DELETE);
    assert_int_equal(m.u.change.old_kind, 'K');
    assert_text(m.u.change.old_tuple.values[0], "1");
    assert_int_equal(m.u.change.new_tuple.n, 0);
}

static void test_a_truncate_lists_its_relations(void **state)
{
    (void)state;
    const uint32_t ids[] = {16385, 16390, 16395};
    buf_reset(&wire);
    wire_truncate(&wire, 3, ids);
    assert_int_equal(decode(), STATUS_OK);
    assert_int_equal(m.kind, PGOUTPUT_TRUNCATE);
    assert_int_equal(m.u.truncate.n, 3);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(m.u.truncate.relation_ids[i], ids[i]);
}

static void test_messages_types_and_origins_are_read(void **state)
{
    (void)state;
    buf_reset(&wire);
    wire_message(&wire, true, 0x42, "prefix", "body");
    assert_int_equal(decode(), STATUS_OK);
    assert_int_equal(m.kind, PGOUTPUT_MESSAGE);
    assert_true(m.u.message.transactional);
    assert_true(str_equal(m.u.message.prefix, STR("prefix")));
    assert_true(str_equal(m.u.message.content, STR("body")));

    buf_reset(&wire);
    wire_u8(&wire, 'Y');
    wire_u32(&wire, 600);
    wire_cstring(&wire, "public");
    wire_cstring(&wire, "mood");
    assert_int_equal(decode(), STATUS_OK);
    assert_int_equal(m.kind, PGOUTPUT_TYPE);
    assert_true(str_equal(m.u.type.name, STR("mood")));

    buf_reset(&wire);
    wire_u8(&wire, 'O');
    wire_u64(&wire, 0x99);
    wire_cstring(&wire, "upstream");
    assert_int_equal(decode(), STATUS_OK);
    assert_int_equal(m.kind, PGOUTPUT_ORIGIN);
    assert_int_equal(m.u.origin.lsn, 0x99);
    assert_true(str_equal(m.u.origin.name, STR("upstream")));
}

/* One well-formed message of each kind. */
static void build(int kind)
{
    const char *const columns[] = {"*id", "content", NULL};
    const char *const before[] = {"1", NULL};
    const char *const after[] = {"22", "text"};
    const uint32_t ids[] = {16385, 16390};
    buf_reset(&wire);
    switch (kind) {
    case 0:
        wire_begin(&wire, 0x100, TIME_US);
        break;
    case 1:
        wire_commit(&wire, 0x100, 0x130, TIME_US);
        break;
    case 2:
        wire_relation(&wire, 16385, "public", "chat", columns);
        break;
    case 3:
        wire_insert(&wire, 16385, 2, after);
        break;
    case 4:
        wire_update(&wire, 16385, 'O', 2, before, after);
        break;
    case 5:
        wire_delete(&wire, 16385, 'K', 2, before);
        break;
    case 6:
        wire_truncate(&wire, 2, ids);
        break;
    case 7:
        wire_message(&wire, false, 0x42, "p", "body");
        break;
    default:
        wire_u8(&wire, 'Y');
        wire_u32(&wire, 600);
        wire_cstring(&wire, "public");
        wire_cstring(&wire, "mood");
        break;
    }
}

static void test_every_cut_and_every_extra_byte_is_refused(void **state)
{
    (void)state;
    for (int kind = 0; kind < 9; kind++) {
        build(kind);
        assert_int_equal(decode(), STATUS_OK);
        for (size_t len = 0; len < wire.len; len++) {
            char *exact = malloc(len ? len : 1);
            assert_non_null(exact);
            memcpy(exact, wire.data, len);
            assert_int_equal(pgoutput_decode(decoder, (struct str){exact, len}, &m, &err),
                             STATUS_PROTOCOL);
            free(exact);
        }
        wire_u8(&wire, 0);
        assert_int_equal(decode(), STATUS_PROTOCOL);
    }
}

static void test_unknown_types_and_kinds_are_refused(void **state)
{
    (void)state;
    const char *const values[] = {"x"};
    static const char known[] = "BCORYIUDTM";
    for (int type = 0; type < 256; type++) {
        if (type && strchr(known, type))
            continue;
        buf_reset(&wire);
        wire_u8(&wire, (uint8_t)type);
        wire_u64(&wire, 1);
        assert_int_equal(decode(), STATUS_PROTOCOL);
    }
    /* A kind of value, and a kind of row, that does not exist. */
    buf_reset(&wire);
    wire_insert(&wire, 1, 1, values);
    wire.data[8] = 'b';
    assert_int_equal(decode(), STATUS_PROTOCOL);
    assert_non_null(strstr(err.text, "binary"));
    wire.data[8] = 'x';
    assert_int_equal(decode(), STATUS_PROTOCOL);
    wire.data[8] = 't';
    assert_int_equal(decode(), STATUS_OK);
    wire.data[5] = 'K';
    assert_int_equal(decode(), STATUS_PROTOCOL);
}

static void test_lengths_that_lie_are_refused(void **state)
{
    (void)state;
    /* A text of 4 GB, a list of 4 billion relations, 65535 columns: in messages of a few bytes. */
    const char *const values[] = {"x"};
    buf_reset(&wire);
    wire_insert(&wire, 1, 1, values);
    memset(wire.data + 9, 0xFF, 4);
    assert_int_equal(decode(), STATUS_PROTOCOL);

    const uint32_t ids[] = {1};
    buf_reset(&wire);
    wire_truncate(&wire, 1, ids);
    memset(wire.data + 1, 0xFF, 4);
    assert_int_equal(decode(), STATUS_PROTOCOL);

    buf_reset(&wire);
    wire_insert(&wire, 1, 1, values);
    memset(wire.data + 6, 0xFF, 2);
    assert_int_equal(decode(), STATUS_PROTOCOL);

    const char *const columns[] = {NULL};
    buf_reset(&wire);
    wire_relation(&wire, 1, "s", "t", columns);
    memset(wire.data + wire.len - 2, 0xFF, 2);
    assert_int_equal(decode(), STATUS_PROTOCOL);
}

static void test_a_row_has_at_most_as_many_columns_as_a_table_can_have(void **state)
{
    (void)state;
    for (uint16_t n = PGOUTPUT_COLUMNS_MAX; n <= PGOUTPUT_COLUMNS_MAX + 1; n++) {
        buf_reset(&wire);
        wire_u8(&wire, 'I');
        wire_u32(&wire, 1);
        wire_u8(&wire, 'N');
        wire_u16(&wire, n);
        for (int i = 0; i < n; i++)
            wire_u8(&wire, 'n');
        assert_int_equal(decode(), n > PGOUTPUT_COLUMNS_MAX ? STATUS_PROTOCOL : STATUS_OK);
    }
    assert_int_equal(m.u.change.new_tuple.n, PGOUTPUT_COLUMNS_MAX);
}

static void test_names_of_64_bytes_are_refused(void **state)
{
    (void)state;
    char name[65];
    const char *const columns[] = {NULL};
    memset(name, 'n', sizeof(name));
    name[63] = '\0';
    buf_reset(&wire);
    wire_relation(&wire, 1, "s", name, columns);
    assert_int_equal(decode(), STATUS_OK);
    assert_string_equal(m.u.relation.name, name);
    name[63] = 'n';
    name[64] = '\0';
    buf_reset(&wire);
    wire_relation(&wire, 1, "s", name, columns);
    assert_int_equal(decode(), STATUS_PROTOCOL);
}

static void test_a_commit_must_end_behind_its_record(void **state)
{
    (void)state;
    buf_reset(&wire);
    wire_commit(&wire, 0x200, 0x200, TIME_US);
    assert_int_equal(decode(), STATUS_PROTOCOL);
    buf_reset(&wire);
    wire_commit(&wire, 0x200, 0x230, TIME_US);
    wire.data[1] = 1; /* flags */
    assert_int_equal(decode(), STATUS_PROTOCOL);
}

static void test_times_beyond_the_year_9999_are_refused(void **state)
{
    (void)state;
    buf_reset(&wire);
    wire_begin(&wire, 0x100, TIME_US);
    memset(wire.data + 9, 0xFF, 8);
    wire.data[9] = 0x7F;
    assert_int_equal(decode(), STATUS_PROTOCOL);
    buf_reset(&wire);
    wire_begin(&wire, 0x100, TIME_MAX_US + 1);
    assert_int_equal(decode(), STATUS_PROTOCOL);
}

static void test_frames_are_data_or_keepalive_and_nothing_else(void **state)
{
    (void)state;
    struct replication_frame f;
    buf_reset(&wire);
    wire_xlog_data(&wire, 0x777, TIME_US);
    wire_bytes(&wire, "payload", 7);
    assert_int_equal(replication_frame_decode(wire_str(&wire), &f, &err), STATUS_OK);
    assert_false(f.keepalive);
    assert_int_equal(f.start, 0x777);
    assert_int_equal(f.wal_end, 0x777);
    assert_int_equal(f.server_us, TIME_US);
    assert_true(str_equal(f.payload, STR("payload")));
    for (size_t len = 0; len < 25; len++)
        assert_int_equal(replication_frame_decode((struct str){wire.data, len}, &f, &err),
                         STATUS_PROTOCOL);

    buf_reset(&wire);
    wire_keepalive(&wire, 0x888, TIME_US, true);
    assert_int_equal(replication_frame_decode(wire_str(&wire), &f, &err), STATUS_OK);
    assert_true(f.keepalive);
    assert_true(f.reply_requested);
    assert_int_equal(f.wal_end, 0x888);
    for (size_t len = 0; len < wire.len; len++)
        assert_int_equal(replication_frame_decode((struct str){wire.data, len}, &f, &err),
                         STATUS_PROTOCOL);
    wire_u8(&wire, 0);
    assert_int_equal(replication_frame_decode(wire_str(&wire), &f, &err), STATUS_PROTOCOL);
    wire.data[0] = 'z';
    assert_int_equal(replication_frame_decode(wire_str(&wire), &f, &err), STATUS_PROTOCOL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_begin_and_commit_carry_lsns_and_unix_time),
        cmocka_unit_test(test_a_relation_lists_its_columns),
        cmocka_unit_test(test_an_empty_schema_name_means_pg_catalog),
        cmocka_unit_test(test_rows_tell_null_unchanged_and_empty_apart),
        cmocka_unit_test(test_an_update_keeps_old_and_new_row_apart),
        cmocka_unit_test(test_a_delete_has_only_an_old_row),
        cmocka_unit_test(test_a_truncate_lists_its_relations),
        cmocka_unit_test(test_messages_types_and_origins_are_read),
        cmocka_unit_test(test_every_cut_and_every_extra_byte_is_refused),
        cmocka_unit_test(test_unknown_types_and_kinds_are_refused),
        cmocka_unit_test(test_lengths_that_lie_are_refused),
        cmocka_unit_test(test_a_row_has_at_most_as_many_columns_as_a_table_can_have),
        cmocka_unit_test(test_names_of_64_bytes_are_refused),
        cmocka_unit_test(test_a_commit_must_end_behind_its_record),
        cmocka_unit_test(test_times_beyond_the_year_9999_are_refused),
        cmocka_unit_test(test_frames_are_data_or_keepalive_and_nothing_else),
    };
    return cmocka_run_group_tests_name("ingest/pgoutput", tests, setup, teardown);
}
