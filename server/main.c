#include "server/cli.h"

#include <signal.h>

int main(int argc, char **argv)
{
    /* A reader that goes away (`warmpath status | head`) is an error of write(), not a death. */
    signal(SIGPIPE, SIG_IGN);
    return cli_main(argc, argv, stdout, stderr);
}
