#include "ingest/template.h"

#include <string.h>

enum template_step template_next(const char **at, struct template_part *ret)
{
    const char *p = *at;
    if (!*p)
        return TEMPLATE_END;
    if ((p[0] == '{' && p[1] == '{') || (p[0] == '}' && p[1] == '}')) {
        *ret = (struct template_part){false, {p, 1}};
        *at = p + 2;
        return TEMPLATE_PART;
    }
    if (*p == '}')
        return TEMPLATE_MALFORMED;
    if (*p != '{') {
        size_t len = strcspn(p, "{}");
        *ret = (struct template_part){false, {p, len}};
        *at = p + len;
        return TEMPLATE_PART;
    }
    size_t len = strcspn(p + 1, "{}");
    if (len == 0 || p[1 + len] != '}')
        return TEMPLATE_MALFORMED;
    *ret = (struct template_part){true, {p + 1, len}};
    *at = p + 1 + len + 1;
    return TEMPLATE_PART;
}
