#include "server/cli.h"

#include <string.h>

static const char purpose[] =
    "Warmpath keeps a chat platform's strategic cache in PostgreSQL fresh: it reads every\n"
    "committed message from a replication slot, takes what comes by webhooks, line protocol and\n"
    "Qdrant, and refreshes the cache rows within milliseconds. Every change is counted exactly\n"
    "once, across any crash.\n";

static void print_options(const struct cli_option *options, FILE *out)
{
    for (const struct cli_option *o = options; o && o->name; o++) {
        char left[48];
        snprintf(left, sizeof(left), "--%s%s%s", o->name, o->arg ? " " : "", o->arg ? o->arg : "");
        fprintf(out, "  %-22s %s\n", left, o->help);
    }
}

void help_print_overview(FILE *out)
{
    fprintf(out, "%s\nUsage: warmpath COMMAND [OPTION]... [ARGUMENT]...\n\nCommands:\n", purpose);
    for (const struct command *c = commands; c->name; c++)
        if (!c->hidden)
            fprintf(out, "  %-14s %s\n", c->name, c->summary);
    fprintf(out, "\nOptions of every command:\n");
    print_options(cli_common_options, out);
    fprintf(out, "\nExit status: 0 ok, 1 failed, 64 wrong use, 78 wrong configuration.\n");
}

void help_print_command(const struct command *cmd, FILE *out)
{
    fprintf(out, "warmpath %s: %s\n\nUsage: warmpath %s [OPTION]...%s%s\n", cmd->name, cmd->summary,
            cmd->name, cmd->args[0] ? " " : "", cmd->args);
    if (cmd->details)
        fprintf(out, "\n%s\n", cmd->details);
    if (cmd->options && cmd->options->name) {
        fprintf(out, "\nOptions:\n");
        print_options(cmd->options, out);
    }
    fprintf(out, "\nOptions of every command:\n");
    print_options(cli_common_options, out);
}

/* Text for roff: its two special characters escaped, no line that starts as a request. */
static void man_text(const char *text, FILE *out)
{
    for (const char *c = text; *c; c++) {
        if ((c == text || c[-1] == '\n') && (*c == '.' || *c == '\''))
            fputs("\\&", out);
        if (*c == '\\')
            fputs("\\e", out);
        else if (*c == '-')
            fputs("\\-", out);
        else
            fputc(*c, out);
    }
}

static void man_options(const struct cli_option *options, FILE *out)
{
    for (const struct cli_option *o = options; o && o->name; o++) {
        fputs(".TP\n\\fB\\-\\-", out);
        man_text(o->name, out);
        fputs("\\fR", out);
        if (o->arg)
            fprintf(out, " \\fI%s\\fR", o->arg);
        fputc('\n', out);
        man_text(o->help, out);
        fputc('\n', out);
    }
}

static void man_command(const struct command *c, FILE *out)
{
    fputs(".SS \"", out);
    man_text(c->name, out);
    if (c->args[0])
        fprintf(out, " %s", c->args);
    fputs("\"\n", out);
    man_text(c->summary, out);
    fputs(".\n", out);
    if (c->details) {
        fputs(".PP\n", out);
        man_text(c->details, out);
        fputc('\n', out);
    }
    man_options(c->options, out);
}

void help_print_man(FILE *out)
{
    fputs(".\\\" Written by `warmpath help --man`; do not edit.\n"
          ".TH WARMPATH 1\n.SH NAME\nwarmpath \\- keeps a strategic cache in PostgreSQL fresh\n"
          ".SH SYNOPSIS\n.B warmpath\n\\fICOMMAND\\fR [\\fIOPTION\\fR]... [\\fIARGUMENT\\fR]...\n"
          ".SH DESCRIPTION\n",
          out);
    man_text(purpose, out);
    fputs(".SH COMMANDS\n", out);
    for (const struct command *c = commands; c->name; c++)
        if (!c->hidden)
            man_command(c, out);
    fputs(".SH OPTIONS OF EVERY COMMAND\n", out);
    man_options(cli_common_options, out);
    fputs(
        ".SH ENVIRONMENT\nEvery configuration value has a variable: \\fBsource.conninfo\\fR is\n"
        "\\fBWARMPATH_SOURCE_CONNINFO\\fR. \\fBDATABASE_URL\\fR stands for it when it is not set.\n"
        "\\fBWARMPATH_CONFIG\\fR names the configuration file. libpq's variables work too.\n"
        ".SH FILES\n\\fI./warmpath.yaml\\fR, \\fI/etc/warmpath/warmpath.yaml\\fR: the "
        "configuration; docs/CONFIG.md\nlists every value.\n"
        ".SH EXIT STATUS\n0 ok, 1 failed, 64 wrong use, 78 wrong configuration.\n",
        out);
}

int cmd_help(struct cli *cli)
{
    if (cli_has(cli, "man")) {
        help_print_man(cli->out);
        return CLI_OK;
    }
    if (cli->n_args == 0) {
        help_print_overview(cli->out);
        return CLI_OK;
    }
    for (const struct command *c = commands; c->name; c++)
        if (strcmp(c->name, cli->args[0]) == 0) {
            help_print_command(c, cli->out);
            return CLI_OK;
        }
    return cli_fail(cli, CLI_USAGE, "unknown command \"%s\"", cli->args[0]);
}
