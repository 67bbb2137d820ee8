/*
 * tests/sim/sim.c - runs universes, one child process each.
 *
 * usage: sim [--first SEED] [--seeds N] [--minutes M] [--jobs N] [--seed SEED] [--faults MASK]
 *            [--transactions N] [--verbose]
 *
 * --seed runs one universe in this process. A universe that fails is run again with fewer
 * transactions and fewer kinds of faults while it still fails; the smallest is printed as a
 * command.
 */
#include "tests/sim/sim.h"

#include <assert.h>
#include <ftw.h>
#include <inttypes.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core/log.h"
#include "ingest/stream.h"
#include "tests/fault/faultvfs.h"

#define STEPS_REST_MAX 400000
/* Longer than the longest max_age of an engine. */
#define STEP_US   (150 * INT64_C(1000))
#define TIMERS_US (400 * US_PER_SECOND)

/* ---- small things ---- */

void sim_fail(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fprintf(stderr, "sim: ");
    vfprintf(stderr, fmt, args);
    fprintf(stderr, "\n");
    va_end(args);
    exit(SIM_FAILED);
}

void sim_must(enum status st, const struct error *err)
{
    if (st)
        sim_fail("status %d: %s", (int)st, err ? err->text : "");
}

uint64_t sim_random(struct sim_random *r)
{
    uint64_t z = (r->state += UINT64_C(0x9E3779B97F4A7C15)); /* splitmix64 */
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

uint32_t sim_below(struct sim_random *r, uint32_t n)
{
    return (uint32_t)(sim_random(r) % n);
}

bool sim_chance(struct sim_random *r, uint32_t n, uint32_t of)
{
    return sim_below(r, of) < n;
}

static int64_t wall(void *ctx)
{
    return ((struct sim_time *)ctx)->wall_us;
}

static int64_t mono(void *ctx)
{
    return ((struct sim_time *)ctx)->mono_us;
}

struct clock sim_clock(struct sim_time *t)
{
    return (struct clock){wall, mono, t};
}

/* ---- one universe ---- */

static void pass_time(struct sim_world *w)
{
    uint32_t kind = sim_below(&w->random, 100);
    int64_t us = 0;
    if (kind < 70)
        us = sim_below(&w->random, 3000);
    else if (kind < 95)
        us = sim_below(&w->random, 150000);
    else if (kind < 99)
        us = sim_below(&w->random, 4000000);
    else
        us = (int64_t)sim_below(&w->random, 240) * US_PER_SECOND;
    w->time.mono_us += us;
    w->time.wall_us += us;
}

static void power_cut(struct sim_world *w)
{
    faultvfs_power_cut_some(sim_random(&w->random));
    faultvfs_power_on();
}

static bool happens(struct sim_world *w, enum sim_fault fault, uint32_t of)
{
    bool yes = w->faults && w->options.faults & fault && sim_chance(&w->random, 1, of);
    if (yes && w->options.verbose)
        fprintf(stderr, "%" PRId64 " fault %u\n", w->time.mono_us, (unsigned)fault);
    return yes;
}

static void mend_disk(struct sim_world *w)
{
    (void)faultvfs_disarm();
    w->disk_armed = false;
}

static struct sim_process *start(struct sim_world *w)
{
    struct sim_process *p = sim_process_start(w);
    if (p)
        return p;
    mend_disk(w);
    p = sim_process_start(w);
    if (!p)
        sim_fail("it does not start any more");
    return p;
}

static void arm_disk(struct sim_world *w)
{
    static const int codes[] = {SQLITE_IOERR_WRITE, SQLITE_FULL, SQLITE_IOERR_FSYNC};
    uint32_t kind = sim_below(&w->random, 3);
    struct faultvfs_plan plan = {
        .ops = kind == 2 ? FAULTVFS_SYNC : FAULTVFS_WRITE,
        .n = 1 + (int)sim_below(&w->random, 20),
        .code = codes[kind],
        .torn = sim_chance(&w->random, 1, 2),
    };
    faultvfs_arm(&plan);
    w->disk_armed = true;
}

/* Kills and starts again. */
static struct sim_process *restart(struct sim_world *w, struct sim_process *p)
{
    if (p)
        sim_process_kill(p);
    mend_disk(w);
    if (happens(w, SIM_POWER, 2))
        power_cut(w);
    return start(w);
}

/* The zombie is frozen, another takes its place; after a while it wakes up and goes on. */
static struct sim_process *take_over(struct sim_world *w, struct sim_process *zombie)
{
    mend_disk(w);
    w->reader = NULL; /* the server gave its session up */
    struct sim_process *p = start(w);
    uint32_t before = sim_below(&w->random, 300);
    for (uint32_t i = 0; i < before && p; i++) {
        pass_time(w);
        if (!sim_process_step(p))
            p = NULL;
    }
    if (!p)
        sim_fail("the instance that took over ended before the one that lost woke up");
    /* It sees by itself that it has lost, or the keeper of its lease tells it. */
    uint32_t steps = sim_below(&w->random, 300);
    while (zombie && steps-- > 0) {
        pass_time(w);
        if (!sim_process_step(zombie))
            zombie = NULL;
        if (sim_chance(&w->random, 1, 2) && !sim_process_step(p))
            sim_fail("the instance that took over ended");
    }
    if (zombie)
        sim_process_kill(zombie);
    return p;
}

static struct sim_process *some_fault(struct sim_world *w, struct sim_process *p)
{
    if (happens(w, SIM_LINK, 150))
        (void)sim_link_lose(&w->random);
    if (happens(w, SIM_SOURCE, 400))
        w->reader = NULL;
    if (happens(w, SIM_SOURCE, 800)) {
        w->reader = NULL;
        sim_source_crash(w->source, &w->random);
    }
    if (happens(w, SIM_CLOCK, 500))
        w->time.wall_us +=
            (int64_t)sim_below(&w->random, 7200) * US_PER_SECOND - 3600 * US_PER_SECOND;
    if (happens(w, SIM_DISK, 600) && !w->disk_armed)
        arm_disk(w);
    if (happens(w, SIM_KILL, 400))
        return restart(w, p);
    if (happens(w, SIM_ZOMBIE, 1500))
        return take_over(w, p);
    return p;
}

static struct sim_process *work(struct sim_world *w, struct sim_process *p)
{
    uint32_t left = w->options.transactions;
    while (left > 0) {
        if (sim_chance(&w->random, 1, 12)) {
            sim_source_commit(w->source, &w->random, SIM_START_US + w->time.mono_us);
            left--;
        }
        pass_time(w);
        if (!sim_process_step(p))
            p = restart(w, NULL);
        p = some_fault(w, p);
    }
    return p;
}

static void rest(struct sim_world *w, struct sim_process *p, const char *what)
{
    for (int i = 0; !sim_process_rests(p); i++) {
        pass_time(w);
        if (!sim_process_step(p))
            sim_fail("a process ended without a fault");
        if (i > STEPS_REST_MAX) {
            sim_process_print(p);
            sim_fail("it never comes to rest (%s)", what);
        }
    }
}

static void let_pass(struct sim_world *w, struct sim_process *p, int64_t us)
{
    int64_t until_us = w->time.mono_us + us;
    while (w->time.mono_us < until_us) {
        w->time.mono_us += STEP_US;
        w->time.wall_us += STEP_US;
        if (!sim_process_step(p))
            sim_fail("a process ended without a fault");
    }
}

/* ---- the judge ---- */

static enum status judge_event(void *ctx, const struct event *e, struct position pos,
                               int64_t commit_us, struct error *err)
{
    if (e->type == EVENT_DEAD_LETTER)
        return error_set(err, STATUS_INVALID, STR_FMT, STR_ARGS(e->u.dead_letter.reason));
    return oracle_add(ctx, e, SOURCE_POSTGRES, pos.lsn, commit_us, err);
}

static enum status judge_commit(void *ctx, lsn_t end, int64_t commit_us, struct error *err)
{
    (void)ctx;
    (void)end;
    (void)commit_us;
    (void)err;
    return STATUS_OK;
}

static void judge_idle(void *ctx, lsn_t end, int64_t server_us)
{
    (void)ctx;
    (void)end;
    (void)server_us;
}

/* The whole log, once, without any trouble, to the naive engines. */
static struct oracle *judge(struct sim_world *w)
{
    struct error err = {0};
    struct oracle *o = NULL;
    sim_must(oracle_new(&o, &err), &err);
    const struct receiver_ops ops = {
        .event = judge_event, .commit = judge_commit, .idle = judge_idle, .ctx = o};
    struct stream *stream = NULL;
    sim_must(stream_new(sim_mappings(), &ops, &stream, &err), &err);
    stream_start(stream, 0, 0);
    struct sim_source *s = w->source;
    struct sim_session session = {.open = true};
    struct buf bytes;
    buf_init(&bytes, 1 << 20);
    while (buf_reset(&bytes), sim_session_next(s, &session, 0, &bytes))
        sim_must(stream_put(stream, (struct str){bytes.data, bytes.len}, &err), &err);
    buf_deinit(&bytes);
    stream_free(stream);
    return o;
}

static int universe(const struct sim_options *options)
{
    struct sim_world w = {.options = *options, .random = {options->seed}, .faults = true};
    w.time = (struct sim_time){US_PER_SECOND, SIM_START_US + US_PER_SECOND};
    w.workers = 1 + sim_below(&w.random, 3);
    w.memory = sim_chance(&w.random, 1, 2) ? 64u << 20 : 100u << 10;
    snprintf(w.dir, sizeof(w.dir), "%s", options->dir);
    log_set_level(options->verbose ? LOG_INFO : LOG_ERROR);
    w.source = sim_source_new();
    w.cache = sim_cache_new();
    faultvfs_power_on();
    struct sim_process *p = work(&w, start(&w));
    mend_disk(&w);
    w.faults = false;
    rest(&w, p, "reading");
    /* Keys that are paged out show what they have when their timers say so. */
    let_pass(&w, p, TIMERS_US);
    w.draining = true;
    rest(&w, p, "showing");
    struct oracle *o = judge(&w);
    size_t rows = sim_cache_check_rows(w.cache, o, sim_process_as_of(p));
    if (options->verbose)
        fprintf(stderr, "seed %" PRIu64 ": %zu rows, %u starts, %" PRId64 " s\n", options->seed,
                rows, w.starts, w.time.mono_us / US_PER_SECOND);
    sim_process_kill(p);
    oracle_free(o);
    sim_cache_free(w.cache);
    sim_source_free(w.source);
    return 0;
}

/* ---- many ---- */

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st;
    (void)flag;
    (void)ftw;
    return remove(path);
}

struct child {
    pid_t pid;
    uint64_t seed;
    char dir[64];
};

/* A universe in a process of its own, so that whatever becomes of it leaves this one alone. */
static void child_start(struct child *c, const struct sim_options *options, bool quiet)
{
    struct sim_options o = *options;
    const char *tmp = getenv("SIM_DIR");
    snprintf(c->dir, sizeof(c->dir), "%s/warmpath-sim-XXXXXX", tmp ? tmp : "/tmp");
    c->seed = o.seed;
    if (!mkdtemp(c->dir)) {
        perror(c->dir);
        exit(1);
    }
    memcpy(o.dir, c->dir, sizeof(o.dir));
    fflush(NULL);
    c->pid = fork();
    assert(c->pid >= 0);
    if (c->pid > 0)
        return;
    if (quiet && !freopen("/dev/null", "w", stderr))
        _exit(1);
    exit(universe(&o));
}

/* Exit status, or 128 + the signal. */
static int child_end(const struct child *c, int status)
{
    nftw(c->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int run_one(const struct sim_options *options, bool quiet)
{
    struct child c;
    int status = 0;
    child_start(&c, options, quiet);
    while (waitpid(c.pid, &status, 0) != c.pid)
        ;
    return child_end(&c, status);
}

static void print_command(const struct sim_options *o)
{
    printf("    sim --seed %" PRIu64 " --faults %u --transactions %u\n", o->seed, o->faults,
           o->transactions);
}

/* Less of everything, as long as it still fails. */
static struct sim_options shrink(struct sim_options o)
{
    for (unsigned bit = 1; bit < SIM_FAULTS; bit <<= 1) {
        struct sim_options less = o;
        less.faults &= ~bit;
        if (less.faults != o.faults && run_one(&less, true) != 0)
            o = less;
    }
    for (uint32_t n = o.transactions / 2; n > 0;) {
        struct sim_options less = o;
        less.transactions = o.transactions > n ? o.transactions - n : 1;
        if (less.transactions < o.transactions && run_one(&less, true) != 0)
            o = less;
        else
            n /= 2;
    }
    return o;
}

struct runs {
    struct sim_options options;
    uint64_t first;
    uint64_t seeds; /* 0: until the time is over */
    double seconds; /* 0: no bound */
    unsigned jobs;
};

#define JOBS_MAX 64

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* The seed of the first that failed; its exit status, or 0. */
static int run_many(const struct runs *r, uint64_t *ret_seed, uint64_t *ret_done)
{
    struct child children[JOBS_MAX];
    unsigned n = 0;
    uint64_t next = 0;
    int failed = 0;
    double began = now_s();
    *ret_done = 0;
    for (;;) {
        bool more = !failed && (!r->seeds || next < r->seeds) &&
                    (r->seconds <= 0 || now_s() - began < r->seconds);
        if (more && n < r->jobs) {
            struct sim_options o = r->options;
            o.seed = r->first + next++;
            child_start(&children[n++], &o, true);
            continue;
        }
        if (n == 0)
            return failed;
        int status = 0;
        pid_t pid = wait(&status);
        unsigned i = 0;
        while (i < n && children[i].pid != pid)
            i++;
        assert(i < n);
        int code = child_end(&children[i], status);
        ++*ret_done;
        if (code && !failed) {
            failed = code;
            *ret_seed = children[i].seed;
        }
        children[i] = children[--n];
    }
}

static int usage(void)
{
    fprintf(stderr, "usage: sim [--first SEED] [--seeds N] [--minutes M] [--jobs N] [--seed SEED]\n"
                    "           [--faults MASK] [--transactions N] [--no-shrink] [--verbose]\n");
    return 64;
}

int main(int argc, char **argv)
{
    struct runs r = {
        .options = {.faults = SIM_FAULTS, .transactions = 60}, .first = 1, .seeds = 100, .jobs = 1};
    bool single = false;
    bool shrinks = true;
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(argv[i], "--verbose") == 0) {
            r.options.verbose = true;
            continue;
        }
        if (strcmp(argv[i], "--no-shrink") == 0) {
            shrinks = false;
            continue;
        }
        if (!value)
            return usage();
        uint64_t number = strtoull(value, NULL, 0);
        if (strcmp(argv[i], "--first") == 0)
            r.first = number;
        else if (strcmp(argv[i], "--seeds") == 0)
            r.seeds = number;
        else if (strcmp(argv[i], "--minutes") == 0)
            r.seconds = strtod(value, NULL) * 60;
        else if (strcmp(argv[i], "--jobs") == 0)
            r.jobs = number < JOBS_MAX ? (unsigned)number : JOBS_MAX;
        else if (strcmp(argv[i], "--faults") == 0)
            r.options.faults = (unsigned)number;
        else if (strcmp(argv[i], "--transactions") == 0)
            r.options.transactions = (uint32_t)number;
        else if (strcmp(argv[i], "--seed") == 0) {
            r.options.seed = number;
            single = true;
        } else {
            return usage();
        }
        i++;
    }
    faultvfs_install();
    if (single)
        return run_one(&r.options, false);
    if (r.seconds > 0)
        r.seeds = 0;
    uint64_t seed = 0;
    uint64_t done = 0;
    double began = now_s();
    int failed = run_many(&r, &seed, &done);
    printf("%" PRIu64 " universes from seed %" PRIu64 " in %.1f s, %s\n", done, r.first,
           now_s() - began, failed ? "one failed:" : "all as they should be");
    if (!failed)
        return 0;
    r.options.seed = seed;
    if (shrinks)
        r.options = shrink(r.options);
    print_command(&r.options);
    fflush(stdout);
    (void)run_one(&r.options, false); /* says why */
    return 1;
}
