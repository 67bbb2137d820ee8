/*
 * bench/freshness.c - how fresh a read is, by replaying real times of messages through the real
 * worker on a virtual clock. `./dev bench freshness` (bench/freshness.py) feeds and runs it.
 *
 * usage: freshness [--tiers none|a|ab] [--validity] [--latency-us N] [--reply-us N] < TIMES
 *        freshness --decile < TIMES
 *
 * TIMES: a line "TIME_US USER" for each message of a user (a number), in order of time. One JSON
 * object is printed.
 *
 * Real: the partition worker with its triggers, timers, engines, journal, epochs and what it says
 * of its progress, and the freshness rules of strategic_freshness(). Simulated: time; the texts
 * (words of a few topics, since the data have none); the bot's answer, --reply-us after each
 * message; and PostgreSQL, a table in memory in which a row can be seen --latency-us after the
 * worker computed it. Timers are looked at every 100 ms.
 *
 * The application reads twice for each message: when it arrives, before anything of it is read
 * here, and 50 ms later. A read is as good as the worst of its rows: those three that messages
 * alone fill.
 */
#include "core/clock.h"
#include "engines/gap_law.h"
#include "engines/kernels.h"
#include "engines/tables.h"
#include "pipeline/day_sums.h"
#include "pipeline/heap.h"
#include "pipeline/partition.h"
#include "pipeline/route.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TTL_US    (5 * US_PER_MINUTE)
#define READ_US   (50 * US_PER_SECOND / 1000)
#define STEP_US   (US_PER_SECOND / 10) /* between looks at the timers */
#define HOUR_GAP  (60 * US_PER_MINUTE) /* longer pauses end a session */
#define STALE_US  US_PER_DAY
#define BEHIND_US (5 * US_PER_MINUTE)
#define USERS_MAX 100000
#define BOT       STR("bot")

enum freshness { FRESH, CURRENT, STALE, EXPIRED, MISSING, KINDS };
static const char *const freshness_names[] = {"fresh", "current", "stale", "expired", "missing"};

static const enum table_id read_tables[] = {TABLE_PERSONALITY_PROFILES, TABLE_CONVERSATION_PATTERNS,
                                            TABLE_ENGAGEMENT_OPPORTUNITIES};
#define READ_TABLES (sizeof(read_tables) / sizeof(read_tables[0]))

/* What PostgreSQL would hold of a row. */
struct cached {
    bool there;
    int64_t expires_us;
    int64_t valid_us;
};

struct user {
    int64_t last_us; /* of any message of the key, for the sessions */
    uint32_t n;
    bool active; /* the read under way is not the first of its session */
    struct cached rows[TABLE_COUNT];
};

/* A row between COMMIT and the reader. */
struct pending {
    int64_t visible_us;
    size_t user; /* USERS_MAX: the bot's own */
    struct cached row;
    struct sink_result result;
};

enum { AT_MESSAGE, AT_REPLY, AT_READ };

struct tally {
    uint64_t bundle[KINDS];
    uint64_t rows[KINDS];
};

struct bench {
    bool validity;
    bool ahead; /* with renewal: tiers A and B */
    bool recent;
    int64_t latency_us, reply_us;
    struct partition *p;
    struct store *store;
    struct user *users;
    struct heap agenda; /* of (time, user << 2 | what) */
    struct pending *pending;
    size_t n_pending, cap_pending, first_pending, answered;
    struct day_sums day;
    uint64_t pseq[LIMIT_PARTITIONS];
    uint64_t lsn;
    int64_t now_us;
    int64_t looked_us; /* at the timers */
    uint64_t messages, user_messages, written, touched, removed;
    struct tally reads[2][2]; /* [50 ms later][active sessions only] */
};

static void must(enum status st, const struct error *err)
{
    if (st) {
        fprintf(stderr, "freshness: %s\n", err->text);
        exit(1);
    }
}

static void *must_have(void *p)
{
    if (!p) {
        fprintf(stderr, "freshness: out of memory\n");
        exit(1);
    }
    return p;
}

/* ---- PostgreSQL ---- */

static size_t port_room(void *ctx)
{
    (void)ctx;
    return 4096;
}

static size_t user_of(struct str id)
{
    size_t user = 0;
    for (size_t i = 1; i < id.len; i++)
        user = user * 10 + (size_t)(id.ptr[i] - '0');
    return id.len ? user : USERS_MAX;
}

static enum status port_submit(void *ctx, struct sink_item *items, size_t n)
{
    struct bench *b = ctx;
    for (size_t i = 0; i < n; i++) {
        struct row *row = &items[i].row;
        if (b->n_pending == b->cap_pending) {
            b->cap_pending = b->cap_pending ? b->cap_pending * 2 : 1024;
            b->pending = must_have(realloc(b->pending, b->cap_pending * sizeof(*b->pending)));
        }
        int64_t expires_us = b->now_us + TTL_US;
        if (b->validity && row->valid_until_us > expires_us)
            expires_us = row->valid_until_us;
        b->pending[b->n_pending++] = (struct pending){
            .visible_us = b->now_us + b->latency_us,
            .user = user_of(row_user(row)),
            .row = {!items[i].remove, expires_us, row->valid_until_us},
            .result = {.key_id = items[i].key_id,
                       .table = items[i].table,
                       .row_version = row->row_version,
                       .payload_hash = items[i].payload_hash,
                       .outcome = items[i].touch ? SINK_TOUCHED : SINK_WRITTEN},
        };
        b->written += !items[i].touch && !items[i].remove;
        b->touched += items[i].touch;
        b->removed += items[i].remove;
        row_deinit(row);
    }
    return STATUS_OK;
}

static void show_rows(struct bench *b)
{
    for (; b->first_pending < b->n_pending; b->first_pending++) {
        const struct pending *r = &b->pending[b->first_pending];
        if (r->visible_us > b->now_us)
            return;
        if (r->user < USERS_MAX)
            b->users[r->user].rows[r->result.table] = r->row;
    }
}

static size_t port_poll(void *ctx, uint32_t worker, struct sink_result *out, size_t max)
{
    struct bench *b = ctx;
    (void)worker;
    size_t n = 0;
    while (b->answered < b->first_pending && n < max)
        out[n++] = b->pending[b->answered++].result;
    if (b->answered == b->n_pending)
        b->answered = b->first_pending = b->n_pending = 0;
    return n;
}

/* ---- the reader ---- */

/* As strategic_freshness(); the heartbeat is never late here. */
static enum freshness freshness_of(const struct bench *b, const struct cached *c, int64_t caught_us)
{
    if (!c->there)
        return MISSING;
    if (c->expires_us > b->now_us)
        return FRESH;
    if (c->valid_us > b->now_us && caught_us > b->now_us - BEHIND_US)
        return CURRENT;
    return c->expires_us > b->now_us - STALE_US ? STALE : EXPIRED;
}

static void read_bundle(struct bench *b, const struct user *u, bool later)
{
    int64_t caught_us = partition_view(b->p).caught_up_us;
    enum freshness worst = FRESH;
    for (int active = 0; active <= (int)u->active; active++) {
        struct tally *t = &b->reads[later][active];
        worst = FRESH;
        for (size_t i = 0; i < READ_TABLES; i++) {
            enum freshness f = freshness_of(b, &u->rows[read_tables[i]], caught_us);
            t->rows[f]++;
            worst = f > worst ? f : worst;
        }
        t->bundle[worst]++;
    }
}

/* ---- the worker ---- */

static struct trigger_policy policy(void *ctx, enum table_id table, struct str bot_name)
{
    const struct bench *b = ctx;
    (void)bot_name;
    struct trigger_policy policy = {0};
    for (size_t i = 0; engine_at(i); i++)
        if (engine_fills(engine_at(i), table))
            policy = policy.max_age_us ? trigger_either(&policy, &engine_at(i)->trigger)
                                       : engine_at(i)->trigger;
    if (!b->ahead)
        policy.refresh_us = 0;
    if (!b->recent)
        policy.recent_us = 0;
    return policy;
}

static void open_worker(struct bench *b, const char *dir)
{
    struct error err = {0};
    struct store_identity id = {.pipeline = "freshness", .partitions = LIMIT_PARTITIONS};
    bool fresh = false;
    must(store_set_open(dir, 1, 1, &id, &fresh, &b->store, &err), &err);
    struct partition_config cfg = {
        .workers = 1,
        .store = b->store,
        .sink = {port_room, port_submit, port_poll, b},
        .policy = policy,
        .policy_ctx = b,
        .memory_max = (size_t)1 << 30,
        .catch_up_lag_us = 5 * US_PER_SECOND,
        .epoch = 1,
    };
    must(partition_open(&cfg, b->now_us, &b->p, &err), &err);
}

static enum status add_part(void *ctx, const struct store_part *part, struct error *err)
{
    struct bench *b = ctx;
    return day_sums_add(&b->day, part->bot_name, part->bytes, err);
}

/* As the router does (pipeline/partition.h). */
static void change_day(struct bench *b, int32_t day)
{
    struct error err = {0};
    must(partition_commit(b->p, b->now_us, &err), &err);
    must(partition_close_day(b->p, day, &err), &err);
    must(partition_day_parts(b->p, day, add_part, b, &err), &err);
    for (size_t i = 0; i < b->day.n; i++)
        must(partition_learned(b->p, day, b->day.bots[i].name, b->day.bots[i].sums, &err), &err);
    must(partition_open_day(b->p, day, &err), &err);
    day_sums_deinit(&b->day);
}

static void move_to(struct bench *b, int64_t now_us)
{
    for (int32_t d = kernel_day(b->now_us) + 1; d <= kernel_day(now_us); d++)
        change_day(b, d);
    b->now_us = now_us;
    uint64_t covered[SOURCE_COUNT] = {b->lsn, 0};
    partition_covered(b->p, covered, now_us);
    show_rows(b);
}

static void run_worker(struct bench *b)
{
    struct error err = {0};
    must(partition_tick(b->p, b->now_us, &err), &err);
    must(partition_commit(b->p, b->now_us, &err), &err);
}

/* A conversation stays with its topic for about seven messages. */
static void make_text(uint64_t user, uint64_t n, char *out, size_t size)
{
    static const char *const words[] = {"garden",    "winter",   "bicycle", "kernel",
                                        "sourdough", "museum",   "chess",   "harbour",
                                        "violin",    "marathon", "tomato",  "compiler"};
    uint64_t topic = (user * 31 + n / 7) * UINT64_C(0x9E3779B97F4A7C15);
    size_t len = 0;
    for (uint64_t i = 0; i < 5; i++) {
        uint64_t word = (topic >> 32) * 7 + (n * 5 + i) % 9;
        len += (size_t)snprintf(out + len, size - len, "%s%" PRIu64 " ", words[word % 12],
                                (topic >> 40) % 50);
    }
}

static void say(struct bench *b, size_t user, bool by_bot)
{
    char id[32], name[24], text[200];
    snprintf(id, sizeof(id), "m%" PRIu64, b->messages);
    snprintf(name, sizeof(name), "u%zu", user);
    make_text(user, b->users[user].n++, text, sizeof(text));
    struct event e = {
        .type = EVENT_MESSAGE,
        .id = str_from(id),
        .user_id = str_from(name),
        .bot_name = BOT,
        .at_us = b->now_us,
        .u.message = {.role = by_bot ? ROLE_BOT : ROLE_USER,
                      .op = MESSAGE_INSERT,
                      .content = str_from(text),
                      .emotion_confidence = __builtin_nan("")},
    };
    struct route route = route_event(&e);
    b->lsn++;
    for (uint32_t i = 0; i < route.n; i++) {
        uint32_t p = route_at(&route, i);
        struct frame_event f = {.partition = p,
                                .pseq = ++b->pseq[p],
                                .pos = {b->lsn, 0},
                                .commit_us = b->now_us,
                                .as_of_us = b->now_us};
        struct error err = {0};
        must(partition_apply(b->p, &f, &e, b->now_us, &err), &err);
    }
    b->messages++;
    b->users[user].last_us = b->now_us;
    run_worker(b);
}

/* ---- time ---- */

static void plan(struct bench *b, int64_t at_us, size_t user, unsigned what)
{
    if (heap_push(&b->agenda, (struct heap_item){at_us, (uint64_t)user << 2 | what}))
        must_have(NULL);
}

static void take_message(struct bench *b, size_t user)
{
    struct user *u = &b->users[user];
    u->active = u->last_us && b->now_us - u->last_us < HOUR_GAP;
    b->user_messages++;
    read_bundle(b, u, false);
    say(b, user, false);
    plan(b, b->now_us + READ_US, user, AT_READ);
    if (b->reply_us > 0)
        plan(b, b->now_us + b->reply_us, user, AT_REPLY);
}

/* Everything that happens before until_us, in order. */
static void live_until(struct bench *b, int64_t until_us)
{
    for (;;) {
        int64_t timer = partition_view(b->p).next_us;
        if (timer != TRIGGER_NEVER && timer < b->looked_us + STEP_US)
            timer = b->looked_us + STEP_US;
        if (b->first_pending < b->n_pending && b->pending[b->first_pending].visible_us < timer)
            timer = b->pending[b->first_pending].visible_us;
        int64_t planned = b->agenda.n > 0 ? heap_top(&b->agenda).due_us : INT64_MAX;
        int64_t next = timer < planned ? timer : planned;
        if (next >= until_us)
            return;
        move_to(b, next > b->now_us ? next : b->now_us);
        if (planned > timer) {
            b->looked_us = b->now_us;
            run_worker(b);
            continue;
        }
        struct heap_item item = heap_top(&b->agenda);
        heap_pop(&b->agenda);
        size_t user = item.key_id >> 2;
        if ((item.key_id & 3) == AT_READ)
            read_bundle(b, &b->users[user], true);
        else
            say(b, user, true);
    }
}

static void print_tally(const char *name, const struct tally *t)
{
    printf("\"%s\":{", name);
    for (int i = 0; i < KINDS; i++)
        printf("\"%s\":%" PRIu64 ",", freshness_names[i], t->bundle[i]);
    printf("\"rows\":{");
    for (int i = 0; i < KINDS; i++)
        printf("%s\"%s\":%" PRIu64, i ? "," : "", freshness_names[i], t->rows[i]);
    printf("}}");
}

static void run(struct bench *b)
{
    char dir[] = "/dev/shm/warmpath-freshness-XXXXXX";
    char other[] = "/tmp/warmpath-freshness-XXXXXX";
    char *state = access("/dev/shm", W_OK) == 0 ? dir : other;
    must_have(mkdtemp(state));
    int64_t t_us = 0;
    size_t user = 0;
    while (scanf("%" SCNd64 " %zu", &t_us, &user) == 2) {
        if (user >= USERS_MAX || t_us < b->now_us) {
            fprintf(stderr, "freshness: users are numbers below %d, times do not go back\n",
                    USERS_MAX);
            exit(1);
        }
        if (!b->p) {
            b->now_us = t_us;
            open_worker(b, state);
        }
        live_until(b, t_us);
        move_to(b, t_us);
        take_message(b, user);
    }
    live_until(b, b->now_us + US_PER_MINUTE);
    static const char *const names[2][2] = {{"all", "active"}, {"all_50ms", "active_50ms"}};
    printf("{\"messages\":%" PRIu64 ",\"user_messages\":%" PRIu64 ",\"written\":%" PRIu64
           ",\"touched\":%" PRIu64,
           b->messages, b->user_messages, b->written, b->touched);
    for (int later = 0; later < 2; later++)
        for (int active = 0; active < 2; active++) {
            printf(",");
            print_tally(names[later][active], &b->reads[later][active]);
        }
    printf("}\n");
    partition_close(b->p);
    store_close(b->store);
    char command[96];
    snprintf(command, sizeof(command), "rm -rf %s", state);
    if (system(command))
        fprintf(stderr, "freshness: could not remove %s\n", state);
}

/* ---- the decile ---- */

#define P_BINS 10000

struct silence {
    int64_t last_us, previous_us;
    int64_t gaps_us[300]; /* newest last */
    size_t n_gaps;
    uint32_t hours[HOURS_OF_WEEK];
};

struct decile {
    uint64_t steps[2][P_BINS]; /* with activity, without */
    uint64_t returns[2][P_BINS];
};

/* Ten-minute steps of a silence that ended after gap_us, from tier B's beginning to its end. */
static void count_silence(const struct silence *s, int64_t gap_us, struct decile *d)
{
    struct gap_history history = {0};
    uint32_t weight = GAP_NOW;
    for (size_t i = s->n_gaps; i-- > 0; weight = gap_fade(weight))
        gap_history_add(&history, s->gaps_us[i], weight);
    double law[EPOCH_GAP_BINS], activity[2][HOURS_OF_WEEK];
    int64_t previous_us = s->n_gaps ? s->gaps_us[s->n_gaps - 1] : GAP_NONE;
    gap_law(&history, gap_context(s->last_us, previous_us), NULL, law);
    kernel_activity(s->hours, NULL, activity[0]);
    for (size_t h = 0; h < HOURS_OF_WEEK; h++)
        activity[1][h] = 1.0 / HOURS_OF_WEEK;
    for (int64_t t = 30 * US_PER_MINUTE; t < gap_us && t < US_PER_DAY; t += GAP_VISIT_STEP_US)
        for (int i = 0; i < 2; i++) {
            double p = gap_return(law, activity[i], s->last_us, s->last_us + t);
            size_t bin = (size_t)(p * P_BINS);
            bin = bin < P_BINS ? bin : P_BINS - 1;
            d->steps[i][bin]++;
            d->returns[i][bin] += gap_us < t + GAP_VISIT_STEP_US;
        }
}

static void run_decile(void)
{
    struct silence *users = must_have(calloc(USERS_MAX, sizeof(*users)));
    struct decile *d = must_have(calloc(1, sizeof(*d)));
    int64_t t_us = 0;
    size_t user = 0;
    while (scanf("%" SCNd64 " %zu", &t_us, &user) == 2 && user < USERS_MAX) {
        struct silence *s = &users[user];
        if (s->last_us) {
            count_silence(s, t_us - s->last_us, d);
            if (s->n_gaps == 300)
                memmove(s->gaps_us, s->gaps_us + 1, --s->n_gaps * sizeof(s->gaps_us[0]));
            s->gaps_us[s->n_gaps++] = t_us - s->last_us;
        }
        s->last_us = t_us;
        s->hours[kernel_hour_of_week(t_us)]++;
    }
    for (int i = 0; i < 2; i++) {
        uint64_t steps = 0, returns = 0, above = 0, caught = 0;
        for (size_t bin = 0; bin < P_BINS; bin++) {
            steps += d->steps[i][bin];
            returns += d->returns[i][bin];
        }
        size_t bin = P_BINS;
        while (bin > 0 && above + d->steps[i][bin - 1] <= steps / 10) {
            bin--;
            above += d->steps[i][bin];
            caught += d->returns[i][bin];
        }
        printf("{\"hours\":%s,\"steps\":%" PRIu64 ",\"threshold\":%.4f,\"returns\":%" PRIu64
               ",\"in_decile\":%.3f}\n",
               i ? "false" : "true", steps, (double)bin / P_BINS, returns,
               (double)caught / (double)returns);
    }
    free(users);
    free(d);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"tiers", required_argument, NULL, 't'},      {"validity", no_argument, NULL, 'v'},
        {"latency-us", required_argument, NULL, 'l'}, {"reply-us", required_argument, NULL, 'r'},
        {"decile", no_argument, NULL, 'd'},           {NULL, 0, NULL, 0}};
    struct bench b = {.ahead = true,
                      .recent = true,
                      .latency_us = 20 * US_PER_SECOND / 1000,
                      .reply_us = 5 * US_PER_SECOND};
    for (int c = 0; (c = getopt_long(argc, argv, "", options, NULL)) >= 0;) {
        if (c == 't') {
            b.ahead = strcmp(optarg, "none") != 0;
            b.recent = strcmp(optarg, "ab") == 0;
        } else if (c == 'v') {
            b.validity = true;
        } else if (c == 'l') {
            b.latency_us = strtoll(optarg, NULL, 10);
        } else if (c == 'r') {
            b.reply_us = strtoll(optarg, NULL, 10);
        } else if (c == 'd') {
            run_decile();
            return 0;
        } else {
            return 64;
        }
    }
    b.users = must_have(calloc(USERS_MAX, sizeof(*b.users)));
    run(&b);
    heap_deinit(&b.agenda);
    free(b.pending);
    free(b.users);
    return 0;
}
