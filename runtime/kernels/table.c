/* The table of kernels of one instruction set, filled from map.def and slots.def by the names'
 * convention: a row or slot without its function does not link. */
#include "map.h"

#define SLOT(result, name, arguments) result K(name) arguments;
#include "slots.def"
#undef SLOT

#define TABLE_NAME_2(name) #name
#define TABLE_NAME(name) TABLE_NAME_2(name)
#define TABLE_ENTRY(name, type, place) [place] = K(map_##name##_##type),

const nnl_kernels K(nnl_kernels) = {
    .name = TABLE_NAME(NNL_ISA_NAME),
    .vector_bytes = VEC_BYTES,
    .map = {
#define X(name, inputs, types) [NNL_MAP_##name] = {MAP_TYPES_##types(TABLE_ENTRY, name)},
#include "map.def"
#undef X
    },
#define SLOT(result, name, arguments) .name = K(name),
#include "slots.def"
#undef SLOT
};
