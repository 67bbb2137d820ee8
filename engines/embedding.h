/*
 * engines/embedding.h - from an embedding of any size to 64 signed bytes (ENGINES.md section 2).
 *
 * Up to 64 values are taken as they are; more are added up with signs into 64 sums, where four sums
 * and signs per value follow from the model's name and the size. The largest becomes +-127. What
 * comes out is durable.
 */
#pragma once

#include "core/event.h"
#include "engines/record.h"

/* model 0 when the message has none, or nothing but zeros. */
void embedding_take(const struct event_message *e, struct embedding *ret);
