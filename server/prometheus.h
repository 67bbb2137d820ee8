/*
 * server/prometheus.h - /metrics: everything of core/counters.h and core/metrics.h and what the
 * kernel knows of the process, as text.
 *
 * Two forms: the text format 0.0.4, and OpenMetrics 1.0.0 for who asks for it by Accept. A family
 * comes once and in one piece; a figure that is not known is left out, never 0.
 */
#pragma once

#include "core/buf.h"
#include "core/metrics.h"
#include "core/status.h"

#include <stdbool.h>

#define PROMETHEUS_PREFIX     "warmpath_"
#define PROMETHEUS_PAGE_BYTES ((size_t)4 << 20)

enum prometheus_format { PROMETHEUS_TEXT, PROMETHEUS_OPENMETRICS };

/* What an Accept header asks for, STR_NULL = none: OpenMetrics when it is named with a version we
 * speak (or none), and with no smaller q than text/plain. */
enum prometheus_format prometheus_negotiate(struct str accept);
/* The Content-Type of a page. */
const char *prometheus_content_type(enum prometheus_format format);
/* Appends the page. LIMIT, NOMEM. */
MUST_CHECK enum status prometheus_page(enum prometheus_format format, struct buf *out,
                                       struct error *err);

/* Calls fn for every family there can be, in the order of the page: for docs/METRICS.md. name is
 * that of a sample in the text format, with prefix and suffix; labels "a, b", "" = none. */
void prometheus_families(void (*fn)(void *ctx, const char *name, enum metric_kind kind,
                                    const char *labels, const char *help),
                         void *ctx);
