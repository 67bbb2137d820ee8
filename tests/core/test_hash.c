/* tests/core/test_hash.c - the hash gives the values that are already on disk. */
#include "core/hash.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

/* A change of any value re-partitions users and orphans stored ids: computed once, by an
 * independent program, from the definition in the header. */
static void test_the_values_are_durable(void **state)
{
    (void)state;
    assert_true(hash64(STR("")) == UINT64_C(0xefd01f60ba992926));
    assert_true(hash64(STR("a")) == UINT64_C(0x82a2a958a9bece5b));
    assert_true(hash64(STR("alice")) == UINT64_C(0x3507d047a67c08f4));
    assert_true(hash64(STR("caf\xC3\xA9")) == UINT64_C(0xf50b1f8e2c0682e6));
    assert_true(hash64(STR("a\0b")) == UINT64_C(0xab78f5eca36d0e2b));
    assert_true(hash64(STR("The quick brown fox jumps over the lazy dog")) ==
                UINT64_C(0x845b9fc148948e6b));
    assert_true(hash64_mix(UINT64_C(0x0)) == UINT64_C(0x0000000000000000));
    assert_true(hash64_mix(UINT64_C(0x1)) == UINT64_C(0xb456bcfc34c2cb2c));
    assert_true(hash64_mix(UINT64_C(0xffffffffffffffff)) == UINT64_C(0x64b5720b4b825f21));
}

/* The finaliser has no collisions by construction; spot-check that nearby inputs part. */
static void test_nearby_numbers_spread_over_partitions(void **state)
{
    (void)state;
    unsigned seen[64] = {0};
    for (int i = 0; i < 6400; i++) {
        char text[16];
        int n = snprintf(text, sizeof(text), "user-%d", i);
        seen[hash64((struct str){text, (size_t)n}) % 64]++;
    }
    /* 100 expected in each; the standard deviation is 10. */
    for (size_t p = 0; p < 64; p++)
        assert_in_range(seen[p], 50, 150);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_values_are_durable),
        cmocka_unit_test(test_nearby_numbers_spread_over_partitions),
    };
    return cmocka_run_group_tests_name("core/hash", tests, NULL, NULL);
}
