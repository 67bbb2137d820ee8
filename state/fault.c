#include "state/fault.h"

#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FAULTS_MAX 8

enum mode { MODE_FAIL, MODE_ABORT, MODE_HANG, MODE_STOP };
static const char *const mode_names[] = {"fail", "abort", "hang", "stop"};

struct fault {
    char name[48];
    enum mode mode;
    _Atomic int64_t left; /* passings until it happens; 0 and below: it has happened */
};

bool fault_armed;
static struct fault faults[FAULTS_MAX];
static size_t n_faults;

bool fault_hit(const char *name)
{
    bool fail = false;
    for (size_t i = 0; i < n_faults; i++) {
        if (strcmp(faults[i].name, name) != 0 || atomic_fetch_sub(&faults[i].left, 1) != 1)
            continue;
        if (faults[i].mode == MODE_ABORT)
            kill(getpid(), SIGKILL);
        if (faults[i].mode == MODE_HANG)
            fprintf(stderr, "hanging at %s\n", name); /* tests wait for this */
        while (faults[i].mode == MODE_HANG)
            pause();
        if (faults[i].mode == MODE_STOP)
            kill(getpid(), SIGSTOP);
        else
            fail = true;
    }
    return fail;
}

/* One "name:n:mode" of len bytes. */
static bool parse_one(const char *text, size_t len, struct fault *ret)
{
    char copy[96];
    if (len >= sizeof(copy))
        return false;
    memcpy(copy, text, len);
    copy[len] = '\0';

    char *count = strchr(copy, ':');
    char *mode = count ? strchr(count + 1, ':') : NULL;
    if (!mode || count == copy || (size_t)(count - copy) >= sizeof(ret->name))
        return false;
    *count++ = '\0';
    *mode++ = '\0';

    char *end = NULL;
    uintmax_t n = strtoumax(count, &end, 10);
    if (*count < '0' || *count > '9' || *end != '\0' || n == 0 || n > INT32_MAX)
        return false;
    size_t m = 0;
    while (m <= MODE_STOP && strcmp(mode, mode_names[m]) != 0)
        m++;
    if (m > MODE_STOP)
        return false;
    memcpy(ret->name, copy, strlen(copy) + 1);
    ret->mode = (enum mode)m;
    ret->left = (int64_t)n;
    return true;
}

enum status fault_arm(const char *spec, struct error *err)
{
    fault_armed = false;
    n_faults = 0;
    for (const char *at = spec; at && *at;) {
        size_t len = strcspn(at, ",");
        if (n_faults == FAULTS_MAX || !parse_one(at, len, &faults[n_faults]))
            return error_set(
                err, STATUS_INVALID,
                "could not read the fault \"%s\": expected name:n:abort, "
                "name:n:fail, name:n:hang or name:n:stop, at most %d of them separated by commas",
                spec, FAULTS_MAX);
        n_faults++;
        at += len + (at[len] == ',');
    }
    fault_armed = n_faults > 0;
    return STATUS_OK;
}

__attribute__((constructor)) static void arm_from_environment(void)
{
    struct error err;
    if (fault_arm(getenv("WARMPATH_FAULT"), &err)) {
        fprintf(stderr, "WARMPATH_FAULT: %s\n", err.text);
        _exit(64);
    }
}
