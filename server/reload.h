/*
 * server/reload.h - the configuration, read again while `run` works: on SIGHUP, and when the file
 * changes while the reader stands still (ingest/stream.h).
 *
 * source.tables and log.level take effect at once; for anything else that differs the log says that
 * it needs a restart. A configuration that cannot be used changes nothing.
 */
#pragma once

#include "server/cli.h"

#include <sys/stat.h>

struct reload {
    struct cli *cli;       /* how the configuration was asked for */
    struct config *config; /* owned: the newest that was read; NULL: still cli->config */
    struct stat file;      /* as it was when it was last read */
};

void reload_init(struct reload *r, struct cli *cli);
/* When every thread has ended: the newest source.tables are those of cli->config from here on. */
void reload_deinit(struct reload *r);

/* Whether the file has been written since it was last read. */
bool reload_is_due(const struct reload *r);
/* Reads it; true when source.tables differ from before: then *ret is to take effect. What does not
 * work is logged. */
bool reload_read(struct reload *r, const struct mapping_set **ret);
