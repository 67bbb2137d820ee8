/*
 * server/config.h - the configuration of one process: a YAML file, the environment, the flags.
 *
 * One schema table (config_schema.c) drives everything: validation with line and column, the
 * defaults, the environment names, --print-config, docs/CONFIG.md and the man page. Precedence:
 * `--set path=value` > environment > file > default. The YAML is a plain subset: no anchors,
 * aliases, tags or duplicate keys, at most CONFIG_DEPTH_MAX levels and CONFIG_FILE_BYTES bytes.
 * Durations and sizes need a unit (5s, 200ms, 64MiB). A string may contain ${NAME} (environment),
 * ${file:PATH} (content of a file without its last newline) and ${credential:NAME}
 * ($CREDENTIALS_DIRECTORY/NAME); "$$" is a dollar sign.
 *
 * Ownership: config_load() gives one block of plain values, config_free() releases it; it is read
 * only afterwards and may be shared by threads. Units: microseconds and bytes.
 */
#pragma once

#include "core/buf.h"
#include "core/cleanup.h"
#include "core/limits.h"
#include "core/log.h"
#include "core/status.h"
#include "engines/engine.h"
#include "ingest/mapping.h"
#include "server/config_door.h"
#include "server/config_feed.h"
#include "state/sink.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CONFIG_DEPTH_MAX      16
#define CONFIG_FILE_BYTES     (1u << 20)
#define CONFIG_CONNINFO_BYTES ((size_t)2048)
#define CONFIG_PATH_BYTES     1024
#define CONFIG_TRIGGERS_MAX   1024 /* entries of triggers and triggers_by_bot together */
#define CONFIG_PROBLEM_BYTES  (64u << 10)

enum config_snapshot { SNAPSHOT_INITIAL, SNAPSHOT_NEVER };
enum config_on_slot_lost { ON_SLOT_LOST_STOP, ON_SLOT_LOST_REBUILD };

/* What the file changes of one engine's trigger_policy, for all bots or for one. */
struct config_trigger {
    const struct engine_ops *engine;
    char bot[LIMIT_ID_BYTES + 1]; /* normalised; "" = every bot */
    uint32_t set;                 /* bit per member of policy that was given, in schema order */
    struct trigger_policy policy;
};

struct config_redis {
    char url[CONFIG_URL_BYTES];         /* "" = no Redis layer */
    char password[CONFIG_SECRET_BYTES]; /* secret: never log it */
    char prefix[64];
    int64_t ttl_us;
};

struct config {
    char file[CONFIG_PATH_BYTES]; /* "" when no file was read */

    char pipeline[64]; /* name of the lease, epoch and progress rows */

    char source_conninfo[CONFIG_CONNINFO_BYTES]; /* secret: never log it */
    char slot[64];
    char publication[64];
    bool create; /* create publication and slot when missing */
    enum config_on_slot_lost on_slot_lost;
    int64_t source_silence_us; /* of the server, until the connection counts as lost */
    int64_t heartbeat_us;      /* 0 = none */
    bool failover;             /* make the slot so that standbys keep it */
    enum config_snapshot snapshot;
    int64_t snapshot_window_us; /* older messages and metrics are left out of it */
    int64_t snapshot_jobs;      /* parts of a large table that are read at once */
    struct mapping_set mappings;

    char sink_conninfo[CONFIG_CONNINFO_BYTES]; /* secret; filled from source_conninfo when not given
                                                */
    int64_t ttl_us;
    enum ttl_mode ttl_mode;
    int64_t keep_us; /* rows that expired longer ago are deleted; 0 = never */
    int64_t sink_silence_us;

    char state_dir[CONFIG_PATH_BYTES];
    int64_t memory_bytes;   /* LRU budget for keys, over all workers */
    int64_t workers_wanted; /* as given, 0 = one per core: see config_workers() */

    char link_url[256]; /* "inproc", "ipc" or "tcp://127.0.0.1:PORT" */

    int64_t catch_up_lag_us; /* beyond this lag only max_age triggers */
    enum log_level log_level;

    size_t n_triggers;
    struct config_trigger *triggers; /* owned */

    struct config_http http;
    struct config_inbox inbox;
    size_t n_webhooks;
    struct config_webhook *webhooks; /* owned */
    struct config_influx influx;
    size_t n_qdrant;
    struct config_qdrant *qdrant; /* owned */
    struct config_feed feed;

    struct config_redis redis;

    unsigned long secret_line; /* of the file: where it holds a secret itself, 0 = nowhere */

    struct config_origin *origins; /* owned: where each value came from, for --print-config */
};

/* What to read, and what the caller needs of it. */
struct config_input {
    const char *file; /* NULL: $WARMPATH_CONFIG, ./warmpath.yaml, /etc/warmpath/warmpath.yaml */
    const char *const *sets; /* n_sets of "path=value", strongest */
    size_t n_sets;
    bool need_source; /* source.conninfo must be known */
    bool need_tables; /* at least one mapped table */
    bool need_sink;   /* sink.conninfo must be known */
};

/*
 * INVALID: problems holds one line per problem, "file:line:col: path: message". IO: the file could
 * not be read (it was named, or need_tables and none of the usual ones exists).
 */
MUST_CHECK enum status config_load(const struct config_input *in, struct config **ret,
                                   struct buf *problems, struct error *err);
/* The same from text, for tests and the fuzzer; name stands for the file in problems. */
MUST_CHECK enum status config_parse(struct str yaml, const char *name,
                                    const struct config_input *in, struct config **ret,
                                    struct buf *problems, struct error *err);
void config_free(struct config *c); /* NULL is a no-op */
CLEANUP_FREEP(struct config, config_free);

/* Effective number of workers: 1..LIMIT_WORKERS. */
uint32_t config_workers(const struct config *c);

/* The policy of one engine for keys of one bot: the engine's own, overridden by `triggers`,
 * overridden by `triggers_by_bot`. bot must be normalised. */
struct trigger_policy config_trigger(const struct config *c, const struct engine_ops *engine,
                                     struct str bot);

/* The whole effective configuration as YAML that loads to the same values (secrets, and passwords
 * inside conninfos, are replaced by ****), each value with its origin as a comment. */
/* The mapping of the source's tables alone: the same text for what means the same. */
MUST_CHECK enum status config_print_mappings(const struct config *c, struct buf *out);
MUST_CHECK enum status config_print(const struct config *c, struct buf *out, struct error *err);
/* docs/CONFIG.md: every path of the schema. */
MUST_CHECK enum status config_print_schema(struct buf *out, struct error *err);

/* "200ms", "1m30s": a duration as in the file, for options that take one. */
MUST_CHECK enum status config_duration_parse(struct str text, int64_t *ret_us, struct error *err);

/* A conninfo or URI that may be shown: passwords replaced by ****. */
MUST_CHECK enum status config_mask_conninfo(const char *conninfo, struct buf *out);
