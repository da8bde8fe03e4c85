/* NNLUA_THREADS, NNLUA_MEMORY_LIMIT and NNLUA_ISA, for the module and the command. */
#ifndef NNL_ENVIRONMENT_H
#define NNL_ENVIRONMENT_H

#include "nnlua.h"

/* The defaults, changed by the environment; false and a message when a value makes no sense. */
bool nnl_config_from_environment(nnl_runtime_config *config, char *problem, size_t size);
/* One setting ("threads", "memory-limit", "isa") from its text: "4", "512M", "avx2". */
bool nnl_config_set(nnl_runtime_config *config, const char *name, const char *text, char *problem,
                    size_t size);

#endif
