#include "core/hash.h"
#include "engines/kernels.h"
#include "engines/klog.h"

#include <assert.h>

enum status key_forget_user(struct key *k, struct str user_id, int64_t upto_us,
                            struct key_forgotten *ret, struct error *err)
{
    assert(k->scope == ENGINE_BOT && user_id.len > 0);
    *ret = (struct key_forgotten){0};
    enum status st = klog_follow_epochs(k, err);
    for (size_t i = k->messages_all; !st && i-- > 0;) {
        const struct msg_rec *m = &k->log.messages[i];
        if (m->t_us > upto_us || !feature_bot_id_is_of(m->id, user_id))
            continue;
        klog_remove_message(k, i);
        ret->messages++;
    }
    if (!st && k->metrics)
        ret->metric_days = metrics_forget_user(k->metrics, hash64(user_id), kernel_day(upto_us));
    klog_settle(k);
    return st;
}
