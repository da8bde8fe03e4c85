/* Every op by name. */
#include "op.h"

#include <string.h>

/* op_list.h is sorted by name. */
static const nnl_op *const all[] = {
#define X(name) &nnl_op_##name,
#include "op_list.h"
#undef X
};

const nnl_op *nnl_op_find(const char *name)
{
    int low = 0, high = name ? NNL_COUNT(all) : 0;
    while (low < high) {
        int middle = (low + high) / 2, order = strcmp(name, all[middle]->name);
        if (order == 0) return all[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

const char *nnl_op_name(const nnl_op *op) { return op->name; }
const char *nnl_op_signature(const nnl_op *op) { return op->sig; }
int nnl_op_count(void) { return NNL_COUNT(all); }
const nnl_op *nnl_op_at(int place)
{
    return place >= 0 && place < NNL_COUNT(all) ? all[place] : NULL;
}
