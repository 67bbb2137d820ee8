/*
 * tests/ingest/test_relation.c - the relation cache notices changes of content, and only those.
 */
#include "ingest/relation.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

static struct relation_column columns[PGOUTPUT_COLUMNS_MAX];

static struct relation make(uint32_t id, uint16_t n_columns)
{
    struct relation rel = {
        .id = id, .replica_identity = 'd', .n_columns = n_columns, .columns = columns};
    snprintf(rel.schema, sizeof(rel.schema), "public");
    snprintf(rel.name, sizeof(rel.name), "t%u", id);
    for (uint16_t i = 0; i < n_columns; i++) {
        columns[i] = (struct relation_column){.type_oid = 25, .type_modifier = -1};
        snprintf(columns[i].name, sizeof(columns[i].name), "c%u", i);
    }
    return rel;
}

static enum relation_change put(struct relation_cache *c, const struct relation *rel)
{
    enum relation_change change = RELATION_SAME;
    struct relation_entry *e = NULL;
    assert_int_equal(relation_cache_put(c, rel, &change, &e, NULL), STATUS_OK);
    assert_non_null(e);
    assert_int_equal(e->relation.id, rel->id);
    return change;
}

static void test_the_same_description_again_is_no_change(void **state)
{
    (void)state;
    CLEANUP(relation_cache_freep) struct relation_cache *c = NULL;
    assert_int_equal(relation_cache_new(&c, NULL), STATUS_OK);
    struct relation rel = make(5, 3);
    assert_int_equal(put(c, &rel), RELATION_NEW);
    rel = make(5, 3);
    assert_int_equal(put(c, &rel), RELATION_SAME);
    assert_int_equal(relation_cache_count(c), 1);
}

static void test_each_difference_in_content_is_a_change(void **state)
{
    (void)state;
    CLEANUP(relation_cache_freep) struct relation_cache *c = NULL;
    assert_int_equal(relation_cache_new(&c, NULL), STATUS_OK);
    struct relation rel = make(5, 3);
    put(c, &rel);
    rel = make(5, 4);
    assert_int_equal(put(c, &rel), RELATION_CHANGED);
    snprintf(columns[1].name, sizeof(columns[1].name), "renamed");
    assert_int_equal(put(c, &rel), RELATION_CHANGED);
    columns[2].type_oid = 23;
    assert_int_equal(put(c, &rel), RELATION_CHANGED);
    columns[2].type_modifier = 7;
    assert_int_equal(put(c, &rel), RELATION_CHANGED);
    columns[3].identity = true;
    assert_int_equal(put(c, &rel), RELATION_CHANGED);
    rel.replica_identity = 'f';
    assert_int_equal(put(c, &rel), RELATION_CHANGED);
    snprintf(rel.name, sizeof(rel.name), "moved");
    assert_int_equal(put(c, &rel), RELATION_CHANGED);
    assert_int_equal(put(c, &rel), RELATION_SAME);
}

static void test_a_change_forgets_the_binding(void **state)
{
    (void)state;
    CLEANUP(relation_cache_freep) struct relation_cache *c = NULL;
    static struct mapping_set set;
    enum relation_change change = RELATION_SAME;
    struct relation_entry *e = NULL;
    assert_int_equal(relation_cache_new(&c, NULL), STATUS_OK);
    struct relation rel = make(5, 3);
    assert_int_equal(relation_cache_put(c, &rel, &change, &e, NULL), STATUS_OK);
    set.n = 3;
    for (size_t i = 0; i < set.n; i++) {
        memcpy(set.tables[i].schema, rel.schema, sizeof(rel.schema));
        memcpy(set.tables[i].table, rel.name, sizeof(rel.name));
    }
    set.tables[1].table[0] = '\0';
    assert_int_equal(relation_bind(e, &set, NULL), STATUS_OK);
    assert_int_equal(relation_cache_put(c, &rel, &change, &e, NULL), STATUS_OK);
    assert_int_equal(e->n_bindings, 2);
    assert_ptr_equal(e->bindings[0].mapping, &set.tables[0]);
    assert_ptr_equal(e->bindings[1].mapping, &set.tables[2]);
    rel = make(5, 2);
    assert_int_equal(relation_cache_put(c, &rel, &change, &e, NULL), STATUS_OK);
    assert_int_equal(e->n_bindings, 0);
    snprintf(set.tables[2].only_if, sizeof(set.tables[2].only_if), "nowhere");
    assert_int_equal(relation_bind(e, &set, NULL), STATUS_INVALID);
    assert_int_equal(e->n_bindings, 0);
}

static void test_columns_are_copied_and_found_by_any_id(void **state)
{
    (void)state;
    CLEANUP(relation_cache_freep) struct relation_cache *c = NULL;
    assert_int_equal(relation_cache_new(&c, NULL), STATUS_OK);
    /* Inserted in an order that is neither rising nor falling. */
    for (uint32_t i = 0; i < 500; i++) {
        struct relation rel = make((i * 7919) % 1000003 + 1, 2);
        assert_int_equal(put(c, &rel), RELATION_NEW);
    }
    memset(columns, 0, sizeof(columns));
    for (uint32_t i = 0; i < 500; i++) {
        uint32_t id = (i * 7919) % 1000003 + 1;
        const struct relation_entry *e = relation_cache_find(c, id);
        assert_non_null(e);
        assert_int_equal(e->relation.id, id);
        assert_string_equal(e->relation.columns[1].name, "c1");
    }
    assert_null(relation_cache_find(c, 0));
    assert_null(relation_cache_find(c, UINT32_MAX));
    relation_cache_clear(c);
    assert_null(relation_cache_find(c, 1));
}

static void test_tables_and_columns_are_bounded(void **state)
{
    (void)state;
    CLEANUP(relation_cache_freep) struct relation_cache *c = NULL;
    enum relation_change change = RELATION_SAME;
    struct relation_entry *e = NULL;
    assert_int_equal(relation_cache_new(&c, NULL), STATUS_OK);
    for (uint32_t id = 1; id <= RELATIONS_MAX; id++) {
        struct relation rel = make(id, 0);
        put(c, &rel);
    }
    struct relation rel = make(RELATIONS_MAX + 1, 0);
    assert_int_equal(relation_cache_put(c, &rel, &change, &e, NULL), STATUS_LIMIT);
    rel = make(1, 1);
    assert_int_equal(put(c, &rel), RELATION_CHANGED); /* a known one still may change */

    relation_cache_clear(c);
    uint32_t wide = RELATION_COLUMNS_TOTAL / PGOUTPUT_COLUMNS_MAX;
    for (uint32_t id = 1; id <= wide; id++) {
        rel = make(id, PGOUTPUT_COLUMNS_MAX);
        put(c, &rel);
    }
    rel = make(wide + 1, PGOUTPUT_COLUMNS_MAX);
    assert_int_equal(relation_cache_put(c, &rel, &change, &e, NULL), STATUS_LIMIT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_same_description_again_is_no_change),
        cmocka_unit_test(test_each_difference_in_content_is_a_change),
        cmocka_unit_test(test_a_change_forgets_the_binding),
        cmocka_unit_test(test_columns_are_copied_and_found_by_any_id),
        cmocka_unit_test(test_tables_and_columns_are_bounded),
    };
    return cmocka_run_group_tests_name("ingest/relation", tests, NULL, NULL);
}
