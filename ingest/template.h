/*
 * ingest/template.h - "{guild}/{id}:u": text with the names of columns in braces.
 *
 * {{ and }} stand for braces themselves. There is nothing else to it: no expressions, no formats.
 */
#pragma once

#include "core/buf.h"

struct template_part {
    bool is_column;
    struct str text; /* the column's name, or literal text; borrowed */
};

enum template_step { TEMPLATE_END, TEMPLATE_PART, TEMPLATE_MALFORMED };

/* The part at *at, which moves behind it. */
enum template_step template_next(const char **at, struct template_part *ret);
