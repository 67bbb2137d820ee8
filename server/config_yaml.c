#include "server/config_load.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

void config_problem(struct config_loader *l, struct config_mark mark, const char *path,
                    const char *fmt, ...)
{
    char message[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(message, sizeof(message), fmt, args);
    va_end(args);
    for (char *c = message; *c; c++)
        if ((unsigned char)*c < 0x20)
            *c = ' ';
    l->n_problems++;
    char where[64] = "";
    if (mark.line)
        snprintf(where, sizeof(where), ":%lu:%lu", mark.line, mark.column);
    /* Beyond the ceiling a problem is only counted: the first ones are what helps. */
    enum status st = buf_printf(l->problems, "%s%s: %s%s%s\n", l->name, where, path,
                                path[0] ? ": " : "", message);
    (void)st;
}

struct config_mark config_yaml_mark(yaml_mark_t mark)
{
    return (struct config_mark){.line = (unsigned long)mark.line + 1,
                                .column = (unsigned long)mark.column + 1};
}

static bool parser_failed(struct config_loader *l, const yaml_parser_t *p)
{
    struct config_mark mark = config_yaml_mark(p->problem_mark);
    if (p->error == YAML_READER_ERROR)
        mark = (struct config_mark){0};
    config_problem(l, mark, "", "%s", p->problem ? p->problem : "could not be read as YAML");
    return false;
}

/* What the plain subset leaves out, with the reason a user needs. */
static const char *refusal(const yaml_event_t *e, int depth, int documents)
{
    const yaml_char_t *anchor = NULL, *tag = NULL;
    switch (e->type) {
    case YAML_ALIAS_EVENT:
        return "aliases are not supported: write the value out";
    case YAML_SCALAR_EVENT:
        anchor = e->data.scalar.anchor;
        tag = e->data.scalar.tag;
        break;
    case YAML_SEQUENCE_START_EVENT:
        anchor = e->data.sequence_start.anchor;
        tag = e->data.sequence_start.tag;
        break;
    case YAML_MAPPING_START_EVENT:
        anchor = e->data.mapping_start.anchor;
        tag = e->data.mapping_start.tag;
        break;
    case YAML_NO_EVENT:
    case YAML_STREAM_START_EVENT:
    case YAML_STREAM_END_EVENT:
    case YAML_DOCUMENT_START_EVENT:
    case YAML_DOCUMENT_END_EVENT:
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT:
        break;
    }
    if (anchor)
        return "anchors are not supported: write the value out";
    if (tag)
        return "tags are not supported: types follow from the key";
    if (depth > CONFIG_DEPTH_MAX)
        return "is nested too deeply";
    if (documents > 1)
        return "a second document starts here: one is expected";
    return NULL;
}

static int depth_change(yaml_event_type_t type)
{
    if (type == YAML_SEQUENCE_START_EVENT || type == YAML_MAPPING_START_EVENT)
        return 1;
    return type == YAML_SEQUENCE_END_EVENT || type == YAML_MAPPING_END_EVENT ? -1 : 0;
}

/* Reads all events once; the document is only built from text that passed. */
static bool scan(struct config_loader *l, struct str text)
{
    yaml_parser_t parser;
    if (!yaml_parser_initialize(&parser)) {
        config_problem(l, (struct config_mark){0}, "", "out of memory");
        return false;
    }
    yaml_parser_set_input_string(&parser, (const unsigned char *)text.ptr, text.len);
    bool ok = true, end = false;
    int depth = 0, documents = 0;
    while (ok && !end) {
        yaml_event_t event;
        if (!yaml_parser_parse(&parser, &event)) {
            ok = parser_failed(l, &parser);
            break;
        }
        depth += depth_change(event.type);
        documents += event.type == YAML_DOCUMENT_START_EVENT;
        const char *why = refusal(&event, depth, documents);
        if (why) {
            config_problem(l, config_yaml_mark(event.start_mark), "", "%s", why);
            ok = false;
        }
        end = event.type == YAML_STREAM_END_EVENT;
        yaml_event_delete(&event);
    }
    yaml_parser_delete(&parser);
    return ok;
}

bool config_yaml_load(struct config_loader *l, struct str text, yaml_document_t *ret,
                      bool *ret_empty)
{
    if (text.len > CONFIG_FILE_BYTES) {
        config_problem(l, (struct config_mark){0}, "", "is larger than %u bytes",
                       CONFIG_FILE_BYTES);
        return false;
    }
    if (!scan(l, text))
        return false;
    yaml_parser_t parser;
    if (!yaml_parser_initialize(&parser)) {
        config_problem(l, (struct config_mark){0}, "", "out of memory");
        return false;
    }
    yaml_parser_set_input_string(&parser, (const unsigned char *)text.ptr, text.len);
    bool ok = yaml_parser_load(&parser, ret) || parser_failed(l, &parser);
    yaml_parser_delete(&parser);
    if (!ok)
        return false;
    *ret_empty = yaml_document_get_root_node(ret) == NULL;
    if (*ret_empty)
        yaml_document_delete(ret);
    return true;
}

enum status config_read_file(const char *path, size_t max, struct buf *out, struct error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return error_set(err, STATUS_IO, "could not open \"%s\": %s", path, strerror(errno));
    char chunk[4096];
    enum status st = STATUS_OK;
    ssize_t n = 0;
    while (st == STATUS_OK && (n = read(fd, chunk, sizeof(chunk))) != 0) {
        if (n < 0)
            st = error_set(err, STATUS_IO, "could not read \"%s\": %s", path, strerror(errno));
        else if (out->len + (size_t)n > max || buf_append(out, chunk, (size_t)n) != STATUS_OK)
            st = error_set(err, STATUS_LIMIT, "\"%s\" is larger than %zu bytes", path, max);
    }
    close(fd);
    return st;
}

/* A secret kept in a file usually ends with the newline that the editor wrote. */
static enum status expand_file(const char *path, struct buf *out, struct error *err)
{
    struct buf content;
    buf_init(&content, CONFIG_CONNINFO_BYTES);
    enum status st = config_read_file(path, CONFIG_CONNINFO_BYTES, &content, err);
    if (st == STATUS_OK && content.len && content.data[content.len - 1] == '\n')
        content.len--;
    if (st == STATUS_OK && content.len && buf_append(out, content.data, content.len) != STATUS_OK)
        st = error_set(err, STATUS_LIMIT, "is too long");
    buf_deinit(&content);
    return st;
}

static enum status expand_credential(const char *name, struct buf *out, struct error *err)
{
    const char *dir = getenv("CREDENTIALS_DIRECTORY");
    if (!dir)
        return error_set(err, STATUS_INVALID,
                         "credential \"%s\" is wanted but CREDENTIALS_DIRECTORY is not set", name);
    if (strchr(name, '/') || name[0] == '.' || name[0] == '\0')
        return error_set(err, STATUS_INVALID, "\"%s\" is not the name of a credential", name);
    char path[CONFIG_PATH_BYTES];
    if ((size_t)snprintf(path, sizeof(path), "%s/%s", dir, name) >= sizeof(path))
        return error_set(err, STATUS_LIMIT, "the path of credential \"%s\" is too long", name);
    return expand_file(path, out, err);
}

static enum status expand_one(struct str name, struct buf *out, struct error *err)
{
    char key[CONFIG_PATH_BYTES];
    if (name.len == 0 || name.len >= sizeof(key))
        return error_set(err, STATUS_INVALID, "${} needs a name");
    memcpy(key, name.ptr, name.len);
    key[name.len] = '\0';
    if (strncmp(key, "file:", 5) == 0)
        return expand_file(key + 5, out, err);
    if (strncmp(key, "credential:", 11) == 0)
        return expand_credential(key + 11, out, err);
    const char *value = getenv(key);
    if (!value)
        return error_set(err, STATUS_INVALID, "environment variable \"%s\" is not set", key);
    if (buf_append_str(out, str_from(value)) != STATUS_OK)
        return error_set(err, STATUS_LIMIT, "is too long");
    return STATUS_OK;
}

enum status config_expand(struct str text, struct buf *out, struct error *err)
{
    buf_reset(out);
    size_t i = 0;
    while (i < text.len) {
        size_t left = text.len - i;
        enum status st = STATUS_OK;
        if (left >= 2 && text.ptr[i] == '$' && text.ptr[i + 1] == '{') {
            const char *end = memchr(text.ptr + i, '}', left);
            if (!end)
                return error_set(err, STATUS_INVALID, "\"${\" without its \"}\"");
            struct str name = {text.ptr + i + 2, (size_t)(end - text.ptr) - i - 2};
            st = expand_one(name, out, err);
            i += name.len + 3;
        } else {
            bool escaped = left >= 2 && text.ptr[i] == '$' && text.ptr[i + 1] == '$';
            if (buf_append(out, text.ptr + i, 1) != STATUS_OK)
                st = error_set(err, STATUS_LIMIT, "is too long");
            i += escaped ? 2 : 1;
        }
        if (st != STATUS_OK)
            return st;
    }
    return STATUS_OK;
}
