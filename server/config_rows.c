/* server/config_rows.c - the schema itself: every key, its type, bounds, default and meaning. */
#include "core/clock.h"
#include "server/config_schema.h"

#define MEMBER(type, member) offsetof(type, member), sizeof(((type *)0)->member)
#define ROOT(member)         SCOPE_ROOT, MEMBER(struct config, member)
#define TABLE(member)        SCOPE_TABLE, MEMBER(struct mapping, member)
#define FIELD(member)        SCOPE_FIELD, MEMBER(struct mapping_source, member)
#define TRIGGER(member)      SCOPE_TRIGGER, MEMBER(struct trigger_policy, member)
#define WEBHOOK(member)      SCOPE_WEBHOOK, MEMBER(struct config_webhook, member)
#define KEY(member)          SCOPE_SECRET, MEMBER(struct config_secret, member)
#define QDRANT(member)       SCOPE_QDRANT, MEMBER(struct config_qdrant, member)
#define FEED(member)         SCOPE_FEED, MEMBER(struct config_feed_webhook, member)

#define YEAR_US (365 * US_PER_DAY)

static const struct config_choice on_slot_lost_choices[] = {
    {"stop", ON_SLOT_LOST_STOP}, {"rebuild", ON_SLOT_LOST_REBUILD}, {NULL, 0}};
static const struct config_choice snapshot_choices[] = {
    {"initial", SNAPSHOT_INITIAL}, {"never", SNAPSHOT_NEVER}, {NULL, 0}};
static const struct config_choice ttl_mode_choices[] = {
    {"strict", TTL_STRICT}, {"validity", TTL_VALIDITY}, {NULL, 0}};
static const struct config_choice level_choices[] = {
    {"error", LOG_ERROR}, {"warn", LOG_WARN}, {"info", LOG_INFO}, {"debug", LOG_DEBUG}, {NULL, 0}};
static const struct config_choice event_choices[] = {{"message", EVENT_MESSAGE},
                                                     {"memory", EVENT_MEMORY},
                                                     {"metric", EVENT_METRIC},
                                                     {"outreach", EVENT_OUTREACH},
                                                     {"character", EVENT_CHARACTER},
                                                     {"privacy", EVENT_PRIVACY},
                                                     {NULL, 0}};
static const struct config_choice on_truncate_choices[] = {{"dead_letter", TRUNCATE_DEAD_LETTER},
                                                           {"ignore", TRUNCATE_IGNORE},
                                                           {"rebuild", TRUNCATE_REBUILD},
                                                           {"stop", TRUNCATE_STOP},
                                                           {NULL, 0}};
static const struct config_choice unit_choices[] = {{"timestamp", TIME_TIMESTAMP},
                                                    {"naive_utc", TIME_NAIVE_UTC},
                                                    {"epoch_s", TIME_EPOCH_S},
                                                    {"epoch_ms", TIME_EPOCH_MS},
                                                    {"epoch_us", TIME_EPOCH_US},
                                                    {"epoch_ns", TIME_EPOCH_NS},
                                                    {NULL, 0}};

static const struct config_choice preset_choices[] = {{"warmpath", WEBHOOK_WARMPATH},
                                                      {"standard", WEBHOOK_STANDARD},
                                                      {"github", WEBHOOK_GITHUB},
                                                      {"stripe", WEBHOOK_STRIPE},
                                                      {"slack", WEBHOOK_SLACK},
                                                      {"discord", WEBHOOK_DISCORD},
                                                      {"telegram", WEBHOOK_TELEGRAM},
                                                      {"supabase", WEBHOOK_SUPABASE},
                                                      {"sequin", WEBHOOK_SEQUIN},
                                                      {"json", WEBHOOK_JSON},
                                                      {NULL, 0}};
static const struct config_choice verify_choices[] = {
    {"standard-webhooks", SIGNATURE_STANDARD_WEBHOOKS},
    {"hmac-body", SIGNATURE_HMAC_BODY},
    {"hmac-ts-stripe", SIGNATURE_HMAC_TS_STRIPE},
    {"hmac-ts-slack", SIGNATURE_HMAC_TS_SLACK},
    {"ed25519-ts", SIGNATURE_ED25519_TS},
    {"shared-secret", SIGNATURE_SHARED_SECRET},
    {NULL, 0}};
static const struct config_choice qdrant_mode_choices[] = {
    {"auto", QDRANT_AUTO}, {"order_by", QDRANT_ORDER_BY}, {"scroll", QDRANT_SCROLL}, {NULL, 0}};

/* The same members for all bots and for one. */
#define TRIGGER_ROWS(prefix)                                                                         \
    {prefix ".count", CONFIG_INT,                                                                    \
     TRIGGER(count),  .min = 0,                                                                      \
     .max = 1000000,  .help = "refresh after this many new events; 0 = never for this reason"},      \
        {prefix ".max_age",   CONFIG_DURATION,                                                       \
         TRIGGER(max_age_us), .min = 0,                                                              \
         .max = YEAR_US,      .help = "refresh this long after the first event not yet shown"},      \
        {prefix ".idle",   CONFIG_DURATION,                                                          \
         TRIGGER(idle_us), .min = 0,                                                                 \
         .max = YEAR_US,   .help = "refresh when the conversation has been quiet for this long"},    \
        {prefix ".min_interval",   CONFIG_DURATION,                                                  \
         TRIGGER(min_interval_us), .min = 0,                                                         \
         .max = YEAR_US,           .help = "never refresh for count or idle more often than this"},  \
        {prefix ".refresh",   CONFIG_DURATION,                                                       \
         TRIGGER(refresh_us), .min = 0,                                                              \
         .max = YEAR_US,      .help = "renew the row of a warm key at this age, before it expires"}, \
        {prefix ".refresh_jitter",                                                                   \
         CONFIG_DURATION,                                                                            \
         TRIGGER(refresh_jitter_us),                                                                 \
         .min = 0,                                                                                   \
         .max = YEAR_US,                                                                             \
         .help = "spread renewals by up to this much"},                                              \
        {prefix ".warm",                                                                             \
         CONFIG_DURATION,                                                                            \
         TRIGGER(warm_us),                                                                           \
         .min = 0,                                                                                   \
         .max = YEAR_US,                                                                             \
         .help = "a key is warm, and its row kept alive, this long after its last event"},           \
    {                                                                                                \
        prefix ".recent", CONFIG_DURATION, TRIGGER(recent_us),                                       \
            .min = 0, .max = YEAR_US,                                                                \
            .help =                                                                                  \
                "for this long after its last event, a row is renewed when what it says ceases "     \
                "to hold and before the user is likely to return; 0 = never for this reason"         \
    }

/* The same members for the tables of the source and for the rows of a webhook. */
#define TABLE_ROWS(prefix)                                                                         \
    {prefix ".relation", CONFIG_RELATION, TABLE(table), .help = "table to read, schema.table"},    \
        {prefix ".event", CONFIG_ENUM, TABLE(type), .choices = event_choices,                      \
         .help = "what a row of the table is"},                                                    \
        {prefix ".on_truncate",                                                                    \
         CONFIG_ENUM,                                                                              \
         TABLE(on_truncate),                                                                       \
         "dead_letter",                                                                            \
         .choices = on_truncate_choices,                                                           \
         .help = "what a TRUNCATE does, which does not say which rows went: be kept as a dead "    \
                 "letter, "                                                                        \
                 "nothing, read the tables again, or stop reading until this setting is changed"}, \
        {prefix ".soft_delete", CONFIG_STRING, TABLE(soft_delete),                                 \
         .help = "a row whose value in this column is not NULL, false or 0 counts as deleted"},    \
        {prefix ".only_if", CONFIG_STRING, TABLE(only_if),                                         \
         .help = "a row counts only while its value in this column is not NULL, false or 0"},      \
        {prefix ".counter", CONFIG_STRING, TABLE(counter),                                         \
         .help =                                                                                   \
             "memory accesses: each step by which this column grows is one, at most 64 at once"},  \
        {prefix ".fields.*", CONFIG_STRING, FIELD(column),                                         \
         .help = "short form: the column that holds this field. A list: the first of its "         \
                 "elements that "                                                                  \
                 "has a value"},                                                                   \
        {prefix ".fields.*.column", CONFIG_STRING, FIELD(column),                                  \
         .help = "the column that holds this field"},                                              \
        {prefix ".fields.*.path", CONFIG_STRING, FIELD(path),                                      \
         .help = "member names, joined by dots, inside the JSON value of the column"},             \
        {prefix ".fields.*.const", CONFIG_STRING, FIELD(constant),                                 \
         .help = "the same text for every row, instead of a column"},                              \
        {prefix ".fields.*.template", CONFIG_STRING, FIELD(template),                              \
         .help = "text with the names of columns in braces, as in \"{id}:u\"; `{{` is a brace"},   \
        {prefix ".fields.*.unit", CONFIG_ENUM,                                                     \
         FIELD(time_unit),        "timestamp",                                                     \
         .choices = unit_choices, .help = "how `at` is stored"},                                   \
        {prefix ".fields.*.zone", CONFIG_STRING, FIELD(zone),                                      \
         .help = "zone of an `at` without one: `UTC` or an offset like `+02:00`"},                 \
        {prefix ".fields.*.plus", CONFIG_DURATION,        FIELD(plus_us), "0s", .min = 0,          \
         .max = US_PER_DAY,       .help = "added to `at`"},                                        \
        {prefix ".fields.*.map.*", CONFIG_MAP, FIELD(enum_map),                                    \
         .help = "value in the column: meaning; \"\" ignores the row. A value not listed is kept " \
                 "as a "                                                                           \
                 "dead letter"},                                                                   \
        {prefix ".fields.*.ignore", CONFIG_MAP, FIELD(enum_map),                                   \
         .help = "value, or list of values, whose rows are ignored"},                              \
    {                                                                                              \
        prefix ".fields.*.default", CONFIG_STRING, FIELD(default_to),                              \
            .help = "what values that the map does not list mean; \"\" ignores the row"            \
    }

/* The same members for every endpoint. */
#define SECRET_ROWS(prefix)                                                                    \
    {prefix ".id", CONFIG_STRING, KEY(id), .name = NAME_SOURCE,                                \
     .help = "name of the secret in the log and the metrics; its number when not given"},      \
        {prefix ".value", CONFIG_STRING, KEY(value), .secrecy = SECRET,                        \
         .help = "the secret, better as ${file:PATH} or ${credential:NAME}; a public key for " \
                 "ed25519-ts. Every one of the list that is still valid is tried"},            \
    {                                                                                          \
        prefix ".not_after", CONFIG_TIME, KEY(not_after_us),                                   \
            .help = "the secret is refused from this time on, as in 2026-12-31T00:00:00Z"      \
    }

const struct config_row config_rows[] = {
    {"pipeline", CONFIG_STRING, ROOT(pipeline), "default", .name = NAME_SLOT,
     .help = "name of this pipeline's lease, epoch and progress rows; one process runs it"},

    {"source.conninfo", CONFIG_STRING, ROOT(source_conninfo), .env = "DATABASE_URL",
     .secrecy = CONNINFO,
     .help = "connection string or URI of the database with the application's tables; "
             "passwords are better left to PGPASSFILE or ${file:PATH}"},
    {"source.slot", CONFIG_STRING, ROOT(slot), "warmpath", .name = NAME_SLOT,
     .help = "logical replication slot"},
    {"source.publication", CONFIG_STRING, ROOT(publication), "warmpath", .name = NAME_SLOT,
     .help = "publication of the mapped tables"},
    {"source.create", CONFIG_BOOL, ROOT(create), "true",
     .help = "create the publication and the slot when they are missing"},
    {"source.on_slot_lost", CONFIG_ENUM, ROOT(on_slot_lost), "stop",
     .choices = on_slot_lost_choices,
     .help = "what to do when the slot is lost, or no longer fits the state"},
    {"source.silence", CONFIG_DURATION, ROOT(source_silence_us), "60s", .min = US_PER_SECOND / 10,
     .max = US_PER_HOUR,
     .help =
         "ask a server that has sent nothing for this long for a sign of life, and connect anew "
         "when none comes within half of it"},
    {"source.heartbeat", CONFIG_DURATION, ROOT(heartbeat_us), "0s", .min = 0, .max = YEAR_US,
     .help = "send a tiny logical message through the slot so often, and show in `status` how long "
             "it takes to become durable; 0s = never"},
    {"source.failover", CONFIG_BOOL, ROOT(failover), "true",
     .help = "make the slot so that standbys keep it, for a failover (PostgreSQL 17 or later)"},
    {"source.snapshot", CONFIG_ENUM, ROOT(snapshot), "initial", .choices = snapshot_choices,
     .help = "whether the first start reads the rows that are there already"},
    {"source.snapshot_window", CONFIG_DURATION, ROOT(snapshot_window_us), "30d",
     .min = US_PER_MINUTE, .max = 100 * YEAR_US,
     .help = "how old messages and metrics may be to be read by the snapshot; everything else is "
             "read whole"},
    {"source.snapshot_jobs", CONFIG_INT, ROOT(snapshot_jobs), "2", .min = 1, .max = 8,
     .help = "connections that read one large table during the snapshot"},

    TABLE_ROWS("source.tables[]"),

    {"sink.conninfo", CONFIG_STRING, ROOT(sink_conninfo), .secrecy = CONNINFO,
     .help = "database with the cache tables; the source's when not given"},
    {"sink.ttl", CONFIG_DURATION, ROOT(ttl_us), "5m", .min = US_PER_SECOND, .max = YEAR_US,
     .help = "expires_at = computed_at + ttl"},
    {"sink.ttl_mode", CONFIG_ENUM, ROOT(ttl_mode), "strict", .choices = ttl_mode_choices,
     .help =
         "strict: as sink.ttl says; validity: expires_at is valid_until where that is later, for "
         "readers that look at expires_at alone"},
    {"sink.keep", CONFIG_DURATION, ROOT(keep_us), "37d", .min = 0, .max = 100 * YEAR_US,
     .help = "rows that expired longer ago than this are deleted; 0 = never"},
    {"sink.silence", CONFIG_DURATION, ROOT(sink_silence_us), "60s", .min = US_PER_SECOND / 10,
     .max = US_PER_HOUR, .help = "connect anew when a transaction gets no answer for this long"},

    {"state.dir", CONFIG_STRING, ROOT(state_dir), "./var/state",
     .help = "directory of the durable state, used by one process"},
    {"state.memory", CONFIG_SIZE, ROOT(memory_bytes), "160MiB", .min = 1 << 20,
     .max = INT64_C(1) << 44,
     .help = "memory for the keys of all workers; the least recently used are paged out"},
    {"state.workers", CONFIG_INT, ROOT(workers_wanted), "0", .min = 0, .max = LIMIT_WORKERS,
     .help = "partition workers; 0 = one per processor core"},

    {"link.url", CONFIG_STRING, ROOT(link_url), "inproc",
     .help = "links between reader and workers: inproc, ipc, or tcp://HOST:PORT"},

    {"http.listen", CONFIG_STRING, ROOT(http.listen), "",
     .help = "address of the public listener, as 127.0.0.1:8080, [::1]:8080 or unix:/PATH: "
             "/webhooks/NAME, /write, /api/v2/write; \"\" = none"},
    {"http.private", CONFIG_STRING, ROOT(http.private_listen), "",
     .help = "address of the private listener: /livez, /readyz, /metrics; loopback or a unix "
             "socket; \"\" = none"},
    {"http.behind_proxy", CONFIG_BOOL, ROOT(http.behind_proxy), "false",
     .help = "a proxy in front ends TLS"},
    {"http.trusted_proxies", CONFIG_STRING, ROOT(http.trusted_proxies), "",
     .help = "addresses or networks whose X-Forwarded-For names the client, separated by commas"},
    {"http.insecure_plain", CONFIG_BOOL, ROOT(http.insecure_plain), "false",
     .help = "listen beyond loopback without TLS and without a proxy"},
    {"http.tls_cert", CONFIG_STRING, ROOT(http.tls_cert), "",
     .help = "PEM file with the certificate and its chain; read again on SIGHUP"},
    {"http.tls_key", CONFIG_STRING, ROOT(http.tls_key), "",
     .help = "PEM file with the certificate's key; read again on SIGHUP"},
    {"http.connections", CONFIG_INT, ROOT(http.connections), "1024", .min = 1, .max = 100000,
     .help = "connections at once; more are closed"},
    {"http.connections_per_address", CONFIG_INT, ROOT(http.connections_per_address), "256",
     .min = 1, .max = 100000,
     .help = "connections at once from one address; not counted behind a proxy"},
    {"http.threads", CONFIG_INT, ROOT(http.threads), "2", .min = 1, .max = 64,
     .help = "threads of the public listener"},
    {"http.header_timeout", CONFIG_DURATION, ROOT(http.header_timeout_us), "10s",
     .min = US_PER_SECOND, .max = US_PER_HOUR, .help = "all headers of a request must be there"},
    {"http.body_timeout", CONFIG_DURATION, ROOT(http.body_timeout_us), "30s", .min = US_PER_SECOND,
     .max = US_PER_HOUR, .help = "the whole body must be there"},
    {"http.idle_timeout", CONFIG_DURATION, ROOT(http.idle_timeout_us), "60s", .min = US_PER_SECOND,
     .max = US_PER_HOUR, .help = "a connection between two requests is closed"},
    {"http.answer_timeout", CONFIG_DURATION, ROOT(http.answer_timeout_us), "2s",
     .min = US_PER_SECOND / 10, .max = US_PER_MINUTE,
     .help = "a request that cannot be stored by then is answered 503; Slack and Discord wait 3 s"},
    {"http.max_headers", CONFIG_SIZE, ROOT(http.max_headers), "16KiB", .min = 1 << 10,
     .max = 1 << 20, .help = "request line and headers together; more is answered 431"},
    {"http.max_body", CONFIG_SIZE, ROOT(http.max_body), "1MiB", .min = 1 << 10, .max = 64 << 20,
     .help = "body of a webhook; more is answered 413"},
    {"http.max_write_body", CONFIG_SIZE, ROOT(http.max_write_body), "25MiB", .min = 1 << 10,
     .max = 256 << 20, .help = "body of /write and /api/v2/write, uncompressed"},
    {"http.rate_per_address", CONFIG_INT, ROOT(http.rate_per_address), "0", .min = 0,
     .max = 1000000,
     .help = "requests per second from one address; more are answered 429; 0 = "
             "unlimited"},

    {"inbox.commit_delay", CONFIG_DURATION, ROOT(inbox.commit_delay_us), "2ms", .min = 0,
     .max = 50000,
     .help = "how long a delivery waits for others, to be committed to disk together"},
    {"inbox.keep_ids", CONFIG_DURATION, ROOT(inbox.keep_ids_us), "7d", .min = US_PER_MINUTE,
     .max = YEAR_US,
     .help = "a repeated delivery is known for this long; longer than the sender retries"},
    {"inbox.max_size", CONFIG_SIZE, ROOT(inbox.max_size), "1GiB", .min = 1 << 20,
     .max = INT64_C(1) << 40,
     .help = "deliveries not yet worked off; more are answered 503 until there is room"},

    {"webhooks[].name", CONFIG_STRING, WEBHOOK(name), .name = NAME_SOURCE,
     .help = "the endpoint is /webhooks/NAME"},
    {"webhooks[].preset", CONFIG_ENUM, WEBHOOK(preset), .choices = preset_choices,
     .help = "who sends: the form of the body, where the id of a delivery is, how it is signed"},
    {"webhooks[].verify", CONFIG_ENUM, WEBHOOK(verify), .choices = verify_choices,
     .help = "how the sender proves itself; follows from the preset"},
    {"webhooks[].header", CONFIG_STRING, WEBHOOK(header),
     .help = "shared-secret: the header that holds it; authorization, or the preset's"},
    SECRET_ROWS("webhooks[].secrets[]"),
    {"webhooks[].insecure_no_secret", CONFIG_BOOL, WEBHOOK(insecure_no_secret), "false",
     .help = "take what anyone sends"},
    {"webhooks[].rate", CONFIG_INT, WEBHOOK(rate), "0", .min = 0, .max = 1000000,
     .help = "requests per second; more are answered 429; 0 = unlimited"},
    {"webhooks[].delivery_id", CONFIG_STRING, WEBHOOK(delivery_id),
     .help = "member names, joined by dots, that lead to the id of a delivery in the body, for "
             "senders without one in a header"},
    {"webhooks[].each", CONFIG_STRING, WEBHOOK(each),
     .help = "member names, joined by dots, that lead to the row, or to the list of rows, in the "
             "body; \"\" = the body itself"},
    TABLE_ROWS("webhooks[].tables[]"),

    {"influx.name", CONFIG_STRING, ROOT(influx.name), "influx", .name = NAME_SOURCE,
     .help = "name of the line protocol endpoint in the log and the metrics"},
    SECRET_ROWS("influx.secrets[]"),
    {"influx.insecure_no_secret", CONFIG_BOOL, ROOT(influx.insecure_no_secret), "false",
     .help = "take what anyone writes"},
    {"influx.rate", CONFIG_INT, ROOT(influx.rate), "0", .min = 0, .max = 1000000,
     .help = "requests per second; more are answered 429; 0 = unlimited"},
    {"influx.catch_up.url", CONFIG_STRING, ROOT(influx.catch_up.url), "",
     .help = "InfluxDB 1.x to ask for what a subscription lost, as http://127.0.0.1:8086; \"\" = "
             "none"},
    {"influx.catch_up.database", CONFIG_STRING, ROOT(influx.catch_up.database), "",
     .help = "database to ask there"},
    {"influx.catch_up.user", CONFIG_STRING, ROOT(influx.catch_up.user), "",
     .help = "user to ask as"},
    {"influx.catch_up.password", CONFIG_STRING, ROOT(influx.catch_up.password), "",
     .secrecy = SECRET, .help = "the user's password"},
    {"influx.catch_up.interval", CONFIG_DURATION, ROOT(influx.catch_up.interval_us), "60s",
     .min = US_PER_SECOND, .max = US_PER_DAY, .help = "how often it is asked"},
    {"influx.catch_up.overlap", CONFIG_DURATION, ROOT(influx.catch_up.overlap_us), "10m", .min = 0,
     .max = US_PER_DAY, .help = "read again each time, for points that were written late"},
    {"influx.catch_up.rescan", CONFIG_DURATION, ROOT(influx.catch_up.rescan_us), "1h",
     .min = US_PER_SECOND, .max = YEAR_US, .help = "how often the longer window is read"},
    {"influx.catch_up.rescan_window", CONFIG_DURATION, ROOT(influx.catch_up.rescan_window_us), "1d",
     .min = US_PER_SECOND, .max = YEAR_US, .help = "how far back the longer window goes"},
    {"influx.catch_up.measurements", CONFIG_STRING, ROOT(influx.catch_up.measurements), "",
     .help = "which to ask for, separated by commas; \"\" = all that mean something here"},

    {"qdrant[].name", CONFIG_STRING, QDRANT(name), .name = NAME_SOURCE,
     .help = "name of this pull in the log, the metrics and the inbox"},
    {"qdrant[].url", CONFIG_STRING, QDRANT(url), .help = "the server, as http://127.0.0.1:6333"},
    {"qdrant[].api_key", CONFIG_STRING, QDRANT(api_key), .secrecy = SECRET,
     .help = "API key of the server"},
    {"qdrant[].collection", CONFIG_STRING, QDRANT(collection), .help = "the collection to read"},
    {"qdrant[].bot_name", CONFIG_STRING, QDRANT(bot_name),
     .help = "bot of all its points; else as each point says, or the collection's name"},
    {"qdrant[].mode", CONFIG_ENUM, QDRANT(mode), "auto", .choices = qdrant_mode_choices,
     .help = "how new points are found: in order of their time (needs an index on it), or by "
             "reading all of them; auto tries the first"},
    {"qdrant[].interval", CONFIG_DURATION, QDRANT(interval_us), "30s", .min = US_PER_SECOND / 10,
     .max = US_PER_DAY, .help = "how often it is asked"},
    {"qdrant[].overlap", CONFIG_DURATION, QDRANT(overlap_us), "10m", .min = 0, .max = US_PER_DAY,
     .help = "read again each time, for points that were written late"},
    {"qdrant[].sweep", CONFIG_DURATION, QDRANT(sweep_us), "1h", .min = US_PER_SECOND / 10,
     .max = YEAR_US,
     .help =
         "how often all points are read, to see what was deleted, or changed without a new time"},
    {"qdrant[].page", CONFIG_INT, QDRANT(page), "256", .min = 1, .max = 10000,
     .help = "points per request"},

    {"feed.pub", CONFIG_STRING, ROOT(feed.pub), "",
     .help = "nng PUB socket with every announcement, as ipc:///run/warmpath/feed or "
             "tcp://127.0.0.1:7710; \"\" = none"},
    {"feed.history", CONFIG_INT, ROOT(feed.history), "10000", .min = 16, .max = 1000000,
     .help = "announcements that /api/v1/feed can give again to who comes back"},
    {"feed.queue", CONFIG_INT, ROOT(feed.queue), "100000", .min = 1, .max = 10000000,
     .help = "announcements that may wait for one destination; beyond, the oldest become dead "
             "letters"},
    {"feed.webhooks[].name", CONFIG_STRING, FEED(name), .name = NAME_SOURCE,
     .help = "name of the destination in the log, the metrics and the queue"},
    {"feed.webhooks[].url", CONFIG_STRING, FEED(url),
     .help = "where announcements are posted; https, or http to this machine"},
    {"feed.webhooks[].insecure_plain", CONFIG_BOOL, FEED(insecure_plain), "false",
     .help = "http to another machine: who is on the way reads which users are active"},
    {"feed.webhooks[].secrets[].id", CONFIG_STRING, KEY(id), .name = NAME_SOURCE,
     .help = "name of the secret in messages; its number when not given"},
    {"feed.webhooks[].secrets[].value", CONFIG_STRING, KEY(value), .secrecy = SECRET,
     .help = "the secret (`warmpath secret new`), better as ${file:PATH} or ${credential:NAME}. "
             "Every one of the list that is still valid signs, so that a receiver can change from "
             "one to the next"},
    {"feed.webhooks[].secrets[].not_after", CONFIG_TIME, KEY(not_after_us),
     .help = "nothing is signed with the secret from this time on, as in 2026-12-31T00:00:00Z"},
    {"feed.webhooks[].timeout", CONFIG_DURATION, FEED(timeout_us), "10s", .min = US_PER_SECOND / 10,
     .max = 10 * US_PER_MINUTE, .help = "an attempt may take this long"},
    {"feed.webhooks[].give_up", CONFIG_DURATION, FEED(give_up_us), "1d", .min = US_PER_SECOND,
     .max = YEAR_US,
     .help = "an announcement that could not be delivered for this long becomes a dead letter"},
    {"feed.webhooks[].bots", CONFIG_STRING, FEED(bots),
     .help = "only these bots, separated by commas; \"\" = all"},
    {"feed.webhooks[].tables", CONFIG_STRING, FEED(tables),
     .help = "only announcements of these cache tables, separated by commas; \"\" = all"},

    {"redis.url", CONFIG_STRING, ROOT(redis.url), "",
     .help = "Redis server that gets a copy of the live cache, as redis://127.0.0.1:6379/0 or "
             "unix:///run/redis/redis.sock; \"\" = none"},
    {"redis.password", CONFIG_STRING, ROOT(redis.password), "", .secrecy = SECRET,
     .help = "its password; the user, if it is not the default one, is in the URL"},
    {"redis.prefix", CONFIG_STRING, ROOT(redis.prefix),
     "strategic:", .help = "what the keys in Redis begin with"},
    {"redis.ttl", CONFIG_DURATION, ROOT(redis.ttl_us), "5m", .min = US_PER_SECOND,
     .max = US_PER_DAY,
     .help = "a value goes from Redis this long after it was written: the longest that one which "
             "is wrong can be seen when Redis could not be reached"},

    TRIGGER_ROWS("triggers.*"),
    TRIGGER_ROWS("triggers_by_bot.*.*"),

    {"catch_up_lag", CONFIG_DURATION, ROOT(catch_up_lag_us), "5s", .min = 0, .max = US_PER_DAY,
     .help = "when further behind than this, rows are refreshed by max_age only"},
    {"log.level", CONFIG_ENUM, ROOT(log_level), "info", .choices = level_choices,
     .help = "least important record to log"},
    {.path = NULL},
};
const size_t config_row_count = sizeof(config_rows) / sizeof(config_rows[0]) - 1;
