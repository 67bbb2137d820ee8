#include "server/slot_loss.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/log.h"

#define PATH_BYTES (CONFIG_PATH_BYTES + 32)

bool slot_loss_may_rebuild(int64_t now_us, int64_t rebuilt_us)
{
    int64_t apart_us = now_us > rebuilt_us ? now_us - rebuilt_us : rebuilt_us - now_us;
    return rebuilt_us == 0 || apart_us >= SLOT_LOSS_REST_US;
}

static int64_t read_note(const char *path)
{
    FILE *f = fopen(path, "re");
    if (!f)
        return 0;
    int64_t at_us = 0;
    char line[64] = "";
    if (fgets(line, sizeof(line), f) && sscanf(line, "%" SCNd64, &at_us) != 1)
        at_us = 0;
    fclose(f);
    return at_us;
}

/* Durable before anything is thrown away: a crash on the way must not give a second rebuild. */
static enum status write_note(const char *dir, const char *path, int64_t now_us, const char *why,
                              struct error *err)
{
    char fresh[PATH_BYTES];
    snprintf(fresh, sizeof(fresh), "%s/rebuild.new", dir);
    (void)mkdir(dir, 0700); /* a state that is gone has taken its directory along */
    FILE *f = fopen(fresh, "we");
    bool ok = f && fprintf(f, "%" PRId64 "\n%s\n", now_us, why) > 0 && fflush(f) == 0 &&
              fsync(fileno(f)) == 0;
    if (f)
        ok &= fclose(f) == 0;
    if (!ok || rename(fresh, path) != 0)
        return error_set(err, STATUS_IO, "could not write \"%s\": %s", path, strerror(errno));
    return STATUS_OK;
}

enum status slot_loss_decide(const struct config *cfg, int64_t now_us, struct error *err)
{
    char path[PATH_BYTES];
    char when[40];
    struct error loss = *err;
    snprintf(path, sizeof(path), "%s/rebuild", cfg->state_dir);
    int64_t rebuilt_us = read_note(path);
    if (cfg->on_slot_lost == ON_SLOT_LOST_STOP)
        return error_set(err, STATUS_REFUSED,
                         "%.520s. To count everything again from the tables, start with "
                         "source.on_slot_lost: rebuild; see \"When the slot is lost\" in "
                         "docs/OPERATIONS.md",
                         loss.text);
    if (!slot_loss_may_rebuild(now_us, rebuilt_us)) {
        time_format(rebuilt_us, 0, when);
        return error_set(err, STATUS_REFUSED,
                         "%.420s. It was already lost at %s and rebuilt then: mend what loses it "
                         "first, then remove \"%.200s\" and start again",
                         loss.text, when, path);
    }
    enum status st = write_note(cfg->state_dir, path, now_us, loss.text, err);
    if (!st)
        log_write(LOG_ERROR, "run", "the slot is lost, rebuilding from the tables reason=\"%s\"",
                  loss.text);
    return st;
}
