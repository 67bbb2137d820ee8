/*
 * server/gunzip.h - a gzip body (RFC 1952, one member or several) as it comes in, piece by piece,
 * behind bounds: a few bytes may say that they are gigabytes.
 *
 * What comes out is bounded by the ceiling of the buffer it goes to, and beyond GUNZIP_FREE bytes
 * by GUNZIP_RATIO times what went in.
 */
#pragma once

#include "core/buf.h"
#include "core/cleanup.h"

#define GUNZIP_FREE  ((size_t)1 << 20)
#define GUNZIP_RATIO 200

struct gunzip;

MUST_CHECK enum status gunzip_new(struct gunzip **ret, struct error *err);
void gunzip_free(struct gunzip *g); /* NULL is a no-op */
CLEANUP_FREEP(struct gunzip, gunzip_free);
/* Appends what `in` becomes to out. INVALID: not gzip, or damaged; LIMIT: out is full, or the ratio
 * is beyond its bound; NOMEM. After a failure g is of no more use. */
MUST_CHECK enum status gunzip_feed(struct gunzip *g, struct str in, struct buf *out);
/* Nothing is missing at the end. */
bool gunzip_complete(const struct gunzip *g);
