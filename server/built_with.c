#include "server/built_with.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/hash.h"
#include "core/log.h"
#include "core/pg.h"
#include "engines/params.h"
#include "server/readers.h"

#define PATH_BYTES (CONFIG_PATH_BYTES + 32)

struct built_with {
    uint64_t engines;
    uint64_t mapping;
};

static enum status built_now(const struct config *cfg, struct built_with *ret, struct error *err)
{
    CLEANUP(buf_deinit) struct buf text;
    buf_init(&text, SIZE_MAX / 2);
    enum status st = config_print_mappings(cfg, &text);
    if (st)
        return error_set(err, st, "could not compare the mappings with those of before");
    *ret = (struct built_with){engine_params(), hash64((struct str){text.data, text.len})};
    return STATUS_OK;
}

/* False: nothing is known. */
static bool built_before(const char *path, struct built_with *ret)
{
    FILE *f = fopen(path, "re");
    if (!f)
        return false;
    bool ok = fscanf(f, "engines %" SCNx64 " mapping %" SCNx64, &ret->engines, &ret->mapping) == 2;
    fclose(f);
    return ok;
}

static enum status write_down(const char *path, const struct built_with *b, struct error *err)
{
    char fresh[PATH_BYTES + 8];
    snprintf(fresh, sizeof(fresh), "%s.new", path);
    FILE *f = fopen(fresh, "we");
    bool ok = f &&
              fprintf(f, "engines %016" PRIx64 "\nmapping %016" PRIx64 "\n", b->engines,
                      b->mapping) > 0 &&
              fflush(f) == 0 && fsync(fileno(f)) == 0;
    if (f)
        ok &= fclose(f) == 0;
    if (!ok || rename(fresh, path) != 0)
        return error_set(err, STATUS_IO, "could not write \"%s\": %s", path, strerror(errno));
    return STATUS_OK;
}

/* One that is open already will do: it has not begun, or goes on with what is there now. */
static enum status request_rebuild(const struct config *cfg, const char *reason, struct error *err)
{
    const struct pg_options o = {.conninfo = cfg->sink_conninfo,
                                 .application_name = "warmpath start"};
    const char *params[] = {cfg->pipeline, reason};
    CLEANUP(PQfinishp) PGconn *conn = NULL;
    CLEANUP(PQclearp) PGresult *res = NULL;
    enum status st = pg_open(&o, &conn, err);
    return st ? st
              : pg_query(conn,
                         "INSERT INTO strategic_rebuild (pipeline, reason) SELECT $1, $2"
                         " WHERE NOT EXISTS (SELECT FROM strategic_rebuild WHERE pipeline = $1"
                         " AND user_id IS NULL AND engine IS NULL AND started_at IS NULL"
                         " AND finished_at IS NULL)",
                         2, params, "could not request a rebuild", &res, err);
}

enum status built_with_settle(const struct config *cfg, bool fresh, struct error *err)
{
    char path[PATH_BYTES];
    snprintf(path, sizeof(path), "%s/built_with", cfg->state_dir);
    struct built_with before = {0}, now = {0};
    enum status st = built_now(cfg, &now, err);
    if (st)
        return st;
    bool known = built_before(path, &before);
    bool same = before.engines == now.engines && before.mapping == now.mapping;
    if (known && same)
        return STATUS_OK;
    if (known && !fresh) {
        const char *reason = before.engines != now.engines ? "engine_version" : "mapping";
        log_write(LOG_WARN, "run",
                  "rows were made with other engines or another mapping: all keys are rebuilt "
                  "reason=%s",
                  reason);
        st = readers_stale(cfg, err);
        st = st ? st : request_rebuild(cfg, reason, err);
    }
    return st ? st : write_down(path, &now, err);
}
