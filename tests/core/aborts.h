/* tests/core/aborts.h - checks that our own bugs hit an assertion. */
#pragma once

#include <signal.h>
#include <stdbool.h>
#include <sys/wait.h>
#include <unistd.h>

/* Runs fn in a child process; true when it ended in abort(). */
static bool aborts(void (*fn)(void))
{
    pid_t child = fork();
    if (child == 0) {
        close(STDERR_FILENO);
        fn();
        _exit(0);
    }
    int status = 0;
    return child > 0 && waitpid(child, &status, 0) == child && WIFSIGNALED(status) &&
           WTERMSIG(status) == SIGABRT;
}
