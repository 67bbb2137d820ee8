#include "engines/params.h"

#include "core/hash.h"
#include "engines/engine.h"
#include "engines/key.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const int64_t shared[] = {
    FEATURE_FORMAT,
    KEY_FORMAT,
    EPOCH_FORMAT,
    LIMIT_MESSAGES,
    LIMIT_MEMORIES,
    LIMIT_ACCESSES,
    LIMIT_TOMBSTONES,
    LIMIT_CONTENT_BYTES,
    LIMIT_FUTURE_US,
    LIMIT_TRAITS,
    RECORD_WINDOW_US,
    RECORD_SESSION_GAP_US,
    RECORD_SESSION_MAX,
    RECORD_LABELS,
    RECORD_LABEL_BYTES,
    RECORD_VECTOR,
    RECORD_MARKS,
    RECORD_COMMON,
    RECORD_OUTREACH_MAX,
    RECORD_OUTREACH_US,
    RECORD_REPLY_US,
    EPOCH_CELLS,
    EPOCH_SCALE,
    EPOCH_DAYS,
    EPOCH_FREQUENT,
    EPOCH_FREQUENT_MESSAGES,
    TEXT_TOKENS,
    TEXT_DF,
    TEXT_INFORMATIVE_TOKENS,
    TEXT_MARK_TRIGRAMS,
    TEXT_MARK_TOKENS,
};

uint64_t engine_params(void)
{
    uint64_t h = 0;
    for (size_t i = 0; engine_at(i); i++) {
        h = hash64_mix(h ^ hash64(str_from(engine_at(i)->name)));
        h = hash64_mix(h ^ (uint64_t)engine_at(i)->version);
    }
    for (size_t i = 0; i < sizeof(shared) / sizeof(shared[0]); i++)
        h = hash64_mix(h ^ (uint64_t)shared[i]);
    return h;
}

enum status engine_add_params(struct row *row)
{
    char json[16];
    int n = snprintf(json, sizeof(json), "\"%08" PRIx64 "\"", engine_params() >> 32);
    return row_add_detail(row, "params", (struct str){json, (size_t)n});
}
