/* Max pooling of two places side by side that have fewer elements than a vector has lanes: a vector holds the results of
 * several windows, and permutations bring the left and the right places of theirs together.  Part of pool.c. */

/* How lanes belong to windows. */
typedef struct pairs {
    int64_t group;        /* elements of the windows that fit into a vector */
    vi left, right;       /* forward: from lanes of the results to elements of the places */
    vi window[2], tap[2]; /* backward: from lanes of the places, two vectors of them, to those of the results */
} pairs;

VEC_INLINE pairs pairs_of(int64_t inner)
{
    pairs p = {.group = VF_LANES / inner * inner};
    const int32_t count = (int32_t)inner;
    const vi lane = vi_places(), width = vi_set1(count);
    p.left = lane + vi_quotient(lane, count) * width;
    p.right = p.left + width;
    for (int half = 0; half < 2; half++) {
        const vi at = lane + vi_set1(half * VF_LANES), place = vi_quotient(at, count), window = vi_quotient(at, 2 * count);
        p.window[half] = at - (place - window) * width;
        p.tap[half] = place - window - window;
    }
    return p;
}

/* Without an instruction for it, permuting costs more than going through single elements one by one. */
#define PERMUTES (VF_LANES > 4)

VEC_INLINE bool are_pairs(const nnl_pool_row *p)
{
    return p->pairs && p->inner < VF_LANES && !p->wide && (p->inner > 1 || PERMUTES);
}

VEC_INLINE void max_pairs(const nnl_pool_row *p, bool codes, float *out, void *code, const float *x)
{
    const pairs l = pairs_of(p->inner);
    const int64_t all = p->windows * p->inner;
    for (int64_t at = 0; at < all; at += l.group) {
        const int64_t room = p->width * p->inner - 2 * at;
        vf best = vf_set1(-__builtin_inff());
        vi place = vi_set1(p->code);
        for (int64_t d = 0; d < p->planes; d++) {
            for (int64_t r = 0; r < p->rows; r++) {
                const float *from = x + d * p->plane_step + r * p->row_step + 2 * at;
                const int32_t first = p->code + (int32_t)d * p->plane_code + (int32_t)r * p->row_code;
                const vf low = read_f32(from, room);
                const vf high = room > VF_LANES ? read_f32(from + VF_LANES, room - VF_LANES) : vf_zero();
                for (int32_t t = 0; t < 2; t++) {
                    const vf a = vf_permute2(low, high, t ? l.right : l.left);
                    const mf take = mf_or(vf_gt(a, best), vf_isnan(a));
                    best = vf_select(take, a, best);
                    if (codes) place = vi_select(take, vi_set1(first + t), place);
                }
            }
        }
        write_f32(out + at, best, all - at);
        if (codes) vf_codes_store(code, false, at, place, all - at);
    }
}

static void max_back_pairs(const nnl_pool_row *p, float *dx, const float *dy, const void *code)
{
    const pairs l = pairs_of(p->inner);
    const int64_t all = p->windows * p->inner;
    for (int64_t at = 0; at < all; at += l.group) {
        const vf g = read_f32(dy + at, all - at) + vf_zero(); /* a sum, so that no zero is negative */
        const vi place = vf_codes_load(code, false, at, all - at) - vi_set1(p->code);
        for (int half = 0; half < 2; half++) {
            const int64_t to = 2 * at + half * VF_LANES;
            const mf hit = vi_eq((vi)vf_permute((vf)place, l.window[half]), l.tap[half]);
            if (to < 2 * all) write_f32(dx + to, vf_select(hit, vf_permute(g, l.window[half]), vf_zero()), 2 * all - to);
        }
    }
}
