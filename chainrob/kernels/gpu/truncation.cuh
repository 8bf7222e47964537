// Soft truncation of one coordinate from its values, read anew in every pass. Needs values.cuh and psi.cuh.

// center + (s / n) sum psi((value - center) / s), s^2 = max(variance, floor) * factor, psi(v) = v - v^3 / 6 on
// [-sqrt 2, sqrt 2] and constant beyond. With a median as pilot, variance is the squared normalized MAD.
template <class T> DEVICE T soft_truncation(const Values<T> &values, int median_pilot, T factor, T floor) {
    T center, deviation;
    if (median_pilot) {
        center = median(values);
        deviation = T(1.482602218505602) * values.median_of([&](T value) { return fabs(value - center); });
    } else {
        center = mean(values);
        // Relative to the largest, since the square of 1e30 is no float, nor is the inverse of 1e-310 a double.
        const T largest = values.largest([&](T value) { return fabs(value - center); });
        const T squares = values.template sum<T>([&](T value) {
            const T share = largest > T(0) ? (value - center) / largest : T(0);
            return share * share;
        });
        deviation = largest * sqrt(squares / T(values.n > 1 ? values.n - 1 : 1));
    }
    const T scale = sqrt(factor) * fmax(deviation, sqrt(floor));
    const T bound = T(1.4142135623730951);
    const T total = values.template sum<T>([&](T value) {
        const T v = scale > T(0) ? fmin(fmax((value - center) / scale, -bound), bound) : T(0);
        return psi(v, T(-1.0 / 6.0));
    });
    return center + scale * (total / T(values.n));
}
