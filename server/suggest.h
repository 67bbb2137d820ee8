/* server/suggest.h - "did you mean": the offered name nearest to what was typed. */
#pragma once

#include "core/buf.h"

struct suggest {
    struct str given;
    struct str best; /* borrowed from the offers */
    size_t distance;
};

struct suggest suggest_for(struct str given);
void suggest_offer(struct suggest *s, struct str name);
/* STR_NULL when nothing is near enough to be meant. */
struct str suggest_result(const struct suggest *s);
