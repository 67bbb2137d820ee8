#include "core/status.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>

enum status error_set(struct error *err, enum status code, const char *fmt, ...)
{
    assert(code != STATUS_OK);
    if (!err)
        return code;
    err->code = code;
    va_list args;
    va_start(args, fmt);
    vsnprintf(err->text, sizeof(err->text), fmt, args);
    va_end(args);
    /* Server messages may span lines; a log record may not. */
    for (char *c = err->text; *c; c++)
        if (*c == '\n' || *c == '\r')
            *c = ' ';
    return code;
}

const char *status_name(enum status code)
{
    switch (code) {
    case STATUS_OK:
        return "ok";
    case STATUS_AGAIN:
        return "again";
    case STATUS_END:
        return "end";
    case STATUS_NOMEM:
        return "out of memory";
    case STATUS_LIMIT:
        return "limit";
    case STATUS_INVALID:
        return "invalid";
    case STATUS_IO:
        return "i/o";
    case STATUS_PROTOCOL:
        return "protocol";
    case STATUS_CORRUPT:
        return "corrupt";
    case STATUS_FENCED:
        return "fenced";
    case STATUS_REFUSED:
        return "refused";
    case STATUS_LOST:
        return "lost";
    }
    return "unknown";
}
