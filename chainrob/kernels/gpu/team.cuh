// A team of blocks that works on one symmetric matrix, and what it can do together: products, sums, the largest entry.
//
// Every block holds all vectors and takes all decisions; only the rows of the matrix are shared out, so only a product
// makes the blocks wait for each other. As plain C++ a team is one thread.

#ifdef __CUDACC__
#define DEVICE __device__ __forceinline__
#define DEVICE_FUNCTION __device__ __noinline__
#else
#define DEVICE inline
#define DEVICE_FUNCTION inline
#include <cmath>
#include <cstring>
#include <vector>
using std::fabs;
using std::fmax;
using std::fmin;
using std::sqrt;
#endif

constexpr int THREADS = 256;
constexpr int VECTORS = 13;
constexpr double EPS = 2.220446049250313e-16;
constexpr double SAME = 16 * EPS;  // rows that near, as a share of their squared sizes, are one row
constexpr double NEAR = 0.1;
constexpr double UNBOUNDED = 1e300;

struct Team {
    double *products, *weights, *work, *exchange;
    unsigned int *counter;
    int n, n_blocks, block;
    int turn;          // how many products were made: which half of `exchange` is next, and what to wait for
    double *partial;   // THREADS numbers in shared memory

#ifdef __CUDACC__
    DEVICE int thread() const { return threadIdx.x; }
    DEVICE int threads() const { return THREADS; }
    DEVICE void sync() const { __syncthreads(); }
#else
    int thread() const { return 0; }
    int threads() const { return 1; }
    void sync() const {}
#endif

    DEVICE double *vector(int k) const { return work + (long long)k * n; }
    DEVICE double &at(int i, int j) const { return products[(long long)i * n + j]; }

    template <class F> DEVICE void each(F f) const {
        for (int i = thread(); i < n; i += threads()) f(i);
        sync();
    }

    // Sum of f(i), the same number in every thread.
    template <class F> DEVICE double sum(F f) const {
#ifdef __CUDACC__
        double total = 0.0;
        for (int i = threadIdx.x; i < n; i += THREADS) total += f(i);
        __syncthreads();
        partial[threadIdx.x] = total;
        __syncthreads();
        for (int half = THREADS / 2; half > 0; half /= 2) {
            if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
            __syncthreads();
        }
        return partial[0];
#else
        double total = 0.0;
        for (int i = 0; i < n; ++i) total += f(i);
        return total;
#endif
    }

    DEVICE double inner(const double *u, const double *v) const {
        return sum([&](int i) { return u[i] * v[i]; });
    }

    // The first i with the largest value.
    DEVICE int largest(const double *values) const {
#ifdef __CUDACC__
        int best = -1;
        for (int i = threadIdx.x; i < n; i += THREADS)
            if (best < 0 || values[i] > values[best]) best = i;
        __syncthreads();
        partial[threadIdx.x] = best;
        __syncthreads();
        for (int half = THREADS / 2; half > 0; half /= 2) {
            if (threadIdx.x < half) {
                const int a = (int)partial[threadIdx.x], b = (int)partial[threadIdx.x + half];
                const bool take = b >= 0 && (a < 0 || values[b] > values[a] || (values[b] == values[a] && b < a));
                if (take) partial[threadIdx.x] = b;
            }
            __syncthreads();
        }
        return (int)partial[0];
#else
        int best = 0;
        for (int i = 1; i < n; ++i)
            if (values[i] > values[best]) best = i;
        return best;
#endif
    }

    // All blocks of the team have come here, and see what the others wrote before.
    DEVICE void meet() {
#ifdef __CUDACC__
        __syncthreads();
        ++turn;
        if (n_blocks > 1) {
            if (threadIdx.x == 0) {
                __threadfence();
                atomicAdd(counter, 1u);
                const unsigned int all = (unsigned int)turn * n_blocks;
                while (atomicAdd(counter, 0u) < all) {}
                __threadfence();
            }
            __syncthreads();
        }
#else
        ++turn;
#endif
    }

    // out = products * v. A warp makes one entry; the matrix is symmetric, so its rows are as good as its columns.
    DEVICE_FUNCTION void times(const double *v, double *out) {
        double *shared = exchange + (turn & 1) * n;
        sync();
#ifdef __CUDACC__
        const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = THREADS / 32;
        for (int i = block * warps + warp; i < n; i += n_blocks * warps) {
            double total = 0.0;
            for (int j = lane; j < n; j += 32) total += at(i, j) * v[j];
            for (int half = 16; half > 0; half /= 2) total += __shfl_down_sync(0xffffffffu, total, half);
            if (lane == 0) shared[i] = total;
        }
#else
        for (int i = 0; i < n; ++i) {
            double total = 0.0;
            for (int j = 0; j < n; ++j) total += at(i, j) * v[j];
            shared[i] = total;
        }
#endif
        meet();
#ifdef __CUDACC__
        each([&](int i) { out[i] = __ldcg(shared + i); });
#else
        each([&](int i) { out[i] = shared[i]; });
#endif
    }

    // Subtract row k from all rows; those that are the same as it become zero. Each block changes the rows that it
    // multiplies by. Vector 11 holds the squared sizes of the rows that the products were formed of.
    DEVICE_FUNCTION void recenter(int k, double *row) {
        double *sizes = vector(11), *same = vector(12);
        each([&](int i) { row[i] = entry(k, i); });
        each([&](int i) {
            const double square = diagonal(i) - (row[i] + (row[i] - row[k]));
            same[i] = i == k || square <= SAME * (sizes[i] + sizes[k]);
        });
        meet();
        const double corner = row[k];
#ifdef __CUDACC__
        const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = THREADS / 32;
        const int first = block * warps + warp, step = n_blocks * warps, width = 32;
#else
        const int lane = 0, first = 0, step = 1, width = 1;
#endif
        for (int i = first; i < n; i += step)
            for (int j = lane; j < n; j += width) {
                const double value = at(i, j) - (row[i] + (row[j] - corner));
                at(i, j) = same[i] != 0.0 || same[j] != 0.0 ? 0.0 : value;
            }
        meet();
    }

    // An entry that another block may have written: read past the first-level cache.
    DEVICE double entry(int i, int j) const {
#ifdef __CUDACC__
        return __ldcg(&at(i, j));
#else
        return at(i, j);
#endif
    }

    DEVICE double diagonal(int i) const { return entry(i, i); }
};
