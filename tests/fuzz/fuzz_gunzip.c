/*
 * tests/fuzz/fuzz_gunzip.c - gzip bodies from strangers: no crash, nothing beyond the bounds, and
 * the same whatever the pieces are.
 */
#include "server/gunzip.h"

#include <stdlib.h>
#include <string.h>

#define ROOM ((size_t)4 << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool fact)
{
    if (!fact)
        abort();
}

static enum status unpack(struct str in, size_t step, struct buf *out, bool *ret_complete)
{
    struct gunzip *g = NULL;
    enum status st = gunzip_new(&g, NULL);
    buf_init(out, ROOM);
    for (size_t at = 0; !st && at < in.len; at += step)
        st =
            gunzip_feed(g, (struct str){in.ptr + at, in.len - at < step ? in.len - at : step}, out);
    *ret_complete = gunzip_complete(g);
    gunzip_free(g);
    return st;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    struct str in = {(const char *)data + 1, size - 1};
    struct buf whole, pieces;
    bool whole_complete = false, pieces_complete = false;
    enum status st = unpack(in, in.len, &whole, &whole_complete);
    enum status other = unpack(in, data[0] % 16 + 1u, &pieces, &pieces_complete);
    require(st == STATUS_OK || st == STATUS_INVALID || st == STATUS_LIMIT);
    require(whole.len <= ROOM && whole.len <= GUNZIP_FREE + (size - 1 + 16) * (GUNZIP_RATIO + 1));
    /* The ratio is that of what has been read so far, so pieces may be refused earlier. */
    if (st == STATUS_OK && other != STATUS_LIMIT) {
        require(other == STATUS_OK && whole_complete == pieces_complete);
        require(whole.len == pieces.len &&
                (whole.len == 0 || memcmp(whole.data, pieces.data, whole.len) == 0));
    }
    buf_deinit(&whole);
    buf_deinit(&pieces);
    return 0;
}
