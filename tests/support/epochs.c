#include "tests/support/epochs.h"

#include <stdlib.h>
#include <string.h>

void test_epochs_reach(struct test_epochs *e, int64_t as_of_us)
{
    int32_t day = kernel_day(as_of_us);
    if (day <= e->day)
        return;
    if (e->day && !epoch_sums_empty(&e->sums)) {
        struct epoch *closed = NULL;
        const struct epoch *before = epoch_at(&e->list, INT32_MAX);
        if (epoch_close(before, &e->sums, day, &closed) || epoch_list_add(&e->list, closed))
            abort();
        memset(&e->sums, 0, sizeof(e->sums));
    }
    e->day = day;
}

void test_epochs_learn(struct test_epochs *e, const struct key_change *change)
{
    epoch_sums_add(&e->sums, &change->delta);
}

void test_epochs_deinit(struct test_epochs *e)
{
    epoch_list_deinit(&e->list);
    memset(e, 0, sizeof(*e));
}
