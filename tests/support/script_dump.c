/* script_dump SEED STEPS USERS DAYS [FEATURES] - a random event script (script.h) as JSON Lines,
 * for tests that feed the program itself. FEATURES: a mask of enum script_feature, default all that
 * a file can hold (one source, so nothing from the inbox). */
#include "core/clock.h"
#include "tests/support/script.h"

#include <stdio.h>
#include <stdlib.h>

#define START_US (INT64_C(1767225600) * US_PER_SECOND) /* 2026-01-01 */

/* Scripts hold bytes that are not UTF-8, which the codec accepts and JSON does not. */
static struct str as_text(struct str content, char *copy)
{
    if (!content.ptr)
        return content;
    for (size_t i = 0; i < content.len; i++)
        copy[i] = (unsigned char)content.ptr[i] >= 0xFE ? '?' : content.ptr[i];
    return (struct str){copy, content.len};
}

int main(int argc, char **argv)
{
    if (argc < 5) {
        fprintf(stderr, "usage: %s SEED STEPS USERS DAYS [FEATURES]\n", argv[0]);
        return 64;
    }
    struct script_options o = {
        .seed = strtoull(argv[1], NULL, 0),
        .features = argc > 5 ? (unsigned)strtoul(argv[5], NULL, 0) : SCRIPT_ALL & ~SCRIPT_INBOX,
        .n_steps = strtoul(argv[2], NULL, 0),
        .n_users = strtoul(argv[3], NULL, 0),
        .start_us = START_US,
        .span_us = strtol(argv[4], NULL, 0) * US_PER_DAY,
    };
    struct script *s = script_new(&o);
    struct buf line;
    buf_init(&line, LIMIT_EVENT_BYTES);
    int code = 0;
    for (size_t i = 0; i < script_count(s) && code == 0; i++) {
        struct error err = {0};
        char text[4096];
        struct event e = script_at(s, i)->e;
        if (e.type == EVENT_MESSAGE)
            e.u.message.content = as_text(e.u.message.content, text);
        else if (e.type == EVENT_MEMORY)
            e.u.memory.content = as_text(e.u.memory.content, text);
        buf_reset(&line);
        if (event_to_json(&e, &line, &err)) {
            fprintf(stderr, "step %zu: %s\n", i, err.text);
            code = 1;
        } else {
            printf("%.*s\n", (int)line.len, line.data);
        }
    }
    buf_deinit(&line);
    script_free(s);
    return code;
}
