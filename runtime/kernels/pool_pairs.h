/* Max pooling of two places side by side that have fewer elements than a vector has lanes: a vector holds the results of
 * several windows, and permutations bring the left and the right places of theirs together.  Part of pool.c. */

/* Without an instruction for it, permuting costs more than going through single elements one by one. */
#define PERMUTES (VF_LANES > 4)

bool K(pool_pairs)(int64_t inner, nnl_pool_pairs *pairs)
{
    if (inner >= VF_LANES || (inner == 1 && !PERMUTES)) return false;
    const int32_t count = (int32_t)inner;
    const vi lane = vi_places(), width = vi_set1(count), left = lane + vi_quotient(lane, count) * width;
    pairs->group = VF_LANES / inner * inner;
    vi_store(pairs->left, left);
    vi_store(pairs->right, left + width);
    for (int half = 0; half < 2; half++) {
        const vi at = lane + vi_set1(half * VF_LANES), place = vi_quotient(at, count), window = vi_quotient(at, 2 * count);
        vi_store(pairs->window[half], at - (place - window) * width);
        vi_store(pairs->tap[half], place - window - window);
    }
    return true;
}

/* The windows whose results begin at element `at`, of ROWS rows, or any number where it is 0.  Without `nans` comparisons
 * do not care for NaN; false: one was there. */
VEC_INLINE bool max_group(const int ROWS, const bool codes, const bool nans, const nnl_pool_row *p, int64_t at, float *out, void *code, const float *x)
{
    const vi left = vi_load(p->pairs->left), right = vi_load(p->pairs->right);
    const int64_t all = p->windows * p->inner, room = p->width * p->inner - 2 * at;
    vf best = vf_set1(-__builtin_inff());
    vi place = vi_set1(p->code);
    mf unordered = mf_first(0);
    for (int64_t d = 0; d < (ROWS ? 1 : p->planes); d++) {
        for (int64_t r = 0; r < (ROWS ? ROWS : p->rows); r++) {
            const float *from = x + d * p->plane_step + r * p->row_step + 2 * at;
            const int32_t first = p->code + (int32_t)d * p->plane_code + (int32_t)r * p->row_code;
            const vf low = read_f32(from, room);
            const vf high = room > VF_LANES ? read_f32(from + VF_LANES, room - VF_LANES) : vf_zero();
            if (!nans) unordered = mf_or(unordered, vf_unordered(low, high));
            for (int32_t t = 0; t < 2; t++) {
                const vf a = vf_permute2(low, high, t ? right : left);
                const mf take = nans ? mf_or(vf_gt(a, best), vf_isnan(a)) : vf_gt(a, best);
                best = nans ? vf_select(take, a, best) : vf_max(a, best);
                if (codes) place = vi_select(take, vi_set1(first + t), place);
            }
        }
    }
    if (!nans && mf_any(unordered)) return false;
    write_f32(out + at, best, all - at);
    if (codes) vf_codes_store(code, false, at, place, all - at);
    return true;
}

static __attribute__((noinline)) void max_group_nans(const nnl_pool_row *p, int64_t at, float *out, void *code, const float *x)
{
    if (code) max_group(0, true, true, p, at, out, code, x);
    else max_group(0, false, true, p, at, out, NULL, x);
}

VEC_INLINE void max_groups(const int ROWS, const bool codes, const nnl_pool_row *p, float *out, void *code, const float *x)
{
    for (int64_t at = 0; at < p->windows * p->inner; at += p->pairs->group)
        if (!max_group(ROWS, codes, false, p, at, out, code, x)) max_group_nans(p, at, out, code, x);
}

VEC_INLINE void max_pairs(const bool codes, const nnl_pool_row *p, float *out, void *code, const float *x)
{
    if (p->planes == 1 && p->rows == 2) max_groups(2, codes, p, out, code, x);
    else max_groups(0, codes, p, out, code, x);
}

static void max_back_pairs(const nnl_pool_row *p, float *dx, const float *dy, const void *code)
{
    const nnl_pool_pairs *l = p->pairs;
    const int64_t all = p->windows * p->inner;
    for (int64_t at = 0; at < all; at += l->group) {
        const vf g = read_f32(dy + at, all - at) + vf_zero(); /* a sum, so that no zero is negative */
        const vi place = vf_codes_load(code, false, at, all - at) - vi_set1(p->code);
        for (int half = 0; half < 2; half++) {
            const int64_t to = 2 * at + half * VF_LANES;
            const vi window = vi_load(l->window[half]);
            const mf hit = vi_eq((vi)vf_permute((vf)place, window), vi_load(l->tap[half]));
            if (to < 2 * all) write_f32(dx + to, vf_select(hit, vf_permute(g, window), vf_zero()), 2 * all - to);
        }
    }
}
