/* server/config_print.h - what the two printers share. */
#pragma once

/* Keeps the first failure of a series of appends. */
#define PUT(expr)            \
    do {                     \
        if (st == STATUS_OK) \
            st = (expr);     \
    } while (0)
