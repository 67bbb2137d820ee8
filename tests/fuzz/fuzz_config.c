/*
 * tests/fuzz/fuzz_config.c - the configuration reader on foreign bytes: no crash, a refusal comes
 * with a problem, and what is accepted is printed as a text that is accepted again.
 */
#include "server/config.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool fact)
{
    if (!fact)
        abort();
}

static enum status parse(struct str text, struct config **ret, bool *ret_said)
{
    struct buf problems;
    struct config_input in = {.file = NULL};
    struct error err;
    buf_init(&problems, CONFIG_PROBLEM_BYTES);
    enum status st = config_parse(text, "fuzz", &in, ret, &problems, &err);
    *ret_said = problems.len > 0;
    buf_deinit(&problems);
    return st;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct str text = {(const char *)data, size};
    struct config *first = NULL, *second = NULL;
    struct buf printed;
    bool said;
    /* Would read files and variables of this machine. */
    if (size == 0 || memmem(data, size, "${", 2))
        return 0;
    if (parse(text, &first, &said) != STATUS_OK) {
        require(said);
        return 0;
    }
    require(!said);
    buf_init(&printed, 4u << 20);
    require(config_print(first, &printed, NULL) == STATUS_OK);
    require(parse((struct str){printed.data, printed.len}, &second, &said) == STATUS_OK);
    require(memcmp(&first->mappings, &second->mappings, sizeof(first->mappings)) == 0);
    require(strcmp(first->state_dir, second->state_dir) == 0);
    require(first->ttl_us == second->ttl_us && first->memory_bytes == second->memory_bytes);
    buf_deinit(&printed);
    config_free(first);
    config_free(second);
    return 0;
}
