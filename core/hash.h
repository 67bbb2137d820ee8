/*
 * core/hash.h - one 64-bit hash for routing, ids and features. Its values are durable (partition
 * numbers, feature buckets, message ids in records): changing it is a change of state format.
 */
#pragma once

#include "core/buf.h"

/* FNV-1a over the bytes, finished with the 64-bit mixer of MurmurHash3 so that every output bit
 * depends on every input bit. Never 0, so that 0 can mean "none". */
uint64_t hash64(struct str s);
uint64_t hash64_mix(uint64_t x); /* the finaliser alone: a bijection on 64-bit integers */
