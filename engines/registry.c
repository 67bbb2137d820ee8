#include "engines/engine.h"

#include <string.h>

/* To add an engine: write engines/<name>.c, name it twice here and once in meson.build. In the
 * order of ENGINES.md. */
extern const struct engine_ops engine_memory_aging;
extern const struct engine_ops engine_character_performance;
extern const struct engine_ops engine_personality_profile;
extern const struct engine_ops engine_context_switch;
extern const struct engine_ops engine_memory_behavior;
extern const struct engine_ops engine_conversation_patterns;
extern const struct engine_ops engine_proactive_engagement;

static const struct engine_ops *const registry[] = {
    &engine_memory_aging,         &engine_character_performance, &engine_personality_profile,
    &engine_context_switch,       &engine_memory_behavior,       &engine_conversation_patterns,
    &engine_proactive_engagement,
};
_Static_assert(sizeof(registry) / sizeof(registry[0]) <= ENGINE_MAX, "raise ENGINE_MAX");

const struct engine_ops *engine_at(size_t index)
{
    return index < sizeof(registry) / sizeof(registry[0]) ? registry[index] : NULL;
}

static bool bot_asks_for_messages(void)
{
    for (size_t i = 0; engine_at(i); i++)
        if (engine_at(i)->scope == ENGINE_BOT && engine_at(i)->kinds & 1u << RECORD_MESSAGE)
            return true;
    return false;
}

uint32_t engine_scopes(const struct event *e)
{
    if (e->type == EVENT_METRIC || e->type == EVENT_CHARACTER)
        return 1u << ENGINE_BOT;
    bool of_bot = e->type == EVENT_MESSAGE_DELETED ||
                  (e->type == EVENT_MESSAGE &&
                   (e->u.message.role == ROLE_BOT || e->u.message.op == MESSAGE_UPDATE));
    return 1u << ENGINE_USER | (of_bot && bot_asks_for_messages() ? 1u << ENGINE_BOT : 0);
}

const struct engine_ops *engine_find(const char *name)
{
    for (size_t i = 0; engine_at(i); i++)
        if (strcmp(engine_at(i)->name, name) == 0)
            return engine_at(i);
    return NULL;
}
