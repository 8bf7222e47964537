// Soft truncation about the mean of outer products gy[i, q] * x[i, p], in one pass after the moments.
//
// The moments come from two matrix products. Where they lost their digits (rows that nearly coincide, squares that
// overflow) the block finds them anew from the values: a decision on the device, nothing waits for the host.
//
// A block of BLOCK x BLOCK threads owns EDGE x EDGE coordinates, a thread TILE x TILE of them in registers; the batch is
// streamed through shared memory CHUNK samples at a time. As in coordinate.cu, the same text compiles as plain C++.
//
// Layout: x (R, N, P), gy (R, N, Q), mean, second and out (R, Q, P), row-major; replica strides may be 0.

#ifdef __CUDACC__
#define DEVICE __device__ __forceinline__
#else
#define DEVICE inline
#include <cmath>
using std::fabs;
using std::fmax;
using std::fmin;
using std::sqrt;
#endif

#include "psi.cuh"

constexpr int BLOCK = 16;
constexpr int CHUNK = 32;
#ifdef __CUDACC__
constexpr int TILE = 4;
#else
constexpr int TILE = 1;
#endif
constexpr int EDGE = BLOCK * TILE;

template <class T> struct Shared { T x[CHUNK][EDGE], gy[CHUNK][EDGE]; };

template <class T> struct Batch {
    const T *x, *gy;
    int n, P, Q, p, q;  // p, q: the first coordinate of this thread; the others follow BLOCK apart
    Shared<T> *shared;

    // f(a, b, value) for every sample and each of the thread's coordinates (q + a * BLOCK, p + b * BLOCK), with
    // close_chunk() after every chunk. All threads of a block must come here together.
    template <class F, class Close> DEVICE void each(F f, Close close_chunk) const {
        for (int first = 0; first < n; first += CHUNK) {
            const int size = n - first < CHUNK ? n - first : CHUNK;
#ifdef __CUDACC__
            const int first_p = blockIdx.x * EDGE, first_q = blockIdx.y * EDGE;
            __syncthreads();
            for (int k = threadIdx.y * BLOCK + threadIdx.x; k < size * EDGE; k += BLOCK * BLOCK) {
                const int row = k / EDGE, column = k % EDGE;
                const long long sample = first + row;
                shared->x[row][column] = first_p + column < P ? x[sample * P + first_p + column] : T(0);
                shared->gy[row][column] = first_q + column < Q ? gy[sample * Q + first_q + column] : T(0);
            }
            __syncthreads();
            for (int i = 0; i < size; ++i) {
                T across[TILE];
#pragma unroll
                for (int b = 0; b < TILE; ++b) across[b] = shared->x[i][threadIdx.x + b * BLOCK];
#pragma unroll
                for (int a = 0; a < TILE; ++a) {
                    const T down = shared->gy[i][threadIdx.y + a * BLOCK];
#pragma unroll
                    for (int b = 0; b < TILE; ++b) f(a, b, down * across[b]);
                }
            }
#else
            for (int i = first; i < first + size; ++i) f(0, 0, gy[(long long)i * Q + q] * x[(long long)i * P + p]);
#endif
            close_chunk();
        }
    }
};

// A sum for each coordinate of a thread, kept by chunk so that its rounding error is that of a chunk.
template <class T> struct Sums {
    T part[TILE][TILE] = {}, total[TILE][TILE] = {};
    DEVICE void close() {
#pragma unroll
        for (int a = 0; a < TILE; ++a)
#pragma unroll
            for (int b = 0; b < TILE; ++b) {
                total[a][b] += part[a][b];
                part[a][b] = T(0);
            }
    }
};

DEVICE bool any_in_block(bool flag) {
#ifdef __CUDACC__
    return __syncthreads_or(flag);
#else
    return flag;
#endif
}

// Mean and standard deviation (N - 1) of the thread's coordinates from the values themselves.
template <class T> DEVICE void exact_moments(const Batch<T> &batch, T (&center)[TILE][TILE], T (&deviation)[TILE][TILE]) {
    Sums<T> sums;
    batch.each([&](int a, int b, T value) { sums.part[a][b] += value / T(batch.n); }, [&] { sums.close(); });
    T largest[TILE][TILE] = {};
    batch.each([&](int a, int b, T value) { largest[a][b] = fmax(largest[a][b], fabs(value - sums.total[a][b])); }, [] {});
    Sums<T> squares;
    batch.each(
        [&](int a, int b, T value) {
            // Relative to the largest, since the square of 1e30 is no float.
            const T share = largest[a][b] > T(0) ? (value - sums.total[a][b]) / largest[a][b] : T(0);
            squares.part[a][b] += share * share;
        },
        [&] { squares.close(); });
    for (int a = 0; a < TILE; ++a)
        for (int b = 0; b < TILE; ++b) {
            center[a][b] = sums.total[a][b];
            deviation[a][b] = largest[a][b] * sqrt(squares.total[a][b] / T(batch.n > 1 ? batch.n - 1 : 1));
        }
}

// factor: N / (2 log(1 / delta)); floor: least variance; least_share: share of the second moment below which the difference
// of the moments has lost its digits.
template <class T>
DEVICE void soft_truncation(const Batch<T> &batch, const T *mean, const T *second, T *out, T factor, T floor, T least_share) {
    T center[TILE][TILE], deviation[TILE][TILE];
    bool doubtful = false;
    for (int a = 0; a < TILE; ++a)
        for (int b = 0; b < TILE; ++b) {
            const int q = batch.q + a * BLOCK, p = batch.p + b * BLOCK;
            const bool inside = q < batch.Q && p < batch.P;
            const T m = inside ? mean[(long long)q * batch.P + p] : T(0);
            const T s = inside ? second[(long long)q * batch.P + p] : T(0);
            const T variance = s - m * m;
            center[a][b] = m;
            deviation[a][b] = sqrt(fmax(variance, T(0)) * (T(batch.n) / T(batch.n > 1 ? batch.n - 1 : 1)));
            // Written so that NaN and infinity are doubtful; a second moment near 0 may be what underflows have left.
            doubtful |= inside && !(variance > least_share * s && s > T(1e-30) && s < T(1e30));
        }
    if (any_in_block(doubtful)) exact_moments(batch, center, deviation);
    T scale[TILE][TILE], inverse[TILE][TILE];
    for (int a = 0; a < TILE; ++a)
        for (int b = 0; b < TILE; ++b) {
            scale[a][b] = sqrt(factor) * fmax(deviation[a][b], sqrt(floor));
            // A spread below 1e-308 has no inverse; nothing is truncated there.
            const T found = T(1) / scale[a][b];
            inverse[a][b] = found - found == T(0) ? found : T(0);
        }
    const T bound = T(1.4142135623730951);
    Sums<T> sums;
    batch.each(
        [&](int a, int b, T value) {
            const T v = fmin(fmax((value - center[a][b]) * inverse[a][b], -bound), bound);
            sums.part[a][b] += psi(v, T(-1.0 / 6.0));
        },
        [&] { sums.close(); });
    for (int a = 0; a < TILE; ++a)
        for (int b = 0; b < TILE; ++b) {
            const int q = batch.q + a * BLOCK, p = batch.p + b * BLOCK;
            if (q < batch.Q && p < batch.P)
                out[(long long)q * batch.P + p] = center[a][b] + scale[a][b] * (sums.total[a][b] / T(batch.n));
        }
}

#define ARGUMENTS(T)                                                                                                  \
    const T *x, const T *gy, const T *mean, const T *second, T *out, int n, int P, int Q, long long x_stride,         \
        long long gy_stride, T factor, T floor, T least_share

#ifdef __CUDACC__
#define ENTRY(NAME, T)                                                                                                \
    extern "C" __global__ void __launch_bounds__(BLOCK *BLOCK) NAME(ARGUMENTS(T)) {                                   \
        __shared__ Shared<T> shared;                                                                                  \
        const long long replica = blockIdx.z, offset = replica * Q * P;                                               \
        const Batch<T> batch = {x + replica * x_stride, gy + replica * gy_stride, n, P, Q,                            \
                                int(blockIdx.x * EDGE + threadIdx.x), int(blockIdx.y * EDGE + threadIdx.y), &shared}; \
        soft_truncation(batch, mean + offset, second + offset, out + offset, factor, floor, least_share);                   \
    }
#else
#define ENTRY(NAME, T)                                                                                                \
    extern "C" void NAME(ARGUMENTS(T), int replicas) {                                                                \
        for (long long replica = 0; replica < replicas; ++replica)                                                    \
            for (int q = 0; q < Q; ++q)                                                                               \
                for (int p = 0; p < P; ++p) {                                                                         \
                    const long long offset = replica * Q * P;                                                         \
                    const Batch<T> batch = {                                                                          \
                        x + replica * x_stride, gy + replica * gy_stride, n, P, Q, p, q, nullptr};                    \
                    soft_truncation(batch, mean + offset, second + offset, out + offset, factor, floor, least_share);       \
                }                                                                                                     \
    }
#endif

ENTRY(soft_truncation_mean_float32, float)
ENTRY(soft_truncation_mean_float64, double)
