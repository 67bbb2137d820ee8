#include "server/door_access.h"

#include "core/log.h"
#include "core/metrics.h"

#include <string.h>

#define LOG_PERIOD_US (10 * US_PER_SECOND)

void door_note_refused(const char *source, enum signature_reason reason, struct http_request *q,
                       int64_t now_us)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static struct log_limit limits[2]; /* guarded by lock */
    metric_add(METRIC_WEBHOOK_REJECTED, source, signature_reason_name(reason), 1);
    pthread_mutex_lock(&lock);
    int held = log_limit_pass(&limits[strcmp(source, DOOR_UNKNOWN) == 0], now_us, LOG_PERIOD_US);
    pthread_mutex_unlock(&lock);
    if (held < 0)
        return;
    struct str client = http_client(q), id = http_request_id(q);
    log_write(LOG_WARN, "http",
              "a request was not let in source=%s reason=%s client=\"" STR_FMT
              "\" request_id=" STR_FMT " others=%d",
              source, signature_reason_name(reason), STR_ARGS(client), STR_ARGS(id), held);
}

void door_lock_init(pthread_rwlock_t *lock)
{
    pthread_rwlockattr_t attr;
    pthread_rwlockattr_init(&attr);
    pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(lock, &attr);
    pthread_rwlockattr_destroy(&attr);
}
