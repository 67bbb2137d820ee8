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

/* Where the walk stands: the path as the user wrote it, the schema's pattern for it, and the
 * object that values found here belong to. */
struct config_place {
    char path[512];
    char pattern[128];
    struct config_mark mark;
    struct config_webhook *webhook;
    struct config_secret *secret;
    struct config_qdrant *qdrant;
    struct config_feed_webhook *feed;
    struct mapping *table;
    enum mapping_field field;
    struct mapping_source *source; /* of the field */
    const struct engine_ops *engine;
    char bot[LIMIT_ID_BYTES + 1];
    struct str map_key;
};

/* config_lists.c: the lists of objects. add() finds room for an element, check() looks at it when
 * all of it was read without a problem. */
struct config_list {
    const char *pattern;
    bool (*add)(struct config_loader *l, struct config_place *element);
    void (*check)(struct config_loader *l, const struct config_place *element);
};
/* A zeroed element more at the end of a list; NULL: there are max of them already. */
void *config_grow(struct config_loader *l, const struct config_place *p, void **list, size_t *n,
                  size_t max, size_t size);
/* config_lists_feed.c */
bool config_add_feed(struct config_loader *l, struct config_place *p);
void config_check_feed(struct config_loader *l, const struct config_place *p);
void config_check_pub(struct config_loader *l);
const struct config_list *config_list_find(const char *pattern); /* NULL: none of them */
void config_check_field(struct config_loader *l, const struct config_place *p);
/* Values that follow from the schema alone, for the rows of one scope at and below pattern. */
void config_walk_scope_defaults(struct config_loader *l, enum config_scope scope,
                                const struct config_place *p);
/* What only all of these sections together show. */
void config_check_door(struct config_loader *l);
