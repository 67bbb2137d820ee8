#include "tests/support/pgcluster.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <libpq-fe.h>
#include <pwd.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define START_SECONDS 60

struct pgcluster {
    char bindir[256];
    char dir[128]; /* "" when somebody else's server is used */
    char conninfo[512];
    pid_t pid; /* of the postmaster, a child of ours; 0 when stopped */
};

/* ---- running programs as the user who may run a server ---- */

/* In the child: the server refuses to run as root. */
static void become_server_user(void)
{
    if (geteuid() != 0)
        return;
    const struct passwd *pw = getpwnam("postgres");
    if (!pw || initgroups("postgres", pw->pw_gid) || setgid(pw->pw_gid) || setuid(pw->pw_uid)) {
        fprintf(stderr, "pgcluster: could not become user postgres\n");
        _exit(126);
    }
}

static pid_t spawn(const char *const argv[], const char *log)
{
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid)
        return pid;
    /* Out of the terminal's process group: Ctrl-C must reach the test, which takes us along. */
    setpgid(0, 0);
    become_server_user();
    /* After the change of user, which clears it. To a server SIGQUIT is an immediate shutdown. */
    if (prctl(PR_SET_PDEATHSIG, SIGQUIT) || getppid() != parent)
        _exit(126);
    int out = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    int in = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (out < 0 || in < 0 || dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(out, 2) < 0)
        _exit(126);
    if (chdir("/"))
        _exit(126);
    /* execv() does not write to them; its prototype is older than const. */
    execv(argv[0], (char *const *)(uintptr_t)argv);
    _exit(127);
}

static bool run_to_end(const char *const argv[], const char *log)
{
    pid_t pid = spawn(argv, log);
    int status = 0;
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return pid > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static bool is_bindir(const char *dir)
{
    char path[300];
    snprintf(path, sizeof(path), "%s/initdb", dir);
    if (access(path, X_OK))
        return false;
    snprintf(path, sizeof(path), "%s/postgres", dir);
    return access(path, X_OK) == 0;
}

static bool find_in_debian_layout(char *out, size_t size)
{
    DIR *d = opendir("/usr/lib/postgresql");
    if (!d)
        return false;
    long best = 0;
    for (const struct dirent *e = readdir(d); e; e = readdir(d)) {
        char path[128];
        snprintf(path, sizeof(path), "/usr/lib/postgresql/%.32s/bin", e->d_name);
        long version = strtol(e->d_name, NULL, 10);
        if (version > best && is_bindir(path)) {
            best = version;
            snprintf(out, size, "%s", path);
        }
    }
    closedir(d);
    return best > 0;
}

static bool find_bindir(char *out, size_t size)
{
    const char *named = getenv("PG_BINDIR");
    if (named) {
        snprintf(out, size, "%s", named);
        return is_bindir(out);
    }
    FILE *p = popen("pg_config --bindir 2>/dev/null", "re");
    if (p) {
        bool got = fgets(out, (int)size, p) != NULL;
        pclose(p);
        out[strcspn(out, "\n")] = '\0';
        if (got && is_bindir(out))
            return true;
    }
    return find_in_debian_layout(out, size);
}

/* ---- the cluster ---- */

static void print_log(const struct pgcluster *c)
{
    char path[160];
    snprintf(path, sizeof(path), "%s/log", c->dir);
    FILE *f = fopen(path, "re");
    char line[512];
    while (f && fgets(line, sizeof(line), f))
        fputs(line, stderr);
    if (f)
        fclose(f);
}

static bool make_cluster(struct pgcluster *c)
{
    const char *tmp = getenv("TMPDIR");
    /* Short, since a socket's path may have 107 bytes. */
    snprintf(c->dir, sizeof(c->dir), "%.64s/warmpath-pg-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(c->dir))
        return false;
    const struct passwd *pw = geteuid() == 0 ? getpwnam("postgres") : NULL;
    if (pw && chown(c->dir, pw->pw_uid, pw->pw_gid))
        return false;
    char program[300], data[160], log[160];
    snprintf(program, sizeof(program), "%s/initdb", c->bindir);
    snprintf(data, sizeof(data), "%s/data", c->dir);
    snprintf(log, sizeof(log), "%s/log", c->dir);
    const char *argv[] = {program,    "--pgdata", data,        "--username", "postgres",
                          "--auth",   "trust",    "--no-sync", "--encoding", "UTF8",
                          "--locale", "C",        NULL};
    return run_to_end(argv, log);
}

void pgcluster_start(struct pgcluster *c)
{
    assert(pgcluster_is_private(c) && c->pid == 0);
    char program[300], data[160], log[160], sockets[192];
    snprintf(program, sizeof(program), "%s/postgres", c->bindir);
    snprintf(data, sizeof(data), "%s/data", c->dir);
    snprintf(log, sizeof(log), "%s/log", c->dir);
    snprintf(sockets, sizeof(sockets), "unix_socket_directories=%s", c->dir);
    const char *settings[] = {sockets,
                              "listen_addresses=",
                              "fsync=off",
                              "wal_level=logical",
                              "max_wal_senders=20",
                              "timezone=UTC",
                              "max_replication_slots=20",
                              "max_connections=60",
                              "shared_buffers=32MB"};
    const char *argv[2 * sizeof(settings) / sizeof(settings[0]) + 4] = {program, "-D", data};
    for (size_t i = 0, at = 3; i < sizeof(settings) / sizeof(settings[0]); i++) {
        argv[at++] = "-c";
        argv[at++] = settings[i];
    }
    c->pid = spawn(argv, log);
    assert(c->pid > 0);
    for (int i = 0; i < START_SECONDS * 50; i++) {
        if (PQping(c->conninfo) == PQPING_OK)
            return;
        if (waitpid(c->pid, NULL, WNOHANG) == c->pid)
            break;
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    }
    print_log(c);
    fprintf(stderr, "pgcluster: the server did not start\n");
    abort();
}

void pgcluster_stop(struct pgcluster *c, bool immediate)
{
    assert(pgcluster_is_private(c) && c->pid > 0);
    kill(c->pid, immediate ? SIGQUIT : SIGINT);
    while (waitpid(c->pid, NULL, 0) < 0 && errno == EINTR)
        ;
    c->pid = 0;
}

struct pgcluster *pgcluster_open(bool *ret_skip)
{
    bool skip = false;
    struct pgcluster *c = calloc(1, sizeof(*c));
    assert(c);
    const char *given = getenv("WARMPATH_TEST_CONNINFO");
    if (given && *given) {
        snprintf(c->conninfo, sizeof(c->conninfo), "%s", given);
    } else if (!find_bindir(c->bindir, sizeof(c->bindir))) {
        fprintf(stderr, "pgcluster: no PostgreSQL server programs found, set PG_BINDIR\n");
        skip = true;
    } else if (!make_cluster(c)) {
        print_log(c);
        fprintf(stderr, "pgcluster: could not make a cluster in \"%s\"\n", c->dir);
    } else {
        snprintf(c->conninfo, sizeof(c->conninfo), "host=%s user=postgres", c->dir);
        pgcluster_start(c);
    }
    if (ret_skip)
        *ret_skip = skip;
    if (*c->conninfo)
        return c;
    pgcluster_close(c);
    return NULL;
}

void pgcluster_close(struct pgcluster *c)
{
    if (!c)
        return;
    if (c->pid > 0)
        pgcluster_stop(c, true);
    /* The directory is our own mkdtemp(), so nothing else can be in it. */
    const char *argv[] = {"/bin/rm", "-rf", c->dir, NULL};
    if (*c->dir && !run_to_end(argv, "/dev/null"))
        fprintf(stderr, "pgcluster: could not remove \"%s\"\n", c->dir);
    free(c);
}

bool pgcluster_is_private(const struct pgcluster *c)
{
    return *c->dir != '\0';
}

const char *pgcluster_host(const struct pgcluster *c)
{
    return c->dir;
}

int pgcluster_pid(const struct pgcluster *c)
{
    return c->pid;
}

char *pgcluster_database(struct pgcluster *c, const char *name)
{
    char conninfo[600];
    snprintf(conninfo, sizeof(conninfo), "%s dbname=postgres", c->conninfo);
    PGconn *conn = PQconnectdb(conninfo);
    char sql[200];
    PQclear(PQexec(conn, "SET client_min_messages = warning"));
    snprintf(sql, sizeof(sql), "DROP DATABASE IF EXISTS \"%s\" WITH (FORCE)", name);
    PQclear(PQexec(conn, sql));
    snprintf(sql, sizeof(sql), "CREATE DATABASE \"%s\" TEMPLATE template0", name);
    PGresult *res = PQexec(conn, sql);
    if (PQresultStatus(res) != PGRES_COMMAND_OK) {
        fprintf(stderr, "pgcluster: %s", PQerrorMessage(conn));
        abort();
    }
    PQclear(res);
    PQfinish(conn);
    char *out = NULL;
    if (asprintf(&out, "%s dbname=%s", c->conninfo, name) < 0)
        abort();
    return out;
}
