/*
 * tests/support/epochs.h - the daily epochs of one bot, closed as the pipeline closes them: at the
 * first event whose T lies in a new day, from what the keys learned until then.
 */
#pragma once

#include "engines/epoch.h"
#include "engines/key.h"

struct test_epochs {
    struct epoch_list list; /* give this to the keys and to the oracle */
    struct epoch_sums sums; /* of the running day */
    int32_t day;            /* that T lies in; 0: nothing seen yet */
};

/* Before the event with this T is looked at. Aborts when memory runs out. */
void test_epochs_reach(struct test_epochs *e, int64_t as_of_us);
void test_epochs_learn(struct test_epochs *e, const struct key_change *change);
void test_epochs_deinit(struct test_epochs *e);
