/* core/limits.h - every bound in one place: what is refused, cut or dead-lettered at which size. */
#pragma once

/* Identity */
#define LIMIT_ID_BYTES    512 /* message, memory, user and bot ids; longer ones are dead-lettered */
#define LIMIT_LABEL_BYTES 64  /* strings shown in rows are cut here, at a code point */
#define LIMIT_PARTITIONS  64  /* P: key groups, fixed when the state is created */
#define LIMIT_WORKERS     64  /* W never exceeds P */
#define LIMIT_TABLES      8   /* sink tables (cache tables of ENGINES.md) */
#define LIMIT_TRAITS      4   /* traits kept of one message */

/* Input */
#define LIMIT_CONTENT_BYTES \
    (1u << 20) /* text looked at per message; the rest is ignored and flagged */
#define LIMIT_TEXT_BYTES     (3u << 20)   /* content longer than this is dead-lettered */
#define LIMIT_EVENT_BYTES    (4u << 20)   /* one event in any form */
#define LIMIT_DELIVERY_BYTES (256u << 20) /* all events of one request, encoded */
#define LIMIT_EMBEDDING_DIMS 8192
#define LIMIT_FUTURE_US      (INT64_C(7) * 24 * 3600 * 1000000) /* beyond T + this: dead letter */

/* Pipeline */
#define LIMIT_FRAME_BYTES     (64u << 10) /* a frame is sent when it reaches this size ... */
#define LIMIT_FRAME_MAX_BYTES (8u << 20)  /* ... and one huge event may make it this large */
#define LIMIT_FRAME_DELAY_US  5000        /* ... or when its first event has waited this long */
#define LIMIT_CREDIT_BYTES    (8u << 20)  /* unacknowledged bytes per link */
#define LIMIT_COMMIT_EVENTS   1000        /* group commit: events ... */
#define LIMIT_COMMIT_US       200000      /* ... or time since the first one */

/* State */
#define LIMIT_MESSAGES           2048        /* message records per key */
#define LIMIT_MEMORIES           2048        /* memory records per key */
#define LIMIT_ACCESSES           4096        /* access records per key */
#define LIMIT_TOMBSTONES         512         /* deleted ids remembered per key */
#define LIMIT_KEY_BYTES          (4u << 20)  /* one encoded key page; a bot's own is the largest */
#define LIMIT_JOURNAL_BYTES      (64u << 20) /* unfolded journal per worker */
#define LIMIT_DEAD_LETTERS       10000       /* rows kept per worker; the oldest go first */
#define LIMIT_DEAD_LETTERS_BYTES (64u << 20) /* of all their texts per worker, likewise */
#define LIMIT_DEAD_LETTER_BYTES  (16u << 10) /* of the offending input kept per row */

/* Rows */
#define LIMIT_JSON_BYTES      8192         /* one JSONB column (ENGINES.md 1.8) */
#define LIMIT_ROW_BYTES       (512u << 10) /* all strings of one row */
#define LIMIT_DETAILS_BYTES   4096
#define LIMIT_SINK_BATCH_ROWS 500
#define LIMIT_NOTIFY_BYTES    7999 /* PostgreSQL refuses 8000 */

/* Metrics */
#define LIMIT_METRIC_SETS 128 /* sets of label values per family; beyond: "other" */

_Static_assert(LIMIT_WORKERS <= LIMIT_PARTITIONS, "a worker without a partition has no work");
_Static_assert(LIMIT_EVENT_BYTES < LIMIT_FRAME_MAX_BYTES, "every event must fit into one frame");
_Static_assert(LIMIT_TEXT_BYTES + (256u << 10) <= LIMIT_EVENT_BYTES,
               "an event is its text and some 100 KiB of other fields at their bounds");
_Static_assert(LIMIT_DETAILS_BYTES <= LIMIT_JSON_BYTES, "details is a JSONB column too");
