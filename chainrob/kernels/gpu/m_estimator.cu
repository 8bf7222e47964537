// M-estimates of location with an M-estimate of scale: the equations, brackets and stopping rules of
// robustifiers/m_estimator.py.
//
// Passes are made by whole blocks, so a thread whose coordinate is done goes along idly: its answer depends neither on
// its neighbors nor on where its tile lies.

#include "values.cuh"

#ifndef __CUDACC__
using std::atan;
using std::exp;
using std::log;
using std::log1p;
using std::tanh;
#endif

template <class A> struct Pair {
    A first, second;
    DEVICE explicit Pair(A value) : first(value), second(value) {}
    DEVICE Pair(A first, A second) : first(first), second(second) {}
    DEVICE Pair operator+(const Pair &other) const { return {first + other.first, second + other.second}; }
};

constexpr double CHI_LEVEL = 0.34432045758120144;
constexpr int SCALE_ITERATIONS = 200;
constexpr double UNKNOWN = 1e300;  // an end of a bracket that is not known yet

template <class T> struct Limits;
template <> struct Limits<float> { static constexpr double epsilon = 1.1920928955078125e-07; };
template <> struct Limits<double> { static constexpr double epsilon = 2.220446049250313e-16; };

enum Rho { PSEUDO_HUBER, LOG_COSH, GUDERMANNIAN, CATONI };

// psi = rho' and psi'.
template <class T> DEVICE Pair<T> influence(int rho, T u) {
    if (rho == PSEUDO_HUBER) {
        const T half = u * T(0.70710678118654752);
        // 1 / sqrt(1 + half^2) without an overflow of the square.
        const T size = fabs(half);
        const T shrink = size > T(1e9) ? T(1) / size : T(1) / sqrt(T(1) + half * half);
        return {u * shrink, shrink * shrink * shrink};
    }
    if (rho == LOG_COSH) {
        const T psi = tanh(u);
        return {psi, T(1) - psi * psi};
    }
    if (rho == GUDERMANNIAN) {
        const T half = tanh(T(0.5) * u);
        return {T(2) * atan(half), (T(1) - half * half) / (T(1) + half * half)};
    }
    const T size = fabs(u);
    const T rest = T(0.5) * size * (size / (T(1) + size));
    const T sign = u > T(0) ? T(1) : u < T(0) ? T(-1) : u;
    return {sign * (log1p(size) + log1p(rest)), T(1) / (T(1) + rest)};
}

// The deviations from the pivot in units of the largest, which is 1 where all are 0.
template <class T> struct Deviations {
    const Values<T> &values;
    T pivot, unit;
    DEVICE T operator()(T value) const { return (value - pivot) / unit; }
};

// Root of mean(u^2 / (1 + u^2)) = CHI_LEVEL, u = deviation / sigma; 0 where too many deviations are 0.
template <class T> DEVICE T chi_scale(const Deviations<T> &deviations) {
    const Values<T> &values = deviations.values;
    const double n = values.n;
    const auto start = values.template sum<Pair<double>>([&](T value) {
        const double d = deviations(value);
        return Pair<double>(d != 0.0, d * d);
    });
    const bool has_root = start.first / n > CHI_LEVEL;
    double t = has_root && start.second > 0.0 ? log(start.second / n) : 0.0;
    double low = -UNKNOWN, high = UNKNOWN;
    bool active = has_root;
    for (int iteration = 0; iteration < SCALE_ITERATIONS && any_in_block(active); ++iteration) {
        const T shrink = T(exp(-0.5 * t));
        const auto sums = values.template sum<Pair<double>>([&](T value) {
            const T u = deviations(value) * shrink;
            const T rest = T(1) / (T(1) + u * u);  // 1 - u^2 / (1 + u^2); 0 where the square overflows
            return Pair<double>(rest, rest * (T(1) - rest));
        });
        if (!active) continue;
        const double excess = 1.0 - sums.first / n - CHI_LEVEL, slope = sums.second / n;
        if (excess > 0.0) low = t;
        else high = t;
        const double reach = 4.0 * double(1 << (iteration < 8 ? iteration : 8));
        const double step = fmin(fmax(excess / (slope > 0.0 ? slope : 1e-300), -reach), reach);
        double moved = t + step;
        if ((moved <= low || moved >= high) && low > -UNKNOWN && high < UNKNOWN) moved = 0.5 * (low + high);
        const double change = fabs(moved - t);
        t = moved;
        active = change > 8.0 * Limits<T>::epsilon;  // false for NaN
    }
    return has_root ? T(exp(0.5 * t)) : T(0);
}

// Root of sum psi((deviation - location) / scale) = 0, in [-1, 1]; 0, the pivot, where the scale is 0.
template <class T>
DEVICE T locate(const Deviations<T> &deviations, T scale, int rho, T tolerance, int max_iterations, int *unconverged) {
    const Values<T> &values = deviations.values;
    const T safe = scale > T(0) ? scale : T(1), n = T(values.n);
    T location = T(0), low = T(-1), high = T(1), previous = T(1e30);
    bool active = scale > T(0);
    for (int iteration = 0; iteration < max_iterations && any_in_block(active); ++iteration) {
        const auto sums = values.template sum<Pair<T>>(
            [&](T value) { return influence<T>(rho, (deviations(value) - location) / safe); });
        if (!active) continue;
        const T step = sums.first / n, slope = sums.second / n;
        if (step > T(0)) low = location;
        if (step < T(0)) high = location;
        T newton = step / (slope > T(0) ? slope : T(1));
        const T moved = location + safe * newton;
        const bool shrinks = fabs(newton) <= fmax(T(0.5) * fabs(previous), tolerance);
        const bool good = moved >= low && moved <= high && shrinks && (slope > T(0) || step == T(0));
        if (!good) newton = (T(0.5) * (low + high) - location) / safe;
        previous = newton;
        location += safe * newton;
        active = fabs(newton) / fmax(fabs(location) / safe, T(1)) > tolerance;  // false for NaN
    }
    if (active) *unconverged = 1;  // whichever thread writes, it writes the same
    return location;
}

// given > 0 is the scale itself; otherwise it is factor times the root of the scale equation.
template <class T>
DEVICE T m_estimate(const Values<T> &values, int rho, int median_pilot, int max_iterations, T given, T factor,
                    T tolerance, int *unconverged) {
    const T pivot = median_pilot ? median(values) : mean(values);
    const T largest = values.largest([&](T value) { return fabs(value - pivot); });
    const Deviations<T> deviations = {values, pivot, largest > T(0) ? largest : T(1)};
    const T scale = given > T(0) ? given / deviations.unit : factor * chi_scale(deviations);
    const T location = locate(deviations, scale, rho, tolerance, max_iterations, unconverged);
    return pivot + deviations.unit * location;
}

#define EXTRA(T) int rho, int median_pilot, int max_iterations, T given, T factor, T tolerance, int *unconverged

BOTH(m_estimator, m_estimate(values, rho, median_pilot, max_iterations, given, factor, tolerance, unconverged))
