/* server/config_load.h - the parts of the loader that config.c and config_yaml.c share. */
#pragma once

#include "server/config_schema.h"

#include <yaml.h>

/* Where in the file, 1-based; line 0 = not in a file. */
struct config_mark {
    unsigned long line;
    unsigned long column;
};

struct config_loader {
    struct config *cfg;
    const char *name; /* file name, "environment WARMPATH_X" or "--set path" */
    struct buf *problems;
    size_t n_problems;
    struct config_origin origin; /* of the values being stored */
    bool expand;                 /* ${...} is replaced: values of the file */
};

/* Records "name:line:col: path: message"; path may be "". */
void config_problem(struct config_loader *l, struct config_mark mark, const char *path,
                    const char *fmt, ...) PRINTF_LIKE(4, 5);

/* Checks the plain subset (config.h) by events and then builds the document. False: problems were
 * recorded, and *ret is not set. An empty text is an empty mapping: *ret_empty. */
bool config_yaml_load(struct config_loader *l, struct str text, yaml_document_t *ret,
                      bool *ret_empty);
struct config_mark config_yaml_mark(yaml_mark_t mark);

/* Replaces ${...}; out is reset first. The error never shows what was read. */
MUST_CHECK enum status config_expand(struct str text, struct buf *out, struct error *err);
/* A whole file, at most max bytes. */
MUST_CHECK enum status config_read_file(const char *path, size_t max, struct buf *out,
                                        struct error *err);

/* config_walk.c: each records the problems it finds and stores the rest. */
void config_walk_defaults(struct config_loader *l);
void config_walk_document(struct config_loader *l, struct str yaml);
void config_walk_path(struct config_loader *l, struct str path, struct str value);
