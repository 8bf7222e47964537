// Coordinate-wise estimates by order statistics and soft truncation.

#include "values.cuh"

template <class T> DEVICE T winsorized_mean(const Values<T> &values, int k) {
    T low, high;
    values.order_statistics(k, values.n - k - 1, [](T value) { return value; }, low, high);
    return low + values.template sum<T>([&](T value) { return fmin(fmax(value, low), high) - low; }) / T(values.n);
}

// center + (s / n) sum psi((value - center) / s), s^2 = max(variance, floor) * factor, psi(v) = v - v^3 / 6 on
// [-sqrt 2, sqrt 2] and constant beyond. With a median as pilot, variance is the squared normalised MAD.
template <class T> DEVICE T soft_truncation(const Values<T> &values, int median_pilot, T factor, T floor) {
    T center, deviation;
    if (median_pilot) {
        center = median(values);
        deviation = T(1.482602218505602) * values.median_of([&](T value) { return fabs(value - center); });
    } else {
        center = mean(values);
        // Relative to the largest, since the square of 1e30 is no float.
        const T largest = values.largest([&](T value) { return fabs(value - center); });
        const T unit = largest > T(0) ? T(1) / largest : T(0);
        const T squares = values.template sum<T>([&](T value) {
            const T share = (value - center) * unit;
            return share * share;
        });
        deviation = largest * sqrt(squares / T(values.n > 1 ? values.n - 1 : 1));
    }
    const T scale = sqrt(factor) * fmax(deviation, sqrt(floor));
    const T bound = T(1.4142135623730951);
    const T total = values.template sum<T>([&](T value) {
        const T v = scale > T(0) ? fmin(fmax((value - center) / scale, -bound), bound) : T(0);
        return v - v * v * v / T(6);
    });
    return center + scale * (total / T(values.n));
}

// `count` is what the estimator cuts off (or a switch), `factor` and `floor` are those of the scale; an estimator ignores
// what it has no use for.
#define EXTRA(T) int count, T factor, T floor

BOTH(coordinate_median, median(values))
BOTH(trimmed_mean, trimmed_mean(values, count))
BOTH(winsorized_mean, winsorized_mean(values, count))
BOTH(soft_truncation, soft_truncation(values, count, factor, floor))
