/*
 * server/blocked.h - that the reader of a running process stands still, and why, for `status`: the
 * file "blocked" in the state directory, there for as long as it does.
 */
#pragma once

#include "core/status.h"

#include <stdbool.h>
#include <stdint.h>

/* Replaces or, with why NULL, removes the file. IO. */
MUST_CHECK enum status blocked_write(const char *state_dir, const char *why, struct error *err);
/* False when there is no such file. why gets one line; *ret_since_us when it was written. */
bool blocked_read(const char *state_dir, struct error *why, int64_t *ret_since_us);
