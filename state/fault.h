/*
 * state/fault.h - named points at which a test makes the process die or a call fail.
 *
 *     if (FAULT_POINT("store_before_commit"))
 *         return error_set(err, STATUS_IO, "...");
 *
 * WARMPATH_FAULT="name:n:abort" kills the process at its n-th passing of the point with SIGKILL,
 * exactly as `kill -9` would: nothing is flushed, no handler runs. "name:n:fail" makes
 * FAULT_POINT() true once, at that passing. "name:n:hang" stops that thread for good there, while
 * all others go on; "name:n:stop" stops the whole process (SIGSTOP) until it is
 * continued. Several are separated by commas. A malformed value ends the process at start
 * with a message, because a fault that never happens proves nothing.
 *
 * Unarmed, a point costs one load and one branch. Threads: points may be passed from any thread;
 * arming must happen before the threads that pass them start.
 */
#pragma once

#include "core/status.h"

#include <stdbool.h>

extern bool fault_armed;
bool fault_hit(const char *name);

#define FAULT_POINT(name) (__builtin_expect(fault_armed, 0) && fault_hit(name))

/* Arms the points of spec in place of those armed before; NULL or "" disarms. INVALID: malformed.
 */
MUST_CHECK enum status fault_arm(const char *spec, struct error *err);
