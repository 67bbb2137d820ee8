#include "server/blocked.h"

#include "core/clock.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATH_BYTES 1100 /* CONFIG_PATH_BYTES and a name */

static enum status failed(const char *path, struct error *err)
{
    return error_set(err, STATUS_IO, "could not write \"%s\": %s", path, strerror(errno));
}

enum status blocked_write(const char *state_dir, const char *why, struct error *err)
{
    char path[PATH_BYTES];
    char fresh[PATH_BYTES];
    snprintf(path, sizeof(path), "%s/blocked", state_dir);
    snprintf(fresh, sizeof(fresh), "%s/blocked.new", state_dir);
    if (!why)
        return unlink(path) == 0 || errno == ENOENT ? STATUS_OK : failed(path, err);
    FILE *f = fopen(fresh, "we");
    if (!f)
        return failed(fresh, err);
    bool written = fprintf(f, "%s\n", why) > 0;
    written &= fclose(f) == 0;
    /* Whole or not at all: status may look at any time. */
    if (!written || rename(fresh, path) != 0)
        return failed(path, err);
    return STATUS_OK;
}

bool blocked_read(const char *state_dir, struct error *why, int64_t *ret_since_us)
{
    char path[PATH_BYTES];
    snprintf(path, sizeof(path), "%s/blocked", state_dir);
    FILE *f = fopen(path, "re");
    if (!f)
        return false;
    struct stat st;
    bool known = fstat(fileno(f), &st) == 0 && fgets(why->text, sizeof(why->text), f);
    fclose(f);
    if (!known)
        return false;
    why->text[strcspn(why->text, "\n")] = '\0';
    *ret_since_us = (int64_t)st.st_mtim.tv_sec * US_PER_SECOND + st.st_mtim.tv_nsec / 1000;
    return true;
}
