// The weights of the geometric median from inner products of the rows, in one launch: the iteration of
// kernels/cpu/geometric_median_kernel.py, decision by decision.
//
// A replica is solved by a team of blocks. Every block of it holds all vectors and runs the whole program, so that all
// take the same decisions; only products with the matrix are shared out, a run of rows a block. Sums are made in one
// order whatever the number of blocks, so the result does not depend on it. The host is never waited for: iterations
// and residuals stay on the device.
//
// Blocks of a team wait for each other, so more than one a team needs a cooperative launch, which starts all or none.
//
// Layout: products (R, N, N), changed in place; weights (R, N); exchange (R, 2, N) and counters (R), zero, are where
// the blocks of a team meet; work (R, G, VECTORS, N), or null where the vectors fit into shared memory.

#include "team.cuh"

// 1 / d of every row for the point of the weights: their sum; products_w is left holding K w.
DEVICE_FUNCTION double inverse_distances(Team &team, const double *w, double *products_w, double smoothing, double *inverse) {
    team.times(w, products_w);
    const double size = team.inner(w, products_w);
    team.each([&](int i) {
        const double square = (team.diagonal(i) - products_w[i]) + (size - products_w[i]);
        inverse[i] = 1.0 / sqrt(fmax(square, 0.0) + smoothing * smoothing);
    });
    return team.sum([&](int i) { return inverse[i]; });
}

// All weight to the rows that lie where the center does.
DEVICE void all_on_center(const Team &team, double *w) {
    const double there = team.sum([&](int i) { return team.diagonal(i) == 0.0 ? 1.0 : 0.0; });
    team.each([&](int i) { w[i] = team.diagonal(i) == 0.0 ? 1.0 / there : 0.0; });
}

// Whether the sum of distances is least at row k, the center: the pull of all other rows is then less than one for each
// row at that place.
DEVICE_FUNCTION bool is_minimum(Team &team, int k, double *pull, double *products_pull) {
    team.each([&](int i) {
        const double square = team.diagonal(i);
        pull[i] = square > 0.0 ? 1.0 / sqrt(square) : 0.0;
    });
    const double total = team.sum([&](int i) { return pull[i]; });
    const double copies = team.sum([&](int i) { return team.diagonal(i) > 0.0 ? 0.0 : 1.0; });
    team.each([&](int i) {
        if (i == k) pull[i] = -total;
    });
    team.times(pull, products_pull);
    return sqrt(fmax(team.inner(pull, products_pull), 0.0)) < copies * (1.0 - 1e-12);
}

// Solve H step = residual by conjugate gradients, where H = sum_i (I / d_i - r_i r_i^T / d_i^3), r_i = g_i - z;
// products_step is left holding K step. vectors: four of them, for the work.
DEVICE_FUNCTION void newton_step(Team &team, const double *w, const double *inverse, double total, const double *residual,
                                 double *products_rest, double *step, double *products_step, double *vectors,
                                 double forcing) {
    const int n = team.n;
    double *rest = vectors, *direction = vectors + n, *products_direction = vectors + 2 * n, *image = vectors + 3 * n;
    team.each([&](int i) {
        rest[i] = direction[i] = residual[i];
        products_direction[i] = products_rest[i];
        step[i] = products_step[i] = 0.0;
    });
    double size = team.inner(rest, products_rest);
    const double enough = forcing * forcing * size;
    for (int iteration = 0; iteration < (n < 50 ? n : 50); ++iteration) {
        const double along_w = team.inner(w, products_direction);
        team.each([&](int i) { image[i] = inverse[i] * inverse[i] * inverse[i] * (products_direction[i] - along_w); });
        const double spill = team.sum([&](int i) { return image[i]; });
        team.each([&](int i) { image[i] = total * direction[i] - image[i] + spill * w[i]; });
        const double bend = team.inner(image, products_direction);
        if (!(bend > 0.0)) break;
        const double t = size / bend;
        team.each([&](int i) {
            step[i] += t * direction[i];
            products_step[i] += t * products_direction[i];
            rest[i] -= t * image[i];
        });
        team.times(rest, products_rest);
        const double before = size;
        size = team.inner(rest, products_rest);
        if (!(size > enough)) break;
        const double turn = size / before;
        team.each([&](int i) {
            direction[i] = rest[i] + turn * direction[i];
            products_direction[i] = products_rest[i] + turn * products_direction[i];
        });
    }
    if (!(team.inner(step, products_step) > 0.0)) {
        team.each([&](int i) { step[i] = residual[i] / total; });
        team.times(step, products_step);
    }
}

// How long the sum of the N unit vectors may be from rounding alone.
DEVICE double noise(const Team &team, const double *w, const double *inverse) {
    const double spread = team.sum([&](int i) { return fabs(w[i]) * sqrt(team.diagonal(i)); });
    return 2.0 * EPS * team.sum([&](int i) {
        const double size = (sqrt(team.diagonal(i)) + spread) * inverse[i];
        return size * size;
    });
}

// Weights to start from: falling with the distance to the center, for from the mean one huge row would be a long way
// back. Of an even number of rows on a line, whose minimum is any point between the middle two, these two.
DEVICE_FUNCTION void start(const Team &team, double unit, double *w, double *places) {
    const int n = team.n;
    team.each([&](int i) { places[i] = team.diagonal(i); });
    const int far = team.largest(places);
    const double length = sqrt(team.diagonal(far));
    team.each([&](int i) {
        places[i] = team.entry(i, far) / length;
        w[i] = 1.0 / sqrt(team.diagonal(i) + unit * unit);
    });
    const double beside = team.sum([&](int i) {
        const double square = team.diagonal(i);
        return square - places[i] * places[i] <= 1e-10 * square ? 0.0 : 1.0;
    });
    if (n % 2 == 1 || beside > 0.0) {
        const double total = team.sum([&](int i) { return w[i]; });
        team.each([&](int i) { w[i] /= total; });
        return;
    }
    const int rank = n / 2 - 1;
    team.each([&](int i) {
        int below = 0, here = 0;
        for (int j = 0; j < n; ++j) {
            below += places[j] < places[i];
            here += places[j] == places[i];
        }
        // Rows at one place share its weight.
        const double low = below <= rank && rank < below + here, high = below <= rank + 1 && rank + 1 < below + here;
        w[i] = 0.5 * (low + high) / here;
    });
}

// Each iteration is a Weiszfeld step, which always descends, and a Newton step along which it searches for the minimum.
DEVICE void minimize(Team &team, int center, double unit, double smoothing, double tolerance, int max_iterations,
                     int &iteration, double &residual) {
    double *w = team.vector(0), *products_w = team.vector(1), *inverse = team.vector(2), *gradient = team.vector(3);
    double *newton = team.vector(4), *trial = team.vector(5), *products_newton = team.vector(6);
    double *more = team.vector(7);
    double *products_gradient = products_w;  // K w is not needed any more where it is made
    smoothing *= unit;
    start(team, unit, w, trial);
    double total = 1.0;
    residual = UNBOUNDED;
    for (iteration = 1; iteration <= max_iterations; ++iteration) {
        total = inverse_distances(team, w, products_w, smoothing, inverse);
        const int nearest = team.largest(inverse);
        if (inverse[nearest] * unit * NEAR > 1.0) {
            if (nearest != center) {
                center = nearest;
                team.recenter(center, trial);
                total = inverse_distances(team, w, products_w, smoothing, inverse);
            }
            if (is_minimum(team, center, newton, products_newton)) {
                all_on_center(team, w);
                residual = 0.0;
                return;
            }
        }
        team.each([&](int i) { w[i] = inverse[i] / total; });
        total = inverse_distances(team, w, products_w, smoothing, inverse);
        team.each([&](int i) { gradient[i] = inverse[i] - total * w[i]; });  // its negative
        team.times(gradient, products_gradient);
        const double length = sqrt(fmax(team.inner(gradient, products_gradient), 0.0));
        if (length <= noise(team, w, inverse)) {
            residual = length / (total * unit);
            break;
        }
        const double forcing = residual > 1e-3 ? 0.1 : 1e-5;
        newton_step(team, w, inverse, total, gradient, products_gradient, newton, products_newton, more, forcing);
        residual = sqrt(fmax(team.inner(newton, products_newton), 0.0)) / unit;
        if (residual > 1.0) {
            // Rows on a line: next to no curvature, and rounding would decide how far to go.
            team.each([&](int i) {
                newton[i] /= residual;
                products_newton[i] /= residual;
            });
            residual = 1.0;
        }
        // Along the step the slope rises from slope_0 < 0. Where it passes zero, stop there.
        const double slope_0 = -team.inner(gradient, products_newton);
        double low = 0.0, high = UNBOUNDED, slope_low = slope_0, slope_high = UNBOUNDED, t = 1.0;
        for (int search = 0; search < 30; ++search) {
            team.each([&](int i) { trial[i] = w[i] + t * newton[i]; });
            total = inverse_distances(team, trial, products_w, smoothing, inverse);
            team.each([&](int i) { gradient[i] = total * trial[i] - inverse[i]; });
            const double slope = team.inner(gradient, products_newton);
            if (fabs(slope) <= 0.5 * fabs(slope_0) || residual <= tolerance) break;
            if (slope < 0.0) {
                low = t;
                slope_low = slope;
            } else {
                high = t;
                slope_high = slope;
            }
            if (high == UNBOUNDED) {
                t *= 2.0;
            } else {
                const double part = slope_low / (slope_low - slope_high);
                t = low + fmin(fmax(part, 0.1), 0.9) * (high - low);
            }
        }
        team.each([&](int i) { w[i] = inverse[i] / total; });
        if (residual <= tolerance) break;
    }
    if (iteration > max_iterations) iteration = max_iterations;
    team.each([&](int i) { w[i] = inverse[i] / total; });
}

DEVICE void solve(Team &team, int center, double square, double tolerance, int max_iterations, double smoothing,
                  long long *iterations, double *residuals) {
    int iteration = 0;
    double residual = 0.0;
    const double unit = sqrt(square);
    double *w = team.vector(0), *sizes = team.vector(11);
    team.each([&](int i) { sizes[i] = team.diagonal(i); });
    team.meet();
    team.recenter(center, team.vector(5));
    if (team.n <= 2)
        team.each([&](int i) { w[i] = 1.0 / team.n; });  // of all points between two rows the middle is taken
    else if (unit > 0.0)
        minimize(team, center, unit, smoothing, tolerance, max_iterations, iteration, residual);
    else
        all_on_center(team, w);  // more than half of the rows are one point, which is the answer
    if (team.block == 0) {
        team.each([&](int i) { team.weights[i] = w[i]; });
        if (team.thread() == 0) {
            *iterations = iteration;
            *residuals = residual;
        }
    }
}

// center: the row of least median distance to the rows, and its square.
#define ARGUMENTS                                                                                                     \
    double *products, const long long *centers, const double *squares, double *weights, long long *iterations,        \
        double *residuals, double *work, double *exchange, unsigned int *counters, int n, int n_blocks,               \
        double tolerance, int max_iterations, double smoothing

DEVICE void of_replica(ARGUMENTS, long long replica, int block, double *partial, double *vectors) {
    Team team = {products + replica * n * n,
                 weights + replica * n,
                 vectors ? vectors : work + (replica * n_blocks + block) * VECTORS * n,
                 exchange + replica * 2 * n,
                 counters + replica,
                 n,
                 n_blocks,
                 block,
                 0,
                 partial};
    solve(team, (int)centers[replica], squares[replica], tolerance, max_iterations, smoothing, iterations + replica,
          residuals + replica);
}

#define GIVEN                                                                                                         \
    products, centers, squares, weights, iterations, residuals, work, exchange, counters, n, n_blocks, tolerance,     \
        max_iterations, smoothing

// The median of the squared distances of every row to the rows, by fixing one bit of it a pass: squares of no negative
// numbers are in the order of their bits. A block a row.
DEVICE unsigned long long bits_of(double value) {
    unsigned long long bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

DEVICE double median_square(const double *products, int n, int i) {
    const auto key = [&](int j) {
        const double sizes = products[(long long)i * n + i] + products[(long long)j * n + j];
        const double square = sizes - 2.0 * products[(long long)i * n + j];
        return i != j && square > SAME * sizes ? bits_of(square) : 0ull;
    };
    unsigned long long found = 0;
    for (int bit = 62; bit >= 0; --bit) {
        const unsigned long long attempt = found | 1ull << bit;
        int below = 0;
#ifdef __CUDACC__
        for (int first = 0; first < n; first += THREADS) {
            const int j = first + threadIdx.x;
            below += __syncthreads_count(j < n && key(j) < attempt);
        }
#else
        for (int j = 0; j < n; ++j) below += key(j) < attempt;
#endif
        if (below <= n / 2) found = attempt;
    }
    double square;
    memcpy(&square, &found, sizeof square);
    return square;
}

#ifdef __CUDACC__
extern "C" __global__ void __launch_bounds__(THREADS) geometric_median_float64(ARGUMENTS) {
    __shared__ double partial[THREADS];
    extern __shared__ double vectors[];
    of_replica(GIVEN, blockIdx.x, blockIdx.y, partial, work ? nullptr : vectors);
}

extern "C" __global__ void __launch_bounds__(THREADS) median_squares_float64(const double *products, double *out, int n) {
    const long long replica = blockIdx.x, row = blockIdx.y;
    const double square = median_square(products + replica * n * n, n, (int)row);
    if (threadIdx.x == 0) out[replica * n + row] = square;
}
#else
extern "C" void geometric_median_float64(ARGUMENTS, int replicas) {
    std::vector<double> vectors((size_t)VECTORS * n);
    for (int replica = 0; replica < replicas; ++replica)
        of_replica(GIVEN, replica, 0, nullptr, vectors.data());
}

extern "C" void median_squares_float64(const double *products, double *out, int n, int replicas) {
    for (long long replica = 0; replica < replicas; ++replica)
        for (int row = 0; row < n; ++row)
            out[replica * n + row] = median_square(products + replica * n * n, n, row);
}
#endif
