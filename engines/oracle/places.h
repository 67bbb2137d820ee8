/*
 * engines/oracle/places.h - which run, session and segment each message belongs to, counted
 * naively: for each message every feature from scratch. Shares with engines/segment.c only the
 * formula of switch_model.h. Private to the oracle.
 */
#pragma once

#include "engines/oracle/view.h"

#include <stddef.h>
#include <stdint.h>

struct oracle_place {
    size_t run; /* these number runs, sessions and segments from 0 in order of time */
    size_t session;
    size_t segment;
    size_t position;   /* in its session */
    uint32_t p;        /* p_switch; 0 for the first of a session */
    bool by_embedding; /* it came from the embedding, too */
};

/* ret has room for view->n_messages. */
void oracle_places(const struct oracle_view *view, struct oracle_place *ret);
