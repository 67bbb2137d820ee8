/*
 * server/dlq_retry.h - a dead letter as a delivery of the inbox, so that it is tried once more.
 *
 * That can be done with what is kept whole: an event that a worker has refused, and an element of a
 * webhook's body, which is read anew by the configuration of today. The delivery's id is that of
 * the letter, and the events have the ids they always had: whatever is done twice counts once.
 */
#pragma once

#include "server/config.h"
#include "state/store.h"

#define DLQ_ID_BYTES 64

/* "postgres:16/B374D848:256": where the input was, which stays the same while letters come and go.
 */
void dlq_id(const struct store_dead_letter *d, char out[DLQ_ID_BYTES]);

/* Durable in the inbox of cfg->state_dir when it returns OK. INVALID: it cannot be tried again; the
 * text says why and what to do. *made: there was no inbox before, so that a process which already
 * runs will read it only after its next start. */
MUST_CHECK enum status dlq_retry(const struct config *cfg, const struct store_dead_letter *d,
                                 bool *made, struct error *err);
