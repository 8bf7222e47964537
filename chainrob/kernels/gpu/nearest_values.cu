// The mean of the values nearest to a center of every coordinate: MeaMed about the median, Phocas about a trimmed mean.

#include "values.cuh"

// Mean of the n - f values nearest to `center`. Values that tie where the choice ends share their places.
template <class T> DEVICE T nearest(const Values<T> &values, T center, int f) {
    const int kept = values.n - f;
    const auto distance = [&](T value) { return fabs(value - center); };
    T reach, again;
    values.order_statistics(kept - 1, kept - 1, distance, reach, again);
    // Sums about the center keep the digits of values that nearly coincide.
    const T inside = values.template sum<T>([&](T value) { return distance(value) < reach ? value - center : T(0); });
    const T tied = values.template sum<T>([&](T value) { return distance(value) == reach ? value - center : T(0); });
    const unsigned long long counts = values.template sum<unsigned long long>([&](T value) {
        const T d = distance(value);
        return (unsigned long long)(d < reach) | (unsigned long long)(d == reach) << 32;
    });
    const int n_inside = (int)(counts & 0xffffffffu), n_tied = (int)(counts >> 32);
    const T share = T(kept - n_inside) / T(n_tied > 1 ? n_tied : 1);
    return center + (inside + tied * share) / T(kept);
}

#define EXTRA(T) int f

BOTH(mean_around_median, nearest(values, median(values), f))
BOTH(phocas, nearest(values, f > 0 ? trimmed_mean(values, f) : mean(values), f))
