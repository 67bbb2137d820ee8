/*
 * tests/ingest/test_slot.c - what is asked of which server version, and what the answers mean.
 *
 * Goal: no statement names a column that the server lacks, and each way to lose a slot is explained
 * with the setting that prevents it. Method: pure; the real server is in test_preflight.c.
 */
#include "ingest/preflight_internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* The columns of pg_replication_slots by the version that brought them. */
static void test_each_version_is_asked_for_the_columns_it_has(void **state)
{
    static const struct {
        int since;
        const char *column;
    } columns[] = {
        {140000, "s.two_phase"},      {140000, "s.safe_wal_size"},
        {160000, "s.conflicting"},    {170000, "s.invalidation_reason"},
        {170000, "s.inactive_since"}, {170000, "s.failover"},
        {170000, "s.synced"},         {180000, "s.two_phase_at"},
    };
    (void)state;
    for (int version = 140000; version <= 180000; version += 10000) {
        char sql[SLOT_SQL_BYTES];
        preflight_slot_sql(version, sql);
        for (size_t i = 0; i < sizeof(columns) / sizeof(columns[0]); i++)
            if ((strstr(sql, columns[i].column) != NULL) != (version >= columns[i].since))
                fail_msg("%s for version %d: %s", columns[i].column, version, sql);
        /* 16 also calls a slot so that has lost its WAL on a primary. */
        assert_int_equal(strstr(sql, "s.conflicting AND pg_catalog.pg_is_in_recovery()") != NULL,
                         version == 160000);
    }
}

static void assert_lost(const struct slot_info *s, const char *why)
{
    char text[SLOT_LOSS_BYTES];
    assert_true(preflight_slot_lost(s, text));
    if (!strstr(text, why))
        fail_msg("\"%s\" does not say \"%s\"", text, why);
}

static void test_a_lost_slot_is_explained_with_the_setting_to_change(void **state)
{
    (void)state;
    char text[SLOT_LOSS_BYTES];
    struct slot_info s = {.wal_status = "unreserved", .keep_bytes_max = 64 << 20};
    assert_false(preflight_slot_lost(&s, text));
    snprintf(s.wal_status, sizeof(s.wal_status), "%s", "lost"); /* all that 14 and 15 say */
    assert_lost(&s, "(now 64 MB): raise max_slot_wal_keep_size");
    s.conflicting = true; /* 16: on a standby */
    assert_lost(&s, "hot_standby_feedback");
    snprintf(s.invalidation, sizeof(s.invalidation), "%s",
             "wal_removed"); /* 17: says it by itself */
    assert_lost(&s, "max_slot_wal_keep_size");
    snprintf(s.invalidation, sizeof(s.invalidation), "%s", "wal_level_insufficient");
    assert_lost(&s, "wal_level = logical");
    snprintf(s.invalidation, sizeof(s.invalidation), "%s", "rows_removed");
    assert_lost(&s, "hot_standby_feedback");
    s.idle_timeout_s = 90; /* 18 */
    snprintf(s.invalidation, sizeof(s.invalidation), "%s", "idle_timeout");
    assert_lost(&s, "(now 90 s): raise idle_replication_slot_timeout");
    snprintf(s.invalidation, sizeof(s.invalidation), "%s", "of a later version");
    assert_lost(&s, "invalidated: of a later version");
}

static void test_a_list_that_is_quoted_as_a_whole_has_one_name(void **state)
{
    (void)state;
    assert_true(preflight_list_has("pgoutput, test_decoding", "pgoutput"));
    assert_true(preflight_list_has("test_decoding,pgoutput", "pgoutput"));
    assert_true(preflight_list_has("test_decoding, \"pgoutput\"", "pgoutput"));
    assert_false(preflight_list_has("\"pgoutput, test_decoding\"", "pgoutput"));
    assert_false(preflight_list_has("\"test_decoding, pgoutput\"", "pgoutput"));
    assert_false(preflight_list_has("my_pgoutput, pgoutput2", "pgoutput"));
    assert_false(preflight_list_has("", "pgoutput"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_version_is_asked_for_the_columns_it_has),
        cmocka_unit_test(test_a_lost_slot_is_explained_with_the_setting_to_change),
        cmocka_unit_test(test_a_list_that_is_quoted_as_a_whole_has_one_name),
    };
    return cmocka_run_group_tests_name("ingest/slot", tests, NULL, NULL);
}
