/*
 * engines/params.h - which F made a row (ENGINES.md 9 and Appendix A: details hold `params`).
 *
 * Two rows with the same params, epochs and events are equal to the byte. The hash is taken over
 * the names and versions of all engines, whose versions stand for the constants in their own files,
 * and over the bounds and formats that all of them share.
 */
#pragma once

#include "core/row.h"

uint64_t engine_params(void);
/* Adds details.params: eight hexadecimal digits. */
MUST_CHECK enum status engine_add_params(struct row *row);
