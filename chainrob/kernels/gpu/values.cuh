// What all coordinate-wise estimates share: the N values gy[i, q] * x[i, p] of one coordinate (q, p), one thread a
// coordinate.
//
// Nothing of size N * Q * P is ever stored: a block of TILE_Q x TILE_P threads streams the batch, CHUNK samples at a time,
// through shared memory, once for each pass that its estimator needs. The same text compiles as plain C++, where a pass
// is a loop over the batch: so the arithmetic is tested without a device (tests/kernels).
//
// Layout: x (R, N, P), gy (R, N, Q), out (R, Q, P), row-major; a replica stride of 0 shares x or gy among all replicas.

#ifdef __CUDACC__
#define DEVICE __device__ __forceinline__
#else
#define DEVICE inline
#include <cmath>
#include <cstring>
using std::fabs;
using std::fmax;
using std::fmin;
using std::sqrt;
#endif

// A block's coordinates, and the samples it holds at a time. WIDE is for rows that have a single output.
#ifdef WIDE
constexpr int TILE_P = 256, TILE_Q = 1, CHUNK = 16;
#else
constexpr int TILE_P = 16, TILE_Q = 16, CHUNK = 64;
#endif

// A product rounded by itself: were it contracted with what follows, passes would see different values of one sample.
#ifdef __CUDACC__
DEVICE float product(float a, float b) { return __fmul_rn(a, b); }
DEVICE double product(double a, double b) { return __dmul_rn(a, b); }
DEVICE bool any_in_block(bool flag) { return __syncthreads_or(flag); }
#else
inline float product(float a, float b) { return a * b; }
inline double product(double a, double b) { return a * b; }
inline bool any_in_block(bool flag) { return flag; }
#endif

// Keys: unsigned integers in the order of the floating point numbers, so that an exact order statistic is found by
// fixing one bit a pass: no sorting, no branches, the same number of passes for every thread of a block.

template <class T> struct Bits;
template <> struct Bits<float> { using Key = unsigned int; static constexpr int count = 32; };
template <> struct Bits<double> { using Key = unsigned long long; static constexpr int count = 64; };

template <class T> DEVICE typename Bits<T>::Key to_key(T value) {
    using Key = typename Bits<T>::Key;
    constexpr Key sign = Key(1) << (Bits<T>::count - 1);
    Key bits;
    memcpy(&bits, &value, sizeof bits);
    return bits & sign ? ~bits : bits | sign;
}

template <class T> DEVICE T from_key(typename Bits<T>::Key key) {
    using Key = typename Bits<T>::Key;
    constexpr Key sign = Key(1) << (Bits<T>::count - 1);
    Key bits = key & sign ? key ^ sign : ~key;
    T value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

// The N values of one coordinate.

template <class T> struct Tile { T x[CHUNK][TILE_P], gy[CHUNK][TILE_Q]; };

template <class T> struct Values {
    const T *x, *gy;
    int n, P, Q, p, q;
    Tile<T> *tile;  // shared by the block; nothing on the host

#ifdef __CUDACC__
    // A chunk of samples first..., columns from..., zeros beyond the last column.
    template <int WIDTH>
    static DEVICE void load(T (*target)[WIDTH], const T *source, int columns, int from, int first, int size) {
        for (int k = threadIdx.y * TILE_P + threadIdx.x; k < size * WIDTH; k += TILE_P * TILE_Q) {
            const int row = k / WIDTH, column = from + k % WIDTH;
            target[row][k % WIDTH] = column < columns ? source[(long long)(first + row) * columns + column] : T(0);
        }
    }
#endif

    // Combine f(value) over the batch. Each chunk is combined by itself first, which keeps the rounding error of a long
    // sum that of a chunk. All threads of a block must come here together.
    template <class Result, class F, class Combine> DEVICE Result fold(Result start, F f, Combine combine) const {
        Result total = start;
        for (int first = 0; first < n; first += CHUNK) {
            const int size = n - first < CHUNK ? n - first : CHUNK;
            Result part = start;
#ifdef __CUDACC__
            __syncthreads();
            load<TILE_P>(tile->x, x, P, blockIdx.x * TILE_P, first, size);
            load<TILE_Q>(tile->gy, gy, Q, blockIdx.y * TILE_Q, first, size);
            __syncthreads();
            for (int i = 0; i < size; ++i) {
                const T value = product(tile->gy[i][threadIdx.y], tile->x[i][threadIdx.x]);
                part = combine(part, f(value));
            }
#else
            for (int i = first; i < first + size; ++i) {
                const T value = product(gy[(long long)i * Q + q], x[(long long)i * P + p]);
                part = combine(part, f(value));
            }
#endif
            total = combine(total, part);
        }
        return total;
    }

    template <class Result, class F> DEVICE Result sum(F f) const {
        return fold(Result(0), f, [](Result a, Result b) { return a + b; });
    }

    template <class F> DEVICE T largest(F f) const {
        return fold(T(0), f, [](T a, T b) { return fmax(a, b); });
    }

    // NaN where a value is NaN, else 0: order statistics and minima would pass over it.
    DEVICE T nan_sum() const {
        return sum<T>([](T value) { return value != value ? value : T(0); });
    }

    // The two order statistics of ranks i and j (counted from 0) of transform(value), in the same passes.
    template <class F> DEVICE void order_statistics(int i, int j, F transform, T &at_i, T &at_j) const {
        using Key = typename Bits<T>::Key;
        Key key_i = 0, key_j = 0;
        for (int bit = Bits<T>::count - 1; bit >= 0; --bit) {
            const Key try_i = key_i | Key(1) << bit, try_j = key_j | Key(1) << bit;
            // Both counts in one number: a batch has fewer than 2^31 samples.
            const unsigned long long below = sum<unsigned long long>([&](T value) {
                const Key key = to_key<T>(transform(value));
                return (unsigned long long)(key < try_i) | (unsigned long long)(key < try_j) << 32;
            });
            if ((unsigned int)below <= (unsigned int)i) key_i = try_i;
            if ((unsigned int)(below >> 32) <= (unsigned int)j) key_j = try_j;
        }
        at_i = from_key<T>(key_i);
        at_j = from_key<T>(key_j);
    }

    template <class F> DEVICE T median_of(F transform) const {
        T low, high;
        order_statistics((n - 1) / 2, n / 2, transform, low, high);
        const T both = low + high;  // as NumPy has it, unless it overflows
        return both - both == T(0) ? both / 2 : low / 2 + high / 2;
    }
};

template <class T> DEVICE T mean(const Values<T> &values) {
    return values.template sum<T>([](T value) { return value; }) / T(values.n);
}

template <class T> DEVICE T median(const Values<T> &values) {
    return values.median_of([](T value) { return value; });
}

// Mean of the values between the order statistics of ranks k and n - k - 1, both included.
template <class T> DEVICE T trimmed_mean(const Values<T> &values, int k) {
    T low, high;
    values.order_statistics(k, values.n - k - 1, [](T value) { return value; }, low, high);
    // Sums about `low` keep the digits of values that nearly coincide.
    const T inside = values.template sum<T>([&](T value) { return value > low && value < high ? value - low : T(0); });
    const int at_least = values.template sum<int>([&](T value) { return int(value >= high); });
    const T total = inside + T(at_least - k) * (high - low);
    return low == high ? low : low + total / T(values.n - 2 * k);
}

// Entry points, NAME_float32 and NAME_float64. A source defines EXTRA(T), the parameters behind the common ones, and
// writes its estimate in terms of them and of `values`.

#define ARGUMENTS(T)                                                                                                  \
    const T *x, const T *gy, T *out, int n, int P, int Q, long long x_stride, long long gy_stride, EXTRA(T)

#ifdef __CUDACC__
#define ENTRY(NAME, T, ...)                                                                                           \
    extern "C" __global__ void __launch_bounds__(TILE_P *TILE_Q) NAME(ARGUMENTS(T)) {                                 \
        __shared__ Tile<T> tile;                                                                                      \
        const int p = blockIdx.x * TILE_P + threadIdx.x, q = blockIdx.y * TILE_Q + threadIdx.y;                       \
        const long long replica = blockIdx.z;                                                                         \
        const Values<T> values = {x + replica * x_stride, gy + replica * gy_stride, n, P, Q, p, q, &tile};            \
        const T estimate = values.nan_sum() + __VA_ARGS__;                                                                \
        if (p < P && q < Q) out[(replica * Q + q) * P + p] = estimate;                                                \
    }
#else
#define ENTRY(NAME, T, ...)                                                                                           \
    extern "C" void NAME(ARGUMENTS(T), int replicas) {                                                                \
        for (long long replica = 0; replica < replicas; ++replica)                                                    \
            for (int q = 0; q < Q; ++q)                                                                               \
                for (int p = 0; p < P; ++p) {                                                                         \
                    const Values<T> values = {                                                                        \
                        x + replica * x_stride, gy + replica * gy_stride, n, P, Q, p, q, nullptr};                    \
                    out[(replica * Q + q) * P + p] = values.nan_sum() + __VA_ARGS__;                                      \
                }                                                                                                     \
    }
#endif

#define BOTH(NAME, ...)                                                                                               \
    ENTRY(NAME##_float32, float, __VA_ARGS__)                                                                         \
    ENTRY(NAME##_float64, double, __VA_ARGS__)
