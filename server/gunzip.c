#include "server/gunzip.h"

#include <stdlib.h>
#include <zlib.h>

#define STEP ((size_t)16 << 10)

struct gunzip {
    z_stream z;
    uint64_t in, out;
    bool open; /* within a member */
    bool seen; /* a whole one */
};

enum status gunzip_new(struct gunzip **ret, struct error *err)
{
    struct gunzip *g = calloc(1, sizeof(*g));
    /* 16: gzip and nothing else. */
    if (!g || inflateInit2(&g->z, 15 + 16) != Z_OK) {
        free(g);
        return error_set(err, STATUS_NOMEM, "could not allocate a gzip reader");
    }
    *ret = g;
    return STATUS_OK;
}

void gunzip_free(struct gunzip *g)
{
    if (!g)
        return;
    (void)inflateEnd(&g->z);
    free(g);
}

/* One call of inflate() into what is free in out. */
static enum status step(struct gunzip *g, struct buf *out)
{
    enum status st = buf_reserve(out, out->len < out->max ? 1 : 0);
    if (st)
        return st;
    unsigned char spare; /* a full buffer is no reason to refuse a member's end */
    size_t room = out->cap - out->len < STEP ? out->cap - out->len : STEP;
    g->z.next_out = room > 0 ? (unsigned char *)out->data + out->len : &spare;
    g->z.avail_out = room > 0 ? (unsigned)room : 1;
    unsigned in = g->z.avail_in, avail = g->z.avail_out;
    int rc = inflate(&g->z, Z_NO_FLUSH);
    size_t made = avail - g->z.avail_out;
    g->in += in - g->z.avail_in;
    g->out += made;
    if (made > room)
        return STATUS_LIMIT;
    out->len += made;
    if (g->out > GUNZIP_FREE && g->out / GUNZIP_RATIO > g->in)
        return STATUS_LIMIT;
    if (rc == Z_STREAM_END) {
        g->open = false;
        g->seen = true;
        return inflateReset(&g->z) == Z_OK ? STATUS_OK : STATUS_NOMEM;
    }
    if (rc == Z_OK || rc == Z_BUF_ERROR)
        return STATUS_OK;
    return rc == Z_MEM_ERROR ? STATUS_NOMEM : STATUS_INVALID;
}

enum status gunzip_feed(struct gunzip *g, struct str in, struct buf *out)
{
    enum status st = STATUS_OK;
    bool more = true;
    g->z.next_in = (unsigned char *)(uintptr_t)in.ptr; /* only read */
    g->z.avail_in = (unsigned)in.len;
    /* On while there is input, or output that had no room yet. */
    while (!st && (g->z.avail_in > 0 || more)) {
        g->open = g->open || g->z.avail_in > 0;
        uint64_t made = g->out;
        unsigned left = g->z.avail_in;
        st = g->open ? step(g, out) : STATUS_OK;
        more = g->open && g->z.avail_out == 0;
        if (!st && g->out == made && g->z.avail_in == left)
            break;
    }
    return st;
}

bool gunzip_complete(const struct gunzip *g)
{
    return g->seen && !g->open;
}
