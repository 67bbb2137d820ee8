#include "server/output.h"
#include "server/redis_link.h"

#include <libpq-fe.h>
#include <sqlite3.h>
#include <yaml.h>

#ifndef WARMPATH_VERSION
#error "the build defines WARMPATH_VERSION"
#endif

int cmd_version(struct cli *cli)
{
    if (!cli_has(cli, "json")) {
        fprintf(cli->out, "warmpath %s\nfeatures: %s\n", WARMPATH_VERSION,
                redis_link_built() ? "redis" : "none");
        return CLI_OK;
    }
    json_t *engines = json_object();
    for (size_t i = 0; engine_at(i); i++)
        json_object_set_new(engines, engine_at(i)->name, json_integer(engine_at(i)->version));
    return output_json(cli,
                       json_pack("{s:s, s:{s:b}, s:o, s:{s:i, s:s, s:s}}", "version",
                                 WARMPATH_VERSION, "features", "redis", redis_link_built(),
                                 "engines", engines, "libraries", "libpq", PQlibVersion(), "sqlite",
                                 sqlite3_libversion(), "libyaml", yaml_get_version_string()),
                       CLI_OK);
}
