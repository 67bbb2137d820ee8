/*
 * engines/oracle/topics.h - which segment and which topic each message belongs to, for the naive
 * engines that show topics. Private to the oracle.
 */
#pragma once

#include "core/limits.h"
#include "engines/oracle/view.h"

#include <stddef.h>

#define ORACLE_NO_TOPIC SIZE_MAX

struct oracle_topic {
    size_t run;
    size_t segment;
    size_t topic; /* number of its first segment, or ORACLE_NO_TOPIC */
    /* Only on the first message of a topic's first segment. */
    char label[LIMIT_LABEL_BYTES];
    size_t label_len;
};

/* ret has room for view->n_messages. NOMEM. */
MUST_CHECK enum status oracle_topics(const struct oracle_view *view, struct oracle_topic *ret);
