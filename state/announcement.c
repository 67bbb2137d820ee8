#include "state/announcement.h"

#include <inttypes.h>
#include <string.h>

#include "core/jsonw.h"

/* Cuts the first name off a list; false: there is none. */
static bool next_name(struct str *list, struct str *ret)
{
    if (list->len == 0)
        return false;
    const char *comma = memchr(list->ptr, ',', list->len);
    size_t n = comma ? (size_t)(comma - list->ptr) : list->len;
    *ret = (struct str){list->ptr, n};
    n += comma != NULL;
    *list = (struct str){list->ptr + n, list->len - n};
    return true;
}

static enum status put_string(struct str s, struct buf *out)
{
    struct jsonw w;
    jsonw_init(&w, out);
    if (s.ptr)
        jsonw_string(&w, s);
    else
        jsonw_null(&w);
    return jsonw_status(&w);
}

enum status announcement_write(const struct announcement *a, struct buf *out)
{
    enum status st = buf_append_str(out, STR("{\"bot_name\":"));
    if (!st)
        st = put_string(a->bot, out);
    if (!st)
        st = buf_append_str(out, STR(",\"user_id\":"));
    if (!st)
        st = put_string(a->user, out);
    if (!st)
        st = buf_append_str(out, STR(",\"tables\":["));
    struct str rest = a->tables, name;
    for (bool first = true; !st && next_name(&rest, &name); first = false) {
        if (!first)
            st = buf_append_str(out, STR(","));
        if (!st)
            st = put_string(name, out);
    }
    if (!st)
        st = buf_printf(out, "],\"row_version\":%" PRIu64 ",\"reason\":", a->row_version);
    if (!st)
        st = put_string(a->reason, out);
    return st ? st : buf_append_str(out, STR("}"));
}

static bool has_one(struct str tables, struct str wanted)
{
    struct str name;
    while (next_name(&tables, &name))
        if (str_equal(name, wanted))
            return true;
    return false;
}

bool announcement_has_table(struct str tables, struct str names)
{
    struct str name;
    if (names.len == 0)
        return true;
    while (next_name(&names, &name))
        if (has_one(tables, name))
            return true;
    return false;
}

enum status announcement_join_tables(struct str a, struct str b, struct buf *out)
{
    enum status st = buf_append_str(out, a);
    struct str name;
    while (!st && next_name(&b, &name)) {
        if (has_one(a, name))
            continue;
        if (out->len > 0)
            st = buf_append_str(out, STR(","));
        if (!st)
            st = buf_append_str(out, name);
    }
    return st;
}

bool announcement_erases(const struct announcement *a)
{
    return str_equal(a->reason, STR(ANNOUNCEMENT_ERASE));
}
