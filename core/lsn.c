#include "core/lsn.h"

#include <ctype.h>
#include <stddef.h>

/* One half of an LSN: 1 to 8 hexadecimal digits. Returns the first character after it or NULL. */
static const char *parse_half(const char *text, uint32_t *ret)
{
    uint32_t value = 0;
    int digits = 0;
    for (; isxdigit((unsigned char)*text); text++, digits++) {
        int c = tolower((unsigned char)*text);
        value = value << 4 | (uint32_t)(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    if (digits < 1 || digits > 8)
        return NULL;
    *ret = value;
    return text;
}

bool lsn_parse(const char *text, lsn_t *ret)
{
    uint32_t high = 0;
    uint32_t low = 0;
    text = parse_half(text, &high);
    if (!text || *text != '/')
        return false;
    text = parse_half(text + 1, &low);
    if (!text || *text != '\0')
        return false;
    *ret = (lsn_t)high << 32 | low;
    return true;
}
