#include "server/process_view.h"

#include <dirent.h>
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* The whole of a small file of /proc, NUL-terminated. */
static bool read_text(const char *path, char *out, size_t size)
{
    FILE *f = fopen(path, "re");
    if (!f)
        return false;
    size_t n = fread(out, 1, size - 1, f);
    out[n] = '\0';
    fclose(f);
    return n > 0;
}

/* When the system was started, seconds since the Unix epoch. */
static double boot_time(void)
{
    char text[16384];
    uint64_t seconds = 0;
    const char *line = NULL;
    if (read_text("/proc/stat", text, sizeof(text)))
        line = strstr(text, "\nbtime ");
    return line && sscanf(line, "\nbtime %" SCNu64, &seconds) == 1 ? (double)seconds : NAN;
}

/* proc(5): the fields after the name of the program, which may itself hold blanks and brackets. */
static void read_stat(struct process_view *v)
{
    char text[2048];
    const char *rest = NULL;
    uint64_t user, kernel, threads, start, size;
    int64_t resident;
    double ticks = (double)sysconf(_SC_CLK_TCK);
    if (read_text("/proc/self/stat", text, sizeof(text)))
        rest = strrchr(text, ')');
    if (!rest || sscanf(rest,
                        ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %" SCNu64 " %" SCNu64
                        " %*d %*d %*d %*d %" SCNu64 " %*d %" SCNu64 " %" SCNu64 " %" SCNd64,
                        &user, &kernel, &threads, &start, &size, &resident) != 6)
        return;
    v->cpu_seconds = (double)(user + kernel) / ticks;
    v->threads = (double)threads;
    v->start_time_seconds = boot_time() + (double)start / ticks;
    v->virtual_bytes = (double)size;
    v->resident_bytes = (double)resident * (double)sysconf(_SC_PAGESIZE);
}

static double count_fds(void)
{
    DIR *d = opendir("/proc/self/fd");
    if (!d)
        return NAN;
    double n = -1; /* its own */
    for (struct dirent *e = readdir(d); e; e = readdir(d))
        n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

struct process_view process_view(void)
{
    struct process_view v = {NAN, NAN, NAN, count_fds(), NAN, NAN, NAN};
    struct rlimit limit;
    read_stat(&v);
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
        v.max_fds = (double)limit.rlim_cur;
    return v;
}
