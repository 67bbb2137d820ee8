/*
 * ingest/copy_text.h - one row of COPY ... TO STDOUT in text format (PostgreSQL documentation,
 * COPY, "Text Format").
 *
 * Strict: only what a server of version 14 to 18 writes with the default delimiter and NULL string.
 * Columns are parted by tabs, the row ends with one newline; a column that is exactly \N is NULL; a
 * backslash is followed by one of b f n r t v and backslash. Anything else is PROTOCOL: a row that
 * is read wrong would be counted wrong.
 */
#pragma once

#include "core/status.h"
#include "ingest/pgoutput.h"

#include <stddef.h>
#include <stdint.h>

/*
 * Decodes in place: an escape is never shorter than what it stands for. values: n of them, which
 * then borrow from bytes. PROTOCOL: not a row of n columns; bytes may be half decoded.
 */
MUST_CHECK enum status copy_text_decode(char *bytes, size_t len, struct value *values, uint16_t n,
                                        struct error *err);
