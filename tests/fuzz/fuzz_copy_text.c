/* A row of COPY of any bytes: refused, or decoded into values inside the row that, escaped again,
 * are the row; what need not be escaped may be. The first byte says how many columns there are to
 * be. */
#include "ingest/copy_text.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The row at `at` begins with c as the server writes it; returns how many bytes that is. */
static size_t expect(const char *at, char c)
{
    static const char special[] = "\b\f\n\r\t\v\\";
    static const char letters[] = "bfnrtv\\";
    const char *found = c ? strchr(special, c) : NULL;
    if (*at == c && c != '\\')
        return 1; /* not escaped: needless, but plain */
    if (!found)
        abort();
    if (at[0] != '\\' || at[1] != letters[found - special])
        abort();
    return 2;
}

static void check(const char *row, size_t len, const struct value *values, uint16_t n)
{
    const char *at = row;
    for (uint16_t i = 0; i < n; i++) {
        if (values[i].kind == VALUE_NULL) {
            if (memcmp(at, "\\N", 2) != 0)
                abort();
            at += 2;
        } else {
            for (size_t k = 0; k < values[i].text.len; k++)
                at += expect(at, values[i].text.ptr[k]);
        }
        if (*at++ != (i + 1 < n ? '\t' : '\n'))
            abort();
    }
    if (at != row + len)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    struct value values[16];
    uint16_t n = (uint16_t)(1 + data[0] % 16);
    size_t len = size - 1;
    char *row = malloc(len + 1);
    char *copy = malloc(len + 1);
    if (row && copy) {
        memcpy(row, data + 1, len);
        memcpy(copy, row, len);
        if (copy_text_decode(copy, len, values, n, NULL) == STATUS_OK)
            check(row, len, values, n);
    }
    free(row);
    free(copy);
    return 0;
}
