#include "ingest/copy_text.h"

#include <assert.h>
#include <string.h>

/* What follows a backslash; 0 = nothing that a server writes. */
static char unescape(char c)
{
    switch (c) {
    case 'b':
        return '\b';
    case 'f':
        return '\f';
    case 'n':
        return '\n';
    case 'r':
        return '\r';
    case 't':
        return '\t';
    case 'v':
        return '\v';
    case '\\':
        return '\\';
    default:
        return 0;
    }
}

/* One column, [from, end), in place. */
static enum status decode_column(char *from, const char *end, struct value *ret, struct error *err)
{
    size_t len = (size_t)(end - from);
    if (len == 2 && from[0] == '\\' && from[1] == 'N') {
        *ret = (struct value){.kind = VALUE_NULL, .text = STR_NULL};
        return STATUS_OK;
    }
    char *out = memchr(from, '\\', len);
    const char *in = out;
    out = out ? out : from + len;
    while (in && in < end) {
        char c = *in++;
        if (c == '\\') {
            c = '\0';
            if (in < end)
                c = unescape(*in++);
            if (!c)
                return error_set(err, STATUS_PROTOCOL, "an unknown escape in a row of COPY");
        }
        *out++ = c;
    }
    *ret = (struct value){.kind = VALUE_TEXT, .text = {from, (size_t)(out - from)}};
    return STATUS_OK;
}

enum status copy_text_decode(char *bytes, size_t len, struct value *values, uint16_t n,
                             struct error *err)
{
    assert(n > 0);
    if (len == 0 || bytes[len - 1] != '\n' || memchr(bytes, '\n', len - 1))
        return error_set(err, STATUS_PROTOCOL, "a row of COPY does not end with its one newline");
    char *from = bytes;
    char *last = bytes + len - 1;
    for (uint16_t i = 0; i < n; i++) {
        char *tab = memchr(from, '\t', (size_t)(last - from));
        if ((i + 1 < n) != (tab != NULL))
            return error_set(err, STATUS_PROTOCOL, "a row of COPY has %s than %u columns",
                             tab ? "more" : "fewer", n);
        char *end = tab ? tab : last;
        enum status st = decode_column(from, end, &values[i], err);
        if (st)
            return st;
        from = end + 1;
    }
    return STATUS_OK;
}
