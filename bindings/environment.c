/* Settings from the environment and the command line. */
#include "environment.h"

#include "base/base.h"

#include <stdlib.h>
#include <string.h>

static bool parse_bytes(const char *text, size_t *out)
{
    double number;
    const char *end = text + strlen(text), *rest = nnl_parse_double(text, end, &number);
    if (!rest || !(number >= 0)) return false;
    double unit = 1;
    if (rest < end) {
        switch (*rest++) {
        case 'k':
        case 'K': unit = 1024; break;
        case 'm':
        case 'M': unit = 1024.0 * 1024; break;
        case 'g':
        case 'G': unit = 1024.0 * 1024 * 1024; break;
        default: return false;
        }
    }
    if (rest != end || number * unit > 9e18) return false;
    *out = (size_t)(number * unit);
    return true;
}

bool nnl_config_set(nnl_runtime_config *config, const char *name, const char *text, char *problem,
                    size_t size)
{
    int64_t count;
    if (strcmp(name, "threads") == 0) {
        const char *end = text + strlen(text);
        if (nnl_parse_int(text, end, &count) == end && count >= 1 && count <= 1024) {
            config->threads = (int)count;
            return true;
        }
        nnl_format(problem, size, "threads is \"%s\", a number from 1 to 1024 is wanted", text);
    } else if (strcmp(name, "memory-limit") == 0) {
        if (parse_bytes(text, &config->memory_limit)) return true;
        nnl_format(problem, size, "memory limit is \"%s\", bytes are wanted, as in 512M or 2G",
                   text);
    } else {
        nnl_isa isa;
        if (nnl_isa_parse(text, &isa) != NNL_OK) {
            nnl_format(problem, size, "isa is \"%s\", but it can be: base, avx2, avx512, neon",
                       text);
        } else if (isa != NNL_ISA_AUTO && !nnl_isa_supported(isa)) {
            nnl_format(problem, size, "isa %s is not supported by this processor or build", text);
        } else {
            config->isa = isa;
            return true;
        }
    }
    return false;
}

bool nnl_config_from_environment(nnl_runtime_config *config, char *problem, size_t size)
{
    static const char *const settings[][2] = {
        {"NNLUA_THREADS", "threads"},
        {"NNLUA_MEMORY_LIMIT", "memory-limit"},
        {"NNLUA_ISA", "isa"},
    };
    *config = nnl_runtime_defaults();
    for (int i = 0; i < NNL_COUNT(settings); i++) {
        const char *text = getenv(settings[i][0]);
        char why[128];
        if (!text || !*text || nnl_config_set(config, settings[i][1], text, why, sizeof why))
            continue;
        nnl_format(problem, size, "%s: %s", settings[i][0], why);
        return false;
    }
    return true;
}
