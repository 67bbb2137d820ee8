/* state/embedded.h - files that tools/embed.py has turned into C at build time. */
#pragma once

#include <stddef.h>

/* text is followed by a NUL that len does not count. */
struct embedded_file {
    const char *name; /* without its folder */
    const char *text;
    size_t len;
};
