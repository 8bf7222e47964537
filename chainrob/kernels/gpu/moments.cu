// Soft truncation about the mean from the sums of the first three powers of all values, which matrix products give.
//
// Where no value of a coordinate is truncated the estimate is m - mu3 / (6 s^2). What a truncated value adds to that is
// put right value by value. A value is truncated only if |gy[i, q]| |x[i, p]| is beyond a limit, so the largest factors
// of a block's rows and columns tell which samples it has to look at: one comparison for TILE_Q * TILE_P values.
// A block with a coordinate whose moments lost their digits (a mean large against the spread, powers that underflow,
// NaN) takes all its values instead: decided on the device, nothing waits for the host.
//
// Layout: x (N, P) and gy (N, Q), divided by 2^exponent of their column; first, second, third (Q, P), sums over the
// samples; even and least: of each column 1 / root mean square and the least magnitude that is not zero; reach
// (blocks, N): of a sample the largest magnitude in a block's columns, each times its `even`; out (Q, P).

#include "values.cuh"
#include "psi.cuh"
#include "truncation.cuh"

#ifndef __CUDACC__
using std::ldexp;
#endif

constexpr int THREADS = TILE_P * TILE_Q;
constexpr double LEAST = 1e-20;  // mean squares of values in [-1, 1] that are far from underflow in any power up to 3

template <class T> struct Columns {
    const T *even, *least, *reach;
    const int *exponent;
};

#ifdef __CUDACC__
// The least value of the block's threads; `slots` has one place a warp.
template <class T> DEVICE T least_in_block(T value, T *slots) {
    const int thread = threadIdx.y * TILE_P + threadIdx.x;
    for (int half = 16; half > 0; half /= 2) value = fmin(value, T(__shfl_down_sync(0xffffffffu, value, half)));
    if (thread % 32 == 0) slots[thread / 32] = value;
    __syncthreads();
    value = slots[0];
    for (int warp = 1; warp < THREADS / 32; ++warp) value = fmin(value, slots[warp]);
    return value;
}
#endif

// f(i) for the samples that may reach the limit of some coordinate of the block, in order. All threads of a block must
// come here together.
template <class T, class F> DEVICE void each_reaching(int n, const T *down, const T *across, T limit, F f) {
#ifdef __CUDACC__
    __shared__ T slots[THREADS / 32];
    __shared__ unsigned int found[THREADS / 32];
    const int thread = threadIdx.y * TILE_P + threadIdx.x;
    limit = least_in_block(limit, slots);
    for (int first = 0; first < n; first += THREADS) {
        const int sample = first + thread;
        const bool reaches = sample < n && down[sample] * across[sample] >= limit;
        const unsigned int bits = __ballot_sync(0xffffffffu, reaches);
        if (thread % 32 == 0) found[thread / 32] = bits;
        __syncthreads();
        for (int warp = 0; warp < THREADS / 32; ++warp)
            for (unsigned int left = found[warp]; left != 0u; left &= left - 1u)
                f(first + 32 * warp + __ffs((int)left) - 1);
        __syncthreads();
    }
#else
    for (int i = 0; i < n; ++i)
        if (down[i] * across[i] >= limit) f(i);
#endif
}

// factor: N / (2 log(1 / delta)); floor: least variance; trust: the least variance over mean square at which the central
// moments have their digits.
template <class T>
DEVICE T from_moments(const Values<T> &values, const T *first, const T *second, const T *third, const Columns<T> &of_x,
                      const Columns<T> &of_gy, T factor, T floor, T trust) {
    const T n = T(values.n), far = T(1e30);
    const bool inside = values.p < values.P && values.q < values.Q;
    const int p = inside ? values.p : 0, q = inside ? values.q : 0;
    const long long at = (long long)q * values.P + p;
    const int exponent = of_x.exponent[p] + of_gy.exponent[q];
    const T m = first[at] / n, e2 = second[at] / n, e3 = third[at] / n;
    const T variance = e2 - m * m;
    // Without underflow a sum of squares that is zero means that all values are zero.
    const bool empty = e2 == T(0) && of_x.least[p] * of_gy.least[q] > T(1e-15);
    // Written so that NaN is no trust.
    const bool trusted = variance > trust * e2 && e2 > T(LEAST);
    // The floor in the unit of the values, none of which is above 1.
    const T least_variance = fmin(T(ldexp(floor, -2 * exponent)), far);
    if (any_in_block(inside && !empty && !trusted))
        return T(ldexp(soft_truncation(values, 0, factor, least_variance), exponent));
    const T s2 = factor * fmax(variance * (n / T(values.n > 1 ? values.n - 1 : 1)), least_variance);
    const T threshold = sqrt(T(2) * s2);
    const T sixth = empty ? T(0) : T(-1) / (T(6) * s2);
    T extra = (e3 - m * (T(3) * e2 - T(2) * m * m)) * n * sixth;
    // |value - m| exceeds the threshold nowhere unless |value| exceeds threshold - |m|; in units in which the factors of
    // all columns are of one size. The reach is rounded, so a little less must do.
    const T limit = (threshold - fabs(m)) * of_x.even[p] * of_gy.even[q] * T(0.999);
    each_reaching(values.n, of_gy.reach + (long long)(values.q / TILE_Q) * values.n,
                  of_x.reach + (long long)(values.p / TILE_P) * values.n, inside && !empty ? limit : far, [&](int i) {
                      const T value = product(values.gy[(long long)i * values.Q + q], values.x[(long long)i * values.P + p]);
                      const T d = value - m, v = fmin(fmax(d, -threshold), threshold);
                      extra += psi(v, sixth) - psi(d, sixth);
                  });
    return T(ldexp(m + extra / n, exponent));
}

#define ARGUMENTS_HERE(T)                                                                                             \
    const T *x, const T *gy, const T *first, const T *second, const T *third, const T *even_x, const T *least_x,      \
        const T *reach_x, const int *exponent_x, const T *even_gy, const T *least_gy, const T *reach_gy,              \
        const int *exponent_gy, T *out, int n, int P, int Q, T factor, T floor, T trust

#define ESTIMATE(T)                                                                                                   \
    from_moments<T>(values, first, second, third, {even_x, least_x, reach_x, exponent_x},                             \
                    {even_gy, least_gy, reach_gy, exponent_gy}, factor, floor, trust)

#undef ENTRY
#ifdef __CUDACC__
#define ENTRY(NAME, T)                                                                                                \
    extern "C" __global__ void __launch_bounds__(THREADS) NAME(ARGUMENTS_HERE(T)) {                                   \
        __shared__ Tile<T> tile;                                                                                      \
        const int p = blockIdx.x * TILE_P + threadIdx.x, q = blockIdx.y * TILE_Q + threadIdx.y;                       \
        const Values<T> values = {x, gy, n, P, Q, p, q, &tile};                                                       \
        const T estimate = ESTIMATE(T);                                                                               \
        if (p < P && q < Q) out[(long long)q * P + p] = estimate;                                                     \
    }
#else
#define ENTRY(NAME, T)                                                                                                \
    extern "C" void NAME(ARGUMENTS_HERE(T), int) {                                                                    \
        for (int q = 0; q < Q; ++q)                                                                                   \
            for (int p = 0; p < P; ++p) {                                                                             \
                const Values<T> values = {x, gy, n, P, Q, p, q, nullptr};                                             \
                out[(long long)q * P + p] = ESTIMATE(T);                                                              \
            }                                                                                                         \
    }
#endif

ENTRY(soft_truncation_moments_float32, float)
ENTRY(soft_truncation_moments_float64, double)
