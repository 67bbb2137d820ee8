/*
 * tests/fuzz/fuzz_epoch.c - the cells of an epoch on foreign bytes: no crash, and what is accepted
 * survives being written again.
 */
#include "engines/epoch.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint32_t v[EPOCH_CELLS], back[EPOCH_CELLS];
    static struct buf out;
    struct reader r = reader_of(data, size);
    if (epoch_cells_decode(&r, v, NULL))
        return 0;
    if (!out.data)
        buf_init(&out, 1 << 20);
    buf_reset(&out);
    if (epoch_cells_encode(v, &out))
        abort();
    r = reader_of(out.data, out.len);
    if (epoch_cells_decode(&r, back, NULL) || reader_left(&r) || memcmp(v, back, sizeof(v)) != 0)
        abort();
    return 0;
}
