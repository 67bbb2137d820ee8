/* core/event_arena.h - what the msgpack codec needs of an event arena; private to core/. */
#pragma once

#include "core/event.h"

#include <msgpack.h>

/* Reused by every decode and cleared by event_arena_reset(). */
msgpack_zone *event_arena_zone(struct event_arena *arena);
