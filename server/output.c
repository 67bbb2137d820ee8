#include "server/output.h"

#include "core/clock.h"

#include <inttypes.h>
#include <stdio.h>

int output_json(struct cli *cli, json_t *root, int code)
{
    int failed = !root || json_dumpf(root, cli->out, JSON_INDENT(2)) != 0;
    json_decref(root);
    if (failed)
        return cli_fail(cli, CLI_FAILED, "could not print the answer as JSON");
    fputc('\n', cli->out);
    return code;
}

void output_age(int64_t age_us, char out[32])
{
    int64_t s = age_us / US_PER_SECOND;
    if (s < 120)
        snprintf(out, 32, "%" PRId64 " s", s);
    else if (s < 7200)
        snprintf(out, 32, "%" PRId64 " min", s / 60);
    else if (s < INT64_C(2) * 86400)
        snprintf(out, 32, "%" PRId64 " h", s / 3600);
    else
        snprintf(out, 32, "%" PRId64 " d", s / 86400);
}

void output_bytes(int64_t bytes, char out[32])
{
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB"};
    if (bytes < 1024) {
        snprintf(out, 32, "%" PRId64 " B", bytes);
        return;
    }
    double v = (double)bytes / 1024;
    size_t u = 0;
    for (; v >= 1024 && u + 1 < sizeof(units) / sizeof(units[0]); u++)
        v /= 1024;
    snprintf(out, 32, "%.1f %s", v, units[u]);
}

json_t *output_time(int64_t t_us)
{
    if (t_us == 0)
        return json_null();
    char text[40];
    time_format(t_us, 1, text);
    return json_string(text);
}

/* Unlike str_is_text() this lets a NUL byte pass: JSON can hold it. */
static bool is_utf8(const char *p, size_t n)
{
    return (n == 1 && *p == '\0') || str_is_text((struct str){p, n});
}

json_t *output_text(struct str s)
{
    if (!s.ptr)
        return json_null();
    json_t *plain = json_stringn(s.ptr, s.len);
    if (plain)
        return plain;
    struct buf clean;
    buf_init(&clean, 3 * s.len + 1);
    enum status st = STATUS_OK;
    while (s.len && st == STATUS_OK) {
        /* The longest valid piece that starts here, at most one code point long. */
        size_t n = 1;
        while (n <= 4 && n <= s.len && !is_utf8(s.ptr, n))
            n++;
        bool valid = n <= 4 && n <= s.len;
        st = valid ? buf_append(&clean, s.ptr, n) : buf_append_str(&clean, STR("\xEF\xBF\xBD"));
        n = valid ? n : 1;
        s.ptr += n;
        s.len -= n;
    }
    json_t *text = st == STATUS_OK ? json_stringn(clean.data ? clean.data : "", clean.len) : NULL;
    buf_deinit(&clean);
    return text;
}
