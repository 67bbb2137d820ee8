/*
 * core/seen_mark.h - one value that was counted: what sources that are read again and again are
 * compared by (state/seen.h).
 */
#pragma once

#include <stdint.h>

struct seen_mark {
    uint64_t id;    /* hash of what it is the value of */
    uint64_t value; /* hash of the value */
    int64_t at_us;  /* its time: what is older than any reading goes back is forgotten */
};
