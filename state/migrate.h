/*
 * state/migrate.h - numbered SQL of migrations/postgres and postgres_compat, embedded at build
 * time.
 *
 * up applies every migration not yet in the set's table, each in its own transaction, under an
 * advisory lock so that two at once do not collide; a second up is a no-op. down reverts the newest
 * `steps` (0 = all). A checksum of each applied file is kept: an applied migration whose text has
 * changed since is refused.
 */
#pragma once

#include "core/status.h"

#include <stdbool.h>

struct migration {
    int version;
    const char *name;
    const char *up;
    const char *down;
};

struct migration_set {
    const char *table; /* where it is noted what was applied */
    const struct migration *list;
    const int *n;
    const struct migration_set *on; /* must be up whenever this one is; or NULL */
};
/* The cache itself, and the optional views for readers of an earlier application. */
extern const struct migration_set migrate_cache, migrate_compat;

/* fn is told of each step done ("applied 0001_strategic_cache"). */
MUST_CHECK enum status migrate_up(const struct migration_set *set, const char *conninfo,
                                  void (*fn)(void *ctx, const char *line), void *ctx,
                                  struct error *err);
MUST_CHECK enum status migrate_down(const struct migration_set *set, const char *conninfo,
                                    int steps, void (*fn)(void *ctx, const char *line), void *ctx,
                                    struct error *err);
/* One line per migration: version, name, applied at or pending. */
MUST_CHECK enum status migrate_status(const struct migration_set *set, const char *conninfo,
                                      void (*fn)(void *ctx, const char *line), void *ctx,
                                      bool *ret_pending, struct error *err);
