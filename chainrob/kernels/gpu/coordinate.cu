// Coordinate-wise estimates by order statistics and soft truncation.

#include "values.cuh"
#include "psi.cuh"
#include "truncation.cuh"

template <class T> DEVICE T winsorized_mean(const Values<T> &values, int k) {
    T low, high;
    values.order_statistics(k, values.n - k - 1, [](T value) { return value; }, low, high);
    return low + values.template sum<T>([&](T value) { return fmin(fmax(value, low), high) - low; }) / T(values.n);
}

// `count` is what the estimator cuts off (or a switch), `factor` and `floor` are those of the scale; an estimator ignores
// what it has no use for.
#define EXTRA(T) int count, T factor, T floor

BOTH(coordinate_median, median(values))
BOTH(trimmed_mean, trimmed_mean(values, count))
BOTH(winsorized_mean, winsorized_mean(values, count))
BOTH(soft_truncation, soft_truncation(values, count, factor, floor))
