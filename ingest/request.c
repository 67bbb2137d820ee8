#include "ingest/request.h"

#include "core/cleanup.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

static void json_freep(json_t **slot)
{
    json_decref(*slot);
}

static enum status copy_string(const json_t *value, const char *member, struct event_arena *arena,
                               struct str *ret, struct error *err)
{
    if (!value || json_is_null(value))
        return STATUS_OK;
    if (!json_is_string(value))
        return error_set(err, STATUS_INVALID, "%s: must be a string", member);
    size_t len = json_string_length(value);
    char *copy = event_arena_alloc(arena, len + 1);
    if (!copy)
        return error_set(err, STATUS_NOMEM, "could not allocate a request");
    memcpy(copy, json_string_value(value), len + 1);
    *ret = (struct str){copy, len};
    return STATUS_OK;
}

static enum status read_op(const json_t *value, struct event *e, struct error *err)
{
    static const struct {
        const char *name;
        enum request_op op; /* 0: forget */
    } ops[] = {
        {"invalidate", REQUEST_INVALIDATE},
        {"recompute", REQUEST_RECOMPUTE},
        {"touch", REQUEST_TOUCH},
        {"forget", 0},
    };
    for (size_t i = 0; json_is_string(value) && i < sizeof(ops) / sizeof(ops[0]); i++) {
        struct str name = {json_string_value(value), json_string_length(value)};
        if (!str_equal(name, str_from(ops[i].name)))
            continue;
        e->type = ops[i].op ? EVENT_REQUEST : EVENT_PRIVACY;
        if (ops[i].op)
            e->u.request.op = ops[i].op;
        else
            e->u.privacy.op = PRIVACY_ERASE;
        return STATUS_OK;
    }
    return error_set(err, STATUS_INVALID, "op: must be invalidate, recompute, touch or forget");
}

static enum status check_members(json_t *root, struct error *err)
{
    static const char *const known[] = {"op", "user_id", "bot_name", "reason", "at"};
    size_t found = 0;
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        found += json_object_get(root, known[i]) != NULL;
    if (found != json_object_size(root))
        return error_set(err, STATUS_INVALID,
                         "a member is none of op, user_id, bot_name, reason and at");
    return STATUS_OK;
}

/* A far token would make rows valid whose invalidation is yet to come. */
static enum status read_token(const json_t *value, int64_t commit_us, struct event *e,
                              struct error *err)
{
    if (!json_is_integer(value))
        return error_set(err, STATUS_INVALID, "at: must be integer microseconds");
    e->at_us = json_integer_value(value);
    if (e->at_us > commit_us && e->at_us - commit_us > REQUEST_AHEAD_US)
        return error_set(err, STATUS_INVALID,
                         "at: more than an hour after its transaction: set the clocks");
    return STATUS_OK;
}

static enum status read_names(const json_t *root, struct event_arena *arena, struct event *e,
                              struct error *err)
{
    struct str bot = STR("");
    struct str reason = STR_NULL;
    enum status st =
        copy_string(json_object_get(root, "user_id"), "user_id", arena, &e->user_id, err);
    if (!st)
        st = copy_string(json_object_get(root, "bot_name"), "bot_name", arena, &bot, err);
    if (!st)
        st = copy_string(json_object_get(root, "reason"), "reason", arena, &reason, err);
    if (st)
        return st;
    if (e->type == EVENT_REQUEST)
        e->u.request.reason = reason;
    if (bot.len == 0)
        return STATUS_OK;
    /* The name as the application writes it; what is left of none would mean all bots. */
    char *normal = event_arena_alloc(arena, LIMIT_ID_BYTES);
    if (!normal)
        return error_set(err, STATUS_NOMEM, "could not allocate a request");
    e->bot_name = (struct str){normal, event_bot_name(bot, normal)};
    if (e->bot_name.len == 0 || bot.len > LIMIT_ID_BYTES)
        return error_set(err, STATUS_INVALID, "bot_name: not the name of a bot");
    return STATUS_OK;
}

enum status request_event(struct str content, struct position position, int64_t commit_us,
                          struct event_arena *arena, struct event *ret, struct error *err)
{
    if (content.len > REQUEST_BYTES_MAX)
        return error_set(err, STATUS_INVALID, "%zu bytes, at most %d are taken", content.len,
                         REQUEST_BYTES_MAX);
    json_error_t problem;
    /* JSON_ALLOW_NUL: event_check() refuses it where it stands. */
    CLEANUP(json_freep)
    json_t *root = json_loadb(content.len ? content.ptr : "", content.len,
                              JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &problem);
    if (!json_is_object(root))
        return error_set(err, STATUS_INVALID, "json: not one object (byte %d)",
                         root ? 0 : problem.position);
    *ret = (struct event){.user_id = STR(""), .bot_name = STR("")};
    char *id = event_arena_alloc(arena, 64);
    if (!id)
        return error_set(err, STATUS_NOMEM, "could not allocate a request");
    int len =
        snprintf(id, 64, "request:" LSN_FMT "/%" PRIu64, LSN_ARGS(position.lsn), position.seq);
    ret->id = (struct str){id, (size_t)len};
    enum status st = check_members(root, err);
    if (!st)
        st = read_op(json_object_get(root, "op"), ret, err);
    if (!st)
        st = read_names(root, arena, ret, err);
    if (!st)
        st = read_token(json_object_get(root, "at"), commit_us, ret, err);
    return st ? st : event_check(ret, err);
}
